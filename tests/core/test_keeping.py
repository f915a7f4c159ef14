"""A live fund between its bars: what its watchdog allows, halts, and the broker's books."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from agentfund import Abstain, Limits, MemoryBus, Outcome, Proposal, agent
from agentfund.clock import ScaledClock
from agentfund.core.limits import OFF
from agentfund.core.permission import NOBODY, UNWATCHED, permit
from agentfund.core.session import Session
from agentfund.errors import ConfigError
from agentfund.market import Market
from agentfund.messages import Answered, Busted, Levelled, Observed, Reconciled
from agentfund.trading import ZERO, Account, Decision, Direction, Fill, Level, Order, OrderState, OrderStatus, Permit, Side
from tests.core.test_hostile import Real, saying
from tests.flowing import Flowing, RunningClock
from tests.market import bars, fund, yes

LOOSE = Limits(require_hours=False, require_quote=False, max_volume_pct=OFF)
BARRED = replace(LOOSE, restricted=frozenset({"SIM"}))
QUICK: dict[str, Any] = {"reconcile": timedelta(seconds=0.05), "lease": None}


class Word:
    """A permission that is told what to say."""

    def __init__(self, level: Level = Level.NORMAL, *, lease: bool = True) -> None:
        self.said = Permit(level, lease, "a test says so", "h1" if level >= Level.HALT else "")

    def now(self) -> Permit:
        """Say it."""
        return self.said

    def say(self, level: Level, *, lease: bool = True) -> None:
        """Say something else from now on."""
        self.__init__(level, lease=lease)  # type: ignore[misc]


async def until(session: Session, done: Any, *, seconds: float = 30.0) -> list[Decision]:
    """Run until something is so, and return the decisions on the way."""
    decisions: list[Decision] = []

    async def go() -> None:
        async with aclosing(session.steps()) as steps:  # type: ignore[type-var]
            async for decision in steps:
                decisions.extend([decision] if decision is not None else [])

    task = asyncio.ensure_future(go())
    try:
        async with asyncio.timeout(seconds):
            while not done():
                assert not task.done() or task.exception() is None, task.exception()
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return decisions


def started(word: Any, to: Real, *said: Any, bus: Any = None, bars: int = 80, **options: Any) -> Session:
    """Return a fund on a flowing market at a real broker."""
    clock = RunningClock()
    one = fund(saying(*said), yes, bus=bus, clock=clock, permission=word, **QUICK, **options)
    return one.session(Flowing([100.0] * bars, clock), to)


async def events(bus: MemoryBus, *kinds: type[Any]) -> list[Any]:
    """Return what is on the log of some kinds."""
    return [event async for message in bus.read("fund") if isinstance(event := message.event, kinds)]


async def test_without_a_lease_nothing_adds_risk_and_with_one_it_may() -> None:
    """At a real broker permission is positive: nobody's word is a no."""
    assert permit(None, live=True) == NOBODY
    assert permit(None, live=False).lease
    for word, outcome, code in (
        (None, Outcome.DENIED, "lease"),
        (Word(lease=False), Outcome.DENIED, "lease"),
        (Word(Level.REDUCE_ONLY), Outcome.DENIED, "level"),
        (Word(Level.HALT), Outcome.DENIED, "halt"),
        (UNWATCHED, Outcome.ORDERED, ""),
        (Word(), Outcome.ORDERED, ""),
    ):
        to = Real()
        session = started(word, to, "long")
        (first, *_) = await until(session, lambda s=session: s.state.last_decision is not None)
        assert (first.outcome, first.code) == (outcome, code), word
        assert bool(to.sent) is (outcome is Outcome.ORDERED)


class Broken:
    """A permission that fails."""

    def now(self) -> Permit:
        """Fail."""
        raise OSError("gone")


def test_a_permission_that_fails_or_lies_is_none() -> None:
    """Whatever it says that is no permit is no permission."""

    class Lies:
        def now(self) -> Any:
            return True

    for word in (Broken(), Lies()):
        told = permit(word, live=True)
        assert not told.lease
        assert told.reason
    with pytest.raises(ConfigError, match="permission"):
        fund(permission=object())


