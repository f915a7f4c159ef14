"""Thirty-two agents, each of which asks a language model at every bar."""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Any

from pydantic import Field

from agentfund import Agent, Proposal, Record, Verdict
from agentfund.llms import OpenAI
from agentfund.llms.prices import Price
from agentfund.trading import Direction

PRICE = Price(Decimal(3), Decimal(15), Decimal("0.3"), Decimal("3.75"))


class Score(Record):
    """How one analyst sees the market."""

    score: float = Field(ge=-1, le=1)


class Analyst(Agent[Score]):
    """You score the market from -1 to 1."""

    def rule(self, context: Any) -> Score:
        """Stay neutral."""
        return Score(score=0.0)


class Chief(Agent[Proposal]):
    """You propose a trade on the analysts' scores."""

    reads = (Score,)

    def rule(self, context: Any) -> Proposal | None:
        """Propose nothing."""
        return None


class Gate(Agent[Verdict]):
    """You judge proposals."""

    reads = (Proposal,)

    def rule(self, context: Any) -> Verdict:
        """Refuse."""
        return Verdict(approved=False, reason="nobody was asked")


ANSWERS = {
    "You score": {"score": 0.25},
    "You propose": {
        "direction": Direction.LONG, "thesis": "up", "symbol": "", "confidence": 0.6, "stop_pct": 2, "target_pct": 4,
        "position_scale": 1,
    },
    "You judge": {"approved": True, "reason": "room"},
}  # fmt: skip


def many(llm: Any = None) -> list[Agent[Any]]:
    """Return the agents; where a variable names a provider, they ask it."""
    if llm is None and (url := os.environ.get("MANY_PROVIDER")):
        llm = OpenAI("m", api_key="sk-many-0123456789abcdef", base_url=f"{url}/v1", prices={"m": PRICE})
    return [*(Analyst(llm, name=f"analyst_{number:02}") for number in range(30)), Chief(llm), Gate(llm)]
