"""The circuit breaker: stop calling what keeps failing, and let one caller at a time find out whether it works again.

    CLOSED --N failures in a row--> OPEN --cool-down over, someone calls--> HALF_OPEN --the trial succeeds--> CLOSED
                                     ^------------------the trial fails: cool-down doubles-------'

Every state begins a new generation. A call carries the generation that admitted it, and a verdict from an older one is
ignored, so a slow answer from before a trip can neither close nor open anything.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import aclosing
from enum import StrEnum
from threading import Lock, RLock
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, ParamSpec, TypeVar, cast
from weakref import ref

from agentfund.clock import SystemClock
from agentfund.errors import CircuitOpen, ConfigError

if TYPE_CHECKING:
    from agentfund.protocols import Clock

P = ParamSpec("P")
R = TypeVar("R")
Neutral = type[BaseException] | tuple[type[BaseException], ...] | Callable[[Exception], bool]
Result = Literal["ok", "failure", "neutral"]

_log = logging.getLogger(__name__)


class BreakerState(StrEnum):
    """CLOSED admits; OPEN refuses until the cool-down is over, then makes the next call the trial; HALF_OPEN waits for it."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


Listener = Callable[[BreakerState, BreakerState, float], object]
_CLOSED, _OPEN, _HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN  # an enum's attribute is slow


class Permit:
    """One admitted call, to be reported once; or a context manager, sync and async, that reports by itself.

    A permit that is dropped unreported counts as neutral.
    """

    __slots__ = ("__weakref__", "breaker", "ends", "generation", "settled")

    def __init__(self, breaker: CircuitBreaker, generation: int, ends: float) -> None:
        self.breaker = breaker
        self.generation = generation
        self.ends = ends
        self.settled = False

    def __enter__(self) -> Permit:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.breaker._settle(self, "ok" if error is None else self.breaker._judge(error))

    async def __aenter__(self) -> Permit:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.__exit__(kind, error, trace)


