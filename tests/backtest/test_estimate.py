from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from agentfund.backtest.engine import Backtest
from agentfund.backtest.estimate import Estimate, estimate
from agentfund.backtest.rehearsal import made_up
from agentfund.brokers.paper import PaperBroker
from agentfund.buses.memory import MemoryBus
from agentfund.clock import from_micros
from agentfund.core.agent import Agent, agent
from agentfund.core.budget import Budget
from agentfund.core.ledger import Ledger
from agentfund.core.orchestrator import Orchestrator
from agentfund.core.router import Router
from agentfund.core.safety import SafetyLimits
from agentfund.errors import BudgetExceeded, ConfigError, FeedError
from agentfund.feeds.history import Bars
from agentfund.feeds.simulated import SimulatedMarket
from agentfund.llms.prices import Price, Prices
from agentfund.llms.recorded import RecordedLLM
from agentfund.llms.rules import Rules
from agentfund.prompt import Completion, Prompt
from agentfund.protocols import LLM
from agentfund.specialists.desk import Regime, RegimeClassifier, RiskGate, desk
from agentfund.trading import Proposal, Record, Verdict, View

FEED = SimulatedMarket(bars=1000, seed=6)
ALL = 10_000


class Twin:
    """A priced route that answers as the rule twin does, and bills each call at its worst case."""

    name = "twin"

    def __init__(self, usd: str = "0.01", llm: str = "claude-sonnet-5-5", name: str = "twin", adds: str = "") -> None:
        self.name, self.llm, self.adds = name, llm, adds
        self.asked = 0
        self._usd = Decimal(usd)

    async def complete(self, prompt: Prompt) -> Completion:
        self.asked += 1
        return replace(await Rules().complete(prompt), route=self.name, llm=self.llm, billed_usd=self._usd)

    def worst_case_usd(self, prompt: Prompt) -> Decimal:
        return self._usd


class Unpriced(Twin):
    """A route whose prices nobody knows."""

    def worst_case_usd(self, prompt: Prompt) -> Decimal:
        raise BudgetExceeded("no price of 'qwen3' is known")


class Momentum(Agent[Proposal]):
    """A role card without a rule twin."""

    instructions = "Go with the trend."


def fund(llm: LLM, agents: list[Agent[Any]] | None = None) -> Orchestrator:
    safety = SafetyLimits(agent_consultations_per_hour=10_000, fund_consultations_per_hour=10_000)
    return Orchestrator(agents or desk(llm), bus=MemoryBus(), safety=safety)


def calls(told: Estimate) -> dict[str, int]:
    return {line.agent: line.calls for line in told.lines}


def only(told: Estimate) -> str:
    (sentence,) = told.over_budget
    return sentence


async def test_a_whole_rehearsal_counts_what_a_run_asks() -> None:
    """A language model that decides as the rules do is asked just so often, and at its worst case costs just so much."""
    llm = Twin(llm="no-list-price")
    tested = fund(llm)
    told = estimate(tested, FEED, bars=ALL)
    assert llm.asked == 0
    await Backtest(tested, FEED, PaperBroker())
    ledger = Ledger.of([message async for message in tested.bus.read("fund")])
    asked = Counter(row.call.agent for row in ledger.rows)
    assert set(asked) == {agent.name for agent in tested.pipeline.agents}
    assert calls(told) == asked
    assert told.billed_usd == ledger.billed_usd == Decimal("0.01") * len(ledger)
    assert told.rehearsed == told.bars == 1000


def test_at_most_every_agent_is_asked_at_every_bar() -> None:
    """Six agents, 1,000 bars and a cent a question: whatever a language model says while its rule twin still abstains."""
    told = estimate(fund(Twin(llm="no-list-price")), FEED, bars=ALL)
    assert [line.most_usd for line in told.lines] == [10] * 6
    assert told.most_usd == 60
    assert [line.most_output_tokens for line in told.lines] == [n * 1000 for n in (4096, 8192, 4096, 2048, 8192, 2048)]
    assert told.billed_usd is not None
    assert told.billed_usd < 20


