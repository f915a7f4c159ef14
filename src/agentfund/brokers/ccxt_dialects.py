"""What differs between exchanges behind ccxt: ids, stop orders, how one order is found, how trades are paged."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, Literal

from agentfund.trading import Order, OrderType, Side

Params = dict[str, Any]
_SLIP = Decimal("0.05")
"""How far below its trigger a stop-limit order may sell, as a share of the trigger."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How an exchange wants to be spoken to.

    Args:
        ids: what a client order id must match.
        longest: how long it may be.
        options: ccxt's options for it.
        stop_params: what lists and cancels stop orders in addition.
        stop_listings: parameters of the listings in which stop orders are found.
        pages: how trades are paged: by the next trade's number, by a cursor, or by the oldest bill seen.
        page: trades on a page.
        window_days: how many days a question for trades may span, 0 where that is no limit.
        reach_days: how far back trades are told, in days, 0 where nothing is known of a limit.
    """

    ids: str = r"[A-Za-z0-9_-]+"
    longest: int = 36
    options: Mapping[str, Any] = field(default_factory=dict)
    stop_params: Mapping[str, Any] = field(default_factory=dict)
    stop_listings: tuple[Mapping[str, Any], ...] = ()
    pages: Literal["number", "cursor", "bill", "time"] = "time"
    page: int = 100
    window_days: int = 0
    reach_days: int = 0

    def client_id(self, order_id: str) -> str:
        """Return an id that the exchange takes: the same where it does, else a hash of it."""
        if len(order_id) <= self.longest and re.fullmatch(self.ids, order_id):
            return order_id
        digest = hashlib.sha256(order_id.encode()).digest()
        return "h" + base64.b32encode(digest).decode().rstrip("=").lower()[:25]


DIALECTS: Mapping[str, Dialect] = {
    "binance": Dialect(ids=r"[A-Za-z0-9_.:/-]+", pages="number", page=1000, options={"fetchMargins": False}),
    "bybit": Dialect(
        pages="cursor",
        window_days=7,
        reach_days=730,
        stop_params={"orderFilter": "tpslOrder"},
        stop_listings=({"orderFilter": "tpslOrder"},),
    ),
    "okx": Dialect(
        ids=r"[A-Za-z0-9]+",
        longest=32,
        pages="bill",
        reach_days=90,
        options={"createOrder": "privatePostTradeOrder", "brokerId": None},
        stop_params={"trigger": True},
        stop_listings=({"trigger": True, "ordType": "conditional"},),
    ),
}


def dialect_of(exchange_id: str) -> Dialect:
    """Return the dialect of an exchange; of one that is not known here the unified way of ccxt."""
    for name, dialect in DIALECTS.items():
        if exchange_id == name or (name == "binance" and exchange_id == "binanceus"):
            return dialect
    return Dialect(stop_params={"trigger": True}, stop_listings=({"trigger": True},))


def told_id(info: Mapping[str, Any]) -> str:
    """Return the client order id that an exchange tells of an order or trade; a triggered order's is that of its stop."""
    for name in ("algoClOrdId", "clOrdId", "orderLinkId", "origClientOrderId", "clientOrderId"):
        value = info.get(name)
        if value:
            return str(value)
    return ""


def is_stop(info: Mapping[str, Any], order: Mapping[str, Any]) -> bool:
    """Whether an order of the exchange waits, or has waited, for a trigger."""
    if info.get("algoClOrdId") or info.get("algoId"):
        return True
    kinds = f"{info.get('type', '')}{info.get('stopOrderType', '')}{info.get('orderFilter', '')}".lower()
    return "stop" in kinds or "tpsl" in kinds or bool(_number(order.get("triggerPrice")))


def create_args(exchange_id: str, order: Order, client_id: str, market: Mapping[str, Any]) -> tuple[str, str | None, Params]:
    """Return type, price and parameters of ccxt's `create_order` for an order.

    A stop is a market order with a trigger: Binance `STOP_LOSS` (where a market has none `STOP_LOSS_LIMIT`, five percent
    worse than the trigger at most), Bybit `tpslOrder`, which locks the balance, OKX `conditional`.
    """
    if order.type is not OrderType.STOP:
        price = None if order.limit_price is None else format(order.limit_price, "f")
        return order.type.value, price, {"clientOrderId": client_id}
    trigger = format(order.stop_price or Decimal(0), "f")
    if exchange_id.startswith("binance"):
        if "STOP_LOSS" in (market.get("info", {}).get("orderTypes") or ()):
            return "market", None, {"clientOrderId": client_id, "stopLossPrice": trigger}
        tick = Decimal(str(market["precision"]["price"]))
        worst = (order.stop_price or Decimal(0)) * (1 + _SLIP * order.side.sign)
        rounding = ROUND_CEILING if order.side is Side.BUY else ROUND_FLOOR
        limit = (worst / tick).to_integral_value(rounding) * tick
        return "limit", format(limit, "f"), {"clientOrderId": client_id, "stopLossPrice": trigger}
    if exchange_id == "okx":
        return "market", None, {"algoClOrdId": client_id, "stopLossPrice": trigger, "tdMode": "cash"}
    if exchange_id == "bybit":
        return "market", None, {"clientOrderId": client_id, "stopLossPrice": trigger}
    return "market", None, {"clientOrderId": client_id, "triggerPrice": trigger}


def cancel_params(exchange_id: str, dialect: Dialect, client_id: str, *, stop: bool) -> Params:
    """Return the parameters of ccxt's `cancel_order` for an order by its client id."""
    if exchange_id == "bybit":
        return {"orderLinkId": client_id, "orderFilter": "tpslOrder" if stop else "Order"}
    more = dict(dialect.stop_params) if stop else {}
    return {"clientOrderId": client_id, **more}


def shaped(exchange_id: str, url: str, response: Any) -> bool:
    """Whether a good answer has the form that its question has; ccxt takes what has not for an empty list."""
    if not exchange_id.startswith("binance"):
        return True  # these say so themselves: an answer without their code is an error for ccxt
    path = url.split("?")[0]
    if path.endswith(("/openOrders", "/allOrders", "/myTrades")):
        return isinstance(response, list)
    if path.endswith("/account"):
        return isinstance(response, dict) and isinstance(response.get("balances"), list)
    if path.endswith("/order"):
        return isinstance(response, dict) and "orderId" in response
    return True


def _number(value: Any) -> Decimal | None:
    return Decimal(str(value)) if value not in (None, "") else None
