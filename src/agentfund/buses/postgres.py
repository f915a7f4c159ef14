"""A log in a Postgres database: many processes and machines, and as durable as the database is."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from agentfund.buses import wire
from agentfund.buses.bells import Bells
from agentfund.buses.delivery import Delivery
from agentfund.buses.loops import PerLoop
from agentfund.buses.postgres_schema import LONGEST, Names
from agentfund.buses.wire import moment
from agentfund.clock import SystemClock, to_micros
from agentfund.errors import BusError, BusUnavailable
from agentfund.messages import Message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime

    from agentfund.buses.postgres_lines import Lines
    from agentfund.messages import Durability
    from agentfund.protocols import Clock

_PAGE = 1_000  # messages read at once, or fewer where they are large: memory stays flat, other tasks get their turn
_FIRST = 100  # of them at first, when it is not known how large they are
_PAGE_BYTES = 4 << 20
_SPAN = 20_000  # offsets looked through at once where not every message is wanted
_POLL_S = 0.25  # how seldom an idle consumer looks although nobody woke it
_RETRY_S = 0.05  # how soon a consumer looks for a server that is away, or without being woken
_PAUSE_S = 1.0  # how seldom it does in the end


class PostgresBus:
    """A log in a schema of a Postgres database (12 and later), for many tasks, threads, processes and machines at once.

    What is not there yet is made at the first connection, and an older log is brought up to date then. The role needs
    CREATE on the database for that, or on a schema of the log's name; afterwards it needs to use, read and write what is
    in the schema. Each event loop uses up to six connections, and each has to be a session of its own: a pooler such as
    pgbouncer may stand between in session mode only, because wake-ups and locks belong to a session.

    `publish` commits as the server's `synchronous_commit` says; a server where that is off is refused unless `demand` is
    "none". With `sync=False` a killed publisher loses nothing, but where the server or its machine dies within the next
    second the newest messages may be gone. A publisher that got no answer publishes again: a message is kept once.

    Args:
        url: `postgresql://user:password@host:port/database`; the password may be left to PGPASSWORD or a password file.
        name: of the log: the schema that holds it.
        clock: stamps `Message.appended` where the writer left it None; leases are timed by the server.
        max_attempts: how often a message is handed over before it becomes a dead letter.
        lease: how long a consumer may work on a message before it is taken for dead; longer than the longest work.
        timeout: how long to wait for the server.
        demand: what a message must survive, or nothing is published: "none", a killed "process", or a loss of "power".

    Raises:
        BusError: asyncpg is not installed, the address is none of Postgres, or the name cannot be a schema's.
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
            from agentfund.buses.postgres_lines import Lines
            from agentfund.buses.postgres_server import Server
        except ModuleNotFoundError as error:
            raise BusError("asyncpg is not installed: pip install 'agentfund[postgres]'") from error
        self._server = Server(url, Names(name), timeout_s=timeout.total_seconds(), demand=demand)
        self._statements = self._server.statements
        self._demand: Durability = demand
        self._clock = clock or SystemClock()
        self._max_attempts = max_attempts
        self.lease = lease
        self._bells = Bells()
        self._rung = 0  # up to which offset this process has published, and woken its own consumers
        self._closed = False

        async def make() -> Lines:
            lines = Lines(self._server, lambda: self._rung)
            try:
                await lines.patiently(lines.open)
            except BaseException:
                await lines.close()
                raise
            return lines

        self._loops = PerLoop(make, Lines.close)

    @property
    def durability(self) -> Durability:
        """What a synced message survives: what is demanded, and once connected what was found."""
        return self._server.level or self._demand

    async def describe(self) -> str:
        """Say what server this is and what makes a message durable there.

        Raises:
            BusError: it promises less than was demanded.
            BusUnavailable: it cannot be asked now.
        """
        lines = await self._here()
        await lines.patiently(lines.check)
        return self._server.found

    async def publish(self, messages: Sequence[Message], *, sync: bool = True) -> int:
        """Append all or nothing; return the offset of the last.

        Raises:
            BusError: a message cannot be written as it is, or the server does not let us; nothing was appended.
            BusUnavailable: the server gave no answer; the batch is there or it is not. Publishing it again is safe.
        """
        rows = [self._row(message) for message in messages]
        lines = await self._here()
        if not rows:
            return await self._end(lines)
        offset = await lines.put(rows, sync)
        self._rung = max(self._rung, offset)
        self._bells.ring()
        return offset

    async def read(
        self, stream: str | None = None, *, after: int = 0, since: datetime | None = None
    ) -> AsyncGenerator[Message, None]:
        """Give what is in the log when the reading begins, oldest first, a page at a time.

        Nothing is skipped: whoever appends is alone until its commit, so offsets are given in the order of commits.

        Args:
            stream: only this stream; None means all.
            after: only messages beyond this offset.
            since: only messages whose event time is not before this moment, aware.

        Raises:
            BusUnavailable: the server cannot be asked now.
        """
        lines = await self._here()
        some: list[Any] = [] if stream is None else [self._name(stream)]
        if since is not None:
            some.append(to_micros(since))
        query = self._statements.page(stream is not None, since is not None)
        position, end = max(after, 0), await self._end(lines)
        coming: asyncio.Future[list[Any]] | None = None
        upto, most = position, _FIRST
        while coming or position < end:
            rows = await coming if coming else []
            position = rows[-1][0] if len(rows) == most else upto
            if rows:
                most = max(1, min(_PAGE, _PAGE_BYTES // max(len(row[11]) for row in rows)))
            coming = None
            if position < end:
                # Where few are wanted a page may be far between: no statement looks through the whole log.
                upto = end if since is None else min(position + _SPAN, end)
                coming = asyncio.ensure_future(lines.ask(query, position, upto, most, *some))
                coming.add_done_callback(_seen)
                await asyncio.sleep(0)  # it is asked for now: the server looks for the next page while this one is read
            for row in rows:
                yield self._message(row)

    async def last(self, stream: str | None = None) -> Message | None:
        """Return the newest message of all streams or of one, None where there is none; found by an index.

        Raises:
            BusUnavailable: the server cannot be asked now.
        """
        lines = await self._here()
        if stream is None:
            rows = await lines.ask(self._statements.last)
        else:
            rows = await lines.ask(self._statements.last_of, self._name(stream))
        return self._message(rows[0]) if rows else None

    async def consume(self, group: str, stream: str | None = None) -> AsyncGenerator[Delivery, None]:
        """Give messages to one of a group's consumers as they come, from the beginning of the log.

        Within a key a message is handed over only when the one before it was answered for. Closing the iterator hands
        back what was not answered for; what a dead process held is handed over again after its lease. While the server is
        away it waits, and goes on without a gap. Ends when the bus is closed.

        Raises:
            BusError: the server does not let us.
            BusUnavailable: the server could not be reached at the beginning.
        """
        lines = await self._here()
        ((grp,),) = await lines.ask(self._statements.join, self._name(group), None if stream is None else self._name(stream))
        me = _Consumer(grp, secrets.randbits(63))
        held: list[Delivery] = []
        unsure = False  # whether a message may have been taken for us that never came
        pause = _RETRY_S
        lines.holders[me.number] = grp
        lines.listen()
        with self._bells.listen() as event:
            lines.waiting.add(event)
            try:
                while not self._closed:
                    event.clear()  # before looking, so that what comes while looking is not missed
                    try:
                        if unsure:
                            kept = [one.message.offset for one in held if not one.settled]
                            await lines.once(self._statements.release, grp, me.number, kept)
                        unsure = True
                        found = await self._take(lines, me)
                        unsure, pause = False, _RETRY_S
                    except BusUnavailable:
                        await self._wait(event, pause)
                        pause = min(2 * pause, _PAUSE_S)
                        continue
                    if found:
                        held = [*(one for one in held if not one.settled), found]
                        yield found
                    else:
                        await self._wait(event, _POLL_S if lines.listening else _RETRY_S)
            finally:
                me.gone = True
                lines.waiting.discard(event)
                left = unsure or any(not one.settled for one in held)
                if lines.holders.pop(me.number, None) is not None and left:
                    with suppress(BusError):  # where this fails, the lease hands it back
                        await lines.once(self._statements.release, grp, me.number, [])
                    self._bells.ring()
                    lines.tell(0)

    async def dead_letters(self, group: str) -> list[tuple[Message, str]]:
        """Return what this group gave up on, oldest first, each with the reason."""
        rows = await (await self._here()).ask(self._statements.dead, self._name(group))
        return [(self._message(row[:-1]), row[-1]) for row in rows]

    async def backlog(self, group: str, stream: str | None = None) -> int:
        """Return how many messages of a stream, or of all, a group has not answered for."""
        lines = await self._here()
        rows = await lines.ask(self._statements.backlog, self._name(group), None if stream is None else self._name(stream))
        return int(rows[0][0])

    async def close(self) -> None:
        """Let go of this loop's connections; what other loops use ends with them."""
        self._closed = True
        await self._loops.close()
        self._bells.ring()

    async def _here(self) -> Lines:
        if self._closed:
            raise BusUnavailable(f"{self._server.home} is closed: make a new PostgresBus")
        return self._loops.ready() or await self._loops.get()

    async def _end(self, lines: Lines) -> int:
        ((newest,),) = await lines.ask(self._statements.end)
        return int(newest)

    async def _take(self, lines: Lines, me: _Consumer) -> Delivery | None:
        until = asyncio.get_running_loop().time() + self.lease.total_seconds()
        rows = await lines.once(self._statements.take, me.group, me.number, self.lease, self._max_attempts)
        if not rows:
            return None
        attempt, *row = rows[0]
        return Delivery(self._message(row), attempt, partial(self._answer, me, _Claim(until)))

    async def _answer(self, me: _Consumer, claim: _Claim, delivery: Delivery, reason: str | None) -> None:
        lines = await self._here()
        one = delivery.message
        if reason is not None:
            reason = reason.encode(errors="backslashreplace").decode().replace("\0", "\\0")
        last = delivery.attempt >= self._max_attempts
        values = me.group, one.key, one.offset, delivery.attempt, me.number, reason, last

        async def settle() -> bool:
            try:
                ((mine,),) = await lines.once(self._statements.settle, *values)
            except BusUnavailable:
                claim.doubtful = True
                raise
            return bool(mine)

        mine = await lines.patiently(settle)
        # An answer that was lost on its way back is given twice. As long as the lease lasts nobody else can have given it.
        mine = mine or (claim.doubtful and not me.gone and asyncio.get_running_loop().time() < claim.until)
        if not mine and reason is None:
            raise BusError(
                f"{self._server.home}: message {one.offset} was handed to another consumer before this ack, so it may "
                f"take effect twice; make the lease of {self.lease} longer than the longest work"
            )
        self._bells.ring()
        if reason is not None:
            lines.tell(0)

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    def _row(self, message: Message) -> tuple[Any, ...]:
        m = message
        # What Postgres would refuse is found here, before it could fail the append that others share.
        payload = wire.payload(m, self._server.home)
        for name in (m.id, m.stream, m.key):
            self._name(name)
        if "\0" in m.type or "\0" in m.cause or "\0" in m.producer:
            raise BusError(f"message {m.id!r} ({m.type!r}): Postgres keeps no text with a zero character: remove it")
        time = to_micros(m.time)
        appended = time if m.appended is m.time else to_micros(m.appended or self._clock.now())
        return m.id, m.stream, m.key, m.type, m.version, m.cycle, m.cause, m.producer, time, appended, payload, m.token

    def _name(self, name: str) -> str:
        if "\0" in name or len(name) > LONGEST // 4 or not name.isascii():
            try:
                size = len(name.encode())
            except UnicodeEncodeError:
                size = LONGEST + 1
            if "\0" in name or size > LONGEST:
                raise BusError(
                    f"{name[:100]!r} cannot be a name in {self._server.home}: names are text of up to {LONGEST} bytes "
                    "without a zero character"
                )
        return name

    def _message(self, row: Any) -> Message:
        offset, name, stream, key, kind, version, cycle, cause, producer, time, appended, text, token = row
        payload = wire.value(text, offset, self._server.home)
        return Message(
            name, stream, key, kind, payload, producer, moment(time), cycle, cause, version, moment(appended), offset, token
        )


def _seen(coming: asyncio.Future[Any]) -> None:
    """Let a page that nobody waits for any more fail in silence."""
    if not coming.cancelled():
        coming.exception()


@dataclass(slots=True)
class _Consumer:
    """One iterator of `consume`."""

    group: int
    number: int
    gone: bool = False


@dataclass(slots=True)
class _Claim:
    """What a consumer was promised of a message: nobody else gets it before this time of the loop's clock."""

    until: float
    doubtful: bool = False
