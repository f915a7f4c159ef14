"""Every trade is heard once, however long ago and however many: the local exchange refuses what the real ones refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

import pytest

from agentfund.brokers.ccxt import Ccxt
from agentfund.brokers.ccxt_wire import time_of
from agentfund.clock import SimulatedClock
from agentfund.errors import BrokerUnavailable
from agentfund.execution.protected import Protected
from agentfund.testing.spot import Listing, SpotExchange, SpotServer
from agentfund.trading import Fill, OrderStatus, OrderType, Portfolio, Side
from tests.brokers.test_ccxt_line import BTC, line, order

Name = Literal["binance", "bybit", "okx"]
NAMES: tuple[Name, ...] = ("binance", "bybit", "okx")
DAY = 86_400_000
LOT = Decimal("0.0001")


def world(fee: str = "0") -> SpotExchange:
    """Return an exchange whose buys pay a commission in what they receive, its market at 100."""
    made = SpotExchange(Listing("BTC", "USDT"), fee=Decimal(fee), fee_in="received")
    made.move(BTC, Decimal(100))
    return made


@asynccontextmanager
async def opened(exchange: SpotExchange, name: Name, since: datetime | None) -> AsyncIterator[tuple[SpotServer, Ccxt]]:
    async with SpotServer(exchange, name) as server:
        broker = line(server, name, since=since)
        try:
            yield server, broker
        finally:
            await broker.close()


def ago(exchange: SpotExchange, days: float) -> datetime:
    """Return a moment before the exchange's now."""
    return time_of(exchange.now - int(days * DAY))


def buys(exchange: SpotExchange, number: int, days: float) -> None:
    """Let so many trades happen, spread over so many days."""
    for one in range(number):
        exchange.place(f"buy{len(exchange.orders)}", BTC, "buy", "market", LOT)
        exchange.now += int(days * DAY) // number if one + 1 < number else 0


@pytest.mark.parametrize("name", NAMES)
async def test_forty_days_and_2500_trades_come_once_each(name: Name) -> None:
    """No window is wider than the exchange allows, no page and no window has a seam, and what comes later is added."""
    exchange = world()
    buys(exchange, 2500, 40)
    async with opened(exchange, name, ago(exchange, 41)) as (server, broker):
        told = [fill.id for fill in await broker.fills()]
        assert told == [f"{BTC}:{one.id}" for one in exchange.trades]
        assert {fill.order_id for fill in await broker.fills()} == {one.client_id for one in exchange.orders.values()}
        asked = len(server.requests)
        assert asked < 100  # orders are not asked for one by one
        buys(exchange, 3, 0)
        assert [fill.id for fill in await broker.fills()] == [f"{BTC}:{one.id}" for one in exchange.trades]
        later = [path for _, path in server.requests[asked:] if path.endswith(("myTrades", "list", "fills", "fills-history"))]
        assert len(later) == 1  # nothing old is asked for again


@pytest.mark.parametrize("name", NAMES)
async def test_a_trade_on_the_edge_of_every_window_comes_once(name: Name) -> None:
    """On the millisecond at which a window ends, and just beside it."""
    exchange = world()
    since = ago(exchange, 0)
    start = exchange.now
    for week in range(1, 6):
        for beside in (-1, 0, 1):
            exchange.now = start + week * 7 * DAY + beside - 2  # an order and its trade move the time on by one each
            buys(exchange, 1, 0)
    exchange.now = start + 40 * DAY
    async with opened(exchange, name, since) as (_, broker):
        assert [fill.id for fill in await broker.fills()] == [f"{BTC}:{one.id}" for one in exchange.trades]
        assert [one.time - start for one in exchange.trades][:3] == [7 * DAY - 1, 7 * DAY, 7 * DAY + 1]


