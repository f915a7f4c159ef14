"""What comes from a source, looked at before it is used: what cannot be is left out and counted; how its clock differs."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from datetime import timedelta
from statistics import median
from typing import TYPE_CHECKING

from agentfund.clock import to_micros
from agentfund.market import Alive, Bar, Halted, Quote, Status, Tick

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from agentfund.feeds.live_grid import Grid
    from agentfund.market import Heard

_SAMPLES = 31
_LEAST = 3
_TOGETHER_S = 0.25
_FRESH = timedelta(seconds=1)


class Sieve:
    """Lets through what can be.

    Args:
        symbols: what is subscribed to.
        grid: where bars begin and end.
        max_skew: how far the source's clock may lie from ours.

    Attributes:
        bad: how much was left out.
    """

    def __init__(self, symbols: Collection[str], grid: Grid, max_skew: timedelta) -> None:
        self._symbols = frozenset(symbols)
        self._grid = grid
        self._max_s = max_skew.total_seconds()
        self._samples: deque[float] = deque(maxlen=_SAMPLES)
        self._burst = -math.inf
        self._skew_s: float | None = None
        self.bad = 0
        self._quotes: dict[str, Quote] = {}
        self._trades: dict[str, Tick] = {}
        self._halts: dict[str, Halted] = {}
        self._doubtful: set[str] = set()

    @property
    def skew_s(self) -> float | None:
        """The source's clock minus ours, seconds, None while it is not known."""
        return self._skew_s

    @property
    def skew(self) -> int:
        """The same in microseconds, 0 while it is not known."""
        return round((self._skew_s or 0.0) * 1e6)

    @property
    def skewed(self) -> bool:
        """Whether the two clocks differ by more than is allowed."""
        return abs(self._skew_s or 0.0) > self._max_s

    def quote(self, symbol: str) -> Quote | None:
        """Return the newest quote or trade: bid and ask are None where a trade is newer than they are by more than a second."""
        quote, trade = self._quotes.get(symbol), self._trades.get(symbol)
        if trade is None:
            return quote
        if quote is None:
            return Quote(symbol, None, None, trade.price, trade.time)
        if quote.time >= trade.time:
            return quote if quote.last is not None else replace(quote, last=trade.price)
        fresh = trade.time - quote.time <= _FRESH
        return Quote(symbol, quote.bid if fresh else None, quote.ask if fresh else None, trade.price, trade.time)

    def status(self, symbol: str) -> Status | None:
        """Return whether an instrument is halted, None where nobody told."""
        halt = self._halts.get(symbol)
        if halt is None:
            return None
        return Status.HALTED if halt.halted else Status.TRADING

    def forget(self) -> None:
        """Begin anew with what the next connection may tell otherwise: it may lead to another machine, and news were missed.

        A halt stays until its end is told, or a trade behind it is heard.
        """
        self._samples.clear()
        self._skew_s = None
        self._halts = {symbol: halt for symbol, halt in self._halts.items() if halt.halted}
        self._doubtful = set(self._halts)

    def take(self, item: Heard, now: datetime) -> bool:
        """Return whether something can be used; `now` is our clock."""
        good = self._good(item, now)
        self.bad += not good
        return good

    def _good(self, item: Heard, now: datetime) -> bool:
        if isinstance(item, Bar):
            good = item.symbol in self._symbols and _aware(item.start) and _aware(item.end) and not self._grid.wrong(item)
            if good:
                self._traded(item.symbol, item.start)
            return good
        if isinstance(item, Halted):
            return item.symbol in self._symbols and _aware(item.time) and self._halt(item)
        if isinstance(item, Alive):
            return item.time is None or self._timely(item.time, now)
        if item.symbol not in self._symbols or not self._timely(item.time, now):
            return False
        return self._tick(item) if isinstance(item, Tick) else self._quote(item)

    def _timely(self, time: datetime, now: datetime) -> bool:
        """Measure a time, and return whether it can be: it has a zone, and does not lie in the future."""
        if not _aware(time):
            return False
        ahead = (time - now).total_seconds()
        arrived = now.timestamp()
        if arrived - self._burst >= _TOGETHER_S or not self._samples:
            self._burst = arrived
            self._samples.append(ahead)
        elif ahead > self._samples[-1]:  # what comes at once is one sample: trades of before may be told on connecting
            self._samples[-1] = ahead
        else:
            return ahead <= self._max_s
        if len(self._samples) >= _LEAST:
            self._skew_s = median(self._samples)
        return ahead <= self._max_s

    def _halt(self, halt: Halted) -> bool:
        known = self._halts.get(halt.symbol)
        if known is None or halt.time >= known.time:
            self._halts[halt.symbol] = halt
            self._doubtful.discard(halt.symbol)
        return True

    def _traded(self, symbol: str, time: datetime) -> None:
        """Forget a halt whose end was missed: the instrument traded after it."""
        if symbol in self._doubtful and time > self._halts[symbol].time:
            self._doubtful.discard(symbol)
            del self._halts[symbol]

    def _tick(self, tick: Tick) -> bool:
        if not (0.0 < tick.price < math.inf and 0.0 <= tick.volume < math.inf):
            return False
        self._traded(tick.symbol, tick.time)
        known = self._trades.get(tick.symbol)
        if known is None or tick.time >= known.time:
            self._trades[tick.symbol] = tick
        return True

    def _quote(self, quote: Quote) -> bool:
        given = [price for price in (quote.bid, quote.ask, quote.last) if price is not None]
        if not given or not all(0.0 < price < math.inf for price in given):
            return False
        if quote.bid is not None and quote.ask is not None and quote.bid > quote.ask:
            return False
        known = self._quotes.get(quote.symbol)
        if known is None or quote.time >= known.time:
            self._quotes[quote.symbol] = quote
        return True


def _aware(time: datetime) -> bool:
    return time.tzinfo is not None


def micros(item: Heard) -> int | None:
    """Return what the source's clock said, microseconds since 1970 UTC, None where it told no time."""
    return None if isinstance(item, Bar) or item.time is None else to_micros(item.time)
