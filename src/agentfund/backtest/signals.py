"""The array form of a rule strategy: at which bars of a whole series it would enter, and leave."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.core.safety import BOUNDS
from agentfund.core.waking import rare
from agentfund.errors import ConfigError, LookaheadError
from agentfund.indicators import values
from agentfund.strategies.strategy import FIELDS, Now, Strategy
from agentfund.trading import Direction

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from agentfund.core.agent import Agent
    from agentfund.core.waking import Due
    from agentfund.market import Columns, Floats, Market
    from agentfund.trading import Portfolio

_SAMPLES = 16


class NotElementwise(ConfigError):
    """A condition is written for one bar at a time, so a whole series cannot be done at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    """What a strategy would do at the close of each bar, if it held nothing, or something.

    Args:
        enter: whether it would enter, for each bar.
        leave: whether it would leave, for each bar.
        stops: distance of the stop in percent: one for all bars, or one for each.
        targets: distance of the target in percent, NaN for none; as `stops`.
    """

    enter: NDArray[np.bool_]
    leave: NDArray[np.bool_]
    stops: Floats
    targets: Floats

    @property
    def entries(self) -> NDArray[np.int64]:
        """Bars at which it would enter, rising."""
        return np.flatnonzero(self.enter)

    def stop_at(self, bars: NDArray[np.int64]) -> Floats:
        """Return the distances of stops at some bars."""
        return np.full(len(bars), self.stops[0]) if len(self.stops) == 1 else self.stops[bars]

    def target_at(self, bars: NDArray[np.int64]) -> Floats:
        """Return the distances of targets at some bars."""
        return np.full(len(bars), self.targets[0]) if len(self.targets) == 1 else self.targets[bars]


def looked_at(strategy: Strategy, columns: Columns, compiled: bool | None = None) -> dict[str, Any]:
    """Return the strategy's indicators over whole columns, by name.

    Raises:
        ConfigError: an indicator has the name of a field of a bar.
    """
    indicators = strategy.indicators()
    if taken := [name for name in indicators if name in FIELDS]:
        raise ConfigError(f"{strategy.name}: an indicator cannot be called {taken[0]!r}, that is a field of every bar")
    return values(indicators, columns, compiled)


def signals(strategy: Strategy, columns: Columns, looked: Mapping[str, Any], own: bool | None = None) -> Signals:
    """Return all signals of a series at once.

    A strategy that is not one of agentfund's own is asked again bar by bar at some bars, so that a condition which mixes
    bars (a shift, a maximum of the whole series) is found out.

    Args:
        strategy: whose conditions are elementwise.
        columns: the bars.
        looked: its indicators, from `looked_at`.
        own: what `ours` says of it, where that is known.

    Raises:
        NotElementwise: a condition is written for one bar at a time.
        LookaheadError: a condition says something else of a bar when it sees the other bars too.
        ConfigError: a condition gives no truth values.
    """
    n = len(columns)
    now = Now({name: getattr(columns, name) for name in FIELDS} | dict(looked))
    try:
        enter, leave = strategy.enter(now), strategy.leave(now)
        stops, targets = strategy.stop(now), strategy.target(now)
    except (ValueError, TypeError, AttributeError) as error:
        raise NotElementwise(f"{strategy.name}: a condition cannot be taken over a whole series at once ({error})") from error
    entering, leaving = _truths(strategy, "enter", enter, n), _truths(strategy, "leave", leave, n)
    stop, target = _bounded(strategy, "stop", stops, n), _bounded(strategy, "target", targets, n)
    if not (ours(strategy) if own is None else own):
        _compare(strategy, columns, looked, entering, leaving)
    due = awake(strategy, n)
    # A stop or target that is no number is no proposal.
    bad = ~np.isfinite(np.asarray(stops, np.float64)) | np.isinf(np.asarray(targets, np.float64))
    if bad.any():
        entering = entering & ~bad
    if due is not None:
        entering, leaving = entering & due, leaving & due
    return Signals(entering, leaving, stop, target)


def ours(strategy: Strategy) -> bool:
    """Whether strategy and indicators are agentfund's own, of which tests know that they see no future."""
    inside = [strategy, *strategy.indicators().values()]
    return all(type(each).__module__.startswith(("agentfund.strategies.", "agentfund.indicators.")) for each in inside)