@pytest.mark.parametrize("name", NAMES)
async def test_what_is_older_than_since_is_left_out(name: Name) -> None:
    """The account may have traded before: that is no business of this session."""
    exchange = world()
    buys(exchange, 5, 30)
    since = ago(exchange, 10)
    buys(exchange, 2, 1)
    async with opened(exchange, name, since) as (_, broker):
        assert {fill.time >= since for fill in await broker.fills()} == {True}
        assert [fill.id for fill in await broker.fills()] == [
            f"{BTC}:{one.id}" for one in exchange.trades if time_of(one.time) >= since
        ]


async def test_binance_is_paged_by_numbers_also_where_a_day_has_more_than_a_page() -> None:
    """2,100 trades of one day, after ten quiet ones: the first of them are looked for in narrower windows."""
    exchange = world()
    since = ago(exchange, 0)
    exchange.now += 10 * DAY
    buys(exchange, 2100, 0.5)
    async with opened(exchange, "binance", since) as (server, broker):
        assert [fill.id for fill in await broker.fills()] == [f"{BTC}:{one.id}" for one in exchange.trades]
        assert sum(path.endswith("myTrades") for _, path in server.requests) < 25


async def test_okx_trades_are_heard_as_they_happen_and_long_after() -> None:
    """Its long history comes late; the list of three days does not."""
    exchange = world()
    buys(exchange, 1, 0)
    exchange.now += 20 * DAY
    buys(exchange, 1, 0)
    async with opened(exchange, "okx", ago(exchange, 30)) as (server, broker):
        assert len(await broker.fills()) == 2
        paths = {path for _, path in server.requests}
        assert {"/api/v5/trade/fills", "/api/v5/trade/fills-history"} <= paths


async def test_okx_trades_between_its_two_lists_are_heard() -> None:
    """Older than three days, by hours: the list that is up to date does not have it any more."""
    exchange = world()
    since = ago(exchange, 0)
    buys(exchange, 1, 0)
    exchange.now += int(3.2 * DAY)
    async with opened(exchange, "okx", since) as (_, broker):
        assert len(await broker.fills()) == 1


async def test_a_since_beyond_what_is_told_is_cut_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """Bybit refuses a question that reaches back more than two years: the account must not become invisible for it."""
    exchange = world()
    buys(exchange, 2, 1)
    async with opened(exchange, "bybit", ago(exchange, 1000)) as (_, broker):
        assert len(await broker.fills()) == 2
    assert "no trade older than 730 days" in caplog.text


async def test_more_trades_in_a_millisecond_than_on_a_page_are_an_error() -> None:
    """Where nothing but the time pages, they cannot be told apart: better blind than wrong."""
    exchange = world()
    for one in range(1100):
        exchange.now = 1_790_000_000_000
        exchange.place(f"buy{one}", BTC, "buy", "market", LOT)
    exchange.now += DAY
    for one in range(1000):
        exchange.place(f"later{one}", BTC, "buy", "market", LOT)
    async with opened(exchange, "binance", ago(exchange, 2)) as (_, broker):
        with pytest.raises(BrokerUnavailable, match="millisecond"):
            await broker.fills()


def booked(fills: list[Fill]) -> Portfolio:
    book = Portfolio(Decimal(100_000))
    for fill in fills:
        book = book.apply(fill)
    return book


@pytest.mark.parametrize("name", NAMES)
async def test_what_is_below_a_lot_costs_what_it_costs_when_its_order_ends(name: Name) -> None:
    """One lot, less a commission in it: nothing is left to hold, and the book's cash is the exchange's all the same."""
    exchange = world("0.001")
    async with opened(exchange, name, ago(exchange, 1)) as (_, broker):
        await broker.submit(order("small", quantity=LOT))
        fills = list(await broker.fills())
        assert booked(fills).cash == exchange.total("USDT") == (await broker.account()).cash
        assert (await broker.account()).positions == dict(booked(fills).positions) == {}
        assert [(fill.order_id, fill.quantity) for fill in fills] == [("small", Decimal(0))]
        assert len(await broker.fills()) == 1
    async with opened(exchange, name, ago(exchange, 1)) as (_, other):  # another process tells it under the same id
        assert [fill.id for fill in await other.fills()] == [fill.id for fill in fills]


