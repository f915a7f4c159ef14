"""Consumer groups in a log's SQLite file: who holds which message until when, and what was given up on.

Each function is one step within a transaction of its caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from agentfund.buses.sqlite_file import PAGE, number

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from agentfund.buses.sqlite_file import LogFile

WINDOW = 1_024  # messages a group may have handed out or set aside before it looks further into the log

# The oldest message that nobody holds and that is the first of its key: so order within a key outlives its consumers.
FREE = (
    "SELECT offset, attempt FROM pending AS p WHERE grp = ?1 AND until <= ?2 AND NOT EXISTS "
    "(SELECT 1 FROM pending AS q WHERE q.grp = ?1 AND q.key = p.key AND q.offset < p.offset) ORDER BY offset LIMIT 1"
)
FURTHER = (
    "SELECT position, (SELECT max(offset) FROM messages) FROM groups WHERE id = ?1 "
    "AND position < (SELECT max(offset) FROM messages) AND (SELECT count(*) FROM pending WHERE grp = ?1) < ?2"
)
_FETCH = (
    "INSERT INTO pending SELECT ?1, offset, key, 0, 0 FROM messages "
    "WHERE offset > ?2 AND offset <= ?3 AND (?4 IS NULL OR stream = ?4)"
)
_BACKLOG = (
    "SELECT (SELECT count(*) FROM messages WHERE offset > ?2 AND (?3 IS NULL OR stream = ?3)) "
    "+ (SELECT count(*) FROM pending WHERE grp = ?1)"
)
DEAD = (
    "SELECT m.*, d.reason FROM dead_letters AS d JOIN groups AS g ON g.id = d.grp JOIN messages AS m ON m.offset = d.offset "
    "WHERE g.name = ? ORDER BY m.offset"
)


class Rows(Protocol):
    """Where a log's tables can be asked."""

    def rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """Return what a query gives."""
        ...


def backlog(file: Rows, group: str, stream: str | None) -> int:
    """Return how many messages of a stream a group has not answered for; all of them where it never came."""
    rows = file.rows("SELECT id, position FROM groups WHERE name = ? AND stream IS ?", (group, stream))
    grp, position = rows[0] if rows else (0, 0)
    return int(file.rows(_BACKLOG, (grp, position, stream))[0][0])


def waiting(file: LogFile, grp: int, now: int) -> bool:
    """Return whether `take` may find something; asking takes no lock of the file."""
    return bool(file.rows(FREE, (grp, now)) or file.rows(FURTHER, (grp, WINDOW)))


def join(db: sqlite3.Connection, group: str, stream: str | None) -> int:
    """Return the number of a group's place in a stream, made when it is new."""
    db.execute(
        "INSERT INTO groups (name, stream, position) SELECT ?1, ?2, 0 "
        "WHERE NOT EXISTS (SELECT 1 FROM groups WHERE name = ?1 AND stream IS ?2)",
        (group, stream),
    )
    return number(db, "SELECT id FROM groups WHERE name = ? AND stream IS ?", group, stream)


def take(
    db: sqlite3.Connection, grp: int, stream: str | None, now: int, until: int, max_attempts: int
) -> tuple[tuple[Any, ...], int] | None:
    """Return the row of the next message and which attempt it is; None where there was none this time."""
    free = db.execute(FREE, (grp, now)).fetchone()
    if free is None and (further := db.execute(FURTHER, (grp, WINDOW)).fetchone()):
        position, last = further
        upto = min(position + PAGE, last)
        db.execute(_FETCH, (grp, position, upto, stream))
        db.execute("UPDATE groups SET position = ? WHERE id = ?", (upto, grp))
        free = db.execute(FREE, (grp, now)).fetchone()
    if free is None:
        return None
    offset, attempt = free[0], free[1] + 1
    if attempt > max_attempts:
        _bury(db, grp, offset, "no consumer answered for it within its lease")
        return None
    db.execute("UPDATE pending SET attempt = ?, until = ? WHERE grp = ? AND offset = ?", (attempt, until, grp, offset))
    return db.execute("SELECT * FROM messages WHERE offset = ?", (offset,)).fetchone(), attempt


def settle(db: sqlite3.Connection, grp: int, offset: int, attempt: int, reason: str | None, last: bool) -> bool:
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


def hand_back(db: sqlite3.Connection, grp: int, held: Iterable[tuple[int, int]]) -> None:
    """Free what a consumer leaves unanswered: offsets and attempts, where no other consumer has them by now."""
    for offset, attempt in held:
        db.execute("UPDATE pending SET until = 0 WHERE grp = ? AND offset = ? AND attempt = ?", (grp, offset, attempt))


def _bury(db: sqlite3.Connection, grp: int, offset: int, reason: str) -> None:
    db.execute("DELETE FROM pending WHERE grp = ? AND offset = ?", (grp, offset))
    db.execute("INSERT INTO dead_letters VALUES (?, ?, ?)", (grp, offset, reason))
