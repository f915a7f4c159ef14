"""The figures against two libraries that were written by others: quantstats and empyrical.

Where a convention differs it is written down here, and the difference is exactly that. They take returns, so the curve
begins at its first close. Neither counts bars: they are told how many a year has, which is the number counted here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import pytest

from agentfund.backtest import metrics as m
from agentfund.clock import to_micros

from .test_report import START

if TYPE_CHECKING:
    from agentfund.market import Floats


@pytest.fixture(scope="module")
def quantstats() -> Iterator[ModuleType]:
    """The library, imported without the warnings of what it imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("quantstats").stats


@pytest.fixture(scope="module")
def empyrical() -> Iterator[ModuleType]:
    """The library, imported without the warnings of what it imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("empyrical")


class Curve(NamedTuple):
    """Returns of days, the curve that they make of 100, and how many of them a year has."""

    returns: pd.Series[float]
    equity: Floats
    per_year: float
    figures: dict[str, float]


def normal(rng: np.random.Generator, days: int) -> Floats:
    """Independent and normal."""
    return rng.normal(0.0004, 0.01, days)


def fat(rng: np.random.Generator, days: int) -> Floats:
    """As markets are: fat tails, and calm and wild times in turn."""
    wild = np.exp(np.cumsum(rng.normal(0, 0.05, days)) - 0.02 * np.arange(days) / days)
    shocks: Floats = np.clip(rng.standard_t(4, days) * 0.006 * np.clip(wild, 0.3, 3), -0.3, 0.3)
    return shocks


def losing(rng: np.random.Generator, days: int) -> Floats:
    """A fund that trades on some days only, and loses."""
    return np.where(rng.random(days) < 0.3, rng.normal(-0.001, 0.02, days), 0.0)


@pytest.fixture(
    params=[(make, seed) for make in (normal, fat, losing) for seed in (1, 2, 3)], ids=lambda one: f"{one[0].__name__}-{one[1]}"
)
def curve(request: pytest.FixtureRequest) -> Curve:
    """Three years of business days."""
    make, seed = request.param
    index = pd.bdate_range("2021-01-04", periods=780)
    returns = pd.Series(make(np.random.default_rng(seed), 780), index=index)
    equity = 100 * np.cumprod(1 + returns.to_numpy())
    span = timedelta(days=780 / 252 * 365.25)
    found = m.of_curve(np.concatenate([[100.0], equity]), 100.0, span, 252.0)
    return Curve(returns, equity, 252.0, {name: one.value for name, one in found.items() if one.value is not None})


def test_quantstats_gives_the_same_figures(curve: Curve, quantstats: ModuleType) -> None:
    """It divides by the sample's deviation, n - 1, where these divide by n; its tails are samples' too."""
    n, returns, own = len(curve.returns), curve.returns, curve.figures
    sample = math.sqrt((n - 1) / n)
    assert quantstats.sharpe(returns, periods=252) == pytest.approx(own["sharpe"] * sample)
    assert quantstats.volatility(returns, periods=252) == pytest.approx(own["volatility"] / sample)
    assert quantstats.sortino(returns, periods=252) == pytest.approx(own["sortino"])
    assert quantstats.max_drawdown(returns) == pytest.approx(-own["max_drawdown"])
    assert quantstats.comp(returns) == pytest.approx(own["total_return"])
    bias = math.sqrt(n * (n - 1)) / (n - 2)
    assert quantstats.skew(returns) == pytest.approx(own["skewness"] * bias)
    tails = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * own["kurtosis"] - 3 * (n - 1))
    assert quantstats.kurtosis(returns) == pytest.approx(tails)


def test_empyrical_gives_the_same_figures(curve: Curve, empyrical: ModuleType) -> None:
    """It divides by n - 1 as well; growth a year counts bars, as here where the span is that of the bars."""
    n, returns, own = len(curve.returns), curve.returns, curve.figures
    sample = math.sqrt((n - 1) / n)
    assert empyrical.sharpe_ratio(returns, annualization=252) == pytest.approx(own["sharpe"] * sample)
    assert empyrical.annual_volatility(returns, annualization=252) == pytest.approx(own["volatility"] / sample)
    assert empyrical.sortino_ratio(returns, annualization=252) == pytest.approx(own["sortino"])
    assert empyrical.max_drawdown(returns) == pytest.approx(-own["max_drawdown"])
    assert empyrical.cum_returns_final(returns) == pytest.approx(own["total_return"])
    assert empyrical.cagr(returns, annualization=252) == pytest.approx(own["cagr"])
    assert empyrical.calmar_ratio(returns, annualization=252) == pytest.approx(own["calmar"])


def test_quantstats_gives_the_same_growth_where_its_year_is_meant(curve: Curve, quantstats: ModuleType) -> None:
    """Its growth a year counts bars as empyrical's does, and its Calmar ratio is that over the drawdown."""
    assert quantstats.cagr(curve.returns, periods=252) == pytest.approx(curve.figures["cagr"])
    assert quantstats.calmar(curve.returns, periods=252) == pytest.approx(curve.figures["calmar"])


def test_empyrical_gives_the_same_months(curve: Curve, empyrical: ModuleType) -> None:
    """Each month of three years, closes at midnight counted to the day that ends."""
    days = [day.to_pydatetime().replace(tzinfo=START.tzinfo) for day in curve.returns.index]
    ends = np.array([to_micros(day + timedelta(days=1)) for day in days])
    own = m.monthly(ends, curve.equity, 100.0)
    peer = empyrical.aggregate_returns(curve.returns, "monthly")
    assert [(year, month) for year, month, _ in own] == list(peer.index)
    assert [value for _, _, value in own] == pytest.approx(peer.tolist())


def test_quantstats_gives_the_same_figures_of_trades(quantstats: ModuleType) -> None:
    """Hit rate and profit factor of bars, taken as trades; it leaves bars without a return out of the hit rate."""
    profits = np.random.default_rng(2).normal(0.001, 0.01, 200)
    series = pd.Series(profits, index=pd.bdate_range("2022-01-03", periods=200))
    assert quantstats.win_rate(series) == pytest.approx(m.hit_rate(profits.tolist()).value)
    assert quantstats.profit_factor(series) == pytest.approx(m.profit_factor(profits.tolist()).value)


def test_drawdowns_are_as_long_as_quantstats_counts_them(curve: Curve, quantstats: ModuleType) -> None:
    """Its longest fall in days is at least as long as the deepest one, and the deepest is among its falls."""
    series = quantstats.to_drawdown_series(curve.returns)
    own = m.drawdowns(np.concatenate([[100.0], curve.equity]))[1:]
    assert series.to_numpy() == pytest.approx(own, abs=1e-9)
