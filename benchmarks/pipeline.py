"""One cycle of the desk's graph with a zero-latency language model, beside the same graph in langgraph and pydantic-ai.

All three ask six agents for the same typed answers: regime, then strategist, then three gates at the same time, then the
journal. Ours also wraps each agent in safety limits, keeps the ledger, judges, gates, and writes the whole cycle to its
log in memory. langgraph asks its own fake chat model, parses with its own parser, counts tokens with its usage handler
and keeps the cycle in its in-memory checkpointer; "bare nodes" leaves all of that out, so that its nodes only validate a
string. pydantic-ai keeps no record.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from pydantic import BaseModel

from agentfund import Direction, MemoryBus, Orchestrator, PaperBroker, Proposal, SafetyLimits, Verdict, View
from agentfund.feeds import SimulatedMarket
from agentfund.llms import ScriptedLLM
from agentfund.prompt import Prompt
from agentfund.specialists import JournalEntry, Regime, Trend, desk
from benchmarks._measure import figure

CYCLES, ROUNDS = 200, 7
ANSWERS: dict[str, BaseModel] = {
    "regime_classifier": Regime(trend=Trend.TRENDING_BULLISH, volatility="normal"),
    "strategist": Proposal(direction=Direction.LONG, thesis="a break of the range", stop_pct=2, target_pct=4),
    "risk_gate": Verdict(approved=True, reason="there is room"),
    "fact_checker": Verdict(approved=True, reason="the price stands"),
    "double_checker": View(direction=Direction.LONG, reason="above the mean"),
    "journal_writer": JournalEntry(text="The desk bought, all gates agreed."),
}
JSON = {name: answer.model_dump_json() for name, answer in ANSWERS.items()}


async def agentfund() -> float:
    """Return seconds per cycle of ours."""
    unlimited = SafetyLimits(agent_consultations_per_hour=10**9, fund_consultations_per_hour=10**9)

    def answer(prompt: Prompt) -> Any:
        return ANSWERS[prompt.agent]

    fund = Orchestrator(desk(ScriptedLLM(answer)), bus=MemoryBus(), mode="autonomous", safety=unlimited)
    session = fund.session(SimulatedMarket("SIM", bars=CYCLES), PaperBroker(cash=100_000))
    began = time.perf_counter()
    async for decision in session.steps():
        assert decision is not None
    return (time.perf_counter() - began) / CYCLES


def langgraph(*, bare: bool = False) -> Callable[[], Awaitable[float]]:
    """Return a function that gives seconds per cycle of the same graph in langgraph."""
    from itertools import count, cycle
    from typing import TypedDict

    from langchain_core.callbacks import UsageMetadataCallbackHandler
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
    from langchain_core.output_parsers import PydanticOutputParser
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import END, START, StateGraph

    class State(TypedDict, total=False):
        regime_classifier: Any
        strategist: Any
        risk_gate: Any
        fact_checker: Any
        double_checker: Any
        journal_writer: Any

    def node(name: str) -> Any:
        kind = type(ANSWERS[name])
        used: Any = {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}
        answer = AIMessage(JSON[name], usage_metadata=used, response_metadata={"model_name": "scripted"})
        chat = GenericFakeChatModel(messages=cycle([answer]))
        parser: Any = PydanticOutputParser(pydantic_object=kind)

        async def ask(state: State) -> dict[str, Any]:
            question = [SystemMessage(f"You are the {name}."), HumanMessage("decide")]
            return {name: parser.invoke(await chat.ainvoke(question))}

        async def validate(state: State) -> dict[str, Any]:
            return {name: kind.model_validate_json(JSON[name])}

        return validate if bare else ask

    graph = StateGraph(State)
    for name in ANSWERS:
        graph.add_node(f"ask_{name}", node(name))
    graph.add_edge(START, "ask_regime_classifier")
    graph.add_edge("ask_regime_classifier", "ask_strategist")
    for gate in ("risk_gate", "fact_checker", "double_checker"):
        graph.add_edge("ask_strategist", f"ask_{gate}")
    graph.add_edge(["ask_risk_gate", "ask_fact_checker", "ask_double_checker"], "ask_journal_writer")
    graph.add_edge("ask_journal_writer", END)
    compiled = graph.compile(checkpointer=None if bare else InMemorySaver())
    threads = count()

    async def run() -> float:
        began = time.perf_counter()
        for _ in range(CYCLES // 4):
            ledger: Any = [] if bare else [UsageMetadataCallbackHandler()]
            state = await compiled.ainvoke({}, {"configurable": {"thread_id": str(next(threads))}, "callbacks": ledger})
            assert len(state) == len(ANSWERS)
        return (time.perf_counter() - began) / (CYCLES // 4)

    return run


def pydantic_ai() -> Callable[[], Awaitable[float]]:
    """Return a function that gives seconds per cycle of the same graph in pydantic-ai."""
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.messages import ModelResponse, TextPart
    from pydantic_ai.models.function import FunctionModel
    from pydantic_ai.profiles import ModelProfile

    def scripted(name: str) -> Any:
        async def answer(messages: Any, info: Any) -> ModelResponse:
            return ModelResponse(parts=[TextPart(JSON[name])])

        return FunctionModel(answer, profile=ModelProfile(supports_json_schema_output=True))

    agents: dict[str, Any] = {
        name: Agent(scripted(name), output_type=NativeOutput(type(answer)), instructions=f"You are the {name}.")
        for name, answer in ANSWERS.items()
    }

    async def cycle() -> None:
        for name in ("regime_classifier", "strategist"):
            await agents[name].run("decide")
        await asyncio.gather(*(agents[name].run("judge") for name in ("risk_gate", "fact_checker", "double_checker")))
        assert (await agents["journal_writer"].run("write")).output == ANSWERS["journal_writer"]

    async def run() -> float:
        began = time.perf_counter()
        for _ in range(CYCLES // 4):
            await cycle()
        return (time.perf_counter() - began) / (CYCLES // 4)

    return run


def figures() -> Iterator[dict[str, Any]]:
    """Give the cost of a cycle beside each peer, in turn, the least of some rounds."""
    peers = {
        ("langgraph", ""): langgraph(),
        ("langgraph", ", its bare nodes"): langgraph(bare=True),
        ("pydantic-ai-slim", ""): pydantic_ai(),
    }
    for (peer, how), run in peers.items():
        ours = theirs = float("inf")
        for _ in range(ROUNDS):
            ours = min(ours, asyncio.run(agentfund()))
            theirs = min(theirs, asyncio.run(_awaited(run)))
        yield figure(f"pipeline: a cycle of six agents{how}", ours * 1e6, "us", peer=peer, peer_value=theirs * 1e6)


async def _awaited(run: Callable[[], Awaitable[float]]) -> float:
    return await run()
