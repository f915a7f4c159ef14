"""What gates saved or cost, worked out by hand on small logs, and on the same fund with and without its gate."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from agentfund import Backtest, Proposal, Verdict, agent
from agentfund.backtest.report import Report
from agentfund.backtest.worth import GateWorth
from agentfund.core.gate import Limits
from agentfund.market import Columns
from agentfund.messages import Clamp, Decided, Intended, Observed, Opined, Opinion, Stance
from agentfund.trading import Costs, Decision, Direction, Order, Outcome, Side
from tests.market import bars, broker, fund, wave

from .test_report import CASH, DAY, START, Bars, Story

FREE = str(Costs(commission_bps=0.0, half_spread_bps=0.0, slippage_bps=0.0))


class Prices(Bars):
    """Daily bars whose open is the close before, so that a trade at the next open is at the price of the decision."""

    def __init__(self, *closes: float) -> None:
        super().__init__(*closes)
        column = self.columns["ACME"]
        opens = np.concatenate([column.close[:1], column.close[:-1]])
        high, low = np.maximum(opens, column.close), np.minimum(opens, column.close)
        whole = Columns(column.instrument, DAY, column.start, opens, high, low, column.close, column.volume)
        self.columns = {"ACME": whole}


def says(
    story: Story,
    bar: int,
    outcome: Outcome,
    direction: Direction = Direction.LONG,
    *,
    price: float,
    vetoes: tuple[str, ...] = (),
    code: str = "",
    clamps: tuple[Clamp, ...] = (),
    **proposal: Any,
) -> Story:
    """A cycle with one proposal; by default a stop at 10 percent and no target."""
    given = {"stop_pct": 10.0, "target_pct": None, **proposal}
    decision = Decision(
        id=f"d{bar}",
        cycle=bar + 1,
        time=START + (bar + 1) * DAY,
        outcome=outcome,
        decided_by="consensus",
        reason="because",
        symbol="ACME",
        direction=direction,
        proposed_by=("strategist",),
        vetoes=tuple((name, "no") for name in vetoes),
        code=code,
        price=price,
    )
    opinion = Opinion("strategist", "Proposal", Stance.VALUE, Proposal(direction=direction, **given), "", clamps)
    story.add(bar, Observed({"ACME": Decimal(str(price))}, CASH, CASH, CASH), Opined(opinion), Decided(decision))
    if outcome is Outcome.ORDERED:
        side = Side.BUY if direction is Direction.LONG else Side.SELL
        story.add(bar, Intended(Order(f"o{bar}", "ACME", side, Decimal(10), decision.time, decision=decision.id)))
    return story


def rounded(gate: GateWorth) -> tuple[int, int, int, float, float]:
    return gate.stopped, gate.repeats, gate.untold, round(gate.saved, 2), round(gate.cost, 2)


# The default sizing risks one percent: with a stop at 10 percent that is a tenth of the capital, 10 units at 10.


def test_a_veto_of_a_loser_saved_and_a_veto_of_a_winner_cost() -> None:
    """From 10 to the stop at 9: 10 units lose 10. From 10 to 12 at the end: 10 units make 20."""
    story = Story(FREE)
    says(story, 0, Outcome.VETOED, price=10.0, vetoes=("risk_gate",))
    says(story, 3, Outcome.DENIED, price=10.0, code="daily_loss")
    report = Report.of(story.end(6, "1000"), Prices(10, 8, 9, 10, 11, 12))
    assert {name: rounded(gate) for name, gate in report.gates.gates.items()} == {
        "risk_gate": (1, 0, 0, 10.0, 0.0),
        "limit: daily_loss": (1, 0, 0, 0.0, 20.0),
    }
    assert rounded(report.gates.total) == (2, 0, 0, 10.0, 20.0)
    assert "all in all they cost 10.00" in report.gates.sentence
    assert "ignored" in report.text()


def test_a_stopped_trade_ends_at_the_next_proposal_of_another_direction() -> None:
    """Wanted long at 10, wanted flat at 11: it would have been left at the open after, at 11."""
    story = Story(FREE)
    says(story, 0, Outcome.VETOED, price=10.0, vetoes=("risk_gate",))
    says(story, 2, Outcome.HELD, Direction.FLAT, price=11.0)
    report = Report.of(story.end(6, "1000"), Prices(10, 10.5, 11, 15, 15, 15))
    assert rounded(report.gates.total) == (1, 0, 0, 0.0, 10.0)


def test_the_same_wish_stopped_again_is_one_trade() -> None:
    """Three bars in a row, while the first would still have been on; each gate counts what it stopped itself."""
    story = Story(FREE)
    says(story, 0, Outcome.VETOED, price=10.0, vetoes=("risk_gate",))
    says(story, 1, Outcome.VETOED, price=10.0, vetoes=("risk_gate", "fact_checker"))
    says(story, 2, Outcome.VETOED, price=11.0, vetoes=("risk_gate",))
    report = Report.of(story.end(4, "1000"), Prices(10, 10, 11, 12))
    assert rounded(report.gates.gates["risk_gate"]) == (1, 2, 0, 0.0, 20.0)
    assert rounded(report.gates.gates["fact_checker"]) == (1, 0, 0, 0.0, 20.0)
    assert rounded(report.gates.total) == (1, 2, 0, 0.0, 20.0)


def test_a_stopped_exit_is_worth_what_waiting_made() -> None:
    """Bought 10 at 10; an exit at 14 was stopped, it ended at 12 and paid a dollar: the veto cost 21."""
    story = Story(FREE)
    says(story, 0, Outcome.ORDERED, price=10.0)
    story.fill(1, Side.BUY, "10", "o0")
    says(story, 2, Outcome.VETOED, Direction.FLAT, price=14.0, vetoes=("risk_gate",))
    says(story, 3, Outcome.VETOED, Direction.FLAT, price=13.0, vetoes=("risk_gate",))
    story.fill(5, Side.SELL, "12", "o0")
    report = Report.of(story.end(7, "1018"), Prices(10, 12, 14, 13, 12, 12, 12))
    assert rounded(report.gates.total) == (1, 1, 0, 0.0, 21.0)


def test_a_number_that_bounds_moved_is_compared_with_the_one_given() -> None:
    """Wanted ten times the size and got twice: 16 units more would each have lost 1."""
    story = Story(FREE)
    clamps = (Clamp("position_scale", 10.0, 2.0), Clamp("confidence", 3.0, 1.0))
    says(story, 0, Outcome.ORDERED, price=10.0, clamps=clamps, stop_pct=50.0, position_scale=2.0)
    story.fill(1, Side.BUY, "10", "o0")
    report = Report.of(story.end(3, "1000"), Prices(10, 10, 9))
    # One percent of 1,000 at risk, at a distance of 5: 2 units, twice that is 4, ten times is 20.
    (found,) = report.gates.gates.items()
    assert (found[0], rounded(found[1])) == ("bounds: position_scale", (1, 0, 0, 16.0, 0.0))


def test_what_cannot_be_told_is_counted_and_not_guessed() -> None:
    """Stopped at the last bar, or without a price: there is no next open."""
    story = Story(FREE)
    says(story, 2, Outcome.VETOED, price=10.0, vetoes=("risk_gate",))
    report = Report.of(story.end(3, "1000"), Prices(10, 10, 10))
    assert rounded(report.gates.total) == (0, 0, 1, 0.0, 0.0)
    assert report.gates.sentence == "no gate stopped a trade"


def test_a_wish_for_what_is_held_already_stops_nothing() -> None:
    """It would have changed nothing, so its veto did not either."""
    story = Story(FREE)
    says(story, 0, Outcome.ORDERED, price=10.0)
    story.fill(1, Side.BUY, "10", "o0")
    says(story, 2, Outcome.VETOED, price=10.0, vetoes=("risk_gate",))
    says(story, 3, Outcome.VETOED, price=10.0, vetoes=("risk_gate",))
    report = Report.of(story.end(5, "1000"), Prices(10, 10, 10, 10, 10))
    assert rounded(report.gates.total) == (0, 2, 0, 0.0, 0.0)


def test_what_a_veto_is_said_to_cost_is_what_the_fund_makes_without_it() -> None:
    """A gate that stops everything: its first stopped trade is, to the cent, the first trade of the fund without the gate."""

    @agent(reads=(Proposal,), name="never", veto=True)
    def never(context: Any) -> Verdict:
        return Verdict(approved=False, reason="no")

    @agent
    def once(context: Any) -> Proposal | None:
        if context.state.cycle != 40:
            return None
        return Proposal(direction=Direction.LONG, stop_pct=2.0, target_pct=4.0)

    @agent(reads=(Proposal,))
    def yes(context: Any) -> Verdict:
        return Verdict(approved=True, reason="yes")

    for seed in range(4):
        free = Backtest(fund(once, yes), bars(wave(600, seed=seed)), broker()).run()
        held = Backtest(fund(once, never), bars(wave(600, seed=seed)), broker()).run()
        (stopped,) = held.gates.stopped
        assert stopped.profit is not None
        assert stopped.profit == pytest.approx(float(free.round_trips[0].profit), abs=0.011)
        assert held.gates.gates["never"].net == pytest.approx(-stopped.profit)


def test_limits_that_deny_are_gates_too() -> None:
    """Named by their code; the walk of a denied trade obeys the fund's own sizing."""
    report = Backtest(fund(limits=Limits(max_order_pct=1.0)), bars(wave(200)), broker()).run()
    assert list(report.gates.gates) == ["limit: order_size"]
    assert report.gates.total.stopped + report.gates.total.repeats + report.gates.total.untold == report.denials
    assert report.to_json()["gates"]["total"]["stopped"] == report.gates.total.stopped
