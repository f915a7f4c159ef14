"""What is wrong with an order before anybody asks a broker: checks that need no market."""

from __future__ import annotations

from collections.abc import Container
from decimal import Decimal

from agentfund.brokers.refusals import refuse
from agentfund.trading import Order, OrderType, Side

_PRICES = ("limit_price", "stop_price", "stop_loss", "take_profit")


def sound(order: Order, symbols: Container[str]) -> None:
    """Look an order over, field by field.

    Args:
        order: what somebody wants to trade.
        symbols: what the broker was given to trade.

    Raises:
        OrderRejected: it cannot work, and was not sent; `code` names the field.
    """
    if not order.id:
        refuse(order, "no_id", "it has no id")
    if order.symbol not in symbols:
        refuse(order, "unknown_symbol", "this symbol was not given to the broker; name it when you make the broker")
    prices = {name: getattr(order, name) for name in _PRICES if getattr(order, name) is not None}
    for name, value in {"quantity": order.quantity, **prices}.items():
        if not isinstance(value, Decimal) or not value.is_finite() or value <= 0:
            refuse(order, f"bad_{name}", f"{name} must be a finite Decimal above zero, not {value!r}")
    for name, kind in (("limit_price", OrderType.LIMIT), ("stop_price", OrderType.STOP)):
        if (name in prices) != (order.type is kind):
            needs = "needs a" if order.type is kind else "takes no"
            refuse(order, f"bad_{name}", f"a {order.type} order {needs} {name}")
    if order.reduce_only and ("stop_loss" in prices or "take_profit" in prices):
        refuse(order, "bad_bracket", "a reduce-only order opens nothing that stop_loss or take_profit could protect")
    if "take_profit" in prices and "stop_loss" not in prices:
        refuse(order, "bad_bracket", "a take_profit needs a stop_loss beside it: a target alone leaves a loss without an end")
    steps = [order.stop_loss, order.limit_price or order.stop_price, order.take_profit]
    known = [price for price in steps if price is not None]
    if known != sorted(known, reverse=order.side is Side.SELL) or len(set(known)) != len(known):
        way = "rise" if order.side is Side.BUY else "fall"
        refuse(order, "bad_bracket", f"stop_loss, entry and take_profit of a {order.side} must {way}, not {known}")
