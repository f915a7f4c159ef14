"""History and live join without a seam: whatever the line loses, each bar comes once, in order, and whole."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentfund.clock import from_micros
from tests.feeds.live_sources import Flaky, at, bars, live, moments, ticks, whole

END_S = 1500.0
SPAN = st.tuples(st.floats(0, END_S), st.floats(1, 200)).map(lambda each: (each[0], each[0] + each[1]))


async def joined(seed: int, straggling_s: float, **line: object) -> None:
    """Check that what comes over a bad line are the bars of all ticks, between the first moment and the last."""
    data = {"A": ticks(700, seed=seed, every_s=2.0, late_s=straggling_s), "B": ticks(60, seed=seed + 1, every_s=25.0)}
    source = Flaky(data, start=at(137.0), **line)  # type: ignore[arg-type]
    feed = live(source, back=3, lateness=timedelta(seconds=2), silence=timedelta(seconds=20), keep=40)
    given = await moments(feed)
    ended = from_micros(max(int(each.time.max()) for each in data.values()))
    assert given[0].now == at(180)
    assert given[-1].now + timedelta(minutes=1) > ended, "some of the file is missing at its end"
    assert all(one.now < other.now for one, other in pairwise(given))
    for symbol, columns in data.items():
        expected = [each for each in whole(symbol, columns) if at(180) <= each.end <= given[-1].now]
        assert bars(given, symbol) == expected, feed.health()
        before = [each for each in whole(symbol, columns) if each.end <= at(120)]
        window = given[-1][symbol]
        assert [window.bar(i) for i in range(len(window))] == (before[-3:] + expected)[-40:]
    health = feed.health()
    assert (health.late, health.bad, health.differing, health.gaps_open) == (0, 0, 0, 0)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(1, 10**6),
    late_s=st.sampled_from([0.0, 1.5]),
    cuts=st.lists(st.floats(0, END_S), max_size=6),
    frozen=st.lists(SPAN, max_size=3),
    refused=st.lists(SPAN, max_size=2),
    rest_s=st.sampled_from([0.0, 0.5, 7.0]),
)
async def test_random_cuts_drops_and_delays_leave_no_seam(
    seed: int,
    late_s: float,
    cuts: list[float],
    frozen: list[tuple[float, float]],
    refused: list[tuple[float, float]],
    rest_s: float,
) -> None:
    """Cut, frozen or refused at any time, with stragglers and a slow REST API: the bars are those of the whole file."""
    await joined(seed, late_s, cuts=cuts, frozen=frozen, refused=refused, late_s=rest_s)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(1, 10**6),
    late_s=st.sampled_from([0.0, 1.5]),
    cuts=st.lists(st.floats(0, END_S), max_size=12),
    frozen=st.lists(SPAN, max_size=5),
    refused=st.lists(SPAN, max_size=4),
    rest_s=st.floats(0, 15),
)
async def test_a_campaign_of_cuts_drops_and_delays(
    seed: int,
    late_s: float,
    cuts: list[float],
    frozen: list[tuple[float, float]],
    refused: list[tuple[float, float]],
    rest_s: float,
) -> None:
    """The same, often."""
    await joined(seed, late_s, cuts=cuts, frozen=frozen, refused=refused, late_s=rest_s)
