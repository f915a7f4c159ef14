"""A live feed: whole bars on the grid, once each, late rather than wrong."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from agentfund.clock import JumpingClock
from agentfund.errors import ConfigError, FeedError, MissingExtra
from agentfund.feeds.live import Live
from agentfund.feeds.live_line import Line, Pauses
from agentfund.market import Alive, Halted, Heard, Quote, Status, Tick
from agentfund.protocols import Feed, Quoted
from tests.feeds.live_sources import MINUTE, Flaky, Told, alive, at, bar, bars, live, moments, tick, ticks, whole

S = timedelta(seconds=1)


def test_a_live_feed_is_a_feed_with_quotes() -> None:
    """The types agree, for mypy as well as at run time; and it has a name, not a hash."""
    feed = live(Told([], symbols=("A", "B")))
    plain: Feed = feed
    quoted: Quoted = feed
    assert isinstance(plain, Feed)
    assert isinstance(quoted, Quoted)
    assert feed.fingerprint == "live told A,B 60s"


async def test_no_bar_is_handed_out_of_which_only_a_part_was_heard() -> None:
    """The bar in which the connection began comes from the REST API, and the next from ticks."""
    script = [*alive(20, 200), tick(30, 100), tick(70, 101), tick(110, 102), tick(130, 103)]
    feed = live(Told(script, past=[bar(0, 50.0)], start_s=20, ends=190))
    first, second, third = await moments(feed)
    assert first.bars.last == bar(0, 50.0)
    assert (second.bars.last.open, second.bars.last.close, second.bars.last.volume) == (101, 102, 2)
    assert third.now == at(180)
    assert feed.health().gaps_filled == 1


async def test_a_bar_closes_by_the_clock_though_no_tick_comes() -> None:
    """At its end plus lateness, and not before; its end stays on the grid."""
    source = Told([*alive(0, 100, 1), tick(10, 100)], ends=100)
    feed = live(source, lateness=3 * S)
    async for market in feed.stream():
        assert market.now == at(60)
        assert source.clock.now() == at(63)
        assert market.bars.last.close == 100
        break


async def test_an_instrument_that_does_not_trade_has_no_bar() -> None:
    """And the others do not wait for it longer than for a straggler."""
    script = [*alive(0, 200, 1), tick(10, 100), tick(20, 7, "B"), tick(70, 101), tick(130, 102), tick(140, 8, "B")]
    source = Told(script, symbols=("A", "B"), ends=185)
    given = await moments(live(source))
    assert [market.updated for market in given] == [("A", "B"), ("A",), ("A", "B")]
    assert len(given[1]["B"]) == 1
    assert source.asked == []


async def test_one_moment_has_all_bars_that_closed_then() -> None:
    """Bars that a source gives closed, one later than the other; they wait for each other up to the lateness."""
    script: list[Any] = [*alive(0, 200, 1), (60.1, bar(0, 1.5)), (60.9, bar(0, 2.5, "B")), (120.2, bar(1, 1.6))]
    script += [(123, bar(1, 2.6, "B")), (180.1, bar(2, 2.7, "B")), (180.1, bar(2, 1.7))]
    feed = live(Told(script, symbols=("A", "B"), ends=190))
    given = await moments(feed)
    assert [market.updated for market in given] == [("A", "B"), ("A",), ("A", "B")]
    assert bars(given, "B") == [bar(0, 2.5, "B"), bar(2, 2.7, "B")]
    assert feed.health().late == 1


async def test_a_bar_that_comes_late_is_handed_out_where_no_later_one_was() -> None:
    """A provider that takes minutes for a bar is late, and not wrong."""
    script: list[Any] = [*alive(0, 300, 1), (60 + 45, bar(0, 1.5)), (120 + 50, bar(1, 1.6))]
    given = await moments(live(Told(script, ends=300)))
    assert bars(given) == [bar(0, 1.5), bar(1, 1.6)]


async def test_stragglers_count_up_to_the_lateness_and_are_dropped_beyond_it() -> None:
    """Open and close go by the ticks' own times; what comes later is counted."""
    late: Heard = Tick("told", "A", 90.0, 1.0, at(59))
    script = [*alive(0, 130, 1), tick(10, 100), tick(61, 101), (61.5, late), (63.5, late)]
    feed = live(Told(script, ends=122.5), lateness=2 * S)
    first, second = await moments(feed)
    assert (first.bars.last.close, first.bars.last.low, first.bars.last.volume) == (90, 90, 2)
    assert second.bars.last.close == 101
    assert feed.health().late == 1


