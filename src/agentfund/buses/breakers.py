"""The states of circuit breakers in one SQLite file, shared by the processes of one machine."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from agentfund.clock import SystemClock
from agentfund.errors import BusError, BusUnavailable, SchemaTooNew

if TYPE_CHECKING:
    from agentfund.protocols import Clock

APPLICATION_ID = 0x61676272  # "agbr": marks the file as agentfund's
DATABASE_VERSION = 1

_SCHEMA = f"""
CREATE TABLE breakers (name TEXT PRIMARY KEY, version INTEGER NOT NULL, state TEXT NOT NULL) STRICT;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {DATABASE_VERSION};
"""
_REMEDIES = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_READONLY: "it is read-only: allow writing to the file and its directory",
    sqlite3.SQLITE_IOERR: "the system refused the read or write: check the disk, its quota and file-size limits",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that its directory exists and that you may read and write there",
    sqlite3.SQLITE_BUSY: "another process keeps it locked: end that process (a backup, an open shell), or raise `timeout`",
    sqlite3.SQLITE_CORRUPT: "it is damaged: move it away while no process uses it; every circuit then starts closed",
    sqlite3.SQLITE_NOTADB: "it is not a database, and was not touched: choose another path",
}


class SqliteBreakers:
    """A store for `SharedCircuitBreaker`: one SQLite file, apart from the log, on a disk of this machine.

    The file is opened at the first use, made where there is none, and opened again after a failure to open it: so a place
    that cannot be used loses the store and stops nothing else. A change is on the disk when `compare_and_set` returns.

    Time is the machine's monotonic clock since it started, where the system tells one start from another (Linux);
    elsewhere it is the wall clock, of which a step forward shortens a cool-down.

    Args:
        path: the file; all processes name the same.
        clock: the machine's clock.
        timeout: how long to wait, in the calling thread, for a lock that another process holds.
        boot: names this start of the machine, None to ask the system; the same for all who share the file.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Clock | None = None,
        timeout: timedelta = timedelta(seconds=1),
        boot: str | None = None,
    ) -> None:
        self._path = Path(path).absolute()
        self._clock = clock or SystemClock()
        self._timeout_s = timeout.total_seconds()
        self._boot = _boot() if boot is None else boot
        self._files: dict[int, _File] = {}  # by process: a fork must neither use nor close what its parent opened

    def load(self, name: str) -> tuple[int, str] | None:
        """Return the version and the state of a breaker, None where there is none.

        Raises:
            BusError: the file is damaged or another program's; it was not touched.
            BusUnavailable: the file cannot be read now.
            SchemaTooNew: a newer agentfund made it.
        """
        rows, _ = self._do("SELECT version, state FROM breakers WHERE name = ?", name)
        return rows[0] if rows else None

    def compare_and_set(self, name: str, expected: int, text: str) -> bool:
        """Write the state if the version is still the expected one, 0 for none; return whether it was.

        Raises:
            BusError: the file is damaged or another program's; it was not touched.
            BusUnavailable: the file cannot be written now.
            SchemaTooNew: a newer agentfund made it.
        """
        # One statement is one transaction, which takes the lock to write before it looks.
        if expected == 0:
            _, count = self._do("INSERT INTO breakers VALUES (?, 1, ?) ON CONFLICT (name) DO NOTHING", name, text)
        else:
            update = "UPDATE breakers SET version = version + 1, state = ?2 WHERE name = ?1 AND version = ?3"
            _, count = self._do(update, name, text, expected)
        return count == 1

    def now(self) -> tuple[str, float]:
        """Return which clock, and its seconds."""
        return (self._boot, self._clock.monotonic()) if self._boot else ("wall", self._clock.now().timestamp())

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        if file := self._files.pop(os.getpid(), None):
            with file.lock:
                file.db.close()

    def _do(self, statement: str, *values: Any) -> tuple[list[Any], int]:
        try:
            file = self._files.get(os.getpid()) or self._files.setdefault(os.getpid(), _File(self._path, self._timeout_s))
            if _identity(self._path) != file.identity:
                self.close()
                raise BusUnavailable(f"{self._path} was deleted or replaced: the next use opens what is there then")
            with file.lock:
                cursor = file.db.execute(statement, values)
                return cursor.fetchall(), cursor.rowcount
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            kind = BusError if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else BusUnavailable
            raise kind(f"{self._path}: {error}: {_REMEDIES.get(code, 'check the file and its directory')}") from error
        except OSError as error:
            raise BusUnavailable(f"{self._path} cannot be opened: {error.strerror}; choose a place on a local disk") from error


class _File:
    """An open file. The lock is reentrant, because the garbage collector may end a protected call while it is held."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        if not path.exists():
            _create(path)
        self.lock = RLock()
        self.identity = _identity(path)
        self.db = sqlite3.connect(
            f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=timeout_s
        )
        try:
            application = self.db.execute("PRAGMA application_id").fetchone()[0]
            version = self.db.execute("PRAGMA user_version").fetchone()[0]
            if application != APPLICATION_ID:
                raise BusError(f"{path} belongs to another program or is empty, and was not touched: choose another path")
            if version > DATABASE_VERSION:
                raise SchemaTooNew(
                    f"{path} has database version {version}, this agentfund reads {DATABASE_VERSION}: upgrade agentfund"
                )
            self.db.execute("PRAGMA synchronous = EXTRA")  # the last change too outlives a loss of power
        except BaseException:
            self.db.close()
            raise


def _create(path: Path) -> None:
    """Make the file whole and then give it its name: nobody, and no crash, ever sees half of it."""
    with tempfile.TemporaryDirectory(prefix=".agentfund-", dir=path.parent) as folder:
        draft = Path(folder, "breakers")
        db = sqlite3.connect(draft, isolation_level=None)
        try:
            db.executescript(_SCHEMA)
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


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


@cache
def _boot() -> str:
    """Return the system's name for this start of the machine, empty where it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
