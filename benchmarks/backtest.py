"""The event lane: bars a second of a whole backtest, by kind of fund."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agentfund import Abstain, Backtest, Direction, MemoryBus, Orchestrator, PaperBroker, Proposal, Snapshot, SqliteBus, Verdict
from agentfund import agent as make_agent
from agentfund.feeds import SimulatedMarket
from agentfund.specialists import desk
from benchmarks._measure import figure

BARS, ROUNDS = 20_000, 3


@make_agent(name="idle")
def idle(context: Snapshot) -> Proposal | Abstain:
    """Never trade."""
    return Abstain("nothing to do")


@make_agent(name="crossing")
def crossing(context: Snapshot) -> Proposal | Abstain:
    """Buy when the mean of 20 closes stands above that of 50, close when it does not."""
    close = context.bars.close
    if len(close) < 50:
        return Abstain("too few bars")
    above = close[-20:].sum() / 20 > close[-50:].sum() / 50
    held = bool(context.portfolio.positions)
    if above == held:
        return Abstain("as it is")
    return Proposal(direction=Direction.LONG if above else Direction.FLAT, stop_pct=2, target_pct=4)


@make_agent(reads=(Proposal,), name="gate")
def gate(context: Snapshot) -> Verdict:
    """Approve."""
    return Verdict(approved=True, reason="yes")


def bars_per_s(make: Callable[[], Orchestrator]) -> float:
    """Return the best rate of some rounds, report included."""
    market = SimulatedMarket("SIM", bars=BARS, seed=4)
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        Backtest(make(), market, PaperBroker(cash=100_000)).run()
        best = min(best, time.perf_counter() - began)
    return BARS / best


def figures() -> Iterator[dict[str, Any]]:
    """Give bars a second; no peer is named, because none runs agents, gate and log on every bar."""
    with tempfile.TemporaryDirectory() as folder:
        count = iter(range(1000))
        cases: dict[str, Callable[[], Orchestrator]] = {
            "one idle agent, log in memory": lambda: Orchestrator([idle, gate], bus=MemoryBus()),
            "SMA 20/50 and a gate, log in memory": lambda: Orchestrator([crossing, gate], bus=MemoryBus()),
            "the desk's six rules, log in memory": lambda: Orchestrator(desk(), bus=MemoryBus()),
            "the desk's six rules, log in SQLite": lambda: Orchestrator(
                desk(), bus=SqliteBus(Path(folder) / f"{next(count)}.db")
            ),
        }
        for name, make in cases.items():
            yield figure(f"backtest: {name}", bars_per_s(make), "bars/s")
