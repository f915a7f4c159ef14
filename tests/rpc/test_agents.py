"""Agents that a server hosts stand in a pipeline as the local ones do; who does not answer approves nothing."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from agentfund import Abstain, Agent, Backtest, Limits, Orchestrator, Proposal, Router, Verdict, agent
from agentfund.buses import MemoryBus
from agentfund.core.codec import dump_opinion
from agentfund.core.context import Snapshot, State
from agentfund.core.ledger import collecting
from agentfund.core.safety import SafetyWrapper
from agentfund.errors import ConfigError, LLMUnavailable
from agentfund.feeds.simulated import SimulatedMarket
from agentfund.llms.rules import Rules
from agentfund.llms.scripted import ScriptedLLM
from agentfund.messages import Decided, Opined, Opinion, Stance
from agentfund.prompt import Untrusted
from agentfund.rpc import GateServer, RemoteAgent
from agentfund.rpc import gate_pb2 as pb
from agentfund.specialists.desk import RiskGate, desk
from agentfund.trading import Direction, Portfolio
from tests.market import bars, blind, broker, buyer, fund, last, no, wave, yes
from tests.rpc.servers import answering

D = Decimal
PROPOSED = Opinion("buyer", "Proposal", Stance.VALUE, Proposal(direction=Direction.LONG, thesis="up \ud83d", stop_pct=2))


def shown(reads: tuple[Any, ...] = (Proposal,), *, portfolio: bool = True) -> Snapshot:
    """Return what an agent sees that reads a proposal."""
    market = last(bars(wave(60)))
    state = State(run="r", cycle=7, time=market.now, portfolio=Portfolio(D("99.5")), equity=D(100), peak_equity=D(120))
    return Snapshot(state, market, {}).seen_by(reads, {"buyer": PROPOSED}, None, portfolio)


class Careful(Agent[Verdict]):
    """Judge by all that is shown."""

    reads = (Proposal,)

    def rule(self, context: Snapshot) -> Verdict:
        """Say what was seen."""
        window, proposal, state = context.bars, context.latest(Proposal), context.state
        seen = (context.now, len(window), window.price, proposal.thesis, state.portfolio.cash, state.drawdown, state.cycle)
        return Verdict(approved=True, reason=ascii(seen))


class Declared(Agent[Verdict]):
    """What a fund knows of an agent whose code it does not have."""

    reads = (Proposal,)


class Mistaken(Agent[Proposal]):
    """What a fund believes of an agent that gives something else."""


async def opinion(remote: RemoteAgent[Any], context: Snapshot | None = None) -> Opinion:
    """Return the opinion as the fund's own wrapper makes it."""
    judged = SafetyWrapper(remote).opine(context or shown())
    assert not isinstance(judged, tuple)
    return (await judged)[0]


async def hosted(one: Agent[Any], context: Snapshot | None = None, **options: Any) -> Opinion:
    """Return the opinion of an agent that a server hosts."""
    with GateServer("127.0.0.1:0", agents=[one]) as server:
        remote = RemoteAgent(one, server.address, **options)
        try:
            return await opinion(remote, context)
        finally:
            remote.close()


# In a fund


@pytest.fixture(scope="module")
def risk() -> Iterator[str]:
    with GateServer("127.0.0.1:0", agents=[RiskGate()]) as server:
        yield server.address


def decisions(agents: list[Agent[Any]], feed: Any) -> list[Any]:
    """Return the decisions and the opinions of a fund that runs over a feed."""
    bus = MemoryBus()
    Backtest(Orchestrator(agents, bus=bus), feed, broker()).run()

    async def read() -> list[Any]:
        found: list[Any] = []
        async for message in bus.read():
            if isinstance(message.event, Decided):
                found.append(message.event.decision.model_dump(exclude={"id"}))
            elif isinstance(message.event, Opined) and message.event.opinion.agent == "risk_gate":
                found.append(message.payload["opinion"] | {"answered_by": ""})
        return found

    return asyncio.run(read())


def test_the_desk_decides_the_same_with_its_risk_gate_elsewhere(risk: str) -> None:
    """Bar by bar, with the same reasons."""
    feed = SimulatedMarket(bars=2000, seed=4)
    local, remote = desk(), desk()
    remote[2] = there = RemoteAgent(RiskGate(), risk, same_code=True)
    found = decisions(remote, feed)
    there.close()
    assert found == decisions(local, feed)
    assert len(found) > 40


