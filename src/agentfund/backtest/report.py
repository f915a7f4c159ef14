"""What a run came to: everything follows from the log and the bars, so a report can be made again from a file."""

from __future__ import annotations

import sys
from collections import Counter
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from agentfund.backtest import metrics as m
from agentfund.backtest import tables
from agentfund.backtest.caveats import caveats
from agentfund.backtest.figures import figures
from agentfund.backtest.log import RULES, AgentRow, Log, by_agent, stated_costs
from agentfund.backtest.proposers import ProposerRow, by_proposer
from agentfund.backtest.save import save
from agentfund.backtest.selection import luck_of, trial_of
from agentfund.backtest.text import lines
from agentfund.backtest.trades import (
    Curve,
    Execution,
    RoundTrip,
    bar_ends,
    equity_curve,
    last_known,
    place,
    round_trips,
    time_axis,
)
from agentfund.clock import from_micros
from agentfund.errors import ConfigError
from agentfund.llms.cutoffs import stamp as stamped
from agentfund.llms.cutoffs import unjudged
from agentfund.market import decimal
from agentfund.trading import ZERO, Costs, Decision, Outcome, Portfolio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from agentfund.backtest.deflated import Luck
    from agentfund.backtest.nulls import Nulls
    from agentfund.backtest.overfitting import Overfitting
    from agentfund.backtest.trials import Trial, TrialLedger
    from agentfund.backtest.worth import Worth
    from agentfund.market import Columns, Floats
    from agentfund.messages import Message
    from agentfund.protocols import History

EXECUTION = (
    "A decision at the close of bar t fills no earlier than the open of bar t+1.",
    "Inside a bar the stop is taken before the target when both are touched.",
    "A gap through a stop fills at the open.",
    "What is still held at the end is marked at the last close.",
)
_FREE = Costs(commission_bps=0.0, half_spread_bps=0.0, slippage_bps=0.0)


class Stamp(Protocol):
    """Whether language models could know what the run was about: the verdict and the reason for it."""

    @property
    def verdict(self) -> str:
        """`CLEAN`, `MIXED` or `CONTAMINATED`."""
        ...

    @property
    def reason(self) -> str:
        """Why, in one sentence."""
        ...


