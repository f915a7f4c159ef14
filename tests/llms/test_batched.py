"""Batches: every question gets its own answer or its own error, at half the price, and what nobody waits for is given up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from agentfund.backtest.engine import Backtest
from agentfund.brokers.paper import PaperBroker
from agentfund.buses.memory import MemoryBus
from agentfund.clock import SimulatedClock
from agentfund.core.ledger import Ledger
from agentfund.core.orchestrator import Orchestrator
from agentfund.core.router import Router
from agentfund.core.safety import SafetyLimits
from agentfund.errors import (
    BadCredentials,
    BadRequest,
    BudgetExceeded,
    ConfigError,
    LLMError,
    LLMTimeout,
    Overloaded,
    RateLimited,
    Refused,
)
from agentfund.feeds.simulated import SimulatedMarket
from agentfund.llms.anthropic import Anthropic
from agentfund.llms.batched import Batched
from agentfund.llms.openai import OpenAI
from agentfund.llms.prices import Price
from agentfund.llms.scripted import ScriptedLLM
from agentfund.messages import Message
from agentfund.prompt import Completion, Prompt, Usage
from agentfund.protocols import LLM, identity
from agentfund.specialists import RegimeClassifier, desk
from agentfund.testing import LLMContract
from agentfund.testing.provider import Fault, Provider, Request
from agentfund.trading import Proposal

KEY = "sk-batch-0123456789"
PRICE = Price(Decimal(4), Decimal(20))
ROUTES = ("anthropic", "responses", "chat")
Route = Anthropic | OpenAI


def make(which: str, provider: Provider, **more: Any) -> Route:
    if which == "anthropic":
        return Anthropic(**{"api_key": KEY, "base_url": provider.url} | more)
    given: dict[str, Any] = {"api_key": KEY, "base_url": f"{provider.url}/v1", "free": False, "api": which}
    return OpenAI(**given | more)


def prompt(number: int = 0, **more: Any) -> Prompt:
    given: dict[str, Any] = {"agent": "a", "instructions": "Propose.", "inputs": {"n": number}, "output": Proposal}
    return Prompt(**given | more)


def number_of(request: Request) -> int:
    return int(json.loads(request.user)["n"])


def text(number: int) -> str:
    return f'{{"value":null,"abstain":"{number}"}}'


def numbered(request: Request) -> str:
    """Each question gets its own number back."""
    return text(number_of(request))


class TestBatchedContract(LLMContract):
    """The shipped suite: in a batch or not, a route is a route."""

    @pytest.fixture(autouse=True)
    def _servers(self) -> Iterator[None]:
        with Provider(batch_looks=0) as good, Provider() as bad, Provider(batch_looks=10**6) as slow:
            bad.fail(Fault.http(529))
            self.good, self.bad, self.slow = good, bad, slow
            yield

    def batched(self, provider: Provider) -> Batched:
        return Batched(make("anthropic", provider), gather_s=0.005, poll_s=0.005)

    def make_llm(self) -> Batched:
        return self.batched(self.good)

    def make_failing_llm(self) -> Batched:
        return self.batched(self.bad)

    def make_slow_llm(self) -> Batched:
        return self.batched(self.slow)


@pytest.mark.parametrize("which", ROUTES)
async def test_every_question_gets_its_own_answer_at_half_the_price(which: str) -> None:
    """Whatever the order in which a provider answers, and whatever language models were asked; usage is the server's."""
    tiers: list[Any] = ["strong", "middle", "small"]
    with Provider(numbered) as provider:
        route = make(which, provider, llm={"strong": "s", "middle": "m", "small": "l"}, prices=dict.fromkeys("sml", PRICE))
        prompts = [prompt(number, tier=tiers[number % 3]) for number in range(12)]
        answers = await route.complete_many(prompts, poll_s=0.005)
        counted = {number_of(served.request): served.usage for served in provider.requests}
        for number, answer in enumerate(answers):
            assert isinstance(answer, Completion)
            assert answer.text == text(number)
            assert answer.llm == "sml"[number % 3]
            assert answer.usage == counted[number]
            assert answer.billed_usd == answer.notional_usd == PRICE.cost(answer.usage) / 2


@pytest.mark.parametrize("which", ROUTES)
async def test_every_question_fails_by_itself(which: str) -> None:
    """One error is one question's; the others are answered."""
    faults = {1: Fault.rate_limited(), 2: Fault.refusal(), 3: Fault.hang(), 4: Fault.http(401), 5: Fault.http(400)}
    with Provider(lambda request: faults.get(number_of(request)) or numbered(request)) as provider:
        route = make(which, provider)
        wrong = prompt(6, instructions=f"Use {KEY}")
        answers = await route.complete_many([*(prompt(number) for number in range(6)), wrong, prompt(7)], poll_s=0.005)
    kinds = [type(answer) for answer in answers]
    assert kinds == [Completion, RateLimited, Refused, Overloaded, BadCredentials, BadRequest, BadRequest, Completion]
    refused = answers[2]
    assert isinstance(refused, Refused)
    assert refused.completion is not None
    assert refused.completion.usage.input_tokens > 0
    assert len(provider.requests) == 7


