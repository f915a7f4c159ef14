"""A log in Redis or Valkey: for many machines, and as durable as the server's append-only file."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from agentfund.buses import redis_scripts as scripts
from agentfund.buses import wire
from agentfund.buses.batching import Batch, Batcher
from agentfund.buses.loops import PerLoop
from agentfund.clock import SystemClock, to_micros
from agentfund.errors import BusError, BusUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from datetime import datetime

    from agentfund.buses.delivery import Delivery
    from agentfund.buses.redis_link import Ask, Pool
    from agentfund.buses.redis_log import Row, Words
    from agentfund.buses.redis_server import Finding
    from agentfund.messages import Durability, Message
    from agentfund.protocols import Clock

_MOST = 256 * 2**20  # bytes of one publish: a quarter of what a server takes in at once
_SURVIVES = {"none": "nothing that ends the server", "process": "a killed process", "power": "a loss of power"}


class RedisBus:
    """A log in Redis 7 or newer, or in Valkey, for many tasks, threads, processes and machines at once.

    The log is a stream, and what Redis lacks is done by Lua scripts on the server: a message is kept once by its id for
    good, offsets count without gaps, and order within a key outlives the consumers that share the work. All of it lies
    in the server's memory: a message takes about 220 bytes beyond its JSON, 90 of which remember its id.

    What a published message survives is the server's to say, and it is asked at each connection. With `appendfsync
    always` it is on the disk when `publish` returns. `sync` changes nothing: Redis has one setting for all. Replicas
    follow later, so that a failover may lose the newest messages; a bus that is open then notices that the log went back.

    In a cluster the log lies on one node, which is found by itself. Leases are timed by the server's clock.

    Args:
        url: `redis://user:password@host:6379/0`, `rediss://...` for TLS, with the options of redis-py.
        name: which log on that server; its keys begin with `{name}:`.
        clock: stamps `Message.appended` where the writer left it None.
        max_attempts: how often a message is handed over before it becomes a dead letter.
        lease: how long a consumer may work on a message before it is taken for dead; longer than the longest work.
        timeout: how long to try to reach the server and to wait for its answer.
        demand: the least that a message must survive: "power", "process" or "none".

    Raises:
        BusError: it is no address of a Redis server, or redis-py is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "agentfund",
        clock: Clock | None = None,
        max_attempts: int = 5,
        lease: timedelta = timedelta(seconds=30),
        timeout: timedelta = timedelta(seconds=5),
        demand: Durability = "process",
    ) -> None:
        try:
            from agentfund.buses import redis_groups, redis_link, redis_log
        except ModuleNotFoundError as error:
            raise BusError(f"{error.name} is not installed: pip install 'agentfund[redis]'") from None
        self._address = redis_link.Address(url, name, timeout.total_seconds())
        self._log = redis_log.Log(name, self._address.home)
        self._pool = partial(redis_link.Pool, self._address, self._gate, self._found)
        self.lease = lease
        self._consumer = partial(redis_groups.Consumer, self._log, lease=lease, max_attempts=max_attempts)
        self._clock = clock or SystemClock()
        self._demand: Durability = demand
        self._finding: Finding | None = None
        self._denied = b""
        self._closed = False
        self._loops = PerLoop(self._connect, _Loop.close)

    @property
    def durability(self) -> Durability:
        """What the server said at the last connection; before the first, what was demanded."""
        return self._finding.level if self._finding else self._demand

    async def describe(self) -> str:
        """Return what was found: the server, and what makes a message durable there."""
        await self._loop()
        assert self._finding is not None
        found = self._finding
        return f"{self._log.home} ({found.server}) survives {_SURVIVES[found.level]}: {found.why}."

    async def publish(self, messages: Sequence[Message], *, sync: bool = True) -> int:
        """Append all or nothing; return the offset of the last.

        Who publishes while an append of the same event loop is under way shares the next one with others. After a
        cancellation or a failure the batch is wholly there or wholly absent; publishing it again is harmless.

        Raises:
            BusError: a message cannot be written as it is (says which and why), or this is not the log of before.
            BusUnavailable: the server cannot be reached, or cannot write now; says why.
        """
        rows = [self._log.row(message, message.appended or self._clock.now()) for message in messages]
        if sum(len(row[2]) for row in rows) > _MOST:
            raise BusError(f"{self._log.home} takes {_MOST} bytes at once at most: publish in smaller batches")
        loop = await self._loop(writes=True)
        if not rows:
            return (await self._page(loop, 0, -1, 0, ()))[0]
        return await loop.put(rows, sync)

    async def read(
        self, stream: str | None = None, *, after: int = 0, since: datetime | None = None
    ) -> AsyncGenerator[Message, None]:
        """Give what is in the log when the reading begins, oldest first, a page at a time. A missing message is an error.

        Args:
            stream: only this stream, picked out by the server; None means all.
            after: only messages beyond this offset.
            since: only messages whose event time is not before this moment, aware.

        Raises:
            BusUnavailable: the server cannot be reached.
            BusError: messages are missing, or this is not the log of before.
        """
        start = None if since is None else to_micros(since)
        only = () if stream is None else (stream.encode(errors="surrogatepass"),)
        loop = await self._loop()
        position, end = max(after, 0), -1
        while position < end or end < 0:
            end, page = await self._page(loop, position, end, scripts.PAGE, only)
            for offset, inside in self._log.rows(page, position):
                if start is None or inside[8] >= start:
                    yield self._log.message(offset, inside)
            position += scripts.PAGE

    async def last(self, stream: str | None = None) -> Message | None:
        """Return the newest message of all streams or of one, None where there is none; the server knows which it is.

        Raises:
            BusUnavailable: the server cannot be reached.
        """
        log, only = self._log, () if stream is None else (stream.encode(errors="surrogatepass"),)
        loop = await self._loop()
        page = await log.run(loop.pool, log.ask(scripts.LAST, (log.meta, log.log), only))
        return next((log.message(offset, inside) for offset, inside in log.rows(page, 0)), None)

    async def consume(self, group: str, stream: str | None = None) -> AsyncGenerator[Delivery, None]:
        """Give messages to one of a group's consumers as they come, from the beginning of the log.

        Within a key a message is handed over only when the one before it was answered for. Closing the iterator hands
        back what was not answered for; what a dead process held is handed over again after its lease. Ends when the bus
        is closed. While the server is gone it waits, warns of it once, and then goes on without a gap.

        Raises:
            BusUnavailable: the server cannot be reached when consuming begins.
            BusError: this is not the log of before, or this user may only read.
        """
        loop = await self._loop(writes=True)
        pool = self._pool()  # a connection of its own, on which it waits in the server
        consumer = self._consumer(loop.pool, pool, group, stream)
        loop.waiting.add(pool)
        try:
            while not self._closed:
                if delivery := await consumer.take():
                    yield delivery
        finally:
            loop.waiting.discard(pool)
            await pool.close()
            await consumer.leave()

    async def dead_letters(self, group: str) -> list[tuple[Message, str]]:
        """Return what this group gave up on, oldest first, each with the reason."""
        log, letters = self._log, list[tuple["Message", str]]()
        loop = await self._loop()
        while True:
            bounds = (len(letters), len(letters) + scripts.PAGE - 1)
            page = await log.run(loop.pool, log.ask(scripts.DEAD, (log.meta, log.log, log.dead(group)), bounds))
            parts = wire.value(page, 0, log.home)
            letters += [(log.message(*parts[at : at + 2]), parts[at + 2]) for at in range(0, len(parts), 3)]
            if len(letters) <= bounds[1]:
                return sorted(letters, key=lambda letter: letter[0].offset)

    async def close(self) -> None:
        """End consumers, refuse whatever else, and let go of the running loop's connections; the log stays."""
        self._closed = True
        await self._loops.close()

    async def _loop(self, *, writes: bool = False) -> _Loop:
        if self._closed:
            raise BusUnavailable(f"{self._log.home} is closed here: make a new bus, or close this one later")
        loop = self._loops.ready() or await self._loops.get()
        if writes and self._denied:
            raise BusError(f"{self._log.home}: this user may only read; grant it {self._denied.decode()} by ACL SETUSER")
        return loop

    async def _connect(self) -> _Loop:
        pool = self._pool()
        try:
            await self._log.run(pool, self._gate())  # the first connection tells the rest
        except BaseException:
            await pool.close()
            raise
        return _Loop(pool, partial(self._append, pool))

    def _gate(self) -> Ask:
        log = self._log
        return log.ask(scripts.OPEN, (log.meta, log.log, log.ids))

    def _found(self, finding: Finding, reply: bytes) -> None:
        """Hear what a connection found, and refuse it where it is not enough."""
        at = f"{self._log.home} ({finding.server})"
        if finding.trouble:  # what was good once may be so again, as after a failover
            raise (BusUnavailable if self._finding else BusError)(f"{at}: {finding.trouble}")
        levels = list(_SURVIVES)
        if levels.index(finding.level) < levels.index(self._demand):
            raise BusError(
                f"{at} does not survive {_SURVIVES[self._demand]}, as is demanded: {finding.why}. "
                f"{finding.fix}; or accept it with demand={finding.level!r}"
            )
        if finding.failing:
            raise BusUnavailable(f"{at}: {finding.failing}")
        self._finding = finding
        self._denied = reply.split(b" ", 2)[2]

    async def _append(self, pool: Pool, batches: list[Batch[Row]]) -> list[int]:
        log, sizes = self._log, [len(batch.rows) for batch in batches]
        fields = [field for batch in batches for row in batch.rows for field in row]
        args: Words = (log.fresh, len(sizes), *sizes, *fields)
        answer = await log.run(pool, log.ask(scripts.APPEND, (log.meta, log.log, log.ids), args))
        return [int(offset) for offset in answer.split()]

    async def _page(self, loop: _Loop, after: int, upto: int, size: int, only: tuple[bytes, ...]) -> tuple[int, bytes]:
        log = self._log
        answer = await log.run(loop.pool, log.ask(scripts.READ, (log.meta, log.log), (after, upto, size, *only)))
        end, page = answer.split(b" ", 1)
        return int(end), page


class _Loop:
    """What one event loop has: connections, and a writer that its publishers share."""

    def __init__(self, pool: Pool, append: Callable[[list[Batch[Row]]], Awaitable[list[int]]]) -> None:
        self.pool = pool
        self.waiting: set[Pool] = set()
        self._append = append
        self._batcher = Batcher(append)
        self._publishing = 0
        # A loop that ends cancels its tasks: this one closes the connections then, if nobody did before.
        self._keeper = asyncio.ensure_future(self._keep())

    async def put(self, rows: list[Row], sync: bool) -> int:
        """Append rows: at once where nobody else is about to, for a task and a future would cost as much as the server."""
        self._publishing += 1
        try:
            if self._publishing == 1:
                return (await self._append([Batch(rows, sync)]))[0]
            return await self._batcher.put(rows, sync)
        finally:
            self._publishing -= 1

    async def close(self) -> None:
        """Let go of all connections; who waits on one is told."""
        self._keeper.cancel()
        await self._let_go()

    async def _keep(self) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await self._let_go()

    async def _let_go(self) -> None:
        for pool in (*self.waiting, self.pool):
            await pool.close()
