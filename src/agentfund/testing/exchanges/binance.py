"""How Binance's spot market speaks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from agentfund.testing.exchanges.market import FOR_EVER, Candle, Page, Push, Reply, Shop, ms

_UNITS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_KINDS = ("trade", "bookTicker", "kline_")
_PAGE = 1000
_LONGEST = 4088


def _interval(name: str) -> timedelta:
    return int(name[:-1]) * _UNITS[name[-1]]


def _name(interval: timedelta) -> str:
    for unit in "dhms":
        if interval % _UNITS[unit] == timedelta(0):
            return f"{interval // _UNITS[unit]}{unit}"
    raise ValueError(f"no candles of {interval}")


class BinanceWire:
    """Binance: confirms streams of symbols that it does not have, and says nothing to a long message."""

    def hear(self, text: str, path: str, topics: Sequence[str], shop: Shop) -> Reply:
        """Answer a client's message."""
        if len(text) > _LONGEST:
            return Reply()
        try:
            asked = json.loads(text)
        except ValueError as error:
            return Reply((_refusal(3, f"Invalid JSON: {error}", None),))
        number, method = asked.get("id"), asked.get("method")
        if method == "SUBSCRIBE":
            wrong = [each for each in asked["params"] if not each.partition("@")[2].startswith(_KINDS)]
            if wrong:
                return Reply((_refusal(2, "Invalid request: invalid stream", number),))
            return Reply((json.dumps({"result": None, "id": number}),), asked["params"])
        if method == "LIST_SUBSCRIPTIONS":
            return Reply((json.dumps({"result": sorted(topics), "id": number}),))
        return Reply((_refusal(2, f"Invalid request: unknown variant `{method}`", number),))

    def trade(self, pair: tuple[str, str], key: str, price: str, volume: str, time: datetime, shop: Shop) -> Push:
        """Return the message of a trade."""
        known = "".join(pair)
        body = {"e": "trade", "E": ms(shop.now), "s": known, "t": int(key), "p": price, "q": volume}
        return Push(f"{known.lower()}@trade", body | {"T": ms(time), "m": True, "M": True})

    def candle(self, pair: tuple[str, str], candle: Candle, shop: Shop, *, closed: bool) -> Push:
        """Return the message of a candle."""
        known, named = "".join(pair), _name(candle.interval)
        row = {"t": ms(candle.start), "T": ms(candle.end) - 1, "s": known, "i": named, "f": 100, "L": 200}
        row |= {"o": candle.open, "c": candle.close, "h": candle.high, "l": candle.low, "v": candle.volume, "n": 100}
        row |= {"x": closed, "q": "1.0000", "V": "0.5", "Q": "0.500", "B": "0"}
        return Push(f"{known.lower()}@kline_{named}", {"e": "kline", "E": ms(shop.now), "s": known, "k": row})

    def best(self, pair: tuple[str, str], bid: str | None, ask: str | None, shop: Shop) -> Push:
        """Return the message of the best prices."""
        known = "".join(pair)
        body = {"u": 400900217, "s": known, "b": bid or "0.00000000", "B": "31.21", "a": ask or "0.00000000", "A": "40.66"}
        return Push(f"{known.lower()}@bookTicker", body)

    def get(self, path: str, query: Mapping[str, str], shop: Shop) -> Page:
        """Answer a question to the REST API."""
        pairs = {"".join(pair): pair for pair in shop.pairs}
        if path == "/api/v3/exchangeInfo":
            asked = json.loads(query["symbols"])
            if not all(each in pairs for each in asked):
                return Page(400, {"code": -1121, "msg": "Invalid symbol."})
            return Page(
                200, {"timezone": "UTC", "serverTime": ms(shop.now), "symbols": [_symbol(pairs[each]) for each in asked]}
            )
        if path == "/api/v3/klines":
            pair = pairs.get(query["symbol"])
            if pair is None:
                return Page(400, {"code": -1121, "msg": "Invalid symbol."})
            found = shop.within(
                pair, _interval(query["interval"]), int(query["startTime"]), int(query.get("endTime", FOR_EVER))
            )
            return Page(200, [_row(each) for each in found[: shop.page(min(int(query["limit"]), _PAGE))]])
        return Page(404, b"<html>Not Found</html>")


def _refusal(code: int, said: str, number: object) -> str:
    return json.dumps({"error": {"code": code, "msg": said}, "id": number})


def _symbol(pair: tuple[str, str]) -> dict[str, Any]:
    filters = [
        {"filterType": "PRICE_FILTER", "minPrice": "0.01000000", "maxPrice": "1000000.00000000", "tickSize": "0.01000000"},
        {"filterType": "LOT_SIZE", "minQty": "0.00001000", "maxQty": "9000.00000000", "stepSize": "0.00001000"},
    ]
    return {"symbol": "".join(pair), "status": "TRADING", "baseAsset": pair[0], "quoteAsset": pair[1], "filters": filters}


def _row(candle: Candle) -> list[Any]:
    prices = [candle.open, candle.high, candle.low, candle.close, candle.volume]
    return [ms(candle.start), *prices, ms(candle.end) - 1, "1.00", 100, "0.5", "0.5", "0"]