async def test_a_connection_that_falls_silent_is_cut_and_made_again() -> None:
    """After `silence`; what it lost comes from the REST API."""
    past = [bar(minute, 50.0 + minute) for minute in range(4)]
    script = [*alive(0, 40), tick(10, 100), tick(40, 101), *alive(90, 300), tick(200, 102)]
    source = Told(script, past=past, ends=250)
    feed = live(source, silence=20 * S)
    given = await moments(feed)
    assert source.connected[0] == 0
    assert 61 <= source.connected[1] <= 61.5
    assert [each.close for each in bars(given)] == [50, 51, 102]
    assert feed.health().gaps_open == 0


async def test_a_bar_at_whose_end_the_connection_was_silent_waits() -> None:
    """Ticks of its last seconds may be lost: it is handed out when life is heard, and comes from the REST API where not."""
    source = Told([*alive(0, 45), tick(10, 100), (85, Alive())], ends=86, past=[bar(0, 77.0)])
    feed = live(source, silence=60 * S)
    async for market in feed.stream():
        assert (market.bars.last.close, source.clock.now()) == (100, at(85))
        break
    source = Told([*alive(0, 45), tick(10, 100), *alive(90, 100)], ends=100, past=[bar(0, 77.0)])
    given = await moments(live(source, silence=20 * S), 1)
    assert given[0].bars.last == bar(0, 77.0)


async def test_reconnecting_pauses_at_least_so_long_and_ever_longer() -> None:
    """A server that hangs up at once is asked a handful of times in an hour."""
    script: list[Any] = [(0, FeedError("go away"))]
    source = Told([], ends=math.inf)
    connected: list[float] = []

    async def refuse() -> AsyncIterator[Heard]:
        connected.append((source.clock.now() - at(0)).total_seconds())
        yield Alive()
        raise script[0][1]

    source.connect = refuse  # type: ignore[method-assign, assignment]
    pauses = Pauses(1.0, 60.0, 30.0, None)
    line = Line(source, source.clock, pauses, lambda _: None, lambda: None)
    task = asyncio.ensure_future(line.run())
    await source.clock.sleep(3600)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    gaps = [b - a for a, b in pairwise(connected)]
    assert gaps[0] >= 1.0
    assert all(1.0 <= gap <= 90.001 for gap in gaps)
    assert all(gap >= 60.0 for gap in gaps[6:])
    assert len(connected) <= 70
    assert line.error == "FeedError: go away"


async def test_a_connection_that_stood_long_is_made_again_soon() -> None:
    """Pauses begin again with the least."""
    script: list[Any] = [*alive(0, 1000), (1001, None), *alive(1005, 2000), (2001, None), *alive(2005, 2100)]
    source = Told(script, ends=2100)
    await moments(live(source))
    assert len(source.connected) == 3
    assert 1002 <= source.connected[1] <= 1002.5
    assert 2002 <= source.connected[2] <= 2002.5


async def test_without_a_connection_bars_come_from_the_rest_api() -> None:
    """A moment closes by the clock, whether the stream stands or not."""
    source = Flaky({"A": ticks(300)}, refused=[(0, 400)], start=at(5))
    given = await moments(live(source), 5)
    assert bars(given) == whole("A", ticks(300))[:5]


async def test_a_hole_that_nobody_fills_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    """The stream waits `patience`, then goes on over the hole: it shows in the times, in health and in the log."""
    script: list[Any] = [*alive(0, 130), tick(10, 100), tick(70, 101), (75, None), *alive(80, 200), tick(130, 102)]
    source = Told(script, ends=185)
    feed = live(source, patience=20 * S)
    with caplog.at_level(logging.WARNING, "agentfund.feeds.live"):
        given = await moments(feed)
    assert [market.now for market in given] == [at(60), at(180)]
    assert given[-1].bars.start.tolist() == [int(at(s).timestamp() * 1e6) for s in (0, 120)]
    assert feed.health().gaps_open == 1
    assert "A: the bar that closes at 2024-03-01T09:32:00+00:00 was not heard whole" in caplog.text


