"""Alpaca's words and ours: orders as requests, statuses, money, moments."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import Any

from agentfund.clock import utc
from agentfund.errors import OrderRejected
from agentfund.trading import ZERO, Order, OrderState, OrderStatus, OrderType, Side

LONGEST_ID = 100
"""Alpaca takes 128 characters; the rest is for the orders that put protection back."""
_GUARD = re.compile(r"(.+)\.guard\d+$")
_STATUS = {
    "filled": OrderStatus.FILLED,
    "canceled": OrderStatus.CANCELLED,
    "expired": OrderStatus.CANCELLED,
    "replaced": OrderStatus.CANCELLED,
    "rejected": OrderStatus.REJECTED,
    **dict.fromkeys(
        (
            "new",
            "accepted",
            "pending_new",
            "accepted_for_bidding",
            "partially_filled",
            "pending_cancel",
            "pending_replace",
            "pending_review",
            "stopped",
            "suspended",
            "calculated",
            "held",
            "done_for_day",
        ),
        OrderStatus.WORKING,
    ),
}
_PRICES = ("limit_price", "stop_price", "stop_loss", "take_profit")


def guard_id(entry: str, number: int) -> str:
    """Return the client id of an order that puts an entry's protection back."""
    return f"{entry}.guard{number}"


def guarded(client_id: str) -> str:
    """Return the entry that an order protects by its client id; empty where it is no such order."""
    found = _GUARD.match(client_id)
    return found[1] if found else ""


def is_crypto(symbol: str) -> bool:
    """Return whether a symbol is a pair such as BTC/USD."""
    return "/" in symbol


def number(value: Decimal) -> str:
    """Return a Decimal as it goes out: every digit of it, no exponent."""
    return format(value, "f")


