"""Walk-forward: parameters are chosen on one window and traded on the next, so that every trade is out of sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from agentfund.backtest.research.attempt import Attempt, MakeStrategy, Task, halted
from agentfund.backtest.research.campaign import Campaign, On, Progress, opened, trusted
from agentfund.backtest.research.grid import combinations
from agentfund.backtest.research.progress import shown
from agentfund.backtest.research.sweep_result import LOWER
from agentfund.backtest.research.sweep_store import SweepStore
from agentfund.backtest.research.walkforward_result import Piece, WalkForwardResult
from agentfund.backtest.trades import time_axis
from agentfund.errors import ConfigError

if TYPE_CHECKING:
    from agentfund.backtest.lanes import Lane
    from agentfund.backtest.research.processes import Start
    from agentfund.backtest.trials import TrialLedger
    from agentfund.brokers.paper import PaperBroker
    from agentfund.core.gate import Limits
    from agentfund.core.sizing import Sizing
    from agentfund.feeds import Bars
    from agentfund.market import Micros

Length: TypeAlias = int | timedelta
"""A number of bars, or a time."""

_MICRO = timedelta(microseconds=1)
_ALL = 2**31


@dataclass(frozen=True, slots=True)
class Window:
    """One step, as places on the axis of closes: training is [train, gap), then a gap, and the test is [test, end)."""

    train: int
    gap: int
    test: int
    end: int


class WalkForward:
    """Chooses parameters on a training window, trades the following test window with them, and walks on.

    In each training window every combination is tried, and the best by `by` is chosen. In the test window its indicators
    have seen the earlier bars, but it decides nothing before the window begins, and what it still holds at the end is sold
    at the last close, with costs. The pieces make one equity curve: each begins with what the one before left.

    Nothing of a test window is known when its parameters are chosen: training ends with the last close before it, or
    `purge` bars earlier. Let that be no less than the longest trade, so that no trade of the one reaches into what the other
    is measured on.

    Args:
        make: a strategy's class, or a function that takes the parameters by name and returns a strategy.
        grid: values to try by name of the parameter.
        bars: the data.
        train: length of a training window: a number of bars (closes of any instrument), or a time.
        test: length of a test window.
        step: from one test window to the next; `test` where it is left out, and never less.
        anchored: whether training always begins with the first bar, so that it grows.
        purge: bars that are left out between training and test.
        by: the figure by which parameters are chosen.
        broker: a paper broker, of which cash, costs and limits are taken.
        sizing: how much is traded.
        limits: hard limits.
        where: says of a combination whether it is meant.
        lane: which engine, as for `simulate`.

    Raises:
        ConfigError: an argument cannot work, or the bars are too few for one window.
    """

    def __init__(
        self,
        make: MakeStrategy,
        grid: Mapping[str, Iterable[Any]],
        bars: Bars,
        *,
        train: Length,
        test: Length,
        step: Length | None = None,
        anchored: bool = False,
        purge: int = 0,
        by: str = "sharpe",
        broker: PaperBroker | None = None,
        sizing: Sizing | None = None,
        limits: Limits | None = None,
        where: Callable[[dict[str, Any]], bool] | None = None,
        lane: Lane = "auto",
    ) -> None:
        self.combinations = combinations(grid, where)
        self.by, self.purge = by, purge
        self._axis = time_axis(bars.columns)
        begin = min(int(each.start[0]) for each in bars.columns.values())
        self.windows = windows(self._axis, begin, train, test, step, anchored, purge)
        self._campaign = Campaign(make, bars, broker, sizing, limits, lane, 1, "walk-forward")
        trusted(make, self.combinations[0], bars)

    def __repr__(self) -> str:
        return f"<WalkForward of {self._campaign.name}: {len(self.windows):,} windows, {len(self.combinations):,} combinations>"

    def run(
        self,
        workers: int | None = None,
        on: On = "processes",
        *,
        trials: TrialLedger | str | Path | None = None,
        store: str | Path | None = None,
        progress: Progress | bool = False,
        start: Start | None = None,
    ) -> WalkForwardResult:
        """Run what is not stored yet; arguments and errors are those of `Sweep.run`.

        Raises:
            ConfigError: workers, store or strategy cannot work so, or every trial of a window failed.
            BadData: the store is damaged; names file and line.
            MissingExtra: Ray was asked for and is not installed.
        """
        training = [
            Task(each, self._before(window.train), self._before(window.gap), rows=1)
            for window in self.windows
            for each in self.combinations
        ]
        total = len(training) + len(self.windows)
        ledger = opened(trials)
        watched = shown(f"{self._campaign.name}, trials") if progress is True else nullcontext(progress or None)
        with watched as tell, SweepStore(store) if store is not None else nullcontext(None) as book:

            def run(tasks: list[Task], before: int) -> list[Attempt]:
                moved = None if tell is None else lambda done, _: tell(before + done, total)
                return self._campaign.run(tasks, workers=workers, on=on, start=start, ledger=ledger, store=book, progress=moved)

            tried = run(training, 0)
            chosen = [self._chosen(tried, number) for number in range(len(self.windows))]
            testing = [
                Task(each.parameters, self._before(w.train), self._before(w.end), self._before(w.test), rows=_ALL)
                for w, each in zip(self.windows, chosen, strict=True)
                if each is not None
            ]
            tested = iter(run(testing, len(training)))
        pieces = [
            self._piece(w, each, None if each is None else next(tested)) for w, each in zip(self.windows, chosen, strict=True)
        ]
        return self._result(pieces, tried)

    def _before(self, place: int) -> int | None:
        """Return the close before a place on the axis; None before the first."""
        return int(self._axis[place - 1]) if place else None

    def _chosen(self, tried: list[Attempt], number: int) -> Attempt | None:
        """Return the best training trial of a window; None where no combination has the figure, as without any trade."""
        size = len(self.combinations)
        mine = tried[number * size : (number + 1) * size]
        done = [each for each in mine if each.ok]
        if not done:
            raise ConfigError(f"window {number}: every training trial failed, the first one so: {mine[0].error}")
        if self.by not in done[0].metrics:
            raise ConfigError(f"by={self.by!r}: there is {', '.join(sorted(done[0].metrics))}")
        sign = 1.0 if self.by in LOWER else -1.0
        known = [each for each in done if each.metrics[self.by] is not None]
        return min(known, key=lambda each: sign * (each.metrics[self.by] or 0.0)) if known else None

    def _piece(self, window: Window, inside: Attempt | None, outside: Attempt | None) -> Piece:
        if outside is not None and not outside.ok:
            raise ConfigError(f"a test window failed with {dict(outside.parameters)}: {outside.error}")
        ends = self._axis[window.test : window.end]
        cash = float(self._campaign.setting.cash)
        return Piece(
            train_begin=self._begin(window.train),
            train_end=int(self._axis[window.gap - 1]),
            begin=int(self._axis[window.test - 1]),
            ends=ends,
            growth=np.ones(len(ends)) if outside is None else outside.equity / cash,
            inside=inside,
            outside=outside,
        )

    def _begin(self, place: int) -> int:
        first = min(int(each.start[0]) for each in self._campaign.setting.columns.values())
        return int(self._axis[place - 1]) if place else first

    def _result(self, pieces: list[Piece], tried: list[Attempt]) -> WalkForwardResult:
        setting, level, curves = self._campaign.setting, 1.0, []
        for piece in pieces:
            curves.append(level * piece.growth)
            level = max(0.0, float(curves[-1][-1]))
        told = [*self._campaign.bars.warnings, *halted(tried, setting.limits)]
        longest = max((piece.inside.longest for piece in pieces if piece.inside is not None), default=0)
        if longest > self.purge:
            told.append(f"the longest trade in training took {longest:,} bars, purge={self.purge} leaves out fewer")
        if failed := sum(not each.ok for each in tried):
            told.append(f"{failed:,} of {len(tried):,} training trials failed")
        return WalkForwardResult(
            name=self._campaign.name,
            symbols=tuple(setting.columns),
            source=setting.source,
            cash=float(setting.cash),
            costs=str(setting.costs),
            by=self.by,
            begin=pieces[0].begin,
            ends=np.concatenate([piece.ends for piece in pieces]),
            equity=float(setting.cash) * np.concatenate(curves),
            pieces=tuple(pieces),
            tried=len(tried),
            currency=next(iter(setting.columns.values())).instrument.currency,
            warnings=tuple(told),
        )


def windows(
    axis: Micros, begin: int, train: Length, test: Length, step: Length | None, anchored: bool, purge: int
) -> tuple[Window, ...]:
    """Return the windows of a walk; the last test window may be shorter. Test windows without a bar are left out.

    Args:
        axis: closes of bars, microseconds since 1970 UTC, strictly rising.
        begin: start of the first bar.
        train: length of a training window.
        test: length of a test window.
        step: from one test window to the next.
        anchored: whether training always begins with the first bar.
        purge: bars between training and test.

    Raises:
        ConfigError: a length cannot work, or there is no room for one window.
    """
    step = test if step is None else step
    for name, length in (("train", train), ("test", test), ("step", step)):
        if not _above_zero(length):
            raise ConfigError(f"{name}={length!r}: give a number of bars, or a time, above zero")
    if isinstance(purge, bool) or not isinstance(purge, int) or purge < 0:
        raise ConfigError(f"purge={purge!r}: give a number of bars, zero or more")
    if len({type(length) for length in (train, test, step)}) > 1:
        raise ConfigError("train, test and step are all numbers of bars, or all times")
    if step < test:  # type: ignore[operator]  # both are of one type, as was just checked
        raise ConfigError(f"step={step} is shorter than test={test}: test windows would overlap, and have no one equity curve")

    def moved(place: Length, length: Length) -> Any:
        return place + length  # type: ignore[operator]

    def index(place: Any) -> int:
        """Return how many bars have closed at a place: a number of bars, or a time since the beginning."""
        return (
            min(place, len(axis)) if isinstance(place, int) else int(axis.searchsorted(begin + place // _MICRO, side="right"))
        )

    found, place = [], moved(train, purge) if isinstance(train, int) else train
    while index(place) < len(axis):
        first, end = index(place), index(moved(place, test))
        gap = first - purge
        start = 0 if anchored else max(0, gap - train) if isinstance(train, int) else index(place - train)
        if end > first and gap - start >= 2:
            found.append(Window(start, gap, first, end))
        place = moved(place, step)
    if not found:
        raise ConfigError(f"{len(axis):,} bars have no room for train={train}, purge={purge} and a test window behind them")
    return tuple(found)


def _above_zero(length: object) -> bool:
    if isinstance(length, timedelta):
        return length > timedelta(0)
    return isinstance(length, int) and not isinstance(length, bool) and length > 0