def test_a_budget_that_is_enough_only_if_all_goes_as_expected_is_named() -> None:
    """About 14 USD are expected of 60 at most: 20 USD let the run begin, and a note says that they may not last."""

    def told(usd: int) -> Estimate:
        return estimate(fund(Router([Twin(llm="no-list-price")], budget_usd_per_run=usd)), FEED, bars=ALL)

    note = "usd_per_run is 20 USD, enough for what is expected; to ask every agent at every bar costs 60.00 USD at most"
    assert told(20).notes[-1] == note
    assert told(20).over_budget == ()
    assert not any("usd_per_run" in one for one in told(60).notes)
    assert not any("usd_per_run" in one for one in told(10).notes)
    assert only(told(10)).startswith("usd_per_run is 10 USD")


def test_an_agent_that_the_rules_never_reach_is_counted_at_every_bar() -> None:
    """In a window shorter than the classifier's warm-up no rule twin gives a regime, but a language model does."""
    llm = Router([Twin(llm="no-list-price")], budget_usd_per_run=5)
    told = estimate(fund(llm), SimulatedMarket(bars=100))
    assert calls(told) == dict.fromkeys((agent.name for agent in desk()), 100)
    assert told.billed_usd == told.most_usd == 6
    assert only(told).startswith("usd_per_run is 5 USD: about 6.00 USD are needed")
    assert (
        "strategist, risk_gate, fact_checker, double_checker and journal_writer were not reached in the rehearsal, so they are"
        " counted at every bar"
    ) in told.notes


def test_an_agent_that_nothing_reaches_is_named() -> None:
    """Plain code that says nothing stands before it; what it would cost, no rehearsal can tell."""

    @agent
    def silent(context: Any) -> Proposal | None:
        return None

    llm = Twin()
    told = estimate(fund(llm, [RegimeClassifier(llm), silent, RiskGate(llm)]), SimulatedMarket(bars=100))
    assert calls(told) == {"regime_classifier": 100}
    assert told.notes[0] == "risk_gate is not counted, or not in full: what it waits for was not given in the rehearsal"


async def test_a_rehearsal_asks_nobody() -> None:
    """Not even where a function asks a router of its own: nobody answers it, and a note names it."""
    llm, bare = Twin(), Twin(name="bare")
    router = Router([llm])

    @agent
    async def asks(context: Any) -> Regime | None:
        prompt = Prompt("somebody", "x", {"cycle": context.state.cycle}, Regime, rule=lambda: None)
        return (await router.complete(prompt)).answer.value  # type: ignore[union-attr]

    told = estimate(fund(bare, [asks, *desk(bare)[1:]]), SimulatedMarket(bars=20))
    assert (llm.asked, bare.asked, router.status()[0]["calls"]) == (0, 0, 0)
    assert (
        told.notes[0]
        == "asks is not counted, or not in full: it asks a language model by itself, which a rehearsal does not answer"
    )
    alone = estimate(fund(bare, [asks]), SimulatedMarket(bars=20))
    assert alone.notes == told.notes[:1]
    await router.complete(Prompt("somebody", "x", {}, Regime, rule=lambda: None))
    assert llm.asked == 1


def test_a_sample_is_scaled_up() -> None:
    """Of a long history a few hundred bars are enough to tell; the text says so."""
    whole, part = estimate(fund(Twin()), FEED, bars=ALL), estimate(fund(Twin()), FEED, bars=120)
    assert (part.bars, part.rehearsed) == (1000, 120)
    assert part.calls == pytest.approx(whole.calls, rel=0.1)
    assert "120 of 1,000 bars in 6 places and scaled up" in part.as_text()
    assert "all 1,000 bars" in whole.as_text()
    assert estimate(fund(Twin()), FEED, bars=1).rehearsed == 1


async def test_a_rehearsal_changes_nothing() -> None:
    """Neither the agents nor the log nor the feed nor what was asked within the hour; a run after it is a run without it."""

    class Counting(RegimeClassifier):
        def __init__(self, llm: LLM) -> None:
            super().__init__(llm)
            self.seen: list[str] = []

        def inputs(self, context: Any) -> Any:
            self.seen.append("bar")
            return super().inputs(context)

    feed = SimulatedMarket(bars=30)
    llm = Twin()
    agents: list[Agent[Any]] = [counting := Counting(llm), *desk(llm)[1:]]
    tested = fund(llm, agents)
    assert estimate(tested, feed).calls == 30 * 6
    assert counting.seen == []
    assert len([message async for message in tested.bus.read()]) == 0
    with pytest.raises(FeedError):
        feed.latest()
    await Backtest(tested, feed, PaperBroker())
    assert llm.asked == 30


