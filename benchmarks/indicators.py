"""Indicators: million bars a second over whole arrays and one bar at a time, beside pandas on the same bars."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from agentfund.compiled import available
from agentfund.feeds import SimulatedMarket
from agentfund.indicators import ADX, ATR, EMA, MACD, RSI, SMA, AnyIndicator, Bollinger, Donchian, RealisedVol, ZScore
from agentfund.market import Bar, Columns, Window
from benchmarks._measure import figure

BARS, ROUNDS = 100_000, 7

Frame = pd.DataFrame


def wilder(series: pd.Series[float], n: int) -> pd.Series[float]:
    return series.ewm(alpha=1 / n, adjust=False, min_periods=n).mean()


def pandas_rsi(bars: Frame) -> object:
    change: pd.Series[float] = bars["close"].diff()
    return 100 - 100 / (1 + wilder(change.clip(lower=0), 14) / wilder(-change.clip(upper=0), 14))


def pandas_atr(bars: Frame) -> object:
    before = bars["close"].shift()
    ranges = [bars["high"] - bars["low"], (bars["high"] - before).abs(), (bars["low"] - before).abs()]
    return wilder(pd.concat(ranges, axis=1).max(axis=1), 14)


def pandas_donchian(bars: Frame) -> object:
    upper, lower = bars["high"].rolling(20).max(), bars["low"].rolling(20).min()
    return upper, (upper + lower) / 2, lower


def pandas_macd(bars: Frame) -> object:
    close = bars["close"]
    line = close.ewm(span=12, adjust=False).mean() - close.ewm(span=26, adjust=False).mean()
    signal = line.ewm(span=9, adjust=False).mean()
    return line, signal, line - signal


def pandas_bollinger(bars: Frame) -> object:
    window = bars["close"].rolling(20)
    mean, deviation = window.mean(), window.std(ddof=0)
    return mean + 2 * deviation, mean, mean - 2 * deviation


def pandas_vol(bars: Frame) -> object:
    return np.log(bars["close"]).diff().rolling(20).std() * 252**0.5


def pandas_z_score(bars: Frame) -> object:
    window = bars["close"].rolling(20)
    return (bars["close"] - window.mean()) / window.std(ddof=0)


CASES: dict[str, tuple[AnyIndicator, Callable[[Frame], object] | None]] = {
    "SMA 20": (SMA(20), lambda bars: bars["close"].rolling(20).mean()),
    "EMA 20": (EMA(20), lambda bars: bars["close"].ewm(span=20, adjust=False).mean()),
    "RSI 14": (RSI(14), pandas_rsi),
    "ATR 14": (ATR(14), pandas_atr),
    "Donchian 20": (Donchian(20), pandas_donchian),
    "MACD 12 26 9": (MACD(), pandas_macd),
    "Bollinger 20": (Bollinger(20), pandas_bollinger),
    "ADX 14": (ADX(14), None),
    "realised volatility 20": (RealisedVol(20, 252), pandas_vol),
    "z-score 20": (ZScore(20), pandas_z_score),
}


def rate(fn: Callable[[], object]) -> float:
    """Return million bars per second of processor time, the best of some rounds."""
    best = float("inf")
    fn()
    for _ in range(ROUNDS):
        began = time.process_time()
        fn()
        best = min(best, time.process_time() - began)
    return BARS / 1e6 / best


def one_by_one(indicator: AnyIndicator, bars: list[Bar]) -> Callable[[], object]:
    def run() -> None:
        update = indicator.fresh().update
        for bar in bars:
            update(bar)

    return run


def market() -> Columns:
    """Return the bars that all are measured on."""
    (columns,) = SimulatedMarket("SIM", bars=BARS, seed=4).columns.values()
    return columns


def figures() -> Iterator[dict[str, Any]]:
    """Give the rates; the incremental form has no peer in pandas, so it stands alone."""
    columns = market()
    frame = pd.DataFrame({name: getattr(columns, name) for name in ("open", "high", "low", "close", "volume")})
    window = Window(columns, len(columns))
    bars = [window.bar(i) for i in range(len(columns))]
    for name, (indicator, peer) in CASES.items():
        theirs = None if peer is None else rate(lambda peer=peer: peer(frame))  # type: ignore[misc]
        beside = None if theirs is None else "pandas"
        for kind in (False, True) if available() and indicator.recurrences else (False,):
            ours = rate(lambda indicator=indicator, kind=kind: indicator.batch(columns, compiled=kind))  # type: ignore[misc]
            how = "numba" if kind else "numpy and Python" if indicator.recurrences else "numpy"
            yield figure(f"indicators: {name}, whole array, {how}", ours, "M bars/s", peer=beside, peer_value=theirs)
        yield figure(f"indicators: {name}, bar by bar", rate(one_by_one(indicator, bars)), "M bars/s")
