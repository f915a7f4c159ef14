"""Durable logs: one file for each, imported when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentfund.buses.memory import MemoryBus
    from agentfund.buses.sqlite import SqliteBus

_HOMES = {"MemoryBus": "memory", "SqliteBus": "sqlite"}

__all__ = ["MemoryBus", "SqliteBus"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
