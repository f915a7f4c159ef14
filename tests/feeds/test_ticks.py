"""Ticks to bars: one after the other and as whole arrays, by the same rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.clock import from_micros, to_micros
from agentfund.compiled import available
from agentfund.errors import BadData, ConfigError
from agentfund.feeds.ticks import Dollars, Every, Ticks, Volume, bars_from_ticks, columns_from_ticks, tick_bars
from agentfund.market import Bar, Columns, Instrument, Tick, Window

MINUTE = timedelta(minutes=1)
ONE = Instrument("X")
DAY = datetime(2024, 3, 1, tzinfo=UTC)


def at(seconds: float) -> int:
    """Return a moment of the day in microseconds."""
    return to_micros(DAY + timedelta(seconds=seconds))


def arrays(ticks: list[tuple[int, float, float]]) -> tuple[Any, ...]:
    """Turn rows into columns."""
    return tuple(np.array(list(each), dtype) for each, dtype in zip(zip(*ticks, strict=True), "qdd", strict=True))


def listed(columns: Columns) -> list[Bar]:
    """Give the bars of columns one by one."""
    window = Window(columns, len(columns))
    return [window.bar(i) for i in range(len(columns))]


def streamed(ticks: list[tuple[int, float, float]], every: Every, **rules: Any) -> tuple[list[Bar], int]:
    """Send ticks one by one and close what is open at the end."""
    bars = tick_bars("X", every, **rules)
    closed = [bar for tick in ticks for bar in bars.push(*tick)]
    return [*closed, *bars.flush()], bars.late


def numbers(bars: list[Bar]) -> list[tuple[float, ...]]:
    """Leave symbol and times out."""
    return [tuple(bar[3:]) for bar in bars]


TIMES = st.one_of(st.integers(-400_000_000, 400_000_000), st.sampled_from([0, 59_999_999, 60_000_000, 60_000_001, 120_000_000]))
AMOUNTS = st.one_of(st.floats(0, 100), st.integers(0, 5).map(float), st.sampled_from([0.1, 0.2, 0.3, 1e9, 1e-9]))
TICK = st.tuples(TIMES, st.one_of(st.floats(0.01, 1e6), st.sampled_from([1.0, 2.0, 0.1])), AMOUNTS)
EVERY = st.one_of(
    st.sampled_from([MINUTE, timedelta(seconds=1), timedelta(minutes=5)]),
    st.integers(1, 6).map(Ticks),
    st.one_of(st.floats(0.1, 200), st.sampled_from([0.3, 0.6, 1.0, 3.0])).map(Volume),
    st.floats(0.1, 10_000).map(Dollars),
)
LATENESS = st.sampled_from([0, 1, 1_000_000, 30_000_000, 60_000_000, 200_000_000])


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[int, float, float]]:
    """Draw ticks: in order, nearly in order, or in none."""
    ticks = draw(st.lists(TICK, min_size=1, max_size=60))
    match draw(st.integers(0, 2)):
        case 0:
            return sorted(ticks, key=lambda tick: tick[0])
        case 1:
            shift = {i: draw(st.integers(-90_000_000, 0)) for i in range(len(ticks)) if draw(st.integers(0, 3)) == 0}
            ordered = sorted(ticks, key=lambda tick: tick[0])
            return [(time + shift.get(i, 0), price, volume) for i, (time, price, volume) in enumerate(ordered)]
        case _:
            return ticks


@settings(deadline=None, max_examples=600)
@given(ticks=streams(), every=EVERY, lateness=LATENESS, fast=st.booleans())
def test_one_by_one_gives_the_bits_of_whole_arrays(
    ticks: list[tuple[int, float, float]], every: Every, lateness: int, fast: bool
) -> None:
    """Late, out of order, at the same moment, at edges: the same bars and the same number of late ticks."""
    wait = timedelta(microseconds=lateness)
    columns, late = columns_from_ticks(ONE, every, *arrays(ticks), lateness=wait, compiled=fast and available())
    bars, streamed_late = streamed(ticks, every, lateness=wait)
    assert listed(columns) == bars
    assert late == streamed_late


@settings(deadline=None, max_examples=200)
@given(ticks=streams(), every=EVERY, lateness=LATENESS)
def test_every_tick_is_in_one_bar_or_counted_as_late(
    ticks: list[tuple[int, float, float]], every: Every, lateness: int
) -> None:
    """Nothing is lost, and bars that nothing closed can be left out."""
    wait = timedelta(microseconds=lateness)
    ones = [(time, price, 1.0) for time, price, _ in ticks]
    columns, late = columns_from_ticks(ONE, every, *arrays(ones), lateness=wait)
    assert columns.volume.sum() + late == len(ticks)
    bars = tick_bars("X", every, lateness=wait)
    closed = [bar for tick in ones for bar in bars.push(*tick)]
    if closed:
        assert listed(columns_from_ticks(ONE, every, *arrays(ones), lateness=wait, unfinished=False)[0]) == closed


@settings(deadline=None, max_examples=200)
@given(ticks=streams(), every=EVERY, lateness=LATENESS)
def test_a_bar_is_never_known_before_the_ticks_in_it(
    ticks: list[tuple[int, float, float]], every: Every, lateness: int
) -> None:
    """Its end lies behind the newest tick that had come, and a bar that a tick closed is what it stays."""
    bars = tick_bars("X", every, lateness=timedelta(microseconds=lateness))
    newest, ends = -(2**62), [-(2**62)]
    for tick in ticks:
        closed = bars.push(*tick)
        newest = max(newest, tick[0])
        for bar in closed:
            if not isinstance(every, timedelta):
                assert to_micros(bar.end) > newest
            assert to_micros(bar.end) > ends[-1]
            assert bar.start < bar.end
            ends.append(to_micros(bar.end))


def test_a_tick_at_the_edge_belongs_to_the_next_bar() -> None:
    """A bar is [start, end), aligned to midnight UTC; an interval without a tick gives no bar."""
    ticks = [(at(59.999999), 10.0, 1.0), (at(60), 11.0, 2.0), (at(299), 12.0, 1.0)]
    bars, late = streamed(ticks, MINUTE)
    assert [(bar.start, bar.end) for bar in bars] == [(DAY + i * MINUTE, DAY + (i + 1) * MINUTE) for i in (0, 1, 4)]
    assert numbers(bars) == [(10, 10, 10, 10, 1), (11, 11, 11, 11, 2), (12, 12, 12, 12, 1)]
    assert late == 0


def test_a_bar_comes_with_the_first_tick_behind_it() -> None:
    """Not before: more ticks of it could come."""
    bars = tick_bars("X", MINUTE)
    assert bars.push(at(1), 10.0, 1.0) == ()
    assert bars.push(at(59), 12.0, 1.0) == ()
    (closed,) = bars.push(at(60), 11.0, 1.0)
    assert closed == Bar("X", DAY, DAY + MINUTE, 10, 12, 10, 12, 2)


def test_an_offset_moves_the_starts_to_the_session() -> None:
    """Four-hour bars of a session that begins at 01:30."""
    bars, _ = streamed([(at(2 * 3600), 10.0, 1.0)], timedelta(hours=4), offset=timedelta(minutes=90))
    assert bars[0].start == DAY + timedelta(minutes=90)


def test_a_tick_out_of_order_counts_while_its_bar_is_open() -> None:
    """Open and close are those of the earliest and the latest tick by their own time."""
    ticks = [(at(10), 10.0, 1.0), (at(50), 13.0, 1.0), (at(5), 9.0, 1.0), (at(40), 14.0, 1.0), (at(50), 12.0, 1.0)]
    bars, late = streamed(ticks, MINUTE)
    assert numbers(bars) == [(9, 14, 9, 12, 5)]
    assert late == 0


def test_of_two_ticks_of_one_moment_the_later_to_arrive_closes_the_bar() -> None:
    """The earlier to arrive opens it; also where the bar is no longer the newest one."""
    ticks = [(at(10), 10.0, 1.0), (at(61), 20.0, 1.0), (at(10), 12.0, 1.0)]
    wait = timedelta(seconds=30)
    bars, late = streamed(ticks, MINUTE, lateness=wait)
    assert numbers(bars) == [(10, 12, 10, 12, 2), (20, 20, 20, 20, 1)]
    assert late == 0
    assert listed(columns_from_ticks(ONE, MINUTE, *arrays(ticks), lateness=wait)[0]) == bars


def test_a_late_tick_is_counted_and_in_no_bar() -> None:
    """Without lateness the first tick behind a bar closes it."""
    ticks = [(at(10), 10.0, 1.0), (at(60), 11.0, 1.0), (at(59), 99.0, 1.0)]
    bars, late = streamed(ticks, MINUTE)
    assert numbers(bars) == [(10, 10, 10, 10, 1), (11, 11, 11, 11, 1)]
    assert late == 1


def test_lateness_keeps_a_bar_open_and_makes_it_known_later() -> None:
    """The bar is known at its end plus the lateness, in a backtest as in a stream."""
    ticks = [(at(10), 10.0, 1.0), (at(61), 11.0, 1.0), (at(59), 12.0, 1.0), (at(65), 11.0, 1.0), (at(58), 99.0, 1.0)]
    bars = tick_bars("X", MINUTE, lateness=timedelta(seconds=5))
    closed = [bars.push(*tick) for tick in ticks]
    assert closed == [(), (), (), (Bar("X", DAY, DAY + timedelta(seconds=65), 10, 12, 10, 12, 2),), ()]
    assert bars.late == 1
    columns, _ = columns_from_ticks(ONE, MINUTE, *arrays(ticks), lateness=timedelta(seconds=5))
    assert columns.ends.tolist() == [at(65), at(125)]


def test_a_big_tick_fills_one_bar_and_is_not_split() -> None:
    """The bar holds more than asked for, and the next begins at nothing."""
    ticks = [(at(i), 10.0 + i, volume) for i, volume in enumerate([4.0, 20.0, 5.0, 5.0, 1.0])]
    bars, _ = streamed(ticks, Volume(10))
    assert [bar.volume for bar in bars] == [24, 10, 1]
    assert numbers(streamed(ticks, Dollars(100))[0]) == [(10, 11, 10, 11, 24), (12, 13, 12, 13, 10), (14, 14, 14, 14, 1)]


def test_ticks_are_counted() -> None:
    """Every second tick closes a bar; the last bar is not full."""
    ticks = [(at(i), 10.0 + i, 1.0) for i in range(5)]
    assert numbers(streamed(ticks, Ticks(2))[0]) == [(10, 11, 10, 11, 2), (12, 13, 12, 13, 2), (14, 14, 14, 14, 1)]


def test_bars_of_one_moment_end_a_microsecond_apart() -> None:
    """A burst has one time; the bars in it still have an order, and none is known before the burst."""
    bars, _ = streamed([(at(0), 10.0, 1.0)] * 3 + [(at(1), 10.0, 1.0)], Ticks(1))
    assert [to_micros(bar.end) - at(0) for bar in bars] == [1, 2, 3, 1_000_001]
    assert [to_micros(bar.start) - at(0) for bar in bars] == [0, 1, 2, 1_000_000]


def test_a_filled_bar_takes_older_ticks_within_the_lateness() -> None:
    """They count as they arrive; what is older is late."""
    ticks = [(at(10), 10.0, 1.0), (at(8), 9.0, 1.0), (at(4), 99.0, 1.0), (at(11), 11.0, 1.0)]
    bars, late = streamed(ticks, Ticks(3), lateness=timedelta(seconds=5))
    assert numbers(bars) == [(10, 11, 9, 11, 3)]
    assert late == 1


def test_the_clock_closes_a_bar_that_no_tick_closes() -> None:
    """Live does not wait for the next trade; what comes for the bar afterwards is late."""
    bars = tick_bars("X", MINUTE)
    bars.push(at(10), 10.0, 1.0)
    assert bars.advance(DAY + timedelta(seconds=59)) == ()
    assert bars.push(at(20), 11.0, 1.0) == ()
    assert numbers(list(bars.advance(DAY + MINUTE))) == [(10, 11, 10, 11, 2)]
    assert bars.push(at(30), 99.0, 1.0) == ()
    assert bars.late == 1
    assert bars.flush() == ()
    assert tick_bars("X", Ticks(2)).advance(DAY) == ()


def test_a_flush_closes_what_is_open_once() -> None:
    """Ticks of a flushed bar are late: a bar that was given out does not change."""
    bars = tick_bars("X", MINUTE)
    bars.push(at(10), 10.0, 1.0)
    assert len(bars.flush()) == 1
    assert bars.flush() == ()
    assert bars.push(at(30), 10.0, 1.0) == ()
    assert bars.late == 1


def test_a_tick_is_taken_as_an_object_too() -> None:
    """As an exchange's adapter makes it."""
    bars = tick_bars("X", Ticks(1))
    (bar,) = bars.add(Tick("NYSE", "X", 10.0, 3.0, DAY))
    assert (bar.close, bar.volume, bar.start) == (10.0, 3.0, DAY)
    with pytest.raises(BadData, match="a tick of Y came to the bars of X"):
        bars.add(Tick("NYSE", "Y", 10.0, 3.0, DAY))


