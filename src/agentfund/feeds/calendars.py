"""Opening hours of exchanges as plain data: holidays, early closes and changes of clocks included.

Exchanges come from the package exchange_calendars (the extra `calendars`); round-the-clock markets need no package.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from agentfund.clock import to_micros
from agentfund.errors import ConfigError, MissingExtra
from agentfund.hours import EVERY, Hours, Schedule

if TYPE_CHECKING:
    import pandas as pd

Spans = Iterator[tuple[int, int]]
_DAY = timedelta(days=1)
_MARGIN = timedelta(days=10)
"""Sessions that begin before midnight, and holidays at either end, are asked for as well."""
_NEW_YORK = ZoneInfo("America/New_York")
_FIVE_PM = time(17)


def hours(calendar: str, first: date, last: date, *, symbols: Iterable[str] = ()) -> Hours:
    """Return when a market is open on some days; nothing is known of other days.

    Args:
        calendar: a name of exchange_calendars, such as "XNYS"; or "24/7"; "24/5", Monday to Friday UTC; "forex", Sunday
            17:00 to Friday 17:00 in New York.
        first: the first day, UTC.
        last: the last day, UTC. Where a calendar ends before it, the hours end there.
        symbols: the instruments that are traded then; none for every instrument that has no hours of its own.

    Raises:
        ConfigError: there is no such calendar, or it has no session then.
        MissingExtra: exchange_calendars is needed and not installed.
    """
    if isinstance(symbols, str):
        raise ConfigError(f"write symbols=[{symbols!r}]")
    if last < first:
        raise ConfigError(f"hours of {calendar} up to {last} would end before they begin, on {first}")
    if calendar in _OURS:
        spans = _OURS[calendar](first - _MARGIN, last + _MARGIN)
    else:
        spans, first, last = _of_exchange(calendar, first, last)
    since, until = _midnight(first), _midnight(last + _DAY)
    opens: list[int] = []
    closes: list[int] = []
    for start, end in spans:
        if end <= since or start >= until:
            continue
        if closes and start <= closes[-1]:
            closes[-1] = max(end, closes[-1])
        else:
            opens.append(start)
            closes.append(end)
    schedule = Schedule(calendar, tuple(opens), tuple(closes), since, until)
    return Hours(dict.fromkeys(tuple(symbols) or (EVERY,), schedule))


def extended(known: Hours, last: date) -> Hours:
    """Return the same hours, known up to a later day: made anew, by the names of their calendars.

    Args:
        known: hours that `hours` made, or several of them together.
        last: the last day, UTC.

    Raises:
        ConfigError: as `hours`.
        MissingExtra: as `hours`.
    """
    made: dict[Schedule, Schedule] = {}
    found = {}
    for symbol, schedule in known.schedules.items():
        if schedule not in made:
            first = datetime.fromtimestamp(schedule.since // 1_000_000, UTC).date()
            made[schedule] = hours(schedule.calendar, first, last).schedules[EVERY]
        found[symbol] = made[schedule]
    return Hours(found)


def _always(first: date, last: date) -> Spans:
    yield _midnight(first), _midnight(last + _DAY)


def _weekdays(first: date, last: date) -> Spans:
    for day in _days(first, last):
        if day.weekday() < 5:
            yield _midnight(day), _midnight(day + _DAY)


def _forex(first: date, last: date) -> Spans:
    for day in _days(first, last):
        if day.weekday() == 6:
            opens = datetime.combine(day, _FIVE_PM, _NEW_YORK)
            yield to_micros(opens), to_micros(datetime.combine(day + 5 * _DAY, _FIVE_PM, _NEW_YORK))


_OURS: dict[str, Callable[[date, date], Spans]] = {"24/7": _always, "24/5": _weekdays, "forex": _forex}


def _of_exchange(name: str, first: date, last: date) -> tuple[Spans, date, date]:
    """Return spans of an exchange, and the days of which they tell all."""
    try:
        import exchange_calendars  # type: ignore[import-untyped]
        import pandas as pd
        from exchange_calendars.errors import CalendarError, InvalidCalendarName  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtra("exchange_calendars", "calendars") from None
    with warnings.catch_warnings():
        # It uses what a later pandas will change; that is between the two of them.
        warnings.simplefilter("ignore", getattr(pd.errors, "Pandas4Warning", DeprecationWarning))
        try:
            start, end = first - _MARGIN, last + _MARGIN
            try:
                table = exchange_calendars.get_calendar(name, start=str(start), end=str(end)).schedule
            except InvalidCalendarName:
                raise
            except (ValueError, CalendarError):  # it ends before that, or begins later
                known = exchange_calendars.get_calendar(name)
                low, high = (None if one is None else one.date() for one in (known.bound_min(), known.bound_max()))
                start, end = max(start, low or start), min(end, high or end)
                first, last = max(first, start), min(last, end)
                if last < first:
                    raise ConfigError(f"the calendar {name} knows {low} to {high}, and not {first}") from None
                table = exchange_calendars.get_calendar(name, start=str(start), end=str(end)).schedule
        except InvalidCalendarName:
            own = ", ".join(_OURS)
            raise ConfigError(f"there is no calendar {name!r}: use a name such as 'XNYS', or one of {own}") from None
        except CalendarError as error:
            raise ConfigError(f"the calendar {name} has no hours from {first} to {last}: {error}") from None
        return iter(list(_spans(table, pd))), first, last


def _spans(table: pd.DataFrame, pandas: Any) -> Spans:
    columns = (table[name] for name in ("open", "break_start", "break_end", "close"))
    for opens, pauses, resumes, closes in zip(*columns, strict=True):
        if pandas.isna(pauses) or pandas.isna(resumes):
            yield _micros(opens), _micros(closes)
        else:
            yield _micros(opens), _micros(pauses)
            yield _micros(resumes), _micros(closes)


def _micros(stamp: Any) -> int:
    return int(stamp.value // 1_000)


def _midnight(day: date) -> int:
    return to_micros(datetime.combine(day, time(), UTC))


def _days(first: date, last: date) -> Iterator[date]:
    return (first + number * _DAY for number in range((last - first).days + 1))
