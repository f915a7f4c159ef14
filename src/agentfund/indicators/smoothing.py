"""The exponential smoothing behind EMA, RSI, ATR, ADX and MACD: y + alpha * (x - y), begun with the first value."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from agentfund.compiled import jit
from agentfund.indicators.base import NAN

if TYPE_CHECKING:
    from collections.abc import Generator

    from agentfund.market import Floats

_CHUNK = 65_536


def smooth(values: Floats, alpha: float, compiled: bool = False) -> Floats:
    """Return the smoothed values: the first is the first value, each next moves by `alpha` of the distance.

    This is `Series.ewm(alpha=alpha, adjust=False).mean()` of pandas.

    Args:
        values: float64, finite.
        alpha: above 0, at most 1. Wilder's smoothing over n values has 1 / n, an EMA over n values 2 / (n + 1).
        compiled: run the loop in machine code; the bits are the same.
    """
    if compiled and len(values):
        result = np.empty(len(values))
        _smooth(values, alpha, result)
        return result
    return run(smoothing(alpha), values)


def smoothing(alpha: float) -> Generator[float, float, None]:
    """Give the smoothed value at each value that is sent."""
    value = y = yield NAN
    while True:
        y = y + alpha * (value - y)
        value = yield y


def run(steps: Generator[float, float, None], values: Floats) -> Floats:
    """Send all values of an array through a generator that has given nothing yet."""
    next(steps)
    # Python floats are made a chunk at a time, so that memory does not grow with the history.
    floats = chain.from_iterable(values[at : at + _CHUNK].tolist() for at in range(0, len(values), _CHUNK))
    return np.fromiter(map(steps.send, floats), np.float64, len(values))


@jit
def _smooth(values: Floats, alpha: float, result: Floats) -> None:
    y = values[0]
    result[0] = y
    for i in range(1, len(values)):
        y = y + alpha * (values[i] - y)
        result[i] = y
