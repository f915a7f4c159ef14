"""A recording told again: at its own times, by a clock that runs as fast as one likes."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from agentfund.clock import JumpingClock, ScaledClock, SimulatedClock
from agentfund.errors import ConfigError, FeedError
from agentfund.feeds import SimulatedMarket
from agentfund.feeds.live import Live
from agentfund.feeds.recorded import Recorded
from agentfund.feeds.ticks import TickColumns
from agentfund.market import Alive, Bar, Heard, Tick
from agentfund.protocols import Feed, Source
from agentfund.testing.feed import FeedContract
from agentfund.trading import Direction
from tests.feeds.live_sources import BEGIN, MINUTE, at, bars, live, moments, ticks, whole
from tests.market import broker, buyer, fund, yes

HOUR = timedelta(hours=1)


class TestRecordedBars(FeedContract):
    """Simulated bars, lived through."""

    def make_feed(self) -> Feed:
        market = SimulatedMarket("SIM", bars=80, interval=HOUR, sessions="24h")
        source = Recorded(market, speed=math.inf)
        return Live(source, interval=HOUR, back=20, clock=source.clock)


class TestRecordedTicks(FeedContract):
    """Ticks of two instruments, one of which trades rarely."""

    def make_feed(self) -> Feed:
        data = {"A": ticks(400), "B": ticks(30, seed=2, every_s=40.0)}
        return live(Recorded(data, speed=math.inf), back=5)


async def heard(source: Recorded) -> list[Heard]:
    """Return everything that one connection tells."""
    return [item async for item in source.connect()]


def test_a_recording_is_a_source() -> None:
    """The types agree, for mypy as well as at run time."""
    source: Source = Recorded({"A": ticks(3)}, speed=math.inf)
    assert [each.symbol for each in source.instruments] == ["A"]


async def test_every_tick_is_told_once_at_its_time() -> None:
    """In order of arrival, each when the clock has reached it; then it is over."""
    data = ticks(200, late_s=2.0)
    source = Recorded({"A": data}, speed=math.inf, start=BEGIN)
    newest, told = BEGIN, []
    async for item in source.connect():
        if isinstance(item, Tick):
            newest = max(newest, item.time)
            assert source.clock.now() == newest
            told.append(item.price)
    assert told == data.price.tolist()
    assert source.over
    assert source.clock.now() == source.ends


async def test_a_connection_made_later_tells_what_comes_later() -> None:
    """What was told before it is history."""
    source = Recorded({"A": ticks(200)}, speed=math.inf, start=at(300))
    first, *rest = await heard(source)
    assert isinstance(first, Alive)
    assert all(isinstance(item, Tick | Alive) and item.time is not None and item.time > at(300) for item in rest)


async def test_history_ends_at_the_clocks_now() -> None:
    """No bar of history closes after now, whatever is asked for."""
    data = ticks(200)
    clock = SimulatedClock(at(150))
    source = Recorded({"A": data}, clock=clock)
    assert await source.history("A", MINUTE, at(0), at(1e6)) == whole("A", data)[:2]
    clock.move_to(at(180))
    assert await source.history("A", MINUTE, at(60), at(1e6)) == whole("A", data)[1:3]
    assert await source.history("A", MINUTE, at(60), at(120)) == whole("A", data)[1:2]


async def test_recorded_bars_are_told_when_they_close() -> None:
    """And have their own interval only."""
    market = SimulatedMarket("SIM", bars=20, interval=HOUR)
    source = Recorded(market, speed=math.inf)
    told = [item for item in await heard(source) if isinstance(item, Bar)]
    assert [item.close for item in told] == market.columns["SIM"].close.tolist()
    with pytest.raises(FeedError, match=r"bars of 1:00:00 are recorded, and not of 0:01:00"):
        await source.history("SIM", MINUTE, at(0), at(60))
    with pytest.raises(FeedError, match="nothing is recorded of 'X'"):
        await source.history("X", HOUR, at(0), at(60))


async def test_a_file_of_ticks_lives(tmp_path: Path) -> None:
    """From a file to bars through the live machine, with history before the start."""
    data = ticks(300)
    assert data.volume is not None
    stamps = data.time.astype("M8[us]")
    rows = zip(stamps, data.price.tolist(), data.volume.tolist(), strict=True)
    (tmp_path / "ticks.csv").write_text("time,price,volume\n" + "".join(f"{a}Z,{b},{c}\n" for a, b, c in rows))
    source = Recorded.ticks(tmp_path / "ticks.csv", "A", start=at(190), speed=math.inf)
    given = await moments(live(source, back=2))
    assert bars(given) == [each for each in whole("A", data) if at(190) < each.end <= given[-1].now]
    assert given[0].bars.bar(0).start == at(60)


@pytest.mark.parametrize("speed", [math.inf, 1500.0])
async def test_bars_do_not_depend_on_the_speed(speed: float) -> None:
    """Ten minutes of market take less than half a second at 1,500 times the speed; a slow machine is late and not wrong."""
    source = Recorded({"A": ticks(200)}, start=at(0), speed=speed)
    feed = live(source, patience=timedelta(hours=1), max_skew=timedelta(hours=1))
    assert bars(await moments(feed, 8)) == whole("A", ticks(200))[:8]


@pytest.mark.parametrize("speed", [math.inf, 1500.0])
async def test_a_whole_fund_lives_through_a_recording(speed: float) -> None:
    """Agents, gate and log by the recording's clock, with history before the start; the reader may just stop."""
    source = Recorded({"A": ticks(1200, every_s=2.0)}, speed=speed, start=at(600))
    feed = live(source, back=5, patience=timedelta(hours=1), max_skew=timedelta(hours=1))
    decisions = []
    async for decision in fund(buyer, yes, clock=source.clock).run(feed, broker()):
        decisions.append((decision.cycle, decision.symbol, decision.direction))
        if len(decisions) == 3:
            break
    assert decisions == [(5 * i, "A", Direction.LONG) for i in (1, 2, 3)]


