"""What a Sharpe ratio is worth once it is known how many were tried: probabilistic and deflated Sharpe ratios.

Everything here counts in bars: Sharpe ratios are those of one bar (mean / population standard deviation, riskless rate
zero), not annualised. Sources: D. H. Bailey and M. Lopez de Prado, The Sharpe Ratio Efficient Frontier, Journal of
Risk 15 (2), 2012, for the probabilistic Sharpe ratio and the length of a track record; the same, The Deflated Sharpe
Ratio: Correcting for Selection Bias, Backtest Overfitting and Non-Normality, Journal of Portfolio Management 40 (5),
2014, for the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agentfund.backtest.metrics import Metric, sharpe, tails
from agentfund.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentfund.market import Floats

CONFIDENCE = 0.95
"""A deflated Sharpe ratio below this is not told from luck."""
FEW = 10
"""With fewer trials than this their variance is not trusted to be as small as it looks."""
_NORMAL = NormalDist()
_EULER = 0.5772156649015329


class Moments(NamedTuple):
    """What of a series of bar returns the ratios need: how many, Sharpe of one bar, skewness, kurtosis (normal: 3)."""

    bars: int
    sharpe: float | None
    skewness: float
    kurtosis: float


def moments(bar_returns: Floats) -> Moments:
    """Return the moments of a series; the Sharpe ratio is None where every bar had the same return."""
    skew, kurt = tails(bar_returns)
    own = sharpe(bar_returns, 1.0).value
    return Moments(len(bar_returns), own, skew.value or 0.0, 3.0 if kurt.value is None else kurt.value)


def _spread(known: Moments) -> float:
    """The standard deviation of the Sharpe ratio's estimate, times the square root of the number of bars."""
    own = known.sharpe or 0.0
    return math.sqrt(max(1.0 - known.skewness * own + (known.kurtosis - 1.0) / 4.0 * own * own, 1e-12))


def probabilistic_sharpe(known: Moments, benchmark: float = 0.0) -> Metric:
    """Return how likely it is that the true Sharpe ratio lies above a benchmark, from 0 to 1.

    PSR = Z[(SR - SR*) sqrt(T - 1) / sqrt(1 - skew SR + (kurtosis - 1) / 4 SR^2)], Z the normal distribution.

    Args:
        known: the moments of the returns.
        benchmark: SR*, of one bar.
    """
    if known.sharpe is None or known.bars < 3:
        return Metric(None, "every bar had the same return" if known.bars >= 3 else "it takes three bar returns")
    return Metric(_NORMAL.cdf((known.sharpe - benchmark) * math.sqrt(known.bars - 1) / _spread(known)))


def min_track_record(known: Moments, benchmark: float = 0.0, confidence: float = CONFIDENCE) -> Metric:
    """Return how many bars it takes until the probabilistic Sharpe ratio reaches a confidence.

    MinTRL = 1 + (1 - skew SR + (kurtosis - 1) / 4 SR^2) (Z^-1(confidence) / (SR - SR*))^2.
    """
    if not 0.5 < confidence < 1.0:
        raise ConfigError(f"confidence={confidence}: it must lie above 0.5 and below 1, such as 0.95")
    if known.sharpe is None or known.sharpe <= benchmark:
        return Metric(None, "the Sharpe ratio is not above the benchmark, so no length is enough")
    return Metric(1.0 + (_spread(known) * _NORMAL.inv_cdf(confidence) / (known.sharpe - benchmark)) ** 2)


def expected_max_sharpe(trials: int, variance: float) -> float:
    """Return the Sharpe ratio that luck alone is expected to give the best of so many independent trials without any edge.

    E[max] = sqrt(V) ((1 - g) Z^-1(1 - 1/N) + g Z^-1(1 - 1/(N e))), g the Euler-Mascheroni constant; 0 for one trial.

    Args:
        trials: N, at least 1.
        variance: V, the variance of the trials' Sharpe ratios, in the unit of the result (of one bar, or of a year).

    Raises:
        ConfigError: a number that cannot be meant.
    """
    if trials < 1 or not variance >= 0:
        raise ConfigError(f"trials={trials}, variance={variance}: give at least one trial, and a variance of 0 or more")
    if trials == 1:
        return 0.0
    first, second = _NORMAL.inv_cdf(1.0 - 1.0 / trials), _NORMAL.inv_cdf(1.0 - 1.0 / (trials * math.e))
    return math.sqrt(variance) * ((1.0 - _EULER) * first + _EULER * second)


