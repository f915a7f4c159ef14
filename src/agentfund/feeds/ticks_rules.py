"""Ticks to bars: what closes a bar, one tick after the other for live, and whole arrays for history.

Both ways give the same bars, bit for bit. The rules are these.

- A time bar holds the ticks in [start, end): a tick at the edge belongs to the next bar. Starts are multiples of the interval
  since midnight UTC, moved by `offset`. An interval without a tick gives no bar.
- A bar of ticks, volume or dollars closes with the tick that fills it, and that tick is not split: the bar may hold more than
  asked for, and the next one begins at nothing.
- A time bar stays open until a tick comes that is `lateness` or more behind its end. Until then a tick of it counts whenever
  it comes: open and close are those of the earliest and the latest tick by their own time, in order of arrival where times
  are equal. A tick whose bar has closed is left out and counted in `late`.
- The other bars take ticks as they arrive. A tick older than the newest by more than `lateness` is left out and counted.
- A bar is known at its `end`. For time bars that is the end of the interval plus `lateness`; for the others it is a
  microsecond behind the tick that closed it, and never before a microsecond behind the end of the bar before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeAlias

from agentfund.errors import ConfigError

MICRO = timedelta(microseconds=1)
DAY = timedelta(days=1)
NEVER: Final = 2**63 - 1
"""A time behind all others."""


@dataclass(frozen=True, slots=True)
class Ticks:
    """A bar closes with every `count`-th tick."""

    count: int

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ConfigError(f"Ticks: count must be a whole number, at least 1, not {self.count!r}")


@dataclass(frozen=True, slots=True)
class Volume:
    """A bar closes with the tick that brings it to `units` traded."""

    units: float

    def __post_init__(self) -> None:
        _above_zero("Volume: units", self.units)


@dataclass(frozen=True, slots=True)
class Dollars:
    """A bar closes with the tick that brings it to an `amount` of price times volume, in the currency of the price."""

    amount: float

    def __post_init__(self) -> None:
        _above_zero("Dollars: amount", self.amount)


Every: TypeAlias = timedelta | Ticks | Volume | Dollars
"""What closes a bar."""


def _above_zero(what: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigError(f"{what} must be above zero and finite, not {value!r}")


def check(every: Every, offset: timedelta, lateness: timedelta) -> None:
    """Check what closes a bar.

    Raises:
        ConfigError: it cannot be.
    """
    if lateness < timedelta(0):
        raise ConfigError(f"lateness must not be below zero, not {lateness}")
    if isinstance(every, timedelta):
        if every <= timedelta(0) or DAY % every:
            raise ConfigError(f"time bars of {every}: the interval must divide a day, such as timedelta(minutes=5)")
    elif not isinstance(every, Ticks | Volume | Dollars):
        raise ConfigError(f"every={every!r} closes no bar; give a timedelta, Ticks(...), Volume(...) or Dollars(...)")
    elif offset:
        raise ConfigError(f"offset={offset} moves the starts of time bars, and {every} has none; leave it out")
