"""Binance's spot REST, as ccxt asks it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from agentfund.testing.spot.exchange import Refused, SpotExchange, SpotOrder, Trade

_CODES = {
    "funds": (-2010, "Account has insufficient balance for requested action."),
    "duplicate": (-2010, "Duplicate order sent."),
    "filter": (-1013, "Filter failure: LOT_SIZE"),
    "trigger": (-2010, "Stop price would trigger immediately."),
    "symbol": (-1121, "Invalid symbol."),
    "unknown": (-2011, "Unknown order sent."),
    "window": (-1127, "More than 24 hours between startTime and endTime."),
    "combination": (-1128, "Combination of optional parameters invalid."),
}
_DAY = 86_400_000
_TYPES = {"MARKET": "market", "LIMIT": "limit", "STOP_LOSS": "stop", "STOP_LOSS_LIMIT": "stop_limit"}
_STATUS = {"waiting": "NEW", "open": "NEW", "filled": "FILLED", "cancelled": "CANCELED", "rejected": "REJECTED"}


def answer(exchange: SpotExchange, method: str, path: str, params: Mapping[str, Any]) -> tuple[int, Any]:
    """Answer a request: status and JSON."""
    try:
        return 200, _answer(exchange, method, path.rsplit("/", 1)[1], params)
    except Refused as error:
        code, text = _CODES[error.reason]
        return 400, {"code": code, "msg": text}


def _answer(exchange: SpotExchange, method: str, what: str, params: Mapping[str, Any]) -> Any:
    if what == "time":
        return {"serverTime": exchange.now}
    if what == "exchangeInfo":
        return {"timezone": "UTC", "serverTime": exchange.now, "symbols": [_listing(one) for one in exchange.listings.values()]}
    if what == "account":
        currencies = sorted({*exchange.free, *exchange.used})
        return {
            "updateTime": exchange.now,
            "balances": [
                {"asset": c, "free": _text(exchange.free.get(c, 0)), "locked": _text(exchange.used.get(c, 0))}
                for c in currencies
            ],
        }
    symbol = next((s for s, one in exchange.listings.items() if one.base + one.quote == params.get("symbol")), "")
    if what == "24hr":
        return {"symbol": params["symbol"], "lastPrice": _text(exchange.prices[symbol]), "closeTime": exchange.now}
    if what == "openOrders":
        return [_order(exchange, one) for one in exchange.orders.values() if one.symbol == symbol and one.left]
    if what == "allOrders":
        first = int(params.get("orderId", 0))
        listed = [one for one in exchange.orders.values() if one.symbol == symbol and one.number >= first]
        return [_order(exchange, one) for one in listed[: min(int(params.get("limit", 500)), 1000)]]
    if what == "myTrades":
        return [_trade(exchange, one) for one in _trades(exchange, symbol, params)]
    if what == "order" and method == "POST":
        price, trigger = params.get("price"), params.get("stopPrice")
        order = exchange.place(
            params["newClientOrderId"],
            symbol,
            params["side"].lower(),
            _TYPES[params["type"]],  # type: ignore[arg-type]
            Decimal(params["quantity"]),
            Decimal(price) if price else None,
            Decimal(trigger) if trigger else None,
        )
        return _order(exchange, order)
    if what == "order":
        order_id = params.get("orderId")
        wanted = exchange.orders.get(f"x{order_id}") if order_id else exchange.find(params.get("origClientOrderId", ""))
        if method == "DELETE":
            return _order(exchange, exchange.cancel(wanted))
        if wanted is None:
            raise Refused("unknown", "Order does not exist.")
        return _order(exchange, wanted)
    raise Refused("symbol", what)


def _trades(exchange: SpotExchange, symbol: str, params: Mapping[str, Any]) -> list[Trade]:
    """From a number on, or within a day without its end, the earliest; without either the newest."""
    limit = min(int(params.get("limit", 500)), 1000)
    number, start, end = (int(params[name]) if name in params else None for name in ("fromId", "startTime", "endTime"))
    if number is not None and (start is not None or end is not None):
        raise Refused("combination", "a number or times")
    if start is not None and end is not None and end - start > _DAY:
        raise Refused("window", "more than a day")
    found = [one for one in exchange.trades if one.order.symbol == symbol and one.number >= (number or 0)]
    found = [one for one in found if (start or 0) <= one.time < (end if end is not None else one.time + 1)]
    return found[-limit:] if number is None and start is None else found[:limit]


def _listing(one: Any) -> dict[str, Any]:
    return {
        "symbol": one.base + one.quote,
        "status": "TRADING",
        "baseAsset": one.base,
        "quoteAsset": one.quote,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT"]
        if one.base != "OLD"
        else ["LIMIT", "MARKET", "STOP_LOSS_LIMIT"],
        "isSpotTradingAllowed": True,
        "permissions": ["SPOT"],
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": _text(one.tick), "maxPrice": "1000000", "tickSize": _text(one.tick)},
            {"filterType": "LOT_SIZE", "minQty": _text(one.lot), "maxQty": "9000", "stepSize": _text(one.lot)},
            {"filterType": "NOTIONAL", "minNotional": _text(one.min_notional), "applyMinToMarket": True},
        ],
    }


def _order(exchange: SpotExchange, order: SpotOrder) -> dict[str, Any]:
    listing = exchange.listings[order.symbol]
    types = {"market": "MARKET", "limit": "LIMIT", "stop": "STOP_LOSS", "stop_limit": "STOP_LOSS_LIMIT"}
    partial = order.filled and order.status == "open"
    return {
        "symbol": listing.base + listing.quote,
        "orderId": order.number,
        "clientOrderId": order.client_id,
        "transactTime": order.time,
        "time": order.time,
        "price": _text(order.price or 0),
        "stopPrice": _text(order.trigger or 0),
        "origQty": _text(order.quantity),
        "executedQty": _text(order.filled),
        "cummulativeQuoteQty": _text(order.paid),
        "status": "PARTIALLY_FILLED" if partial else _STATUS[order.status],
        "timeInForce": "GTC",
        "type": types[order.type],
        "side": order.side.upper(),
    }


def _trade(exchange: SpotExchange, trade: Trade) -> dict[str, Any]:
    listing = exchange.listings[trade.order.symbol]
    return {
        "symbol": listing.base + listing.quote,
        "id": trade.number,
        "orderId": trade.order.number,
        "price": _text(trade.price),
        "qty": _text(trade.quantity),
        "quoteQty": _text(trade.price * trade.quantity),
        "commission": _text(trade.fee),
        "commissionAsset": trade.fee_currency,
        "time": trade.time,
        "isBuyer": trade.order.side == "buy",
        "isMaker": False,
    }


def _text(value: Decimal | int) -> str:
    return format(Decimal(value), "f")