class Report:
    """What a run came to.

    Frames (pandas): `equity`, `trades`, `decisions`, `opinions`, `fills`. Money in them is float64; what must be exact
    is on the report itself, as `Decimal`.

    Attributes:
        symbols: what was traded or watched.
        source: where the data came from, in words.
        bars: moments at which a bar closed.
        cycles: rounds in which agents were asked.
        vetoes: decisions that gate agents stopped.
        denials: decisions that the deterministic gate stopped.
        orders: orders sent.
        cash: capital at the beginning.
        final_equity: cash and positions at the last close, exact.
        costs: commissions, half spread and slippage together.
        llm_cost_usd: what the calls are billed; None of it is in the equity.
        llm_notional_usd: what they would cost at list price, where it is known.
        llm_calls: attempts to get an answer from a language model.
        metrics: figures of the fund by name; `reasons` says why one is None.
        benchmark: the same figures of buying at the start and holding.
        bars_per_year: what annualises: counted, or as it was given.
        monthly: returns of the months (UTC).
        by_agent: what each agent did.
        luck: what is left of the Sharpe ratio once the number of trials is known.
        overfitting: what cross-validation says of the sweep behind the run; None where none was given.
        stamp: whether language models could know what it was about; None where none was asked, or the market is simulated.
        warnings: what to know before believing it, one sentence each.
    """

    def __init__(
        self,
        log: Log,
        columns: Mapping[str, Columns],
        source: str,
        warnings: Sequence[str],
        *,
        trials: TrialLedger | None = None,
        overfitting: Overfitting | None = None,
        stamp: Stamp | None = None,
        bars_per_year: float | None = None,
    ) -> None:
        if bars_per_year is not None and not 0 < bars_per_year < float("inf"):
            raise ConfigError(f"bars_per_year={bars_per_year}: give a number above zero, or leave it out to have it counted")
        whole = time_axis(columns) if columns else np.empty(0, np.int64)
        if not len(whole):
            raise ConfigError("the history holds no bar, so there is nothing to report on")
        ended = log.ended
        complete = ended is not None and ended.bars >= len(whole)
        axis = whole if complete else time_axis(columns, log.last)
        axis = axis if len(axis) else whole[:1]
        self.log, self.columns, self.source = log, columns, source
        self.symbols = tuple(columns)
        self.cash = log.started.cash
        self.trading_costs = stated_costs(log.started.broker)
        self.start = from_micros(min(int(column.start[0]) for column in columns.values()))
        self.end = from_micros(axis[-1])
        self.executions = tuple(
            Execution(fill, row, log.orders[fill.order_id].decision if fill.order_id in log.orders else "")
            for fill, row in place(list(log.fills.values()), columns, axis)
        )
        curve, book = equity_curve(columns, axis, self.cash, self.executions)
        marks = {s: decimal(float(last_known(c, c.close, axis[-1:])[0])) for s, c in columns.items() if s in book.positions}
        self.curve: Curve = curve
        self.book: Portfolio = book
        self.final_equity: Decimal = book.equity(marks)
        self.round_trips: tuple[RoundTrip, ...] = round_trips(self.executions, marks, len(axis) - 1)
        self.costs: Decimal = sum((e.fill.cost for e in self.executions), ZERO)
        self.bars = len(axis)
        self.cycles = ended.cycles if ended else len(log.cycles)
        self.orders = len(log.orders)
        self.outcomes = Counter(str(decision.outcome) for decision in log.decisions)
        self.vetoes, self.denials = self.outcomes[Outcome.VETOED], self.outcomes[Outcome.DENIED]
        calls = [call for cycle in log.cycles.values() for call in cycle.calls if call.route != RULES]
        self.llm_calls = len(calls)
        self.llm_cost_usd: Decimal = sum((call.billed_usd for call in calls), ZERO)
        self.llm_notional_usd: Decimal = sum((call.notional_usd or ZERO for call in calls), ZERO)
        self.by_agent: dict[str, AgentRow] = by_agent(log)
        self.hold: Floats = self._hold()
        counted = m.bars_per_year(self.bars, self.end - self.start).value
        self.bars_per_year: float | None = counted if bars_per_year is None else bars_per_year
        figures = self._figures()
        self.metrics = {name: figure.value for name, figure in figures.items()}
        self.reasons = {name: figure.reason for name, figure in figures.items() if figure.reason}
        held = m.of_curve(self.hold, float(self.cash), self.end - self.start, self.bars_per_year)
        none = m.Metric(None, "there is no bar to buy at")
        self.benchmark = {name: (figure if self.bars > 1 else none).value for name, figure in held.items()}
        self.monthly: list[m.Month] = m.monthly(self.curve.ends, self.curve.equity, float(self.cash))
        self.overfitting = overfitting
        self.masked = ""
        self.stamp: Stamp | None = self._stamp() if stamp is None else stamp
        self.luck: Luck = luck_of(self, trials)
        self.warnings = tuple(dict.fromkeys((*warnings, *caveats(self, warnings))))

    @classmethod
    def of(
        cls,
        messages: Sequence[Message],
        history: History,
        *,
        trials: TrialLedger | None = None,
        overfitting: Overfitting | None = None,
        stamp: Stamp | None = None,
        bars_per_year: float | None = None,
    ) -> Report:
        """Make the report of one run.

        Args:
            messages: the run's messages in the order of the log.
            history: the bars that the run saw.
            trials: what else was tried on this data; it is read, and `trials.add(report.trial)` is the caller's to say.
            overfitting: of the sweep from which the run was chosen; see `agentfund.backtest.overfitting`.
            stamp: whether language models could know what it was about, where more is known than what providers claim.
            bars_per_year: how many bars the calendar has in a year, where that is known better than by counting them:
                in a window of few days, or with holes.

        Raises:
            ConfigError: no run, more than one run, or no bar.
            BadData: a fill is of an instrument that the history does not hold.
        """
        return cls(
            Log(messages),
            history.columns,
            history.source,
            history.warnings,
            trials=trials,
            overfitting=overfitting,
            stamp=stamp,
            bars_per_year=bars_per_year,
        )

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<Report of {', '.join(self.symbols)}: {self.bars} bars, final equity {self.final_equity:.2f}>"

    @property
    def symbol(self) -> str:
        """The instrument, or all of them with commas."""
        return ", ".join(self.symbols)

    @property
    def currency(self) -> str:
        """What money is counted in."""
        return next(iter(self.columns.values())).instrument.currency

    @property
    def total_return(self) -> float | None:
        """Final equity / capital - 1, after trading costs, before what language models cost."""
        return self.metrics["total_return"]

    @property
    def sharpe(self) -> float | None:
        """Mean / population standard deviation of bar returns, annualised; None where it is not defined."""
        return self.metrics["sharpe"]

    @property
    def max_drawdown(self) -> float:
        """The deepest fall as a fraction above zero."""
        return self.metrics["max_drawdown"] or 0.0

    @property
    def commissions(self) -> Decimal:
        """The part of the costs that is commission; the rest is half spread and slippage."""
        return self.book.fees

    def _hold(self) -> Floats:
        """Equal parts in every instrument, bought at the open of the second bar."""
        share, axis = float(self.cash) / len(self.columns), self.curve.ends
        parts = []
        for column in self.columns.values():
            known = int(bar_ends(column).searchsorted(axis[-1], side="right"))
            part = m.buy_and_hold(column.open[:known], column.close[:known], share, self.trading_costs or _FREE)
            parts.append(last_known(column, np.concatenate([part, np.full(len(column) - known, np.nan)]), axis))
        return np.sum([np.where(np.isnan(part), share, part) for part in parts], axis=0)  # type: ignore[no-any-return]

    def _figures(self) -> dict[str, m.Metric]:
        equity, cash = self.curve.equity, float(self.cash)
        profits = [float(trip.profit) for trip in self.round_trips if trip.closed]
        net = float(self.final_equity - self.llm_cost_usd)
        return {
            **m.of_curve(equity, cash, self.end - self.start, self.bars_per_year),
            "total_return": m.total_return(cash, float(self.final_equity)),
            "net_of_llm": m.total_return(cash, net),
            "buy_and_hold": m.total_return(cash, float(self.hold[-1]))
            if self.bars > 1
            else m.Metric(None, "there is no bar to buy at"),
            "hit_rate": m.hit_rate(profits),
            "profit_factor": m.profit_factor(profits),
            "expectancy": m.expectancy(profits),
            "exposure": m.exposure(self.curve.held),
            "turnover": m.turnover(float(sum(e.fill.quantity * e.fill.price for e in self.executions)), equity),
            "cost_drag": m.cost_drag(float(self.costs), cash),
        }

    def _stamp(self) -> Stamp | None:
        """Judge the window by what providers claim of the language models that answered; a simulated market is in no memory."""
        if "simulated" in self.source.lower():
            return None
        calls = (call for cycle in self.log.cycles.values() for call in cycle.calls)
        llms = sorted({call.llm for call in calls if call.route != RULES and call.outcome == "ok"})
        if self.log.started.feed.get("class") == "Masked":  # its dates are none: later than any cut-off, and not real
            return unjudged(llms, "the dates of a masked market are not real; unmasked(report, masked) judges the real ones")
        return stamped(llms, self.start, self.end)

    @cached_property
    def trial(self) -> Trial:
        """This run as a `TrialLedger` records it: agents, settings and broker, the data, and what it came to."""
        return trial_of(self)

    @cached_property
    def nulls(self) -> Nulls:
        """What chance makes of the same trades; drawn when asked for, always with the same seed."""
        from agentfund.backtest.nulls import Nulls

        return Nulls.of(self)

    @cached_property
    def gates(self) -> Worth:
        """What the trades that gates stopped or changed would have made."""
        from agentfund.backtest.worth import worth

        return worth(self)

    @cached_property
    def by_proposer(self) -> dict[str, ProposerRow]:
        """What the trades of each proposing agent came to."""
        return by_proposer(self)

    def thesis(self, decision: Decision) -> str:
        """Return why the proposer wanted it, in its own words; empty where it gave none."""
        cycle = self.log.cycles.get(decision.cycle)
        for opinion in cycle.opinions if cycle else ():
            value = opinion["value"]
            if opinion["agent"] in decision.proposed_by and isinstance(value, dict) and value.get("thesis"):
                return str(value["thesis"])
        return ""

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values: counts as numbers, None for what is not known, never NaN."""
        return figures(self)

    @property
    def execution(self) -> tuple[str, ...]:
        """How orders met the market, one sentence each."""
        stated = f"Costs: {self.trading_costs}." if self.trading_costs else "Costs: the broker states none."
        return (*EXECUTION, stated)

    @cached_property
    def equity(self) -> pd.DataFrame:
        """Equity, drawdown and buy-and-hold by the close of each bar (UTC)."""
        return tables.equity(self)

    @cached_property
    def trades(self) -> pd.DataFrame:
        """Round trips, in the order in which they began."""
        return tables.trades(self)

    @cached_property
    def decisions(self) -> pd.DataFrame:
        """Decisions, with what trading on them and asking for them cost."""
        return tables.decisions(self)

    @cached_property
    def opinions(self) -> pd.DataFrame:
        """Every opinion of every agent; `value` holds what it gave as JSON values."""
        return tables.opinions(self)

    @cached_property
    def fills(self) -> pd.DataFrame:
        """What was traded, oldest first; `bar` is the close of the bar in which it happened."""
        return tables.fills(self)

    def text(self) -> str:
        """Return the report as plain text, about forty lines, made for 96 columns."""
        return "\n".join(lines(self))

    def html(self) -> str:
        """Return the report as one self-contained HTML page that loads nothing from anywhere."""
        from agentfund.backtest.html import page

        return page(self)

    def _repr_html_(self) -> str:
        from agentfund.backtest.html import frame

        return frame(self.html())

    def show(self) -> None:
        """Display the page in a notebook, print the text anywhere else."""
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if getattr(shell, "kernel", None) is not None:
            from IPython.display import display

            display(self)  # type: ignore[no-untyped-call]
            return
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        sys.stdout.write(self.text().encode(encoding, "replace").decode(encoding) + "\n")

    def save(self, folder: str | Path, formats: Sequence[str] = ()) -> Path:
        """Write report.html, report.txt, report.json and the tables as CSV into a folder, and return the folder.

        Every file is complete or not there: all are written under other names first. In the CSV files a text that a
        spreadsheet would run as a formula gets an apostrophe in front.

        Args:
            folder: where to; made when it is not there.
            formats: "parquet" writes the tables in that format too.

        Raises:
            ConfigError: the folder cannot be written, or a format is not known.
            MissingExtra: Parquet was asked for and pyarrow is not installed.
        """
        return save(self, folder, formats)
