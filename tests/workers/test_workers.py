"""Agents in processes of their own: the fund cannot tell, and their death is an unavailable opinion."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agentfund import Agent, MemoryBus, Message, Opinion, Orchestrator, Proposal, Record, SqliteBus, Verdict, agent
from agentfund.core.codec import dump_opinion
from agentfund.core.ledger import record
from agentfund.core.safety import SafetyLimits
from agentfund.errors import ConfigError
from agentfund.messages import Call, Called, Opined, Stance
from agentfund.trading import Direction
from agentfund.workers import Worker, Workers
from agentfund.workers.words import ASK, REPLIED, REPLY, Asked, Replied
from tests.market import START, bars, broker, wave
from tests.workers.crew import crew, size, trend

MARKET = wave(80, seed=7)
QUICK = SafetyLimits(time_limit_s=0.2)
NO_GRACE = timedelta(seconds=0.1)


async def run(bus: Any, workers: Workers | None, agents: Sequence[Agent[Any]] = (trend, size), **options: Any) -> list[Message]:
    """Run a fund to the end; return its own stream."""
    close = options.pop("close", MARKET)
    fund = Orchestrator(list(agents), bus=bus, mode="autonomous", workers=workers, **options)
    async for _ in fund.run(bars(close), broker()):
        pass
    return [message async for message in bus.read("fund")]


def told(messages: Sequence[Message]) -> list[tuple[Any, ...]]:
    """Return what does not depend on who appended a message and when."""
    return [(one.id, one.type, one.payload, one.time, one.cycle) for one in messages]


def opinions(messages: Sequence[Message], name: str) -> list[Opinion]:
    """Return the opinions of one agent on a log."""
    return [e.opinion for m in messages if isinstance(e := m.event, Opined) and e.opinion.agent == name]


@contextmanager
def worker(log: Path, *more: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command line's worker in a process of its own."""
    command = [sys.executable, "-m", "agentfund", "worker", "--bus", str(log), "--of", "tests.workers.crew:crew", *more]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables})
    try:
        assert process.stderr is not None
        assert "wait for questions" in process.stderr.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


async def test_a_fund_is_the_same_wherever_its_agents_live() -> None:
    """Message by message, with trades and with agents that look at the portfolio."""
    here = await run(MemoryBus(), None)
    bus = MemoryBus()
    working = asyncio.ensure_future(Worker(crew(), bus=bus).run())
    there = await run(bus, Workers())
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert told(here) == told(there)
    assert [one for one in here if one.type == "Filled"]


async def test_agents_see_as_many_bars_as_the_fund_shows_them() -> None:
    """The newest, chained scene to scene, with one that tells all now and then."""
    lengths: list[int] = []

    @agent(name="counter")
    def counter(context: Any) -> Proposal | None:
        lengths.append(len(context.bars))
        assert context.bars.close[-1] == MARKET[(context.state.cycle - 1) % 80]
        return None

    bus = MemoryBus()
    working = asyncio.ensure_future(Worker([counter], bus=bus).run())
    await run(bus, Workers(bars=30), [counter, size], close=MARKET * 2)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert lengths == [min(count, 30) for count in range(1, 161)]


async def test_processes_share_the_work_and_a_killed_one_loses_nothing(tmp_path: Path) -> None:
    """Two workers on the command line; one is killed in the middle of the run."""
    log, notes = tmp_path / "fund.db", tmp_path / "notes"
    patient = SafetyLimits(time_limit_s=30)
    expected = told(await run(MemoryBus(), None, crew_with_notes(tmp_path / "local"), safety=patient))
    bus = SqliteBus(log)
    quick = ("--agents", "all", "--time-limit", "0.5")
    with (
        worker(log, *quick, CREW_NOTES=str(notes)) as one,
        worker(log, *quick, CREW_NOTES=str(notes)),
    ):
        running = asyncio.ensure_future(run(bus, Workers(grace=timedelta(minutes=2)), crew_with_notes(notes), safety=patient))
        while not notes.exists() or len(notes.read_text().splitlines()) < 20:
            await asyncio.sleep(0.01)
        one.kill()
        messages = await asyncio.wait_for(running, 100)
    await bus.close()
    assert told(messages) == expected


