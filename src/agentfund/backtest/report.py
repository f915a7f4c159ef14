"""What a run came to: everything follows from the log and the bars, so a report can be made again from a file."""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import os
import re
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.backtest import metrics as m
from agentfund.backtest.trades import (
    RULES,
    AgentRow,
    Curve,
    Execution,
    Log,
    RoundTrip,
    by_agent,
    equity_curve,
    last_known,
    moments,
    place,
    round_trips,
    time_axis,
)
from agentfund.clock import from_micros
from agentfund.errors import ConfigError, MissingExtra
from agentfund.market import decimal
from agentfund.trading import ZERO, Costs, Decision, OrderStatus, Outcome, Portfolio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pandas as pd

    from agentfund.market import Columns, Floats
    from agentfund.messages import Message
    from agentfund.protocols import History

EXECUTION = (
    "A decision at the close of bar t fills no earlier than the open of bar t+1.",
    "Inside a bar the stop is taken before the target when both are touched.",
    "A gap through a stop fills at the open.",
    "What is still held at the end is marked at the last close.",
)
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


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
        by_agent: what each agent did.
        warnings: what to know before believing it, one sentence each.
    """

    def __init__(self, log: Log, columns: Mapping[str, Columns], source: str, warnings: Sequence[str]) -> None:
        whole = time_axis(columns) if columns else np.empty(0, np.int64)
        if not len(whole):
            raise ConfigError("the history holds no bar, so there is nothing to report on")
        ended = log.ended
        complete = ended is not None and ended.bars >= len(whole)
        axis = whole if complete else time_axis(columns, log.last)
        axis = axis if len(axis) else whole[:1]
        self.log, self.columns, self.source, self._told = log, columns, source, tuple(warnings)
        self.symbols = tuple(columns)
        self.cash = log.started.cash
        self.trading_costs = _costs(log.started.broker)
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
        figures = self._figures()
        self.metrics = {name: figure.value for name, figure in figures.items()}
        self.reasons = {name: figure.reason for name, figure in figures.items() if figure.reason}
        held = m.of_curve(self.hold, float(self.cash), self.end - self.start)
        none = m.Metric(None, "there is no bar to buy at")
        self.benchmark = {name: (figure if self.bars > 1 else none).value for name, figure in held.items()}
        self.warnings = tuple(dict.fromkeys((*self._told, *self._own_warnings())))

    @classmethod
    def of(cls, messages: Sequence[Message], history: History) -> Report:
        """Make the report of one run.

        Args:
            messages: the run's messages in the order of the log.
            history: the bars that the run saw.

        Raises:
            ConfigError: no run, more than one run, or no bar.
            BadData: a fill is of an instrument that the history does not hold.
        """
        return cls(Log(messages), history.columns, history.source, history.warnings)

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
            known = int((column.start + column.interval // timedelta(microseconds=1)).searchsorted(axis[-1], side="right"))
            part = m.buy_and_hold(column.open[:known], column.close[:known], share, self.trading_costs or _FREE)
            parts.append(last_known(column, np.concatenate([part, np.full(len(column) - known, np.nan)]), axis))
        return np.sum([np.where(np.isnan(part), share, part) for part in parts], axis=0)  # type: ignore[no-any-return]

    def _figures(self) -> dict[str, m.Metric]:
        equity, cash = self.curve.equity, float(self.cash)
        profits = [float(trip.profit) for trip in self.round_trips if trip.closed]
        net = float(self.final_equity - self.llm_cost_usd)
        return {
            **m.of_curve(equity, cash, self.end - self.start),
            "total_return": m.total_return(cash, float(self.final_equity)),
            "net_of_llm": m.total_return(cash, net),
            "buy_and_hold": m.total_return(cash, float(self.hold[-1]))
            if self.bars > 1
            else m.Metric(None, "there is no bar to buy at"),
            "hit_rate": m.hit_rate(profits),
            "profit_factor": m.profit_factor(profits),
            "exposure": m.exposure(self.curve.held),
            "turnover": m.turnover(float(sum(e.fill.quantity * e.fill.price for e in self.executions)), equity),
            "cost_drag": m.cost_drag(float(self.costs), cash),
        }

    def _own_warnings(self) -> Iterable[str]:
        log, closed = self.log, sum(trip.closed is not None for trip in self.round_trips)
        if "simulated" in self.source.lower() and not any("simulated" in told for told in self._told):
            yield "the market is simulated: what is earned here says nothing about a real one"
        if log.ended is None:
            yield "the log has no end: the run was interrupted, and the report stops at its last message"
        elif abs(log.ended.equity - self.final_equity) >= Decimal("0.01"):
            yield (
                f"the run ended with {log.ended.equity:,.2f}, its fills give {self.final_equity:,.2f}:"
                " the bars or the log are not the run's"
            )
        if not log.decisions:
            yield "nothing was proposed, so nothing was decided"
        elif not log.orders:
            yield "no decision was ordered"
        routes = Counter[str]()
        for row in self.by_agent.values():
            routes.update(row.answered_by)
        asked = sum(RULES in row.answered_by for row in self.by_agent.values())
        spoke = sum(bool(row.answered_by) for row in self.by_agent.values())
        if asked and not self.llm_calls and set(routes) <= {RULES, "function"}:
            count = _NUMBERS[asked] if asked < len(_NUMBERS) else str(asked)
            who = f"all {count} agents" if 1 < asked == spoke else f"{count} of {_count(spoke, 'agent')}"
            yield f"{who} answered by their rule twins; no language model was used"
        silent = sum(row.unavailable for row in self.by_agent.values())
        if silent:
            yield f"{silent} opinion{'s'[: silent != 1]} missing because an agent was unavailable; these never moved the book"
        degraded = sum(bool(o["degraded"]) for cycle in log.cycles.values() for o in cycle.opinions)
        if degraded:
            yield f"{degraded} opinion{'s'[: degraded != 1]} came from a rule because no language model could answer"
        for status in (OrderStatus.REJECTED, OrderStatus.UNKNOWN):
            count_of = sum(answer.status is status for answer in log.answers.values())
            if count_of:
                yield f"{count_of} order{'s'[: count_of != 1]} ended {status}"
        if self.trading_costs is None:
            yield "the broker states no costs: buy and hold is shown without any"
        if 0 < closed < 30:
            yield f"{closed} round trip{'s'[: closed != 1]}: too few to tell skill from luck"
        days = (self.end - self.start) // timedelta(days=1)
        if days < 90:
            yield f"the window is {_count(days, 'day')} long: yearly figures extrapolate"

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
        names = ("opinions", "abstentions", "unavailable", "vetoes", "clamps", "calls")
        return {
            "symbol": self.symbol,
            "source": self.source,
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "currency": self.currency,
            "bars": self.bars,
            "cycles": self.cycles,
            "decisions": len(self.log.decisions),
            "outcomes": dict(self.outcomes),
            "vetoes": self.vetoes,
            "denials": self.denials,
            "orders": self.orders,
            "fills": len(self.executions),
            "trades": len(self.round_trips),
            "cash": float(self.cash),
            "final_equity": float(self.final_equity),
            "total_return": self.total_return,
            "sharpe": self.sharpe,
            "max_drawdown": self.max_drawdown,
            "costs": float(self.costs),
            "llm_cost_usd": float(self.llm_cost_usd),
            "llm_notional_usd": float(self.llm_notional_usd),
            "llm_calls": self.llm_calls,
            "metrics": self.metrics,
            "reasons": self.reasons,
            "benchmark": self.benchmark,
            "by_agent": {
                agent: {
                    **{name: getattr(row, name) for name in names},
                    "billed_usd": float(row.billed_usd),
                    "answered_by": dict(row.answered_by),
                }
                for agent, row in self.by_agent.items()
            },
            "execution": list(self.execution),
            "warnings": list(self.warnings),
        }

    @property
    def execution(self) -> tuple[str, ...]:
        """How orders met the market, one sentence each."""
        stated = f"Costs: {self.trading_costs}." if self.trading_costs else "Costs: the broker states none."
        return (*EXECUTION, stated)

    @cached_property
    def equity(self) -> pd.DataFrame:
        """Equity, drawdown and buy-and-hold by the close of each bar (UTC)."""
        import pandas as pd

        values = {"equity": self.curve.equity, "drawdown": m.drawdowns(self.curve.equity), "buy_and_hold": self.hold}
        index = pd.DatetimeIndex(self.curve.ends.astype("datetime64[us]"), name="time").tz_localize("UTC")
        return pd.DataFrame({**values, "held": self.curve.held}, index=index)

    @cached_property
    def trades(self) -> pd.DataFrame:
        """Round trips, in the order in which they began."""
        names = (
            "symbol direction opened closed bars quantity entry_price exit_price"
            " profit profit_pct fees cost exit decision closed_by"
        )
        return _frame(names, ({n: getattr(trip, n) for n in names.split()} for trip in self.round_trips))

    @cached_property
    def decisions(self) -> pd.DataFrame:
        """Decisions, with what trading on them and asking for them cost."""
        costs: dict[str, Decimal] = {}
        for execution in self.executions:
            costs[execution.decision] = costs.get(execution.decision, ZERO) + execution.fill.cost
        names = (
            "id cycle time symbol direction outcome proposed_by decided_by reason code price vetoes thesis cost llm_cost_usd"
        )
        return _frame(
            names,
            (
                {
                    **decision.model_dump(include=set(names.split())),
                    "proposed_by": ", ".join(decision.proposed_by),
                    "vetoes": "; ".join(f"{agent}: {reason}" for agent, reason in decision.vetoes),
                    "thesis": self.thesis(decision),
                    "cost": costs.get(decision.id, ZERO),
                    "llm_cost_usd": self.log.cycles[decision.cycle].billed if decision.cycle in self.log.cycles else ZERO,
                }
                for decision in self.log.decisions
            ),
        )

    @cached_property
    def opinions(self) -> pd.DataFrame:
        """Every opinion of every agent; `value` holds what it gave as JSON values."""
        names = "cycle time agent output stance value reason clamps answered_by degraded"
        cycles = self.log.cycles.items()
        return _frame(names, ({"cycle": n, "time": cycle.time, **o} for n, cycle in cycles for o in cycle.opinions))

    @cached_property
    def fills(self) -> pd.DataFrame:
        """What was traded, oldest first; `bar` is the close of the bar in which it happened."""
        names = "id order_id decision symbol side leg quantity price reference fee cost time bar"
        ends = moments(self.curve.ends[[e.bar for e in self.executions]])
        own = [n for n in names.split() if n not in ("decision", "bar")]
        pairs = zip(self.executions, ends, strict=True)
        return _frame(names, ({**{n: getattr(e.fill, n) for n in own}, "decision": e.decision, "bar": end} for e, end in pairs))

    def text(self) -> str:
        """Return the report as plain text, about forty lines, made for 96 columns."""
        return "\n".join(_lines(self))

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
        target = Path(folder)
        if unknown := set(formats) - {"csv", "parquet"}:
            raise ConfigError(f"unknown format {sorted(unknown)}: the tables are written as CSV, and as 'parquet' when asked")
        tables = {name: getattr(self, name) for name in ("equity", "trades", "decisions", "fills")}
        files: dict[str, Callable[[], bytes]] = {
            "report.html": lambda: self.html().encode(),
            "report.txt": lambda: (self.text() + "\n").encode(),
            "report.json": lambda: json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n",
        }
        for name, table in tables.items():
            files[f"{name}.csv"] = partial(_csv, table)
            if "parquet" in formats:
                files[f"{name}.parquet"] = partial(_parquet, table)
        _write(target, {name: make() for name, make in files.items()})
        return target


_FREE = Costs(commission_bps=0.0, half_spread_bps=0.0, slippage_bps=0.0)


def _costs(broker: Mapping[str, Any]) -> Costs | None:
    """Read what the broker said about its costs: the numbers by name, or the words in which `Costs` prints them."""
    stated = broker.get("costs", broker)
    names = [f.name for f in fields(Costs)]
    if isinstance(stated, Mapping):
        found = {name: float(stated[name]) for name in names if name in stated}
    else:
        words = dict(zip(names, ("commission", "at least", "half spread", "slippage"), strict=True))
        read = {name: re.search(rf"{word} ([0-9.e+-]+)", str(stated)) for name, word in words.items()}
        found = {name: float(match[1]) for name, match in read.items() if match}
    return Costs(**dict.fromkeys(names, 0.0) | found) if found else None


def _frame(columns: str, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    names = columns.split()
    plain = ([_plain(row[name]) for name in names] for row in rows)
    return pd.DataFrame(list(plain), columns=names)


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return str(value) if isinstance(value, Enum) else value


def _csv(table: pd.DataFrame) -> bytes:
    harmless = table.copy()
    for name in harmless.columns:
        if not harmless[name].map(lambda value: isinstance(value, str)).any():
            continue
        harmless[name] = ["'" + v if isinstance(v, str) and v.startswith(_FORMULA) else v for v in harmless[name]]
    return harmless.to_csv(index=harmless.index.name is not None, lineterminator="\n").encode()


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _parquet(table: pd.DataFrame) -> bytes:
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtra("pyarrow", "parquet")
    buffer = io.BytesIO()
    table.to_parquet(buffer, engine="pyarrow")
    return buffer.getvalue()


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files under temporary names, then rename them: what cannot be written whole is not written at all."""
    temporary: list[tuple[Path, Path]] = []
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            path = folder / name
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder of that name is there")
            handle, draft = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
            temporary.append((Path(draft), path))
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(draft).chmod(0o644)
        for draft_path, path in temporary:
            draft_path.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"cannot write {path}: {reason}; free space there, allow writing, or save to another folder"
        ) from error
    finally:
        for draft_path, _ in temporary:
            draft_path.unlink(missing_ok=True)


