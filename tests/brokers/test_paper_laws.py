"""What holds for the paper broker on any market and for any orders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from agentfund.brokers import PaperBroker
from agentfund.errors import OrderRejected
from agentfund.market import Instrument, Market
from agentfund.testing.broker import Stage
from agentfund.trading import Costs, Fill, Order, OrderState, OrderStatus, OrderType, Portfolio, Side

D = Decimal
CASH = D(1000)
FUND = (Instrument("A", lot_size=D("0.5")), Instrument("B", tick_size=D("0.05"), lot_size=D(1)))
LAW = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@dataclass(frozen=True)
class World:
    """A market, what is sent after each of its bars, and the broker's settings."""

    markets: tuple[Market, ...]
    sent: tuple[tuple[Order, ...], ...]
    cancelled: tuple[tuple[str, ...], ...]
    settings: dict[str, Any]

    def broker(self) -> PaperBroker:
        return PaperBroker(CASH, **self.settings)


@st.composite
def bars(draw: st.DrawFn, tick: float) -> tuple[float, ...]:
    ticks = sorted(draw(st.lists(st.integers(180, 220), min_size=4, max_size=4)))
    low, one, other, high = (round(t * 10 * tick, 4) if tick < 0.05 else round(t * 2 * tick, 4) for t in ticks)
    first, last = draw(st.permutations((one, other)))
    return first, high, low, last, float(draw(st.sampled_from((0, 7, 40, 1000))))


@st.composite
def orders(draw: st.DrawFn, name: str, now: datetime) -> Order:
    side = draw(st.sampled_from(Side))
    order = Order(
        id=name,
        symbol=draw(st.sampled_from("AAB")),
        side=side,
        quantity=D(draw(st.integers(1, 60))),
        time=now + draw(st.sampled_from((0, 0, 0, 1))) * timedelta(minutes=30),
        type=draw(st.sampled_from(OrderType)),
        reduce_only=draw(st.booleans()),
    )
    step = D(1) * side.sign
    level = D(draw(st.integers(18, 22)))
    if order.type is OrderType.LIMIT:
        order = replace(order, limit_price=level)
    if order.type is OrderType.STOP:
        order = replace(order, stop_price=level)
    if not order.reduce_only:
        stop = level - step * draw(st.integers(1, 2)) if draw(st.booleans()) else None
        target = level + step * draw(st.integers(1, 2)) if draw(st.booleans()) else None
        order = replace(order, stop_loss=stop, take_profit=target)
    return order


@st.composite
def worlds(draw: st.DrawFn) -> World:
    stage = Stage(*FUND)
    markets, sent, cancelled, names = [], [], [], list[str]()
    for index in range(draw(st.integers(3, 12))):
        which = draw(st.sampled_from(("AB", "AB", "A", "B"))) if index else "AB"
        markets.append(stage.move({i.symbol: draw(bars(float(i.tick_size))) for i in FUND if i.symbol in which}))  # type: ignore[misc]
        new = [draw(orders(f"o{index}{n}", stage.now)) for n in range(draw(st.integers(0, 2)))]
        names += [order.id for order in new]
        sent.append(tuple(new))
        cancelled.append((draw(st.sampled_from(names)),) if names and draw(st.integers(0, 5)) == 0 else ())
    costs = draw(st.sampled_from((Costs(), Costs(0, 0, 0, 0), Costs(25, 0.5, 7, 11), Costs(0, 3, 0, 50))))
    more = {"max_volume_pct": draw(st.sampled_from((10, 100))), "max_leverage": draw(st.sampled_from((0.7, 1, 2)))}
    return World(tuple(markets), tuple(sent), tuple(cancelled), {"costs": costs, **more})


async def step(world: World, broker: PaperBroker, index: int) -> list[Fill]:
    fills = list(broker.advance(world.markets[index]))
    for order in world.sent[index]:
        await broker.submit(order)
    for name in world.cancelled[index]:
        try:
            await broker.cancel(name)
        except OrderRejected:
            raise AssertionError("every order of a world is known") from None
    return fills


@LAW
@given(worlds())
async def test_cash_is_conserved_to_the_cent_on_every_bar(world: World) -> None:
    """The account is the fold of the fills; cash, positions at the market's prices and costs add up to the beginning."""
    broker, book, fills = world.broker(), Portfolio(CASH), list[Fill]()
    for index in range(len(world.markets)):
        for fill in await step(world, broker, index):
            book = book.apply(fill)
            fills.append(fill)
        account = await broker.account()
        assert account.cash == book.cash
        assert account.positions == {symbol: position.quantity for symbol, position in book.positions.items()}
        spent = sum((f.reference * f.quantity * f.side.sign + f.cost for f in fills), D(0))
        assert account.cash + spent == CASH
        assert await broker.fills() == tuple(fills)
    event(f"fills: {min(len(fills), 5)}")


