from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.backtest.engine import Backtest
from agentfund.brokers.paper import PaperBroker
from agentfund.buses.memory import MemoryBus
from agentfund.clock import SimulatedClock
from agentfund.core.agent import Abstain, Agent, agent
from agentfund.core.ahead import foreseen
from agentfund.core.context import Snapshot
from agentfund.core.ledger import Ledger
from agentfund.core.orchestrator import Orchestrator
from agentfund.core.router import Router
from agentfund.core.safety import SafetyLimits
from agentfund.errors import ConfigError, LLMUnavailable, Overloaded, PipelineError, UsageCapped
from agentfund.feeds.history import Bars
from agentfund.feeds.simulated import SimulatedMarket
from agentfund.llms import RecordedLLM, Rules, ScriptedLLM
from agentfund.messages import Message
from agentfund.prompt import Prompt, Usage
from agentfund.protocols import LLM
from agentfund.specialists import JournalEntry, Regime, RegimeClassifier, RiskGate, Strategist, Trend, desk
from agentfund.trading import Direction, Proposal, Verdict, View

UNLIMITED = SafetyLimits(agent_consultations_per_hour=10**9, fund_consultations_per_hour=10**9)
Answer = Callable[[Prompt], Any]


def drawn(prompt: Prompt) -> Any:
    """Answer by the prompt alone, as a language model without chance would."""
    chance = int(hashlib.sha256(prompt.question.encode()).hexdigest(), 16)
    answers: dict[str, Any] = {
        "regime_classifier": Regime(trend=list(Trend)[chance % 5], volatility="normal") if chance % 7 else None,
        "strategist": Proposal(direction=list(Direction)[chance % 3], stop_pct=2) if chance % 4 == 0 else None,
        "risk_gate": Verdict(approved=chance % 3 > 0, reason="room"),
        "fact_checker": Verdict(approved=chance % 5 > 0, reason="facts"),
        "double_checker": View(direction=Direction.LONG, reason="mean"),
        "journal_writer": JournalEntry(text="It was decided."),
    }
    return answers[prompt.agent]


def run(
    llm: LLM,
    *,
    ahead: bool,
    bars: int = 60,
    seed: int = 1,
    safety: SafetyLimits = UNLIMITED,
    minutes: int = 15,
    concurrency: int = 8,
    budget: Any = None,
    agents: list[Agent[Any]] | None = None,
    through_outages: bool = True,
) -> list[Message]:
    """Run the desk over a simulated market; return its log."""
    router = Router([llm], concurrency=concurrency, budget_usd_per_run=budget, retries=0)
    bus = MemoryBus()
    fund = Orchestrator(agents or desk(router, sees_portfolio=False), bus=bus, safety=safety)
    feed = SimulatedMarket(bars=bars, seed=seed, interval=timedelta(minutes=minutes), sessions="24h")
    Backtest(fund, feed, PaperBroker(), ahead=ahead, through_outages=through_outages).run()
    return asyncio.run(read(bus))


async def read(bus: Any) -> list[Message]:
    return [message async for message in bus.read()]


def lines(messages: list[Message]) -> list[str]:
    return [message.line() for message in messages]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), bars=st.integers(2, 60), concurrency=st.integers(1, 40))
def test_asking_ahead_leaves_the_log_that_asking_in_sequence_leaves(seed: int, bars: int, concurrency: int) -> None:
    """Byte for byte, whatever the market, the answers and the number of calls at once."""
    logs = [
        lines(run(ScriptedLLM(drawn, price_usd="0.001"), ahead=ahead, seed=seed, bars=bars, concurrency=concurrency))
        for ahead in (True, False)
    ]
    assert logs[0] == logs[1]


