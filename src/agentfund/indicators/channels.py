"""Channels around a price: Donchian and Bollinger."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple

import numpy as np

from agentfund.compiled import jit
from agentfund.errors import ConfigError
from agentfund.indicators.base import NAN, BarLike, Field, Indicator, OfField, T, column, quick, whole
from agentfund.indicators.rolling import QUIET, moments, rolling_max, rolling_min, rolling_moments

if TYPE_CHECKING:
    from collections.abc import Generator

    from agentfund.market import Columns, Floats
else:
    Floats = Any


class Bands(NamedTuple, Generic[T]):
    """A channel: `upper`, `middle`, `lower`."""

    upper: T
    middle: T
    lower: T


class Donchian(Indicator[Bands[float], Bands[Floats]]):
    """Donchian channel: the highest high and the lowest low of the last `n` bars, this one among them, and their mean.

    A breakout is above the channel of the bars before: `Lag(Donchian(20))`.

    Args:
        n: bars, at least 1.

    Raises:
        ConfigError: `n` cannot be.
    """

    __slots__ = ("n",)

    parameters: ClassVar[tuple[str, ...]] = ("n",)
    nothing = Bands(NAN, NAN, NAN)

    def __init__(self, n: int = 20) -> None:
        self.n = whole(self, "n", n)
        self.reset()

    @property
    def warm_up(self) -> int:
        """It comes with bar n."""
        return self.n

    def _steps(self) -> Generator[Bands[float], BarLike, None]:
        bands, nothing, rest = quick(Bands), self.nothing, self.n - 1
        uppers: list[float] = []
        lowers: list[float] = []
        bar = yield nothing
        while True:  # once for each block of n bars; see rolling.py
            top, bottom = bar.high, bar.low
            highs, lows = [], []
            for _ in range(rest):
                high, low = bar.high, bar.low
                highs.append(high)
                lows.append(low)
                if high > top:
                    top = high
                if low < bottom:
                    bottom = low
                if uppers:
                    upper, lower = uppers.pop(), lowers.pop()
                    if top > upper:
                        upper = top
                    if bottom < lower:
                        lower = bottom
                    bar = yield bands((upper, lower + (upper - lower) / 2, lower))
                else:
                    bar = yield nothing
            high, low = bar.high, bar.low
            highs.append(high)
            lows.append(low)
            if high > top:
                top = high
            if low < bottom:
                bottom = low
            uppers, lowers = list(accumulate(highs[:0:-1], max)), list(accumulate(lows[:0:-1], min))
            bar = yield bands((top, bottom + (top - bottom) / 2, bottom))

    def batch(self, columns: Columns, compiled: bool | None = None) -> Bands[Floats]:
        """Return the channel at every bar; see `Indicator.batch`."""
        high, low = column(columns, "high"), column(columns, "low")
        upper, lower = _extremes(high, low, self.n) if compiled else (rolling_max(high, self.n), rolling_min(low, self.n))
        with np.errstate(**QUIET):
            return Bands(upper, lower + (upper - lower) / 2, lower)


def _highest_lowest(high: Any, low: Any, n: int) -> Any:
    """Return the highest of the last `n` highs and the lowest of the last `n` lows at each of them; see rolling.py."""
    size = len(high)
    upper, lower = np.empty(size), np.empty(size)
    # Extremes from inside a block to its end, for the block before and for this one.
    tops, bottoms = np.full(n, np.nan), np.full(n, np.nan)
    for begin in range(0, size, n):
        top, bottom = high[begin], low[begin]
        for k in range(min(n, size - begin)):
            top, bottom = max(top, high[begin + k]), min(bottom, low[begin + k])
            if k == n - 1:
                upper[begin + k], lower[begin + k] = top, bottom
            elif begin > 0:
                upper[begin + k], lower[begin + k] = max(top, tops[k + 1]), min(bottom, bottoms[k + 1])
            else:
                upper[begin + k], lower[begin + k] = np.nan, np.nan
        if begin + n <= size:
            top, bottom = high[begin + n - 1], low[begin + n - 1]
            for k in range(n - 1, 0, -1):
                top, bottom = max(top, high[begin + k]), min(bottom, low[begin + k])
                tops[k], bottoms[k] = top, bottom
    return upper, lower


_extremes = jit(_highest_lowest)


class Bollinger(OfField[Bands[float], Bands[Floats]]):
    """Bollinger bands (Bollinger, 2001): the mean of the last `n` values, and `k` standard deviations around it.

    The deviation is the population's (divided by n), as Bollinger has it.

    Args:
        n: bars, at least 2.
        k: standard deviations, not below zero.
        of: the column.

    Raises:
        ConfigError: a parameter cannot be.
    """

    __slots__ = ("k", "n")

    parameters: ClassVar[tuple[str, ...]] = ("n", "k", "of")
    nothing = Bands(NAN, NAN, NAN)

    def __init__(self, n: int = 20, k: float = 2.0, of: Field = "close") -> None:
        self.n = whole(self, "n", n, 2)
        if not 0 <= k < math.inf:
            raise ConfigError(f"Bollinger: k must be finite and not below zero, not {k!r}")
        self.k = float(k)
        super().__init__(of)

    @property
    def warm_up(self) -> int:
        """It comes with bar n."""
        return self.n

    def _steps(self) -> Generator[Bands[float], float, None]:
        bands, n, k, sqrt = quick(Bands), self.n, self.k, math.sqrt
        steps = moments(n)
        next(steps)
        value = yield self.nothing
        while True:
            mean, square = steps.send(value)
            width = k * sqrt(square / n)
            value = yield bands((mean + width, mean, mean - width))

    def over(self, values: Floats, compiled: bool = False) -> Bands[Floats]:
        """Return the bands at every value of an array."""
        mean, square = rolling_moments(values, self.n)
        with np.errstate(**QUIET):
            width = self.k * np.sqrt(square / self.n)
            return Bands(mean + width, mean, mean - width)
