"""A day of ticks lived through by real processes, a fund and its watchdog; and what has to be true of it afterwards."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

import numpy as np

from agentfund.brokers.paper import PaperBroker
from agentfund.buses.sqlite import SqliteBus
from agentfund.core.limits import Limits
from agentfund.core.past import Past, PastView
from agentfund.core.views import see
from agentfund.feeds.ticks import read_ticks_csv
from agentfund.feeds.ticks_arrays import columns_from_ticks
from agentfund.market import Bar, Instrument, Window
from agentfund.messages import Filled, Levelled, Message, Observed
from agentfund.trading import ZERO, Level, Side

AGENTFUND = (sys.executable, "-m", "agentfund")
MINUTE = timedelta(minutes=1)
MICROS = 60_000_000
CASH = 100_000
ROUND_S = 0.2
"""Seconds from sample to sample."""
ALLOCATOR_KB = 512
"""What may come and go however long a run is: allocators take memory by the piece."""
MESSAGE_KB = 0.75
"""What a message may keep: pages of the log in SQLite's cache, 0.36 KB a message for a connection until its 2 MB are full."""
FILL_KB = 3
"""What a fill may keep, with its order: the books of broker and watchdog hold every one of the run, 0.9 KB in each."""
LEAK_KB = 40
"""What the agents `leaking` keep of each cycle."""

AGENTS = f'''
import json
import os
from pathlib import Path

from agentfund import Abstain, Record, agent
from agentfund.specialists import desk
from agentfund.strategies import RsiReversion

FILE = Path(__file__).with_name("bars.jsonl").open("a", buffering=1)


class Seen(Record):
    """Never said."""


@agent()
def witness(context) -> Seen | Abstain:
    """Write down every bar that the fund is shown, history included."""
    new = range(len(context.bars)) if not FILE.tell() else [len(context.bars) - 1]
    for bar in map(context.bars.bar, new):
        FILE.write(json.dumps([bar.start.isoformat(), bar.end.isoformat(), *bar[3:8]]) + "\\n")
    return Abstain("it only looks")


@agent()
def hoarder(context, kept=[]) -> Seen | Abstain:
    """Keep something of every bar, and never let it go."""
    kept.append(os.urandom({LEAK_KB} * 1024))
    return Abstain("it only keeps")


def alone(feed):
    return [RsiReversion(5, 40, 55, stop_pct=1, target_pct=3), witness]


def with_the_desk(feed):
    return [*desk(strategist=RsiReversion(5, 40, 55, stop_pct=1, target_pct=3)), witness]


def leaking(feed):
    return [*alone(feed), hoarder]
'''


class Sample(NamedTuple):
    """What was seen at one moment.

    Args:
        at: seconds since the fund was started.
        cycle: which cycle the fund is in, by its heartbeat; 0 before the first.
        fund_kb: memory of the fund's process that is its own and backed by no file, KB; 0 where it has ended.
        watchdog_kb: the same of the watchdog's.
        stage: what the fund does, by its heartbeat; empty before the first.
        withheld: why the watchdog gives no lease, empty where it gives one; None before its first word.
    """

    at: float
    cycle: int
    fund_kb: int
    watchdog_kb: int
    stage: str
    withheld: str | None


