"""What a mix came to: the whole, and what each sleeve added to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.backtest import metrics as m
from agentfund.clock import from_micros

if TYPE_CHECKING:
    import pandas as pd

    from agentfund.backtest.research.mix import Sharing
    from agentfund.market import Floats, Micros

_SHOWN = (("sharpe", "Sharpe"), ("total_return", "return"), ("volatility", "volatility"), ("max_drawdown", "drawdown"))


@dataclass(frozen=True, eq=False)
class MixResult:
    """What a mix came to. Amounts are float64, in the account's currency.

    Args:
        names: of the sleeves.
        begin: when the capital was shared out, microseconds since 1970 UTC.
        ends: moments at which a bar of any sleeve closed, strictly rising.
        cash: capital at the beginning.
        equity: of the whole, at `ends`.
        values: what is in each sleeve, shape (moments, sleeves); the rest of equity is cash.
        levels: how each sleeve grew by itself, 1 at the beginning.
        decided: the rebalancings, the first one among them.
        contributions: what each sleeve added, after what moving its capital cost; adds up to the profit of the whole.
        costs: what moving the capital of each sleeve cost.
        allocation: how weights were made.
        rebalance: how often.
        cost_bps: what moving capital costs, in basis points.
        currency: what amounts are counted in; empty where that is not known.
        warnings: what to know before believing it.
        sampled: returns that weights were made of, shape (periods, sleeves).
    """

    names: tuple[str, ...]
    begin: int
    ends: Micros
    cash: float
    equity: Floats
    values: Floats
    levels: Floats
    decided: tuple[Sharing, ...]
    contributions: Floats
    costs: Floats
    allocation: str
    rebalance: str
    cost_bps: float
    currency: str
    warnings: tuple[str, ...]
    sampled: Floats

    def __repr__(self) -> str:
        return f"<MixResult of {', '.join(self.names)}: final equity {self.final_equity:,.2f} of {self.cash:,.2f}>"

    @property
    def span(self) -> timedelta:
        """From the first sharing out to the last close."""
        return from_micros(int(self.ends[-1])) - from_micros(self.begin)

    @property
    def final_equity(self) -> float:
        """Equity at the last close."""
        return float(self.equity[-1])

    @cached_property
    def figures(self) -> dict[str, m.Metric]:
        """Figures of the whole by name, each with the reason where there is none."""
        return m.of_curve(self.equity, self.cash, self.span)

    @property
    def metrics(self) -> dict[str, float | None]:
        """Figures of the whole by name."""
        return {name: figure.value for name, figure in self.figures.items()}

    @cached_property
    def sleeves(self) -> dict[str, dict[str, float | None]]:
        """Figures of each sleeve by itself, over the time of the mix, with its contribution, cost and mean share of equity."""
        found: dict[str, dict[str, float | None]] = {}
        whole = np.where(self.equity > m.NOTHING, self.equity, np.nan)
        for at, name in enumerate(self.names):
            own = m.of_curve(self.cash * self.levels[:, at], self.cash, self.span)
            found[name] = {
                **{key: figure.value for key, figure in own.items()},
                "contribution": float(self.contributions[at]),
                "cost": float(self.costs[at]),
                "mean_share": float(np.nanmean(self.values[:, at] / whole)) if np.isfinite(whole).any() else None,
            }
        return found

    def frame(self) -> pd.DataFrame:
        """Return equity, cash and what is in each sleeve by time (UTC)."""
        import pandas as pd

        index = pd.DatetimeIndex(self.ends.astype("datetime64[us]"), name="time").tz_localize("UTC")
        columns = {"equity": self.equity, "cash": self.equity - self.values.sum(axis=1)}
        return pd.DataFrame({**columns, **{name: self.values[:, at] for at, name in enumerate(self.names)}}, index=index)

    def weights(self) -> pd.DataFrame:
        """Return the weights of each rebalancing by the time at which they were made (UTC), and what it cost."""
        import pandas as pd

        index = pd.DatetimeIndex(np.array([each.time for each in self.decided], "datetime64[us]"), name="time").tz_localize(
            "UTC"
        )
        rows = {name: [float(each.weights[at]) for each in self.decided] for at, name in enumerate(self.names)}
        return pd.DataFrame({**rows, "cost": [each.cost for each in self.decided]}, index=index)

    def correlations(self) -> pd.DataFrame:
        """Return how the sleeves' returns move together, -1 to 1; NaN where one did not move."""
        import pandas as pd

        centred = self.sampled - self.sampled.mean(axis=0) if len(self.sampled) else np.zeros((1, len(self.names)))
        power = np.sqrt((centred**2).sum(axis=0))
        scaled = centred / np.where(power > 0, power, np.nan)
        return pd.DataFrame(scaled.T @ scaled, index=list(self.names), columns=list(self.names))

    def text(self) -> str:
        """Return the result as plain text."""
        unit = f" {self.currency}" if self.currency else ""
        lines = [
            f"{' + '.join(self.names)}: {self.allocation}, rebalanced {self._often}, {len(self.decided) - 1:,} times at"
            f" {self.cost_bps:g} bps of what is moved",
            f"{from_micros(self.begin):%Y-%m-%d} to {from_micros(int(self.ends[-1])):%Y-%m-%d}: {self.cash:,.2f} became"
            f" {self.final_equity:,.2f}{unit}",
        ]
        head = ("", *(title for _, title in _SHOWN), "mean share", "contribution", "moving cost")
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for row in (head, *rows):
            cells = [row[0].ljust(widths[0]), *(part.rjust(width) for part, width in zip(row[1:], widths[1:], strict=True))]
            lines.append("  ".join(cells).rstrip())
        lines += [f"! {sentence}" for sentence in self.warnings]
        return "\n".join(lines)

    __str__ = text

    @property
    def _often(self) -> str:
        known = {
            "day": "daily",
            "week": "weekly",
            "month": "monthly",
            "quarter": "quarterly",
            "year": "yearly",
            "never": "never",
        }
        return known.get(self.rebalance, f"every {self.rebalance}")

    def _rows(self) -> list[Sequence[str]]:
        def told(figures: dict[str, float | None]) -> list[str]:
            values = [figures[name] for name, _ in _SHOWN]
            return [
                "n/a" if v is None else f"{v:.2f}" if n == "sharpe" else f"{v:.2%}"
                for v, (n, _) in zip(values, _SHOWN, strict=True)
            ]

        rows: list[Sequence[str]] = []
        for name, figures in self.sleeves.items():
            share, gain, cost = figures["mean_share"], figures["contribution"], figures["cost"]
            rest = ["n/a" if share is None else f"{share:.1%}", f"{gain or 0:+,.2f}", f"{cost or 0:,.2f}"]
            rows.append([name, *told(figures), *rest])
        invested = self.values.sum(axis=1) / np.where(self.equity > m.NOTHING, self.equity, np.nan)
        mean = f"{float(np.nanmean(invested)):.1%}" if np.isfinite(invested).any() else "n/a"
        rows.append(
            ["total", *told(self.metrics), mean, f"{self.final_equity - self.cash:+,.2f}", f"{float(self.costs.sum()):,.2f}"]
        )
        return rows

    def html(self) -> str:
        """Return one self-contained page that loads nothing: curves, weights and what each sleeve added."""
        from agentfund.backtest.research import pages

        span = f"{from_micros(self.begin):%Y-%m-%d} to {from_micros(int(self.ends[-1])):%Y-%m-%d}"
        subtitle = f"{span}; weights: {self.allocation}; rebalanced {self._often} at {self.cost_bps:g} bps of what is moved"
        figures = {"final equity": f"{self.final_equity:,.2f} {self.currency}".strip()}
        for name, title in _SHOWN:
            value = self.metrics[name]
            figures[title] = "n/a" if value is None else f"{value:.2f}" if name == "sharpe" else f"{value:.2%}"
        lines = {"total": self.equity / self.cash, **{name: self.levels[:, at] for at, name in enumerate(self.names)}}
        whole = np.where(self.equity > m.NOTHING, self.equity, np.nan)
        shares = {name: self.values[:, at] / whole for at, name in enumerate(self.names)}
        head = ("", *(title for _, title in _SHOWN), "mean share", "contribution", "moving cost")
        rows = self._rows()
        correlations = self.correlations()
        moves = [[name, *("n/a" if v != v else f"{v:.2f}" for v in correlations.loc[name])] for name in self.names]
        parts = [
            pages.tiles(figures),
            pages.card("Growth of 1", pages.curves(self.ends, lines)),
            pages.card("Sleeves", pages.table(head, rows, left=1, chosen=len(rows) - 1)),
            pages.card("Shares of equity", pages.curves(self.ends, shares, colour=1)),
            pages.card("Correlations of returns", pages.table(("", *self.names), moves, left=1)),
            pages.notes("Warnings", self.warnings),
        ]
        return pages.page(f"Portfolio of {', '.join(self.names)}", subtitle, parts)

    def _repr_html_(self) -> str:
        from agentfund.backtest.html import frame

        return frame(self.html(), 760)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "sleeves": self.sleeves,
            "metrics": self.metrics,
            "reasons": {name: figure.reason for name, figure in self.figures.items() if figure.reason},
            "begin": from_micros(self.begin).isoformat(),
            "end": from_micros(int(self.ends[-1])).isoformat(),
            "cash": self.cash,
            "final_equity": self.final_equity,
            "currency": self.currency,
            "allocation": self.allocation,
            "rebalance": self.rebalance,
            "cost_bps": self.cost_bps,
            "rebalancings": len(self.decided) - 1,
            "warnings": list(self.warnings),
        }

    def save(self, folder: str | Path) -> Path:
        """Write mix.html, mix.txt, mix.json, equity.csv and weights.csv into a folder; return the folder.

        Raises:
            ConfigError: the folder cannot be written.
        """
        from agentfund.backtest.save import save_pages

        return save_pages(self, "mix", folder, {"equity": self.frame(), "weights": self.weights()})