def money(value: object) -> Decimal:
    """Read a number; a Decimal or a string that is one.

    Raises:
        ValueError: it is none, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise ValueError(f"{value!r} is no number")
    found = Decimal(value)
    if not found.is_finite():
        raise ValueError(f"{value!r} is no finite number")
    return found


def moment(value: object) -> datetime:
    """Read a moment.

    Raises:
        ValueError: it is none, or has no time zone.
    """
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no moment")
    return utc(datetime.fromisoformat(value))


def status_of(wire: dict[str, Any]) -> OrderStatus:
    """Return where an order stands; what Alpaca says and we do not know is UNKNOWN."""
    status = _STATUS.get(wire["status"], OrderStatus.UNKNOWN)
    if status is OrderStatus.REJECTED and money(wire["filled_qty"]):
        return OrderStatus.CANCELLED
    return status


def side_of(wire: dict[str, Any]) -> Side:
    """Return which way an order or a fill goes.

    Raises:
        ValueError: neither.
    """
    return Side.SELL if wire["side"] == "sell_short" else Side(wire["side"])


def type_of(wire: dict[str, Any]) -> OrderType:
    """Return how an order meets the market; of the kinds that we do not send the nearest."""
    kind = wire["type"]
    return OrderType.LIMIT if kind == "limit" else OrderType.MARKET if kind == "market" else OrderType.STOP


def quantity_of(wire: dict[str, Any]) -> Decimal:
    """Return what an order asks for; of one in dollars what it has filled."""
    return money(wire["filled_qty"] if wire.get("qty") is None else wire["qty"])


def price_of(wire: dict[str, Any], name: str) -> Decimal | None:
    """Return a price of an order, None where it has none."""
    return None if wire.get(name) is None else money(wire[name])


def order_of(wire: dict[str, Any]) -> Order:
    """Return an order as Alpaca knows it; what it does not keep has its default."""
    legs = wire.get("legs") or ()
    stops = [price_of(leg, "stop_price") for leg in legs if leg["type"] != "limit"]
    targets = [price_of(leg, "limit_price") for leg in legs if leg["type"] == "limit"]
    return Order(
        id=wire["client_order_id"],
        symbol=wire["symbol"],
        side=side_of(wire),
        quantity=quantity_of(wire),
        time=moment(wire["created_at"]),
        type=type_of(wire),
        limit_price=price_of(wire, "limit_price"),
        stop_price=price_of(wire, "stop_price"),
        stop_loss=stops[0] if stops else None,
        take_profit=targets[0] if targets else None,
    )


def state_of(wire: dict[str, Any], order: Order | None = None) -> OrderState:
    """Return how an order stands; `order` is the order as it was sent, where that is known."""
    status = status_of(wire)
    reason = "" if status in (OrderStatus.WORKING, OrderStatus.FILLED) else f"Alpaca says {wire['status']}"
    if wire["status"] == "pending_cancel":
        reason = "the cancel is on its way"
    return OrderState(order or order_of(wire), status, money(wire["filled_qty"]), reason)


def request_of(order: Order, time_in_force: str) -> dict[str, Any]:
    """Return an order as the body of a request.

    Raises:
        OrderRejected: Alpaca cannot work it; nothing was sent.
    """
    _check(order)
    whole = order.quantity == order.quantity.to_integral_value()
    legs = [price for price in (order.stop_loss, order.take_profit) if price is not None]
    if legs and is_crypto(order.symbol):
        _refuse(order, "no_brackets", "Alpaca has no brackets for crypto; use Alpaca(crypto=True), whose stops are kept by us")
    if legs and not whole:
        _refuse(order, "fractional", "Alpaca has no brackets for fractions of a share; use an instrument with lot_size=1")
    body: dict[str, Any] = {
        "client_order_id": order.id,
        "symbol": order.symbol,
        "side": str(order.side),
        "qty": number(order.quantity),
        "type": str(order.type),
        # Legs live as long as their entry: those of a day order would be gone overnight, and the position bare.
        "time_in_force": "gtc" if is_crypto(order.symbol) or legs else time_in_force if whole else "day",
    }
    for name in ("limit_price", "stop_price"):
        price = getattr(order, name)
        if price is not None:
            body[name] = number(price)
    if legs:
        body["order_class"] = "bracket" if len(legs) == 2 else "oto"
        if order.stop_loss is not None:
            body["stop_loss"] = {"stop_price": number(order.stop_loss)}
        if order.take_profit is not None:
            body["take_profit"] = {"limit_price": number(order.take_profit)}
    return body


def same(wire: dict[str, Any], body: dict[str, Any], *, at_most: bool = False) -> bool:
    """Return whether an order at Alpaca is what a request asked for.

    Args:
        wire: the order.
        body: the request.
        at_most: whether it may be smaller, as an exit is that was cut down to the position.
    """
    if any(wire.get(name) != body[name] for name in ("client_order_id", "side", "type")):
        return False
    if wire["symbol"].replace("/", "") != body["symbol"].replace("/", ""):  # BTCUSD is answered as BTC/USD
        return False
    asked, has = money(body["qty"]), quantity_of(wire)
    if not (ZERO < has <= asked if at_most else has == asked):
        return False
    if any(price_of(wire, name) != price_of(body, name) for name in ("limit_price", "stop_price") if name in body):
        return False
    legs = wire.get("legs")
    if not legs:
        return bool((wire.get("order_class") or "simple") == body.get("order_class", "simple"))
    stop, target = body.get("stop_loss", {}), body.get("take_profit", {})
    known = order_of(wire)
    if wire.get("order_class") == "oco":
        return known.stop_loss == price_of(stop, "stop_price")
    return (known.stop_loss, known.take_profit) == (price_of(stop, "stop_price"), price_of(target, "limit_price"))


def _check(order: Order) -> None:
    if not 0 < len(order.id) <= LONGEST_ID:
        _refuse(order, "bad_id", f"its id must have 1 to {LONGEST_ID} characters")
    given = {name: getattr(order, name) for name in _PRICES if getattr(order, name) is not None}
    for name, value in {"quantity": order.quantity, **given}.items():
        if not isinstance(value, Decimal) or not value.is_finite() or value <= 0:
            _refuse(order, f"bad_{name}", f"{name} must be a finite Decimal above zero, not {value!r}")
    for name, kind in (("limit_price", OrderType.LIMIT), ("stop_price", OrderType.STOP)):
        if (name in given) != (order.type is kind):
            _refuse(order, f"bad_{name}", f"a {order.type} order {'needs a' if order.type is kind else 'takes no'} {name}")
    if order.reduce_only and ("stop_loss" in given or "take_profit" in given):
        _refuse(order, "bad_bracket", "a reduce-only order opens nothing that stop_loss or take_profit could protect")


def _refuse(order: Order, code: str, why: str) -> None:
    raise OrderRejected(f"order {order.id!r} for {order.symbol}: {why}", code=code)