async def test_a_rest_api_that_fails_is_asked_again_and_then_given_up() -> None:
    """With pauses; later bars wait for it no longer than `patience`, and health says what is wrong."""
    script: list[Any] = [*alive(0, 130), tick(10, 100), (75, None), *alive(80, 200), tick(130, 102)]
    source = Told(script, ends=185)
    source.fail = OSError("no route to host")
    feed = live(source, patience=20 * S)
    given = await moments(feed)
    assert [market.now for market in given] == [at(60), at(180)]
    assert 3 <= len(source.asked) <= 8
    assert feed.health().gaps_open == 1
    assert feed.health().error == "history of A: OSError: no route to host"


async def test_a_rest_api_that_hangs_is_not_waited_for_without_end() -> None:
    """One answer may take `patience`."""
    source = Told([*alive(20, 300, 1), tick(70, 100)], start_s=20, ends=200)

    async def hang(*_: object) -> Any:
        await asyncio.Event().wait()

    source.history = hang  # type: ignore[method-assign, assignment]
    feed = live(source, patience=20 * S)
    assert [market.now for market in await moments(feed)] == [at(120)]
    assert "no answer within 20 s" in feed.health().error


async def test_an_unfinished_bar_of_the_rest_api_is_not_handed_out() -> None:
    """Some APIs end with the bar that has not closed; nor does one count that is no bar, or is of another instrument."""
    source = Told([*alive(20, 125, 1), tick(70, 100)], start_s=20, ends=130)

    async def answer(*_: object) -> Any:
        return [bar(0, 50.0), bar(0, 60.0), bar(0, 70.0, "B"), bar(-1, 5.0)._replace(low=-1.0), bar(1, 51.0)]

    source.history = answer  # type: ignore[method-assign, assignment]
    feed = live(source, silence=timedelta(hours=1))
    stream = feed.stream()
    assert [(await anext(stream)).bars.price for _ in range(2)] == [50, 100]
    await stream.aclose()
    assert feed.health().bad == 2


async def test_bars_that_differ_afterwards_change_nothing_and_are_counted() -> None:
    """What was handed out first stays; each difference counts once."""
    script: list[Any] = [*alive(0, 130), tick(10, 100), tick(70, 101), (125, None), *alive(130, 400), tick(200, 103)]
    past = [bar(0, 999.0), bar(1, 998.0), bar(2, 50.0)]
    feed = live(Told(script, past=past, ends=250))
    given = await moments(feed)
    assert [each.close for each in bars(given)] == [100, 101, 50, 103]
    assert given[-1].bars.close.tolist() == [100, 101, 50, 103]
    assert feed.health().differing == 2


async def test_history_and_live_join_without_a_seam() -> None:
    """The windows begin with `back` bars, the newest of which is there when the REST API is slow with it."""
    data = ticks(700)
    source = Flaky({"A": data}, start=at(602), late_s=9.0)
    (first, *_) = await moments(live(source, back=4), 1)
    window = first.bars
    assert [window.bar(i) for i in range(len(window))] == whole("A", data)[6:11]


async def test_after_gives_every_moment_since_then_and_goes_on_live() -> None:
    """From the REST API up to now: this is what recovery stands on."""
    data = ticks(700)
    source = Flaky({"A": data}, start=at(602))
    given = await moments(live(source, back=2), 12, after=at(300))
    assert bars(given) == whole("A", data)[5:17]
    assert len(given[0].bars) == 3


async def test_without_history_a_feed_does_not_begin() -> None:
    """It says so after `patience`, and how to begin without."""
    source = Told(alive(0, 1000))
    source.fail = FeedError("403, the key is wrong")
    with pytest.raises(FeedError, match="403, the key is wrong; without history a feed begins only with back=0"):
        await moments(live(source, back=10))
    assert source.open == 0