@pytest.mark.parametrize(
    ("price", "volume", "said"),
    [
        (0.0, 1.0, "price is 0.0, and a price must be above zero"),
        (-1.0, 1.0, "price is -1.0"),
        (float("nan"), 1.0, "price is nan"),
        (float("inf"), 1.0, "price is inf"),
        (1.0, -1.0, "volume is -1.0, and a volume must not be below zero"),
        (1.0, float("nan"), "volume is nan"),
        (1.0, float("inf"), "volume is inf"),
    ],
)
@pytest.mark.parametrize("every", [MINUTE, Ticks(2), Volume(2)])
def test_a_number_that_cannot_be_is_refused_with_its_row(price: float, volume: float, said: str, every: Every) -> None:
    """Whole arrays name the row, a stream the time; the open bar stays as it was."""
    good = (at(1), 10.0, 1.0)
    with pytest.raises(BadData, match=rf"^my ticks, tick 2: .*2024-03-01 00:00:02.*{said}"):
        columns_from_ticks(ONE, every, *arrays([good, good, (at(2), price, volume)]), source="my ticks")
    bars = tick_bars("X", every)
    bars.push(*good)
    with pytest.raises(BadData, match=rf"^X, tick at 2024-03-01T00:00:02.*{said}"):
        bars.push(at(2), price, volume)
    assert numbers(list(bars.flush())) == [(10, 10, 10, 10, 1)]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tick_bars("X", timedelta(minutes=7)), "must divide a day"),
        (lambda: tick_bars("X", timedelta(0)), "must divide a day"),
        (lambda: tick_bars("X", MINUTE, lateness=-MINUTE), "lateness must not be below zero"),
        (lambda: tick_bars("X", Ticks(5), offset=MINUTE), "offset=0:01:00 moves the starts of time bars"),
        (lambda: tick_bars("X", cast(Any, 5)), "every=5 closes no bar"),
        (lambda: Ticks(0), "at least 1, not 0"),
        (lambda: Ticks(cast(Any, 2.5)), "a whole number"),
        (lambda: Volume(0), "units must be above zero"),
        (lambda: Dollars(float("inf")), "amount must be above zero and finite"),
        (lambda: bars_from_ticks("X", Volume(5), *arrays([(1, 1.0, 1.0)])[:2]), "needs the volume of each tick"),
    ],
)
def test_rules_that_cannot_be_are_refused(make: Any, said: str) -> None:
    """With what is wrong and what would be right."""
    with pytest.raises(ConfigError, match=said):
        make()


