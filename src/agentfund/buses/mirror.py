"""A mirror: what a log of frames says, folded into tables of SQLite.

The broker keeps frames and their order; every process folds them in that order, each step depends on the frames alone, so
all mirrors of a log are the same: the same offsets, the same holders of messages, the same dead letters. Therefore nothing
here may ask a clock, the process or chance: time is what the frame says.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from agentfund.buses import sqlite_groups as groups
from agentfund.buses import sqlite_rows as rows_of
from agentfund.buses.database import Kind, busy, connect
from agentfund.buses.frames import Opened, corrupt, open_frame
from agentfund.buses.ordered import Frame
from agentfund.buses.sqlite_file import SCHEMA, number
from agentfund.errors import BusError, BusUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

APPLICATION_ID = 0x61676D72  # "agmr": marks the file as a mirror, which nobody may write but the fold
DATABASE_VERSION = 1

_TABLES = """
BEGIN;
CREATE TABLE mirror (place INTEGER NOT NULL, tip TEXT NOT NULL, log TEXT NOT NULL);
INSERT INTO mirror VALUES (-1, '', '');
CREATE TABLE writers (writer TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE pieces (
    writer TEXT NOT NULL, number INTEGER NOT NULL, piece INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (writer, number, piece)
) WITHOUT ROWID;
CREATE TABLE parked (
    id INTEGER PRIMARY KEY, grp INTEGER NOT NULL, stream TEXT, writer TEXT NOT NULL, claim INTEGER NOT NULL,
    lease INTEGER NOT NULL, max_attempts INTEGER NOT NULL, expires INTEGER NOT NULL
);
COMMIT;
"""
_KIND = Kind(APPLICATION_ID, DATABASE_VERSION, SCHEMA + _TABLES)
_COUNTED = "INSERT INTO writers VALUES (?1, ?2) ON CONFLICT (writer) DO UPDATE SET number = ?2"
_OFFSET = "SELECT offset FROM messages WHERE id = ?"
_AHEAD = 200  # messages that may wait to be folded
_BEYOND = "SELECT 1 FROM messages WHERE offset > ?1 AND (?2 IS NULL OR stream = ?2) LIMIT 1"
_UNSEEN = "UPDATE pending SET attempt = attempt - 1 WHERE grp = ? AND offset = ? AND attempt = ? AND until = 0"
_NOT_OURS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)


class Outcome(NamedTuple):
    """What became of a frame: what each of its parts came to."""

    writer: str
    number: int
    results: list[Any]


class Win(NamedTuple):
    """A message that a consumer got: by its own frame, or while its claim was parked, by another's.

    Attributes:
        writer: who sent the claim.
        claim: which of the writer's consumers it is.
        group: for whom.
        stream: of what.
        row: the message.
        attempt: which time it is handed over.
        until: when the lease ends, in microseconds since 1970.
    """

    writer: str
    claim: int
    group: str
    stream: str | None
    row: tuple[Any, ...]
    attempt: int
    until: int


class Mirror:
    """The tables, and the one connection to them, safe to use from several threads.

    It stands at a place of the log: `place`, and `tip`, the name of the frame that lies there; `log` is the name of the log.

    Args:
        path: a file that is kept, so that the next start reads only what came since; None for one that SQLite makes for
            itself, in memory as long as it is small, and that is gone with the process.
        home: names the log in errors.

    Raises:
        BusError: the file is no mirror; it was not touched.
        BusUnavailable: it cannot be opened, or another process uses it.
        SchemaTooNew: a newer agentfund made it.
    """

    def __init__(self, path: Path | None, home: str) -> None:
        self.lock = threading.RLock()
        self.path = path
        self.home = home
        self._process = os.getpid()
        self._closed = False
        try:
            self._db = _temporary() if path is None else _kept(path)
        except sqlite3.Error as error:
            raise self._explain(error) from error
        except OSError as error:
            raise BusUnavailable(f"{path} cannot be opened: {error.strerror}; choose a place on a local disk") from error
        self.place: int
        self.tip: str
        self.log: str
        self.place, self.tip, self.log = self._db.execute("SELECT place, tip, log FROM mirror").fetchone()
        self._numbers: dict[str, int] = dict(self._db.execute("SELECT writer, number FROM writers"))
        self._parked = True  # whether a claim may be parked
        self._last = -1  # the newest offset, where it is known
        self._tail: list[Opened] = []
        self._ahead: dict[str, tuple[int]] = {}
        self._ahead_rows = 0

    @property
    def behind(self) -> bool:
        """Whether frames were foreseen that are still to be folded."""
        return bool(self._tail)

    def foresee(self, frame: Opened) -> list[int] | None:
        """Return what the next frame will come to, and have it folded later; None where it has to be folded now.

        Where messages come one by one, this is the short way: many of them are folded at once, while the writer waits for
        the broker. To whoever asks the mirror it makes no difference.
        """
        with self.lock:
            size = sum(map(len, frame.parts))
            if (
                self._parked
                or not self.log
                or self._ahead_rows + size > _AHEAD
                or any(part[0] != "put" for part in frame.parts)
            ):
                return None
            db = self._connection()
            if self._last < 0:
                self._last = number(db, rows_of.LAST)
            results = []
            for part in frame.parts:
                offset = self._last
                for row in part[1:]:
                    known = self._ahead.get(row[0]) or db.execute(_OFFSET, row[:1]).fetchone()
                    if known is None:
                        self._last += 1
                        known = self._ahead[row[0]] = (self._last,)
                    offset = known[0]
                results.append(offset)
            self._tail.append(frame)
            self._ahead_rows += size
            self.place, self.tip = frame.place, frame.name
            return results

    def fold(self, frames: Sequence[Opened]) -> tuple[list[Outcome], list[Win]]:
        """Take in what lies beyond the place where the mirror stands, all of it or nothing.

        Frames before that place are passed over, so that followers may meet here.

        Raises:
            BusError: a frame is no frame of agentfund; the mirror stands before it.
            BusUnavailable: the mirror cannot be written.
        """
        with self.lock:
            db = self._connection()
            outcomes: list[Outcome] = []
            wins: list[Win] = []
            fresh = [frame for frame in frames if frame.place > self.place]
            if not fresh and not self._tail:
                return outcomes, wins
            numbers: dict[str, int] = {}
            log = self.log
            try:
                db.execute("BEGIN")
                for frame in self._tail:
                    self._apply(db, frame, log, numbers, [], wins)
                for frame in fresh:
                    log = self._apply(db, frame, log, numbers, outcomes, wins)
                place, tip = (fresh[-1].place, fresh[-1].name) if fresh else (self.place, self.tip)
                if self.path is not None:
                    db.executemany(_COUNTED, numbers.items())
                    db.execute("UPDATE mirror SET place = ?, tip = ?, log = ?", (place, tip, log))
                db.execute("COMMIT")
            except BaseException as error:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                self._parked = True  # not known
                if isinstance(error, sqlite3.Error):
                    raise self._explain(error) from error
                raise
            self.place, self.tip, self.log = place, tip, log
            self._numbers.update(numbers)
            self._tail.clear()
            self._ahead.clear()
            self._ahead_rows = 0
            if fresh:
                self._last = -1
            return outcomes, wins

    def rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """Return what a query gives, of one moment."""
        with self.lock:
            self.fold(())
            try:
                return self._connection().execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._explain(error) from error

    def waiting(self, group: str, stream: str | None, now: int, seen: int) -> tuple[bool, int]:
        """Return whether a claim may get something, and up to where the log has nothing for the group.

        Args:
            group: for whom.
            stream: of what; None means all.
            now: the consumer's time, in microseconds since 1970.
            seen: up to where the log was looked through before.
        """
        with self.lock:
            found = self.rows("SELECT id, position FROM groups WHERE name = ? AND stream IS ?", (group, stream))
            grp, position = found[0] if found else (0, 0)
            if found and self.rows(groups.FREE, (grp, now)):
                return True, seen
            if self.rows("SELECT count(*) FROM pending WHERE grp = ?", (grp,))[0][0] >= groups.WINDOW:
                return False, seen
            end = self.rows(rows_of.LAST)[0][0]
            start = max(position, seen)
            if end > start and self.rows(_BEYOND, (start, stream)):
                return True, start
            return False, end

    def close(self) -> None:
        """Let go of the file; a temporary one is gone then."""
        with self.lock:
            if not self._closed:
                with suppress(BusError):
                    self.fold(())
            self._closed = True
            self._db.close()

    def _connection(self) -> sqlite3.Connection:
        if self._closed:
            raise BusUnavailable(f"{self.home} is closed: open it again")
        if self._process != os.getpid():
            raise BusUnavailable(f"{self.home} was opened before this process was forked: open it again here")
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")  # Ctrl-C came between two lines of an earlier fold
        return self._db

    def _explain(self, error: sqlite3.Error) -> BusError:
        if self.path is not None:
            return _KIND.explain(self.path, error)
        return BusUnavailable(f"the temporary mirror of {self.home}: {error}: free some space, or name a file with `mirror`")

    def _apply(
        self,
        db: sqlite3.Connection,
        frame: Opened,
        log: str,
        numbers: dict[str, int],
        outcomes: list[Outcome],
        wins: list[Win],
    ) -> str:
        """Fold one frame; return the name of the log."""
        try:
            if not log and not (frame.parts and frame.parts[0][0] == "log"):
                raise BusError(f"{self.home} was not begun by agentfund: choose another name for the log")
            if frame.number <= (numbers.get(frame.writer) or self._numbers.get(frame.writer, 0)):
                return log  # appended twice, or so late that its writer has given it up
            if frame.piece:
                whole = self._whole(db, frame)
                if whole is None:
                    return log
                frame = whole
            numbers[frame.writer] = frame.number
            if not log:
                log = str(frame.parts[0][1])
            results = [self._part(db, frame, part, wins) for part in frame.parts]
            if self._parked:
                self._match(db, frame.time, wins)
        except (ValueError, TypeError, LookupError, OverflowError, *_NOT_OURS) as error:
            raise corrupt(self.home, frame.place, error) from error
        outcomes.append(Outcome(frame.writer, frame.number, results))
        return log

    def _whole(self, db: sqlite3.Connection, frame: Opened) -> Opened | None:
        """Keep a piece; return the frame when it was the last that was missing."""
        assert frame.piece is not None
        index, count, data = frame.piece
        where = (frame.writer, frame.number)
        if index == 0:  # what the writer left behind unfinished is given up
            db.execute("DELETE FROM pieces WHERE writer = ? AND number < ?", where)
        if number(db, "SELECT count(*) FROM pieces WHERE writer = ? AND number = ?", *where) != index:
            return None  # this piece was there before, or one before it is not
        db.execute("INSERT INTO pieces VALUES (?, ?, ?, ?)", (*where, index, data))
        if index + 1 < count:
            return None
        parts = db.execute("SELECT data FROM pieces WHERE writer = ? AND number = ? ORDER BY piece", where).fetchall()
        db.execute("DELETE FROM pieces WHERE writer = ? AND number <= ?", where)
        return open_frame(Frame(frame.place, b"".join(part[0] for part in parts)), self.home)

    def _part(self, db: sqlite3.Connection, frame: Opened, part: list[Any], wins: list[Win]) -> Any:
        """Do what a part of a frame says; return what it came to."""
        kind = part[0]
        if kind == "put":
            return rows_of.insert(db, part[1:])
        if kind == "log":
            return True
        group, stream = part[1:3]
        grp = groups.join(db, group, stream)
        if kind == "settle":
            offset, attempt, reason, last = part[3:]
            return groups.settle(db, grp, offset, attempt, reason, last)
        claim = part[3]
        db.execute("DELETE FROM parked WHERE writer = ? AND claim = ?", (frame.writer, claim))  # one at most
        if kind == "take":
            lease, max_attempts, patience = part[4:]
            won = self._take(db, grp, stream, frame.time, lease, max_attempts)
            if won:
                wins.append(Win(frame.writer, claim, group, stream, *won))
            elif patience:
                values = (grp, stream, frame.writer, claim, lease, max_attempts, frame.time + patience)
                db.execute("INSERT INTO parked VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", values)
                self._parked = True
            return won is not None
        if kind == "leave":
            held = part[4:]
            groups.hand_back(db, grp, [(offset, attempt) for offset, attempt, _ in held])
            db.executemany(_UNSEEN, [(grp, offset, attempt) for offset, attempt, seen in held if not seen])
            return True
        raise ValueError(f"there is no part {kind!r}")

    def _take(
        self, db: sqlite3.Connection, grp: int, stream: str | None, now: int, lease: int, max_attempts: int
    ) -> tuple[tuple[Any, ...], int, int] | None:
        """Return the next message for a group, its attempt and the end of its lease; looks to the end of the log."""
        while True:
            found = groups.take(db, grp, stream, now, now + lease, max_attempts)
            if found:
                return *found, now + lease
            if not (
                db.execute(groups.FREE, (grp, now)).fetchone() or db.execute(groups.FURTHER, (grp, groups.WINDOW)).fetchone()
            ):
                return None

    def _match(self, db: sqlite3.Connection, now: int, wins: list[Win]) -> None:
        """Give what has become free to claims that wait for it, the oldest first."""
        empty: set[int] = set()
        parked = db.execute("SELECT p.*, g.name FROM parked AS p JOIN groups AS g ON g.id = p.grp ORDER BY p.id").fetchall()
        self._parked = bool(parked)
        for name, grp, stream, writer, claim, lease, max_attempts, expires, group in parked:
            if expires > now and grp in empty:
                continue
            won = self._take(db, grp, stream, now, lease, max_attempts) if expires > now else None
            if won:
                wins.append(Win(writer, claim, group, stream, *won))
            elif expires > now:
                empty.add(grp)
                continue
            db.execute("DELETE FROM parked WHERE id = ?", (name,))


def _temporary() -> sqlite3.Connection:
    db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = MEMORY")  # to take back a frame that cannot be folded
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA cache_size = -1000")  # each commit goes through all pages that are not yet written
    db.executescript(SCHEMA + _TABLES)
    return db


def _kept(path: Path) -> sqlite3.Connection:
    if not path.exists():
        _KIND.create(path)
    _KIND.identify(path)
    db = connect(path, "mode=rw")
    try:
        # Alone in the file: two processes that fold into it would each miss what became of its own frames.
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            db.execute(f"PRAGMA {setting}")
        db.execute("BEGIN IMMEDIATE")
        db.execute("COMMIT")
    except sqlite3.Error as error:
        db.close()
        if busy(error):
            raise BusUnavailable(f"another bus uses the mirror {path}: give each process a mirror of its own") from error
        raise
    return db
