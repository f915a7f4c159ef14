"""What a router adds to a call, beside litellm's Router and pydantic-ai's FallbackModel; and asking ahead of time.

All three route a typed question to a language model that takes no time, in the process: ours with breaker, budget, ledger
row and strict validation; litellm's Router with its mock response, cool-downs and fallbacks, validated by pydantic
afterwards; pydantic-ai's FallbackModel over two function models, through an agent with the same output type. litellm pins
an older openai, so it runs in an environment of its own, in turns with ours.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from agentfund import (
    Backtest,
    Direction,
    MemoryBus,
    Orchestrator,
    PaperBroker,
    Prompt,
    Proposal,
    Router,
    SafetyLimits,
    Verdict,
    View,
)
from agentfund.feeds import SimulatedMarket
from agentfund.llms import RecordedLLM, ScriptedLLM
from agentfund.prompt import Completion, Usage
from agentfund.specialists import JournalEntry, Regime, Trend, desk
from benchmarks._measure import figure

ROOT = Path(__file__).parent.parent
PEERS = ROOT / ".venv-peers/bin/python"
TEXT = '{"value":{"approved":true,"reason":"there is room"},"abstain":null}'
ROUNDS, CALLS = 9, 300


class Zero:
    """A route that takes no time."""

    llm = "zero"

    def __init__(self, name: str) -> None:
        self.name = name

    async def complete(self, prompt: Prompt) -> Completion:
        """Answer at once."""
        return Completion(TEXT, self.name, "zero", Usage(100, 20), Decimal("0.001"), Decimal("0.001"))

    def worst_case_usd(self, prompt: Prompt) -> Decimal:
        """Return a cent."""
        return Decimal("0.01")


def question() -> Prompt:
    """Return a question as an agent asks it."""
    return Prompt("risk_gate", "Judge the proposal.", {"drawdown_pct": 1.5, "day_pnl_pct": -0.2}, Verdict)


async def ours(router: Router) -> float:
    """Return seconds per call, one after the other."""
    began = time.perf_counter()
    for _ in range(CALLS):
        assert (await router.complete(question())).answer is not None
    return (time.perf_counter() - began) / CALLS


async def bare() -> float:
    """Return seconds per call of the route alone: what is not ours of it."""
    route = Zero("zero")
    began = time.perf_counter()
    for _ in range(CALLS):
        await route.complete(question())
    return (time.perf_counter() - began) / CALLS


async def at_once() -> float:
    """Return seconds per call of 1,000 that are under way at the same time."""

    class Slow(Zero):
        async def complete(self, prompt: Prompt) -> Completion:
            await asyncio.sleep(0)
            return await super().complete(prompt)

    router = Router([Slow("a"), Zero("b")], concurrency=1000, budget_usd_per_day=10**6)
    began = time.perf_counter()
    await asyncio.gather(*(router.complete(question()) for _ in range(1000)))
    return (time.perf_counter() - began) / 1000


def pydantic_ai() -> Any:
    """Return a coroutine function that gives seconds per call through a FallbackModel."""
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.messages import ModelResponse, TextPart
    from pydantic_ai.models.fallback import FallbackModel
    from pydantic_ai.models.function import FunctionModel
    from pydantic_ai.profiles import ModelProfile

    async def answer(messages: Any, info: Any) -> ModelResponse:
        return ModelResponse(parts=[TextPart('{"approved":true,"reason":"there is room"}')])

    profile = ModelProfile(supports_json_schema_output=True)
    model = FallbackModel(FunctionModel(answer, profile=profile), FunctionModel(answer, profile=profile))
    agent: Any = Agent(model, output_type=NativeOutput(Verdict), instructions="Judge the proposal.")

    async def run() -> float:
        began = time.perf_counter()
        for _ in range(CALLS // 10):
            assert (await agent.run('{"drawdown_pct":1.5,"day_pnl_pct":-0.2}')).output.approved
        return (time.perf_counter() - began) / (CALLS // 10)

    return run


class Litellm:
    """litellm's Router in an environment of its own; each `round` gives seconds per call."""

    def __init__(self) -> None:
        script = [str(PEERS), str(Path(__file__).with_name("_litellm.py")), str(CALLS // 10)]
        alone = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # no look at the network
        self._process = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=alone)
        assert self._process.stdout is not None
        self.version = self._process.stdout.readline().strip()

    def round(self) -> float:
        """Run once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=30)


def drawn(prompt: Prompt) -> Any:
    """Answer by the question alone: a proposal at one bar of 25."""
    chance = int(hashlib.sha256(prompt.question.encode()).hexdigest(), 16)
    answers: dict[str, Any] = {
        "regime_classifier": Regime(trend=Trend.RANGING if chance % 2 else Trend.TRENDING_BULLISH, volatility="normal"),
        "strategist": Proposal(direction=Direction.LONG, stop_pct=2) if chance % 25 == 0 else None,
        "risk_gate": Verdict(approved=chance % 5 > 0, reason="there is room"),
        "fact_checker": Verdict(approved=True, reason="the price stands"),
        "double_checker": View(direction=Direction.LONG, reason="above the mean"),
        "journal_writer": JournalEntry(text="The desk bought."),
    }
    return answers[prompt.agent]


def backtest(llm: Any, *, ahead: bool, cycles: int = 1000) -> tuple[float, list[str]]:
    """Return the seconds of a backtest of the six-agent desk, and its log."""
    unlimited = SafetyLimits(agent_consultations_per_hour=10**9, fund_consultations_per_hour=10**9)
    bus = MemoryBus()
    router = Router([llm], concurrency=32, budget_usd_per_run=1000)
    fund = Orchestrator(desk(router, sees_portfolio=False), bus=bus, safety=unlimited)
    began = time.perf_counter()
    Backtest(fund, SimulatedMarket("SIM", bars=cycles, seed=3), PaperBroker(), ahead=ahead).run()
    seconds = time.perf_counter() - began

    async def lines() -> list[str]:
        messages: AsyncIterator[Any] = bus.read()
        return [message.line() async for message in messages]

    return seconds, asyncio.run(lines())


def figures() -> Iterator[dict[str, Any]]:
    """Give what a call through the router costs, beside each peer in turns, then backtests with a language model of 50 ms."""
    peer = pydantic_ai()
    litellm = Litellm() if PEERS.exists() else None
    best = dict.fromkeys(("ours", "bare", "at once", "pydantic-ai", "litellm"), float("inf"))
    for _ in range(ROUNDS):
        gc.collect()
        router = Router([Zero("a"), Zero("b")], budget_usd_per_day=10**6)
        best["ours"] = min(best["ours"], asyncio.run(ours(router)))
        best["bare"] = min(best["bare"], asyncio.run(bare()))
        best["at once"] = min(best["at once"], asyncio.run(at_once()))
        best["pydantic-ai"] = min(best["pydantic-ai"], asyncio.run(peer()))
        if litellm is not None:
            best["litellm"] = min(best["litellm"], litellm.round())
    us = {name: seconds * 1e6 for name, seconds in best.items()}
    yield figure("llms: our own part of a call", us["ours"] - us["bare"], "us")
    yield figure("llms: our own part of a call, 1,000 at once", us["at once"] - us["bare"], "us")
    yield figure("llms: a routed call", us["ours"], "us", peer="pydantic-ai-slim", peer_value=us["pydantic-ai"])
    if litellm is not None:
        litellm.close()
        theirs = us["litellm"]
        yield figure("llms: a routed call", us["ours"], "us", peer="litellm", peer_value=theirs, version_=litellm.version)
    slow = 0.05
    early, log = backtest(ScriptedLLM(drawn, latency_s=slow, price_usd="0.001", usage=Usage(100, 20)), ahead=True)
    in_turn, other = backtest(ScriptedLLM(drawn, latency_s=slow, price_usd="0.001", usage=Usage(100, 20)), ahead=False)
    assert log == other, "asked ahead of time and in sequence, the logs differ"
    yield figure("llms: 1,000 cycles of the desk at 50 ms a call, asked in sequence", in_turn, "s")
    yield figure("llms: 1,000 cycles of the desk at 50 ms a call, asked ahead of time", early, "s")
    yield figure("llms: asked ahead of time, as a part of asking in sequence", early / in_turn, "ratio")
    with tempfile.TemporaryDirectory() as folder:
        llm = ScriptedLLM(drawn, usage=Usage(100, 20))
        backtest(RecordedLLM(Path(folder, "cassette.db"), llm), ahead=True)
        asked = len(llm.prompts)
        replayed, _ = backtest(RecordedLLM(Path(folder, "cassette.db"), llm, "replay"), ahead=True)
        yield figure("llms: the same 1,000 cycles replayed", replayed, "s")
        yield figure("llms: calls made by the replay", len(llm.prompts) - asked, "calls")
