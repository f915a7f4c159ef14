"""Rounds of kill -9 on a bus: producers and a group of consumers at work, one process killed, and nothing lost or doubled."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from agentfund.buses.urls import open_bus
from agentfund.errors import BusError, BusUnavailable
from agentfund.testing.chaos.crew import CONSUMERS, GROUP, KEYS, LINES, PRODUCERS, Crew, Tally
from agentfund.testing.chaos.history import HALVES, wrong

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agentfund.messages import Message
    from agentfund.protocols import Bus
    from agentfund.testing.chaos.crew import Opener

PATIENCE_S = 120.0
"""How long a round may take until everybody is at work again."""

LEASE = timedelta(seconds=0.4)
TIMEOUT = timedelta(seconds=2)
STRETCH = 25
_STEP = 2  # batches that each line publishes in a round
_SLACK = 6 * _STEP  # how far a key's effects may stay behind: what a killed consumer held waits for its lease
_LOOK_S = 0.002
_LATE_S = 0.004
_IDLE_S = 0.2  # a victim that has nothing to do is killed idle
_MIRRORED = ("nats", "tls", "amqp", "amqps", "kafka")


class Server(Protocol):
    """A bus's server of our own."""

    def start(self) -> None:
        """Start it where its data are, and wait until it serves."""
        ...

    def kill(self) -> None:
        """Kill it (SIGKILL), and wait until it is gone."""
        ...


