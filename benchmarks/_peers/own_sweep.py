"""Ours: a sweep in this process; it also keeps returns of each trial and the figures that judge the search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentfund.backtest.research.sweep import Sweep
from agentfund.strategies import SmaCross
from benchmarks._peers.own_engine import history, terms
from benchmarks._peers.serve import Done, serve


def prepare(case: str, bars: int, pairs: Any) -> Callable[[], Done]:
    """Return a run of all pairs of averages."""
    assert case == "sma"
    given = history(bars, 1)
    wanted = {tuple(pair) for pair in pairs}
    grid = {"fast": sorted({fast for fast, _ in wanted}), "slow": sorted({slow for _, slow in wanted})}
    assert len(grid["fast"]) * len(grid["slow"]) == len(wanted)

    def run() -> Done:
        attempts = Sweep(SmaCross, grid, given, **terms(1)).run(on="here").attempts
        return sum(each.trades for each in attempts), sum(float(each.equity[-1]) for each in attempts)

    return run


if __name__ == "__main__":
    serve("agentfund", prepare)
