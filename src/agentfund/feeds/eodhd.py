"""EODHD, live and past: trades and quotes by websocket, bars by REST; one market a source."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import quote

from agentfund.clock import EPOCH, SystemClock, utc
from agentfund.errors import ConfigError, FeedError
from agentfund.feeds.eodhd_frames import REFUSALS, Frames, parsed, refuse, status_of
from agentfund.feeds.eodhd_rows import LeftOut, bars_of
from agentfund.feeds.eodhd_symbols import EodhdMarket, Listed, listed, markets, normal
from agentfund.feeds.wire_address import address
from agentfund.feeds.wire_refusals import Refusals, TooMany
from agentfund.feeds.wire_rest import Rest
from agentfund.feeds.wire_rows import ceiling, floor, merged
from agentfund.feeds.wire_socket import Socket, opened
from agentfund.feeds.wire_values import shown
from agentfund.market import Alive, Bar, Heard, Instrument
from agentfund.secrets import Secret

if TYPE_CHECKING:
    from agentfund.protocols import Clock

_URL = "wss://ws.eodhistoricaldata.com/ws"
_REST_URL = "https://eodhd.com/api"
_BATCH = 50
_NAME = "EODHD"
_REST_REFUSALS = Refusals(
    {
        400: "EODHD does not take the request: check symbol and interval",
        401: "the token is wrong: set EODHD_API_TOKEN to the one of your EODHD account",
        402: "the plan's API calls are used up: wait for midnight GMT, or raise the limit in your EODHD account",
        403: "the token or its plan has no access: check EODHD_API_TOKEN and the plan of your EODHD account",
        404: "EODHD does not know this symbol: look it up there",
        422: "EODHD does not take the request: check symbol and interval",
    }
    | dict.fromkeys((301, 302, 303, 307, 308), "check rest_url"),
    otherwise="try again later, and see EODHD's status page if it stays",
    final=(401, 404),  # a plan without history may have the stream, and calls that are used up come back
)

_MINUTE, _DAY = timedelta(minutes=1), timedelta(days=1)
_UNITS = (  # what the REST API has: length of a bar, its name, and the longest range of a request
    (timedelta(hours=1), "1h", timedelta(days=7200)),
    (timedelta(minutes=5), "5m", timedelta(days=600)),
    (_MINUTE, "1m", timedelta(days=120)),
)


class EODHD:
    """A source of one of EODHD's markets; give it to a `Live` feed.

    US trades are those of all exchanges, before and after hours too. Past bars of stocks are therefore made of EODHD's
    one-minute rows, which come from the same tape; its longer rows come from a single venue. Forex and crypto have no such
    difference and use rows of 5 minutes and 1 hour where they fit. EODHD finishes its rows 2 to 3 hours after the close:
    until then history can be late, and can change.

    Args:
        symbols: what to subscribe to, in any of EODHD's forms (`AAPL`, `AAPL.US`, `EUR/USD`, `BTC-USD.CC`); instruments keep
            their steps. Every symbol is given out in one form: `AAPL`, `EURUSD`, `BTC-USD`.
        token: of the EODHD account; None takes it from the environment, `EODHD_API_TOKEN`.
        market: `us` for trades of US stocks, `us-quote` for their quotes, `forex`, or `crypto`.
        mids: whether a quote is a tick of its mid as well, with a volume of zero, so that bars can be made; None is yes for
            forex, which has no trades, and no for `us-quote`.
        adjusted: whether daily bars are scaled to the adjusted close. Other bars and ticks never are.
        url: address of the websockets, without the market.
        rest_url: address of the REST API.
        connect_s: seconds that connecting and logging in may take.
        alive_s: seconds of silence after which the server is asked whether it lives.
        deadline_s: seconds that `history` may take in all, retries included.
        timeout_s: seconds for one request.
        clock: where the time comes from.

    Attributes:
        name: `eodhd-` and the market.
        left_out: rows of the REST API that no bar was made of, counted.

    Raises:
        ConfigError: there is no symbol or no token, or a value cannot be.
    """

    def __init__(
        self,
        symbols: Sequence[Instrument | str],
        *,
        token: str | Secret | None = None,
        market: EodhdMarket = "us",
        mids: bool | None = None,
        adjusted: bool = False,
        url: str = _URL,
        rest_url: str = _REST_URL,
        connect_s: float = 10.0,
        alive_s: float = 10.0,
        deadline_s: float = 60.0,
        timeout_s: float = 20.0,
        clock: Clock | None = None,
    ) -> None:
        if market not in markets():
            raise ConfigError(f"EODHD has no market {market!r}; it has {', '.join(markets())}")
        if not symbols or isinstance(symbols, str):
            raise ConfigError('EODHD needs a list of symbols, such as ["AAPL"]')
        for name, value in (
            ("connect_s", connect_s),
            ("alive_s", alive_s),
            ("deadline_s", deadline_s),
            ("timeout_s", timeout_s),
        ):
            if not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be a positive number of seconds, not {value}")
        given = token if token is not None else os.environ.get("EODHD_API_TOKEN", "")
        self._token = Secret(given) if isinstance(given, str) else given
        if not self._token:
            raise ConfigError("EODHD needs a token: set EODHD_API_TOKEN, or give token=")
        self.name = f"eodhd-{market}"
        self._market: EodhdMarket = market
        self._listed: dict[str, Listed] = {}
        for each in symbols:
            found = listed(each, market)
            if found.instrument.symbol in self._listed:
                raise ConfigError(f"{found.instrument.symbol} is given twice; give each symbol once")
            self._listed[found.instrument.symbol] = found
        self._adjusted = adjusted
        self._url = address("url", url, ("wss", "ws"))
        self._rest_url = address("rest_url", rest_url, ("https", "http"))
        self._connect_s, self._alive_s = connect_s, alive_s
        self._deadline_s, self._timeout_s = deadline_s, timeout_s
        self._clock = clock or SystemClock()
        self._frames = Frames(market, self._listed, mids if mids is not None else market == "forex")
        self.left_out = LeftOut()
        self._stood = False

    def __repr__(self) -> str:
        return f"<EODHD {self._market}: {', '.join(self._listed)}>"

    @property
    def instruments(self) -> Sequence[Instrument]:
        """What is subscribed to."""
        return tuple(each.instrument for each in self._listed.values())

    @property
    def frames_left_out(self) -> int:
        """How many frames had no price, or a symbol that was not subscribed to."""
        return self._frames.left_out + self._frames.strangers

    @property
    def status(self) -> Mapping[str, str]:
        """What the last trade of each symbol said of its market: open, closed, extended-hours."""
        return MappingProxyType(self._frames.status)

    async def connect(self) -> AsyncGenerator[Heard, None]:
        """Connect once, log in, subscribe, and give what comes until the connection ends.

        Raises:
            FeedError: it cannot connect, the server refuses, or the connection broke; names the fix.
            ConfigError: the server refuses token, plan or symbols.
            BadData: a frame cannot be read; names the field.
            MissingExtra: websockets is not installed.
        """
        try:
            async with aclosing(self._connect()) as stream:
                async for heard in stream:
                    self._stood = True
                    yield heard
        except TooMany as error:
            raise error.judged(stood=self._stood) from None

    async def _connect(self) -> AsyncGenerator[Heard, None]:
        url = f"{self._url}/{self._market}?api_token={quote(self._token.reveal(), safe='')}"
        async with opened(_NAME, url, self._clock, REFUSALS, alive_s=self._alive_s, open_s=self._connect_s) as socket:
            await self._log_in(socket)
            await self._subscribe(socket)
            yield Alive()  # EODHD does not confirm subscriptions; from here on they are sent
            while (told := await socket.next()) is not None:
                for heard in (told,) if isinstance(told, Alive) else self._frames.take(told):
                    yield heard

    async def _log_in(self, socket: Socket) -> None:
        try:
            async with asyncio.timeout(self._connect_s):
                while (told := await socket.next()) is not None:
                    if isinstance(told, Alive):
                        continue
                    status = status_of(parsed(told))
                    if status is None:
                        raise FeedError(f"EODHD's websocket did not log in but sent {shown(told)}: check the address")
                    refuse(*status)
                    return
        except TimeoutError:
            raise FeedError(
                f"EODHD's websocket did not log in within {self._connect_s:g} s: check the address, and try again later"
            ) from None
        raise FeedError("EODHD's websocket closed without logging in: check EODHD_API_TOKEN and the plan of your account")

    async def _subscribe(self, socket: Socket) -> None:
        symbols = list(self._listed)
        for at in range(0, len(symbols), _BATCH):
            await socket.send(json.dumps({"action": "subscribe", "symbols": ",".join(symbols[at : at + _BATCH])}))

    async def history(self, symbol: str, interval: timedelta, start: datetime, end: datetime) -> Sequence[Bar]:
        """Return the closed bars that start at or after `start` and end by `end`, oldest first.

        Bars start at multiples of the interval since 1970 UTC. A day is a date, of the exchange for stocks and UTC for the
        rest; its bar is known at the next midnight UTC.

        Args:
            symbol: in any of EODHD's forms.
            interval: whole minutes that divide a day, or one day.
            start: aware.
            end: aware; nothing is given that has not ended by our clock and by the server's.

        Raises:
            FeedError: EODHD refuses or does not answer, or no row is on the grid.
            ConfigError: it refuses the token or does not know the symbol, which may be none of this source; or the interval
                cannot be.
            BadData: a row cannot be; names the row and the field.
        """
        found = self._known(symbol)
        if interval != _DAY and (interval < _MINUTE or interval % _MINUTE or _DAY % interval):
            raise ConfigError(f"EODHD has no bars of {interval}: ask for whole minutes that divide a day, or for one day")
        first, last = ceiling(utc(start), interval), floor(min(utc(end), self._clock.now()), interval)
        if first >= last:
            return []
        async with Rest(
            _NAME,
            self._rest_url,
            self._clock,
            _REST_REFUSALS,
            deadline_s=self._deadline_s,
            attempt_s=self._timeout_s,
            token=("api_token", self._token),
        ) as rest:
            if interval == _DAY:
                return await self._days(rest, found, first, last)
            return await self._intraday(rest, found, interval, first, last)

    def _known(self, symbol: str) -> Listed:
        found = self._listed.get(normal(symbol, self._market))
        if found is None:
            raise ConfigError(f"{symbol!r} is not among the symbols of this source: {', '.join(self._listed)}")
        return found

    async def _days(self, rest: Rest, found: Listed, first: datetime, last: datetime) -> list[Bar]:
        path = f"eod/{found.code}"
        asked = {"from": _day(first), "to": _day(last - _DAY), "period": "d"}
        rows, at = await _rows(rest, path, asked)
        bars = self._bars(rows, found, _DAY, f"EODHD {path} from {asked['from']}", adjusted=self._adjusted)
        return [bar for bar in bars if first <= bar.start and bar.end <= min(last, at or last)]

    async def _intraday(self, rest: Rest, found: Listed, interval: timedelta, first: datetime, last: datetime) -> list[Bar]:
        units = _UNITS[-1:] if self._market in ("us", "us-quote") else _UNITS
        unit, name, longest = next(each for each in units if not interval % each[0])
        path, bars, known_at = f"intraday/{found.code}", list[Bar](), last
        while first < last:
            until = min(last, floor(first + longest, unit))
            span = {"from": str(_unix(first)), "to": str(_unix(until - unit)), "interval": name}
            rows, at = await _rows(rest, path, span)
            page = self._bars(rows, found, unit, f"EODHD {path} {name} from {first.isoformat()}")
            bars += [bar for bar in page if first <= bar.start < until]
            first, known_at = until, min(known_at, at or known_at)
        return [bar for bar in merged(bars, interval) if bar.end <= known_at]

    def _bars(self, rows: Sequence[object], found: Listed, unit: timedelta, where: str, *, adjusted: bool = False) -> list[Bar]:
        before = self.left_out.off_grid
        symbol, has_volume = found.instrument.symbol, self._market != "forex"
        bars = bars_of(rows, symbol, unit, where, self.left_out, adjusted=adjusted, volume=has_volume)
        if not bars and self.left_out.off_grid > before:
            raise FeedError(f"{where}: none of {len(rows)} rows starts at a multiple of {unit}: ask for shorter bars")
        return bars


async def _rows(rest: Rest, path: str, asked: Mapping[str, str]) -> tuple[list[object], datetime | None]:
    """Return rows as they came, and what time it was at the server."""
    answer = await rest.get(f"/{path}", {**asked, "fmt": "json"})
    rows = [] if answer.body == {} else answer.body
    if not isinstance(rows, list):
        raise FeedError(f"EODHD answered {path} without rows ({shown(rows)}): check the plan of your EODHD account")
    return rows, answer.time


def _unix(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(seconds=1)


def _day(moment: datetime) -> str:
    return date(moment.year, moment.month, moment.day).isoformat()