async def test_it_can_be_asked_for_where_a_loop_runs() -> None:
    """As in a notebook."""
    assert estimate(fund(Twin()), FEED, bars=50).calls > 0


def test_a_flat_rate_is_counted_and_bills_nothing() -> None:
    """Its list price is told, so that one can compare."""
    told = estimate(fund(Twin("0", "claude-opus-5-5")), FEED, bars=50)
    assert told.billed_usd == told.most_usd == 0
    assert told.list_usd is not None
    assert told.list_usd > 1
    assert told.calls > 900


def test_money_is_tokens_at_list_price() -> None:
    """Two questions of Sonnet, reckoned by hand: 2 and 10 USD per million tokens, but never more than the worst case."""
    one = fund(Twin("1"), [RegimeClassifier(Twin("1"))])
    (line,) = estimate(one, SimulatedMarket(bars=2), bars=1).lines
    assert line.output_tokens == 2 * 1024
    assert line.most_output_tokens == 2 * 4096
    assert line.billed_usd == line.list_usd == Decimal(2 * line.input_tokens + 10 * 2048).scaleb(-6)
    assert line.most_input_tokens - 2048 in range(3 * line.input_tokens - 4, 3 * line.input_tokens + 1)
    assert line.most_usd == 2
    (short,) = estimate(one, SimulatedMarket(bars=2), output_tokens=100).lines
    assert short.output_tokens == 200
    (least,) = estimate(fund(Twin(), [RegimeClassifier(Twin("0.001"))]), SimulatedMarket(bars=2)).lines
    assert least.billed_usd == Decimal("0.002")


def test_a_route_knows_its_own_prices() -> None:
    """They go before the table; a server of one's own that costs nothing has a list price of nothing."""

    class Negotiated(Twin):
        prices = Prices({"claude-sonnet-5-5": Price(0, 1000)})

    class Own(Twin):
        free = True

    (line,) = estimate(fund(Rules(), [RegimeClassifier(Negotiated("9"))]), FEED, bars=1).lines
    assert line.list_usd == line.billed_usd == Decimal(line.output_tokens) / 1000
    free = estimate(fund(Rules(), [RegimeClassifier(Own("0", "qwen3"))]), FEED, bars=1)
    assert free.list_usd == 0
    assert estimate(fund(Rules(), [RegimeClassifier(Twin("0", "qwen3"))]), FEED, bars=1).list_usd is None


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"usd_per_call": "0.005"}, "usd_per_call is 0.005 USD: a call can cost 0.0100 USD"),
        ({"usd_per_run": 9}, "usd_per_run is 9 USD: about 10.00 USD are needed"),
        ({"usd_per_run": 10}, "usd_per_run is 10 USD: about 10.00 USD are needed, and room for a call that costs 0.0100 USD"),
        ({"usd_per_day": 5}, "usd_per_day is 5 USD: about 10.00 USD are needed"),
        ({"usd_per_hour": 7}, "usd_per_hour is 7 USD: about 7.20 USD are needed within an hour"),
    ],
)
def test_a_budget_that_would_stop_the_run_is_named(limits: dict[str, Any], words: str) -> None:
    """1,000 questions at a cent, one after the other at 5 s each: 720 of them within an hour."""
    llm = Router([Twin(llm="no-list-price")], budget=Budget(**limits))

    class Sees(RegimeClassifier):
        sees_portfolio = True

    told = estimate(fund(llm, [Sees(llm)]), FEED, bars=60)
    assert only(told).startswith(words)
    assert "over budget" in told.as_text()
    assert told.to_json()["over_budget"] == [only(told)]
    enough = Router([Twin(llm="no-list-price")], budget=Budget(usd_per_run="10.01", usd_per_hour="7.5", usd_per_call="0.01"))
    assert estimate(fund(enough, [Sees(enough)]), FEED, bars=60).over_budget == ()


def test_what_is_spent_already_counts() -> None:
    """The rest of a budget must last."""
    budget = Budget(usd_per_run=15)
    budget.settle(budget.reserve(Decimal(6)), Decimal(6))
    llm = Router([Twin(llm="no-list-price")], budget=budget)
    assert "6.00 USD of it are spent" in only(estimate(fund(llm, [RegimeClassifier(llm)]), FEED, bars=60))


