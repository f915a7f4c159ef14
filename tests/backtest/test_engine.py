"""The backtest: on the log, in a script, in a running loop, on real bars, and after kill -9."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentfund import Backtest, MemoryBus, Orchestrator, PaperBroker, Snapshot, SqliteBus
from agentfund.backtest import TrialLedger
from agentfund.core.context import SharedContext
from agentfund.errors import ConfigError
from agentfund.feeds import Bars, SimulatedMarket
from agentfund.specialists import desk
from tests.market import bars, broker, fund, wave

REAL = os.environ.get("AGENTFUND_REAL_DATA", "")
FILES = ["AAPL_15m.csv.gz", "EURUSD_4h.csv.gz", "BTCUSD_30m.csv.gz"]


def test_a_ledger_that_is_still_empty_is_the_one_that_counts(tmp_path: Path) -> None:
    """A run is counted where one asked for it, and not among those of the process."""
    ledger = TrialLedger()
    Backtest(fund(), bars(wave(60)), broker(), trials=ledger).run()
    assert ledger.count() == 1
    Backtest(fund(), bars(wave(60)), broker(), trials=tmp_path / "trials.jsonl").run()
    assert TrialLedger(tmp_path / "trials.jsonl").count() == 1


def test_run_works_in_a_script() -> None:
    """The synchronous door."""
    report = Backtest(fund(), bars(wave(60)), broker()).run()
    assert report.bars == 60
    assert report.decisions.shape[0] == 12


async def test_run_and_await_work_inside_a_running_loop() -> None:
    """As in a notebook, with the same result."""
    one = Backtest(fund(), bars(wave(60)), broker()).run()
    two = await Backtest(fund(), bars(wave(60)), broker())
    assert one.final_equity == two.final_equity


async def test_an_error_in_a_running_loop_reaches_the_caller() -> None:
    """It is not lost in the other thread."""

    class Broken(Bars):
        """Fails after some bars."""

        async def stream(self, after: Any = None) -> Any:
            """Give three bars, then fail."""
            count = 0
            async for market in super().stream(after):
                count += 1
                if count > 3:
                    raise OSError("cable")
                yield market

    feed = bars(wave(10))
    broken = Broken(feed.columns, source="broken")
    with pytest.raises(OSError, match="cable"):
        Backtest(fund(), broken, broker()).run()


def test_a_backtest_needs_history_and_a_paper_broker() -> None:
    """No real broker ever stands behind a backtest."""

    class Live:
        """A broker that is not simulated."""

    with pytest.raises(ConfigError, match="simulated broker"):
        Backtest(fund(), bars(wave(10)), Live())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="holds its history"):
        Backtest(fund(), Live(), broker())  # type: ignore[arg-type]


def test_progress_counts_to_the_end() -> None:
    """Long runs say how far they are."""
    seen: list[tuple[int, int]] = []
    Backtest(fund(), bars(wave(1100)), broker(), progress=lambda done, total: seen.append((done, total))).run()
    assert seen[-1] == (1100, 1100)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > 2


def test_cutting_the_future_changes_no_decision() -> None:
    """What was decided by bar 2,000 is the same when there are no later bars."""

    market = SimulatedMarket("SIM", bars=3000, seed=4).columns["SIM"]
    names = ("start", "open", "high", "low", "close", "volume")

    def decisions(count: int) -> list[tuple[Any, ...]]:
        head = replace(market, **{name: getattr(market, name)[:count] for name in names})
        report = Backtest(Orchestrator(desk(), bus=MemoryBus()), Bars({"SIM": head}, source="cut"), broker()).run()
        return [tuple(row) for row in report.decisions[["time", "outcome", "reason", "price"]].itertuples(index=False)]

    whole, cut = decisions(3000), decisions(2000)
    assert len(cut) > 2
    assert whole[: len(cut)] == cut


def test_a_log_on_disk_rebuilds_the_same_state(tmp_path: Path) -> None:
    """Another process reads what this one had in memory."""
    one = fund(bus=SqliteBus(tmp_path / "fund.db"))
    Backtest(one, bars(wave(200)), broker()).run()

    async def rebuild() -> SharedContext:
        context = SharedContext(one.pipeline.outputs)
        context.apply([message async for message in SqliteBus(tmp_path / "fund.db", read_only=True).read()])
        return context

    assert asyncio.run(rebuild()).state == one.context.state


SLOW = """
import asyncio, sys, time
from pathlib import Path
from agentfund import Agent, Backtest, Orchestrator, Proposal, SqliteBus, Verdict
from agentfund.llms import ScriptedLLM
from tests.market import bars, broker, buyer, wave

folder = Path(sys.argv[1])

def answer(prompt):
    with open(folder / "asked.txt", "a") as file:
        file.write(f"{prompt.digest}\\n")
    time.sleep(0.01)
    return Verdict(approved=True, reason="fine")

