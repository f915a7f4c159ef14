"""Backtests, what they are worth, and research around them. Names are imported when they are asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentfund.backtest.audits.audit import audit
    from agentfund.backtest.audits.result import Audit
    from agentfund.backtest.audits.stability import Stability, stability
    from agentfund.backtest.engine import Backtest
    from agentfund.backtest.lanes import simulate
    from agentfund.backtest.report import Report
    from agentfund.backtest.research.mix import Mix
    from agentfund.backtest.research.sleeves import Sleeve
    from agentfund.backtest.research.sweep import Sweep
    from agentfund.backtest.research.walkforward import WalkForward
    from agentfund.backtest.result import Result
    from agentfund.backtest.trials import TrialLedger

_HOMES = {
    "Audit": "audits.result",
    "Backtest": "engine",
    "Mix": "research.mix",
    "Report": "report",
    "Result": "result",
    "Sleeve": "research.sleeves",
    "Stability": "audits.stability",
    "audit": "audits.audit",
    "stability": "audits.stability",
    "simulate": "lanes",
    "Sweep": "research.sweep",
    "TrialLedger": "trials",
    "WalkForward": "research.walkforward",
}

__all__ = [
    "Audit",
    "Backtest",
    "Mix",
    "Report",
    "Result",
    "Sleeve",
    "Stability",
    "Sweep",
    "TrialLedger",
    "WalkForward",
    "audit",
    "simulate",
    "stability",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'agentfund.backtest' has no attribute {name!r}")
    value = getattr(import_module(f"agentfund.backtest.{home}"), name)
    globals()[name] = value
    return value
