"""The loop that many write first: a frame that grows by a row with `pd.concat`, and all indicators again at each bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from benchmarks._peers.serve import Done, serve
from benchmarks._peers.walk import walk


def prepare(case: str, bars: int, start: int = 0) -> Callable[[], Done]:
    """Return a run over some bars behind those that are known at its start; it trades as `numba_loop` does."""
    assert case == "sma"
    w = walk(start + bars)
    index = pd.DatetimeIndex(w.start.astype("M8[us]"))
    every = pd.DataFrame({"open": w.open, "high": w.high, "low": w.low, "close": w.close, "volume": w.volume}, index=index)
    rows = [*zip(index, every.to_dict("records"), strict=True)][start:]

    def run() -> Done:
        cash, held, stop, target, trades = 100_000.0, 0.0, 0.0, 0.0, 0
        entering = leaving = False
        price = 0.0
        seen: Any = every.iloc[:start].copy()
        for when, row in rows:
            seen = pd.concat([seen, pd.DataFrame([row], index=[when])])
            seen["fast"], seen["slow"] = (seen["close"].rolling(n).mean() for n in (20, 50))
            bar = seen.iloc[-1]
            if entering:
                held, entering = 0.98 * cash / price, False
                cash -= held * bar["open"]
                stop, target = price * 0.99, price * 1.02
            if held:
                paid = 0.0
                if leaving:
                    paid = bar["open"]
                elif bar["low"] <= stop:
                    paid = min(bar["open"], stop)
                elif bar["high"] >= target:
                    paid = max(bar["open"], target)
                if paid:
                    cash, held, leaving, trades = cash + held * paid, 0.0, False, trades + 1
            price = bar["close"]
            good = bar["fast"] > bar["slow"] and price > bar["fast"]
            if held:
                leaving = not good
            else:
                entering = good
        return trades, float(cash + held * price)

    return run


if __name__ == "__main__":
    serve("pandas", prepare)
