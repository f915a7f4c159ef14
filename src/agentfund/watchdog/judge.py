"""From findings to a word: what is latched, what the lease says, and what keeps it back. No I/O: all it knows is told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from agentfund.trading import Level
from agentfund.watchdog.caps import Caps
from agentfund.watchdog.checks import IN_PEACE, find
from agentfund.watchdog.seen import Finding, Memory, Seen

STEADY_S = 1.0
"""How far the wall clock may drift from one look to the next and still be believed."""
FROZEN_S = 1.0
"""A longer pause between two rounds means that this process stood still: what it saw before does not count."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A round's result.

    Args:
        level: caution or reduce-only, by the watchdog's word of the moment.
        reason: why.
        latch: what is to be latched, if it is not already.
        withhold: why there is no lease; empty where there is one.
        findings: all that was found and counts.
        pending: what was found and has not lasted long enough to count.
    """

    level: Level
    reason: str
    latch: tuple[Finding, ...]
    withhold: tuple[str, ...]
    findings: tuple[Finding, ...]
    pending: tuple[Finding, ...]


class Judge:
    """Judges round after round.

    Args:
        caps: the caps.
        memory: what is remembered.
    """

    def __init__(self, caps: Caps, memory: Memory) -> None:
        self.caps = caps
        self.memory = memory
        self._since: dict[tuple[str, Level, str], float] = {}
        self._held: dict[Level, tuple[float, str]] = {}
        self._clean = 0
        self._ready = 0
        self._last: float | None = None
        self._fresh_after = float("-inf")
        self._looked: tuple[float, float, int] = (0.0, 0.0, 0)

    def judge(self, seen: Seen) -> Judged:
        """Return what a round comes to."""
        if self._last is not None and seen.now - self._last > FROZEN_S:
            self._fresh_after = seen.now
        self._last = seen.now
        remember(seen, self.memory)
        sure, pending = self._lasting(find(seen, self.memory, self.caps), seen.now)
        latch = tuple(one for one in sure if one.level >= Level.HALT or (one.level is Level.REDUCE_ONLY and one.loss))
        withhold = [one.reason for one in sure if one.withhold]
        if stale := self._stale(seen):
            withhold.append(stale)
        clean = all(one.level <= Level.CAUTION for one in (*sure, *pending))
        withhold += self._readiness(seen, bool(withhold), clean)
        level, reason = self._word(sure, seen.now)
        return Judged(level, reason, latch, tuple(withhold), tuple(sure), tuple(pending))

    def rebase(self, code: str, equity: Decimal | None) -> None:
        """Begin anew after an operator lifted a loss: what is lost is lost, and counted from here."""
        if code.startswith("drawdown"):
            self.memory.peak = equity
        elif code.startswith("day_loss"):
            self.memory.day_equity = equity

    def _lasting(self, found: list[Finding], now: float) -> tuple[list[Finding], list[Finding]]:
        keys = {(one.code, one.level, one.about) for one in found}
        self._since = {key: self._since.get(key, now) for key in keys}
        sure: list[Finding] = []
        pending: list[Finding] = []
        for one in found:
            lasted = now - self._since[one.code, one.level, one.about]
            (sure if lasted >= one.grace_s else pending).append(one)
        return sure, pending

    def _stale(self, seen: Seen) -> str:
        """Return why what was seen is from before this process stood still, empty where it is not."""
        at = [seen.book_at, seen.beat.uptime if seen.beat is not None else 0.0]
        if seen.log:
            at.append(seen.told_at)
        return "the watchdog stood still, and has not looked again at everything yet" if min(at) < self._fresh_after else ""

    def _readiness(self, seen: Seen, held: bool, clean: bool) -> list[str]:
        """At the start and after a gap, all has to be clean twice before there is a lease."""
        if held:
            self._ready = 0
            return []
        if self._ready >= 2:
            return []
        looked = (seen.book_at, seen.told_at if seen.log else 0.0, seen.beat.count if seen.beat is not None else 0)
        if not clean:
            self._ready = 0
        elif looked[0] != self._looked[0] and looked[2] != self._looked[2]:
            self._looked = looked
            self._ready += 1
        return [] if self._ready >= 2 else [f"all has to be clean twice first; so far {self._ready}"]

    def _word(self, sure: list[Finding], now: float) -> tuple[Level, str]:
        found = {level: next((one for one in sure if one.level is level), None) for level in (Level.CAUTION, Level.REDUCE_ONLY)}
        for level, one in found.items():
            if one is not None:
                self._held[level] = (now, one.reason)
        self._clean = 0 if found[Level.CAUTION] is not None else self._clean + 1
        if self._clean >= self.caps.clean_checks:
            self._held.pop(Level.CAUTION, None)
        if Level.REDUCE_ONLY in self._held and now - self._held[Level.REDUCE_ONLY][0] >= self.caps.clean_s:
            del self._held[Level.REDUCE_ONLY]
        level = max(self._held, default=Level.NORMAL)
        return level, self._held[level][1] if level else ""


def remember(seen: Seen, memory: Memory) -> None:
    """Take what is seen into memory."""
    beat = seen.beat
    if beat is not None and beat.boot == seen.boot and -0.5 <= seen.now - beat.uptime <= FROZEN_S:
        pulse = beat.pulse
        memory.fund = memory.fund or pulse.fund
        memory.config = memory.config or pulse.config
        alive = pulse.stage != IN_PEACE and pulse.fund == memory.fund
        if alive and not memory.alive:
            memory.alive_at = seen.now
        memory.alive = alive
        moved = (pulse.stage, pulse.cycle, pulse.progress, beat.pid)
        if moved != memory.progress or pulse.stage == "waiting":
            memory.progress, memory.progress_at = moved, seen.now
    memory.book_seen = memory.book_seen or seen.book is not None
    memory.log_seen = memory.log_seen or seen.told is not None
    _tell_time(seen, memory)
    equity = None if seen.book is None else seen.book.account.equity
    assert memory.clock is not None
    day = (memory.clock + timedelta(seconds=seen.now)).date().isoformat()
    if day > memory.day:
        memory.day, memory.day_equity = day, None
    if equity is not None and equity.is_finite() and equity > 0:
        memory.peak = equity if memory.peak is None else max(memory.peak, equity)
        memory.day_equity = equity if memory.day_equity is None else memory.day_equity


def _tell_time(seen: Seen, memory: Memory) -> None:
    """Believe the wall clock where it goes on as time does, or where the broker agrees with it; else go on counting."""
    zero = seen.wall - timedelta(seconds=seen.now)
    if memory.clock is None:
        memory.clock = zero
    jump = (zero - memory.clock).total_seconds()
    agreed = (
        seen.book is not None
        and seen.book.time is not None
        and seen.book_wall is not None
        and abs((seen.book_wall - seen.book.time).total_seconds()) <= STEADY_S
        and abs((seen.wall - seen.book_wall).total_seconds()) <= 10
    )
    memory.jump_s = jump
    if abs(jump) <= STEADY_S or agreed:
        memory.clock = zero
