"""What a walk-forward came to: out of sample, and how that compares with what training promised."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.backtest import metrics as m
from agentfund.backtest.research.grid import word, written
from agentfund.clock import from_micros

if TYPE_CHECKING:
    import pandas as pd

    from agentfund.backtest.research.attempt import Attempt
    from agentfund.backtest.research.grid import Parameters
    from agentfund.market import Floats, Micros

_SHOWN = (("total_return", "return"), ("cagr", "a year"), ("sharpe", "Sharpe"), ("max_drawdown", "drawdown"))


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One window. Moments are microseconds since 1970 UTC.

    Args:
        train_begin: where training began.
        train_end: the last close that training saw.
        begin: the last close before the test window.
        ends: closes of the test window.
        growth: equity at these closes, as a multiple of that at `begin`.
        inside: the training trial that was chosen; None where no combination traded.
        outside: what it came to in the test window; None where nothing was chosen.
    """

    train_begin: int
    train_end: int
    begin: int
    ends: Micros
    growth: Floats
    inside: Attempt | None
    outside: Attempt | None

    @property
    def parameters(self) -> Parameters:
        """What was chosen; empty where nothing was."""
        return {} if self.inside is None else self.inside.parameters

    @property
    def promised(self) -> float | None:
        """Return a year in training: total return / years."""
        if self.inside is None:
            return None
        return _a_year(self.inside.metrics["total_return"], self.train_end - self.train_begin)

    @property
    def kept(self) -> float | None:
        """Return a year in the test window: total return / years."""
        return _a_year(float(self.growth[-1]) - 1.0, int(self.ends[-1]) - self.begin)

    @property
    def efficiency(self) -> float | None:
        """What the test window kept of what training promised: the ratio of returns a year; None where nothing was promised.

        Source: R. Pardo, The Evaluation and Optimization of Trading Strategies, 2008 (walk-forward efficiency).
        """
        return _ratio(self.kept, self.promised)


def _a_year(total: float | None, micros: int) -> float | None:
    return None if total is None or micros <= 0 else total * (m.YEAR / timedelta(microseconds=micros))


def _ratio(kept: float | None, promised: float | None) -> float | None:
    return None if kept is None or promised is None or promised <= 0 else kept / promised