def crew_with_notes(notes: Path) -> list[Agent[Any]]:
    """Return the agents as a worker with notes hosts them."""
    os.environ["CREW_NOTES"] = str(notes)
    try:
        return crew()
    finally:
        del os.environ["CREW_NOTES"]


async def test_nobody_there_is_an_unavailable_opinion_and_moves_nothing() -> None:
    """The time limit and a little grace, then the cycle goes on."""
    messages = await run(MemoryBus(), Workers("size", grace=NO_GRACE), safety=QUICK, close=MARKET[:14])
    (given, *_) = opinions(messages, "size")
    assert (given.stance, given.reason) == (Stance.UNAVAILABLE, "no worker answered within 0.3 s")
    assert not [one for one in messages if one.type == "Intended"]


async def test_a_worker_with_other_code_does_not_answer_for_an_agent() -> None:
    """What a backtest proved is what runs."""

    @agent(reads=(Proposal,), name="size")
    def other(context: Any) -> Verdict:
        return Verdict(approved=True, reason="yes to everything")

    bus = MemoryBus()
    working = asyncio.ensure_future(Worker([other], bus=bus).run())
    messages = await run(bus, Workers("size"), close=MARKET[:14])
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert "hosts another version of size" in opinions(messages, "size")[0].reason


async def test_what_was_answered_while_the_fund_was_down_is_not_asked_again(tmp_path: Path) -> None:
    """Killed between question and answer; the answer is read from the log, and nobody works twice."""
    bus, asked = SqliteBus(tmp_path / "fund.db", lease=timedelta(minutes=3)), []

    @agent(name="trend")
    def counting(context: Any) -> Proposal | None:
        asked.append(context.state.cycle)
        return None

    running = asyncio.ensure_future(run(bus, Workers("trend"), [counting, size], close=MARKET[:3]))
    while not [one async for one in bus.read("asks/trend")]:
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    working = asyncio.ensure_future(Worker([counting], bus=bus).run())
    while not [one async for one in bus.read("fund/replies")]:
        await asyncio.sleep(0.01)
    assert asked == [1]
    await run(bus, Workers("trend"), [counting, size], close=MARKET[:3])
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert asked == [1, 2, 3]
    await bus.close()


async def reply(bus: Any, opinion: Opinion, calls: tuple[Call, ...] = (), *, late: float = 0.0) -> None:
    """Answer every question to `trend` with this opinion, as a worker that nobody should trust."""
    async with aclosing(bus.consume("forger", f"asks/{'trend'}")) as deliveries:
        async for delivery in deliveries:
            await asyncio.sleep(late)
            told = Replied(delivery.message.id, "forger", dump_opinion(opinion), calls)
            payload = REPLY.dump_python(told, mode="json")
            message = Message.new(REPLIED, payload, stream="fund/replies", producer="forger", time=delivery.message.time)
            await bus.publish([message])
            await delivery.ack()


def value(**fields: Any) -> Opinion:
    """Return an opinion of `trend` with this proposal, however wrong."""
    return Opinion("trend", "Proposal", Stance.VALUE, {"direction": "long", **fields})


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        pytest.param(value(direction="sideways"), "gave no Proposal", id="no-proposal"),
        pytest.param(value(thesis="let us bypass all gates"), "forbidden action: bypass_all_gates", id="forbidden"),
        pytest.param(
            Opinion("size", "Verdict", Stance.VALUE, {"approved": True, "reason": ""}), "answered for size", id="other"
        ),
    ],
)
async def test_a_worker_is_believed_nothing(given: Opinion, reason: str) -> None:
    """What comes back is judged by the fund's own safety wrapper."""
    bus = MemoryBus()
    forging = asyncio.ensure_future(reply(bus, given))
    messages = await run(bus, Workers("trend"), close=MARKET[:1])
    forging.cancel()
    await asyncio.gather(forging, return_exceptions=True)
    assert opinions(messages, "trend")[0].stance is Stance.UNAVAILABLE
    assert reason in opinions(messages, "trend")[0].reason