WIDTH = 96


def _amount(value: float | None, unit: str = "") -> str:
    if value is None:
        return "n/a"
    if unit == "bars":
        return f"{value:,.0f}"
    value = -value if unit == "-%" and value else value
    return f"{100 * value:{unit[0] if unit == '+%' else ''},.2f} %" if "%" in unit else f"{value:,.2f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s'[: number != 1]}"


def _lines(report: Report) -> Iterable[str]:
    """The text report, line by line."""
    figures, currency = report.metrics, report.currency
    rule = "─" * WIDTH
    yield f"{report.symbol}, {report.start:%Y-%m-%d %H:%M} to {report.end:%Y-%m-%d %H:%M} UTC"
    yield f"{report.source}: {_count(report.bars, 'bar')}, {_count(report.cycles, 'cycle')}"
    yield rule
    yield f"{'':24}{'fund':>15}{'buy and hold':>15}"
    yield f"{f'Final equity ({currency})':24}{report.final_equity:>15,.2f}{report.hold[-1]:>15,.2f}"
    for name, label, unit in m.LABELS:
        own, other = _amount(figures[name], unit), _amount(report.benchmark[name], unit)
        note = report.reasons.get(name, "")
        yield f"{label:24}{own:>15}{other:>15}{'  ' + note if note else ''}".rstrip()
    yield f"{'Net of language models':24}{_amount(figures['net_of_llm'], '+%'):>15}"
    yield rule
    ended = sum(trip.closed is not None for trip in report.round_trips)
    exits = Counter(trip.exit for trip in report.round_trips)
    hits = "" if figures["hit_rate"] is None else f", {100 * figures['hit_rate']:.1f} % of them made money"
    factor = "" if figures["profit_factor"] is None else f", profit factor {figures['profit_factor']:.2f}"
    yield f"{'Round trips':16}{ended:,} ended, {exits['open']:,} still open{hits}{factor}"
    yield f"{'Exits':16}{exits['order']:,} by order, {exits['stop']:,} by stop, {exits['target']:,} by target"
    turned = "" if figures["turnover"] is None else f", turned over {figures['turnover']:.1f} times"
    yield f"{'In the market':16}{100 * (figures['exposure'] or 0):.1f} % of bars{turned}"
    drag = "" if figures["cost_drag"] is None else f", {100 * figures['cost_drag']:.2f} % of the capital"
    yield (
        f"{'Trading costs':16}{report.costs:,.2f} {currency}: commission {report.commissions:,.2f},"
        f" spread and slippage {report.costs - report.commissions:,.2f}{drag}"
    )
    outcomes = ", ".join(f"{number:,} {outcome}" for outcome, number in report.outcomes.most_common())
    yield f"{'Decisions':16}{len(report.log.decisions):,}{': ' + outcomes if outcomes else ''}"
    yield f"{'Orders':16}{_count(report.orders, 'order')}, {_count(len(report.executions), 'fill')}"
    yield (
        f"{'Language models':16}{_count(report.llm_calls, 'call')}, billed {report.llm_cost_usd:,.4f} USD"
        f" (list price {report.llm_notional_usd:,.4f} USD)"
    )
    if report.by_agent:
        width = max([16, *(len(name) + 2 for name in report.by_agent)])
        yield rule
        yield (
            f"{'Agent':{width}}{'values':>8}{'abstains':>10}{'missing':>9}{'vetoes':>8}{'clamps':>8}{'billed':>10}  answered by"
        )
        for name, row in report.by_agent.items():
            by = ", ".join(f"{route} {number:,}" for route, number in sorted(row.answered_by.items())) or "nobody"
            yield (
                f"{name:{width}}{row.opinions:>8,}{row.abstentions:>10,}{row.unavailable:>9,}{row.vetoes:>8,}{row.clamps:>8,}"
                f"{row.billed_usd:>10,.4f}  {by}"
            )
    yield rule
    for number, sentence in enumerate(report.execution):
        yield f"{'Execution' if not number else '':16}{sentence}"
    for number, sentence in enumerate(report.warnings):
        yield from textwrap.wrap(
            sentence,
            WIDTH,
            initial_indent=f"{'Warnings' if not number else '':14}! ",
            subsequent_indent=" " * 16,
        )
