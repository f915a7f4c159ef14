"""The plain code of a recorded run: its limits, sizing, consensus, bounds and paper broker, made again from the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from agentfund.backtest.log import stated_costs
from agentfund.brokers.paper import PaperBroker
from agentfund.core.consensus import Consensus
from agentfund.core.gate import Limits
from agentfund.core.safety import BOUNDS, SafetyLimits
from agentfund.core.sizing import Sizing
from agentfund.errors import ConfigError
from agentfund.trading import Costs

if TYPE_CHECKING:
    from agentfund.messages import Started

Kind = TypeVar("Kind", Limits, Sizing, Consensus, SafetyLimits)


class Settings(NamedTuple):
    """What plain code of a fund goes by."""

    limits: Limits
    sizing: Sizing
    consensus: Consensus
    safety: SafetyLimits


def settings_of(started: Started) -> Settings:
    """Return the settings of a recorded run.

    Raises:
        ConfigError: the log holds a setting that is not known here.
    """
    told = started.settings
    return Settings(
        _made(Limits, told.get("limits", {})),
        _made(Sizing, told.get("sizing", {})),
        _made(Consensus, told.get("consensus", {})),
        _made(SafetyLimits, told.get("safety", {})),
    )


def _made(kind: type[Kind], told: Mapping[str, Any]) -> Kind:
    known = {one.name for one in fields(kind)}
    if unknown := sorted(set(told) - known):
        raise ConfigError(f"the log holds {kind.__name__}.{unknown[0]}, which this agentfund does not know: upgrade agentfund")
    given: dict[str, Any] = {name: frozenset(value) if isinstance(value, list) else value for name, value in told.items()}
    bounds: Mapping[str, Any] = told.get("bounds", {})
    if bounds:
        # A log may sort its keys. The name of a run depends on their order, which is nearly always that of the defaults.
        order = [*(name for name in BOUNDS if name in bounds), *(name for name in bounds if name not in BOUNDS)]
        given["bounds"] = {name: tuple(bounds[name]) for name in order}
    return kind(**given)


def changes(old: Settings, new: Settings) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, by name, with both values: `limits.max_positions`, `safety.bounds.stop_pct`."""
    found: dict[str, tuple[Any, Any]] = {}
    for what in Settings._fields:
        before, after = _flat(what, asdict(getattr(old, what))), _flat(what, asdict(getattr(new, what)))
        for name in {**before, **after}:
            if before.get(name) != after.get(name):
                found[name] = (before.get(name), after.get(name))
    return found


def _flat(prefix: str, told: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in told.items():
        found |= _flat(f"{prefix}.{name}", value) if isinstance(value, Mapping) else {f"{prefix}.{name}": value}
    return found


def broker_of(started: Started) -> PaperBroker:
    """Return a paper broker like the recorded run's; of a run at a real broker, one with the usual costs.

    Raises:
        ConfigError: the run had a simulated broker of another kind.
    """
    told = started.broker
    if not told.get("simulated", False):
        return PaperBroker(started.cash)
    if told.get("class") != PaperBroker.__name__:
        raise ConfigError(f"the recorded run was at a {told.get('class')}: give one like it as broker=")
    more = {name: float(value) for name, value in told.get("settings", {}).items()}
    return PaperBroker(started.cash, costs=stated_costs(told) or Costs(), **more)
