"""The body of `agentfund audit`: which factory is meant, and what is said of it. Printing is the command line's."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentfund.core.orchestrator import Orchestrator
from agentfund.errors import AgentFundError, ConfigError
from agentfund.loading import named, thing
from agentfund.strategies import DonchianBreakout, RsiReversion, SmaCross, Strategy

if TYPE_CHECKING:
    from agentfund.backtest.audits.audit import Audit
    from agentfund.backtest.audits.traces import Make
    from agentfund.feeds.history import Bars
    from agentfund.protocols import Feed

SHIPPED: Mapping[str, Make] = {
    "sma": lambda bars: _each(SmaCross, bars),
    "rsi": lambda bars: _each(RsiReversion, bars),
    "donchian": lambda bars: _each(DonchianBreakout, bars),
}
"""Strategies by the names under which the command line knows them."""


def _each(kind: type[Strategy], feed: Feed) -> Any:
    names = [instrument.symbol for instrument in feed.instruments]
    return kind() if len(names) == 1 else {symbol: kind() for symbol in names}


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
    if not named(what):
        raise ConfigError(f"{what!r} names no factory: give {', '.join(known)}, module:name, or file.py:name")
    found = thing(what)
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


def told(found: Audit, what: str, bars: Bars) -> str:
    """Return what an audit came to, for people: what was audited, on what, and every finding in three or four lines."""
    sizes = ", ".join(f"{len(each):,} bars of {symbol}" for symbol, each in bars.columns.items())
    return f"{what} on {sizes}\n{found}"


def exit_code(found: Audit) -> int:
    """Return 0 where something was tested and nothing found, else 1."""
    return 0 if found.clean else 1
