"""What a person sees of a running fund."""

from __future__ import annotations

import asyncio
import io
from contextlib import redirect_stdout
from decimal import Decimal

from agentfund import MemoryBus, Mode, Orchestrator, PaperBroker
from agentfund.core.session import Session
from agentfund.live.board import NEWEST, left, line, sections
from agentfund.plain import plain
from agentfund.strategies import Strategy
from agentfund.terminal import tables
from agentfund.trading import Decision, Direction, Outcome
from tests.market import START, bars

RISING = [100.0 + step for step in range(12)]


class Always(Strategy):
    """Is in."""

    def decide(self, now: object, held: bool) -> Direction | None:
        """Return long while nothing is held."""
        return None if held else Direction.LONG


async def lived() -> tuple[Session, list[Decision]]:
    """Return a session that has bought on paper, and its decisions."""
    fund = Orchestrator([Always(stop_pct=2, target_pct=None)], bus=MemoryBus(), mode=Mode.AUTONOMOUS)
    session = fund.session(bars(RISING), PaperBroker(100_000))
    return session, [decision async for decision in session.steps() if decision is not None]


def decided(number: int, reason: str) -> Decision:
    """Return a decision that says something."""
    return Decision(
        id=f"d{number}",
        cycle=number,
        time=START,
        outcome=Outcome.DENIED,
        decided_by="gate",
        reason=reason,
        code="lease",
        symbol="SIM",
        direction=Direction.LONG,
    )


def test_the_board_shows_what_is_held_and_what_protects_it() -> None:
    """A position with its average, its last price, its profit, and its stop."""
    session, decisions = asyncio.run(lived())
    shown = {section.title: section.rows for section in sections(session, decisions)}
    ((symbol, quantity, average, last, profit, protection),) = shown["positions"]
    held = session.state.portfolio.positions[symbol]
    assert (symbol, Decimal(quantity)) == ("SIM", held.quantity)
    assert Decimal(last.replace(",", "")) == Decimal("111")
    gain = (Decimal(111) - held.average_price) * held.quantity
    assert Decimal(profit.replace(",", "")) == gain.quantize(Decimal("0.01"))
    assert protection.startswith("stop ")
    assert Decimal(average.replace(",", "")) == held.average_price.quantize(Decimal("0.0001"))


def test_the_board_shows_the_newest_decisions_only() -> None:
    """Oldest first, no more than a person reads."""
    session, _ = asyncio.run(lived())
    shown = sections(session, [decided(number, f"because {number}") for number in range(20)])[-1].rows
    assert [row[3] for row in shown] == [f"because {number}" for number in range(20 - NEWEST, 20)]


def test_the_text_of_an_agent_cannot_move_the_cursor_or_change_a_colour() -> None:
    """Escape sequences are shown as what they are, in lines and in tables."""
    evil = "fine\x1b[2J\x1b[31m[bold]red[/bold]\x9b1;1H\rDONE"
    said = plain(line(decided(1, evil)))
    assert not {"\x1b", "\x9b", "\r"} & set(said)
    session, _ = asyncio.run(lived())
    out = io.StringIO()
    with redirect_stdout(out), tables() as show:
        show(sections(session, [decided(1, evil)]))
    assert "\x1b[2J" not in out.getvalue()
    assert "\x9b" not in out.getvalue()
    assert "[bold]red" in out.getvalue()


def test_the_text_of_an_agent_cannot_look_like_another_decision() -> None:
    """A decision is one line, whatever its reason holds."""
    said = line(decided(1, "no\n2030-01-01 00:00:00 ordered by consensus: buy 1 SIM\u2028more"))
    assert len(said.splitlines()) == 1


def test_a_denied_order_names_its_code() -> None:
    """So that it can be looked up."""
    assert line(decided(1, "no lease")).endswith("denied by gate [lease]: no lease")


def test_what_is_left_on_paper_says_that_nothing_watches_it() -> None:
    """A stop on paper does not work while the fund is down."""
    session, _ = asyncio.run(lived())
    (sentence,) = left(session)
    assert "on paper: nothing watches it until the fund runs again" in sentence


def test_a_session_that_never_began_claims_nothing() -> None:
    """It has not asked anybody, so it does not say that nothing is held."""
    session = Orchestrator([Always()], bus=MemoryBus()).session(bars(RISING), PaperBroker())
    (sentence,) = left(session)
    assert "not known" in sentence
    assert "look at the broker" in sentence
