"""Alpaca's market data, live and past: closed minutes or trades by its stream, bars by REST, through alpaca-py."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from math import gcd
from typing import TYPE_CHECKING, Any, Literal

from agentfund.clock import SystemClock, utc
from agentfund.errors import BadData, ConfigError, FeedError
from agentfund.feeds.alpaca_data_frames import MINUTE, AlpacaFrames, bar_of
from agentfund.feeds.alpaca_data_minutes import Minutes
from agentfund.feeds.alpaca_data_sdk import AlpacaHistory, AlpacaWire, Login, Page, opened
from agentfund.feeds.wire_address import address
from agentfund.feeds.wire_refusals import TooMany
from agentfund.feeds.wire_retries import retried
from agentfund.feeds.wire_rows import ceiling, floor, merged
from agentfund.market import Alive, Bar, Heard, Instrument
from agentfund.secrets import Secret

if TYPE_CHECKING:
    from agentfund.protocols import Clock

_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)
_STEP = Decimal("1e-9")
_STOCK, _PAIR = re.compile(r"[A-Z0-9]+(\.[A-Z0-9]+)*"), re.compile(r"[A-Z0-9]+/[A-Z0-9]+")
_TRAVELS = timedelta(seconds=5)  # Alpaca sends a minute some seconds after its end


class AlpacaData:
    """A source of stocks or of crypto at Alpaca; give it to a `Live` feed.

    Alpaca sends a minute once it has closed, a few seconds later, and nothing for a minute without a trade. Longer bars
    are joined from these minutes on the grid, whole ones only; give the `Live` feed the same interval. With `bars=False`
    it gets trades and makes bars itself; these differ from Alpaca's bars, which leave trades with some conditions out.
    Halts of stocks and their ends are told as they happen; what was halted before the connection is not.

    Prices are as traded: neither the stream nor `history` is adjusted for splits and dividends.

    Args:
        symbols: what to subscribe to: `AAPL`, `BRK.B`; crypto as `BTC/USD` or `BTC-USD`. Instruments keep their steps.
        key: of the account; None takes it from the environment, `APCA_API_KEY_ID`.
        secret: of the account; None takes it from the environment, `APCA_API_SECRET_KEY`.
        feed: `iex` for trades of one exchange, which every account has; `sip` for those of all. For stocks only.
        crypto: whether the symbols are crypto and not stocks.
        bars: whether to subscribe to closed minutes, or to trades.
        quotes: whether to subscribe to quotes as well.
        interval: length of the bars that are made of minutes: whole minutes that divide a day.
        settle: how long behind its end a longer bar waits for its last minute.
        url: another address of the stream.
        rest_url: another address of the history.
        connect_s: seconds that connecting, logging in and subscribing may take each.
        alive_s: seconds of silence after which Alpaca is asked whether it lives.
        deadline_s: seconds that `history` may take in all, retries included.
        timeout_s: seconds for one request.
        clock: where the time comes from.

    Attributes:
        name: `alpaca-iex`, `alpaca-sip` or `alpaca-crypto`.
        partial: minutes that are in no bar, because their bar had begun before they were subscribed to.
        late: minutes that are in no bar, because they came after it was closed.
        lateness: how long behind its end a bar may come, which a `Live` feed waits for; None where bars are made of trades.

    Raises:
        ConfigError: there is no symbol or no key, or a value cannot be.
    """

    def __init__(
        self,
        symbols: Sequence[Instrument | str],
        *,
        key: str | Secret | None = None,
        secret: str | Secret | None = None,
        feed: Literal["iex", "sip"] = "iex",
        crypto: bool = False,
        bars: bool = True,
        quotes: bool = True,
        interval: timedelta = MINUTE,
        settle: timedelta = timedelta(seconds=10),
        url: str | None = None,
        rest_url: str | None = None,
        connect_s: float = 15.0,
        alive_s: float = 10.0,
        deadline_s: float = 60.0,
        timeout_s: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        if not symbols or isinstance(symbols, str):
            raise ConfigError('AlpacaData needs a list of symbols, such as ["AAPL"]')
        if feed not in ("iex", "sip"):
            raise ConfigError(f"Alpaca streams no feed {feed!r}: iex or sip")
        _whole_minutes(interval)
        if not bars and interval != MINUTE:
            raise ConfigError("interval= is for bars made of minutes; with bars=False the Live feed makes them of trades")
        for name, value in (
            ("connect_s", connect_s),
            ("alive_s", alive_s),
            ("deadline_s", deadline_s),
            ("timeout_s", timeout_s),
        ):
            if not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be a positive number of seconds, not {value}")
        if not timedelta(0) < settle < MINUTE:
            raise ConfigError(f"settle must lie between zero and a minute, not {settle}")
        self._instruments: dict[str, Instrument] = {}
        for each in symbols:
            made = _instrument(each, crypto=crypto)
            if made.symbol in self._instruments:
                raise ConfigError(f"{made.symbol} is given twice; give each symbol once")
            self._instruments[made.symbol] = made
        self.name = "alpaca-crypto" if crypto else f"alpaca-{feed}"
        self._login = Login(
            _key(key, "APCA_API_KEY_ID", "key"),
            _key(secret, "APCA_API_SECRET_KEY", "secret"),
            feed,
            crypto,
            address("url", url, ("wss", "ws")) if url is not None else None,
            address("rest_url", rest_url, ("https", "http")) if rest_url is not None else None,
        )
        wanted = (("bars", bars), ("updatedBars", bars), ("trades", not bars), ("quotes", quotes), ("statuses", not crypto))
        self._channels = {name: list(self._instruments) for name, is_wanted in wanted if is_wanted}
        self._interval, self._settle = interval, settle
        self._connect_s, self._alive_s = connect_s, alive_s
        self._deadline_s, self._timeout_s = deadline_s, timeout_s
        self._clock = clock or SystemClock()
        self._frames = AlpacaFrames(self._instruments)
        self.partial = self.late = 0
        self.lateness = settle + _TRAVELS if bars else None
        self.interval = interval if bars else None
        self._stood = False

    def __repr__(self) -> str:
        return f"<AlpacaData {self.name}: {', '.join(self._instruments)}>"

    @property
    def instruments(self) -> Sequence[Instrument]:
        """What is subscribed to."""
        return tuple(self._instruments.values())

    @property
    def revised(self) -> int:
        """How many minutes Alpaca corrected after they were given; what was given never changes."""
        return self._frames.revised

    @property
    def corrected(self) -> int:
        """How many trades Alpaca corrected or cancelled after they were given."""
        return self._frames.corrected

    @property
    def frames_left_out(self) -> int:
        """How many frames told a minute again, or were of no kind or symbol that was subscribed to."""
        return self._frames.repeated + self._frames.strangers

    async def connect(self) -> AsyncGenerator[Heard, None]:
        """Connect once, log in, subscribe, and give what comes until the connection ends.

        Raises:
            FeedError: it cannot connect, Alpaca refuses, or the connection broke.
            ConfigError: Alpaca refuses keys, plan or symbols, or this process has a connection already.
            BadData: a frame cannot be read; names kind, symbol and field.
        """
        try:
            async with aclosing(self._connect()) as stream:
                async for heard in stream:
                    self._stood = True
                    yield heard
        except TooMany as error:
            raise error.judged(stood=self._stood) from None

    async def _connect(self) -> AsyncGenerator[Heard, None]:
        async with opened(self._login, self._channels, self._connect_s) as wire:
            self._frames.begin()
            try:
                async with asyncio.timeout(self._connect_s):
                    frames = await wire.subscribe(self._channels)
            except TimeoutError:
                raise FeedError(f"Alpaca did not confirm the subscription in {self._connect_s:g} s: try again later") from None
            minutes = Minutes(self._interval, self._settle, self._clock.now())
            yield Alive()
            async with aclosing(self._read(wire, frames, minutes)) as stream:
                async for heard in stream:
                    yield heard

    async def _read(self, wire: AlpacaWire, frames: list[Any], minutes: Minutes) -> AsyncGenerator[Heard, None]:
        came: list[Any] | None = frames
        wait_s = 0.0
        while came is not None:
            if not came and wait_s >= self._alive_s:
                await wire.alive(self._alive_s)
                yield Alive()
            for frame in came:
                for heard in self._frames.take(frame):
                    if not isinstance(heard, Bar) or self._interval == MINUTE:
                        yield heard
                        continue
                    made = minutes.take(heard)
                    self._count(minutes)
                    for bar in made:
                        yield bar
            for bar in minutes.over(self._clock.now()):
                yield bar
            due_s = minutes.wait_s(self._clock.now())
            wait_s = self._alive_s if due_s is None else min(self._alive_s, due_s)
            came = await wire.receive(wait_s)

    def _count(self, minutes: Minutes) -> None:
        self.partial, minutes.partial = self.partial + minutes.partial, 0
        self.late, minutes.late = self.late + minutes.late, 0

    async def history(self, symbol: str, interval: timedelta, start: datetime, end: datetime) -> Sequence[Bar]:
        """Return the closed bars that start at or after `start` and end by `end`, oldest first.

        Bars start at multiples of the interval since 1970 UTC; a day is one of UTC, before and after hours included.

        Args:
            symbol: one of the source's.
            interval: whole minutes that divide a day.
            start: aware.
            end: aware; nothing is given that has not ended by our clock and by the server's.

        Raises:
            FeedError: Alpaca refuses or does not answer by the deadline.
            ConfigError: it refuses the keys, it is not a symbol of this source, or the interval cannot be.
            BadData: a row cannot be; names the row and the field.
        """
        known = _normal(symbol, crypto=self._login.crypto)
        if known not in self._instruments:
            raise ConfigError(f"{symbol!r} is not among the symbols of this source: {', '.join(self._instruments)}")
        _whole_minutes(interval)
        first, last = ceiling(utc(start), interval), floor(min(utc(end), self._clock.now()), interval)
        if first >= last:
            return []
        unit = MINUTE * gcd(interval // MINUTE, 60)  # Alpaca's days and longer hours begin in New York's time
        client = AlpacaHistory(self._login, self._timeout_s, self._clock)
        try:
            bars, known_at = await self._pages(client, known, unit, first, last)
        finally:
            client.close()
        return [bar for bar in merged(bars, interval) if bar.end <= known_at]

    async def _pages(
        self, client: AlpacaHistory, symbol: str, unit: timedelta, first: datetime, last: datetime
    ) -> tuple[list[Bar], datetime]:
        until = self._clock.monotonic() + self._deadline_s
        found: dict[datetime, Bar] = {}
        token: str | None = None
        seen: set[str] = set()
        known_at, number = last, 0
        while True:

            async def ask(token: str | None = token) -> Page:
                return await client.page(symbol, unit, first, last - unit, token)

            page = await retried(ask, self._clock, until)
            where = f"Alpaca bars of {symbol} from {first.isoformat()}, page {number}"
            for i, row in enumerate(page.rows):
                place = f"{where}, row {i}"
                if not isinstance(row, Mapping):
                    raise BadData(f"{place}: it is {row!r:.60}, no object with fields; ask the provider")
                bar = bar_of(row, symbol, unit, place)
                if found.setdefault(bar.start, bar) != bar:
                    raise BadData(f"{place}: it starts at {bar.start.isoformat()} as an earlier row, with other numbers")
            known_at, number, token = min(known_at, page.at or known_at), number + 1, page.token
            if token is None:
                return [found[start] for start in sorted(found) if first <= start < last], known_at
            if token in seen:
                raise FeedError(f"{where} names a page that was read before: ask for a shorter time, and tell the provider")
            seen.add(token)


def _key(given: str | Secret | None, variable: str, name: str) -> Secret:
    found = given if given is not None else os.environ.get(variable, "")
    key = Secret(found) if isinstance(found, str) else found
    if not key:
        raise ConfigError(f"Alpaca needs a key and a secret: set {variable}, or give {name}=")
    return key


def _whole_minutes(interval: timedelta) -> None:
    if interval < MINUTE or interval % MINUTE or _DAY % interval:
        raise ConfigError(f"Alpaca has no bars of {interval}: ask for whole minutes that divide a day")


def _normal(symbol: str, *, crypto: bool) -> str:
    """Return a symbol as Alpaca writes it: `AAPL`, `BRK.B`, `BTC/USD`."""
    plain = symbol.strip().upper()
    if crypto:
        plain = plain.replace("-", "/")
    if not (_PAIR if crypto else _STOCK).fullmatch(plain):
        example = "BTC/USD" if crypto else "AAPL or BRK.B; crypto=True is for crypto"
        raise ConfigError(f"{symbol!r} is no symbol of Alpaca's {'crypto' if crypto else 'stocks'}: write it as {example}")
    return plain


def _instrument(given: Instrument | str, *, crypto: bool) -> Instrument:
    symbol = _normal(given if isinstance(given, str) else given.symbol, crypto=crypto)
    if isinstance(given, Instrument):
        return replace(given, symbol=symbol)
    if crypto:
        return Instrument(symbol, tick_size=_STEP, lot_size=_STEP, currency=symbol.rpartition("/")[2])
    return Instrument(symbol)