def test_a_fund_whose_risk_gate_is_gone_orders_nothing(risk: str) -> None:
    """The opinion is unavailable, and that is a no."""
    gone = RemoteAgent(yes, "127.0.0.1:1")
    told = [one["reason"] for one in decisions([buyer, gone, blind], bars(wave(20))) if "outcome" in one]
    assert told
    assert {reason for reason in told if "yes" not in reason} == set()
    report = Backtest(fund(buyer, gone, blind), bars(wave(20)), broker()).run()
    assert len(report.fills) == 0
    gone.close()


# What an agent is shown, and what it says


async def test_it_is_shown_what_it_would_be_shown_here() -> None:
    """Bars, portfolio, what it reads: every bit of it."""
    assert (await hosted(Careful())).value == Careful().rule(shown())


async def test_it_is_shown_the_newest_bars_and_no_more_than_it_wants() -> None:
    """The last price is the same."""
    told = await hosted(Careful(), bars=7)
    assert told.value.reason == Careful().rule(shown()).reason.replace(", 60, ", ", 7, ")


async def test_an_agent_that_does_not_see_the_portfolio_is_not_sent_it() -> None:
    """And one that does is not asked without."""

    class MarketOnly(Agent[Verdict]):
        reads = (Proposal,)
        sees_portfolio = False

        def rule(self, context: Snapshot) -> Verdict:
            return Verdict(approved=context.bars.price > 0, reason=type(context).__name__)

    told = await hosted(MarketOnly(), shown(portfolio=False))
    assert told.value == Verdict(approved=True, reason="MarketSnapshot")
    refused = await hosted(Careful(), shown(portfolio=False))
    assert (refused.stance, "the question has none" in refused.reason) == (Stance.UNAVAILABLE, True)


async def test_vetoes_and_abstentions_come_back() -> None:
    """With their reasons."""

    @agent(reads=(Proposal,))
    async def silent(context: Any) -> Verdict | Abstain:
        await asyncio.sleep(0)
        return Abstain("nothing to say \ud83d")

    assert (await hosted(no)).value == Verdict(approved=False, reason="not today")
    assert RemoteAgent(no, "127.0.0.1:1").veto
    told = await hosted(silent)
    assert (told.stance, told.reason) == (Stance.ABSTAINS, "nothing to say \ud83d")


async def test_a_failure_there_is_unavailable_here() -> None:
    """With the reason, and without a view."""

    @agent(reads=(Proposal,))
    def broken(context: Any) -> Verdict:
        raise ZeroDivisionError("oh")

    told = await hosted(broken)
    assert (told.stance, told.value) == (Stance.UNAVAILABLE, None)
    assert "ZeroDivisionError: oh" in told.reason


async def test_what_language_models_cost_there_is_on_the_ledger_here() -> None:
    """Each attempt, with its price."""
    asked = Careful(ScriptedLLM([Verdict(approved=True, reason="fine")], price_usd="0.25"))
    with GateServer("127.0.0.1:0", agents=[asked]) as server, collecting() as rows:
        remote = RemoteAgent(Declared(name="careful"), server.address)
        assert await remote.run(shown()) == Verdict(approved=True, reason="fine")
        remote.close()
    assert [(row.agent, row.route, row.outcome, row.billed_usd) for row in rows] == [("careful", "scripted", "ok", D("0.25"))]


async def test_a_rule_that_answers_for_language_models_that_are_down_is_degraded_here_too() -> None:
    """Nothing may add risk on it; a rule that is the agent's own is not degraded."""
    down = ScriptedLLM([LLMUnavailable("down")] * 9)
    with GateServer("127.0.0.1:0", agents=[Careful(Router([down, Rules()]))]) as server:
        remote = RemoteAgent(Careful(), server.address)
        judged = SafetyWrapper(remote).opine(shown())
        assert not isinstance(judged, tuple)
        told, rows = await judged
        remote.close()
    assert told.degraded
    assert [row.route for row in rows if row.outcome == "ok"] == ["rules"]
    said = Opinion("declared", "Verdict", Stance.VALUE, APPROVED.value, degraded=True)
    with answering(lambda request: reply(request, said)) as address:
        remote = RemoteAgent(Declared(), address)
        assert (await opinion(remote)).degraded
        remote.close()
    assert not (await hosted(Careful(Rules()))).degraded
    assert not (await hosted(Careful())).degraded


# No answer


