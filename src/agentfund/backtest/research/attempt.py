"""One trial: a strategy with one set of parameters on one span of bars, and what came of it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from agentfund.backtest import metrics as m
from agentfund.backtest.deflated import Moments
from agentfund.clock import from_micros
from agentfund.errors import ConfigError
from agentfund.secrets import scrub

if TYPE_CHECKING:
    from agentfund.backtest.lanes import Lane
    from agentfund.backtest.research.grid import Parameters
    from agentfund.backtest.result import Result
    from agentfund.core.gate import Limits
    from agentfund.core.sizing import Sizing
    from agentfund.feeds import Bars
    from agentfund.indicators import AnyIndicator
    from agentfund.market import Columns, Floats
    from agentfund.strategies import Strategy
    from agentfund.trading import Costs

MakeStrategy: TypeAlias = "Callable[..., Strategy | Mapping[str, Strategy]]"
"""A strategy's class, or a function that takes the parameters by name and returns a strategy, or one for each symbol."""

_SPANS_KEPT = 8
_KEPT_BYTES = 256 * 2**20
_NOTHING = Moments(0, None, 0.0, 3.0)


@dataclass(frozen=True, slots=True)
class Setting:
    """What all trials of a sweep share; it goes to each worker once.

    Args:
        make: gives the strategy.
        columns: the bars by symbol.
        source: where they came from, in words.
        cash: capital at the beginning.
        costs: what trading costs.
        broker: the paper broker's other settings.
        sizing: how much is traded.
        limits: hard limits.
        lane: which engine, as for `simulate`.
        rows: most returns that are kept of each trial; with more bars several share a row.
        compiled: whether to run in machine code, as for `simulate`; the results are the same.
    """

    make: MakeStrategy
    columns: dict[str, Columns]
    source: str
    cash: Decimal
    costs: Costs
    broker: dict[str, Decimal]
    sizing: Sizing
    limits: Limits
    lane: Lane
    rows: int
    compiled: bool | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """What one trial is to do; moments are closes of bars, microseconds since 1970 UTC.

    Args:
        parameters: what the strategy is made with.
        after: bars up to this close are left out; None for none.
        until: bars after this close are left out; None for none.
        since: the strategy sees earlier bars, but decides and is measured only after this close; what it still holds at the
            end is sold there.
        rows: most returns that are kept, where it is not what the setting says.
    """

    parameters: Parameters
    after: int | None = None
    until: int | None = None
    since: int | None = None
    rows: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """What came of one trial.

    Args:
        parameters: what the strategy was made with.
        metrics: figures by name, None for what is not known; empty where the trial failed.
        reasons: why a figure is None, by name.
        returns: simple returns, one for each row of the sweep; several bars share a row where there are many.
        equity: equity at the end of each row.
        trades: round trips.
        longest: bars that the longest of them was held.
        refused: entries that were not ordered, by the reason.
        moments: of the returns of single bars, which the deflated Sharpe ratio needs.
        per_year: bars that the calendar has in a year, None where no time passed.
        start: start of the first bar that was measured, microseconds since 1970 UTC.
        end: close of the last one.
        described: what was run, as JSON values.
        data: fingerprint of the bars.
        error: why it failed; empty where it did not.
        lasting: whether the failure is the strategy's own, so that trying again is of no use.
    """

    parameters: Parameters
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    returns: Floats = field(default_factory=lambda: np.empty(0))
    equity: Floats = field(default_factory=lambda: np.empty(0))
    trades: int = 0
    longest: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    moments: Moments = _NOTHING
    per_year: float | None = None
    start: int = 0
    end: int = 0
    described: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""
    error: str = ""
    lasting: bool = True

    @property
    def ok(self) -> bool:
        """Whether it came to an end."""
        return not self.error