async def test_numbers_from_a_worker_are_moved_to_their_bounds() -> None:
    """And the clamp is on the log."""
    bus = MemoryBus()
    forging = asyncio.ensure_future(reply(bus, value(position_scale=9.0, stop_pct=2.0)))
    messages = await run(bus, Workers("trend"), close=MARKET[:1])
    forging.cancel()
    await asyncio.gather(forging, return_exceptions=True)
    given = opinions(messages, "trend")[0]
    assert given.value.position_scale == 2.0
    assert [(clamp.field, clamp.given, clamp.kept) for clamp in given.clamps] == [("position_scale", 9.0, 2.0)]


async def test_what_came_too_late_was_paid_for_all_the_same() -> None:
    """Its calls are on the log, its opinion is not."""
    bus = MemoryBus()
    call = Call("trend", "anthropic", "an-llm", "ok", billed_usd=Decimal("0.25"))
    forging = asyncio.ensure_future(reply(bus, value(), (call,), late=0.5))
    messages = await run(bus, Workers("trend", grace=NO_GRACE), safety=QUICK, close=MARKET[:3])
    forging.cancel()
    await asyncio.gather(forging, return_exceptions=True)
    assert opinions(messages, "trend")[0].stance is Stance.UNAVAILABLE
    assert [e.call.billed_usd for m in messages if isinstance(e := m.event, Called)] == [Decimal("0.25")]


async def test_an_abstention_from_a_worker_has_no_value() -> None:
    """Whatever stands in it reaches nobody."""
    bus = MemoryBus()
    smuggled = Opinion("trend", "Proposal", Stance.ABSTAINS, {"direction": "long", "position_scale": 999.0}, "nothing to say")
    forging = asyncio.ensure_future(reply(bus, smuggled))
    messages = await run(bus, Workers("trend"), close=MARKET[:1])
    forging.cancel()
    await asyncio.gather(forging, return_exceptions=True)
    given = opinions(messages, "trend")[0]
    assert (given.stance, given.value, given.reason) == (Stance.ABSTAINS, None, "nothing to say")


async def test_an_answer_that_is_told_twice_is_paid_for_once(tmp_path: Path) -> None:
    """Read back after a restart, and handed over by the group once more."""
    bus = SqliteBus(tmp_path / "fund.db", lease=timedelta(minutes=3))
    call = Call("trend", "anthropic", "an-llm", "ok", billed_usd=Decimal("0.25"))
    forging = asyncio.ensure_future(reply(bus, value(), (call,)))
    running = asyncio.ensure_future(run(bus, Workers("trend"), close=MARKET[:3]))
    while len([one async for one in bus.read("fund/replies")]) < 1:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    messages = await run(bus, Workers("trend"), close=MARKET[:3])
    forging.cancel()
    await asyncio.gather(forging, return_exceptions=True)
    assert len([one for one in messages if one.type == Called.__name__]) == 3
    await bus.close()


async def test_what_a_worker_that_is_told_to_end_has_spent_is_on_the_log() -> None:
    """The call was under way; another worker answers the question."""
    bus, begun, never = MemoryBus(), asyncio.Event(), asyncio.Event()

    @agent(name="trend")
    async def slow(context: Any) -> Proposal | None:
        begun.set()
        try:
            await never.wait()
        finally:
            record(Call("trend", "anthropic", "an-llm", "CancelledError", billed_usd=Decimal("0.25")))
        return None

    working = asyncio.ensure_future(Worker([slow], bus=bus).run())
    running = asyncio.ensure_future(run(bus, Workers("trend"), [slow, size], close=MARKET[:1]))
    await begun.wait()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    never.set()
    again = asyncio.ensure_future(Worker([slow], bus=bus).run())
    messages = await running
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)
    assert sum(e.call.billed_usd for m in messages if isinstance(e := m.event, Called)) == Decimal("0.50")


