"""A REST API asked again and again: each bar once, when it is there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from agentfund.clock import JumpingClock
from agentfund.errors import ConfigError, FeedError
from agentfund.feeds import SimulatedMarket
from agentfund.feeds.live import Live
from agentfund.feeds.polling import Polling
from agentfund.feeds.recorded import Recorded
from agentfund.market import Bar, Instrument
from agentfund.protocols import Feed, Source
from agentfund.testing.feed import FeedContract
from tests.feeds.live_sources import MINUTE, at, bar, bars, live, moments, ticks, whole

S = timedelta(seconds=1)


def polled(source: Any, **options: Any) -> Polling:
    """Return minutes asked for by the source's clock."""
    options.setdefault("every", MINUTE)
    polling = Polling(source, clock=source.clock, **options)
    polling.clock = source.clock  # type: ignore[attr-defined]
    return polling


class TestPolledBars(FeedContract):
    """Simulated bars, asked for as they close."""

    def make_feed(self) -> Feed:
        hour = timedelta(hours=1)
        source = Recorded(SimulatedMarket("SIM", bars=60, interval=hour, sessions="24h"), speed=math.inf)
        polling = Polling(source, every=hour, clock=source.clock)
        return Live(polling, interval=hour, back=10, clock=source.clock)


class Rest:
    """A REST API that has each bar some seconds after its end."""

    name = "rest"

    def __init__(self, late: dict[str, list[float]], start_s: float = 1.0) -> None:
        self.instruments = tuple(Instrument(symbol) for symbol in late)
        self.late = late
        self.clock = JumpingClock(at(start_s))
        self.asked: list[float] = []
        self.down = (math.inf, math.inf)

    async def history(self, symbol: str, interval: timedelta, start: datetime, end: datetime) -> Sequence[Bar]:
        """Answer with what is there."""
        now = (self.clock.now() - at(0)).total_seconds()
        self.asked.append(now)
        if self.down[0] <= now < self.down[1]:
            raise FeedError("503")
        made = [(bar(i, 10.0 + i, symbol), 60 * (i + 1) + late) for i, late in enumerate(self.late[symbol])]
        return [each for each, there in made if there <= now and each.start >= start and each.end <= end]


def test_polling_is_a_source() -> None:
    """The types agree, for mypy as well as at run time."""
    source: Source = Polling(Rest({"A": []}), every=MINUTE)
    assert source.name == "rest polled"


async def test_each_bar_comes_once_and_soon() -> None:
    """A second after its end by default, by one question a bar; that of the beginning, heard in part, is asked for twice."""
    rest = Rest({"A": [0.5] * 20})
    given = await moments(live(polled(rest)), 10)
    assert bars(given) == [bar(i, 10.0 + i) for i in range(10)]
    assert rest.asked[1:] == [61.0 + 60 * i for i in range(10)]


async def test_a_late_bar_is_asked_for_until_it_is_there() -> None:
    """With pauses that grow; it is late, and none is left out."""
    rest = Rest({"A": [0.5, 40.0, 0.5, 200.0, 150.0, 0.5]})
    given = await moments(live(polled(rest)), 3)
    assert bars(given) == [bar(i, 10.0 + i) for i in range(3)]
    assert len(rest.asked) <= 10
    gaps = [b - a for a, b in pairwise(rest.asked[1:])]
    assert min(gaps) >= 2.0


async def test_instruments_wait_for_each_other() -> None:
    """As long as `lateness` says."""
    rest = Rest({"A": [0.5] * 20, "B": [12.0] * 20})
    given = await moments(live(polled(rest), lateness=20 * S), 5)
    assert [market.updated for market in given] == [("A", "B")] * 5


async def test_an_api_that_is_down_is_a_hole_that_is_filled() -> None:
    """It is asked again with pauses, and what closed meanwhile comes late."""
    rest = Rest({"A": [0.5] * 20})
    rest.down = (100.0, 260.0)
    given = await moments(live(polled(rest), patience=timedelta(minutes=5)), 8)
    assert bars(given) == [bar(i, 10.0 + i) for i in range(8)]
    assert len([each for each in rest.asked if 100 <= each < 260]) < 20


async def test_polled_ticks_are_the_bars_of_the_file() -> None:
    """The same bars as by the stream."""
    data = ticks(300)
    source = Recorded({"A": data}, speed=math.inf, start=at(1))
    given = await moments(live(polled(source)))
    assert bars(given) == [each for each in whole("A", data) if each.end <= given[-1].now]
    assert given[-1].now > source.ends - 2 * MINUTE


@pytest.mark.parametrize("options", [{"every": timedelta(minutes=7)}, {"again": 0 * S}, {"timeout": 0 * S}, {"delay": -S}])
def test_arguments_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    """When it is made."""
    with pytest.raises(ConfigError):
        polled(Rest({"A": []}), **options)
