"""What the rule twins measure on a window of bars."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from agentfund.market import Floats, Window


def atr_pct(bars: Window, count: int = 14) -> float:
    """Return the average true range of the last `count` bars in percent of the price (simple mean).

    True range: the largest of high - low, |high - previous close|, |low - previous close| (Wilder 1978). Of a shorter
    history it is the mean of the bars that have one before them; 0 where there is only one bar.
    """
    before = bars.close[:-1][-count:]
    counted = len(before)
    if not counted:
        return 0.0
    ranges = np.maximum(bars.high[-counted:], before) - np.minimum(bars.low[-counted:], before)
    return float(ranges.sum()) / counted / bars.price * 100


def rsi(close: Floats, count: int = 14) -> float:
    """Return the relative strength index, 0 to 100, of the last `count` changes (simple sums, Cutler's form)."""
    changes = np.diff(close[-count - 1 :])
    gains = float(changes[changes > 0].sum())
    losses = -float(changes[changes < 0].sum())
    return 50.0 if gains + losses == 0 else 100 * gains / (gains + losses)


def trend(close: Floats, step: int, count: int = 40) -> float:
    """Return how far the mean of the newest quarter stands above the mean of all, in standard deviations.

    Args:
        close: prices, oldest first; at least `step * count` of them.
        step: one price of every `step` bars: the coarser time frame.
        count: prices looked at.
    """
    sampled = close[-1 - step * (count - 1) :: step]
    spread = _spread(sampled)
    newest = count // 4
    above = float(sampled[-newest:].sum()) / newest - float(sampled.sum()) / count
    return above / spread if spread > 0 else 0.0


def volatility_ratio(close: Floats, recent: int = 20, long: int = 100) -> float:
    """Return the recent volatility of returns as a multiple of the longer one; 1 is usual."""
    newest = close[-long - 1 :]
    returns = newest[1:] / newest[:-1] - 1
    usual, now = _spread(returns), _spread(returns[-recent:])
    return now / usual if usual > 0 else 1.0


def _spread(values: Floats) -> float:
    apart = values - values.sum() / len(values)
    return math.sqrt(float(apart @ apart) / len(values))
