from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import gc
import math
import os
import pickle
import random
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from datetime import UTC, datetime
from typing import Any, assert_type

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfund.clock import SimulatedClock
from agentfund.core.breaker import BreakerState, CircuitBreaker, Permit
from agentfund.errors import BadRequest, CircuitOpen, ConfigError, Overloaded

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
ROUNDS = int(os.environ.get("AGENTFUND_BREAKER_ROUNDS", "1000"))


class TwoClocks:
    """A wall clock and a monotonic counter that are moved independently."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 1, 1, tzinfo=UTC)
        self.seconds = 0.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def breaker_of(clock: SimulatedClock, **options: Any) -> CircuitBreaker:
    return CircuitBreaker("route", **{"failures": 3, "clock": clock, **options})


def fail() -> None:
    raise Overloaded("busy")


def works() -> str:
    return "fine"


async def afail() -> None:
    raise Overloaded("busy")


async def aworks() -> str:
    return "fine"


def trip(breaker: CircuitBreaker) -> None:
    while breaker.state is CLOSED:
        with pytest.raises(Overloaded):
            breaker.call(fail)


@pytest.mark.parametrize("deadline", [None, 10.0])
def test_a_success_resets_the_count_to_zero(deadline: float | None) -> None:
    """N - 1 failures, a success and N - 1 failures leave it closed with N - 1 counted, sync and async."""
    breaker = breaker_of(SimulatedClock(), deadline=deadline)
    for function in (fail, fail, works, fail, fail):
        with contextlib.suppress(Overloaded):
            breaker.call(function)
    for afunction in (aworks, afail, afail):
        with contextlib.suppress(Overloaded):
            asyncio.run(breaker.acall(afunction))
    assert (breaker.state, breaker.failures, breaker.retry_after) == (CLOSED, 2, 0.0)


def test_failures_of_calls_in_flight_trip_it_once() -> None:
    """N + k failures that arrive together make one trip, one event, and the late ones do not extend the cool-down."""
    clock, events = SimulatedClock(), []
    breaker = breaker_of(clock, on_transition=lambda *event: events.append(event))
    permits = [breaker.acquire() for _ in range(8)]
    for permit in permits:
        breaker.report(permit, "failure")
        clock.advance(1)
    assert (breaker.trips, breaker.retry_after) == (1, 24.0)
    assert events == [(CLOSED, OPEN, 30.0)]


def test_a_late_verdict_changes_nothing() -> None:
    """A verdict from before the trip is ignored while open, while a trial is under way, and after closing again."""
    clock = SimulatedClock()
    breaker = breaker_of(clock, failures=1)
    late = [breaker.acquire() for _ in range(6)]
    trip(breaker)
    breaker.report(late[0], "ok")
    breaker.report(late[1], "failure")
    assert (breaker.state, breaker.retry_after) == (OPEN, 30.0)
    clock.advance(30)
    trial = breaker.acquire()
    breaker.report(late[2], "ok")
    breaker.report(late[3], "failure")
    assert (breaker.state, breaker.trips) == (HALF_OPEN, 1)
    breaker.report(trial, "ok")
    breaker.report(late[4], "failure")
    breaker.report(trial, "failure")
    assert (breaker.state, breaker.failures, breaker.trips) == (CLOSED, 0, 0)


def test_a_permit_counts_once() -> None:
    """Reporting the same failure again adds nothing."""
    breaker = breaker_of(SimulatedClock())
    permit = breaker.acquire()
    for _ in range(5):
        breaker.report(permit, "failure")
    assert breaker.failures == 1


def test_a_report_to_another_breaker_is_refused() -> None:
    """A permit of another breaker and an unknown result are errors that say what to do."""
    one, other = CircuitBreaker("one"), CircuitBreaker("other")
    with pytest.raises(ValueError, match="permit is of breaker 'one'"):
        other.report(one.acquire(), "failure")
    with pytest.raises(ValueError, match="must be 'ok', 'failure' or 'neutral'"):
        one.report(one.acquire(), "success")  # type: ignore[arg-type]


def test_cool_downs_double_up_to_the_cap_and_start_again_after_a_success() -> None:
    """Base, twice, four times, exactly the cap; after a trial that succeeds, the base again."""
    clock = SimulatedClock()
    breaker = breaker_of(clock, failures=1, cooldown=30, cap=240)
    waits = []
    for _ in range(6):
        with pytest.raises(Overloaded):
            breaker.call(fail)
        waits.append(breaker.retry_after)
        clock.advance(breaker.retry_after)
    assert waits == [30, 60, 120, 240, 240, 240]
    breaker.call(works)
    trip(breaker)
    assert (breaker.retry_after, breaker.trips) == (30, 1)


def test_ten_thousand_trips_do_not_overflow() -> None:
    """The cool-down stays at the cap however often the trial fails."""
    clock = SimulatedClock()
    breaker = breaker_of(clock, failures=1, cooldown=0.5, cap=3600)
    for _ in range(10_000):
        breaker.report(breaker.acquire(), "failure")
        clock.advance(3600)
        assert breaker.retry_after == 0
    assert breaker.trips == 10_000


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 12))
def test_jitter_shortens_within_its_share_and_never_passes_the_cap(jitter: float, draw: float, trips: int) -> None:
    """Whatever the random number, the cool-down lies between (1 - jitter) and 1 times the full one, at most the cap."""
    clock = SimulatedClock()
    breaker = breaker_of(clock, failures=1, cooldown=1, cap=100, jitter=jitter, rng=lambda: draw)
    for _ in range(trips):
        breaker.report(breaker.acquire(), "failure")
        wait = breaker.retry_after
        clock.advance(wait + 1e-6)
    full = min(100.0, 2.0 ** (trips - 1))
    assert full * (1 - jitter) - 1e-5 <= wait <= min(full + 1e-5, 100.0 + 1e-5)


def test_the_moment_the_cool_down_ends_belongs_to_the_trial() -> None:
    """Just before, it refuses with the rest of the time; exactly then, it admits one."""
    clock = SimulatedClock()
    breaker = breaker_of(clock)
    trip(breaker)
    clock.advance(29)
    with pytest.raises(CircuitOpen) as refusal:
        breaker.acquire()
    assert (refusal.value.name, refusal.value.retry_after) == ("route", 1.0)
    clock.advance(1)
    assert (breaker.state, breaker.retry_after) == (OPEN, 0.0)
    assert breaker.call(works) == "fine"
    assert breaker.state is CLOSED


def test_a_frozen_clock_and_steps_of_the_wall_clock_change_nothing() -> None:
    """Only monotonic seconds count: the wall may step by an hour or ten years, either way."""
    clock = TwoClocks()
    breaker = CircuitBreaker("route", failures=1, clock=clock)
    trip(breaker)
    for year in (2016, 2036, 2026):
        clock.wall = clock.wall.replace(year=year, hour=(clock.wall.hour + 23) % 24)
        assert breaker.retry_after == 30.0
        with pytest.raises(CircuitOpen):
            breaker.call(works)
    clock.seconds = 30.0
    breaker.call(works)


def test_a_trial_that_fails_lets_nobody_else_through() -> None:
    """While it runs all others are refused, and when it fails they are refused for twice as long."""
    clock = SimulatedClock()
    breaker = breaker_of(clock)
    trip(breaker)
    clock.advance(30)
    trial = breaker.acquire()
    for _ in range(5):
        with pytest.raises(CircuitOpen) as refusal:
            breaker.acquire()
        assert refusal.value.retry_after == 60.0
    breaker.report(trial, "failure")
    with pytest.raises(CircuitOpen) as refusal:
        breaker.acquire()
    assert refusal.value.retry_after == 60.0


@pytest.mark.parametrize("how", ["neutral", "dropped", "timed out"])
def test_a_lost_trial_is_replaced_by_exactly_one(how: str) -> None:
    """Given back, collected or silent for too long: the next caller is the trial, at once, and the one after is not."""
    clock = SimulatedClock()
    breaker = breaker_of(clock, trial_timeout=60)
    trip(breaker)
    clock.advance(30)
    first: Permit | None = breaker.acquire()
    assert first is not None
    if how == "neutral":
        breaker.report(first, "neutral")
    elif how == "dropped":
        first = None
    else:
        clock.advance(60)
    assert (breaker.state, breaker.retry_after, breaker.trips) == (OPEN, 0.0, 1)
    second = breaker.acquire()
    with pytest.raises(CircuitOpen):
        breaker.acquire()
    if first is not None:
        breaker.report(first, "failure")
        assert breaker.state is HALF_OPEN
    breaker.report(second, "ok")
    assert breaker.state is CLOSED


async def test_a_trial_cancelled_while_it_waits_gives_its_place_back() -> None:
    """Cancelled during its await, and cancelled before it began: no slot is lost, nothing is counted."""
    clock = SimulatedClock()
    breaker = breaker_of(clock)
    trip(breaker)
    clock.advance(30)
    for turns in (0, 1, 2):
        task = asyncio.ensure_future(breaker.acall(asyncio.sleep, 3600))
        for _ in range(turns):
            await asyncio.sleep(0)
        assert breaker.state is (HALF_OPEN if turns else OPEN)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (breaker.state, breaker.retry_after, breaker.trips) == (OPEN, 0.0, 1)
    assert await breaker.acall(aworks) == "fine"


def test_a_trial_that_is_collected_unfinished_gives_its_place_back() -> None:
    """A coroutine that is never finished, only collected, leaves the circuit usable."""
    clock = SimulatedClock()
    breaker = breaker_of(clock)
    trip(breaker)
    clock.advance(30)

    class Forever:
        def __await__(self) -> Generator[None, None, None]:
            yield

    async def forever() -> None:
        await Forever()

    coroutine = breaker.acall(forever)
    coroutine.send(None)
    assert breaker.state is HALF_OPEN
    del coroutine
    gc.collect()
    assert (breaker.state, breaker.retry_after) == (OPEN, 0.0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_a_base_exception_says_nothing_about_the_route(error: type[BaseException]) -> None:
    """It passes through, neither counts nor resets, and as the end of a trial gives the place back."""

    def interrupted() -> None:
        raise error

    clock = SimulatedClock()
    breaker = breaker_of(clock)
    with pytest.raises(Overloaded):
        breaker.call(fail)
    with pytest.raises(error):
        breaker.call(interrupted)
    assert breaker.failures == 1
    trip(breaker)
    clock.advance(30)
    with pytest.raises(error), breaker.acquire():
        interrupted()
    assert (breaker.state, breaker.retry_after, breaker.trips) == (OPEN, 0.0, 1)


@pytest.mark.parametrize("neutral", [BadRequest, (BadRequest, TypeError), lambda error: isinstance(error, BadRequest)])
def test_a_neutral_error_neither_counts_nor_resets(neutral: Any) -> None:
    """Closed, the count stays; as the end of a trial the place is given back and the cool-down does not start again."""

    def bad() -> None:
        raise BadRequest("our bug")

    clock = SimulatedClock()
    breaker = breaker_of(clock, neutral=neutral)
    for function in (fail, fail, bad):
        with pytest.raises((Overloaded, BadRequest)):
            breaker.call(function)
    assert breaker.failures == 2
    trip(breaker)
    clock.advance(30)
    with pytest.raises(BadRequest):
        breaker.call(bad)
    assert (breaker.state, breaker.retry_after, breaker.trips) == (OPEN, 0.0, 1)


def test_a_group_counts_if_one_of_its_errors_does() -> None:
    """Nested groups are looked into; a group of neutral errors only is neutral."""

    def both(*errors: Exception) -> None:
        raise ExceptionGroup("several", [ExceptionGroup("inner", errors)])

    breaker = breaker_of(SimulatedClock(), neutral=BadRequest)
    with pytest.raises(ExceptionGroup):
        breaker.call(both, BadRequest("a"))
    assert breaker.failures == 0
    with pytest.raises(ExceptionGroup):
        breaker.call(both, BadRequest("a"), Overloaded("b"))
    assert breaker.failures == 1


def test_a_predicate_that_fails_counts_the_failure(caplog: pytest.LogCaptureFixture) -> None:
    """The caller sees the call's own error, the log says what broke, and the failure counts."""
    breaker = breaker_of(SimulatedClock(), neutral=lambda error: error.no_such_field)
    with pytest.raises(Overloaded):
        breaker.call(fail)
    assert breaker.failures == 1
    assert "'route'" in caplog.text
    assert "AttributeError" in caplog.text


