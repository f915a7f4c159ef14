"""Recorded ticks or bars as a source of live data, at any speed: a whole fund can live through them."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from agentfund.clock import JumpingClock, ScaledClock, from_micros, to_micros
from agentfund.errors import ConfigError, FeedError
from agentfund.feeds.ticks_arrays import TickColumns, columns_from_ticks
from agentfund.feeds.ticks_file import read_ticks_csv
from agentfund.market import Alive, Bar, Columns, Heard, Instrument, Tick, Window

if TYPE_CHECKING:
    from datetime import datetime
    from os import PathLike

    from agentfund.market import Micros
    from agentfund.protocols import Clock, History

_BEAT = 30_000_000  # signs of life, microseconds: a watchdog takes a feed that is silent for a minute for slow


class _Waiting(ScaledClock):
    """Stands still until somebody first sleeps by it, so that none of the recording is over while a program starts."""

    def __init__(self, speed: float, start: datetime) -> None:
        super().__init__(speed, start)
        self._stood: float | None = None

    def monotonic(self) -> float:
        """Return its seconds since somebody first slept by it."""
        return 0.0 if self._stood is None else super().monotonic() - self._stood

    async def sleep(self, seconds: float) -> None:
        """Wait until so many of its seconds have passed; the first time it begins to run."""
        if self._stood is None:
            self._stood = super().monotonic()
        await super().sleep(seconds)


class Recorded:
    """A `Source` that tells again what was recorded, when its clock says so, and has the rest as history.

    Give the same clock to `Live` and to the fund: `clock=recorded.clock`. Time is the recording's. History never has a bar that
    closes after the clock's now.

    Args:
        data: bars (any `History`, such as `Bars` or `SimulatedMarket`), or ticks by symbol, in order of arrival.
        start: where the clock starts, aware; what lies before is history. Just before the first tick or close where not given.
        speed: how many times as fast as in life; `math.inf` does not wait at all. The clock stands still until somebody first
            waits by it, which a feed does once it listens.
        clock: a clock of your own, in place of `start` and `speed`.
        offset: moves the starts of bars that are made of ticks.
        name: the provider's name.

    Attributes:
        clock: the clock by which it is told.
        over: whether all of it was told.
        silence: None, for it cannot fall silent without its end.

    Raises:
        ConfigError: there is nothing recorded, or an argument cannot be.
    """

    def __init__(
        self,
        data: History | Mapping[str, TickColumns],
        *,
        start: datetime | None = None,
        speed: float = 1.0,
        clock: Clock | None = None,
        offset: timedelta = timedelta(0),
        name: str = "recorded",
    ) -> None:
        if clock is not None and (start is not None or speed != 1.0):
            raise ConfigError("a clock of your own has a start and a speed of its own; leave out start= and speed=")
        if not speed > 0:
            raise ConfigError(f"speed={speed!r}: it must be above zero; math.inf does not wait at all")
        self._ticks: Mapping[str, TickColumns] = data if isinstance(data, Mapping) else {}
        self._bars: Mapping[str, Columns] = {} if isinstance(data, Mapping) else data.columns
        self._offset, self._name = offset, name
        self._made: dict[tuple[str, timedelta], Columns] = {}
        empty = [symbol for symbol, each in self._ticks.items() if not len(each.time)]
        if empty or not (self._ticks or self._bars):
            raise ConfigError(f"nothing is recorded of {', '.join(empty) or 'any instrument'}; give at least one tick or bar")
        instruments = (Instrument(symbol) for symbol in self._ticks)
        self.instruments: Sequence[Instrument] = tuple(instruments) or tuple(each.instrument for each in self._bars.values())
        self._times, self._owners, self._rows = self._order()
        begins = from_micros(self._times[0] - 1) if start is None else start
        self.clock: Clock = clock or (JumpingClock(begins) if speed == math.inf else _Waiting(speed, begins))
        self.over = False
        self.silence: timedelta | None = None

    @classmethod
    def ticks(
        cls,
        path: str | PathLike[str],
        symbol: str,
        *,
        start: datetime | None = None,
        speed: float = 1.0,
        clock: Clock | None = None,
        tz: str | None = None,
    ) -> Recorded:
        """Read a file of ticks; `agentfund.feeds.ticks.read_ticks_csv` says which, and `tz` is the zone of its times.

        Raises:
            BadData: the file cannot be used.
        """
        return cls({symbol: read_ticks_csv(path, tz=tz)}, start=start, speed=speed, clock=clock)

    def __repr__(self) -> str:
        return f"<Recorded {len(self._times):,} of {', '.join(each.symbol for each in self.instruments)}>"

    @property
    def name(self) -> str:
        """The provider's name."""
        return self._name

    @property
    def ends(self) -> datetime:
        """When the last of it is told, aware UTC."""
        return from_micros(self._times[-1])

    def _order(self) -> tuple[Micros, Micros, Micros]:
        """Return when each tick or bar is told, of which instrument it is, and which row it is there."""
        told = [np.maximum.accumulate(each.time) for each in self._ticks.values()] or [
            each.ends for each in self._bars.values()
        ]
        times = np.concatenate(told)
        order = times.argsort(kind="stable")
        owners = np.concatenate([np.full(len(each), i) for i, each in enumerate(told)])
        rows = np.concatenate([np.arange(len(each)) for each in told])
        return times[order], owners[order], rows[order]

    async def connect(self) -> AsyncGenerator[Heard]:
        """Tell everything from the clock's now on, each when its time has come; the end is the recording's end."""
        self.over = False
        now = to_micros(self.clock.now())
        yield Alive(from_micros(now))
        for at in count(int(self._times.searchsorted(now, side="right"))):
            if at == len(self._times):
                break
            due = int(self._times[at])
            for beat in range(now - now % _BEAT + _BEAT, due, _BEAT):  # nothing happened until then: that is news, too
                await self._until(beat)
                yield Alive(from_micros(beat))
            await self._until(due)
            yield self._item(at)
            now = max(now, due)
        self.over = True

    async def _until(self, moment: int) -> None:
        while (left := moment - to_micros(self.clock.now())) > 0:
            await self.clock.sleep(left / 1e6)

    def _item(self, at: int) -> Heard:
        owner, row = self.instruments[int(self._owners[at])], int(self._rows[at])
        if self._bars:
            return Window(self._bars[owner.symbol], row + 1).last
        ticks = self._ticks[owner.symbol]
        volume = 0.0 if ticks.volume is None else float(ticks.volume[row])
        return Tick(self._name, owner.symbol, float(ticks.price[row]), volume, from_micros(ticks.time[row]))

    async def history(self, symbol: str, interval: timedelta, start: datetime, end: datetime) -> Sequence[Bar]:
        """Return the bars that start at or after `start` and end by `end`, as far as they have closed by the clock.

        Raises:
            FeedError: nothing is recorded of the symbol, or its bars have another interval.
        """
        columns = self._columns(symbol, interval)
        known = Window(columns, columns.closed_by(min(to_micros(end), to_micros(self.clock.now()))))
        return [known.bar(at) for at in range(int(columns.start.searchsorted(to_micros(start))), len(known))]

    def _columns(self, symbol: str, interval: timedelta) -> Columns:
        if symbol in self._ticks:
            if (symbol, interval) not in self._made:
                instrument = next(each for each in self.instruments if each.symbol == symbol)
                time, price, volume = self._ticks[symbol]
                order = time.argsort(kind="stable")  # whoever is asked later has the stragglers in their places
                sizes = None if volume is None else volume[order]
                made, _ = columns_from_ticks(instrument, interval, time[order], price[order], sizes, offset=self._offset)
                self._made[symbol, interval] = made
            return self._made[symbol, interval]
        if symbol not in self._bars:
            raise FeedError(
                f"nothing is recorded of {symbol!r}; there is {', '.join(each.symbol for each in self.instruments)}"
            )
        if self._bars[symbol].interval != interval:
            raise FeedError(f"{symbol}: bars of {self._bars[symbol].interval} are recorded, and not of {interval}")
        return self._bars[symbol]