def test_the_log_does_not_depend_on_who_answers_first() -> None:
    """Answers that come in any order are written in the order of the agents and bars."""

    class Uneven(ScriptedLLM):
        async def complete(self, prompt: Prompt) -> Any:
            await asyncio.sleep((len(self.prompts) * 7 % 5) / 2000)
            return await super().complete(prompt)

    logs = [lines(run(Uneven(drawn), ahead=ahead)) for ahead in (True, False)]
    assert logs[0] == logs[1]


def test_many_bars_are_asked_about_at_once() -> None:
    """Up to the routes' limit, and no more."""
    now = most = 0

    class Crowded(ScriptedLLM):
        async def complete(self, prompt: Prompt) -> Any:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.001)
            now -= 1
            return await super().complete(prompt)

    run(Crowded(drawn), ahead=True, concurrency=12)
    assert most == 12


def test_each_question_is_made_of_the_market_at_its_own_bar() -> None:
    """Nobody is shown a price before its time, however early the question is asked."""
    llm = ScriptedLLM(drawn)
    messages = run(llm, ahead=True, bars=40)
    closes = SimulatedMarket(bars=40, seed=1, interval=timedelta(minutes=15), sessions="24h").columns["SIM"].close
    shown = [p.inputs["market"]["SIM"]["price"] for p in llm.prompts if p.agent == "regime_classifier"]
    assert sorted(shown) == sorted(closes.tolist())
    checked = [p for p in llm.prompts if p.agent == "fact_checker"]
    assert checked
    assert all(p.inputs["price_now"]["SIM"] == p.inputs["market"]["SIM"]["price"] for p in checked)
    assert messages[-1].type == "Ended"


def test_who_does_not_see_the_portfolio_finds_nothing_of_it() -> None:
    """Neither in what a language model is shown nor by looking for it."""
    found: list[str] = []

    class Curious(Agent[Regime]):
        sees_portfolio = False

        def rule(self, context: Snapshot) -> Abstain:
            for look in (lambda: context.state, lambda: context.portfolio):
                with pytest.raises(PipelineError, match="does not see the portfolio"):
                    look()
            found.append("portfolio" if "portfolio" in context.as_inputs() else "market")
            return Abstain("looked")

    run(ScriptedLLM(drawn), ahead=True, bars=3, agents=[Curious()])
    assert found == ["market"] * 3
    llm = ScriptedLLM(drawn)
    run(llm, ahead=True, bars=30)
    seen = {p.agent: "portfolio" in p.inputs for p in llm.prompts}
    assert seen["risk_gate"]
    assert not any(seen[name] for name in ("regime_classifier", "strategist", "fact_checker"))


def test_only_agents_that_depend_on_nothing_but_the_market_are_asked_ahead() -> None:
    """Not those that see the portfolio, nor those that read from them, nor functions, which may keep something."""
    llm = ScriptedLLM(drawn)

    def names(agents: list[Agent[Any]]) -> list[str]:
        return [one.name for one in foreseen(Orchestrator(agents, bus=MemoryBus()).pipeline)]

    assert names(desk(llm, sees_portfolio=False)) == ["regime_classifier", "strategist", "fact_checker", "double_checker"]
    assert names(desk(llm)) == ["regime_classifier"]
    assert names(desk()) == []

    @agent
    def regime(context: Snapshot) -> Regime:
        return Regime(trend=Trend.RANGING, volatility="low")

    assert names([regime, Strategist(llm, sees_portfolio=False), RiskGate(llm)]) == []
    assert names([RegimeClassifier(), Strategist(llm, sees_portfolio=False), RiskGate(llm)]) == [
        "regime_classifier",
        "strategist",
    ]


def changes(messages: list[Message]) -> list[tuple[int, Any]]:
    """Return cycle and opinion wherever an agent's opinion is not its last one again, by cycle and agent."""
    last: dict[str, Any] = {}
    found = []
    for message in messages:
        if message.type == "Opined":
            opinion = message.payload["opinion"]
            if last.get(opinion["agent"]) != opinion:
                found.append((message.cycle, opinion))
            last[opinion["agent"]] = opinion
    return sorted(found, key=lambda one: (one[0], one[1]["agent"]))


