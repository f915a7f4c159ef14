"""Times as files write them, turned into microseconds since 1970 UTC without a guess that could be wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from itertools import product
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np

from agentfund.feeds.checks import NO_TIME, Check
from agentfund.feeds.moments import zone as named_zone

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from agentfund.market import Micros

# Body and zone of "2020-01-02 15:30:00+01:00", "... Z", "... GMT+0300"; a date alone has no zone.
_ZONED = r"^(.*?\d(?:[ T]?\d\d:|T)\d\d[\d:.,]*(?: ?[AaPp][Mm])?) ?((?:Z|(?:UTC|GMT)? ?[+-]\d\d?(?::?\d\d)?|UTC|GMT)?)$"
# Only these need the slower look: letters, a plus, a minus behind a time of day.
_MAYBE_ZONED = r"[A-Za-z+]|:.*-"
_OFFSET = re.compile(r"([+-])(\d\d?):?(\d\d)?$")

_DATES = ("%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%m-%d-%Y", "%d-%m-%Y", "%d-%b-%Y", "%d %b %Y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p", " %H%M", " %H%M%S", ", %H:%M", ", %H:%M:%S")
_COMPACT = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
# Microseconds in one unit, by the number of digits that a moment between 1973 and 2286 has in it.
_EPOCHS = {9: 1_000_000, 10: 1_000_000, 12: 1000, 13: 1000, 15: 1, 16: 1, 18: 0.001, 19: 0.001}
# A first row that cannot be read must not hide that the others can.
_TRIED = 20
_PLAUSIBLE = (10**14, 10**16)


def parse_times(
    values: pd.Series, *, tz: str | None, time_format: str | None, cell: Callable[[int], str]
) -> tuple[Micros, list[Check]]:
    """Turn a column of times into microseconds since 1970 UTC.

    Args:
        values: datetimes, numbers since 1970 (seconds to nanoseconds), or text.
        tz: zone of times that name none; None is UTC. Where times name offsets, they must be those of this zone.
        time_format: format of the text, as for `strptime`; None tries the usual ones.
        cell: the text of one time as its source has it.

    Returns:
        The times, NO_TIME where one cannot be used, and checks that say which and why.
    """
    import pandas as pd

    zone = named_zone(tz)
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return _micros(values.dt.tz_convert("UTC").dt.tz_localize(None)), [_unreadable(values.isna().to_numpy(), cell)]
    if pd.api.types.is_datetime64_dtype(values.dtype):
        return _local(values, np.zeros(len(values), dtype=bool), zone, cell)
    if pd.api.types.is_float_dtype(values.dtype) and bool((values.dropna() % 1 == 0).all()):
        values = values.astype("Int64")
    text = values.map(_text, na_action="ignore").fillna("").astype("str").str.strip()
    if time_format is None and re.fullmatch(r"\d+(\.\d+)?", text.iloc[0]):
        return _numbers(text, zone, cell)
    return _texts(text, time_format, zone, cell)


def _text(value: object) -> str:
    return value.isoformat(" ") if isinstance(value, datetime) else str(value)


def _micros(naive: pd.Series) -> Micros:
    # Not-a-time becomes the least integer, which is NO_TIME.
    return naive.to_numpy("datetime64[us]").astype(np.int64)


def _unreadable(bad: NDArray[np.bool_], cell: Callable[[int], str]) -> Check:
    def tell(i: int) -> str:
        if not cell(i):
            return "time is empty"
        return f"time {cell(i)!r} cannot be read; if it is right, time_format= takes its strptime format"

    return Check("a time that cannot be read", bad, tell)


def _numbers(text: pd.Series, zone: ZoneInfo | None, cell: Callable[[int], str]) -> tuple[Micros, list[Check]]:
    import pandas as pd

    digits = len(text.iloc[0].partition(".")[0])
    if digits in _COMPACT and text.iloc[0][:2] in ("19", "20"):
        naive = pd.to_datetime(text, format=_COMPACT[digits], errors="coerce")
        return _local(naive, naive.isna().to_numpy(), zone, cell)
    scale = _EPOCHS.get(digits)
    numbers = pd.to_numeric(text, errors="coerce")
    if scale is None:
        return _none(len(text)), [_unreadable(np.ones(len(text), dtype=bool), cell)]
    if scale < 1:
        micros = numbers // 1000
    elif numbers.dtype.kind == "i":
        micros = numbers * int(scale)
    else:
        micros = (numbers * scale).round()
    bad = ~micros.between(*_PLAUSIBLE).to_numpy()
    start = np.where(bad, NO_TIME, micros.where(~bad, 0).to_numpy(np.float64 if micros.dtype.kind == "f" else np.int64))
    return start.astype(np.int64), [_unreadable(bad, cell)]


def _texts(
    text: pd.Series, time_format: str | None, zone: ZoneInfo | None, cell: Callable[[int], str]
) -> tuple[Micros, list[Check]]:
    body, suffix = _splitzone(text)
    if time_format is None:
        formats = next((found for each in body.iloc[:_TRIED] if (found := _formats(each))), [])
    else:
        formats = [time_format.replace("%z", "").strip()]
    naive, unclear = _best(body, formats)
    bad = naive.isna().to_numpy()
    checks = [_unreadable(bad, cell), _day_or_month(unclear, cell)]
    if not (suffix != "").any():
        start, more = _local(naive, bad, zone, cell)
        return start, [*checks, *more[1:]]
    offsets = suffix.map({each: _offset(each) for each in suffix.unique()}).to_numpy(np.float64)
    local = _micros(naive)
    start = np.where(bad | np.isnan(offsets), NO_TIME, local - np.nan_to_num(offsets).astype(np.int64) * 60_000_000)
    if zone is None:
        same = (offsets == offsets[0]) | (np.isnan(offsets) & np.isnan(offsets[0]))
        return start, [*checks, _mixed(~bad & ~same, suffix)]
    wrong = ~bad & ((_shifted(start, zone) != local) | np.isnan(offsets))

    def tell(i: int) -> str:
        return f"time {cell(i)!r} has not the offset of {zone.key}"

    return start, [*checks, Check("another offset than the zone's", wrong, tell)]


def _formats(first: str) -> list[str]:
    import pandas as pd

    if not pd.isna(pd.to_datetime(pd.Series([first]), format="ISO8601", errors="coerce").iloc[0]):
        return ["ISO8601"]
    return [each for each in map("".join, product(_DATES, _CLOCKS)) if _fits(first, each)]


def _fits(text: str, form: str) -> bool:
    try:
        datetime.strptime(text, form)  # noqa: DTZ007 - only whether it can be read is asked
    except ValueError:
        return False
    return True


def _best(text: pd.Series, formats: list[str]) -> tuple[pd.Series, NDArray[np.bool_]]:
    """Read with the format that reads most; also say which rows two formats read to the end, and differently."""
    import pandas as pd

    nothing = np.zeros(len(text), dtype=bool)
    read = []
    for form in formats:
        try:
            naive = pd.to_datetime(text, format=form, errors="coerce")
        except ValueError:
            continue
        # Zones were split off before; one that is still there is of a kind that is not known.
        if pd.api.types.is_datetime64_dtype(naive.dtype):
            read.append(naive)
    if not read:
        return pd.Series(pd.NaT, index=text.index, dtype="datetime64[us]"), nothing
    read.sort(key=lambda naive: int(naive.isna().sum()))
    whole = [naive for naive in read if not naive.isna().any()]
    if len(whole) > 1:
        rising = [naive for naive in whole if naive.is_monotonic_increasing]
        if len(rising) == 1:
            return rising[0], nothing
        return whole[0], (whole[0] != whole[1]).to_numpy()
    return read[0], nothing


def _day_or_month(unclear: NDArray[np.bool_], cell: Callable[[int], str]) -> Check:
    def tell(i: int) -> str:
        return f"time {cell(i)!r} can have the day or the month first; time_format= says which, as '%d/%m/%Y' or '%m/%d/%Y'"

    return Check("a time that can be read in two ways", unclear, tell)


def _splitzone(text: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Return the times without their zones, and the zones, empty where there is none."""
    import pandas as pd

    if not text.str.contains(_MAYBE_ZONED).any():
        return text, pd.Series("", index=text.index)
    parts = text.str.extract(_ZONED)
    return parts[0].fillna(text), parts[1].fillna("").str.replace(" ", "")


