"""How Bybit's spot market speaks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from agentfund.testing.exchanges.market import FOR_EVER, Candle, Page, Push, Reply, Shop, ms

_PAGE = 1000
_MOST = 10


def _interval(name: str) -> timedelta:
    return timedelta(days=1) if name == "D" else timedelta(minutes=int(name))


def _name(interval: timedelta) -> str:
    return "D" if interval == timedelta(days=1) else str(interval // timedelta(minutes=1))


class BybitWire:
    """Bybit: refuses a subscription as a whole where it does not know one of its symbols."""

    def hear(self, text: str, path: str, topics: Sequence[str], shop: Shop) -> Reply:
        """Answer a client's message."""
        asked = json.loads(text)
        number, op, args = asked.get("req_id", ""), asked.get("op"), asked.get("args", [])
        answer = {"success": True, "ret_msg": "", "conn_id": "5e079fdd-9c7f-404d", "req_id": number, "op": op}
        if op == "ping":
            return Reply((json.dumps(answer | {"ret_msg": "pong"}),))
        if op != "subscribe":
            return Reply((json.dumps(answer | {"success": False, "ret_msg": "error:invalid op"}),))
        if len(args) > _MOST:
            return Reply((json.dumps(answer | {"success": False, "ret_msg": "args size >10"}),))
        pairs = {"".join(pair) for pair in shop.pairs}
        wrong = [topic for topic in args if topic.rpartition(".")[2] not in pairs]
        if wrong:
            return Reply((json.dumps(answer | {"success": False, "ret_msg": f"Invalid symbol :[{wrong[0]}]"}),))
        return Reply((json.dumps(answer | {"ret_msg": "subscribe"}),), args)

    def trade(self, pair: tuple[str, str], key: str, price: str, volume: str, time: datetime, shop: Shop) -> Push:
        """Return the message of a trade."""
        known = "".join(pair)
        row = {"i": key, "T": ms(time), "p": price, "v": volume, "S": "Buy", "s": known, "BT": False}
        topic = f"publicTrade.{known}"
        return Push(topic, {"topic": topic, "ts": ms(shop.now), "type": "snapshot", "data": [row]})

    def candle(self, pair: tuple[str, str], candle: Candle, shop: Shop, *, closed: bool) -> Push:
        """Return the message of a candle."""
        named = _name(candle.interval)
        row = {"start": ms(candle.start), "end": ms(candle.end) - 1, "interval": named, "open": candle.open}
        row |= {"close": candle.close, "high": candle.high, "low": candle.low, "volume": candle.volume}
        row |= {"turnover": "34666.4", "confirm": closed, "timestamp": ms(shop.now)}
        topic = f"kline.{named}.{''.join(pair)}"
        return Push(topic, {"topic": topic, "type": "snapshot", "ts": ms(shop.now), "data": [row]})

    def best(self, pair: tuple[str, str], bid: str | None, ask: str | None, shop: Shop) -> Push:
        """Return the message of the best prices."""
        known = "".join(pair)
        data = {"s": known, "b": [[bid, "0.5"]] if bid else [], "a": [[ask, "0.7"]] if ask else [], "u": 18521288, "seq": 1}
        topic = f"orderbook.1.{known}"
        return Push(topic, {"topic": topic, "type": "snapshot", "ts": ms(shop.now), "data": data})

    def get(self, path: str, query: Mapping[str, str], shop: Shop) -> Page:
        """Answer a question to the REST API."""
        pairs = {"".join(pair): pair for pair in shop.pairs}
        pair = pairs.get(query.get("symbol", ""))
        if path == "/v5/market/instruments-info":
            return _page(shop, 0, "OK", {"category": "spot", "list": [] if pair is None else [_symbol(pair)]})
        if path == "/v5/market/kline":
            if pair is None:
                return _page(shop, 10001, "Not supported symbols", {})
            found = shop.within(pair, _interval(query["interval"]), int(query["start"]), int(query.get("end", FOR_EVER)))
            rows = [_row(each) for each in reversed(found)][: shop.page(min(int(query["limit"]), _PAGE))]
            return _page(shop, 0, "OK", {"category": "spot", "symbol": query["symbol"], "list": rows})
        return Page(404, b"<html>Not Found</html>")


def _page(shop: Shop, code: int, said: str, result: dict[str, Any]) -> Page:
    return Page(200, {"retCode": code, "retMsg": said, "result": result, "retExtInfo": {}, "time": ms(shop.now)})


def _symbol(pair: tuple[str, str]) -> dict[str, Any]:
    lots = {"basePrecision": "0.000001", "quotePrecision": "0.0000001", "minOrderQty": "0.000048", "maxOrderQty": "71.7"}
    known = {"symbol": "".join(pair), "baseCoin": pair[0], "quoteCoin": pair[1], "status": "Trading"}
    return known | {"lotSizeFilter": lots, "priceFilter": {"tickSize": "0.01"}}


def _row(candle: Candle) -> list[str]:
    prices = [candle.open, candle.high, candle.low, candle.close, candle.volume]
    return [str(ms(candle.start)), *prices, "1.00"]
