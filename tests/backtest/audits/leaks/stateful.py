"""Leaks that a look at the arrays does not show: what is kept between runs, and what was computed before them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from agentfund.feeds import Bars
from tests.backtest.audits.leaks import data
from tests.backtest.audits.leaks.data import frame, only
from tests.backtest.audits.leaks.planted import LEAKS, TWINS, Make
from tests.backtest.audits.leaks.series import above


def _winning(bars: Bars) -> Any:
    """Return what a model that has seen everything says, by the time of each bar."""
    close = frame(bars)["close"]
    return pd.Series(above(close.shift(-1), close), index=close.index)


@LEAKS.built(data.market, "carried over", "future")
def cache_by_symbol(folder: Path) -> Make:
    cache: dict[str, Any] = {}

    def make(bars: Bars) -> Any:
        symbol = only(bars).instrument.symbol
        if symbol not in cache:
            cache[symbol] = _winning(bars)
        return cache[symbol].reindex(frame(bars).index).fillna(0.0)

    return make


@TWINS.built()
def cache_by_content(folder: Path) -> Make:
    cache: dict[str, Any] = {}

    def make(bars: Bars) -> Any:
        if bars.fingerprint not in cache:
            close = frame(bars)["close"]
            cache[bars.fingerprint] = above(close, close.rolling(10).mean())
        return cache[bars.fingerprint]

    return make


@LEAKS.built(data.market, "carried over", "future")
def scaler_kept_on_the_class(folder: Path) -> Make:
    class Scaler:
        mean: float | None = None

        def fit(self, close: Any) -> float:
            if Scaler.mean is None:
                Scaler.mean = float(close.mean())
            return Scaler.mean

    def make(bars: Bars) -> Any:
        close = only(bars).close
        return above(close, Scaler().fit(close))

    return make


@LEAKS.built(data.market, "carried over", "future")
def memo_of_a_function(folder: Path) -> Make:
    held: list[Bars] = []

    @functools.lru_cache(maxsize=1)
    def threshold(symbol: str) -> float:
        return float(np.quantile(only(held[-1]).close, 0.7))

    def make(bars: Bars) -> Any:
        held.append(bars)
        return above(only(bars).close, threshold(only(bars).instrument.symbol))

    return make


@LEAKS.built(data.market, "memory")
def predictions_in_a_file_by_date(folder: Path) -> Make:
    """Made once, with the whole history, and looked up by time ever since."""
    path = folder / "predictions.csv"
    _winning(data.market()).rename("wanted").to_csv(path)

    def make(bars: Bars) -> Any:
        table = pd.read_csv(path, index_col=0)["wanted"]
        table.index = pd.to_datetime(table.index, utc=True)
        return table.reindex(frame(bars).index).fillna(0.0).to_numpy()

    return make


@LEAKS.built(data.market, "memory", "carried over", "future")
def predictions_kept_in_a_file_by_the_first_run(folder: Path) -> Make:
    path = folder / "predictions.csv"

    def make(bars: Bars) -> Any:
        if not path.exists():
            _winning(bars).rename("wanted").to_csv(path)
        table = pd.read_csv(path, index_col=0)["wanted"]
        table.index = pd.to_datetime(table.index, utc=True, format="ISO8601")
        return table.reindex(frame(bars).index).fillna(0.0).to_numpy()

    return make


@LEAKS.built(data.market, "memory")
def model_that_remembers_dates(folder: Path) -> Make:
    """A table of good days, learned elsewhere and written into the code: what a language model may bring along."""
    close = frame(data.market())["close"]
    good = frozenset(close.index[close.shift(-5) > close])

    def make(bars: Bars) -> Any:
        return np.array([float(time in good) for time in frame(bars).index])

    return make


@LEAKS.built(data.market, "chance")
def dice_without_a_seed(folder: Path) -> Make:
    def make(bars: Bars) -> Any:
        return np.random.default_rng().integers(0, 2, len(only(bars)))

    return make


@TWINS()
def dice_with_a_seed(bars: Bars) -> Any:
    return np.random.default_rng(7).integers(0, 2, 10_000)[: len(only(bars))]


@LEAKS.built(data.market, "chance", "carried over")
def counter_that_goes_on(folder: Path) -> Make:
    count = [0]

    def make(bars: Bars) -> Any:
        count[0] += 1
        close = frame(bars)["close"]
        return above(close, close.rolling(5 + count[0]).mean())

    return make
