from __future__ import annotations

from decimal import Decimal
from itertools import repeat

import pytest

import agentfund.llms
from agentfund.clock import SimulatedClock
from agentfund.errors import ConfigError, LLMUnavailable, Overloaded
from agentfund.llms import ScriptedLLM
from agentfund.prompt import Answer, Completion, Prompt, Usage
from agentfund.protocols import LLM
from agentfund.testing.llm import LLMContract
from agentfund.trading import Direction, Proposal

LONG = Proposal(direction=Direction.LONG)


def asked(agent: str = "strategist") -> Prompt:
    return Prompt(agent, "", {}, Proposal)


class TestScripted(LLMContract):
    patience_s = 5.0

    def make_llm(self) -> LLM:
        self.llm = ScriptedLLM(repeat(LONG), price_usd="0.01", usage=Usage(10, 5, 2))
        return self.llm

    def make_failing_llm(self) -> LLM:
        self.llm = ScriptedLLM(repeat(Overloaded("busy")))
        return self.llm

    def make_slow_llm(self) -> LLM:
        return ScriptedLLM(repeat(LONG), latency_s=60)

    def requests(self) -> int:
        return len(self.llm.prompts)


async def test_records_are_proper_answers_and_strings_are_raw() -> None:
    """A record parses to itself, None is an abstention, and text comes out as it went in."""
    llm = ScriptedLLM([LONG, Answer[Proposal](value=LONG, abstain=None), None, "no JSON"])
    texts = [(await llm.complete(asked())).text for _ in range(4)]
    assert asked().parse(texts[0]).value == LONG
    assert asked().parse(texts[1]).value == LONG
    assert asked().parse(texts[2]).value is None
    assert texts[3] == "no JSON"


async def test_exceptions_are_raised_and_completions_returned() -> None:
    """The same exception may be raised twice without growing a traceback."""
    error, ready = Overloaded("busy"), Completion("{}", "r", "m")
    llm = ScriptedLLM([error, ready])
    with pytest.raises(Overloaded) as caught:
        await llm.complete(asked())
    assert caught.value is error
    assert await llm.complete(asked()) is ready


async def test_answers_by_agent_and_by_function() -> None:
    """Each agent has a script of its own; a function sees the prompt; what was asked is kept."""
    llm = ScriptedLLM({"a": ["one", "two"], "b": lambda prompt: prompt.agent.upper()})
    assert [(await llm.complete(asked(agent))).text for agent in "abab"] == ["one", "B", "two", "B"]
    assert [prompt.agent for prompt in llm.prompts] == ["a", "b", "a", "b"]
    with pytest.raises(LLMUnavailable, match="no answers for c, only for a, b"):
        await llm.complete(asked("c"))


async def test_a_script_that_ends_says_so() -> None:
    """It names the script, the question and the agent."""
    llm = ScriptedLLM(["one"], name="desk")
    await llm.complete(asked())
    with pytest.raises(LLMUnavailable, match="'desk' has no answer left for question 2, by strategist"):
        await llm.complete(asked())


async def test_price_usage_and_latency_are_what_was_said() -> None:
    """A simulated second passes on the simulated clock."""
    clock = SimulatedClock()
    llm = ScriptedLLM([LONG], price_usd=0.1, usage=Usage(3, 2, 1), latency_s=1.5, clock=clock)
    completion = await llm.complete(asked())
    assert llm.worst_case_usd(asked()) == completion.billed_usd == completion.notional_usd == Decimal("0.1")
    assert (completion.usage, completion.latency_s, clock.monotonic()) == (Usage(3, 2, 1), 1.5, 1.5)


@pytest.mark.parametrize("script", ["text", LONG, 7])
def test_a_bare_answer_is_no_script(script: object) -> None:
    """A string would be read letter by letter."""
    with pytest.raises(ConfigError, match="list of answers"):
        ScriptedLLM(script)  # type: ignore[arg-type]


def test_the_face_of_the_package_is_complete_and_sorted() -> None:
    """Every name that is promised is there, and no other."""
    assert sorted(agentfund.llms.__all__) == agentfund.llms.__all__ == dir(agentfund.llms)
    for name in agentfund.llms.__all__:
        assert getattr(agentfund.llms, name).__name__ == name
    with pytest.raises(AttributeError, match="Oracle"):
        _ = agentfund.llms.Oracle
