"""A market that flows: bars close as real time passes, on a clock that runs beside them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta

from agentfund.market import Market
from tests.market import START, bars

BAR_S = 0.06


class RunningClock:
    """Begins when the market does, and runs as fast as real time."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def now(self) -> datetime:
        """Return the market's time."""
        return START + timedelta(seconds=time.monotonic() - self.began)

    def monotonic(self) -> float:
        """Return seconds that only go forward."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class Flowing:
    """A live feed: each bar is given when it has closed, and those of the past are not given again."""

    def __init__(self, close: Sequence[float], clock: RunningClock) -> None:
        self.feed, self.clock = bars(close, minutes=BAR_S / 60), clock  # type: ignore[arg-type]
        self.instruments, self.fingerprint = self.feed.instruments, "flowing"
        self.newest: Market | None = None

    async def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        """Give bars as they close."""
        async for market in self.feed.stream(after):
            left = (market.now - self.clock.now()).total_seconds()
            if left < -BAR_S:
                continue
            if left > 0:
                await asyncio.sleep(left)
            self.newest = market
            yield market

    def latest(self) -> Market:
        """Return the market now."""
        assert self.newest is not None
        return self.newest
