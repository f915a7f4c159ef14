"""A log in one SQLite file: no server, many processes, and what was published survives a loss of power."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfund.buses import sqlite_groups as groups
from agentfund.buses import sqlite_rows as rows_of
from agentfund.buses import wire
from agentfund.buses.bells import Bells
from agentfund.buses.database import busy
from agentfund.buses.delivery import Delivery
from agentfund.buses.doorbells import Doorbells
from agentfund.buses.sqlite_file import PAGE, RETRY_S, LogFile
from agentfund.clock import SystemClock, to_micros
from agentfund.errors import BusError
from agentfund.messages import Message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime

    from agentfund.messages import Durability
    from agentfund.protocols import Clock

_TURN_S = 0.005  # how long a lone publisher may keep the event loop
_POLL_S = 0.05  # how seldom an idle consumer looks for what other processes wrote


class SqliteBus:
    """A log in one SQLite file, for many tasks, threads and processes at once.

    `publish` commits on the event loop's own thread: a hop to another one would cost as much as the commit. Publishers
    that are ready at the same moment share one commit. A finished log, after `close`, is one file.

    Args:
        path: the file; made when it does not exist.
        read_only: only read; the file is neither made nor changed, also while a writer is at work.
        clock: stamps `Message.appended` where the writer left it None, and times leases.
        max_attempts: how often a message is handed over before it becomes a dead letter.
        lease: how long a consumer may work on a message before it is taken for dead; longer than the longest work.
        timeout: how long to wait for a lock that another process holds.

    Raises:
        BusError: the file is not a log of agentfund; it was not touched.
        SchemaTooNew: a newer agentfund made it.
        BusUnavailable: the file cannot be opened, made or written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        read_only: bool = False,
        clock: Clock | None = None,
        max_attempts: int = 5,
        lease: timedelta = timedelta(seconds=30),
        timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        self._clock = clock or SystemClock()
        self._max_attempts = max_attempts
        self.lease = lease
        self._lease = lease // timedelta(microseconds=1)
        self._waiting: list[_Batch] = []
        self._publisher = 0
        self._turn_ends = 0.0
        self._bells = Bells()
        self._file = LogFile(Path(path).absolute(), read_only=read_only, timeout_s=timeout.total_seconds())
        self._doorbells = Doorbells("-".join(map(str, self._file.id or ("gone",))))

    @property
    def durability(self) -> Durability:
        """`power`: a synced message is on the disk when `publish` returns."""
        return "power"

    async def publish(self, messages: Sequence[Message], *, sync: bool = True) -> int:
        """Append all or nothing; return the offset of the last.

        With `sync=False` a killed process loses nothing, but a loss of power may lose the newest messages. After a
        cancellation the batch is wholly there or wholly absent; publishing it again is harmless.

        Raises:
            BusError: a message cannot be written as it is (says which and why).
            BusUnavailable: the file cannot be written now; nothing of the batch is in it.
        """
        self._file.check_writable()
        rows = [self._row(message) for message in messages]
        offset = self._at_once(rows, sync) if self._alone() else None
        if offset is None:
            offset = await self._together(_Batch(rows, sync))
        self._ring()
        return offset

    async def read(
        self, stream: str | None = None, *, after: int = 0, since: datetime | None = None
    ) -> AsyncGenerator[Message, None]:
        """Give what is in the log when the reading begins, oldest first, a page at a time.

        Nothing is skipped: SQLite lets one transaction write at a time, so offsets are given in the order of commits,
        and no smaller offset can appear after a larger one was seen.

        Args:
            stream: only this stream; None means all.
            after: only messages beyond this offset.
            since: only messages whose event time is not before this moment, aware.

        Raises:
            BusUnavailable: the file cannot be read now.
        """
        start = None if since is None else to_micros(since)
        position, end = max(after, 0), (await self._file.patiently(self._file.rows, rows_of.LAST))[0][0]
        while position < end:
            upto = min(position + PAGE, end)
            for row in await self._file.patiently(self._file.rows, rows_of.SELECT, (position, upto, stream, start)):
                yield self._message(row)
            position = upto
            await asyncio.sleep(0)

    async def last(self, stream: str | None = None) -> Message | None:
        """Return the newest message of all streams or of one, None where there is none; it is looked for from the end.

        Raises:
            BusUnavailable: the file cannot be read now.
        """
        rows = await self._file.patiently(self._file.rows, rows_of.NEWEST, (stream,))
        return self._message(rows[0]) if rows else None

    async def consume(self, group: str, stream: str | None = None) -> AsyncGenerator[Delivery, None]:
        """Give messages to one of a group's consumers as they come, from the beginning of the log.

        Within a key a message is handed over only when the one before it was answered for. Closing the iterator hands
        back what was not answered for; what a dead process held is handed over again after its lease. Ends when the bus
        is closed. A group's place in the log is kept in the file, for each stream apart.

        Raises:
            BusUnavailable: the file cannot be written now, or was opened to read only.
        """
        self._file.check_writable()
        grp = await self._file.patiently(self._file.write, False, groups.join, group, stream)
        held: list[Delivery] = []
        pause = RETRY_S
        with self._bells.listen() as event, self._doorbells.listen(event):
            try:
                while not self._file.closed:
                    event.clear()  # before looking, so that what comes while looking is not missed
                    found = await self._file.patiently(self._claim, grp, stream)
                    if isinstance(found, Delivery):
                        held = [*(other for other in held if not other.settled), found]
                        pause = RETRY_S
                    if found:
                        await asyncio.sleep(0)
                    if isinstance(found, Delivery):
                        yield found
                    elif not found:
                        # A bell is a hint: what nobody rang for is seen by looking, quickly while there is traffic.
                        with suppress(TimeoutError):
                            async with asyncio.timeout(pause):
                                await event.wait()
                        pause = min(2 * pause, _POLL_S)
            finally:
                if left := [(delivery.message.offset, delivery.attempt) for delivery in held if not delivery.settled]:
                    with suppress(sqlite3.Error, BusError):  # where this fails, the lease hands it back
                        self._file.write(False, groups.hand_back, grp, left)
                    self._ring()

    async def dead_letters(self, group: str) -> list[tuple[Message, str]]:
        """Return what this group gave up on, oldest first, each with the reason."""
        rows = await self._file.patiently(self._file.rows, groups.DEAD, (group,))
        return [(self._message(row[:-1]), row[-1]) for row in rows]

    async def backlog(self, group: str, stream: str | None = None) -> int:
        """Return how many messages of a stream, or of all, a group has not answered for."""
        return await self._file.patiently(groups.backlog, self._file, group, stream)

    async def close(self) -> None:
        """Move everything into the one file and let go of it."""
        self._file.close()
        self._ring()
        self._doorbells.close()

    def _ring(self) -> None:
        self._bells.ring()
        self._doorbells.knock()

    def _alone(self) -> bool:
        """Whether one task publishes on its own, and has not yet kept the event loop for long."""
        loop, task = asyncio.get_running_loop(), id(asyncio.current_task())
        same, self._publisher = task == self._publisher, task
        if same and not self._waiting and loop.time() < self._turn_ends:
            return True
        self._turn_ends = loop.time() + _TURN_S
        return False

    def _at_once(self, rows: list[tuple[Any, ...]], sync: bool) -> int | None:
        """Append on the shortest way; None where another process has the lock."""
        try:
            return self._file.write(sync, rows_of.insert, rows)
        except sqlite3.Error as error:
            if busy(error):
                return None
            raise self._file.explain(error) from error

    async def _together(self, batch: _Batch) -> int:
        """Append with all who are ready to publish, in one commit."""
        self._file.check_in_place()
        self._waiting.append(batch)
        try:
            await asyncio.sleep(0)  # who else is ready joins this commit
            return await self._file.patiently(self._commit, batch)
        finally:
            if batch.offset is None:
                self._withdraw(batch)

    def _row(self, message: Message) -> tuple[Any, ...]:
        m = message
        # What SQLite would refuse is found here, before it could fail the commit that others share.
        payload = wire.payload(m, str(self._file.path))
        time = to_micros(m.time)
        appended = time if m.appended is m.time else to_micros(m.appended or self._clock.now())
        return m.id, m.stream, m.key, m.type, m.version, m.cycle, m.cause, m.producer, time, appended, payload, m.token

    def _commit(self, batch: _Batch) -> int:
        """Write all that waits, unless another publisher's commit has taken this batch with it."""
        with self._file.lock:
            if batch.offset is None:
                group = tuple(self._waiting)
                offsets = self._file.write(any(other.sync for other in group), _insert, group)
                for other, offset in zip(group, offsets, strict=True):
                    other.offset = offset
                    self._waiting.remove(other)
            assert batch.offset is not None
            return batch.offset

    def _withdraw(self, batch: _Batch) -> None:
        with self._file.lock:
            if batch in self._waiting:
                self._waiting.remove(batch)

    def _message(self, row: tuple[Any, ...]) -> Message:
        return rows_of.message(row, str(self._file.path))

    def _claim(self, grp: int, stream: str | None) -> Delivery | bool:
        """Return the next message, or whether it is worth looking again at once."""
        now = to_micros(self._clock.now())
        if not groups.waiting(self._file, grp, now):  # so that idle consumers do not stand in the way of writers
            return False
        found = self._file.write(False, groups.take, grp, stream, now, now + self._lease, self._max_attempts)
        return Delivery(self._message(found[0]), found[1], partial(self._answer, grp)) if found else True

    async def _answer(self, grp: int, delivery: Delivery, reason: str | None) -> None:
        offset, attempt = delivery.message.offset, delivery.attempt
        last = attempt >= self._max_attempts
        mine = await self._file.patiently(self._file.write, False, groups.settle, grp, offset, attempt, reason, last)
        if not mine and reason is None:
            raise BusError(
                f"{self._file.path}: message {offset} was handed to another consumer before this ack, so it may "
                f"take effect twice; make the lease of {timedelta(microseconds=self._lease)} longer than the longest work"
            )
        self._ring()


class _Batch:
    """What one call of `publish` wants in the log, and where it came to lie."""

    __slots__ = ("offset", "rows", "sync")

    def __init__(self, rows: list[tuple[Any, ...]], sync: bool) -> None:
        self.rows = rows
        self.sync = sync
        self.offset: int | None = None


def _insert(db: sqlite3.Connection, batches: Sequence[_Batch]) -> list[int]:
    return [rows_of.insert(db, batch.rows) for batch in batches]