class Asked(Agent[Verdict]):
    'Judge the proposal.'

    reads = (Proposal,)

orchestrator = Orchestrator([buyer, Asked(ScriptedLLM(answer))], bus=SqliteBus(folder / "fund.db"), mode="autonomous")
feed = bars(wave(400))

async def paper():
    async for decision in orchestrator.run(feed, broker()):
        pass

if sys.argv[2] == "backtest":
    Backtest(orchestrator, feed, broker()).run()
else:
    asyncio.run(paper())
print(orchestrator.context.state.equity)
"""


@pytest.mark.parametrize("kind", ["backtest", "paper"])
def test_kill_9_in_the_middle_loses_nothing_and_asks_nothing_twice(kind: str, tmp_path: Path) -> None:
    """A real process on a real log, killed three times; in the end the log is that of a run that was left alone."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def start(folder: Path) -> subprocess.Popen[str]:
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-c", SLOW, str(folder), kind]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    calm, killed = tmp_path / "calm", tmp_path / "killed"
    expected, errors = start(calm).communicate(timeout=60)
    assert expected, errors
    for kill in range(3):
        process = start(killed)
        asked, deadline = killed / "asked.txt", time.monotonic() + 30
        while time.monotonic() < deadline and (not asked.exists() or len(asked.read_text().splitlines()) < 15 * (kill + 1)):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    result, errors = start(killed).communicate(timeout=60)
    assert result == expected, errors

    async def lines(path: Path) -> list[str]:
        return [message.line() async for message in SqliteBus(path, read_only=True).read()]

    assert asyncio.run(lines(killed / "fund.db")) == asyncio.run(lines(calm / "fund.db"))
    once, again = ((folder / "asked.txt").read_text().splitlines() for folder in (calm, killed))
    assert len(once) == 80
    # A question whose answer had not reached the log when the process died is the only one that is asked again.
    assert len(again) <= len(once) + 3


@pytest.mark.skipif(not REAL, reason="AGENTFUND_REAL_DATA is not set: no real bars here")
@pytest.mark.parametrize("name", FILES)
def test_real_bars_end_with_a_report_and_a_log_and_twice_the_same(name: str, tmp_path: Path) -> None:
    """Every bar file; two runs give byte-identical logs, and AAPL reports its unadjusted split."""
    feed = Bars.from_file(Path(REAL) / name).tail(6000) if "AAPL" not in name else Bars.from_file(Path(REAL) / name)
    if "AAPL" in name:
        assert any("2020-08-31" in warning and "4:1" in warning for warning in feed.warnings)
        feed = feed.tail(6000)

    def once(path: Path) -> tuple[Any, list[str]]:
        one = Orchestrator(desk(), bus=SqliteBus(path))
        report = Backtest(one, feed, PaperBroker(cash=100_000)).run()

        async def lines() -> list[str]:
            return [message.line() async for message in one.bus.read()]

        return report, asyncio.run(lines())

    report, log = once(tmp_path / "a.db")
    _, again = once(tmp_path / "b.db")
    assert report.bars == 6000
    assert log == again
    assert report.to_json()["decisions"] > 0


def test_a_snapshot_is_never_of_the_future() -> None:
    """At every bar the newest bar seen is the one that has just closed."""
    from agentfund import Verdict, agent
    from tests.market import buyer

    feed, ends = bars(wave(40)), []

    @agent(name="watch")
    def watch(context: Snapshot) -> Verdict:
        """Note what is visible."""
        ends.append((context.now, len(context.bars), context.market_now.now))
        return Verdict(approved=True, reason="seen")

    Backtest(fund(buyer, watch), feed, broker()).run()
    assert [count for _, count, _ in ends] == list(range(1, 41))
    assert all(now == then for now, _, then in ends)


def test_ctrl_c_in_a_notebook_stops_the_run() -> None:
    """Where a loop is running the backtest has a thread of its own, which must not go on asking without anybody."""
    code = """
import asyncio, os, signal, threading, time
from agentfund import Backtest, MemoryBus, Orchestrator, PaperBroker, Router
from agentfund.feeds import SimulatedMarket
from agentfund.llms import ScriptedLLM
from agentfund.specialists import desk

llm = ScriptedLLM(lambda prompt: None, latency_s=0.02)
backtest = Backtest(Orchestrator(desk(Router([llm])), bus=MemoryBus()), SimulatedMarket(bars=5000), PaperBroker(), ahead=False)

async def cell():
    threading.Timer(0.6, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    backtest.run()

try:
    asyncio.new_event_loop().run_until_complete(cell())
except KeyboardInterrupt:
    asked = len(llm.prompts)
    time.sleep(0.3)
    print("stopped", 0 < asked == len(llm.prompts), [t.name for t in threading.enumerate() if t.name == "backtest"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "stopped True []", done.stderr