def test_columns_that_cannot_be_are_refused() -> None:
    """Lengths, kinds and times out of reach."""
    time, price, volume = arrays([(at(1), 1.0, 1.0), (at(2), 1.0, 1.0)])
    with pytest.raises(BadData, match="unequal shapes"):
        columns_from_ticks(ONE, MINUTE, time, price[:1], volume)
    with pytest.raises(BadData, match="whole microseconds"):
        columns_from_ticks(ONE, MINUTE, time.astype(float), price, volume)
    with pytest.raises(BadData, match="no tick"):
        columns_from_ticks(ONE, MINUTE, time[:0], price[:0], volume[:0])
    with pytest.raises(BadData, match="tick 1: the time is not between the years"):
        columns_from_ticks(ONE, MINUTE, np.array([time[0], time[1] * 1000]), price, volume)
    with pytest.raises(BadData, match="close no bar"):
        columns_from_ticks(ONE, Ticks(3), time, price, volume, unfinished=False)


def test_bars_say_how_many_ticks_were_late_and_that_there_is_no_volume() -> None:
    """Nothing is left out without a word; datetime64 will do for times."""
    time, price, volume = arrays([(at(10), 10.0, 1.0), (at(60), 11.0, 1.0), (at(59), 99.0, 1.0)])
    bars = bars_from_ticks("X", MINUTE, time.astype("M8[us]").astype("M8[ns]"), price, volume, source="the tape")
    assert bars.warnings == ("the tape: 1 of 3 ticks came after their bar had closed and are in none",)
    assert bars_from_ticks("X", MINUTE, time[:2], price[:2]).warnings == ("ticks: there is no volume, so every volume is zero",)


