"""What a simulated run came to: trades as columns, the equity curve, and the figures that follow."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agentfund.backtest import metrics as m
from agentfund.backtest.trades import last_known
from agentfund.backtest.walk import DENIALS, OPEN
from agentfund.compiled import choose, jit

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

    from agentfund.backtest.metrics import Metric
    from agentfund.backtest.trades import Curve
    from agentfund.market import Columns, Floats, Micros

    Ints = NDArray[np.int64]
    Truths = NDArray[np.bool_]

# A bar of an equity curve takes about a hundredth of what a bar takes in a plain loop.
_LIGHT = 100

EXITS = ("signal", "stop", "target", "open")
"""What ends a trade, by the code in `Trades.exit`."""


@dataclass(frozen=True, slots=True, eq=False)
class Trades:
    """Trades from entry to exit, as columns of equal length, in the order of their entries.

    Args:
        symbol: position of the instrument among the result's symbols.
        decided: bar at whose close it was decided; bars count from 0 in the instrument's own series.
        entry_bar: bar in which it began.
        exit_bar: bar in which it ended; the last one where it is still held.
        sign: 1 long, -1 short.
        quantity: units.
        entry_price: price paid.
        exit_price: price got; the last close where it is still held.
        entry_fee: commission of the entry.
        exit_fee: commission of the exit.
        exit: what ended it; see `EXITS`.
        stop_pct: distance of its stop from the close that decided, in percent; NaN where that is not known.
        target_pct: distance of its target; NaN for none.
    """

    symbol: Ints
    decided: Ints
    entry_bar: Ints
    exit_bar: Ints
    sign: Floats
    quantity: Floats
    entry_price: Floats
    exit_price: Floats
    entry_fee: Floats
    exit_fee: Floats
    exit: Ints
    stop_pct: Floats
    target_pct: Floats

    def __len__(self) -> int:
        return len(self.symbol)

    @property
    def fees(self) -> Floats:
        """Commissions of both sides."""
        return self.entry_fee + self.exit_fee

    @property
    def profit(self) -> Floats:
        """Profit after all costs, in the account's currency."""
        return self.sign * (self.exit_price - self.entry_price) * self.quantity - self.fees

    @property
    def closed(self) -> Truths:
        """Whether it has ended."""
        closed: Truths = self.exit != OPEN
        return closed

    def count(self) -> dict[str, int]:
        """Return how many ended by what."""
        return {name: int((self.exit == code).sum()) for code, name in enumerate(EXITS)}


class Flows(NamedTuple):
    """What fills took from cash and brought to it, in whole units of money.

    Attributes:
        rows: rows of the time axis.
        amounts: below zero where it was paid.
        first: cash before all of them.
        unit: units in a currency unit.
    """

    rows: Ints
    amounts: Floats
    first: float
    unit: float


class Levels(NamedTuple):
    """Something that stays the same from one row of a time axis to another.

    Attributes:
        values: what it is before the first change, and after each.
        lasting: for how many rows.
    """

    values: Any
    lasting: Ints

    def spread(self) -> Any:
        """Return it at every row."""
        return np.repeat(self.values, self.lasting)


def levels(rows: Ints, steps: Floats, first: float, n: int, order: Ints | None = None) -> Levels:
    """Return a running sum that begins with a number, of steps at some of n rows; `order` sorts the rows, where it is known."""
    if order is None:
        order = rows.argsort(kind="stable")
    values, edges = np.empty(len(rows) + 1), np.empty(len(rows) + 2, np.int64)
    values[0], values[1:] = first, steps[order]
    edges[0], edges[1:-1], edges[-1] = 0, rows[order], n
    return Levels(values.cumsum(), edges[1:] - edges[:-1])


