"""OKX's v5 spot REST, as ccxt asks it. A stop is an algo order; once triggered its sale is an order of its own."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from agentfund.testing.spot.exchange import Refused, SpotExchange, SpotOrder, Trade

_CODES = {
    "funds": ("51008", "Order failed. Insufficient balance"),
    "duplicate": ("51016", "Client order ID already exists"),
    "filter": ("51121", "Order quantity must be a multiple of the lot size"),
    "trigger": ("51278", "SL trigger price cannot be higher than the last price: it would trigger immediately"),
    "symbol": ("51001", "Instrument ID does not exist"),
    "unknown": ("51400", "Cancellation failed as the order does not exist"),
}
_RECENT = 3 * 86_400_000
_REACH = 90 * 86_400_000
_DELAY = 60_000
_STATUS = {"waiting": "live", "open": "live", "filled": "filled", "cancelled": "canceled", "rejected": "order_failed"}


def answer(exchange: SpotExchange, method: str, path: str, params: Mapping[str, Any]) -> tuple[int, Any]:
    """Answer a request: status and JSON."""
    try:
        return 200, {"code": "0", "msg": "", "data": _answer(exchange, method, path.removeprefix("/api/v5/"), params)}
    except Refused as error:
        code, text = _CODES[error.reason]
        if method == "GET":
            return 200, {"code": "51603" if error.reason == "unknown" else code, "msg": text, "data": []}
        return 200, {"code": "1", "msg": "", "data": [{"ordId": "", "clOrdId": "", "sCode": code, "sMsg": text}]}


def _answer(exchange: SpotExchange, method: str, what: str, params: Mapping[str, Any]) -> list[Any]:
    if what == "public/time":
        return [{"ts": str(exchange.now)}]
    if what == "public/instruments":
        return [_listing(one) for one in exchange.listings.values()]
    if what == "account/balance":
        return [
            {"details": [_balance(exchange, c) for c in sorted({*exchange.free, *exchange.used})], "uTime": str(exchange.now)}
        ]
    if what == "trade/cancel-algos":
        return [_cancelled(exchange.cancel(_found(exchange, one, algo=True))) for one in params["list"]]
    symbol = next((s for s, one in exchange.listings.items() if f"{one.base}-{one.quote}" == params.get("instId")), "")
    if what == "market/ticker":
        return [{"instId": params["instId"], "last": _text(exchange.prices[symbol]), "ts": str(exchange.now)}]
    if what in ("trade/order", "trade/order-algo") and method == "POST":
        return [_placed(exchange, symbol, params)]
    if what == "trade/cancel-order":
        return [_cancelled(exchange.cancel(_found(exchange, params, algo=False)))]
    if what in ("trade/order", "trade/order-algo"):
        found = _found(exchange, params, algo=what.endswith("algo"))
        if found is None:
            raise Refused("unknown", "Order does not exist")
        return [_order(exchange, found, algo=what.endswith("algo"))]
    if what in ("trade/orders-pending", "trade/orders-algo-pending"):
        waits = what.endswith("algo-pending")
        listed = [one for one in exchange.orders.values() if one.symbol == symbol and one.left]
        return [_order(exchange, one, algo=waits) for one in listed if (one.status == "waiting") == waits]
    if what in ("trade/fills", "trade/fills-history"):
        return [_trade(exchange, one) for one in _trades(exchange, symbol, params, recent=what == "trade/fills")]
    raise Refused("symbol", what)


def _trades(exchange: SpotExchange, symbol: str, params: Mapping[str, Any], *, recent: bool) -> list[Trade]:
    """The newest first: three days as they happen, three months with a delay."""
    begin, end, after = int(params.get("begin", 0)), int(params.get("end", 1 << 60)), int(params.get("after", 1 << 60))
    begin = max(begin, exchange.now - (_RECENT if recent else _REACH))
    end = end if recent else min(end, exchange.now - _DELAY)
    found = [one for one in reversed(exchange.trades) if one.order.symbol == symbol and begin <= one.time <= end]
    return [one for one in found if one.number < after][: min(int(params.get("limit", 100)), 100)]


def _found(exchange: SpotExchange, params: Mapping[str, Any], *, algo: bool) -> SpotOrder | None:
    """Find an order where it is asked for: what waits is found among algo orders, its sale among the others."""
    if params.get("algoClOrdId"):
        return exchange.find(params["algoClOrdId"])
    if params.get("ordId"):
        return exchange.orders.get(f"x{params['ordId']}")
    found = exchange.find(params.get("clOrdId", ""))
    return None if found is not None and (found.trigger is not None) != algo else found


def _placed(exchange: SpotExchange, symbol: str, params: Mapping[str, Any]) -> dict[str, Any]:
    price, trigger = params.get("px"), params.get("slTriggerPx")
    order = exchange.place(
        params["algoClOrdId"] if trigger else params["clOrdId"],
        symbol,
        params["side"],
        "stop" if trigger else params["ordType"],
        Decimal(params["sz"]),
        Decimal(price) if price else None,
        Decimal(trigger) if trigger else None,
    )
    ids = {"algoId": f"9{order.number}", "algoClOrdId": order.client_id}
    return {**(ids if trigger else {"ordId": str(order.number), "clOrdId": order.client_id}), "sCode": "0", "sMsg": ""}


def _cancelled(order: SpotOrder) -> dict[str, Any]:
    return {"ordId": str(order.number), "clOrdId": order.client_id, "sCode": "0", "sMsg": ""}


def _balance(exchange: SpotExchange, currency: str) -> dict[str, Any]:
    free, used = exchange.free.get(currency, Decimal(0)), exchange.used.get(currency, Decimal(0))
    total = _text(free + used)
    return {
        "ccy": currency,
        "eq": total,
        "cashBal": total,
        "availBal": _text(free),
        "frozenBal": _text(used),
        "ordFrozen": _text(used),
    }


def _listing(one: Any) -> dict[str, Any]:
    return {
        "instId": f"{one.base}-{one.quote}",
        "instType": "SPOT",
        "baseCcy": one.base,
        "quoteCcy": one.quote,
        "state": "live",
        "tickSz": _text(one.tick),
        "lotSz": _text(one.lot),
        "minSz": _text(one.lot),
        "ctVal": "",
        "lever": "",
        "listTime": "1600000000000",
    }


def _order(exchange: SpotExchange, order: SpotOrder, *, algo: bool) -> dict[str, Any]:
    listing = exchange.listings[order.symbol]
    state = "partially_filled" if order.filled and order.status == "open" else _STATUS[order.status]
    triggered = order.trigger is not None and (order.filled > 0 or order.status == "open")
    told = {
        "instId": f"{listing.base}-{listing.quote}",
        "instType": "SPOT",
        "side": order.side,
        "sz": _text(order.quantity),
        "cTime": str(order.time),
        "uTime": str(order.time),
        "tgtCcy": "base_ccy",
    }
    if algo:
        state = "effective" if triggered else state
        ids = {"algoId": f"9{order.number}", "algoClOrdId": order.client_id, "clOrdId": ""}
        child = str(order.number) if triggered else ""
        return {
            **told,
            **ids,
            "ordId": child,
            "ordType": "conditional",
            "slTriggerPx": _text(order.trigger or 0),
            "slOrdPx": "-1",
            "state": state,
        }
    ids = {"ordId": str(order.number), "clOrdId": "" if order.trigger is not None else order.client_id}
    if order.trigger is not None:
        ids |= {"algoId": f"9{order.number}", "algoClOrdId": order.client_id}
    return {
        **told,
        **ids,
        "ordType": "limit" if order.type == "limit" else "market",
        "px": _text(order.price) if order.price else "",
        "accFillSz": _text(order.filled),
        "avgPx": _text(order.paid / order.filled) if order.filled else "",
        "state": state,
        "fee": "0",
        "feeCcy": listing.quote,
    }


def _trade(exchange: SpotExchange, trade: Trade) -> dict[str, Any]:
    listing = exchange.listings[trade.order.symbol]
    return {
        "instId": f"{listing.base}-{listing.quote}",
        "instType": "SPOT",
        "tradeId": trade.id,
        "billId": str(trade.number),
        "ordId": str(trade.order.number),
        "clOrdId": "" if trade.order.trigger is not None else trade.order.client_id,
        "side": trade.order.side,
        "fillPx": _text(trade.price),
        "fillSz": _text(trade.quantity),
        "fee": _text(-trade.fee),
        "feeCcy": trade.fee_currency,
        "ts": str(trade.time),
        "execType": "T",
    }


def _text(value: Decimal | int) -> str:
    return format(Decimal(value), "f")
