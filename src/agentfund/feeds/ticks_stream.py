"""Bars from ticks as they come: see `agentfund.feeds.ticks_rules` for the rules."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from agentfund.clock import from_micros, to_micros
from agentfund.errors import BadData
from agentfund.feeds.ticks_rules import NEVER, Dollars, Ticks, Volume
from agentfund.market import Bar

if TYPE_CHECKING:
    from datetime import datetime

    from agentfund.market import Tick

INF = math.inf


class TickBars(ABC):
    """Bars from ticks as they come; `tick_bars` makes one.

    Args:
        symbol: what the bars are of.

    Attributes:
        late: ticks that came too late and are in no bar.
    """

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.late = 0

    def add(self, tick: Tick) -> tuple[Bar, ...]:
        """Take a tick, and return the bars that closed with it: mostly none, sometimes one, rarely more.

        Raises:
            BadData: its price is not above zero, its volume below zero, or it is of another symbol; no bar changes.
            ValueError: its time has no time zone.
        """
        if tick.symbol != self.symbol:
            raise BadData(f"a tick of {tick.symbol} came to the bars of {self.symbol}; make a TickBars for each symbol")
        return self.push(to_micros(tick.time), tick.price, tick.volume)

    @abstractmethod
    def push(self, time: int, price: float, volume: float = 0.0) -> tuple[Bar, ...]:
        """Take a tick as numbers: what `add` does, without an object for each tick.

        Args:
            time: microseconds since 1970 UTC.
            price: above zero.
            volume: units traded, not below zero; zero where the source has none.

        Raises:
            BadData: price or volume cannot be; no bar changes.
        """

    @abstractmethod
    def advance(self, now: datetime) -> tuple[Bar, ...]:
        """Return the bars that are closed at `now`, though no tick came to close them; live calls it by the clock."""

    @abstractmethod
    def flush(self) -> tuple[Bar, ...]:
        """Close what is open and return it, oldest first; later ticks begin new bars."""

    def _refuse(self, time: int, price: float, volume: float) -> BadData:
        wrong = f"price is {price!r}, and a price must be above zero"
        if 0.0 < price < INF:
            wrong = f"volume is {volume!r}, and a volume must not be below zero"
        return BadData(f"{self.symbol}, tick at {from_micros(time).isoformat()}: {wrong}; correct the source or leave it out")


class _Open:
    """A bar that is not closed yet; `first` and `last` are the times of its earliest and latest tick."""

    __slots__ = ("close", "end", "first", "high", "last", "low", "open", "start", "volume")

    def __init__(self, start: int, end: int, time: int, price: float, volume: float) -> None:
        self.start = start
        self.end = end
        self.first = self.last = time
        self.open = self.high = self.low = self.close = price
        self.volume = 0.0 + volume

    def bar(self, symbol: str, end: int) -> Bar:
        return Bar(symbol, from_micros(self.start), from_micros(end), self.open, self.high, self.low, self.close, self.volume)


class TimeBars(TickBars):
    """Bars of equal time; all times are microseconds.

    Args:
        symbol: what the bars are of.
        interval: length of a bar.
        offset: moves the starts from multiples of the interval since 1970 UTC.
        lateness: how long a bar stays open behind its end.
    """

    def __init__(self, symbol: str, interval: int, offset: int, lateness: int) -> None:
        super().__init__(symbol)
        self._interval = interval
        self._offset = offset
        self._lateness = lateness
        self._open: dict[int, _Open] = {}
        self._newest = -NEVER
        self._now = self._none = _Open(0, 0, NEVER, 0.0, 0.0)  # no tick is of this bar
        self._limit = 0  # a tick from here on closes a bar

    def push(self, time: int, price: float, volume: float = 0.0) -> tuple[Bar, ...]:
        """Take a tick as numbers; see `TickBars.push`."""
        if not (0.0 < price < INF and 0.0 <= volume < INF):
            raise self._refuse(time, price, volume)
        bar = self._now
        if bar.last <= time < self._limit:  # the usual tick: the newest so far, in the newest bar
            bar.last = time
            if price > bar.high:
                bar.high = price
            elif price < bar.low:
                bar.low = price
            bar.close = price
            bar.volume += volume
            return ()
        return self._place(time, price, volume)

    def _place(self, time: int, price: float, volume: float) -> tuple[Bar, ...]:
        start = time - (time - self._offset) % self._interval
        end = start + self._interval
        newest = self._newest if self._now is self._none else max(self._newest, self._now.last)
        if newest >= end + self._lateness:
            self.late += 1
            return ()
        bar = self._open.get(start)
        if bar is None:
            bar = self._open[start] = _Open(start, end, time, price, volume)
        else:
            bar.high = max(bar.high, price)
            bar.low = min(bar.low, price)
            bar.volume += volume
            if time < bar.first:
                bar.first, bar.open = time, price
            if time >= bar.last:
                bar.last, bar.close = time, price
        if time < newest:
            return ()
        self._newest, self._now = time, bar
        closed = self._closed(time)
        self._limit = min(end, min(each.end for each in self._open.values()) + self._lateness)
        return closed

    def _closed(self, newest: int) -> tuple[Bar, ...]:
        reached = newest - self._lateness
        starts = sorted(start for start, bar in self._open.items() if bar.end <= reached)
        bars = [self._open.pop(start) for start in starts]
        return tuple(bar.bar(self.symbol, bar.end + self._lateness) for bar in bars)

    def advance(self, now: datetime) -> tuple[Bar, ...]:
        """Return the bars that are closed at `now`; see `TickBars.advance`."""
        return self._until(to_micros(now))

    def flush(self) -> tuple[Bar, ...]:
        """Close what is open; ticks of these bars are late from now on."""
        return self._until(max((bar.end for bar in self._open.values()), default=-NEVER) + self._lateness)

    def _until(self, moment: int) -> tuple[Bar, ...]:
        if self._now is not self._none:
            self._newest = max(self._newest, self._now.last)
        self._newest = max(self._newest, moment)
        self._now = self._none
        return self._closed(self._newest)


class FilledBars(TickBars):
    """Bars that a number of ticks, a volume or an amount of money fills.

    Args:
        symbol: what the bars are of.
        every: what fills a bar.
        lateness: microseconds that a tick may be older than the newest.
    """

    def __init__(self, symbol: str, every: Ticks | Volume | Dollars, lateness: int) -> None:
        super().__init__(symbol)
        self._ticks, self._dollars = isinstance(every, Ticks), isinstance(every, Dollars)
        match every:
            case Ticks(full) | Volume(full) | Dollars(full):
                self._full = full
        self._lateness = lateness
        self._newest = -NEVER
        self._ended = -NEVER
        self._filled: float = 0
        self._bar: _Open | None = None

    def push(self, time: int, price: float, volume: float = 0.0) -> tuple[Bar, ...]:
        """Take a tick as numbers; see `TickBars.push`."""
        if not (0.0 < price < INF and 0.0 <= volume < INF):
            raise self._refuse(time, price, volume)
        if time >= self._newest:
            self._newest = time
        elif time < self._newest - self._lateness:
            self.late += 1
            return ()
        bar = self._bar
        if bar is None:
            start = max(self._newest, self._ended)
            bar = self._bar = _Open(start, start, self._newest, price, volume)
        else:
            if price > bar.high:
                bar.high = price
            elif price < bar.low:
                bar.low = price
            bar.close = price
            bar.volume += volume
        self._filled += 1 if self._ticks else price * volume if self._dollars else volume
        return () if self._filled < self._full else self.flush()

    def advance(self, now: datetime) -> tuple[Bar, ...]:
        """Return nothing: time does not fill these bars."""
        return ()

    def flush(self) -> tuple[Bar, ...]:
        """Close the bar that is open, full or not."""
        bar = self._bar
        if bar is None:
            return ()
        self._ended = max(self._newest, self._ended) + 1
        self._bar, self._filled = None, 0
        return (bar.bar(self.symbol, self._ended),)