def _marked(held: Levels, cash: Levels, closes: Floats) -> Floats:
    """Return what is held at its closes, plus cash; both change in the same rows."""
    if choose(None, len(closes) // _LIGHT):
        return _compiled_marks(held.values, cash.values, held.lasting, closes)  # type: ignore[no-any-return]
    equity: Floats = held.spread()
    equity *= closes
    equity += cash.spread()
    return equity


def _marks(held: Any, cash: Any, lasting: Any, closes: Any) -> Any:
    equity = np.empty(len(closes))
    at = 0
    for k in range(len(lasting)):
        quantity, money = held[k], cash[k]
        for i in range(at, at + lasting[k]):
            equity[i] = quantity * closes[i] + money
        at += lasting[k]
    return equity


_compiled_marks = jit(_marks)


@dataclass(frozen=True, eq=False)
class Result:
    """What a run of rule strategies came to.

    Args:
        columns: the bars, by symbol.
        described: what was run: strategy, parameters, costs, sizing and limits, as JSON values.
        cash: capital at the beginning.
        ends: closes of the bars of all instruments, microseconds since 1970 UTC, strictly rising.
        trades: what was traded.
        flows: what each fill took from cash, or brought to it; None where that does not follow from whole trades.
        refusals: entries that were not ordered: rows of instruments, bars and codes.
        lane: how it was run.
        fingerprint: of the data.
        curve: equity and holdings, where they do not follow from whole trades.
    """

    columns: Mapping[str, Columns]
    described: Mapping[str, Any]
    cash: float
    ends: Micros
    trades: Trades
    flows: Flows | None
    refusals: Ints
    lane: str
    fingerprint: str
    curve: Curve | None = None

    def __repr__(self) -> str:
        return f"<Result of {', '.join(self.symbols)}: {len(self.trades)} trades, final equity {self.final_equity:,.2f}>"

    @property
    def symbols(self) -> tuple[str, ...]:
        """What was traded or watched."""
        return tuple(self.columns)

    @cached_property
    def money(self) -> Floats:
        """Cash after each bar's fills, at `ends`."""
        return np.full(len(self.ends), np.nan) if self.flows is None else self._cash.spread()

    @cached_property
    def positions(self) -> dict[str, Floats]:
        """What was held of each instrument at the close of each of its own bars, below zero for a short position."""
        return {symbol: each.spread() for symbol, each in self._held.items()}

    @cached_property
    def _order(self) -> Ints:
        """What sorts the fills by time; with one instrument these are also the steps of what is held."""
        assert self.flows is not None
        return self.flows.rows.argsort(kind="stable")

    @cached_property
    def _cash(self) -> Levels:
        assert self.flows is not None
        found = levels(self.flows.rows, self.flows.amounts, self.flows.first, len(self.ends), self._order)
        return found._replace(values=found.values / self.flows.unit)

    @cached_property
    def _held(self) -> dict[str, Levels]:
        found, t = {}, self.trades
        signed = t.sign * t.quantity
        alone = len(self.columns) == 1 and self.flows is not None
        order = self._order if alone else None
        for number, (symbol, columns) in enumerate(self.columns.items()):
            mine: Any = slice(None) if alone else t.symbol == number
            done = t.closed if alone else mine & t.closed
            rows = np.concatenate([t.entry_bar[mine], t.exit_bar[done]])
            each = levels(rows, np.concatenate([signed[mine], -signed[done]]), 0.0, len(columns), order)
            lot = float(columns.instrument.lot_size)
            # Sums of steps are whole lots again, so that nothing of a closed position is left over.
            found[symbol] = each._replace(values=np.round(each.values / lot) * lot)
        return found

    @property
    def refused(self) -> list[tuple[str, int, str]]:
        """Entries that were not ordered: instrument, bar and reason, in the order of time."""
        return [(self.symbols[i], bar, DENIALS[code]) for i, bar, code in self.refusals.T.tolist()]

    @cached_property
    def equity(self) -> Floats:
        """Cash and positions at the close of each bar, marked at the last known closes."""
        if self.curve is not None:
            return self.curve.equity
        if len(self.columns) == 1:
            (columns,) = self.columns.values()
            (held,) = self._held.values()
            return _marked(held, self._cash, columns.close)
        equity = self.money.copy()
        for symbol, columns in self.columns.items():
            value = last_known(columns, self._held[symbol].spread() * columns.close, self.ends)
            equity += np.nan_to_num(value)
        return equity

    @cached_property
    def held(self) -> Truths:
        """Whether anything was held at the close of each bar."""
        if self.curve is not None:
            return self.curve.held
        if len(self.columns) == 1:
            (levels_held,) = self._held.values()
            truths: Truths = levels_held._replace(values=levels_held.values != 0).spread()
            return truths
        held = np.zeros(len(self.ends), np.bool_)
        for symbol, columns in self.columns.items():
            held |= np.nan_to_num(last_known(columns, self._held[symbol].spread(), self.ends)) != 0
        return held

    @property
    def _exposure(self) -> Metric:
        if self.curve is not None or len(self.columns) > 1 or not len(self.ends):
            return m.exposure(self.held)
        (held,) = self._held.values()
        return m.Metric(int(held.lasting[held.values != 0].sum()) / len(self.ends))

    @property
    def span(self) -> timedelta:
        """From the start of the first bar to the close of the last."""
        return timedelta(microseconds=int(self.ends[-1] - min(int(each.start[0]) for each in self.columns.values())))

    @property
    def returns(self) -> Floats:
        """Simple returns of the bars but the first."""
        return m.returns(self.equity)

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Figures by name; a figure that cannot be known is None with the reason."""
        t, profits = self.trades, self.trades.profit[self.trades.closed]
        traded = float((t.quantity * t.entry_price).sum() + (t.quantity * t.exit_price)[t.closed].sum())
        return {
            **m.of_curve(self.equity, self.cash, self.span),
            "hit_rate": m.hit_rate(profits),
            "profit_factor": m.profit_factor(profits),
            "exposure": self._exposure,
            "turnover": m.turnover(traded, self.equity),
        }

    @property
    def final_equity(self) -> float:
        """Equity at the last close."""
        if self.flows is None or len(self.columns) > 1 or "equity" in self.__dict__:
            return float(self.equity[-1])
        (columns,) = self.columns.values()
        t, lot = self.trades, float(columns.instrument.lot_size)
        held = np.round(float((t.sign * t.quantity)[~t.closed].sum()) / lot) * lot
        return float((self.flows.first + self.flows.amounts.sum()) / self.flows.unit + held * columns.close[-1])

    @property
    def total_return(self) -> float:
        """Final equity / capital - 1."""
        return self.final_equity / self.cash - 1

    @property
    def sharpe(self) -> float | None:
        """Mean / population standard deviation of bar returns, annualised; None where it is not defined."""
        return self.metrics["sharpe"].value

    @property
    def max_drawdown(self) -> float:
        """The deepest fall as a fraction above zero."""
        return self.metrics["max_drawdown"].value or 0.0

    def frame(self) -> pd.DataFrame:
        """Return the trades as a table, a row each."""
        import pandas as pd

        t, symbols = self.trades, self.symbols
        moments = {s: pd.to_datetime(c.start, unit="us", utc=True) for s, c in self.columns.items()}
        return pd.DataFrame(
            {
                "symbol": [symbols[i] for i in t.symbol],
                "side": np.where(t.sign > 0, "long", "short"),
                "entry": [moments[symbols[s]][b] for s, b in zip(t.symbol, t.entry_bar, strict=True)],
                "exit": [moments[symbols[s]][b] for s, b in zip(t.symbol, t.exit_bar, strict=True)],
                "quantity": t.quantity,
                "entry_price": t.entry_price,
                "exit_price": t.exit_price,
                "fees": t.fees,
                "profit": t.profit,
                "ended_by": [EXITS[int(code)] for code in t.exit],
            }
        )

    def text(self) -> str:
        """Return the figures as a few lines of plain text."""
        ends = ", ".join(f"{count} by {name}" for name, count in self.trades.count().items() if count)
        lines = [
            f"{', '.join(self.symbols)}: {len(self.ends):,} bars, {len(self.trades):,} trades" + (f" ({ends})" if ends else ""),
            f"final equity {self.final_equity:,.2f} of {self.cash:,.2f} ({self.total_return:+.2%})",
        ]
        for name, label, unit in m.LABELS[1:]:
            figure = self.metrics[name]
            if figure.value is None:
                told = f"unknown: {figure.reason}"
            elif "%" in unit:
                told = f"{figure.value:.2%}"
            else:
                told = f"{figure.value:,.0f} bars" if unit == "bars" else f"{figure.value:.3f}"
            lines.append(f"{label.strip()}: {told}")
        return "\n".join(lines)

    __str__ = text
