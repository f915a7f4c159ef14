"""What the watchdog leaves for `agentfund status`: unsigned, for people."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decimal import Decimal

    from agentfund.watchdog.judge import Judged
    from agentfund.watchdog.machine import Machine
    from agentfund.watchdog.seen import Finding, Memory


def page(machine: Machine, judged: Judged | None, memory: Memory, equity: Decimal | None) -> dict[str, Any]:
    """Return what was seen in a round, as JSON values."""
    return {
        "pid": os.getpid(),
        "boot": machine.boot(),
        "uptime": machine.uptime(),
        "time": machine.now().isoformat(),
        "findings": [_told(one) for one in (judged.findings if judged else ())],
        "pending": [_told(one) for one in (judged.pending if judged else ())],
        "equity": _money(equity),
        "peak": _money(memory.peak),
        "day_equity": _money(memory.day_equity),
    }


def _money(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)


def _told(one: Finding) -> dict[str, Any]:
    return {"code": one.code, "level": int(one.level), "reason": one.reason, "about": one.about}
