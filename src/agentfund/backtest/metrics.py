"""The figures of a tear sheet: small pure functions of numbers, each with its formula and where it comes from.

A figure that cannot be known is `None` with the reason why; none of these functions gives NaN, infinity or a warning.
Returns are simple returns of one bar, rates are fractions (0.05 is five percent), years have 365.25 days.
"""

from __future__ import annotations

import itertools
import math
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agentfund.backtest.powers import Powers, powers_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentfund.market import Floats, Micros
    from agentfund.trading import Costs

YEAR = timedelta(days=365.25)
NOTHING = 1e-12
"""Equity that is as good as none, in units of the currency."""
SHORT = timedelta(days=30)
"""A yearly growth rate is not told from less: a good week compounds to millions."""
_BLOCK, _BLOCKS = 512, 8

LABELS = (
    ("total_return", "Total return", "+%"),
    ("cagr", "Growth a year (CAGR)", "+%"),
    ("volatility", "Volatility a year", "%"),
    ("sharpe", "Sharpe ratio", ""),
    ("sortino", "Sortino ratio", ""),
    ("calmar", "Calmar ratio", ""),
    ("max_drawdown", "Deepest drawdown", "-%"),
    ("max_drawdown_bars", "  its length in bars", "bars"),
    ("skewness", "Skewness of bar returns", ""),
    ("kurtosis", "Kurtosis (normal: 3)", ""),
)
"""What `of_curve` gives: name, label and unit (fractions, shown as percent with or without their sign), in order."""


class Metric(NamedTuple):
    """A figure, or None and the reason why there is none."""

    value: float | None
    reason: str = ""


class Drawdown(NamedTuple):
    """The deepest fall: its depth as a fraction above zero, and the bars at which it began, was deepest and was made good.

    `recovered` is None where the fall had not been made good at the end; `bars` is its length up to then.
    """

    depth: float
    peak: int
    trough: int
    recovered: int | None
    bars: int


def _metric(value: float) -> Metric:
    return Metric(float(value)) if math.isfinite(value) else Metric(None, "the figure is too large to be meant")


def returns(equity: Floats) -> Floats:
    """Return the simple return of each bar but the first: E[t] / E[t-1] - 1.

    They end at the first bar at which nothing is left, because a return on nothing does not exist.
    """
    alive = equity
    if len(equity) and not equity.min() > NOTHING:
        broke = np.flatnonzero(equity <= NOTHING)
        alive = equity[: broke[0] + 1] if len(broke) else equity
    if len(alive) < 2:
        return np.empty(0)
    found: Floats = alive[1:] / alive[:-1]
    found -= 1.0
    return found


def bars_per_year(bars: int, span: timedelta) -> Metric:
    """Return how many bars this instrument's calendar has in a year: number of bars / span in years of 365.25 days."""
    if bars < 1 or span <= timedelta(0):
        return Metric(None, "no time passed")
    return Metric(bars / (span / YEAR))


def total_return(begin: float, end: float) -> Metric:
    """Return end / begin - 1."""
    return _metric(end / begin - 1.0) if begin > 0 else Metric(None, "there was no capital at the beginning")


def cagr(begin: float, end: float, span: timedelta) -> Metric:
    """Return the compound annual growth rate: (end / begin) ** (1 / years) - 1. Source: CFA Institute, GIPS glossary."""
    if begin <= 0 or span <= timedelta(0):
        return Metric(None, "no time passed" if begin > 0 else "there was no capital at the beginning")
    if end <= NOTHING:
        return Metric(-1.0, "the capital was lost")
    if span < SHORT:
        return Metric(None, f"under {SHORT.days} days say nothing of a year")
    exponent = math.log(end / begin) * (YEAR / span)
    return _metric(math.expm1(exponent) if exponent < 700 else math.inf)


def volatility(bar_returns: Floats, per_year: float | None) -> Metric:
    """Return std(r) * sqrt(bars per year), population standard deviation."""
    return _volatility(powers_of(bar_returns), per_year)


def _volatility(p: Powers | None, per_year: float | None) -> Metric:
    if p is None or per_year is None:
        return Metric(None, "it takes two bar returns")
    return _metric(p.deviation * math.sqrt(per_year))


def sharpe(bar_returns: Floats, per_year: float | None) -> Metric:
    """Return mean(r) / std(r) * sqrt(bars per year), riskless rate zero, population standard deviation.

    Source: W. F. Sharpe, The Sharpe Ratio, Journal of Portfolio Management, 1994.
    """
    return _sharpe(powers_of(bar_returns), per_year)


def _sharpe(p: Powers | None, per_year: float | None) -> Metric:
    if p is None or per_year is None:
        return Metric(None, "it takes two bar returns")
    if p.deviation <= 1e-10 * p.largest:
        return Metric(None, "every bar had the same return")
    return _metric(p.mean / p.deviation * math.sqrt(per_year))