@pytest.mark.parametrize("which", ROUTES)
async def test_nothing_is_left_at_the_provider(which: str) -> None:
    """Files hold questions and answers, so they are deleted."""
    with Provider(numbered) as provider:
        await make(which, provider).complete_many([prompt()], poll_s=0.005)
        assert provider.files == []


@pytest.mark.parametrize("which", ROUTES)
async def test_a_batch_that_is_not_taken_is_everybodys_error(which: str) -> None:
    """Each has an error of its own, and nobody pays."""
    with Provider(numbered) as provider:
        provider.fail(Fault.rate_limited(7))
        answers = await make(which, provider).complete_many([prompt(0), prompt(1)], poll_s=0.005)
        assert [type(answer) for answer in answers] == [RateLimited, RateLimited]
        assert answers[0] is not answers[1]
        assert all(isinstance(answer, LLMError) and answer.completion is None for answer in answers)
        assert provider.requests == []


async def test_a_look_that_fails_is_tried_again() -> None:
    """The batch goes on without us, and its answers are paid: one bad minute must not lose them."""
    with Provider(numbered, batch_looks=2) as provider:
        route = make("anthropic", provider)
        task = asyncio.ensure_future(route.complete_many([prompt()], poll_s=0.01))
        while not provider.batches:
            await asyncio.sleep(0.001)
        provider.fail(Fault.http(529), 2)
        provider.fail(Fault.rate_limited(1), 1)
        [answer] = await task
    assert isinstance(answer, Completion)


@pytest.mark.parametrize("which", ROUTES)
async def test_a_key_that_is_taken_back_ends_the_wait(which: str) -> None:
    """Looking again would not help; what the batch will cost is booked at its worst, which is half."""
    with Provider(numbered, batch_looks=10**6) as provider:
        route = make(which, provider, llm="m", prices={"m": PRICE})
        task = asyncio.ensure_future(route.complete_many([prompt()], poll_s=0.005))
        while not provider.batches:
            await asyncio.sleep(0.001)
        provider.fail(Fault.http(401))
        [answer] = await task
    assert isinstance(answer, BadCredentials)
    assert answer.completion is not None
    assert answer.completion.billed_usd == route.worst_case_usd(prompt()) / 2


@pytest.mark.parametrize("which", ROUTES)
async def test_a_batch_that_takes_too_long_is_given_up(which: str) -> None:
    """On the clock: a simulated one makes a day short."""
    with Provider(numbered, batch_looks=10**6) as provider:
        route = make(which, provider, clock=SimulatedClock())
        [answer] = await route.complete_many([prompt()], poll_s=3600, deadline_s=86_400)
        [batch] = provider.batches
        assert isinstance(answer, LLMTimeout)
        assert answer.completion is not None
        assert batch.cancelled
        assert 10**6 - batch.looks <= 26


@pytest.mark.parametrize("which", ROUTES)
async def test_who_is_cancelled_cancels_the_batch(which: str) -> None:
    """Nobody pays for what nobody waits for, as far as it can be helped."""
    with Provider(numbered, batch_looks=10**6) as provider:
        task = asyncio.ensure_future(make(which, provider).complete_many([prompt()], poll_s=0.01))
        while not provider.batches:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(batch.cancelled for batch in provider.batches)
    assert provider.requests == []


async def test_without_a_key_nothing_is_handed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same words as for one question; no questions are no batch."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    [answer] = await Anthropic().complete_many([prompt()])
    assert isinstance(answer, BadCredentials)
    with Provider() as provider:
        assert await make("anthropic", provider).complete_many([]) == []
        assert provider.batches == []


async def test_questions_that_come_close_together_are_one_batch() -> None:
    """And those that come later are another; a full one does not wait."""
    with Provider(numbered, batch_looks=0) as provider:
        route = Batched(make("anthropic", provider), gather_s=0.05, most=3, poll_s=0.005)
        answers = await asyncio.gather(*(route.complete(prompt(number)) for number in range(7)))
        assert [answer.text for answer in answers] == [text(number) for number in range(7)]
        assert sorted(len(batch.items) for batch in provider.batches) == [1, 3, 3]
        await route.complete(prompt(7))
        assert len(provider.batches) == 4
        assert sum((answer.usage for answer in answers), Usage()) != provider.usage()