def _offset(suffix: str) -> float:
    """Minutes east of Greenwich; NaN where none is named."""
    found = _OFFSET.search(suffix)
    if found is None:
        return 0.0 if suffix else float("nan")
    sign, hours, minutes = found.groups()
    return (1 if sign == "+" else -1) * (int(hours) * 60 + int(minutes or 0))


def _mixed(mixed: NDArray[np.bool_], suffix: pd.Series) -> Check:
    first = suffix.iloc[0] or "none"

    def tell(i: int) -> str:
        return (
            f"the time's zone is {suffix.iloc[i] or 'none'} where the first row has {first}, so zones are mixed;"
            " where they follow one place's summer time, name it, as tz='America/New_York'"
        )

    return Check("another time zone than the first", mixed, tell)


def _shifted(start: Micros, zone: ZoneInfo) -> Micros:
    import pandas as pd

    utc = pd.DatetimeIndex(start.astype("datetime64[us]")).tz_localize("UTC")
    return utc.tz_convert(zone).tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)


def _local(
    naive: pd.Series, bad: NDArray[np.bool_], zone: ZoneInfo | None, cell: Callable[[int], str]
) -> tuple[Micros, list[Check]]:
    import pandas as pd

    bad = bad | naive.isna().to_numpy()
    checks = [_unreadable(bad, cell)]
    if zone is None:
        return _micros(naive), checks
    there = pd.DatetimeIndex(naive).tz_localize(zone, ambiguous="NaT", nonexistent="NaT").tz_convert("UTC").tz_localize(None)
    start = there.to_numpy("datetime64[us]").astype(np.int64)
    lost = (start == NO_TIME) & ~bad

    def tell(i: int) -> str:
        return f"time {cell(i)!r} occurs twice or never in {zone.key}, when clocks change; write times in UTC or with offset"

    return start, [*checks, Check("a time that clocks skip or repeat", lost, tell)]


def _none(count: int) -> Micros:
    return np.full(count, NO_TIME, dtype=np.int64)
