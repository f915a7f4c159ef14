"""A SQLite file of agentfund: made whole, known for ours, used by several processes, its errors told with the fix."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

from agentfund.errors import BusError, BusUnavailable, SchemaTooNew

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

_REMEDIES = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_READONLY: "it is read-only: allow writing to the file and its directory",
    sqlite3.SQLITE_IOERR: "the system refused the read or write: check the disk, its quota and file-size limits",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that its directory exists and that you may read and write there",
    sqlite3.SQLITE_BUSY: "another process keeps it locked: end that process (a backup, an open shell), or raise `timeout`",
    sqlite3.SQLITE_CORRUPT: "it is damaged: restore it from a backup",
    sqlite3.SQLITE_NOTADB: "it is not a database: choose another path",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file.

    Args:
        application_id: marks a file as of this kind.
        version: of its tables, 1 and up.
        schema: the script that makes them.
        remedies: what to do about an error of SQLite, by its primary code, where the usual advice does not fit.
    """

    application_id: int
    version: int
    schema: str
    remedies: Mapping[int, str] = field(default_factory=dict)

    def create(self, path: Path) -> None:
        """Make the file whole and then give it its name: nobody, and no crash, ever sees half of it.

        Raises:
            BusUnavailable: a part of an earlier file is there, which SQLite would mix with the new one.
            OSError: there is no place for it.
            sqlite3.Error: it cannot be written.
        """
        left = [part for part in (path.with_name(f"{path.name}-{end}") for end in ("wal", "journal")) if part.exists()]
        if left and not path.exists():
            raise BusUnavailable(f"{left[0]} is left of a file that is gone: put {path} back, or remove this part too")
        with tempfile.TemporaryDirectory(prefix=".agentfund-", dir=path.parent) as folder:
            draft = Path(folder, "draft")
            db = sqlite3.connect(draft, isolation_level=None)
            try:
                db.executescript(self.schema)
                db.execute(f"PRAGMA application_id = {self.application_id}")
                db.execute(f"PRAGMA user_version = {self.version}")
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

    def identify(self, path: Path) -> None:
        """Refuse what is not of this kind. `immutable` reads the file without a lock and without a file beside it.

        Raises:
            BusError: the file is not of this kind; it was not touched.
            BusUnavailable: it is a directory.
            SchemaTooNew: a newer agentfund made it.
            sqlite3.Error: it cannot be read.
        """
        if path.is_dir():
            raise BusUnavailable(f"{path} is a directory and cannot be opened: name a file in it")
        db = connect(path, "mode=ro&immutable=1")
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
        if application != self.application_id:
            what = "is not a database" if application is None else "belongs to another program or is empty"
            raise BusError(f"{path} {what}, and was not touched: choose another path")
        if version > self.version:
            raise SchemaTooNew(f"{path} has database version {version}, this agentfund reads {self.version}: upgrade agentfund")

    def explain(self, path: Path, error: sqlite3.Error) -> BusError:
        """Return SQLite's error as one that names the file and the fix."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        kind = BusError if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else BusUnavailable
        remedy = self.remedies.get(code) or _REMEDIES.get(code, "check the file and its directory")
        return kind(f"{path}: {error}: {remedy}")


class SharedFile:
    """A file that processes share: opened at the first use, made where there is none, opened again where that failed.

    One connection serves all threads, one at a time. It is closed before the process forks, and each side opens its own:
    SQLite takes an inherited connection's locks for held although only the parent holds them.

    Args:
        path: the file.
        kind: what it is.
        timeout_s: how long to wait, in the calling thread, for a lock that another process holds.
        settings: statements that prepare a connection.
        follow: whether a file that was deleted or replaced is let go, so that the next use opens what is there then; else
            every use fails until it is back.
    """

    def __init__(self, path: Path, kind: Kind, *, timeout_s: float, settings: tuple[str, ...] = (), follow: bool) -> None:
        self.path = path
        self._kind = kind
        self._timeout_s = timeout_s
        self._settings = settings
        self._follow = follow
        # Reentrant, because the garbage collector may end a protected call while it is held.
        self._lock = RLock()
        self._db: sqlite3.Connection | None = None
        self._id: tuple[int, int] | None = None
        self._process = 0
        with _fork:
            _shared.add(self)

    def use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do it with the connection, which nobody else of this process uses meanwhile.

        Raises:
            BusError: the file is damaged or another program's; it was not touched.
            BusUnavailable: the file cannot be used now.
            SchemaTooNew: a newer agentfund made it.
        """
        with self._lock:
            try:
                return work(self._opened())
            except sqlite3.Error as error:
                raise self._kind.explain(self.path, error) from error
            except OSError as error:
                raise BusUnavailable(
                    f"{self.path} cannot be opened: {error.strerror}; choose a place on a local disk"
                ) from error

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        with self._lock:
            if self._db is not None and self._process == os.getpid():
                with suppress(sqlite3.Error):
                    self._db.close()
            self._db = None

    def _opened(self) -> sqlite3.Connection:
        if self._id is not None and file_id(self.path) != self._id:
            if self._follow:
                self.close()
                self._id = None
                raise BusUnavailable(f"{self.path} was deleted or replaced: the next use opens what is there then")
            raise BusUnavailable(
                f"{self.path} was deleted or replaced while in use: put it back, or start all processes that use it anew"
            )
        if self._db is None:
            self._db = self._open()
            self._process = os.getpid()
        elif self._process != os.getpid():
            raise BusUnavailable(
                f"{self.path} is open in a process that was forked past Python: start processes with multiprocessing"
            )
        return self._db

    def _open(self) -> sqlite3.Connection:
        if not self.path.exists():
            self._kind.create(self.path)
        found = self.path.stat()
        self._kind.identify(self.path)
        db = connect(self.path, "mode=rw", self._timeout_s)
        try:
            for statement in self._settings:
                db.execute(statement)
        except BaseException:
            db.close()
            raise
        self._id = found.st_dev, found.st_ino
        return db

    def _before_fork(self) -> None:
        self._lock.acquire()
        self.close()

    def _after_fork(self) -> None:
        self._lock.release()


def connect(path: Path, how: str, timeout_s: float = 0.0) -> sqlite3.Connection:
    """Connect to a file, whatever characters its name has; wait so many seconds for a lock."""
    return sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, isolation_level=None, check_same_thread=False, timeout=timeout_s)


def busy(error: BaseException | None) -> bool:
    """Return whether another connection holds the lock, so that it is worth trying again."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def file_id(path: Path) -> tuple[int, int] | None:
    """Return which file this name means now, None where it means none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


_shared: WeakSet[SharedFile] = WeakSet()
_fork = RLock()
_forking: list[SharedFile] = []


def _before_fork() -> None:
    _fork.acquire()
    _forking[:] = _shared
    for file in _forking:
        file._before_fork()


def _after_fork() -> None:
    for file in _forking:
        file._after_fork()
    _forking.clear()
    _fork.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
