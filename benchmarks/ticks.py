"""Ticks to bars: million ticks a second from whole arrays and one tick at a time, beside the resampling of pandas."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd

from agentfund.compiled import available
from agentfund.feeds.ticks import Dollars, Every, TickColumns, Ticks, Volume, columns_from_ticks, tick_bars
from agentfund.market import Instrument
from benchmarks._measure import figure

TICKS, LIVE, ROUNDS = 2_000_000, 300_000, 5
DAY_US = 86_400_000_000
ONE = Instrument("SIM")
RULES: dict[str, Every] = {
    "5-minute bars": timedelta(minutes=5),
    "1-second bars": timedelta(seconds=1),
    "500-tick bars": Ticks(500),
    "volume bars": Volume(100_000),
    "dollar bars": Dollars(1e7),
}


def tape() -> TickColumns:
    """Return ticks in order: ten a second, a price that wanders, whole volumes."""
    random = np.random.default_rng(4)
    return TickColumns(
        19_700 * DAY_US + np.cumsum(random.integers(0, 200_000, TICKS)),
        100 * np.exp(np.cumsum(random.normal(0, 1e-5, TICKS))),
        random.integers(1, 500, TICKS).astype(np.float64),
    )


def rate(fn: Callable[[], object], ticks: int) -> float:
    """Return million ticks per second of processor time, the best of some rounds."""
    best = float("inf")
    fn()
    for _ in range(ROUNDS):
        began = time.process_time()
        fn()
        best = min(best, time.process_time() - began)
    return ticks / 1e6 / best


def resampled(ticks: TickColumns, rule: str) -> Callable[[], object]:
    index = pd.DatetimeIndex(ticks.time.astype("M8[us]"))
    frame = pd.DataFrame({"price": ticks.price, "volume": ticks.volume}, index=index)

    def run() -> object:
        parts = frame.resample(rule)
        return parts["price"].ohlc().dropna(), parts["volume"].sum()

    return run


def one_by_one(every: Every, rows: list[tuple[int, float, float]]) -> Callable[[], object]:
    def run() -> None:
        push = tick_bars("SIM", every).push
        for when, price, volume in rows:
            push(when, price, volume)

    return run


def figures() -> Iterator[dict[str, Any]]:
    """Give the rates; pandas makes bars of time only."""
    ticks = tape()
    assert ticks.volume is not None
    rows = list(zip(*(each[:LIVE].tolist() for each in (ticks.time, ticks.price, ticks.volume)), strict=True))
    peers = {
        "5-minute bars": rate(resampled(ticks, "5min"), TICKS),
        "1-second bars": rate(resampled(ticks, "1s"), TICKS),
    }
    for name, every in RULES.items():
        beside = "pandas" if name in peers else None
        for kind in (False, True) if available() else (False,):

            def whole(every: Every = every, kind: bool = kind) -> object:
                return columns_from_ticks(ONE, every, *ticks, compiled=kind)

            how = "numba" if kind else "numpy"
            yield figure(
                f"ticks: {name}, whole array, {how}", rate(whole, TICKS), "M ticks/s", peer=beside, peer_value=peers.get(name)
            )
        yield figure(f"ticks: {name}, tick by tick", rate(one_by_one(every, rows), LIVE), "M ticks/s")
