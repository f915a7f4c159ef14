"""A fund with a watchdog in a process of its own: without its lease nothing adds risk, and a halt stays until it is lifted."""

import asyncio
import logging
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from agentfund import Decision, Limits, Orchestrator, PaperBroker, SqliteBus
from agentfund.core.session import closing
from agentfund.feeds import Live, Recorded, SimulatedMarket
from agentfund.strategies import SmaCross
from agentfund.watchdog import Halts, Heart, LeaseFile, make_folder

MINUTE = timedelta(minutes=1)


async def trade(folder: Path, watch: Path, source: Recorded, wanted: str) -> Decision:
    """Run the fund, as a restart would, until it decides something that begins so."""
    bus, permission = SqliteBus(folder / "fund.db"), LeaseFile(watch, fund="fund", config=Limits().digest)
    crew = [SmaCross(2, 5, stop_pct=2)]
    fund = Orchestrator(crew, bus=bus, mode="autonomous", permission=permission, clock=source.clock, lease=None)
    session = fund.session(Live(source, interval=MINUTE, back=0, clock=source.clock), PaperBroker())
    beating = asyncio.ensure_future(Heart(watch).keep(lambda: session.pulse))
    try:
        async with closing(session.steps()) as steps:
            async for decision in steps:
                if decision is not None and f"{decision.outcome} {decision.code}".startswith(wanted):
                    return decision
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await bus.close()
    raise RuntimeError("the recording is over")


async def main(folder: Path) -> None:
    watch = make_folder(str(folder / "watch"), passphrase=None, fund="fund", config=Limits().digest)
    words = ["-m", "agentfund", "watchdog", "--dir", str(watch.path), "--bus", str(folder / "fund.db")]
    source = Recorded(SimulatedMarket(bars=20_000, interval=MINUTE, sessions="24h"), speed=400)
    print("without the watchdog:", (await trade(folder, watch.path, source, "denied lease")).reason)
    watchdog = await asyncio.create_subprocess_exec(sys.executable, *words, stderr=subprocess.DEVNULL)
    try:
        print("with its lease:", (await trade(folder, watch.path, source, "ordered")).reason)
        cause = Halts(watch.path).halt("prices look wrong", by="a person")
        print("halted, and started again:", (await trade(folder, watch.path, source, "denied halt")).reason)
        Halts(watch.path).lift(cause.id, "the exchange has explained it", watch.operators_key(None))
        print("lifted by the operator's key:", (await trade(folder, watch.path, source, "ordered")).reason)
    finally:
        watchdog.terminate()
        await watchdog.wait()


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, format="  the fund says: %(message)s")
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(main(Path(name)))
