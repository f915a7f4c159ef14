"""Run a campaign, or one of its parts.

python -m agentfund.testing.chaos --bus postgresql://localhost:5432/test --seconds 60 --rounds 3

Rounds of kill -9 on a bus alone, without a fund: `python -m agentfund.testing.chaos rounds --help`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import uuid
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from agentfund.buses.urls import open_bus
from agentfund.errors import AgentFundError
from agentfund.terminal import print_line, say
from agentfund.testing.chaos import exchange, rounds_command
from agentfund.testing.chaos.campaign import Campaign
from agentfund.testing.chaos.parts import run_fund, run_worker

PATIENCE = timedelta(seconds=1)
HELD = timedelta(seconds=2.5)


def main(args: list[str]) -> int:
    """Run what the arguments say; return the exit code."""
    if args[:1] == ["exchange"]:
        asyncio.run(exchange.run(int(args[1]), int(args[2]), float(args[3])))
        return 0
    if args[:1] in (["fund"], ["worker"]):
        kind, where, told, port, *names = args
        try:
            asyncio.run(_part(kind, where, json.loads(told), int(port), names))
        except AgentFundError as error:
            say(f"{type(error).__name__}: {error}")
            return 1
        return 0
    if args[:1] == ["rounds"]:
        return rounds_command.main(args[1:])
    parser = argparse.ArgumentParser("python -m agentfund.testing.chaos", description=__doc__)
    parser.add_argument("--bus", required=True, help="address of a bus: a log of its own is made on it")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long harm is done in a round")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bar-seconds", type=float, default=0.25)
    parser.add_argument("--demand", default="process", help="what the bus must survive: none, process or power")
    parser.add_argument("--folder", type=Path, help="for the output of the processes; a temporary one otherwise")
    given = parser.parse_args(args)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="agentfund-chaos-"))
    failed = 0
    for number in range(given.rounds):
        home = folder / f"round-{number}"
        home.mkdir(parents=True, exist_ok=True)
        local = given.bus.startswith("sqlite:") or "://" not in given.bus
        address = f"{given.bus}-{uuid.uuid4().hex[:8]}" if local else given.bus
        options = {} if local else {"name": f"chaos_{uuid.uuid4().hex[:8]}", "demand": given.demand}
        campaign = Campaign(
            address,
            home,
            seed=given.seed + number,
            seconds=given.seconds,
            bar_s=given.bar_seconds,
            options=options,
            tell=lambda text: say(f"  {text}"),
        )
        try:
            outcome = asyncio.run(campaign.run())
        except AgentFundError as error:
            say(f"error: {error}")
            return 1
        except KeyboardInterrupt:
            say("stopped")
            return 130
        print_line(str(outcome))
        failed += bool(outcome.faults)
    return 1 if failed else 0


async def _part(kind: str, address: str, options: dict[str, Any], port: int, names: list[str]) -> None:
    bus = open_bus(address, timeout=PATIENCE, lease=HELD, **options)
    try:
        with suppress(asyncio.CancelledError):
            await (run_fund(bus, port) if kind == "fund" else run_worker(bus, names))
    finally:
        await bus.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
