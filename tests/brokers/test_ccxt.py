"""Ccxt keeps the broker contract at three exchanges, bare and protected, and tells a no from a silence."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import ClassVar, Literal

import pytest

from agentfund.brokers.ccxt import Ccxt
from agentfund.errors import ConfigError, OrderRejected
from agentfund.execution.protected import Protected
from agentfund.protocols import Broker
from agentfund.testing.broker import BrokerContract
from agentfund.testing.spot import Fault, Listing, SpotExchange, SpotServer
from agentfund.trading import OrderStatus, OrderType, Portfolio, Side
from tests.brokers.test_ccxt_line import BTC, line, order

Name = Literal["binance", "bybit", "okx"]


class AtAnExchange(BrokerContract):
    """The suite at one exchange."""

    __test__: ClassVar[bool] = False
    symbol = BTC
    exchange_name: Name = "binance"

    @pytest.fixture(autouse=True)
    async def _server(self) -> AsyncIterator[None]:
        self.world = SpotExchange(Listing("BTC", "USDT"), fee=Decimal("0.001"))
        self.brokers: list[Ccxt] = []
        async with SpotServer(self.world, self.exchange_name) as self.server:
            yield
            for broker in self.brokers:
                await broker.close()

    def make_broker(self) -> Broker:
        broker = line(self.server, self.exchange_name)
        self.brokers.append(broker)
        return broker

    async def move_market(self, broker: Broker, price: Decimal) -> None:
        self.world.move(BTC, price)

    def cut_connection(self, broker: Broker) -> None:
        self.server.faults.append(Fault("drop", times=1000))


class TestBinance(AtAnExchange):
    """Binance."""

    __test__ = True


class TestBybit(AtAnExchange):
    """Bybit."""

    __test__ = True
    exchange_name = "bybit"


class TestOkx(AtAnExchange):
    """OKX."""

    __test__ = True
    exchange_name = "okx"


class TestProtectedBinance(AtAnExchange):
    """With brackets, it keeps the contract as well."""

    __test__ = True

    def make_broker(self) -> Broker:
        broker = line(self.server, self.exchange_name)
        self.brokers.append(broker)
        return Protected(broker, interval=None)


class TestProtectedOkx(TestProtectedBinance):
    """With brackets where a stop is an order of another kind."""

    exchange_name = "okx"


@pytest.fixture(params=["binance", "bybit", "okx"])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[tuple[SpotExchange, SpotServer, Ccxt]]:
    name: Name = request.param
    world = SpotExchange(Listing("BTC", "USDT"), fee=Decimal("0.001"), fee_in="received")
    world.move(BTC, Decimal(100))
    async with SpotServer(world, name) as server:
        broker = line(server, name)
        yield world, server, broker
        await broker.close()


Scene = tuple[SpotExchange, SpotServer, Ccxt]


async def test_a_bracket_lives_through_its_whole_story(scene: Scene) -> None:
    """Partial fills, a stop for each, the stop that trades, told as the entry's leg; the book is the exchange's balances."""
    world, _, broker = scene
    guarded = Protected(broker, interval=None)
    world.depth = Decimal("0.5")
    await guarded.submit(order("entry", stop_loss=Decimal(90), take_profit=Decimal(120)))
    await guarded.settle()
    assert [o.left for o in world.orders.values() if o.status == "waiting"] == [Decimal("0.4995")]
    world.depth = None
    world.move(BTC, Decimal(100))
    await guarded.settle()
    assert sum(o.left for o in world.orders.values() if o.status == "waiting") == Decimal("0.9990")
    assert {one.entry for one in (await guarded.book()).resting} == {"entry"}
    world.move(BTC, Decimal(89))
    await guarded.settle()
    fills = await guarded.fills()
    assert {(f.order_id, f.leg) for f in fills} == {("entry", "order"), ("entry", "stop")}
    book = Portfolio(Decimal(100_000))
    for fill in fills:
        book = book.apply(fill)
    assert book.cash == world.total("USDT")
    assert dict(book.positions) == {}
    assert (await guarded.account()).positions == {}
    assert guarded.trouble == ""


async def test_another_process_finds_stop_and_fills(scene: Scene) -> None:
    """A new line to the exchange knows nothing but the fund's log: the stop is not doubled, and is told when it trades."""
    world, server, broker = scene
    entry = order("entry", stop_loss=Decimal(90))
    first = Protected(broker, interval=None)
    await first.submit(entry)
    await first.settle()
    other = line(server, broker.name)
    second = Protected(other, interval=None)
    second.restore([entry])
    await second.settle()
    assert len([o for o in world.orders.values() if o.status == "waiting"]) == 1
    world.move(BTC, Decimal(89))
    await second.settle()
    assert [(f.order_id, f.leg) for f in await second.fills()] == [("entry", "order"), ("entry", "stop")]
    await other.close()


async def test_an_exit_makes_its_stop_give_way(scene: Scene) -> None:
    """The balance that the stop locks is freed, and sold."""
    world, _, broker = scene
    guarded = Protected(broker, interval=None)
    await guarded.submit(order("entry", stop_loss=Decimal(90)))
    await guarded.settle()
    held = (await guarded.account()).positions[BTC]
    await guarded.submit(replace(order("exit"), side=Side.SELL, quantity=held, reduce_only=True))
    await guarded.settle()
    assert [o.status for o in world.orders.values()] == ["filled", "cancelled", "filled"]


