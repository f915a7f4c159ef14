"""Hands take back what a halted fund leaves, close what level 4 says, and never twice."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.trading import Account, Book, Level, Order, OrderState, OrderStatus, OrderType, Resting, Side
from agentfund.watchdog import Hands
from tests.watchdog.scenes import D, World, stop

ENTRY = Resting("entry", "AAA", Side.BUY, D(5), OrderType.LIMIT, D(90))
TARGET = Resting("target", "AAA", Side.SELL, D(10), OrderType.LIMIT, D(110))
OTHER = Resting("other", "BBB", Side.SELL, D(5), OrderType.LIMIT, D(50))
LEG = Resting("leg", "BBB", Side.BUY, D(5), OrderType.STOP, D(55))


class Desk:
    """A broker that keeps a book, and fails as it is told."""

    def __init__(self, dedupes: bool = True) -> None:
        self.dedupes_ids = dedupes
        self.held: dict[str, Decimal] = {"AAA": D(10)}
        self.resting = {one.id: one for one in (ENTRY, TARGET, stop(quantity=12), OTHER, LEG)}
        self.sent: list[str] = []
        self.fails: list[Exception] = []
        self.hangs = False

    async def book(self) -> Book:
        if self.hangs:
            await asyncio.sleep(3600)
        return Book(Account(D(0), dict(self.held)), tuple(self.resting.values()))

    async def cancel(self, order_id: str) -> OrderState:
        one = self.resting.pop(order_id)
        return OrderState(Order(one.id, one.symbol, one.side, one.quantity, World().wall), OrderStatus.CANCELLED)

    async def submit(self, order: Order) -> OrderState:
        first = order.id not in self.sent
        self.sent.append(order.id)
        if first or not self.dedupes_ids:
            if self.fails and isinstance(self.fails[0], OrderRejected):
                raise self.fails.pop(0)
            self.held[order.symbol] += order.quantity * order.side.sign
            if not self.held[order.symbol]:
                del self.held[order.symbol]
        if self.fails:
            raise self.fails.pop(0)
        return OrderState(order, OrderStatus.FILLED)


def hands(desk: Desk, level: Level, *, close: bool = False) -> tuple[Hands, World]:
    world = World()
    made = Hands(desk, close=close, machine=world.machine, deadline_s=0.05)
    made.told(level, "c1")
    return made, world


async def test_the_fund_has_three_seconds_to_do_it_by_itself() -> None:
    """Then entries are taken back, and what protects stays: a stop larger than the position as well."""
    desk = Desk()
    found, world = hands(desk, Level.HALT, close=True)
    await found.once()
    assert len(desk.resting) == 5
    world.advance(3)
    await found.once()
    assert set(desk.resting) == {"target", "stop-AAA", "leg"}  # a leg goes after its entry has gone
    await found.once()
    assert set(desk.resting) == {"target", "stop-AAA"}
    assert desk.sent == []


@pytest.mark.parametrize("level", [Level.NORMAL, Level.CAUTION, Level.REDUCE_ONLY])
async def test_below_a_halt_they_do_nothing(level: Level) -> None:
    """Also after one that was lifted."""
    desk = Desk()
    found, world = hands(desk, Level.KILL, close=True)
    found.told(level, "")
    world.advance(100)
    await found.once()
    assert len(desk.resting) == 5


async def test_level_four_closes_only_where_that_is_the_policy() -> None:
    """Else positions and their stops are kept."""
    for close, left in ((False, {"AAA": D(10)}), (True, {})):
        desk = Desk()
        found, world = hands(desk, Level.KILL, close=close)
        world.advance(3)
        for _ in range(5):
            await found.once()
        assert desk.held == left
        assert set(desk.resting) == (set() if close else {"target", "stop-AAA"})


@pytest.mark.parametrize("dedupes", [True, False])
async def test_a_close_whose_fate_is_unknown_closes_once(dedupes: bool) -> None:
    """The broker took it and the answer was lost."""
    desk = Desk(dedupes)
    desk.fails = [BrokerUnavailable("lost")]
    found, world = hands(desk, Level.KILL, close=True)
    world.advance(3)
    for _ in range(5):
        await found.once()
    assert desk.held == {}
    assert len(set(desk.sent)) == 1


async def test_a_close_that_was_refused_is_tried_with_another_id() -> None:
    """The broker said no: that order does not exist."""
    desk = Desk()
    desk.fails = [OrderRejected("not now")]
    found, world = hands(desk, Level.KILL, close=True)
    world.advance(3)
    for _ in range(5):
        await found.once()
    assert desk.held == {}
    assert len(set(desk.sent)) == 2


async def test_a_session_that_hangs_does_not_hold_them() -> None:
    """Each call has a deadline, and the next try comes."""
    desk = Desk()
    desk.hangs = True
    found, world = hands(desk, Level.HALT)
    world.advance(3)
    with pytest.raises(TimeoutError):
        await found.once()
    desk.hangs = False
    await found.once()
    assert "entry" not in desk.resting


class Lagging(Desk):
    """A broker that takes an order and shows what came of it when the test says."""

    async def submit(self, order: Order) -> OrderState:
        self.sent.append(order.id)
        return OrderState(order, OrderStatus.WORKING)


async def test_a_close_that_does_not_show_yet_is_not_sent_as_another() -> None:
    """Where the broker knows its id it is harmless to send it again; where it does not, it is not sent."""
    for dedupes in (True, False):
        desk = Lagging(dedupes)
        found, world = hands(desk, Level.KILL, close=True)
        world.advance(3)
        for _ in range(6):
            await found.once()
        assert len(set(desk.sent)) == 1
        assert dedupes or len(desk.sent) == 1


async def test_nothing_is_closed_while_it_moves() -> None:
    """A position that shrinks is being closed already; what is left when it stands still is."""
    desk = Lagging()
    found, world = hands(desk, Level.KILL, close=True)
    world.advance(3)
    for held in (10, 9, 8, 7):
        desk.held["AAA"] = D(held)
        await found.once()
    assert desk.sent == []
    await found.once()
    assert len(desk.sent) == 1