async def test_no_answer_in_time_is_unavailable() -> None:
    """And the agent there is told that nobody waits for it."""
    begun, ended = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    @agent(reads=(Proposal,))
    async def thinker(context: Any) -> Verdict:
        loop.call_soon_threadsafe(begun.set)
        try:
            await asyncio.sleep(3_600)
        finally:
            loop.call_soon_threadsafe(ended.set)
        return Verdict(approved=True, reason="too late")

    with GateServer("127.0.0.1:0", agents=[thinker]) as server:
        remote = RemoteAgent(thinker, server.address, timeout=timedelta(seconds=0.3))
        told = await opinion(remote)
        assert (told.stance, "did not answer within 0.3 s" in told.reason) == (Stance.UNAVAILABLE, True)
        await ended.wait()
        begun.clear()
        ended.clear()
        patient = RemoteAgent(thinker, server.address, timeout=timedelta(hours=1))
        asking = asyncio.ensure_future(patient.run(shown()))
        await begun.wait()
        asking.cancel()
        await asyncio.wait_for(ended.wait(), 30)
        remote.close()
        patient.close()


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "nobody": (Declared(name="nobody"), {}, "no agent 'nobody' is hosted here"),
    "other output": (Mistaken(name="careful"), {}, "gives a Verdict"),
    "other code": (Declared(name="careful"), {"same_code": True}, "another version of careful"),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_question_that_is_not_for_the_agent_that_is_hosted_is_refused(kind: str) -> None:
    """With the reason."""
    declared, options, reason = REFUSED[kind]
    with GateServer("127.0.0.1:0", agents=[Careful()]) as server:
        remote = RemoteAgent(declared, server.address, **options)
        told = await opinion(remote)
        remote.close()
    assert (told.stance, reason in told.reason) == (Stance.UNAVAILABLE, True)


def reply(request: bytes, given: Opinion, **changes: Any) -> bytes:
    told: dict[str, Any] = {
        "opinion": json.dumps(dump_opinion(given)).encode(),
        "calls": b"[]",
        "request_sha256": hashlib.sha256(request).digest(),
    }
    return pb.JudgeReply(**{**told, **changes}).SerializeToString()


APPROVED = Opinion("declared", "Verdict", Stance.VALUE, Verdict(approved=True, reason="yes"))
NO_OPINION: dict[str, Any] = {
    "nothing": lambda request: b"",
    "garbage": lambda request: b"\xff\xff",
    "other question": lambda request: reply(request, APPROVED, request_sha256=b"other"),
    "other agent": lambda request: reply(request, Opinion("other", "Verdict", Stance.VALUE, APPROVED.value)),
    "other output": lambda request: reply(request, Opinion("declared", "View", Stance.VALUE, {"direction": "long"})),
    "no verdict": lambda request: reply(request, Opinion("declared", "Verdict", Stance.VALUE, {"approved": "perhaps"})),
    "no value": lambda request: reply(request, Opinion("declared", "Verdict", Stance.VALUE, None)),
}


@pytest.mark.parametrize("kind", NO_OPINION)
async def test_an_answer_that_is_none_approves_nothing(kind: str) -> None:
    """Whoever gave it."""
    with answering(lambda request: reply(request, APPROVED)) as address:
        remote = RemoteAgent(Declared(), address)
        assert (await opinion(remote)).value == APPROVED.value
        remote.close()
    with answering(NO_OPINION[kind]) as address:
        remote = RemoteAgent(Declared(), address)
        told = await opinion(remote)
        remote.close()
    assert (told.stance, told.value) in ((Stance.UNAVAILABLE, None), (Stance.ABSTAINS, None))


def test_what_cannot_stand_elsewhere_is_refused() -> None:
    """When it is put together."""

    class Reader(Agent[Verdict]):
        def untrusted(self, context: Snapshot) -> dict[str, Untrusted]:
            return {}

    with pytest.raises(ConfigError, match="reads text from outside"):
        RemoteAgent(Reader(), "127.0.0.1:1")
    with pytest.raises(ConfigError, match="at least one bar"):
        RemoteAgent(Declared(), "127.0.0.1:1", bars=0)
    with pytest.raises(ConfigError, match="plaintext"):
        RemoteAgent(Declared(), "risk.example.com:50051")
    with pytest.raises(ConfigError, match="different names"):
        GateServer("127.0.0.1:0", Limits(), agents=[yes, yes])


def test_it_is_declared_by_the_agent_in_whose_place_it_stands() -> None:
    """What it reads, its veto, its schedule; where it lives is no part of what it is."""
    local = RiskGate()
    local.every = 3
    one, other = RemoteAgent(local, "127.0.0.1:1"), RemoteAgent(local, "127.0.0.1:2")
    for trait in ("name", "output", "reads", "veto", "tier", "every"):
        assert getattr(one, trait) == getattr(local, trait)
    assert one.digest == other.digest != local.digest
    market = last(bars([100.0]))
    assert [one.due(market, cycle, Portfolio(D(1))) for cycle in range(1, 5)] == [False, False, True, False]
