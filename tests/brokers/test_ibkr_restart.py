"""Stops at Interactive Brokers after refusals, losses and the end of a process at any message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest

from agentfund.brokers.ibkr import InteractiveBrokers
from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.testing.tws import FakeTWS, House
from agentfund.trading import Fill, Order, OrderStatus, OrderType, Side
from tests.brokers.test_ibkr import bracket, broker_of, order, stops

pytest.importorskip("ib_async")


@pytest.fixture
def tws() -> Iterator[FakeTWS]:
    with FakeTWS() as server:
        server.move("TEST", Decimal(100))
        yield server


@pytest.fixture
async def broker(tws: FakeTWS) -> AsyncIterator[InteractiveBrokers]:
    session = broker_of(tws)
    yield session
    await session.close()


def leave(name: str = "exit", quantity: int = 2, **more: Any) -> Order:
    return order(name, Side.SELL, quantity, reduce_only=True, **more)


def wrong(tws: FakeTWS) -> str:
    """What is wrong with the protection; empty where stops and targets are of the position's size, one of each for an entry."""
    held = tws.house.positions.get(265598, Decimal(0))
    live = [s for s in tws.house.live() if s.transmitted and s.ref.endswith((":stop", ":target"))]
    names = [s.ref for s in live]
    rest = sum(s.remaining for s in live if s.ref.endswith(":stop"))
    aims = sum(s.remaining for s in live if s.ref.endswith(":target"))
    right = held >= 0 and rest == held and aims == held and len(names) == len(set(names))
    return "" if right and all(s.action == "SELL" for s in live) else f"{held} held, {[(s.ref, s.remaining) for s in live]}"


def cancel_all(tws: FakeTWS) -> None:
    """Everything that rests is gone, whoever took it back."""

    def act() -> None:
        for slip in tws.house.live():
            tws.house.cancel(slip)

    tws.do(act)


def refuse_stop(tws: FakeTWS) -> None:
    """The exchange refuses the stop after the workstation has taken it."""

    def act() -> None:
        tws.house.refuse(tws.house.named("entry:stop")[0], "no")

    tws.do(act)


def yesterday(tws: FakeTWS) -> None:
    """A night has passed: executions and ended orders are told no more."""

    def act() -> None:
        tws.house.deals.clear()
        tws.house.slips[:] = tws.house.live()

    tws.do(act)


async def restarted(tws: FakeTWS, log: Sequence[Order], fills: Sequence[Fill], **settings: Any) -> InteractiveBrokers:
    """A new process with the log of the one before."""
    later = broker_of(tws, **settings)
    later.restore(log, fills)
    await later.orders()
    return later


@pytest.mark.parametrize("old", [False, True], ids=["today", "of yesterday"])
@pytest.mark.parametrize("quantity", [1, 4, 5, 7])
async def test_killed_at_any_message_of_an_exit_nothing_stays_bare(quantity: int, old: bool) -> None:
    """Whichever message was the last, the next process protects what is held, sends the exit again, and it sells once."""
    log = [bracket("a", quantity=4), bracket("b", quantity=3), leave(quantity=quantity)]
    for after in range(1, 20):
        with FakeTWS() as tws:
            tws.move("TEST", Decimal(100))
            broker = broker_of(tws)
            for one in log[:2]:
                await broker.submit(one)
            fills = await broker.fills()
            if old:  # the workstation tells executions and ended orders of today alone
                yesterday(tws)
                await broker.close()
                broker = await restarted(tws, log, fills)
            tws.die_after = after
            with suppress(BrokerUnavailable, OrderRejected):
                await broker.submit(log[2])
            over = tws.die_after > 0
            tws.die_after = 0
            await broker.close()
            later = await restarted(tws, log, fills)
            assert wrong(tws) == ""
            await later.submit(log[2])
            assert {s.order.id: s.status for s in await later.orders()}["exit"] is OrderStatus.FILLED
            assert wrong(tws) == ""
            assert tws.house.positions[265598] == 7 - quantity
            await later.close()
        if over:
            assert after > 2
            return
    raise AssertionError("the exit never ended")


async def test_killed_again_while_it_puts_a_stop_back_it_doubles_nothing() -> None:
    """The second process dies after each message of its own in turn; the third finds one pair, or makes it whole."""
    log = [bracket(), leave()]
    for after in range(1, 12):
        with FakeTWS() as tws:
            tws.move("TEST", Decimal(100))
            broker = broker_of(tws)
            await broker.submit(log[0])
            fills = await broker.fills()
            await broker.close()
            cancel_all(tws)
            tws.die_after = after
            with suppress(BrokerUnavailable):
                await (await restarted(tws, log, fills)).close()
            over, tws.die_after = tws.die_after > 0, 0
            later = await restarted(tws, log, fills)
            await later.orders()
            assert wrong(tws) == ""
            await later.close()
        if over:
            return
    raise AssertionError("it never ended")