def write_ticks(path: Path, *, hours: float, every_s: float = 5.0, seed: int = 3) -> None:
    """Write ticks of a market that swings, with some minutes in which nothing trades."""
    rng = np.random.default_rng(seed)
    count = int(hours * 3600 / every_s)
    seconds = np.sort(rng.uniform(0, hours * 3600, count))
    seconds = seconds[(seconds // 60) % 37 != 11]  # a minute without a tick now and then
    price = 4500 + 25 * np.sin(seconds / 900) + np.cumsum(rng.normal(0, 0.3, len(seconds)))
    start = np.datetime64("2024-03-04T09:00:00")
    with path.open("w", encoding="utf-8") as file:
        file.write("time,price,volume\n")
        for second, each in zip(seconds, price, strict=True):
            moment = start + np.timedelta64(round(second * 1000), "ms")
            file.write(f"{moment}Z,{each:.2f},{rng.integers(50, 500)}\n")


def lived(folder: Path, ticks: Path, *, symbol: str, speed: float, agents: str) -> list[Sample]:
    """Live through a file of ticks with `agentfund watchdog` and `agentfund paper`; return what was seen of both."""
    (folder / "crew.py").write_text(AGENTS, encoding="utf-8")
    fund, watch = folder / "fund", folder / "fund" / "watch"
    init = [*AGENTFUND, "watchdog", "--dir", str(watch), "--init", "--fund", "fund", "--without-passphrase"]
    subprocess.run(init, check=True, capture_output=True)
    guard = [*AGENTFUND, "watchdog", "--dir", str(watch), "--bus", str(fund / "fund.db")]
    command = [*AGENTFUND, "paper", "--feed", "recorded", "--data", str(ticks), "--symbols", symbol, "--speed", str(speed)]
    command += ["--bar-minutes", "1", "--dir", str(fund), "--agents", f"{folder}/crew.py:{agents}", "--plain"]
    for limit in ("max_quote_age_s", "max_decision_age_s"):  # a busy machine is late by its own seconds
        command += ["--limit", f"{limit}={getattr(Limits(), limit) * speed}"]
    with (folder / "watchdog.txt").open("w") as told, (folder / "paper.txt").open("w") as said:
        watching = subprocess.Popen(guard, stdout=told, stderr=told)
        trading = subprocess.Popen(command, stdout=said, stderr=said)
        began, samples = monotonic(), []
        try:
            while trading.poll() is None:
                assert watching.poll() is None, (folder / "watchdog.txt").read_text()
                samples.append(_sample(monotonic() - began, trading.pid, watching.pid, watch))
                sleep(ROUND_S)
        finally:
            if trading.poll() is None:
                trading.kill()
            watching.send_signal(signal.SIGTERM)
            codes = trading.wait(30), watching.wait(30)
    assert codes == (0, 0), (folder / "paper.txt").read_text() + (folder / "watchdog.txt").read_text()
    (folder / "samples.json").write_text(json.dumps(samples))
    return [one for one in samples if one.fund_kb and one.watchdog_kb]


def _sample(at: float, fund: int, watchdog: int, watch: Path) -> Sample:
    beat, shown = _json(watch / "heartbeat.json"), _json(watch / "status.json")
    stage, cycle = (str(beat["pulse"]["stage"]), int(beat["pulse"]["cycle"])) if beat else ("", 0)
    return Sample(at, cycle, _own_kb(fund), _own_kb(watchdog), stage, shown["withheld"] if shown else None)


def _json(path: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return told


def _own_kb(pid: int) -> int:
    """Return the memory that a process holds by itself: pages of libraries and of the log come and go with the machine."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    told = (line.split() for line in status.splitlines())
    return sum(int(words[1]) for words in told if words[0] in ("RssAnon:", "VmSwap:"))


async def messages(folder: Path) -> tuple[list[Message], Past]:
    """Return the fund's log, and its fold."""
    bus = SqliteBus(folder / "fund" / "fund.db", read_only=True)
    try:
        return [message async for message in bus.read("fund")], (await see(bus, "fund", PastView())).value
    finally:
        await bus.close()


def offline(ticks: Path, symbol: str) -> list[Bar]:
    """Return the bars of the whole file."""
    time, price, volume = read_ticks_csv(ticks)
    order = time.argsort(kind="stable")
    sizes = None if volume is None else volume[order]
    columns, _ = columns_from_ticks(Instrument(symbol), MINUTE, time[order], price[order], sizes)
    window = Window(columns, len(columns))
    return [window.bar(at) for at in range(len(window))]


def witnessed(folder: Path) -> list[list[Any]]:
    """Return the bars that the fund was shown, as the witness wrote them down."""
    return [json.loads(line) for line in (folder / "bars.jsonl").read_text().splitlines()]


def as_written(bars: Sequence[Bar]) -> list[list[Any]]:
    """Return bars as the witness writes them."""
    return [[bar.start.isoformat(), bar.end.isoformat(), *bar[3:8]] for bar in bars]


def cycles(log: Sequence[Message]) -> list[Any]:
    """Return the moments of the market at which there was a cycle, in the order of the log."""
    return [message.time for message in log if isinstance(message.event, Observed)]


def held(log: Sequence[Message]) -> list[str]:
    """Return why the fund was held above caution, each time."""
    return [event.reason for message in log if isinstance(event := message.event, Levelled) and event.level > Level.CAUTION]


def leased(samples: Sequence[Sample]) -> float:
    """Return the share of the samples that found a lease, from the first one on and while the fund ran."""
    first = next((at for at, one in enumerate(samples) if one.withheld == ""), len(samples))
    found = [one.withheld == "" for one in samples[first:] if one.stage != "ended"]
    return sum(found) / max(len(found), 1)


def folded(past: Past) -> tuple[Decimal, dict[str, Decimal]]:
    """Return cash and holdings by the fills alone."""
    cash, held = Decimal(CASH), dict[str, Decimal]()
    for fill in past.fills:
        sign = 1 if fill.side is Side.BUY else -1
        cash -= sign * fill.quantity * fill.price + fill.fee
        held[fill.symbol] = held.get(fill.symbol, ZERO) + sign * fill.quantity
    return cash, {symbol: quantity for symbol, quantity in held.items() if quantity}


async def restored(past: Past) -> tuple[Decimal, dict[str, Decimal]]:
    """Return cash and holdings of a paper broker that is restored from the log."""
    broker = PaperBroker(CASH)
    broker.restore(tuple(past.orders.values()), tuple(past.fills), past.state.observed)
    account = await broker.account()
    return account.cash, dict(account.positions)


class Growth(NamedTuple):
    """How memory grows over the second half of a run, by a line of least squares through it.

    Args:
        kb: by how much.
        cycles: cycles of that half.
        messages: messages on the log of that half.
        fills: fills among them.
    """

    kb: float
    cycles: int
    messages: int
    fills: int

    @property
    def flat(self) -> bool:
        """Whether it is no more than what may come and go, and what messages and fills may keep."""
        return self.kb <= ALLOCATOR_KB + MESSAGE_KB * self.messages + FILL_KB * self.fills


def growth(sizes: Sequence[tuple[int, int]], messages: Sequence[int], fills: Sequence[int]) -> Growth:
    """Return how memory grows.

    Args:
        sizes: cycle and memory in KB, in the order of time.
        messages: the cycle of each message.
        fills: the cycle of each fill.
    """
    middle = sizes[-1][0] / 2
    cycles, kb = np.array([(cycle, size) for cycle, size in sizes if cycle >= middle]).T
    length = int(cycles[-1] - cycles[0])
    slope = float(np.polyfit(cycles - cycles[0], kb, 1)[0])
    return Growth(slope * length, length, sum(at >= middle for at in messages), sum(at >= middle for at in fills))


def memory(samples: Sequence[Sample], log: Sequence[Message]) -> tuple[Growth, Growth]:
    """Return how the memory of a fund and of its watchdog grows, while the fund has cycles."""
    messages = [message.cycle for message in log]
    fills = [message.cycle for message in log if isinstance(message.event, Filled)]
    lived = [one for one in samples if one.cycle and one.stage != "ended"]
    fund = growth([(one.cycle, one.fund_kb) for one in lived], messages, fills)
    return fund, growth([(one.cycle, one.watchdog_kb) for one in lived], messages, fills)
