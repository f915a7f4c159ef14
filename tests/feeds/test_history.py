"""Bars in memory: one clock, exact slices, nothing from the future."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund import feeds
from agentfund.clock import from_micros, to_micros
from agentfund.errors import BadData, ConfigError, FeedError
from agentfund.feeds import Bars
from agentfund.market import Columns, Instrument, Market

MINUTE = timedelta(minutes=1)
T0 = to_micros(datetime(2024, 3, 4, 9, 0, tzinfo=UTC))


def columns(minutes: list[int], symbol: str = "X", interval: int = 1, **changes: Any) -> Columns:
    """Bars that start at these minutes after 9:00, each at another price."""
    price = np.array([100.0 + m % 7 for m in minutes])
    start = np.array([T0 + m * 60_000_000 for m in minutes], dtype=np.int64)
    bars = Columns(Instrument(symbol), interval * MINUTE, start, price, price + 1, price - 1, price, price * 10)
    return replace(bars, **changes)


def streamed(bars: Bars, after: datetime | None = None) -> list[Market]:
    """All moments of a feed."""

    async def collect() -> list[Market]:
        return [market async for market in bars.stream(after)]

    return asyncio.run(collect())


def told(market: Market) -> tuple[object, ...]:
    """All that can be seen at a moment."""
    return (
        market.now,
        market.updated,
        [(s, w.start.tobytes(), w.open.tobytes(), w.close.tobytes(), w.volume.tobytes()) for s, w in market.windows.items()],
    )


starts = st.lists(st.integers(0, 60), min_size=1, max_size=25, unique=True).map(sorted)


@st.composite
def several(draw: st.DrawFn) -> Bars:
    count = draw(st.integers(1, 3))
    parts = {name: columns(draw(starts), name, draw(st.integers(1, 3))) for name in "ABC"[:count]}
    return Bars(parts, source="drawn")


@given(several())
@settings(deadline=None, max_examples=60)
def test_moments_are_merged_by_time(bars: Bars) -> None:
    """The stream is what a plain walk over all closing times gives."""
    closes = {s: [int(x) + c.interval // timedelta(microseconds=1) for x in c.start] for s, c in bars.columns.items()}
    expected = []
    for now in sorted({end for ends in closes.values() for end in ends}):
        known = {s: sum(end <= now for end in ends) for s, ends in closes.items()}
        expected.append((now, tuple(s for s in closes if now in closes[s]), [(s, n) for s, n in known.items() if n]))
    got = [(to_micros(m.now), m.updated, [(s, len(w)) for s, w in m.windows.items()]) for m in streamed(bars)]
    assert got == expected


@given(several(), st.integers(-5, 70))
@settings(deadline=None, max_examples=60)
def test_after_gives_what_a_whole_stream_gives_from_there(bars: Bars, minute: int) -> None:
    """Resuming is exact at every moment, between moments, before the first and after the last."""
    after = from_micros(T0) + minute * MINUTE
    assert [told(m) for m in streamed(bars, after)] == [told(m) for m in streamed(bars) if m.now > after]


@given(several(), st.integers(1, 70))
@settings(deadline=None, max_examples=60)
def test_cutting_the_future_changes_nothing_that_was_seen_before(bars: Bars, minute: int) -> None:
    """With the data cut at a moment, or other data after it, every earlier moment shows the same bytes."""
    cut = from_micros(T0) + minute * MINUTE
    seen = [told(m) for m in streamed(bars) if m.now <= cut]
    if not seen:
        return
    assert [told(m) for m in streamed(bars.between(None, cut))] == seen
    other = {}
    for symbol, c in bars.columns.items():
        later = c.start + c.interval // timedelta(microseconds=1) > to_micros(cut)
        other[symbol] = replace(c, close=np.where(later, c.low, c.close), volume=np.where(later, 0, c.volume))
    assert [told(m) for m in streamed(Bars(other, source="other")) if m.now <= cut] == seen


@given(several(), st.integers(0, 70), st.integers(0, 70))
@settings(deadline=None, max_examples=40)
def test_adjoining_spans_share_no_bar_and_lose_none(bars: Bars, a: int, b: int) -> None:
    """Three spans that meet hold each bar once."""
    first, second = (from_micros(T0) + m * MINUTE for m in sorted((a, b)))
    counts = dict.fromkeys(bars.columns, 0)
    for begin, end in ((None, first), (first, second), (second, None)):
        try:
            part = bars.between(begin, end)
        except BadData:
            continue
        for symbol, c in part.columns.items():
            counts[symbol] += len(c)
    assert counts == {symbol: len(c) for symbol, c in bars.columns.items()}


def test_a_long_stream_crosses_its_chunks() -> None:
    """More moments than are prepared at a time come in order, for one instrument and for two."""
    one = columns(list(range(20_000)))
    assert [len(m.bars) for m in streamed(Bars(one, source="one"))] == list(range(1, 20_001))
    two = Bars({"X": one, "Y": columns(list(range(0, 20_000, 2)), "Y", 2)}, source="two")
    moments = streamed(two)
    assert [m.now for m in moments] == [from_micros(T0) + (i + 1) * MINUTE for i in range(20_000)]
    assert [len(m.windows["Y"]) for m in moments[1::2]] == list(range(1, 10_001))


def test_the_first_instrument_stays_first() -> None:
    """`Market.bars` is the first instrument that was named, also where another one's bars begin earlier."""
    bars = Bars({"LATE": columns([5, 6], "LATE"), "EARLY": columns([0, 1, 5], "EARLY")}, source="two")
    moments = streamed(bars)
    assert [list(m.windows) for m in moments] == [["EARLY"], ["EARLY"], ["LATE", "EARLY"], ["LATE", "EARLY"]]
    assert moments[-1].bars.symbol == "LATE"
    assert moments[-1].updated == ("LATE",)