class Bench:
    """Where trials are run one after the other: holds the bars, and what indicators gave on them."""

    def __init__(self, setting: Setting) -> None:
        from agentfund.brokers.paper import PaperBroker
        from agentfund.feeds import Bars
        from agentfund.market import read_only

        # Arrays that came from another process can be written to; as they are nobody else's, they need no copy.
        for column in setting.columns.values():
            arrays = {name: getattr(column, name) for name in ("start", "open", "high", "low", "close", "volume")}
            read_only(arrays if column.end is None else {**arrays, "end": column.end})
        self._setting = setting
        self._bars = Bars(setting.columns, source=setting.source)
        self._broker = PaperBroker(
            setting.cash, costs=setting.costs, **{name: float(value) for name, value in setting.broker.items()}
        )
        self._spans: OrderedDict[tuple[int | None, int | None], tuple[Bars, Looked]] = OrderedDict()

    def run(self, task: Task) -> Attempt:
        """Run a trial; what goes wrong in it is in the result."""
        try:
            return summary(task, self._result(task), self._setting)
        except Exception as error:
            text = scrub(f"{type(error).__name__}: {error}")
            # These tell of the machine, not of the strategy: the same trial may work another day.
            return Attempt(task.parameters, error=text, lasting=not isinstance(error, MemoryError | OSError | ImportError))

    def _result(self, task: Task) -> Result:
        from agentfund.backtest.lanes import simulate
        from agentfund.backtest.research.later import later
        from agentfund.strategies import Strategy

        setting = self._setting
        made = setting.make(**task.parameters)
        if not isinstance(made, Strategy | Mapping):
            raise ConfigError(f"{setting.make!r} gave {made!r}, which is no strategy")
        if task.since is not None:
            since = task.since
            made = later(made, since) if isinstance(made, Strategy) else {s: later(each, since) for s, each in made.items()}
        bars, looked = self._span(task.after, task.until)
        single = made if isinstance(made, Strategy) and len(bars.columns) == 1 else None
        return simulate(
            made,
            bars,
            self._broker,
            sizing=setting.sizing,
            limits=setting.limits,
            lane=setting.lane,
            compiled=setting.compiled,
            looked=None if single is None else looked.at(single, next(iter(bars.columns.values())), setting.compiled),
        )

    def _span(self, after: int | None, until: int | None) -> tuple[Bars, Looked]:
        """Return the bars of a span and what was computed on them; the last few spans are kept."""
        key = (after, until)
        if key not in self._spans:
            begin, end = (None if moment is None else from_micros(moment) for moment in key)
            bars = self._bars if begin is None and end is None else self._bars.between(begin, end)
            self._spans[key] = (bars, Looked())
            if len(self._spans) > _SPANS_KEPT:
                self._spans.popitem(last=False)
        self._spans.move_to_end(key)
        return self._spans[key]


class Looked:
    """What indicators gave on one series: one that many trials share is computed once."""

    def __init__(self) -> None:
        self._known: OrderedDict[AnyIndicator, Any] = OrderedDict()
        self._size = 0

    def at(self, strategy: Strategy, columns: Columns, compiled: bool | None) -> dict[str, Any] | None:
        """Return a strategy's indicators by name; None where one has a name that it cannot have."""
        from agentfund.indicators import values
        from agentfund.strategies.strategy import FIELDS

        indicators = strategy.indicators()
        if any(name in FIELDS for name in indicators):
            return None
        unknown = {name: each for name, each in indicators.items() if each not in self._known}
        for name, arrays in values(unknown, columns, compiled).items():
            self._known[unknown[name]] = arrays
            self._size += _bytes(arrays)
        found = {name: self._known[each] for name, each in indicators.items()}
        for each in indicators.values():
            self._known.move_to_end(each)
        while self._size > _KEPT_BYTES and len(self._known) > 1:
            self._size -= _bytes(self._known.popitem(last=False)[1])
        return found


def _bytes(array: Any) -> int:
    return sum(map(_bytes, array)) if isinstance(array, tuple) else int(array.nbytes)


