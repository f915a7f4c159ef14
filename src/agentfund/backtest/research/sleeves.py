"""A sleeve of a portfolio: one agent or strategy on its own market, reduced to how its capital grew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from agentfund.clock import from_micros
from agentfund.errors import BadData, ConfigError
from agentfund.strategies import Strategy

if TYPE_CHECKING:
    import pandas as pd

    from agentfund.backtest.report import Report
    from agentfund.backtest.result import Result
    from agentfund.brokers.paper import PaperBroker
    from agentfund.core.gate import Limits
    from agentfund.core.sizing import Sizing
    from agentfund.feeds import Bars
    from agentfund.market import Floats, Micros

_QUIET = timedelta(days=10) // timedelta(microseconds=1)
_DAY = timedelta(days=1) // timedelta(microseconds=1)


class HasCurve(Protocol):
    """Anything with an equity curve, such as the result of a walk-forward."""

    @property
    def cash(self) -> float:
        """Capital at the beginning."""
        ...

    @property
    def begin(self) -> int:
        """Moment before the first return, microseconds since 1970 UTC."""
        ...

    @property
    def ends(self) -> Micros:
        """Moments, microseconds since 1970 UTC, strictly rising."""
        ...

    @property
    def equity(self) -> Floats:
        """Equity at these moments."""
        ...


Source: TypeAlias = "Strategy | Mapping[str, Strategy] | Report | Result | HasCurve | pd.Series[float]"


@dataclass(frozen=True, slots=True)
class Sleeve:
    """One part of a mix.

    Args:
        name: what it is called in results.
        source: a strategy, or one for each symbol (they are simulated on `bars`); the report of a fund's backtest; the
            result of `simulate` or of a walk-forward; or simple returns as a pandas Series by time (aware).
        bars: the data, for strategies.
        broker: a paper broker, of which cash, costs and limits are taken, for strategies.
        sizing: how much is traded, for strategies.
        limits: hard limits, for strategies.

    Raises:
        ConfigError: a strategy has no bars, or bars are given for something else.
    """

    name: str
    source: Source
    bars: Bars | None = None
    broker: PaperBroker | None = None
    sizing: Sizing | None = None
    limits: Limits | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("a sleeve needs a name")
        ruled = isinstance(self.source, Strategy | Mapping)
        if ruled and self.bars is None:
            raise ConfigError(f"sleeve {self.name!r} is a strategy, so it needs bars: Sleeve({self.name!r}, strategy, bars)")
        if not ruled and self.bars is not None:
            raise ConfigError(f"sleeve {self.name!r} has its result already; leave out the bars")

    def growth(self) -> Growth:
        """Return how its capital grew; strategies are simulated.

        Raises:
            ConfigError: the source is none that a mix knows.
            BadData: a series of returns cannot be used.
        """
        source: Any = self.source
        if isinstance(source, Strategy | Mapping):
            from agentfund.backtest.lanes import simulate

            assert self.bars is not None
            source = simulate(source, self.bars, self.broker, sizing=self.sizing, limits=self.limits)
        if hasattr(source, "curve") and hasattr(source, "book"):  # a fund's report
            begin = min(int(each.start[0]) for each in source.columns.values())
            return _grown(self.name, begin, source.curve.ends, source.curve.equity, float(source.cash), source.currency)
        if hasattr(source, "ends") and hasattr(source, "equity"):
            begin = source.begin if hasattr(source, "begin") else min(int(c.start[0]) for c in source.columns.values())
            columns = list(getattr(source, "columns", {}).values())
            currency = columns[0].instrument.currency if columns else getattr(source, "currency", "")
            return _grown(self.name, int(begin), source.ends, source.equity, float(source.cash), currency)
        if hasattr(source, "index") and hasattr(source, "to_numpy"):
            return _of_series(self.name, source)
        raise ConfigError(
            f"sleeve {self.name!r}: {type(source).__name__} is none of a strategy, a report, a result with an equity curve,"
            " or a pandas Series of returns"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Growth:
    """How capital grew.

    Args:
        name: of the sleeve.
        begin: when it was 1, microseconds since 1970 UTC.
        ends: moments after that, strictly rising.
        level: capital at these moments, 1 at `begin`.
        currency: what it is counted in; empty where that is not known.
    """

    name: str
    begin: int
    ends: Micros
    level: Floats
    currency: str = ""

    def at(self, moments: Micros) -> Floats:
        """Return the last known level at each moment, 1 before the first."""
        found = self.ends.searchsorted(moments, side="right") - 1
        known: Floats = np.where(found >= 0, self.level[np.maximum(found, 0)], 1.0)
        return known

    def runs(self, now: int) -> bool:
        """Whether it still runs at a moment, by the bars up to then."""
        known = self.ends[: int(self.ends.searchsorted(now, side="right"))]
        if len(known) < 2:
            return True
        return now - int(known[-1]) <= max(_QUIET, 3 * int(np.diff(known).max()))


def _grown(name: str, begin: int, ends: Micros, equity: Floats, cash: float, currency: str) -> Growth:
    if not len(ends) or not cash > 0:
        raise ConfigError(f"sleeve {name!r} has no bar or no capital, so there is nothing to mix")
    return Growth(name, begin, ends, equity / cash, currency)


def _of_series(name: str, series: pd.Series[float]) -> Growth:
    """Return the growth of a series of simple returns."""
    import pandas as pd

    index = series.index
    if not isinstance(index, pd.DatetimeIndex) or index.tz is None:
        raise BadData(f"sleeve {name!r}: returns need an index of aware times; use returns.tz_localize('UTC')")
    if not len(index):
        raise BadData(f"sleeve {name!r}: there is no return")
    ends = index.tz_convert("UTC").as_unit("us").asi8.astype(np.int64)
    values = series.to_numpy(dtype=np.float64)
    if len(wrong := np.flatnonzero(np.diff(ends) <= 0)):
        raise BadData(f"sleeve {name!r}, row {wrong[0] + 1}: times must rise; sort them, and leave out repeated ones")
    if len(wrong := np.flatnonzero(~np.isfinite(values) | (values < -1))):
        raise BadData(
            f"sleeve {name!r}, row {wrong[0]} ({from_micros(int(ends[wrong[0]])).isoformat()}): {values[wrong[0]]} is no simple"
            " return (0.01 is one percent, -1 is all); correct it where it comes from"
        )
    # The first return is over the time before it, which is taken to be as long as the next one.
    step = int(ends[1] - ends[0]) if len(ends) > 1 else _DAY
    return Growth(name, int(ends[0]) - step, ends, np.cumprod(1.0 + values))
