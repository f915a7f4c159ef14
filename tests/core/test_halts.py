"""Halts at the worst moment: while a person reads, after a crash, with a broker that refuses, loses or lags."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest

from agentfund import Approval, ApprovalRequest, MemoryBus, Proposal, agent
from agentfund.core import dealing as the_dealing
from agentfund.core.context import State
from agentfund.core.dealing import Dealing
from agentfund.core.past import PastView
from agentfund.core.permission import UNWATCHED
from agentfund.core.session import Session
from agentfund.core.views import see
from agentfund.errors import BrokerUnavailable
from agentfund.market import Market
from agentfund.messages import Adopted, Answered, Filled, Intended, Message, Observed, stable_id
from agentfund.trading import Direction, Fill, Level, Order, OrderState, OrderStatus, Position, Side
from tests.core.test_fills import begun, fold
from tests.core.test_hostile import Real, saying
from tests.core.test_keeping import QUICK, Suspending, Word, Working, events, until
from tests.flowing import RunningClock
from tests.market import START, bars, fund, yes


class Paced:
    """A live feed whose bars come when it is told, each after its own pause."""

    def __init__(self, clock: RunningClock, pauses: Sequence[float], prices: Sequence[float] = ()) -> None:
        self.pauses = pauses
        self.feed = bars(prices or [100.0] * len(pauses), minutes=1 / 600)  # type: ignore[arg-type]
        self.instruments, self.fingerprint = self.feed.instruments, "paced"
        self.newest: Market | None = None

    async def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        """Give the bars, from the first on."""
        pauses = iter(self.pauses)
        async for market in self.feed.stream(None):
            await asyncio.sleep(next(pauses))
            self.newest = market
            yield market

    def latest(self) -> Market:
        """Return the newest."""
        assert self.newest is not None
        return self.newest


def session(word: Any, to: Real, feed: Any, *agents: Any, bus: Any = None, **options: Any) -> Session:
    """Return a fund on a paced market."""
    options = {**QUICK, **options}
    clock = options.pop("clock", None) or RunningClock()
    return fund(*agents, yes, bus=bus, clock=clock, permission=word, **options).session(feed, to)


async def some(seconds: float, run: Session, done: Callable[[], Any]) -> None:
    """Run for a while, or until something is so."""
    with suppress(TimeoutError):
        await until(run, done, seconds=seconds)


async def test_a_kill_in_the_cycle_of_an_entry_leaves_a_log_that_can_be_read() -> None:
    """Two orders of one cycle are two intents on the log, and the fund starts again on it."""
    word, to, bus = Word(), Real(), MemoryBus()
    clock = RunningClock()
    run = session(word, to, Paced(clock, [0.1, 30]), saying("long"), bus=bus, clock=clock)

    def killed() -> bool:
        if run.state.portfolio.positions and word.said.level is Level.NORMAL:
            word.say(Level.KILL, lease=False)
        return len(to.sent) == 2 and not run.state.orders

    await until(run, killed)
    assert [event.order for event in await events(bus, Intended)] == to.sent
    again = session(word, to, Paced(clock, [0.1, 30]), saying("long"), bus=bus, clock=clock)
    await until(again, lambda: again.cycle > 0)
    assert len(to.sent) == 2


async def test_a_decision_of_before_a_crash_does_not_leave_under_a_halt() -> None:
    """What may have been sent is not sent again at level 3: its fate is unknown until the broker has told."""

    class Dies(Real):
        async def submit(self, order: Order) -> OrderState:
            if self.dies:
                raise asyncio.CancelledError
            return await super().submit(order)

    word, to, bus, clock = Word(), Dies(), MemoryBus(), RunningClock()
    to.dies = True
    first = session(word, to, Paced(clock, [0.1, 30]), saying("long"), bus=bus, clock=clock)
    with suppress(asyncio.CancelledError):
        async for _ in first.steps():
            pass
    to.dies = False
    word.say(Level.HALT, lease=False)
    again = session(word, to, Paced(clock, [0.1, 30]), saying("long"), bus=bus, clock=clock)
    await until(again, lambda: again.cycle > 0 and bool(again.state.orders) and all_answered(again))
    assert to.sent == []
    assert [mine.status for mine in again.state.orders.values()] == [OrderStatus.UNKNOWN]


def all_answered(run: Session) -> bool:
    """Whether nothing is intended and unanswered."""
    return all(mine.status is not OrderStatus.INTENDED for mine in run.state.orders.values())


async def test_a_halt_is_carried_out_while_a_person_reads() -> None:
    """Five minutes for an approval are no five minutes for a kill."""
    word, to, asked = Word(), Suspending(), asyncio.Event()

    async def approver(request: ApprovalRequest) -> Approval:
        if to.sent:
            asked.set()
            await asyncio.sleep(60)
        return Approval(True, request.order_hash, "Ada")

    clock = RunningClock()
    feed = Paced(clock, [0.1, 0.3, 30])
    run = session(word, to, feed, saying("long", "flat"), clock=clock, mode="supervised", approver=approver)

    def killed() -> bool:
        if asked.is_set():
            word.say(Level.KILL, lease=False)
        return to.suspended > 0

    await until(run, killed)
    assert not to.book.positions
    assert [order.side for order in to.sent] == [Side.BUY, Side.SELL]


async def test_a_feed_that_always_has_the_next_bar_does_not_hold_a_halt_up() -> None:
    """A backlog is worked off bar by bar, and entries are taken back meanwhile."""
    word, to, clock = Word(), Working(), RunningClock()
    run = session(word, to, Paced(clock, [0.1] + [0.0] * 3000), saying("long"), clock=clock)

    def halted() -> bool:
        if to.sent:
            word.say(Level.HALT)
        return bool(to.cancelled)

    await until(run, halted)
    assert run.cycle < 1500


async def test_a_halt_while_agents_think_loses_nothing_of_what_the_cycle_observed() -> None:
    """The decision's cycle stands on the log with its own prices."""
    word, to, bus, clock = Word(), Working(), MemoryBus(), RunningClock()
    thinking, go = asyncio.Event(), asyncio.Event()

    @agent(name="thinker")
    async def thinker(context: Any) -> Proposal:
        """Propose, and think long the second time."""
        if context.state.cycle > 1:
            thinking.set()
            await go.wait()
        return Proposal(direction=Direction.LONG, stop_pct=2, target_pct=4)

    run = session(word, to, Paced(clock, [0.1, 0.3, 30], [100.0, 110.0, 110.0]), thinker, bus=bus, clock=clock)

    def decided() -> bool:
        if thinking.is_set():
            word.say(Level.HALT)
        if to.cancelled:
            go.set()
        last = run.state.last_decision
        return last is not None and last.cycle == 2

    await until(run, decided)
    seen = [event.prices["SIM"] for event in await events(bus, Observed)]
    assert seen == [Decimal("100.0"), Decimal("110.0")]


