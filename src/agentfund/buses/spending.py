"""What is spent and reserved for language models in one SQLite file, shared by the processes of one machine."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, NoReturn, TypeVar

from agentfund.buses.database import Kind, SharedFile, busy
from agentfund.buses.processes import boot_id, pid_of
from agentfund.buses.spending_books import SCHEMA, Books, Entry, Moment
from agentfund.clock import SystemClock, to_micros
from agentfund.errors import BudgetExceeded, BusUnavailable

if TYPE_CHECKING:
    from agentfund.protocols import Clock
    from agentfund.spending import Pending, Spending

APPLICATION_ID = 0x61677370  # "agsp": marks the file as agentfund's
DATABASE_VERSION = 1

_KIND = Kind(
    APPLICATION_ID,
    DATABASE_VERSION,
    SCHEMA,
    {
        sqlite3.SQLITE_CORRUPT: "it is damaged: restore it from a backup, or move it away while no process uses it;"
        " what was spent is then forgotten",
    },
)
_REST_S = 1.0
_RETRY_S = 0.0005

_log = logging.getLogger(__name__)

T = TypeVar("T")


class SqliteSpending:
    """A store for `SharedBudget`: one SQLite file on a disk of this machine, apart from the log.

    The file is made at the first use where there is none. From then on a process that uses it refuses to go on without
    it: a budget that begins again at zero because its file is gone would hold nothing. All processes must name the same
    file, so name it with its whole path.

    Time is the machine's monotonic clock since it started, where the system tells one start from another (Linux): setting
    the wall clock changes nothing, and while the machine sleeps no time passes. From one start to another, and on other
    systems, it is the wall clock: set back it forgets late, set forward it forgets early.

    A reservation is its process's, until it is settled or its process is dead: ended, by whatever cause, or gone with a
    restart of the machine. Where the system does not tell, it counts as dead a day after the reservation.

    Args:
        path: the file.
        clock: the machine's clock.
        timeout: how long to wait, in the calling thread, for a lock that another process holds. When that was in vain
            the file is left alone for a second, so that the calls of an event loop do not wait one after another.
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
        self._timeout_s = timeout.total_seconds()
        self._file = SharedFile(Path(path).absolute(), _KIND, timeout_s=self._timeout_s, follow=False)
        self._locked: tuple[float, str] | None = None

    def __repr__(self) -> str:
        return f"<SqliteSpending {str(self._file.path)!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open file is not pickled or copied: make SqliteSpending(path) in each process, with the same path")

    def reserve(self, number: int, worst_case: Decimal, run: str, check: Callable[[Spending], None]) -> None:
        """Set an amount aside if `check` does not mind the sums; what it raises passes through.

        Raises:
            BusError: the file is damaged or another program's; it was not touched.
            BusUnavailable: the file cannot be written now.
            SchemaTooNew: a newer agentfund made it.
        """

        def decide(books: Books) -> BudgetExceeded | None:
            try:
                check(books.spending(run))
            except BudgetExceeded:
                if not books.bury():
                    raise
                try:
                    check(books.spending(run))
                except BudgetExceeded as refusal:
                    return refusal  # what was found out about the dead stays
            books.reserve(number, worst_case, run)
            return None

        # The reservation must outlive a loss of power. A bill need not: without it the reservation stands.
        if refusal := self._write(decide, synchronous="FULL"):
            raise refusal

    def settle(self, bills: Mapping[int, Decimal], run: str) -> None:
        """Book what calls cost in place of their reservations.

        Raises:
            BusError: the file is damaged or another program's; it was not touched.
            BusUnavailable: the file cannot be written now.
            SchemaTooNew: a newer agentfund made it.
        """

        def settle(books: Books) -> None:
            for number, usd in bills.items():
                books.settle(number, usd, run)

        self._write(settle, synchronous="NORMAL")

    def spending(self, run: str) -> Spending:
        """Return the sums of this moment.

        Raises:
            BusError: the file is damaged or another program's; it was not touched.
            BusUnavailable: the file cannot be read now.
            SchemaTooNew: a newer agentfund made it.
        """
        return self._read(lambda books: books.spending(run))

    def pending(self) -> Sequence[Pending]:
        """Return the calls of unknown cost, oldest first.

        Raises:
            BusError: the file is damaged or another program's; it was not touched.
            BusUnavailable: the file cannot be read now.
            SchemaTooNew: a newer agentfund made it.
        """
        return self._read(Books.pending)

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        self._file.close()

    def _write(self, work: Callable[[Books], T], synchronous: str) -> T:
        def write(db: sqlite3.Connection) -> tuple[T, list[Entry]]:
            _end_unfinished(db)
            db.execute(f"PRAGMA synchronous = {synchronous}")
            self._begin(db)
            try:
                books = self._books(db)
                books.forget()
                result = work(books)
                books.save()
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            return result, books.buried

        if self._locked is not None and self._clock.monotonic() < self._locked[0]:
            raise BusUnavailable(self._locked[1])
        self._locked = None
        try:
            result, buried = self._file.use(write)
        except BusUnavailable as error:
            if busy(error.__cause__):
                self._locked = (self._clock.monotonic() + _REST_S, str(error))
            raise
        for entry in buried:
            _log.warning(
                "process %s ended before it said what a call cost: booked at its worst case, %s USD",
                pid_of(entry.process),
                entry.usd,
            )
        return result

    def _begin(self, db: sqlite3.Connection) -> None:
        # SQLite waits longer and longer between its tries, so that a process among busy ones would come last for seconds.
        db.execute("PRAGMA busy_timeout = 0")
        pause, waited_s = Event(), 0.0
        while True:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not busy(error) or waited_s >= self._timeout_s:
                    raise
            else:
                break
            pause.wait(_RETRY_S)
            waited_s += _RETRY_S
        db.execute(f"PRAGMA busy_timeout = {int(self._timeout_s * 1000)}")

    def _read(self, work: Callable[[Books], T]) -> T:
        def read(db: sqlite3.Connection) -> T:
            _end_unfinished(db)
            db.execute("BEGIN")
            try:
                return work(self._books(db))
            finally:
                db.execute("ROLLBACK")

        return self._file.use(read)

    def _books(self, db: sqlite3.Connection) -> Books:
        time = to_micros(self._clock.now())
        now = Moment(time, self._boot, self._clock.monotonic()) if self._boot else Moment(time, "wall", time / 1e6)
        return Books(db, now)


def _end_unfinished(db: sqlite3.Connection) -> None:
    if db.in_transaction:  # Ctrl-C came between two lines of an earlier use
        db.execute("ROLLBACK")
