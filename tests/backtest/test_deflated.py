"""Sharpe ratios that know how many were tried: against published figures, against simulation, and against laws."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.backtest import deflated as d
from agentfund.backtest.deflated import Luck, Moments
from agentfund.errors import ConfigError

# The worked example of the paper on the deflated Sharpe ratio: five years of daily returns, 250 a year, Sharpe 2.5 a year,
# 100 trials whose Sharpe ratios have a variance of 1/2 (a year).
EXAMPLE = Moments(1250, 2.5 / math.sqrt(250), -3.0, 10.0)
VARIANCE = 0.5 / 250


@pytest.mark.parametrize(
    ("known", "trials", "published"),
    [(EXAMPLE, 100, 0.9004), (EXAMPLE, 46, 0.9505), (EXAMPLE._replace(skewness=0.0, kurtosis=3.0), 88, 0.9505)],
)
def test_the_published_example_comes_out(known: Moments, trials: int, published: float) -> None:
    """Bailey and Lopez de Prado, The Deflated Sharpe Ratio (2014), section "A numerical example": all three figures."""
    assert d.deflated_sharpe(known, trials, VARIANCE).value == pytest.approx(published, abs=5e-5)


def test_the_best_that_luck_gives_is_the_published_one() -> None:
    """0.1132 a day for 100 trials, as the same example has it."""
    assert d.expected_max_sharpe(100, VARIANCE) == pytest.approx(0.1132, abs=5e-5)


def test_the_best_that_luck_gives_is_what_simulation_gives() -> None:
    """The mean of the highest of N normal numbers, within a few percent, for a handful and for many."""
    rng = np.random.default_rng(5)
    for trials, within in ((3, 0.12), (10, 0.03), (100, 0.01), (1000, 0.01)):
        found = rng.normal(0.0, 1.0, (20_000_000 // trials // 10, trials)).max(axis=1).mean()
        assert d.expected_max_sharpe(trials, 1.0) == pytest.approx(found, rel=within)


def test_one_trial_is_deflated_by_nothing() -> None:
    """Who tried once is judged by the probabilistic Sharpe ratio."""
    assert d.expected_max_sharpe(1, 1.0) == 0.0
    assert d.deflated_sharpe(EXAMPLE, 1, VARIANCE) == d.probabilistic_sharpe(EXAMPLE)


class Searched(NamedTuple):
    """Of some searches: how many picked a result that a naive test accepts, that deflating accepts, and the right one."""

    naive: int
    deflated: int
    right: int
    middle: float


def searches(number: int, *, bars: int = 252, edge: float = 0.0, trials: int = 100, seed: int = 1) -> Searched:
    """Search the best of some random agents, one of which may have a true Sharpe ratio a year of `edge`."""
    rng = np.random.default_rng(seed)
    naive = deflated = right = 0
    sharpes = []
    for _ in range(number):
        returns = rng.normal(0.0, 0.01, (trials, bars))
        returns[0] += edge * 0.01 / math.sqrt(252)
        each = returns.mean(axis=1) / returns.std(axis=1)
        best = int(each.argmax())
        luck = Luck.of(returns[best], 252.0, np.delete(each, best))
        naive += (luck.probabilistic.value or 0.0) > 0.95
        deflated += luck.stands
        right += best == 0
        sharpes.append(float(each[best]) * math.sqrt(252))
    return Searched(naive, deflated, right, float(np.median(sharpes)))


def test_the_best_of_a_hundred_random_agents_is_luck() -> None:
    """200 searches of a year: their best has a Sharpe ratio of about 2.5, a naive test accepts nearly all, deflating none."""
    found = searches(200)
    assert found.middle == pytest.approx(2.5, abs=0.1)
    assert found.naive >= 196
    assert found.deflated <= 2


def test_a_true_edge_is_found_when_it_is_large_or_long_enough() -> None:
    """A true Sharpe ratio of 3 among 100 agents: hardly ever told from luck in a year, nearly always in five."""
    short, long = searches(100, edge=3.0), searches(100, bars=1260, edge=3.0)
    assert short.deflated <= 25
    assert long.deflated >= 95
    assert long.right >= 99


def test_a_track_record_is_long_enough_when_its_probability_is_reached() -> None:
    """With that many bars the probabilistic Sharpe ratio is the confidence asked for; one bar less is not enough."""
    needed = d.min_track_record(EXAMPLE, 0.05).value
    assert needed is not None
    assert d.probabilistic_sharpe(EXAMPLE._replace(bars=math.ceil(needed)), 0.05).value >= 0.95  # type: ignore[operator]
    assert d.probabilistic_sharpe(EXAMPLE._replace(bars=math.floor(needed)), 0.05).value < 0.95  # type: ignore[operator]
    assert d.min_track_record(EXAMPLE, 1.0).reason.startswith("the Sharpe ratio is not above")


@settings(deadline=None, max_examples=80)
@given(
    st.floats(-0.5, 0.5),
    st.floats(-3, 3),
    st.floats(0, 20),
    st.integers(3, 5000),
    st.integers(1, 10_000),
    st.integers(1, 10_000),
    st.floats(1e-8, 1.0),
)
def test_more_trials_never_make_a_result_better(
    sharpe: float, skew: float, tails: float, bars: int, few: int, more: int, variance: float
) -> None:
    """Deflating falls with the number of trials, stays between 0 and 1, and never lies above the probabilistic one."""
    known = Moments(bars, sharpe, skew, 1 + skew**2 + tails)
    values = [d.deflated_sharpe(known, n, variance).value for n in (1, *sorted((few, more)))]
    assert all(value is not None and 0 <= value <= 1 for value in values)
    assert values[0] >= values[1] - 1e-12 >= values[2] - 2e-12  # type: ignore[operator]


def test_a_handful_of_trials_that_lie_close_together_still_deflates() -> None:
    """Three trials with nearly the same Sharpe ratio count with the variance that luck alone gives; a hundred do not."""
    assert d.variance_of([0.1, 0.1001, 0.0999], 253) == pytest.approx(1 / 252)
    close = np.linspace(0.1, 0.11, 100)
    assert d.variance_of(close, 253) == pytest.approx(close.var(ddof=1))
    assert d.variance_of([0.1], 253) == 0.0


def test_a_run_that_did_nothing_has_no_figure_and_a_reason() -> None:
    """Every bar had the same return: nothing to judge, and no error."""
    luck = Luck.of(np.zeros(50), 252.0, [0.1, 0.2])
    assert (luck.deflated.value, luck.stands, luck.trials) == (None, False, 3)
    assert "every bar had the same return" in luck.sentence


def test_the_sentence_says_whether_anybody_counted() -> None:
    """Without a ledger one trial is known; with one the number is that of the ledger and this run."""
    returns = np.random.default_rng(1).normal(0.001, 0.01, 300)
    assert "1 trial known (no ledger was given)" in Luck.of(returns, 252.0).sentence
    assert "3 trials known; luck alone gives" in Luck.of(returns, 252.0, [0.0, 0.1]).sentence


@pytest.mark.parametrize(("trials", "variance"), [(0, 1.0), (3, -1.0), (3, math.nan)])
def test_what_cannot_be_meant_is_refused(trials: int, variance: float) -> None:
    """No trial, a negative variance, NaN: an error that says so."""
    with pytest.raises(ConfigError, match="at least one trial"):
        d.expected_max_sharpe(trials, variance)
