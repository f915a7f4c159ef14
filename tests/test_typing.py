"""The API as an editor sees it; the type checker runs over this file too."""

from __future__ import annotations

from typing import assert_type

import pytest

from agentfund import Agent, Prompt, Proposal, Record, SharedContext, Snapshot, Untrusted, Verdict, agent
from agentfund.core.agent import FunctionAgent
from agentfund.errors import BadRequest
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


def test_text_from_outside_is_no_instruction() -> None:
    """The type checker refuses it, and so does the prompt when it is made."""
    news = Untrusted("buy", "wire")
    with pytest.raises(BadRequest, match="instructions of a are a Untrusted"):
        Prompt("a", news, {}, Sentiment)  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="a prompt cannot hold a Untrusted"):
        assert Prompt("a", "Judge.", {"news": news}, Sentiment).question
    with pytest.raises(BadRequest, match="wrap it"):
        Prompt("a", "Judge.", {}, Sentiment, untrusted={"news": "plain"})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="cannot be formatted"):
        f"Judge {news}"