class CircuitBreaker:
    """A breaker for one route, for use by any number of tasks and threads of one process.

    Time is the clock's monotonic seconds. What happens by time alone (a deadline, a lost trial) is accounted for when
    someone next calls, reports or looks, with the time at which it happened.

    A cancelled call says nothing about the route, so put time limits inside the protected call, or name a `deadline`.

    Args:
        name: the route, for messages.
        failures: so many failures in a row open the circuit.
        cooldown: seconds the first time it opens; doubled every time a trial fails.
        cap: the longest cool-down, seconds.
        jitter: each cool-down is shortened by a random share of it, at most this (0 to 1), so that many clients do
            not come back at the same moment.
        deadline: a call that takes so many seconds has failed at that moment, whatever it returns later.
        trial_timeout: a trial that has said nothing for so many seconds is lost: the next caller becomes the trial.
        neutral: errors that say nothing about the route: types, or a predicate. They neither count nor reset, and as
            the end of a trial they give its place back. `CircuitOpen`, cancellation and every other `BaseException`
            that is not an `Exception` are always neutral. A group counts if one of its errors does.
        on_transition: called with the old state, the new state and `retry_after`, outside the lock and in order. What
            it raises is logged.
        clock: where the time comes from.
        rng: gives the jitter's share, 0 to 1.

    Raises:
        ConfigError: a value cannot work.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        cooldown: float = 30.0,
        cap: float = 3600.0,
        jitter: float = 0.0,
        deadline: float | None = None,
        trial_timeout: float = 60.0,
        neutral: Neutral = (),
        on_transition: Listener | None = None,
        clock: Clock | None = None,
        rng: Callable[[], float] = random.random,
    ) -> None:
        def require(good: bool, what: str) -> None:
            if not good:
                raise ConfigError(f"breaker {name!r}: {what}")

        require(failures >= 1, f"failures={failures!r} must be at least 1")
        require(0 < cooldown < math.inf, f"cooldown={cooldown!r} must be a positive number of seconds")
        require(cooldown <= cap < math.inf, f"cap={cap!r} must be seconds, at least the cooldown of {cooldown!r}")
        require(0 <= jitter <= 1, f"jitter={jitter!r} must be a share from 0 to 1")
        require(deadline is None or 0 < deadline < math.inf, f"deadline={deadline!r} must be positive seconds, or None")
        require(0 < trial_timeout < math.inf, f"trial_timeout={trial_timeout!r} must be a positive number of seconds")
        require(not inspect.iscoroutinefunction(on_transition), "on_transition must be a plain function, not async")
        self.name = name
        self._limit = failures
        self._cooldown = cooldown
        self._cap = cap
        self._jitter = jitter
        self._deadline = math.inf if deadline is None else deadline
        self._trial_timeout = trial_timeout
        self._is_neutral = (lambda error: isinstance(error, neutral)) if isinstance(neutral, type | tuple) else neutral
        self._listener = on_transition
        self._monotonic = (clock or SystemClock()).monotonic
        self._rng = rng
        # Reentrant, because the garbage collector may close a protected coroutine while this thread holds it.
        self._lock = RLock()
        self._telling = Lock()
        self._events: deque[tuple[BreakerState, BreakerState, float]] = deque()
        self._state = _CLOSED
        self._closed = self._generation = self._failures = self._trips = 0  # _closed: the generation while closed, else 0
        self._pass: Permit | None = None  # shared by `call` and `acall` while closed, if there is no deadline
        self._until = self._next_scan = -math.inf
        self._under_way: dict[ref[Permit], None] = {}  # if there is a deadline: the calls admitted while closed
        self._trial: Callable[[], Permit | None] = lambda: None
        self._move(_CLOSED, -math.inf, trips=0)

    @property
    def state(self) -> BreakerState:
        """The state now. OPEN lasts, beyond the cool-down, until someone calls."""
        self._look()
        return self._state

    @property
    def retry_after(self) -> float:
        """Seconds until a call may be admitted; 0 if it may be now, infinite while disabled."""
        self._look()
        return max(0.0, self._until - self._monotonic())

    @property
    def failures(self) -> int:
        """Failures in a row since the last success, while closed."""
        self._look()
        return self._failures

    @property
    def trips(self) -> int:
        """How many times it opened by failures since it was last closed; the cool-down doubles with it."""
        self._look()
        return self._trips

    def acquire(self) -> Permit:
        """Ask for one call, to be reported to `report`, or used as `with breaker.acquire():`.

        Raises:
            CircuitOpen: refused; carries `retry_after` in seconds.
        """
        shared = self._pass
        return self._admit() if shared is None else Permit(self, shared.generation, math.inf)

    def report(self, permit: Permit, result: Result) -> None:
        """Say how a call ended. Only the first report of a permit counts, and only in the permit's own generation.

        Args:
            permit: what `acquire` gave.
            result: "ok" resets the count and closes after a trial; "failure" counts; "neutral" does neither.

        Raises:
            ValueError: the permit is another breaker's, or the result is not one of the three.
        """
        if permit.breaker is not self:
            raise ValueError(f"the permit is of breaker {permit.breaker.name!r}; report it there, not to {self.name!r}")
        if result not in ("ok", "failure", "neutral"):
            raise ValueError(f"result {result!r} must be 'ok', 'failure' or 'neutral'")
        self._settle(permit, result)

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a plain function through the breaker.

        Raises:
            CircuitOpen: refused, `fn` was not called.
            TypeError: `fn` is async; await `acall` instead.
        """
        permit = self._pass or self._admit()
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:
            self._settle(permit, self._judge(error))
            raise
        if type(result) is CoroutineType:
            cast("CoroutineType[Any, Any, Any]", result).close()
            self._settle(permit, "neutral")
            raise TypeError(f"breaker {self.name!r}: the function is async; use `await breaker.acall(...)`")
        if self._failures or permit is not self._pass:
            self._settle(permit, "ok")
        return result

    async def acall(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Await an async function through the breaker.

        Raises:
            CircuitOpen: refused, `fn` was not called.
        """
        permit = self._pass or self._admit()
        try:
            result = await fn(*args, **kwargs)
        except BaseException as error:
            self._settle(permit, self._judge(error))
            raise
        if self._failures or permit is not self._pass:
            self._settle(permit, "ok")
        return result

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function, plain or async, or a generator of either kind.

        A generator is one call: it is admitted at the first item, and an error after any number of items counts.
        """
        plain: Any = fn

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.call(plain, *args, **kwargs)

        async def acall(*args: Any, **kwargs: Any) -> Any:
            return await self.acall(plain, *args, **kwargs)

        def stream(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with self.acquire():
                return (yield from plain(*args, **kwargs))

        async def astream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async with self.acquire(), aclosing(plain(*args, **kwargs)) as items:
                async for item in items:
                    yield item

        kinds = (plain, type(plain).__call__)
        wrapper: Callable[..., Any] = call
        if any(map(inspect.iscoroutinefunction, kinds)):
            wrapper = acall
        elif any(map(inspect.isasyncgenfunction, kinds)):
            wrapper = astream
        elif any(map(inspect.isgeneratorfunction, kinds)):
            wrapper = stream
        return cast("Callable[P, R]", functools.wraps(fn)(wrapper))

    def open_for(self, seconds: float) -> None:
        """Open for exactly so long, without a failure: a rate limit or a usage cap named the time.

        An open circuit is never shortened by it. Afterwards one trial decides, as always.

        Raises:
            ValueError: not a finite, non-negative number of seconds.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"breaker {self.name!r}: open_for({seconds!r}) needs finite seconds, 0 or more; or use disable()")
        self._hold(self._monotonic() + seconds)

    def disable(self) -> None:
        """Refuse every call until `reset`."""
        self._hold(math.inf)

    def reset(self) -> None:
        """Close, forget all failures, and ignore the verdicts of calls now under way."""
        now = self._monotonic()
        with self._lock:
            self._catch_up(now)
            self._move(_CLOSED, -math.inf, trips=0)
        self._tell()

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name!r} {self.state} retry_after={self.retry_after:.1f} s>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"breaker {self.name!r} belongs to one process; make one there instead of pickling or copying it")

    def _admit(self) -> Permit:
        now = self._monotonic()
        if self._state is _OPEN and now < (until := self._until):  # in this order; `_move` writes them in the other
            raise CircuitOpen(self.name, until - now)
        if (generation := self._closed) and now < self._next_scan:
            return self._enter(generation, now)
        permit = None
        with self._lock:
            self._catch_up(now)
            if self._state is _CLOSED:
                permit = self._enter(self._generation, now)
            elif self._state is _OPEN and now >= self._until:
                permit = Permit(self, self._generation + 1, now + min(self._trial_timeout, self._deadline))
                self._trial = ref(permit)
                self._move(_HALF_OPEN, permit.ends, trips=self._trips)
            until = self._until
        self._tell()
        if permit is None:
            raise CircuitOpen(self.name, until - now)
        return permit

    def _enter(self, generation: int, now: float) -> Permit:
        permit = Permit(self, generation, now + self._deadline)
        if permit.ends < math.inf:
            self._under_way[ref(permit)] = None
        return permit

    def _settle(self, permit: Permit, result: Result) -> None:
        if permit.generation == self._closed and (result == "neutral" or (result == "ok" and not self._failures)):
            if permit.ends == math.inf:
                permit.settled = permit is not self._pass
                return  # nothing changes, so there is no need of the lock
            if self._monotonic() < min(permit.ends, self._next_scan):
                permit.settled = True
                self._under_way.pop(ref(permit), None)
                return
        now = self._monotonic()
        with self._lock:
            self._catch_up(now)
            if not permit.settled and permit.generation == self._generation:
                if result == "failure":
                    self._count_failure(now)
                elif result == "ok":
                    self._failures = 0
                    if self._state is _HALF_OPEN:
                        self._move(_CLOSED, -math.inf, trips=0)
                elif self._state is _HALF_OPEN:
                    self._move(_OPEN, -math.inf, trips=self._trips)
            self._under_way.pop(ref(permit), None)
            permit.settled = permit is not self._pass
        self._tell()

    def _judge(self, error: BaseException) -> Result:
        if isinstance(error, BaseExceptionGroup):
            return "failure" if any(self._judge(part) == "failure" for part in error.exceptions) else "neutral"
        if not isinstance(error, Exception) or isinstance(error, CircuitOpen):
            return "neutral"
        try:
            return "neutral" if self._is_neutral(error) else "failure"
        except Exception:
            _log.exception("breaker %r: `neutral` failed on %r, which counts as a failure", self.name, error)
            return "failure"

    def _catch_up(self, now: float) -> None:
        """Do what time alone has done, as of the moment it happened."""
        if self._state is _HALF_OPEN:
            trial = self._trial()
            if trial is not None and now < trial.ends:
                return
            if trial is not None and self._deadline <= self._trial_timeout:
                self._count_failure(trial.ends)
            else:
                self._move(_OPEN, -math.inf, trips=self._trips)
        elif self._closed and now >= self._next_scan:
            calls = sorted((call for link in list(self._under_way) if (call := link())), key=lambda call: call.ends)
            for call in calls:
                if now >= call.ends and call.generation == self._generation and not call.settled:
                    call.settled = True
                    self._count_failure(call.ends)
            for link in list(self._under_way):
                if link() is None:
                    self._under_way.pop(link, None)
            # A call that enters meanwhile ends a deadline from now: it need not lower this, so it needs no lock.
            self._next_scan = min([now + self._deadline, *(call.ends for call in calls if now < call.ends)])

    def _count_failure(self, at: float) -> None:
        self._failures += 1
        if self._failures >= self._limit or self._state is _HALF_OPEN:
            self._trip(at)

    def _trip(self, at: float) -> None:
        full = min(self._cap, self._cooldown * 2.0 ** min(self._trips, 1000))  # 2.0 ** 1024 overflows
        self._move(_OPEN, at + full * (1.0 - self._jitter * self._rng()), trips=self._trips + 1)

    def _hold(self, until: float) -> None:
        now = self._monotonic()
        with self._lock:
            self._catch_up(now)
            if self._state is _OPEN:
                self._until = max(self._until, until)
            else:
                self._move(_OPEN, until, trips=self._trips)
        self._tell()

    def _look(self) -> None:
        now = self._monotonic()
        with self._lock:
            self._catch_up(now)
        self._tell()

    def _move(self, new: BreakerState, until: float, *, trips: int) -> None:
        # In this order: interrupted between two lines, a trip is done at the next failure, and a trial is given away again.
        old = self._state
        self._pass = None
        self._closed = 0
        self._generation += 1
        self._until = until
        self._state = new
        self._failures = 0
        self._trips = trips
        self._under_way = {}
        self._next_scan = -math.inf if self._deadline < math.inf else math.inf
        if new is _CLOSED:
            self._closed = self._generation
            if self._deadline == math.inf:
                self._pass = Permit(self, self._generation, math.inf)
        if self._listener is not None and old is not new:
            self._events.append((old, new, until))

    def _tell(self) -> None:
        # One thread at a time, so that the listener hears in order; a listener that calls the breaker does not wait.
        while self._events and self._telling.acquire(blocking=False):
            try:
                while self._events and self._listener is not None:
                    old, new, until = self._events.popleft()
                    try:
                        self._listener(old, new, max(0.0, until - self._monotonic()))
                    except Exception:
                        _log.exception("breaker %r: on_transition failed on %s -> %s", self.name, old, new)
            finally:
                self._telling.release()
