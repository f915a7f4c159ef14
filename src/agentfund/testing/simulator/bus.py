"""A durable log in memory: a disk that outlives its processes, and the line of each process to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from agentfund.buses import wire
from agentfund.buses.memory import MemoryBus
from agentfund.errors import BusUnavailable
from agentfund.messages import Led, Message
from agentfund.testing.simulator.process import Killed

if TYPE_CHECKING:
    from datetime import datetime

    from agentfund.clock import SystemClock
    from agentfund.messages import Durability
    from agentfund.protocols import Clock, Delivery
    from agentfund.testing.simulator.faults import Fault
    from agentfund.testing.simulator.process import Process

HOME = "the simulated log"
_LEASE = Led.__name__
_TELLING = ("Sending", "Sent", "Intended", "Answered", "Busted", "Filled", "Levelled", "Decided", "Observed", "Started")
"""What a write is called by: the first of these that is in it."""


class Disk(MemoryBus):
    """The log itself: what lies behind `synced` is gone when the power fails.

    Args:
        clock: stamps messages that have no append time.
        max_attempts: how often a message is handed over before it becomes a dead letter.

    Attributes:
        synced: length of the log that survives a loss of power.
        writers: for each message, in order, the number of the process that wrote it.
        acknowledged: ids of messages whose writer was told that they are durable.
        told: called with each message once it is durable.
    """

    def __init__(self, *, clock: Clock | SystemClock | None = None, max_attempts: int = 5) -> None:
        super().__init__(clock=clock, max_attempts=max_attempts)
        self.synced = 0
        self.writers: list[int] = []
        self.acknowledged: set[str] = set()
        self.told: Callable[[Message], None] = lambda message: None

    def __len__(self) -> int:
        return len(self._log)

    @property
    def durability(self) -> Durability:
        """`power`: what is synced is never lost."""
        return "power"

    @property
    def messages(self) -> list[Message]:
        """The log, oldest first."""
        return [self._at(offset) for offset in range(1, len(self._log) + 1)]

    def write(self, messages: Sequence[Message], writer: int) -> int:
        """Append all or nothing, as bytes would be; what is written is not synced yet. Return the offset of the last.

        Raises:
            BusError: a message cannot be written.
        """
        now = self._clock.now()
        lines = {message.id: wire.dump(message, now, HOME) for message in reversed(messages)}  # of two of one id the first
        for name, line in reversed(lines.items()):
            if name not in self._offsets:
                offset = self._offsets[name] = len(self._log) + 1
                self._log.append(wire.load(line, offset, HOME))
                self._stamps.append(now)
                self.writers.append(writer)
        self._bells.ring()
        return self._offsets[messages[-1].id] if messages else len(self._log)

    def sync(self) -> None:
        """Make durable all that was written."""
        before, self.synced = self.synced, len(self._log)
        for offset in range(before + 1, self.synced + 1):
            self.told(self._at(offset))

    def lose_power(self) -> None:
        """Forget what was not synced."""
        keep = self.synced
        for message in self._log[keep:]:
            del self._offsets[message.id]
        del self._log[keep:], self._stamps[keep:], self.writers[keep:]
        for group in self._groups.values():
            group.position = min(group.position, keep)


class SimulatedBus:
    """A process's line to the log. It keeps the contract of `Bus`, but for what a schedule breaks.

    Args:
        process: who speaks.
        disk: the log.
    """

    def __init__(self, process: Process, disk: Disk) -> None:
        self._process = process
        self._disk = disk
        self._closed = asyncio.Event()

    @property
    def durability(self) -> Durability:
        """`power`."""
        return "power"

    async def publish(self, messages: Sequence[Message], *, sync: bool = True) -> int:
        """Append all or nothing; return the offset of the last.

        Raises:
            BusError: a message cannot be written.
            BusUnavailable: the log cannot be written, or nobody can tell whether it was.
        """
        self._check()
        try:
            last = await self._write(messages, sync=sync)
        except asyncio.CancelledError:
            raise  # the log would have taken it
        except BaseException:
            self._process.mute = True
            raise
        if not _of_lease(messages):
            self._process.mute = False
        return last

    async def _write(self, messages: Sequence[Message], *, sync: bool) -> int:
        process, disk = self._process, self._disk
        what = next((kind for kind in _TELLING for message in messages if message.type == kind), "")
        fault = await self._reach("lease" if _of_lease(messages) else "publish", "the log cannot be written", what)
        kind = fault.kind if fault is not None else ""
        if not process.alive:
            raise Killed
        last = disk.write(messages, process.number)
        if kind == "power_before" and fault is not None:
            disk.lose_power()
            process.truth.lose_power(fault)
        elif sync:
            disk.sync()
        if kind == "power_after" and fault is not None:
            disk.lose_power()
            process.truth.lose_power(fault)
        process.end(fault)
        if not _of_lease(messages):
            await process.takes(None)
        if kind == "lost_ack":
            raise BusUnavailable("no answer from the log")
        if sync:
            disk.acknowledged.update(message.id for message in messages)
        return last

    async def read(
        self, stream: str | None = None, *, after: int = 0, since: datetime | None = None
    ) -> AsyncGenerator[Message, None]:
        """Give what is in the log when the reading begins, oldest first.

        Raises:
            BusUnavailable: the log cannot be read.
        """
        process = self._process
        process.deaf = True
        fault = await self._reach("read", "the log cannot be read")
        process.deaf = False
        async for message in self._disk.read(stream, after=after, since=since):
            yield message
        process.end(fault)

    async def last(self, stream: str | None = None) -> Message | None:
        """Return the newest message of all streams or of one, None where there is none.

        Raises:
            BusUnavailable: the log cannot be read.
        """
        process = self._process
        process.deaf = True
        fault = await self._reach("last", "the log cannot be read")
        process.deaf = False
        found = await self._disk.last(stream)
        process.end(fault)
        return found

    async def _reach(self, point: str, why: str, what: str = "") -> Fault | None:
        """Bring a request to the log.

        Raises:
            BusUnavailable: it is not reached.
        """
        process, truth = self._process, self._process.truth
        fault = process.begin(point, what)
        kind = fault.kind if fault is not None else ""
        if fault is not None and kind == "down":
            truth.down_until = truth.until(fault.seconds)
        await process.takes(fault)
        if kind == "fails" or truth.seconds < truth.down_until:
            raise BusUnavailable(why)
        return fault

    async def consume(self, group: str, stream: str | None = None) -> AsyncGenerator[Delivery, None]:
        """Give messages to one of a group's consumers as they come, from the beginning of the log; ends with `close`."""
        self._check()
        async with aclosing(cast("AsyncGenerator[Delivery, None]", self._disk.consume(group, stream))) as deliveries:
            closed = asyncio.ensure_future(self._closed.wait())
            try:
                while True:
                    coming = asyncio.ensure_future(anext(deliveries))
                    try:
                        await asyncio.wait((coming, closed), return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        if not coming.done():
                            coming.cancel()
                            await asyncio.wait((coming,))
                    if closed.done() or not self._process.alive:
                        return
                    yield coming.result()
            finally:
                closed.cancel()

    async def dead_letters(self, group: str) -> list[tuple[Message, str]]:
        """Return what this group gave up on, oldest first, each with the reason."""
        return await self._disk.dead_letters(group)

    async def close(self) -> None:
        """End waiting consumers and refuse new messages; the log stays."""
        self._closed.set()

    def _check(self) -> None:
        if self._closed.is_set():
            raise BusUnavailable("this line to the log is closed: publish before close()")


def _of_lease(messages: Sequence[Message]) -> bool:
    """Whether a batch says nothing but who leads."""
    return bool(messages) and all(message.type == _LEASE for message in messages)
