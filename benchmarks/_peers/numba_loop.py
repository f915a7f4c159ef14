"""A loop by hand in machine code: the same execution as ours without limits, ticks, lots, days and records; the limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from benchmarks._peers.serve import Done, serve
from benchmarks._peers.walk import walk

jit: Any = numba.njit(cache=True)


@jit  # type: ignore[untyped-decorator]
def mean(values: Any, n: int) -> Any:
    out = np.full(len(values), np.nan)
    total = 0.0
    for i in range(len(values)):
        total += values[i]
        if i >= n:
            total -= values[i - n]
        if i >= n - 1:
            out[i] = total / n
    return out


@jit  # type: ignore[untyped-decorator]
def trade(first: Any, high: Any, low: Any, close: Any, fast: Any, slow: Any) -> Any:
    """Enter at the next open with all of the equity; stop before target, both on the entry bar too."""
    cash, held, stop, target, trades = 100_000.0, 0.0, 0.0, 0.0, 0
    entering = leaving = False
    for i in range(len(close)):
        if entering:
            held = 0.98 * cash / close[i - 1]
            cash -= held * first[i]
            stop, target = close[i - 1] * 0.99, close[i - 1] * 1.02
            entering = False
        if held > 0.0:
            price = 0.0
            if leaving:
                price = first[i]
            elif low[i] <= stop:
                price = min(first[i], stop)
            elif high[i] >= target:
                price = max(first[i], target)
            if price > 0.0:
                cash += held * price
                held = 0.0
                leaving = False
                trades += 1
        good = fast[i] > slow[i] and close[i] > fast[i]
        if held > 0.0:
            leaving = not good
        else:
            entering = good
    return trades, cash + held * close[-1]


def prepare(case: str, bars: int, pairs: Any = None) -> Callable[[], Done]:
    """Return a run from prices to round trips and final equity; of all pairs of averages where they are given."""
    assert case == "sma"
    w = walk(bars)

    def run() -> Done:
        means = {n: mean(w.close, n) for n in sorted({n for pair in pairs or [(20, 50)] for n in pair})}
        found = [trade(w.open, w.high, w.low, w.close, means[f], means[s]) for f, s in pairs or [(20, 50)]]
        return sum(trades for trades, _ in found), sum(final for _, final in found)

    return run


if __name__ == "__main__":
    serve("numba", prepare)
