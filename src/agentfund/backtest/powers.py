"""Means of powers of bar returns: what volatility, Sharpe and Sortino ratio, skewness and kurtosis are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.compiled import choose, jit

if TYPE_CHECKING:
    from agentfund.market import Floats

_PART = 4096
# A return takes about a hundredth of what a bar takes in a plain loop.
_LIGHT = 100


@dataclass(frozen=True, slots=True)
class Powers:
    """Figures of a series of returns.

    Attributes:
        count: how many returns there are.
        mean: their mean.
        deviation: their standard deviation, of the population.
        downside: root of the mean square of those below zero.
        skewness: mean cube of the distances from the mean over the cube of the deviation; NaN where that is zero.
        kurtosis: the same of the fourth power.
        largest: the largest return without its sign.
        furthest: the largest distance from the mean.
    """

    count: int
    mean: float
    deviation: float
    downside: float
    skewness: float
    kurtosis: float
    largest: float
    furthest: float


def powers_of(bar_returns: Floats) -> Powers | None:
    """Return the figures of a series; None for fewer than two returns."""
    count = len(bar_returns)
    if count < 2:
        return None
    high, low = float(bar_returns.max()), float(bar_returns.min())
    largest, scale = max(high, -low), 1.0
    if not 1e-60 < largest < 1e60 and largest > 0.0:  # so that the powers of returns of any size stay within float64
        scale, bar_returns = largest, bar_returns / largest
    mean = float(bar_returns.mean())
    how = _compiled_sums if choose(None, count // _LIGHT) else _sums
    squares, cubes, fourths, losses = (how(bar_returns, mean).sum(axis=1) / count).tolist()
    return Powers(
        count,
        mean * scale,
        math.sqrt(squares) * scale,
        math.sqrt(losses) * scale,
        cubes / squares**1.5 if squares > 0.0 else math.nan,
        fourths / squares**2 if squares > 0.0 else math.nan,
        largest,
        max(high / scale - mean, mean - low / scale) * scale,
    )


def _sums(bar_returns: Floats, mean: float) -> Floats:
    """Return sums of squares, cubes and fourth powers of distances from the mean, and of squares of losses.

    Number k of each row adds up the returns k, k + _PART, ...: so many that fit into the cache are worked on several times,
    and machine code, which adds up many at once, comes to the same bits.
    """
    sums = np.zeros((4, _PART))
    for begin in range(0, len(bar_returns), _PART):
        part = bar_returns[begin : begin + _PART]
        distance, losses = part - mean, np.minimum(part, 0.0)
        squares, cubes, fourths, lost = sums[:, : len(part)]
        power = distance * distance
        squares += power
        distance *= power
        cubes += distance
        power *= power
        fourths += power
        losses *= losses
        lost += losses
    return sums


def _loop(bar_returns: Any, mean: float) -> Any:
    """Do what `_sums` does, in one pass."""
    count = len(bar_returns)
    sums = np.zeros((4, _PART))
    squares, cubes, fourths, lost = sums[0], sums[1], sums[2], sums[3]
    for begin in range(0, count, _PART):
        for k in range(min(_PART, count - begin)):
            one = bar_returns[begin + k]
            distance = one - mean
            power = distance * distance
            loss = one if one < 0.0 else 0.0
            squares[k] += power
            cubes[k] += distance * power
            fourths[k] += power * power
            lost[k] += loss * loss
    return sums


_compiled_sums = jit(_loop)