def test_an_unknown_price_is_told_not_taken_for_zero() -> None:
    """Under a budget every call would be refused, which is said before the first."""
    bare = estimate(fund(Unpriced(llm="qwen3")), FEED, bars=60)
    assert bare.billed_usd is bare.most_usd is bare.list_usd is None
    assert bare.to_json()["billed_usd"] is None
    assert "unknown" in bare.as_text()
    assert bare.over_budget == ()
    llm = Router([Unpriced(llm="qwen3")], budget_usd_per_day=1)
    assert "usd_per_day" in only(estimate(fund(llm), FEED, bars=60))
    assert "'qwen3'" in only(estimate(fund(llm), FEED, bars=60))


def test_without_a_rule_twin_an_agent_is_taken_to_answer_each_time() -> None:
    """So the gates behind it are counted at most; the text names it."""
    llm = Twin()
    told = estimate(fund(llm, [Momentum(llm), *desk(llm)[3:]]), FEED, bars=60)
    assert calls(told) == dict.fromkeys(("momentum", "fact_checker", "double_checker", "journal_writer"), 1000)
    assert "momentum has no rule twin and is taken to answer each time" in told.as_text()


def test_rules_alone_cost_nothing() -> None:
    """A fund without a language model says so in one line."""
    told = estimate(Orchestrator(desk(), bus=MemoryBus()), FEED)
    assert str(told) == str(estimate(fund(Rules()), FEED, bars=20)) == "no language model will be asked"
    assert told.billed_usd == told.calls == told.hours == 0


def test_a_route_that_would_not_be_asked_is_not_counted() -> None:
    """One that tells today's date is not asked about real data, unless somebody insists; nor is one that cannot be used."""
    real = Bars(FEED.columns, source="real data")
    llm = Router([Twin(name="cli", adds="today's date"), Twin(name="api")])
    assert set(estimate(fund(llm), real, bars=20).by_route()) == {"api"}
    assert set(estimate(fund(llm), real, bars=20, insist=["cli"]).by_route()) == {"cli"}
    assert set(estimate(fund(llm), FEED, bars=20).by_route()) == {"cli"}
    assert set(estimate(fund(llm), FEED, bars=20, without=["cli"]).by_route()) == {"api"}
    alone = estimate(fund(Twin(adds="today's date")), real, bars=20)
    assert alone.calls == 0
    assert "no route can be asked here, or about real data" in alone.as_text()


async def test_a_recorded_answer_costs_nothing(tmp_path: Path) -> None:
    """A second run over the same bars is free, whatever the language model decided; no budget stands in its way."""

    class Bull(Twin):
        async def complete(self, prompt: Prompt) -> Completion:
            answer = await super().complete(prompt)
            if prompt.agent != "regime_classifier" or "20" not in prompt.inputs["market"]["SIM"]["change_pct"]:
                return answer
            return replace(answer, text='{"value":{"trend":"STRONG_TRENDING_BULLISH","volatility":"low"},"abstain":null}')

    llm = Router([Bull()], budget_usd_per_run=100)
    tape = RecordedLLM(tmp_path / "c.db", llm)
    long = SimulatedMarket(bars=70, seed=6)
    short = long.between(None, from_micros(int(long.columns["SIM"].start[60])))
    before = estimate(fund(tape), short)
    assert before.calls == 60 * 6
    assert before.billed_usd is not None
    assert before.billed_usd > 0
    run = fund(tape)
    await Backtest(run, short, PaperBroker())
    made = len(Ledger.of([message async for message in run.bus.read("fund")]))
    assert made > 100
    after = estimate(fund(tape), short)
    assert (after.calls, set(after.by_route()), after.hours) == (made, {"recorded"}, 0)
    assert after.billed_usd == after.most_usd == 0
    more = estimate(fund(tape), long)
    assert more.by_route()["twin"].most_output_tokens == 10 * sum(agent.max_output_tokens for agent in desk())
    tape.close()
    assert calls(estimate(fund(RecordedLLM(tmp_path / "c.db")), short)) == calls(after)
    longer = estimate(fund(RecordedLLM(tmp_path / "c.db")), long)
    assert "not every answer is on the cassette" in longer.as_text()


