"""The figures, against examples small enough to work out by hand, and against laws."""

from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.backtest import metrics as m
from agentfund.trading import Costs

YEAR = timedelta(days=365.25)
FREE = Costs(commission_bps=0, half_spread_bps=0, slippage_bps=0)


def array(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.asarray(values, dtype=np.float64)


def test_sharpe_and_volatility_are_those_worked_out_by_hand() -> None:
    """Returns +10 % and -5 %: mean 2.5 %, population deviation 7.5 %; four bars a year double the quarter's figures."""
    returns = m.returns(array(100, 110, 104.5))
    assert returns == pytest.approx([0.10, -0.05])
    assert m.sharpe(returns, 4).value == pytest.approx(0.025 / 0.075 * 2)
    assert m.volatility(returns, 4).value == pytest.approx(0.15)
    assert m.sortino(returns, 4).value == pytest.approx(0.025 / math.sqrt(0.05**2 / 2) * 2)


def test_a_drawdown_is_measured_from_its_peak_until_equity_is_back() -> None:
    """From 120 to 90 are 25 %; bar 1 is the peak, bar 3 the trough, bar 5 is back at 120."""
    equity = array(100, 120, 100, 90, 110, 120, 119)
    assert m.drawdowns(equity) == pytest.approx([0, 0, -1 / 6, -0.25, -1 / 12, 0, -1 / 120])
    assert m.max_drawdown(equity) == m.Drawdown(0.25, 1, 3, 5, 4)


def test_a_drawdown_that_is_not_made_good_lasts_to_the_end() -> None:
    """Nothing recovered, so the length runs to the last bar."""
    assert m.max_drawdown(array(100, 75, 90, 85)) == m.Drawdown(0.25, 0, 1, None, 3)


def test_growth_is_compounded_over_years_of_365_25_days() -> None:
    """Two years from 100 to 121 are ten percent a year; a Calmar ratio divides that by the drawdown."""
    assert m.cagr(100, 121, 2 * YEAR).value == pytest.approx(0.10)
    assert m.calmar(0.10, 0.25).value == pytest.approx(0.4)
    assert m.cagr(100, 0, YEAR).value == -1.0


def test_bars_per_year_are_counted_and_not_assumed() -> None:
    """504 bars in two years are 252 a year."""
    assert m.bars_per_year(504, 2 * YEAR).value == pytest.approx(252)


def test_round_trips_give_hit_rate_and_profit_factor() -> None:
    """Two of four won; 30 were won and 20 lost."""
    profits = [10.0, -5.0, 20.0, -15.0]
    assert m.hit_rate(profits).value == 0.5
    assert m.profit_factor(profits).value == pytest.approx(1.5)


def test_an_expectancy_is_the_mean_of_round_trips() -> None:
    """Of 10, -5, 20 and -15 it is 2.5."""
    assert m.expectancy([10.0, -5.0, 20.0, -15.0]).value == 2.5


def test_skewness_and_kurtosis_are_those_worked_out_by_hand() -> None:
    """Three zeros and a one: mean 1/4, variance 3/16; third moment 3/32, fourth 21/256."""
    returns = array(0, 0, 0, 1)
    assert m.skewness(returns).value == pytest.approx((3 / 32) / (3 / 16) ** 1.5)
    assert m.kurtosis(returns).value == pytest.approx((21 / 256) / (3 / 16) ** 2)
    assert m.skewness(returns * 1e-200).value == pytest.approx((3 / 32) / (3 / 16) ** 1.5)


def test_a_month_is_measured_from_the_last_close_of_the_one_before() -> None:
    """A close at midnight belongs to the day that ends; months without a bar are not there."""
    times = ["2023-12-30", "2024-01-01", "2024-01-15", "2024-02-01", "2024-04-02"]
    ends = np.array(times, dtype="datetime64[us]").astype(np.int64)
    found = m.monthly(ends, array(110, 121, 100, 242, 121), 100.0)
    assert [(year, month) for year, month, _ in found] == [(2023, 12), (2024, 1), (2024, 4)]
    assert [value for _, _, value in found] == pytest.approx([0.21, 1.0, -0.5])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=60), st.integers(1, 40))
