"""A REST API asked again and again, as a source of live data: for providers without a stream, or beside one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from agentfund.clock import SystemClock, from_micros, to_micros
from agentfund.errors import ConfigError
from agentfund.feeds.live_grid import Grid
from agentfund.feeds.live_past import within
from agentfund.feeds.ticks_rules import MICRO, check
from agentfund.market import Alive, Bar, Heard, Instrument

if TYPE_CHECKING:
    from datetime import datetime

    from agentfund.protocols import Clock

_NONE = timedelta(0)
_BEHIND = 10


class Asked(Protocol):
    """What `Polling` asks: any `Source`, or an object with these three members of it."""

    @property
    def name(self) -> str:
        """The provider's name."""
        ...

    @property
    def instruments(self) -> Sequence[Instrument]:
        """What is asked for."""
        ...

    async def history(self, symbol: str, interval: timedelta, start: datetime, end: datetime) -> Sequence[Bar]:
        """Return the closed bars that start at or after `start` and end by `end`, oldest first."""
        ...


class Polling:
    """A `Source` that asks for each bar once it has closed, and again until it is there.

    Give `Live` a `lateness` that is longer than the provider usually takes for a bar: several instruments wait for each other
    that long.

    Args:
        source: whom to ask.
        every: length of a bar, which divides a day: asked at each end of it.
        delay: how long behind the end of a bar to ask first.
        again: how long to wait before asking again for what was not there; pauses double up to the length of a bar.
        timeout: how long one answer may take.
        offset: moves the starts of bars from multiples of `every` since 1970 UTC.
        clock: where the time comes from.

    Raises:
        ConfigError: an argument cannot be.
    """

    def __init__(
        self,
        source: Asked,
        *,
        every: timedelta,
        delay: timedelta = timedelta(seconds=1),
        again: timedelta = timedelta(seconds=2),
        timeout: timedelta = timedelta(seconds=20),
        offset: timedelta = _NONE,
        clock: Clock | None = None,
    ) -> None:
        check(every, offset, _NONE)
        if delay < _NONE or again <= _NONE or timeout <= _NONE:
            raise ConfigError(f"delay={delay}, again={again}, timeout={timeout}: they must be above zero")
        self._source, self._every = source, every
        self._delay, self._again, self._timeout_s = delay // MICRO, again.total_seconds(), timeout.total_seconds()
        self._grid = Grid(every // MICRO, offset // MICRO)
        self._clock: Clock = clock or SystemClock()

    @property
    def name(self) -> str:
        """The provider's name."""
        return f"{self._source.name} polled"

    @property
    def instruments(self) -> Sequence[Instrument]:
        """What is asked for."""
        return self._source.instruments

    @property
    def silence(self) -> timedelta:
        """How long nothing may come while all is well."""
        return 2 * self._every + self._delay * MICRO + timedelta(seconds=self._timeout_s) * len(self._source.instruments)

    @property
    def over(self) -> bool:
        """Whether what is asked has ended for good, as a recording does."""
        ends: datetime | None = getattr(self._source, "ends", None)
        return ends is not None and self._clock.now() > ends + self._delay * MICRO

    async def connect(self) -> AsyncGenerator[Heard]:
        """Ask for bars as they close, and give each once; `Alive` says that the provider answers.

        Raises:
            FeedError: it does not.
        """
        symbols = [each.symbol for each in self._source.instruments]
        newest = dict.fromkeys(symbols, self._grid.floor(to_micros(self._clock.now())))
        pause = self._again
        while not self.over:
            edge = self._grid.floor(to_micros(self._clock.now()) - self._delay)
            behind = [symbol for symbol in symbols if newest[symbol] < edge]
            for symbol in behind:
                for bar in await self._ask(symbol, max(newest[symbol], edge - _BEHIND * self._grid.interval), edge):
                    newest[symbol] = to_micros(bar.end)
                    yield bar
            yield Alive()
            late = any(newest[symbol] < edge for symbol in symbols)
            ahead = (edge + self._grid.interval + self._delay - to_micros(self._clock.now())) / 1e6
            await self._clock.sleep(max(min(ahead, pause) if late else ahead, 1e-3))
            pause = min(2 * pause, self._every.total_seconds()) if late else self._again

    async def _ask(self, symbol: str, start: int, end: int) -> list[Bar]:
        answer = self._source.history(symbol, self._every, from_micros(start), from_micros(end))
        bars = await within(self._clock, self._timeout_s, answer)
        return sorted((bar for bar in bars if start <= to_micros(bar.start) and to_micros(bar.end) <= end), key=_start)

    async def history(self, symbol: str, interval: timedelta, start: datetime, end: datetime) -> Sequence[Bar]:
        """Return the closed bars that start at or after `start` and end by `end`, oldest first.

        Raises:
            FeedError: there is no answer.
        """
        return await self._source.history(symbol, interval, start, end)


def _start(bar: Bar) -> int:
    return to_micros(bar.start)