def test_a_market_seen_earlier_stays_as_it_was() -> None:
    """Later moments do not reach into a market that somebody kept."""
    bars = Bars({"A": columns([0, 1], "A"), "B": columns([1, 2], "B")}, source="two")
    first, second, _ = streamed(bars)
    assert list(first.windows) == ["A"]
    assert [len(w) for w in second.windows.values()] == [2, 1]


def test_latest_before_the_stream_is_no_look_at_the_end() -> None:
    """Nothing was streamed, so there is no market yet, and the error says what to do."""
    bars = Bars(columns([0, 1]), source="x")
    with pytest.raises(FeedError, match=r"take the first one from stream\(\)"):
        bars.latest()
    last = streamed(bars)[-1]
    assert bars.latest() is last


def test_after_needs_a_time_zone() -> None:
    """A naive time is refused when the stream is made, not at its first bar."""
    with pytest.raises(ValueError, match="no time zone"):
        Bars(columns([0]), source="x").stream(datetime(2024, 1, 1))  # noqa: DTZ001


def test_the_fingerprint_follows_the_data() -> None:
    """The same numbers agree in any layout of memory; any other number, name, interval or order does not."""
    c = columns([0, 1, 2])
    name = Bars(c, source="x").fingerprint
    assert name == Bars(replace(c, start=c.start.astype(">i8"), open=np.repeat(c.open, 2)[::2]), source="y").fingerprint
    higher = c.close.copy()
    higher[1] = np.nextafter(higher[1], 200)
    two = {"A": columns([0], "A"), "B": columns([0], "B")}
    others = [
        Bars(replace(c, close=higher), source="x"),
        Bars(replace(c, instrument=Instrument("Y")), source="x"),
        Bars(replace(c, interval=MINUTE / 2), source="x"),
        Bars(c, source="x").tail(2),
        Bars(two, source="x"),
        Bars(dict(reversed(two.items())), source="x"),
    ]
    assert len({name, *(each.fingerprint for each in others)}) == 7


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    """It depends on nothing but the data: not on the run, and not on the seed of Python's hashes."""
    code = "from agentfund.feeds import SimulatedMarket; print(SimulatedMarket(bars=50).fingerprint)"
    names = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": s}, check=True, capture_output=True
        ).stdout
        for s in ("1", "2")
    }
    assert names == {feeds.SimulatedMarket(bars=50).fingerprint.encode() + b"\n"}


