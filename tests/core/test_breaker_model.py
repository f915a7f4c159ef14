"""The breaker against a reference model: any sequence of steps leaves both in the same state.

The model is written the other way round. It has no generations and no laziness: it forgets all calls under way at every
change of state, and it moves time from one event to the next, so that each deadline happens at its moment.
"""

from __future__ import annotations

import math
import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from agentfund.clock import SimulatedClock
from agentfund.core.breaker import CircuitBreaker, Permit, Result
from agentfund.errors import CircuitOpen

STEPS = int(os.environ.get("AGENTFUND_BREAKER_STEPS", "50000"))
STEPS_PER_RUN = 100


class Model:
    """What a breaker is, said in one more way."""

    def __init__(self, limit: int, cooldown: float, cap: float, deadline: float | None, trial_timeout: float) -> None:
        self.limit, self.cooldown, self.cap, self.deadline, self.trial_timeout = limit, cooldown, cap, deadline, trial_timeout
        self.now = 0.0
        self.mode = "closed"
        self.failures = self.trips = 0
        self.free_at = 0.0  # open: when a trial may start
        self.calls: dict[int, float] = {}  # the calls whose verdict matters, and when they end by themselves
        self.history: list[tuple[str, str]] = []

    def become(self, mode: str) -> None:
        if mode != self.mode:
            self.history.append((self.mode, mode))
        self.mode, self.failures, self.calls = mode, 0, {}

    def open_until(self, moment: float) -> None:
        self.become("open")
        self.free_at = moment

    def advance(self, seconds: float) -> None:
        target = self.now + seconds
        while self.calls and min(self.calls.values()) <= target:
            call = min(self.calls, key=lambda one: self.calls[one])
            self.now = self.calls[call]
            lost = self.mode == "half_open" and (self.deadline is None or self.trial_timeout < self.deadline)
            self.verdict(call, "neutral" if lost else "failure")
        self.now = target

    def admits(self, call: int) -> bool:
        if self.mode == "closed":
            self.calls[call] = math.inf if self.deadline is None else self.now + self.deadline
        elif self.mode == "open" and self.now >= self.free_at:
            self.become("half_open")
            self.calls[call] = self.now + min(self.trial_timeout, self.deadline or math.inf)
        else:
            return False
        return True

    def verdict(self, call: int, result: Result) -> None:
        if self.calls.pop(call, None) is None:
            return
        if result == "neutral":
            if self.mode == "half_open":
                self.open_until(self.now)
        elif result == "ok":
            self.failures = self.trips = 0
            if self.mode == "half_open":
                self.become("closed")
        else:
            self.failures += 1
            if self.mode == "half_open" or self.failures == self.limit:
                self.trips += 1
                wait = self.cooldown
                for _ in range(self.trips - 1):
                    wait = min(2 * wait, self.cap)
                self.open_until(self.now + wait)

    def hold(self, until: float) -> None:
        self.open_until(max(until, self.free_at) if self.mode == "open" else until)

    def reset(self) -> None:
        self.become("closed")
        self.trips = 0

    @property
    def wait(self) -> float:
        if self.mode == "half_open":
            return min(self.calls.values()) - self.now
        return max(0.0, self.free_at - self.now) if self.mode == "open" else 0.0