@pytest.mark.parametrize("most", [30, 90])
def test_rate_limits_refuse_the_same_questions(most: int) -> None:
    """By event time, as in sequence; no question is paid for that would have been refused."""
    safety = SafetyLimits(agent_consultations_per_hour=most, fund_consultations_per_hour=10**9)
    asked: list[int] = []
    logs = []
    for ahead in (True, False):
        llm = ScriptedLLM(drawn)
        logs.append(lines(run(llm, ahead=ahead, bars=120, minutes=1, safety=safety)))
        asked.append(len(llm.prompts))
    assert logs[0] == logs[1]
    assert asked[0] == asked[1]


def test_a_limit_of_the_whole_fund_refuses_the_same_questions_and_every_call_is_in_the_ledger() -> None:
    """The opinions are those of asking in sequence; what was asked in vain is a row all the same."""
    safety = SafetyLimits(agent_consultations_per_hour=10**9, fund_consultations_per_hour=100)
    opinions = []
    for ahead in (True, False):
        llm = ScriptedLLM(drawn, price_usd="0.01")
        messages = run(llm, ahead=ahead, bars=90, minutes=1, safety=safety)
        opinions.append(changes(messages))
        assert Ledger.of(messages).billed_usd == len(llm.prompts) * Decimal("0.01")
    assert opinions[0] == opinions[1]


@settings(max_examples=10, deadline=None)
@given(cents=st.integers(0, 120))
def test_a_budget_holds_and_every_call_is_in_the_ledger(cents: int) -> None:
    """Asked ahead or in sequence, the last cent that can be spent is spent, and not one more."""
    for ahead in (True, False):
        llm = ScriptedLLM(drawn, price_usd="0.01")
        messages = run(llm, ahead=ahead, bars=40, budget=Decimal(cents) / 100)
        ledger = Ledger.of(messages)
        assert ledger.billed_usd == len(llm.prompts) * Decimal("0.01") <= Decimal(cents) / 100
        if "BudgetExceeded" in ledger.by("outcome"):
            assert ledger.billed_usd == Decimal(cents) / 100


def test_what_fails_ahead_is_asked_again_in_its_turn() -> None:
    """Both attempts are rows; the second answer counts."""
    numbers = count()

    def flaky(prompt: Prompt) -> Any:
        return Overloaded("busy") if next(numbers) == 2 else drawn(prompt)

    messages = run(ScriptedLLM(flaky, price_usd="0.01"), ahead=True, bars=10)
    assert [row.outcome for row in ledger_rows(messages)].count("Overloaded") == 1
    assert not [m for m in messages if m.type == "Opined" and m.payload["opinion"]["stance"] == "unavailable"]


def ledger_rows(messages: list[Message]) -> list[Any]:
    return [row.call for row in Ledger.of(messages).rows]


async def test_a_run_that_is_stopped_writes_down_every_call_it_made(tmp_path: Path) -> None:
    """Also calls whose bar never came and calls that were cut off; run again, it goes on from there."""
    llm = ScriptedLLM(drawn, price_usd="0.01", usage=Usage(10, 2), latency_s=0.002)
    bus = MemoryBus()

    def fund() -> Orchestrator:
        return Orchestrator(desk(Router([llm]), sees_portfolio=False), bus=bus, safety=UNLIMITED, mode="autonomous")

    feed = SimulatedMarket(bars=60, seed=1, sessions="24h")
    steps = fund().session(feed, PaperBroker()).steps()
    for _ in range(9):
        await anext(steps)
    await steps.aclose()  # type: ignore[attr-defined]  # an asynchronous generator
    stopped = Ledger.of(await read(bus))
    assert len(stopped) == len(llm.prompts)
    assert stopped.billed_usd == len(llm.prompts) * Decimal("0.01")
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    await Backtest(fund(), SimulatedMarket(bars=60, seed=1, sessions="24h"), PaperBroker())
    messages = await read(bus)
    assert messages[-1].type == "Ended"
    assert len(Ledger.of(messages)) == len(llm.prompts)
    opinions = [(m.cycle, m.payload["opinion"]["agent"]) for m in messages if m.type == "Opined"]
    assert len(opinions) == len(set(opinions))


