"""Blackouts from a file: windows, or events and the time around them; what is wrong is named by file, row and field."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

from agentfund.errors import BadData, ConfigError
from agentfund.feeds.moments import moment, zone
from agentfund.feeds.rows import Row, csv_rows
from agentfund.hours import Blackout, Blackouts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from os import PathLike
    from zoneinfo import ZoneInfo

FIELDS = ("start", "end", "time", "symbols", "reason")
_HALF_AN_HOUR = timedelta(minutes=30)


def read_blackouts(
    path: str | PathLike[str],
    *,
    before: timedelta = _HALF_AN_HOUR,
    after: timedelta = _HALF_AN_HOUR,
    tz: str | None = None,
    until: datetime | None = None,
    columns: Mapping[str, str] | None = None,
) -> Blackouts:
    """Read a comma-separated file with a header row: `start` and `end` of a window, or the `time` of an event.

    Args:
        path: the file. `symbols` (separated by spaces, commas or semicolons; empty for all) and `reason` may be left out.
        before: how long before an event its window starts.
        after: how long after an event its window ends.
        tz: zone of times that name none; None refuses them.
        until: until when the file tells all windows, aware: later nothing adds risk. None: for good.
        columns: the names of columns that are called otherwise, by field.

    Raises:
        BadData: the file cannot be read, or a row is no window; names file, row and field.
        ConfigError: `tz` is no zone, a time before or after is below zero, or `columns` names no field.
    """
    if before < timedelta(0) or after < timedelta(0) or not before + after:
        raise ConfigError(f"a window around an event needs a time before or after it, not {before} and {after}")
    local = zone(tz)
    windows = [_window(row, local, before, after) for row in csv_rows(path, FIELDS, columns)]
    return Blackouts(tuple(windows), until)


def _window(row: Row, local: ZoneInfo | None, before: timedelta, after: timedelta) -> Blackout:
    values = row.values
    if ("time" in values) == ("start" in values or "end" in values):
        raise row.wrong("time", "give the time of an event, or start and end of a window, and not both")
    symbols = [part for part in re.split(r"[\s,;]+", values.get("symbols", "")) if part]
    reason = values.get("reason", "")
    if "time" in values:
        return Blackout.around(_time(row, "time", local), before, after, symbols=symbols, reason=reason)
    for field in ("start", "end"):
        if field not in values:
            raise row.wrong(field, "it is empty or missing")
    start, end = _time(row, "start", local), _time(row, "end", local)
    if not start < end:
        raise row.wrong("end", f"{values['end']} does not lie after the start, {values['start']}")
    return Blackout(start, end, frozenset(symbols), reason)


def _time(row: Row, field: str, local: ZoneInfo | None) -> datetime:
    try:
        return moment(row.values[field], local, day_ends=field == "end")
    except ValueError as error:
        raise BadData(f"{row.where}, {field}: {error}") from None
