"""vectorbt: orders fill at the close that decided, one order a bar; stops and targets are taken from the fill."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import vectorbt as vbt

from benchmarks._peers.serve import Done, serve
from benchmarks._peers.walk import walk

warnings.filterwarnings("ignore")
BRACKET = {"sl_stop": 0.01, "tp_stop": 0.02, "init_cash": 100_000.0, "freq": "5min"}


@lru_cache(maxsize=8)
def frame(bars: int, seed: int) -> Any:
    w = walk(bars, seed)
    columns = {"open": w.open, "high": w.high, "low": w.low, "close": w.close}
    return pd.DataFrame(columns, index=pd.DatetimeIndex(w.start.astype("M8[us]")))


def sma(bars: Any) -> tuple[Any, Any]:
    close = bars["close"]
    fast, slow = (vbt.MA.run(close, window=n).ma for n in (20, 50))
    good = (fast > slow) & (close > fast)
    return good, ~good


def rsi(bars: Any) -> tuple[Any, Any]:
    strength = vbt.RSI.run(bars["close"], window=14).rsi  # of simple means, not Wilder's
    return strength < 30, strength >= 50


def donchian(bars: Any) -> tuple[Any, Any]:
    high, low, close = bars["high"].vbt.rolling_max(20), bars["low"].vbt.rolling_min(20), bars["close"]
    return close > high.shift(), close < (high + low) / 2


def noop(bars: Any) -> tuple[Any, Any]:
    never = pd.Series(False, index=bars.index)
    return never, never


KINDS = {"sma": sma, "rsi": rsi, "donchian": donchian, "noop": noop}


def prepare(case: str, bars: int, engine: str = "numba", pairs: Any = None) -> Callable[[], Done]:
    """Return a run from prices to round trips and final value; of all pairs of averages where they are given."""
    vbt.settings["engine"] = engine
    given = frame(bars, 1)

    def run() -> Done:
        entries, exits = KINDS[case](given)
        made = vbt.Portfolio.from_signals(
            given["close"], entries, exits, open=given["open"], high=given["high"], low=given["low"], engine=engine, **BRACKET
        )
        return int(made.trades.count()), float(made.final_value())

    def sweep() -> Done:
        close = given["close"]
        windows = sorted({n for pair in pairs for n in pair})
        means = {n: vbt.MA.run(close, window=n).ma.to_numpy() for n in windows}
        price = close.to_numpy()
        good = np.column_stack([(means[f] > means[s]) & (price > means[f]) for f, s in pairs])
        made = vbt.Portfolio.from_signals(
            close, good, ~good, open=given["open"], high=given["high"], low=given["low"], engine=engine, **BRACKET
        )
        made.sharpe_ratio()
        made.max_drawdown()
        return int(made.trades.count().sum()), float(made.final_value().sum())

    return run if pairs is None else sweep


if __name__ == "__main__":
    serve("vectorbt", prepare)