def test_a_listener_hears_every_change_at_once_with_the_wait_that_follows() -> None:
    """The trial's start is heard before the trial runs, and a state that stays is no event."""
    clock, events = SimulatedClock(), []
    breaker = breaker_of(clock, failures=1, trial_timeout=60, on_transition=lambda *event: events.append(event))
    trip(breaker)
    breaker.open_for(40)
    clock.advance(40)

    def trial() -> None:
        assert events == [(CLOSED, OPEN, 30.0), (OPEN, HALF_OPEN, 60.0)]

    breaker.call(trial)
    breaker.reset()
    breaker.disable()
    breaker.reset()
    assert events[2:] == [(HALF_OPEN, CLOSED, 0.0), (CLOSED, OPEN, math.inf), (OPEN, CLOSED, 0.0)]


def test_a_listener_that_raises_does_not_break_the_breaker(caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged, the trip stands, and the caller sees the call's own error."""

    def listener(old: BreakerState, new: BreakerState, retry_after: float) -> None:
        raise RuntimeError("listener is broken")

    breaker = breaker_of(SimulatedClock(), on_transition=listener)
    trip(breaker)
    assert breaker.state is OPEN
    assert "listener is broken" in caplog.text


def test_a_listener_may_call_the_breaker_and_hears_in_order() -> None:
    """What it causes comes after what it is being told, and nothing waits for itself."""
    events: list[tuple[BreakerState, BreakerState]] = []

    def listener(old: BreakerState, new: BreakerState, retry_after: float) -> None:
        if new is OPEN:
            assert breaker.state is OPEN
            breaker.reset()
        events.append((old, new))

    breaker = breaker_of(SimulatedClock(), failures=1, on_transition=listener)
    with pytest.raises(Overloaded):
        breaker.call(fail)
    assert events == [(CLOSED, OPEN), (OPEN, CLOSED)]


def test_a_listener_that_blocks_holds_up_nobody_else() -> None:
    """Other threads are refused, and see the state, while the listener waits for them."""
    entered, leave = threading.Event(), threading.Event()
    heard: list[BreakerState] = []

    def listener(old: BreakerState, new: BreakerState, retry_after: float) -> None:
        entered.set()
        assert leave.wait(10)
        heard.append(new)

    breaker = breaker_of(SimulatedClock(), on_transition=listener)
    thread = threading.Thread(target=breaker.disable)
    thread.start()
    assert entered.wait(10)
    assert breaker.state is OPEN
    with pytest.raises(CircuitOpen):
        breaker.call(works)
    breaker.reset()
    assert (breaker.state, heard) == (CLOSED, [])
    leave.set()
    thread.join()
    assert heard == [OPEN, CLOSED]


@pytest.mark.parametrize("during_trial", [False, True])
def test_an_operator_closes_and_disables_whatever_is_under_way(during_trial: bool) -> None:
    """`reset` closes, `disable` opens for good, and the verdict of the call under way is ignored by both."""
    clock = SimulatedClock()
    breaker = breaker_of(clock, failures=1)

    def under_way() -> Permit:
        breaker.reset()
        if during_trial:
            trip(breaker)
            clock.advance(30)
        return breaker.acquire()

    permit = under_way()
    breaker.reset()
    breaker.report(permit, "failure")
    assert (breaker.state, breaker.trips, breaker.failures) == (CLOSED, 0, 0)

    permit = under_way()
    breaker.disable()
    breaker.report(permit, "ok")
    clock.advance(1e9)
    breaker.open_for(5)
    assert (breaker.state, breaker.retry_after) == (OPEN, math.inf)
    with pytest.raises(CircuitOpen):
        breaker.call(works)
    breaker.reset()
    assert breaker.call(works) == "fine"


def test_open_for_opens_exactly_so_long_without_a_failure() -> None:
    """A rate limit opens for its time, the verdict of its call is ignored, and the next cool-down is the first."""
    clock = SimulatedClock()
    breaker = breaker_of(clock)
    permit = breaker.acquire()
    breaker.open_for(18_000)
    breaker.report(permit, "failure")
    assert (breaker.state, breaker.trips, breaker.retry_after) == (OPEN, 0, 18_000)
    clock.advance(18_000)
    breaker.report(breaker.acquire(), "failure")
    assert (breaker.trips, breaker.retry_after) == (1, 30)
    breaker.open_for(10)
    assert breaker.retry_after == 30
    breaker.open_for(100)
    assert breaker.retry_after == 100
    clock.advance(100)
    trial = breaker.acquire()
    breaker.open_for(7)
    breaker.report(trial, "ok")
    assert (breaker.state, breaker.retry_after) == (OPEN, 7)
    for seconds in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="needs finite seconds"):
            breaker.open_for(seconds)