class Command:
    """A server by the command that runs it in the foreground.

    Args:
        command: the command, as in a shell.
        address: of the bus: whoever answers there, the server runs.
    """

    def __init__(self, command: str, address: str) -> None:
        parts = urlsplit(address)
        if not parts.hostname or not parts.port:
            raise BusError(f"{address} has no host and port: name them, so that it can be seen when the server runs")
        self._where = (parts.hostname, parts.port)
        self._command = shlex.split(command)
        self._process: subprocess.Popen[bytes] | None = None
        if self._answers():
            raise BusError(f"{parts.hostname}:{parts.port} answers already: only a server that this command starts is killed")

    def start(self) -> None:
        """Start it, and wait until its port answers; again where it ends at once, because its forebear is not quite gone.

        Raises:
            BusError: it does not run.
        """
        ends = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends:
            self._process = subprocess.Popen(  # noqa: S603 - what the user named
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            while self._process.poll() is None and time.monotonic() < ends:
                if self._answers():
                    return
                time.sleep(0.02)
            self.kill()
            time.sleep(0.2)
        raise BusError(f"{self._command[0]} does not run: try the command by hand")

    def kill(self) -> None:
        """Kill it and what it has started in its group (SIGKILL)."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with suppress(OSError):
            socket.create_connection(self._where, timeout=1).close()
            return True
        return False


@dataclass(frozen=True)
class Opening:
    """Opens the log of some rounds; can be handed to other processes.

    Args:
        address: of the bus.
        folder: for mirrors.
        options: of the bus.
    """

    address: str
    folder: Path
    options: dict[str, Any]

    def __call__(self, who: str) -> Bus:
        """Return the bus for a process; of two that keep a mirror of their log, one finds it again after its death."""
        options = dict(self.options)
        if who.endswith("-1") and urlsplit(self.address).scheme in _MIRRORED:
            options["mirror"] = self.folder / f"{who}.db"
        return open_bus(self.address, timeout=TIMEOUT, lease=LEASE, max_attempts=10**6, **options)


@dataclass
class Result:
    """What rounds found.

    Attributes:
        rounds: that were done.
        kills: how often each kind of process was killed.
        working: how many of the killed producers and consumers were in the middle of a message.
        messages: on the logs, effects among them.
        again: messages that were handed over more than once.
        seconds: that it took.
        faults: what went wrong, one sentence each.
        failed: the round that found it.
    """

    rounds: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    working: int = 0
    messages: int = 0
    again: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    failed: int | None = None

    def __str__(self) -> str:
        kills = ", ".join(f"{kind} {times}" for kind, times in self.kills.items()) or "nobody"
        verdict = (
            "nothing lost, nothing doubled" if not self.faults else "\n".join([f"FAILED in round {self.failed}:", *self.faults])
        )
        return (
            f"{self.rounds} rounds in {self.seconds:.0f} s; killed: {kills}, {self.working} in the middle of a message;"
            f" {self.messages} messages on the logs, {self.again} handed over again: {verdict}"
        )

    def as_json(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self))


class Rounds:
    """Rounds of kill -9 on logs of a bus.

    In a round every producer publishes some batches, the consumers of a group bring about one effect for each message, and
    one process is killed at a random moment and started again. It ends when that one is at work again; then the log is read and
    checked, from its beginning where the server was killed. After some rounds all effects must be there, everybody is killed,
    somebody who comes anew reads the whole log once more, and others begin on a new one.

    Args:
        opener: gives what opens the log of a stretch, by the stretch's number; it gets the name of the process that opens it.
        folder: for counters, and what the processes print.
        seed: which victims and moments; a round depends on the seed and its own number alone, and on real time.
        server: of the bus, where it may be killed; running.
        share: of the rounds in which the server is killed.
        stretch: rounds on one log.
        tell: shown each round's harm.
    """

    def __init__(
        self,
        opener: Callable[[int], Opener],
        folder: Path,
        *,
        seed: int = 0,
        server: Server | None = None,
        share: float = 0.2,
        stretch: int = STRETCH,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._opener = opener
        self._folder = folder
        self._seed = seed
        self._server = server
        self._share = share if server is not None else 0.0
        self._stretch = stretch
        self._tell = tell or (lambda text: None)
        self._kills: Counter[str] = Counter()
        self.result = Result()

    async def run(self, rounds: int, first: int = 0) -> Result:
        """Do rounds from a number on; stop at the first that finds something wrong.

        Raises:
            BusError: the bus cannot be used at all.
        """
        began = time.monotonic()
        opener = self._opener(0)
        crew = await asyncio.to_thread(Crew, opener)
        try:
            for start in range(0, rounds, self._stretch):
                numbers = range(first + start, first + min(start + self._stretch, rounds))
                await self._log(crew, opener if not start else self._opener(start // self._stretch), numbers)
                if self.result.faults:
                    break
        finally:
            crew.close()
            self.result.kills = dict(sorted(self._kills.items()))
            self.result.seconds = time.monotonic() - began
        return self.result

    async def _log(self, crew: Crew, opener: Opener, numbers: range) -> None:
        """Do rounds on one log."""
        folder = self._folder / f"rounds-{numbers[0]}"
        folder.mkdir(parents=True)
        log = _Log(crew, opener, folder, Tally(folder / "tally"), sync=self._server is not None)
        number = numbers[0]
        try:
            await log.begin()
            for number in numbers:
                await self._round(log, number)
            await log.end()
        except _Fault as fault:
            self.result.faults, self.result.failed = [*fault.args[0]], number
        finally:
            await log.close()
            self.result.messages += len(log.seen)
            self.result.again += sum(log.tally.again)

    async def _round(self, log: _Log, number: int) -> None:
        dice = random.Random(f"{self._seed}:{number}")  # noqa: S311 - a drill, no secret
        kind = "server" if dice.random() < self._share else dice.choice(["producer", "consumer"])
        place = dice.randrange(PRODUCERS if kind == "producer" else CONSUMERS)
        moment, late = dice.random(), dice.uniform(0, _LATE_S)
        who = kind if kind == "server" else f"{kind}-{place + 1}"
        # Of what the victim is likely to do in this round it does a random part, and a little more.
        work = (
            _STEP * LINES
            if kind == "server"
            else _STEP * (LINES // PRODUCERS if kind == "producer" else len(KEYS) // CONSUMERS)
        )
        upto = log.progress(kind, place) + int(moment * work)
        log.tally.goal[0] += _STEP
        with suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_S):
                while log.progress(kind, place) < upto and not log.finished():  # noqa: ASYNC110 - other processes count, in memory that we share
                    await asyncio.sleep(_LOOK_S)
        await asyncio.sleep(late)
        self._kills[kind] += 1
        if kind == "server" and self._server is not None:
            await asyncio.to_thread(self._server.kill)
            await asyncio.to_thread(self._server.start)
            inside = ""
        else:
            log.crew.kill(who)
            inside = " in the middle of a message" if log.working(kind, place) else ""
            self.result.working += bool(inside)
            log.start(who)
        before = log.progress(kind, place)
        await log.until(lambda: log.kept_up() and (log.finished() or log.progress(kind, place) > before), f"{who} was killed")
        await log.check(whole=kind == "server")
        self.result.rounds += 1
        self._tell(f"round {number}: killed {who}{inside}, {len(log.seen)} messages")


class _Fault(Exception):
    """Something is wrong: a list of sentences."""


class _Log:
    """Some rounds' log, and who works on it."""

    def __init__(self, crew: Crew, opener: Opener, folder: Path, tally: Tally, *, sync: bool) -> None:
        self.crew = crew
        self.tally = tally
        self.seen: list[Message] = []
        self._opener = opener
        self._folder = folder
        self._sync = sync
        self._reader: Bus | None = None
        self._started: set[str] = set()

    async def begin(self) -> None:
        """Make the log, and start everybody."""
        self._reader = self._opener("reader")
        await self._reader.last()
        for kind, most in (("producer", PRODUCERS), ("consumer", CONSUMERS)):
            for number in range(1, most + 1):
                self.start(f"{kind}-{number}")

    def start(self, who: str) -> None:
        """Start a process, or start it again."""
        kind, _, number = who.partition("-")
        if kind == "consumer":
            self.tally.taken[int(number) - 1] = self.tally.settled[int(number) - 1]
        # What a killed process published is there without a sync as well; the death of a server is another matter.
        self.crew.start(who, self._opener, self._folder, sync=self._sync)
        self._started.add(who)

    def progress(self, kind: str, place: int) -> int:
        """Return a number that grows while somebody works."""
        match kind:
            case "producer":
                return sum(self.tally.meant[line] for line in range(place, LINES, PRODUCERS))
            case "consumer":
                return self.tally.taken[place]
        return sum(self.tally.acked)

    def working(self, kind: str, place: int) -> bool:
        """Return whether somebody who was killed had begun something and not ended it."""
        if kind == "consumer":
            return self.tally.taken[place] > self.tally.settled[place]
        return any(self.tally.meant[line] > self.tally.acked[line] for line in range(place, LINES, PRODUCERS))

    def kept_up(self) -> bool:
        """Return whether all is published, and most of it took effect."""
        goal = self.tally.goal[0]
        return min(self.tally.acked) >= goal and min(self.tally.done) >= goal - _SLACK

    def finished(self) -> bool:
        """Return whether all is published and took effect."""
        goal = self.tally.goal[0]
        return min(self.tally.acked) >= goal and min(self.tally.done) >= goal

    async def until(self, done: Callable[[], bool], why: str) -> None:
        """Wait."""
        ends, look = time.monotonic() + PATIENCE_S, 0.0
        while not done():
            now = time.monotonic()
            if now > look:
                look = now + 1
                if ended := self.crew.ended():
                    raise _Fault([f"{who} ended by itself: see {self._folder / who}.txt" for who in ended])
            if now > ends:
                state = (
                    f"of {self.tally.goal[0]} batches {list(self.tally.acked)} are there, with {list(self.tally.done)} effects"
                )
                raise _Fault([f"{why}, and {PATIENCE_S:g} s later work does not go on: {state}; see {self._folder}"])
            await asyncio.sleep(_LOOK_S)

    async def check(self, *, whole: bool) -> None:
        """Read the whole log, or what is new on it, and see that nothing is wrong with it."""
        assert self._reader is not None
        acked, done = list(self.tally.acked), dict(zip(KEYS, self.tally.done, strict=True))
        ends = time.monotonic() + PATIENCE_S
        while True:
            try:
                kept = [] if whole else self.seen
                log = kept + [one async for one in self._reader.read(after=len(kept))]
                break
            except BusUnavailable as error:
                if time.monotonic() > ends:
                    raise _Fault([f"the log could not be read for {PATIENCE_S:g} s: {error}"]) from error
                await asyncio.sleep(0.05)
            except BusError as error:
                raise _Fault([f"the log cannot be read: {error}"]) from error
        if found := wrong(log, self.seen, acked, done, list(self.tally.meant)):
            raise _Fault(found)
        self.seen = log

    async def end(self) -> None:
        """Let all take effect, kill everybody, and read once more as somebody who comes anew."""
        await self.until(self.finished, "nobody is harmed any more")
        self._kill()
        assert self._reader is not None
        await self._reader.close()
        self._reader = self._opener("heir")
        await self.check(whole=True)
        if len(self.seen) != 2 * len(HALVES) * LINES * self.tally.goal[0]:
            raise _Fault([f"{len(self.seen)} messages are on the log"])
        if dead := await self._reader.dead_letters(GROUP) if hasattr(self._reader, "dead_letters") else []:
            raise _Fault([f"{one.id} was given up: {reason}" for one, reason in dead])

    async def close(self) -> None:
        """Kill everybody, and let go of the log."""
        self._kill()
        if self._reader is not None:
            with suppress(BusError):
                await self._reader.close()

    def _kill(self) -> None:
        started, self._started = self._started, set()
        self.crew.kill(*started)
