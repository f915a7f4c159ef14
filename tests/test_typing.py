"""The API as an editor sees it; the type checker runs over this file too."""

from __future__ import annotations

from typing import assert_type

from agentfund import Agent, Proposal, Record, SharedContext, Snapshot, Verdict, agent
from agentfund.core.agent import FunctionAgent
from agentfund.specialists import Regime, RegimeClassifier


class Sentiment(Record):
    """A value."""

    score: float


class Reader(Agent[Sentiment]):
    """An agent of it."""

    reads = (Regime,)

    def rule(self, context: Snapshot) -> Sentiment:
        """Read."""
        assert_type(context.latest(Regime), Regime)
        return Sentiment(score=0.0)


def test_latest_is_typed_by_what_is_asked_for() -> None:
    """No cast is needed."""

    def look(context: SharedContext) -> None:
        assert_type(context.latest(Regime), Regime)
        assert_type(context.snapshot().all(Verdict), tuple[Verdict, ...])

    assert look is not None


def test_an_agent_knows_its_output_type() -> None:
    """From the type argument, the class or the annotation."""

    @agent(reads=(Sentiment,))
    def follow(context: Snapshot) -> Proposal | None:
        """Follow."""
        return None

    assert_type(follow, FunctionAgent[Proposal])
    assert_type(Reader().output, type[Sentiment])
    assert_type(RegimeClassifier().output, type[Regime])