async def test_history_looks_farther_back_over_a_weekend() -> None:
    """A hundred bars of a market that was closed lie days back."""
    past = [bar(minute - 60, 10.0) for minute in range(10)]
    source = Told([*alive(0, 80, 1), tick(10, 100)], past=past, ends=62)
    (market,) = await moments(live(source, back=5))
    assert len(market.bars) == 6


async def test_ticks_that_cannot_be_are_left_out_and_counted() -> None:
    """Zero, negative, NaN, from the future, of nobody, without a zone: the bar is that of the good ones."""
    bad: list[tuple[float, Heard]] = [
        (20.0 + i, Tick("told", "A", price, 1.0, at(20.0 + i))) for i, price in enumerate((0.0, -1.0))
    ]
    bad += [tick(22, math.nan), tick(23, math.inf), tick(24, 5.0, "X"), tick(25, 5.0, volume=-1.0)]
    bad.append((26, Tick("told", "A", 5.0, 1.0, at(4000))))
    bad.append((27, Tick("told", "A", 5.0, 1.0, at(27).replace(tzinfo=None))))
    bad.append((28, Quote("A", 101.0, 100.0, None, at(28))))
    bad.append((29, Quote("A", None, None, None, at(29))))
    bad.append((30, bar(0, 5.0)._replace(high=1.0)))
    bad.append((31, bar(0, 5.0)._replace(start=at(3))))
    feed = live(Told([*alive(0, 70, 1), tick(10, 100), *bad, tick(50, 101)], ends=65))
    (market,) = await moments(feed)
    assert market.bars.last[3:] == (100, 101, 100, 101, 2)
    assert feed.health().bad == len(bad)


async def test_a_tick_that_lies_ahead_closes_no_bar() -> None:
    """A tick some seconds ahead of our clock is allowed for; it is the clock that closes bars."""
    ahead: Heard = Tick("told", "A", 102.0, 1.0, at(64))
    feed = live(Told([*alive(0, 130, 1), tick(10, 100), (59.2, ahead), tick(59.5, 101)], ends=122))
    first, second = await moments(feed)
    assert (first.bars.last.close, second.bars.last.close) == (101, 102)


async def test_a_clock_that_is_wrong_closes_no_bar() -> None:
    """Health says so, and when the clocks agree again it goes on, late rather than wrong."""
    behind = [(float(s), Tick("told", "A", 100.0 + s, 1.0, at(s - 40))) for s in range(1, 150)]
    right = [tick(float(s), 500.0) for s in range(150, 260)]
    source = Told([*alive(0, 260), *behind, *right], ends=250, past=[bar(minute, 5.0) for minute in range(5)])
    feed = live(source)
    stream = feed.stream()
    first = asyncio.ensure_future(anext(stream))
    await source.clock.sleep(140)
    assert not first.done()
    health = feed.health()
    assert health.skewed
    assert health.skew_s == pytest.approx(-40.0, abs=0.5)
    assert (await first).now == at(60)
    assert source.clock.now() > at(150)
    await stream.aclose()


async def test_old_news_told_at_once_is_no_wrong_clock() -> None:
    """Some providers tell the last trades on connecting, or old ones beside new ones: of these the newest counts."""
    old: list[tuple[float, Heard]] = [(0.0, Tick("told", "A", 5.0, 1.0, at(-600 + i))) for i in range(50)]
    mixed: list[tuple[float, Heard]] = []
    for i in range(1, 64):
        mixed += [(float(i), Tick("told", "A", 6.0, 1.0, at(i - 20))), tick(float(i), 7.0)]
    source = Told([*old, *mixed], ends=70)
    feed = live(source)
    stream = feed.stream()
    assert (await anext(stream)).now == at(60)
    assert source.clock.now() == at(61)
    assert feed.health().skew_s == 0.0
    await stream.aclose()