def sortino(bar_returns: Floats, per_year: float | None) -> Metric:
    """Return mean(r) / sqrt(mean(min(r, 0) ** 2)) * sqrt(bars per year), target return zero.

    Source: F. A. Sortino and L. N. Price, Performance Measurement in a Downside Risk Framework, 1994.
    """
    return _sortino(powers_of(bar_returns), per_year)


def _sortino(p: Powers | None, per_year: float | None) -> Metric:
    if p is None or per_year is None:
        return Metric(None, "it takes two bar returns")
    if p.downside == 0.0:
        return Metric(None, "no bar had a loss")
    return _metric(p.mean / p.downside * math.sqrt(per_year))


def skewness(bar_returns: Floats) -> Metric:
    """Return the third standardised moment of the returns, mean((r - m)^3) / std^3; 0 for a normal distribution."""
    return tails(bar_returns)[0]


def kurtosis(bar_returns: Floats) -> Metric:
    """Return the fourth standardised moment of the returns, mean((r - m)^4) / std^4; 3 for a normal distribution."""
    return tails(bar_returns)[1]


def tails(bar_returns: Floats) -> tuple[Metric, Metric]:
    """Return skewness and kurtosis, in one pass."""
    return _tails(powers_of(bar_returns))


def _tails(p: Powers | None) -> tuple[Metric, Metric]:
    if p is None or p.count < 3:
        none = Metric(None, "it takes three bar returns")
        return none, none
    if p.furthest <= 1e-10 * p.largest:
        none = Metric(None, "every bar had the same return")
        return none, none
    return _metric(p.skewness), _metric(p.kurtosis)


def drawdowns(equity: Floats) -> Floats:
    """Return at each bar how far equity lies below its highest so far: E / max(E so far) - 1, zero or below."""
    peak = np.maximum.accumulate(equity)
    if len(peak) and peak[0] > NOTHING:  # and never lower
        falls: Floats = equity / peak
        falls -= 1.0
        return falls
    return np.where(peak > NOTHING, equity / np.where(peak > NOTHING, peak, 1.0) - 1.0, 0.0)


def max_drawdown(equity: Floats) -> Drawdown:
    """Return the deepest fall from a peak, and how many bars it took from that peak until equity was back at it."""
    fall, trough = _deepest(equity)
    if not fall < 0:
        return Drawdown(0.0, 0, 0, 0, 0)
    peak = int(np.argmax(equity[: trough + 1]))
    back = np.flatnonzero(equity[trough:] >= equity[peak])
    recovered = trough + int(back[0]) if len(back) else None
    return Drawdown(-fall, peak, trough, recovered, (len(equity) - 1 if recovered is None else recovered) - peak)