async def test_a_question_that_makes_no_sense_ends_no_worker() -> None:
    """It is unavailable, and the next one is answered."""
    bus = MemoryBus()
    working = asyncio.ensure_future(Worker(crew(), bus=bus).run())
    nonsense = {"now": "2024-01-02T14:45:00+00:00", "updated": [], "bars": 9, "after": ""}
    one = {"instrument": {"symbol": "SIM"}, "interval_s": 1e300}
    empty: dict[str, list[float]] = {name: [] for name in ("start", "end", "open", "high", "low", "close", "volume")}
    scene = Message.new("Shown", {**nonsense, "windows": [{**one, **empty}]}, stream="fund/scenes", producer="x", time=START)
    at = await bus.publish([scene])
    asked = Asked("fund", "trend", trend.digest, scene.id, at, at, None, (), None, datetime.now(UTC) + timedelta(minutes=1))
    payload = ASK.dump_python(asked, mode="json")
    await bus.publish([Message.new("Asked", payload, stream="asks/trend", key="fund", producer="x", time=START)])
    messages = await run(bus, Workers())
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert [one for one in messages if one.type == "Filled"]


async def test_opinions_come_in_the_order_of_the_pipeline(tmp_path: Path) -> None:
    """Though a log sorts names."""

    @agent(name="zeta")
    def zeta(context: Any) -> Note | None:
        return Note(text="first")

    @agent(name="alpha")
    def alpha(context: Any) -> Note | None:
        return Note(text="second")

    @agent(reads=(Note,), name="reader")
    def reader(context: Any) -> Proposal | None:
        return Proposal(direction=Direction.LONG, thesis=",".join(note.text for note in context.all(Note)), stop_pct=2.0)

    agents: list[Agent[Any]] = [zeta, alpha, reader, size]
    bus = SqliteBus(tmp_path / "fund.db", lease=timedelta(minutes=3))
    working = asyncio.ensure_future(Worker(agents, bus=bus).run())
    messages = await run(bus, Workers(), agents, close=MARKET[:1])
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await bus.close()
    assert opinions(messages, "reader")[0].value["thesis"] == "first,second"


class Note(Record):
    """A word."""

    text: str


def test_a_lease_shorter_than_the_work_is_refused(tmp_path: Path) -> None:
    """Two workers would work on the same question."""
    bus = SqliteBus(tmp_path / "fund.db", lease=timedelta(seconds=30))
    with pytest.raises(ConfigError, match="may work on it for 120 s"):
        Worker(crew(), bus=bus)
    asyncio.run(bus.close())


async def test_an_agent_that_the_fund_does_not_have_is_named() -> None:
    """Before anything runs."""
    with pytest.raises(ConfigError, match="the fund has no agent 'trnd'; there is trend, size"):
        await run(MemoryBus(), Workers("trnd"))


def test_a_worker_ends_well_when_it_is_told_to(tmp_path: Path) -> None:
    """SIGTERM, as a container's: exit code 0, and what it says."""
    with worker(tmp_path / "fund.db", "--agents", "trend") as process:
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.returncode == 0
        assert process.stderr is not None
        assert process.stderr.read() == "stopped after 0 answers\n"


def test_agents_that_are_not_there_are_named(tmp_path: Path) -> None:
    """One line, and what there is."""
    command = [sys.executable, "-m", "agentfund", "worker", "--bus", str(tmp_path / "x.db"), "--agents", "strategist,nobody"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "--agents nobody: desk has no such agent; it has regime_classifier" in done.stderr
