"""A backtest as one would write it on a blank page: slow, in plain numbers, sharing no code with the package.

Conventions: decided at the close, filled at the next open, sized at the fill with the commission included, fractional, one
long position, stop and target from the close that decided, stop before target, a gap through either fills at the open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from agentfund.backtest.result import Truths
    from agentfund.market import Columns


def sma(columns: Columns) -> tuple[Truths, Truths]:
    """Return where the cross of two averages is entered, and left."""
    close = pd.Series(columns.close)
    fast, slow = close.rolling(20).mean(), close.rolling(50).mean()
    good = ((fast > slow) & (close > fast)).to_numpy()
    return good, ~good


def rsi(columns: Columns) -> tuple[Truths, Truths]:
    """Return where the fall is entered, and left."""
    change = pd.Series(columns.close).diff()
    gain, loss = (each.clip(lower=0).ewm(alpha=1 / 14, adjust=False, min_periods=14).mean() for each in (change, -change))
    strength = (100 - 100 / (1 + gain / loss)).to_numpy()
    return strength < 30, strength >= 50


def don(columns: Columns) -> tuple[Truths, Truths]:
    """Return where the break of the channel is entered, and left."""
    close, high, low = (pd.Series(getattr(columns, name)) for name in ("close", "high", "low"))
    upper, lower = high.rolling(20).max(), low.rolling(20).min()
    return (close > upper.shift(1)).to_numpy(), (close < (upper + lower) / 2).to_numpy()


def run(columns: Columns, enter: Truths, leave: Truths, rate: float, cash: float = 100_000.0) -> tuple[int, list[float]]:
    """Return the number of trades and the equity at every close."""
    units = stop = target = 0.0
    wish = ""
    curve: list[float] = []
    trades = 0
    decided = 0.0
    equity = cash
    for at in range(len(columns)):
        o, h, low, c = (float(getattr(columns, name)[at]) for name in ("open", "high", "low", "close"))
        out = None
        if wish == "in":
            units = equity / (o * (1 + rate))
            cash -= units * o * (1 + rate)
            stop, target = decided * 0.99, decided * 1.02
            trades += 1
        elif wish == "out":
            out = o
        if units and out is None:
            if low <= stop:
                out = min(o, stop)
            elif h >= target:
                out = max(o, target)
        if out is not None:
            cash += units * out * (1 - rate)
            units = 0.0
        equity = cash + units * c
        curve.append(equity)
        wish = ""
        if units and leave[at]:
            wish = "out"
        elif not units and enter[at]:
            wish, decided = "in", c
    return trades, curve


def summary(curve: list[float]) -> tuple[float, float]:
    """Return final equity and the deepest drawdown."""
    equity = np.array(curve)
    return float(equity[-1]), float(-(equity / np.maximum.accumulate(equity) - 1).min())
