"""The connections of one event loop to a log in Postgres: one that appends, a few that ask, and one that listens."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from agentfund.buses.batching import Batch, Batcher
from agentfund.buses.postgres_server import LOOKS, RETRY_S, Line, Server
from agentfund.errors import BusError, BusUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

Row = tuple[Any, ...]
T = TypeVar("T")

_ASKING = 4  # connections of a loop that read, take and answer
_MOST_ROWS = 1_000  # of one statement
_MOST_BYTES = 16 << 20  # of the payloads of one statement
_CLOSING_S = 1.0  # how long to try at most to hand back what consumers hold
_PAUSE_S = 1.0  # how long to wait at most before trying to listen again


class Lines:
    """All connections of one event loop, made when they are needed and closed with the loop at the latest.

    Args:
        server: connects.
        known: returns the offset up to which this process has published, which needs no wake-up.
    """

    def __init__(self, server: Server, known: Callable[[], int]) -> None:
        self.server = server
        self.waiting: set[asyncio.Event] = set()  # of the consumers of this loop
        self.holders: dict[int, int] = {}  # consumers of this loop: their numbers, and their groups
        self.listening = False
        self._known = known
        self._heard = 0
        self._lines: set[Line] = set()
        self._closed = False
        self._appending: Line | None = None
        self._turn = asyncio.Lock()  # of who appends
        self._idle: list[Line] = []
        self._room = asyncio.Semaphore(_ASKING)
        self._batcher = Batcher(self._append, most=_MOST_ROWS)
        self._publisher = 0
        self._news: int | None = None
        self._heeded = False  # whether anybody was listening when we last appended
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Task[None] | None = None
        # A loop that ends cancels its tasks: this one closes the connections then, if nobody did before.
        self._keeper = asyncio.ensure_future(self._keep())
        self._start(self._look())

    async def put(self, rows: list[Row], sync: bool) -> int:
        """Append rows all or nothing; return the offset of the last.

        Raises:
            BusError: the server refused; nothing was appended.
            BusUnavailable: there was no answer; they are there or they are not, and may be put again.
        """
        # Who publishes again and again on its own goes the short way; others wait a moment for each other.
        task = id(asyncio.current_task())
        same, self._publisher = task == self._publisher, task
        if same and len(rows) == 1 and not self._turn.locked():
            return await self.patiently(self._append_one, rows[0], sync)
        return await self._batcher.put(rows, sync)

    async def ask(self, query: str, *values: Any) -> list[Any]:
        """Return what a query gives that may be asked twice; asks again while the server is away, as long as patience lasts.

        Raises:
            BusError: the server refused.
            BusUnavailable: there was no answer in time.
        """
        return await self.patiently(self.once, query, *values)

    async def once(self, query: str, *values: Any) -> list[Any]:
        """Return what a query gives; it is not asked a second time."""
        line = await self._take()
        try:
            return await line.rows(query, *values)
        finally:
            self._give(line)

    async def patiently(self, work: Callable[..., Awaitable[T]], *values: Any) -> T:
        """Do it, and again while the server is away."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.server.timeout_s
        while True:
            try:
                return await work(*values)
            except BusUnavailable:
                if self._closed or loop.time() + RETRY_S > deadline:
                    raise
            await asyncio.sleep(RETRY_S)

    async def open(self) -> None:
        """Connect, so that what cannot work is known; raises what `Server.check` does."""
        self._give(await self._take())

    async def check(self) -> None:
        """Ask the server anew what it promises; raises what `Server.check` does."""
        line = await self._take()
        try:
            await self.server.check(line)
        finally:
            self._give(line)

    def listen(self) -> None:
        """Be told from now on what others publish."""
        if self._listener is None:
            self._listener = self._start(self._listen())

    def tell(self, offset: int) -> None:
        """Wake the consumers of other processes, soon; nobody waits for it, and it may be lost."""
        telling, self._news = self._news is not None, max(offset, self._news or 0)
        if not telling and not self._closed:
            self._start(self._tell())

    async def close(self) -> None:
        """Hand back what consumers hold and close all connections."""
        self._keeper.cancel()
        await asyncio.wait([self._keeper])

    async def _append(self, group: list[Batch[Row]]) -> list[int]:
        return await self.patiently(self._append_once, group)

    async def _append_once(self, group: list[Batch[Row]]) -> list[int]:
        if len(group) == 1 and len(group[0].rows) == 1:
            return [await self._append_one(group[0].rows[0], group[0].sync)]
        async with self._turn:
            return await self._append_all(await self._appender(), group)

    async def _append_one(self, row: Row, sync: bool) -> int:
        statements = self.server.statements
        async with self._turn:
            line = self._appending
            if line is None or line.closed:
                line = await self._appender()
            if line.alone and sync and not self._heeded:
                for (quiet,) in await line.rows(statements.append_next, *row, line.end):
                    line.end += 1
                    self._told(not quiet, line.end)
                    return line.end
            ((place,),) = await line.rows(statements.publish if self._heeded else statements.append, *row, sync)
            offset: int = abs(place)
            self._told(place < 0, offset)
            line.saw(offset, 1)
            return offset

    async def _appender(self) -> Line:
        if self._appending is None or self._appending.closed:
            self._appending = await self._connect()
        return self._appending

    async def _append_all(self, line: Line, group: list[Batch[Row]]) -> list[int]:
        statements = self.server.statements
        fresh: dict[str, Row] = {}
        for batch in group:
            for row in batch.rows:
                fresh.setdefault(row[0], row)
        sync = any(batch.sync for batch in group)
        parts = list(_parts(list(fresh.values())))
        offsets: list[int] = []
        heeded = 0
        if len(parts) == 1:
            query = statements.publish_all if self._heeded else statements.append_all
            (((heeded, *offsets),),) = await line.rows(query, *zip(*parts[0], strict=True), sync)
        else:
            try:
                await line.script("BEGIN")
                for part in parts:
                    (((heeded, *more),),) = await line.rows(statements.append_all, *zip(*part, strict=True), sync)
                    offsets += more
                await line.script("COMMIT")
            except BaseException:
                line.drop()  # and with it the transaction
                raise
            self._heeded = False
        self._told(bool(heeded), max(offsets))
        line.saw(max(offsets), len(offsets))
        places = dict(zip(fresh, offsets, strict=True))
        return [places[batch.rows[-1][0]] for batch in group]

    def _told(self, heeded: bool, offset: int) -> None:
        """Wake whoever listens, unless the append has done it; the next one does where somebody listens."""
        if heeded and not self._heeded:
            self.tell(offset)
        self._heeded = heeded

    async def _tell(self) -> None:
        while self._news is not None:
            news = self._news
            with suppress(BusError):
                await self.once("SELECT pg_notify($1, $2)", self.server.names.channel, str(news))
            if self._news == news:
                self._news = None

    async def _listen(self) -> None:
        pause = RETRY_S
        while True:
            ended = asyncio.Event()
            line: Line | None = None
            try:
                line = await self.server.line()
                self._lines.add(line)
                await line.listen(self._hear, ended.set)
                self.listening, pause = True, RETRY_S
                self._hear("0")  # what was published before is not told
                await ended.wait()
            except BusError:
                pass
            finally:
                self.listening = False
                if line is not None:
                    await line.close()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_S)

    def _hear(self, word: str) -> None:
        """Wake who waits here: others have published up to an offset that is new, or 0, which means to look again."""
        offset = int(word) if word.isdecimal() else 0
        if not offset or offset > max(self._heard, self._known()):
            self._heard = max(self._heard, offset)
            for event in self.waiting:
                event.set()

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep(self) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            with suppress(BusError, TimeoutError):  # where this fails, the lease hands it back
                async with asyncio.timeout(_CLOSING_S):
                    while self.holders:
                        holder, grp = self.holders.popitem()
                        await self.once(self.server.statements.release, grp, holder, [])
            self.holders.clear()
            self._closed = True
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for line in tuple(self._lines):
                await line.close()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self.server.timeout_s / LOOKS)
            for line in tuple(self._lines):
                line.look()
                if line.closed:
                    self._lines.discard(line)

    async def _connect(self) -> Line:
        line = await self.server.line()
        self._lines.add(line)
        try:
            if self._closed:
                raise BusUnavailable(f"{self.server.home} is closed: make a new PostgresBus")
            await self.server.check(line)
        except BaseException:
            line.drop()
            raise
        return line

    async def _take(self) -> Line:
        """Return a connection to ask on; it has to be given back."""
        await self._room.acquire()
        try:
            while self._idle:
                line = self._idle.pop()
                if not line.closed:
                    return line
            line = await self._connect()
            await line.script("SET synchronous_commit = off")  # nothing is published on it
            return line
        except BaseException:
            self._room.release()
            raise

    def _give(self, line: Line) -> None:
        if not line.closed:
            self._idle.append(line)
        self._room.release()


def _parts(rows: list[Row]) -> Iterator[list[Row]]:
    """Split rows so that no statement is too much for the server."""
    part: list[Row] = []
    size = 0
    for row in rows:
        if part and (len(part) >= _MOST_ROWS or size + len(row[10]) > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(row)
        size += len(row[10])
    yield part