async def test_what_is_on_the_log_is_not_counted_again() -> None:
    """A run that carries on asks the rest; what it spent before is held against the budget."""
    llm = Router([Twin(llm="no-list-price")], budget=Budget(usd_per_run="5"))
    begun = fund(llm, [RegimeClassifier(llm)])
    steps = begun.session(FEED, PaperBroker(), ahead=False).steps()
    for _ in range(400):
        await anext(steps)
    await steps.aclose()  # type: ignore[attr-defined]  # it is an asynchronous generator
    fresh = Router([Twin(llm="no-list-price")], budget=Budget(usd_per_run="9.9"))
    carried_on = Orchestrator([RegimeClassifier(fresh)], bus=begun.bus)
    told = estimate(carried_on, FEED, bars=ALL)
    assert told.bars == told.calls == 600
    assert only(told).startswith("usd_per_run is 9.9 USD, 4.00 USD of it are spent: about 6.00 USD are needed")


def test_time_is_that_of_the_longest_chain() -> None:
    """Who waits for nobody is asked many at once; who reads another waits for it at each bar."""
    llm = Router([Twin()], concurrency=4)

    class First(RegimeClassifier):
        sees_portfolio = True

    alone = estimate(fund(llm, [RegimeClassifier(llm)]), FEED, bars=60, seconds_per_call=3.6)

    class Second(Momentum):
        reads = (Regime,)

    chain = estimate(fund(llm, [First(llm), Second(llm), RiskGate(llm)]), FEED, bars=ALL, seconds_per_call=3.6)
    assert alone.hours == pytest.approx(0.25)
    assert calls(chain)["second"] == calls(chain)["risk_gate"] < 1000
    assert chain.hours == pytest.approx((1000 + 2 * calls(chain)["second"]) / 1000)


class Ladder(Record):
    """A type with all that a schema can say."""

    name: Literal["a", "b"]
    regime: Regime
    sizes: tuple[float, float]
    steps: list[int] = Field(min_length=2)
    low: float = Field(gt=0, lt=1)
    share: int = Field(ge=3)
    below: float = Field(le=-2)
    words: str = Field(max_length=10)
    maybe: bool | None


@pytest.mark.parametrize("output", [Proposal, Verdict, View, Regime, Ladder])
def test_a_made_up_answer_fits_its_type(output: type[Record]) -> None:
    """It passes as an answer of a language model would."""
    prompt = Prompt("a", "x", {}, output)
    assert isinstance(prompt.parse(made_up(prompt)).value, output)


def test_the_table_reads_like_this() -> None:
    """Each agent by route and language model, each route, the sum, what it rests on, and what a budget says."""
    routes = [Twin("0", "claude-opus-5-5", "claude_cli"), Twin("0.02", "gpt-6.1-sol", "openai")]
    llm = Router(routes, order={"small": ["openai"]}, budget_usd_per_run=1)
    told = estimate(fund(llm, [RegimeClassifier(llm), Momentum(llm), *desk(llm)[3:4]]), SimulatedMarket(bars=400))
    lines = told.as_text().splitlines()
    assert len({len(line) for line in lines[:9]}) == 1
    assert [re.sub(r"(  +[\d.,]+)+$", "", line).rstrip() for line in lines[:9] if not line.startswith("-")] == [
        "agent              route       language model   calls  tokens in  tokens out  billed  at most  list price",
        "regime_classifier  claude_cli  claude-opus-5-5",
        "momentum           claude_cli  claude-opus-5-5",
        "fact_checker       openai      gpt-6.1-sol",
        "all agents         claude_cli",
        "all agents         openai",
    ]
    assert lines[9].split()[:2] == ["total", "1,200"]
    assert lines[10].startswith("- rehearsed over 300 of 400 bars in 6 places and scaled up")
    assert lines[-2] == "- about 1.1 hours at 5 s a call"
    assert re.fullmatch(r"! over budget: usd_per_run is 1 USD: about 2\.\d\d USD are needed", lines[-1])


def test_json_holds_all() -> None:
    """Money is text, so that nothing rounds it."""
    told = estimate(fund(Twin()), FEED, bars=60)
    read = json.loads(json.dumps(told.to_json()))
    assert sum(Decimal(line["billed_usd"]) for line in read["lines"]) == told.billed_usd
    assert read["by_route"]["twin"]["calls"] == read["calls"] == told.calls


@pytest.mark.parametrize(
    "wrong", [{"bars": 0}, {"seconds_per_call": 0}, {"seconds_per_call": float("inf")}, {"output_tokens": 0}]
)
def test_a_number_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """So is a feed that is not history."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        estimate(fund(Twin()), FEED, **wrong)
    with pytest.raises(ConfigError, match="history"):
        estimate(fund(Twin()), object())  # type: ignore[arg-type]
