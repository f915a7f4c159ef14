"""backtesting.py: orders fill at the next open; stops and targets live on the entry bar; whole units; nothing is shared."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import backtesting
import numpy as np
import pandas as pd

from benchmarks._peers.serve import Done, serve
from benchmarks._peers.walk import walk

warnings.filterwarnings("ignore")
backtesting.backtesting._tqdm = lambda given, **_: given

Strategy: Any = backtesting.Strategy


def mean(values: Any, n: int) -> Any:
    return pd.Series(values).rolling(n).mean()


def strength(values: Any, n: int = 14) -> Any:
    change = pd.Series(values).diff()
    rise, fall = (
        part.ewm(alpha=1 / n, adjust=False, min_periods=n).mean() for part in (change.clip(lower=0), -change.clip(upper=0))
    )
    return 100 - 100 / (1 + rise / fall)


def middle(high: Any, low: Any, n: int = 20) -> Any:
    return (pd.Series(high).rolling(n).max() + pd.Series(low).rolling(n).min()) / 2


def highest_before(high: Any, n: int = 20) -> Any:
    return pd.Series(high).rolling(n).max().shift()


class Rule(Strategy):  # type: ignore[misc]
    """Buys all that equity can pay for, with a stop 1 % below the close and a target 2 % above it."""

    def enter(self, price: float) -> Any:
        raise NotImplementedError

    def leave(self, price: float) -> Any:
        raise NotImplementedError

    def next(self) -> None:
        price = self.data.Close[-1]
        if not self.position:
            if self.enter(price):
                self.buy(size=0.98, sl=price * 0.99, tp=price * 1.02)
        elif self.leave(price):
            self.position.close()


class Sma(Rule):
    def init(self) -> None:
        self.fast, self.slow = (self.I(mean, self.data.Close, n) for n in (20, 50))

    def enter(self, price: float) -> Any:
        return self.fast[-1] > self.slow[-1] and price > self.fast[-1]

    def leave(self, price: float) -> Any:
        return not (self.fast[-1] > self.slow[-1] and price > self.fast[-1])


class Rsi(Rule):
    def init(self) -> None:
        self.rsi = self.I(strength, self.data.Close)

    def enter(self, price: float) -> Any:
        return self.rsi[-1] < 30

    def leave(self, price: float) -> Any:
        return self.rsi[-1] >= 50


class DonchianChannel(Rule):
    def init(self) -> None:
        self.middle = self.I(middle, self.data.High, self.data.Low)
        self.before = self.I(highest_before, self.data.High)

    def enter(self, price: float) -> Any:
        return price > self.before[-1]

    def leave(self, price: float) -> Any:
        return price < self.middle[-1]


class Idle(Strategy):  # type: ignore[misc]
    def init(self) -> None:
        pass

    def next(self) -> None:
        pass


KINDS = {"sma": Sma, "rsi": Rsi, "donchian": DonchianChannel, "noop": Idle}


@lru_cache(maxsize=128)
def frame(bars: int, seed: int) -> Any:
    w = walk(bars, seed)
    columns = {"Open": w.open, "High": w.high, "Low": w.low, "Close": w.close, "Volume": w.volume}
    return pd.DataFrame(columns, index=pd.DatetimeIndex(w.start.astype("M8[us]")))


def prepare(case: str, bars: int, symbols: int = 1) -> Callable[[], Done]:
    """Return a run of separate accounts, one for each instrument."""
    frames = [frame(bars, seed) for seed in range(1, symbols + 1)]

    def run() -> Done:
        trades, final = 0, 0.0
        for each in frames:
            told = backtesting.Backtest(each, KINDS[case], cash=100_000, finalize_trades=True).run()
            trades += int(told["# Trades"])
            final += float(told["Equity Final [$]"])
        return trades, final

    return run


if __name__ == "__main__":
    np.seterr(all="ignore")
    serve("backtesting", prepare)
