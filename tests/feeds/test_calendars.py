"""Opening hours of exchanges: holidays, early closes, breaks, changes of clocks, and years that nobody asked for."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from agentfund.errors import ConfigError
from agentfund.feeds.calendars import extended, hours
from agentfund.hours import Hours

NEW_YORK = ZoneInfo("America/New_York")


def is_open(known: Hours, *moment: int, zone: ZoneInfo = NEW_YORK) -> bool | None:
    """Return whether it is open at a moment of a place."""
    return known.is_open("ANY", datetime(*moment, tzinfo=zone))  # type: ignore[misc,arg-type]


@pytest.fixture(scope="module")
def nyse() -> Hours:
    return hours("XNYS", date(2026, 2, 1), date(2026, 12, 31))


def test_a_day_has_its_hours_to_the_minute(nyse: Hours) -> None:
    """The open counts, the close does not."""
    told = [is_open(nyse, 2026, 3, 4, hour, minute) for hour, minute in ((9, 29), (9, 30), (15, 59), (16, 0))]
    assert told == [False, True, True, False]


def test_a_holiday_a_weekend_and_an_early_close(nyse: Hours) -> None:
    """Thanksgiving of 2026, and the Friday after it, which ends at one."""
    assert is_open(nyse, 2026, 11, 26, 12, 0) is False
    assert is_open(nyse, 2026, 11, 28, 12, 0) is False
    assert [is_open(nyse, 2026, 11, 27, 12, 59), is_open(nyse, 2026, 11, 27, 13, 0)] == [True, False]


def test_clocks_that_change_change_nothing_in_new_york(nyse: Hours) -> None:
    """In UTC the open moves by an hour on 8 March 2026."""
    for day in (6, 9):
        assert [is_open(nyse, 2026, 3, day, 9, 29), is_open(nyse, 2026, 3, day, 9, 30)] == [False, True]
    assert is_open(nyse, 2026, 3, 6, 14, 0, zone=ZoneInfo("UTC")) is False
    assert is_open(nyse, 2026, 3, 9, 14, 0, zone=ZoneInfo("UTC")) is True


def test_other_days_are_not_known_until_they_are_asked_for(nyse: Hours) -> None:
    """A process that is up for a year makes its hours longer, and nothing dies."""
    assert is_open(nyse, 2026, 1, 5, 12, 0) is None
    assert is_open(nyse, 2027, 3, 4, 12, 0) is None
    longer = extended(nyse, date(2027, 3, 31))
    assert is_open(longer, 2027, 3, 4, 12, 0) is True
    assert is_open(longer, 2026, 11, 27, 13, 0) is False
    assert longer.until == datetime(2027, 4, 1, tzinfo=UTC)


def test_a_break_at_noon_is_closed() -> None:
    """In Hong Kong."""
    known, there = hours("XHKG", date(2026, 3, 2), date(2026, 3, 6)), ZoneInfo("Asia/Hong_Kong")
    told = [is_open(known, 2026, 3, 4, hour, 30, zone=there) for hour in (9, 11, 12, 13, 16)]
    assert told == [True, True, False, True, False]


def test_a_session_that_begins_the_evening_before_is_open_on_the_first_day() -> None:
    """Futures of Chicago open at 17:00 of the day before."""
    known = hours("CMES", date(2026, 3, 4), date(2026, 3, 5))
    assert is_open(known, 2026, 3, 4, 1, 0, zone=ZoneInfo("UTC")) is True


def test_a_calendar_that_ends_ends_the_hours() -> None:
    """What it does not know is not guessed; what lies wholly beyond it is an error."""
    last = date(2049, 12, 31)
    known = hours("XHKG", date(last.year, 12, 1), date(last.year + 1, 3, 1))
    assert known.until == datetime(2050, 1, 1, tzinfo=UTC)
    with pytest.raises(ConfigError, match="the calendar XHKG knows"):
        hours("XHKG", date(last.year + 1, 2, 1), date(last.year + 1, 3, 1))


def test_round_the_clock_needs_no_package() -> None:
    """Always; on weekdays by UTC; and foreign exchange from Sunday to Friday at 17:00 in New York, whatever the clocks do."""
    first, last = date(2026, 3, 1), date(2026, 3, 31)
    utc = ZoneInfo("UTC")
    assert is_open(hours("24/7", first, last), 2026, 3, 7, 3, 0, zone=utc) is True
    assert is_open(hours("24/7", first, last), 2026, 4, 1, 0, 0, zone=utc) is None
    week = hours("24/5", first, last)
    assert [is_open(week, 2026, 3, 6, 23, 59, zone=utc), is_open(week, 2026, 3, 7, 0, 0, zone=utc)] == [True, False]
    forex = hours("forex", first, last)
    for friday in (6, 13):
        assert [is_open(forex, 2026, 3, friday, 16, 59), is_open(forex, 2026, 3, friday, 17, 0)] == [True, False]
        assert [is_open(forex, 2026, 3, friday + 2, hour, 59) for hour in (16, 17)] == [False, True]


def test_each_instrument_has_its_own_hours() -> None:
    """Stocks and coins in one fund; extended, each stays with its own calendar."""
    first, last = date(2026, 3, 2), date(2026, 3, 6)
    both = hours("24/7", first, last, symbols=["BTC"]) | hours("24/5", first, last)
    longer, saturday = extended(both, date(2026, 3, 8)), datetime(2026, 3, 7, 12, tzinfo=UTC)
    assert [longer.is_open("BTC", saturday), longer.is_open("EURUSD", saturday)] == [True, False]


def test_what_is_no_calendar_is_named() -> None:
    """With what to write instead."""
    with pytest.raises(ConfigError, match="there is no calendar 'XNYC'"):
        hours("XNYC", date(2026, 3, 1), date(2026, 3, 2))
    with pytest.raises(ConfigError, match=r"write symbols=\['BTC'\]"):
        hours("24/7", date(2026, 3, 1), date(2026, 3, 2), symbols="BTC")
    with pytest.raises(ConfigError, match="before they begin"):
        hours("24/7", date(2026, 3, 2), date(2026, 3, 1))
