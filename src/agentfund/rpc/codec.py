"""Orders and scenes as protobuf and back, exactly: what the server judges is what the client saw.

Reading is strict. What is missing, unknown or malformed is a `Malformed`, which the server answers with a denial.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import TypeVar

from agentfund.clock import from_micros
from agentfund.core.gate import Scene
from agentfund.market import Instrument
from agentfund.rpc import gate_pb2 as pb
from agentfund.rpc.facts import REQUIRED, dump_facts, load_facts
from agentfund.rpc.plain import Malformed as Malformed
from agentfund.rpc.plain import moment, name, number, words
from agentfund.rpc.plain import told as exact
from agentfund.trading import Order, OrderState, OrderStatus, OrderType, Portfolio, Position, Side

VERSION = 2
"""What a request means. It rises with every field that the gate looks at: an older server denies what it cannot judge."""

Ours = TypeVar("Ours")
Theirs = TypeVar("Theirs", bound=int)

_SIDES = {Side.BUY: pb.SIDE_BUY, Side.SELL: pb.SIDE_SELL}
_TYPES = {
    OrderType.MARKET: pb.ORDER_TYPE_MARKET,
    OrderType.LIMIT: pb.ORDER_TYPE_LIMIT,
    OrderType.STOP: pb.ORDER_TYPE_STOP,
}
_STATUSES = {
    OrderStatus.INTENDED: pb.ORDER_STATUS_INTENDED,
    OrderStatus.WORKING: pb.ORDER_STATUS_WORKING,
    OrderStatus.FILLED: pb.ORDER_STATUS_FILLED,
    OrderStatus.CANCELLED: pb.ORDER_STATUS_CANCELLED,
    OrderStatus.REJECTED: pb.ORDER_STATUS_REJECTED,
    OrderStatus.UNKNOWN: pb.ORDER_STATUS_UNKNOWN,
}
_SIDE_OF = {number: side for side, number in _SIDES.items()}
_TYPE_OF = {number: kind for kind, number in _TYPES.items()}
_STATUS_OF = {number: status for status, number in _STATUSES.items()}

# Left out, each of these would make an order look safer than it is.
_REQUIRED = (
    *("portfolio", "prices", "orders", "recent", "quote_age_s"),
    *("ordered_last_hour", "critical_last_day", "critical", "degraded", "blind"),
    *REQUIRED,
)
_CACHED, _CACHED_BYTES = 4_096, 1_024


def dump_order(order: Order) -> pb.Order:
    """Return an order as protobuf.

    Raises:
        Malformed: it holds what cannot be told exactly.
    """
    return pb.Order(
        id=name(order.id, "order.id"),
        symbol=name(order.symbol, "order.symbol"),
        side=_known(_SIDES, order.side, Side, "order.side"),
        quantity=exact(order.quantity, "order.quantity"),
        time_us=moment(order.time, "order.time"),
        type=_known(_TYPES, order.type, OrderType, "order.type"),
        limit_price=None if order.limit_price is None else exact(order.limit_price, "order.limit_price"),
        stop_price=None if order.stop_price is None else exact(order.stop_price, "order.stop_price"),
        stop_loss=None if order.stop_loss is None else exact(order.stop_loss, "order.stop_loss"),
        take_profit=None if order.take_profit is None else exact(order.take_profit, "order.take_profit"),
        reduce_only=_flag(order.reduce_only, "order.reduce_only"),
        decision=name(order.decision, "order.decision"),
        token=order.token,
    )


def _flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):  # nothing would be told as no
        raise Malformed(f"{what} is {value!r}, and must be True or False")
    return value


def load_order(told: pb.Order) -> Order:
    """Return the order that `dump_order` told.

    Raises:
        Malformed: it is none.
    """
    raw = told.SerializeToString()
    return _loaded(raw) if len(raw) <= _CACHED_BYTES else _load_order(told)


@lru_cache(maxsize=_CACHED)
def _loaded(raw: bytes) -> Order:
    return _load_order(pb.Order.FromString(raw))


def _load_order(told: pb.Order) -> Order:
    return Order(
        id=told.id,
        symbol=told.symbol,
        side=_meant(_SIDE_OF, told.side, "order.side"),
        quantity=number(told.quantity, "order.quantity"),
        time=_time(told, "time_us", "order.time"),
        type=_meant(_TYPE_OF, told.type, "order.type"),
        limit_price=number(told.limit_price, "order.limit_price") if told.HasField("limit_price") else None,
        stop_price=number(told.stop_price, "order.stop_price") if told.HasField("stop_price") else None,
        stop_loss=number(told.stop_loss, "order.stop_loss") if told.HasField("stop_loss") else None,
        take_profit=number(told.take_profit, "order.take_profit") if told.HasField("take_profit") else None,
        reduce_only=told.reduce_only,
        decision=told.decision,
        token=told.token,
    )


_dumped: dict[int, tuple[Order, pb.Order]] = {}


def _shared(order: Order) -> pb.Order:
    """Return an order as protobuf that must not be changed; a fund shows its newest orders again with every question."""
    known = _dumped.get(id(order))
    if known is not None and known[0] is order:
        return known[1]
    told = dump_order(order)
    if len(_dumped) >= _CACHED:
        _dumped.clear()
    _dumped[id(order)] = order, told
    return told


def dump_scene(scene: Scene) -> pb.Scene:
    """Return a scene as protobuf.

    Raises:
        Malformed: it holds what cannot be told exactly.
    """
    instrument = scene.instrument
    return pb.Scene(
        now_us=moment(scene.now, "now"),
        decided_us=moment(scene.decided, "decided"),
        instrument=None
        if instrument is None
        else pb.Instrument(
            symbol=name(instrument.symbol, "instrument.symbol"),
            tick_size=exact(instrument.tick_size, "instrument.tick_size"),
            lot_size=exact(instrument.lot_size, "instrument.lot_size"),
            currency=name(instrument.currency, "instrument.currency"),
            cents=exact(instrument.cents, "instrument.cents"),
        ),
        price=exact(scene.price, "price"),
        quote_age_s=scene.quote_age_s,
        portfolio=_dump_portfolio(scene.portfolio),
        prices=pb.Prices(
            prices=[
                pb.Price(symbol=name(symbol, "prices"), price=exact(price, "price of", symbol))
                for symbol, price in scene.prices.items()
            ]
        ),
        equity=exact(scene.equity, "equity"),
        peak_equity=exact(scene.peak_equity, "peak_equity"),
        day_equity=exact(scene.day_equity, "day_equity"),
        orders=pb.OrderStates(states=[_dump_state(state) for state in scene.orders]),
        recent=pb.Orders(orders=[_shared(order) for order in scene.recent]),
        ordered_last_hour=scene.ordered_last_hour,
        critical_last_day=scene.critical_last_day,
        critical=scene.critical,
        degraded=scene.degraded,
        blind=words(scene.blind),
        **dump_facts(scene),
    )


def load_scene(told: pb.Scene) -> Scene:
    """Return the scene that `dump_scene` told.

    Raises:
        Malformed: it is none, or a part is missing.
    """
    for part in _REQUIRED:
        _there(told, part)
    prices = {one.symbol: number(one.price, "price of", one.symbol) for one in told.prices.prices}
    if len(prices) != len(told.prices.prices):
        raise Malformed("prices: a symbol stands there twice")
    return Scene(
        now=_time(told, "now_us", "now"),
        decided=_time(told, "decided_us", "decided"),
        instrument=_load_instrument(told.instrument) if told.HasField("instrument") else None,
        price=number(told.price, "price"),
        quote_age_s=told.quote_age_s,
        portfolio=_load_portfolio(told.portfolio),
        prices=MappingProxyType(prices),
        equity=number(told.equity, "equity"),
        peak_equity=number(told.peak_equity, "peak_equity"),
        day_equity=number(told.day_equity, "day_equity"),
        orders=tuple(_load_state(state) for state in told.orders.states),
        recent=tuple(load_order(order) for order in told.recent.orders),
        ordered_last_hour=told.ordered_last_hour,
        critical_last_day=told.critical_last_day,
        critical=told.critical,
        degraded=told.degraded,
        blind=told.blind,
        **load_facts(told),
    )


def not_finite(order: Order, scene: Scene) -> str:
    """Return where a number is NaN or infinite, empty where none is; also one that no check looks at."""
    if not math.isfinite(scene.quote_age_s):
        return "quote_age_s"
    for value in (scene.price, scene.equity, scene.peak_equity, scene.day_equity):
        if not value.is_finite():
            return "a number of the scene"
    book = scene.portfolio
    for value in (book.cash, book.realized, book.fees):
        if not value.is_finite():
            return "a number of the portfolio"
    for position in book.positions.values():
        if not (position.quantity.is_finite() and position.average_price.is_finite() and position.banked.is_finite()):
            return f"a number of the position in {position.symbol}"
    for symbol, price in scene.prices.items():
        if not price.is_finite():
            return f"the price of {symbol}"
    for state in scene.orders:
        if not (state.filled.is_finite() and state.told.is_finite()):
            return f"what has filled of order {state.order.id}"
    for which in (order, *scene.recent, *(state.order for state in scene.orders)):
        for one in (which.quantity, which.limit_price, which.stop_price, which.stop_loss, which.take_profit):
            if one is not None and not one.is_finite():
                return f"a number of order {which.id}"
    return ""


def _dump_state(state: OrderState) -> pb.OrderState:
    return pb.OrderState(
        order=_shared(state.order),
        status=_known(_STATUSES, state.status, OrderStatus, "status"),
        filled=exact(state.filled, "filled"),
        reason=words(state.reason),
        told=exact(state.told, "told"),
    )


def _load_state(told: pb.OrderState) -> OrderState:
    _there(told, "order")
    return OrderState(
        order=load_order(told.order),
        status=_meant(_STATUS_OF, told.status, "status"),
        filled=number(told.filled, "filled"),
        reason=told.reason,
        told=number(told.told, "told"),
    )


def _dump_portfolio(book: Portfolio) -> pb.Portfolio:
    positions = []
    for symbol, position in book.positions.items():
        if symbol != position.symbol:
            raise Malformed(f"positions: {position.symbol} is kept under {symbol}")
        positions.append(
            pb.Position(
                symbol=name(symbol, "positions"),
                quantity=exact(position.quantity, "quantity of", symbol),
                average_price=exact(position.average_price, "average price of", symbol),
                opened_us=moment(position.opened, "opened"),
                banked=exact(position.banked, "banked of", symbol),
            )
        )
    return pb.Portfolio(
        cash=exact(book.cash, "cash"),
        positions=pb.Positions(positions=positions),
        realized=exact(book.realized, "realized"),
        fees=exact(book.fees, "fees"),
        trips=book.trips,
        wins=book.wins,
    )


def _load_portfolio(told: pb.Portfolio) -> Portfolio:
    _there(told, "positions")
    positions = {
        one.symbol: Position(
            symbol=one.symbol,
            quantity=number(one.quantity, "quantity of", one.symbol),
            average_price=number(one.average_price, "average price of", one.symbol),
            opened=_time(one, "opened_us", "opened"),
            banked=number(one.banked, "banked of", one.symbol),
        )
        for one in told.positions.positions
    }
    if len(positions) != len(told.positions.positions):
        raise Malformed("positions: a symbol stands there twice")
    return Portfolio(
        cash=number(told.cash, "cash"),
        positions=MappingProxyType(positions),
        realized=number(told.realized, "realized"),
        fees=number(told.fees, "fees"),
        trips=told.trips,
        wins=told.wins,
    )


def _load_instrument(told: pb.Instrument) -> Instrument:
    increments = {what: number(getattr(told, what), f"instrument.{what}") for what in ("tick_size", "lot_size", "cents")}
    for what, value in increments.items():
        if not value.is_finite() or value <= 0:
            raise Malformed(f"instrument.{what}: {value} is no number above zero")
    if not told.symbol:
        raise Malformed("instrument.symbol is missing")
    return Instrument(told.symbol, currency=told.currency, **increments)


def _time(told: pb.Order | pb.Position | pb.Scene, field: str, what: str) -> datetime:
    _there(told, field)
    try:
        return from_micros(getattr(told, field))
    except OverflowError:
        raise Malformed(f"{what}: {getattr(told, field)} microseconds is no moment") from None


def _there(told: pb.Order | pb.OrderState | pb.Position | pb.Portfolio | pb.Scene, field: str) -> None:
    if not told.HasField(field):
        raise Malformed(f"{field} is missing")


def _known(numbers: Mapping[Ours, Theirs], value: Ours, kind: type[Ours], what: str) -> Theirs:
    if not isinstance(value, kind):
        raise Malformed(f"{what}: {value!r} is no {kind.__name__}")
    return numbers[value]


def _meant(values: Mapping[Theirs, Ours], number: Theirs, what: str) -> Ours:
    try:
        return values[number]
    except KeyError:
        raise Malformed(f"{what}: {number} means nothing here" if number else f"{what} is missing") from None
