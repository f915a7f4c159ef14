"""Averages of a price: SMA, EMA, and MACD, which is made of three EMA."""

from __future__ import annotations

from itertools import accumulate, count
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple

import numpy as np

from agentfund.compiled import jit
from agentfund.errors import ConfigError
from agentfund.indicators.base import NAN, Field, OfField, T, blank, quick, whole
from agentfund.indicators.rolling import QUIET, rolling_sum
from agentfund.indicators.smoothing import smooth

if TYPE_CHECKING:
    from collections.abc import Generator

    from agentfund.market import Floats
else:
    Floats = Any


class SMA(OfField[float, Floats]):
    """Simple moving average: the mean of the last `n` values.

    Where all `n` values are equal it is exactly that value, so that a market that stands still crosses no average.

    Args:
        n: bars, at least 1.
        of: the column.

    Raises:
        ConfigError: `n` or `of` cannot be.
    """

    __slots__ = ("n",)

    parameters: ClassVar[tuple[str, ...]] = ("n", "of")
    nothing = NAN

    def __init__(self, n: int, of: Field = "close") -> None:
        self.n = whole(self, "n", n)
        super().__init__(of)

    @property
    def warm_up(self) -> int:
        """It comes with bar n."""
        return self.n

    def _steps(self) -> Generator[float, float, None]:
        n = self.n
        tails: list[float] = []
        last, same = NAN, 0
        value = yield NAN
        while True:  # once for each block of n values
            block = []
            total = 0.0
            for _ in range(n - 1):
                block.append(value)
                total += value
                if value == last:
                    same += 1
                else:
                    last, same = value, 1
                if not tails:
                    value = yield NAN
                elif same < n:
                    value = yield (tails.pop() + total) / n
                else:
                    tails.pop()
                    value = yield value
            block.append(value)
            total += value
            if value == last:
                same += 1
            else:
                last, same = value, 1
            tails = list(accumulate(block[:0:-1]))
            value = yield value if same >= n else total / n

    def over(self, values: Floats, compiled: bool = False) -> Floats:
        """Return the mean at every value of an array."""
        if compiled:
            return _means(values, self.n)  # type: ignore[no-any-return]
        with np.errstate(**QUIET):
            result = rolling_sum(values, self.n)
            result /= self.n
        same = values[1:] == values[:-1]
        if same.tobytes().find(bytes([1]) * (self.n - 1)) >= 0:
            at = np.arange(len(values))
            changed = at.copy()
            changed[1:][same] = 0
            flat = at - np.maximum.accumulate(changed) >= self.n - 1
            result[flat] = values[flat]
        return result


def _mean(values: Any, n: int) -> Any:
    """Return the mean of the last `n` values at each of them, with the same sums as `rolling_sum`."""
    size = len(values)
    result = np.empty(size)
    # Sums from inside a block to its end, for the block before and for this one, which is summed from both sides at once.
    before, after = np.full(n, np.nan), np.empty(n)
    for begin in range(0, size, n):
        head = tail = 0.0
        if begin + n <= size:
            for k in range(n - 1):
                head += values[begin + k]
                tail += values[begin + n - 1 - k]
                result[begin + k] = (before[k] + head) / n
                after[n - 2 - k] = tail
            result[begin + n - 1] = (head + values[begin + n - 1]) / n
            before, after = after, before
        else:
            for k in range(size - begin):
                head += values[begin + k]
                result[begin + k] = (before[k] + head) / n
    # A run of n equal values holds two neighbours of every n - 1.
    at, step = 0, max(n - 1, 1)
    while at < size - 1:
        if values[at] == values[at + 1]:
            first = at
            while first > 0 and values[first - 1] == values[at]:
                first -= 1
            while at < size - 1 and values[at + 1] == values[at]:
                at += 1
            for i in range(first + n - 1, at + 1):
                result[i] = values[i]
        at += step
    return result


_means = jit(_mean)


