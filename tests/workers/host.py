"""Host half of the many agents: `python -m tests.workers.host URL NAME first|second`."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from agentfund.buses import open_bus
from agentfund.core.safety import SafetyLimits
from agentfund.workers import Worker
from tests.workers.many import many

LOOSE = SafetyLimits(
    time_limit_s=100, agent_consultations_per_hour=10**6, fund_consultations_per_hour=10**6, adjustment_pause_s=0.001
)


async def main(url: str, name: str, part: str) -> None:
    """Answer until killed."""
    bus = open_bus(url, name=name, lease=timedelta(minutes=3))
    agents = many()
    hosted = agents[: len(agents) // 2] if part == "first" else agents[len(agents) // 2 :]
    await Worker(hosted, bus=bus, limits=LOOSE).run()


asyncio.run(main(*sys.argv[1:]))
