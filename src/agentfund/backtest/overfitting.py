"""How often the best of many settings is a bad one on the other half of the data: probability of backtest overfitting.

Source: D. H. Bailey, J. M. Borwein, M. Lopez de Prado and Q. J. Zhu, The Probability of Backtest Overfitting, Journal of
Computational Finance 20 (4), 2017 (combinatorially symmetric cross-validation, CSCV).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.errors import BadData, ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentfund.market import Floats

_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Overfitting:
    """What cross-validation says of the way in which the best setting was chosen.

    Args:
        probability: share of the splits in which the setting that was best on one half ranks in the lower half of all on
            the other one; 0.5 is what choosing blindly gives.
        logits: of each split, ln(rank / (1 - rank)), rank being that relative rank; below zero is the lower half.
        slope: of the line through (Sharpe ratio where chosen, Sharpe ratio on the other half); None where all are equal.
        loss: share of the splits in which the chosen setting lost money on the other half.
        trials: number of settings.
        bars: number of returns that were used.
        parts: into how many parts the bars were split.
    """

    probability: float
    logits: Floats
    slope: float | None
    loss: float
    trials: int
    bars: int
    parts: int

    def __str__(self) -> str:
        return self.sentence

    @property
    def sentence(self) -> str:
        """What it comes to, in one sentence."""
        if self.probability >= 0.5:
            verdict = "choosing the best is no better than choosing blindly"
        elif self.probability > 0.1:
            verdict = "the best may well be so by chance"
        else:
            verdict = "what is best tends to stay among the better half"
        return (
            f"probability of backtest overfitting {self.probability:.2f} over {self.trials:,} settings"
            f" and {len(self.logits):,} splits: {verdict}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "probability": self.probability,
            "slope": self.slope,
            "loss": self.loss,
            "trials": self.trials,
            "bars": self.bars,
            "parts": self.parts,
            "splits": len(self.logits),
            "sentence": self.sentence,
        }


def overfitting(returns: Floats, parts: int = 16) -> Overfitting:
    """Return the probability of backtest overfitting of a set of settings that were tried on the same bars.

    The bars are cut into equal parts in order of time (what does not fit is left out at the beginning). Each way to take
    half of the parts is a split: the setting with the highest Sharpe ratio on the chosen half is ranked by its Sharpe ratio
    on the other half. A setting that never traded has a Sharpe ratio of zero; equal ones share their rank.

    Args:
        returns: simple returns, shape (bars, settings).
        parts: an even number from 2 to 20; 16 gives 12,870 splits.

    Raises:
        ConfigError: fewer than two settings, fewer than two bars a part, or a number of parts that cannot be halved.
        BadData: a return is not finite.
    """
    matrix = np.asarray(returns, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] < 2:
        raise ConfigError(f"returns of shape {matrix.shape}: give one column for each setting, and at least two settings")
    if parts % 2 or not 2 <= parts <= 20:
        raise ConfigError(f"parts={parts}: give an even number from 2 to 20")
    size, trials = matrix.shape[0] // parts, matrix.shape[1]
    if size < 2:
        raise ConfigError(f"{matrix.shape[0]} bars in {parts} parts: give at least {2 * parts} bars, or fewer parts")
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0].tolist()
        raise BadData(f"returns: row {row}, column {column} is {matrix[row, column]}; leave out the settings that failed")
    blocks = matrix[-size * parts :].reshape(parts, size, trials)
    sums, squares = blocks.sum(axis=1), (blocks**2).sum(axis=1)
    chosen = np.array([[part in half for part in range(parts)] for half in combinations(range(parts), parts // 2)], np.float64)
    logits, pairs, lost = np.empty(len(chosen)), np.empty((len(chosen), 2)), 0
    step = max(1, _AT_ONCE // trials)
    count = size * parts // 2
    for first in range(0, len(chosen), step):
        here = chosen[first : first + step]
        inside = _sharpes(here @ sums, here @ squares, count)
        outside = _sharpes((1.0 - here) @ sums, (1.0 - here) @ squares, count)
        rows, best = np.arange(len(here)), inside.argmax(axis=1)
        got = outside[rows, best]
        below = (outside < got[:, None]).sum(axis=1)
        equal = (outside == got[:, None]).sum(axis=1)
        rank = (below + (equal + 1) / 2.0) / (trials + 1.0)
        logits[first : first + step] = np.log(rank / (1.0 - rank))
        pairs[first : first + step] = np.stack([inside[rows, best], got], axis=1)
        lost += int((got < 0).sum())
    return Overfitting(float(np.mean(logits <= 0)), logits, _slope(pairs), lost / len(chosen), trials, size * parts, parts)


def _sharpes(sums: Floats, squares: Floats, count: int) -> Floats:
    """Return mean / deviation, rounded where sums of floats in another order would differ."""
    mean = sums / count
    power = squares / count
    variance = power - mean * mean
    alive = variance > 1e-12 * power
    found: Floats = np.where(alive, mean / np.sqrt(np.where(alive, variance, 1.0)), 0.0)
    return found.round(12)


def _slope(pairs: NDArray[np.float64]) -> float | None:
    inside, outside = pairs.T
    spread = inside - inside.mean()
    power = float(spread @ spread)
    return float(spread @ (outside - outside.mean())) / power if power > 1e-12 and math.isfinite(power) else None