def _deepest(equity: Floats) -> tuple[float, int]:
    """Return the lowest of `drawdowns`, and where it is first.

    A running maximum is slow, so it is only taken within blocks that may hold the deepest fall. From the highest before a
    block to its low a fall is at least as deep as the one is, and from the highest before its end it is no deeper.
    """
    count = len(equity) // _BLOCK
    if count < _BLOCKS or not equity.min() > NOTHING:
        return _lowest(drawdowns(equity))
    blocks = equity[: count * _BLOCK].reshape(count, _BLOCK)
    tops, lows = blocks.max(axis=1), blocks.min(axis=1)
    highest = np.maximum.accumulate(np.concatenate([equity[:1], tops]))
    found = (lows / highest[:-1]).min()
    chosen = np.flatnonzero(lows / highest[1:] <= found)
    peaks = np.maximum(np.maximum.accumulate(blocks[chosen], axis=1), highest[chosen, None])
    fall, at = _lowest((blocks[chosen] / peaks - 1.0).ravel())
    trough = int(chosen[at // _BLOCK]) * _BLOCK + at % _BLOCK
    rest = equity[count * _BLOCK :]
    last, at = _lowest(rest / np.maximum(np.maximum.accumulate(rest), highest[-1]) - 1.0)
    return (last, count * _BLOCK + at) if last < fall else (fall, trough)


def _lowest(falls: Floats) -> tuple[float, int]:
    at = int(falls.argmin()) if len(falls) else 0
    return (float(falls[at]), at) if len(falls) else (0.0, 0)


def calmar(growth: float | None, depth: float) -> Metric:
    """Return CAGR / maximum drawdown. Source: T. W. Young, Calmar Ratio: A Smoother Tool, Futures, 1991 (whole window here)."""
    if growth is None:
        return Metric(None, "there is no yearly growth rate")
    return _metric(growth / depth) if depth > 0 else Metric(None, "there was no drawdown")


def hit_rate(profits: Sequence[float] | Floats) -> Metric:
    """Return the share of ended round trips that made money after costs."""
    if not len(profits):
        return Metric(None, "no round trip has ended")
    return Metric(int(np.count_nonzero(np.asarray(profits) > 0)) / len(profits))


def profit_factor(profits: Sequence[float] | Floats) -> Metric:
    """Return the sum of the winners' profits / the sum of the losers' losses, after costs."""
    if not len(profits):
        return Metric(None, "no round trip has ended")
    each = np.asarray(profits, dtype=np.float64)
    lost = -float(each[each < 0].sum())
    return _metric(float(each[each > 0].sum()) / lost) if lost > 0 else Metric(None, "no round trip lost")


def expectancy(profits: Sequence[float]) -> Metric:
    """Return the mean profit of an ended round trip, after costs, in the account's currency."""
    return _metric(math.fsum(profits) / len(profits)) if profits else Metric(None, "no round trip has ended")


def turnover(traded: float, equity: Floats) -> Metric:
    """Return what was bought and sold (sum of quantity * price) / mean equity, over the whole window."""
    mean = float(equity.mean()) if len(equity) else 0.0
    return _metric(traded / mean) if mean > 0 else Metric(None, "mean equity is not above zero")


def exposure(held: Sequence[bool] | np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Metric:
    """Return the share of bars at whose close something was held."""
    return Metric(int(np.count_nonzero(held)) / len(held)) if len(held) else Metric(None, "there is no bar")


def cost_drag(costs: float, cash: float) -> Metric:
    """Return what trading cost (commission, half spread, slippage) / cash at the beginning."""
    return _metric(costs / cash) if cash > 0 else Metric(None, "there was no capital at the beginning")


def buy_and_hold(opens: Floats, closes: Floats, cash: float, costs: Costs) -> Floats:
    """Return the equity of a fund that buys with all its cash at the open of the second bar and sells at the last close.

    It obeys the same clock as the agents (decided at the first close, filled at the next open) and pays the same costs
    at both ends; in between it is marked at the close.
    """
    equity = np.full(len(closes), cash)
    if len(closes) < 2:
        return equity
    rate = costs.commission_bps / 1e4
    slip = (costs.half_spread_bps + costs.slippage_bps) / 1e4
    invested = max(0.0, min(cash / (1.0 + rate), cash - costs.commission_min))
    quantity = invested / (opens[1] * (1.0 + slip))
    rest = cash - invested - max(invested * rate, costs.commission_min if invested else 0.0)
    equity[1:] = rest + quantity * closes[1:]
    sold = quantity * closes[-1] * (1.0 - slip)
    equity[-1] = rest + sold - max(sold * rate, costs.commission_min if invested else 0.0)
    return equity


class Month(NamedTuple):
    """A month (UTC), and its return; the first and the last may be parts of one."""

    year: int
    month: int
    value: float | None


def monthly(ends: Micros, equity: Floats, begin: float) -> list[Month]:
    """Return what each month made: equity at its last close / equity at the last close before it - 1.

    Args:
        ends: closes of the bars, microseconds since 1970 UTC, rising; a close at midnight belongs to the day that ends.
        equity: equity at those closes.
        begin: capital before the first bar.
    """
    months = (ends - 1).astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
    last = np.flatnonzero(np.append(np.diff(months) != 0, True)) if len(months) else np.empty(0, np.int64)
    levels = [begin, *equity[last].tolist()]
    made = [total_return(before, after).value for before, after in itertools.pairwise(levels)]
    return [Month(1970 + int(m) // 12, 1 + int(m) % 12, v) for m, v in zip(months[last].tolist(), made, strict=True)]


def of_curve(equity: Floats, begin: float, span: timedelta, per_year: float | None = None) -> dict[str, Metric]:
    """Return the figures that follow from an equity curve alone; fund and buy-and-hold are measured the same way.

    Args:
        equity: equity at the close of each bar, in the account's currency.
        begin: capital before the first bar.
        span: from the start of the first bar to the close of the last.
        per_year: how many bars the calendar has in a year; counted in the span where it is left out.
    """
    bar_returns = returns(equity)
    per_year = bars_per_year(len(equity), span).value if per_year is None else per_year
    end = float(equity[-1]) if len(equity) else begin
    growth = cagr(begin, end, span)
    fall = max_drawdown(equity)
    powers = powers_of(bar_returns)
    skew, kurt = _tails(powers)
    return {
        "total_return": total_return(begin, end),
        "cagr": growth,
        "volatility": _volatility(powers, per_year),
        "sharpe": _sharpe(powers, per_year),
        "sortino": _sortino(powers, per_year),
        "calmar": calmar(growth.value, fall.depth),
        "max_drawdown": Metric(fall.depth),
        "max_drawdown_bars": Metric(float(fall.bars)),
        "skewness": skew,
        "kurtosis": kurt,
    }
