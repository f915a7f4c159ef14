"""Why an order cannot work: what a broker checks before it takes one."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import NoReturn

from agentfund.errors import OrderRejected
from agentfund.market import Market
from agentfund.trading import Order, OrderType, Side

_PRICES = ("limit_price", "stop_price", "stop_loss", "take_profit")


def refuse(order: Order, code: str, why: str) -> NoReturn:
    """Raise `OrderRejected` for an order."""
    raise OrderRejected(f"order {order.id!r} for {order.symbol}: {why}", code=code)


def _multiple(value: Decimal, step: Decimal) -> bool:
    try:
        return value % step == 0
    except InvalidOperation:  # more digits than a Decimal carries
        return False


def check(order: Order, market: Market | None) -> None:
    """Look an order over, field by field.

    Args:
        order: what somebody wants to trade.
        market: what has been seen so far, None before the first bar.

    Raises:
        OrderRejected: it cannot work; `code` names the field.
    """
    if not order.id:
        refuse(order, "no_id", "it has no id")
    if market is None or order.symbol not in market.windows:
        refuse(order, "unknown_symbol", "no bar of this symbol has been seen yet; check the symbol, or wait for its first bar")
    if order.time.tzinfo is None:
        refuse(order, "naive_time", f"its time {order.time.isoformat()} has no time zone")
    instrument = market.windows[order.symbol].instrument
    prices = {name: getattr(order, name) for name in _PRICES if getattr(order, name) is not None}
    for name, value in {"quantity": order.quantity, **prices}.items():
        if not isinstance(value, Decimal) or not value.is_finite() or value <= 0:
            refuse(order, f"bad_{name}", f"{name} must be a finite Decimal above zero, not {value!r}")
    if not _multiple(order.quantity, instrument.lot_size):
        refuse(order, "bad_quantity", f"quantity {order.quantity} is not a multiple of the lot size {instrument.lot_size}")
    for name, value in prices.items():
        if not _multiple(value, instrument.tick_size):
            refuse(order, f"bad_{name}", f"{name} {value} is not a multiple of the tick size {instrument.tick_size}")
    for name, kind in (("limit_price", OrderType.LIMIT), ("stop_price", OrderType.STOP)):
        if (name in prices) != (order.type is kind):
            needs = "needs a" if order.type is kind else "takes no"
            refuse(order, f"bad_{name}", f"a {order.type} order {needs} {name}")
    if order.reduce_only and ("stop_loss" in prices or "take_profit" in prices):
        refuse(order, "bad_bracket", "a reduce-only order opens nothing that stop_loss or take_profit could protect")
    _check_bracket(order)


def _check_bracket(order: Order) -> None:
    entry = order.limit_price if order.limit_price is not None else order.stop_price
    named = {"stop_loss": order.stop_loss, "the entry's price": entry, "take_profit": order.take_profit}
    steps = [(name, price) for name, price in named.items() if price is not None]
    for (lower, low), (upper, high) in pairwise(steps):
        if (high - low) * order.side.sign <= 0:
            side = "below" if order.side is Side.BUY else "above"
            refuse(order, "bad_bracket", f"{lower} {low} must lie {side} {upper} {high} when it is a {order.side}")
