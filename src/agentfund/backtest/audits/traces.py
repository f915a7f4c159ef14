"""What a factory's strategy, agents or function decide on given data."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.backtest.audits.funds import as_fund, of_fund
from agentfund.backtest.audits.futures import At, World
from agentfund.backtest.audits.signals import is_strategy, signals, stepped
from agentfund.backtest.audits.tracks import STEPPED, Key, Trace, Track
from agentfund.brokers.paper import PaperBroker
from agentfund.buses.memory import MemoryBus
from agentfund.core.orchestrator import Orchestrator
from agentfund.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentfund.feeds.history import Bars
    from agentfund.protocols import Broker

Make = Callable[..., Any]
"""Gets the data and gives what is audited."""


class WrongShape(ConfigError):
    """A factory gave what does not fit the bars."""


def trace(
    make: Make,
    world: World,
    *,
    until: int | None = None,
    at: At = "close",
    deep: bool = True,
    broker: Callable[[], Broker] = PaperBroker,
    ask: bool = False,
) -> Trace:
    """Run a factory and what it gives.

    Args:
        make: the factory.
        world: the data that it gets.
        until: last moment of interest; a fund is not run beyond it, although the data go on.
        at: when a decision about a bar is made; only for arrays.
        deep: whether rule strategies, which are computed over whole arrays, are also run bar by bar and in a fund.
        broker: makes the broker of a fund.
        ask: whether language models may be asked.

    Raises:
        ConfigError: the factory gave something that cannot be audited, or would ask language models.
    """
    made = _called(make, world)
    if isinstance(made, Mapping) and not made:
        return Trace(universe=())
    fund = as_fund(made)
    given = list(made.values()) if isinstance(made, Mapping) else [made]
    if at == "open" and (fund is not None or all(map(is_strategy, given))):
        raise ConfigError('at="open" is for factories that give an array; agents decide at the close of a bar')
    if fund is not None:
        if fund.pipeline.routers and not ask:
            raise ConfigError(
                "the agents would ask language models about every bar of every run: give the factory their rule twins"
                " (no llm), or a scripted language model and ask=True"
            )
        return of_fund(fund, world.bars, until, broker)
    if is_strategy(made):
        only = made.symbol or next(iter(world.bars.columns))
        return _of_strategies({only: made}, world.bars, None, until, deep, broker)
    if isinstance(made, Mapping) and all(map(is_strategy, made.values())):
        return _of_strategies(made, world.bars, tuple(made), until, deep, broker)
    return _of_arrays(made, world.bars, at)


def _called(make: Make, world: World) -> Any:
    """Call a factory, with the facts where it takes them."""
    if world.facts is None:
        return make(world.bars)
    try:
        taken = inspect.signature(make).parameters
    except (TypeError, ValueError):  # a builtin says nothing of itself
        return make(world.bars)
    if "facts" in taken and taken["facts"].kind is not inspect.Parameter.POSITIONAL_ONLY:
        return make(world.bars, facts=world.facts)
    needed = [p for p in taken.values() if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return make(world.bars, world.facts) if len(needed) > 1 else make(world.bars)


# -- arrays ---------------------------------------------------------------------------------------------------------


def _of_arrays(made: Any, bars: Bars, at: At) -> Trace:
    if hasattr(made, "to_dict") and hasattr(made, "columns"):  # a frame of pandas: a column for each instrument
        made = {str(name): made[name] for name in made.columns}
    given = made if isinstance(made, Mapping) else {next(iter(bars.columns)): made}
    if not isinstance(made, Mapping) and len(bars.columns) > 1:
        raise WrongShape(f"make gave one row of values for {len(bars.columns)} instruments: give a mapping by symbol")
    found = Trace(universe=None)
    for symbol, values in given.items():
        if symbol not in bars.columns:
            raise WrongShape(f"make gave values for {symbol!r}, of which there are no bars; there is {', '.join(bars.columns)}")
        columns = bars.columns[symbol]
        times = columns.start if at == "open" else columns.ends
        found.tracks[Key("make", "position", symbol)] = Track(times, _row(values, symbol, len(columns)))
    return found


def _row(values: Any, symbol: str, count: int) -> NDArray[Any]:
    row = np.asarray(values)
    if row.ndim != 1 or row.dtype.kind not in "biufOU":
        raise WrongShape(
            f"make gave {type(values).__name__} of shape {row.shape} for {symbol}: give a Strategy, a list of agents, an"
            " Orchestrator, a mapping of strategies by symbol, or one number per bar"
        )
    if len(row) != count:
        raise WrongShape(
            f"make gave {len(row):,} values for {count:,} bars of {symbol}: give one per bar, NaN where there is none"
        )
    if row.dtype.kind in "OU":
        return np.array(["" if value is None or value != value else str(value) for value in row.tolist()], dtype=object)
    return row.copy()


# -- strategies -----------------------------------------------------------------------------------------------------


def _of_strategies(
    strategies: Mapping[str, Any],
    bars: Bars,
    universe: tuple[str, ...] | None,
    until: int | None,
    deep: bool,
    broker: Callable[[], Broker],
) -> Trace:
    found = Trace(universe=universe)
    for symbol, strategy in strategies.items():
        if symbol not in bars.columns:
            raise WrongShape(f"make chose {symbol!r}, of which there are no bars; there is {', '.join(bars.columns)}")
        columns = bars.columns[symbol]
        for name, (values, rounding) in signals(strategy, columns).items():
            found.tracks[Key(strategy.name, name, symbol)] = Track(columns.ends, values, rounding)
        if not deep and Key(strategy.name, "enter", symbol) in found.tracks:
            continue
        if strategy.elementwise:
            count = len(columns) if until is None else columns.closed_by(until)
            for name, (values, _) in stepped(strategy, columns, count).items():
                found.tracks[Key(strategy.name, name + STEPPED, symbol)] = Track(columns.ends[:count], values)
        placed = strategy if len(strategies) == 1 else _placed(strategy, symbol)
        run = of_fund(Orchestrator([placed], bus=MemoryBus()), bars, until, broker)
        found.tracks |= run.tracks
        found.fills += run.fills
    return found


def _placed(strategy: Any, symbol: str) -> Any:
    """Return a copy of a strategy for one instrument, as an agent of a fund of its own."""
    made = copy.copy(strategy)
    made.symbol = symbol
    made.name = f"{strategy.name} {symbol}"
    return made