def test_a_replayed_run_asks_nobody_and_leaves_the_same_log_twice(tmp_path: Path) -> None:
    """What was recorded in any order is replayed bar by bar."""
    path = tmp_path / "cassette.db"
    llm = ScriptedLLM(drawn, price_usd="0.01", latency_s=0.001)
    run(RecordedLLM(path, llm), ahead=True)
    paid = len(llm.prompts)
    logs = [lines(run(RecordedLLM(path, llm, "replay"), ahead=ahead)) for ahead in (True, False, True)]
    assert logs[0] == logs[1] == logs[2]
    assert len(llm.prompts) == paid


class Dated(ScriptedLLM):
    """A route that puts the date into every prompt."""

    adds = "today's date"


def past() -> Bars:
    """Return bars that do not say of themselves that they are simulated."""
    return SimulatedMarket(bars=30, seed=1, sessions="24h").tail(20)


def test_a_route_that_adds_the_date_is_not_asked_about_the_past() -> None:
    """It would let a language model remember; the log says so, and a simulated market has no past."""
    dated, other = Dated(drawn, name="dated"), ScriptedLLM(drawn, name="other")
    bus = MemoryBus()
    fund = Orchestrator(desk(Router([dated, other])), bus=bus, safety=UNLIMITED)
    Backtest(fund, past(), PaperBroker()).run()
    assert (len(dated.prompts), len(other.prompts) > 20) == (0, True)
    started = asyncio.run(read(bus))[0].payload["settings"]
    assert started["not_asked"] == {"dated": "today's date"}
    run(dated, ahead=True, bars=5)
    assert dated.prompts


def test_a_user_can_insist_on_a_route_that_adds_the_date() -> None:
    """By its name; without that, a fund that has no other route is refused before the first bar."""
    dated = Dated(drawn, name="dated")
    with pytest.raises(ConfigError, match=r"dated would put today's date into every prompt.*insist=\['dated'\]"):
        Backtest(Orchestrator(desk(dated), bus=MemoryBus(), safety=UNLIMITED), past(), PaperBroker()).run()
    assert dated.prompts == []
    bus = MemoryBus()
    fund = Orchestrator(desk(dated), bus=bus, safety=UNLIMITED)
    report = Backtest(fund, past(), PaperBroker(), insist=["dated"]).run()
    assert dated.prompts
    assert asyncio.run(read(bus))[0].payload["settings"]["insisted"] == {"dated": "today's date"}
    assert "dated puts today's date into every prompt" in str(report)


def test_of_two_routes_that_add_the_date_the_one_that_is_insisted_on_is_asked() -> None:
    """The other one is left out; that is no reason to refuse the run."""
    first, second = Dated(drawn, name="first"), Dated(drawn, name="second")
    fund = Orchestrator(desk(Router([first, second])), bus=MemoryBus(), safety=UNLIMITED)
    Backtest(fund, past(), PaperBroker(), insist=["second"]).run()
    assert (len(first.prompts), len(second.prompts) > 20) == (0, True)


def test_when_all_routes_are_down_nothing_is_opened_and_the_run_goes_on() -> None:
    """Asked ahead or in sequence; the breaker's changes are on the log."""
    down = ScriptedLLM(lambda prompt: Overloaded("529"))
    bus = MemoryBus()
    fund = Orchestrator(desk(Router([down, Rules()], retries=0), sees_portfolio=False), bus=bus, safety=UNLIMITED)
    Backtest(fund, SimulatedMarket(bars=900, seed=4), PaperBroker()).run()
    messages = asyncio.run(read(bus))
    assert not [m for m in messages if m.type == "Intended"]
    assert next(m.payload["state"] for m in messages if m.type == "Tripped") == "open"
    assert messages[-1].type == "Ended"


