"""The body of `agentfund audit`: which factory is meant, and what is said of it. Printing is the command line's."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from agentfund.core.orchestrator import Orchestrator
from agentfund.errors import AgentFundError, ConfigError
from agentfund.strategies import DonchianBreakout, RsiReversion, SmaCross, Strategy

if TYPE_CHECKING:
    from agentfund.backtest.audits.audit import Audit
    from agentfund.backtest.audits.traces import Make
    from agentfund.feeds.history import Bars

SHIPPED: Mapping[str, Make] = {
    "sma": lambda bars: _each(SmaCross, bars),
    "rsi": lambda bars: _each(RsiReversion, bars),
    "donchian": lambda bars: _each(DonchianBreakout, bars),
}
"""Strategies by the names under which the command line knows them."""


def _each(kind: type[Strategy], bars: Bars) -> Any:
    return kind() if len(bars.columns) == 1 else {symbol: kind() for symbol in bars.columns}


def load(what: str, more: Mapping[str, Make] | None = None) -> Make:
    """Return the factory that a name on the command line means.

    Args:
        what: a name of `SHIPPED` or of `more`, `module:name`, or `file.py:name`. The thing named is a factory, or a subclass
            of `Strategy`, which is made anew for each run.
        more: further names.

    Raises:
        ConfigError: there is no such thing, or it cannot be called; says what there is.
    """
    known = {**SHIPPED, **(more or {})}
    if what in known:
        return known[what]
    where, colon, name = what.rpartition(":")
    if not colon or not where or not name:
        raise ConfigError(f"{what!r} names no factory: give {', '.join(known)}, module:name, or file.py:name")
    module = _file(Path(where)) if where.endswith(".py") else _module(where)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            there = ", ".join(_callables(module)) or "nothing that can be called"
            raise ConfigError(f"{where} has no {name!r}; it has {there}")
        found = getattr(found, part)
    if inspect.isclass(found) and issubclass(found, Strategy):
        return lambda bars: _each(found, bars)
    if isinstance(found, Strategy):
        return lambda bars: copy.copy(found)
    if isinstance(found, Orchestrator):
        raise ConfigError(f"{what} is a fund that is made already: give a function that makes a new one, def make(bars): ...")
    if not callable(found):
        raise ConfigError(f"{what} is a {type(found).__name__} and cannot be called: give a factory, def make(bars): ...")
    make: Make = found
    return make


def ran(make: Make, what: str) -> Make:
    """Return the factory so that what goes wrong in it is told with its name.

    Raises:
        ConfigError: when it is called, and fails.
    """

    def called(*given: Any) -> Any:
        try:
            return make(*given)  # with facts or without, as the caller has them
        except AgentFundError:
            raise
        except Exception as error:
            raise ConfigError(f"{what} cannot be run: {type(error).__name__}: {error}") from error

    return called


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:  # a command of its own does not look where it stands, as python -m does
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(f"there is no module {name!r} here ({here}); a file is named with .py: file.py:make") from None
        raise ConfigError(f"{name} cannot be imported: it needs {error.name}, which is not installed") from error
    except Exception as error:
        raise ConfigError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"_audited_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # so that it finds its neighbours
        sys.path.insert(0, folder)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return module


def _callables(module: ModuleType) -> list[str]:
    own = {name: thing for name, thing in vars(module).items() if not name.startswith("_") and callable(thing)}
    return [name for name, thing in own.items() if getattr(thing, "__module__", None) == module.__name__]


def told(found: Audit, what: str, bars: Bars) -> str:
    """Return what an audit came to, for people: what was audited, on what, and every finding in three or four lines."""
    sizes = ", ".join(f"{len(each):,} bars of {symbol}" for symbol, each in bars.columns.items())
    return f"{what} on {sizes}\n{found}"


def exit_code(found: Audit) -> int:
    """Return 0 where something was tested and nothing found, else 1."""
    return 0 if found.clean else 1
