"""The deterministic last check: a pure function that says allow, or deny with a code and a reason.

It never edits an order. Whatever it cannot judge (a missing number, NaN, an error of its own) is a deny.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from agentfund.errors import ConfigError
from agentfund.market import decimal
from agentfund.trading import ZERO, Order, OrderState, OrderStatus, OrderType, Portfolio, Side

if TYPE_CHECKING:
    from agentfund.market import Instrument


@dataclass(frozen=True, slots=True)
class Limits:
    """Hard limits. Defaults are on and strict; loosening one is an explicit argument and stands in the log.

    Args:
        symbols: instruments that may be traded; empty for those of the feed.
        restricted: instruments that may not, whatever else says they may.
        allow_short: whether a position may be below zero.
        max_quote_age_s: oldest price on which an order may leave, in seconds beyond its bar.
        collar_pct: how far a limit or stop price may lie from the market, in percent.
        max_order_pct: largest notional of one order, in percent of equity.
        max_position_pct: largest position in one instrument after the fill, in percent of equity.
        max_leverage: gross exposure after the fill and all open orders, as a multiple of equity.
        max_positions: instruments held at once.
        max_open_orders: orders working at once.
        max_orders_per_hour: decisions that order.
        max_critical_per_day: critical decisions that order.
        max_daily_loss_pct: loss since the day (UTC) began beyond which nothing adds risk, in percent.
        max_drawdown_pct: fall from the peak beyond which nothing adds risk, in percent.
        require_stop: an entry needs a protective stop.
        max_stop_pct: distance of that stop from the market, in percent.
        duplicate_window_s: the same order (symbol, side, quantity) twice within these seconds is a duplicate.
        max_decision_age_s: how long ago the agents may have been shown the market on which an order leaves.
    """

    symbols: frozenset[str] = frozenset()
    restricted: frozenset[str] = frozenset()
    allow_short: bool = False
    max_quote_age_s: float = 60.0
    collar_pct: float = 10.0
    max_order_pct: float = 100.0
    max_position_pct: float = 100.0
    max_leverage: float = 1.0
    max_positions: int = 20
    max_open_orders: int = 20
    max_orders_per_hour: int = 50
    max_critical_per_day: int = 10
    max_daily_loss_pct: float = 3.0
    max_drawdown_pct: float = 20.0
    require_stop: bool = True
    max_stop_pct: float = 15.0
    duplicate_window_s: float = 60.0
    max_decision_age_s: float = 120.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and not value > 0:
                raise ConfigError(f"limit {name} must be above zero, not {value}")

    @property
    def digest(self) -> str:
        """A hash of all limits: changed limits have another."""
        told = repr({k: sorted(v) if isinstance(v, frozenset) else v for k, v in asdict(self).items()})
        return hashlib.sha256(told.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Denial:
    """The gate's no: a code for programs and a reason for people."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scene:
    """All that the gate looks at besides the order and the limits.

    Args:
        now: the time, aware UTC.
        decided: when the decision was made.
        instrument: what the order trades; None when the feed does not know it.
        price: the market's price of it.
        quote_age_s: how old the prices are beyond their bar, in seconds, those that the agents saw and those of now; below
            zero they come from the future.
        portfolio: cash and positions.
        prices: price of everything that is held.
        equity: cash plus positions.
        peak_equity: its highest so far.
        day_equity: what it was when the day began.
        orders: open orders, UNKNOWN ones among them.
        recent: orders of late, for the duplicate check.
        ordered_last_hour: decisions that ordered.
        critical_last_day: critical decisions that ordered.
        critical: whether this decision is one.
        degraded: agents answered by rules because no language model could: nothing may add risk.
        blind: why the broker cannot be seen, or why its books are not ours; empty when all is well.
    """

    now: datetime
    decided: datetime
    instrument: Instrument | None
    price: Decimal
    quote_age_s: float
    portfolio: Portfolio
    prices: Mapping[str, Decimal]
    equity: Decimal
    peak_equity: Decimal
    day_equity: Decimal
    orders: tuple[OrderState, ...] = ()
    recent: tuple[Order, ...] = ()
    ordered_last_hour: int = 0
    critical_last_day: int = 0
    critical: bool = False
    degraded: bool = False
    blind: str = ""


def check(order: Order, scene: Scene, limits: Limits) -> Denial | None:
    """Return None to allow the order, or the first reason to deny it."""
    try:
        for one in CHECKS:
            for denial in one(order, scene, limits):
                return denial
    except Exception as error:  # a gate that cannot judge says no
        return Denial("gate_error", f"the gate could not judge: {type(error).__name__}: {error}")
    return None


Check = Callable[[Order, Scene, Limits], Iterator[Denial]]


