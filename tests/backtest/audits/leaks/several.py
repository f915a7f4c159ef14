"""Leaks in the choice of instruments, and between instruments."""

from __future__ import annotations

from typing import Any

import numpy as np

from agentfund.feeds import Bars
from agentfund.strategies import SmaCross
from tests.backtest.audits.leaks import data
from tests.backtest.audits.leaks.data import closes, frame
from tests.backtest.audits.leaks.planted import LEAKS, TWINS
from tests.backtest.audits.leaks.series import above


def _strategies(symbols: Any) -> dict[str, Any]:
    return {symbol: SmaCross(5, 20) for symbol in sorted(symbols)}


@LEAKS(data.several, "universe")
def winners(bars: Bars) -> Any:
    gain = {symbol: float(c.close[-1] / c.close[0]) for symbol, c in bars.columns.items()}
    return _strategies(sorted(gain, key=lambda symbol: gain[symbol])[-2:])


@TWINS(data.several)
def all_of_them(bars: Bars) -> Any:
    return _strategies(bars.columns)


@LEAKS(data.several, "universe")
def survivors(bars: Bars) -> Any:
    last = max(int(c.ends[-1]) for c in bars.columns.values())
    return _strategies(symbol for symbol, c in bars.columns.items() if int(c.ends[-1]) == last)


@LEAKS(data.several, "universe")
def most_traded_over_all_bars(bars: Bars) -> Any:
    traded = {symbol: float((c.volume * c.close).sum()) for symbol, c in bars.columns.items()}
    return _strategies(sorted(traded, key=lambda symbol: traded[symbol])[-2:])


@TWINS(data.several)
def most_traded_in_the_first_bars(bars: Bars) -> Any:
    traded = {symbol: float((c.volume * c.close)[:50].sum()) for symbol, c in bars.columns.items()}
    return _strategies(sorted(traded, key=lambda symbol: traded[symbol])[-2:])


@LEAKS(data.several, "universe", "future")
def pair_of_the_highest_correlation(bars: Bars) -> Any:
    change = closes(bars).pct_change()
    table = change.corr().to_numpy() - 2 * np.eye(len(bars.columns))
    one, two = sorted(divmod(int(table.argmax()), len(table)))
    a, b = (list(bars.columns)[at] for at in (one, two))
    spread = closes(bars)[a] / closes(bars)[b]
    signal = np.sign(spread.rolling(20).mean() - spread).fillna(0.0)
    return {a: signal.reindex(frame(bars, a).index), b: -signal.reindex(frame(bars, b).index)}


@LEAKS(data.several)
def first_component_of_all_bars(bars: Bars) -> Any:
    change = closes(bars).pct_change().fillna(0.0)
    loadings = np.linalg.svd((change - change.mean()).to_numpy(), full_matrices=False)[2][0]
    market = change.to_numpy() @ loadings
    return {s: above(change[s].reindex(frame(bars, s).index), market[: len(bars.columns[s])]) for s in bars.columns}


@LEAKS(data.several)
def other_instrument_a_bar_early(bars: Bars) -> Any:
    change = closes(bars).pct_change()
    return {"BBB": above(change["AAA"].shift(-1).reindex(frame(bars, "BBB").index), 0.0)}


@TWINS(data.several)
def other_instrument(bars: Bars) -> Any:
    change = closes(bars).pct_change()
    return {"BBB": above(change["AAA"].reindex(frame(bars, "BBB").index), 0.0)}


@LEAKS(data.several)
def best_by_the_move_to_come(bars: Bars) -> Any:
    ahead = closes(bars).shift(-5) / closes(bars) - 1
    best = ahead.rank(axis=1, ascending=False) <= 1
    return {symbol: best[symbol].reindex(frame(bars, symbol).index).astype(int) for symbol in bars.columns}


@TWINS(data.several)
def best_by_the_last_move(bars: Bars) -> Any:
    back = closes(bars) / closes(bars).shift(5) - 1
    best = back.rank(axis=1, ascending=False) <= 1
    return {symbol: best[symbol].reindex(frame(bars, symbol).index).astype(int) for symbol in bars.columns}


@LEAKS(data.several)
def weights_fitted_to_all_bars(bars: Bars) -> Any:
    change = closes(bars).pct_change().fillna(0.0)
    weights = np.linalg.solve(change.cov().to_numpy() + 1e-8 * np.eye(change.shape[1]), change.mean().to_numpy())
    return {s: np.full(len(bars.columns[s]), round(float(w), 6)) for s, w in zip(change.columns, weights, strict=True)}
