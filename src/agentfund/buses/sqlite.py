"""A log in one SQLite file: no server, many processes, and what was published survives a loss of power."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import struct
import tempfile
import threading
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic_core import from_json

from agentfund.clock import SystemClock, from_micros, to_micros
from agentfund.errors import BusError, BusUnavailable, SchemaTooNew
from agentfund.messages import Message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from datetime import datetime

    from agentfund.messages import Durability
    from agentfund.protocols import Clock

APPLICATION_ID = 0x61676664  # "agfd": marks the file as agentfund's
DATABASE_VERSION = 1

_PAGE = 256  # messages read at once: memory stays flat, other tasks get their turn
_WINDOW = 1_024  # messages a group may have handed out or set aside before it looks further into the log
_TURN_S = 0.005
_RETRY_S = 0.001
_POLL_S = 0.05

# Messages are never deleted, so that offsets count 1, 2, 3 without AUTOINCREMENT, whose table would cost a page a commit.
_SCHEMA = """
BEGIN;
CREATE TABLE messages (
    offset INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, stream TEXT NOT NULL, key TEXT NOT NULL, type TEXT NOT NULL,
    version INTEGER NOT NULL, cycle INTEGER NOT NULL, cause TEXT NOT NULL, producer TEXT NOT NULL,
    time INTEGER NOT NULL, appended INTEGER NOT NULL, payload TEXT NOT NULL
);
CREATE TRIGGER messages_stay BEFORE DELETE ON messages BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER messages_never_change BEFORE UPDATE ON messages BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TABLE groups (id INTEGER PRIMARY KEY, name TEXT NOT NULL, stream TEXT, position INTEGER NOT NULL);
CREATE TABLE pending (
    grp INTEGER NOT NULL, offset INTEGER NOT NULL, key TEXT NOT NULL, attempt INTEGER NOT NULL, until INTEGER NOT NULL,
    PRIMARY KEY (grp, offset)
) WITHOUT ROWID;
CREATE INDEX pending_by_key ON pending (grp, key, offset);
CREATE TABLE dead_letters (
    grp INTEGER NOT NULL, offset INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (grp, offset)
) WITHOUT ROWID;
COMMIT;
"""
_INSERT = (
    "INSERT INTO messages (id, stream, key, type, version, cycle, cause, producer, time, appended, payload) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
)
_LAST = "SELECT coalesce(max(offset), 0) FROM messages"
_SELECT = (
    "SELECT * FROM messages WHERE offset > ?1 AND offset <= ?2 "
    "AND (?3 IS NULL OR stream = ?3) AND (?4 IS NULL OR time >= ?4) ORDER BY offset"
)
# The oldest message that nobody holds and that is the first of its key: so order within a key outlives its consumers.
_FREE = (
    "SELECT offset, attempt FROM pending AS p WHERE grp = ?1 AND until <= ?2 AND NOT EXISTS "
    "(SELECT 1 FROM pending AS q WHERE q.grp = ?1 AND q.key = p.key AND q.offset < p.offset) ORDER BY offset LIMIT 1"
)
_FURTHER = (
    "SELECT position, (SELECT max(offset) FROM messages) FROM groups WHERE id = ?1 "
    "AND position < (SELECT max(offset) FROM messages) AND (SELECT count(*) FROM pending WHERE grp = ?1) < ?2"
)
_FETCH = (
    "INSERT INTO pending SELECT ?1, offset, key, 0, 0 FROM messages "
    "WHERE offset > ?2 AND offset <= ?3 AND (?4 IS NULL OR stream = ?4)"
)
_DEAD = (
    "SELECT m.*, d.reason FROM dead_letters AS d JOIN groups AS g ON g.id = d.grp JOIN messages AS m ON m.offset = d.offset "
    "WHERE g.name = ? ORDER BY m.offset"
)
_REMEDIES = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space, the bus goes on then",
    sqlite3.SQLITE_READONLY: "it is read-only: allow writing to the file and its directory, or open it with read_only=True",
    sqlite3.SQLITE_IOERR: "the system refused the read or write: check the disk, its quota and file-size limits",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that its directory exists and that you may read and write there",
    sqlite3.SQLITE_BUSY: "another process keeps it locked: end that process (a backup, an open shell), or raise `timeout`",
    sqlite3.SQLITE_CORRUPT: "it is damaged: restore it from a backup, or rescue what is left with sqlite3's .recover",
}

# ASCII, because a lone surrogate, which an LLM may write, cannot be stored as it is.
_encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode
_moment = lru_cache(maxsize=256)(from_micros)  # messages of a cycle share their times

T = TypeVar("T")


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
        self._path = Path(path).absolute()
        self._read_only = read_only
        self._clock = clock or SystemClock()
        self._max_attempts = max_attempts
        self._lease = lease // timedelta(microseconds=1)
        self._timeout_s = timeout.total_seconds()
        self._waiting: list[_Batch] = []
        self._publisher = 0
        self._turn_ends = 0.0
        self._bells: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._lock = threading.RLock()
        self._closed = False
        self._immutable = False
        self._full = True
        try:
            if not read_only and not self._path.exists():
                _create(self._path)
            _identify(self._path)
            self._db = self._open_to_read() if read_only else self._open_to_write()
            self._file = _file_id(self._path)
        except sqlite3.Error as error:
            raise self._explain(error) from error
        except OSError as error:
            raise BusUnavailable(f"{self._path} cannot be opened: {error.strerror}; choose a place on a local disk") from error

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
        self._check_writable()
        rows = [self._row(message) for message in messages]
        offset = self._at_once(rows, sync) if self._alone() else None
        if offset is None:
            offset = await self._together(_Batch(rows, sync))
        if self._bells:
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
        position, end = max(after, 0), (await self._patiently(self._rows, _LAST))[0][0]
        while position < end:
            upto = min(position + _PAGE, end)
            for row in await self._patiently(self._rows, _SELECT, (position, upto, stream, start)):
                yield self._message(row)
            position = upto
            await asyncio.sleep(0)

    async def consume(self, group: str, stream: str | None = None) -> AsyncGenerator[_Delivery, None]:
        """Give messages to one of a group's consumers as they come, from the beginning of the log.

        Within a key a message is handed over only when the one before it was answered for. Closing the iterator hands
        back what was not answered for; what a dead process held is handed over again after its lease. Ends when the bus
        is closed. A group's place in the log is kept in the file, for each stream apart.

        Raises:
            BusUnavailable: the file cannot be written now, or was opened to read only.
        """
        self._check_writable()
        grp = await self._patiently(self._write, False, _join, group, stream)
        event = asyncio.Event()
        bell = (asyncio.get_running_loop(), event)
        held: list[_Delivery] = []
        pause = _RETRY_S
        self._bells.add(bell)
        try:
            while not self._closed:
                event.clear()  # before looking, so that what comes while looking is not missed
                found = await self._patiently(self._claim, grp, stream)
                if isinstance(found, _Delivery):
                    held = [*(other for other in held if not other.settled), found]
                    pause = _RETRY_S
                if found:
                    await asyncio.sleep(0)
                if isinstance(found, _Delivery):
                    yield found
                elif not found:
                    # The bell only rings for this process; others are seen by looking, quickly while there is traffic.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            await event.wait()
                    pause = min(2 * pause, _POLL_S)
        finally:
            self._bells.discard(bell)
            if left := [delivery for delivery in held if not delivery.settled]:
                with suppress(sqlite3.Error, BusError):  # where this fails, the lease hands it back
                    self._write(False, _hand_back, left)
                self._ring()

    async def dead_letters(self, group: str) -> list[tuple[Message, str]]:
        """Return what this group gave up on, oldest first, each with the reason."""
        rows = await self._patiently(self._rows, _DEAD, (group,))
        return [(self._message(row[:-1]), row[-1]) for row in rows]

    async def close(self) -> None:
        """Move everything into the one file and let go of it."""
        with self._lock:
            if not self._closed and not self._read_only:
                with suppress(sqlite3.Error):  # refused while others use the file: then the last of them does it
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    # Out of WAL mode, so that reading a finished log leaves no file beside it and needs no writable place.
                    self._db.execute("PRAGMA journal_mode = DELETE")
            self._closed = True
            self._db.close()
        self._ring()

    def _open(self, how: str, *statements: str) -> sqlite3.Connection:
        db = _connect(self._path, how)
        pause, waited_s = threading.Event(), 0.0
        while True:
            try:
                for statement in statements:
                    db.execute(statement)
                return db
            except sqlite3.Error as error:
                # Another process may be opening or closing the log this moment.
                if not _busy(error) or waited_s > self._timeout_s:
                    db.close()
                    raise
                pause.wait(_RETRY_S)
                waited_s += _RETRY_S

    def _open_to_write(self) -> sqlite3.Connection:
        if not os.access(self._path, os.W_OK):
            raise BusUnavailable(f"{self._path} cannot be written: {_REMEDIES[sqlite3.SQLITE_READONLY]}")
        return self._open("mode=rw", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL")

    def _open_to_read(self) -> sqlite3.Connection:
        try:
            return self._open("mode=ro", "SELECT 1 FROM messages LIMIT 1")
        except sqlite3.Error as error:
            # In WAL mode even a reader writes beside the file. Where it may not, and no writer is there, the file rests.
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN) or self._has_wal():
                raise
            self._immutable = True
            return self._open("mode=ro&immutable=1")

    def _has_wal(self) -> bool:
        return self._path.with_name(f"{self._path.name}-wal").exists()

    def _check_writable(self) -> None:
        if self._read_only:
            raise BusUnavailable(f"{self._path} was opened with read_only=True: open it without, to publish or consume")

    def _connection(self) -> sqlite3.Connection:
        if self._closed:
            raise BusUnavailable(f"{self._path} is closed: open it again with SqliteBus(path)")
        if self._immutable and self._has_wal():
            raise BusUnavailable(f"a writer has opened {self._path} since: open it again to read on")
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")  # Ctrl-C came between two lines of an earlier write
        return self._db

    def _explain(self, error: sqlite3.Error) -> BusError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        kind = BusError if code == sqlite3.SQLITE_CORRUPT else BusUnavailable
        return kind(f"{self._path}: {error}: {_REMEDIES.get(code, 'check the file and its directory')}")

    async def _patiently(self, work: Callable[..., T], *args: Any) -> T:
        """Do it, and again while another process holds a lock: the event loop goes on meanwhile."""
        loop = asyncio.get_running_loop()
        deadline = 0.0
        while True:
            try:
                return work(*args)
            except sqlite3.Error as error:
                deadline = deadline or loop.time() + self._timeout_s
                if not _busy(error) or loop.time() > deadline:
                    raise self._explain(error) from error
            await asyncio.sleep(_RETRY_S)

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
            return self._write(sync, _insert_rows, rows)
        except sqlite3.Error as error:
            if _busy(error):
                return None
            raise self._explain(error) from error

    async def _together(self, batch: _Batch) -> int:
        """Append with all who are ready to publish, in one commit."""
        if _file_id(self._path) != self._file:
            raise BusUnavailable(f"{self._path} was deleted or replaced while open: put it back, or open it again")
        self._waiting.append(batch)
        try:
            await asyncio.sleep(0)  # who else is ready joins this commit
            return await self._patiently(self._commit, batch)
        finally:
            if batch.offset is None:
                self._withdraw(batch)

    def _write(self, sync: bool, work: Callable[..., T], *args: Any) -> T:
        """Do `work(connection, *args)` wholly or not at all, alone in the file; the lock keeps other threads away."""
        with self._lock:
            db = self._connection()
            if sync != self._full:
                db.execute(f"PRAGMA synchronous = {'FULL' if sync else 'NORMAL'}")
                self._full = sync
            db.execute("BEGIN IMMEDIATE")
            try:
                result = work(db, *args)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            return result

    def _row(self, message: Message) -> tuple[Any, ...]:
        m = message
        try:
            # What SQLite would refuse is found here, before it could fail the commit that others share.
            "".join((m.id, m.stream, m.key, m.type, m.cause, m.producer)).encode()
            struct.pack("qq", m.version, m.cycle)
            payload = _encode(m.payload if type(m.payload) is dict else dict(m.payload))
            time = to_micros(m.time)
            appended = time if m.appended is m.time else to_micros(m.appended or self._clock.now())
        except (TypeError, ValueError, RecursionError, struct.error) as error:
            raise BusError(
                f"message {m.id!r} ({m.type}) cannot be written to {self._path}: {error}; "
                "a payload is made of JSON values, names are text, numbers fit 64 bits, times are aware"
            ) from error
        return m.id, m.stream, m.key, m.type, m.version, m.cycle, m.cause, m.producer, time, appended, payload

    def _commit(self, batch: _Batch) -> int:
        """Write all that waits, unless another publisher's commit has taken this batch with it."""
        with self._lock:
            if batch.offset is None:
                group = tuple(self._waiting)
                offsets = self._write(any(other.sync for other in group), _insert, group)
                for other, offset in zip(group, offsets, strict=True):
                    other.offset = offset
                    self._waiting.remove(other)
            assert batch.offset is not None
            return batch.offset

    def _withdraw(self, batch: _Batch) -> None:
        with self._lock:
            if batch in self._waiting:
                self._waiting.remove(batch)

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock:
            return self._connection().execute(query, values).fetchall()

    def _message(self, row: tuple[Any, ...]) -> Message:
        offset, name, stream, key, kind, version, cycle, cause, producer, time, appended, text = row
        try:
            payload = from_json(text)
        except ValueError:  # it knows no lone surrogates, and an LLM may write one
            payload = self._payload(offset, text)
        return Message(
            name, stream, key, kind, payload, producer, _moment(time), cycle, cause, version, _moment(appended), offset
        )

    def _payload(self, offset: int, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise BusError(f"{self._path}: the payload of message {offset} is no JSON: restore it from a backup") from error

    def _claim(self, grp: int, stream: str | None) -> _Delivery | bool:
        """Return the next message, or whether it is worth looking again at once."""
        now = to_micros(self._clock.now())
        # Looking takes no lock of the file, so that idle consumers do not stand in the way of writers.
        if not (self._rows(_FREE, (grp, now)) or self._rows(_FURTHER, (grp, _WINDOW))):
            return False
        found = self._write(False, _take, grp, stream, now, now + self._lease, self._max_attempts)
        return _Delivery(self, grp, self._message(found[0]), found[1]) if found else True

    def _answer(self, delivery: _Delivery, reason: str | None) -> None:
        last = delivery.attempt >= self._max_attempts
        mine = self._write(False, _settle, delivery.grp, delivery.message.offset, delivery.attempt, reason, last)
        if not mine and reason is None:
            raise BusError(
                f"{self._path}: message {delivery.message.offset} was handed to another consumer before this ack, so it may "
                f"take effect twice; make the lease of {timedelta(microseconds=self._lease)} longer than the longest work"
            )
        self._ring()

    def _ring(self) -> None:
        for loop, event in tuple(self._bells):
            with suppress(RuntimeError):  # that loop is closed, and its consumer with it
                loop.call_soon_threadsafe(event.set)


class _Batch:
    """What one call of `publish` wants in the log, and where it came to lie."""

    __slots__ = ("offset", "rows", "sync")

    def __init__(self, rows: list[tuple[Any, ...]], sync: bool) -> None:
        self.rows = rows
        self.sync = sync
        self.offset: int | None = None


class _Delivery:
    """A message handed over; `attempt` also serves as its fencing token: it only grows."""

    def __init__(self, bus: SqliteBus, grp: int, message: Message, attempt: int) -> None:
        self.message = message
        self.attempt = attempt
        self.grp = grp
        self.settled = False
        self._bus = bus

    async def ack(self) -> None:
        """Done.

        Raises:
            BusError: the lease ran out and another consumer has the message.
        """
        await self._settle(None)

    async def nack(self, reason: str) -> None:
        """Failed: again, or among the dead letters."""
        await self._settle(reason)

    async def _settle(self, reason: str | None) -> None:
        if not self.settled:
            await self._bus._patiently(self._bus._answer, self, reason)
            self.settled = True


def _connect(path: Path, how: str) -> sqlite3.Connection:
    # No waiting inside SQLite, which would stop the event loop: `_patiently` waits.
    return sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, isolation_level=None, check_same_thread=False, timeout=0)


