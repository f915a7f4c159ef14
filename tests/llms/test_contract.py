from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from agentfund.errors import Overloaded
from agentfund.prompt import Answer, Completion, Prompt, Usage
from agentfund.protocols import LLM
from agentfund.testing.llm import LLMContract

GOOD = Completion('{"value":null,"abstain":"no"}', "good", "m", Usage(2, 1, 1), Decimal("0.01"), Decimal("0.01"))


class Good:
    """Keeps the contract; each broken one below changes one thing."""

    name = "good"
    gives = GOOD
    worst = Decimal("0.01")
    requests = 0

    async def complete(self, prompt: Prompt) -> Completion:
        type(self).requests += 1
        return self.gives

    def worst_case_usd(self, prompt: Prompt) -> Decimal:
        return self.worst


class Failing(Good):
    async def complete(self, prompt: Prompt) -> Completion:
        type(self).requests += 1
        raise Overloaded("busy")


class Slow(Good):
    async def complete(self, prompt: Prompt) -> Completion:
        await asyncio.sleep(3600)
        return self.gives


def suite(llm: type[Good], failing: type[Good] = Failing, slow: type[Good] | None = Slow) -> LLMContract:
    class Suite(LLMContract):
        patience_s = 5.0

        def make_llm(self) -> LLM:
            return llm()

        def make_failing_llm(self) -> LLM:
            return failing()

        def make_slow_llm(self) -> LLM | None:
            return None if slow is None else slow()

        def requests(self) -> int:
            return failing.requests

    return Suite()


def giving(**change: Any) -> type[Good]:
    return type("Broken", (Good,), {"gives": replace(GOOD, **change)})


class Nameless(Good):
    name = ""


class Changing(Good):
    async def complete(self, prompt: Prompt) -> Completion:
        prompt.inputs["close"].append(1.0)
        return self.gives


class OneAtATime(Good):
    busy = False

    async def complete(self, prompt: Prompt) -> Completion:
        if self.busy:
            raise RuntimeError("busy")
        self.busy = True
        await asyncio.sleep(0)
        self.busy = False
        return self.gives


class OneLoop(Good):
    loop: asyncio.AbstractEventLoop | None = None

    async def complete(self, prompt: Prompt) -> Completion:
        self.loop = self.loop or asyncio.get_running_loop()
        if self.loop is not asyncio.get_running_loop():
            raise RuntimeError("attached to a different loop")
        return self.gives


class Swallowing(Good):
    async def complete(self, prompt: Prompt) -> Completion:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return self.gives
        return self.gives


class Leaving(Good):
    kept: list[asyncio.Task[None]]

    async def complete(self, prompt: Prompt) -> Completion:
        self.kept = [asyncio.ensure_future(asyncio.sleep(3600))]
        await asyncio.shield(self.kept[0])
        return self.gives


class LeavingAtOnce(Leaving):
    async def complete(self, prompt: Prompt) -> Completion:
        self.kept = [asyncio.ensure_future(asyncio.sleep(3600))]
        return self.gives


class Blocking(Good):
    async def complete(self, prompt: Prompt) -> Completion:
        await asyncio.sleep(0.05)
        time.sleep(0.4)
        await asyncio.sleep(3600)
        return self.gives


class EndingByItself(Good):
    async def complete(self, prompt: Prompt) -> Completion:
        raise asyncio.CancelledError


class Raising(Good):
    async def complete(self, prompt: Prompt) -> Completion:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise Overloaded("cut off") from None
        return self.gives


class Leaking(Good):
    async def complete(self, prompt: Prompt) -> Completion:
        raise ConnectionError("reset by peer")


class Retrying(Failing):
    async def complete(self, prompt: Prompt) -> Completion:
        type(self).requests += 2
        return await super().complete(prompt)


TESTS = [name for name in dir(LLMContract) if name.startswith("test_")]
ANSWERS, PRICES = "test_it_answers_with_a_completion", "test_it_costs_no_more_than_its_worst_case"
CANCELS = "test_a_cancelled_call_ends_at_once_and_leaves_nothing_running"
WRONG: list[tuple[str, Callable[[], LLMContract]]] = [
    ("test_it_has_one_name", lambda: suite(Nameless)),
    (ANSWERS, lambda: suite(giving(text=None))),
    (ANSWERS, lambda: suite(giving(route=""))),
    (ANSWERS, lambda: suite(giving(llm=""))),
    (ANSWERS, lambda: suite(giving(usage=Usage(-1, 0, 0)))),
    (ANSWERS, lambda: suite(giving(usage=Usage(1, 0, 2)))),
    (ANSWERS, lambda: suite(giving(billed_usd=0.01))),
    (ANSWERS, lambda: suite(giving(billed_usd=Decimal(-1)))),
    (ANSWERS, lambda: suite(giving(notional_usd=Decimal("NaN")))),
    (ANSWERS, lambda: suite(giving(latency_s=-1.0))),
    ("test_an_answer_that_it_has_parsed_is_its_text", lambda: suite(giving(answer=Answer(value=None, abstain="yes")))),
    ("test_it_leaves_the_prompt_alone", lambda: suite(Changing)),
    (PRICES, lambda: suite(giving(billed_usd=Decimal(1)))),
    (PRICES, lambda: suite(type("Infinite", (Good,), {"worst": Decimal("Infinity")}))),
    ("test_it_answers_many_at_once", lambda: suite(OneAtATime)),
    ("test_it_answers_in_another_event_loop", lambda: suite(OneLoop)),
    (CANCELS, lambda: suite(Good, slow=Swallowing)),
    (CANCELS, lambda: suite(Good, slow=Raising)),
    (CANCELS, lambda: suite(Good, slow=Leaving)),
    (CANCELS, lambda: suite(LeavingAtOnce, slow=None)),
    (CANCELS, lambda: suite(Good, slow=Good)),
    (CANCELS, lambda: suite(Good, slow=Failing)),
    (CANCELS, lambda: suite(Good, slow=EndingByItself)),
    (CANCELS, lambda: suite(Good, slow=Blocking)),
    ("test_it_fails_with_an_llm_error", lambda: suite(Good, failing=Leaking)),
    ("test_it_fails_with_an_llm_error", lambda: suite(Good, failing=Good)),
    ("test_it_does_not_try_again_by_itself", lambda: suite(Good, failing=Retrying)),
]


@pytest.mark.parametrize("name", TESTS)
def test_a_good_llm_passes(name: str) -> None:
    """The suite does not ask for more than the contract says."""
    getattr(suite(Good), name)()


@pytest.mark.parametrize(("name", "broken"), WRONG)
def test_a_broken_llm_does_not_pass(name: str, broken: Callable[[], LLMContract]) -> None:
    """Each breach is found by the test that is named for it."""
    with pytest.raises((AssertionError, RuntimeError)):
        getattr(broken(), name)()


@pytest.mark.parametrize("llm", [Good, Slow])
def test_what_needs_a_slow_llm_is_skipped_visibly(llm: type[Good]) -> None:
    """Without one a suite is not green where it has looked at nothing."""
    with pytest.raises(pytest.skip.Exception, match="make_slow_llm is not overridden"):
        getattr(suite(llm, slow=None), CANCELS)()


def test_every_test_of_the_suite_can_fail() -> None:
    """There is a broken LLM for each, and each says in a sentence what it is for."""
    assert {name for name, _ in WRONG} == set(TESTS)
    assert all(inspect.getdoc(getattr(LLMContract, name)) for name in TESTS)
