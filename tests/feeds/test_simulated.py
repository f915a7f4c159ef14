"""The simulated market is the same each time, consistent, and says that it is not real."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.clock import from_micros
from agentfund.errors import ConfigError
from agentfund.feeds import SimulatedMarket
from agentfund.market import Columns


def of(market: SimulatedMarket) -> Columns:
    """The columns of its one instrument."""
    (columns,) = market.columns.values()
    return columns


def test_the_same_seed_gives_the_same_bytes() -> None:
    """The market of a seed is known by its fingerprint; another seed is another market."""
    assert SimulatedMarket().fingerprint == SimulatedMarket().fingerprint
    assert SimulatedMarket(seed=8).fingerprint != SimulatedMarket().fingerprint
    c = of(SimulatedMarket())
    assert from_micros(c.start[0]) == datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
    assert [*c.close[:3].tolist(), *c.close[-3:].tolist()] == [99.9, 100.11, 100.15, 99.41, 99.56, 99.35]


@given(
    st.integers(2, 400),
    st.integers(0, 2**40),
    st.sampled_from(["stocks", "forex", "24h"]),
    st.sampled_from([timedelta(minutes=1), timedelta(minutes=15), timedelta(hours=4), timedelta(days=1)]),
    st.sampled_from(["0.01", "0.00001", "0.25"]),
)
@settings(deadline=None, max_examples=60)
def test_every_market_is_one_that_could_be(bars: int, seed: int, sessions: Any, interval: timedelta, tick: str) -> None:
    """Bars are as many as asked for, consistent (or Bars would refuse them), on the tick, apart by their interval."""
    market = SimulatedMarket(bars=bars, seed=seed, sessions=sessions, interval=interval, tick_size=tick)
    c = of(market)
    assert len(c) == len(market.regimes) == bars
    assert bool((np.diff(c.start) >= interval // timedelta(microseconds=1)).all())
    for price in (float(c.open[-1]), float(c.high[-1]), float(c.low[-1]), float(c.close[-1])):
        assert Decimal(repr(price)) % Decimal(tick) == 0
    assert bool((c.volume > 0).all())


@pytest.mark.parametrize(
    ("sessions", "first", "last", "days"),
    [
        ("stocks", (14, 30), (20, 45), {0, 1, 2, 3, 4}),
        ("forex", (0, 0), (23, 45), {0, 1, 2, 3, 4, 6}),
        ("24h", (0, 0), (23, 45), {0, 1, 2, 3, 4, 5, 6}),
    ],
)
def test_bars_lie_in_their_sessions(sessions: Any, first: tuple[int, int], last: tuple[int, int], days: set[int]) -> None:
    """A market opens and closes when it says, on the days it says."""
    starts = [from_micros(x) for x in of(SimulatedMarket(sessions=sessions, bars=3000)).start]
    clocks = [(x.hour, x.minute) for x in starts]
    assert (min(clocks), max(clocks)) == (first, last)
    assert {x.weekday() for x in starts} == days
    if sessions == "forex":
        assert all((x.hour >= 22) == (x.weekday() == 6) for x in starts if x.weekday() in (4, 6) and x.hour >= 22)


def test_the_first_bar_is_not_before_the_start() -> None:
    """A start on a Saturday is followed by Monday's first bar."""
    saturday = datetime(2024, 1, 6, 12, tzinfo=UTC)
    assert from_micros(of(SimulatedMarket(start=saturday)).start[0]) == datetime(2024, 1, 8, 14, 30, tzinfo=UTC)
    assert from_micros(of(SimulatedMarket(start=saturday, interval=timedelta(days=1))).start[0]).day == 8
    assert from_micros(of(SimulatedMarket(start=saturday, sessions="24h")).start[0]) == saturday


def test_regimes_are_what_they_are_called() -> None:
    """Over many bars trends go their way, volatile bars move most and ranging ones least; each lasts a while."""
    market = SimulatedMarket(bars=40_000, sessions="24h")
    c, regimes = of(market), np.array(market.regimes)
    change = c.close / c.open - 1
    mean = {name: float(change[regimes == name].mean()) for name in set(market.regimes)}
    noise = {name: float(change[regimes == name].std()) for name in set(market.regimes)}
    assert set(mean) == {"trending_up", "trending_down", "ranging", "volatile"}
    assert mean["trending_up"] > 1e-4 > -1e-4 > mean["trending_down"]
    assert noise["volatile"] > 1.5 * noise["trending_up"] > 1.5 * noise["ranging"]
    lasts = len(regimes) / (1 + int((regimes[1:] != regimes[:-1]).sum()))
    assert 60 < lasts < 100


def test_it_has_the_habits_of_markets() -> None:
    """Volatility clusters, tails are fat, nights and weekends gap, volume is largest at the ends of a session."""
    c = of(SimulatedMarket(bars=26 * 500))
    change = np.abs(np.diff(np.log(c.close)))
    assert np.corrcoef(change[1:], change[:-1])[0, 1] > 0.1
    move = np.log(c.close / c.open)
    assert float(((move / move.std()) ** 4).mean()) > 4
    gaps = np.abs(np.log(c.open[1:] / c.close[:-1]))
    apart = np.diff(c.start) // 3_600_000_000
    inside, night, weekend = (float(np.median(gaps[mask])) for mask in (apart == 0, apart == 17, apart > 48))
    assert weekend > night > 10 * inside
    by_slot = c.volume.reshape(-1, 26).mean(axis=0)
    assert min(by_slot[0], by_slot[-1]) > 1.5 * by_slot[10:16].mean()


def test_a_long_market_stays_within_reach() -> None:
    """Two hundred thousand bars later prices are still prices."""
    c = of(SimulatedMarket(bars=200_000, sessions="24h"))
    assert 1.0 < float(c.low.min()) < float(c.high.max()) < 10_000


def test_it_says_that_it_is_not_real() -> None:
    """The source is what reports print; the default market gives no other warning."""
    market = SimulatedMarket(bars=10)
    assert market.source == "a simulated market, not real data (10 bars of 15 minutes, stocks sessions, seed 7)"
    assert market.tail(5).source == market.source
    assert SimulatedMarket().warnings == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bars": 1}, "bars=1: a market has at least 2"),
        ({"seed": -1}, "seed=-1"),
        ({"sessions": "moon"}, "sessions='moon': it can be 'stocks', 'forex', '24h'"),
        ({"interval": timedelta(0)}, "interval=0:00:00"),
        ({"interval": timedelta(hours=7)}, "interval=7:00:00: a bar lasts a whole day or a part of the stocks session"),
        ({"interval": timedelta(days=7)}, "interval=7 days"),
        ({"start": datetime(2024, 1, 1)}, "it has no time zone"),  # noqa: DTZ001
        ({"price": 0.5}, "price=0.5: it must be at least 100 ticks"),
        ({"price": float("nan")}, "price=nan"),
        ({"tick_size": 0}, "tick_size must be above zero"),
        ({"symbol": ""}, "an instrument needs a symbol"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    """Each says which argument and why."""
    with pytest.raises(ConfigError, match=message):
        SimulatedMarket(**arguments)
