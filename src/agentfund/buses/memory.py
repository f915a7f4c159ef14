"""A log in memory: for backtests, tests and examples. It is gone when the process is."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from functools import partial
from heapq import heappop, heappush
from itertools import count, repeat
from typing import TYPE_CHECKING

from agentfund.buses.bells import Bells
from agentfund.buses.delivery import Delivery
from agentfund.clock import SystemClock, utc
from agentfund.errors import BusError, BusUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime

    from agentfund.messages import Durability, Message
    from agentfund.protocols import Clock

_PAGE = 1_000


class MemoryBus:
    """A log in memory, safe to use from several tasks and threads.

    The log is the buffer: a slow consumer costs no memory beyond the log itself. A consumer holds what it was handed
    until it answers or its iterator is closed (also by cancellation); there is no lease, because a consumer in the same
    process cannot die alone.

    Args:
        clock: stamps `Message.appended` where the writer left it None.
        max_attempts: how often a message is handed over before it becomes a dead letter.
    """

    in_process = True
    """No other process can lead a fund on it."""

    def __init__(self, *, clock: Clock | None = None, max_attempts: int = 5) -> None:
        self._clock = clock or SystemClock()
        self._max_attempts = max_attempts
        self._log: list[Message] = []
        # Written after the log and never longer: its length is how far a reader may go without taking the lock.
        self._stamps: list[datetime] = []
        self._offsets: dict[str, int] = {}
        self._groups: dict[tuple[str, str | None], _Group] = {}
        self._bells = Bells()
        self._lock = threading.RLock()
        self._closed = False

    @property
    def durability(self) -> Durability:
        """`none`: the log ends with the process."""
        return "none"

    async def publish(self, messages: Sequence[Message], *, sync: bool = True) -> int:
        """Append all or nothing; return the offset of the last. `sync` changes nothing here.

        Raises:
            BusError: a message has a time without a time zone; nothing was appended.
            BusUnavailable: the bus is closed.
        """
        with self._lock:
            if self._closed:
                raise BusUnavailable("the bus in memory is closed; publish before close(), or make a new MemoryBus()")
            known = self._offsets
            fresh: dict[str, Message] = {}
            for message in messages:
                if message.time.tzinfo is None:
                    raise BusError(f"message {message.id!r} ({message.type}): time has no time zone; use an aware datetime")
                if message.id not in known:
                    fresh.setdefault(message.id, message)
            if fresh:
                # Offsets are given when a message is read: a backtest publishes far more than it reads.
                known.update(zip(fresh, count(len(self._log) + 1), strict=False))
                self._log.extend(fresh.values())
                self._stamps.extend(repeat(self._clock.now(), len(fresh)))
            last = known[messages[-1].id] if messages else len(self._log)
        self._bells.ring()
        return last

    async def read(
        self, stream: str | None = None, *, after: int = 0, since: datetime | None = None
    ) -> AsyncGenerator[Message, None]:
        """Give what is in the log when the reading begins, oldest first.

        Args:
            stream: only this stream; None means all.
            after: only messages beyond this offset.
            since: only messages whose event time is not before this moment, aware.
        """
        since = utc(since) if since else None
        for offset in range(max(after, 0) + 1, len(self._stamps) + 1):
            message = self._log[offset - 1]
            if (stream is None or message.stream == stream) and (since is None or message.time >= since):
                yield self._at(offset)
            if offset % _PAGE == 0:
                await asyncio.sleep(0)  # a long replay lets other tasks run

    async def last(self, stream: str | None = None) -> Message | None:
        """Return the newest message of all streams or of one, None where there is none."""
        for offset in range(len(self._stamps), 0, -1):
            if stream is None or self._log[offset - 1].stream == stream:
                return self._at(offset)
        return None

    async def consume(self, group: str, stream: str | None = None) -> AsyncGenerator[Delivery, None]:
        """Give messages to one of a group's consumers as they come, from the beginning of the log.

        Within a key a message is handed over only when the one before it was answered for. Closing the iterator hands
        back what was not answered for. Ends when the bus is closed.
        """
        with self._lock:
            state = self._groups.setdefault((group, stream), _Group())
        held: list[Delivery] = []
        with self._bells.listen() as event:
            try:
                while True:
                    event.clear()  # before looking, so that what comes while looking is not missed
                    delivery = self._claim(state, stream)
                    if delivery:
                        held = [*(other for other in held if not other.settled), delivery]
                        await asyncio.sleep(0)
                        yield delivery
                    elif self._closed:
                        return
                    else:
                        await event.wait()
            finally:
                with self._lock:
                    for delivery in held:
                        state.hand_back(delivery.message.offset, delivery.attempt)
                self._bells.ring()

    async def dead_letters(self, group: str) -> list[tuple[Message, str]]:
        """Return what this group gave up on, oldest first, each with the reason."""
        with self._lock:
            dead = sorted(letter for (name, _), state in self._groups.items() if name == group for letter in state.dead)
        return [(self._at(offset), reason) for offset, reason in dead]

    async def backlog(self, group: str, stream: str | None = None) -> int:
        """Return how many messages of a stream, or of all, a group has not answered for."""
        with self._lock:
            state = self._groups.get((group, stream))
            position, pending = (state.position, len(state.attempts)) if state is not None else (0, 0)
            return pending + sum(stream is None or message.stream == stream for message in self._log[position:])

    async def close(self) -> None:
        """End waiting consumers and refuse new messages; the log stays readable."""
        self._closed = True
        self._bells.ring()

    def _at(self, offset: int) -> Message:
        message = self._log[offset - 1]
        if message.offset != offset or message.appended is None:
            message = self._log[offset - 1] = message.at(offset, self._stamps[offset - 1])
        return message

    def _claim(self, state: _Group, stream: str | None) -> Delivery | None:
        with self._lock:
            while True:
                offset = state.take()
                if offset is None:
                    if state.position >= len(self._log):
                        return None
                    state.position += 1
                    message = self._log[state.position - 1]
                    if stream is None or message.stream == stream:
                        state.add(state.position, message.key)
                elif state.attempts[offset] > self._max_attempts:
                    state.bury(offset, "no consumer answered for it", self._log[offset - 1].key)
                else:
                    return Delivery(self._at(offset), state.attempts[offset], partial(self._answer, state))

    async def _answer(self, state: _Group, delivery: Delivery, reason: str | None) -> None:
        offset, key = delivery.message.offset, delivery.message.key
        with self._lock:
            if state.attempts.get(offset) != delivery.attempt:
                if reason is None:
                    raise BusError(
                        f"message {offset} was handed to another consumer before this ack, so it may take effect twice; "
                        "keep the iterator of consume() open until its messages are answered for"
                    )
            elif reason is None:
                state.finish(offset, key)
            elif delivery.attempt >= self._max_attempts:
                state.bury(offset, reason, key)
            else:
                state.hand_back(offset, delivery.attempt)
        self._bells.ring()


class _Group:
    """Where a consumer group stands; its bus holds the lock."""

    def __init__(self) -> None:
        self.position = 0
        self.attempts: dict[int, int] = {}
        self.dead: list[tuple[int, str]] = []
        self._queues: dict[str, deque[int]] = {}  # unanswered, by key; only the first of a queue is handed over
        self._free: list[int] = []
        self._held: set[int] = set()

    def add(self, offset: int, key: str) -> None:
        self.attempts[offset] = 0
        queue = self._queues.setdefault(key, deque())
        queue.append(offset)
        if len(queue) == 1:
            heappush(self._free, offset)

    def take(self) -> int | None:
        while self._free:
            offset = heappop(self._free)
            if offset in self.attempts and offset not in self._held:  # else answered for after it was handed back
                self.attempts[offset] += 1
                self._held.add(offset)
                return offset
        return None

    def finish(self, offset: int, key: str) -> None:
        del self.attempts[offset]
        self._held.discard(offset)
        queue = self._queues[key]
        queue.popleft()
        if queue:
            heappush(self._free, queue[0])
        else:
            del self._queues[key]

    def hand_back(self, offset: int, attempt: int) -> None:
        if self.attempts.get(offset) == attempt and offset in self._held:
            self._held.remove(offset)
            heappush(self._free, offset)

    def bury(self, offset: int, reason: str, key: str) -> None:
        self.dead.append((offset, reason))
        self.finish(offset, key)
