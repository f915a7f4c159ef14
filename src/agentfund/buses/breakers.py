"""The states of circuit breakers in one SQLite file, shared by the processes of one machine."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfund.buses.database import Kind, SharedFile
from agentfund.buses.processes import boot_id
from agentfund.clock import SystemClock

if TYPE_CHECKING:
    from agentfund.protocols import Clock

APPLICATION_ID = 0x61676272  # "agbr": marks the file as agentfund's
DATABASE_VERSION = 1

_KIND = Kind(
    APPLICATION_ID,
    DATABASE_VERSION,
    "CREATE TABLE breakers (name TEXT PRIMARY KEY, version INTEGER NOT NULL, state TEXT NOT NULL) STRICT;",
    {sqlite3.SQLITE_CORRUPT: "it is damaged: move it away while no process uses it; every circuit then starts closed"},
)


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
        self._clock = clock or SystemClock()
        self._boot = boot_id() if boot is None else boot
        self._file = SharedFile(
            Path(path).absolute(),
            _KIND,
            timeout_s=timeout.total_seconds(),
            settings=("PRAGMA synchronous = EXTRA",),  # the last change too outlives a loss of power
            follow=True,
        )

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
        self._file.close()

    def _do(self, statement: str, *values: Any) -> tuple[list[Any], int]:
        def run(db: sqlite3.Connection) -> tuple[list[Any], int]:
            cursor = db.execute(statement, values)
            return cursor.fetchall(), cursor.rowcount

        return self._file.use(run)
