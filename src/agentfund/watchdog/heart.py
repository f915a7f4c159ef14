"""The fund's heartbeat: a small file that its process writes four times a second, and that the watchdog reads."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfund.clock import SystemClock
from agentfund.core.pulse import Pulse
from agentfund.watchdog.folder import Folder, replace_file
from agentfund.watchdog.machine import Machine

if TYPE_CHECKING:
    from agentfund.protocols import Clock

_log = logging.getLogger("agentfund")

EVERY_S = 0.25
_MOST_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Beat:
    """One heartbeat.

    Args:
        pulse: the fund's own word.
        pid: its process.
        boot: run of the machine.
        uptime: when, in seconds since the machine started.
        count: heartbeats of this process so far.
    """

    pulse: Pulse
    pid: int
    boot: str
    uptime: float
    count: int


class Heart:
    """Beats for a fund.

    Args:
        path: the watchdog's folder.
        machine: its clocks.
        clock: what waits.
    """

    def __init__(self, path: str | Path, *, machine: Machine | None = None, clock: Clock | None = None) -> None:
        self.folder = Folder(path)
        self._machine = machine or Machine()
        self._clock = clock or SystemClock()
        self._count = 0
        self._failed = ""

    def __repr__(self) -> str:
        return f"<Heart {self.folder.beat}>"

    def beat(self, pulse: Pulse) -> None:
        """Write one heartbeat. It is not synced: after a loss of power nothing beats.

        Raises:
            OSError: it could not be written.
        """
        self._count += 1
        told = {"pulse": _told(pulse), "pid": os.getpid(), "boot": self._machine.boot(), "uptime": self._machine.uptime()}
        content = json.dumps({**told, "count": self._count}, separators=(",", ":")).encode() + b"\n"
        replace_file(self.folder.beat, content, sync=False)

    async def keep(self, pulse: Callable[[], Pulse]) -> None:
        """Beat four times a second until cancelled; the last beat tells how the fund stood then.

        A disk that takes nothing is logged once, and the beats go on missing: the watchdog notices.
        """
        try:
            while True:
                self._try(pulse)
                await self._clock.sleep(EVERY_S)
        except asyncio.CancelledError:
            self._try(pulse)
            raise

    def _try(self, pulse: Callable[[], Pulse]) -> None:
        try:
            self.beat(pulse())
        except Exception as error:  # neither a full disk nor a pulse that fails may end the beating
            text = f"{type(error).__name__}: {error}"
            if text != self._failed:
                _log.warning("the heartbeat %s cannot be written: %s", self.folder.beat, text)
            self._failed = text
        else:
            self._failed = ""


def read_beat(path: str | Path) -> Beat | None:
    """Return the newest heartbeat in a watchdog's folder, None where there is none that can be read."""
    try:
        with Folder(path).beat.open("rb") as file:
            told = json.loads(file.read(_MOST_BYTES))
        pulse = _pulse(told["pulse"])
        return Beat(pulse, int(told["pid"]), str(told["boot"]), float(told["uptime"]), int(told["count"]))
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        return None


def _told(pulse: Pulse) -> dict[str, Any]:
    heard = None if pulse.heard is None else pulse.heard.isoformat()
    return {**asdict(pulse), "equity": str(pulse.equity), "spent_usd": str(pulse.spent_usd), "heard": heard}


def _pulse(told: dict[str, Any]) -> Pulse:
    heard = None if told["heard"] is None else datetime.fromisoformat(told["heard"])
    if heard is not None and heard.tzinfo is None:
        raise ValueError("naive time")
    return Pulse(
        fund=str(told["fund"]),
        config=str(told["config"]),
        stage=str(told["stage"]),
        stage_s=float(told["stage_s"]),
        cycle=int(told["cycle"]),
        progress=int(told["progress"]),
        equity=Decimal(told["equity"]),
        spent_usd=Decimal(told["spent_usd"]),
        heard=heard,
        level=int(told["level"]),
        lease=bool(told["lease"]),
    )