class BreakerAgainstModel(RuleBasedStateMachine):
    """Do the same to both, and compare after every step or, half of the time, only now and then."""

    steps = 0

    @initialize(
        limit=st.sampled_from([1, 2, 3, 9]),
        cooldown=st.sampled_from([1.0, 8.0]),
        cap=st.sampled_from([8.0, 50.0]),
        deadline=st.sampled_from([None, 3.0, 10.0]),
        trial_timeout=st.sampled_from([3.0, 6.0, 20.0]),
        eager=st.booleans(),
    )
    def build(self, limit: int, cooldown: float, cap: float, deadline: float | None, trial_timeout: float, eager: bool) -> None:
        self.clock = SimulatedClock()
        self.model = Model(limit, cooldown, cap, deadline, trial_timeout)
        self.events: list[tuple[str, str]] = []
        self.breaker = CircuitBreaker(
            "route",
            failures=limit,
            cooldown=cooldown,
            cap=cap,
            deadline=deadline,
            trial_timeout=trial_timeout,
            clock=self.clock,
            on_transition=lambda old, new, _: self.events.append((old.value, new.value)),
        )
        self.permits: dict[int, Permit] = {}
        self.count = 0
        self.eager = eager

    def stepped(self, look: bool = False) -> None:
        BreakerAgainstModel.steps += 1
        if look or self.eager:
            breaker, model = self.breaker, self.model
            seen = (breaker.state.value, breaker.failures, breaker.trips, breaker.retry_after)
            assert seen == (model.mode, model.failures, model.trips, model.wait)
            assert self.events == model.history

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.0, 2.0, 2.0, 4.0, 8.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.model.advance(seconds)
        self.stepped()

    @rule(callers=st.sampled_from([1, 1, 1, 4]))
    def calls_come(self, callers: int) -> None:
        for _ in range(callers):
            self.count += 1
            admitted = self.model.admits(self.count)
            if admitted:
                self.permits[self.count] = self.breaker.acquire()
            else:
                with pytest.raises(CircuitOpen) as refusal:
                    self.breaker.acquire()
                assert refusal.value.retry_after == self.model.wait
        self.stepped()

    @precondition(lambda self: self.permits)
    @rule(back=st.integers(0, 7), result=st.sampled_from(["ok", "failure", "failure", "neutral"]))
    def a_verdict_comes(self, back: int, result: Result) -> None:
        call = list(self.permits)[-1 - back % len(self.permits)]
        self.breaker.report(self.permits[call], result)
        self.model.verdict(call, result)
        self.stepped()

    @rule(fails=st.booleans())
    def a_whole_call(self, fails: bool) -> None:
        def function() -> None:
            if fails:
                raise ValueError

        self.count += 1
        if not self.model.admits(self.count):
            with pytest.raises(CircuitOpen):
                self.breaker.call(function)
        elif fails:
            with pytest.raises(ValueError):
                self.breaker.call(function)
        else:
            self.breaker.call(function)
        self.model.verdict(self.count, "failure" if fails else "ok")
        self.stepped()

    @rule(
        event=st.sampled_from(["dropped", "dropped", "dropped", "named a time", "disabled", "reset"]),
        seconds=st.integers(0, 50),
    )
    def something_rare(self, event: str, seconds: int) -> None:
        if event == "dropped" and self.permits:
            self.stepped(look=True)  # a permit dropped after its deadline, before anybody looked, would be neutral
            call = list(self.permits)[-1 - seconds % len(self.permits)]
            del self.permits[call]
            self.model.verdict(call, "neutral")
        elif event == "named a time":
            self.breaker.open_for(seconds)
            self.model.hold(self.model.now + seconds)
        elif event == "disabled":
            self.breaker.disable()
            self.model.hold(math.inf)
            self.stepped(look=True)
        if event in ("disabled", "reset"):
            self.breaker.reset()
            self.model.reset()
        self.stepped()

    @rule()
    def someone_looks(self) -> None:
        self.stepped(look=True)

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.stepped(look=True)


@pytest.mark.timeout(0)
def test_the_breaker_does_what_its_model_does() -> None:
    """No sequence of calls, verdicts, losses, waits and operators makes them differ (AGENTFUND_BREAKER_STEPS steps)."""
    BreakerAgainstModel.steps = 0
    run_state_machine_as_test(
        BreakerAgainstModel,
        settings=settings(
            max_examples=1 + STEPS * 11 // (10 * STEPS_PER_RUN),
            stateful_step_count=STEPS_PER_RUN,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert BreakerAgainstModel.steps >= STEPS * 0.9, "fewer steps than asked for"
