"""Brokers: where orders go. Each adapter is one file, and is imported only when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentfund.brokers.paper import PaperBroker

__all__ = ["PaperBroker"]


def __getattr__(name: str) -> Any:
    if name == "PaperBroker":
        from agentfund.brokers.paper import PaperBroker

        return PaperBroker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
