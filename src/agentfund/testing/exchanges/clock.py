"""A clock that a test moves by hand, and that lets everybody sleep until then."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

_START = datetime(2024, 5, 1, tzinfo=UTC)


class HandClock:
    """Time stands still until `advance`: sleepers wake when their moment has come, and not before.

    Args:
        start: where it starts, aware UTC.
    """

    def __init__(self, start: datetime = _START) -> None:
        self._start = start
        self._passed = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Return the wall time, aware UTC."""
        return self._start + timedelta(seconds=self._passed)

    def monotonic(self) -> float:
        """Return the seconds since the start."""
        return self._passed

    async def sleep(self, seconds: float) -> None:
        """Wait until somebody has advanced the clock by so much."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._passed + seconds, future))
        await future

    def advance(self, seconds: float) -> None:
        """Go forward, and wake whoever has slept enough."""
        self._passed += seconds
        due = [future for until, future in self._sleepers if until <= self._passed]
        self._sleepers = [each for each in self._sleepers if each[0] > self._passed]
        for future in due:
            if not future.done():
                future.set_result(None)

    async def sleeping(self, seconds: float) -> None:
        """Return once somebody sleeps that will wake within so many seconds."""
        while not self._any(seconds):  # noqa: ASYNC110 - nobody announces that he goes to sleep
            await asyncio.sleep(0.001)

    def _any(self, seconds: float) -> bool:
        return any(until - self._passed <= seconds and not future.done() for until, future in self._sleepers)
