"""The decision desk: what each rule twin says, and that each role card asks for the right thing."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from agentfund import (
    Abstain,
    Agent,
    Backtest,
    Decision,
    Direction,
    MemoryBus,
    Orchestrator,
    PaperBroker,
    Proposal,
    Record,
    Snapshot,
    Verdict,
)
from agentfund.core.context import State
from agentfund.feeds import Bars
from agentfund.llms import ScriptedLLM
from agentfund.messages import Opined, Opinion, Stance
from agentfund.specialists import (
    DoubleChecker,
    FactChecker,
    JournalEntry,
    JournalWriter,
    Regime,
    RegimeClassifier,
    RiskGate,
    Strategist,
    Trend,
    desk,
)
from agentfund.specialists.desk import WARM_UP
from agentfund.specialists.measures import atr_pct, rsi, trend, volatility_ratio
from agentfund.strategies import SmaCross
from agentfund.trading import Outcome, Portfolio, Position
from tests.market import START, bars, broker, last, wave

UP = [100 * 1.001**i for i in range(700)]
DOWN = UP[::-1]
BULL = Regime(trend=Trend.STRONG_TRENDING_BULLISH, volatility="normal")
BEAR = Regime(trend=Trend.TRENDING_BEARISH, volatility="normal")


def context(feed: Bars, *read: Record, state: State | None = None, now: Bars | None = None) -> Snapshot:
    """Return a snapshot at the end of a feed in which these values were given."""
    opinions = {str(i): Opinion(str(i), type(v).__name__, Stance.VALUE, v) for i, v in enumerate(read)}
    decision = next((v for v in read if isinstance(v, Decision)), None)
    return Snapshot(state or State(), last(feed), opinions, decision=decision, market_now=lambda: last(now or feed))


def holding(quantity: int) -> State:
    """Return a state that holds a position."""
    position = Position("SIM", Decimal(quantity), Decimal(100), START)
    return State()._replace(portfolio=Portfolio(Decimal(0), {"SIM": position}))


@pytest.mark.parametrize(("prices", "expected"), [(UP, Trend.STRONG_TRENDING_BULLISH), (DOWN, Trend.STRONG_TRENDING_BEARISH)])
def test_a_market_that_goes_one_way_is_a_strong_trend(prices: list[float], expected: Trend) -> None:
    """All three time frames agree."""
    given = RegimeClassifier().rule(context(bars(prices)))
    assert isinstance(given, Regime)
    assert given.trend is expected


def test_a_market_that_goes_nowhere_ranges() -> None:
    """Up and down in turn."""
    given = RegimeClassifier().rule(context(bars([100 + (i % 2) for i in range(700)])))
    assert isinstance(given, Regime)
    assert given.trend is Trend.RANGING


def test_the_classifier_abstains_until_it_has_seen_enough() -> None:
    """And says how much it needs."""
    assert RegimeClassifier().rule(context(bars(UP[:100]))) == Abstain(f"needs {WARM_UP} bars, has 100")


def test_the_strategist_enters_on_a_break_in_the_regimes_direction() -> None:
    """Stop and target are distances, the target twice as far."""
    given = Strategist().rule(context(bars(UP, spread=0.0), BULL))
    assert isinstance(given, Proposal)
    assert given.direction is Direction.LONG
    assert given.target_pct == pytest.approx(2 * given.stop_pct)


@pytest.mark.parametrize(
    ("prices", "regime", "state", "why"),
    [
        (UP, Regime(trend=Trend.RANGING, volatility="normal"), State(), "the market ranges"),
        (
            DOWN,
            Regime(trend=Trend.TRENDING_BEARISH, volatility="normal"),
            State(),
            "the market falls and short positions are off",
        ),
        (DOWN, BULL, State(), "no break of the 20-bar high"),
        (UP, BULL, holding(5), "the position has its stop and its target"),
    ],
)
def test_the_strategist_abstains_and_says_why(prices: list[float], regime: Regime, state: State, why: str) -> None:
    """Most of the time there is no trade."""
    assert Strategist().rule(context(bars(prices, spread=0.0), regime, state=state)) == Abstain(why)


def test_the_strategist_closes_a_position_whose_regime_turned() -> None:
    """And shorts only where it was told that it may."""
    closing = Strategist().rule(context(bars(DOWN), BEAR, state=holding(5)))
    assert isinstance(closing, Proposal)
    assert closing.direction is Direction.FLAT
    short = Strategist(allow_short=True).rule(context(bars(DOWN, spread=0.0), BEAR))
    assert isinstance(short, Proposal)
    assert short.direction is Direction.SHORT


LONG = Proposal(direction=Direction.LONG, stop_pct=2, target_pct=4)
MARKS = {"equity": Decimal(100), "peak_equity": Decimal(100), "day_equity": Decimal(100)}


@pytest.mark.parametrize(
    ("proposal", "volatility", "marks", "yes"),
    [
        (LONG, "normal", {}, True),
        (LONG, "high", {}, False),
        (LONG, "normal", {"peak_equity": Decimal(112)}, False),
        (LONG, "normal", {"day_equity": Decimal(103)}, False),
        (LONG.model_copy(update={"target_pct": 2.0}), "normal", {}, False),
        (Proposal(direction=Direction.FLAT), "high", {"peak_equity": Decimal(200)}, True),
    ],
)
def test_the_risk_gate_approves_only_with_room(proposal: Proposal, volatility: Any, marks: dict[str, Any], yes: bool) -> None:
    """Headroom, calm, and a reward worth the risk; closing is always approved."""
    state = State()._replace(**{**MARKS, **marks})
    regime = Regime(trend=Trend.TRENDING_BULLISH, volatility=volatility)
    assert RiskGate().rule(context(bars(UP), proposal, regime, state=state)).approved is yes


def test_the_fact_checker_vetoes_when_the_market_moved_meanwhile() -> None:
    """More than a third of the stop distance is too much."""
    seen = bars(UP)
    assert FactChecker().rule(context(seen, LONG)).approved
    moved = bars([*UP[:-1], UP[-1] * 1.01])
    verdict = FactChecker().rule(context(seen, LONG, now=moved))
    assert not verdict.approved
    assert "the price moved 1.00 %" in verdict.reason


def test_the_fact_checker_vetoes_a_spike() -> None:
    """A bar that spans more than four times the usual is not a price to trade on."""
    feed = bars([*[100.0] * 50, 120.0], spread=0.5)
    assert "more than four times the usual" in FactChecker().rule(context(feed, LONG)).reason


@pytest.mark.parametrize("count", range(1, 22))
def test_the_fact_checker_judges_however_few_bars_there_are(count: int) -> None:
    """It is asked from the first bar on where the others are language models."""
    given = FactChecker().rule(context(bars([100.0] * count, spread=1.0), LONG))
    assert given.approved is (count > 1)


def test_the_double_checker_sees_no_proposal_and_judges_by_itself() -> None:
    """It does not even declare that it reads one."""
    assert DoubleChecker.reads == ()
    trending = DoubleChecker().rule(context(bars(wave(300, drift=0.001))))
    assert not isinstance(trending, Abstain)
    assert trending.direction is Direction.LONG
    exhausted = DoubleChecker().rule(context(bars(UP)))
    assert not isinstance(exhausted, Abstain)
    assert exhausted.direction is Direction.FLAT


@pytest.mark.parametrize("outcome", list(Outcome))
def test_the_journal_writer_has_words_for_every_outcome(outcome: Outcome) -> None:
    """None of them fails."""
    decision = Decision(id="1", cycle=1, time=START, outcome=outcome, decided_by="gate", reason="because", proposed_by=("a",))
    assert "because" in JournalWriter().rule(context(bars(UP), decision)).text


ANSWERS: dict[str, Record] = {
    "regime_classifier": BULL,
    "strategist": LONG,
    "risk_gate": Verdict(approved=True, reason="room"),
    "fact_checker": Verdict(approved=True, reason="holds"),
    "double_checker": LONG.model_copy(),
    "journal_writer": JournalEntry(text="We bought."),
}


async def test_the_whole_desk_runs_on_a_language_model() -> None:
    """Each role card is asked with its own instructions and schema, and the blind one is not shown the proposal."""
    from agentfund import View

    answers = {**ANSWERS, "double_checker": View(direction=Direction.LONG, confidence=0.6, reason="momentum")}
    llm = ScriptedLLM(lambda prompt: answers[prompt.agent])
    fund = Orchestrator(desk(llm), bus=MemoryBus(), mode="autonomous")
    decisions = [d async for d in fund.run(bars(wave(3)), broker())]
    assert [d.outcome for d in decisions][:1] == [Outcome.ORDERED]
    asked = {prompt.agent: prompt for prompt in llm.prompts}
    assert list(asked) == list(answers)
    assert "Proposal" not in asked["double_checker"].inputs["read"]
    assert asked["risk_gate"].inputs["read"]["Proposal"][0]["stop_pct"] == 2
    assert asked["fact_checker"].inputs["price_now"]["SIM"] == asked["fact_checker"].inputs["market"]["SIM"]["price"]
    said = [e.opinion for m in [m async for m in fund.bus.read()] if isinstance(e := m.event, Opined)]
    assert {o.answered_by for o in said} == {"scripted"}


def test_every_role_card_has_instructions_and_a_rule() -> None:
    """So that the desk runs with and without a key."""
    agents: list[Agent[Any]] = desk()
    assert [type(a) for a in agents] == [
        RegimeClassifier,
        Strategist,
        RiskGate,
        FactChecker,
        DoubleChecker,
        JournalWriter,
    ]
    assert all(len(a.instructions) > 100 and a.has_rule for a in agents)


def test_the_measures_are_what_their_names_say() -> None:
    """Small examples computed by hand."""
    feed = bars([100.0] * 30, spread=1.0)
    assert atr_pct(last(feed).bars) == pytest.approx(2.0)
    for count in range(1, 22):
        assert atr_pct(last(bars([100.0] * count, spread=1.0)).bars, 20) == pytest.approx(2.0 if count > 1 else 0.0)
    assert rsi(np.array([1.0, 2.0, 3.0, 2.0]), 3) == pytest.approx(100 * 2 / 3)
    assert rsi(np.array([5.0] * 20)) == 50.0
    assert trend(np.full(200, 7.0), 4) == 0.0
    assert trend(np.arange(200.0), 4) == pytest.approx(15 / np.std(np.arange(40)))
    calm_then_wild = np.array([100.0, 101.0] * 45 + [100.0, 110.0] * 10 + [100.0])
    assert volatility_ratio(calm_then_wild) > 1.5


def test_a_rule_strategy_takes_the_strategists_place() -> None:
    """The desk around it stays the same, and judges what it proposes."""
    agents = desk(strategist=SmaCross())
    assert [agent.name for agent in agents] == [
        "regime_classifier", "sma_cross", "risk_gate", "fact_checker", "double_checker", "journal_writer"
    ]  # fmt: skip
    report = Backtest(Orchestrator(agents, bus=MemoryBus()), bars(wave(1200, drift=0.0005)), PaperBroker()).run()
    assert {name for decision in report.log.decisions for name in decision.proposed_by} == {"sma_cross"}
    assert report.vetoes > 0