@pytest.mark.parametrize("name", NAMES)
async def test_what_is_below_a_lot_waits_for_the_next_fill_of_an_open_order(name: Name) -> None:
    """It may still become a lot; when the rest is taken back, its cash is told."""
    exchange = world("0.001")
    exchange.depth = Decimal("0.00005")
    async with opened(exchange, name, ago(exchange, 1)) as (_, broker):
        await broker.submit(order("slow", quantity=Decimal("0.0003")))
        assert list(await broker.fills()) == []
        for _ in range(2):
            exchange.move(BTC, Decimal(100))
        exchange.move(BTC, Decimal(101))
        assert [fill.quantity for fill in await broker.fills()] == [LOT]
        await broker.cancel("slow")
        fills = list(await broker.fills())
        assert booked(fills).cash == exchange.total("USDT")
        assert booked(fills).quantity(BTC) == (await broker.account()).positions[BTC] == LOT


@pytest.mark.parametrize("name", NAMES)
async def test_after_forty_days_dust_is_dust(name: Name) -> None:
    """A new process has the log and nothing else: the account is the book, not the book and what many buys have left."""
    exchange = world("0.001")
    sent = []
    async with opened(exchange, name, ago(exchange, 1)) as (_, broker):
        for number in range(12):
            exchange.now += DAY
            sent.append(order(f"in{number}", quantity=Decimal("0.1337"), time=time_of(exchange.now)))
            await broker.submit(sent[-1])
            if number < 11:
                held = (await broker.account()).positions[BTC]
                sent.append(order(f"out{number}", quantity=held, side=Side.SELL, time=time_of(exchange.now)))
                await broker.submit(sent[-1])
        log = list(await broker.fills())
        dust = exchange.total("BTC") - booked(log).quantity(BTC)
        assert dust > 2 * LOT
    exchange.now += 40 * DAY
    async with opened(exchange, name, ago(exchange, 6)) as (_, other):
        await other.account()  # a session looks before it tells what it knows
        other.restore(sent, log)
        assert (await other.account()).positions == {BTC: booked(log).quantity(BTC)}
        assert {fill.id for fill in await other.fills()} <= {fill.id for fill in log}
        last = order("last", quantity=booked(log).quantity(BTC), side=Side.SELL)
        await other.submit(last)
        assert (await other.account()).positions == {}


async def test_what_was_bought_before_the_exchange_remembers_is_held_by_the_log() -> None:
    """OKX forgets after three months: the log knows the position, and the dust beside it stays dust."""
    exchange = world("0.001")
    sent = [order(f"in{number}", quantity=Decimal("0.1337"), time=time_of(exchange.now)) for number in range(6)]
    async with opened(exchange, "okx", ago(exchange, 1)) as (server, broker):
        for one in sent:
            await broker.submit(one)
        log = list(await broker.fills())
        exchange.now += 120 * DAY
        other = line(server, "okx", since=None, clock=SimulatedClock(time_of(exchange.now)))
        other.restore(sent, log)
        assert exchange.total("BTC") - booked(log).quantity(BTC) > LOT
        assert (await other.account()).positions == {BTC: booked(log).quantity(BTC)}
        assert list(await other.fills()) == []
        await other.close()