def test_what_the_caller_does_later_changes_nothing() -> None:
    """Arrays that can be written to are copied; those that cannot are shared."""
    c = columns([0, 1])
    bars = Bars(c, source="x")
    c.close[0] = 1.0
    assert bars.columns["X"].close[0] == 100.0
    with pytest.raises(ValueError, match="read-only"):
        bars.columns["X"].close[0] = 1.0
    assert np.shares_memory(bars.tail(1).columns["X"].close, bars.columns["X"].close)
    assert np.shares_memory(Bars(bars.columns, source="y").columns["X"].close, bars.columns["X"].close)


def test_slices_keep_what_was_told_and_look_again_for_splits() -> None:
    """Warnings about the file stay; a split is told of only where it is in the slice."""
    price = np.repeat([400.0, 100.0], 20)
    c = columns(list(range(40)), open=price, high=price, low=price, close=price)
    bars = Bars(c, source="file", warnings=["the file has no volume"])
    assert [text[:22] for text in bars.warnings] == ["the file has no volume", "X: 2024-03-04 09:19 cl"]
    assert bars.tail(20).warnings == ("the file has no volume",)
    assert bars.tail(21).warnings == bars.warnings
    assert bars.tail(5).source == "file"


def test_an_instrument_without_bars_in_a_span_is_left_out_aloud() -> None:
    """A span keeps the instruments that have bars in it, and says which one has none."""
    bars = Bars({"A": columns([0, 1], "A"), "B": columns([30], "B")}, source="two")
    part = bars.between(from_micros(T0) + 10 * MINUTE)
    assert list(part.columns) == ["B"]
    assert "A has no bar between" in part.warnings[0]
    with pytest.raises(BadData, match=r"no bar between .* A closes its bars from 2024-03-04 09:01 to 2024-03-04 09:02"):
        bars.between(from_micros(T0) + 50 * MINUTE)
    with pytest.raises(ConfigError, match="at least one"):
        bars.tail(0)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("high", [101.0, 98.0, 103.0], r"X, bar 1 \(2024-03-04 09:01\): high 98.0 is below low 100.0"),
        ("low", [99.0, -1.0, 0.0], r"bar 1 .*: low is -1.0; a price must be above zero \(2 rows have a price that"),
        ("close", [100.0, 101.0, float("nan")], "bar 2 .*: close is nan, not a number"),
        ("open", [100.0, float("inf"), 102.0], "bar 1 .*: open is inf, not a number"),
        ("open", [100.0, 102.5, 102.0], "bar 1 .*: open 102.5 is above high 102.0"),
        ("close", [98.5, 101.0, 102.0], "bar 0 .*: close 98.5 is below low 99.0"),
        ("volume", [1.0, 1.0, -5.0], "bar 2 .*: volume -5.0 is below zero"),
        ("start", [T0, T0 + 60_000_000, T0], "bar 2 .*: the time goes back, 2024-03-04 09:01 was there before"),
        ("start", [T0 + 2, T0 + 1, T0], "bar 1 .*newest first"),
        ("start", [T0, T0, T0 + 1], "bar 1 .*: the time 2024-03-04 09:00 was there before"),
        ("start", [T0 * 1000, T0 * 1000 + 1, T0 * 1000 + 2], "bar 0 .* not between the years 1800"),
        ("volume", [1.0, 2.0], "unequal lengths: .*volume 2"),
        ("close", ["a", "b", "c"], "close must be one row of numbers"),
        ("start", [1.0, 2.0, 3.0], "start must be whole microseconds"),
    ],
)
def test_bad_bars_are_named(name: str, values: list[Any], message: str) -> None:
    """Every kind of bad bar is refused with its place and both numbers."""
    changes: dict[str, Any] = {name: np.array(values)}
    with pytest.raises(BadData, match=message):
        Bars(replace(columns([0, 1, 2]), **changes), source="x")