async def test_a_commission_in_the_base_leaves_a_book_that_is_the_balance(scene: Scene) -> None:
    """What is left of a buy is told, in whole lots; the cash is exact, and what cannot be sold is no position."""
    world, _, broker = scene
    world.listings[BTC] = world.listings[BTC].__class__("BTC", "USDT", min_notional=Decimal(5))
    book = Portfolio(Decimal(100_000))
    for number in range(4):
        await broker.submit(order(f"in{number}", quantity=Decimal("0.1337")))
        held = (await broker.account()).positions[BTC]
        await broker.submit(replace(order(f"out{number}", quantity=held), side=Side.SELL))
    await broker.submit(order("last", quantity=Decimal("0.1337")))
    for fill in await broker.fills():
        book = book.apply(fill)
    account = await broker.account()
    assert account.cash == book.cash == world.total("USDT")
    assert account.positions[BTC] == book.quantity(BTC) == Decimal("0.1335")
    assert all(f.quantity % Decimal("0.0001") == 0 for f in await broker.fills())


async def test_every_page_of_trades_is_read() -> None:
    """More trades than a page holds: none is missing and none is told twice, also while more come."""
    for name in ("bybit", "okx"):
        world = SpotExchange(Listing("BTC", "USDT"))
        world.move(BTC, Decimal(100))
        async with SpotServer(world, name) as server:
            broker = line(server, name)
            for number in range(230):
                world.place(f"one{number}", BTC, "buy", "market", Decimal("0.01"))
            assert len({f.id for f in await broker.fills()}) == 230
            world.place("later", BTC, "buy", "market", Decimal("0.01"))
            assert len(await broker.fills()) == 231
            await broker.close()


async def test_numbers_go_out_as_they_are(scene: Scene) -> None:
    """A third of a float never reaches the exchange; what does not fit its steps is refused."""
    world, _, broker = scene
    await broker.submit(order("exact", quantity=Decimal("0.3000"), limit_price=Decimal("33.33"), type=OrderType.LIMIT))
    placed = world.find("exact")
    assert placed is not None
    assert (placed.quantity, placed.price) == (Decimal("0.3"), Decimal("33.33"))
    for bad in (
        order("lot", quantity=Decimal("0.30001")),
        order("tick", limit_price=Decimal("33.333"), type=OrderType.LIMIT),
        order("bracket", stop_loss=Decimal(90)),
    ):
        with pytest.raises(OrderRejected):
            await broker.submit(bad)
        assert world.find(bad.id) is None


async def test_an_id_that_breaks_the_rules_is_hashed() -> None:
    """OKX takes letters and digits alone; the fund sees its own id all the same."""
    world = SpotExchange(Listing("BTC", "USDT"))
    world.move(BTC, Decimal(100))
    async with SpotServer(world, "okx") as server:
        broker = line(server, "okx")
        await broker.submit(order("with-a-dash_and-much-more-than-is-allowed"))
        sent = next(iter(world.orders.values())).client_id
        assert sent.isalnum()
        assert len(sent) <= 32
        assert (await broker.fills())[0].order_id == "with-a-dash_and-much-more-than-is-allowed"
        await broker.close()


async def test_a_commission_in_a_third_currency_is_told_beside_the_book() -> None:
    """Paid in BNB: the cash is not touched by it, and `elsewhere` adds it up."""
    world = SpotExchange(Listing("BTC", "USDT"), fee=Decimal("0.001"), fee_in="third")
    world.move(BTC, Decimal(100))
    async with SpotServer(world, "binance") as server:
        broker = line(server, "binance")
        await broker.submit(order("one"))
        (fill,) = await broker.fills()
        assert (fill.fee, fill.quantity) == (Decimal(0), Decimal(1))
        assert broker.elsewhere == {"BNB": Decimal("0.0002")}
        assert (await broker.account()).cash == Decimal(99_900)
        await broker.close()


async def test_what_is_worth_less_than_the_least_order_is_no_position() -> None:
    """Some lots that were there before, and that nobody could sell; a whole coin that was there is one."""
    for there, held in ((Decimal("0.0003"), {}), (Decimal(1), {BTC: Decimal(1)})):
        world = SpotExchange(Listing("BTC", "USDT", min_notional=Decimal(5)), funds={"USDT": Decimal(100), "BTC": there})
        world.move(BTC, Decimal(100))
        async with SpotServer(world, "binance") as server:
            broker = line(server, "binance")
            assert (await broker.account()).positions == held
            await broker.close()


async def test_a_market_without_stop_market_orders_gets_a_stop_limit() -> None:
    """Its limit lies five percent below the trigger, on the tick."""
    old = "OLD/USDT"
    world = SpotExchange(Listing("OLD", "USDT"))
    world.move(old, Decimal(100))
    async with SpotServer(world, "binance") as server:
        broker = line(server, "binance", symbols=[old])
        await broker.submit(order("in", symbol=old))
        stop = order("stop", symbol=old, side=Side.SELL, type=OrderType.STOP, stop_price=Decimal("90.005"))
        state = await broker.submit(stop)
        placed = world.find("stop")
        assert placed is not None
        assert (placed.type, placed.trigger, placed.price) == ("stop_limit", Decimal("90.00"), Decimal("85.50"))
        assert state.status is OrderStatus.WORKING
        await broker.close()


def test_what_cannot_work_is_said_before_anything_is_sent() -> None:
    """Unknown exchanges, and symbols that have no common cash."""
    with pytest.raises(ConfigError):
        Ccxt("no-such-exchange", [BTC])
    with pytest.raises(ConfigError):
        Ccxt("binance", [BTC, "ETH/EUR"])
    with pytest.raises(ConfigError):
        Ccxt("binance", ["BTC/USDT:USDT"])
