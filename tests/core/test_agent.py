"""Agents: role cards, rules, functions."""

from __future__ import annotations

import pytest

from agentfund import Abstain, Agent, Direction, Proposal, Record, Snapshot, agent
from agentfund.core.agent import FunctionAgent
from agentfund.core.context import State
from agentfund.errors import PipelineError
from agentfund.llms import ScriptedLLM
from tests.market import bars, last


class Sentiment(Record):
    """How the news sound."""

    score: float


class NewsReader(Agent[Sentiment]):
    """A role card and no rule."""

    instructions = "Score today's headlines from -1 to 1."


class Careful(NewsReader):
    """The same with a rule twin."""

    def rule(self, context: Snapshot) -> Sentiment | Abstain:
        """Never say anything."""
        return Abstain("no news")


def snapshot() -> Snapshot:
    """Return a snapshot of a small market."""
    return Snapshot(State(), last(bars([100.0] * 30)), {})


def test_the_output_type_is_the_type_argument() -> None:
    """`Agent[Sentiment]` gives Sentiment, and so does a subclass of it."""
    assert NewsReader().output is Sentiment
    assert Careful().output is Sentiment


def test_the_name_is_the_class_name_in_snake_case_unless_given() -> None:
    """Names in the log can be read."""
    assert NewsReader().name == "news_reader"
    assert NewsReader(name="reuters").name == "reuters"


async def test_a_role_card_asks_its_language_model_and_gives_its_value() -> None:
    """The scripted answer comes back typed."""
    llm = ScriptedLLM([Sentiment(score=0.5)])
    given = NewsReader(llm).run(await_free := snapshot())
    assert not isinstance(given, Sentiment)
    assert await given == Sentiment(score=0.5)  # type: ignore[misc]
    assert llm.prompts[0].instructions == NewsReader.instructions
    assert llm.prompts[0].inputs["market"]["SIM"]["price"] == await_free.bars.price


async def test_a_language_model_may_abstain() -> None:
    """An abstention of a language model is an abstention of the agent."""
    llm = ScriptedLLM(['{"value": null, "abstain": "no headlines"}'])
    given = NewsReader(llm).run(snapshot())
    assert await given == Abstain("no headlines")  # type: ignore[misc]


def test_without_a_language_model_the_rule_answers() -> None:
    """The rule twin stands in."""
    assert Careful().run(snapshot()) == Abstain("no news")
    assert Careful().answers_by == "rules"


def test_without_language_model_and_rule_the_error_says_what_to_do() -> None:
    """Such an agent cannot answer."""
    with pytest.raises(PipelineError, match=r"news_reader has no rule and was given no LLM: pass one, or define rule"):
        NewsReader().run(snapshot())


def test_a_function_becomes_an_agent_by_its_return_annotation() -> None:
    """None and Abstain beside the output type do not count."""

    @agent(reads=(Sentiment,), name="momentum")
    def follow(context: Snapshot) -> Proposal | Abstain | None:
        """Follow."""
        return Proposal(direction=Direction.LONG)

    assert isinstance(follow, FunctionAgent)
    assert (follow.name, follow.output, follow.reads) == ("momentum", Proposal, (Sentiment,))
    assert follow.answers_by == "function"


def test_a_function_without_an_output_type_is_refused() -> None:
    """Nothing to read in it means nothing to gate."""
    with pytest.raises(PipelineError, match="annotate what it returns with one output type"):

        @agent
        def nothing(context: Snapshot):  # type: ignore[no-untyped-def]
            """Return nothing in particular."""


def test_two_agents_with_one_bare_route_share_one_router() -> None:
    """So its breaker and its limits hold for both."""
    llm = ScriptedLLM([])
    assert NewsReader(llm).llm is Careful(llm).llm


def test_a_prompt_names_weekday_and_hour_but_no_date() -> None:
    """A date would let a language model remember instead of judge."""
    question = NewsReader(ScriptedLLM([])).prompt(snapshot()).question
    assert "2024" not in question
    assert "UTC" in question
