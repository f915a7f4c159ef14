"""Consensus over gate agents."""

from __future__ import annotations

import itertools

import pytest

from agentfund import Consensus, Direction, Proposal, Verdict, View
from agentfund.core.agent import FunctionAgent
from agentfund.core.consensus import Judgement
from agentfund.errors import ConfigError
from agentfund.messages import Opinion, Stance

YES = Opinion("", "Verdict", Stance.VALUE, Verdict(approved=True, reason="fine"))
NO = Opinion("", "Verdict", Stance.VALUE, Verdict(approved=False, reason="too risky"))
GONE = Opinion("", "Verdict", Stance.UNAVAILABLE, reason="LLMUnavailable")
SHY = Opinion("", "Verdict", Stance.ABSTAINS, reason="cannot say")
LONG = Proposal(direction=Direction.LONG)


def judge(*opinions: Opinion, veto: int = -1, scale: float = 1.0) -> Judgement:
    """Return the judgement over these opinions; the gate number `veto` has veto authority."""
    gates = [FunctionAgent(lambda context: None, output=Verdict, name=f"gate{i}", veto=i == veto) for i in range(len(opinions))]
    given = {f"gate{i}": opinion for i, opinion in enumerate(opinions)}
    return Consensus().judge(gates, given, LONG.model_copy(update={"position_scale": scale}))


def test_two_of_three_are_enough_for_an_action() -> None:
    """F07: two thirds."""
    assert judge(YES, YES, NO).approved
    assert not judge(YES, NO, NO).approved
    assert not judge(YES, NO).approved


def test_a_critical_action_needs_all() -> None:
    """F07: unanimity, here for more than the standard size."""
    assert not judge(YES, YES, NO, scale=1.5).approved
    assert judge(YES, YES, YES, scale=1.5).approved


@pytest.mark.parametrize("missing", [GONE, SHY])
def test_a_gate_that_does_not_answer_counts_as_a_no(missing: Opinion) -> None:
    """Silence approves nothing."""
    assert not judge(YES, missing).approved
    assert judge(YES, missing).vetoes[0][0] == "gate1"


def test_a_veto_with_authority_is_not_outvoted() -> None:
    """F18: it stands alone, and its reason is kept."""
    judgement = judge(YES, YES, YES, NO, veto=3)
    assert (judgement.approved, judgement.decided_by, judgement.reason) == (False, "gate3", "too risky")


def test_no_gate_is_no_approval() -> None:
    """An empty jury does not agree."""
    assert not judge().approved


def test_a_blind_view_approves_only_the_same_direction() -> None:
    """Being flat is not agreeing."""
    for direction in Direction:
        view = Opinion("", "View", Stance.VALUE, View(direction=direction))
        assert judge(view).approved == (direction is Direction.LONG)


def test_replacing_any_gates_by_failing_ones_never_approves() -> None:
    """Over all combinations of four gates, with and without authority."""
    for opinions in itertools.product((YES, NO, SHY), repeat=4):
        for veto in (-1, 0):
            before = judge(*opinions, veto=veto).approved
            for failing in itertools.product((False, True), repeat=4):
                after = judge(*(GONE if f else o for f, o in zip(failing, opinions, strict=True)), veto=veto).approved
                assert before or not after


def test_a_share_of_zero_is_refused() -> None:
    """Consensus cannot be configured away."""
    with pytest.raises(ConfigError, match="above 0"):
        Consensus(action=0)