def awake(strategy: Strategy, n: int) -> NDArray[np.bool_] | None:
    """Return at which bars a strategy is asked; None for all."""
    return None if strategy.every == 1 else (np.arange(1, n + 1) % strategy.every) == 0


def _truths(strategy: Strategy, what: str, given: Any, n: int) -> NDArray[np.bool_]:
    array = np.asarray(given)
    if array.dtype != np.bool_ or array.shape not in ((), (n,)):
        raise ConfigError(
            f"{strategy.name}: {what} must give truth values, one for each bar; it gives {array.dtype} of shape {array.shape}."
            " Compare with < or >, and combine with & and |"
        )
    return array if array.shape else np.full(n, array)


def _bounded(strategy: Strategy, what: str, given: Any, n: int) -> Floats:
    low, high = BOUNDS[f"{what}_pct"]
    array = np.asarray(given, dtype=np.float64)
    if array.shape not in ((), (n,)):
        raise ConfigError(f"{strategy.name}: {what} must give one number for each bar, not an array of shape {array.shape}")
    return np.minimum(np.maximum(np.atleast_1d(array), low), high)


def at_bar(columns: Columns, looked: Mapping[str, Any], bar: int) -> Now:
    """Return what a strategy sees at the close of one bar."""
    seen: dict[str, Any] = {name: float(getattr(columns, name)[bar]) for name in FIELDS}
    for name, each in looked.items():
        kind: Any = type(each)
        seen[name] = kind(*(float(part[bar]) for part in each)) if isinstance(each, tuple) else float(each[bar])
    return Now(seen)


def _compare(
    strategy: Strategy, columns: Columns, looked: Mapping[str, Any], enter: NDArray[np.bool_], leave: NDArray[np.bool_]
) -> None:
    n = len(columns)
    signalled = np.flatnonzero(enter)
    bars = {*np.linspace(0, n - 1, min(n, _SAMPLES)).astype(int).tolist()}
    bars.update(signalled[:: max(1, len(signalled) // _SAMPLES)].tolist())
    for bar in sorted(bars):
        now = at_bar(columns, looked, bar)
        for what, whole, alone in (("enter", enter[bar], strategy.enter(now)), ("leave", leave[bar], strategy.leave(now))):
            if bool(alone) is not bool(whole):
                raise LookaheadError(
                    f"{strategy.name}: {what} says {bool(whole)} of bar {bar} when it sees the whole series and {bool(alone)}"
                    " when it sees that bar alone, so it mixes bars."
                    " Put what looks back into an indicator, such as Lag(SMA(20))"
                )


def wakes(agents: Iterable[Agent[Any]], history: Mapping[str, Columns]) -> dict[str, Due]:
    """Return for rule strategies, by name, at which bars of a history they have anything to say.

    It only tells where to stop: what a strategy says there it says from the bars up to there. A strategy with indicators
    that are not agentfund's own is asked at every bar, because nothing says that their two forms agree.
    """
    found: dict[str, Due] = {}
    for agent in agents:
        if not isinstance(agent, Strategy) or not agent.elementwise or rare(agent):
            continue
        if any(getattr(type(agent), name) is not getattr(Strategy, name) for name in ("run", "rule")):
            continue
        symbol = agent.symbol or next(iter(history))
        own = all(type(each).__module__.startswith("agentfund.indicators.") for each in agent.indicators().values())
        if not own or symbol not in history or (not agent.symbol and len(history) > 1):
            continue
        with suppress(Exception):  # it only saves time; what is wrong is found when the strategy is asked
            columns = history[symbol]
            each = signals(agent, columns, looked_at(agent, columns))
            found[agent.name] = _due(symbol, each.enter, each.leave)
    return found


def _due(symbol: str, enter: NDArray[np.bool_], leave: NDArray[np.bool_]) -> Due:
    entering, leaving = np.ascontiguousarray(enter).data, np.ascontiguousarray(leave).data

    def due(market: Market, cycle: int, portfolio: Portfolio) -> bool:
        if symbol not in market.updated:
            return False
        bar = len(market[symbol]) - 1
        return bool(entering[bar] if portfolio.direction(symbol) is Direction.FLAT else leaving[bar])

    return due
