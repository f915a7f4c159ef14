"""Longer bars out of Alpaca's closed minutes: whole ones only, and closed although the last minute had no trade."""

from __future__ import annotations

from datetime import datetime, timedelta

from agentfund.feeds.wire_rows import ceiling, floor, joined
from agentfund.market import Bar


class Minutes:
    """Joins the minutes of one connection on the grid; it opens nothing and reads no clock.

    Args:
        interval: length of the bars to make.
        settle: how long behind its end a bar waits for its last minute, which does not come where nothing was traded in it.
        since: from when on all minutes are heard; a bar that began before is heard in part, and left out.

    Attributes:
        partial: minutes of bars that began before `since`.
        late: minutes that came after their bar was closed.
    """

    def __init__(self, interval: timedelta, settle: timedelta, since: datetime) -> None:
        self._interval = interval
        self._settle = settle
        self._first = ceiling(since, interval)
        self._open: dict[str, Bar] = {}
        self._closed: dict[str, datetime] = {}
        self.partial = 0
        self.late = 0

    def take(self, minute: Bar) -> list[Bar]:
        """Take a closed minute; return the bars that it closes."""
        start = floor(minute.start, self._interval)
        symbol = minute.symbol
        if start < self._first:
            self.partial += 1
            return []
        if start < self._closed.get(symbol, start):
            self.late += 1
            return []
        made = []
        bar = self._open.get(symbol)
        if bar is not None and bar.start < start:
            made.append(self._close(symbol))
            bar = None
        whole = minute._replace(start=start, end=start + self._interval)
        self._open[symbol] = whole if bar is None else joined(bar, minute)
        if minute.end == start + self._interval:
            made.append(self._close(symbol))
        return made

    def over(self, now: datetime) -> list[Bar]:
        """Return the bars that are over at `now` and have waited long enough."""
        due = [symbol for symbol, bar in self._open.items() if bar.end + self._settle <= now]
        return [self._close(symbol) for symbol in due]

    def wait_s(self, now: datetime) -> float | None:
        """Return the seconds until `over` may have something, None where no bar is open."""
        if not self._open:
            return None
        return max(0.0, (min(bar.end for bar in self._open.values()) + self._settle - now).total_seconds())

    def _close(self, symbol: str) -> Bar:
        bar = self._open.pop(symbol)
        self._closed[symbol] = bar.end
        return bar