async def test_a_delayed_source_is_allowed_for() -> None:
    """With `max_skew` above the delay its bars close by its own clock: none is cut short."""
    behind = [(float(s), Tick("told", "A", 100.0 + s, 1.0, at(s - 40))) for s in range(41, 300)]
    source = Told(behind, ends=290, past=[bar(0, 5.0)])
    feed = live(source, max_skew=timedelta(minutes=2))
    given = await moments(feed, 3)
    assert [each.volume for each in bars(given)] == [10.0, 60.0, 60.0]
    assert source.clock.now() >= at(180 + 40)


async def test_a_missing_bar_of_a_continuous_market_is_asked_for() -> None:
    """Once; the source has lost it, and the REST API has it."""
    script: list[Any] = [*alive(0, 181, 1), (60.1, bar(0, 1.5)), (180.1, bar(2, 1.7))]
    past = [bar(minute, 1.5 + minute / 10) for minute in range(3)]
    source = Told(script, past=past, ends=182)
    assert bars(await moments(live(source, continuous=True))) == past
    assert len(source.asked) == 1
    source = Told(script, past=past, ends=182)
    assert bars(await moments(live(source))) == [past[0], past[2]]


async def test_before_the_first_bar_there_is_no_market() -> None:
    """`latest` says so; afterwards it is what was handed out last."""
    feed = live(Told([*alive(0, 70), tick(10, 100)], ends=65))
    with pytest.raises(FeedError, match="no bar has closed yet"):
        feed.latest()
    assert feed.heard is None
    assert feed.quote("A") is None
    (market,) = await moments(feed)
    assert feed.latest() is market


async def test_quotes_come_between_bars() -> None:
    """The newest quote or trade; an old bid does not pass for a new one; older news changes nothing."""
    script: list[Any] = [(1, Quote("A", 99.0, 101.0, None, at(1))), tick(1.5, 100), (5, Quote("A", 98.0, 99.0, None, at(0.5)))]
    source = Told([*script, tick(30, 102), *alive(31, 59)])
    feed = live(source)
    stream = feed.stream()
    reading = asyncio.ensure_future(anext(stream))
    await source.clock.sleep(10)
    assert feed.quote("A") == Quote("A", 99.0, 101.0, 100.0, at(1.5))
    assert feed.heard == at(5)
    assert feed.health().age_s == 5.0
    assert feed.health().connected
    await source.clock.sleep(22)
    assert feed.quote("A") == Quote("A", None, None, 102.0, at(30))
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await stream.aclose()
    assert not feed.health().connected


async def test_a_halt_is_known_until_its_end_is_told() -> None:
    """The newest news counts; a trade that is reported during a halt ends nothing."""
    script: list[Any] = [(1, Alive()), (10, Halted("A", True, "news", at(10))), tick(12, 100), *alive(13, 70)]
    script += [(20, Halted("A", False, "", at(5))), (30, Halted("A", False, "", at(30))), (31, Halted("X", True, "", at(31)))]
    source = Told(script, symbols=("A", "B"))
    feed = live(source)
    assert feed.status("A") is None
    stream = feed.stream()
    reading = asyncio.ensure_future(anext(stream))
    for seconds, status in ((5, None), (11, Status.HALTED), (15, Status.HALTED), (25, Status.HALTED), (32, Status.TRADING)):
        await source.clock.sleep(seconds - (source.clock.now() - at(0)).total_seconds())
        assert feed.status("A") is status
        assert feed.status("B") is None
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await stream.aclose()
    assert feed.health().bad == 1


async def test_after_a_lost_connection_a_halt_stays_and_its_end_is_doubted() -> None:
    """News were missed: who was halted is, until a trade behind the halt is heard; who was trading is not known to be."""
    halts: list[Any] = [
        (3, Halted("A", True, "", at(3))),
        (3, Halted("B", True, "", at(3))),
        (4, Halted("B", False, "", at(4))),
    ]
    script = [(1, Alive()), *halts, (10, None), *alive(15, 55), (20, Tick("told", "A", 100.0, 1.0, at(2))), tick(30, 101)]
    source = Told(script, symbols=("A", "B"))
    feed = live(source)
    stream = feed.stream()
    reading = asyncio.ensure_future(anext(stream))
    told = []
    for seconds in (9, 14, 25, 32):
        await source.clock.sleep(seconds - (source.clock.now() - at(0)).total_seconds())
        told.append((feed.status("A"), feed.status("B")))
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await stream.aclose()
    assert told == [(Status.HALTED, Status.TRADING), (Status.HALTED, None), (Status.HALTED, None), (None, None)]