def test_the_months_multiply_to_the_whole(equity: list[float], days: int) -> None:
    """However the bars lie: the product of the months is the total return."""
    ends = 1_600_000_000_000_000 + np.arange(len(equity)) * days * 86_400_000_000
    found = m.monthly(ends, np.asarray(equity), 100.0)
    assert math.prod(1 + (value or 0.0) for _, _, value in found) == pytest.approx(equity[-1] / 100.0)


def test_turnover_exposure_and_cost_drag_are_plain_shares() -> None:
    """Traded 300 on a mean equity of 100; in the market for one bar of four; 5 paid of 100."""
    assert m.turnover(300, array(90, 110)).value == pytest.approx(3.0)
    assert m.exposure([False, True, False, False]).value == 0.25
    assert m.cost_drag(5, 100).value == pytest.approx(0.05)


def test_buying_and_holding_obeys_the_same_clock_as_the_agents() -> None:
    """Without costs it buys at the second bar's open (10) and ends at the last close (12): 20 percent."""
    equity = m.buy_and_hold(array(9, 10, 11), array(8, 11, 12), 100.0, FREE)
    assert equity == pytest.approx([100, 110, 120])


def test_buying_and_holding_pays_at_both_ends() -> None:
    """At an unchanged price what is lost is commission, half spread and slippage, twice."""
    costs = Costs(commission_bps=10, half_spread_bps=4, slippage_bps=6)
    flat = array(50, 50, 50)
    kept = 1 / 1.001 / 1.001 * 0.999 * 0.999
    assert m.buy_and_hold(flat, flat, 1000.0, costs)[-1] == pytest.approx(1000 * kept)
    least = m.buy_and_hold(flat, flat, 1000.0, Costs(commission_bps=0, commission_min=7, half_spread_bps=0, slippage_bps=0))
    assert least[-1] == pytest.approx(1000 - 14)


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (m.sharpe(array(), 252), "two bar returns"),
        (m.sharpe(array(0.1, 0.1, 0.1), 252), "same return"),
        (m.sharpe(m.returns(array(100, 110, 121)), 252), "same return"),
        (m.sortino(array(0.1, 0.2), 252), "no bar had a loss"),
        (m.volatility(array(0.1), 252), "two bar returns"),
        (m.cagr(100, 110, timedelta(days=3)), "say nothing of a year"),
        (m.cagr(1e-300, 1e300, timedelta(days=40)), "too large"),
        (m.calmar(None, 0.1), "no yearly growth"),
        (m.calmar(0.1, 0.0), "no drawdown"),
        (m.hit_rate([]), "no round trip"),
        (m.expectancy([]), "no round trip"),
        (m.skewness(array(0.1, 0.2)), "three bar returns"),
        (m.kurtosis(array(0.1, 0.1, 0.1)), "same return"),
        (m.profit_factor([]), "no round trip"),
        (m.profit_factor([1.0]), "no round trip lost"),
        (m.bars_per_year(3, timedelta(0)), "no time passed"),
        (m.total_return(0.0, 1.0), "no capital"),
        (m.exposure([]), "no bar"),
    ],
)
def test_what_cannot_be_known_is_none_with_a_reason(metric: m.Metric, reason: str) -> None:
    """No NaN, no infinity, no warning: None, and why."""
    assert metric.value is None
    assert reason in metric.reason


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=12),
    st.floats(0.01, 1e9),
    st.timedeltas(timedelta(0), timedelta(days=9000)),
)
def test_every_figure_is_finite_or_none_with_a_reason(equity: list[float], begin: float, span: timedelta) -> None:
    """Whatever the curve: a lost fund, one bar, no time at all."""
    for figure in m.of_curve(np.asarray(equity), begin, span).values():
        assert figure.reason if figure.value is None else math.isfinite(figure.value)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=30), st.floats(0.01, 100))
def test_a_drawdown_lies_between_zero_and_one_and_knows_no_currency(equity: list[float], rate: float) -> None:
    """Counted in cents or in dollars, a fall is the same fall."""
    curve = np.asarray(equity)
    depth = m.max_drawdown(curve).depth
    assert 0 <= depth <= 1
    assert m.max_drawdown(curve * rate).depth == pytest.approx(depth, abs=1e-12)