async def test_a_close_that_is_refused_is_tried_again_under_another_id() -> None:
    """An id that was refused once is never used again, however often it is tried."""

    class Refuses(Real):
        tries = 0

        async def submit(self, order: Order) -> OrderState:
            if order.reduce_only and (tries := self.tries) < 60:
                self.tries = tries + 1
                self.sent.append(order)
                return OrderState(order, OrderStatus.REJECTED, reason="the market is closed")
            return await super().submit(order)

    word, to, clock = Word(), Refuses(), RunningClock()
    feed = Paced(clock, [0.1] + [0.01] * 600)
    run = session(word, to, feed, saying("long"), clock=clock, reconcile=timedelta(seconds=0.001))

    def closed() -> bool:
        if run.state.portfolio.positions:
            word.say(Level.KILL, lease=False)
        return to.tries == 60 and not to.book.positions

    await until(run, closed, seconds=20)
    assert len({order.id for order in to.sent}) == len(to.sent)


async def test_a_jump_of_the_wall_clock_settles_no_order() -> None:
    """Unknown is not turned into rejected by a clock that somebody sets: it counts seconds that only go forward."""
    to, clock = Real(), RunningClock()
    to.lost = True
    order = Order("lost", "SIM", Side.BUY, Decimal(1), clock.now(), stop_loss=Decimal(98))
    line = Dealing(to, 10, clock=clock)
    line.known = {order.id}
    answered = await line.submit(order, clock.now())
    assert answered.status is OrderStatus.UNKNOWN
    state = State(orders=MappingProxyType({order.id: OrderState(order, answered.status)}))
    clock.began -= 3600
    assert clock.now() > START + timedelta(hours=1)
    assert await line.answers(state, clock.now()) == []


class Forgets(Real):
    """Loses an exit, and knows no ids."""

    dedupes_ids = False

    async def submit(self, order: Order) -> OrderState:
        """Lose the first exit."""
        if order.reduce_only and len(self.sent) == 1:
            self.sent.append(order)
            raise BrokerUnavailable("504")
        return await super().submit(order)