def _schema(order: Order, scene: Scene, limits: Limits) -> Iterator[Denial]:
    if not order.id or not isinstance(order.side, Side):
        yield Denial("schema", "the order has no id or no side")
    numbers = {
        "quantity": order.quantity,
        "limit price": order.limit_price,
        "stop price": order.stop_price,
        "stop loss": order.stop_loss,
        "take profit": order.take_profit,
    }
    for name, value in numbers.items():
        if value is None and name != "quantity":
            continue
        if not isinstance(value, Decimal) or not value.is_finite() or value <= 0:
            yield Denial("schema", f"{name} must be a number above zero, not {value}")
    if order.type is OrderType.LIMIT and order.limit_price is None:
        yield Denial("schema", "a limit order needs a limit price")
    if order.type is OrderType.STOP and order.stop_price is None:
        yield Denial("schema", "a stop order needs a stop price")


def _instrument(order: Order, scene: Scene, limits: Limits) -> Iterator[Denial]:
    if order.symbol in limits.restricted:
        yield Denial("restricted", f"{order.symbol} is restricted")
    if limits.symbols and order.symbol not in limits.symbols:
        yield Denial("not_allowed", f"{order.symbol} is not among the allowed instruments")
    if scene.instrument is None or scene.instrument.symbol != order.symbol:
        yield Denial("unknown_symbol", f"the feed has no bars of {order.symbol}")


def _quote(order: Order, scene: Scene, limits: Limits) -> Iterator[Denial]:
    if not scene.price.is_finite() or scene.price <= 0:
        yield Denial("quote", f"the price of {order.symbol} is {scene.price}")
    # Clocks differ by a little; and an exit may wait for a market that is closed.
    oldest = math.inf if _reduces(order, scene) else limits.max_quote_age_s
    if not -1 <= scene.quote_age_s <= oldest:
        limit = f"at most {limits.max_quote_age_s:g} s"
        yield Denial("stale_quote", f"the price of {order.symbol} is {scene.quote_age_s:.1f} s old; {limit}")


def _provenance(order: Order, scene: Scene, limits: Limits) -> Iterator[Denial]:
    if not order.decision:
        yield Denial("no_decision", "the order names no decision")
    age = (scene.now - scene.decided).total_seconds()
    if not 0 <= age <= limits.max_decision_age_s:
        yield Denial("stale_decision", f"the decision is {age:.1f} s old; at most {limits.max_decision_age_s:g} s")


def _increments(order: Order, scene: Scene, limits: Limits) -> Iterator[Denial]:
    assert scene.instrument is not None
    if order.quantity % scene.instrument.lot_size:
        yield Denial("lot", f"quantity {order.quantity} is not a multiple of the lot {scene.instrument.lot_size}")
    for price in (order.limit_price, order.stop_price, order.stop_loss, order.take_profit):
        if price is not None and price % scene.instrument.tick_size:
            yield Denial("tick", f"price {price} is not a multiple of the tick {scene.instrument.tick_size}")


def _collar(order: Order, scene: Scene, limits: Limits) -> Iterator[Denial]:
    for price in (order.limit_price, order.stop_price):
        if price is not None and abs(price / scene.price - 1) * 100 > decimal(limits.collar_pct):
            yield Denial("collar", f"price {price} is more than {limits.collar_pct:g} % from the market ({scene.price})")


def _reduces(order: Order, scene: Scene) -> bool:
    held = scene.portfolio.quantity(order.symbol)
    pending = sum(
        (s.order.quantity - s.filled for s in scene.orders if s.order.symbol == order.symbol and s.order.side is order.side),
        ZERO,
    )
    return held * order.side.sign < 0 and order.quantity + pending <= abs(held)


def _reduce_only(order: Order, scene: Scene, limits: Limits) -> Iterator[Denial]:
    if order.reduce_only and not _reduces(order, scene):
        yield Denial("reduce_only", f"the order would not reduce the position of {scene.portfolio.quantity(order.symbol)}")


def _unknown(order: Order, scene: Scene, limits: Limits) -> Iterator[Denial]:
    if _reduces(order, scene):
        return
    for state in scene.orders:
        if state.status is OrderStatus.UNKNOWN and state.order.symbol == order.symbol:
            yield Denial("unknown_order", f"the fate of order {state.order.id} in {order.symbol} is unknown")


def _degraded(order: Order, scene: Scene, limits: Limits) -> Iterator[Denial]:
    if scene.degraded and not _reduces(order, scene):
        yield Denial("degraded", "rules answered in place of language models that are down: no new positions")


def _blind(order: Order, scene: Scene, limits: Limits) -> Iterator[Denial]:
    if scene.blind and not _reduces(order, scene):
        yield Denial("broker", scene.blind)


