"""A source's REST API as a live feed asks it: with a deadline, and not again before a pause that grows."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from agentfund.clock import from_micros, to_micros
from agentfund.errors import ConfigError, FeedError
from agentfund.secrets import scrub

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from contextlib import AbstractContextManager

    from agentfund.feeds.live_grid import Grid
    from agentfund.market import Bar
    from agentfund.protocols import Clock, Source

Result = TypeVar("Result")
_FIRST_S, _MOST_S = 1.0, 30.0


def held(clock: Clock) -> AbstractContextManager[Any]:
    """Return a context in which a clock that jumps stands still; others run on."""
    stand = getattr(clock, "held", None)
    return nullcontext() if stand is None else stand()


def told(error: BaseException) -> str:
    """Return an error in one line, without keys."""
    return scrub(f"{type(error).__name__}: {error}")[:500]


async def within(clock: Clock, seconds: float, work: Coroutine[Any, Any, Result]) -> Result:
    """Return what some work gives.

    Raises:
        TimeoutError: it took longer than that by the clock, and was cancelled.
    """
    doing, timer = asyncio.ensure_future(work), asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({doing, timer}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise TimeoutError(f"no answer within {seconds:g} s")
        return doing.result()
    finally:
        await cancelled(doing, timer)


async def cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks, and wait until they have ended."""
    left = [task for task in tasks if not task.done()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.gather(*left, return_exceptions=True)


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Do several things at once, and raise the first error when all have ended, so that none goes on alone."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


class Past:
    """The bars that a source has of the past.

    Args:
        source: the source.
        grid: where bars begin and end.
        clock: where the time comes from.
        patience: how long one answer may take, seconds.

    Attributes:
        bad: bars that cannot be, and were left out.
        error: why the newest question went unanswered, empty where it was answered.
    """

    def __init__(self, source: Source, grid: Grid, clock: Clock, patience: float) -> None:
        self._source, self._grid, self._clock, self._patience = source, grid, clock, patience
        self._again: dict[str, tuple[float, float]] = {}
        self.bad = 0
        self.error = ""

    def wait(self, symbol: str) -> float:
        """Return in how many seconds an instrument may be asked about again, zero or less for now."""
        return self._again.get(symbol, (0.0, 0.0))[0] - self._clock.monotonic()

    def rested(self, symbol: str) -> None:
        """The question is settled: the next one may come at once."""
        self._again.pop(symbol, None)

    async def ask(self, symbol: str, start: int, end: int) -> Sequence[Bar]:
        """Return the closed bars between two edges of the grid, microseconds since 1970 UTC, oldest first.

        Raises:
            FeedError: there was no answer; it may be asked again after `wait` seconds.
        """
        pause = min(_MOST_S, 2 * self._again[symbol][1]) if symbol in self._again else _FIRST_S
        interval = timedelta(microseconds=self._grid.interval)
        try:
            answer = self._source.history(symbol, interval, from_micros(start), from_micros(end))
            bars = await within(self._clock, self._patience, answer)
        except ConfigError:
            raise
        except Exception as error:  # whatever an adapter meets is no reason to end a feed
            self.error = f"history of {symbol}: {told(error)}"
            raise FeedError(self.error) from None
        finally:
            self._again[symbol] = (self._clock.monotonic() + pause, pause)
        self.error = ""
        return self._checked(symbol, bars, start, end)

    def _checked(self, symbol: str, bars: Sequence[Bar], start: int, end: int) -> list[Bar]:
        found: dict[int, Bar] = {}
        for bar in bars:
            if bar.symbol != symbol or self._grid.wrong(bar):
                self.bad += 1
            elif start <= (at := to_micros(bar.start)) and at + self._grid.interval <= end:
                found.setdefault(at, bar)
        return [found[at] for at in sorted(found)]