async def test_an_exit_that_is_proven_absent_does_not_block_the_next_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a broker that knows no ids: settled, not listed, nothing filled, all still held, three looks in a row."""
    monkeypatch.setattr(the_dealing, "SETTLED", 0.2)
    word, to, bus, clock = Word(), Forgets(), MemoryBus(), RunningClock()
    options: dict[str, Any] = {"clock": clock, "broker_timeout": timedelta(seconds=0.03)}
    run = session(word, to, Paced(clock, [0.1, 0.3, 30]), saying("long", "flat"), bus=bus, **options)

    def killed() -> bool:
        if len(to.sent) == 2:
            word.say(Level.KILL, lease=False)
        return not to.book.positions and len(to.sent) > 1

    await until(run, killed, seconds=15)
    assert [order.side for order in to.sent] == [Side.BUY, Side.SELL, Side.SELL]
    told = [e for e in await events(bus, Answered) if e.order_id == to.sent[1].id]
    assert [e.status for e in told] == [OrderStatus.UNKNOWN, OrderStatus.CANCELLED]


async def test_what_an_execution_closed_is_the_funds_own() -> None:
    """Its intent is on the fund's log, so the fund knows its fill, and is not blind for it."""
    to, bus, clock = Real(), MemoryBus(), RunningClock()
    run = session(UNWATCHED, to, Paced(clock, [0.1, 30]), saying("long"), bus=bus, clock=clock)
    written = asyncio.Event()

    async def close() -> None:
        held = run.state.portfolio.quantity("SIM")
        order = Order("by-execution", "SIM", Side.SELL, held, clock.now(), reduce_only=True, decision="halt h1")
        meant = Message.of(Intended(order), id="x", stream="fund", producer="execution", time=clock.now(), cycle=run.cycle)
        await bus.publish([meant])
        to.deal(order, held)
        written.set()

    tasks: list[Any] = []

    def flat() -> bool:
        if run.state.portfolio.positions and not tasks:
            tasks.append(asyncio.ensure_future(close()))
        return written.is_set() and not run.state.portfolio.positions

    await until(run, flat)
    assert run.state.wrong == ()
    assert (await see(bus, "fund", PastView())).value.state.portfolio == run.state.portfolio


def test_what_a_person_took_over_is_neither_profit_nor_loss() -> None:
    """After a deposit and a position by hand the log holds what the broker holds, and the marks move with it."""
    bought = Fill("f", "o", "SIM", Side.BUY, Decimal(10), Decimal(100), Decimal(0), START, Decimal(100))
    state = fold(begun(), Observed({"SIM": Decimal(100)}, *[Decimal(100_000)] * 3))
    state = state.apply(_message(Intended(Order("o", "SIM", Side.BUY, Decimal(10), START))))
    state = fold(state, Filled(bought), Adopted(Decimal(104_000), {"SIM": Decimal(4)}, "Ada", "a deposit, and sold by hand"))
    assert (state.portfolio.cash, state.portfolio.quantity("SIM")) == (Decimal(104_000), Decimal(4))
    assert state.equity == state.peak_equity == state.day_equity == Decimal(104_400)
    assert state.portfolio.positions["SIM"] == Position("SIM", Decimal(4), Decimal(100), START)
    assert state.adopted == START


def _message(event: Any) -> Message:
    return Message.of(event, id=stable_id(repr(event)), stream="fund", producer="test", time=START)


async def test_fills_that_were_taken_over_do_not_count_again() -> None:
    """The broker tells them for ever; they are in the book that was taken over."""
    to, bus, clock = Real(), MemoryBus(), RunningClock()
    run = session(UNWATCHED, to, Paced(clock, [0.1, 30]), saying(), clock=clock, bus=bus)
    await until(run, lambda: run.cycle == 1)
    by_hand = Order("by-hand", "SIM", Side.BUY, Decimal(7), clock.now())
    to.states[by_hand.id] = OrderState(by_hand, OrderStatus.FILLED, Decimal(7))
    to.deal(by_hand, Decimal(7))
    await asyncio.sleep(0.01)
    again = session(UNWATCHED, to, Paced(clock, [0.1, 30]), saying(), clock=clock, bus=bus)
    await until(again, lambda: bool(again.state.wrong))
    event = Adopted(to.book.cash, {"SIM": Decimal(7)}, "Ada", "bought by hand")
    meant = Message.of(event, id="a", stream="fund", producer="operator", time=clock.now(), cycle=1)
    await bus.publish([meant])
    third = session(UNWATCHED, to, Paced(clock, [0.1, 0.2, 30]), saying(), clock=clock, bus=bus)
    await until(third, lambda: third.cycle >= 2 and third.dealing.settled)
    assert third.dealing.blind == ""
    assert third.state.portfolio.quantity("SIM") == 7


async def test_an_entry_that_stays_is_not_asked_back_ten_times_a_second() -> None:
    """A broker that takes its time to cancel is not flooded, and the log is not either."""

    class Lazy(Working):
        async def cancel(self, order_id: str) -> OrderState:
            self.cancelled.append(order_id)
            return self.states[order_id]

    word, to, bus, clock = Word(), Lazy(), MemoryBus(), RunningClock()
    run = session(word, to, Paced(clock, [0.1, 30]), saying("long"), bus=bus, clock=clock)

    def halted() -> bool:
        if to.sent:
            word.say(Level.HALT)
        return False

    await some(1.6, run, halted)
    assert 1 <= len(to.cancelled) <= 3
    assert len(await events(bus, Answered)) <= 3
