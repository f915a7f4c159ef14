"""How much a price moves: ATR, realised volatility, and how far it is from its mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from agentfund.errors import BadData, ConfigError
from agentfund.indicators.base import NAN, BarLike, Field, Indicator, OfField, blank, column, whole
from agentfund.indicators.rolling import QUIET, moments, rolling_moments
from agentfund.indicators.smoothing import smooth

if TYPE_CHECKING:
    from collections.abc import Generator

    from agentfund.market import Columns, Floats
else:
    Floats = Any


def true_range(columns: Columns) -> Floats:
    """Return the bar's range, stretched to the close before it; that of the first bar is high - low."""
    top, bottom, close = column(columns, "high").copy(), column(columns, "low").copy(), column(columns, "close")
    np.maximum(top[1:], close[:-1], out=top[1:])
    np.minimum(bottom[1:], close[:-1], out=bottom[1:])
    with np.errstate(**QUIET):
        return top - bottom


class ATR(Indicator[float, Floats]):
    """Average true range (Wilder, 1978): the true range smoothed by 1 / n, in units of the price.

    The seed is the first bar's high - low, and the first value comes with bar n. It is what
    `ewm(alpha=1/n, adjust=False, min_periods=n).mean()` of pandas gives. Wilder's book seeds with the mean of the first n.

    Args:
        n: bars, at least 1.

    Raises:
        ConfigError: `n` cannot be.
    """

    __slots__ = ("n",)

    parameters: ClassVar[tuple[str, ...]] = ("n",)
    recurrences = 1
    nothing = NAN

    def __init__(self, n: int = 14) -> None:
        self.n = whole(self, "n", n)
        self.reset()

    @property
    def warm_up(self) -> int:
        """It comes with bar n."""
        return self.n

    def _steps(self) -> Generator[float, BarLike, None]:
        n, alpha = self.n, 1 / self.n
        bar = yield NAN
        close = bar.close
        y = bar.high - bar.low
        for _ in range(n - 1):
            bar = yield NAN
            top, bottom = bar.high, bar.low
            y = y + alpha * ((close if close > top else top) - (close if close < bottom else bottom) - y)
            close = bar.close
        while True:
            bar = yield y
            top = bar.high
            bottom = bar.low
            if close > top:
                top = close
            elif close < bottom:
                bottom = close
            y = y + alpha * (top - bottom - y)
            close = bar.close

    def batch(self, columns: Columns, compiled: bool | None = None) -> Floats:
        """Return the average at every bar; see `Indicator.batch`."""
        return blank(smooth(true_range(columns), 1 / self.n, self._compiled(columns, compiled)), self.n - 1)


class RealisedVol(OfField[float, Floats]):
    """Realised volatility: the standard deviation of the last `n` log returns, a year's.

    It is the sample deviation (divided by n - 1, mean taken out) times the square root of `bars_per_year`; 0.2 is 20 %.
    The first value comes with bar n + 1.

    Args:
        n: returns, at least 2.
        bars_per_year: bars in a year of this market: 252 for daily bars of stocks, 365 * 24 * 12 for 5-minute bars of crypto.
        of: the column.

    Raises:
        ConfigError: a parameter cannot be.
        BadData: a value is not above zero, so it has no logarithm.
    """

    __slots__ = ("_scale", "bars_per_year", "n")

    parameters: ClassVar[tuple[str, ...]] = ("n", "bars_per_year", "of")
    nothing = NAN

    def __init__(self, n: int, bars_per_year: float, of: Field = "close") -> None:
        self.n = whole(self, "n", n, 2)
        if not 0 < bars_per_year < math.inf:
            raise ConfigError(f"RealisedVol: bars_per_year must be above zero and finite, not {bars_per_year!r}")
        self.bars_per_year = float(bars_per_year)
        self._scale = math.sqrt(self.bars_per_year)
        super().__init__(of)

    @property
    def warm_up(self) -> int:
        """It comes with bar n + 1, when there are n returns."""
        return self.n + 1

    def _steps(self) -> Generator[float, float, None]:
        less, scale, log, sqrt = self.n - 1, self._scale, self._log, math.sqrt
        steps = moments(self.n)
        next(steps)
        previous = log((yield NAN))
        now = log((yield NAN))
        while True:
            value = yield sqrt(steps.send(now - previous)[1] / less) * scale
            previous, now = now, log(value)

    def over(self, values: Floats, compiled: bool = False) -> Floats:
        """Return the volatility at every value of an array."""
        try:  # numpy's logarithm may differ from that of `math` in the last bit
            logs = np.fromiter(map(math.log, values.tolist()), np.float64, len(values))
        except ValueError:
            logs = np.array([self._log(value) for value in values.tolist()])  # raises, and says which
        result = np.full(len(values), NAN)
        if len(values) > 1:
            result[1:] = np.sqrt(rolling_moments(np.diff(logs), self.n)[1] / (self.n - 1)) * self._scale
        return result

    def _log(self, value: float) -> float:
        try:
            return math.log(value)
        except ValueError:
            raise BadData(f"{self!r}: {self.of} is {value!r}, and a log return needs a price above zero") from None


class ZScore(OfField[float, Floats]):
    """How many standard deviations a value is above the mean of the last `n`, its own among them.

    The deviation is the population's (divided by n). Where all `n` values are equal it is 0.

    Args:
        n: bars, at least 2.
        of: the column.

    Raises:
        ConfigError: `n` or `of` cannot be.
    """

    __slots__ = ("n",)

    parameters: ClassVar[tuple[str, ...]] = ("n", "of")
    nothing = NAN

    def __init__(self, n: int, of: Field = "close") -> None:
        self.n = whole(self, "n", n, 2)
        super().__init__(of)

    @property
    def warm_up(self) -> int:
        """It comes with bar n."""
        return self.n

    def _steps(self) -> Generator[float, float, None]:
        n, sqrt = self.n, math.sqrt
        steps = moments(n)
        next(steps)
        value = yield NAN
        while True:
            mean, square = steps.send(value)
            value = yield (value - mean) / sqrt(square / n) if square else 0.0

    def over(self, values: Floats, compiled: bool = False) -> Floats:
        """Return the distance from the mean at every value of an array."""
        mean, square = rolling_moments(values, self.n)
        with np.errstate(**QUIET):
            result: Floats = (values - mean) / np.sqrt(square / self.n)
        result[square == 0.0] = 0.0
        return result