def test_a_call_fails_at_its_deadline_and_only_then() -> None:
    """Its failure counts from the deadline on, once, and what it returns later is ignored."""
    clock = SimulatedClock()
    breaker = breaker_of(clock, failures=2, deadline=10)
    slow, other = breaker.acquire(), breaker.acquire()
    clock.advance(9)
    breaker.report(other, "ok")
    assert breaker.failures == 0
    clock.advance(1)
    assert breaker.failures == 1
    breaker.report(slow, "ok")
    breaker.report(slow, "failure")
    assert breaker.failures == 1


def test_a_success_after_the_deadline_is_a_failure_though_nobody_looked() -> None:
    """The verdict itself is the first look, and it comes too late; the same for an outer time limit that cancels."""
    clock = SimulatedClock()
    breaker = breaker_of(clock, deadline=10)

    def slow() -> str:
        clock.advance(10)
        return "late"

    assert breaker.call(slow) == "late"
    assert breaker.failures == 1
    permit = breaker.acquire()
    clock.advance(10)
    breaker.report(permit, "neutral")
    assert breaker.failures == 2


def test_hanging_calls_trip_at_the_deadline_of_the_last_needed() -> None:
    """Seen late, the trip is dated when it happened, so the cool-down may be over already."""
    clock, events = SimulatedClock(), []
    breaker = breaker_of(clock, failures=2, deadline=10, on_transition=lambda *event: events.append(event))
    permits = []
    for _ in range(4):
        permits.append(breaker.acquire())
        clock.advance(2)
    clock.advance(7)  # now 15; deadlines were 10, 12, 14, 16
    assert (breaker.trips, breaker.retry_after) == (1, 27.0)
    assert events == [(CLOSED, OPEN, 27.0)]
    breaker.reset()
    permits = [breaker.acquire(), breaker.acquire()]
    clock.advance(1000)
    assert (breaker.state, breaker.retry_after) == (OPEN, 0.0)
    assert breaker.call(works) == "fine"
    assert (breaker.state, len(permits)) == (CLOSED, 2)


