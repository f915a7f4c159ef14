"""May the fund trade at all, is this an order, and may this instrument be traded by it?"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from agentfund.core.checks.case import LIMIT, MOST, STOP, Case
from agentfund.core.checks.rule import Rule, rule
from agentfund.market import Instrument
from agentfund.trading import ZERO, Level, OrderStatus, OrderType, Side

_CAUTION, _REDUCE_ONLY, _HALT = Level.CAUTION, Level.REDUCE_ONLY, Level.HALT


@rule(exits="checked")
def halt(case: Case) -> str:
    """Deny where the fund is halted or killed: level 3 or 4, whatever the order is."""
    permit = case.permit
    if permit is None or permit.level < _HALT:
        return ""
    cause = f"; agentfund lift DIR --cause {permit.cause}" if permit.cause else ""
    return f"the fund stands at level {permit.level} ({permit.level.name}): {permit.reason or 'no reason is told'}{cause}"


@rule()
def no_permit(case: Case) -> str:
    """Deny where trading is live and nobody says what the fund may do."""
    return "no permit is at hand, and a live fund needs one: run agentfund watchdog" if live_without(case, case.permit) else ""


@rule()
def level(case: Case) -> str:
    """Deny where the fund may only reduce: level 2."""
    permit = case.permit
    if permit is None or permit.level is not _REDUCE_ONLY:
        return ""
    return f"only what reduces a position may leave at level 2: {permit.reason or 'no reason is told'}"


@rule()
def lease(case: Case) -> str:
    """Deny where the watchdog's lease is not valid."""
    permit = case.permit
    if permit is None or permit.lease:
        return ""
    none = "there is no valid lease of a watchdog"
    return f"{none}: {permit.reason}" if permit.reason and "no valid lease" not in permit.reason else none


@rule(exits="checked")
def schema(case: Case) -> str:
    """Deny where the order is none: an id, a side, a time, a price is missing, or a number is no `Decimal` above zero."""
    order = case.order
    if not isinstance(order.id, str) or not order.id or not isinstance(order.side, Side):
        return "the order has no id or no side"
    if not isinstance(order.symbol, str) or not order.symbol or not isinstance(order.type, OrderType):
        return "the order has no symbol or no type"
    flag: object = order.reduce_only
    if not isinstance(flag, bool) or not isinstance(order.decision, str):
        return "reduce_only must be True or False, and the decision a name"
    if not isinstance(order.time, datetime) or order.time.tzinfo is None:
        return f"the order's time must be an aware datetime, not {order.time!r}"
    if not _positive(order.quantity):
        return f"quantity must be a number above zero, not {order.quantity}"
    for value in (order.limit_price, order.stop_price, order.stop_loss, order.take_profit):
        if value is not None and not _positive(value):
            names = ("limit_price", "stop_price", "stop_loss", "take_profit")
            name = next(one for one in names if getattr(order, one) is value)
            return f"{name} must be a number above zero, not {value}"
    if (order.limit_price is not None) is not (order.type is LIMIT):
        return "a limit order needs a limit price, and no other order has one"
    if (order.stop_price is not None) is not (order.type is STOP):
        return "a stop order needs a stop price, and no other order has one"
    return ""


def _positive(value: object) -> bool:
    return isinstance(value, Decimal) and value.is_finite() and ZERO < value < MOST


@rule()
def new_symbol(case: Case) -> str:
    """Deny where the fund is at level 1 and neither holds the instrument nor has an order in it."""
    if case.permit is None or case.permit.level is not _CAUTION or case.held:
        return ""
    symbol = case.order.symbol
    known = any(state.order.symbol == symbol for state in case.scene.orders)
    return "" if known else f"no new instruments at level 1, and {symbol} is one: {case.permit.reason or 'no reason is told'}"


@rule("restricted", exits="checked")
def restricted(case: Case) -> str:
    """Deny where the instrument is on the restricted list."""
    return f"{case.order.symbol} is restricted" if case.order.symbol in case.limits.restricted else ""


@rule("symbols", exits="checked")
def not_allowed(case: Case) -> str:
    """Deny where there is a list of allowed instruments, and it is not on it."""
    allowed = case.limits.symbols
    return f"{case.order.symbol} is not among the allowed instruments" if allowed and case.order.symbol not in allowed else ""


@rule(exits="checked")
def unknown_symbol(case: Case) -> str:
    """Deny where the feed has no bars of the instrument."""
    instrument = case.scene.instrument
    if isinstance(instrument, Instrument) and instrument.symbol == case.order.symbol:
        return ""
    return f"the feed has no bars of {case.order.symbol}"


@rule()
def broker(case: Case) -> str:
    """Deny where the broker cannot be seen, or its books are not the fund's."""
    return case.scene.blind


@rule()
def degraded(case: Case) -> str:
    """Deny where rules answered in place of language models that are down."""
    return "rules answered in place of language models that are down: no new positions" if case.scene.degraded else ""


@rule()
def unknown_order(case: Case) -> str:
    """Deny where the fate of another order in the instrument is unknown."""
    for state in case.scene.orders:
        status: object = state.status
        if status is _WORKING:  # nearly all are
            continue
        if not isinstance(status, OrderStatus):
            return f"order {state.order.id} has no status"
        if status is _UNKNOWN and state.order.symbol == case.order.symbol:
            return f"the fate of order {state.order.id} in {case.order.symbol} is unknown"
    return ""


_WORKING, _UNKNOWN = OrderStatus.WORKING, OrderStatus.UNKNOWN


def live_without(case: Case, fact: object) -> bool:
    """Whether a fact is missing that nobody may do without where orders are real."""
    return fact is None and case.scene.live


RULES: tuple[Rule, ...] = (
    halt,
    no_permit,
    level,
    lease,
    schema,
    new_symbol,
    restricted,
    not_allowed,
    unknown_symbol,
    broker,
    degraded,
    unknown_order,
)
