"""How a fund stands by its watchdog's folder alone: it can be read when everything is dead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agentfund.clock import SystemClock
from agentfund.errors import AgentFundError
from agentfund.trading import Level
from agentfund.watchdog.folder import Folder
from agentfund.watchdog.halts import Halts
from agentfund.watchdog.heart import read_beat
from agentfund.watchdog.keys import verifier
from agentfund.watchdog.lease_file import LeaseFile
from agentfund.watchdog.machine import Machine
from agentfund.watchdog.state import State

WORDS = {
    Level.NORMAL: "normal",
    Level.CAUTION: "caution: half size, no new symbols",
    Level.REDUCE_ONLY: "reduce only: nothing may add risk",
    Level.HALT: "HALT: no new orders until an operator lifts it",
    Level.KILL: "KILL: no orders, positions closed or kept by policy, until an operator lifts it",
}


def standing(path: str | Path, *, machine: Machine | None = None) -> dict[str, Any]:
    """Return all that is known of a fund, as JSON values.

    Raises:
        ConfigError: that is no folder of a watchdog.
        MissingExtra: the extra `watchdog` is not installed.
    """
    machine = machine or Machine()
    folder = Folder(path)
    shown = _status(folder)
    beat = read_beat(path)
    state = _state(folder)
    fund = state.fund if state is not None else str(shown.get("fund", ""))
    config = state.config if state is not None else str(shown.get("config", ""))
    reader = LeaseFile(path, fund=fund, config=config, machine=machine)
    permit = reader.now()
    alive = shown.get("boot") == machine.boot() and machine.uptime() - float(shown.get("uptime", 0)) < 5
    try:
        Halts(path).read()
        record = ""
    except AgentFundError as error:
        record = str(error)
    return {
        "fund": fund,
        "config": config,
        "level": int(permit.level),
        "means": WORDS[permit.level],
        "reason": permit.reason,
        "lease": permit.lease,
        "lease_left_s": round(reader.left(), 2),
        "withheld": shown.get("withheld", "") if alive else "",
        "watchdog": "alive" if alive else "not running",
        "watchdog_pid": shown.get("pid") if alive else None,
        "record": record or "whole",
        "state": "whole" if state is not None else "missing or not signed by the watchdog",
        "causes": [cause.to_json() for cause in reader.causes],
        "heartbeat": None
        if beat is None
        else {
            "stage": beat.pulse.stage,
            "age_s": round(machine.uptime() - beat.uptime, 1) if beat.boot == machine.boot() else None,
            "pid": beat.pid,
            "cycle": beat.pulse.cycle,
            "acts_at_level": beat.pulse.level,
            "sees_lease": beat.pulse.lease,
        },
        "equity": shown.get("equity"),
        "peak": shown.get("peak"),
        "day_equity": shown.get("day_equity"),
        "caps": shown.get("caps"),
        "looked": shown.get("time"),
        "findings": shown.get("findings", []),
        "pending": shown.get("pending", []),
        "hands": shown.get("hands", []),
        "now": SystemClock().now().isoformat(),
    }


def _status(folder: Folder) -> dict[str, Any]:
    try:
        told = json.loads(folder.status.read_bytes())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _state(folder: Folder) -> State | None:
    try:
        return State.read(folder.state.read_bytes(), verifier(folder.public("watchdog")))
    except OSError:
        return None