def test_each_hanging_call_is_noticed_at_its_own_deadline() -> None:
    """By looking, and by the next caller, who is refused though nobody looked before."""
    clock = SimulatedClock()
    breaker = breaker_of(clock, failures=2, deadline=10)
    hanging = [breaker.acquire()]
    clock.advance(6)
    hanging.append(breaker.acquire())
    clock.advance(4)
    assert breaker.failures == 1
    clock.advance(6)
    with pytest.raises(CircuitOpen) as refusal:
        breaker.call(works)
    assert (refusal.value.retry_after, len(hanging)) == (30.0, 2)


def test_a_trial_past_its_deadline_has_failed() -> None:
    """It trips again from the deadline on; with a shorter trial_timeout it is merely lost."""
    clock = SimulatedClock()
    breaker = breaker_of(clock, failures=1, deadline=10, trial_timeout=60)
    lenient = breaker_of(clock, failures=1, deadline=10, trial_timeout=5)
    for one in (breaker, lenient):
        trip(one)
    clock.advance(30)
    trials = [breaker.acquire(), lenient.acquire()]
    clock.advance(15)
    assert (breaker.state, breaker.trips, breaker.retry_after) == (OPEN, 2, 55.0)
    assert (lenient.state, lenient.trips, lenient.retry_after) == (OPEN, 1, 0.0)
    for permit in trials:
        permit.breaker.report(permit, "ok")
    assert (breaker.state, lenient.state) == (OPEN, OPEN)


