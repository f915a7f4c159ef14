"""The watchdog: a process that knows no agent and no language model, that can stop a fund and keep it stopped."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfund.clock import SystemClock
from agentfund.errors import BusError, BusUnavailable, ConfigError
from agentfund.trading import Level
from agentfund.watchdog.caps import Caps
from agentfund.watchdog.chain import Cause, salvage
from agentfund.watchdog.folder import Folder, replace_file
from agentfund.watchdog.halts import Halts
from agentfund.watchdog.heart import read_beat
from agentfund.watchdog.judge import Judge, Judged
from agentfund.watchdog.keys import verifier
from agentfund.watchdog.lease import Lease
from agentfund.watchdog.looking import Look
from agentfund.watchdog.machine import Machine
from agentfund.watchdog.notify import notify
from agentfund.watchdog.page import page
from agentfund.watchdog.record import TAMPERING, Record
from agentfund.watchdog.seen import Finding, Memory, Seen
from agentfund.watchdog.state import State

if TYPE_CHECKING:
    from agentfund.protocols import Clock, Watched
    from agentfund.trading import Book
    from agentfund.watchdog.hands import Hands
    from agentfund.watchdog.reading import LogReader
    from agentfund.watchdog.told import Told

_log = logging.getLogger("agentfund")

SAVE_S = 5.0
"""How seldom a new peak alone is written down."""

SHOW_S = 1.0
"""How seldom `status.json` is written where nothing changed."""

_SOFT = ("drawdown_soft", "day_loss_soft")


class Watchdog:
    """Watches one fund.

    Args:
        path: its folder.
        broker: a session of its own that only looks.
        log: the fund's log; None where none is watched, which leaves out what broker and log are compared in.
        caps: what counts as a breach.
        fund: name of the fund; the first heartbeat tells it otherwise.
        config: digest of its limits; the first heartbeat tells it otherwise. Given, it replaces what was pinned.
        period_s: seconds from round to round.
        poll_s: seconds from one question to the broker to the next; a session's `pace_s` is kept where that is more.
        deadline_s: seconds that an answer may take.
        ttl_s: seconds that a lease lasts.
        hands: acts where the fund does not.
        machine: its clocks.
        clock: what waits.

    Raises:
        ConfigError: the folder has no keys, they do not belong together, or another watchdog watches here.
        MissingExtra: the extra `watchdog` is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        broker: Watched,
        log: LogReader | None = None,
        caps: Caps | None = None,
        fund: str = "",
        config: str = "",
        period_s: float = 0.25,
        poll_s: float = 0.5,
        deadline_s: float = 3.0,
        ttl_s: float = 2.0,
        hands: Hands | None = None,
        machine: Machine | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not 0 < 2 * period_s <= ttl_s <= 60:
            raise ConfigError(f"a lease lasts at least two rounds and at most a minute: ttl {ttl_s:g} s, round {period_s:g} s")
        if not poll_s > 0 or not deadline_s > 0:
            raise ConfigError("poll and deadline are seconds above zero")
        self.folder = Folder(path)
        self.caps = caps or Caps()
        self._machine = machine or Machine()
        self._clock = clock or SystemClock()
        self._period_s, self._ttl_s = period_s, ttl_s
        self._poll_s = max(poll_s, float(getattr(broker, "pace_s", 0.0)))
        self._hands = hands
        self._key = self.folder.own_key()
        self._lock_fd = self._lock()
        self._tampering = Level.KILL if TAMPERING in self.caps.kill else Level.HALT
        self._suspicions: list[str] = []
        self._state = self._load()
        self._memory = self._remembered(fund, config)
        self.judge = Judge(self.caps, self._memory)
        halts = Halts(path, machine=self._machine, keys=(self._key.public, self._state.operator))
        self.record = Record(halts, self._key, self._state, self._tampering, self._machine)
        self.record.on_lift = self._lifted
        self.look: Look[Book] = Look(broker.book, self._machine, deadline_s)
        self._reader = log
        self.read: Look[Told] | None = None if log is None else Look(log.read, self._machine, deadline_s)
        self._unlatched: dict[tuple[str, str], Finding] = {}
        self._saved_at = 0.0
        self._seq = 0
        self._shown: tuple[str, Level, str] = ("", Level.NORMAL, "")
        self._shown_at = float("-inf")
        self.leased = False
        self.judged: Judged | None = None

    def __repr__(self) -> str:
        return f"<Watchdog of {self._memory.fund or 'a fund to come'!r} in {self.folder.path}>"

    @property
    def fund(self) -> str:
        """Name of the fund, empty before it is known."""
        return self._memory.fund

    async def run(self) -> None:
        """Watch until cancelled. Nothing is removed then: the lease runs out by itself."""
        news = asyncio.Event()
        tasks = [asyncio.ensure_future(self.look.keep(self._poll_s, self._clock, news))]
        if self.read is not None:
            tasks.append(asyncio.ensure_future(self.read.keep(self._period_s, self._clock, asyncio.Event())))
        if self._hands is not None:
            tasks.append(asyncio.ensure_future(self._hands.keep()))
        notify("READY=1")
        try:
            while True:
                self.round()
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), self._period_s)
                news.clear()
        finally:
            notify("STOPPING=1")
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1)
            self.close()

    def close(self) -> None:
        """Let another watchdog watch here."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def round(self) -> None:
        """Look, judge, latch, and give a lease or none. It never raises and waits for nobody but the local disk."""
        began = self._machine.uptime()
        try:
            withheld = self._round(began)
        except Exception as error:  # a watchdog that fails gives no lease, and tries again
            _log.exception("watchdog: a round failed")
            withheld = f"a round failed: {type(error).__name__}: {error}"
            self.leased = False
        self._show(withheld)
        notify(f"WATCHDOG=1\nSTATUS={'level ' + str(int(self.record.level)) if not withheld else withheld[:200]}")

    def _round(self, began: float) -> str:
        """Return why there is no lease, empty where there is one. The order matters: latch, state, lease."""
        self._check_keys()
        whole = self.record.look()
        seen = self._seen(began)
        judged = self.judged = self.judge.judge(seen)
        self._latch(judged, seen)
        self._end_losses(judged)
        saved = self._save(began)
        if self._hands is not None:
            worst = self.record.worst
            self._hands.told(self.record.level, worst.id if worst else "")
        why = self._why_not(judged, whole, saved)
        if self._unlatched:  # what cannot be latched must not wait until the last lease has run out
            self.folder.lease.unlink(missing_ok=True)
        self.leased = not why and self._renew(began, judged)
        return why or ("" if self.leased else "the lease cannot be written, or came too late")

    def _seen(self, began: float) -> Seen:
        reader, read = self._reader, self.read
        try:
            free: float | None = shutil.disk_usage(self.folder.path).free / 1e6
        except OSError:
            free = None
        return Seen(
            now=began,
            wall=self._machine.now(),
            boot=self._machine.boot(),
            beat=read_beat(self.folder.path),
            book=self.look.value,
            book_at=self.look.at,
            book_wall=self.look.wall,
            book_error=self.look.error,
            told=None if read is None else read.value,
            told_at=0.0 if read is None else read.at,
            log=read is not None,
            log_error="" if read is None else read.error,
            rewound="" if reader is None else reader.rewound,
            disk_mb=free,
            known=frozenset({*self.record.open, *self.record.lifted}),
        )

    def _latch(self, judged: Judged, seen: Seen) -> None:
        """Latch what was found; what could not be written stays here, keeps the lease back, and is tried again."""
        for why in self._suspicions:
            self._unlatched.setdefault((TAMPERING, ""), Finding(TAMPERING, self._tampering, why))
        self._suspicions.clear()
        if seen.told is not None and seen.told.offset < self._state.offset and not seen.rewound:
            reason = f"the fund's log went to {self._state.offset} when it was watched last, and now ends at {seen.told.offset}"
            self._unlatched.setdefault(("log_rewound", ""), Finding("log_rewound", Level.HALT, reason))
        for one in judged.latch:
            self._unlatched.setdefault((one.code, one.about), one)
        open_codes = {cause.code for cause in self.record.open.values()}
        message, offset, entry = seen.told.decided if seen.told is not None else ("", 0, "")
        for key, one in tuple(self._unlatched.items()):
            code = f"{one.code}:{one.about}" if one.about else one.code
            if code not in open_codes:
                level = Level.KILL if one.code in self.caps.kill and one.level >= Level.HALT else one.level
                try:
                    self.record.latch(code, level, one.reason, message=message, offset=offset, entry=entry)
                except BusUnavailable as error:
                    _log.error("watchdog: %s; not latched yet: %s", one.reason, error)
                    continue
                _log.error("watchdog: level %d: %s", level, one.reason)
            del self._unlatched[key]

    def _end_losses(self, judged: Judged) -> None:
        """End what a loss held at reduce-only, once another trading day has begun and the loss is not there any more."""
        found = {one.code for one in judged.findings}
        for cause in tuple(self.record.open.values()):
            over = cause.code in _SOFT and cause.code not in found and cause.level <= Level.REDUCE_ONLY
            if over and self._memory.day > cause.time.date().isoformat():
                try:
                    self.record.halts.over(cause.id, "another trading day has begun", self._key)
                except (BusError, ConfigError) as error:
                    _log.warning("watchdog: %s", error)
                self.record.look()

    def _why_not(self, judged: Judged, whole: bool, saved: bool) -> str:
        if not whole:
            return self.record.damage
        if self._unlatched:
            first = next(iter(self._unlatched.values()))
            return f"a halt could not be written down yet: {first.reason}"
        if not saved:
            return "the watchdog's state cannot be written"
        return judged.withhold[0] if judged.withhold else ""

    def _renew(self, began: float, judged: Judged) -> bool:
        """Write a lease that counts from when this round began; return whether it is there and fresh."""
        worst = self.record.worst
        level, reason = judged.level, judged.reason
        if worst is not None and worst.level >= level:
            level, reason = worst.level, worst.reason
        self._seq = max(self._seq + 1, int(began * 1e6))
        lease = Lease(
            fund=self._memory.fund,
            config=self._memory.config,
            level=level,
            reason=reason,
            boot=self._machine.boot(),
            issued=began,
            ttl=self._ttl_s,
            seq=self._seq,
            n=self.record.n,
            head=self.record.head,
            operator=self._state.operator,
        )
        try:
            replace_file(self.folder.lease, lease.signed(self._key), sync=False)
        except OSError as error:
            _log.error("watchdog: the lease cannot be written: %s", error)
            return False
        return self._machine.uptime() - began < self._ttl_s

    def _lifted(self, cause: Cause) -> None:
        book = self.look.value
        self.judge.rebase(cause.code, None if book is None else book.account.equity)

    def _lock(self) -> int | None:
        fd = os.open(self.folder.lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            fcntl: Any = import_module("fcntl")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on Windows
            pass
        except OSError:
            os.close(fd)
            raise ConfigError(f"another watchdog watches in {self.folder.path}: end that one, or name another folder") from None
        return fd

    def _load(self) -> State:
        """Return what was remembered; where that is gone, latch it and go on from what can be trusted."""
        try:
            state = State.read(self.folder.state.read_bytes(), verifier(self._key.public))
        except OSError:
            state = None
        if state is None:
            try:
                content = self.folder.halts.read_bytes()
            except OSError:
                content = b""
            operator = self.folder.public("operator")
            chain = salvage(content, self._key.public, operator)
            self._suspicions.append("somebody changed or removed the watchdog's state: peaks and what was pinned are forgotten")
            state = State(operator, n=chain.n, head=chain.head, open=[cause.to_json() for cause in chain.open.values()])
        return state

    def _check_keys(self) -> None:
        """Put public keys back that somebody exchanged or removed, and latch it."""
        for file, pinned in ((self.folder.operator_pub, self._state.operator), (self.folder.watchdog_pub, self._key.public)):
            try:
                there = file.read_text(encoding="ascii").strip()
            except (OSError, ValueError):
                there = ""
            if there != pinned:
                self._suspicions.append(f"somebody exchanged or removed {file.name}; the one that was pinned stands again")
                replace_file(file, pinned.encode() + b"\n")

    def _remembered(self, fund: str, config: str) -> Memory:
        state, now = self._state, self._machine.uptime()
        if fund and state.fund and fund != state.fund:
            raise ConfigError(
                f"{self.folder.path} is the folder of the fund {state.fund!r}, not of {fund!r}: name another folder"
            )
        clock = None
        if state.boot == self._machine.boot() and state.wall:
            clock = datetime.fromisoformat(state.wall) - timedelta(seconds=state.uptime)
        return Memory(
            fund=fund or state.fund,
            config=config or state.config,
            began=now,
            progress_at=now,
            peak=Decimal(state.peak) if state.peak else None,
            day=state.day,
            day_equity=Decimal(state.day_equity) if state.day_equity else None,
            clock=clock,
        )

    def _save(self, now: float) -> bool:
        """Write down what must not be forgotten where it changed; return whether it stands there."""
        state, memory = self._state, self._memory
        before = (state.n, state.head, state.fund, state.config, state.day, state.day_equity)
        self.record.save_to(state)
        state.fund, state.config, state.day = memory.fund, memory.config, memory.day
        state.day_equity = "" if memory.day_equity is None else str(memory.day_equity)
        urgent = before != (state.n, state.head, state.fund, state.config, state.day, state.day_equity)
        if not urgent and now - self._saved_at < SAVE_S and self._saved_at:
            return True
        state.peak = "" if memory.peak is None else str(memory.peak)
        assert memory.clock is not None
        state.boot, state.uptime = self._machine.boot(), now
        state.wall = (memory.clock + timedelta(seconds=now)).isoformat()
        if self.read is not None and self.read.value is not None:
            state.offset = max(state.offset, self.read.value.offset)
        try:
            replace_file(self.folder.state, state.signed(self._key))
        except OSError as error:
            _log.error("watchdog: its state cannot be written: %s", error)
            self._saved_at = 0.0
            return False
        self._saved_at = now
        return True

    def _show(self, withheld: str) -> None:
        """Leave a page for `agentfund status`: unsigned, for people."""
        judged, memory, book = self.judged, self._memory, self.look.value
        level, now = max(self.record.level, judged.level if judged else Level.NORMAL), self._machine.uptime()
        if (withheld, level, self.record.head) == self._shown and now - self._shown_at < SHOW_S:
            return
        self._shown, self._shown_at = (withheld, level, self.record.head), now
        told = {
            "fund": memory.fund,
            "config": memory.config,
            "caps": self.caps.digest,
            "withheld": withheld,
            "level": int(level),
            "hands": [] if self._hands is None else self._hands.did[-20:],
            **page(self._machine, judged, memory, None if book is None else book.account.equity),
        }
        with suppress(OSError):
            replace_file(self.folder.status, json.dumps(told).encode() + b"\n", sync=False)
