"""The guide "From backtest to live" does what it says: every command of it, in order, in an empty folder."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agentfund.buses.sqlite import SqliteBus
from agentfund.messages import Approved, Decided, Levelled, Promoted
from agentfund.trading import Outcome
from tests.test_docs import ROOT, blocks
from tests.typed import Step, Typed

PAGE = ROOT / "docs/guides/from-backtest-to-live.md"


def steps() -> list[Step]:
    """Return what the page lets its reader type, each with what it says they see then."""
    found: list[Step] = []
    for block in blocks(PAGE):
        lines = tuple(line for line in block.body.splitlines() if line)
        if block.language == "console":
            found.append(Step(lines, ()))
        elif block.language == "text" and found[-1].seen:  # said after more words: nothing is typed for it
            found.append(Step((), lines))
        elif block.language == "text":
            found[-1] = found[-1]._replace(seen=lines)
    return found


async def events(path: Path) -> list[object]:
    """Return what stands on a fund's log."""
    bus = SqliteBus(path, read_only=True)
    try:
        return [message.event async for message in bus.read("fund")]
    finally:
        await bus.close()


@pytest.mark.timeout(600)
def test_the_guide_does_what_it_says(tmp_path: Path) -> None:
    """A reader who types it all sees it all, and the log tells the same story."""
    for block in blocks(PAGE):
        if block.language == "python":
            (tmp_path / block.title).write_text(block.body, encoding="utf-8")
    with Typed(tmp_path) as shell:
        for step in steps():
            shell.step(step)
        text = shell.text
    assert "Traceback" not in text
    told = asyncio.run(events(tmp_path / "out/live/fund.db"))
    promotions = [event.mode for event in told if isinstance(event, Promoted)]
    assert promotions == ["supervised", "autonomous"]
    answers = {event.approved for event in told if isinstance(event, Approved)}
    assert answers == {True, False}
    decided = {event.decision.outcome for event in told if isinstance(event, Decided)}
    assert decided >= {Outcome.ADVISED, Outcome.ORDERED, Outcome.DECLINED, Outcome.DENIED}
    levels = [event.level for event in told if isinstance(event, Levelled)]
    assert 3 in levels
    assert levels[-1] == 0
    assert "Ada" in (tmp_path / "journal.md").read_text()


def test_each_file_of_the_guide_has_a_name() -> None:
    """A block of Python that the reader is to write says under which name."""
    assert [block.title for block in blocks(PAGE) if block.language == "python"] == ["desk.py", "bars.py"]
