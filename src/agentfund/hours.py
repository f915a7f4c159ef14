"""When one may trade: opening hours, and windows in which nothing new is begun. Plain data, made once and looked up fast."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from types import MappingProxyType

from agentfund.clock import from_micros, to_micros
from agentfund.errors import ConfigError

EVERY = ""
"""Stands for every instrument that is not named."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a market is open, as far as that is known.

    Args:
        calendar: the calendar's name.
        opens: when it opens, microseconds since 1970 UTC, strictly rising.
        closes: when it closes again, one for each of `opens`, each after it and no later than the next of them.
        since: from when on the hours are known, microseconds since 1970 UTC.
        until: until when they are known, not included.

    Raises:
        ConfigError: the times do not rise.
    """

    calendar: str
    opens: tuple[int, ...]
    closes: tuple[int, ...]
    since: int
    until: int

    def __post_init__(self) -> None:
        times = [time for pair in zip(self.opens, self.closes, strict=False) for time in pair]
        if len(self.opens) != len(self.closes) or any(
            later < time or (later == time and at % 2 == 0) for at, (time, later) in enumerate(pairwise(times))
        ):
            raise ConfigError(f"{self.calendar}: opening hours must rise: each close after its open, and before the next open")
        if self.since >= self.until:
            raise ConfigError(f"{self.calendar}: hours are known until a moment after the one from which they are known")

    def is_open(self, moment: int) -> bool | None:
        """Return whether the market is open at a moment, microseconds since 1970 UTC; None where that is not known."""
        if not self.since <= moment < self.until:
            return None
        at = bisect_right(self.opens, moment) - 1
        return at >= 0 and moment < self.closes[at]

    def next_open(self, moment: int) -> int | None:
        """Return when it opens next after a moment, None where that is not known."""
        at = bisect_right(self.opens, moment)
        return self.opens[at] if at < len(self.opens) else None


@dataclass(frozen=True, slots=True)
class Hours:
    """The opening hours of instruments. `agentfund.feeds.calendars.hours` makes them; `a | b` has those of both.

    Args:
        schedules: by symbol; the one under `EVERY` is that of all others.

    Raises:
        ConfigError: there is none.
    """

    schedules: Mapping[str, Schedule]

    def __post_init__(self) -> None:
        if not self.schedules:
            raise ConfigError("hours need a schedule: use agentfund.feeds.calendars.hours('XNYS', first, last)")
        object.__setattr__(self, "schedules", MappingProxyType(dict(self.schedules)))

    def __or__(self, other: Hours) -> Hours:
        if twice := self.schedules.keys() & other.schedules.keys():
            what = ", ".join(sorted(twice)) or "every instrument"
            raise ConfigError(f"both have hours of {what}: name the symbols of each, hours(..., symbols=[...])")
        return Hours({**self.schedules, **other.schedules})

    def __reduce__(self) -> tuple[type[Hours], tuple[dict[str, Schedule]]]:
        return Hours, (dict(self.schedules),)

    def of(self, symbol: str) -> Schedule | None:
        """Return the schedule of an instrument, None where there is none."""
        found = self.schedules.get(symbol)
        return self.schedules.get(EVERY) if found is None else found

    def is_open(self, symbol: str, moment: datetime) -> bool | None:
        """Return whether an instrument can be traded at a moment (aware); None where nobody knows."""
        schedule = self.of(symbol)
        return None if schedule is None else schedule.is_open(to_micros(moment))

    @property
    def until(self) -> datetime:
        """Until when all of them are known, aware UTC: before then, `extended` has to make them longer."""
        return from_micros(min(schedule.until for schedule in self.schedules.values()))


@dataclass(frozen=True, slots=True)
class Blackout:
    """A window in which nothing adds risk: an announcement, earnings, a window of one's own.

    Args:
        start: its first moment, aware.
        end: the first moment after it, aware.
        symbols: the instruments that it concerns; empty for all.
        reason: why, in a few words.

    Raises:
        ConfigError: a time has no zone, it ends before it starts, or the symbols are no set of names.
    """

    start: datetime
    end: datetime
    symbols: frozenset[str] = frozenset()
    reason: str = ""

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end)):
            if not isinstance(value, datetime) or value.tzinfo is None:
                raise ConfigError(f"blackout {self.reason!r}: {name} must be an aware datetime, not {value!r}")
        if not self.start < self.end:
            raise ConfigError(f"blackout {self.reason!r} ends at {self.end.isoformat()}, before it starts")
        if not isinstance(self.symbols, frozenset) or not all(isinstance(one, str) and one for one in self.symbols):
            raise ConfigError(f"blackout {self.reason!r}: write symbols=frozenset({{'AAPL'}}), not {self.symbols!r}")

    @classmethod
    def around(
        cls,
        event_time: datetime,
        before: timedelta,
        after: timedelta,
        *,
        symbols: Iterable[str] = (),
        reason: str = "",
    ) -> Blackout:
        """Return the window around an event.

        Args:
            event_time: when it happens, aware.
            before: how long before it the window starts.
            after: how long after it the window ends.
            symbols: the instruments that it concerns; none for all.
            reason: what happens.

        Raises:
            ConfigError: as of the class; or the symbols are one string.
        """
        if isinstance(symbols, str):
            raise ConfigError(f"blackout {reason!r}: write symbols=[{symbols!r}]")
        if not isinstance(event_time, datetime) or before < timedelta(0) or after < timedelta(0):
            raise ConfigError(f"blackout {reason!r}: give an aware datetime, and a time before and after it of zero or more")
        return cls(event_time - before, event_time + after, frozenset(symbols), reason)


@dataclass(frozen=True, slots=True)
class Blackouts:
    """Many windows, found by symbol and time at the cost of a bisection.

    Args:
        windows: the windows, in any order; they may overlap.
        until: until when all windows are known, aware: later nothing adds risk. None: for good.

    Raises:
        ConfigError: something in it is no `Blackout`, or `until` has no zone.
    """

    windows: tuple[Blackout, ...] = ()
    until: datetime | None = None
    _index: Mapping[str, tuple[list[datetime], list[Blackout]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        windows = tuple(self.windows)
        if strange := [one for one in windows if not isinstance(one, Blackout)]:
            raise ConfigError(f"{strange[0]!r} is no Blackout: write Blackout(start, end, reason=...)")
        if self.until is not None and (not isinstance(self.until, datetime) or self.until.tzinfo is None):
            raise ConfigError(f"until must be an aware datetime, not {self.until!r}")
        by: dict[str, list[Blackout]] = {}
        for window in windows:
            for symbol in window.symbols or (EVERY,):
                by.setdefault(symbol, []).append(window)
        index = {}
        for symbol, found in by.items():
            found.sort(key=lambda one: one.start)
            longest: list[Blackout] = []  # of those that have started by then, the one that ends last
            for window in found:
                longest.append(longest[-1] if longest and longest[-1].end >= window.end else window)
            index[symbol] = ([window.start for window in found], longest)
        object.__setattr__(self, "windows", windows)
        object.__setattr__(self, "_index", index)

    def __reduce__(self) -> tuple[type[Blackouts], tuple[tuple[Blackout, ...], datetime | None]]:
        return Blackouts, (self.windows, self.until)

    def at(self, symbol: str, moment: datetime) -> Blackout | None:
        """Return a window of an instrument in which a moment lies, the one that ends last; None where there is none."""
        found: Blackout | None = None
        for name in (symbol, EVERY):
            if known := self._index.get(name):
                starts, longest = known
                at = bisect_right(starts, moment) - 1
                if at >= 0 and moment < longest[at].end and (found is None or found.end < longest[at].end):
                    found = longest[at]
        return found

    def __or__(self, other: Blackouts) -> Blackouts:
        ends = [one.until for one in (self, other) if one.until is not None]
        return Blackouts(self.windows + other.windows, min(ends, default=None))
