"""Messages as rows of a SQLite database, the same in every one that agentfund makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentfund.buses import wire
from agentfund.buses.sqlite_file import number
from agentfund.buses.wire import moment
from agentfund.messages import Message

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

INSERT = (
    "INSERT INTO messages (id, stream, key, type, version, cycle, cause, producer, time, appended, payload, token) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
)
LAST = "SELECT coalesce(max(offset), 0) FROM messages"
NEWEST = "SELECT * FROM messages WHERE ?1 IS NULL OR stream = ?1 ORDER BY offset DESC LIMIT 1"
SELECT = (
    "SELECT * FROM messages WHERE offset > ?1 AND offset <= ?2 "
    "AND (?3 IS NULL OR stream = ?3) AND (?4 IS NULL OR time >= ?4) ORDER BY offset"
)


def insert(db: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> int:
    """Insert rows that are not there yet; return the offset of the last of them, of the log where there are none."""
    if not rows:
        return number(db, LAST)
    if len(rows) > 1:
        db.executemany(INSERT, rows)
    else:
        cursor = db.execute(INSERT, rows[0])
        if cursor.rowcount and cursor.lastrowid:
            return cursor.lastrowid
    return number(db, "SELECT offset FROM messages WHERE id = ?", rows[-1][0])


def message(row: tuple[Any, ...], home: str) -> Message:
    """Return the message in a row; `home` names the log.

    Raises:
        BusError: its payload is no JSON.
    """
    offset, name, stream, key, kind, version, cycle, cause, producer, time, appended, text, *token = row
    payload = wire.value(text, offset, home)
    return Message(
        name, stream, key, kind, payload, producer, moment(time), cycle, cause, version, moment(appended), offset, *token
    )
