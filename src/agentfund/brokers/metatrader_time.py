"""What the broker's wall time is in UTC: MetaTrader counts seconds of a time zone that it does not tell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_STEP = timedelta(minutes=15)
_FRESH = timedelta(seconds=60)
_FARTHEST = timedelta(hours=14)
_ENOUGH = 2


class Offset:
    """How far the broker's wall time is ahead of UTC, from the times of fresh ticks.

    Two ticks that came after each other must give the same offset, to 15 minutes; one that gives another makes it unknown until
    two agree again. A tick that is more than a minute from any quarter of an hour is stale, and says nothing.

    Args:
        fixed: the offset where it is known.
    """

    def __init__(self, fixed: timedelta | None = None) -> None:
        self._fixed = fixed
        self._found: timedelta | None = None
        self._last, self._agreed = 0, 0

    @property
    def value(self) -> timedelta | None:
        """The offset, None while it is not certain."""
        return self._fixed if self._fixed is not None else self._found if self._agreed >= _ENOUGH else None

    def note(self, tick_ms: int, now: datetime) -> None:
        """Take in the time of a tick, in milliseconds of the broker's wall time, and when it was looked at."""
        if tick_ms <= self._last:
            return
        self._last = tick_ms
        ahead = datetime.fromtimestamp(tick_ms / 1000, UTC) - now
        offset = round(ahead / _STEP) * _STEP
        if abs(ahead - offset) > _FRESH or abs(offset) > _FARTHEST:
            return
        self._agreed = self._agreed + 1 if offset == self._found else 1
        self._found = offset

    def utc(self, wall_ms: int) -> datetime:
        """Return a broker's time as aware UTC; only where the offset is known."""
        assert self.value is not None
        return datetime.fromtimestamp(wall_ms / 1000, UTC) - self.value
