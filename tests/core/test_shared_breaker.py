"""The shared breaker: two of them on one store are one breaker, and a lost store is never a closed circuit by accident."""

from __future__ import annotations

import asyncio
import gc
import math
from contextlib import suppress
from threading import Barrier, Thread
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from agentfund.clock import SimulatedClock
from agentfund.core.breaker import BreakerState, CircuitBreaker, Permit, Result
from agentfund.core.shared_breaker import BreakerStore, SharedCircuitBreaker
from agentfund.errors import BusUnavailable, CircuitOpen, ConfigError

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class Shelf:
    """A store in memory, of which each half can be out of order, and the clock moved."""

    def __init__(self, clock: SimulatedClock) -> None:
        self.clock = clock
        self.rows: dict[str, tuple[int, str]] = {}
        self.unreadable = self.unwritable = False
        self.boot, self.step, self.writes = "first", 0.0, 0

    def load(self, name: str) -> tuple[int, str] | None:
        if self.unreadable:
            raise ConnectionError("no reading")
        return self.rows.get(name)

    def compare_and_set(self, name: str, expected: int, text: str) -> bool:
        if self.unwritable:
            raise OSError("no writing")
        if self.rows.get(name, (0, ""))[0] != expected:
            return False
        self.rows[name] = (expected + 1, text)
        self.writes += 1
        return True

    def now(self) -> tuple[str, float]:
        return self.boot, self.clock.monotonic() + self.step

    def lose(self, lost: bool = True) -> None:
        self.unreadable = self.unwritable = lost


def shared(store: BreakerStore, clock: SimulatedClock, **options: Any) -> SharedCircuitBreaker:
    return SharedCircuitBreaker("route", store, **{"failures": 2, "clock": clock, **options})


def pair(**options: Any) -> tuple[SimulatedClock, Shelf, SharedCircuitBreaker, SharedCircuitBreaker]:
    clock = SimulatedClock()
    shelf = Shelf(clock)
    return clock, shelf, shared(shelf, clock, **options), shared(shelf, clock, **options)


def fail() -> None:
    raise ConnectionError("down")


def trip(breaker: CircuitBreaker) -> None:
    while breaker.state is CLOSED:
        breaker.report(breaker.acquire(), "failure")


def refused(breaker: CircuitBreaker) -> float:
    with pytest.raises(CircuitOpen) as refusal:
        breaker.acquire()
    return refusal.value.retry_after


class TwoAsOne(RuleBasedStateMachine):
    """Each step is done to one of two shared breakers, and to one that shares nothing."""

    @initialize(
        failures=st.integers(1, 3),
        cooldown=st.sampled_from([1, 4]),
        cap=st.sampled_from([4, 10]),
        trial_timeout=st.sampled_from([2, 8]),
    )
    def begin(self, **options: float) -> None:
        self.clock = SimulatedClock()
        shelf = Shelf(self.clock)
        self.two = [shared(shelf, self.clock, **options) for _ in range(2)]
        self.one = CircuitBreaker("route", clock=self.clock, **options)  # type: ignore[arg-type]
        self.permits: list[tuple[int, Permit, Permit]] = []

    @rule(who=st.integers(0, 1))
    def ask(self, who: int) -> None:
        answers: list[Permit | float] = []
        for breaker in (self.two[who], self.one):
            try:
                answers.append(breaker.acquire())
            except CircuitOpen as refusal:
                answers.append(refusal.retry_after)
        given, expected = answers
        if isinstance(given, Permit) and isinstance(expected, Permit):
            self.permits.append((who, given, expected))
        else:
            assert given == expected

    @rule(which=st.integers(0), result=st.sampled_from(["ok", "failure", "failure", "neutral"]))
    def tell(self, which: int, result: Result) -> None:
        if self.permits:
            who, permit, expected = self.permits[-1 - which % len(self.permits)]
            self.two[who].report(permit, result)
            self.one.report(expected, result)

    @rule(seconds=st.integers(0, 10))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(who=st.integers(0, 1), seconds=st.sampled_from([0, 3, 20, math.inf]))
    def hold(self, who: int, seconds: float) -> None:
        for breaker in (self.two[who], self.one):
            breaker.open_for(seconds) if seconds < math.inf else breaker.disable()

    @rule(who=st.integers(0, 1))
    def reset(self, who: int) -> None:
        self.two[who].reset()
        self.one.reset()

    @invariant()
    def agree(self) -> None:
        states = [(b.state, b.retry_after, b.failures, b.trips) for b in (self.one, *self.two)]
        assert states[0] == states[1] == states[2]


