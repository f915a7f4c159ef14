"""Opening hours and blackouts as data."""

from __future__ import annotations

import pickle
import random
from datetime import datetime, timedelta

import pytest

from agentfund.clock import to_micros
from agentfund.errors import ConfigError
from agentfund.hours import Blackout, Blackouts, Hours, Schedule
from tests.market import START

SECOND = timedelta(seconds=1)
NOW = to_micros(START)


def schedule(opens: tuple[int, ...] = (0, 20), closes: tuple[int, ...] = (10, 30)) -> Schedule:
    """Return hours of a hundred microseconds."""
    return Schedule("x", opens, closes, -50, 50)


def test_a_market_is_open_from_its_open_to_just_before_its_close() -> None:
    """And nobody knows outside of what was asked for."""
    told = [schedule().is_open(moment) for moment in (-51, -50, -1, 0, 9, 10, 19, 20, 29, 30, 49, 50)]
    assert told == [None, False, False, True, True, False, False, True, True, False, False, None]
    assert [schedule().next_open(moment) for moment in (-60, 0, 20)] == [0, 20, None]


@pytest.mark.parametrize(
    ("opens", "closes"), [((0, 20), (10,)), ((0,), (0,)), ((10, 5), (12, 20)), ((0, 5), (10, 20)), ((5,), (2,))]
)
def test_hours_that_do_not_rise_are_refused(opens: tuple[int, ...], closes: tuple[int, ...]) -> None:
    """A close before its open would hide a closed market."""
    with pytest.raises(ConfigError, match="must rise"):
        schedule(opens, closes)


def test_hours_are_of_named_instruments_or_of_all_others() -> None:
    """And two sets of hours go together where they do not overlap."""
    both = Hours({"BTC": schedule((0,), (40,))}) | Hours({"": schedule()})
    assert both.is_open("BTC", START) is None
    assert both.of("BTC") != both.of("AAPL") == schedule()
    assert Hours({"BTC": schedule()}).of("AAPL") is None
    assert pickle.loads(pickle.dumps(both)) == both
    with pytest.raises(ConfigError, match="both have hours of BTC"):
        _ = both | Hours({"BTC": schedule()})
    with pytest.raises(ConfigError, match="need a schedule"):
        Hours({})


def test_a_window_is_found_whatever_others_overlap_it() -> None:
    """Against a plain search, 3,000 times."""
    r = random.Random(7)
    for _ in range(60):
        windows = []
        for number in range(r.randrange(12)):
            start = START + r.randrange(100) * SECOND
            names = frozenset(r.sample("ABC", r.randrange(3)))
            windows.append(Blackout(start, start + r.randrange(1, 60) * SECOND, names, str(number)))
        known = Blackouts(tuple(windows))
        for _ in range(50):
            moment, symbol = START + r.randrange(-5, 170) * SECOND, r.choice("ABCD")
            inside = [one for one in windows if one.start <= moment < one.end and (not one.symbols or symbol in one.symbols)]
            found = known.at(symbol, moment)
            assert (found is None) is (not inside)
            assert found is None or found.end == max(one.end for one in inside)


def test_a_window_around_an_event() -> None:
    """Both ends, and whom it concerns."""
    one = Blackout.around(START, 60 * SECOND, 30 * SECOND, symbols=["AAPL"], reason="earnings")
    assert one == Blackout(START - 60 * SECOND, START + 30 * SECOND, frozenset({"AAPL"}), "earnings")


def test_blackouts_go_together_and_are_known_as_long_as_the_shorter() -> None:
    """They also survive a process."""
    first, second = Blackouts((Blackout(START, START + SECOND),), START + SECOND), Blackouts(until=START)
    assert (first | second).until == START
    assert (first | Blackouts()).until == START + SECOND
    assert pickle.loads(pickle.dumps(first)) == first
    assert pickle.loads(pickle.dumps(first)).at("X", START) is not None


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Blackout(START, START), "before it starts"),
        (lambda: Blackout(datetime(2024, 1, 2), START), "start must be an aware datetime"),  # noqa: DTZ001
        (lambda: Blackout(START, START + SECOND, "AAPL"), "write symbols=frozenset"),  # type: ignore[arg-type]
        (lambda: Blackout.around(START, SECOND, SECOND, symbols="AAPL"), r"write symbols=\['AAPL'\]"),
        (lambda: Blackout.around(START, -SECOND, SECOND), "zero or more"),
        (lambda: Blackouts(("x",)), "is no Blackout"),  # type: ignore[arg-type]
        (lambda: Blackouts(until=START.replace(tzinfo=None)), "until must be an aware datetime"),
    ],
)
def test_what_is_no_window_is_refused(make: object, match: str) -> None:
    """Each says what to write."""
    assert callable(make)
    with pytest.raises(ConfigError, match=match):
        make()
