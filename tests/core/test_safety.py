"""The safety wrapper."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfund import Agent, Direction, Proposal, Record, SafetyLimits, SafetyWrapper, Snapshot, Verdict, agent
from agentfund.clock import SimulatedClock
from agentfund.core.agent import FunctionAgent
from agentfund.core.context import State
from agentfund.core.safety import BOUNDS, FORBIDDEN, Adjustment, Rates, forbidden_action
from agentfund.errors import ConfigError
from agentfund.llms import ScriptedLLM
from agentfund.messages import Opinion, Stance
from tests.market import START, bars, last


class Tuning(Record):
    """All numbers that F15 bounds."""

    lr: float = 1.0
    entropy: float = 1.0
    position_scale: float = 1.0
    confidence_factor: float = 1.0
    stop_pct: float = 1.0


def snapshot() -> Snapshot:
    """Return a snapshot of a small market."""
    return Snapshot(State(), last(bars([100.0] * 30)), {})


def giving(value: Any, output: type[Any] | None = None) -> FunctionAgent[Any]:
    """Return an agent that gives this value."""
    return FunctionAgent(lambda context: value, output=output or type(value), name="giver")


async def opinion_of(one: Agent[Any], limits: SafetyLimits | None = None, **more: Any) -> Opinion:
    """Return the opinion of a wrapped agent."""
    judged = SafetyWrapper(one, limits, **more).opine(snapshot())
    return (judged if isinstance(judged, tuple) else await judged)[0]


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(sorted(Tuning.model_fields)))
def test_every_number_stays_within_its_bounds_and_each_clamp_is_recorded(number: float, field: str) -> None:
    """F15: whatever an agent gives."""
    opinion = asyncio.run(opinion_of(giving(Tuning(**{field: number}))))
    low, high = BOUNDS[field]
    kept = getattr(opinion.value, field)
    assert low <= kept <= high
    assert [clamp.field for clamp in opinion.clamps] == ([] if low <= number <= high else [field])


def test_the_figures_of_the_requirements_are_the_defaults() -> None:
    """F15 and F17, as written."""
    assert [BOUNDS[name] for name in ("lr", "entropy", "position_scale", "confidence_factor", "stop_pct")] == [
        (0.1, 3.0),
        (0.1, 5.0),
        (0.3, 2.0),
        (0.7, 1.3),
        (0.5, 15.0),
    ]
    limits = SafetyLimits()
    assert (limits.agent_consultations_per_hour, limits.fund_consultations_per_hour) == (100, 200)
    assert limits.adjustment_pause_s == 60


@pytest.mark.parametrize("action", sorted(FORBIDDEN))
@pytest.mark.parametrize("write", [str, str.upper, lambda a: a.replace("_", " "), lambda a: a.replace("_", "-")])
async def test_no_agent_can_name_a_forbidden_action(action: str, write: Callable[[str], str]) -> None:
    """F16, in any spelling."""
    opinion = await opinion_of(giving(Verdict(approved=True, reason=f"first {write(action)} and then buy")))
    assert opinion.stance is Stance.UNAVAILABLE
    assert opinion.reason == f"forbidden action: {action}"
    assert opinion.value is None


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("we should skip the risk gates this once", "bypass_all_gates"),
        ("Turn off all risk controls", "disable_risk_controls"),
        ("an unlimited position", "unlimited_position"),
        ("simply ignoring the drawdown", "ignore_drawdown"),
        ("rotate the API keys", "modify_api_keys"),
        ("disableRiskControls", "disable_risk_controls"),
    ],
)
def test_an_output_that_implies_a_forbidden_action_is_found(text: str, action: str) -> None:
    """Other words for the same thing."""
    assert forbidden_action(Verdict(approved=True, reason=text)) == action


def test_ordinary_words_are_not_forbidden() -> None:
    """A risk gate may speak of drawdown and limits."""
    for text in ("drawdown is small and the risk controls hold", "the gates agree", "position within limits"):
        assert forbidden_action(Verdict(approved=True, reason=text)) is None


async def test_a_failure_is_never_a_view() -> None:
    """An agent that raises is unavailable, with the cause, and nothing is raised."""

    @agent
    def broken(context: Snapshot) -> Proposal:
        """Fail."""
        raise KeyError("volume")

    opinion = await opinion_of(broken)
    assert (opinion.stance, opinion.value, opinion.reason) == (Stance.UNAVAILABLE, None, "KeyError: 'volume'")


async def test_another_type_than_promised_is_unavailable() -> None:
    """A dict is not a Proposal."""
    opinion = await opinion_of(giving({"direction": "long"}, Proposal))
    assert opinion.reason == "gave a dict instead of a Proposal"


async def test_an_agent_that_never_answers_is_unavailable_at_its_time_limit() -> None:
    """It does not hold the fund."""

    @agent
    async def asleep(context: Snapshot) -> Proposal | None:
        """Wait for ever."""
        await asyncio.Event().wait()
        return None

    opinion = await asyncio.wait_for(opinion_of(asleep, SafetyLimits(time_limit_s=0.02)), 5)
    assert opinion.reason == "no answer within 0.02 s"


async def test_a_function_that_took_too_long_is_unavailable_when_it_returns() -> None:
    """Plain code cannot be interrupted, but its late answer does not count."""
    clock = SimulatedClock()

    @agent
    def slow(context: Snapshot) -> Proposal:
        """Take more than two minutes."""
        clock.advance(121)
        return Proposal(direction=Direction.LONG)

    assert (await opinion_of(slow, clock=clock)).reason == "took longer than 120 s"


async def test_cancellation_passes_through() -> None:
    """A cancelled fund does not turn its cancellation into an opinion."""

    @agent
    async def asleep(context: Snapshot) -> Proposal | None:
        """Wait for ever."""
        await asyncio.Event().wait()
        return None

    task = asyncio.ensure_future(opinion_of(asleep))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_an_agent_is_asked_a_hundred_times_an_hour_and_no_more() -> None:
    """F17 for one agent; an hour later it may be asked again."""
    rates = Rates(SafetyLimits())
    refused = [rates.consult("strategist", START + timedelta(seconds=i)) for i in range(101)]
    assert refused[:100] == [""] * 100
    assert "100 consultations of strategist" in refused[100]
    assert rates.consult("strategist", START + timedelta(hours=1)) == ""


def test_all_agents_together_are_asked_two_hundred_times_an_hour() -> None:
    """F07 for the fund."""
    rates = Rates(SafetyLimits())
    refused = [rates.consult(f"agent{i % 32}", START) for i in range(201)]
    assert refused[:200] == [""] * 200
    assert "200 consultations of all agents" in refused[200]


def test_one_parameter_is_adjusted_once_a_minute() -> None:
    """F17: sixty seconds between adjustments of one parameter; another one is free."""
    rates = Rates(SafetyLimits())
    assert rates.adjust("lr", START) == ""
    assert "lr was adjusted 59 s ago" in rates.adjust("lr", START + timedelta(seconds=59))
    assert rates.adjust("entropy", START + timedelta(seconds=59)) == ""
    assert rates.adjust("lr", START + timedelta(seconds=60)) == ""


async def test_an_adjustment_too_soon_is_refused_by_the_wrapper() -> None:
    """The wrapper counts what it lets through."""
    wrapper = SafetyWrapper(giving(Adjustment(parameter="lr", factor=1.1)))
    first, second = wrapper.opine(snapshot()), wrapper.opine(snapshot())
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    assert (first[0].stance, second[0].stance) == (Stance.VALUE, Stance.UNAVAILABLE)


async def test_over_the_rate_the_language_model_is_not_asked() -> None:
    """The refusal comes before the call."""
    llm = ScriptedLLM([Verdict(approved=True, reason="yes")] * 2)

    class Gate(Agent[Verdict]):
        """A gate."""

    limits = SafetyLimits(agent_consultations_per_hour=1)
    wrapper = SafetyWrapper(Gate(llm), limits)
    for expected in (Stance.VALUE, Stance.UNAVAILABLE):
        judged = wrapper.opine(snapshot())
        assert (judged if isinstance(judged, tuple) else await judged)[0].stance is expected
    assert len(llm.prompts) == 1


async def test_every_attempt_of_an_agent_comes_back_as_a_ledger_row() -> None:
    """Also when the agent could not answer."""
    llm = ScriptedLLM(["not json", "still not json"])

    class Gate(Agent[Verdict]):
        """A gate."""

    judged = SafetyWrapper(Gate(llm)).opine(snapshot())
    opinion, calls = judged if isinstance(judged, tuple) else await judged
    assert opinion.stance is Stance.UNAVAILABLE
    assert [call.outcome for call in calls] == ["InvalidOutput", "InvalidOutput"]


async def test_the_wrapper_has_the_type_of_what_it_wraps() -> None:
    """It can stand wherever the agent can."""
    wrapper = SafetyWrapper(giving(Tuning(lr=99)))
    assert isinstance(wrapper, Agent)
    assert wrapper.output is Tuning
    given = await wrapper.run(snapshot())
    assert given == Tuning(lr=3.0)


def test_empty_bounds_are_refused() -> None:
    """A configuration that cannot be kept is an error at once."""
    with pytest.raises(ConfigError, match="bounds of lr: 3 to 1 is empty"):
        SafetyLimits(bounds={"lr": (3, 1)})
