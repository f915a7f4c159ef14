"""The report as JSON values: counts as numbers, None for what is not known, never NaN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentfund.backtest.report import Report


def figures(report: Report) -> dict[str, Any]:
    """Return all figures of a report, by name."""
    names = ("opinions", "abstentions", "unavailable", "vetoes", "clamps", "calls")
    return {
        "symbol": report.symbol,
        "source": report.source,
        "start": report.start.isoformat(),
        "end": report.end.isoformat(),
        "currency": report.currency,
        "bars": report.bars,
        "cycles": report.cycles,
        "decisions": len(report.log.decisions),
        "outcomes": dict(report.outcomes),
        "vetoes": report.vetoes,
        "denials": report.denials,
        "orders": report.orders,
        "fills": len(report.executions),
        "trades": len(report.round_trips),
        "cash": float(report.cash),
        "final_equity": float(report.final_equity),
        "total_return": report.total_return,
        "sharpe": report.sharpe,
        "max_drawdown": report.max_drawdown,
        "costs": float(report.costs),
        "llm_cost_usd": float(report.llm_cost_usd),
        "llm_notional_usd": float(report.llm_notional_usd),
        "llm_calls": report.llm_calls,
        "bars_per_year": report.bars_per_year,
        "metrics": report.metrics,
        "reasons": report.reasons,
        "benchmark": report.benchmark,
        "by_agent": {
            agent: {
                **{name: getattr(row, name) for name in names},
                "billed_usd": float(row.billed_usd),
                "answered_by": dict(row.answered_by),
            }
            for agent, row in report.by_agent.items()
        },
        "by_proposer": {name: row.to_json() for name, row in report.by_proposer.items()},
        "monthly": [{"month": f"{year}-{month:02}", "return": value} for year, month, value in report.monthly],
        "luck": report.luck.to_json(),
        "nulls": report.nulls.to_json(),
        "overfitting": None if report.overfitting is None else report.overfitting.to_json(),
        "gates": report.gates.to_json(),
        "stamp": None if report.stamp is None else {"verdict": report.stamp.verdict, "reason": report.stamp.reason},
        "masked": report.masked or None,
        "execution": list(report.execution),
        "warnings": list(report.warnings),
    }
