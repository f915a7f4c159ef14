"""How OKX's spot market speaks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from agentfund.testing.exchanges.market import Candle, Page, Push, Reply, Shop, ms

_UNITS = {"m": timedelta(minutes=1), "H": timedelta(hours=1), "D": timedelta(days=1)}
_PAGE = 300


def _interval(name: str) -> timedelta:
    bare = name.removesuffix("utc")
    return int(bare[:-1]) * _UNITS[bare[-1]]


def _name(interval: timedelta) -> str:
    unit = next(each for each in "DHm" if interval % _UNITS[each] == timedelta(0))
    return f"{interval // _UNITS[unit]}{unit}" + ("utc" if interval >= timedelta(hours=6) else "")


class OkxWire:
    """OKX: confirms each topic by itself; candles are on `/business`, all else is on `/public`."""

    def hear(self, text: str, path: str, topics: Sequence[str], shop: Shop) -> Reply:
        """Answer a client's message."""
        if text == "ping":
            return Reply(("pong",))
        try:
            asked = json.loads(text)
        except ValueError:
            asked = {}
        if asked.get("op") != "subscribe":
            return Reply((_refusal("60012", f"Illegal request: {text}"),))
        pairs = {"-".join(pair) for pair in shop.pairs}
        texts, taken = [], []
        for arg in asked["args"]:
            channel, known = arg["channel"], arg["instId"]
            place = "/business" if channel.startswith("candle") else "/public"
            if known not in pairs or not path.endswith(place):
                said = f"Wrong URL or channel:{channel},instId:{known} doesn't exist. Please use the correct URL."
                texts.append(_refusal("60018", said))
            else:
                texts.append(json.dumps({"event": "subscribe", "arg": arg, "connId": "a4d3ae55"}))
                taken.append(f"{channel}:{known}")
        return Reply(texts, taken)

    def trade(self, pair: tuple[str, str], key: str, price: str, volume: str, time: datetime, shop: Shop) -> Push:
        """Return the message of a trade."""
        known = "-".join(pair)
        row = {"instId": known, "tradeId": key, "px": price, "sz": volume, "side": "buy", "ts": str(ms(time)), "count": "1"}
        return _push("trades", known, row)

    def candle(self, pair: tuple[str, str], candle: Candle, shop: Shop, *, closed: bool) -> Push:
        """Return the message of a candle."""
        return _push(f"candle{_name(candle.interval)}", "-".join(pair), _row(candle, closed=closed))

    def best(self, pair: tuple[str, str], bid: str | None, ask: str | None, shop: Shop) -> Push:
        """Return the message of the best prices."""
        sides = {"asks": [[ask, "1.88", "0", "17"]] if ask else [], "bids": [[bid, "0.57", "0", "2"]] if bid else []}
        return _push("bbo-tbt", "-".join(pair), sides | {"ts": str(ms(shop.now)), "seqId": 363996337})

    def get(self, path: str, query: Mapping[str, str], shop: Shop) -> Page:
        """Answer a question to the REST API."""
        pair = {"-".join(pair): pair for pair in shop.pairs}.get(query.get("instId", ""))
        if path not in ("/api/v5/public/instruments", "/api/v5/market/candles", "/api/v5/market/history-candles"):
            return Page(404, b"<html>Not Found</html>")
        if pair is None:
            return Page(
                200, {"code": "51001", "msg": "Instrument ID, Instrument ID code, or Spread ID doesn't exist.", "data": []}
            )
        if path == "/api/v5/public/instruments":
            return Page(200, {"code": "0", "msg": "", "data": [_symbol(pair)]})
        low, high = int(query["before"]) + 1, int(query["after"]) - 1
        found = shop.within(pair, _interval(query["bar"]), low, high)
        if path.endswith("history-candles"):  # it has closed ones only
            found = [each for each in found if each.end <= shop.now]
        rows = [_row(each, closed=each.end <= shop.now) for each in reversed(found)]
        return Page(200, {"code": "0", "msg": "", "data": rows[: shop.page(min(int(query["limit"]), _PAGE))]})


def _refusal(code: str, said: str) -> str:
    return json.dumps({"event": "error", "code": code, "msg": said, "connId": "a4d3ae55"})


def _push(channel: str, known: str, row: Any) -> Push:
    return Push(f"{channel}:{known}", {"arg": {"channel": channel, "instId": known}, "data": [row]})


def _symbol(pair: tuple[str, str]) -> dict[str, Any]:
    known = {"instType": "SPOT", "instId": "-".join(pair), "baseCcy": pair[0], "quoteCcy": pair[1], "state": "live"}
    return known | {"tickSz": "0.1", "lotSz": "0.00000001", "minSz": "0.00001"}


def _row(candle: Candle, *, closed: bool) -> list[str]:
    prices = [candle.open, candle.high, candle.low, candle.close, candle.volume]
    return [str(ms(candle.start)), *prices, "241.27", "241.27", "1" if closed else "0"]