def test_a_time_limit_inside_counts_and_one_outside_does_not() -> None:
    """Inside it is the route's failure, outside it is the caller's cancellation."""

    async def main() -> None:
        breaker = CircuitBreaker("route")

        async def limited() -> None:
            async with asyncio.timeout(0):
                await asyncio.sleep(10)

        with pytest.raises(TimeoutError):
            await breaker.acall(limited)
        assert breaker.failures == 1
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await breaker.acall(asyncio.sleep, 10)
        assert breaker.failures == 1

    asyncio.run(main())


def test_a_refusal_by_an_inner_breaker_says_nothing_about_the_outer_route() -> None:
    """Nested breakers, and one breaker entered twice: `CircuitOpen` is neutral."""
    clock = SimulatedClock()
    inner, outer = breaker_of(clock, failures=1), breaker_of(clock, failures=1)
    trip(inner)
    with pytest.raises(CircuitOpen):
        outer.call(inner.call, works)
    assert (outer.state, outer.failures) == (CLOSED, 0)
    clock.advance(30)
    with pytest.raises(CircuitOpen):
        inner.call(inner.call, works)
    assert (inner.state, inner.trips, inner.retry_after) == (OPEN, 1, 0.0)
    assert inner.call(works) == outer.call(outer.call, works) == "fine"


