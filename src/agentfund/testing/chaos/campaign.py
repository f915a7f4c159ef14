"""Starts a fund of several processes over a real bus, harms it, and checks what is left."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agentfund.buses.urls import open_bus
from agentfund.errors import AgentFundError, BusError
from agentfund.messages import Decided, Led
from agentfund.testing.chaos.checks import faults
from agentfund.testing.chaos.line import ExchangeBroker
from agentfund.testing.chaos.parts import FUND
from agentfund.testing.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUIET_S = 60.0
"""How long the fund may take, after all harm has ended, until log and exchange agree."""

HARMS = ("kill fund", "kill worker", "freeze fund", "freeze worker", "cut", "slow", "deaf")


@dataclass
class Outcome:
    """What a campaign found.

    Attributes:
        bus: address without password.
        seed: which harms; their moments are real time, so another run of the seed is not the same run.
        harms: how often each was done.
        messages: on the log.
        orders: that the exchange dealt.
        again: orders that reached it more than once, without effect.
        bars: that the exchange made meanwhile.
        leaders: tokens that were taken.
        faults: what went wrong, one sentence each.
    """

    bus: str
    seed: int
    harms: dict[str, int] = field(default_factory=dict)
    messages: int = 0
    orders: int = 0
    again: int = 0
    bars: int = 0
    leaders: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        done = ", ".join(f"{name} {times}" for name, times in self.harms.items()) or "no harm"
        verdict = "nothing lost, nothing doubled" if not self.faults else "\n".join(["FAILED:", *self.faults])
        return (
            f"chaos over {self.bus}, seed {self.seed}: {done}; {self.bars} bars, {self.orders} orders dealt, {self.again} sent"
            f" again without effect, {self.leaders} leaders, {self.messages} messages on the log: {verdict}"
        )

    def as_json(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self))


class Part:
    """A process that is harmed.

    Args:
        args: arguments of this package's command line.
        output: where its output goes.
    """

    def __init__(self, args: list[str], output: Path) -> None:
        self._command = [sys.executable, "-m", "agentfund.testing.chaos", *args]
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None
        self.frozen = False

    def start(self) -> None:
        """Start it where it does not run."""
        if self._process is not None and self._process.poll() is None:
            return
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - this very Python and package
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.frozen = False

    def freeze(self) -> None:
        """Stop it (SIGSTOP)."""
        self._send(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self._send(signal.SIGCONT)
        self.frozen = False

    def _send(self, number: int) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Campaign:
    """A fund over a bus, and what is done to it.

    Args:
        bus: the bus's address; a log that nobody uses otherwise.
        folder: for what the processes print.
        seed: which harms.
        seconds: how long harm is done.
        bar_s: length of a bar.
        options: of the bus, such as `name` and `demand`, as they stand in a URL's place on the command line.
        tell: shown each harm as it is done.
    """

    def __init__(
        self,
        bus: str,
        folder: Path,
        *,
        seed: int = 0,
        seconds: float = 60.0,
        bar_s: float = 0.25,
        options: dict[str, str] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._address = bus
        self._options = dict(options or {})
        self._folder = folder
        self._seconds = seconds
        self._bar_s = bar_s
        self._tell = tell or (lambda text: None)
        self._random = random.Random(seed)  # noqa: S311 - a drill, no secret
        parts = urlsplit(bus)
        self._server = (parts.hostname, parts.port) if parts.hostname and parts.port else None
        shown = f"{parts.scheme}://{parts.hostname}:{parts.port}" if self._server else bus
        self.outcome = Outcome(shown, seed)
        self._done: Counter[str] = Counter()

    async def run(self) -> Outcome:
        """Run it to the end; return what was found.

        Raises:
            BusError: the bus cannot be used at all.
        """
        log = open_bus(self._address, **self._options)
        await log.last()
        port = _free_port()
        async with AsyncExitStack() as stack:
            proxies: dict[str, Proxy] = {}
            if self._server is not None:
                for who in ("fund", "worker"):
                    proxies[who] = await stack.enter_async_context(Proxy(*self._server))
            exchange = Part(["exchange", str(port), str(self.outcome.seed), str(self._bar_s)], self._folder / "exchange.txt")
            crew = {
                f"{kind}-{number}": Part(
                    [kind, self._through(proxies.get(kind)), json.dumps(self._options), str(port)],
                    self._folder / f"{kind}-{number}.txt",
                )
                for kind in ("fund", "worker")
                for number in (1, 2)
            }
            try:
                exchange.start()
                await self._orders(port, 0, "the exchange does not answer")
                for part in crew.values():
                    part.start()
                await self._orders(port, 3, "the fund does not begin to trade")
                await self._harm(crew, proxies)
                for proxy in proxies.values():
                    proxy.heal()
                for part in crew.values():
                    part.thaw()
                    part.start()
                dealt = self.outcome.orders
                await self._orders(port, dealt + 3, "the fund does not trade any more after the harm has ended")
                broker = ExchangeBroker(port)
                await broker.ask("close")
                await broker.close()
                await self._agree(log, port)
            except TimeoutError as error:
                self.outcome.faults.append(str(error))
            finally:
                for part in (*crew.values(), exchange):
                    part.kill()
                await log.close()
        self.outcome.harms = dict(sorted(self._done.items()))
        return self.outcome

    def _through(self, proxy: Proxy | None) -> str:
        if proxy is None:
            return self._address
        parts = urlsplit(self._address)
        login = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login[0]}{login[1]}127.0.0.1:{proxy.port}").geturl()

    async def _orders(self, port: int, number: int, why: str) -> None:
        """Wait until the exchange has dealt so many orders."""
        ends = time.monotonic() + QUIET_S
        while time.monotonic() < ends:
            with suppress(AgentFundError):
                broker = ExchangeBroker(port)
                told = await broker.ask("arrivals")
                await broker.close()
                self.outcome.bars = told["bars"]
                self.outcome.orders = sum(not one["again"] for one in told["arrivals"])
                self.outcome.again = sum(one["again"] for one in told["arrivals"])
                if self.outcome.orders >= number:
                    return
            await asyncio.sleep(0.1)
        raise TimeoutError(f"{why}: see what its processes print in {self._folder}")

    async def _harm(self, crew: dict[str, Part], proxies: dict[str, Proxy]) -> None:
        ends = time.monotonic() + self._seconds
        possible = [one for one in HARMS if proxies or one.split()[0] in ("kill", "freeze")]
        while time.monotonic() < ends:
            await asyncio.sleep(self._random.uniform(0.1, 1.5))
            harm = self._random.choice(possible)
            what, _, kind = harm.partition(" ")
            who = f"{kind or self._random.choice(['fund', 'worker'])}-{self._random.choice([1, 2])}"
            part, proxy = crew[who], proxies.get(who.split("-")[0])
            lasting = self._random.uniform(0.05, 4.0)
            self._done[harm] += 1
            self._tell(f"{harm}: {who}, {lasting:.1f} s")
            match what:
                case "kill":
                    part.kill()
                    await asyncio.sleep(self._random.uniform(0.0, 1.0))
                    part.start()
                case "freeze":
                    part.freeze()
                    await asyncio.sleep(lasting)
                    part.thaw()
                case "cut" if proxy is not None:
                    proxy.cut()
                case "slow" if proxy is not None:
                    for way in (proxy.requests, proxy.answers):
                        way.delay = way.jitter = 0.05
                    await asyncio.sleep(lasting)
                    proxy.heal()
                case "deaf" if proxy is not None:
                    proxy.answers.lost = True  # what was asked arrives, and nobody learns of it
                    await asyncio.sleep(lasting)
                    proxy.cut()
                    proxy.heal()
            for other in crew.values():
                other.start()  # what ended by itself, because its lease was lost, is started again as a supervisor would

    async def _agree(self, log: object, port: int) -> None:
        """Wait until log and exchange agree, and check everything."""
        ends = time.monotonic() + QUIET_S
        wrong = ["nothing was checked"]
        while wrong and time.monotonic() < ends:
            await asyncio.sleep(4 * self._bar_s)
            broker = ExchangeBroker(port)
            try:
                told = (await broker.ask("arrivals"))["arrivals"]
                fills, account = await broker.fills(), await broker.account()
                messages = [message async for message in log.read()]  # type: ignore[attr-defined]
                await broker.close()
            except (AgentFundError, BusError) as error:
                wrong = [str(error)]
                continue
            refused = {one["id"] for one in told} - {fill.order_id for fill in fills}
            wrong = faults(messages, [one for one in told if one["id"] not in refused], fills, account, FUND)
            self.outcome.messages = len(messages)
            self.outcome.leaders = len({e.token for m in messages if isinstance(e := m.event, Led)})
            if not any(isinstance(m.event, Decided) for m in messages):
                wrong.append("nothing was decided")
        self.outcome.faults += wrong
