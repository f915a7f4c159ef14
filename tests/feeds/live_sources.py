"""Sources of live data that tests are made of: recorded ones that lose, delay, freeze and refuse, and one told by hand."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from agentfund.clock import JumpingClock
from agentfund.errors import FeedError
from agentfund.feeds.live import Live
from agentfund.feeds.recorded import Recorded
from agentfund.feeds.ticks import TickColumns, bars_from_ticks
from agentfund.market import Alive, Bar, Heard, Instrument, Market, Tick

BEGIN = datetime(2024, 3, 1, 9, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def at(seconds: float) -> datetime:
    """Return a moment, counted from 9:30."""
    return BEGIN + timedelta(seconds=seconds)


def ticks(count: int, *, seed: int = 1, every_s: float = 3.0, late_s: float = 0.0) -> TickColumns:
    """Return ticks from 9:30 on, about so far apart, in order of arrival; some lie up to `late_s` behind the one before."""
    random = np.random.default_rng(seed)
    begin = np.datetime64(BEGIN.replace(tzinfo=None), "us").astype(np.int64)
    time = begin + 1 + np.cumsum(random.integers(1, int(2e6 * every_s), count))
    arrives = time + random.integers(0, int(1e6 * late_s) + 1, count)
    time = time[arrives.argsort(kind="stable")]
    price = np.round(100 + np.cumsum(random.normal(0, 0.05, count)), 2)
    return TickColumns(time, price, random.integers(1, 500, count).astype(np.float64))


def whole(symbol: str, columns: TickColumns, interval: timedelta = MINUTE) -> list[Bar]:
    """Return the bars of all ticks, the last of which may be unfinished."""
    order = columns.time.argsort(kind="stable")
    time, price, volume = columns.time[order], columns.price[order], columns.volume
    bars = bars_from_ticks(symbol, interval, time, price, None if volume is None else volume[order])
    return list(_bars(bars.columns[symbol]))


def _bars(columns: Any) -> Sequence[Bar]:
    from agentfund.market import Window

    window = Window(columns, len(columns))
    return [window.bar(i) for i in range(len(window))]


class Flaky(Recorded):
    """A recording over a bad line.

    Args:
        data: what was recorded.
        cuts: seconds from the start at which the connection ends.
        frozen: spans in seconds from the start in which a connection falls silent for good, without being closed.
        refused: spans in seconds from the start in which it cannot be connected to.
        unanswered: spans in seconds from the start in which the REST API fails.
        late_s: how long the REST API takes to have a bar.
        start: where the clock starts.
        offset: moves the starts of bars.
    """

    def __init__(
        self,
        data: Any,
        *,
        cuts: Sequence[float] = (),
        frozen: Sequence[tuple[float, float]] = (),
        refused: Sequence[tuple[float, float]] = (),
        unanswered: Sequence[tuple[float, float]] = (),
        late_s: float = 0.0,
        start: datetime | None = None,
        offset: timedelta = timedelta(0),
    ) -> None:
        super().__init__(data, speed=math.inf, start=start, offset=offset)
        self.began = self.clock.now()
        self.cuts = sorted(cuts)
        self.frozen, self.refused, self.unanswered, self.late_s = frozen, refused, unanswered, late_s
        self.connected: list[float] = []
        self.asked: list[float] = []

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return (self.clock.now() - self.began).total_seconds()

    async def connect(self) -> AsyncGenerator[Heard]:
        """Connect over the bad line."""
        began = self.seconds()
        self.connected.append(began)
        if any(a <= began < b for a, b in self.refused):
            raise FeedError("the exchange is down; wait")
        ends = next((cut for cut in self.cuts if cut > began), math.inf)
        async with aclosing(super().connect()) as told:
            async for item in told:
                now = self.seconds()
                if now >= ends:
                    self.over = False
                    return
                if any(a <= now < b for a, b in self.frozen):
                    await self.clock.sleep(1e9)
                yield item

    async def history(self, symbol: str, interval: timedelta, start: datetime, end: datetime) -> Sequence[Bar]:
        """Answer as far as the REST API can."""
        now = self.seconds()
        self.asked.append(now)
        if any(a <= now < b for a, b in self.unanswered):
            raise FeedError("the REST API answers 503; wait")
        made = self.clock.now() - timedelta(seconds=self.late_s)
        return [bar for bar in await super().history(symbol, interval, start, end) if bar.end <= made]


class Told:
    """A source that says what a test tells it, when the test says so; `None` ends the connection.

    Args:
        script: seconds from 9:30 and what is said then; an exception is raised.
        past: what the REST API has.
        symbols: what is subscribed to.
        ends: seconds from 9:30 at which it is over for good.
    """

    name = "told"

    def __init__(
        self,
        script: Sequence[tuple[float, Heard | Exception | None]],
        *,
        past: Sequence[Bar] = (),
        symbols: Sequence[str] = ("A",),
        start_s: float = 0.0,
        ends: float = math.inf,
    ) -> None:
        self.instruments = tuple(Instrument(symbol) for symbol in symbols)
        self.clock = JumpingClock(at(start_s))
        self.script = sorted(script, key=lambda each: each[0])
        self.past = list(past)
        self.ends = ends
        self.over = False
        self.open = 0
        self.connected: list[float] = []
        self.asked: list[tuple[str, datetime, datetime]] = []
        self.fail: Exception | None = None

    async def connect(self) -> AsyncGenerator[Heard]:
        """Say what is due."""
        began = (self.clock.now() - BEGIN).total_seconds()
        self.connected.append(began)
        self.open += 1
        try:
            for when, item in [each for each in self.script if each[0] >= began]:
                await self.clock.sleep((at(when) - self.clock.now()).total_seconds())
                self.script.remove((when, item))
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
            left = (at(min(self.ends, 1e8)) - self.clock.now()).total_seconds()
            if left > 0:
                await self.clock.sleep(left)
            self.over = self.ends < math.inf
        finally:
            self.open -= 1

    async def history(self, symbol: str, interval: timedelta, start: datetime, end: datetime) -> Sequence[Bar]:
        """Return what a test put there."""
        self.asked.append((symbol, start, end))
        await asyncio.sleep(0)
        if self.fail is not None:
            raise self.fail
        return [bar for bar in self.past if bar.symbol == symbol and start <= bar.start and bar.end <= end]


def tick(seconds: float, price: float, symbol: str = "A", volume: float = 1.0) -> tuple[float, Heard]:
    """Return a trade that is told when it happens."""
    return seconds, Tick("told", symbol, price, volume, at(seconds))


def alive(begin: float, end: float, step: float = 5.0) -> list[tuple[float, Heard]]:
    """Return signs of life."""
    return [(begin + i * step, Alive()) for i in range(int((end - begin) / step) + 1)]


def bar(minute: int, close: float, symbol: str = "A", *, volume: float = 10.0) -> Bar:
    """Return the bar of a minute from 9:30 on."""
    return Bar(symbol, at(60 * minute), at(60 * minute + 60), close, close + 1, close - 1, close, volume)


def live(source: Any, **options: Any) -> Live:
    """Return a live feed of minutes by the source's clock, without history unless asked for."""
    options.setdefault("back", 0)
    return Live(source, interval=options.pop("interval", MINUTE), clock=source.clock, **options)


async def moments(feed: Any, most: int = 10**6, after: datetime | None = None) -> list[Market]:
    """Return what a feed gives, at most so many moments."""
    given: list[Market] = []
    async with aclosing(feed.stream(after)) as stream:
        async for market in stream:
            given.append(market)
            if len(given) == most:
                break
    return given


def bars(given: Sequence[Market], symbol: str = "A") -> list[Bar]:
    """Return the bars that were handed out of an instrument."""
    return [market[symbol].last for market in given if symbol in market.updated]
