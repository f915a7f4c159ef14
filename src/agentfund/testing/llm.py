"""What a route to a language model must keep: subclass the suite, say how to make one, and run pytest.

class TestMyRoute(LLMContract):
    def make_llm(self):
        return MyRoute(base_url=local_server.url)
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from agentfund.errors import LLMError
from agentfund.prompt import Completion, Prompt
from agentfund.protocols import Priced
from agentfund.trading import Proposal

if TYPE_CHECKING:
    from agentfund.protocols import LLM

T = TypeVar("T")

_BEAT_S = 0.005
_STALL_S = 0.25  # longer than a slow machine stops by itself
_WATCHED_S = 0.3


class LLMContract:
    """The contract of `LLM`, as tests.

    Override `make_llm`; the other methods that begin with `make_` or name a value are optional and make the suite
    sharper. Every test makes an LLM of its own and runs in an event loop of its own.
    """

    patience_s = 30.0

    def make_llm(self) -> LLM:
        """Return a new LLM that answers `prompt()` at least 20 times."""
        raise NotImplementedError("override make_llm: return a new LLM that answers prompt()")

    def make_failing_llm(self) -> LLM | None:
        """Return a new LLM whose every call fails, None where that cannot be arranged."""
        return None

    def make_slow_llm(self) -> LLM | None:
        """Return a new LLM that takes longer than `patience_s`, None where cancelling a call that waits cannot be tested."""
        return None

    def requests(self) -> int | None:
        """Return how many requests have reached the provider so far, None where nobody counts."""
        return None

    def prompt(self) -> Prompt:
        """Return a prompt that the LLM can answer."""
        return Prompt(
            agent="strategist",
            instructions="Propose one trade, or abstain and say why.",
            inputs={"close": [100.0, 101.5, 103.0], "regime": "trending"},
            output=Proposal,
        )

    def test_it_has_one_name(self) -> None:
        """The name is in every ledger row, so it is there and stays the same."""
        llm = self.make_llm()
        assert isinstance(llm.name, str), f"name is a {type(llm.name).__name__}, not a string"
        assert llm.name, "the name is empty"
        assert llm.name == llm.name, "the name changes"

    def test_it_answers_with_a_completion(self) -> None:
        """Text, route, language model, usage and price are what the words say."""
        _check(_run(self, self.make_llm().complete(self.prompt())))

    def test_an_answer_that_it_has_parsed_is_its_text(self) -> None:
        """Whoever parses early parses as strictly as the router does."""
        prompt = self.prompt()
        completion = _run(self, self.make_llm().complete(prompt))
        if completion.answer is not None:
            assert completion.answer == prompt.parse(completion.text), "answer is not what its own text says"

    def test_it_leaves_the_prompt_alone(self) -> None:
        """The same question may go to the next route."""
        prompt = self.prompt()
        before = self.prompt().question
        _run(self, self.make_llm().complete(prompt))
        assert Prompt(**{name: getattr(prompt, name) for name in prompt.__dataclass_fields__}).question == before, (
            "complete() changed the prompt's inputs"
        )

    def test_it_costs_no_more_than_its_worst_case(self) -> None:
        """A budget reserves the worst case, and holds only if that is true."""
        llm, prompt = self.make_llm(), self.prompt()
        if not isinstance(llm, Priced):
            pytest.skip("it has no prices, so no budget will take it")
        worst_case = llm.worst_case_usd(prompt)
        assert isinstance(worst_case, Decimal), f"worst_case_usd is a {type(worst_case).__name__}, not a Decimal"
        assert worst_case.is_finite(), f"worst_case_usd is {worst_case}"
        assert worst_case >= 0, f"worst_case_usd is {worst_case}"
        billed = _run(self, llm.complete(prompt)).billed_usd
        assert billed <= worst_case, f"billed {billed} USD, at most {worst_case} USD was announced"

    def test_it_answers_many_at_once(self) -> None:
        """Agents that do not need each other are asked at the same time."""

        async def ask() -> list[Completion]:
            llm = self.make_llm()
            return await asyncio.gather(*(llm.complete(self.prompt()) for _ in range(10)))

        for completion in _run(self, ask()):
            _check(completion)

    def test_it_answers_in_another_event_loop(self) -> None:
        """The same object is asked today in one loop and tomorrow in another."""
        llm = self.make_llm()
        for _ in range(2):
            _check(_run(self, llm.complete(self.prompt())))

    def test_a_cancelled_call_ends_at_once_and_leaves_nothing_running(self) -> None:
        """A call that waits leaves the event loop to others; cancellation passes through; no task is left behind."""
        slow = self.make_slow_llm()

        async def cancel() -> None:
            llm = slow or self.make_llm()
            others = asyncio.all_tasks()
            task = asyncio.ensure_future(llm.complete(self.prompt()))
            if slow is None:
                await asyncio.sleep(0.01)
            else:
                stall_s = await _longest_stall()
                assert not task.done(), f"the slow call ended before it was cancelled: {_end_of(task)}"
                assert stall_s <= _STALL_S, f"the call blocked the event loop for {stall_s:.2f} s: wait with await"
            if not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=2.0)
                assert task.done(), "a cancelled call goes on for more than 2 s"
                assert task.cancelled(), f"a cancelled call must raise CancelledError, not swallow it: {_end_of(task)}"
            for _ in range(3):
                await asyncio.sleep(0)
            left = asyncio.all_tasks() - others - {task}
            assert not left, f"tasks are left running: {left}"

        if slow is not None:
            _run(self, self.make_llm().complete(self.prompt()))  # what is imported once, at the first call, is not a wait
        _run(self, cancel())
        if slow is None:
            pytest.skip("make_slow_llm is not overridden, so no call was cancelled while it waits")

    def test_it_fails_with_an_llm_error(self) -> None:
        """Whatever breaks inside, the router sees an `LLMError`."""
        llm = self.make_failing_llm()
        if llm is None:
            pytest.skip("make_failing_llm is not overridden")
        error = _run(self, _error_of(llm, self.prompt()))
        assert error is not None, "a call that fails must raise: an answer made up is worse than none"
        assert isinstance(error, LLMError), f"it raised a {type(error).__name__}, which is no LLMError: {error}"

    def test_it_does_not_try_again_by_itself(self) -> None:
        """The router is the only one that retries: a failed call is one request."""
        llm = self.make_failing_llm()
        before = self.requests()
        if llm is None or before is None:
            pytest.skip("make_failing_llm and requests are not both overridden")
        _run(self, _error_of(llm, self.prompt()))
        after = self.requests()
        assert after is not None
        assert after - before <= 1, f"one failed call made {after - before} requests: switch its own retries off"


async def _longest_stall() -> float:
    """Let others run for a while; return the seconds of the longest time in which the event loop did not come back."""
    clock = asyncio.get_running_loop().time
    longest_s = 0.0
    begin = before = clock()
    while before - begin < _WATCHED_S:
        await asyncio.sleep(_BEAT_S)
        now = clock()
        longest_s, before = max(longest_s, now - before - _BEAT_S), now
    return longest_s


def _end_of(task: asyncio.Task[Any]) -> str:
    if task.cancelled():
        return "cancelled by itself"
    error = task.exception()
    return f"it returned {task.result()!r}" if error is None else f"it raised {type(error).__name__}: {error}"


async def _error_of(llm: LLM, prompt: Prompt) -> Exception | None:
    try:
        await llm.complete(prompt)
    except Exception as error:
        return error
    return None


def _run(suite: LLMContract, work: Coroutine[Any, Any, T]) -> T:
    async def within() -> T:
        async with asyncio.timeout(suite.patience_s):
            return await work

    return asyncio.run(within())


def _check(completion: Completion) -> None:
    assert isinstance(completion, Completion), f"complete returned a {type(completion).__name__}, not a Completion"
    for name in ("text", "route", "llm", "request_id"):
        value = getattr(completion, name)
        assert isinstance(value, str), f"{name} is a {type(value).__name__}, not a string"
    assert completion.route, "the completion does not say its route"
    assert completion.llm, "the completion does not say which language model answered"
    for name in ("input_tokens", "output_tokens", "cached_tokens"):
        assert getattr(completion.usage, name) >= 0, f"usage.{name} is {getattr(completion.usage, name)}"
    assert completion.usage.cached_tokens <= completion.usage.input_tokens, "input_tokens must count cached tokens too"
    for name in ("billed_usd", "notional_usd"):
        amount = getattr(completion, name)
        if amount is None and name == "notional_usd":
            continue
        assert isinstance(amount, Decimal), f"{name} is a {type(amount).__name__}, not a Decimal"
        assert amount.is_finite(), f"{name} is {amount}"
        assert amount >= 0, f"{name} is {amount}"
    assert completion.latency_s >= 0, f"latency_s is {completion.latency_s}"
