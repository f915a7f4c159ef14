"""How little code a user writes: the promises of size, counted."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

DESK = """
from agentfund import Backtest, Orchestrator, PaperBroker, Router, SqliteBus
from agentfund.feeds import SimulatedMarket
from agentfund.llms import Rules
from agentfund.specialists import DoubleChecker, FactChecker, RegimeClassifier, RiskGate, Strategist

llm = Router([Rules()], budget_usd_per_day=20)
fund = Orchestrator(
    [
        RegimeClassifier(llm),
        Strategist(llm),
        RiskGate(llm),
        FactChecker(llm),
        DoubleChecker(llm),
    ],
    bus=SqliteBus("fund.db"),
)
report = Backtest(fund, SimulatedMarket(bars=1200, seed=4), PaperBroker(cash=100_000)).run()
print(report)
"""

AGENT = """
@agent(reads=(Regime,))
def momentum(context: Snapshot) -> Proposal | None:
    rise = context.bars.close[-1] / context.bars.close[-20] - 1
    return Proposal(direction=Direction.LONG, stop_pct=2) if rise > 0.01 else None
"""

ROLE_CARD = """
class NewsReader(Agent[Sentiment]):
    instructions = "Score today's headlines from -1 to 1."
    reads = (Headlines,)
"""


def lines(code: str) -> int:
    """Return the lines of a piece of code that are not empty; it must be valid Python."""
    ast.parse(code)
    return sum(1 for line in code.splitlines() if line.strip())


def test_a_desk_with_router_gates_and_paper_broker_is_at_most_25_lines(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """And it runs as it stands."""
    assert lines(DESK) <= 25
    monkeypatch.chdir(tmp_path)
    exec(DESK, {})
    shown = capsys.readouterr().out
    assert "risk_gate" in shown
    assert "1,200 bars" in shown


def test_an_agent_of_ones_own_is_at_most_six_lines() -> None:
    """As a function, and as a role card."""
    assert lines(AGENT) <= 6
    assert lines(ROLE_CARD) <= 6
