"""Many trials that share a setting: shared out to workers, kept in a file, counted in a ledger."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from agentfund import compiled as machine
from agentfund.backtest.audits.signals import causal
from agentfund.backtest.metrics import bars_per_year
from agentfund.backtest.research.attempt import Attempt, Bench, MakeStrategy, Setting, Task, checked
from agentfund.backtest.research.crew import alone, shared_out
from agentfund.backtest.research.fingerprints import fingerprint
from agentfund.backtest.research.sweep_store import SweepStore
from agentfund.backtest.signals import ours
from agentfund.clock import from_micros
from agentfund.errors import ConfigError, LookaheadError
from agentfund.messages import stable_id
from agentfund.strategies import Strategy
from agentfund.version import __version__

if TYPE_CHECKING:
    from agentfund.backtest.lanes import Lane
    from agentfund.backtest.research.processes import Start
    from agentfund.backtest.trials import Source, Trial, TrialLedger
    from agentfund.brokers.paper import PaperBroker
    from agentfund.core.gate import Limits
    from agentfund.core.sizing import Sizing
    from agentfund.feeds import Bars

On: TypeAlias = Literal["processes", "ray", "here"]
Progress: TypeAlias = Callable[[int, int], None]
"""Called with (trials done, trials in all)."""

_log = logging.getLogger("agentfund")

ROWS = 5_000
_FEW = 256


class Campaign:
    """What a sweep and a walk-forward have in common.

    Args:
        make: gives the strategy.
        bars: the data.
        broker: a paper broker, of which cash, costs and limits are taken; None for one with its defaults.
        sizing: how much is traded; None for the defaults.
        limits: hard limits; None for the defaults.
        lane: which engine, as for `simulate`.
        rows: most returns that are kept of a trial.
        source: what the ledger is told.
    """

    def __init__(
        self,
        make: MakeStrategy,
        bars: Bars,
        broker: PaperBroker | None,
        sizing: Sizing | None,
        limits: Limits | None,
        lane: Lane,
        rows: int,
        source: Source,
    ) -> None:
        from agentfund.brokers.paper import PaperBroker
        from agentfund.core.gate import Limits
        from agentfund.core.sizing import Sizing

        broker = broker or PaperBroker()
        if rows < 1:
            raise ConfigError(f"rows={rows}: at least one return is kept of each trial")
        self.bars = bars
        self.source: Source = source
        self.setting = Setting(
            make=checked(make),
            columns=dict(bars.columns),
            source=bars.source,
            cash=broker.cash,
            costs=broker.costs,
            broker=dict(broker.settings),
            sizing=sizing or Sizing(),
            limits=limits or Limits(),
            lane=lane,
            rows=rows,
        )

    @property
    def name(self) -> str:
        """What is tried, in a word."""
        return str(getattr(self.setting.make, "__name__", type(self.setting.make).__name__))

    def keys(self, tasks: Sequence[Task]) -> list[str]:
        """Return a key for each task that changes with anything its result depends on."""
        own = self.setting
        shared = stable_id(
            __version__,
            fingerprint(own.make),
            self.bars.fingerprint,
            *(repr(each.instrument) for each in own.columns.values()),
            *(repr(each) for each in (own.cash, own.costs, sorted(own.broker.items()), own.sizing, own.lane, own.rows)),
            fingerprint(own.limits),
        )
        return [
            stable_id(shared, fingerprint(dict(sorted(task.parameters.items()))), task.after, task.until, task.since, task.rows)
            for task in tasks
        ]

    def run(
        self,
        tasks: Sequence[Task],
        *,
        workers: int | None,
        on: On,
        start: Start | None,
        ledger: TrialLedger | None,
        store: SweepStore | str | Path | None,
        progress: Progress | None,
    ) -> list[Attempt]:
        """Run what is not stored yet; return all in the order of the tasks.

        Raises:
            ConfigError: the workers, the store or the strategy cannot work so.
            KeyboardInterrupt: Ctrl-C; its message says how to carry on.
        """
        if workers is not None and workers < 1:
            raise ConfigError(f"workers={workers}: it takes at least one")
        if on not in ("processes", "ray", "here"):
            raise ConfigError(f'on={on!r}: trials run on "processes", on "ray" or "here"')
        keys = self.keys(tasks)
        with nullcontext(store) if isinstance(store, SweepStore) or store is None else SweepStore(store) as book:
            found: dict[int, Attempt] = {}
            for number, (key, task) in enumerate(zip(keys, tasks, strict=True)):
                if book is not None and (kept := book.get(key, task.parameters)) is not None:
                    found[number] = kept
            missing = [number for number in range(len(tasks)) if number not in found]
            tell = progress or _silent
            try:
                tell(len(found), len(tasks))
                for ended in self._work([tasks[number] for number in missing], workers, on, start):
                    done = {missing[at]: attempt for at, attempt in ended}
                    if book is not None:
                        book.add((keys[number], attempt) for number, attempt in done.items())
                    found |= done
                    tell(len(found), len(tasks))
            except KeyboardInterrupt:
                # It may have come between writing and counting, so what is kept is read again.
                done_so_far = len(found) if book is None else book.holds(keys)
                raise KeyboardInterrupt(_how_to_go_on(done_so_far, len(tasks), book)) from None
            finally:
                if ledger is not None:
                    ledger.extend(self._counted(found[number]) for number in sorted(found) if found[number].ok)
        return [found[number] for number in range(len(tasks))]

    def _work(
        self, tasks: Sequence[Task], workers: int | None, on: On, start: Start | None
    ) -> Iterator[list[tuple[int, Attempt]]]:
        if not tasks:
            return iter(())
        work = len(tasks) * sum(map(len, self.setting.columns.values()))
        setting = replace(self.setting, compiled=machine.worth(work))
        if on == "here":
            return alone(setting, tasks)
        if on == "ray":
            from agentfund.backtest.research.cluster import Cluster

            cluster = Cluster(setting, workers)
            return shared_out(cluster, workers or cluster.size, tasks)
        from agentfund.backtest.research.processes import Processes, cores

        if setting.compiled:
            _warm_up(setting, tasks)
        return shared_out(Processes(setting, start), workers or cores(), tasks)

    def sharpes(self, ledger: TrialLedger) -> tuple[float, ...]:
        """Return the Sharpe ratio, of one bar of these bars, of every trial that the ledger knows on this data."""
        from agentfund.backtest.trades import time_axis
        from agentfund.backtest.trials import dataset

        axis = time_axis(self.bars.columns)
        first = min(int(each.start[0]) for each in self.bars.columns.values())
        per_year = bars_per_year(len(axis), from_micros(int(axis[-1])) - from_micros(first)).value
        known = ledger.trials(dataset(self.bars.columns, self.bars.source))
        return tuple(trial.sharpe_in(per_year) for trial in known)

    def _counted(self, attempt: Attempt) -> Trial:
        """Return what the ledger is told of a trial."""
        from agentfund.backtest.trials import Trial

        known = attempt.moments
        return Trial(
            name=self.name,
            described=attempt.described,
            symbols=tuple(self.setting.columns),
            origin=self.setting.source,
            data=attempt.data,
            start=from_micros(attempt.start),
            end=from_micros(attempt.end),
            bars=known.bars,
            bars_per_year=attempt.per_year,
            sharpe=known.sharpe,
            skewness=known.skewness,
            kurtosis=known.kurtosis,
            total_return=attempt.metrics.get("total_return"),
            source=self.source,
        )


def _warm_up(setting: Setting, tasks: Sequence[Task]) -> None:
    """Load the compiled functions once, so that forked workers have them."""
    symbol, column = next(iter(setting.columns.items()))
    few = replace(
        column, **{name: getattr(column, name)[:_FEW] for name in ("start", "open", "high", "low", "close", "volume")}
    )
    few = replace(few, end=None if column.end is None else column.end[:_FEW])
    Bench(replace(setting, columns={symbol: few})).run(replace(tasks[0], after=None, until=None))


def _silent(done: int, total: int) -> None:
    """Tell nobody."""


def _how_to_go_on(done: int, total: int, book: SweepStore | None) -> str:
    if book is None:
        return (
            f"stopped after {done:,} of {total:,} trials; nothing is kept."
            ' With run(store="sweep.jsonl") a sweep can be stopped and carried on.'
        )
    return f"stopped after {done:,} of {total:,} trials; they are kept in {book.path}. Run the same again to do the rest."


def opened(trials: Any) -> TrialLedger | None:
    """Return a ledger of trials: itself, or the one in a file."""
    from agentfund.backtest.trials import TrialLedger

    return trials if trials is None or isinstance(trials, TrialLedger) else TrialLedger(trials)


def trusted(make: MakeStrategy, parameters: Mapping[str, Any], bars: Bars) -> None:
    """Check once, before many trials share its indicators, that a strategy of one's own sees no future.

    Raises:
        LookaheadError: it does; names the indicator or condition and the bar.
    """
    try:
        made = make(**parameters)
    except Exception:  # a trial that cannot be made is a row of the result
        return
    each = made if isinstance(made, Mapping) else dict.fromkeys(list(bars.columns)[:1], made)
    for symbol, strategy in each.items():
        if isinstance(strategy, Strategy) and strategy.elementwise and not ours(strategy) and symbol in bars.columns:
            try:
                causal(strategy, bars.columns[symbol])
            except LookaheadError:
                raise
            except Exception:  # what is written for one bar at a time is run so, and what fails is a row of the result
                _log.debug("%s could not be checked for look-ahead", strategy.name, exc_info=True)