async def test_a_source_may_say_how_late_its_bars_come() -> None:
    """Unless the user says it; then that counts."""
    for more, seconds in (({}, 75), ({"lateness": 3 * S}, 63)):
        source = Told([*alive(0, 100, 1), tick(10, 100)], ends=100)
        source.lateness = 15 * S  # type: ignore[attr-defined]
        async for market in live(source, **more).stream():
            assert (market.now, source.clock.now()) == (at(60), at(seconds))
            break


@pytest.mark.parametrize("how", ["aclose", "cancel", "forget", "before the first"])
async def test_leaving_closes_the_connection_and_leaves_nothing(how: str) -> None:
    """No task, no open connection, however a stream is left."""
    source = Told([*alive(0, 1000), tick(10, 100), tick(70, 101)])
    feed = live(source)
    before = asyncio.all_tasks()

    async def read(count: int) -> None:
        async for _ in feed.stream():
            count -= 1
            if count == 0:
                return

    if how == "aclose":
        await moments(feed, 1)
    elif how == "forget":
        await read(1)
        gc.collect()
    else:
        task = asyncio.ensure_future(read(100))
        await source.clock.sleep(100 if how == "cancel" else 20)
        assert source.open == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    for _ in range(20):
        await asyncio.sleep(0)
    assert source.open == 0
    assert asyncio.all_tasks() == before


async def test_one_stream_at_a_time() -> None:
    """Two readers would take each other's connection; a Tee has a part for each. One after the other is fine."""
    feed = live(Told([*alive(0, 300), tick(10, 100), tick(70, 101), tick(130, 102)], past=[bar(1, 50.0)], ends=200))
    async with Opened(feed):
        with pytest.raises(FeedError, match=r"Tee\(feed\)\.split\(2\)"):
            await anext(feed.stream())
    assert (await moments(feed, 1))[0].now == at(120)


class Opened:
    """A stream that has given its first moment."""

    def __init__(self, feed: Live) -> None:
        self.stream = feed.stream()

    async def __aenter__(self) -> None:
        await anext(self.stream)

    async def __aexit__(self, *_: object) -> None:
        await self.stream.aclose()


async def test_memory_is_flat_and_the_past_stays() -> None:
    """Windows show at most `keep` bars, and those that somebody holds do not change."""
    data = ticks(6000, every_s=2.0)
    given = await moments(live(Flaky({"A": data}, start=at(1)), keep=7))
    expected = [each.close for each in whole("A", data)]
    for i, market in enumerate(given):
        assert market.bars.close.tolist() == expected[max(0, i - 6) : i + 1]
    assert sum(each.nbytes for each in (given[-1].bars.close.base, given[-1].bars.start.base) if each is not None) < 2000


async def test_a_slow_reader_loses_nothing() -> None:
    """While it thinks bars close, the connection breaks, and each bar is there when it comes back."""
    data = ticks(700)
    source = Flaky({"A": data}, start=at(1), cuts=[250.0, 500.0])
    given = []
    async for market in live(source).stream():
        given.append(market)
        if len(given) == 3:
            await source.clock.sleep(400)
    assert bars(given) == [each for each in whole("A", data) if each.end <= given[-1].now]


async def test_what_was_heard_whole_before_a_cut_is_not_asked_for() -> None:
    """The reader was still thinking when the connection broke; what was traded is known, and what was not."""
    script: list[Any] = [*alive(0, 189, 1), tick(10, 100), tick(70, 101), tick(130, 102), (189, None), *alive(200, 400)]
    source = Told(script, symbols=("A", "B"), ends=300)
    stream = live(source).stream()
    assert (await anext(stream)).now == at(60)
    await source.clock.sleep(200)
    assert [(await anext(stream)).bars.price for _ in range(2)] == [101, 102]
    await stream.aclose()
    assert source.asked == []


