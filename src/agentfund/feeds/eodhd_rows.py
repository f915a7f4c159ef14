"""Rows of EODHD's REST API as bars: all its names of fields, texts or numbers, nulls, any order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from agentfund.clock import EPOCH
from agentfund.errors import BadData
from agentfund.feeds.wire_rows import checked, number
from agentfund.market import Bar

_PRICES = ("open", "high", "low", "close")
_LAST_SECOND = 7_258_118_400  # 2200: what lies behind is not seconds
_SAME = timedelta(0)
_DIGITS_OF_A_DAY = 8


@dataclass(slots=True)
class LeftOut:
    """Rows that no bar was made of, counted.

    Attributes:
        nulls: rows without one of the numbers.
        duplicates: rows that repeat another row.
        off_grid: rows that do not start at a multiple of their interval.
    """

    nulls: int = 0
    duplicates: int = 0
    off_grid: int = 0


def bars_of(
    rows: Sequence[Any],
    symbol: str,
    unit: timedelta,
    where: str,
    left_out: LeftOut,
    *,
    adjusted: bool = False,
    volume: bool = True,
) -> list[Bar]:
    """Return the bars of rows, oldest first, each start once.

    Args:
        rows: as they came, parsed JSON.
        symbol: what the bars are of.
        unit: length of a row.
        where: names the request in errors.
        left_out: is counted up.
        adjusted: whether prices are scaled to the row's adjusted close.
        volume: whether a row must have a volume; otherwise it is zero where there is none.

    Raises:
        BadData: a row cannot be; names the row, counted from 0, and the field.
    """
    found: dict[datetime, tuple[int, Bar]] = {}
    for i, given in enumerate(rows):
        place = f"{where}, row {i}"
        if not isinstance(given, Mapping):
            raise BadData(f"{place}: it is {given!r:.60}, no object with fields; ask the provider")
        row = {str(name).strip().lower().replace("_", "").replace(" ", ""): value for name, value in given.items()}
        start = _start(row, place)
        bar = _bar(row, symbol, start, unit, place, adjusted=adjusted, volume=volume)
        if bar is None:
            left_out.nulls += 1
        elif (start - EPOCH) % unit:
            left_out.off_grid += 1
        elif start not in found:
            found[start] = i, bar
        elif found[start][1] == bar:
            left_out.duplicates += 1
        else:
            raise BadData(
                f"{place}: it starts at {start.isoformat()} as row {found[start][0]} does, with other numbers;"
                " nobody knows which is right: ask the provider"
            )
    return [found[start][1] for start in sorted(found)]


def _bar(
    row: Mapping[str, Any], symbol: str, start: datetime, unit: timedelta, where: str, *, adjusted: bool, volume: bool
) -> Bar | None:
    """Return a row's bar, None where a number is null."""
    for field in _PRICES:
        if field not in row:
            more = "; it has adjusted_close, which does not fit the other prices" if "adjustedclose" in row else ""
            raise BadData(f"{where}, {field}: there is no such field among {', '.join(row) or 'none'}{more}; ask the provider")
    first, high, low, close = (number(row[field], where, field) for field in _PRICES)
    traded = number(row.get("volume"), where, "volume")
    if traded is None and not volume:
        traded = 0.0
    if first is None or high is None or low is None or close is None or traded is None:
        return None
    told = checked(Bar(symbol, start, start + unit, first, high, low, close, traded), where)
    if not adjusted:
        return told
    adjusted_close = number(row.get("adjustedclose"), where, "adjusted_close")
    if adjusted_close is None:
        return None
    if adjusted_close <= 0:
        raise BadData(f"{where}, adjusted_close: {adjusted_close!r} is not above zero; ask the provider")
    scale = adjusted_close / close
    scaled = told._replace(open=told.open * scale, high=told.high * scale, low=told.low * scale, close=adjusted_close)
    return checked(scaled, where)


def _start(row: Mapping[str, Any], where: str) -> datetime:
    """Return when a row starts; where it says so twice, both must agree."""
    stamped = next((name for name in ("timestamp", "datetime", "date") if _is_stamp(row.get(name))), "timestamp")
    stamp = number(row.get(stamped), where, stamped)
    text, field = _text(row)
    if stamp is None and not text:
        raise BadData(f"{where}, timestamp: there is none, and no datetime or date; ask the provider")
    offset = timedelta(seconds=number(row.get("gmtoffset"), where, "gmtoffset") or 0.0)
    local = None
    if text:
        try:
            local = datetime.fromisoformat(text)
        except ValueError:
            raise BadData(f"{where}, {field}: {text!r:.60} is no time such as 2024-01-02 14:30:00; ask the provider") from None
    if stamp is None:
        assert local is not None
        return local.astimezone(UTC) if local.tzinfo is not None else local.replace(tzinfo=UTC) - offset
    if stamp != int(stamp) or not 0 <= stamp < _LAST_SECOND:
        raise BadData(f"{where}, {stamped}: {row[stamped]!r:.60} is no time in whole seconds since 1970; ask the provider")
    start = EPOCH + timedelta(seconds=int(stamp))
    if local is None or ":" not in text:
        return start
    said = local.astimezone(UTC) if local.tzinfo is not None else local.replace(tzinfo=UTC)
    if said - start not in (_SAME, offset):
        raise BadData(f"{where}, {field}: {text!r} and {stamped} {int(stamp)} are not the same moment; ask the provider")
    return start


def _text(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the time as text, and the name of its field: `datetime`, `date`, or `date` and `time`."""
    for field in ("datetime", "date"):
        if isinstance(row.get(field), str) and not _is_stamp(row[field]) and (text := str(row[field]).strip()):
            time = row.get("time")
            return (f"{text} {time.strip()}", "time") if field == "date" and isinstance(time, str) else (text, field)
    return "", ""


def _is_stamp(value: Any) -> bool:
    """Return whether a field holds seconds since 1970 and no text of a time; `20240102` is a day."""
    if isinstance(value, str):
        return value.strip().isdigit() and len(value.strip()) > _DIGITS_OF_A_DAY
    return isinstance(value, int | float) and not isinstance(value, bool)
