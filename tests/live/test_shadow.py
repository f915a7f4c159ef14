"""A candidate beside the incumbent, in one process."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from agentfund import Abstain, Agent, MemoryBus, Orchestrator, PaperBroker, Proposal, Snapshot
from agentfund.clock import SimulatedClock
from agentfund.feeds import SimulatedMarket
from agentfund.live.shadow import beside


class Idle(Agent[Proposal]):
    """Has nothing to say."""

    needs_gate = False

    def rule(self, context: Snapshot) -> Proposal | Abstain:
        return Abstain("nothing")


class Slow(Idle):
    """Computes until somebody is through, and tells what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.through = threading.Event()
        self.found: list[bool] = []

    def rule(self, context: Snapshot) -> Proposal | Abstain:
        self.found.append(self.through.wait(20))
        return super().rule(context)


async def test_a_candidate_that_computes_for_long_does_not_hold_the_incumbent_up(tmp_path: Path) -> None:
    """The incumbent is through with the whole feed while a plain function of the candidate still works at its first bar."""
    slow, clock = Slow(), SimulatedClock()
    incumbent = Orchestrator([Idle()], bus=MemoryBus(), mode="autonomous", clock=clock)
    async with beside(incumbent, SimulatedMarket("SIM", bars=5), [slow], tmp_path) as feed:
        async for _ in incumbent.run(feed, PaperBroker(1000)):
            pass
        slow.through.set()
        async with asyncio.timeout(60):
            while len(slow.found) < 5:
                await asyncio.sleep(0.01)
    assert all(slow.found)
    assert not any(thread.name == "agentfund-shadow" and thread.is_alive() for thread in threading.enumerate())
