"""Every run that was tried on some data: who picks the best of many must know of how many."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agentfund.backtest.chain import Chain
from agentfund.backtest.deflated import moments
from agentfund.backtest.metrics import total_return
from agentfund.clock import SystemClock, from_micros
from agentfund.errors import BadData, ConfigError
from agentfund.messages import stable_id

if TYPE_CHECKING:
    from os import PathLike

    from agentfund.market import Columns, Floats
    from agentfund.protocols import Clock

Source = Literal["backtest", "sweep", "walk-forward"]
_TIMES = ("start", "end", "time")


@dataclass(frozen=True, slots=True)
class Trial:
    """One run on some data, and what it came to.

    Args:
        name: what was run, for people.
        described: agents or strategy with all parameters and settings, as JSON values.
        symbols: what it traded or watched.
        origin: where the data came from, in words.
        data: fingerprint of the exact bars.
        start: start of the first bar, aware UTC.
        end: close of the last bar, aware UTC.
        bars: number of bar returns.
        bars_per_year: how many bars the calendar has in a year.
        sharpe: Sharpe ratio of one bar, not annualised; None where every bar had the same return, as without any trade.
        skewness: of the bar returns.
        kurtosis: of the bar returns; 3 for a normal distribution.
        total_return: final equity / capital - 1.
        source: what made it.
        time: when it was recorded, aware UTC; the ledger fills it in.
    """

    name: str
    described: Mapping[str, Any] = field(hash=False)
    symbols: tuple[str, ...]
    origin: str
    data: str
    start: datetime
    end: datetime
    bars: int
    bars_per_year: float | None
    sharpe: float | None
    skewness: float
    kurtosis: float
    total_return: float | None
    source: Source = "backtest"
    time: datetime | None = None

    @classmethod
    def of(
        cls,
        name: str,
        described: Mapping[str, Any],
        origin: str,
        columns: Mapping[str, Columns],
        bar_returns: Floats,
        *,
        data: str,
        bars_per_year: float | None,
        total: float | None = None,
        source: Source = "backtest",
    ) -> Trial:
        """Make the trial of a run from what every run has.

        Args:
            name: what was run, for people.
            described: all that the result depends on besides the data, as JSON values.
            origin: where the data came from, in words; `History.source` says it.
            columns: the bars that it saw, by symbol.
            bar_returns: simple returns of its bars.
            data: fingerprint of the exact bars; `Bars.fingerprint` says it.
            bars_per_year: how many bars the calendar has in a year.
            total: final equity / capital - 1; made of the returns where it is not given.
            source: what made it.
        """
        known = moments(bar_returns)
        series = list(columns.values())
        if total is None:
            total = total_return(1.0, math.prod((1.0 + bar_returns).tolist())).value
        return cls(
            name,
            described,
            tuple(columns),
            origin,
            data,
            from_micros(min(int(column.start[0]) for column in series)),
            from_micros(max(int(column.ends[-1]) for column in series)),
            known.bars,
            bars_per_year,
            known.sharpe,
            known.skewness,
            known.kurtosis,
            total,
            source,
        )

    @property
    def id(self) -> str:
        """A hash of what was run and on which bars: the same run again has the same one."""
        return stable_id(json.dumps(self.described, sort_keys=True, default=str), self.data, self.symbols)

    @property
    def dataset(self) -> str:
        """A hash of the symbols and of where the data came from; trials with the same one tried their luck together."""
        return dataset(self.symbols, self.origin)

    @property
    def draw(self) -> tuple[str, float]:
        """What makes it another trial than one before: another run, or the same one with another result."""
        return self.id, round(self.sharpe or 0.0, 9)

    def sharpe_in(self, bars_per_year: float | None) -> float:
        """Return its Sharpe ratio in bars of which a year has so many, by the square root of time; 0 where it has none."""
        if not self.bars_per_year or not bars_per_year:
            return self.sharpe or 0.0
        return (self.sharpe or 0.0) * math.sqrt(self.bars_per_year / bars_per_year)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        told = {name: getattr(self, name) for name in self.__slots__}
        times = {name: told[name].isoformat() if told[name] else None for name in _TIMES}
        return {**told, **times, "symbols": list(self.symbols), "described": dict(self.described)}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Trial:
        """Make it again from what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is not what `to_json` gave.
        """
        times = {name: datetime.fromisoformat(told[name]) if told[name] else None for name in _TIMES}
        return cls(**{**told, **times, "symbols": tuple(told["symbols"])})


def dataset(symbols: Iterable[str], origin: str) -> str:
    """Return what groups trials: a hash of the symbols, in any order, and of where the data came from."""
    return stable_id("dataset", *sorted(symbols), origin)[:16]


class TrialLedger:
    """An append-only record of every run tried, in a file of JSON lines or in memory.

    Each line holds the hash of the one before, and a small file beside the ledger (`.head`) holds the number of lines and the
    hash of the newest: a line that was removed or edited is an error that names it. Threads and processes may append at the
    same time; a trial is on the disk when `add` returns. What a crash left of a last line is cut off and noted.

    Two rules decide what counts:

    - Trials belong together when they tried the same symbols from the same source, whatever the span or the length of a
      bar. The ledger does not see that another file holds the same prices, nor that another instrument moves alike.
    - The same run on the same bars with the same result counts once. The same run with another result (a language model
      answered otherwise) counts again, because one could choose.

    Args:
        path: the file, made with the first trial; None keeps the trials in memory.
        clock: where the time of a record comes from.

    Raises:
        BadData: a line was removed, edited or cannot be read; names the file, the line and the fix.
        ConfigError: the file cannot be read or written.
    """

    def __init__(self, path: str | PathLike[str] | None = None, *, clock: Clock | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._clock = clock or SystemClock()
        self._chain = Chain(self.path)
        self._guard = threading.Lock()
        self._rows: list[Trial] = []
        self._first: dict[tuple[str, float], Trial] = {}
        self._times = Counter[tuple[str, float]]()
        self._notes: list[str] = []
        self._refresh()

    def __len__(self) -> int:
        return self.count()

    def __repr__(self) -> str:
        return f"<TrialLedger of {len(self)} trials in {self.path or 'memory'}>"

    def add(self, trial: Trial) -> Trial:
        """Record a run, also one that was recorded before; return it with the time at which it was."""
        return self.extend((trial,))[0]

    def extend(self, trials: Iterable[Trial]) -> tuple[Trial, ...]:
        """Record many runs at once, as a sweep makes them: one write, one wait for the disk."""
        now = self._clock.now()
        stamped = tuple(trial if trial.time else replace(trial, time=now) for trial in trials)
        for number, trial in enumerate(stamped):
            figures = (trial.sharpe, trial.skewness, trial.kurtosis, trial.total_return, trial.bars_per_year)
            if any(figure is not None and not math.isfinite(figure) for figure in figures):
                raise ConfigError(f"trial {number} ({trial.name}): a figure is not finite; give None where there is none")
        with self._guard:
            self._take(self._chain.append([{"trial": trial.to_json()} for trial in stamped]))
        return stamped

    @property
    def runs(self) -> tuple[Trial, ...]:
        """Every run in the order in which it was recorded, repeats among them."""
        self._refresh()
        return tuple(self._rows)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about the file, one sentence each: lines that a crash had torn, a lost `.head`."""
        self._refresh()
        return (*self._notes, *self._chain.doubts)

    def trials(self, fingerprint: str | None = None) -> tuple[Trial, ...]:
        """Return the different trials, oldest first.

        Args:
            fingerprint: only those of this dataset (`Trial.dataset`) or of exactly these bars (`Trial.data`); None for all.
        """
        self._refresh()
        found = self._first.values()
        return tuple(trial for trial in found if fingerprint in (None, trial.dataset, trial.data))

    def count(self, fingerprint: str | None = None) -> int:
        """Return how many different trials there are; arguments as in `trials`."""
        return len(self.trials(fingerprint))

    def repeats(self, trial: Trial) -> int:
        """Return how often this run was recorded with this result."""
        self._refresh()
        return self._times[trial.draw]

    def _refresh(self) -> None:
        with self._guard:
            self._take(self._chain.read())

    def _take(self, lines: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        for number, line in lines:
            if "note" in line:
                self._notes.append(str(line["note"]))
                continue
            try:
                trial = Trial.from_json(line["trial"])
            except (KeyError, TypeError, ValueError) as error:
                raise BadData(f"{self.path}, line {number}: not a trial ({error}); {_FIX}") from error
            self._rows.append(trial)
            self._first.setdefault(trial.draw, trial)
            self._times[trial.draw] += 1


_FIX = "restore the file from a copy, or begin a new ledger"
