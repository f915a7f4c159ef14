"""What `agentfund sweep` does: a strategy by its name, a grid as it is typed, and everything left in a folder."""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfund.backtest.research.campaign import On
from agentfund.backtest.research.grid import parsed
from agentfund.backtest.research.sweep import Sweep
from agentfund.backtest.research.sweep_result import SweepResult
from agentfund.errors import ConfigError

if TYPE_CHECKING:
    from agentfund.backtest.research.attempt import MakeStrategy
    from agentfund.brokers.paper import PaperBroker
    from agentfund.core.gate import Limits
    from agentfund.feeds import Bars

NAMES = {"sma": "SmaCross", "rsi": "RsiReversion", "donchian": "DonchianBreakout"}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"\s*(\w+)\s*(<=|>=|==|!=|<|>)\s*([\w.+-]+)\s*")


def sweep_command(
    what: str,
    bars: Bars,
    settings: Sequence[str],
    out: str | Path,
    *,
    broker: PaperBroker | None = None,
    limits: Limits | None = None,
    where: Sequence[str] = (),
    workers: int | None = None,
    on: On = "processes",
    trials: str | Path | None = None,
) -> SweepResult:
    """Run a sweep and leave page, text, tables, stored trials and the ledger in a folder. Run again, it carries on.

    Args:
        what: "sma", "rsi", "donchian", or `module:name` of a strategy's class or of a function that makes strategies.
        bars: the data.
        settings: parameters, such as `fast=5,10,20` or `slow=50:200:50` (from, to, step, both ends in).
        out: the folder.
        broker: a paper broker.
        limits: hard limits.
        where: conditions that a combination must meet, such as `fast<slow` or `slow>=60`.
        workers: how many at once; one for each core where it is left out.
        on: where trials run.
        trials: the ledger of trials; `trials.jsonl` in the folder where it is left out.

    Raises:
        ConfigError: the strategy, a setting or a condition cannot be read; says which.
    """
    grid = parsed(settings)
    conditions = [_condition(each, grid) for each in where]
    sweep = Sweep(
        strategy_named(what),
        grid,
        bars,
        broker=broker,
        limits=limits,
        where=(lambda p: all(each(p) for each in conditions)) if conditions else None,
    )
    folder = Path(out)
    result = sweep.run(workers, on, trials=trials or folder / "trials.jsonl", store=folder / "sweep.jsonl", progress=True)
    result.save(folder)
    return result


def strategy_named(what: str) -> MakeStrategy:
    """Return a strategy's class, or a function that makes strategies, by its name.

    Raises:
        ConfigError: there is none of that name; says what is there.
    """
    if what in NAMES:
        return getattr(import_module("agentfund.strategies"), NAMES[what])  # type: ignore[no-any-return]
    module, colon, name = what.partition(":")
    if not (colon and module and name):
        raise ConfigError(f"strategy {what!r}: there is {', '.join(NAMES)}, or module:name of one's own")
    if "" not in sys.path:  # what lies in the current folder can be named
        sys.path.insert(0, "")
    try:
        found = getattr(import_module(module), name)
    except ImportError as error:
        raise ConfigError(f"strategy {what!r}: {module} cannot be imported: {error}") from error
    except AttributeError:
        raise ConfigError(f"strategy {what!r}: {module} has no {name!r}") from None
    return found  # type: ignore[no-any-return]


def _condition(text: str, grid: dict[str, list[Any]]) -> Callable[[dict[str, Any]], bool]:
    """Return a comparison of a parameter with another one, or with a number."""
    match = _CONDITION.fullmatch(text)
    if match is None or match[1] not in grid:
        raise ConfigError(
            f"condition {text!r}: compare a parameter with another, or with a number: fast<slow; there is {', '.join(grid)}"
        )
    left, compare, right = match[1], _COMPARE[match[2]], match[3]
    if right in grid:
        return lambda p: compare(p[left], p[right])
    try:
        number = float(right)
    except ValueError:
        raise ConfigError(f"condition {text!r}: {right!r} is no parameter and no number; there is {', '.join(grid)}") from None
    return lambda p: compare(p[left], number)