def summary(task: Task, result: Result, setting: Setting) -> Attempt:
    """Return what a sweep keeps of a result; of one with `since`, what came after that close."""
    trades, equity, begin = result.trades, result.equity, min(int(each.start[0]) for each in result.columns.values())
    figures: dict[str, m.Metric] = result.metrics
    span = result.span
    if task.since is not None:
        first = int(result.ends.searchsorted(task.since, side="right"))
        begin, equity = task.since, equity[first:].copy()
        equity[-1:] -= _leaving(result, setting.costs)
        span = from_micros(int(result.ends[-1])) - from_micros(begin)
        figures = m.of_curve(equity, result.cash, span)
    kept = rows_of(len(equity), task.rows or setting.rows)
    levels = np.concatenate([[result.cash], equity[kept]])
    per_year = m.bars_per_year(len(equity), span).value
    return Attempt(
        task.parameters,
        metrics={name: figure.value for name, figure in figures.items()},
        reasons={name: figure.reason for name, figure in figures.items() if figure.reason},
        returns=ratios(levels),
        equity=equity[kept],
        trades=len(trades),
        longest=int((trades.exit_bar - trades.entry_bar).max()) if len(trades) else 0,
        refused=_refused(result),
        moments=_moments(equity, figures, per_year),
        per_year=per_year,
        start=begin,
        end=int(result.ends[-1]),
        described=result.described,
        data=result.fingerprint,
    )


def _moments(equity: Floats, figures: Mapping[str, m.Metric], per_year: float | None) -> Moments:
    """Return what the deflated Sharpe ratio needs; it is counted in bars, the figures are annualised."""
    count = max(0, len(equity) - 1)
    if count and not equity.min() > m.NOTHING and len(broke := np.flatnonzero(equity <= m.NOTHING)):
        count = int(broke[0])
    sharpe, skew, tails = (figures[name].value for name in ("sharpe", "skewness", "kurtosis"))
    own = None if sharpe is None or per_year is None else sharpe / math.sqrt(per_year)
    return Moments(count, own, skew or 0.0, 3.0 if tails is None else tails)


def _refused(result: Result) -> dict[str, int]:
    from agentfund.backtest.walk import DENIALS

    counts = np.bincount(result.refusals[2], minlength=len(DENIALS)).tolist()
    return {reason: count for reason, count in zip(DENIALS, counts, strict=True) if count}


def halted(attempts: Sequence[Attempt], limits: Limits) -> list[str]:
    """Say where a limit ended trading for good, because results then tell of the limit, not of the parameters."""
    count = sum("drawdown" in each.refused for each in attempts)
    if not count:
        return []
    return [
        f"in {count:,} of {len(attempts):,} trials the limit of drawdown ({limits.max_drawdown_pct:g} %) refused entries, and a"
        " fund that stays below it trades no more; limits=Limits(max_drawdown_pct=100) shows the strategy without it"
    ]


def _leaving(result: Result, costs: Costs) -> float:
    """Return what it costs to sell what is still held at the last close."""
    trades = result.trades
    held = ~trades.closed
    worth = trades.quantity[held] * trades.exit_price[held]
    edge = (costs.half_spread_bps + costs.slippage_bps) / 1e4
    return float((worth * edge + np.maximum(worth * costs.commission_bps / 1e4, costs.commission_min)).sum())


@lru_cache(maxsize=8)
def rows_of(bars: int, rows: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the last bar of each row, where at most `rows` rows share the bars evenly; the last row may be shorter."""
    step = max(1, -(-bars // rows))
    found = np.append(np.arange(step - 1, bars - 1, step), bars - 1) if bars else np.empty(0, np.int64)
    found.flags.writeable = False  # the next trial is given the same one
    return found


def ratios(levels: Floats) -> Floats:
    """Return levels[t] / levels[t-1] - 1, and zero once nothing is left."""
    before = levels[:-1]
    alive = np.minimum.accumulate(before) > m.NOTHING
    return np.where(alive, levels[1:] / np.where(alive, before, 1.0) - 1.0, 0.0)


def checked(make: object) -> MakeStrategy:
    """Return what makes strategies.

    Raises:
        ConfigError: it is a strategy already, or nothing that can be called.
    """
    from agentfund.strategies import Strategy

    if not callable(make) or isinstance(make, Strategy):
        raise ConfigError(
            f"a sweep needs a strategy's class or a function that returns strategies, not {make!r}:"
            ' write Sweep(SmaCross, {"fast": [5, 10], "slow": [50]}, bars)'
        )
    return make