@pytest.mark.parametrize("listed", [False, True], ids=["gone", "listed as inactive"])
async def test_a_stop_that_is_refused_after_its_entry_filled_is_replaced(listed: bool) -> None:
    """The exchange refuses the stop later; the next look takes its target back and sends the pair anew."""
    with FakeTWS(House(lists_refused=listed)) as tws:
        tws.move("TEST", Decimal(100))
        broker = broker_of(tws)
        await broker.submit(bracket())
        refuse_stop(tws)
        assert stops(tws) == []
        await broker.orders()
        assert wrong(tws) == ""
        await broker.close()


async def test_legs_that_were_lost_are_replaced_and_refused_ones_not_at_every_look(
    tws: FakeTWS, broker: InteractiveBrokers
) -> None:
    """A stop that the server refuses again and again is tried with growing pauses."""
    await broker.submit(bracket())
    cancel_all(tws)
    for _ in range(5):
        tws.refuse(110, "The price does not conform to the minimum price variation", "STP")
    for _ in range(5):
        await broker.orders()
    placed = [f for f in tws.received if f[0] == "3" and f[26] == "entry:stop"]
    assert len(placed) == 2


async def test_an_entry_filled_in_part_whose_stop_is_gone_is_ended_and_protected(
    tws: FakeTWS, broker: InteractiveBrokers
) -> None:
    """What it has bought gets a stop of its own; the rest is not bought any more."""
    await broker.submit(bracket(quantity=5, type=OrderType.LIMIT, limit_price=Decimal(95)))
    tws.do(lambda: tws.house.fill(tws.house.named("entry:entry")[0], Decimal(2), Decimal(95)))
    refuse_stop(tws)
    assert [s.status for s in await broker.orders()] == [OrderStatus.CANCELLED]
    assert wrong(tws) == ""


async def test_an_entry_that_fills_in_part_with_its_stop_is_left_alone(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """Its legs are there already, of its whole size."""
    await broker.submit(bracket(quantity=5, type=OrderType.LIMIT, limit_price=Decimal(95)))
    tws.do(lambda: tws.house.fill(tws.house.named("entry:entry")[0], Decimal(2), Decimal(95)))
    before = len([f for f in tws.received if f[0] in "34"])
    await broker.orders()
    assert len([f for f in tws.received if f[0] in "34"]) == before


async def test_a_stop_that_would_turn_the_position_around_becomes_smaller(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """Somebody sold by hand: the stop keeps the size of what is left, and goes with the last of it."""
    await broker.submit(bracket(quantity=4))
    hand = broker_of(tws, client_id=9)
    await hand.submit(order("by hand", Side.SELL, 3))
    await broker.orders()
    assert stops(tws) == [(Decimal(1), Decimal(90))]
    await hand.submit(order("by hand too", Side.SELL, 1))
    await broker.orders()
    assert wrong(tws) == ""
    assert not tws.house.live()
    await hand.close()


async def test_an_exit_that_may_be_on_its_way_keeps_the_stop_away_until_it_must_have_arrived(tws: FakeTWS) -> None:
    """A stop beside it would sell twice. After `settle_s` it is not there, and the stop is back."""
    broker = broker_of(tws, timeout_s=1.0, settle_s=60.0)
    await broker.submit(bracket())
    await broker.orders()
    tws.lose_orders = 1
    with pytest.raises(BrokerUnavailable):
        await broker.submit(leave())
    await broker.orders()
    assert stops(tws) == []
    broker._settle_s = 0.0
    await broker.orders()
    assert wrong(tws) == ""
    await broker.close()


async def protected(tws: FakeTWS) -> None:
    """Wait, without asking anything, until stops and targets are of the position's size."""
    async with asyncio.timeout(60):
        while wrong(tws):
            await asyncio.sleep(0.01)


async def test_a_stop_that_is_lost_while_nobody_asks_is_put_back(tws: FakeTWS) -> None:
    """It looks by itself while it is open, also after it could not; closed it does not look any more."""
    broker = broker_of(tws, interval_s=0.02)
    await broker.submit(bracket())
    cancel_all(tws)
    await protected(tws)
    tws.cut()
    cancel_all(tws)
    await protected(tws)
    await broker.close()
    cancel_all(tws)
    asked = len(tws.received)
    await asyncio.sleep(0.2)
    assert (stops(tws), len(tws.received)) == ([], asked)
    assert "agentfund-ibkr-protection" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_a_process_that_knows_its_log_looks_without_being_asked(
    tws: FakeTWS, broker: InteractiveBrokers, caplog: pytest.LogCaptureFixture
) -> None:
    """After `restore` alone; a workstation that is not there is told of, and tried again."""
    await broker.submit(bracket())
    fills = await broker.fills()
    await broker.close()
    cancel_all(tws)
    later = broker_of(tws, interval_s=0.02)
    tws.open = False
    later.restore([bracket()], fills)
    async with asyncio.timeout(60):
        while "cannot be looked after" not in caplog.text:
            await asyncio.sleep(0.01)
    tws.open = True
    await protected(tws)
    await later.close()


async def test_a_watchdogs_session_mends_nothing(tws: FakeTWS, broker: InteractiveBrokers) -> None:
    """It was told of no entry, and only looks."""
    await broker.submit(bracket())
    cancel_all(tws)
    eyes = broker_of(tws, client_id=9)
    assert (await eyes.book()).resting == ()
    assert stops(tws) == []
    await eyes.close()
