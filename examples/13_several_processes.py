"""Agents in a process of their own: the fund asks them over its log, and comes to the same decisions.

With AGENTFUND_BUS set, the fund uses that log and the workers that are there; otherwise a file and a worker of its own.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path

from agentfund import MemoryBus, Orchestrator, PaperBroker
from agentfund.buses import open_bus
from agentfund.feeds import SimulatedMarket
from agentfund.protocols import Bus
from agentfund.specialists import desk
from agentfund.workers import Workers

BARS = 760


async def run(bus: Bus, workers: Workers | None) -> Counter[str]:
    """Run the desk over a simulated market; return how its cycles ended."""
    fund = Orchestrator(desk(), bus=bus, workers=workers)
    outcomes: Counter[str] = Counter()
    async for decision in fund.run(SimulatedMarket(bars=BARS, seed=4), PaperBroker()):
        outcomes[decision.outcome] += 1
    await bus.close()
    return outcomes


def elsewhere(address: str) -> Counter[str]:
    return asyncio.run(run(open_bus(address, lease=timedelta(minutes=3)), Workers()))  # all of its agents live elsewhere


def told(outcomes: Counter[str]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()) or "nothing"


def main() -> None:
    if address := os.environ.get("AGENTFUND_BUS"):
        print(f"decided by agents elsewhere: {told(elsewhere(address))}")
        return
    with tempfile.TemporaryDirectory() as folder:
        address = str(Path(folder, "fund.db"))
        command = [sys.executable, "-m", "agentfund", "worker", "--agents", "all", "--bus", address]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as worker:
            there = elsewhere(address)
            worker.terminate()
    here = asyncio.run(run(MemoryBus(), None))
    print(f"decided by agents elsewhere: {told(there)}")
    print(f"the same as in one process: {there == here}")


if __name__ == "__main__":
    main()
