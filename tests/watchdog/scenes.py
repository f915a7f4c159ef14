"""A machine whose clocks and boots are the test's, a broker stub, and a watchdog that is moved round by round."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from agentfund.core.pulse import Pulse
from agentfund.errors import BrokerUnavailable
from agentfund.messages import Event, Filled, Intended, Message, Observed, Started
from agentfund.trading import Account, Book, Fill, Order, OrderType, Permit, Resting, Side
from agentfund.watchdog import Caps, Halts, Heart, LeaseFile, LogReader, Machine, Watchdog, make_folder
from agentfund.watchdog.keys import Key

START = datetime(2024, 3, 5, 12, tzinfo=UTC)
D = Decimal


class World:
    """A machine's clocks, which a test moves."""

    def __init__(self) -> None:
        self.up = 1_000.0
        self.boot = "boot-1"
        self.wall = START
        self.machine = Machine(uptime=lambda: self.up, boot=lambda: self.boot, now=lambda: self.wall)

    def advance(self, seconds: float) -> None:
        """Let time pass for all clocks."""
        self.up += seconds
        self.wall += timedelta(seconds=seconds)


def book(equity: float | str | None = 100_000, positions: dict[str, Any] | None = None, *resting: Resting, **more: Any) -> Book:
    """Return a broker's book."""
    held = {symbol: D(quantity) for symbol, quantity in (positions or {}).items()}
    account = Account(D(100_000), held, None if equity is None else D(equity), more.pop("margin_used", None))
    return Book(account, resting, **more)


def stop(symbol: str = "AAA", quantity: Any = 10, price: Any = 95, side: Side = Side.SELL, **more: Any) -> Resting:
    """Return a resting stop."""
    return Resting(more.pop("id", f"stop-{symbol}"), symbol, side, D(quantity), OrderType.STOP, D(price), **more)


class Stub:
    """A broker session that looks: what it shows, or how it fails, is the test's."""

    def __init__(self) -> None:
        self.shown = book()
        self.fails = ""

    async def book(self) -> Book:
        """Return what is shown."""
        if self.fails:
            raise BrokerUnavailable(self.fails)
        return self.shown


class Scene:
    """A folder, a broker stub, a heart and a watchdog on a machine of the test's."""

    def __init__(self, path: Path, caps: Caps | None = None, bus: Any = None, **more: Any) -> None:
        self.path = path / "watch"
        self.world = World()
        self.stub = Stub()
        self.caps = caps or Caps()
        self.bus = bus
        self.more = more
        self.pulse = Pulse("fund", "limits", "waiting")
        self.folder = make_folder(str(self.path), passphrase=None, fund="fund", config="limits")
        self.heart = Heart(self.path, machine=self.world.machine)
        self.halts = Halts(self.path, machine=self.world.machine)
        self.dog = self.start()

    def start(self, **more: Any) -> Watchdog:
        """Start a watchdog, the last one having gone."""
        log = None if self.bus is None else LogReader(self.bus, "fund")
        settings = {**self.more, **more}
        self.dog = Watchdog(self.path, broker=self.stub, log=log, caps=self.caps, machine=self.world.machine, **settings)
        return self.dog

    def restart(self, **more: Any) -> Watchdog:
        """End the watchdog and start another one."""
        self.dog.close()
        return self.start(**more)

    def reader(self, **more: Any) -> LeaseFile:
        """Return a reader as the fund has one."""
        return LeaseFile(self.path, **{"fund": "fund", "config": "limits", "machine": self.world.machine, **more})

    async def step(self, times: int = 1, seconds: float = 0.25, *, beat: bool = True, look: bool = True) -> None:
        """Let time pass, the heart beat, the watchdog look and judge."""
        for _ in range(times):
            self.world.advance(seconds)
            if beat:
                self.heart.beat(self.pulse)
            if look:
                await self.dog.look.once()
                if self.dog.read is not None:
                    await self.dog.read.once()
            self.dog.round()

    async def ready(self) -> LeaseFile:
        """Run until there is a lease; return a reader that sees it."""
        await self.step(3)
        reader = self.reader()
        assert reader.now() == Permit(), (reader.now(), self.dog.judged)
        return reader

    def operator(self) -> Key:
        """Return the operator's key."""
        return self.folder.operators_key(None)

    def codes(self) -> list[str]:
        """Return the codes that are latched."""
        return [cause.code for cause in self.dog.record.open.values()]


ORDER = Order("o1", "AAA", Side.BUY, D(10), START, stop_loss=D(95), take_profit=D(110), decision="d1")
FILL = Fill("f1", "o1", "AAA", Side.BUY, D(10), D(100), D(1), START, D(100))


def message(event: Event, number: int = 0, **more: Any) -> Message:
    """Return a message of the fund."""
    name = f"{type(event).__name__}-{number}-{more.get('token', 0)}"
    return Message.of(event, id=name, stream="fund", producer="test", time=more.pop("time", START), **more)


def begun() -> list[Message]:
    """Return the beginning of a fund that bought."""
    started = Started("r", "fund", "autonomous", (), {}, {}, {}, D(100_000), "1")
    seen = Observed({"AAA": D(100)}, D(100_000), D(100_000), D(100_000))
    return [message(started), message(seen), message(Intended(ORDER)), message(Filled(FILL))]


def bought(fill: Fill = FILL, **more: Any) -> Message:
    """Return a fill as a message."""
    return message(Filled(replace(fill, **more)), hash((fill.id, *more.values())) & 0xFFFF)


COMMAND = """
import typer
from agentfund.cli import Commands
from agentfund.watchdog.commands import add
app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
app.callback()(lambda: None)
add(app)
app(prog_name="agentfund")
"""

WATCH = """
import asyncio, json, signal, sys
from decimal import Decimal
from agentfund.trading import Account, Book
from agentfund.watchdog import Caps, Watchdog

class Http:
    async def book(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
        writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
        told = json.loads((await reader.read()).partition(b"\\r\\n\\r\\n")[2])
        writer.close()
        return Book(Account(Decimal(told["equity"]), {}, Decimal(told["equity"])))

async def main():
    dog = Watchdog(sys.argv[1], broker=Http(), caps=Caps(blind_s=float(sys.argv[3])), deadline_s=60)
    task = asyncio.ensure_future(dog.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        pass

asyncio.run(main())
"""

FUND = """
import asyncio, sys
from agentfund.core.pulse import Pulse
from agentfund.watchdog import Heart
asyncio.run(Heart(sys.argv[1]).keep(lambda: Pulse("fund", "limits", "waiting")))
"""


@contextmanager
def process(code: str, *args: object, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """Run Python in a process of its own, and kill it in the end."""
    command = [sys.executable, "-c", code, *map(str, args)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGCONT)
        running.kill()
        running.communicate()


def until(what: Callable[[], bool], seconds: float = 20.0) -> float:
    """Wait until something holds; return for how long that took."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds, "it did not come to that"
        time.sleep(0.002)
    return time.monotonic() - began


def as_root() -> bool:
    """Whether a test can change users."""
    return hasattr(os, "geteuid") and os.geteuid() == 0