@LAW
@given(worlds())
async def test_every_fill_keeps_the_rules(world: World) -> None:
    """Never before its order, beyond its quantity, its limit, its bar, its share of volume, or the increments."""
    broker, share = world.broker(), D(world.settings["max_volume_pct"]) / 100
    sent = {order.id: order for new in world.sent for order in new}
    filled = dict.fromkeys(sent, D(0))
    held = {"A": D(0), "B": D(0)}
    for index, market in enumerate(world.markets):
        for fill in await step(world, broker, index):
            order, bar, instrument = sent[fill.order_id], market[fill.symbol].last, market[fill.symbol].instrument
            assert order.time <= fill.time == bar.start
            assert D(str(bar.low)) <= fill.reference <= D(str(bar.high))
            assert fill.price % instrument.tick_size == fill.quantity % instrument.lot_size == fill.fee % D("0.01") == 0
            assert (fill.price - fill.reference) * fill.side.sign >= 0
            if fill.leg == "order":
                assert fill.side is order.side
                filled[order.id] += fill.quantity
                if order.limit_price is not None:
                    assert (order.limit_price - fill.price) * order.side.sign >= 0
                if bar.volume and not (order.reduce_only and order.type is OrderType.STOP):
                    assert fill.quantity <= D(str(bar.volume)) * share
            else:
                assert fill.side is order.side.opposite
            before = held[fill.symbol]
            held[fill.symbol] += fill.quantity * fill.side.sign
            if order.reduce_only or fill.leg != "order":
                assert abs(held[fill.symbol]) < abs(before)
                assert held[fill.symbol] * before >= 0
        for state in await broker.orders():
            assert state.filled == filled[state.order.id] <= state.order.quantity
            assert (state.status is OrderStatus.FILLED) == (state.filled == state.order.quantity)
            assert bool(state.reason) == (state.status is OrderStatus.CANCELLED)
    fills = await broker.fills()
    assert len({fill.id for fill in fills}) == len(fills)


@LAW
@given(worlds())
async def test_no_entry_brings_gross_exposure_above_the_leverage(world: World) -> None:
    """Checked at the moment of each fill that opens something, its own fee paid."""
    broker, book, limit = world.broker(), Portfolio(CASH), D(str(world.settings["max_leverage"]))
    for index, market in enumerate(world.markets):
        marks = {s: D(str(float(w.open[-1]) if s in market.updated else w.price)) for s, w in market.windows.items()}
        for fill in await step(world, broker, index):
            before = abs(book.quantity(fill.symbol))
            book = book.apply(fill)
            if abs(book.quantity(fill.symbol)) > before:
                prices = marks | {fill.symbol: fill.price}
                assert book.gross(prices) <= limit * book.equity(prices)


@LAW
@given(worlds(), st.data())
async def test_a_broker_killed_after_any_bar_goes_on_as_if_nothing_had_happened(world: World, data: st.DataObject) -> None:
    """Restored from its own states, or from what was sent and cancelled alone, it makes the same fills from then on."""
    lived = world.broker()
    killed = data.draw(st.integers(0, len(world.markets) - 1))
    for index in range(killed + 1):
        await step(world, lived, index)
    states, fills, as_of = await lived.orders(), await lived.fills(), world.markets[killed].now
    told = data.draw(st.sampled_from(("all", "sent", "intended")))
    if told != "all":
        status = OrderStatus.WORKING if told == "sent" else OrderStatus.INTENDED
        states = [s if s.reason == "cancelled on request" else OrderState(s.order, status) for s in states]
    restored = world.broker()
    restored.restore(states, fills, as_of)
    assert await restored.account() == await lived.account()
    if data.draw(st.booleans()):
        assert restored.advance(world.markets[killed]) == ()
    for index in range(killed + 1, len(world.markets)):
        assert await step(world, restored, index) == await step(world, lived, index)
        if told == "all":
            assert await restored.orders() == await lived.orders()
        assert [(s.status, s.filled) for s in await restored.orders()] == [(s.status, s.filled) for s in await lived.orders()]
    silent = [s for s in await lived.orders() if s.status is OrderStatus.CANCELLED and "request" not in s.reason]
    event(f"told {told}, cancelled by the broker: {bool(silent)}")


@LAW
@given(worlds())
async def test_two_brokers_make_the_same_fills(world: World) -> None:
    """Nothing but orders and bars goes into a fill, not even the order in which symbols are named."""
    one, other = world.broker(), world.broker()
    turned = replace(
        world, markets=tuple(Market(m.now, dict(reversed(list(m.windows.items()))), m.updated[::-1]) for m in world.markets)
    )
    for index in range(len(world.markets)):
        assert await step(world, one, index) == await step(turned, other, index)
