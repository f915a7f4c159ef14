from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from agentfund.errors import LLMUnavailable
from agentfund.llms import Rules
from agentfund.prompt import Prompt
from agentfund.protocols import LLM
from agentfund.testing.llm import LLMContract
from agentfund.trading import Direction, Proposal, Verdict

LONG = Proposal(direction=Direction.LONG, thesis='a "quoted" thesis')


@dataclass
class Abstain:
    reason: str


def asked(rule: Callable[[], Any] | None) -> Prompt:
    return Prompt("strategist", "", {}, Proposal, rule=rule)


def broken() -> Proposal:
    raise ZeroDivisionError("no bars")


class TestRules(LLMContract):
    def make_llm(self) -> LLM:
        return Rules()

    def make_failing_llm(self) -> LLM:
        class Failing(Rules):
            async def complete(self, prompt: Prompt) -> Any:
                return await super().complete(asked(broken))

        return Failing()

    def prompt(self) -> Prompt:
        return asked(lambda: LONG)


async def test_the_rule_answers() -> None:
    """Its value comes back as it was given, for nothing, from the route `rules`."""
    prompt = asked(lambda: LONG)
    completion = await Rules().complete(prompt)
    assert prompt.parse(completion.text).value == LONG
    assert (completion.route, completion.llm) == ("rules", "rule twin")
    assert completion.billed_usd == completion.notional_usd == 0


@pytest.mark.parametrize(("given", "reason"), [(None, "nothing to say"), (Abstain("no trend"), "no trend")])
async def test_a_rule_may_abstain(given: object, reason: str) -> None:
    """With a reason, or without."""
    prompt = asked(lambda: given)
    assert prompt.parse((await Rules().complete(prompt)).text).abstain == reason


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (None, "strategist has no rule twin"),
        (broken, "failed: ZeroDivisionError: no bars"),
        (lambda: Verdict(approved=False, reason="no"), "gave a Verdict: it must give a Proposal"),
        (lambda: 7, "gave a int"),
    ],
)
async def test_a_rule_that_does_not_answer_is_no_answer(rule: Callable[[], Any] | None, why: str) -> None:
    """Missing, broken or of the wrong type: unavailable, and it says why; another type's reason is no abstention."""
    with pytest.raises(LLMUnavailable, match=why):
        await Rules().complete(asked(rule))
