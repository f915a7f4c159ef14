"""Time as an argument: the only file that asks the machine what time it is."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)


def utc(moment: datetime) -> datetime:
    """Return `moment` in UTC.

    Raises:
        ValueError: the datetime is naive, so nobody knows which moment it means.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; use an aware datetime such as datetime(..., tzinfo=UTC)")
    return moment.astimezone(UTC)


def from_micros(micros: int) -> datetime:
    """Turn microseconds since 1970 (UTC) into an aware datetime, exactly."""
    return EPOCH + timedelta(microseconds=int(micros))


def to_micros(moment: datetime) -> int:
    """Turn an aware datetime into microseconds since 1970 (UTC), exactly."""
    if moment.tzinfo is None:
        utc(moment)  # which says what is wrong
    return (moment - EPOCH) // _MICRO


class SystemClock:
    """The machine's clock: wall time in UTC and a monotonic counter in seconds."""

    def now(self) -> datetime:
        """Return the wall time, aware UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that only go forward, whatever happens to the wall clock."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class SimulatedClock:
    """A clock that stands still until it is told to move; backtests and tests use it.

    Args:
        start: where it starts, aware.
    """

    def __init__(self, start: datetime = EPOCH) -> None:
        self._now = utc(start)

    def now(self) -> datetime:
        """Return the simulated wall time, aware UTC."""
        return self._now

    def monotonic(self) -> float:
        """Return the simulated seconds since 1970."""
        return (self._now - EPOCH).total_seconds()

    async def sleep(self, seconds: float) -> None:
        """Move the clock forward by `seconds` and let other tasks run once."""
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds`."""
        self._now += timedelta(seconds=seconds)

    def move_to(self, moment: datetime) -> None:
        """Move forward to `moment`; a moment in the past leaves the clock where it is."""
        if moment > self._now:
            self._now = moment
