"""The drill: real SDKs against local providers that fail in every way, with a fund behind them."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from itertools import chain
from typing import Any

import pytest

from agentfund.brokers.paper import PaperBroker
from agentfund.buses.memory import MemoryBus
from agentfund.clock import SimulatedClock, SystemClock
from agentfund.core.ledger import Ledger, Row, collecting
from agentfund.core.orchestrator import Orchestrator
from agentfund.core.router import Router
from agentfund.errors import LLMUnavailable
from agentfund.feeds.simulated import SimulatedMarket
from agentfund.llms import Anthropic, OpenAI, Rules
from agentfund.llms.prices import Price
from agentfund.messages import Call, Message
from agentfund.prompt import Prompt, Usage
from agentfund.protocols import LLM
from agentfund.specialists import desk
from agentfund.testing.provider import Fault, Provider, Request
from agentfund.trading import Verdict

PRICE = Price(Decimal(3), Decimal(15), Decimal("0.3"), Decimal("3.75"))
KEY = "sk-drill-0123456789abcdef"
ANSWERS = {
    "You classify": {"trend": "TRENDING_BULLISH", "volatility": "normal"},
    "You propose": {
        "direction": "long", "thesis": "up", "symbol": "", "confidence": 0.6, "stop_pct": 2, "target_pct": 4,
        "position_scale": 1,
    },
    "You are the risk gate": {"approved": True, "reason": "room"},
    "You are the fact checker": {"approved": True, "reason": "stands"},
    "You give a second opinion": {"direction": "long", "symbol": "", "confidence": 0.6, "reason": "above"},
    "You keep the journal": {"text": "The desk bought."},
}  # fmt: skip


def bullish(request: Request) -> str:
    """Answer each role so that the desk buys."""
    role = request.system.partition("Your role:")[2]
    value = next(value for word, value in ANSWERS.items() if word in role)
    return json.dumps({"value": value, "abstain": None})


def anthropic(provider: Provider, **more: Any) -> Anthropic:
    return Anthropic("m", api_key=KEY, base_url=provider.url, prices={"m": PRICE}, **more)


def openai(provider: Provider, **more: Any) -> OpenAI:
    return OpenAI("m", api_key=KEY, base_url=f"{provider.url}/v1", prices={"m": PRICE}, **more)


def cost(usage: Usage) -> Decimal:
    plain = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
    tokens = (plain, usage.output_tokens, usage.cached_tokens, usage.cache_write_tokens)
    rates = (PRICE.input_usd, PRICE.output_usd, PRICE.cached_usd, PRICE.cache_write_usd)
    return sum((n * rate for n, rate in zip(tokens, rates, strict=True)), Decimal(0)) / 1_000_000


async def trade(router: Router, bars: int = 3, **more: Any) -> list[Message]:
    """Run the desk, autonomous, over a few bars; return its log."""
    bus = MemoryBus()
    fund = Orchestrator(desk(router), bus=bus, mode="autonomous", **more)
    async for _ in fund.run(SimulatedMarket(bars=bars), PaperBroker()):
        pass
    return [message async for message in bus.read()]


RESETS = round(SystemClock().now().timestamp() + 18_000)
# What the provider does; what the ledger calls it; the state of the breaker after it.
FAULTS: dict[str, tuple[Fault, str, str]] = {
    "400": (Fault.http(400), "BadRequest", "closed"),
    "401": (Fault.http(401), "BadCredentials", "off"),
    "403": (Fault.http(403), "BadCredentials", "off"),
    "404 unknown model": (Fault.http(404), "BadCredentials", "off"),
    "413": (Fault.http(413), "BadRequest", "closed"),
    "429": (Fault.rate_limited(), "RateLimited", "open"),
    "429 with retry-after": (Fault.rate_limited(33), "RateLimited", "open"),
    "month's limit": (Fault.spend_limit(), "UsageCapped", "open"),
    "workspace limit": (Fault.usage_limits(), "UsageCapped", "open"),
    "low credit": (Fault.low_credit(), "UsageCapped", "open"),
    "quota": (Fault.insufficient_quota(), "UsageCapped", "open"),
    "plan limit": (Fault.plan_limit(RESETS), "UsageCapped", "open"),
    "500": (Fault.http(500), "Overloaded", "open"),
    "503": (Fault.http(503), "Overloaded", "open"),
    "529": (Fault.http(529), "Overloaded", "open"),
    "hang": (Fault.hang(), "LLMTimeout", "open"),
    "slow drip": (Fault.drip(0.5), "LLMTimeout", "open"),
    "reset": (Fault.reset(), "Overloaded", "open"),
    "reset mid-body": (Fault.cut(), "Overloaded", "open"),
    "truncated JSON": (Fault.truncated(), "Overloaded", "open"),
    "wrong shape": (Fault.wrong_shape(), "Overloaded", "open"),
    "a web page": (Fault.html(), "Overloaded", "open"),
    "refusal": (Fault.refusal(), "Refused", "closed"),
    "empty answer": (Fault.empty(), "InvalidOutput", "closed"),
    "cut off": (Fault.max_tokens(), "InvalidOutput", "closed"),
    "ten megabytes": (Fault.huge(), "InvalidOutput", "closed"),
}
MAKERS: list[Callable[..., Any]] = [anthropic, openai, lambda provider: openai(provider, api="chat")]


@pytest.mark.parametrize("make", MAKERS, ids=["messages", "responses", "chat"])
@pytest.mark.parametrize("name", FAULTS)
async def test_every_failure_leaves_the_book_unchanged(name: str, make: Callable[..., Any]) -> None:
    """No order; the breaker where it belongs; a row for every request; what may have been billed is booked."""
    fault, outcome, state = FAULTS[name]
    with Provider(bullish) as provider:
        provider.fail(fault)
        router = Router([make(provider)], failures=2, deadline_s=0.25 if name in ("hang", "slow drip") else 10, retries=0)
        messages = await trade(router)
        kinds = Counter(message.type for message in messages)
        assert kinds["Intended"] == kinds["Filled"] == 0
        assert {m.payload["opinion"]["stance"] for m in messages if m.type == "Opined"} == {"unavailable"}
        ledger = Ledger.of(messages)
        sent = [row.call for row in ledger.rows if row.call.route != "router"]
        assert [call.outcome for call in sent] == [outcome] * len(provider.requests)
        status = router.status()[0]
        assert ("off" if status["disabled"] else status["state"]) == state
        if name == "429 with retry-after":
            assert 32 <= status["retry_after"] <= 33
        if name == "plan limit":
            assert status["retry_after"] == pytest.approx(RESETS - SystemClock().now().timestamp(), abs=60)
        if name != "ten megabytes":  # longer than any answer that was asked for, so no price can cover it
            assert ledger.billed_usd >= cost(provider.usage())
        assert KEY not in "".join(message.line() for message in messages)


@pytest.mark.parametrize("role", list(ANSWERS)[:4])
async def test_one_agent_that_fails_is_enough_to_do_nothing(role: str) -> None:
    """All others would buy."""
    with Provider(lambda request: Fault.http(500) if role in request.system else bullish(request)) as provider:
        messages = await trade(Router([anthropic(provider)], retries=0, failures=100))
        assert "Intended" not in {message.type for message in messages}
    with Provider(bullish) as provider:
        messages = await trade(Router([anthropic(provider)]))
        assert "Intended" in {message.type for message in messages}


async def test_two_fallbacks_deep_the_desk_still_trades() -> None:
    """The first route is capped, the second broken, the third answers; each says in the ledger what it did."""
    with Provider(Fault.spend_limit()) as first, Provider(Fault.http(503)) as second, Provider(bullish) as third:
        routes: list[LLM] = [anthropic(first, name="a"), openai(second, name="b"), openai(third, name="c", api="chat")]
        router = Router(routes, budget_usd_per_day=5, failures=3, concurrency=1)
        messages = await trade(router)
        assert "Intended" in {message.type for message in messages}
        by_route = Ledger.of(messages).by("route")
        assert (by_route["a"].calls, by_route["b"].calls) == (1, 3)
        assert by_route["c"].ok == by_route["c"].calls == len(third.requests)
        assert [m.payload["route"] for m in messages if m.type == "Tripped"] == ["a", "b"]


async def test_all_routes_down_the_fund_goes_on_with_its_rules_and_opens_nothing() -> None:
    """Rules keep the desk talking; the gate lets nothing through that adds risk."""
    with Provider(Fault.http(529)) as provider:
        router = Router([anthropic(provider), openai(provider), Rules()], retries=0)
        messages = await trade(router, bars=900)
        opinions = [m.payload["opinion"] for m in messages if m.type == "Opined"]
        assert {o["answered_by"] for o in opinions if o["stance"] == "value"} == {"rules"}
        assert "Intended" not in {message.type for message in messages}


async def test_recovery_is_found_with_exactly_one_trial() -> None:
    """Of 100 callers one asks; when it is answered, all are."""
    clock = SimulatedClock()
    with Provider(json.dumps({"value": {"approved": True, "reason": "fine"}, "abstain": None})) as provider:
        router = Router([anthropic(provider)], failures=3, cooldown_s=30, retries=0, clock=clock, concurrency=100)
        prompt = Prompt("risk_gate", "Judge.", {"x": 1}, Verdict)
        provider.fail(Fault.http(529))
        for _ in range(5):
            with pytest.raises(LLMUnavailable):
                await router.complete(prompt)
        assert len(provider.requests) == 3
        clock.advance(30)
        await asyncio.gather(*(router.complete(prompt) for _ in range(100)), return_exceptions=True)
        assert len(provider.requests) == 4
        provider.recover()
        clock.advance(60)
        got = await asyncio.gather(*(router.complete(prompt) for _ in range(100)), return_exceptions=True)
        assert len(provider.requests) == 5
        assert sum(not isinstance(one, BaseException) for one in got) == 1
        assert await router.complete(prompt)


async def test_a_storm_of_429_sends_no_more_than_the_slots_and_one_trial_for_each_rest() -> None:
    """1,000 questions against a provider that answers 429 for a minute."""
    clock = SimulatedClock()
    with Provider(Fault.rate_limited(20)) as provider:
        router = Router([anthropic(provider)], concurrency=8, retries=0, clock=clock)
        prompt = Prompt("risk_gate", "Judge.", {"x": 1}, Verdict)
        for trials in range(3):
            await asyncio.gather(*(router.complete(prompt) for _ in range(1000)), return_exceptions=True)
            assert len(provider.requests) <= 8 + trials
            clock.advance(20)


MIX = [
    Fault.http(400), Fault.http(500), Fault.http(529), Fault.rate_limited(0.001), Fault.refusal(), Fault.empty(),
    Fault.max_tokens(), Fault.html(), Fault.reset(),
]  # fmt: skip


def mixed(seed: int) -> Callable[[Request], str | Fault]:
    """Answer well, badly, or not at all, by chance."""
    chance = random.Random(seed)
    spoilt: list[str | Fault] = [*MIX, "prose", '{"value":{"approved":"perhaps"},"abstain":null}']

    def answer(request: Request) -> str | Fault:
        if chance.random() < 0.7:
            return json.dumps({"value": {"approved": True, "reason": "x" * chance.randrange(60)}, "abstain": None})
        return chance.choice(spoilt)

    return answer


async def test_the_ledger_is_what_the_providers_counted_over_10_000_mixed_calls() -> None:
    """Call by call and token by token, three APIs, repairs and failures among them; money to the last digit."""
    rows: list[Call] = []
    clock = SimulatedClock()
    with (
        Provider(mixed(1), cached_tokens=40, cache_write_tokens=30) as first,
        Provider(mixed(2), cached_tokens=25) as second,
        Provider(mixed(3), cache_write_tokens=60) as third,
    ):
        providers = {"a": first, "b": second, "c": third}
        routes: list[LLM] = [anthropic(first, name="a"), openai(second, name="b"), openai(third, name="c", api="chat")]
        router = Router(
            routes,
            order={"reasoning": ["a", "b", "c"], "code": ["c", "b", "a"]},
            budget_usd_per_run=1000,
            failures=10**9,
            retries=0,
            concurrency=16,
            clock=clock,
        )
        number = 0
        while sum(len(provider.requests) for provider in providers.values()) < 10_000:
            prompts = [
                Prompt("risk_gate", "Judge.", {"number": number + i}, Verdict, task="code" if i % 2 else "reasoning")
                for i in range(100)
            ]
            number += len(prompts)
            with collecting() as found:
                await asyncio.gather(*(router.complete(prompt) for prompt in prompts), return_exceptions=True)
            rows += found
            clock.advance(7200)  # whoever rests after a rate limit or a failed trial is back
        sent = [row for row in rows if row.route in providers]
        assert router.budget is not None
        assert router.budget.reserved_usd == 0
        assert router.budget.spent_usd == Ledger(Row(row, SystemClock().now()) for row in rows).billed_usd
        for name, provider in providers.items():
            mine = [row for row in sent if row.route == name]
            assert len(mine) == len(provider.requests)
            told = {row.request_id: row for row in mine if row.request_id}
            for served in provider.requests:
                if served.usage != Usage():  # what was answered at all has an id
                    row = told[f"req_{served.request.number:08d}"]
                    assert row.usage == served.usage
                    assert row.billed_usd == row.notional_usd == cost(served.usage)
            assert sum((row.usage for row in mine), Usage()) == provider.usage()
            unknown = [row for row in mine if row.billed_usd and row.usage == Usage()]
            resets = sum(served.fault is not None and served.fault.kind == "reset" for served in provider.requests)
            assert len(unknown) == resets  # nobody knows whether these were billed, so they are booked at their worst case
            known = [row.billed_usd for row in mine if row.usage != Usage()]
            assert sum(known, Decimal(0)) == sum(chain([Decimal(0)], (cost(s.usage) for s in provider.requests)), Decimal(0))
