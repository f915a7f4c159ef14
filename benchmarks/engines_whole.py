"""Whole processes that run SMA 20/50 over 100,000 bars from arrays: seconds, memory, imports; then growth, and the report."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from agentfund import Backtest, MemoryBus, Orchestrator, PaperBroker
from agentfund.strategies import SmaCross
from benchmarks._measure import figure
from benchmarks._peers import PYTHONS, Peer
from benchmarks._peers.own_engine import history
from benchmarks._peers.walk import walk
from benchmarks.engines import DIFFERS

BARS, ROUNDS = 100_000, 3
OURS = "from agentfund.backtest.lanes import simulate; from agentfund.strategies import SmaCross"
OTHERS = (
    ("backtesting", "backtesting_engine", "engines", "import backtesting"),
    ("backtrader", "backtrader_engine", "engines", "import backtrader"),
    ("nautilus_trader", "nautilus_engine", "engines", "from nautilus_trader.backtest.engine import BacktestEngine"),
    ("vectorbt", "vectorbt_engine", "vectorbt", "import vectorbt"),
)
CHARTS = Path(__file__).parent.parent / "src/agentfund/backtest/assets/lightweight-charts.standalone.production.js"


@contextmanager
def stored(bars: int) -> Iterator[None]:
    """Let processes read the bars from a file, so that making them does not count."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "walk.npz"
        np.savez(file, **walk(bars)._asdict())
        os.environ["AGENTFUND_WALK"] = str(file)
        try:
            yield
        finally:
            del os.environ["AGENTFUND_WALK"]


def process(module: str, environment: str, bars: int = BARS, **job: Any) -> tuple[float, float, str]:
    """Return wall seconds and peak memory in MB of a fresh process, and the package's version; the least of some."""
    walls, peaks = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        with Peer(module, environment) as peer:
            peaks.append(peer.ask(case="sma", bars=bars, **job).peak_mb)
        walls.append(time.perf_counter() - began)
    return min(walls), min(peaks), peer.version


def importing(environment: str, code: str) -> float:
    """Return processor seconds that imports take in a fresh process, those of a bare interpreter taken off."""
    return _spent(PYTHONS[environment], code) - _spent(PYTHONS[environment], "pass")


def _spent(python: Path, code: str) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([python, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def whole() -> Iterator[dict[str, Any]]:
    """Time and memory of whole processes."""
    with stored(BARS):
        wall, peak, _ = process("own_engine", "own", lane="auto")
        others = [process(module, environment) for _, module, environment, _ in OTHERS]
    imports = importing("own", OURS)
    for (package, _, environment, code), (their_wall, their_peak, version) in zip(OTHERS, others, strict=True):
        differs = {"bars": BARS, "peer_differs": DIFFERS[package]}
        told: dict[str, Any] = {"peer": package, "version_": version}
        yield figure("engines: whole process, SMA 20/50", wall, "s wall", peer_value=their_wall, **told) | differs
        yield figure("engines: whole process, peak memory", peak, "MB", peer_value=their_peak, **told) | differs
        yield figure("engines: imports", imports, "s CPU", peer_value=importing(environment, code), **told)


def growing() -> Iterator[dict[str, Any]]:
    """Peak memory of fresh processes by bars."""
    for lane in ("event", "array"):
        peaks = []
        for bars in (BARS, 4 * BARS, 8 * BARS):
            with stored(bars):
                peaks.append(process("own_engine", "own", bars, lane=lane, compiled=False)[1])
        more = (peaks[-1] - peaks[0]) * 2**20 / (7 * BARS)
        yield figure(f"engines: {lane} lane, memory that a bar more takes", more, "bytes") | {"peak_mb": [*map(round, peaks)]}


def page(bars: int = 20_000) -> Iterator[dict[str, Any]]:
    """The report of a backtest as HTML."""
    report = Backtest(Orchestrator([SmaCross()], bus=MemoryBus()), history(bars, 1), PaperBroker()).run()
    took, html = float("inf"), ""
    for _ in range(ROUNDS):
        began = time.process_time()
        html = report.html()
        took = min(took, time.process_time() - began)
    whole, charts = len(html.encode()) / 1000, CHARTS.stat().st_size / 1000
    yield figure(f"engines: HTML report of {bars:,} bars", took, "s") | {"round_trips": len(report.round_trips)}
    yield figure("engines: the page beside its chart library", whole - charts, "kB") | {"whole_kb": round(whole, 1)}


def figures() -> Iterator[dict[str, Any]]:
    """Give all of them."""
    yield from whole()
    yield from growing()
    yield from page()