@dataclass(frozen=True, eq=False)
class WalkForwardResult:
    """What a walk-forward came to, out of sample.

    Args:
        name: what was tried.
        symbols: on which instruments.
        source: where the data came from, in words.
        cash: capital at the beginning.
        costs: what trading cost, in words.
        by: the figure by which parameters were chosen.
        begin: the last close before the first test window, microseconds since 1970 UTC.
        ends: closes of all test windows.
        equity: equity at these closes; each window begins with what the one before left.
        pieces: the windows.
        tried: training trials.
        currency: what amounts are counted in.
        warnings: what to know before believing it.
    """

    name: str
    symbols: tuple[str, ...]
    source: str
    cash: float
    costs: str
    by: str
    begin: int
    ends: Micros
    equity: Floats
    pieces: tuple[Piece, ...]
    tried: int
    currency: str
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        told = f"final equity {self.final_equity:,.2f} of {self.cash:,.2f}"
        return f"<WalkForwardResult of {self.name} on {', '.join(self.symbols)}: {len(self.pieces):,} windows, {told}>"

    @cached_property
    def figures(self) -> dict[str, m.Metric]:
        """Figures of the out-of-sample curve by name, each with the reason where there is none."""
        return m.of_curve(self.equity, self.cash, from_micros(int(self.ends[-1])) - from_micros(self.begin))

    @property
    def metrics(self) -> dict[str, float | None]:
        """Figures of the out-of-sample curve by name."""
        return {name: figure.value for name, figure in self.figures.items()}

    @property
    def returns(self) -> Floats:
        """Simple returns of the bars of all test windows but the first bar."""
        return m.returns(self.equity)

    @property
    def final_equity(self) -> float:
        """Equity at the last close."""
        return float(self.equity[-1])

    @property
    def efficiency(self) -> float | None:
        """Mean return a year of the test windows / mean return a year of the chosen training trials.

        Around 1 the test windows kept what training promised; near 0 or below, training found noise. None where training
        promised nothing.
        """
        pairs = [(p.kept, p.promised) for p in self.pieces if p.kept is not None and p.promised is not None]
        if not pairs:
            return None
        return _ratio(float(np.mean([kept for kept, _ in pairs])), float(np.mean([promised for _, promised in pairs])))

    @property
    def won(self) -> float:
        """Share of the test windows that made money."""
        return sum(float(piece.growth[-1]) > 1.0 for piece in self.pieces) / len(self.pieces)

    @property
    def kept_choice(self) -> float | None:
        """Share of the steps at which the same parameters were chosen again; None with one window."""
        pairs = list(zip(self.pieces, self.pieces[1:], strict=False))
        return sum(dict(a.parameters) == dict(b.parameters) for a, b in pairs) / len(pairs) if pairs else None

    def stability(self) -> pd.DataFrame:
        """Return for each parameter how steady its choice was: lowest, highest, most common, and how often that was chosen."""
        import pandas as pd

        rows = []
        chosen = [piece.parameters for piece in self.pieces if piece.parameters]
        for name in chosen[0] if chosen else ():
            values = [each[name] for each in chosen]
            numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
            common, count = Counter(map(word, values)).most_common(1)[0]
            low, high = (min(numbers), max(numbers)) if len(numbers) == len(values) else (None, None)
            share = count / len(values)
            rows.append({"parameter": name, "lowest": low, "highest": high, "most common": common, "share": share})
        return pd.DataFrame(rows, columns=["parameter", "lowest", "highest", "most common", "share"]).set_index("parameter")

    def frame(self) -> pd.DataFrame:
        """Return one row for each window: its times (UTC), what was chosen, and figures inside and outside."""
        import pandas as pd

        names = next((list(piece.parameters) for piece in self.pieces if piece.parameters), [])
        rows = []
        for piece in self.pieces:
            inside = piece.inside.metrics if piece.inside else {}
            outside = piece.outside.metrics if piece.outside else {}
            rows.append(
                {
                    "train_begin": from_micros(piece.train_begin),
                    "train_end": from_micros(piece.train_end),
                    "test_begin": from_micros(piece.begin),
                    "test_end": from_micros(int(piece.ends[-1])),
                    **{name: piece.parameters.get(name) for name in names},
                    f"{self.by}_inside": inside.get(self.by),
                    f"{self.by}_outside": outside.get(self.by),
                    "return_inside": inside.get("total_return"),
                    "return_outside": float(piece.growth[-1]) - 1.0,
                    "efficiency": piece.efficiency,
                    "trades": piece.outside.trades if piece.outside else 0,
                }
            )
        return pd.DataFrame(rows)

    def equity_frame(self) -> pd.DataFrame:
        """Return the out-of-sample equity by time (UTC), with the number of the window."""
        import pandas as pd

        index = pd.DatetimeIndex(self.ends.astype("datetime64[us]"), name="time").tz_localize("UTC")
        number = np.repeat(np.arange(len(self.pieces)), [len(piece.ends) for piece in self.pieces])
        return pd.DataFrame({"equity": self.equity, "window": number}, index=index)

    @property
    def sentence(self) -> str:
        """What it comes to, in one line."""
        efficiency = "n/a" if self.efficiency is None else f"{self.efficiency:.2f}"
        again = "n/a" if self.kept_choice is None else f"{self.kept_choice:.0%}"
        return (
            f"{self.won:.0%} of {len(self.pieces):,} test windows made money; efficiency {efficiency} (1 keeps what training"
            f" promised); the same parameters were chosen again in {again} of the steps"
        )

    def _rows(self) -> tuple[list[str], list[list[str]]]:
        by = self.by.replace("_", " ")
        head = [
            "test window",
            "chosen",
            f"{by} inside",
            f"{by} outside",
            "return inside",
            "return outside",
            "efficiency",
            "trades",
        ]
        rows = []
        for piece in self.pieces:
            inside = piece.inside.metrics if piece.inside else {}
            outside = piece.outside.metrics if piece.outside else {}
            rows.append(
                [
                    f"{from_micros(piece.begin):%Y-%m-%d} to {from_micros(int(piece.ends[-1])):%Y-%m-%d}",
                    written(piece.parameters) or "nothing traded",
                    _number(inside.get(self.by)),
                    _number(outside.get(self.by)),
                    _percent(inside.get("total_return")),
                    _percent(float(piece.growth[-1]) - 1.0),
                    _number(piece.efficiency),
                    f"{piece.outside.trades if piece.outside else 0:,}",
                ]
            )
        return head, rows

    def text(self) -> str:
        """Return the result as plain text."""
        head, rows = self._rows()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            f"{self.name} on {', '.join(self.symbols)}, out of sample {from_micros(self.begin):%Y-%m-%d} to"
            f" {from_micros(int(self.ends[-1])):%Y-%m-%d}: {self.cash:,.2f} became {self.final_equity:,.2f} {self.currency}",
            ", ".join(f"{title} {self._told(name)}" for name, title in _SHOWN) + f"; {self.tried:,} training trials",
        ]
        for row in (head, *rows):
            left = [part.ljust(width) for part, width in zip(row[:2], widths[:2], strict=True)]
            right = [part.rjust(width) for part, width in zip(row[2:], widths[2:], strict=True)]
            lines.append("  ".join((*left, *right)))
        lines.append(self.sentence[0].upper() + self.sentence[1:] + ".")
        lines += [f"! {sentence}" for sentence in self.warnings]
        return "\n".join(lines)

    __str__ = text

    def _told(self, name: str) -> str:
        value = self.metrics[name]
        return _number(value) if name == "sharpe" else _percent(value)

    def html(self) -> str:
        """Return one self-contained page that loads nothing: the curve, window by window, and how steady the choice was."""
        from agentfund.backtest.research import pages

        steady = self.stability()
        rest = [
            [str(name), *("" if v is None or v != v else word(v) for v in row[:3]), _percent(float(row[3]))]
            for name, row in zip(steady.index, steady.itertuples(index=False, name=None), strict=True)
        ]
        stops = np.cumsum([len(piece.ends) for piece in self.pieces]).tolist()
        spans = [(stop - len(piece.ends), stop - 1) for stop, piece in zip(stops, self.pieces, strict=True)]
        span = f"{from_micros(self.begin):%Y-%m-%d} to {from_micros(int(self.ends[-1])):%Y-%m-%d}"
        head, rows = self._rows()
        parts = [
            pages.tiles({"final equity": f"{self.final_equity:,.2f}", **{title: self._told(name) for name, title in _SHOWN}}),
            pages.card("What it comes to", f'<p class="honest">{self.sentence[0].upper()}{self.sentence[1:]}.</p>'),
            pages.card(
                "Equity, out of sample; windows in turn shaded", pages.curves(self.ends, {"equity": self.equity}, spans=spans)
            ),
            pages.card("Windows", pages.table(head, rows, left=2)),
            pages.card(
                "How steady the choice was",
                pages.table(("parameter", "lowest", "highest", "most common", "chosen"), rest, left=1),
            ),
            pages.notes("Warnings", self.warnings),
        ]
        subtitle = (
            f"{span}, out of sample, {self.source}; {self.tried:,} training trials, chosen by {self.by}. Costs: {self.costs}."
        )
        return pages.page(f"{self.name} on {', '.join(self.symbols)}: walk-forward", subtitle, parts)

    def _repr_html_(self) -> str:
        from agentfund.backtest.html import frame

        return frame(self.html(), 760)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "name": self.name,
            "symbols": list(self.symbols),
            "source": self.source,
            "cash": self.cash,
            "final_equity": self.final_equity,
            "costs": self.costs,
            "metrics": self.metrics,
            "efficiency": self.efficiency,
            "won": self.won,
            "kept_choice": self.kept_choice,
            "training_trials": self.tried,
            "windows": json.loads(self.frame().to_json(orient="records", date_format="iso")),
            "warnings": list(self.warnings),
        }

    def save(self, folder: str | Path) -> Path:
        """Write walkforward.html, .txt, .json, windows.csv and equity.csv into a folder; return the folder.

        Raises:
            ConfigError: the folder cannot be written.
        """
        from agentfund.backtest.save import save_pages

        return save_pages(self, "walkforward", folder, {"windows": self.frame(), "equity": self.equity_frame()})


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,.2f}"


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2%}"
