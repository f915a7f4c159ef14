"""How a live feed is doing, for those who watch it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Health:
    """A live feed at one moment. What is counted is counted since the feed was made.

    Args:
        connected: whether the connection stands and something has come over it.
        heard: when anything came last, by our clock, aware UTC; None before the first.
        age_s: seconds since then, None before the first.
        skew_s: the source's clock minus ours in seconds, the median of what came lately; None while that is not known.
        skewed: whether that is beyond what the feed allows: it closes no bar then.
        reconnects: connections that were made after the first.
        gaps_filled: spans of an instrument that were not heard whole, and came by the REST API.
        gaps_open: spans that nobody could give; the windows have holes there.
        late: ticks and bars that came when their moment had been handed out.
        bad: ticks, quotes and bars that cannot be, and were left out.
        differing: bars of which the REST API says something else than was handed out.
        error: what went wrong last, in words; empty where nothing did.
    """

    connected: bool
    heard: datetime | None
    age_s: float | None
    skew_s: float | None
    skewed: bool
    reconnects: int
    gaps_filled: int
    gaps_open: int
    late: int
    bad: int
    differing: int
    error: str


@dataclass(slots=True)
class Counts:
    """What a live feed counts over all its streams; see `Health`."""

    reconnects: int = 0
    gaps_filled: int = 0
    gaps_open: int = 0
    late: int = 0
    bad: int = 0
    differing: int = 0
    error: str = ""
