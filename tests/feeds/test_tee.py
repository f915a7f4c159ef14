"""One feed read by several: each sees each moment once, and the first waits for nobody."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing
from datetime import timedelta

import pytest

from agentfund.errors import ConfigError, FeedError
from agentfund.feeds import SimulatedMarket
from agentfund.feeds.tee import Part, Tee
from agentfund.market import Market
from agentfund.protocols import Feed, Quoted
from agentfund.testing.feed import FeedContract
from tests.feeds.live_sources import Told, alive, at, live, moments, tick

DATA = SimulatedMarket("SIM", bars=100)


class TestTheFirstPart(FeedContract):
    """The incumbent's."""

    def make_feed(self) -> Feed:
        first, _ = Tee(DATA.tail(60), most=100).split(2)
        return first


class TestTheSecondPart(FeedContract):
    """The candidate's, which nobody reads beside it."""

    def make_feed(self) -> Feed:
        _, second = Tee(DATA.tail(60), most=100).split(2)
        return second


async def _slowly(part: Part, rounds: int) -> list[Market]:
    given = []
    async for market in part.stream():
        given.append(market)
        for _ in range(rounds):
            await asyncio.sleep(0)
    return given


async def test_each_part_sees_each_moment_once() -> None:
    """Whoever is slower, and however many there are."""
    first, second, third = Tee(DATA, most=200).split(3)
    one, two, three = await asyncio.gather(_slowly(first, 1), _slowly(second, 7), _slowly(third, 0))
    expected = [market.now for market in await moments(DATA)]
    assert [market.now for market in one] == expected
    assert all(a is b is c for a, b, c in zip(one, two, three, strict=True))


async def test_a_part_that_lags_too_much_is_told() -> None:
    """It fails; the first goes on at its own pace."""
    first, second = Tee(DATA, most=5).split(2)
    async with aclosing(second.stream()) as slow:
        begun = await anext(slow)
        assert len(await moments(first)) == 100
        with pytest.raises(FeedError, match="lagged more than 5 moments"):
            await anext(slow)
    assert begun.now == (await moments(DATA, 1))[0].now


async def test_no_part_runs_ahead_of_the_first_by_more_than_most() -> None:
    """So the first is never the one that lags."""
    first, second = Tee(DATA, most=5).split(2)
    async with aclosing(first.stream()) as incumbent, aclosing(second.stream()) as candidate:
        assert (await anext(incumbent)).now == (await anext(candidate)).now
        for _ in range(5):
            await anext(candidate)
        waiting = asyncio.ensure_future(anext(candidate))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        await anext(incumbent)
        await waiting
        assert len([market async for market in incumbent]) == 98


async def test_when_the_first_is_left_the_others_go_on() -> None:
    """And when nobody reads any more the connection is closed."""
    source = Told([*alive(0, 400, 1), *(tick(10.0 + 60 * i, 100) for i in range(6))])
    first, second, third = Tee(live(source)).split(3)
    async with aclosing(second.stream()) as candidate:
        assert (await anext(candidate)).now == at(60)
        assert len(await moments(first, 2)) == 2
        assert [(await anext(candidate)).now for _ in range(3)] == [at(60 * i) for i in (2, 3, 4)]
        assert source.open == 1
    assert source.open == 0
    with pytest.raises(FeedError, match="make another Tee"):
        await moments(third)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_reader_that_is_cancelled_takes_nothing_with_it() -> None:
    """The moment that it waited for comes to the others."""
    source = Told([*alive(0, 400, 1), *(tick(10.0 + 60 * i, 100) for i in range(6))], ends=200)
    first, second = Tee(live(source)).split(2)
    one = asyncio.ensure_future(moments(second))
    two = asyncio.ensure_future(moments(first))
    await source.clock.sleep(30)
    one.cancel()
    await asyncio.gather(one, return_exceptions=True)
    assert [market.now for market in await two][:3] == [at(60), at(120), at(180)]


async def test_a_failure_comes_to_every_part() -> None:
    """After what was read before it."""
    source = Told([*alive(0, 100, 1), tick(10, 100)], ends=math.inf)
    first, second = Tee(live(source, tries=1, silence=timedelta(seconds=30))).split(2)
    for part in (first, second):
        stream = part.stream()
        assert (await anext(stream)).now == at(60)
        with pytest.raises(FeedError, match="tries in a row"):
            await anext(stream)


async def test_parts_begin_after_the_same_moment() -> None:
    """A part that begins later sees what comes after its moment; what came before nobody has kept."""
    given = await moments(DATA)
    first, second, third = Tee(DATA, most=200).split(3)
    assert len(await moments(first, 2, after=given[4].now)) == 2
    late = given[2].now
    with pytest.raises(FeedError, match="use the same"):
        await moments(third, after=late)
    assert first.latest() is not None
    with pytest.raises(FeedError, match="no bar has come yet"):
        second.latest()


async def test_a_part_is_read_once_and_a_tee_is_split_once() -> None:
    """What was missed is gone."""
    tee = Tee(DATA)
    first, _ = tee.split(2)
    await moments(first, 1)
    with pytest.raises(FeedError, match="read before"):
        await moments(first, 1)
    with pytest.raises(ConfigError, match="split once"):
        tee.split(2)
    with pytest.raises(ConfigError, match="at least one moment"):
        Tee(DATA, most=0)


async def test_quotes_come_through_where_the_feed_has_them() -> None:
    """A part of a live feed is `Quoted`; one of a history is not."""
    source = Told([*alive(0, 70, 1), tick(10, 100)], ends=65)
    first, second = Tee(live(source)).split(2)
    assert isinstance(second, Quoted)
    assert second.heard is None
    await moments(first)
    quote = second.quote("A")
    assert quote is not None
    assert quote.last == 100
    assert not isinstance(Tee(DATA).split(1)[0], Quoted)
