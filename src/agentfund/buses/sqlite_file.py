"""The SQLite file under a log: how it is made, known for ours, opened, written in transactions and left as one file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agentfund.buses.database import Kind, busy, connect, file_id
from agentfund.errors import BusUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentfund.errors import BusError

APPLICATION_ID = 0x61676664  # "agfd": marks the file as agentfund's
DATABASE_VERSION = 2

PAGE = 256  # messages read at once: memory stays flat, other tasks get their turn
RETRY_S = 0.001  # how soon to look again for a lock, or for what another process wrote

# Messages are never deleted, so that offsets count 1, 2, 3 without AUTOINCREMENT, whose table would cost a page a commit.
SCHEMA = """
BEGIN;
CREATE TABLE messages (
    offset INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, stream TEXT NOT NULL, key TEXT NOT NULL, type TEXT NOT NULL,
    version INTEGER NOT NULL, cycle INTEGER NOT NULL, cause TEXT NOT NULL, producer TEXT NOT NULL,
    time INTEGER NOT NULL, appended INTEGER NOT NULL, payload TEXT NOT NULL, token INTEGER NOT NULL DEFAULT 0
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
_UPGRADE = "ALTER TABLE messages ADD COLUMN token INTEGER NOT NULL DEFAULT 0"  # what a file of version 1 has not
_READONLY = "it is read-only: allow writing to the file and its directory, or open it with read_only=True"
_LOG = Kind(
    APPLICATION_ID,
    DATABASE_VERSION,
    SCHEMA,
    {
        sqlite3.SQLITE_FULL: "the disk is full: free some space, the bus goes on then",
        sqlite3.SQLITE_READONLY: _READONLY,
        sqlite3.SQLITE_CORRUPT: "it is damaged: restore it from a backup, or rescue what is left with sqlite3's .recover",
    },
)

T = TypeVar("T")


class LogFile:
    """The file of a log and the one connection to it, safe to use from several threads.

    Args:
        path: the file; made when it does not exist.
        read_only: only read; the file is neither made nor changed.
        timeout_s: how long to wait for a lock that another process holds.

    Raises:
        BusError: the file is not a log of agentfund; it was not touched.
        SchemaTooNew: a newer agentfund made it.
        BusUnavailable: the file cannot be opened, made or written.
    """

    def __init__(self, path: Path, *, read_only: bool, timeout_s: float) -> None:
        self.path = path
        self.lock = threading.RLock()
        self.closed = False
        self._read_only = read_only
        self._timeout_s = timeout_s
        self._immutable = False
        self._full = True
        try:
            if not read_only and not path.exists():
                _LOG.create(path)
            _LOG.identify(path)
            self.db = self._open_to_read() if read_only else self._open_to_write()
            weakref.finalize(self, self.db.close)  # for those who never close: what was published is in the file
            self.id = file_id(path)
        except sqlite3.Error as error:
            raise self.explain(error) from error
        except OSError as error:
            raise BusUnavailable(f"{path} cannot be opened: {error.strerror}; choose a place on a local disk") from error

    def _open(self, how: str, *statements: str) -> sqlite3.Connection:
        db = connect(self.path, how)  # no waiting inside SQLite, which would stop the event loop: `patiently` waits
        pause, waited_s = threading.Event(), 0.0
        while True:
            try:
                for statement in statements:
                    db.execute(statement)
                return db
            except sqlite3.Error as error:
                # Another process may be opening or closing the log this moment.
                if not busy(error) or waited_s > self._timeout_s:
                    db.close()
                    raise
                pause.wait(RETRY_S)
                waited_s += RETRY_S

    def _open_to_write(self) -> sqlite3.Connection:
        if not os.access(self.path, os.W_OK):
            raise BusUnavailable(f"{self.path} cannot be written: {_READONLY}")
        db = self._open("mode=rw", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL")
        if number(db, "PRAGMA user_version") < DATABASE_VERSION:
            with db:
                db.execute("BEGIN IMMEDIATE")
                if number(db, "PRAGMA user_version") < DATABASE_VERSION:  # else another process was quicker
                    db.execute(_UPGRADE)
                    db.execute(f"PRAGMA user_version = {DATABASE_VERSION}")
        return db

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
        return self.path.with_name(f"{self.path.name}-wal").exists()

    def check_writable(self) -> None:
        """Raise BusUnavailable where the file was opened to read only."""
        if self._read_only:
            raise BusUnavailable(f"{self.path} was opened with read_only=True: open it without, to publish or consume")

    def check_in_place(self) -> None:
        """Raise BusUnavailable where the path no longer names the file that is open."""
        if file_id(self.path) != self.id:
            raise BusUnavailable(f"{self.path} was deleted or replaced while open: put it back, or open it again")

    def _connection(self) -> sqlite3.Connection:
        if self.closed:
            raise BusUnavailable(f"{self.path} is closed: open it again with SqliteBus(path)")
        if self._immutable and self._has_wal():
            raise BusUnavailable(f"a writer has opened {self.path} since: open it again to read on")
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")  # Ctrl-C came between two lines of an earlier write
        return self.db

    def explain(self, error: sqlite3.Error) -> BusError:
        """Return SQLite's error as one that names the file and the fix."""
        return _LOG.explain(self.path, error)

    async def patiently(self, work: Callable[..., T], *args: Any) -> T:
        """Do it, and again while another process holds a lock: the event loop goes on meanwhile."""
        loop = asyncio.get_running_loop()
        deadline = 0.0
        while True:
            try:
                return work(*args)
            except sqlite3.Error as error:
                deadline = deadline or loop.time() + self._timeout_s
                if not busy(error) or loop.time() > deadline:
                    raise self.explain(error) from error
            await asyncio.sleep(RETRY_S)

    def write(self, sync: bool, work: Callable[..., T], *args: Any) -> T:
        """Do `work(connection, *args)` wholly or not at all, alone in the file; the lock keeps other threads away."""
        with self.lock:
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

    def rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """Return what a query gives, of one moment."""
        with self.lock:
            return self._connection().execute(query, values).fetchall()

    def close(self) -> None:
        """Move everything into the one file and let go of it."""
        with self.lock:
            if not self.closed and not self._read_only:
                with suppress(sqlite3.Error):  # refused while others use the file: then the last of them does it
                    self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    # Out of WAL mode, so that reading a finished log leaves no file beside it and needs no writable place.
                    self.db.execute("PRAGMA journal_mode = DELETE")
            self.closed = True
            self.db.close()


def number(db: sqlite3.Connection, query: str, *values: Any) -> int:
    """Return the one number that a query gives."""
    return int(db.execute(query, values).fetchone()[0])
