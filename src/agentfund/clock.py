"""Time as an argument: the only file that asks the machine what time it is."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@cache
def boot_id() -> str:
    """Return a name for this run of the machine: after a reboot, and on another machine, it is another."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux: since when it runs tells one boot from another, to ten seconds
        return f"{uuid.getnode():x}-{round((time.time() - uptime()) / 10)}"


def uptime() -> float:
    """Return seconds since the machine started, sleep included: the same for all its processes at any wall time."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


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


class ScaledClock:
    """A clock that runs `speed` times as fast as the machine's, so that recorded markets can be lived through sooner.

    Args:
        speed: how many of its seconds pass in one of ours, above zero and finite; `JumpingClock` is the one without limit.
        start: its wall time now, aware.

    Raises:
        ValueError: `speed` cannot be, or `start` has no time zone.
    """

    def __init__(self, speed: float, start: datetime = EPOCH) -> None:
        if not 0 < speed < math.inf:
            raise ValueError(f"speed must be above zero and finite, not {speed!r}; JumpingClock() does not wait at all")
        self.speed = speed
        self._start = utc(start)
        self._began = time.monotonic()

    def now(self) -> datetime:
        """Return its wall time, aware UTC."""
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Return its seconds since it was made."""
        return (time.monotonic() - self._began) * self.speed

    async def sleep(self, seconds: float) -> None:
        """Wait until so many of its seconds have passed."""
        await asyncio.sleep(max(0.0, seconds) / self.speed)


class JumpingClock:
    """A clock that stands still while anybody works, and jumps to the next moment that somebody sleeps until.

    Tasks of one event loop live through years in seconds, in the order in which they would. It takes the loop for idle when
    nothing has gone to sleep or woken for some of the loop's rounds; whoever waits for a thread, a file or a server says so
    with `held()`.

    Args:
        start: where it starts, aware.
    """

    speed = math.inf
    _ROUNDS = 25
    _PATIENCE_S = 0.2

    def __init__(self, start: datetime = EPOCH) -> None:
        self._now = utc(start)
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._count = self._calm = self._holds = 0
        self._waited = False
        self._stirred: asyncio.Handle | None = None

    def now(self) -> datetime:
        """Return its wall time, aware UTC."""
        return self._now

    def monotonic(self) -> float:
        """Return its seconds since 1970."""
        return (self._now - EPOCH).total_seconds()

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has jumped so far."""
        if seconds <= 0:
            self._stir()  # whoever lets others have their turn is at work
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        self._count += 1
        wake = self._now + max(timedelta(seconds=seconds), _MICRO)
        heappush(self._sleepers, (wake, self._count, future))
        self._stir()
        await future

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the clock stand still meanwhile: for work that waits for more than other tasks of the loop.

        Whoever then sleeps on this very clock is not left waiting: after a fifth of a real second of rest it goes on.
        """
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._waited = self._waited and self._holds > 0
            self._stir()

    def _stir(self) -> None:
        """Begin to look for rest, once more from the beginning."""
        self._calm = 0
        if self._stirred is not None:
            self._stirred.cancel()
            self._stirred = None
        self._sleepers_only()
        if self._sleepers:
            loop = self._sleepers[0][2].get_loop()
            if not loop.is_closed():
                stands = self._holds and not self._waited
                self._stirred = loop.call_later(self._PATIENCE_S, self._rested) if stands else loop.call_soon(self._round)

    def _rested(self) -> None:
        self._waited = True
        self._jump()

    def _round(self) -> None:
        self._calm += 1
        if self._calm < self._ROUNDS:
            self._stirred = self._sleepers[0][2].get_loop().call_soon(self._round)
        else:
            self._jump()

    def _jump(self) -> None:
        self._stirred = None
        self._sleepers_only()
        if self._sleepers:
            self._now = max(self._now, self._sleepers[0][0])
            while self._sleepers and self._sleepers[0][0] <= self._now:
                future = heappop(self._sleepers)[2]
                if not future.done():
                    future.set_result(None)
            self._stir()

    def _sleepers_only(self) -> None:
        """Forget those who were cancelled."""
        while self._sleepers and self._sleepers[0][2].done():
            heappop(self._sleepers)