@pytest.mark.parametrize("name", NAMES)
async def test_an_order_that_ended_while_nobody_looked_is_told(name: Name) -> None:
    """It rested when the process died, began to trade before and ended after: its fills are whole, and it has ended."""
    exchange = world("0.001")
    exchange.depth = None
    rests = order("rests", quantity=Decimal("0.5"), type=OrderType.LIMIT, limit_price=Decimal(90), time=time_of(exchange.now))
    young = order("young", type=OrderType.LIMIT, limit_price=Decimal(80), time=datetime.now(UTC))
    never = order("never", type=OrderType.LIMIT, limit_price=Decimal(80), time=time_of(exchange.now))
    async with opened(exchange, name, ago(exchange, 1)) as (_, broker):
        await broker.submit(rests)
    exchange.now += 20 * DAY
    exchange.move(BTC, Decimal(89))
    exchange.now += 20 * DAY
    async with opened(exchange, name, ago(exchange, 6)) as (_, other):
        other.restore([rests, never, young])
        states = {state.order.id: state for state in await other.orders()}
        assert states["rests"].status is OrderStatus.FILLED
        assert states["young"].status is OrderStatus.UNKNOWN  # it may be on its way
        assert states["rests"].filled == Decimal("0.4995")
        assert states["never"].status is OrderStatus.CANCELLED  # weeks old, neither listed nor found
        assert sum(fill.quantity for fill in await other.fills()) == Decimal("0.4995")


async def test_an_order_with_trades_on_both_sides_moves_the_beginning() -> None:
    """Half of its trades would make other fills of the rest, and it would never be complete."""
    exchange = world("0.001")
    exchange.depth = Decimal("0.10005")
    async with opened(exchange, "bybit", ago(exchange, 1)) as (_, broker):
        slow = order("slow", quantity=Decimal("0.4"), time=time_of(exchange.now))
        await broker.submit(slow)
        exchange.now += 8 * DAY
        for _ in range(3):
            exchange.move(BTC, Decimal(100))
    exchange.depth = None
    async with opened(exchange, "bybit", ago(exchange, 9)) as (_, broker):
        held = (await broker.account()).positions[BTC]
        out = order("out", quantity=held, side=Side.SELL, time=time_of(exchange.now))
        await broker.submit(out)
        log = list(await broker.fills())
        assert not booked(log).positions
    async with opened(exchange, "bybit", ago(exchange, 6)) as (_, other):
        other.restore([slow, out], log)
        assert [(fill.id, fill.quantity) for fill in await other.fills()] == [(fill.id, fill.quantity) for fill in log]


@pytest.mark.parametrize("name", NAMES)
async def test_a_stop_that_traded_while_nobody_looked_is_told(name: Name) -> None:
    """It protected what is held, so the beginning lies before that: twenty days after the stop its fill is still heard."""
    exchange = world("0.001")
    entry = order("with-a-dash", quantity=Decimal("0.5"), time=time_of(exchange.now), stop_loss=Decimal(90))
    async with opened(exchange, name, ago(exchange, 1)) as (_, broker):
        guarded = Protected(broker, interval=None)
        await guarded.submit(entry)
        await guarded.settle()
        log = list(await guarded.fills())
    exchange.now += DAY
    exchange.move(BTC, Decimal(89))
    exchange.now += 20 * DAY
    async with opened(exchange, name, ago(exchange, 6)) as (_, broker):
        other = Protected(broker, interval=None)
        other.restore([entry], log)
        await other.settle()
        fills = list(await other.fills())
        assert [(fill.order_id, fill.leg) for fill in fills] == [("with-a-dash", "order"), ("with-a-dash", "stop")]
        assert dict(booked(fills).positions) == (await other.account()).positions == {}
        assert booked(fills).cash == exchange.total("USDT")


def test_the_beginning_follows_from_the_log() -> None:
    """Nothing open and nothing held: six days are enough. The clocks may differ by an hour."""
    exchange = world()
    broker = Ccxt("binance", [BTC])
    assert datetime.now(UTC) - broker.since < timedelta(days=6, minutes=1)
    open_since = ago(exchange, 50)
    broker.restore([order("rests", type=OrderType.LIMIT, limit_price=Decimal(90), time=open_since)])
    assert broker.since == open_since - timedelta(hours=1)
    other = Ccxt("binance", [BTC])
    other.restore([order("refused", time=open_since), order("newer", time=open_since + timedelta(days=2))])
    assert other.since == open_since + timedelta(days=2) - timedelta(hours=1)  # a market order does not stay open
