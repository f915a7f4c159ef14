"""The machine that a watchdog runs on: its clocks, and a name for this boot; a test can be another machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from agentfund.clock import SystemClock, boot_id, uptime


@dataclass(frozen=True, slots=True)
class Machine:
    """What is asked of a machine.

    Args:
        uptime: seconds since it started, sleep included: leases and ages are counted by it, so that nobody can set it.
        boot: names this run of the machine.
        now: wall time, aware UTC: for people, trading days and the broker's clock.
    """

    uptime: Callable[[], float] = uptime
    boot: Callable[[], str] = boot_id
    now: Callable[[], datetime] = field(default_factory=lambda: SystemClock().now)