class Caller:
    async def __call__(self) -> None:
        raise Overloaded("busy")


class Desk:
    @CircuitBreaker("desk", failures=1)
    def price(self, symbol: str) -> str:
        """Return a price."""
        return f"{symbol} 100"


def test_every_kind_of_function_can_be_decorated() -> None:
    """Plain, async, partial, callable object, method: errors are counted, names and types are kept."""
    breaker = breaker_of(SimulatedClock(), failures=5)
    for function in (fail, functools.partial(fail)):
        with pytest.raises(Overloaded):
            breaker(function)()
    for afunction in (afail, functools.partial(afail), Caller()):
        with pytest.raises(Overloaded):
            asyncio.run(breaker(afunction)())
    assert (breaker.state, breaker.trips) == (OPEN, 1)
    assert_type(breaker(works), Callable[[], str])
    assert_type(breaker(aworks), Callable[[], Coroutine[Any, Any, str]])
    assert (Desk().price("AAPL"), Desk.price.__doc__) == ("AAPL 100", "Return a price.")


async def test_a_stream_is_one_call_that_may_fail_late() -> None:
    """A generator that fails after 100 items counts as a failure, one that is left early as nothing."""
    breaker = breaker_of(SimulatedClock())

    @breaker
    async def stream() -> AsyncIterator[int]:
        for i in range(100):
            yield i
        raise Overloaded("busy")

    @breaker
    def plain_stream() -> Iterator[int]:
        yield from range(100)
        raise Overloaded("busy")

    with pytest.raises(Overloaded):
        async for _ in stream():
            pass
    with pytest.raises(Overloaded):
        list(plain_stream())
    assert breaker.failures == 2
    left_early = plain_stream()
    assert next(left_early) == 0
    del left_early
    gc.collect()
    assert breaker.failures == 2


async def test_a_permit_is_a_context_manager_of_both_kinds() -> None:
    """It reports how its block ended, and refuses when open."""
    breaker = breaker_of(SimulatedClock(), failures=2)
    with pytest.raises(Overloaded), breaker.acquire():
        fail()
    with breaker.acquire():
        pass
    assert breaker.failures == 0
    for _ in range(2):
        with pytest.raises(Overloaded):
            async with breaker.acquire():
                await afail()
    assert breaker.state is OPEN
    with pytest.raises(CircuitOpen):
        async with breaker.acquire():
            pass


def test_calling_an_async_function_without_awaiting_is_refused() -> None:
    """`call` would take the making of a coroutine for success; it says what to do instead, and counts nothing."""
    breaker = breaker_of(SimulatedClock())
    with pytest.raises(Overloaded):
        breaker.call(fail)
    with pytest.raises(TypeError, match="use `await breaker"):
        breaker.call(aworks)  # type: ignore[unused-coroutine]
    assert breaker.failures == 1


@pytest.mark.parametrize(
    "options",
    [
        {"failures": 0},
        {"cooldown": 0},
        {"cooldown": math.nan},
        {"cooldown": 10, "cap": 9},
        {"cap": math.inf},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"deadline": 0},
        {"deadline": math.nan},
        {"trial_timeout": 0},
        {"trial_timeout": math.inf},
        {"on_transition": afail},
    ],
)
def test_a_setting_that_cannot_work_is_refused_when_built(options: dict[str, Any]) -> None:
    """The error names the breaker and the setting."""
    with pytest.raises(ConfigError, match=f"breaker 'route': .*{list(options)[-1]}"):
        CircuitBreaker("route", **options)


def test_thresholds_of_one_and_of_two_billion_work() -> None:
    """N = 1 opens at the first failure, N = 2 ** 31 at none that anybody will see."""
    one, many = CircuitBreaker("one", failures=1), CircuitBreaker("many", failures=2**31)
    for breaker in (one, many):
        with pytest.raises(Overloaded):
            breaker.call(fail)
    assert (one.state, many.state) == (OPEN, CLOSED)


def test_a_breaker_is_not_pickled_or_copied() -> None:
    """Two copies of one state would both give away the trial."""
    breaker = CircuitBreaker("route")
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="belongs to one process"):
            attempt(breaker)


