"""Times as files write them: read exactly, or refused; never guessed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.clock import from_micros
from agentfund.errors import BadData, ConfigError
from agentfund.feeds import Bars

HOUR = timedelta(hours=1)


def start_times(times: list[Any], **options: Any) -> list[datetime]:
    """The starts that a feed makes of these times."""
    frame = pd.DataFrame({"time": times, "open": 1.5, "high": 1.5, "low": 1.5, "close": 1.5})
    (columns,) = Bars.from_frame(frame, "X", interval=HOUR, **options).columns.values()
    return [from_micros(x) for x in columns.start]


def csv_times(folder: Path, times: list[str], **options: Any) -> list[datetime]:
    """The same, by way of a file."""
    path = folder / "X.csv"
    path.write_text("Time;Open;High;Low;Close\n" + "".join(f"{time};1.5;1.5;1.5;1.5\n" for time in times))
    (columns,) = Bars.from_csv(path, interval=HOUR, **options).columns.values()
    return [from_micros(x) for x in columns.start]


A, B = datetime(2024, 3, 25, 14, 30, tzinfo=UTC), datetime(2024, 4, 2, 9, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%d %H:%M:%S",
        "%Y-%m-%d %H:%M",
        "%Y-%m-%dT%H:%M:%S",
        "%Y-%m-%dT%H:%M:%SZ",
        "%Y-%m-%d %H:%M:%S.%f",
        "%Y-%m-%d %H:%M:%S+00:00",
        "%Y-%m-%d %H:%M:%S UTC",
        "%Y/%m/%d %H:%M",
        "%Y.%m.%d %H:%M",
        "%Y%m%d %H:%M:%S",
        "%Y%m%d %H%M%S",
        "%Y%m%d%H%M",
        "%Y%m%d%H%M%S",
        "%Y%m%dT%H%M%SZ",
        "%d.%m.%Y %H:%M:%S.%f",
        "%d.%m.%Y %H:%M:%S.000 GMT+0000",
        "%d/%m/%Y %H:%M",
        "%m/%d/%Y %H:%M:%S",
        "%m/%d/%Y %I:%M:%S %p",
        "%m/%d/%Y, %H:%M",
        "%d-%b-%Y %H:%M",
        "%d %b %Y %H:%M",
    ],
)
def test_usual_formats_are_known(tmp_path: Path, form: str) -> None:
    """Each format is read to the same moments, from files and from DataFrames."""
    text = [A.strftime(form), B.strftime(form)]
    assert start_times(text) == [A, B]
    assert csv_times(tmp_path, text) == [A, B]


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%Y%m%d", "%d.%m.%Y", "%m/%d/%Y"])
def test_dates_alone_are_midnights(tmp_path: Path, form: str) -> None:
    """Daily files have no time of day."""
    days = [A.replace(hour=0, minute=0), B.replace(hour=0, minute=0)]
    text = [day.strftime(form) for day in days]
    assert start_times(text) == days
    assert csv_times(tmp_path, text) == days
    if form == "%Y%m%d":
        assert start_times([int(each) for each in text]) == days


@pytest.mark.parametrize("per_second", [1, 1_000, 1_000_000, 1_000_000_000])
def test_numbers_since_1970_are_known(tmp_path: Path, per_second: int) -> None:
    """Seconds, milliseconds, microseconds and nanoseconds are told apart by their size, whole or floating."""
    numbers = [int(each.timestamp()) * per_second for each in (A, B)]
    assert start_times(numbers) == [A, B]
    assert csv_times(tmp_path, [str(number) for number in numbers]) == [A, B]
    assert start_times([float(number) for number in numbers]) == [A, B]
    with pytest.raises(BadData, match="iloc 1: time '1' cannot be read"):
        start_times([numbers[0], 1])


def test_fractions_of_seconds_are_kept() -> None:
    """1711377000.5 is half a second later."""
    assert start_times([1711377000.25, 1711377000.5])[1] == A + timedelta(seconds=0.5)


def test_day_or_month_first_is_decided_by_all_rows_or_refused(tmp_path: Path) -> None:
    """Where one reading fails or runs backwards the other is right; where both are possible the user must say."""
    assert start_times(["01/02/2024", "13/02/2024"]) == [datetime(2024, 2, d, tzinfo=UTC) for d in (1, 13)]
    assert start_times(["01/02/2024", "01/13/2024"]) == [datetime(2024, 1, d, tzinfo=UTC) for d in (2, 13)]
    assert start_times(["11/01/2024", "12/01/2024", "01/02/2024"])[2] == datetime(2024, 2, 1, tzinfo=UTC)
    with pytest.raises(BadData, match=r"X.csv, row 2 .*'01/02/2024' can have the day or the month first; time_format= says"):
        csv_times(tmp_path, ["01/02/2024", "02/02/2024"])
    assert csv_times(tmp_path, ["01/02/2024", "02/02/2024"], time_format="%d/%m/%Y")[0] == datetime(2024, 2, 1, tzinfo=UTC)


def test_a_zone_is_applied_to_times_without_one() -> None:
    """`tz` says what the clock on the wall was; summer time is followed."""
    text = ["2024-01-02 09:30", "2024-07-02 09:30"]
    expected = [datetime(2024, 1, 2, 14, 30, tzinfo=UTC), datetime(2024, 7, 2, 13, 30, tzinfo=UTC)]
    assert start_times(text, tz="America/New_York") == expected
    assert start_times(list(pd.to_datetime(text)), tz="America/New_York") == expected
    for wrong in ("Mars/Olympus", "America", ""):
        with pytest.raises(ConfigError, match=f"tz='{wrong}' is no time zone"):
            start_times(text, tz=wrong)


@pytest.mark.parametrize("hour", ["2024-11-03 01:30", "2024-03-10 02:30"])
def test_hours_that_clocks_repeat_or_skip_are_refused(tmp_path: Path, hour: str) -> None:
    """Nobody knows which moment is meant, so the row is named."""
    times = sorted(["2024-01-02 09:30", hour, "2024-12-02 09:30"])
    with pytest.raises(BadData, match=rf"X.csv, row 3: time '{hour}' occurs twice or never in America/New_York"):
        csv_times(tmp_path, times, tz="America/New_York")
    assert len(csv_times(tmp_path, times)) == 3


def test_one_offset_is_converted(tmp_path: Path) -> None:
    """Times with the same offset are moments, whatever the offset."""
    assert csv_times(tmp_path, ["2024-01-02 09:30:00+03:00", "2024-01-02 10:30:00+03:00"])[0].hour == 6
    assert csv_times(tmp_path, ["04.09.2023 01:00:05.962 GMT+0300", "04.09.2023 02:00:07.440 GMT+0300"]) == [
        datetime(2023, 9, 3, 22, 0, 5, 962_000, tzinfo=UTC),
        datetime(2023, 9, 3, 23, 0, 7, 440_000, tzinfo=UTC),
    ]


def test_mixed_zones_are_refused_unless_one_place_explains_them(tmp_path: Path) -> None:
    """Offsets that change are an error, except where they are the summer time of the zone that the user names."""
    summer = ["2024-03-08 09:30:00-05:00", "2024-03-11 09:30:00-04:00"]
    with pytest.raises(BadData, match=r"X.csv, row 3.*zone is -04:00 where the first row has -05:00.*tz='America/New_York'"):
        csv_times(tmp_path, summer)
    assert csv_times(tmp_path, summer, tz="America/New_York")[1] == datetime(2024, 3, 11, 13, 30, tzinfo=UTC)
    with pytest.raises(BadData, match=r"row 3.*has not the offset of Europe/London"):
        csv_times(tmp_path, ["2024-03-08 09:30:00+00:00", "2024-03-11 09:30:00-04:00"], tz="Europe/London")
    with pytest.raises(BadData, match=r"row 3.*zone is none where the first row has Z"):
        csv_times(tmp_path, ["2024-03-08 09:30:00Z", "2024-03-08 10:30:00"])
    with pytest.raises(BadData, match=r"row 3.*zone is Z where the first row has none"):
        csv_times(tmp_path, ["2024-03-08 09:30:00", "2024-03-08 10:30:00Z"])


def test_zones_of_datetimes_are_followed() -> None:
    """A column of one zone is exact; a column of Python datetimes with different offsets is mixed."""
    there = [datetime(2024, 3, 8, 9, 30, tzinfo=ZoneInfo("America/New_York")) + timedelta(days=d) for d in (0, 3)]
    assert start_times(list(pd.DatetimeIndex(there))) == [each.astimezone(UTC) for each in there]
    offsets = [datetime(2024, 3, 8, 9, tzinfo=timezone(k * HOUR)) + d * HOUR for k, d in ((1, 0), (2, 48))]
    with pytest.raises(BadData, match=r"iloc 1 .*zone is \+02:00 where the first row has \+01:00"):
        start_times([*offsets])


@given(st.lists(st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)), min_size=1, max_size=5, unique=True))  # noqa: DTZ001
@settings(deadline=None, max_examples=60)
def test_iso_times_come_back_to_the_microsecond(moments: list[datetime]) -> None:
    """Reading what Python writes gives the same moments, naive or with an offset."""
    moments = sorted(moments)
    aware = [moment.replace(tzinfo=UTC) for moment in moments]
    assert start_times([moment.isoformat() for moment in moments]) == aware
    east = timezone(timedelta(hours=5, minutes=30))
    assert start_times([moment.astimezone(east).isoformat(" ") for moment in aware]) == aware


def test_a_time_that_nobody_can_read_is_named(tmp_path: Path) -> None:
    """Words, zones by name and numbers of no unit are refused with their row."""
    for wrong in ("yesterday", "2024-01-02 09:30 EST", "123", "12345678901", "Q1 2024"):
        with pytest.raises(BadData, match=f"row 2: time '{wrong}' cannot be read"):
            csv_times(tmp_path, [wrong, wrong])
