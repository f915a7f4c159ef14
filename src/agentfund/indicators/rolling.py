"""Sums, extremes and moments of the last n values, without drift and the same bits for arrays and one by one.

Values are cut into blocks of n. A window is the end of one block and the beginning of the next, so its sum is that of a
suffix and a prefix, and nothing is ever subtracted: an error made once does not stay, and neither does a huge value. For
extremes this is the algorithm of van Herk (1992) and Gil and Werman (1993). Mean and squared deviations of both parts
come from Welford's recurrence (1962) and are joined by the formula of Chan, Golub and LeVeque (1979).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.indicators.base import NAN

if TYPE_CHECKING:
    from collections.abc import Generator

    from agentfund.market import Floats

# So few blocks are better joined by one call than step by step.
_FEW = 100
_PART = 1 << 14

QUIET: dict[str, Any] = {"over": "ignore", "invalid": "ignore", "under": "ignore", "divide": "ignore"}
"""Prices near the end of the float range give infinity, as they do in plain Python, without a warning."""


def rolling_sum(values: Floats, n: int) -> Floats:
    """Return the sum of the last `n` values at each of them, NaN at the first n - 1."""
    return _joined(values, n, np.add)


def rolling_max(values: Floats, n: int) -> Floats:
    """Return the highest of the last `n` values at each of them, NaN at the first n - 1."""
    return _joined(values, n, np.maximum)


def rolling_min(values: Floats, n: int) -> Floats:
    """Return the lowest of the last `n` values at each of them, NaN at the first n - 1."""
    return _joined(values, n, np.minimum)


def _joined(values: Floats, n: int, join: np.ufunc) -> Floats:
    if n == 1:
        return values.copy()
    result = np.empty(len(values))
    # Some blocks at a time, with the block before them: they fit into the cache, and nothing large is made.
    step = max(_FEW, _PART // n) * n
    with np.errstate(**QUIET):
        for begin in range(0, len(values), step):
            seen = max(begin - n, 0)
            rows = _rows(values[seen : begin + step], n)
            joined = _accumulated(rows, join)
            if rows.shape[1] > 1:
                # Bar k of a block looks back on the n - 1 - k newest bars of the block before; the last one on none.
                back = _accumulated(rows[:0:-1, :-1], join)
                join(back[::-1], joined[:-1, 1:], out=joined[:-1, 1:])
            part = result[begin : begin + step]
            part[:] = joined.T.ravel()[begin - seen :][: len(part)]
    result[: n - 1] = NAN
    return result


def _accumulated(rows: Floats, join: np.ufunc) -> Floats:
    result = np.empty_like(rows)
    if rows.shape[1] < _FEW:
        return join.accumulate(rows, axis=0, out=result)
    result[:1] = rows[:1]
    for k in range(1, len(rows)):
        join(result[k - 1], rows[k], out=result[k])
    return result


def _rows(values: Floats, n: int) -> Floats:
    """Lay bar k of every block in row k, side by side where there are many; the last block is filled up with zeros."""
    count = -(-len(values) // n)
    if count * n > len(values):
        values = np.concatenate([values, np.zeros(count * n - len(values))])
    rows = values.reshape(count, n).T
    return rows if count < _FEW else np.ascontiguousarray(rows)


def _line(rows: Floats, size: int) -> Floats:
    n = len(rows)
    result = np.ascontiguousarray(rows.T).reshape(-1)[:size]
    result[: n - 1] = NAN
    return result


def rolling_moments(values: Floats, n: int) -> tuple[Floats, Floats]:
    """Return mean and sum of squared deviations of the last `n` values at each of them, NaN at the first n - 1."""
    rows = _rows(values, n)
    with np.errstate(**QUIET):
        means, squares = _welford(rows)
        if rows.shape[1] > 1:
            back_means, back_squares = _welford(rows[:0:-1, :-1])
            back = np.arange(n - 1, 0, -1)[:, None]
            here = np.arange(1, n)[:, None]
            delta = means[:-1, 1:] - back_means[::-1]
            squares[:-1, 1:] = back_squares[::-1] + squares[:-1, 1:] + delta * delta * (back * here / n)
            means[:-1, 1:] = back_means[::-1] + delta * (here / n)
    return _line(means, len(values)), _line(squares, len(values))


def _welford(rows: Floats) -> tuple[Floats, Floats]:
    means, squares = np.empty_like(rows, order="C"), np.empty_like(rows, order="C")
    mean, square = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for k, row in enumerate(rows):
        delta = row - mean
        mean = mean + delta / (k + 1)
        square = square + delta * (row - mean)
        means[k], squares[k] = mean, square
    return means, squares


def moments(n: int) -> Generator[tuple[float, float], float, None]:
    """Give mean and sum of squared deviations of the last `n` values that were sent, NaN for the first n - 1."""
    tails: list[tuple[float, float]] = []
    value = yield NAN, NAN
    while True:  # once for each block
        block = []
        mean = square = 0.0
        for here in range(1, n):
            block.append(value)
            delta = value - mean
            mean = mean + delta / here
            square = square + delta * (value - mean)
            if tails:
                back_mean, back_square = tails.pop()
                delta = mean - back_mean
                both = back_square + square + delta * delta * ((n - here) * here / n)
                value = yield back_mean + delta * (here / n), both
            else:
                value = yield NAN, NAN
        block.append(value)
        delta = value - mean
        mean = mean + delta / n
        square = square + delta * (value - mean)
        tails = _backwards(block)
        value = yield mean, square


def _backwards(block: list[float]) -> list[tuple[float, float]]:
    tails = []
    mean = square = 0.0
    for count, value in enumerate(block[:0:-1], 1):
        delta = value - mean
        mean = mean + delta / count
        square = square + delta * (value - mean)
        tails.append((mean, square))
    return tails