async def test_nothing_recorded_is_refused() -> None:
    """And so are two clocks, and time that does not move."""
    nothing = np.array([], dtype=np.int64)
    with pytest.raises(ConfigError, match="nothing is recorded of A"):
        Recorded({"A": TickColumns(nothing, nothing.astype(float), None)})
    with pytest.raises(ConfigError, match="nothing is recorded of any instrument"):
        Recorded({})
    with pytest.raises(ConfigError, match="a clock of your own"):
        Recorded({"A": ticks(3)}, clock=SimulatedClock(), speed=2.0)
    with pytest.raises(ConfigError, match="above zero"):
        Recorded({"A": ticks(3)}, speed=0)


async def test_a_scaled_clock_runs_faster() -> None:
    """A thousand of its seconds pass in one of ours, in sleep as well."""
    clock = ScaledClock(1000.0, BEGIN)
    before, began = clock.now(), asyncio.get_running_loop().time()
    await clock.sleep(50.0)
    assert (clock.now() - before).total_seconds() >= 49.0
    assert clock.monotonic() >= 49.0
    assert asyncio.get_running_loop().time() - began < 40.0
    for speed in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="speed must be above zero"):
            ScaledClock(speed)


async def test_a_jumping_clock_wakes_sleepers_in_order_and_does_not_wait() -> None:
    """Years pass at once; everybody wakes at his own time."""
    clock, woken = JumpingClock(BEGIN), []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, (clock.now() - BEGIN).total_seconds()))

    await asyncio.gather(*(sleeper(seconds) for seconds in (3e7, 5.0, 100.0, 5.0)))
    assert woken == [(5.0, 5.0), (5.0, 5.0), (100.0, 100.0), (3e7, 3e7)]


async def test_a_jumping_clock_stands_still_while_it_is_held() -> None:
    """Work that waits for a thread takes no time; whoever sleeps on the clock all the same is woken."""
    clock = JumpingClock(BEGIN)
    other = asyncio.ensure_future(clock.sleep(10.0))
    with clock.held():
        await asyncio.to_thread(sum, range(1000))
        assert clock.now() == BEGIN
        await clock.sleep(20.0)
    assert clock.now() == at(20)
    await other


async def test_a_sleeper_that_is_cancelled_moves_no_clock() -> None:
    """Nobody waits for it, so time need not pass."""
    clock = JumpingClock(BEGIN)
    task = asyncio.ensure_future(clock.sleep(1000.0))
    await asyncio.sleep(0)
    task.cancel()
    await clock.sleep(1.0)
    assert clock.now() == at(1)
    async with aclosing(Recorded({"A": ticks(3)}, clock=clock).connect()) as told:
        assert isinstance(await anext(told), Alive)
