"""The grid of a live feed's bars: exact multiples of the interval since 1970 UTC, moved by an offset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentfund.clock import to_micros

if TYPE_CHECKING:
    from agentfund.market import Bar


@dataclass(frozen=True, slots=True)
class Grid:
    """Where bars begin and end; all times are microseconds since 1970 UTC.

    Args:
        interval: length of a bar.
        offset: moves the starts from multiples of the interval.
    """

    interval: int
    offset: int = 0

    def floor(self, moment: int) -> int:
        """Return the newest edge that is not after a moment."""
        return moment - (moment - self.offset) % self.interval

    def wrong(self, bar: Bar) -> str:
        """Return why a bar cannot be, empty where it can: off the grid, no prices, a high below a low."""
        start = to_micros(bar.start)
        if start != self.floor(start) or to_micros(bar.end) != start + self.interval:
            return f"it lies from {bar.start.isoformat()} to {bar.end.isoformat()}, which is not on the grid of bars"
        if not all(0.0 < price < math.inf for price in bar[3:7]):
            return "a price is not above zero"
        if not bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high:
            return "the high is not its highest price, or the low not its lowest"
        if not 0.0 <= bar.volume < math.inf:
            return f"its volume is {bar.volume!r}"
        return ""
