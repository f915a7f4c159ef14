"""What a sweep came to: every combination with its figures, and what the best of so many is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.backtest.deflated import Luck, expected_max_sharpe, variance_of
from agentfund.backtest.overfitting import Overfitting, overfitting
from agentfund.backtest.research.grid import word, written
from agentfund.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from agentfund.backtest.research.attempt import Attempt
    from agentfund.backtest.research.pages import Svg
    from agentfund.market import Floats, Micros

LOWER = frozenset({"max_drawdown", "max_drawdown_bars", "volatility", "turnover"})
"""Figures of which less is better."""
COLUMNS = (
    ("sharpe", "Sharpe", ""),
    ("total_return", "return", "%"),
    ("cagr", "a year", "%"),
    ("max_drawdown", "drawdown", "%"),
    ("hit_rate", "hit rate", "%"),
    ("profit_factor", "profit factor", ""),
)
"""What tables show: name, title, unit."""


@dataclass(frozen=True, eq=False)
class SweepResult:
    """What a sweep came to.

    Args:
        name: what was tried.
        symbols: on which instruments.
        source: where the data came from, in words.
        warnings: what a user should know about the data.
        bars: moments at which a bar closed.
        ends: the close of the last bar of each row of `returns`, microseconds since 1970 UTC.
        cash: capital at the beginning of each trial.
        costs: what trading cost, in words.
        attempts: the trials, in the order of the grid.
        known: Sharpe ratios of one bar of all trials that a ledger knows on this data, these among them; None without one.
    """

    name: str
    symbols: tuple[str, ...]
    source: str
    warnings: tuple[str, ...]
    bars: int
    ends: Micros
    cash: float
    costs: str
    attempts: tuple[Attempt, ...]
    known: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.attempts)

    def __repr__(self) -> str:
        failed = f", {len(self.failed):,} failed" if self.failed else ""
        return f"<SweepResult of {self.name} on {', '.join(self.symbols)}: {len(self):,} trials{failed}>"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(self.attempts[0].parameters)

    @cached_property
    def done(self) -> tuple[Attempt, ...]:
        """The trials that came to an end."""
        return tuple(each for each in self.attempts if each.ok)

    @cached_property
    def failed(self) -> tuple[Attempt, ...]:
        """The trials that did not; `error` says why."""
        return tuple(each for each in self.attempts if not each.ok)

    @cached_property
    def returns(self) -> Floats:
        """Simple returns, shape (rows, trials that came to an end); several bars share a row where there are many."""
        if not self.done:
            return np.empty((len(self.ends), 0))
        return np.stack([each.returns for each in self.done], axis=1)

    def ranked(self, by: str = "sharpe") -> tuple[Attempt, ...]:
        """Return the trials that have a figure, best first; equal ones in the order of the grid.

        Raises:
            ConfigError: no trial has a figure of that name.
        """
        names = {name for each in self.done for name in each.metrics}
        if by not in names:
            told = f"there is {', '.join(sorted(names))}" if names else "every trial failed: " + _first_errors(self.failed)
            raise ConfigError(f"no trial has a figure {by!r}; {told}")
        known = [each for each in self.done if each.metrics.get(by) is not None]
        sign = 1.0 if by in LOWER else -1.0
        return tuple(sorted(known, key=lambda each: sign * (each.metrics[by] or 0.0)))

    def best(self, by: str = "sharpe") -> Attempt:
        """Return the best trial; how good it really is, `deflated` and `overfitting` say.

        Args:
            by: a figure, such as "sharpe" or "total_return"; of "max_drawdown" and "volatility" the lowest is the best.

        Raises:
            ConfigError: no trial has that figure.
        """
        ranked = self.ranked(by)
        if not ranked:
            reasons = dict.fromkeys(each.reasons.get(by, "") for each in self.done)
            raise ConfigError(f"no trial has a {by}: {'; '.join(filter(None, reasons))}")
        return ranked[0]

    @cached_property
    def deflated(self) -> Luck | None:
        """How far the best Sharpe ratio is told from the luck of so many trials; None where there is none.

        Counted are the trials of the ledger on this data where one was given, those of this sweep otherwise.
        """
        try:
            best = self.best("sharpe")
        except ConfigError:
            return None
        sharpes = [each.moments.sharpe or 0.0 for each in self.done] if self.known is None else list(self.known)
        expected = expected_max_sharpe(len(sharpes), variance_of(sharpes, best.moments.bars))
        return Luck(best.moments, len(sharpes), True, expected, best.per_year)

    @cached_property
    def overfitting(self) -> Overfitting | None:
        """How often the best on one half of the data is a bad one on the other half; None where that cannot be told."""
        return None if self._no_split else overfitting(self.returns, self._parts)

    @property
    def _parts(self) -> int:
        """Into how many parts the rows are cut: 16, or fewer where rows are few."""
        return min(16, len(self.ends) // 4 * 2)

    @property
    def _no_split(self) -> str:
        if len(self.done) < 2:
            return "it takes two trials"
        return "" if self._parts >= 2 else "there are too few bars"

    @property
    def honest(self) -> str:
        """What the best of these trials is worth, in one line."""
        luck, split = self.deflated, self.overfitting
        tried = len(self.attempts) if luck is None else luck.trials
        figure = None if luck is None else luck.deflated.value
        told = f"best of {tried:,} trial{'s'[: tried != 1]}"
        told += f"; deflated Sharpe {'n/a' if figure is None else f'{figure:.2f}'} (0.95 tells it from luck)"
        if split is None:
            return f"{told}; probability of overfitting n/a: {self._no_split}"
        return f"{told}; probability of overfitting {split.probability:.2f} (0.50 is blind choice)"

    def frame(self) -> pd.DataFrame:
        """Return one row for each trial: parameters, figures, round trips and error, in the order of the grid."""
        import pandas as pd

        names = list(dict.fromkeys(name for each in self.done for name in each.metrics))
        rows = [
            {
                **each.parameters,
                **{name: each.metrics.get(name) for name in names if name not in each.parameters},
                "trades": each.trades if each.ok else None,
                "error": each.error,
            }
            for each in self.attempts
        ]
        return pd.DataFrame(rows).astype({name: float for name in names if name not in self.parameters})

    def returns_frame(self) -> pd.DataFrame:
        """Return `returns` as a table by time (UTC), one column for each trial that came to an end."""
        import pandas as pd

        index = pd.DatetimeIndex(self.ends.astype("datetime64[us]"), name="time").tz_localize("UTC")
        return pd.DataFrame(self.returns, index=index, columns=[written(each.parameters) for each in self.done])

    def heatmap(self, x: str | None = None, y: str | None = None, by: str = "sharpe") -> Svg:
        """Return a figure over two parameters as an SVG, which a notebook shows.

        Where there are more parameters, a cell is the median over the others: the best of them would flatter.

        Args:
            x: the parameter across; the second one that has several values.
            y: the parameter down; the first one.
            by: the figure.

        Raises:
            ConfigError: there is no such parameter or figure.
        """
        from agentfund.backtest.research.sweep_html import heatmap

        return heatmap(self, x, y, by)

    def text(self, top: int = 10, by: str = "sharpe") -> str:
        """Return the best trials and what they are worth as plain text."""
        title = f"{self.name} on {', '.join(self.symbols)}: {len(self):,} trials, {self.bars:,} bars of {self.source}"
        lines = [title, f"Costs: {self.costs}."]
        best = self.ranked(by)[:top] if self.done else ()
        if best:
            shown = [*self.parameters, *(head for _, head, _ in COLUMNS), "trades"]
            rows = [
                [word(each.parameters[name]) for name in self.parameters]
                + [cell(each.metrics.get(name), unit) for name, _, unit in COLUMNS]
                + [f"{each.trades:,}"]
                for each in best
            ]
            widths = [max(map(len, column)) for column in zip(shown, *rows, strict=True)]
            lines += ["  ".join(part.rjust(width) for part, width in zip(row, widths, strict=True)) for row in (shown, *rows)]
        lines.append(self.honest[0].upper() + self.honest[1:] + ".")
        if self.failed:
            lines.append(f"{len(self.failed):,} trials failed: {_first_errors(self.failed)}")
        lines += [f"! {sentence}" for sentence in self.warnings]
        return "\n".join(lines)

    __str__ = text

    def html(self, by: str = "sharpe") -> str:
        """Return one self-contained page that loads nothing: heat map, the best 20, and what they are worth."""
        from agentfund.backtest.research.sweep_html import page

        return page(self, by)

    def _repr_html_(self) -> str:
        from agentfund.backtest.html import frame

        return frame(self.html(), 760)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values, without the returns."""
        return {
            "name": self.name,
            "symbols": list(self.symbols),
            "source": self.source,
            "bars": self.bars,
            "cash": self.cash,
            "costs": self.costs,
            "trials": [
                {
                    "parameters": {name: _json(value) for name, value in each.parameters.items()},
                    "metrics": dict(each.metrics),
                    "trades": each.trades,
                    "error": each.error,
                }
                for each in self.attempts
            ],
            "deflated": None if self.deflated is None else self.deflated.to_json(),
            "overfitting": None if self.overfitting is None else self.overfitting.to_json(),
            "honest": self.honest,
            "warnings": list(self.warnings),
        }

    def save(self, folder: str | Path) -> Path:
        """Write sweep.html, sweep.txt, sweep.json, trials.csv and returns.csv into a folder; return the folder.

        Raises:
            ConfigError: the folder cannot be written.
        """
        from agentfund.backtest.save import save_pages

        return save_pages(self, "sweep", folder, {"trials": self.frame(), "returns": self.returns_frame()})


def cell(value: float | None, unit: str = "") -> str:
    """Return a figure as a table shows it."""
    if value is None:
        return "n/a"
    return f"{value:.2%}" if unit == "%" else f"{value:,.2f}"


def _first_errors(failed: Sequence[Attempt]) -> str:
    """Return the different kinds of errors, each with the first parameters that met it."""
    first: dict[str, Attempt] = {}
    for each in failed:
        first.setdefault(each.error.partition(":")[0], each)
    return "; ".join(f"{written(each.parameters)}: {each.error}" for each in list(first.values())[:3])


def _json(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else word(value)
