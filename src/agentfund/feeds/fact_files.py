"""Facts from records, files and DataFrames: what is wrong is named by file, row and field, and never repaired."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from agentfund.errors import BadData, ConfigError
from agentfund.feeds.facts import Fact, Facts
from agentfund.feeds.moments import moment, zone
from agentfund.feeds.rows import Row, csv_rows, frame_rows, record_row
from agentfund.prompt import Untrusted

if TYPE_CHECKING:
    from datetime import datetime
    from os import PathLike

    import pandas as pd

FIELDS = ("name", "symbol", "id", "event_time", "known_time", "value", "text", "revision", "forecast")

_TRUE, _FALSE = ("1", "true", "yes", "t", "y"), ("0", "false", "no", "f", "n")
_DAY = timedelta(days=1)


def from_records(records: Iterable[Fact | Mapping[str, Any]], *, source: str, tz: str | None) -> Facts:
    """Take facts, or mappings of their fields; see `Facts.from_records`."""
    local = zone(tz)
    made = [
        record if isinstance(record, Fact) else _fact(record_row(record, f"{source}, record {i}", FIELDS), local, source)
        for i, record in enumerate(records)
    ]
    return Facts(made, source=source)


def from_csv(
    path: str | PathLike[str],
    *,
    name: str | None,
    symbol: str | None,
    tz: str | None,
    columns: Mapping[str, str] | None,
) -> Facts:
    """Read a file of facts; see `Facts.from_csv`."""
    source, local = Path(path).name, zone(tz)
    rows = [_numeric(row) for row in csv_rows(path, FIELDS, columns)]
    return _made(_named(rows, name, symbol, source), local, source)


def from_frame(
    frame: pd.DataFrame,
    *,
    name: str | None,
    symbol: str | None,
    tz: str | None,
    columns: Mapping[str, str] | None,
) -> Facts:
    """Take the facts of a DataFrame; see `Facts.from_frame`."""
    source = "DataFrame"
    return _made(_named(frame_rows(frame, source, FIELDS, columns), name, symbol, source), zone(tz), source)


def _made(rows: Sequence[Row], local: ZoneInfo | None, source: str) -> Facts:
    facts = [_fact(row, local, source) for row in rows]
    return Facts(facts, source=source, warnings=_midnights(rows, facts, local, source))


def _named(rows: Sequence[Row], name: str | None, symbol: str | None, source: str) -> list[Row]:
    given = {field: value for field, value in (("name", name), ("symbol", symbol)) if value is not None}
    for field in given:
        if any(field in row.values for row in rows):
            raise ConfigError(f"{source} has a column {field}; leave {field}= out, or the column")
    return [Row(row.where, {**row.values, **given}) for row in rows]


def _numeric(row: Row) -> Row:
    """Return a row of a text file with its value as the number that it must be."""
    if "value" not in row.values:
        return row
    try:
        return Row(row.where, {**row.values, "value": float(row.values["value"])})
    except ValueError:
        raise row.wrong("value", f"{row.values['value']!r} is no number; text belongs into a column named text") from None


def _fact(row: Row, local: ZoneInfo | None, source: str) -> Fact:
    values = row.values
    for field in ("name", "event_time", "known_time"):
        if field not in values:
            why = "; a fact counts from the moment at which anybody could know it" if field == "known_time" else ""
            raise row.wrong(field, f"it is empty or missing{why}")
    if ("value" in values) == ("text" in values):
        raise row.wrong("value", "give a number as value or words as text, and not both")
    value = values["value"] if "value" in values else Untrusted(str(values["text"]), source)
    if isinstance(value, str):
        value = Untrusted(value, source)
    try:
        return Fact(
            name=str(values["name"]),
            symbol=str(values.get("symbol", "")),
            id=str(values.get("id", "")),
            event_time=_time(row, "event_time", local, day_ends=False),
            known_time=_time(row, "known_time", local, day_ends=True),
            value=value,
            revision=_revision(row),
            forecast=_flag(row),
        )
    except BadData as error:
        raise error if str(error).startswith(row.where) else BadData(f"{row.where}, {error}") from None


def _time(row: Row, field: str, local: ZoneInfo | None, *, day_ends: bool) -> datetime:
    try:
        return moment(row.values[field], local, day_ends=day_ends)
    except ValueError as error:
        raise row.wrong(field, str(error)) from None


def _revision(row: Row) -> int:
    given = row.values.get("revision", 0)
    try:
        number = int(given)
        if number != float(given):
            raise ValueError
    except (TypeError, ValueError):
        raise row.wrong("revision", f"{given!r} is no whole number from 0 up") from None
    return number


def _flag(row: Row) -> bool:
    text = str(row.values.get("forecast", "0")).lower().removesuffix(".0")
    if text not in _TRUE and text not in _FALSE:
        raise row.wrong("forecast", f"{row.values['forecast']!r} is neither true nor false")
    return text in _TRUE


def _midnights(rows: Sequence[Row], facts: Sequence[Fact], local: ZoneInfo | None, source: str) -> tuple[str, ...]:
    """Tell of times that are probably days: what became known during a day would be known from its beginning."""
    times = [fact.known_time.astimezone(local) if local else fact.known_time for fact in facts]
    days = [_is_day(row.values["known_time"]) for row in rows]
    if not times or any(days) or any(time.hour or time.minute or time.second or time.microsecond for time in times):
        return ()
    return (
        f"{source}: every known_time is midnight; if these are days, facts count up to a day too early: give the time of"
        " publication, or days without a time, which count from their end",
    )


def _is_day(value: object) -> bool:
    return isinstance(value, str) and ":" not in value and "T" not in value
