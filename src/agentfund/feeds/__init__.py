"""Sources of market data: one file for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentfund.feeds.actions import Action, Actions
    from agentfund.feeds.facts import Fact, Facts, KnownFacts
    from agentfund.feeds.history import Bars
    from agentfund.feeds.masked import Masked
    from agentfund.feeds.simulated import SimulatedMarket

__all__ = ["Action", "Actions", "Bars", "Fact", "Facts", "KnownFacts", "Masked", "SimulatedMarket"]


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that a program that needs one feed does not pay for the others.
    if name == "Bars":
        from agentfund.feeds.history import Bars

        return Bars
    if name in ("Action", "Actions"):
        from agentfund.feeds import actions

        return getattr(actions, name)
    if name in ("Fact", "Facts", "KnownFacts"):
        from agentfund.feeds import facts

        return getattr(facts, name)
    if name == "Masked":
        from agentfund.feeds.masked import Masked

        return Masked
    if name == "SimulatedMarket":
        from agentfund.feeds.simulated import SimulatedMarket

        return SimulatedMarket
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