def deflated_sharpe(known: Moments, trials: int, variance: float) -> Metric:
    """Return how likely it is that the true Sharpe ratio lies above what luck gives the best of so many trials.

    It is the probabilistic Sharpe ratio against `expected_max_sharpe(trials, variance)`. One trial: against zero.
    """
    return probabilistic_sharpe(known, expected_max_sharpe(trials, variance))


def variance_of(sharpes: Sequence[float] | Floats, bars: int) -> float:
    """Return the variance of the trials' Sharpe ratios (sample variance).

    With fewer than ten trials it is at least 1 / (bars - 1), the variance that luck gives independent trials without any
    edge: a handful that happen to lie close together would otherwise deflate nothing.
    """
    values = np.asarray(sharpes, dtype=np.float64)
    if len(values) < 2:
        return 0.0
    found = float(values.var(ddof=1))
    return max(found, 1.0 / max(bars - 1, 1)) if len(values) < FEW else found


@dataclass(frozen=True, slots=True)
class Luck:
    """What is left of a result once the number of trials behind it is known.

    Args:
        known: moments of the result's bar returns.
        trials: how many different runs are known to have been tried on this data, this one among them.
        counted: whether a ledger counted them; without one the result stands as the only trial that is known.
        expected_max: the Sharpe ratio of one bar that luck alone gives the best of them.
        bars_per_year: what annualises a Sharpe ratio; None where no time passed.
    """

    known: Moments
    trials: int
    counted: bool
    expected_max: float
    bars_per_year: float | None

    @classmethod
    def of(cls, bar_returns: Floats, bars_per_year: float | None, others: Sequence[float] | Floats | None = None) -> Luck:
        """Judge a series of bar returns.

        Args:
            bar_returns: simple returns of the bars.
            bars_per_year: how many bars the calendar has in a year.
            others: Sharpe ratios, in the result's bars, of the other trials; None where nobody counted.
        """
        known = moments(bar_returns)
        sharpes = [known.sharpe or 0.0, *(() if others is None else others)]
        best = expected_max_sharpe(len(sharpes), variance_of(sharpes, known.bars))
        return cls(known, len(sharpes), others is not None, best, bars_per_year)

    @property
    def probabilistic(self) -> Metric:
        """Probability that the true Sharpe ratio is above zero, as if nothing else had been tried."""
        return probabilistic_sharpe(self.known)

    @property
    def deflated(self) -> Metric:
        """Probability that the true Sharpe ratio is above what luck gives the best of the trials."""
        return probabilistic_sharpe(self.known, self.expected_max)

    @property
    def min_bars(self) -> Metric:
        """How many bars such a result would take to be told from the luck of that many trials, at 95 percent."""
        return min_track_record(self.known, self.expected_max)

    @property
    def stands(self) -> bool:
        """Whether the result is told from luck: a deflated Sharpe ratio of at least 0.95."""
        return (self.deflated.value or 0.0) >= CONFIDENCE

    def __str__(self) -> str:
        return self.sentence

    @property
    def sentence(self) -> str:
        """What it comes to, in one sentence."""
        tried = f"{self.trials:,} trial{'s'[: self.trials != 1]}"
        behind = f"{tried} known" if self.counted else f"{tried} known (no ledger was given)"
        deflated = self.deflated
        if deflated.value is None:
            return f"{behind}; no deflated Sharpe ratio: {deflated.reason}"
        verdict = "told from luck" if self.stands else "not told from luck"
        told = f"deflated Sharpe ratio {deflated.value:.2f}: {verdict} (0.95 is needed)"
        if self.trials == 1:
            return f"{behind}; {told}"
        scale = math.sqrt(self.bars_per_year or 1.0)
        unit = "a year" if self.bars_per_year else "a bar"
        return (
            f"{behind}; luck alone gives the best of them a Sharpe ratio of {self.expected_max * scale:.2f} {unit},"
            f" this one has {(self.known.sharpe or 0.0) * scale:.2f}; {told}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values; Sharpe ratios are of one bar."""
        return {
            "trials": self.trials,
            "counted": self.counted,
            "bars": self.known.bars,
            "sharpe_per_bar": self.known.sharpe,
            "expected_max_sharpe_per_bar": self.expected_max,
            "probabilistic_sharpe": self.probabilistic.value,
            "deflated_sharpe": self.deflated.value,
            "min_bars": self.min_bars.value,
            "stands": self.stands,
            "sentence": self.sentence,
        }
