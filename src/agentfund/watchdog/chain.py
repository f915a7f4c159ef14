"""The record of halts: lines that name each other by hash, and the fold that says what is latched.

Anybody may add a halt. A lift counts only with the operator's signature, and takes away the one cause that it names. What the
watchdog ends by itself, and a record that it begins anew after somebody damaged it, has the watchdog's signature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from agentfund.errors import BusError
from agentfund.trading import Level
from agentfund.watchdog.keys import Key, Verify, verifier

GENESIS = hashlib.sha256(b"agentfund halts 1").hexdigest()
MOST_BYTES = 4 * 2**20
"""A record that is longer is not read: no fund is halted so often, somebody floods it."""

Kind = Literal["halt", "lift", "over", "anew"]


class BrokenRecord(BusError):
    """The record of halts cannot be trusted; the message says from which line on."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a fund is held, until it is lifted.

    Args:
        id: names it in a lift.
        level: how much the fund may do because of it.
        code: which check found it; `operator`, `agent` and so on where a person or a program asked for it.
        reason: what happened, in one sentence.
        by: who latched it.
        time: when, aware UTC, by the wall clock of whoever latched it.
        message: id of the message in the fund's log behind it, empty where there is none.
        offset: place in the fund's log behind it, 0 where there is none.
        entry: that message in words: what the fund did last before it was latched.
    """

    id: str
    level: Level
    code: str
    reason: str
    by: str
    time: datetime
    message: str = ""
    offset: int = 0
    entry: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "level": int(self.level), "time": self.time.isoformat()}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Cause:
        """Return the cause that `to_json` told; ValueError, LookupError or TypeError where it is none."""
        texts = {name: _text(told[name]) for name in ("id", "code", "reason", "by", "message", "entry")}
        when, offset = datetime.fromisoformat(told["time"]), told["offset"]
        if when.tzinfo is None or type(offset) is not int or not texts["id"]:
            raise ValueError("no cause")
        return cls(level=_level(told["level"]), time=when, offset=offset, **texts)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the record.

    Args:
        n: its number, from 1.
        kind: halt, lift, over (the watchdog ends what may end by itself) or anew (after damage).
        body: what it says.
        prev: hash of the line before.
        hash: its own.
        signature: of the hash, by the operator or the watchdog; empty on a halt.
    """

    n: int
    kind: Kind
    body: Mapping[str, Any]
    prev: str
    hash: str
    signature: str = ""

    @classmethod
    def make(cls, n: int, kind: Kind, body: Mapping[str, Any], prev: str, key: Key | None = None) -> Line:
        """Return a line that follows the one with hash `prev`."""
        own = _hash(n, kind, body, prev)
        return cls(n, kind, body, prev, own, key.sign(_signed(own)) if key else "")

    def text(self) -> bytes:
        """Return the line as it stands in the file."""
        return _canonical(asdict(self)) + b"\n"

    @classmethod
    def read(cls, content: bytes) -> Line:
        """Return the line that a file's line holds.

        Raises:
            ValueError: it is no line, or not written exactly as `text` writes it.
        """
        try:
            told = json.loads(content)
            line = cls(**told)
            if type(line.n) is not int or line.kind not in ("halt", "lift", "over", "anew") or not isinstance(line.body, dict):
                raise ValueError("no line")
            if line.signature != bytes.fromhex(line.signature).hex() or (line.signature and line.kind == "halt"):
                raise ValueError("its signature is not one")
            if line.text() != content + b"\n" or _hash(line.n, line.kind, line.body, line.prev) != line.hash:
                raise ValueError("its hash does not fit")
        except (TypeError, KeyError, RecursionError, UnicodeError, AttributeError) as error:
            raise ValueError(f"no line: {type(error).__name__}") from None
        return line


