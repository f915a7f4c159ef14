"""The lease as the fund reads it: permission to trade, asked before each order, for microseconds."""

from __future__ import annotations

import os
from pathlib import Path

from agentfund.errors import ConfigError
from agentfund.trading import Level, Permit
from agentfund.watchdog.chain import MOST_BYTES, BrokenRecord, Cause, Chain, may_end
from agentfund.watchdog.folder import Folder
from agentfund.watchdog.keys import verifier
from agentfund.watchdog.lease import Lease
from agentfund.watchdog.machine import Machine

_LEASE_BYTES = 8_192

Mark = tuple[int, int, int, int, int]
"""What changes when a file does: device, inode, size, and both times in nanoseconds."""


class LeaseFile:
    """Says what a fund may do now; a `Permission` of files that a watchdog writes.

    The lease counts where the watchdog's key, which is pinned when this object is made, has signed it for this fund, these
    limits and this run of the machine, where it has not run out, and where the record of halts goes on from the one that
    it names. What is latched in the record counts from the moment that it is written, before the watchdog has seen it, and
    stays in this object's memory until the operator's signature lifts it, whatever becomes of the files. The wall clock is not
    asked.

    Args:
        path: the watchdog's folder.
        fund: name of the fund.
        config: digest of its limits.
        key: public key of the watchdog, where it is known from elsewhere than from the folder; one that others could have
            exchanged before this process began.
        machine: its clocks.

    Raises:
        ConfigError: the folder has no keys, or its key is another than `key`.
        MissingExtra: the extra `watchdog` is not installed.
    """

    def __init__(self, path: str | Path, *, fund: str, config: str, key: str = "", machine: Machine | None = None) -> None:
        self.folder = Folder(path)
        self.fund = fund
        self.config = config
        self._public = self.folder.public("watchdog")
        if key and key != self._public:
            raise ConfigError(
                f"{self.folder.watchdog_pub} is not the key that was given: somebody exchanged it, or it is another fund's"
            )
        self._operator = self.folder.public("operator")
        self._verify = verifier(self._public)
        verifier(self._operator)
        self._machine = machine or Machine()
        self._lease_path, self._halts_path = str(self.folder.lease), str(self.folder.halts)
        self._lease: Lease | None = None
        self._lease_mark: Mark | None = None
        self._seq = -1
        self._chain = Chain(self._public, self._operator)
        self._chain_mark: Mark | None = None
        self._read = 0
        self._broken = ""
        self._kept: dict[str, Cause] = {}
        self._newest = 0

    def __repr__(self) -> str:
        return f"<LeaseFile of {self.fund!r} in {self.folder.path}>"

    @property
    def causes(self) -> tuple[Cause, ...]:
        """What was latched when it was last asked."""
        return tuple({**self._kept, **self._chain.open}.values())

    def now(self) -> Permit:
        """Return level and lease at this moment; whatever cannot be read is no permission."""
        try:
            return self._now()
        except Exception as error:  # a permission never raises
            return Permit(Level.HALT, lease=False, reason=f"the lease cannot be judged: {type(error).__name__}: {error}")

    def left(self) -> float:
        """Return for how many seconds the lease that was read last still runs, 0 where there is none."""
        lease = self._lease
        if lease is None or lease.boot != self._machine.boot():
            return 0.0
        age = self._machine.uptime() - lease.issued
        return max(0.0, lease.ttl - age) if age >= 0 else 0.0

    def _now(self) -> Permit:
        # The lease first: the record is always written before the lease that names its length.
        mark = _mark(self._lease_path)
        if mark is None or mark != self._lease_mark:
            self._look_at_lease(mark)
        mark = _mark(self._halts_path)
        if mark is None or mark != self._chain_mark:
            self._look_at_record(mark)
        return self._permit()

    def _permit(self) -> Permit:
        worst = max(self._kept.values(), key=lambda cause: cause.level) if self._kept else None
        if self._broken:
            level = Level.HALT if worst is None else max(Level.HALT, worst.level)
            return Permit(level, False, self._broken, worst.id if worst else "")
        lease, why = self._lease, ""
        if lease is None:
            why = "there is no valid lease of the watchdog"
        elif lease.fund != self.fund:
            why = f"the lease is for the fund {lease.fund!r}"
        elif lease.config != self.config:
            why = f"the watchdog knows other limits ({lease.config}) than the fund has ({self.config})"
        elif lease.operator != self._operator:
            why = "the lease names another operator's key"
        elif lease.boot != self._machine.boot():
            why = "the lease is from before the machine was started"
        elif not 0 <= self._machine.uptime() - lease.issued <= lease.ttl:
            why = "the lease has run out: the watchdog does not renew it"
        elif not self._chain.holds(lease.n, lease.head):
            why = f"the record of halts lacks line {lease.n}, which the watchdog has seen"
        level = worst.level if worst is not None else Level.NORMAL
        reason, cause = (worst.reason, worst.id) if worst is not None else ("", "")
        if why:
            return Permit(level, False, reason or why, cause)
        assert lease is not None
        if lease.level > level:
            level, reason, cause = lease.level, lease.reason, ""
        return Permit(level, True, reason, cause)

    def _look_at_lease(self, mark: Mark | None) -> None:
        self._lease = None
        self._lease_mark = mark
        if mark is None:
            return
        found = Lease.read(_content(self._lease_path, 0, _LEASE_BYTES), self._verify)
        if found is not None and found.boot == self._machine.boot():
            if found.seq < self._seq:  # somebody put an old one back
                return
            self._seq = found.seq
        self._lease = found

    def _look_at_record(self, mark: Mark | None) -> None:
        before, self._chain_mark = self._chain_mark, None
        if mark is None:
            self._broken = "the record of halts is missing"
            return
        if mark[2] > MOST_BYTES:
            self._broken = "the record of halts is too long to be read"
            return
        try:
            grew = not self._broken and before is not None and before[:2] == mark[:2] and mark[2] > self._read
            if grew:
                added = _content(self._halts_path, self._read, MOST_BYTES)
                chain = self._chain
            else:  # another file, or changed in place: all of it again
                chain = Chain(self._public, self._operator)
                added, self._read = _content(self._halts_path, 0, MOST_BYTES), 0
            chain.add(added)
        except BrokenRecord as broken:
            self._broken = str(broken)
            self._chain_mark = mark
            return
        self._chain = chain
        self._read += len(added)
        self._chain_mark = mark
        if chain.n < self._newest:
            self._broken = f"the record of halts had {self._newest} lines and has {chain.n}"
            return
        self._broken = ""
        self._newest = chain.n
        ended = chain.lifted
        kept = {name: cause for name, cause in self._kept.items() if name not in ended or not may_end(cause, ended[name])}
        self._kept = {**kept, **chain.open}


def _mark(path: str) -> Mark | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # a Path costs more than the call
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _content(path: str, start: int, most: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if start:
            os.lseek(fd, start, os.SEEK_SET)
        found = b""
        while len(found) <= most and (piece := os.read(fd, min(most + 1 - len(found), 1 << 20))):
            found += piece
        return found
    finally:
        os.close(fd)