def test_it_shows_its_state() -> None:
    """The representation names route, state and wait."""
    breaker = breaker_of(SimulatedClock())
    breaker.open_for(12)
    assert repr(breaker) == "<CircuitBreaker 'route' open retry_after=12.0 s>"


def test_finished_and_dropped_calls_leave_nothing_behind() -> None:
    """With a deadline calls are registered while they run: reported ones leave at once, dropped ones at their deadline."""
    clock = SimulatedClock()
    breaker = breaker_of(clock, deadline=10)
    permits = [breaker.acquire() for _ in range(100)]
    for permit in permits:
        breaker.report(permit, "ok")
    assert len(breaker._under_way) == 0
    for _ in range(5_000):
        breaker.acquire()
        clock.advance(0.01)
    assert 900 < len(breaker._under_way) <= 1001


def test_a_call_collected_in_the_middle_of_a_change_does_not_lock_up() -> None:
    """The garbage collector may close a protected generator while its own thread changes the breaker."""

    def items() -> Iterator[int]:
        yield from range(9)

    under_way: list[Iterator[int]] = []

    def collect() -> float:
        under_way.clear()
        return 0.0

    breaker = breaker_of(SimulatedClock(), failures=1, jitter=0.5, rng=collect)
    under_way.append(breaker(items)())
    next(under_way[0])
    breaker.reset()
    trip(breaker)
    assert (breaker.state, under_way) == (OPEN, [])


@pytest.mark.parametrize("deadline", [None, 1000.0])
async def test_of_100_tasks_exactly_one_is_the_trial(deadline: float | None) -> None:
    """Whether the trial succeeds, fails or gives its place back, each half-open round has one trial at a time."""
    clock, luck = SimulatedClock(), random.Random(1)
    breaker = breaker_of(clock, failures=1, cooldown=1, cap=1, deadline=deadline)
    trials = 0

    async def trial(good: bool) -> None:
        nonlocal trials
        trials += 1
        await asyncio.sleep(0)
        if not good:
            raise Overloaded("busy")

    for _ in range(ROUNDS):
        if breaker.state is CLOSED:
            breaker.report(breaker.acquire(), "failure")
        clock.advance(1)
        trials = 0
        good = luck.random() < 0.5
        await asyncio.gather(*(breaker.acall(trial, good) for _ in range(100)), return_exceptions=True)
        assert trials == 1
        assert breaker.state is (CLOSED if good else OPEN)


@pytest.mark.parametrize("deadline", [None, 1000.0])
def test_of_100_threads_exactly_one_is_the_trial(deadline: float | None) -> None:
    """100 threads meet at a barrier, call at once, and one gets through, in every round."""
    rounds, callers = ROUNDS // 10, 100
    clock = SimulatedClock()
    breaker = breaker_of(clock, failures=1, cooldown=1, cap=1, deadline=deadline)
    trials: list[int] = []
    per_round: list[int] = []

    def prepare() -> None:
        per_round.append(len(trials))
        trials.clear()
        breaker.reset()
        breaker.report(breaker.acquire(), "failure")
        clock.advance(1)

    barrier = threading.Barrier(callers, action=prepare)

    def caller() -> None:
        for _ in range(rounds):
            barrier.wait()
            try:
                permit = breaker.acquire()
            except CircuitOpen:
                continue
            finally:
                barrier_end.wait()
            trials.append(1)
            breaker.report(permit, "ok")

    barrier_end = threading.Barrier(callers)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=caller) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    prepare()
    assert per_round[1:] == [1] * rounds


def test_two_loops_in_two_threads_share_one_breaker() -> None:
    """Nothing in it belongs to an event loop."""
    breaker = CircuitBreaker("route", failures=10)

    async def main() -> None:
        for _ in range(5):
            with pytest.raises(Overloaded):
                await breaker.acall(afail)

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (breaker.state, breaker.trips) == (OPEN, 1)


def test_failures_counted_by_many_threads_are_all_counted() -> None:
    """No failure is lost between threads, with successes of stale generations raining in."""
    breaker = CircuitBreaker("route", failures=10**9)
    stale = breaker.acquire()
    breaker.reset()

    def work() -> None:
        for _ in range(2_000):
            breaker.report(breaker.acquire(), "failure")
            breaker.report(stale, "ok")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert breaker.failures == 8_000
