"""A file of JSON lines in which each line holds the hash of the one before."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from agentfund.errors import BadData, ConfigError

if TYPE_CHECKING:
    from typing import TypeAlias

    Lines: TypeAlias = list[tuple[int, Mapping[str, Any]]]

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

GENESIS = "0" * 32
_FAR = 1 << 40
_UNSEEN = "lines that were removed from the end before would not be noticed"
_FIX = "restore the file from a copy, or begin a new one"


class Chain:
    """The lines of one file, read as they grow; safe with several threads and processes that append.

    Args:
        path: the file; None keeps the lines in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.head = None if path is None else path.with_name(path.name + ".head")
        self.doubts: tuple[str, ...] = ()
        self._count = 0
        self._hash = GENESIS
        self._offset = 0
        self._guard = threading.Lock()

    def read(self) -> Lines:
        """Return the lines that came since the last look, each with its number.

        Raises:
            BadData: a line was removed, edited or cannot be read.
            ConfigError: the file cannot be read.
        """
        if self.path is None or self.head is None:
            return []
        if not self.path.exists():
            if self._count or self.head.exists():
                raise BadData(f"{self.path} is gone, {self.head.name} is there: {_FIX}")
            return []
        with self._guard, self._open("rb") as file:
            return self._new(file)[0]

    def append(self, bodies: Sequence[Mapping[str, Any]]) -> Lines:
        """Append lines, on the disk when it returns; return them after those of others that came before.

        Raises:
            BadData: what is in the file already is not what was written to it.
            ConfigError: the file cannot be written, or a body is not JSON.
        """
        with self._guard:
            if self.path is None or self.head is None:
                return self._numbered(self._draft(bodies), bodies)
            with self._open("a+b") as file:
                lines, torn = self._new(file)
                if self._count and self._known() is None:
                    bodies = [{"note": f"{self.head.name} was lost by line {self._count + 1}: {_UNSEEN}"}, *bodies]
                if torn:
                    # What a crash left was never told to be on the disk; a line of the chain says that it is gone.
                    file.truncate(self._offset)
                    bodies = [{"note": f"line {self._count + 1} was torn by a crash; {torn} bytes were cut off"}, *bodies]
                drafts = self._draft(bodies)
                file.seek(0, os.SEEK_END)
                file.write(b"".join(drafts))
                file.flush()
                os.fsync(file.fileno())
                lines += self._numbered(drafts, bodies)
                self._write_head()
                self.doubts = ()
            return lines

    def _draft(self, bodies: Sequence[Mapping[str, Any]]) -> list[bytes]:
        drafts, before = [], self._hash
        for number, body in enumerate(bodies, self._count + 1):
            try:
                text = json.dumps({"n": number, "before": before, **body}, separators=(",", ":"), allow_nan=False, default=str)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"line {number} cannot be written as JSON: {error}") from error
            drafts.append(text.encode() + b"\n")
            before = _hash(drafts[-1])
        return drafts

    def _numbered(self, drafts: Sequence[bytes], bodies: Sequence[Mapping[str, Any]]) -> Lines:
        lines: Lines = list(enumerate(bodies, self._count + 1))
        self._count += len(drafts)
        self._offset += sum(map(len, drafts))
        self._hash = _hash(drafts[-1]) if drafts else self._hash
        return lines

    def _new(self, file: IO[bytes]) -> tuple[Lines, int]:
        """Read and check what is new; return it, and how many bytes of a torn line lie behind it."""
        if file.seek(0, os.SEEK_END) < self._offset:
            raise BadData(f"{self.path}: lines were removed from the end, {self._count} were there; {_FIX}")
        known = self._known()
        file.seek(self._offset)
        lines: Lines = []
        for raw in file:
            if not raw.endswith(b"\n"):
                self._check_end(known)
                self.doubts = (*self.doubts, f"line {self._count + 1} was torn by a crash and is left out")
                return lines, len(raw)
            lines.append((self._count + 1, self._checked(raw)))
            if known is not None and known[0] == self._count and known[1] != self._hash:
                raise BadData(f"{self.path}, line {self._count}: edited since it was written; {_FIX}")
        self._check_end(known)
        return lines, 0

    def _checked(self, raw: bytes) -> Mapping[str, Any]:
        number = self._count + 1
        try:
            line = json.loads(raw)
            place, before = line.pop("n"), line.pop("before")
        except (ValueError, KeyError, AttributeError) as error:
            raise BadData(f"{self.path}, line {number}: cannot be read; {_FIX}") from error
        if place != number:
            raise BadData(f"{self.path}, line {number}: removed, line {place} stands in its place; {_FIX}")
        if before != self._hash:
            raise BadData(f"{self.path}, line {number - 1}: edited since it was written; {_FIX}")
        self._count, self._hash, self._offset = number, _hash(raw), self._offset + len(raw)
        return line  # type: ignore[no-any-return]

    def _known(self) -> tuple[int, str] | None:
        """Read how many lines there were and the hash of the newest, None where that is lost."""
        assert self.head is not None
        try:
            count, digest = self.head.read_text(encoding="ascii").split()
            known = int(count), digest
        except (OSError, ValueError):
            known = None
        self.doubts = () if known is not None else (f"{self.head.name} is lost: {_UNSEEN}",)
        return known

    def _check_end(self, known: tuple[int, str] | None) -> None:
        if not self._count:
            self.doubts = ()
        if known is not None and known[0] > self._count:
            raise BadData(f"{self.path}, line {self._count + 1}: removed, {known[0]} lines were there; {_FIX}")

    def _write_head(self) -> None:
        assert self.head is not None
        handle, draft = tempfile.mkstemp(dir=self.head.parent, prefix=f".{self.head.name}.")
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(f"{self._count} {self._hash}\n")
            file.flush()
            os.fsync(file.fileno())
        Path(draft).chmod(0o644)
        Path(draft).replace(self.head)

    @contextmanager
    def _open(self, mode: str) -> Iterator[IO[bytes]]:
        assert self.path is not None
        try:
            if mode != "rb":
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode) as file:
                _lock(file)
                try:
                    yield file
                finally:
                    _unlock(file)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"cannot use {self.path}: {reason}; free space there, or choose another file") from error


def _hash(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:32]


def _lock(file: IO[Any]) -> None:
    if sys.platform == "win32":
        file.seek(_FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
    else:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)


def _unlock(file: IO[Any]) -> None:
    if sys.platform == "win32":
        file.seek(_FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)