class EMA(OfField[float, Floats]):
    """Exponential moving average: moves by 2 / (n + 1) of the distance to each new value.

    The seed is the first value. The first n - 1 values are NaN, because the seed still weighs much in them. It is
    `ewm(span=n, adjust=False, min_periods=n).mean()` of pandas. TA-Lib seeds with the mean of the first n.

    Args:
        n: bars, at least 1.
        of: the column.

    Raises:
        ConfigError: `n` or `of` cannot be.
    """

    __slots__ = ("_alpha", "n")

    parameters: ClassVar[tuple[str, ...]] = ("n", "of")
    recurrences = 1
    nothing = NAN

    def __init__(self, n: int, of: Field = "close") -> None:
        self.n = whole(self, "n", n)
        self._alpha = 2 / (self.n + 1)
        super().__init__(of)

    @property
    def warm_up(self) -> int:
        """It comes with bar n."""
        return self.n

    def _steps(self) -> Generator[float, float, None]:
        alpha = self._alpha
        value = y = yield NAN
        for _ in range(self.n - 1):
            y = y + alpha * (value - y)
            value = yield NAN
        while True:
            y = y + alpha * (value - y)
            value = yield y

    def over(self, values: Floats, compiled: bool = False) -> Floats:
        """Return the average at every value of an array."""
        return blank(smooth(values, self._alpha, compiled), self.n - 1)


class Macd(NamedTuple, Generic[T]):
    """What MACD gives: `line`, its average `signal`, and their distance `histogram`."""

    line: T
    signal: T
    histogram: T


class MACD(OfField[Macd[float], Macd[Floats]]):
    """Moving average convergence divergence (Appel, 1979): EMA(fast) - EMA(slow), and its own EMA(signal).

    All three averages begin with the first bar. `line` is NaN before bar `slow`, `signal` and `histogram` before bar
    slow + signal - 1.

    Args:
        fast: bars of the fast average.
        slow: bars of the slow average, more than `fast`.
        signal: bars of the average of the line.
        of: the column.

    Raises:
        ConfigError: a parameter cannot be.
    """

    __slots__ = ("fast", "signal", "slow")

    parameters: ClassVar[tuple[str, ...]] = ("fast", "slow", "signal", "of")
    recurrences = 3
    nothing = Macd(NAN, NAN, NAN)

    def __init__(self, fast: int = 12, slow: int = 26, signal: int = 9, of: Field = "close") -> None:
        self.fast = whole(self, "fast", fast)
        self.slow = whole(self, "slow", slow)
        self.signal = whole(self, "signal", signal)
        if self.fast >= self.slow:
            raise ConfigError(f"MACD: fast ({fast}) must be less than slow ({slow}); swap them")
        super().__init__(of)

    @property
    def warm_up(self) -> int:
        """All three come with bar slow + signal - 1."""
        return self.slow + self.signal - 1

    def _steps(self) -> Generator[Macd[float], float, None]:
        macd, nothing = quick(Macd), self.nothing
        a, b, c = 2 / (self.fast + 1), 2 / (self.slow + 1), 2 / (self.signal + 1)
        value = fast = slow = yield nothing
        signal = 0.0
        for bar in count(1):
            fast = fast + a * (value - fast)
            slow = slow + b * (value - slow)
            line = fast - slow
            signal = signal + c * (line - signal)
            if bar >= self.warm_up:
                break
            value = yield macd((line, NAN, NAN)) if bar >= self.slow else nothing
        while True:
            value = yield macd((line, signal, line - signal))
            fast = fast + a * (value - fast)
            slow = slow + b * (value - slow)
            line = fast - slow
            signal = signal + c * (line - signal)

    def over(self, values: Floats, compiled: bool = False) -> Macd[Floats]:
        """Return the three at every value of an array."""
        with np.errstate(**QUIET):
            line = smooth(values, 2 / (self.fast + 1), compiled) - smooth(values, 2 / (self.slow + 1), compiled)
            signal = smooth(line, 2 / (self.signal + 1), compiled)
            histogram = line - signal
        most = self.warm_up - 1
        return Macd(blank(line, self.slow - 1), blank(signal, most), blank(histogram, most))
