"""A broker in front of the exchange in memory, which can be made to fail at every step, and a fund's side of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from agentfund.clock import SimulatedClock
from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.execution.protected import Protected
from agentfund.testing.spot.exchange import Listing, Refused, SpotExchange, SpotOrder
from agentfund.trading import Account, Fill, Order, OrderState, OrderStatus, OrderType, Side

START = datetime(2026, 1, 1, tzinfo=UTC)
BTC = "BTC/USDT"
D = Decimal
TWO, NINETY = D(2), D(90)


class Crash(BaseException):
    """The process dies here."""


class SpotBroker:
    """The line to the exchange: no brackets, and as much harm as a test wants.

    Args:
        exchange: what is really there.
        dedupes: what it says of itself.
    """

    brackets = False

    def __init__(self, exchange: SpotExchange, *, dedupes: bool = False) -> None:
        self.exchange = exchange
        self.dedupes_ids = dedupes
        self.boundary: Callable[[str], Awaitable[None]] | None = None
        self.lag = 0
        """How many of the newest trades are not told yet."""
        self.sent: list[Order] = []
        self.oversold: list[str] = []
        """Sales that were sent while with them more was on order than is held."""

    async def at(self, name: str) -> None:
        if self.boundary is not None:
            await self.boundary(name)

    def state(self, order: SpotOrder) -> OrderState:
        kind = OrderType.STOP if order.trigger is not None else OrderType(order.type)
        told = Order(
            order.client_id,
            order.symbol,
            Side(order.side),
            order.quantity,
            START,
            type=kind,
            limit_price=order.price,
            stop_price=order.trigger,
        )
        names = {"filled": OrderStatus.FILLED, "cancelled": OrderStatus.CANCELLED, "rejected": OrderStatus.REJECTED}
        return OrderState(told, names.get(order.status, OrderStatus.WORKING), order.filled)

    async def account(self) -> Account:
        await self.at("account")
        held = {s: self.exchange.total(one.base) for s, one in self.exchange.listings.items()}
        return Account(self.exchange.total("USDT"), {s: q for s, q in held.items() if q})

    async def orders(self) -> Sequence[OrderState]:
        await self.at("orders")
        newest: dict[str, OrderState] = {o.client_id: self.state(o) for o in self.exchange.orders.values()}
        return list(newest.values())

    async def find(self, order: Order) -> OrderState | None:
        await self.at("find")
        found = self.exchange.find(order.id)
        return self.state(found) if found else None

    async def fills(self) -> Sequence[Fill]:
        await self.at("fills")
        trades = self.exchange.trades
        return [
            Fill(
                t.id,
                t.order.client_id,
                t.order.symbol,
                Side(t.order.side),
                t.quantity,
                t.price,
                t.fee,
                START + timedelta(milliseconds=t.number),
                t.price,
            )
            for t in trades[: len(trades) - self.lag]
        ]

    async def submit(self, order: Order) -> OrderState:
        await self.at("submit")
        self.sent.append(order)
        kind = {OrderType.MARKET: "market", OrderType.LIMIT: "limit", OrderType.STOP: "stop"}[order.type]
        try:
            placed = self.exchange.place(
                order.id,
                order.symbol,
                "buy" if order.side is Side.BUY else "sell",
                kind,  # type: ignore[arg-type]
                order.quantity,
                order.limit_price,
                order.stop_price,
            )
        except Refused as error:
            raise OrderRejected(str(error), code="would_trigger" if error.reason == "trigger" else error.reason) from error
        finally:
            self.weigh(order)
            await self.at("submitted")
        return self.state(placed)

    def weigh(self, order: Order) -> None:
        exchange = self.exchange
        selling = sum((o.left for o in exchange.orders.values() if o.side == "sell" and o.symbol == order.symbol), D(0))
        if order.side is Side.SELL and selling > exchange.total(exchange.listings[order.symbol].base):
            self.oversold.append(order.id)

    async def cancel(self, order_id: str) -> OrderState:
        await self.at("cancel")
        found = self.exchange.find(order_id)
        try:
            self.exchange.cancel(found)
        except Refused as error:
            if found is not None:
                return self.state(found)
            raise OrderRejected(str(error), code="unknown") from error
        finally:
            await self.at("cancelled")
        assert found is not None
        return self.state(found)


class Desk:
    """A fund's side: entries, the exchange, and a protected broker that can be started again."""

    def __init__(self, exchange: SpotExchange | None = None, **options: object) -> None:
        self.exchange = exchange or SpotExchange(Listing("BTC", "USDT"))
        self.exchange.move(BTC, D(100))
        self.broker = SpotBroker(self.exchange)
        self.clock = SimulatedClock(START)
        self.options = options
        self.entries: list[Order] = []
        self.guarded = self.make()

    def make(self) -> Protected:
        return Protected(
            self.broker,
            clock=self.clock,
            prices=self.exchange.prices.get,
            interval=None,
            **self.options,  # type: ignore[arg-type]
        )

    def restart(self, *, fills: Sequence[Fill] = ()) -> None:
        """The process was killed: another one takes its place."""
        self.guarded = self.make()
        self.guarded.restore(self.entries, fills)

    def entry(self, quantity: Decimal = TWO, *, limit: Decimal | None = None, stop: Decimal = NINETY, **more: object) -> Order:
        order = Order(
            f"entry{len(self.entries)}",
            BTC,
            Side.BUY,
            quantity,
            START + timedelta(seconds=len(self.entries)),
            type=OrderType.MARKET if limit is None else OrderType.LIMIT,
            limit_price=limit,
            stop_loss=stop,
            take_profit=D(120),
        )
        order = replace(order, **more)  # type: ignore[arg-type]
        self.entries.append(order)
        return order

    def exit(self, quantity: Decimal, name: str = "exit") -> Order:
        return Order(name, BTC, Side.SELL, quantity, START, reduce_only=True)

    async def settle(self) -> None:
        """Let it look until what is on its way has settled."""
        for _ in range(4):
            with suppress(BrokerUnavailable):
                await self.guarded.settle()
            self.clock.advance(6)

    @property
    def stops(self) -> list[SpotOrder]:
        return [o for o in self.exchange.orders.values() if o.status == "waiting"]

    @property
    def resting(self) -> Decimal:
        return sum((o.left for o in self.stops), D(0))

    @property
    def held(self) -> Decimal:
        return self.exchange.total("BTC")

    def check(self) -> None:
        """Every position has a stop of its size, and nothing is short."""
        assert self.held >= 0
        assert all(amount >= 0 for amount in (*self.exchange.free.values(), *self.exchange.used.values()))
        selling = sum((o.left for o in self.exchange.orders.values() if o.side == "sell" and o.status == "open"), D(0))
        assert self.resting + selling == self.held, (self.resting, selling, self.held, self.guarded.trouble)