def test_a_rule_that_needs_a_language_model_that_is_down_is_unavailable() -> None:
    """A failure is never a view, ahead of time or not."""
    messages = run(ScriptedLLM(lambda prompt: LLMUnavailable("down")), ahead=True, bars=5)
    stances = {m.payload["opinion"]["stance"] for m in messages if m.type == "Opined"}
    assert stances == {"unavailable"}


def test_what_would_fail_again_is_not_asked_again_in_its_turn() -> None:
    """An answer that is no answer after its repair costs ahead of time what it costs in sequence."""

    def poor(prompt: Prompt) -> Any:
        chance = int(hashlib.sha256(prompt.question.encode()).hexdigest(), 16)
        return "prose" if chance % 3 == 0 or "your_previous_answer" in prompt.inputs else drawn(prompt)

    asked, logs = [], []
    for ahead in (True, False):
        llm = ScriptedLLM(poor, price_usd="0.01")
        logs.append(lines(run(llm, ahead=ahead)))
        asked.append(len(llm.prompts))
    assert asked[0] == asked[1]
    assert logs[0] == logs[1]


def test_no_call_is_paid_that_a_rate_limit_refuses_in_its_turn() -> None:
    """Agents that see the portfolio count too, although nobody knows ahead of time when they are asked."""
    safety = SafetyLimits(agent_consultations_per_hour=10**9, fund_consultations_per_hour=100)
    for agents in (None, "second"):
        llm = ScriptedLLM(drawn, price_usd="0.01")
        router = Router([llm])
        team = [*desk(router, sees_portfolio=False)] if agents is None else [*desk(router)]
        messages = run(llm, ahead=True, bars=150, minutes=1, safety=safety, agents=team)
        refused = [m for m in messages if m.type == "Opined" and "rate limit" in m.payload["opinion"]["reason"]]
        assert refused
        assert len(Ledger.of(messages)) == len(llm.prompts)
        moments = {(m.cycle, m.payload["call"]["agent"]) for m in messages if m.type == "Called"}
        assert not moments & {(m.cycle, m.payload["opinion"]["agent"]) for m in refused}


class Wrapped:
    """A history around another one, whose newest market is that of the inner feed."""

    def __init__(self, inner: Bars) -> None:
        self.inner = inner
        self.instruments, self.fingerprint = inner.instruments, inner.fingerprint
        self.columns, self.warnings, self.source, self.simulated = inner.columns, inner.warnings, inner.source, True

    async def stream(self, after: Any = None) -> Any:
        async for market in self.inner.stream(after):
            yield market

    def latest(self) -> Any:
        return self.inner.latest()


def test_a_feed_that_is_shared_shows_nobody_what_is_read_ahead() -> None:
    """The market now is the one that the run itself was given, whoever else reads the feed."""
    seen: list[bool] = []

    class Watch(Agent[Verdict]):
        when = (Regime,)

        def rule(self, context: Snapshot) -> Verdict:
            seen.append(context.market_now.now == context.market.now == context.now)
            return Verdict(approved=True, reason="looked")

    logs = []
    for ahead in (True, False):
        bus = MemoryBus()
        agents = [*desk(Router([ScriptedLLM(drawn, latency_s=0.001)]), sees_portfolio=False)[:5], Watch()]
        fund = Orchestrator(agents, bus=bus, safety=UNLIMITED)
        Backtest(fund, Wrapped(SimulatedMarket(bars=60, seed=1, sessions="24h")), PaperBroker(), ahead=ahead).run()
        logs.append(lines(asyncio.run(read(bus))))
    assert all(seen)
    assert logs[0] == logs[1]


