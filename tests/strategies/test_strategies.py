"""Rule strategies: what they say, alone and in a pipeline, live bars and whole series alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agentfund import Abstain, Agent, Backtest, Decision, MemoryBus, Orchestrator, PaperBroker, Proposal, Verdict, agent
from agentfund.backtest.signals import looked_at, signals
from agentfund.core.context import Snapshot, State
from agentfund.errors import ConfigError, PipelineError
from agentfund.feeds import Bars
from agentfund.indicators import SMA, AnyIndicator, Lag, Price
from agentfund.market import Market, Window
from agentfund.strategies import DonchianBreakout, RsiReversion, SmaCross, Strategy
from agentfund.trading import Direction
from tests.market import bars, no, wave


def at(feed: Bars, count: int) -> Snapshot:
    """Return what an agent with an empty book sees after `count` bars."""
    window = Window(next(iter(feed.columns.values())), count)
    return Snapshot(State(), Market(window.now, {window.symbol: window}, (window.symbol,)), {})


@pytest.mark.parametrize("strategy", [SmaCross(3, 8), RsiReversion(5), DonchianBreakout(6)])
def test_bar_by_bar_it_says_what_the_whole_series_says(strategy: Strategy) -> None:
    """The proposal at each bar, with indicators grown one bar at a time, is the signal of the array form."""
    feed = bars(wave(200), spread=0.05)
    (columns,) = feed.columns.values()
    found = signals(strategy, columns, looked_at(strategy, columns))
    said = [isinstance(strategy.rule(at(feed, count)), Proposal) for count in range(1, 201)]
    assert np.flatnonzero(said).tolist() == found.entries.tolist()
    assert found.entries.size > 5


def test_bars_that_were_passed_over_are_seen_all_the_same() -> None:
    """Asked at every tenth bar it says the same as asked at each; and an earlier market makes it begin again."""
    feed = bars(wave(200))
    each, some = SmaCross(3, 8), SmaCross(3, 8)
    told = {count: each.rule(at(feed, count)) for count in range(1, 201)}
    assert all(some.rule(at(feed, count)) == told[count] for count in range(10, 201, 10))
    assert some.rule(at(feed, 20)) == told[20]


def test_it_proposes_its_stop_and_target_and_no_size() -> None:
    """Distances are its parameters; a strategy without a target proposes none."""
    feed = bars([100.0] * 30 + [101, 102, 103, 104])
    said = SmaCross(3, 8, stop_pct=3.0, target_pct=None).rule(at(feed, 34))
    assert isinstance(said, Proposal)
    assert (said.direction, said.stop_pct, said.target_pct, said.position_scale) == (Direction.LONG, 3.0, None, 1.0)
    assert isinstance(SmaCross(3, 8).rule(at(feed, 5)), Abstain)


class Momentum(Strategy):
    """A strategy of one's own, as the documentation shows it."""

    def indicators(self) -> dict[str, AnyIndicator]:
        return {"before": Lag(Price("close"), 5), "mean": SMA(20)}

    def enter(self, now: Any) -> Any:
        return (now.close > now.before) & (now.close > now.mean)

    def leave(self, now: Any) -> Any:
        return now.close < now.mean


def test_a_strategy_of_ones_own_is_a_few_lines() -> None:
    """It runs in a fund alone: plain rules need no gate agent, the limits judge them."""
    report = Backtest(Orchestrator([Momentum()], bus=MemoryBus()), bars(wave(300)), PaperBroker()).run()
    assert len(report.round_trips) > 3


def test_a_gate_behind_a_strategy_has_its_say() -> None:
    """A strategy stands in a pipeline like any strategist: a veto stops it."""
    report = Backtest(Orchestrator([Momentum(), no], bus=MemoryBus()), bars(wave(300)), PaperBroker()).run()
    assert (report.vetoes > 0, report.orders) == (True, 0)


def test_an_agent_that_is_no_strategy_still_needs_a_gate() -> None:
    """Only plain rules are let off."""

    class Hunch(Agent[Proposal]):
        def rule(self, context: Snapshot) -> Proposal:
            return Proposal(direction=Direction.LONG)

    with pytest.raises(PipelineError, match="no gate comes after it"):
        Orchestrator([Hunch()], bus=MemoryBus())


def test_while_its_exit_is_working_it_proposes_nothing() -> None:
    """In a thin market an exit takes several bars; the gate is not asked about it at each."""
    (columns,) = bars(wave(400)).columns.values()
    thin = Bars(replace(columns, volume=np.full(400, 900.0)), source="thin")
    report = Backtest(Orchestrator([Momentum(stop_pct=5.0)], bus=MemoryBus()), thin, PaperBroker()).run()
    assert len(report.fills) > 3 * len(report.round_trips) > 6
    assert report.denials == 0


def test_a_journal_may_follow_a_strategy() -> None:
    """What reads the decision is asked after it."""
    seen: list[str] = []

    @agent(reads=(Decision,))
    def diary(context: Snapshot) -> Verdict:
        seen.append(context.latest(Decision).outcome)
        return Verdict(approved=True, reason="written down")

    Backtest(Orchestrator([Momentum(), diary], bus=MemoryBus()), bars(wave(300)), PaperBroker()).run()
    assert "ordered" in seen


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SmaCross(50, 20), "fast must be below slow"),
        (lambda: RsiReversion(below=60, out=50), "0 < below < out"),
        (lambda: DonchianBreakout(stop_pct=0.0), "stop_pct is a distance"),
        (lambda: DonchianBreakout(target_pct=-1.0), "target_pct is a distance"),
        (lambda: DonchianBreakout(0).indicators(), "must be at least 1"),
    ],
)
def test_parameters_that_cannot_work_are_refused(make: Any, message: str) -> None:
    """Each error names the parameter."""
    with pytest.raises(ConfigError, match=message):
        make()


def test_another_parameter_or_another_line_of_code_is_another_strategy() -> None:
    """The digest, by which logs and trials tell runs apart, follows parameters and code."""

    class Changed(SmaCross):
        def leave(self, now: Any) -> Any:
            return now.close <= now.fast

    digests = {SmaCross().digest, SmaCross(10).digest, SmaCross(stop_pct=2).digest, Changed().digest}
    assert len(digests) == 4
    assert SmaCross().digest == SmaCross().digest
    assert repr(SmaCross()) == "SmaCross(stop_pct=1.0, target_pct=2.0, fast=20, slow=50)"


def test_the_close_is_compared_with_the_channel_before_it() -> None:
    """A close is never above the high of its own bar, so a breakout over the bar's own channel would never trade."""
    feed = bars(wave(300))
    (columns,) = feed.columns.values()
    seen = looked_at(DonchianBreakout(), columns)
    assert not (columns.close > seen["channel"].upper).any()
    assert len(signals(DonchianBreakout(), columns, seen).entries) > 0
