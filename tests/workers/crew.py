"""Agents that tests host in processes of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from agentfund import Agent, Proposal, Verdict, agent
from agentfund.trading import Direction


@agent(name="trend")
def trend(context: Any) -> Proposal | None:
    """Follow the last ten bars."""
    close = context.bars.close
    if len(close) < 10:
        return None
    direction = Direction.LONG if close[-1] > close[-10] else Direction.FLAT
    return Proposal(direction=direction, stop_pct=2.0, target_pct=4.0, thesis=f"{close[-1] / close[-10]:.12f}")


@agent(reads=(Proposal,), name="size")
def size(context: Any) -> Verdict:
    """Look at the portfolio, so that what a worker is shown matters."""
    held = context.portfolio.quantity(context.bars.symbol)
    return Verdict(approved=True, reason=f"{held} held, {context.state.equity} equity, {len(context.state.recent)} orders")


def crew(llm: Any = None) -> list[Agent[Any]]:
    """Return the agents; where a variable names a file, each answer leaves a line there."""
    told = os.environ.get("CREW_NOTES")
    if told is None:
        return [trend, size]
    noted = Path(told)

    @agent(name="trend")
    def noting(context: Any) -> Proposal | None:
        """Follow the last ten bars, and say so."""
        with noted.open("a") as notes:
            notes.write(f"{os.getpid()} {context.state.cycle}\n")
        given: Any = trend.function(context)
        return given  # type: ignore[no-any-return]

    return [noting, size]
