"""How strongly a price moves one way: RSI and ADX, both by Wilder."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple

import numpy as np

from agentfund.compiled import jit
from agentfund.indicators.base import NAN, BarLike, Field, Indicator, OfField, T, blank, column, quick, whole
from agentfund.indicators.rolling import QUIET
from agentfund.indicators.smoothing import run, smooth
from agentfund.indicators.volatility import true_range

if TYPE_CHECKING:
    from collections.abc import Generator

    from agentfund.market import Columns, Floats
else:
    Floats = Any


class RSI(OfField[float, Floats]):
    """Relative strength index (Wilder, 1978): 100 * gains / (gains + losses), both smoothed by 1 / n.

    The seed is the first difference, at the second bar; the first value comes with n differences, at bar n + 1. It is
    what `ewm(alpha=1/n, adjust=False, min_periods=n).mean()` of pandas gives for the clipped differences. Wilder's book
    and TA-Lib seed with the mean of the first n differences. Where nothing ever moved it is 50.

    Args:
        n: bars, at least 1.
        of: the column.

    Raises:
        ConfigError: `n` or `of` cannot be.
    """

    __slots__ = ("n",)

    parameters: ClassVar[tuple[str, ...]] = ("n", "of")
    recurrences = 2
    nothing = NAN

    def __init__(self, n: int = 14, of: Field = "close") -> None:
        self.n = whole(self, "n", n)
        super().__init__(of)

    @property
    def warm_up(self) -> int:
        """It comes with bar n + 1, when there are n differences."""
        return self.n + 1

    def _steps(self) -> Generator[float, float, None]:
        n, alpha = self.n, 1 / self.n
        previous = yield NAN
        value = yield NAN
        change = value - previous
        gain, loss = (change, 0.0) if change > 0.0 else (0.0, -change)
        for bar in count(1):
            if change > 0.0:
                gain = gain + alpha * (change - gain)
                loss = loss + alpha * (0.0 - loss)
            else:
                gain = gain + alpha * (0.0 - gain)
                loss = loss + alpha * (-change - loss)
            previous = value
            if bar < n:
                value = yield NAN
            else:
                both = gain + loss
                value = yield 100.0 * (gain / both) if both else 50.0
            change = value - previous

    def over(self, values: Floats, compiled: bool = False) -> Floats:
        """Return the index at every value of an array."""
        if not compiled:
            return run(self._steps(), values)
        result = np.full(len(values), NAN)
        if len(values) > 1:
            _rsi(values, self.n, result)
        return result


@jit
def _rsi(values: Floats, n: int, result: Floats) -> None:
    alpha = 1 / n
    change = values[1] - values[0]
    gain, loss = (change, 0.0) if change > 0.0 else (0.0, -change)
    for i in range(1, len(values)):
        change = values[i] - values[i - 1]
        up = change if change > 0.0 else 0.0
        down = 0.0 if change > 0.0 else -change
        gain = gain + alpha * (up - gain)
        loss = loss + alpha * (down - loss)
        both = gain + loss
        if i >= n:
            result[i] = 100.0 * (gain / both) if both != 0.0 else 50.0


class Directional(NamedTuple, Generic[T]):
    """What ADX gives: the index `adx` and the directional indicators `plus` and `minus`, all 0 to 100."""

    adx: T
    plus: T
    minus: T


class ADX(Indicator[Directional[float], Directional[Floats]]):
    """Average directional index (Wilder, 1978): how directed a market moves, and which way.

    Directional movement and true range begin with the second bar and are smoothed by 1 / n, seeded with their first
    value. `plus` and `minus` come with bar n + 1; `adx` smooths the directional index from there on, seeded with its
    first value, and comes with bar 2 n. Where nothing moves they are 0.

    Args:
        n: bars, at least 1.

    Raises:
        ConfigError: `n` cannot be.
    """

    __slots__ = ("n",)

    parameters: ClassVar[tuple[str, ...]] = ("n",)
    recurrences = 4
    nothing = Directional(NAN, NAN, NAN)

    def __init__(self, n: int = 14) -> None:
        self.n = whole(self, "n", n)
        self.reset()

    @property
    def warm_up(self) -> int:
        """All three come with bar 2 n."""
        return 2 * self.n

    def _steps(self) -> Generator[Directional[float], BarLike, None]:
        n, alpha, directional = self.n, 1 / self.n, quick(Directional)
        bar = yield self.nothing
        high, low, close = bar.high, bar.low, bar.close
        bar = yield self.nothing
        plus = minus = reach = adx = NAN
        for seen in count(1):
            up, down = bar.high - high, low - bar.low
            high, low = bar.high, bar.low
            moved_up = up if up > down and up > 0.0 else 0.0
            moved_down = down if down > up and down > 0.0 else 0.0
            span = (close if close > high else high) - (close if close < low else low)
            close = bar.close
            if seen == 1:
                plus, minus, reach = moved_up, moved_down, span
            else:
                plus = plus + alpha * (moved_up - plus)
                minus = minus + alpha * (moved_down - minus)
                reach = reach + alpha * (span - reach)
            if seen < n:
                bar = yield self.nothing
                continue
            di_plus, di_minus = (100.0 * (plus / reach), 100.0 * (minus / reach)) if reach else (0.0, 0.0)
            both = di_plus + di_minus
            index = 100.0 * (abs(di_plus - di_minus) / both) if both else 0.0
            adx = index if seen == n else adx + alpha * (index - adx)
            bar = yield directional((NAN if seen < 2 * n - 1 else adx, di_plus, di_minus))

    def batch(self, columns: Columns, compiled: bool | None = None) -> Directional[Floats]:
        """Return the three at every bar; see `Indicator.batch`."""
        fast = self._compiled(columns, compiled)
        n, alpha = self.n, 1 / self.n
        adx, plus, minus = np.full((3, len(columns)), NAN)
        if len(columns) > n:
            with np.errstate(**QUIET):
                up, down = np.diff(column(columns, "high")), 0.0 - np.diff(column(columns, "low"))
                reach = smooth(true_range(columns)[1:], alpha, fast)[n - 1 :]
                for way, other, result in ((up, down, plus), (down, up, minus)):
                    moved = np.where((way > other) & (way > 0.0), way, 0.0)
                    result[n:] = 100.0 * (smooth(moved, alpha, fast)[n - 1 :] / reach)
                    result[n:][reach == 0.0] = 0.0
                both = plus[n:] + minus[n:]
                index = 100.0 * (np.abs(plus[n:] - minus[n:]) / both)
                index[both == 0.0] = 0.0
                adx[n:] = smooth(index, alpha, fast)
        return Directional(blank(adx, 2 * n - 1), plus, minus)
