"""Feeds that keep the contract pass its suite, and feeds that break it do not."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest

from agentfund.clock import from_micros
from agentfund.feeds import Bars, SimulatedMarket
from agentfund.market import Market, Window
from agentfund.protocols import Feed, History
from agentfund.testing.feed import FeedContract


def _one() -> Bars:
    return SimulatedMarket("ONE", bars=150, interval=timedelta(hours=1))


def _three() -> Bars:
    """Three instruments that start late, end early, and have different hours and intervals."""
    parts = (
        SimulatedMarket("A", bars=60, seed=1, interval=timedelta(hours=2), sessions="24h").tail(50),
        SimulatedMarket("B", bars=40, seed=2, interval=timedelta(hours=1)),
        SimulatedMarket("C", bars=90, seed=3, interval=timedelta(minutes=30), sessions="24h"),
    )
    return Bars({symbol: columns for part in parts for symbol, columns in part.columns.items()}, source="three")


class TestOneInstrument(FeedContract):
    """Bars of one instrument."""

    def make_feed(self) -> Feed:
        return _one()


class TestThreeInstruments(FeedContract):
    """Bars of three instruments on one clock."""

    def make_feed(self) -> Feed:
        return _three()


class TestASlice(FeedContract):
    """Bars that are a part of others."""

    def make_feed(self) -> Feed:
        bars = _three()
        return bars.between(from_micros(bars.columns["A"].start[3]), from_micros(bars.columns["A"].start[-3]))


class _LooksAhead(Bars):
    """Hands out the bar that has not closed yet."""

    async def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        async for market in super().stream(after):
            ((symbol, window),) = market.windows.items()
            ahead = min(len(window) + 1, len(self.columns[symbol]))
            yield Market(market.now, {symbol: Window(self.columns[symbol], ahead)}, market.updated)


class _RepeatsItself(Bars):
    """Gives the moment of `after` again."""

    def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        return super().stream(after and after - timedelta(microseconds=1))


class _ForgetsAfter(Bars):
    """Always begins at the beginning."""

    def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        return super().stream()


class _Skips(Bars):
    """Loses every tenth bar."""

    async def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        count = 0
        async for market in super().stream(after):
            count += 1
            if count % 10:
                yield market


class _Stutters(Bars):
    """Gives every moment twice."""

    async def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        async for market in super().stream(after):
            yield market
            yield market


class _Writable(Bars):
    """Hands out arrays that can be written to."""

    async def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        async for market in super().stream(after):
            ((symbol, window),) = market.windows.items()
            c = self.columns[symbol]
            yield Market(market.now, {symbol: Window(replace(c, close=c.close.copy()), len(window))}, market.updated)


class _Restates(Bars):
    """Corrects the past while it goes on."""

    async def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        async for market in super().stream(after):
            ((symbol, window),) = market.windows.items()
            c = self.columns[symbol]
            close = np.where(np.arange(len(c)) < len(window) - 1, c.low, c.close)
            yield Market(market.now, {symbol: Window(replace(c, close=close), len(window))}, market.updated)


class _KnowsTheEnd(Bars):
    """Says that the end of the data is now."""

    def latest(self) -> Market:
        ((symbol, columns),) = self.columns.items()
        window = Window(columns, len(columns))
        return Market(window.now, {symbol: window}, (symbol,))


class _NewName(Bars):
    """Has another fingerprint each time."""

    counter = itertools.count()

    @property
    def fingerprint(self) -> str:
        return str(next(self.counter))


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (_LooksAhead, "test_no_bar_closes_after_now"),
        (_RepeatsItself, "test_after_resumes_exactly"),
        (_ForgetsAfter, "test_after_resumes_exactly"),
        (_ForgetsAfter, "test_after_a_moment_between_two_gives_the_later"),
        (_Skips, "test_a_history_streams_every_bar"),
        (_Stutters, "test_time_only_goes_forward"),
        (_Stutters, "test_nothing_comes_twice"),
        (_Writable, "test_windows_are_read_only"),
        (_Restates, "test_the_past_never_changes"),
        (_KnowsTheEnd, "test_latest_is_what_was_streamed_last"),
        (_NewName, "test_the_same_data_have_the_same_fingerprint"),
    ],
)
async def test_a_broken_feed_does_not_pass(broken: type[Bars], test: str) -> None:
    """Each way to break the contract is found by the test of it, which Bars themselves pass."""

    class Suite(FeedContract):
        kind = Bars

        def make_feed(self) -> Feed:
            return self.kind(_one().columns, source="one")

    await getattr(Suite(), test)()
    Suite.kind = broken
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await getattr(Suite(), test)()


def test_bars_are_a_feed_and_a_history() -> None:
    """The types agree, for mypy as well as at run time."""
    feed: Feed = _one()
    history: History = _three()
    assert isinstance(feed, History)
    assert isinstance(history, Feed)