@pytest.mark.parametrize("ahead", [True, False])
def test_a_backtest_stops_where_nobody_answers_and_carries_on_when_somebody_does(ahead: bool) -> None:
    """Nothing of the outage is an opinion; every call is in the ledger; the result is that of a run without it."""
    down = True

    def answer(prompt: Prompt) -> Any:
        if down and len(llm.prompts) > 40:
            return UsageCapped("the plan is used up")
        return drawn(prompt)

    llm = ScriptedLLM(answer, price_usd="0.01")
    bus = MemoryBus()

    def backtest() -> Backtest:
        fund = Orchestrator(desk(Router([llm]), sees_portfolio=False), bus=bus, safety=UNLIMITED)
        return Backtest(fund, SimulatedMarket(bars=60, seed=1, sessions="24h"), PaperBroker(), ahead=ahead)

    for _ in range(2):
        with pytest.raises(LLMUnavailable, match=r"at bar \d+ nobody answered .*the plan is used up.*run again to carry on"):
            backtest().run()
    down = False
    backtest().run()
    messages = asyncio.run(read(bus))
    assert messages[-1].type == "Ended"
    assert not [m for m in messages if m.type == "Opined" and m.payload["opinion"]["stance"] == "unavailable"]
    ok = [row for row in ledger_rows(messages) if row.outcome == "ok"]
    assert sum(row.billed_usd for row in ok) == len(ok) * Decimal("0.01")
    assert len([row for row in ledger_rows(messages) if row.route == "scripted"]) == len(llm.prompts)
    other = run(ScriptedLLM(drawn), ahead=True)
    decisions = [[m.payload["decision"]["outcome"] for m in log if m.type == "Decided"] for log in (messages, other)]
    assert decisions[0] == decisions[1]


def test_a_backtest_waits_for_a_route_that_rests() -> None:
    """Of a history nothing is late: a short outage costs time and no opinion."""
    clock = SimulatedClock()
    numbers = count()
    llm = ScriptedLLM(lambda prompt: Overloaded("busy") if 20 <= next(numbers) < 25 else drawn(prompt))
    router = Router([llm], clock=clock, concurrency=1)
    bus = MemoryBus()
    fund = Orchestrator(desk(router, sees_portfolio=False), bus=bus, safety=UNLIMITED)
    Backtest(fund, SimulatedMarket(bars=40, seed=1, sessions="24h"), PaperBroker()).run()
    messages = asyncio.run(read(bus))
    assert not [m for m in messages if m.type == "Opined" and m.payload["opinion"]["stance"] == "unavailable"]
    assert clock.monotonic() >= 30


async def test_answers_that_wait_for_their_turn_are_on_the_log_when_a_run_is_stopped() -> None:
    """One agent has answered, one before it in the list is slow: the answer that was paid for is kept."""

    class Slow(Agent[Regime]):
        """Takes for ever."""

    class Quick(Agent[Verdict]):
        """Answers at once."""

    class Hangs(ScriptedLLM):
        async def complete(self, prompt: Prompt) -> Any:
            if prompt.agent == "slow":
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            return await super().complete(prompt)

    llm = Hangs(lambda prompt: Verdict(approved=True, reason="quick"), price_usd="1")
    bus = MemoryBus()
    for _ in range(3):
        router = Router([llm])
        fund = Orchestrator([Slow(router), Quick(router)], bus=bus, safety=UNLIMITED, mode="autonomous")
        session = fund.session(SimulatedMarket(bars=5, seed=1), PaperBroker(), ahead=False)
        task = asyncio.ensure_future(anext(session.steps()))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(llm.prompts) == 1
    ledger = Ledger.of(await read(bus))
    assert sum(row.call.outcome == "ok" for row in ledger.rows) == 1
    assert sum(row.call.outcome == "Cancelled" for row in ledger.rows) == 3
