"""Bars whose closes are their own: those of ticks, volume and money do not close on a clock."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund import Backtest
from agentfund.backtest.rehearsal import Sample
from agentfund.backtest.trades import bar_ends, place, time_axis
from agentfund.clock import from_micros, to_micros
from agentfund.errors import BadData, LookaheadError
from agentfund.feeds import Bars
from agentfund.market import Columns, Instrument, Market, Window
from agentfund.protocols import Feed
from agentfund.testing.feed import FeedContract
from agentfund.trading import Fill, Side
from tests import market as made

MICRO = timedelta(microseconds=1)
T0 = to_micros(datetime(2024, 3, 4, 9, 0, tzinfo=UTC))


def irregular(lengths: list[int], pauses: list[int] | None = None, symbol: str = "X") -> Columns:
    """Bars that last so many seconds each, with pauses between them."""
    rests = pauses or [0] * len(lengths)
    start, now = [], 0
    for length, rest in zip(lengths, rests, strict=True):
        start.append(now + rest)
        now += rest + length
    first = T0 + np.array(start, dtype=np.int64) * 1_000_000
    end = first + np.array(lengths, dtype=np.int64) * 1_000_000
    price = np.array([100.0 + i % 7 for i in range(len(lengths))])
    return Columns(Instrument(symbol), timedelta(minutes=1), first, price, price + 1, price - 1, price, price * 10, end=end)


def streamed(bars: Bars, after: datetime | None = None) -> list[Market]:
    """All moments of a feed."""

    async def collect() -> list[Market]:
        return [market async for market in bars.stream(after)]

    return asyncio.run(collect())


class TestIrregularBars(FeedContract):
    """A feed of irregular bars keeps the contract."""

    def make_feed(self) -> Feed:
        return Bars(irregular([5, 60, 1, 1, 300, 7], [0, 3, 0, 0, 9, 0]), source="made for a test")


class TestIrregularBesideRegularBars(FeedContract):
    """So does one that merges them with bars of a clock."""

    def make_feed(self) -> Feed:
        own = irregular([5, 60, 1, 1, 300, 7], [0, 3, 0, 0, 9, 0])
        clock = replace(irregular([60] * 8, symbol="Y"), end=None)
        return Bars({"X": own, "Y": clock}, source="made for a test")


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(0, 30)), min_size=1, max_size=20), st.integers(-10, 2400))
@settings(deadline=None, max_examples=80)
def test_a_bar_is_known_at_its_own_close(bars: list[tuple[int, int]], second: int) -> None:
    """Whatever the moment, the window holds exactly the bars that had closed by then."""
    columns = irregular([length for length, _ in bars], [rest for _, rest in bars])
    assert columns.end is not None
    moment = from_micros(T0 + second * 1_000_000)
    expected = sum(end <= to_micros(moment) for end in columns.end.tolist())
    assert columns.closed_by(to_micros(moment)) == expected
    window = Window(columns, len(columns))
    if moment <= window.now and expected:
        assert len(window.until(moment)) == expected
        assert window.until(moment).now == from_micros(int(columns.end[expected - 1]))
    elif moment <= window.now:
        with pytest.raises(LookaheadError):
            window.until(moment)
    later = streamed(Bars(columns, source="x"), moment)
    assert [market.now for market in later] == [from_micros(end) for end in columns.end[expected:].tolist()]
    assert all(market.bars.last.end == market.now for market in later)


def test_closes_of_ones_own_that_are_those_of_the_clock_change_nothing() -> None:
    """The same bars with and without written closes give the same moments, windows and reports; data differ in name only."""
    plain = made.bars(made.wave(400))
    written = Bars(replace(plain.columns["SIM"], end=plain.columns["SIM"].ends), source=plain.source)
    assert [(m.now, m.bars.last) for m in streamed(written)] == [(m.now, m.bars.last) for m in streamed(plain)]
    assert written.fingerprint != plain.fingerprint
    reports = [Backtest(made.fund(), feed, made.broker()).run() for feed in (plain, written)]
    assert reports[0].orders > 3
    assert reports[0].final_equity == reports[1].final_equity
    assert [e.bar for e in reports[0].executions] == [e.bar for e in reports[1].executions]


def test_a_backtest_over_irregular_bars_decides_at_their_closes() -> None:
    """Equity is told at the bars' own closes, and fills are placed in the bars in which they happened."""
    closes = made.wave(400)
    plain = made.bars(closes).columns["SIM"]
    lengths = np.random.default_rng(3).integers(1, 900, len(plain)) * 1_000_000
    end = plain.start + lengths
    report = Backtest(made.fund(), Bars(replace(plain, end=end), source="x"), made.broker()).run()
    assert report.orders > 3
    assert report.curve.ends.tolist() == end.tolist()
    for execution in report.executions:
        assert to_micros(execution.fill.time) == plain.start[execution.bar]


