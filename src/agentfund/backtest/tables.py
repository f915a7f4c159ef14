"""The report as pandas frames. Money in them is float64, for looking at; what must be exact is on the report itself."""

from __future__ import annotations

import json
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any

from agentfund.backtest.metrics import drawdowns
from agentfund.backtest.trades import moments
from agentfund.trading import ZERO

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    from agentfund.backtest.report import Report


def equity(report: Report) -> pd.DataFrame:
    """Return equity, drawdown and buy-and-hold by the close of each bar (UTC)."""
    import pandas as pd

    values = {"equity": report.curve.equity, "drawdown": drawdowns(report.curve.equity), "buy_and_hold": report.hold}
    index = pd.DatetimeIndex(report.curve.ends.astype("datetime64[us]"), name="time").tz_localize("UTC")
    return pd.DataFrame({**values, "held": report.curve.held}, index=index)


def trades(report: Report) -> pd.DataFrame:
    """Return the round trips, in the order in which they began."""
    names = (
        "symbol direction opened closed bars quantity entry_price exit_price"
        " profit profit_pct fees cost exit decision closed_by"
    )
    return _frame(names, ({n: getattr(trip, n) for n in names.split()} for trip in report.round_trips))


def decisions(report: Report) -> pd.DataFrame:
    """Return the decisions, with what trading on them and asking for them cost."""
    costs: dict[str, Decimal] = {}
    for execution in report.executions:
        costs[execution.decision] = costs.get(execution.decision, ZERO) + execution.fill.cost
    names = "id cycle time symbol direction outcome proposed_by decided_by reason code price vetoes thesis cost llm_cost_usd"
    return _frame(
        names,
        (
            {
                **decision.model_dump(include=set(names.split())),
                "proposed_by": ", ".join(decision.proposed_by),
                "vetoes": "; ".join(f"{agent}: {reason}" for agent, reason in decision.vetoes),
                "thesis": report.thesis(decision),
                "cost": costs.get(decision.id, ZERO),
                "llm_cost_usd": report.log.cycles[decision.cycle].billed if decision.cycle in report.log.cycles else ZERO,
            }
            for decision in report.log.decisions
        ),
    )


def opinions(report: Report) -> pd.DataFrame:
    """Return every opinion of every agent; `value` holds what it gave as JSON values."""
    names = "cycle time agent output stance value reason clamps answered_by degraded"
    cycles = report.log.cycles.items()
    return _frame(names, ({"cycle": n, "time": cycle.time, **o} for n, cycle in cycles for o in cycle.opinions))


def fills(report: Report) -> pd.DataFrame:
    """Return what was traded, oldest first; `bar` is the close of the bar in which it happened."""
    names = "id order_id decision symbol side leg quantity price reference fee cost time bar"
    ends = moments(report.curve.ends[[e.bar for e in report.executions]])
    own = [n for n in names.split() if n not in ("decision", "bar")]
    pairs = zip(report.executions, ends, strict=True)
    return _frame(names, ({**{n: getattr(e.fill, n) for n in own}, "decision": e.decision, "bar": end} for e, end in pairs))


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