async def test_a_router_asks_a_batch_like_any_route() -> None:
    """Parsed, repaired and booked as ever; a question that fails there fails alone."""
    with Provider(lambda request: Fault.refusal() if number_of(request) == 1 else numbered(request)) as provider:
        batched = Batched(make("responses", provider), gather_s=0.01, poll_s=0.005)
        router = Router([batched], budget_usd_per_day=10, concurrency=100)
        answers = await asyncio.gather(*(router.complete(prompt(number)) for number in range(5)), return_exceptions=True)
    assert [isinstance(answer, Completion) for answer in answers] == [True, False, True, True, True]
    assert len(provider.batches) == 1


async def test_who_leaves_before_the_batch_is_not_asked_for() -> None:
    """The others are; and when all have left, there is no batch at all."""
    with Provider(numbered, batch_looks=0) as provider:
        route = Batched(make("anthropic", provider), gather_s=0.05, poll_s=0.005)
        leaves, stays = (asyncio.ensure_future(route.complete(prompt(number))) for number in range(2))
        await asyncio.sleep(0)
        leaves.cancel()
        assert (await stays).text == text(1)
        assert [number_of(served.request) for served in provider.requests] == [1]
        alone = asyncio.ensure_future(route.complete(prompt()))
        await asyncio.sleep(0.001)
        alone.cancel()
        await asyncio.wait([alone])
        await asyncio.sleep(0.06)
        assert len(provider.batches) == 1


def test_its_answers_are_the_routes_own() -> None:
    """Recordings of one replay for the other; another name is possible where both stand side by side."""
    route = Anthropic(effort="low")
    batched = Batched(route)
    assert identity(batched, prompt()) == identity(route, prompt())
    assert (batched.suits, batched.adds) == (route.suits, route.adds)
    assert batched.worst_case_usd(prompt()) == route.worst_case_usd(prompt())
    assert Batched(route, name="night").name == "night"


async def test_what_failed_is_booked_under_its_own_name() -> None:
    """The ledger shows which route it was."""
    with Provider(Fault.refusal(), batch_looks=0) as provider:
        batched = Batched(make("anthropic", provider), name="night", gather_s=0, poll_s=0.005)
        with pytest.raises(Refused) as caught:
            await batched.complete(prompt())
    assert caught.value.completion is not None
    assert caught.value.completion.route == "night"


def test_what_cannot_work_is_said_when_it_is_built() -> None:
    """A route without batches, and numbers that make no sense."""
    with pytest.raises(ConfigError, match="takes no batches"):
        Batched(ScriptedLLM([]))  # type: ignore[arg-type]
    for wrong in ({"most": 0}, {"poll_s": 0}, {"gather_s": -1}, {"deadline_s": 0}):
        with pytest.raises(ConfigError):
            Batched(Anthropic(), **wrong)  # type: ignore[arg-type]


def test_a_route_without_prices_stops_a_budget() -> None:
    """What it can cost is not known, and not nothing."""

    class Bare:
        name = "bare"

        async def complete_many(self, prompts: Any, **how: Any) -> list[Completion | LLMError]:
            return []

    with pytest.raises(BudgetExceeded):
        Batched(Bare()).worst_case_usd(prompt())


def test_a_backtest_asked_ahead_of_time_makes_a_few_batches_of_many_questions() -> None:
    """The classifier's questions about 120 bars go in two batches, at half the price, with the log of asking one by one."""
    answer = json.dumps({"value": {"trend": "RANGING", "volatility": "normal"}, "abstain": None})
    logs, spent = [], []
    for batched in (True, False):
        with Provider(answer) as provider:
            route = Anthropic("m", api_key="sk-0123456789", base_url=provider.url, prices={"m": Price(3, 15)})
            asked: LLM = Batched(route, gather_s=0.3, poll_s=0.05) if batched else route
            router = Router([asked], concurrency=60 if batched else 8)
            bus = MemoryBus()
            agents = [RegimeClassifier(router), *desk()[1:]]
            fund = Orchestrator(agents, bus=bus, safety=SafetyLimits(time_limit_s=86_400))
            Backtest(fund, SimulatedMarket(bars=120, seed=1), PaperBroker()).run()
            messages = asyncio.run(_read(bus))
            logs.append([m.payload["opinion"] for m in messages if m.type == "Opined"])
            spent.append(Ledger.of(messages).billed_usd)
            if batched:
                assert 2 <= len(provider.batches) <= 4
    assert logs[0] == logs[1]
    assert float(spent[0]) == pytest.approx(float(spent[1]) / 2, rel=0.05)  # the wire form of a batch is a little longer


async def _read(bus: MemoryBus) -> list[Message]:
    return [message async for message in bus.read()]
