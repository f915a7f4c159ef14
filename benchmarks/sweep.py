"""Sweeps: bars a second of 100 parameter pairs, figures and all, on one worker, on one for each core, and from the store."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentfund import Limits, PaperBroker
from agentfund.backtest import Sweep
from agentfund.backtest.research.processes import cores
from agentfund.feeds import SimulatedMarket
from agentfund.strategies import SmaCross
from benchmarks._measure import figure

BARS, ROUNDS = 100_000, 3
GRID = {"fast": list(range(5, 25, 2)), "slow": list(range(30, 130, 10))}


def bars_per_s(**options: Any) -> float:
    """Return the best rate of some rounds."""
    market = SimulatedMarket("SIM", bars=BARS, seed=4)
    broker, limits = PaperBroker(max_volume_pct=1e6), Limits(max_drawdown_pct=100)
    sweep = Sweep(SmaCross, GRID, market, broker=broker, limits=limits)
    best = float("inf")
    for _ in range(ROUNDS + 1):  # the first one compiles
        began = time.perf_counter()
        result = sweep.run(**options)
        best = min(best, time.perf_counter() - began)
    assert len(result.done) == len(sweep) == 100
    return BARS * len(sweep) / best


def figures() -> Iterator[dict[str, Any]]:
    """Give bars a second; `benchmarks/engines.py` has those of peers."""
    yield figure("sweep: 100 pairs of SMA, one process", bars_per_s(on="here"), "bars/s")
    yield figure(f"sweep: 100 pairs of SMA, {cores()} processes", bars_per_s(), "bars/s")
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "sweep.jsonl"
        yield figure(f"sweep: the same from its store, {cores()} processes", bars_per_s(store=store), "bars/s")
