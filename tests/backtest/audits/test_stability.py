"""Repeated runs: what is chance shows, and what is not does not."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from agentfund import Agent, MemoryBus, Orchestrator, Proposal
from agentfund.backtest.audits.stability import stability
from agentfund.errors import ConfigError
from agentfund.llms import ScriptedLLM
from agentfund.prompt import Prompt
from agentfund.trading import Direction, Record
from tests.market import bars, buyer, fund, wave, yes

MARKET = bars(wave(80))


class Mood(Record):
    """A choice, and what is none."""

    bullish: bool
    how_sure: float
    why: str


class Moody(Agent[Mood]):
    """Says how the market feels."""

    instructions = "Say how the market feels."
    sees_portfolio = False


class Trader(Agent[Proposal]):
    """Proposes what comes to its mind."""

    instructions = "Propose a trade."
    sees_portfolio = False


def scripted(answers: Any) -> ScriptedLLM:
    """Return a language model without end."""
    return ScriptedLLM(answers)


def moody(rng: Random, *, bullish: float = 1.0) -> Any:
    """Return a script of moods that are bullish with a chance; how sure and why are always others."""
    return lambda _: Mood(bullish=rng.random() < bullish, how_sure=round(rng.random(), 3), why=f"thought {rng.random()}")


def test_a_fund_of_rules_decides_the_same_each_time() -> None:
    """Agreement is whole, nothing flips, and all runs end with the same money."""
    found = stability(fund, MARKET, runs=3)
    assert found.stable
    assert {each.agreement for each in found.agents} == {1.0}
    assert found.agents[0].agent == "fund"
    assert found.agents[0].cycles > 5
    assert found.final_equity.least == found.final_equity.greatest
    assert "one run is enough" in str(found)


def test_directions_drawn_by_lot_flip_and_the_results_spread() -> None:
    """Two of three answers disagree by chance, and the finding says so."""
    rng = Random(4)

    def make() -> Orchestrator:
        draw = rng.choice
        llm = scripted(lambda _: Proposal(direction=draw([Direction.LONG, Direction.FLAT]), stop_pct=2.0, target_pct=3.0))
        return Orchestrator([Trader(llm), yes], bus=MemoryBus())

    found = stability(make, MARKET, runs=4)
    trader = next(each for each in found.agents if each.agent == "trader")
    assert trader.cycles == 80
    assert 0.4 < trader.agreement < 0.6  # half of all pairs of fair coins agree
    assert trader.flips > 0.8  # four coins rarely fall alike
    assert not found.stable
    assert found.final_equity.least is not None
    assert found.final_equity.greatest is not None
    assert found.final_equity.least < found.final_equity.greatest
    assert "state the spread" in found.finding


def test_prose_and_confidence_are_no_disagreement() -> None:
    """What counts is the choice; it is another in one of four answers here, so five of eight pairs agree."""
    rng = Random(7)
    same = stability(lambda: [Moody(scripted(moody(rng))), buyer, yes], MARKET, runs=3)
    assert same.agents[1].agent == "moody"
    assert same.agents[1].agreement == 1.0
    other = stability(lambda: [Moody(scripted(moody(rng, bullish=0.75))), buyer, yes], MARKET, runs=3)
    assert 0.5 < other.agents[1].agreement < 0.75
    assert other.agents[0].agreement == 1.0  # nobody reads the mood, so the fund is what it was


def test_a_rule_beside_a_language_model_is_compared_by_what_holds() -> None:
    """What a rule says is logged only when it is news; between two news it still says it."""
    rng = Random(1)

    class Wants(Agent[Proposal]):
        """Goes with the mood; the rule twin of a strategist."""

        reads = (Mood,)

        def rule(self, context: Any) -> Proposal:
            long = context.latest(Mood).bullish
            return Proposal(direction=Direction.LONG if long else Direction.FLAT)

    found = stability(lambda: [Moody(scripted(moody(rng, bullish=0.5))), Wants(), yes], MARKET, runs=3)
    by_name = {each.agent: each for each in found.agents}
    assert by_name["wants"].agreement == pytest.approx(by_name["moody"].agreement, abs=1e-9)


def test_a_run_that_decides_nothing_says_so() -> None:
    """Nothing is compared, and no comfort is given."""
    rng = Random(2)

    def answer(prompt: Prompt) -> Any:
        return None if rng.random() < 0.5 else "no answer at all"

    found = stability(lambda: [Trader(scripted(answer)), yes], MARKET, runs=2)
    assert found.agents[0].cycles == 0
    assert found.agents[1].agreement < 1.0
    assert "nothing can be said" in found.finding


def test_the_same_fund_twice_is_refused() -> None:
    """Its log would go on where it ended, and compare nothing."""
    one = fund()
    with pytest.raises(ConfigError, match="new log each time"):
        stability(lambda: one, MARKET)
    with pytest.raises(ConfigError, match="at least two"):
        stability(fund, MARKET, runs=1)


def test_it_can_be_written_as_json() -> None:
    """With the spread and the finding, and no object that JSON does not know."""
    import json

    told = json.loads(json.dumps(stability(fund, MARKET, runs=2).to_json()))
    assert told["stable"] is True
    assert told["agents"][0]["agent"] == "fund"
    assert set(told["total_return"]) == {"least", "median", "greatest"}