async def test_bars_of_volume_are_streamed_at_their_own_ends() -> None:
    """A feed shows a bar when the tick that filled it has come, not an interval after its start."""
    ticks = [(at(i * i), 10.0 + i, 5.0) for i in range(20)]
    bars = bars_from_ticks("X", Volume(10), *arrays(ticks))
    moments = [market.now async for market in bars.stream()]
    assert moments == [from_micros(at((2 * i + 1) ** 2) + 1) for i in range(10)]


@pytest.mark.skipif(not available(), reason="numba is not installed: pip install 'agentfund[fast]'")
def test_compiled_code_gives_the_bits_of_numpy_on_many_ticks() -> None:
    """A random tape of prices and volumes that do not add without rounding."""
    random = np.random.default_rng(5)
    time = at(0) + np.cumsum(random.integers(0, 400_000, 50_000))
    price, volume = 100 + np.cumsum(random.normal(0, 0.01, 50_000)), random.exponential(0.1, 50_000)
    for every in (MINUTE, timedelta(seconds=1), Ticks(77), Volume(3.3), Dollars(999.9)):
        slow, fast = (columns_from_ticks(ONE, every, time, price, volume, compiled=each)[0] for each in (False, True))
        assert listed(slow) == listed(fast)
        assert len(slow) > 100


def test_a_sum_at_the_edge_is_added_up_anew() -> None:
    """Ten times 0.1 is less than 1, also far from the beginning, where running sums round otherwise."""
    volume = np.full(30_000, 0.1)
    time = at(0) + np.arange(30_000)
    columns, _ = columns_from_ticks(ONE, Volume(1.0), time, np.ones(30_000), volume, compiled=False)
    assert listed(columns) == streamed(list(zip(time.tolist(), [1.0] * 30_000, volume.tolist(), strict=True)), Volume(1.0))[0]
    assert set(np.diff(columns.ends)[:-1]) == {11}


@pytest.mark.skipif(not available(), reason="numba is not installed: pip install 'agentfund[fast]'")
def test_compiled_code_stays_within_its_arrays_when_times_go_back() -> None:
    """The last time says how many bars there can be only where times are in order."""
    time = at(0) + np.append(np.arange(10_000) * 60_000_000, [1])
    ones = np.ones(len(time))
    slow, fast = (columns_from_ticks(ONE, MINUTE, time, ones, ones, compiled=each) for each in (False, True))
    assert (listed(slow[0]), slow[1]) == (listed(fast[0]), fast[1])
    assert slow[1] == 1