def test_a_fill_is_placed_at_the_close_of_its_own_bar() -> None:
    """The row of a fill is that of its bar's close, however long the bar lasts."""
    columns = irregular([10, 600, 20], [0, 0, 0])
    fill = Fill("f", "o", "X", Side.BUY, Decimal(1), Decimal(100), Decimal(0), from_micros(int(columns.start[1])), Decimal(100))
    axis = time_axis({"X": columns})
    ends = bar_ends(columns).tolist()
    assert axis.tolist() == ends == columns.ends.tolist()
    assert place([(fill, from_micros(ends[1]))], {"X": columns}, axis) == [(fill, 1)]


def test_cutting_keeps_the_closes() -> None:
    """`between` and `tail` cut by the closes, and keep them."""
    bars = Bars(irregular([10, 600, 20, 30]), source="x")
    ends = bars.columns["X"].ends
    part = bars.between(from_micros(int(ends[0])), from_micros(int(ends[2])))
    assert part.columns["X"].ends.tolist() == ends[1:3].tolist()
    assert bars.tail(1).columns["X"].ends.tolist() == ends[-1:].tolist()


def test_the_fingerprint_covers_the_closes() -> None:
    """Another close is other data."""
    columns = irregular([10, 600, 20])
    assert columns.end is not None
    later = replace(columns, end=columns.end + np.array([0, 0, 1]))
    assert Bars(columns, source="x").fingerprint != Bars(later, source="x").fingerprint


def test_closes_cannot_be_changed_afterwards() -> None:
    """They are copied where they could be written to, and handed out read-only."""
    columns = irregular([10, 20])
    bars = Bars(columns, source="x")
    assert columns.end is not None
    columns.end[0] += 1
    assert bars.columns["X"].ends[0] == columns.end[0] - 1
    assert not streamed(bars)[-1].bars.end.flags.writeable


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ([10, 35, 35], r"X, bar 2 .*the bar closes at 2024-03-04 09:00:35, and the bar before it at 2024-03-04 09:00:35"),
        ([0, 20, 30], r"X, bar 0 .*the bar closes at 2024-03-04 09:00, which is not after its start"),
        ([10, 20], "unequal lengths: start 3, end 2"),
    ],
)
def test_impossible_closes_are_refused(end: list[int], message: str) -> None:
    """A close after the start, and each after the one before."""
    columns = replace(irregular([10, 10, 10]), end=T0 + np.array(end, dtype=np.int64) * 1_000_000)
    with pytest.raises(BadData, match=message):
        Bars(columns, source="x")
    with pytest.raises(BadData, match="end must be whole microseconds"):
        Bars(replace(columns, end=np.array([1.0, 2.0, 3.0])), source="x")


def test_overlapping_irregular_bars_are_told_of() -> None:
    """A bar that starts before the one before has closed is allowed, and known."""
    columns = irregular([10, 10, 10])
    late = replace(columns, end=columns.ends + np.array([0, 5, 5]) * 1_000_000)
    assert Bars(columns, source="x").warnings == ()
    assert "X: 1 bars start before the one before has closed" in Bars(late, source="x").warnings[0]


def test_a_rehearsal_takes_moments_of_irregular_bars() -> None:
    """A sample of a history is made of moments at which its bars close."""
    bars = Bars(irregular([5, 60, 1, 1, 300, 7] * 10), source="x")

    async def collect() -> list[datetime]:
        return [market.now async for market in Sample(bars, bars, 12).stream()]

    given = asyncio.run(collect())
    assert len(given) == 12
    assert {to_micros(moment) for moment in given} <= set(bars.columns["X"].ends.tolist())
