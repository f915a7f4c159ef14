"""The suite that says whether a feed keeps the contract of `agentfund.protocols.Feed`."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agentfund.errors import FeedError, LookaheadError
from agentfund.market import Market, Window
from agentfund.protocols import Feed, History

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_MICRO = timedelta(microseconds=1)
_FIELDS = ("start", "open", "high", "low", "close", "volume")


@pytest.mark.asyncio
class FeedContract:
    """Subclass it in a test module, and give it a feed:

        class TestMyFeed(FeedContract):
            def make_feed(self) -> Feed:
                return MyFeed(...)

    `make_feed` gives a new feed of the same data each time, with at least three moments; a live feed is given a recorded
    connection. The suite needs pytest-asyncio.

    Attributes:
        most: how many moments are looked at, for feeds that have many or never end.
    """  # noqa: D415 - the first line leads to the example

    most = 300

    def make_feed(self) -> Feed:
        """Return a new feed of the same data."""
        raise NotImplementedError(f"{type(self).__name__} must say in make_feed() which feed is tested")

    async def moments(self, feed: Feed, after: datetime | None = None) -> list[Market]:
        """Return what the feed gives, at most `most` moments."""
        given: list[Market] = []
        async with aclosing(self._open(feed, after)) as stream:
            async for market in stream:
                given.append(market)
                if len(given) == self.most:
                    break
        return given

    async def _open(self, feed: Feed, after: datetime | None) -> AsyncGenerator[Market]:
        async for market in feed.stream(after):
            yield market

    async def test_a_feed_has_the_methods_of_one(self) -> None:
        """It has what the protocol names, and its instruments have different symbols."""
        feed = self.make_feed()
        assert isinstance(feed, Feed), "a feed has instruments, fingerprint, stream and latest"
        symbols = [each.symbol for each in feed.instruments]
        assert symbols, "a feed has at least one instrument"
        assert len(set(symbols)) == len(symbols), f"instruments share a symbol: {symbols}"

    async def test_time_only_goes_forward(self) -> None:
        """Each moment is aware UTC and later than the one before."""
        given = await self.moments(self.make_feed())
        assert len(given) >= 3, "the suite needs a feed with at least three moments"
        for market in given:
            assert market.now.utcoffset() == timedelta(0), f"{market.now} is not UTC"
        for before, market in pairwise(given):
            assert market.now > before.now, f"{market.now} comes after {before.now}"

    async def test_no_bar_closes_after_now(self) -> None:
        """The newest bar of every instrument has closed by now: there is no look into the future."""
        for market in await self.moments(self.make_feed()):
            for symbol, window in market.windows.items():
                assert window.now <= market.now, f"{symbol}: a bar closes at {window.now}, after now ({market.now})"
                end = datetime(1970, 1, 1, tzinfo=UTC) + int(window.end.max()) * _MICRO
                assert end <= market.now, f"{symbol}: a bar in the arrays closes at {end}, after now ({market.now})"

    async def test_a_moment_is_one_at_which_a_bar_closes(self) -> None:
        """`updated` names exactly the instruments whose newest bar closes now."""
        for market in await self.moments(self.make_feed()):
            closing = {symbol for symbol, window in market.windows.items() if window.now == market.now}
            assert set(market.updated) == closing, f"{market.now}: updated is {market.updated}, bars closed of {closing}"
            assert closing, f"no bar closes at {market.now}"

    async def test_nothing_comes_twice(self) -> None:
        """An instrument is updated once a moment, and each bar is newer than the last one of it."""
        newest: dict[str, int] = {}
        for market in await self.moments(self.make_feed()):
            assert len(set(market.updated)) == len(market.updated), f"{market.now}: updated twice in {market.updated}"
            for symbol in market.updated:
                start = int(market[symbol].start[-1])
                assert start > newest.get(symbol, start - 1), f"{symbol}: the bar that closes at {market.now} came before"
                newest[symbol] = start

    async def test_windows_are_whole(self) -> None:
        """All columns have the window's length, times rise, and prices make a bar."""
        feed = self.make_feed()
        known = {each.symbol for each in feed.instruments}
        for market in await self.moments(feed):
            assert set(market.windows) <= known, f"{set(market.windows) - known} is not among the feed's instruments"
            for symbol, window in market.windows.items():
                assert len(window) > 0, f"{symbol} has an empty window"
                assert {len(getattr(window, name)) for name in _FIELDS} == {len(window)}, f"{symbol}: lengths differ"
                assert bool((np.diff(window.start) > 0).all()), f"{symbol}: times do not rise"
                bar = window.last
                assert 0 < bar.low <= min(bar.open, bar.close), f"{symbol}: {bar}"
                assert max(bar.open, bar.close) <= bar.high < float("inf"), f"{symbol}: {bar}"

    async def test_the_past_never_changes(self) -> None:
        """What a window showed when it came is what it shows at the end, and what later windows show of that time."""
        given, shown = [], []
        async with aclosing(self._open(self.make_feed(), None)) as stream:
            async for market in stream:
                given.append(market)
                shown.append({symbol: _tail(window) for symbol, window in market.windows.items()})
                if len(given) == self.most:
                    break
        for market, seen in zip(given, shown, strict=True):
            for symbol, old in seen.items():
                assert _tail(market[symbol]) == old, f"{symbol}: the window of {market.now} has changed since"
        for symbol, window in given[-1].windows.items():
            last = dict(zip(window.start.tolist(), window.close.tolist(), strict=True))
            for market in given:
                for start, close in _tail(market.windows[symbol]) if symbol in market.windows else ():
                    assert last.get(start, close) == close, f"{symbol}: a bar seen at {market.now} has changed since"

    async def test_after_resumes_exactly(self) -> None:
        """A stream that starts after a moment gives the next one first, and the same ones to the end."""
        feed = self.make_feed()
        # A history starts again with all that was known; a live feed may fetch as many bars as it likes.
        whole = isinstance(feed, History)
        given = await self.moments(feed)
        for k in sorted({0, len(given) // 2, len(given) - 2}):
            again = await self.moments(self.make_feed(), given[k].now)
            rest = given[k + 1 :]
            assert [_facts(each, whole) for each in again[: len(rest)]] == [_facts(each, whole) for each in rest], (
                f"after {given[k].now} comes {again[0].now if again else 'nothing'}, not {rest[0].now} and what follows"
            )

    async def test_after_a_moment_between_two_gives_the_later(self) -> None:
        """`after` need not be a moment at which a bar closed."""
        given = await self.moments(self.make_feed())
        again = await self.moments(self.make_feed(), given[1].now - _MICRO)
        assert again[0].now == given[1].now, f"a microsecond before {given[1].now} comes {again[0].now}"

    async def test_windows_are_read_only(self) -> None:
        """No agent can change the past for the next one."""
        market = (await self.moments(self.make_feed()))[-1]
        for symbol, window in market.windows.items():
            for name in _FIELDS:
                array = getattr(window, name)
                try:
                    array[0] = array[0]
                except ValueError:
                    continue
                pytest.fail(f"{symbol}: {name} can be written to")

    async def test_asking_beyond_now_raises(self) -> None:
        """Bars after now are refused, not invented."""
        for market in (await self.moments(self.make_feed()))[:-1]:
            for window in market.windows.values():
                _refuses(window)
            with pytest.raises(FeedError):
                market["no such instrument"]

    async def test_the_same_data_have_the_same_fingerprint(self) -> None:
        """Two feeds of the same data agree, before and after streaming."""
        one, other = self.make_feed(), self.make_feed()
        before = one.fingerprint
        assert before, "a fingerprint says something"
        await self.moments(one)
        assert before == one.fingerprint == other.fingerprint, "the same data have different fingerprints"

    async def test_latest_is_what_was_streamed_last(self) -> None:
        """While a history is streamed `latest` is the moment given last; a live feed may be ahead of it, never behind."""
        feed = self.make_feed()
        async with aclosing(self._open(feed, None)) as stream:
            count = 0
            async for market in stream:
                latest = feed.latest()
                if isinstance(feed, History):
                    assert _facts(latest) == _facts(market), f"at {market.now} latest() is of {latest.now}"
                assert latest.now >= market.now, f"at {market.now} latest() is of {latest.now}"
                count += 1
                if count == self.most:
                    break

    async def test_a_history_streams_every_bar(self) -> None:
        """A feed that holds all its bars gives each of them, and ends."""
        feed = self.make_feed()
        if not isinstance(feed, History):
            pytest.skip("the feed is not a History")
        assert feed.source, "a history says where its data came from"
        left = {symbol: len(columns) for symbol, columns in feed.columns.items()}
        async for market in feed.stream():
            for symbol in market.updated:
                left[symbol] -= 1
        assert not any(left.values()), f"bars that were not streamed: {left}"
        assert [each.now async for each in feed.stream(market.now)] == [], "something comes after the end"


def _tail(window: Window) -> list[tuple[int, float]]:
    return list(zip(window.start[-50:].tolist(), window.close[-50:].tolist(), strict=True))


def _facts(market: Market, whole: bool = True) -> tuple[object, ...]:
    shown = [(symbol, window.last, len(window) if whole else 0) for symbol, window in market.windows.items()]
    return market.now, market.updated, shown


def _refuses(window: Window) -> None:
    with pytest.raises(LookaheadError):
        window.bar(len(window))
    with pytest.raises(LookaheadError):
        window.until(window.now + _MICRO)
