"""The record as the watchdog keeps it: read on, latched in, and begun anew where somebody damaged it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from agentfund.errors import BusUnavailable
from agentfund.trading import Level
from agentfund.watchdog.chain import MOST_BYTES, BrokenRecord, Cause, Chain, Line, anew, may_end, salvage
from agentfund.watchdog.folder import locked, replace_file
from agentfund.watchdog.halts import Halts
from agentfund.watchdog.keys import Key
from agentfund.watchdog.machine import Machine
from agentfund.watchdog.state import HALTS_MODE, State

_log = logging.getLogger("agentfund")

TAMPERING = "tampering"
_PATIENCE_S = 0.05
_EVIDENCE = 16
"""Damaged records that are kept for the operator."""


class Record:
    """What is latched, kept by the one process that remembers it.

    Args:
        halts: the record's file.
        key: the watchdog's key.
        state: what it remembers of its last life.
        tampering: the level at which damage is latched.
        machine: its clocks.
    """

    def __init__(self, halts: Halts, key: Key, state: State, tampering: Level, machine: Machine) -> None:
        self.halts = halts
        self.damage = ""
        self._key = key
        self._operator = state.operator
        self._level = tampering
        self._machine = machine
        self._n, self._head = state.n, state.head
        self.open = {cause.id: cause for cause in map(Cause.of, state.open)}
        self.lifted: dict[str, Line] = {}
        for told in state.lifted:
            line = Line(**told)
            self.lifted[line.body["cause"]] = line
        self._mark: tuple[int, ...] | None = None
        self.on_lift: Callable[[Cause], None] = lambda cause: None

    def __repr__(self) -> str:
        return f"<Record {self.halts.folder.halts}: {self._n} lines, {len(self.open)} latched>"

    @property
    def n(self) -> int:
        """Number of the newest line."""
        return self._n

    @property
    def head(self) -> str:
        """Hash of it."""
        return self._head

    @property
    def level(self) -> Level:
        """The highest level that is latched."""
        return max((cause.level for cause in self.open.values()), default=Level.NORMAL)

    @property
    def worst(self) -> Cause | None:
        """The oldest of the highest causes, None where nothing is latched."""
        level = self.level
        return next((cause for cause in self.open.values() if cause.level is level), None)

    def save_to(self, state: State) -> None:
        """Write what is latched into what is remembered."""
        state.n, state.head = self._n, self._head
        state.open = [cause.to_json() for cause in self.open.values()]
        state.lifted = [asdict(line) for line in self.lifted.values()]

    def look(self) -> bool:
        """Read what is new; begin anew what is damaged. Return whether the record is whole.

        `damage` says why it is not, or was not.
        """
        mark = self._stat()
        if mark is not None and mark == self._mark:
            return True
        self._mark = None
        try:
            chain = self._read()
        except BrokenRecord:
            chain = None
        if chain is None:  # perhaps somebody is just writing
            return self._mend_quietly()
        self._take(chain)
        self._mark = mark
        return True

    def suspect(self, why: str) -> None:
        """Latch tampering that was found elsewhere than in the record, once.

        Raises:
            BusUnavailable: it cannot be written.
        """
        if not any(cause.code == TAMPERING for cause in self.open.values()):
            self.latch(TAMPERING, self._level, why)
        else:
            _log.error("watchdog: %s", why)

    def latch(self, code: str, level: Level, reason: str, *, message: str = "", offset: int = 0, entry: str = "") -> Cause:
        """Latch a cause and have it in memory; it is durable when this returns.

        Raises:
            BusUnavailable: it cannot be written now.
        """
        cause = self.halts.halt(
            reason,
            level=level,
            by="watchdog",
            code=code,
            message=message,
            offset=offset,
            entry=entry,
            patience_s=_PATIENCE_S,
        )
        self.look()
        self.open.setdefault(cause.id, cause)
        return cause

    def _stat(self) -> tuple[int, ...] | None:
        try:
            found = self.halts.folder.halts.stat()
        except OSError:
            return None
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def _chain(self) -> Chain:
        return Chain(self._key.public, self._operator)

    def _read(self) -> Chain:
        chain = self._chain()
        chain.add(self.halts.content())
        if not chain.holds(self._n, self._head):
            raise BrokenRecord(f"the record lacks line {self._n}, which was there")
        return chain

    def _take(self, chain: Chain) -> None:
        before = self.open
        self.lifted = {**self.lifted, **chain.lifted}
        kept = {
            name: cause
            for name, cause in before.items()
            if name not in chain.open and not (name in chain.lifted and may_end(cause, chain.lifted[name]))
        }
        self.open = {**kept, **chain.open}
        self._n, self._head = chain.n, chain.head
        for name, cause in before.items():
            if name not in self.open and chain.lifted[name].kind == "lift":
                self.on_lift(cause)

    def _mend_quietly(self) -> bool:
        try:
            self._mend()
        except (OSError, BusUnavailable) as error:
            self.damage = f"the record of halts is damaged and cannot be written anew: {error}"
            _log.error("watchdog: %s", self.damage)
            return False
        return True

    def _mend(self) -> None:
        path = self.halts.folder.halts
        if path.is_symlink():
            path.unlink()
        missing = not path.exists()
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0), HALTS_MODE)
        try:
            with locked(fd, _PATIENCE_S):
                try:
                    if missing:
                        raise BrokenRecord("it is missing")
                    chain = self._read()
                except BrokenRecord as broken:
                    self.damage = str(broken)
                else:
                    self._take(chain)
                    return
                content = self._rest(fd)
                self._keep_evidence(path)
                self._begin_anew(content)
            if late := self._rest(fd)[len(content) :]:  # written by somebody who did not wait for the lock
                for cause in salvage(content + late, self._key.public, self._operator).open.values():
                    if cause.id not in self.open and cause.id not in self.lifted:
                        self.latch(
                            cause.code, cause.level, cause.reason, message=cause.message, offset=cause.offset, entry=cause.entry
                        )
        finally:
            os.close(fd)

    def _begin_anew(self, content: bytes) -> None:
        """Write a record that goes on from what is remembered, with what can be trusted of the damaged one, and the damage."""
        _log.error("watchdog: the record of halts was damaged: %s", self.damage)
        found = salvage(content, self._key.public, self._operator)
        causes, lifted, n, head = dict(self.open), dict(self.lifted), self._n, self._head
        if found.holds(n, head):
            n, head = found.n, found.head
            lifted |= found.lifted
            causes = {name: one for name, one in causes.items() if not (name in lifted and may_end(one, lifted[name]))}
        causes = {**causes, **{name: one for name, one in found.open.items() if name not in lifted}}
        first = anew(n, head, causes.values(), lifted.values(), self._key)
        lines = [first]
        if not any(cause.code == TAMPERING for cause in causes.values()):
            reason = f"somebody changed the record of halts: {self.damage}"
            cause = Cause(first.hash[:12], self._level, TAMPERING, reason, "watchdog", self._machine.now())
            lines.append(Line.make(first.n + 1, "halt", cause.to_json(), first.hash))
        told = b"".join(line.text() for line in lines)
        replace_file(self.halts.folder.halts, told, mode=HALTS_MODE)
        chain = self._chain()
        chain.add(told)
        self._take(chain)

    def _keep_evidence(self, path: Path) -> None:
        with suppress(OSError):
            if len(list(path.parent.glob("halts.damaged-*"))) < _EVIDENCE:
                path.parent.joinpath(f"halts.damaged-{self._n}-{self._machine.uptime():.0f}.jsonl").hardlink_to(path)

    def _rest(self, fd: int) -> bytes:
        os.lseek(fd, 0, os.SEEK_SET)
        found = b""
        while len(found) < MOST_BYTES and (piece := os.read(fd, 1 << 20)):
            found += piece
        return found