class Working(Real):
    """Lets orders work until it is told to deal."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = True
        self.cancelled: list[str] = []

    async def cancel(self, order_id: str) -> OrderState:
        """Take an order back, and remember it."""
        self.cancelled.append(order_id)
        return await super().cancel(order_id)


async def test_at_a_halt_entries_are_taken_back_without_waiting_for_a_bar() -> None:
    """Level 3: what works and adds risk is cancelled within a look, and the change is on the log once."""
    word, to, bus = Word(), Working(), MemoryBus()
    session = started(word, to, "long", bus=bus)

    def halted() -> bool:
        if to.sent and word.said.level is Level.NORMAL:
            word.say(Level.HALT)
        return bool(to.cancelled)

    await until(session, halted)
    assert to.cancelled == [to.sent[0].id]
    assert [e.level for e in await events(bus, Levelled)] == [3]
    assert [e.status for e in await events(bus, Answered)][-1] is OrderStatus.CANCELLED


async def test_a_halt_takes_entries_back_while_agents_are_still_thinking() -> None:
    """Nobody waits for a language model before a halt counts."""
    word, to, thinking = Word(), Working(), asyncio.Event()

    @agent(name="thinker")
    async def thinker(context: Any) -> Proposal | None:
        """Propose once, and think for ever after that."""
        if context.state.cycle > 1:
            thinking.set()
            await asyncio.sleep(60)
        return Proposal(direction=Direction.LONG, stop_pct=2, target_pct=4)

    clock = RunningClock()
    one = fund(thinker, yes, clock=clock, permission=word, **QUICK)
    session = one.session(Flowing([100.0] * 80, clock), to)

    def halted() -> bool:
        if thinking.is_set() and to.sent:
            word.say(Level.HALT)
        return bool(to.cancelled)

    await until(session, halted)
    assert session.pulse.stage == "ended"
    assert session.cycle == 2


async def test_at_a_kill_positions_are_closed_and_the_account_suspended() -> None:
    """Level 4: whatever is held is sold once, through the log, though nothing else may leave."""
    word, to, bus = Word(), Suspending(), MemoryBus()
    session = started(word, to, "long", bus=bus)

    def killed() -> bool:
        if to.book.positions and session.state.portfolio.positions and word.said.level is Level.NORMAL:
            word.say(Level.KILL, lease=False)
        return to.suspended > 0

    await until(session, killed)
    assert [o.side for o in to.sent] == [Side.BUY, Side.SELL]
    assert to.sent[1].reduce_only
    assert not to.book.positions
    assert to.suspended == 1


async def test_what_closes_a_position_at_a_kill_passes_the_gate() -> None:
    """There is one way to a broker; only the halt itself and who proposed it do not count."""
    for limits, closed in ((LOOSE, True), (replace(LOOSE, proposers=frozenset({"trader"})), True), (BARRED, False)):
        word, to, bus = Word(), Suspending(), MemoryBus()
        session = started(word, to, "long", bus=bus, limits=LOOSE)

        def killed(word: Word = word, to: Real = to, session: Session = session, limits: Limits = limits) -> bool:
            if to.book.positions and session.state.portfolio.positions:
                session.fund.limits = limits
                word.say(Level.KILL, lease=False)
            return len([one for one in session.state.recent if one.reduce_only and one.id not in session.state.orders]) > 0

        await until(session, killed)
        assert bool(to.book.positions) is not closed
        told = [event.reason for event in await events(bus, Answered) if "restricted" in event.reason]
        assert bool(told) is not closed


async def test_less_than_a_lot_is_left_at_a_kill() -> None:
    """Nobody takes it, so it is not tried for ever, and the account counts as empty."""
    word, to, bus = Word(), Suspending(), MemoryBus()
    session = started(word, to, "long", bus=bus)

    def killed() -> bool:
        held = to.book.quantity("SIM")
        if held and len(to.done) == 1:
            dust = Fill("dust", to.sent[0].id, "SIM", Side.SELL, Decimal("0.00001"), held, ZERO, to.done[0].time, held, "stop")
            to.done.append(dust)
            to.book = to.book.apply(dust)
        elif held and session.state.portfolio.quantity("SIM") == held:
            word.say(Level.KILL, lease=False)
        return to.suspended > 0

    await until(session, killed)
    assert to.sent[1].quantity == to.sent[0].quantity - Decimal("0.0001")
    assert len(to.sent) == 2


class Missed(Flowing):
    """A live feed that first gives what was missed."""

    async def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        """Give all that has closed, and then nothing."""
        async for market in self.feed.stream(after):
            if market.now <= self.clock.now():
                self.newest = market
                yield market
        await asyncio.sleep(60)


async def test_bars_that_were_missed_are_history() -> None:
    """They are on the log, fills and marks and all; but nobody is paid for an opinion on them, nor sells on it."""
    asked: list[int] = []

    @agent(name="thinker")
    def thinker(context: Any) -> Proposal | Abstain:
        """Note which bar it is."""
        asked.append(context.state.cycle)
        return Abstain("looking")

    clock, bus = RunningClock(), MemoryBus()
    clock.began -= 1_830
    feed = Missed([100.0] * 40, clock)
    feed.feed = bars([100.0] * 40, minutes=1)
    session = fund(thinker, yes, bus=bus, clock=clock, **QUICK).session(feed, Real())
    await until(session, lambda: session.cycle == 30 and session.pulse.stage == "waiting")
    assert asked == [29, 30]
    seen = [message.cycle async for message in bus.read("fund") if isinstance(message.event, Observed)]
    assert seen == list(range(1, 31))


async def test_who_watches_is_told_real_seconds() -> None:
    """A recording runs faster than those who watch it: a moment in which nothing came is not a minute."""
    clock = ScaledClock(10_000)
    session = fund(saying(), yes, clock=clock, **QUICK).session(Flowing([100.0], RunningClock()), Real())
    await asyncio.sleep(0.02)
    assert 0.01 < session.pulse.stage_s < 60


class Suspending(Real):
    """Can be told to refuse orders of the account."""

    suspended = 0

    async def suspend(self) -> None:
        """Refuse orders from now on."""
        self.suspended += 1


async def test_at_a_kill_positions_are_kept_where_that_is_the_policy() -> None:
    """on_kill="keep": stops at the broker are what protects them."""
    word, to = Word(), Suspending()
    session = started(word, to, "long", on_kill="keep")

    def killed() -> bool:
        if to.book.positions and session.state.portfolio.positions:
            word.say(Level.KILL, lease=False)
        return to.suspended > 0

    await until(session, killed)
    assert [o.side for o in to.sent] == [Side.BUY]
    assert to.book.positions


async def test_fills_are_found_on_a_timer_between_bars() -> None:
    """A fill that comes after the bar is on the log before the next one."""
    to, bus = Working(), MemoryBus()
    clock = RunningClock()
    slow = Flowing([100.0] * 10, clock)
    session = fund(saying("long"), yes, bus=bus, clock=clock, **QUICK).session(slow, to)
    seen: list[int] = []

    def dealt() -> bool:
        if to.sent and not to.done:
            seen.append(session.cycle)
            to.deal(to.sent[0], to.sent[0].quantity)
        return bool(session.state.portfolio.positions)

    await until(session, dealt)
    assert seen


async def test_a_foreign_order_stops_entries_until_it_is_gone() -> None:
    """What somebody else does in the account is told on the log, never adopted, and nothing adds risk meanwhile."""
    to, bus = Real(), MemoryBus()
    stranger = Order("by-hand", "SIM", Side.BUY, Decimal(7), RunningClock().now())
    to.states["by-hand"] = OrderState(stranger, OrderStatus.WORKING)
    session = started(UNWATCHED, to, *["long"] * 60, bus=bus)

    def gone() -> bool:
        if session.state.last_decision is not None and session.state.last_decision.outcome is Outcome.DENIED:
            to.states.pop("by-hand", None)
        return bool(to.sent)

    decisions = await until(session, gone)
    assert decisions[0].code == "broker"
    assert "by-hand" in decisions[0].reason
    assert [bool(e.wrong) for e in await events(bus, Reconciled)] == [True, False]


async def test_cash_that_differs_stops_entries() -> None:
    """Positions that agree are not enough."""
    to, bus = Real(), MemoryBus()
    session = started(UNWATCHED, to, bus=bus)

    def taken() -> bool:
        if session.cycle == 1:
            to.book = replace(to.book, cash=Decimal(95_000))
        return bool(session.state.wrong)

    await until(session, taken)
    assert "in cash" in session.state.wrong[0]


async def test_a_broker_that_answers_slowly_gets_no_new_positions() -> None:
    """Degraded mode: an answer that takes too long, and it takes some fast ones before entries leave again."""

    class Sluggish(Real):
        waits = 0.03

        async def account(self) -> Account:
            await asyncio.sleep(self.waits)
            return await super().account()

    to = Sluggish()
    session = started(UNWATCHED, to, *["long"] * 60, broker_slow=timedelta(seconds=0.02))

    def faster() -> bool:
        if session.state.last_decision is not None:
            to.waits = 0.0
        return bool(to.sent)

    decisions = await until(session, faster)
    assert decisions[0].code == "broker"
    assert "s to answer" in decisions[0].reason


async def test_a_fill_that_the_broker_takes_back_is_gone_from_the_book() -> None:
    """A busted fill is an event on the log, and the books agree again."""

    class Busts(Real):
        gone: tuple[str, ...] = ()

        async def busts(self) -> list[str]:
            return list(self.gone)

    to, bus = Busts(), MemoryBus()
    session = started(UNWATCHED, to, "long", bus=bus)

    def busted() -> bool:
        if to.done and session.state.portfolio.positions and not to.gone:
            to.gone = (to.done[0].id,)
            to.book = type(to.book)(Decimal(100_000))
            to.states.clear()
        return bool(to.gone) and not session.state.portfolio.positions

    await until(session, busted)
    assert [e.fill_id for e in await events(bus, Busted)] == [to.gone[0]]


async def test_an_order_that_the_gate_allowed_does_not_leave_once_a_latch_is_there() -> None:
    """Between gate and broker the level is looked at once more: no byte leaves, and the order is over."""

    to, bus = Real(), MemoryBus()

    class Latches(Word):
        """Latches as soon as an order is intended."""

        def now(self) -> Permit:
            return Permit(Level.HALT, False, "latched", "h1") if session.state.orders else self.said

    session = started(Latches(), to, "long", bus=bus)
    await until(session, lambda: any(o.status is OrderStatus.REJECTED for o in answers(session)))
    assert to.sent == []
    (told,) = await events(bus, Answered)
    assert told.reason == "not sent: halt since: latched"


def answers(session: Session) -> list[OrderState]:
    """Return orders that are over although nothing of them was sent."""
    state = session.state
    over = state.last_decision is not None and bool(state.recent) and not state.orders
    return [OrderState(order, OrderStatus.REJECTED) for order in state.recent if over]
