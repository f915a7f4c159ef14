"""A log on a broker that keeps an order and nothing else: the broker orders frames, every process folds them into a mirror."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections import deque
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from agentfund.buses import frames, sqlite_groups, sqlite_rows
from agentfund.buses.bells import Bells
from agentfund.buses.delivery import Delivery
from agentfund.buses.loops import PerLoop
from agentfund.buses.mirror import Mirror, Outcome, Win
from agentfund.buses.mirrored_link import Link, anew, following
from agentfund.buses.sqlite_file import PAGE
from agentfund.buses.wants import Want
from agentfund.clock import SystemClock, to_micros
from agentfund.errors import BusError, BusUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime

    from agentfund.buses.ordered import Ordered
    from agentfund.messages import Durability, Message
    from agentfund.protocols import Clock

_POLL_S = 0.1  # how seldom an idle consumer looks for leases that have ended
_PARKED = 10  # a claim waits in the log for this part of a lease: should its consumer die idle, little can come to it
LEVELS: tuple[Durability, ...] = ("none", "process", "power")


class MirroredBus:
    """A log of frames on a broker, and its mirror here.

    A frame is a batch of messages, or what consumers ask and answer; the broker only says which came first. Everything
    else follows from the frames alone: ids are kept for good, offsets count without gaps and are the same everywhere, a
    message belongs to the consumer whose claim came first. So a process has to read the log before it can write: with
    `mirror` it keeps what it read in a file, and the next start reads only what came since.

    Leases are timed by the clocks of the consumers' machines, which have to agree to a small part of a lease. An agentfund
    that does not know the format of a frame refuses the log.

    Args:
        log: the broker.
        mirror: a file of this process alone; None for a temporary one.
        clock: stamps `Message.appended` where the writer left it None, and times leases.
        max_attempts: how often a message is handed over before it becomes a dead letter.
        lease: how long a consumer may work on a message before it is taken for dead; longer than the longest work.
        timeout: how long to wait for the broker.
        demand: what published messages must survive, as the broker says of itself.
    """

    def __init__(
        self,
        log: Ordered,
        *,
        mirror: str | Path | None = None,
        clock: Clock | None = None,
        max_attempts: int = 5,
        lease: timedelta = timedelta(seconds=30),
        timeout: timedelta = timedelta(seconds=5),
        demand: Durability = "process",
    ) -> None:
        self._log = log
        self._path = None if mirror is None else Path(mirror).absolute()
        self._clock = clock or SystemClock()
        self._max_attempts = max_attempts
        self.lease = lease
        self._lease = lease // timedelta(microseconds=1)
        self._timeout_s = timeout.total_seconds()
        self._demand = demand
        self._level: Durability = demand
        self._closed = False
        self._opening = threading.Lock()
        self._mirror: Mirror | None = None
        self._bells = Bells()
        self._links: PerLoop[Link] = PerLoop(self._start, self._stop)
        self._by_writer: dict[str, Link] = {}
        self._claims: dict[tuple[str, int], _Claim] = {}
        self._numbers = count(1)

    @property
    def durability(self) -> Durability:
        """What a published message survives: what is demanded, and once connected what the broker promises."""
        return self._level

    async def describe(self) -> str:
        """Return in a sentence what was found: where the log is and what makes it durable."""
        await self._link()
        return f"{self._log.home}: what is published survives at the level {self._level!r}"

    async def publish(self, messages: Sequence[Message], *, sync: bool = True) -> int:
        """Append all or nothing; return the offset of the last. `sync` changes nothing: the broker decides.

        After a cancellation or `BusUnavailable` the batch is wholly there or wholly absent, and publishing it again is
        harmless.

        Raises:
            BusError: a message cannot be written as it is (says which and why), or the log is not what it was.
            BusUnavailable: the broker did not answer in time.
        """
        link = self._links.ready() if not self._closed else None
        if link is None:
            link = await self._link()
        if not messages:
            await self._catch_up(link)
            return self._last()
        offset: int = await link.put(Want(frames.put(messages, self._clock, self._log.home)))
        return offset

    async def read(
        self, stream: str | None = None, *, after: int = 0, since: datetime | None = None
    ) -> AsyncGenerator[Message, None]:
        """Give what was in the log when the reading began, oldest first, a page at a time.

        Args:
            stream: only this stream; None means all.
            after: only messages beyond this offset.
            since: only messages whose event time is not before this moment, aware.

        Raises:
            BusUnavailable: the broker cannot be asked what there is.
        """
        start = None if since is None else to_micros(since)
        mirror = await self._catch_up(await self._link())
        position, end = max(after, 0), self._last()
        while position < end:
            upto = min(position + PAGE, end)
            for row in mirror.rows(sqlite_rows.SELECT, (position, upto, stream, start)):
                yield sqlite_rows.message(row, self._log.home)
            position = upto
            await asyncio.sleep(0)

    async def last(self, stream: str | None = None) -> Message | None:
        """Return the newest message of all streams or of one, None where there is none; it is looked for from the end.

        Raises:
            BusUnavailable: the broker cannot be asked what there is.
        """
        mirror = await self._catch_up(await self._link())
        rows = mirror.rows(sqlite_rows.NEWEST, (stream,))
        return sqlite_rows.message(rows[0], self._log.home) if rows else None

    async def consume(self, group: str, stream: str | None = None) -> AsyncGenerator[Delivery, None]:
        """Give messages to one of a group's consumers as they come, from the beginning of the log.

        Within a key a message is handed over only when the one before it was answered for. Closing the iterator hands
        back what was not answered for; what a dead process held is handed over again after its lease. When the broker is
        gone for a while, it goes on where it was. Ends when the bus is closed. A group's place is kept in the log, for each
        stream apart.

        Raises:
            BusError: the log cannot be followed any more.
            BusUnavailable: the broker cannot be reached at the beginning.
        """
        _text(group, "the name of a group")
        _text(stream or "", "the name of a stream")
        link = await self._link()
        claim = _Claim(link, next(self._numbers), group, stream)
        self._claims[link.writer, claim.number] = claim
        held: list[Delivery] = []
        with self._bells.listen() as event, link.following():
            try:
                while not self._closed:
                    event.clear()  # before looking, so that what comes while looking is not missed
                    link.check()
                    win = claim.next(frames.micros(self._clock.now()))
                    if win is not None:
                        delivery = self._delivery(win)
                        held = [*(other for other in held if not other.settled), delivery]
                        claim.parks = True
                        yield delivery
                    elif self._wants(claim):
                        await self._take(claim)
                    else:
                        with suppress(TimeoutError):
                            async with asyncio.timeout(_POLL_S):
                                await event.wait()
            finally:
                await self._leave(claim, held)

    async def dead_letters(self, group: str) -> list[tuple[Message, str]]:
        """Return what this group gave up on, oldest first, each with the reason."""
        mirror = await self._catch_up(await self._link())
        rows = mirror.rows(sqlite_groups.DEAD, (group,))
        return [(sqlite_rows.message(row[:-1], self._log.home), row[-1]) for row in rows]

    async def backlog(self, group: str, stream: str | None = None) -> int:
        """Return how many messages of a stream, or of all, a group has not answered for."""
        return sqlite_groups.backlog(await self._catch_up(await self._link()), group, stream)

    async def close(self) -> None:
        """Let go of the broker and the mirror; what was published stays."""
        self._closed = True
        await self._links.close()
        error = self._gone()
        for link in tuple(self._by_writer.values()):
            link.stop_soon(error)
        self._bells.ring()
        with self._opening:
            if self._mirror is not None:
                self._mirror.close()

    def _found(self) -> str:
        """Return what the connection found, for people."""
        return ""

    async def _link(self) -> Link:
        if self._closed:
            raise self._gone()
        link = await self._links.get()
        link.check()
        return link

    def _gone(self) -> BusUnavailable:
        return BusUnavailable(f"{self._log.home} is closed: make a new {type(self).__name__}")

    async def _start(self) -> Link:
        """Connect, open the mirror, see that the two belong together, and begin to follow."""
        link: Link | None = None
        try:
            level = await self._log.connect()
            if LEVELS.index(level) < LEVELS.index(self._demand):
                raise BusError(
                    f"{self._log.home}: what is published survives at the level {level!r}, and {self._demand!r} is demanded: "
                    f"change the broker's settings, or ask for less with demand={level!r}. {self._found()}".rstrip()
                )
            self._level = level
            with self._opening:
                if self._mirror is None:
                    self._mirror = Mirror(self._path, self._log.home)
                mirror = self._mirror
            place = mirror.place
            end = await self._log.end()
            if place >= 0:
                await self._recognise(mirror, place <= end)
            link = Link(self._log, mirror, self._fold, self._clock, self._timeout_s)
            for one in tuple(self._by_writer.values()):
                if one.failure is not None:
                    self._by_writer.pop(one.writer, None)
            self._by_writer[link.writer] = link
            link.start()
            if end < 0:
                await link.put(Want(frames.ask("log", uuid.uuid4().hex)))
            await link.reach(end)
        except BaseException:
            if link is not None:
                await self._stop(link)
            with suppress(Exception):
                await self._log.close()
            raise
        return link

    async def _stop(self, link: Link) -> None:
        self._by_writer.pop(link.writer, None)
        await link.stop(self._gone())

    async def _recognise(self, mirror: Mirror, reaches: bool) -> None:
        """Refuse a mirror of another log, and a log that does not reach where its mirror stands."""
        try:
            if not reaches:
                raise anew(self._log.home)
            async with asyncio.timeout(self._timeout_s), following(self._log, mirror):
                return
        except TimeoutError:
            raise BusUnavailable(f"{self._log.home} could not be read in {self._timeout_s:g} s") from None
        except BusUnavailable:
            raise
        except BusError as error:
            if self._path is None:
                raise
            raise BusError(
                f"{self._path} is the mirror of another log than {self._log.home}, or that was deleted and begun anew: "
                "delete the mirror if the log is the right one"
            ) from error

    async def _catch_up(self, link: Link) -> Mirror:
        """Wait until the mirror has all that is durable now."""
        mirror = self._mirror
        assert mirror is not None
        before = mirror.place
        end = await self._log.end()
        if end < before:
            raise anew(self._log.home)
        await link.reach(end)
        return mirror

    def _last(self) -> int:
        assert self._mirror is not None
        return int(self._mirror.rows(sqlite_rows.LAST)[0][0])

    def _fold(self, some: Sequence[frames.Opened], mine: bool) -> bool:
        """Fold frames, and tell whoever waits for what came of it; return whether some are another's. Any thread may.

        What was written here and is clear beforehand may be folded a little later.
        """
        mirror = self._mirror
        assert mirror is not None
        others = False
        with mirror.lock:
            results = mirror.foresee(some[0]) if mine else None
            if results is None:
                outcomes, wins = mirror.fold(some)
            else:
                outcomes, wins = [Outcome(some[0].writer, some[0].number, results)], []
            for writer, number, results in outcomes:
                if writer in self._by_writer:
                    self._by_writer[writer].folded(number, results)
                else:
                    others = True
            for win in wins:
                if claim := self._claims.get((win.writer, win.claim)):
                    claim.wins.append(win)
        for link in tuple(self._by_writer.values()):
            link.moved()
        self._bells.ring()
        return others

    def _wants(self, claim: _Claim) -> bool:
        """Return whether a claim is worth a frame: there may be something, or the next message is likely to come soon."""
        assert self._mirror is not None
        now = frames.micros(self._clock.now())
        found, claim.seen = self._mirror.waiting(claim.group, claim.stream, now, claim.seen)
        return found or claim.parks

    async def _take(self, claim: _Claim) -> None:
        claim.parks = False
        claim.asked = True
        patience = self._lease // _PARKED
        part = frames.ask("take", claim.group, claim.stream, claim.number, self._lease, self._max_attempts, patience)
        try:
            await claim.link.put(Want(part))
        except BusUnavailable:
            claim.link.check()
            await asyncio.sleep(_POLL_S)

    async def _leave(self, claim: _Claim, held: list[Delivery]) -> None:
        """Hand back what a consumer did not answer for, and what came to it too late."""
        left = [(one.message.offset, one.attempt, True) for one in held if not one.settled]
        try:
            while left or claim.wins or claim.asked:
                claim.asked = False
                while claim.wins:
                    win = claim.wins.popleft()
                    left.append((win.row[0], win.attempt, False))
                done = claim.link.enqueue(Want(frames.ask("leave", claim.group, claim.stream, claim.number, *left)))
                left = []
                with suppress(BusError):  # where this fails, the lease hands it back
                    await asyncio.shield(done)
        finally:
            self._claims.pop((claim.link.writer, claim.number), None)

    def _delivery(self, win: Win) -> Delivery:
        return Delivery(sqlite_rows.message(win.row, self._log.home), win.attempt, partial(self._answer, win, []))

    async def _answer(self, win: Win, tried: list[Want], delivery: Delivery, reason: str | None) -> None:
        offset, attempt = delivery.message.offset, delivery.attempt
        if reason is not None:
            reason = reason.encode("utf-8", "backslashreplace").decode()  # an LLM may have written it
        link = await self._link()
        want = Want(frames.ask("settle", win.group, win.stream, offset, attempt, reason, attempt >= self._max_attempts))
        tried.append(want)
        await link.put(want)
        # One that was given up for lost may have come through.
        if not any(one.result is True for one in tried) and reason is None:
            raise BusError(
                f"{self._log.home}: message {offset} was handed to another consumer before this ack, so it may take effect "
                f"twice; make the lease of {timedelta(microseconds=self._lease)} longer than the longest work"
            )


class _Claim:
    """One consumer: what it asked for, and what it got and has not handed over."""

    def __init__(self, link: Link, number: int, group: str, stream: str | None) -> None:
        self.link = link
        self.number = number
        self.group = group
        self.stream = stream
        self.wins: deque[Win] = deque()
        self.seen = 0
        self.parks = True
        self.asked = False

    def next(self, now: int) -> Win | None:
        while self.wins:
            win = self.wins.popleft()
            if win.until > now:
                return win  # else it lay here for too long and is free for others
        return None


def _text(name: str, what: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise BusError(f"{what} is not text: {error}") from error
