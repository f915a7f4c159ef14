"""Producers and consumers of the rounds, forked from a process that has everything loaded: a new one costs milliseconds."""

from __future__ import annotations

import asyncio
import gc
import mmap
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from agentfund.errors import BusError, BusUnavailable
from agentfund.testing.chaos.history import HALVES, WORK, batch, effect, key, task

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    from agentfund.protocols import Bus

    Opener = Callable[[str], Bus]

PRODUCERS = CONSUMERS = 2
LINES = 2 * PRODUCERS
"""Each producer publishes in two tasks at once; each of them has two keys."""
KEYS = [key(line, half) for line in range(LINES) for half in HALVES]
GROUP = "crew"
_PAUSE_S = 0.004
_RETRY_S = 0.02
_SIZE = 8 * (1 + 2 * LINES + len(KEYS) + 3 * CONSUMERS)


class Tally:
    """Counters that all processes share, and that outlive each of them: a file in memory.

    Args:
        path: the file; made where it does not exist.

    Attributes:
        goal: up to which number each line publishes; one place.
        meant: batches that each line began to publish.
        acked: batches of each line that were acknowledged.
        done: effects of each key that were acknowledged, in the order of `KEYS`.
        taken: deliveries that each consumer got.
        settled: those of them that it is done with.
        again: those of them that were handed over before.
    """

    def __init__(self, path: Path) -> None:
        with path.open("ab") as file:
            file.truncate(_SIZE)
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _SIZE)
        rest = memoryview(self._memory).cast("q")
        sizes = (1, LINES, LINES, len(KEYS), CONSUMERS, CONSUMERS, CONSUMERS)
        views = []
        for size in sizes:
            views.append(rest[:size])
            rest = rest[size:]
        self.goal, self.meant, self.acked, self.done, self.taken, self.settled, self.again = views


class Crew:
    """Starts and kills the processes; those that are left are killed when it closes, or when its own process is killed.

    Args:
        opener: opens a bus; it is tried once before anybody is forked, so that whatever it loads is loaded.

    Raises:
        BusError: this system has no fork, or the bus cannot be opened.
    """

    def __init__(self, opener: Opener) -> None:
        if not hasattr(os, "fork"):
            raise BusError("the rounds fork, which this system cannot: run them on Linux or macOS")
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self._nursery = context.Process(target=_nurse, args=(theirs, opener))
        self._nursery.start()
        theirs.close()
        self._answer()

    def start(self, who: str, opener: Opener, folder: Path, *, sync: bool) -> None:
        """Start a process by its name, such as "producer-1"; it uses the tally in the folder and prints there."""
        self._ask("start", who, opener, folder, sync)

    def kill(self, *who: str) -> None:
        """Kill processes (SIGKILL), and wait until they are gone."""
        self._ask("kill", *who)

    def ended(self) -> list[str]:
        """Return who ended by itself, which nobody should."""
        ended: list[str] = self._ask("ended")
        return ended

    def close(self) -> None:
        """Kill all."""
        self._orders.close()
        self._nursery.join()

    def _ask(self, *words: object) -> Any:
        self._orders.send(words)
        return self._answer()

    def _answer(self) -> Any:
        try:
            return self._orders.recv()
        except EOFError:
            raise BusError("the processes of the rounds could not be started: see what was printed above") from None


def _nurse(orders: Connection, opener: Opener) -> None:
    """Fork and kill as told, until nobody is there to tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; who gives orders ends it in order
    asyncio.run(_warm(opener))
    assert threading.active_count() == 1, "a process with threads cannot be forked"
    gc.freeze()  # memory that no collection touches stays shared
    children: dict[str, int] = {}
    try:
        orders.send(None)
        while True:
            what, *told = orders.recv()
            answer = None
            match what:
                case "start":
                    if (child := os.fork()) == 0:
                        orders.close()
                        _be(*told)
                    children[told[0]] = child
                case "kill":
                    for who in told:
                        _kill(children.pop(who))
                case _:
                    answer = [who for who, child in children.items() if os.waitid(os.P_PID, child, _LOOK) is not None]
            orders.send(answer)
    except (EOFError, OSError):
        pass
    finally:
        for child in children.values():
            _kill(child)


_LOOK = getattr(os, "WEXITED", 0) | getattr(os, "WNOHANG", 0) | getattr(os, "WNOWAIT", 0)


def _kill(child: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


async def _warm(opener: Opener) -> None:
    bus = opener("warm")
    with suppress(BusError):
        await bus.last()
    await bus.close()


def _be(who: str, opener: Opener, folder: Path, sync: bool) -> None:
    """Be a producer or a consumer until killed."""
    try:
        with (folder / f"{who}.txt").open("ab", buffering=0) as output:
            for number in (1, 2):
                os.dup2(output.fileno(), number)
        kind, _, number_ = who.partition("-")
        place, tally = int(number_) - 1, Tally(folder / "tally")
        asyncio.run((_produce if kind == "producer" else _consume)(opener(who), tally, place, sync))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


async def _produce(bus: Bus, tally: Tally, place: int, sync: bool) -> None:
    async def write(line: int) -> None:
        while True:
            number = tally.acked[line]
            if number >= tally.goal[0]:
                await asyncio.sleep(_PAUSE_S)
                continue
            tally.meant[line] = number + 1
            try:
                await bus.publish(batch(line, number), sync=sync or number % 2 == 0)
            except BusUnavailable:  # nobody knows whether it is there: again, under the same ids
                await asyncio.sleep(_RETRY_S)
                continue
            tally.acked[line] = number + 1

    async with asyncio.TaskGroup() as tasks:
        for line in range(place, LINES, PRODUCERS):
            tasks.create_task(write(line))


async def _consume(bus: Bus, tally: Tally, place: int, sync: bool) -> None:
    async def insist(work: Callable[[], Any]) -> None:
        while True:
            try:
                await work()
                return
            except BusUnavailable:
                await asyncio.sleep(_RETRY_S)

    while True:
        with suppress(BusUnavailable):
            async for delivery in bus.consume(GROUP, WORK):
                one = delivery.message
                tally.taken[place] += 1
                tally.again[place] += delivery.attempt > 1
                if one != task(one.key, one.cycle).at(one.offset):
                    raise BusError(f"{one.id} was handed over otherwise than it was written")
                await insist(partial(bus.publish, [effect(one)], sync=sync or one.cycle % 2 == 0))
                own = KEYS.index(one.key)
                tally.done[own] = max(tally.done[own], one.cycle + 1)
                with suppress(BusError):  # another has it by now, and brings about the same
                    await insist(delivery.ack)
                tally.settled[place] += 1
        await asyncio.sleep(_RETRY_S)
