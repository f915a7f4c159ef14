"""What any broker adapter must do, as a suite of tests; and a market that is moved by hand.

Subclass `BrokerContract` in your own tests, name it `Test...`, and override what its first methods say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from agentfund.clock import EPOCH
from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.market import Columns, Instrument, Market, Window, read_only
from agentfund.protocols import Broker, Simulated
from agentfund.trading import ZERO, Fill, Order, OrderState, OrderStatus, OrderType, Portfolio, Side

Prices = float | tuple[float, float, float, float] | tuple[float, float, float, float, float]


class Stage:
    """A market that is moved by hand, bar by bar.

    Args:
        instruments: what is traded on it; an instrument of default increments called TEST where none is named.
        start: when the first bar starts, aware UTC.
        interval: length of a bar.
    """

    def __init__(self, *instruments: Instrument, start: datetime = EPOCH, interval: timedelta = timedelta(hours=1)) -> None:
        self.instruments = {i.symbol: i for i in instruments or (Instrument("TEST"),)}
        self.interval = interval
        self.now = start
        self._rows: dict[str, list[tuple[float, ...]]] = {symbol: [] for symbol in self.instruments}

    def move(self, bars: Prices | Mapping[str, Prices]) -> Market:
        """Let a bar pass and return the market at its close.

        Args:
            bars: one price for a bar that stands still, or open, high, low, close and, where there is one, volume;
                by symbol, or for the first instrument alone. A symbol that is left out has no bar.
        """
        import numpy as np

        given = bars if isinstance(bars, Mapping) else {next(iter(self.instruments)): bars}
        micros = (self.now - EPOCH) // timedelta(microseconds=1)
        self.now += self.interval
        for symbol, bar in given.items():
            row = tuple(bar) if isinstance(bar, tuple) else (bar,) * 4
            self._rows[symbol].append((micros, *row, *(0.0,) * (5 - len(row))))
        windows = {}
        for symbol, rows in self._rows.items():
            if rows:
                start, *rest = zip(*rows, strict=True)
                names = ("open", "high", "low", "close", "volume")
                arrays = {name: np.array(values, dtype=np.float64) for name, values in zip(names, rest, strict=True)}
                starts = read_only({"start": np.array(start, dtype=np.int64)})["start"]
                columns = Columns(self.instruments[symbol], self.interval, starts, **read_only(arrays))
                windows[symbol] = Window(columns, len(rows))
        return Market(self.now, windows, tuple(symbol for symbol in windows if symbol in given))


@pytest.mark.asyncio
class BrokerContract:
    """The promises of the protocol `Broker`, a test for each.

    The suite trades `quantity` of `symbol` around `price`, and needs no other positions or orders in that symbol. An
    adapter with a market of its own (a fake server, a sandbox) overrides `move_market`; one whose connection can be cut
    overrides `cut_connection`.
    """

    symbol = "TEST"
    quantity = Decimal(2)
    price = Decimal(100)
    far = Decimal(10)
    """A distance from `price` that the market does not cross by itself."""

    def make_broker(self) -> Broker:
        """Return a broker that is ready to trade."""
        raise NotImplementedError("override make_broker to return the broker to test")

    async def move_market(self, broker: Broker, price: Decimal) -> None:
        """Let the market trade at `price`, until the broker has done what follows from it."""
        if not isinstance(broker, Simulated):
            raise NotImplementedError("override move_market: this broker's market is not the suite's to move")
        broker.advance(self.stage.move(float(price)))

    def cut_connection(self, broker: Broker) -> None:
        """Let every query fail from now on."""
        pytest.skip("this broker has no connection that could be cut; override cut_connection where it has one")

    def bad_order(self) -> Order:
        """Return an order that the broker must refuse."""
        return self.order("refused", quantity=-self.quantity)

    @property
    def stage(self) -> Stage:
        """The market that the suite moves where the broker has none of its own."""
        if not hasattr(self, "_stage"):
            self._stage = Stage(Instrument(self.symbol))
        return self._stage

    def order(
        self,
        name: str,
        side: Side = Side.BUY,
        *,
        quantity: Decimal | None = None,
        limit_price: Decimal | None = None,
        reduce_only: bool = False,
    ) -> Order:
        """Return an order of the suite, a limit order where it has a limit price."""
        return Order(
            id=f"contract-{name}",
            symbol=self.symbol,
            side=side,
            quantity=self.quantity if quantity is None else quantity,
            time=self.stage.now,
            type=OrderType.MARKET if limit_price is None else OrderType.LIMIT,
            limit_price=limit_price,
            reduce_only=reduce_only,
        )

    async def opened(self) -> Broker:
        """Return a broker whose market trades at `price`."""
        broker = self.make_broker()
        await self.move_market(broker, self.price)
        return broker

    async def traded(self, broker: Broker, order: Order) -> list[Fill]:
        """Submit an order, let the market stand at `price` for a while, and return the order's fills."""
        await broker.submit(order)
        for _ in range(2):
            await self.move_market(broker, self.price)
        return await self.fills_of(broker, order)

    async def fills_of(self, broker: Broker, order: Order) -> list[Fill]:
        """Return an order's fills, each once."""
        return list({f.id: f for f in await broker.fills() if f.order_id == order.id}.values())

    async def state_of(self, broker: Broker, order: Order) -> OrderState | None:
        """Return how an order stands, None where the broker does not tell of it."""
        return {state.order.id: state for state in await broker.orders()}.get(order.id)

    async def test_a_market_order_fills_whole(self) -> None:
        """A market order trades its quantity, on its side, in its symbol, and is FILLED then."""
        broker = await self.opened()
        order = self.order("whole")
        fills = await self.traded(broker, order)
        assert sum(f.quantity for f in fills) == self.quantity
        assert {(f.symbol, f.side) for f in fills} == {(self.symbol, Side.BUY)}
        state = await self.state_of(broker, order)
        assert state is None or (state.status, state.filled) == (OrderStatus.FILLED, self.quantity)

    async def test_the_account_is_the_fold_of_the_fills(self) -> None:
        """Cash and position change by the fills, to the cent, and by nothing else."""
        broker = await self.opened()
        before = await broker.account()
        book = Portfolio(before.cash)
        fills = await self.traded(broker, self.order("in"))
        fills += await self.traded(broker, self.order("out", Side.SELL, quantity=self.quantity / 2))
        for fill in fills:
            book = book.apply(fill)
        after = await broker.account()
        moved = after.positions.get(self.symbol, ZERO) - before.positions.get(self.symbol, ZERO)
        assert (after.cash, moved) == (book.cash, book.quantity(self.symbol))
        assert moved == self.quantity / 2

    async def test_an_order_sent_twice_trades_once(self) -> None:
        """A broker that says it dedupes ids refuses or ignores the second order; one that does not says so."""
        broker = await self.opened()
        if not broker.dedupes_ids:
            pytest.skip("this broker says that it does not dedupe ids")
        order = self.order("twice")
        await broker.submit(order)
        try:
            again = await broker.submit(order)
        except OrderRejected:
            pass
        else:
            assert again.order.id == order.id
        for _ in range(3):
            await self.move_market(broker, self.price)
        assert sum(f.quantity for f in await self.fills_of(broker, order)) == self.quantity
        assert (await broker.account()).positions[self.symbol] == self.quantity

    async def test_whatever_an_order_sent_twice_trades_is_told(self) -> None:
        """Whether or not an id is taken twice: nothing trades under it that its fills do not tell."""
        broker = await self.opened()
        order = self.order("repeated")
        await broker.submit(order)
        with contextlib.suppress(OrderRejected):
            await broker.submit(order)
        for _ in range(3):
            await self.move_market(broker, self.price)
        told = sum((f.quantity for f in await self.fills_of(broker, order)), ZERO)
        assert told in (self.quantity, 2 * self.quantity)
        assert (await broker.account()).positions[self.symbol] == told
        state = await self.state_of(broker, order)
        assert broker.dedupes_ids or state is None or state.filled == told

    async def test_a_refused_order_does_not_exist(self) -> None:
        """OrderRejected gives a reason, and means that nothing is there which could trade later."""
        broker = await self.opened()
        order = self.bad_order()
        with pytest.raises(OrderRejected) as refusal:
            await broker.submit(order)
        assert str(refusal.value)
        await self.move_market(broker, self.price)
        state = await self.state_of(broker, order)
        assert state is None or state.status is OrderStatus.REJECTED
        assert await self.fills_of(broker, order) == []

    async def test_a_fill_told_twice_has_the_same_id(self) -> None:
        """What was told once is told again in the same words, also after more has happened."""
        broker = await self.opened()
        first = await self.traded(broker, self.order("first"))
        second = await self.traded(broker, self.order("second", Side.SELL))
        told = {fill.id: fill for fill in await broker.fills()}
        assert all(told.get(fill.id) == fill for fill in first)
        assert first
        assert second
        assert not {fill.id for fill in first} & {fill.id for fill in second}

    async def test_an_order_is_never_filled_beyond_its_quantity(self) -> None:
        """However long the market moves, an order trades at most what it asks for."""
        broker = await self.opened()
        order = self.order("most", limit_price=self.price)
        await broker.submit(order)
        for step in range(4):
            await self.move_market(broker, self.price - step)
            assert sum(f.quantity for f in await self.fills_of(broker, order)) <= self.quantity
            state = await self.state_of(broker, order)
            assert state is None or state.filled <= self.quantity

    async def test_a_limit_order_never_pays_more(self) -> None:
        """A limit order trades at its price or better, whatever the market does."""
        broker = await self.opened()
        order = self.order("limit", limit_price=self.price - 1)
        await broker.submit(order)
        await self.move_market(broker, self.price)
        assert await self.fills_of(broker, order) == []
        await self.move_market(broker, self.price - 2)
        assert all(fill.price <= self.price - 1 for fill in await self.fills_of(broker, order))

    async def test_orders_shows_what_works(self) -> None:
        """An order that can still trade is among the orders, and open."""
        broker = await self.opened()
        order = self.order("waiting", limit_price=self.price - self.far)
        await broker.submit(order)
        await self.move_market(broker, self.price)
        state = await self.state_of(broker, order)
        assert state is not None
        assert (state.order.id, state.status, state.filled) == (order.id, OrderStatus.WORKING, ZERO)

    async def test_a_cancelled_order_never_trades(self) -> None:
        """After CANCELLED nothing of the order trades, even where the market comes to it."""
        broker = await self.opened()
        order = self.order("taken-back", limit_price=self.price - self.far)
        await broker.submit(order)
        assert (await broker.cancel(order.id)).status is OrderStatus.CANCELLED
        await self.move_market(broker, self.price - 2 * self.far)
        assert await self.fills_of(broker, order) == []
        state = await self.state_of(broker, order)
        assert state is None or state.status is OrderStatus.CANCELLED

    async def test_a_cancel_that_comes_too_late_says_filled(self) -> None:
        """Cancelling what has filled tells the truth and changes nothing."""
        broker = await self.opened()
        order = self.order("late")
        await self.traded(broker, order)
        before = await broker.account()
        assert (await broker.cancel(order.id)).status is OrderStatus.FILLED
        assert await broker.account() == before

    async def test_an_unknown_order_cannot_be_cancelled(self) -> None:
        """Cancelling an id that the broker never saw is an error, never a quiet success."""
        broker = await self.opened()
        with pytest.raises(OrderRejected):
            await broker.cancel("contract-never-sent")

    async def test_a_reduce_only_order_never_turns_a_position_around(self) -> None:
        """A reduce-only order larger than the position, where it is taken at all, leaves nothing on the other side."""
        broker = await self.opened()
        await self.traded(broker, self.order("held"))
        order = self.order("exit", Side.SELL, quantity=self.quantity * 2, reduce_only=True)
        try:
            await self.traded(broker, order)
        except OrderRejected:
            return
        assert (await broker.account()).positions.get(self.symbol, ZERO) == ZERO

    async def test_a_failed_query_is_an_error_and_never_empty(self) -> None:
        """Without a connection nobody knows: BrokerUnavailable, not an empty account."""
        broker = await self.opened()
        await self.traded(broker, self.order("known"))
        self.cut_connection(broker)
        for query in (broker.account, broker.orders, broker.fills):
            with pytest.raises(BrokerUnavailable):
                await query()

    async def test_an_order_whose_fate_is_unknown_is_no_refusal(self) -> None:
        """Without a connection `submit` and `cancel` say that they do not know, never that they know."""
        broker = await self.opened()
        self.cut_connection(broker)
        with pytest.raises(BrokerUnavailable):
            await broker.submit(self.order("lost"))
        with pytest.raises(BrokerUnavailable):
            await broker.cancel("contract-lost")
