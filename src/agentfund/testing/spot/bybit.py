"""Bybit's v5 spot REST, as ccxt asks it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from agentfund.testing.spot.exchange import Refused, SpotExchange, SpotOrder, Trade

_CODES = {
    "funds": (170131, "Insufficient balance."),
    "duplicate": (170141, "Duplicate clientOrderId"),
    "filter": (170137, "Order volume decimal too long"),
    "trigger": (170193, "The trigger price is not valid: it would trigger immediately"),
    "symbol": (10001, "Not supported symbols"),
    "unknown": (170213, "Order does not exist."),
    "window": (10001, "params error: the time range is not valid"),
}
_WEEK = 7 * 86_400_000
_REACH = 730 * 86_400_000
_STATUS = {"waiting": "Untriggered", "open": "New", "filled": "Filled", "cancelled": "Cancelled", "rejected": "Rejected"}


def answer(exchange: SpotExchange, method: str, path: str, params: Mapping[str, Any]) -> tuple[int, Any]:
    """Answer a request: status and JSON."""
    try:
        return 200, {"retCode": 0, "retMsg": "OK", "result": _answer(exchange, path, params), "time": exchange.now}
    except Refused as error:
        code, text = _CODES[error.reason]
        return 200, {"retCode": code, "retMsg": text, "result": {}, "time": exchange.now}


def _answer(exchange: SpotExchange, path: str, params: Mapping[str, Any]) -> Any:
    what = path.removeprefix("/v5/")
    if what == "market/time":
        return {"timeSecond": str(exchange.now // 1000), "timeNano": str(exchange.now * 1_000_000)}
    if what == "user/query-api":
        return {"unified": 1, "uta": 1}
    if what == "account/info":
        return {"unifiedMarginStatus": 6}
    if what == "market/instruments-info":
        return {"category": "spot", "list": [_listing(one) for one in exchange.listings.values()]}
    if what == "account/wallet-balance":
        coins = [
            {"coin": c, "walletBalance": _text(exchange.total(c)), "locked": _text(exchange.used.get(c, Decimal(0)))}
            for c in sorted({*exchange.free, *exchange.used})
        ]
        return {"list": [{"accountType": "UNIFIED", "coin": coins}]}
    symbol = next((s for s, one in exchange.listings.items() if one.base + one.quote == params.get("symbol")), "")
    if what == "market/tickers":
        return {"category": "spot", "list": [{"symbol": params["symbol"], "lastPrice": _text(exchange.prices[symbol])}]}
    if what == "order/create":
        price, trigger = params.get("price"), params.get("triggerPrice")
        order = exchange.place(
            params["orderLinkId"],
            symbol,
            params["side"].lower(),
            "stop" if trigger else params["orderType"].lower(),
            Decimal(params["qty"]),
            Decimal(price) if price else None,
            Decimal(trigger) if trigger else None,
        )
        return {"orderId": order.id, "orderLinkId": order.client_id}
    if what == "order/cancel":
        stop = params.get("orderFilter", "Order") != "Order"
        found = _wanted(exchange, params)
        if found is not None and (found.trigger is not None) != stop:
            found = None  # an order is only taken back in its own list
        order = exchange.cancel(found)
        return {"orderId": order.id, "orderLinkId": order.client_id}
    if what in ("order/realtime", "order/history"):
        return {"category": "spot", "list": [_order(exchange, one) for one in _listed(exchange, symbol, params, what)]}
    if what == "execution/list":
        return _executions(exchange, symbol, params)
    raise Refused("symbol", what)


def _wanted(exchange: SpotExchange, params: Mapping[str, Any]) -> SpotOrder | None:
    order_id = params.get("orderId")
    return exchange.orders.get(str(order_id)) if order_id else exchange.find(params.get("orderLinkId", ""))


def _listed(exchange: SpotExchange, symbol: str, params: Mapping[str, Any], what: str) -> list[SpotOrder]:
    ended, kind = what == "order/history", params.get("orderFilter")
    start, end = _window(exchange, params) if ended else (0, exchange.now + 1)
    if params.get("orderId") or params.get("orderLinkId"):
        one = _wanted(exchange, params)
        found = [one] if one is not None else []
    else:
        found = [one for one in exchange.orders.values() if one.symbol == symbol]
        found = [one for one in found if kind is None or (kind == "tpslOrder") == (one.trigger is not None)]
    return [one for one in found if bool(one.left) != ended and start <= one.time < end]


def _executions(exchange: SpotExchange, symbol: str, params: Mapping[str, Any]) -> dict[str, Any]:
    start, end = _window(exchange, params)
    found = [one for one in reversed(exchange.trades) if one.order.symbol == symbol and start <= one.time < end]
    first, size = int(params.get("cursor", 0)), min(int(params.get("limit", 50)), 100)
    more = str(first + size) if first + size < len(found) else ""
    return {"category": "spot", "list": [_trade(exchange, one) for one in found[first : first + size]], "nextPageCursor": more}


def _window(exchange: SpotExchange, params: Mapping[str, Any]) -> tuple[int, int]:
    """A week at most: one that is half told is a week long, and the last one where nothing is told.

    Bybit does not say whether a window's end belongs to it; here it does not, which is the harder case.
    """
    start = int(params["startTime"]) if "startTime" in params else None
    end = int(params["endTime"]) if "endTime" in params else None
    if start is not None and start < exchange.now - _REACH:
        raise Refused("window", "two years at most")
    if start is None:
        last = end if end is not None else exchange.now + 1
        return last - _WEEK, last
    if end is None:
        return start, start + _WEEK
    if not 0 <= end - start <= _WEEK:
        raise Refused("window", "a week at most")
    return start, end


def _listing(one: Any) -> dict[str, Any]:
    return {
        "symbol": one.base + one.quote,
        "baseCoin": one.base,
        "quoteCoin": one.quote,
        "status": "Trading",
        "marginTrading": "none",
        "lotSizeFilter": {
            "basePrecision": _text(one.lot),
            "quotePrecision": "0.00000001",
            "minOrderQty": _text(one.lot),
            "maxOrderQty": "9000",
            "minOrderAmt": _text(one.min_notional),
            "maxOrderAmt": "9000000",
        },
        "priceFilter": {"tickSize": _text(one.tick)},
    }


def _order(exchange: SpotExchange, order: SpotOrder) -> dict[str, Any]:
    listing = exchange.listings[order.symbol]
    return {
        "symbol": listing.base + listing.quote,
        "orderId": order.id,
        "orderLinkId": order.client_id,
        "orderType": "Limit" if order.type == "limit" else "Market",
        "stopOrderType": "tpslOrder" if order.trigger is not None else "",
        "orderStatus": "PartiallyFilled" if order.filled and order.status == "open" else _STATUS[order.status],
        "side": order.side.capitalize(),
        "qty": _text(order.quantity),
        "cumExecQty": _text(order.filled),
        "cumExecValue": _text(order.paid),
        "avgPrice": _text(order.paid / order.filled) if order.filled else "",
        "price": _text(order.price or 0),
        "triggerPrice": _text(order.trigger or 0),
        "timeInForce": "GTC",
        "createdTime": str(order.time),
        "updatedTime": str(order.time),
        "rejectReason": "",
    }


def _trade(exchange: SpotExchange, trade: Trade) -> dict[str, Any]:
    listing = exchange.listings[trade.order.symbol]
    return {
        "symbol": listing.base + listing.quote,
        "execId": trade.id,
        "orderId": trade.order.id,
        "orderLinkId": trade.order.client_id,
        "side": trade.order.side.capitalize(),
        "execPrice": _text(trade.price),
        "execQty": _text(trade.quantity),
        "execValue": _text(trade.price * trade.quantity),
        "execFee": _text(trade.fee),
        "feeCurrency": trade.fee_currency,
        "execTime": str(trade.time),
        "execType": "Trade",
        "isMaker": False,
        "orderType": "Market",
    }


def _text(value: Decimal | int) -> str:
    return format(Decimal(value), "f")
