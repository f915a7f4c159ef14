"""A sweep: one strategy with every combination of parameters, on one machine or a cluster, always with the same result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfund.backtest.research.attempt import Attempt, MakeStrategy, Task, halted, rows_of
from agentfund.backtest.research.campaign import ROWS, Campaign, On, Progress, opened, trusted
from agentfund.backtest.research.grid import combinations
from agentfund.backtest.research.progress import shown
from agentfund.backtest.research.sweep_result import SweepResult
from agentfund.backtest.trades import time_axis

if TYPE_CHECKING:
    from agentfund.backtest.lanes import Lane
    from agentfund.backtest.research.processes import Start
    from agentfund.backtest.trials import TrialLedger
    from agentfund.brokers.paper import PaperBroker
    from agentfund.core.gate import Limits
    from agentfund.core.sizing import Sizing
    from agentfund.feeds import Bars


class Sweep:
    """Tries every combination of parameters, each as `simulate` would.

    `Sweep(SmaCross, {"fast": [5, 10, 20], "slow": [50, 100]}, bars).run()` uses every core of this machine. A combination
    that fails is a row with its error. The result does not depend on where and on how many workers it was made.

    Args:
        make: a strategy's class, or a function that takes the parameters by name and returns a strategy, or one for each
            symbol.
        grid: values to try by name of the parameter: numbers, texts, truth values, None, timedelta, Decimal, Enum, or
            tuples of these.
        bars: the data.
        broker: a paper broker, of which cash, costs and limits are taken; one with its defaults where it is left out.
        sizing: how much is traded.
        limits: hard limits.
        where: says of a combination whether it is meant, such as `lambda p: p["fast"] < p["slow"]`.
        lane: which engine, as for `simulate`.
        rows: most returns that are kept of each trial; with more bars, several share a row.

    Raises:
        ConfigError: the grid or the strategy cannot work; names the parameter.
        LookaheadError: a strategy of one's own sees the future.
    """

    def __init__(
        self,
        make: MakeStrategy,
        grid: Mapping[str, Iterable[Any]],
        bars: Bars,
        *,
        broker: PaperBroker | None = None,
        sizing: Sizing | None = None,
        limits: Limits | None = None,
        where: Callable[[dict[str, Any]], bool] | None = None,
        lane: Lane = "auto",
        rows: int = ROWS,
    ) -> None:
        self.combinations = combinations(grid, where)
        self._campaign = Campaign(make, bars, broker, sizing, limits, lane, rows, "sweep")
        trusted(make, self.combinations[0], bars)

    def __len__(self) -> int:
        return len(self.combinations)

    def __repr__(self) -> str:
        return f"<Sweep of {self._campaign.name} over {', '.join(self.combinations[0])}: {len(self):,} combinations>"

    def run(
        self,
        workers: int | None = None,
        on: On = "processes",
        *,
        trials: TrialLedger | str | Path | None = None,
        store: str | Path | None = None,
        progress: Progress | bool = False,
        start: Start | None = None,
    ) -> SweepResult:
        """Run what is not stored yet.

        Args:
            workers: how many at once; one for each core where it is left out.
            on: "processes" on this machine, "ray" on a Ray cluster (extra `ray`), or "here", in this process.
            trials: the ledger of all trials on this data, or its file. Every trial is counted there.
            store: a file in which finished trials are kept. Run again with it, the sweep does only what is missing.
            progress: called with (trials done, trials in all), or True for a bar on stderr.
            start: how processes begin: "fork" (the default on Linux) or "spawn" (the default elsewhere). A spawned worker
                imports the strategy, so that must be in a file of its own, and a script must begin its work under
                `if __name__ == "__main__":`.

        Raises:
            ConfigError: workers, store or strategy cannot work so.
            BadData: the store is damaged; names file and line.
            MissingExtra: Ray was asked for and is not installed.
        """
        ledger = opened(trials)
        watched = shown(f"{self._campaign.name}, trials") if progress is True else nullcontext(progress or None)
        with watched as tell:
            attempts = self._campaign.run(
                [Task(each) for each in self.combinations],
                workers=workers,
                on=on,
                start=start,
                ledger=ledger,
                store=store,
                progress=tell,
            )
        return self._result(attempts, ledger)

    def _result(self, attempts: list[Attempt], ledger: TrialLedger | None) -> SweepResult:
        setting, bars = self._campaign.setting, self._campaign.bars
        axis = time_axis(bars.columns)
        return SweepResult(
            name=self._campaign.name,
            symbols=tuple(bars.columns),
            source=bars.source,
            warnings=(*bars.warnings, *halted(attempts, setting.limits)),
            bars=len(axis),
            ends=axis[rows_of(len(axis), setting.rows)],
            cash=float(setting.cash),
            costs=str(setting.costs),
            attempts=tuple(attempts),
            known=None if ledger is None else self._campaign.sharpes(ledger),
        )