def _losses(order: Order, scene: Scene, limits: Limits) -> Iterator[Denial]:
    if _reduces(order, scene):
        return
    if not scene.equity > 0:
        yield Denial("equity", f"equity is {scene.equity}")
    lost = (1 - scene.equity / scene.day_equity) * 100
    if lost >= decimal(limits.max_daily_loss_pct):
        yield Denial("daily_loss", f"{lost:.2f} % lost today; the limit is {limits.max_daily_loss_pct:g} %")
    fallen = (1 - scene.equity / scene.peak_equity) * 100
    if fallen >= decimal(limits.max_drawdown_pct):
        yield Denial("drawdown", f"{fallen:.2f} % below the peak; the limit is {limits.max_drawdown_pct:g} %")


def _short(order: Order, scene: Scene, limits: Limits) -> Iterator[Denial]:
    after = scene.portfolio.quantity(order.symbol) + order.quantity * order.side.sign
    if after < 0 and not limits.allow_short and not _reduces(order, scene):
        yield Denial("short", "short selling is off (Limits(allow_short=True) turns it on)")


def _sizes(order: Order, scene: Scene, limits: Limits) -> Iterator[Denial]:
    if _reduces(order, scene):
        return
    price = order.limit_price or order.stop_price or scene.price
    notional = order.quantity * price
    # Orders that are still open count at their worst case: as if all of them filled.
    open_here, pending = ZERO, ZERO
    for state in scene.orders:
        left = state.order.quantity - state.filled
        if state.order.symbol == order.symbol and state.order.side is order.side:
            open_here += left
        if not state.order.reduce_only:
            pending += left * scene.prices[state.order.symbol]  # without a price there is no worst case: deny
    position = abs(scene.portfolio.quantity(order.symbol) + (order.quantity + open_here) * order.side.sign) * price
    gross = scene.portfolio.gross(scene.prices) + pending + notional
    for code, value, percent in (
        ("order_size", notional, limits.max_order_pct),
        ("position_size", position, limits.max_position_pct),
        ("leverage", gross, limits.max_leverage * 100),
    ):
        if value > scene.equity * decimal(percent) / 100:
            yield Denial(code, f"{value:.2f} is more than {percent:g} % of equity ({scene.equity:.2f})")
    held = set(scene.portfolio.positions) | {s.order.symbol for s in scene.orders}
    if order.symbol not in held and len(held) >= limits.max_positions:
        yield Denial("positions", f"{len(held)} instruments are held or on order; the limit is {limits.max_positions}")
    if len(scene.orders) >= limits.max_open_orders:
        yield Denial("open_orders", f"{len(scene.orders)} orders are open; the limit is {limits.max_open_orders}")
    if scene.portfolio.cash + scene.equity * decimal(limits.max_leverage - 1) - pending < notional and order.side is Side.BUY:
        yield Denial("buying_power", f"{notional:.2f} is more than the buying power left")


def _rates(order: Order, scene: Scene, limits: Limits) -> Iterator[Denial]:
    adds = not _reduces(order, scene)  # no rate keeps a position from being closed
    if adds and scene.ordered_last_hour >= limits.max_orders_per_hour:
        yield Denial(
            "order_rate", f"{scene.ordered_last_hour} orders within an hour; the limit is {limits.max_orders_per_hour}"
        )
    if adds and scene.critical and scene.critical_last_day >= limits.max_critical_per_day:
        yield Denial("critical_rate", f"{scene.critical_last_day} critical actions within a day")
    window = timedelta(seconds=limits.duplicate_window_s)
    for other in scene.recent:
        same = (other.symbol, other.side, other.quantity) == (order.symbol, order.side, order.quantity)
        if other.id == order.id or (adds and same and scene.now - other.time < window):
            yield Denial("duplicate", f"order {other.id} is the same")


def _stop(order: Order, scene: Scene, limits: Limits) -> Iterator[Denial]:
    if order.reduce_only or _reduces(order, scene):
        return
    if order.stop_loss is None:
        if limits.require_stop:
            yield Denial("no_stop", "an entry needs a protective stop")
        return
    distance = (1 - order.stop_loss / scene.price) * order.side.sign * 100
    if not 0 < distance <= decimal(limits.max_stop_pct):
        yield Denial(
            "stop_distance", f"the stop lies {distance:.2f} % from the market; it must be 0 to {limits.max_stop_pct:g} %"
        )
    if order.take_profit is not None and (order.take_profit - scene.price) * order.side.sign <= 0:
        yield Denial("target", f"the target {order.take_profit} lies on the wrong side of {scene.price}")


CHECKS: tuple[Check, ...] = (
    _schema,
    _instrument,
    _quote,
    _provenance,
    _increments,
    _collar,
    _reduce_only,
    _unknown,
    _degraded,
    _blind,
    _losses,
    _short,
    _sizes,
    _rates,
    _stop,
)
