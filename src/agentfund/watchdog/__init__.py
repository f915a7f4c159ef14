"""A process of its own that can stop a fund, and that no agent can stop. Names are loaded when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentfund.watchdog.caps import Caps as Caps
    from agentfund.watchdog.chain import BrokenRecord as BrokenRecord
    from agentfund.watchdog.chain import Cause as Cause
    from agentfund.watchdog.halts import Halts as Halts
    from agentfund.watchdog.hands import Hands as Hands
    from agentfund.watchdog.heart import Beat as Beat
    from agentfund.watchdog.heart import Heart as Heart
    from agentfund.watchdog.heart import read_beat as read_beat
    from agentfund.watchdog.lease_file import LeaseFile as LeaseFile
    from agentfund.watchdog.machine import Machine as Machine
    from agentfund.watchdog.reading import LogBook as LogBook
    from agentfund.watchdog.reading import LogReader as LogReader
    from agentfund.watchdog.state import make_folder as make_folder
    from agentfund.watchdog.watch import Watchdog as Watchdog

_HOMES = {
    "Beat": "heart",
    "BrokenRecord": "chain",
    "Caps": "caps",
    "Cause": "chain",
    "Halts": "halts",
    "Hands": "hands",
    "Heart": "heart",
    "LeaseFile": "lease_file",
    "LogBook": "reading",
    "LogReader": "reading",
    "Machine": "machine",
    "Watchdog": "watch",
    "make_folder": "state",
    "read_beat": "heart",
}

__all__ = [
    "Beat",
    "BrokenRecord",
    "Caps",
    "Cause",
    "Halts",
    "Hands",
    "Heart",
    "LeaseFile",
    "LogBook",
    "LogReader",
    "Machine",
    "Watchdog",
    "make_folder",
    "read_beat",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