def _busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _file_id(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _identify(path: Path) -> None:
    """Refuse what is not a log of ours. `immutable` reads the file without a lock and without a file beside it."""
    if path.is_dir():
        raise BusUnavailable(f"{path} is a directory: name a file in it")
    db = _connect(path, "mode=ro&immutable=1")
    try:
        # A checkpoint in progress, or killed, can leave a header ahead of its file: harmless with the WAL, which this
        # connection does not see. With this setting only the header is asked.
        db.execute("PRAGMA writable_schema = ON")
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
        application = None
    finally:
        db.close()
    if application != APPLICATION_ID:
        what = "is not a database" if application is None else "belongs to another program or is empty"
        raise BusError(f"{path} {what}, so it is no log of agentfund and was not touched: choose another path")
    if version > DATABASE_VERSION:
        raise SchemaTooNew(f"{path} has database version {version}, this agentfund reads {DATABASE_VERSION}: upgrade agentfund")


def _create(path: Path) -> None:
    """Make the file whole and then give it its name: nobody, and no crash, ever sees half of it."""
    with tempfile.TemporaryDirectory(prefix=".agentfund-", dir=path.parent) as folder:
        draft = Path(folder, "log")
        db = sqlite3.connect(draft, isolation_level=None)
        try:
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {DATABASE_VERSION}")
        finally:
            db.close()
        with suppress(FileExistsError):  # another process was quicker, and its file is as good
            os.link(draft, path)
    with suppress(OSError):  # not every system can sync a directory
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _insert(db: sqlite3.Connection, batches: Sequence[_Batch]) -> list[int]:
    return [_insert_rows(db, batch.rows) for batch in batches]


def _insert_rows(db: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> int:
    if not rows:
        return _number(db, _LAST)
    if len(rows) > 1:
        db.executemany(_INSERT, rows)
    else:
        cursor = db.execute(_INSERT, rows[0])
        if cursor.rowcount and cursor.lastrowid:
            return cursor.lastrowid
    return _number(db, "SELECT offset FROM messages WHERE id = ?", rows[-1][0])


def _number(db: sqlite3.Connection, query: str, *values: Any) -> int:
    return int(db.execute(query, values).fetchone()[0])


def _join(db: sqlite3.Connection, group: str, stream: str | None) -> int:
    db.execute(
        "INSERT INTO groups (name, stream, position) SELECT ?1, ?2, 0 "
        "WHERE NOT EXISTS (SELECT 1 FROM groups WHERE name = ?1 AND stream IS ?2)",
        (group, stream),
    )
    return _number(db, "SELECT id FROM groups WHERE name = ? AND stream IS ?", group, stream)


def _take(
    db: sqlite3.Connection, grp: int, stream: str | None, now: int, until: int, max_attempts: int
) -> tuple[tuple[Any, ...], int] | None:
    """Return the row of the next message and which attempt it is; None where there was none this time."""
    free = db.execute(_FREE, (grp, now)).fetchone()
    if free is None and (further := db.execute(_FURTHER, (grp, _WINDOW)).fetchone()):
        position, last = further
        upto = min(position + _PAGE, last)
        db.execute(_FETCH, (grp, position, upto, stream))
        db.execute("UPDATE groups SET position = ? WHERE id = ?", (upto, grp))
        free = db.execute(_FREE, (grp, now)).fetchone()
    if free is None:
        return None
    offset, attempt = free[0], free[1] + 1
    if attempt > max_attempts:
        _bury(db, grp, offset, "no consumer answered for it within its lease")
        return None
    db.execute("UPDATE pending SET attempt = ?, until = ? WHERE grp = ? AND offset = ?", (attempt, until, grp, offset))
    return db.execute("SELECT * FROM messages WHERE offset = ?", (offset,)).fetchone(), attempt


def _settle(db: sqlite3.Connection, grp: int, offset: int, attempt: int, reason: str | None, last: bool) -> bool:
    """Write down a consumer's answer; return whether the message was still this attempt's to answer for."""
    pending = db.execute("SELECT attempt FROM pending WHERE grp = ? AND offset = ?", (grp, offset)).fetchone()
    if pending != (attempt,):
        return False
    if reason is None:
        db.execute("DELETE FROM pending WHERE grp = ? AND offset = ?", (grp, offset))
    elif last:
        _bury(db, grp, offset, reason)
    else:
        db.execute("UPDATE pending SET until = 0 WHERE grp = ? AND offset = ?", (grp, offset))
    return True


def _hand_back(db: sqlite3.Connection, held: list[_Delivery]) -> None:
    for delivery in held:
        values = (delivery.grp, delivery.message.offset, delivery.attempt)
        db.execute("UPDATE pending SET until = 0 WHERE grp = ? AND offset = ? AND attempt = ?", values)


def _bury(db: sqlite3.Connection, grp: int, offset: int, reason: str) -> None:
    db.execute("DELETE FROM pending WHERE grp = ? AND offset = ?", (grp, offset))
    db.execute("INSERT INTO dead_letters VALUES (?, ?, ?)", (grp, offset, reason))
