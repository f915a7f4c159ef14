"""Orders and scenes as protobuf and back, exactly: what the server judges is what the client saw.

Reading is strict. What is missing, unknown or malformed is a `Malformed`, which the server answers with a denial.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import TypeVar

from agentfund.clock import from_micros, to_micros
from agentfund.core.gate import Scene
from agentfund.market import Instrument
from agentfund.rpc import gate_pb2 as pb
from agentfund.trading import Order, OrderState, OrderStatus, OrderType, Portfolio, Position, Side

VERSION = 1
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
)
_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:E[+-]?[0-9]+)?|-?s?NaN[0-9]*|-?Infinity").fullmatch
_LONGEST = 64
_CACHED, _CACHED_BYTES = 4_096, 1_024
_FARTHEST = 500  # powers of ten; printing more of them would cost a server its memory


class Malformed(ValueError):
    """Something that is no order or no scene; says which part."""


def dump_order(order: Order) -> pb.Order:
    """Return an order as protobuf.

    Raises:
        Malformed: it holds what cannot be told exactly.
    """
    return pb.Order(
        id=_name(order.id, "order.id"),
        symbol=_name(order.symbol, "order.symbol"),
        side=_known(_SIDES, order.side, Side, "order.side"),
        quantity=_told(order.quantity, "order.quantity"),
        time_us=_moment(order.time, "order.time"),
        type=_known(_TYPES, order.type, OrderType, "order.type"),
        limit_price=None if order.limit_price is None else _told(order.limit_price, "order.limit_price"),
        stop_price=None if order.stop_price is None else _told(order.stop_price, "order.stop_price"),
        stop_loss=None if order.stop_loss is None else _told(order.stop_loss, "order.stop_loss"),
        take_profit=None if order.take_profit is None else _told(order.take_profit, "order.take_profit"),
        reduce_only=order.reduce_only,
        decision=_name(order.decision, "order.decision"),
        token=order.token,
    )


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
        quantity=_number(told.quantity, "order.quantity"),
        time=_time(told, "time_us", "order.time"),
        type=_meant(_TYPE_OF, told.type, "order.type"),
        limit_price=_number(told.limit_price, "order.limit_price") if told.HasField("limit_price") else None,
        stop_price=_number(told.stop_price, "order.stop_price") if told.HasField("stop_price") else None,
        stop_loss=_number(told.stop_loss, "order.stop_loss") if told.HasField("stop_loss") else None,
        take_profit=_number(told.take_profit, "order.take_profit") if told.HasField("take_profit") else None,
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
        now_us=_moment(scene.now, "now"),
        decided_us=_moment(scene.decided, "decided"),
        instrument=None
        if instrument is None
        else pb.Instrument(
            symbol=_name(instrument.symbol, "instrument.symbol"),
            tick_size=_told(instrument.tick_size, "instrument.tick_size"),
            lot_size=_told(instrument.lot_size, "instrument.lot_size"),
            currency=_name(instrument.currency, "instrument.currency"),
            cents=_told(instrument.cents, "instrument.cents"),
        ),
        price=_told(scene.price, "price"),
        quote_age_s=scene.quote_age_s,
        portfolio=_dump_portfolio(scene.portfolio),
        prices=pb.Prices(
            prices=[
                pb.Price(symbol=_name(symbol, "prices"), price=_told(price, "price of", symbol))
                for symbol, price in scene.prices.items()
            ]
        ),
        equity=_told(scene.equity, "equity"),
        peak_equity=_told(scene.peak_equity, "peak_equity"),
        day_equity=_told(scene.day_equity, "day_equity"),
        orders=pb.OrderStates(states=[_dump_state(state) for state in scene.orders]),
        recent=pb.Orders(orders=[_shared(order) for order in scene.recent]),
        ordered_last_hour=scene.ordered_last_hour,
        critical_last_day=scene.critical_last_day,
        critical=scene.critical,
        degraded=scene.degraded,
        blind=_words(scene.blind),
    )


def load_scene(told: pb.Scene) -> Scene:
    """Return the scene that `dump_scene` told.

    Raises:
        Malformed: it is none, or a part is missing.
    """
    for part in _REQUIRED:
        _there(told, part)
    prices = {one.symbol: _number(one.price, "price of", one.symbol) for one in told.prices.prices}
    if len(prices) != len(told.prices.prices):
        raise Malformed("prices: a symbol stands there twice")
    return Scene(
        now=_time(told, "now_us", "now"),
        decided=_time(told, "decided_us", "decided"),
        instrument=_load_instrument(told.instrument) if told.HasField("instrument") else None,
        price=_number(told.price, "price"),
        quote_age_s=told.quote_age_s,
        portfolio=_load_portfolio(told.portfolio),
        prices=MappingProxyType(prices),
        equity=_number(told.equity, "equity"),
        peak_equity=_number(told.peak_equity, "peak_equity"),
        day_equity=_number(told.day_equity, "day_equity"),
        orders=tuple(_load_state(state) for state in told.orders.states),
        recent=tuple(load_order(order) for order in told.recent.orders),
        ordered_last_hour=told.ordered_last_hour,
        critical_last_day=told.critical_last_day,
        critical=told.critical,
        degraded=told.degraded,
        blind=told.blind,
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
        filled=_told(state.filled, "filled"),
        reason=_words(state.reason),
        told=_told(state.told, "told"),
    )


def _load_state(told: pb.OrderState) -> OrderState:
    _there(told, "order")
    return OrderState(
        order=load_order(told.order),
        status=_meant(_STATUS_OF, told.status, "status"),
        filled=_number(told.filled, "filled"),
        reason=told.reason,
        told=_number(told.told, "told"),
    )


def _dump_portfolio(book: Portfolio) -> pb.Portfolio:
    positions = []
    for symbol, position in book.positions.items():
        if symbol != position.symbol:
            raise Malformed(f"positions: {position.symbol} is kept under {symbol}")
        positions.append(
            pb.Position(
                symbol=_name(symbol, "positions"),
                quantity=_told(position.quantity, "quantity of", symbol),
                average_price=_told(position.average_price, "average price of", symbol),
                opened_us=_moment(position.opened, "opened"),
                banked=_told(position.banked, "banked of", symbol),
            )
        )
    return pb.Portfolio(
        cash=_told(book.cash, "cash"),
        positions=pb.Positions(positions=positions),
        realized=_told(book.realized, "realized"),
        fees=_told(book.fees, "fees"),
        trips=book.trips,
        wins=book.wins,
    )


def _load_portfolio(told: pb.Portfolio) -> Portfolio:
    _there(told, "positions")
    positions = {
        one.symbol: Position(
            symbol=one.symbol,
            quantity=_number(one.quantity, "quantity of", one.symbol),
            average_price=_number(one.average_price, "average price of", one.symbol),
            opened=_time(one, "opened_us", "opened"),
            banked=_number(one.banked, "banked of", one.symbol),
        )
        for one in told.positions.positions
    }
    if len(positions) != len(told.positions.positions):
        raise Malformed("positions: a symbol stands there twice")
    return Portfolio(
        cash=_number(told.cash, "cash"),
        positions=MappingProxyType(positions),
        realized=_number(told.realized, "realized"),
        fees=_number(told.fees, "fees"),
        trips=told.trips,
        wins=told.wins,
    )


def _load_instrument(told: pb.Instrument) -> Instrument:
    increments = {name: _number(getattr(told, name), f"instrument.{name}") for name in ("tick_size", "lot_size", "cents")}
    for name, value in increments.items():
        if not value.is_finite() or value <= 0:
            raise Malformed(f"instrument.{name}: {value} is no number above zero")
    if not told.symbol:
        raise Malformed("instrument.symbol is missing")
    return Instrument(told.symbol, currency=told.currency, **increments)


def _told(value: Decimal, what: str, symbol: str = "") -> str:
    if not isinstance(value, Decimal):
        raise Malformed(f"{what} {symbol}".rstrip() + f": {value!r} is no Decimal")
    text = str(value)
    if len(text) > _LONGEST or ("E" in text and abs(value.adjusted()) > _FARTHEST):
        raise Malformed(f"{what} {symbol}".rstrip() + f": {text[:_LONGEST]} has more digits than any amount of money")
    return text


def _number(text: str, what: str, symbol: str = "") -> Decimal:
    if len(text) > _LONGEST or not _NUMBER(text):
        why = f"{text[:_LONGEST]!r} is no decimal" if text else "is missing"
        raise Malformed(f"{what} {symbol}".rstrip() + f": {why}")
    value = Decimal(text)
    if "E" in text and abs(value.adjusted()) > _FARTHEST:
        raise Malformed(f"{what} {symbol}".rstrip() + f": {text} has more digits than any amount of money")
    return value


def _moment(value: datetime, what: str) -> int:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise Malformed(f"{what}: {value!r} is no aware datetime")
    return to_micros(value)


def _time(told: pb.Order | pb.Position | pb.Scene, field: str, what: str) -> datetime:
    _there(told, field)
    try:
        return from_micros(getattr(told, field))
    except OverflowError:
        raise Malformed(f"{what}: {getattr(told, field)} microseconds is no moment") from None


def _there(told: pb.Order | pb.OrderState | pb.Position | pb.Portfolio | pb.Scene, field: str) -> None:
    if not told.HasField(field):
        raise Malformed(f"{field} is missing")


def _name(text: str, what: str) -> str:
    """Return what programs compare, which has to arrive as it is."""
    if not isinstance(text, str):
        raise Malformed(f"{what}: {text!r} is no text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Malformed(f"{what}: {text!r} is no text that can be sent") from None
    return text


def _words(text: str) -> str:
    """Return what people read; half a character in a broker's words must not keep a position from being closed."""
    return text.encode(errors="backslashreplace").decode()


def _known(numbers: Mapping[Ours, Theirs], value: Ours, kind: type[Ours], what: str) -> Theirs:
    if not isinstance(value, kind):
        raise Malformed(f"{what}: {value!r} is no {kind.__name__}")
    return numbers[value]


def _meant(values: Mapping[Theirs, Ours], number: Theirs, what: str) -> Ours:
    try:
        return values[number]
    except KeyError:
        raise Malformed(f"{what}: {number} means nothing here" if number else f"{what} is missing") from None
