"""Sources of market data: one file for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentfund.feeds.history import Bars
    from agentfund.feeds.simulated import SimulatedMarket

__all__ = ["Bars", "SimulatedMarket"]


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that a program that needs one feed does not pay for the others.
    if name == "Bars":
        from agentfund.feeds.history import Bars

        return Bars
    if name == "SimulatedMarket":
        from agentfund.feeds.simulated import SimulatedMarket

        return SimulatedMarket
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
