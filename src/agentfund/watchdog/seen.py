"""What the watchdog has seen at one moment, what it remembers, and what a check finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from agentfund.trading import Book, Level
from agentfund.watchdog.heart import Beat
from agentfund.watchdog.told import Told


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has against a fund.

    Args:
        code: names it for programs.
        level: how much the fund may do because of it; NORMAL where it only keeps the lease back.
        reason: what is wrong, in one sentence with its figures.
        loss: money was lost: reduce-only then lasts till the next trading day.
        grace_s: how long it has to last before it counts.
        about: what it concerns, such as a symbol, so that two of a kind are told apart.
        withhold: whether there is no lease meanwhile.
    """

    code: str
    level: Level
    reason: str
    loss: bool = False
    grace_s: float = 0.0
    about: str = ""
    withhold: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What is there now. Ages are counted by uptime, from when each question was asked.

    Args:
        now: uptime in seconds when this round began.
        wall: wall time then, aware UTC.
        boot: run of the machine.
        beat: the newest heartbeat.
        book: the broker's newest book.
        book_at: uptime when it was asked for.
        book_wall: wall time when it came.
        book_error: why the broker did not answer last, empty where it did.
        told: the fund by its log; None where no log is watched, or it was not read yet.
        told_at: uptime when reading it began.
        log: whether a log is watched.
        log_error: why it could not be read last.
        rewound: how it went backwards, empty where it did not.
        disk_mb: free space where the record lies, None where it cannot be told.
        known: ids of all causes in the record, latched or lifted.
    """

    now: float
    wall: datetime
    boot: str
    beat: Beat | None = None
    book: Book | None = None
    book_at: float = 0.0
    book_wall: datetime | None = None
    book_error: str = ""
    told: Told | None = None
    told_at: float = 0.0
    log: bool = True
    log_error: str = ""
    rewound: str = ""
    disk_mb: float | None = None
    known: frozenset[str] = field(default_factory=frozenset)


@dataclass(slots=True)
class Memory:
    """What is remembered from round to round.

    Args:
        fund: name of the fund, empty before it is known.
        config: digest of its limits, likewise.
        began: uptime when the watchdog began.
        alive: whether a heart beat since then, and has not ended in peace.
        alive_at: uptime when it began to.
        progress: the counter that was seen last, with cycle and stage.
        progress_at: uptime when it moved last.
        book_seen: whether the broker has answered since the watchdog began.
        log_seen: whether the log was read since then.
        peak: highest equity, None before the first.
        day: trading day (UTC), ISO date.
        day_equity: equity when it began.
        clock: wall time less uptime when both were trusted last, None before.
        jump_s: how far the wall clock lies from where it should.
    """

    fund: str = ""
    config: str = ""
    began: float = 0.0
    alive: bool = False
    alive_at: float = 0.0
    progress: tuple[str, int, int, int] = ("", 0, 0, 0)
    progress_at: float = 0.0
    book_seen: bool = False
    log_seen: bool = False
    peak: Decimal | None = None
    day: str = ""
    day_equity: Decimal | None = None
    clock: datetime | None = None
    jump_s: float = 0.0
