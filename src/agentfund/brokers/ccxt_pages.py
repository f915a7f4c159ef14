"""Trades of an account, page by page, within the windows of time that each exchange allows.

A window is followed by one that begins where it ended, so the trades of that millisecond come twice and none is missing;
whoever counts them knows them by their ids.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from agentfund.brokers.ccxt_wire import Wire
from agentfund.errors import BrokerUnavailable

Told = list[Mapping[str, Any]]
_log = logging.getLogger("agentfund")
_HOUR = 3_600_000
_DAY = 24 * _HOUR
_OVERLAP = 10 * 60_000
_RECENT = 3 * _DAY - _HOUR
"""How far back OKX tells trades as they happen; its longer history comes late."""


class Pages:
    """Reads trades of one account; all times are milliseconds since 1970 by the exchange's clock.

    Args:
        wire: the way to the exchange.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._from: dict[str, int] = {}
        self._warned = False

    async def since(self, symbol: str, since: int) -> Told:
        """Return every trade of a symbol from a moment on, in any order; one may come twice.

        Raises:
            BrokerUnavailable: a page cannot be had; then none counts.
        """
        reach = self._wire.dialect.reach_days * _DAY
        if reach and since < (first := self._wire.now_ms() - reach + _HOUR):
            if not self._warned:
                _log.warning("%s tells no trade older than %s days", self._wire.name, self._wire.dialect.reach_days)
            since, self._warned = first, True
        ask = {"number": self._by_number, "cursor": self._by_cursor, "bill": self._by_bill, "time": self._by_time}
        return await ask[self._wire.dialect.pages](symbol, since)

    def counted(self, symbol: str, told: Told) -> None:
        """These trades are counted: by numbers, the next question begins a little before the newest of them."""
        if self._wire.dialect.pages == "number" and told:
            newest = max(_time(one) for one in told)
            self._from[symbol] = min(int(one["id"]) for one in told if _time(one) >= newest - _OVERLAP)

    async def _ask(self, symbol: str, start: int | None = None, more: Mapping[str, Any] | None = None) -> Told:
        size = self._wire.dialect.page
        return list(await self._wire.read("the trades", self._wire.ex.fetch_my_trades, symbol, start, size, dict(more or {})))

    # -- Binance: numbers, and a day at most between two times -----------------------------------------------------

    async def _by_number(self, symbol: str, since: int) -> Told:
        size = self._wire.dialect.page
        if symbol in self._from:
            return await self._from_number(symbol, self._from[symbol])
        newest = await self._ask(symbol)
        if len(newest) < size or min(_time(one) for one in newest) < since:
            return [one for one in newest if _time(one) >= since]
        first = await self._earliest(symbol, since, min(_time(one) for one in newest))
        return first + await self._from_number(symbol, max(int(one["id"]) for one in first) + 1)

    async def _from_number(self, symbol: str, number: int) -> Told:
        found: Told = []
        while True:
            told = await self._ask(symbol, None, {"fromId": str(number)})
            found += told
            if len(told) < self._wire.dialect.page:
                return found
            number = max(int(one["id"]) for one in told) + 1

    async def _earliest(self, symbol: str, since: int, known: int) -> Told:
        """Return the earliest trades from a moment on: a window that has some, and fewer than a page, so all of its own."""
        start, span = since, _DAY
        while start <= known:
            told = await self._ask(symbol, start, {"until": start + span})
            if len(told) >= self._wire.dialect.page:
                span //= 2
                if not span:
                    raise BrokerUnavailable(f"{self._wire.name} tells more trades of {symbol} in a millisecond than on a page")
            elif told:
                return told
            else:
                start += span  # after a full window the next trades are near: it stays as narrow
        raise BrokerUnavailable(f"{self._wire.name} told trades of {symbol} and does not tell them again")

    # -- Bybit: a cursor, and a week at most between two times -----------------------------------------------------

    async def _by_cursor(self, symbol: str, since: int) -> Told:
        found: Told = []
        start, span = since, self._wire.dialect.window_days * _DAY
        while True:
            last = start + span > self._wire.now_ms() + _HOUR  # without an end it is as long, and reaches beyond now
            found += await self._cursor(symbol, start, {} if last else {"until": start + span})
            if last:
                return found
            start += span

    async def _cursor(self, symbol: str, start: int, window: Mapping[str, Any]) -> Told:
        found: Told = []
        params = dict(window)
        while True:
            told = await self._ask(symbol, start, params)
            found += told
            cursor = next((one["info"]["nextPageCursor"] for one in told if one["info"].get("nextPageCursor")), "")
            if not cursor or cursor == params.get("cursor"):
                return found
            params = {**window, "cursor": cursor}

    # -- OKX: bills, in one list that is up to date and in one that reaches back ------------------------------------

    async def _by_bill(self, symbol: str, since: int) -> Told:
        recent = self._wire.now_ms() - _RECENT
        older = await self._bills(symbol, since, recent=False) if since < recent else []
        return older + await self._bills(symbol, max(since, recent), recent=True)

    async def _bills(self, symbol: str, since: int, *, recent: bool) -> Told:
        found: Told = []
        more: dict[str, Any] = {}
        while True:
            told = await (self._fills(symbol, since, more) if recent else self._ask(symbol, since, more))
            found += told
            if len(told) < self._wire.dialect.page:
                return found
            more = {"after": min((str(one["info"]["billId"]) for one in told), key=lambda bill: (len(bill), bill))}

    async def _fills(self, symbol: str, since: int, more: Mapping[str, Any]) -> Told:
        """The unified question of ccxt goes to the list that comes late."""
        market = await self._wire.market(symbol)
        asked = {"instType": "SPOT", "instId": market["id"], "begin": str(since), "limit": "100", **more}
        answer = await self._wire.read("the trades", self._wire.ex.privateGetTradeFills, asked)
        if not isinstance(answer.get("data"), list):
            raise BrokerUnavailable(f"{self._wire.name} answered the question for trades with something else")
        return list(self._wire.ex.parse_trades(answer["data"], market))

    # -- others: ccxt's unified way ---------------------------------------------------------------------------------

    async def _by_time(self, symbol: str, since: int) -> Told:
        found: Told = []
        while True:
            told = await self._ask(symbol, since)
            found += told
            if len(told) < self._wire.dialect.page:
                return found
            newest = max(_time(one) for one in told)
            if newest <= since:
                raise BrokerUnavailable(f"{self._wire.name} tells more trades of {symbol} in a millisecond than on a page")
            since = newest


def _time(told: Mapping[str, Any]) -> int:
    return int(told["timestamp"])