class Chain:
    """The fold of a record, a piece at a time; nothing that is not verified gets into it.

    Args:
        watchdog: public key of the watchdog.
        operator: public key of the operator.

    Attributes:
        n: number of the newest line, 0 of an empty record.
        head: its hash.
        open: what is latched, by id, oldest first.
        lifted: the signed line that ended each cause, by the cause's id.
    """

    def __init__(self, watchdog: str, operator: str) -> None:
        self._watchdog: Verify = verifier(watchdog)
        self._operator: Verify = verifier(operator)
        self.n = 0
        self.head = GENESIS
        self.open: dict[str, Cause] = {}
        self.lifted: dict[str, Line] = {}
        self._hashes: list[str] = []
        self._first = 0

    @property
    def level(self) -> Level:
        """The highest level that is latched."""
        return max((cause.level for cause in self.open.values()), default=Level.NORMAL)

    @property
    def worst(self) -> Cause | None:
        """The oldest of the highest causes, None where nothing is latched."""
        level = self.level
        return next((cause for cause in self.open.values() if cause.level is level), None)

    def holds(self, n: int, head: str) -> bool:
        """Return whether the record goes through a line with this number and hash."""
        if n == self._first:
            return head == (self._hashes[0] if self._hashes else GENESIS)
        at = n - self._first
        return 0 < at < len(self._hashes) and self._hashes[at] == head

    def add(self, content: bytes) -> None:
        """Read on: whole lines that follow what is there.

        Raises:
            BrokenRecord: a line is torn, does not follow, or says what its writer must not.
        """
        *lines, torn = content.split(b"\n")
        for one in lines:
            self._add(one)
        if torn:
            raise BrokenRecord(f"line {self.n + 1} of the record is torn")

    def _add(self, content: bytes) -> None:
        where = f"line {self.n + 1} of the record"
        try:
            line = Line.read(content)
            if line.kind == "anew" and self.n == 0:
                self._begin(line)
            elif line.n != self.n + 1 or line.prev != self.head or line.kind == "anew":
                raise ValueError("it does not follow the line before")
            else:
                self._follow(line)
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            raise BrokenRecord(f"{where} cannot be trusted: {error}") from None
        if not self._hashes:
            self._first = line.n - 1
            self._hashes.append(line.prev)
        self.n, self.head = line.n, line.hash
        self._hashes.append(line.hash)

    def _begin(self, line: Line) -> None:
        if not self._watchdog(bytes.fromhex(line.signature), _signed(line.hash)):
            raise ValueError("only the watchdog begins a record anew")
        for told in line.body["open"]:
            cause = Cause.of(told)
            self.open[cause.id] = cause
        for told in line.body["lifted"]:
            old = Line.read(_canonical(told))
            if old.kind not in ("lift", "over") or not self._ends(old):
                raise ValueError("an earlier lift in it is not signed")
            self.lifted[_text(old.body["cause"])] = old

    def _follow(self, line: Line) -> None:
        if line.kind == "halt":
            cause = Cause.of(line.body)
            if cause.level is Level.NORMAL or cause.id in self.open or cause.id in self.lifted:
                raise ValueError("a halt has a level and an id of its own")
            self.open[cause.id] = cause
            return
        cause = self.open[_text(line.body["cause"])]
        if not self._ends(line) or not may_end(cause, line):
            raise ValueError("a halt is lifted by the operator's signature and a reason, and by nothing else")
        del self.open[cause.id]
        self.lifted[cause.id] = line

    def _ends(self, line: Line) -> bool:
        verify = self._operator if line.kind == "lift" else self._watchdog
        return verify(bytes.fromhex(line.signature), _signed(line.hash)) and bool(_text(line.body["reason"]).strip())


def may_end(cause: Cause, line: Line) -> bool:
    """Return whether a signed line may end a cause: the watchdog's never ends a halt."""
    return line.kind == "lift" or cause.level <= Level.REDUCE_ONLY


def salvage(content: bytes, watchdog: str, operator: str) -> Chain:
    """Return what can be trusted of a damaged record: the lines up to the first that cannot."""
    chain = Chain(watchdog, operator)
    for line in content[:MOST_BYTES].split(b"\n"):
        try:
            chain.add(line + b"\n")
        except BrokenRecord:
            break
    return chain


def anew(n: int, prev: str, causes: Iterable[Cause], lifted: Iterable[Line], key: Key) -> Line:
    """Return the first line of a record that begins again after line `n` with hash `prev`: these causes stay latched."""
    body = {"open": [cause.to_json() for cause in causes], "lifted": [asdict(line) for line in lifted]}
    return Line.make(n + 1, "anew", body, prev, key)


def _hash(n: int, kind: str, body: Mapping[str, Any], prev: str) -> str:
    return hashlib.sha256(_canonical([n, kind, body, prev])).hexdigest()


def _signed(own: str) -> bytes:
    return b"agentfund record " + own.encode()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def _level(value: Any) -> Level:
    if type(value) is not int:
        raise ValueError("no level")
    return Level(value)
