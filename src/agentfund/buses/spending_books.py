"""The tables of shared spending: reservations, bookings and their sums, as one transaction sees them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from agentfund.buses.processes import fate, pid_of, this_process
from agentfund.clock import from_micros
from agentfund.spending import EXACT, ZERO, Pending, Spending, State

if TYPE_CHECKING:
    import sqlite3

# Amounts are text, because SQLite would round them; sums are kept, so that no call adds up a day. A booking stays for as
# long as it counts: `hourly` is 1 while it is in the sum of the hour. `process` says who died owing it.
SCHEMA = """
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE totals (spent TEXT NOT NULL, reserved TEXT NOT NULL, hour TEXT NOT NULL, day TEXT NOT NULL) STRICT;
INSERT INTO totals VALUES ('0', '0', '0', '0');
CREATE TABLE runs (name TEXT PRIMARY KEY, spent TEXT NOT NULL, reserved TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE reservations (
    number INTEGER PRIMARY KEY, usd TEXT NOT NULL, run TEXT NOT NULL, time INTEGER NOT NULL, clock TEXT NOT NULL,
    seconds REAL NOT NULL, process TEXT NOT NULL
) STRICT;
CREATE TABLE bookings (
    number INTEGER PRIMARY KEY, usd TEXT NOT NULL, run TEXT NOT NULL, time INTEGER NOT NULL, clock TEXT NOT NULL,
    seconds REAL NOT NULL, process TEXT NOT NULL, hourly INTEGER NOT NULL
) STRICT;
CREATE INDEX bookings_by_time ON bookings (hourly, clock, seconds);
COMMIT;
"""
_COLUMNS = "number, usd, run, time, clock, seconds, process"
_MICROS = 1_000_000
_HOUR_S = 3_600
_DAY_S = 24 * _HOUR_S


@dataclass(frozen=True, slots=True)
class Moment:
    """A time on the wall clock, in microseconds since 1970, and on a clock that is never set, in its seconds.

    Args:
        time: by the wall clock.
        clock: names the other clock, which ends with the machine; "wall" where there is none.
        seconds: by the other clock.
    """

    time: int
    clock: str
    seconds: float

    def is_past(self, now: Moment, span_s: int) -> bool:
        """Return whether it lies so far back."""
        if self.clock == now.clock:
            return self.seconds <= now.seconds - span_s
        return self.time <= now.time - span_s * _MICROS


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of either table.

    Args:
        number: names the call.
        usd: its worst case, or what it cost.
        run: the run that made it, empty where it has no name.
        when: it was reserved, or booked.
        process: the process that holds the reservation, or died with it; empty where the cost is known.
    """

    number: int
    usd: Decimal
    run: str
    when: Moment
    process: str

    def as_row(self) -> tuple[int, str, str, int, str, float, str]:
        """Return its columns."""
        return self.number, str(self.usd), self.run, self.when.time, self.when.clock, self.when.seconds, self.process

    def as_pending(self, state: State) -> Pending:
        """Return it as an operator sees it."""
        return Pending(self.usd, from_micros(self.when.time), self.run, pid_of(self.process), state)


class Books:
    """The tables in one transaction, as of one moment. `save` writes the sums."""

    def __init__(self, db: sqlite3.Connection, now: Moment) -> None:
        self.buried: list[Entry] = []
        self._db = db
        self._now = now
        row = db.execute("SELECT spent, reserved, hour, day FROM totals").fetchone()
        self._spent, self._reserved, self._hour, self._day = map(Decimal, row)
        self._runs: dict[str, tuple[Decimal, Decimal]] = {}

    def spending(self, run: str) -> Spending:
        """Return the sums, without what has left the hour or the day and is not forgotten yet."""
        hour = _less(self._hour, *(entry.usd for entry in self._past("1", _HOUR_S)))
        day = _less(self._day, *(entry.usd for entry in self._past("0, 1", _DAY_S)))
        return Spending(self._spent, self._reserved, hour, day, *self._run(run))

    def reserve(self, number: int, usd: Decimal, run: str) -> None:
        """Set aside."""
        entry = Entry(number, usd, run, self._now, this_process())
        self._db.execute("INSERT INTO reservations VALUES (?, ?, ?, ?, ?, ?, ?)", entry.as_row())
        self._reserved = EXACT.add(self._reserved, usd)
        self._add_to_run(run, ZERO, usd)

    def settle(self, number: int, usd: Decimal, run: str) -> None:
        """Book in place of the reservation, or of what was booked in its place."""
        if found := self._find("reservations", number):
            self._free(found)
        elif found := self._find("bookings", number):
            self._drop(found)
            self._spent = EXACT.subtract(self._spent, found.usd)
            self._add_to_run(found.run, found.usd.copy_negate(), ZERO)
        if usd:
            self._book(Entry(number, usd, found.run if found else run, self._now, ""))

    def bury(self) -> bool:
        """Book the reservations of dead processes; return whether there were any."""
        self.buried = [entry for entry in self._reservations() if self._state(entry) == "dead"]
        for entry in self.buried:
            self._free(entry)
            self._book(entry)
        return bool(self.buried)

    def forget(self) -> None:
        """Leave out what has left the day, or the hour."""
        for entry in self._past("0, 1", _DAY_S):
            self._drop(entry)
        for entry in self._past("1", _HOUR_S):
            self._hour = EXACT.subtract(self._hour, entry.usd)
            self._db.execute("UPDATE bookings SET hourly = 0 WHERE number = ?", (entry.number,))

    def pending(self) -> list[Pending]:
        """Return the calls of unknown cost, oldest first."""
        booked = self._entries("FROM bookings WHERE process <> ''")
        calls = [entry.as_pending(self._state(entry)) for entry in self._reservations()]
        calls += [entry.as_pending("booked") for entry in booked if not entry.when.is_past(self._now, _DAY_S)]
        return sorted(calls, key=lambda call: call.since)

    def save(self) -> None:
        """Write the sums."""
        sums = [str(usd) for usd in (self._spent, self._reserved, self._hour, self._day)]
        self._db.execute("UPDATE totals SET spent = ?, reserved = ?, hour = ?, day = ?", sums)
        for name, (spent, reserved) in self._runs.items():
            self._db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (name, str(spent), str(reserved)))

    def _state(self, entry: Entry) -> State:
        if entry.when.clock != self._now.clock:  # the machine was started anew since
            return "dead"
        became = fate(entry.process)
        if became == "alive":
            return "under way"
        return "dead" if entry.when.is_past(self._now, _DAY_S) else became

    def _book(self, entry: Entry) -> None:
        self._db.execute("INSERT INTO bookings VALUES (?, ?, ?, ?, ?, ?, ?, 1)", entry.as_row())
        self._spent, self._hour, self._day = (EXACT.add(usd, entry.usd) for usd in (self._spent, self._hour, self._day))
        self._add_to_run(entry.run, entry.usd, ZERO)

    def _drop(self, entry: Entry) -> None:
        """Take a booking out of the windows."""
        if self._db.execute("SELECT 1 FROM bookings WHERE number = ? AND hourly", (entry.number,)).fetchone():
            self._hour = EXACT.subtract(self._hour, entry.usd)
        self._day = EXACT.subtract(self._day, entry.usd)
        self._db.execute("DELETE FROM bookings WHERE number = ?", (entry.number,))

    def _free(self, entry: Entry) -> None:
        """Take a reservation out."""
        self._reserved = EXACT.subtract(self._reserved, entry.usd)
        self._add_to_run(entry.run, ZERO, entry.usd.copy_negate())
        self._db.execute("DELETE FROM reservations WHERE number = ?", (entry.number,))

    def _run(self, name: str) -> tuple[Decimal, Decimal]:
        if name in self._runs:
            return self._runs[name]
        row = self._db.execute("SELECT spent, reserved FROM runs WHERE name = ?", (name,)).fetchone()
        return (Decimal(row[0]), Decimal(row[1])) if row else (ZERO, ZERO)

    def _add_to_run(self, name: str, spent: Decimal, reserved: Decimal) -> None:
        if name:
            before = self._run(name)
            self._runs[name] = EXACT.add(before[0], spent), EXACT.add(before[1], reserved)

    def _reservations(self) -> list[Entry]:
        return self._entries("FROM reservations")

    def _past(self, hourly: str, span_s: int) -> list[Entry]:
        """Return the bookings that lie so far back. Three ranges of the index find them without a look at the others."""
        now, clause = self._now, f"FROM bookings WHERE hourly IN ({hourly}) AND clock"
        time = now.time - span_s * _MICROS
        return [
            *self._entries(f"{clause} = ? AND seconds <= ?", now.clock, now.seconds - span_s),
            *self._entries(f"{clause} < ? AND time <= ?", now.clock, time),
            *self._entries(f"{clause} > ? AND time <= ?", now.clock, time),
        ]

    def _find(self, table: str, number: int) -> Entry | None:
        return next(iter(self._entries(f"FROM {table} WHERE number = ?", number)), None)

    def _entries(self, where: str, *values: Any) -> list[Entry]:
        rows = self._db.execute(f"SELECT {_COLUMNS} {where}", values).fetchall()
        return [
            Entry(number, Decimal(usd), run, Moment(time, clock, seconds), process)
            for number, usd, run, time, clock, seconds, process in rows
        ]


def _less(usd: Decimal, *amounts: Decimal) -> Decimal:
    for one in amounts:
        usd = EXACT.subtract(usd, one)
    return usd