def test_two_breakers_with_one_store_are_one_breaker() -> None:
    """Any sequence of steps, whoever makes them, leaves both where one breaker that shares nothing would be."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        TwoAsOne, settings=settings(max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=checks)
    )


def test_of_many_threads_with_breakers_of_their_own_one_is_the_trial() -> None:
    """At the moment the cool-down ends, in every round."""
    clock, shelf, first, _ = pair(failures=1)
    breakers = [first, *(shared(shelf, clock, failures=1) for _ in range(7))]
    for _ in range(50):
        trip(first)
        clock.advance(first.retry_after)
        permits: list[Permit] = []
        barrier = Barrier(len(breakers))

        def race(
            breaker: CircuitBreaker, barrier: Barrier = barrier, permits: list[Permit] = permits
        ) -> None:  # bound here, for each round
            barrier.wait()
            with suppress(CircuitOpen):
                permits.append(breaker.acquire())

        threads = [Thread(target=race, args=(breaker,)) for breaker in breakers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(permits) == 1
        permits[0].breaker.report(permits[0], "ok")


def test_of_many_tasks_one_is_the_trial() -> None:
    """A hundred tasks, half of them with each breaker."""
    clock, _, first, second = pair()
    trip(first)
    clock.advance(30)
    begun = []

    async def work() -> None:
        begun.append(1)
        await asyncio.sleep(0)

    async def main() -> list[BaseException | None]:
        return await asyncio.gather(*(b.acall(work) for b in [first, second] * 50), return_exceptions=True)

    done = asyncio.run(main())
    assert (len(begun), sum(isinstance(one, CircuitOpen) for one in done)) == (1, 99)
    assert second.state is CLOSED


def test_every_face_of_it_goes_through_the_store() -> None:
    """Calls, decorated functions and context managers of one are counted by the other."""
    _, _, first, second = pair(failures=3)
    with pytest.raises(ConnectionError):
        first.call(fail)
    with pytest.raises(ConnectionError):
        second(fail)()
    with pytest.raises(ConnectionError), first.acquire():
        fail()
    assert (second.state, second.trips, refused(second)) == (OPEN, 1, 30.0)


def test_a_closed_circuit_that_works_writes_nothing() -> None:
    """Only changes are written."""
    _, shelf, first, second = pair()
    assert [breaker.call(len, "abc") for breaker in (first, second)] == [3, 3]
    assert (shelf.writes, shelf.rows) == (0, {})


def test_a_trial_whose_process_is_gone_is_replaced_by_exactly_one() -> None:
    """After its time, and its late verdict changes nothing; nor is it replaced before."""
    clock, shelf, first, second = pair(trial_timeout=10)
    third = shared(shelf, clock, trial_timeout=10)
    trip(first)
    clock.advance(30)
    lost = first.acquire()
    clock.advance(9)
    assert refused(second) == 1.0
    clock.advance(1)
    replacement = second.acquire()
    assert refused(third) == 10.0
    first.report(lost, "ok")
    assert third.state is HALF_OPEN
    second.report(replacement, "ok")
    assert third.state is CLOSED


def test_a_trial_that_was_collected_in_this_process_is_given_back() -> None:
    """Nobody has to wait for its time to run out."""
    clock, _, first, second = pair()
    trip(first)
    clock.advance(30)
    first.acquire()
    gc.collect()
    assert first.state is OPEN
    assert second.acquire()
    assert first.state is HALF_OPEN


@pytest.mark.parametrize(("boot", "step"), [("second", -1e6), ("second", 1e6), ("first", -1e6), ("first", -20)])
def test_another_clock_neither_shortens_a_cool_down_nor_makes_it_longer_than_it_was(boot: str, step: float) -> None:
    """After a reboot or a step back it begins again in full, once, for all processes."""
    clock, shelf, first, second = pair(cooldown=30, cap=40)
    trip(first)
    clock.advance(10)
    shelf.boot, shelf.step = boot, step
    assert (first.retry_after, second.retry_after) == (30.0, 30.0)
    clock.advance(29)
    assert refused(second) == 1.0
    clock.advance(1)
    assert second.acquire()
    assert first.state is HALF_OPEN
    shelf.boot, shelf.step = "third", 0.0
    assert first.retry_after == 60.0


def test_what_an_operator_switched_off_stays_off_after_a_reboot() -> None:
    """Until the reset."""
    clock, shelf, first, second = pair()
    first.disable()
    clock.advance(1e6)
    shelf.boot = "second"
    assert refused(second) == math.inf
    second.reset()
    assert first.acquire()


def test_open_is_what_a_lost_store_means_on_an_order_path() -> None:
    """At acquire: refused with the reason, soon asked again, and as it was when the store is back."""
    clock, shelf, first, _ = pair()
    assert first.acquire()
    shelf.lose()
    with pytest.raises(CircuitOpen) as refusal:
        first.acquire()
    assert refusal.value.retry_after == 1.0
    assert isinstance(refusal.value.__cause__, ConnectionError)
    assert "store of its state is lost: no reading" in refusal.value.__notes__[0]
    assert first.state is OPEN
    shelf.lose(False)
    assert refused(first) == 1.0
    clock.advance(1)
    assert first.acquire()
    assert first.state is CLOSED


def test_a_store_that_can_be_read_but_not_written_is_lost() -> None:
    """A full disk: the call that was under way has its result, what it said is not forgotten, and no other is admitted."""
    clock, shelf, first, second = pair()
    shelf.unwritable = True
    for _ in range(2):
        with pytest.raises(ConnectionError):
            second.call(fail) if second.state is CLOSED else fail()
    assert refused(second) == 1.0
    clock.advance(1)
    assert refused(second) == 1.0
    shelf.unwritable = False
    clock.advance(1)
    assert (second.failures, first.failures) == (1, 1)


def test_what_a_trial_said_to_a_lost_store_is_told_later() -> None:
    """If its time is not over by then; and so is a rate limit."""
    clock, shelf, first, second = pair()
    trip(first)
    clock.advance(30)
    trial = first.acquire()
    shelf.lose()
    first.report(trial, "failure")
    first.open_for(100)
    shelf.lose(False)
    clock.advance(5)
    assert (first.state, first.trips, first.retry_after) == (OPEN, 2, 100.0)
    assert (second.state, second.trips, second.retry_after) == (OPEN, 2, 100.0)


def test_a_lost_store_leaves_local_state_on_a_path_to_a_language_model() -> None:
    """Each goes on from what it last saw; when the store is back, what it holds is what counts."""
    clock, shelf, first, second = pair(when_store_is_lost="local")
    first.report(first.acquire(), "failure")
    assert second.failures == 1
    shelf.lose()
    permit = second.acquire()
    second.report(permit, "failure")
    assert (second.state, second.retry_after) == (OPEN, 30.0)
    assert first.call(len, "abc") == 3
    clock.advance(30)
    trial = second.acquire()
    assert refused(second) == 60.0
    shelf.lose(False)
    clock.advance(1)
    second.report(trial, "failure")
    assert (second.state, second.failures, first.failures) == (CLOSED, 1, 1)


def test_an_open_circuit_stays_open_where_the_store_is_lost_and_state_is_local() -> None:
    """A lost store does not close it, whatever its half that is out of order."""
    clock, shelf, first, second = pair(when_store_is_lost="local")
    trip(first)
    assert second.state is OPEN
    for shelf.unreadable, shelf.unwritable in ((True, True), (False, True), (True, False)):
        assert refused(second) > 20
        clock.advance(2)


def test_local_state_is_not_forgotten_for_a_store_that_can_only_be_read() -> None:
    """A full disk holds what was before the failures, and would close the circuit every time it is asked."""
    clock, shelf, first, _ = pair(when_store_is_lost="local")
    shelf.unwritable = True
    trip(first)
    clock.advance(2)
    assert (first.state, first.retry_after) == (OPEN, 28.0)


def test_a_store_that_was_never_there_is_local_state_from_the_beginning() -> None:
    """A fresh breaker with a lost store counts for itself."""
    clock, shelf, first, second = pair(when_store_is_lost="local")
    shelf.lose()
    trip(first)
    assert (first.retry_after, second.state) == (30.0, CLOSED)
    clock.advance(30)
    assert first.acquire()


@example(text="9" * 5_000, local=False)  # more digits than Python turns into a number
@given(text=st.one_of(st.text().filter(lambda text: not text[:1].isdecimal()), st.integers(0, 400)), local=st.booleans())
@settings(deadline=None, max_examples=100)
def test_a_record_that_was_tampered_with_is_a_lost_store_and_reset_replaces_it(text: str | int, local: bool) -> None:
    """Other text, or the record cut or changed at any place: refused, or local, never read as if it were whole."""
    clock, shelf, first, second = pair()
    trip(first)
    version, good = shelf.rows["route"]
    bad = good[: text % len(good)] + "~" + good[text % len(good) + 1 :] if isinstance(text, int) else text
    shelf.rows["route"] = (version, bad)
    fresh = shared(shelf, clock, when_store_is_lost="local" if local else "open")
    assert fresh.state is (CLOSED if local else OPEN)
    assert refused(first) == 1.0
    second.reset()
    clock.advance(1)
    assert (first.state, fresh.state) == (CLOSED, CLOSED)


def test_a_record_of_a_newer_agentfund_is_left_alone() -> None:
    """It is a lost store, also for the reset."""
    _, shelf, first, _ = pair()
    shelf.rows["route"] = (7, "2 whatever")
    assert refused(first) == 1.0
    with pytest.raises(BusUnavailable, match=r"not reset.*upgrade agentfund"):
        first.reset()
    assert shelf.rows["route"] == (7, "2 whatever")


def test_a_store_that_never_agrees_is_lost() -> None:
    """Instead of an endless loop."""
    _, shelf, first, _ = pair()
    permit = first.acquire()
    shelf.compare_and_set = lambda *_: False  # type: ignore[method-assign]
    first.report(permit, "failure")
    assert first.state is OPEN


def test_transitions_are_told_by_whoever_makes_or_sees_them() -> None:
    """With the time to wait; a lost store is a transition too, and so is its return."""
    clock = SimulatedClock()
    shelf = Shelf(clock)
    events: list[Any] = []
    first = shared(shelf, clock)
    second = shared(shelf, clock, on_transition=lambda *event: events.append(event))
    trip(first)
    assert second.state is OPEN
    clock.advance(30)
    second.call(len, "abc")
    shelf.lose()
    assert second.state is OPEN
    shelf.lose(False)
    clock.advance(1)
    assert second.state is CLOSED
    assert events == [
        (CLOSED, OPEN, 30.0),
        (OPEN, HALF_OPEN, 60.0),
        (HALF_OPEN, CLOSED, 0.0),
        (CLOSED, OPEN, 1.0),
        (OPEN, CLOSED, 0.0),
    ]


def test_bad_settings_are_refused_when_it_is_built() -> None:
    """Ours, and those of every breaker."""
    clock = SimulatedClock()
    with pytest.raises(ConfigError, match="when_store_is_lost='closed' must be"):
        shared(Shelf(clock), clock, when_store_is_lost="closed")
    with pytest.raises(ConfigError, match="cap="):
        shared(Shelf(clock), clock, cooldown=10, cap=1)