def test_rounding_noise_is_no_error() -> None:
    """An adjusted open that passes its high by the last binary digit is what vendors send."""
    c = columns([0, 1])
    Bars(replace(c, open=np.nextafter(c.high, 1000)), source="x")


def test_impossible_feeds_are_refused() -> None:
    """No instrument, no bar, a wrong name or an interval of zero."""
    with pytest.raises(ConfigError, match="at least one instrument"):
        Bars({}, source="x")
    with pytest.raises(ConfigError, match="filed under 'Y' are of 'X'"):
        Bars({"Y": columns([0])}, source="x")
    with pytest.raises(BadData, match="X: there is no bar"):
        Bars(columns([]), source="x")
    with pytest.raises(BadData, match="interval must be above zero"):
        Bars(columns([0], interval=0), source="x")


def test_overlapping_bars_are_told_of() -> None:
    """A bar that starts before the one before it has closed is allowed, and known."""
    bars = Bars(columns([0, 5, 7], interval=5), source="x")
    assert "1 of them start sooner" in bars.warnings[0]
    assert "2024-03-04 09:07" in bars.warnings[0]


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        (400.0, 101.0, "4:1 split"),
        (100.0, 66.0, "3:2 split"),
        (5.0, 49.5, "1:10 reverse split"),
        (200.0, 100.0, "2:1 split"),
        (300.0, 15.1, "20:1 split"),
        (100.0, 80.0, None),
        (100.0, 40.0, None),
        (100.0, 121.0, None),
    ],
)
def test_a_jump_like_a_split_is_told_of(before: float, after: float, name: str | None) -> None:
    """Usual ratios are recognised in both directions; other jumps are the market's own."""
    price = np.repeat([before, after], 30) * (1 + 0.001 * np.resize([1, -1], 60))
    c = columns(list(range(60)), open=price, high=price, low=price, close=price)
    warnings = Bars(c, source="x").warnings
    assert len(warnings) == (name is not None)
    if name:
        assert f"which looks like an unadjusted {name}" in warnings[0]
        assert "09:29 closes at" in warnings[0]
        assert "09:30 opens at" in warnings[0]


def test_a_wild_market_is_not_full_of_splits() -> None:
    """Where bars move by tens of percent all the time, a halving is nothing to tell of."""
    price = 100.0 * np.cumprod(np.resize([0.5, 2.0, 1.5, 1 / 1.5], 80))
    c = columns(list(range(80)), open=price, high=price, low=price, close=price)
    assert Bars(c, source="x").warnings == ()


def test_a_feed_is_freed_without_the_collector() -> None:
    """No circle keeps the arrays of a finished run."""
    gc.disable()
    try:
        bars = Bars(columns([0, 1, 2]), source="x")
        streamed(bars)
        watch = weakref.ref(bars)
        del bars
        assert watch() is None
    finally:
        gc.enable()


def test_the_package_offers_its_feeds_by_name() -> None:
    """The names are sorted, all there, and loaded only when asked for."""
    assert feeds.__all__ == sorted(feeds.__all__)
    assert all(hasattr(feeds, name) for name in feeds.__all__)
    assert dir(feeds) == feeds.__all__
    with pytest.raises(AttributeError, match="has no attribute 'Bar'"):
        feeds.Bar  # noqa: B018
    code = "import sys, agentfund.feeds.history; sys.exit('pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
