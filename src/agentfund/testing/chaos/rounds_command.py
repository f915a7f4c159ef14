"""Rounds of kill -9 on a bus: producers and consumers at work, one process killed in each round, nothing lost or doubled.

python -m agentfund.testing.chaos rounds --bus sqlite:/tmp/fund.db --rounds 1000
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from agentfund.buses.urls import without_password
from agentfund.errors import AgentFundError
from agentfund.terminal import print_line, say
from agentfund.testing.chaos.rounds import STRETCH, Command, Opening, Result, Rounds

_TELL = 10
"""After how many rounds a word is said."""


def main(args: list[str]) -> int:
    """Do what the arguments say; return the exit code."""
    parser = argparse.ArgumentParser("python -m agentfund.testing.chaos rounds", description=__doc__)
    parser.add_argument("--bus", required=True, help="address of a bus; logs of their own are made on it, and left there")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="chooses whom to kill and when; when is real time, so near enough")
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--stretch", type=int, default=STRETCH, help="rounds on one log")
    parser.add_argument("--server", help="command that runs the bus's server in the foreground: it is killed as well")
    parser.add_argument("--share", type=float, default=0.2, help="of the rounds in which the server is killed")
    parser.add_argument("--demand", default="process", help="what the bus must survive: none, process or power")
    parser.add_argument("--folder", type=Path, help="for counters and output of the processes; a temporary one otherwise")
    given = parser.parse_args(args)
    scheme = urlsplit(given.bus).scheme
    if scheme == "memory" or given.rounds < 1 or given.stretch < 1:
        parser.error("a bus in memory dies with its process" if scheme == "memory" else "there has to be a round")
    folder = given.folder or Path(tempfile.mkdtemp(prefix="agentfund-rounds-"))

    def opener(number: int) -> Opening:
        name = f"rounds_{uuid.uuid4().hex[:8]}"
        home = folder / f"log-{number}"
        home.mkdir(parents=True, exist_ok=True)
        local = scheme == "sqlite" or "://" not in given.bus
        options = {} if local else {"name": name, "demand": given.demand}
        return Opening(f"{given.bus}-{name}" if local else given.bus, home, options)

    def tell(text: str) -> None:
        if campaign.result.rounds % _TELL == 0 or campaign.result.rounds == 1:
            say(f"  {campaign.result.rounds} of {given.rounds}: {text}")

    server = None
    try:
        server = Command(given.server, given.bus) if given.server else None
        if server is not None:
            server.start()
        campaign = Rounds(opener, folder, seed=given.seed, server=server, share=given.share, stretch=given.stretch, tell=tell)
        try:
            asyncio.run(_run(campaign, given.rounds, given.first))
        except (KeyboardInterrupt, asyncio.CancelledError):
            say(f"stopped: {campaign.result}")
            return 130
    except AgentFundError as error:
        say(f"error: {error}")
        return 1
    finally:
        if server is not None:
            server.kill()
    print_line(f"{without_password(given.bus)}, seed {given.seed}: {campaign.result}")
    if campaign.result.failed is not None:
        print_line(again(given, campaign.result))
    return 1 if campaign.result.faults else 0


async def _run(campaign: Rounds, rounds: int, first: int) -> Result:
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await campaign.run(rounds, first)


def again(given: argparse.Namespace, result: Result) -> str:
    """Return the command that does the failed round again, on a log of its own."""
    words = ["python", "-m", "agentfund.testing.chaos", "rounds", "--bus", without_password(given.bus)]
    words += ["--seed", str(given.seed), "--first", str(result.failed), "--rounds", "1", "--demand", given.demand]
    if given.server:
        words += ["--server", given.server, "--share", str(given.share)]
    return shlex.join(words)
