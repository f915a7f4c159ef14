"""Halting a fund, and lifting a halt: the only two things that anybody can do to it from outside."""

from __future__ import annotations

import getpass
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from agentfund.errors import BusUnavailable, ConfigError
from agentfund.trading import Level
from agentfund.watchdog.chain import MOST_BYTES, BrokenRecord, Cause, Chain, Kind, Line, salvage
from agentfund.watchdog.folder import Folder, locked, write_all
from agentfund.watchdog.keys import Key
from agentfund.watchdog.machine import Machine

PATIENCE_S = 1.0
"""How long a halt waits for somebody who writes to the record; then it is written all the same."""

LONGEST = 2_000
"""Characters of a reason that are kept."""


class Halts:
    """A fund's record of halts.

    Args:
        path: the watchdog's folder.
        machine: its clocks.
        keys: public keys of watchdog and operator, where they were pinned; else those in the folder.
    """

    def __init__(self, path: str | Path, *, machine: Machine | None = None, keys: tuple[str, str] | None = None) -> None:
        self.folder = Folder(path)
        self._keys = keys
        self._machine = machine or Machine()

    def __repr__(self) -> str:
        return f"<Halts {self.folder.halts}>"

    def read(self) -> Chain:
        """Return what is latched.

        Raises:
            BrokenRecord: the record is missing, damaged, or too long.
            ConfigError: the folder has no keys.
        """
        chain = self._chain()
        chain.add(self.content())
        return chain

    def content(self) -> bytes:
        """Return the record as it lies there.

        Raises:
            BrokenRecord: it is missing, cannot be read, or is too long.
        """
        try:
            with self.folder.halts.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise BrokenRecord(f"{self.folder.halts} cannot be read: {error.strerror or error}") from None
        if len(content) > MOST_BYTES:
            raise BrokenRecord(f"{self.folder.halts} is longer than {MOST_BYTES} bytes")
        return content

    def halt(
        self,
        reason: str,
        *,
        level: Level = Level.HALT,
        by: str = "",
        code: str = "asked",
        message: str = "",
        offset: int = 0,
        entry: str = "",
        patience_s: float = PATIENCE_S,
    ) -> Cause:
        """Latch a cause; it is durable when this returns. Anybody may, agents too.

        It is written to a damaged record as well, and without the lock where somebody holds it: both count as tampering, and
        only add to the halt.

        Args:
            reason: what happened, in one sentence.
            level: how much the fund may still do.
            by: who asks; the user and the process where it is left out.
            code: which check found it.
            message: id of the message in the fund's log behind it.
            offset: its place there.
            entry: what it says, in words.
            patience_s: how long to wait for another writer.

        Raises:
            ConfigError: there is no reason, or no level.
            BusUnavailable: the disk does not take it, or this user may not write there. It is not latched then.
        """
        if not reason.strip():
            raise ConfigError("a halt needs a reason: say in one sentence what happened")
        if level is Level.NORMAL:
            raise ConfigError("a halt has a level: 1 caution, 2 reduce only, 3 halt, 4 kill")
        by = by or f"{_user()} (process {os.getpid()})"
        now = self._machine.now()
        told = reason.strip()[:LONGEST]
        cause = Cause(uuid.uuid4().hex[:12], Level(level), code, told, by, now, message, offset, entry)
        self._append("halt", cause.to_json(), None, patience_s, force=True)
        return cause

    def lift(self, cause: str, reason: str, key: Key, *, by: str = "") -> Line:
        """Lift one cause; others stay.

        Args:
            cause: its id.
            reason: why it may be lifted.
            key: the operator's.
            by: who lifts it; the user where it is left out.

        Raises:
            ConfigError: no such cause is latched, there is no reason, or the key is not the operator's.
            BrokenRecord: the record is damaged: the watchdog has to begin it anew first.
        """
        if not reason.strip():
            raise ConfigError("a lift needs a reason: say why the fund may trade again")
        if key.public != self.folder.public("operator"):
            raise ConfigError("that is not the operator's key of this fund")
        chain = self.read()
        if cause not in chain.open:
            known = ", ".join(chain.open) or "nothing is latched"
            raise ConfigError(f"no cause {cause!r} is latched: {known}")
        body = {"cause": cause, "reason": reason.strip()[:LONGEST], "by": by or _user(), "time": self._time()}
        return self._append("lift", body, key, PATIENCE_S, force=False)

    def over(self, cause: str, reason: str, key: Key) -> Line:
        """End a cause that may end by itself: no halt. For the watchdog, which signs it."""
        body = {"cause": cause, "reason": reason, "by": "watchdog", "time": self._time()}
        return self._append("over", body, key, PATIENCE_S, force=False)

    def _time(self) -> str:
        return self._machine.now().isoformat()

    def _chain(self) -> Chain:
        return Chain(*self._public())

    def _public(self) -> tuple[str, str]:
        return self._keys or (self.folder.public("watchdog"), self.folder.public("operator"))

    def _append(self, kind: Kind, body: Mapping[str, object], key: Key | None, patience_s: float, *, force: bool) -> Line:
        """Add a line at the end: under the lock, and where a halt cannot have it, without."""
        try:
            fd = self._open()
            try:
                with locked(fd, patience_s) as held:
                    if not held and not force:
                        raise ConfigError(f"{self.folder.halts} is locked: try again, or end the process that holds it")
                    if not held or self._current(fd):
                        line, start = self._next(kind, body, key, force=force)
                        self._write(fd, start + line.text(), alone=held)
                        return line
            finally:
                os.close(fd)
        except OSError as error:
            raise BusUnavailable(
                f"{self.folder.halts} cannot be written: {error.strerror or error}; nothing was changed. Free the disk, or get"
                " the right to write there. A fund stops within seconds when its watchdog is ended"
            ) from None
        return self._append(kind, body, key, patience_s, force=force)  # the watchdog has begun it anew meanwhile

    def _next(self, kind: Kind, body: Mapping[str, object], key: Key | None, *, force: bool) -> tuple[Line, bytes]:
        """Return the line that comes next, and what has to stand before it."""
        content = b""
        try:
            content = self.content()
            chain = self._chain()
            chain.add(content)
        except (BrokenRecord, ConfigError):
            if not force:
                raise
            chain = self._whatever(content)
        torn = content and not content.endswith(b"\n")
        return Line.make(chain.n + 1, kind, body, chain.head, key), b"\n" if torn else b""

    def _whatever(self, content: bytes) -> Chain:
        try:
            return salvage(content, *self._public())
        except ConfigError:  # the keys are gone as well; a halt is written all the same
            zero = "00" * 32
            return salvage(content, zero, zero)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND
        for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_BINARY"):
            flags |= getattr(os, name, 0)
        try:
            return os.open(self.folder.halts, flags)
        except FileNotFoundError:
            if not self.folder.path.is_dir():
                raise ConfigError(
                    f"{self.folder.path} is no folder of a watchdog: make one with `agentfund watchdog --init`"
                ) from None
            # Somebody removed the record. A halt is written all the same; the watchdog finds the rest missing.
            return os.open(self.folder.halts, flags | os.O_CREAT, 0o660)

    def _current(self, fd: int) -> bool:
        try:
            there, ours = self.folder.halts.stat(), os.fstat(fd)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def _write(self, fd: int, content: bytes, *, alone: bool) -> None:
        before = os.fstat(fd).st_size
        try:
            try:
                write_all(fd, content)
            except OSError:
                if alone:  # half a line would be taken for damage
                    os.ftruncate(fd, before)
                self.folder.reserve.unlink()  # room for a last word; without it the first error stands
                write_all(fd, content)
            os.fsync(fd)
        except OSError:
            if alone:
                with suppress(OSError):
                    os.ftruncate(fd, before)
            raise


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"user {os.getuid()}" if hasattr(os, "getuid") else "somebody"