async def test_a_bar_that_began_by_the_sources_clock_before_the_connection_is_not_whole() -> None:
    """The source's clock is three seconds ahead of ours, so its minute had begun."""
    ahead: list[tuple[float, Heard]] = [(float(s), Tick("told", "A", 7.0, 1.0, at(s + 3))) for s in range(59, 185)]
    given = await moments(live(Told([(58.0, Alive()), *ahead], past=[bar(1, 50.0)], start_s=58, ends=184)))
    assert [each.close for each in bars(given)][-2:] == [50.0, 7.0]


async def test_a_bar_told_twice_is_the_one_that_was_told_first() -> None:
    """Also before it is handed out."""
    script: list[Any] = [*alive(0, 70, 1), (60.1, bar(0, 5.0)), (60.2, bar(0, 6.0)), (60.3, bar(0, 9.0, "B"))]
    (market,) = await moments(live(Told(script, symbols=("A", "B"), ends=65)))
    assert market["A"].last == bar(0, 5.0)


async def test_stragglers_of_a_delayed_source_are_waited_for_by_its_own_clock() -> None:
    """Forty seconds behind, and then half a second more."""
    times = [0.5, 10, 20, 30, 40, 60.2, 59.8, 70, 80, 90]
    behind: list[tuple[float, Heard]] = [
        (max(times[: i + 1]) + 40 + (0.5 if s == 59.8 else 0), Tick("told", "A", 100.0 + i, 1.0, at(s)))
        for i, s in enumerate(times)
    ]
    source = Told([(0.0, Alive()), *behind], ends=140)
    (market,) = await moments(live(source, max_skew=timedelta(minutes=2), silence=MINUTE), 1)
    assert (market.bars.last.volume, market.bars.last.close) == (6.0, 106.0)


async def test_a_reader_that_is_far_too_slow_is_told() -> None:
    """Memory is bounded by saying so, and not by leaving bars out."""
    source = Flaky({"A": ticks(700)}, start=at(1))
    stream = live(source, keep=2).stream()
    await anext(stream)
    await source.clock.sleep(1200)
    with pytest.raises(FeedError, match="the reader of this feed is too slow"):
        await anext(stream)


async def test_tries_can_have_an_end() -> None:
    """After so many in a row over which nothing came."""
    source = Flaky({"A": ticks(100)}, refused=[(0, 1e6)], unanswered=[(0, 1e6)])
    with pytest.raises(FeedError, match="3 tries in a row gave nothing, the last: FeedError: the exchange is down"):
        await moments(live(source, tries=3))
    assert len(source.connected) == 3


async def test_what_only_a_person_can_mend_ends_the_feed() -> None:
    """A missing package does not come by trying again."""
    with pytest.raises(MissingExtra, match="websockets"):
        await moments(live(Told([(1, MissingExtra("websockets", "exchanges"))])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": timedelta(minutes=7)}, "must divide a day"),
        ({"lateness": -S}, "lateness must not be below zero"),
        ({"patience": 0 * S}, "patience must be above zero"),
        ({"silence": 0 * S}, "silence must be above zero"),
        ({"pause": 2 * MINUTE}, "longest_pause"),
        ({"back": 10, "keep": 5}, "back=10 and keep=5"),
        ({"tries": 0}, "at least 1"),
    ],
)
def test_arguments_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    """When it is made, not when it runs."""
    with pytest.raises(ConfigError, match=message):
        live(Told([]), **options)
    with pytest.raises(ConfigError, match="different symbols"):
        live(Told([], symbols=("A", "A")))
    with pytest.raises(ValueError, match="has no time zone"):
        live(Told([])).stream(at(0).replace(tzinfo=None))


async def test_the_offset_moves_the_grid() -> None:
    """Bars of an hour that begin at half past."""
    clock = JumpingClock(at(1))
    half = timedelta(minutes=30)
    source = Flaky({"A": ticks(5000)}, start=clock.now(), offset=half)
    given = await moments(live(source, interval=2 * half, offset=half), 1)
    assert given[0].now == at(3600)
    assert len(given[0].bars) == 1
