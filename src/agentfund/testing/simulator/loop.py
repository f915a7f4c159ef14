"""An event loop in virtual time: it never waits, and one seed always gives one order of events."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from agentfund.errors import AgentFundError

if TYPE_CHECKING:
    from asyncio.events import Handle, TimerHandle

T = TypeVar("T")
_TRIES = 10

family: ContextVar[list[asyncio.Task[Any]] | None] = ContextVar("family", default=None)
"""Where the tasks that start in a context are listed, those that they start included; None where nobody lists them."""


class Stuck(AgentFundError):
    """Nothing can happen any more, or the end never comes."""


class SimulatedTask(asyncio.Task[T]):
    """A task whose hash is its number: sets of tasks, which `asyncio.wait` returns, are walked in the same order each time."""

    _number = 0

    def __init__(self, coro: Coroutine[Any, Any, T], *, loop: SimulatedLoop, **options: Any) -> None:
        loop.born += 1
        self._number = loop.born  # before the base class, which puts the task into a set
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop without a selector, whose clock jumps to the next timer when nothing else is left to do.

    What is shuffled, and what is not:

    - Of the callbacks that are ready in one pass, those that are steps of tasks change places among each other. Which of two
      ready tasks runs first depends on the machine, so no correct program relies on it; Trio mixes its tasks for that reason.
    - All other callbacks keep their places: asyncio promises that `call_soon` calls in the order of registration.
    - A pass runs what was ready when it began. A task that yields by `sleep(0)` comes back in the next pass and starves nobody.
    - Timers of the same moment come in any order, as asyncio says.

    Functions given to an executor run in the loop itself, one at a time. There are no sockets, signals and subprocesses.

    Args:
        seed: chooses the order.
        shuffle: whether anything changes places.
        most_steps: callbacks after which the end is taken to be out of reach.

    Attributes:
        steps: callbacks called so far.
        born: tasks started so far.
        most_steps: callbacks after which the end is taken to be out of reach.
        alarm: a number of steps, and what is called once as many were made.
    """

    def __init__(self, seed: int | str, *, shuffle: bool = True, most_steps: int = 1_000_000) -> None:
        super().__init__()
        self.set_debug(False)
        self.steps = 0
        self.born = 0
        self.alarm: tuple[int, Callable[[], object]] | None = None
        self._virtual = 0.0
        self._frozen: list[tuple[list[asyncio.Task[Any]], list[Handle]]] = []
        self.most_steps = most_steps
        self._rng = random.Random(f"loop {seed}") if shuffle else None  # noqa: S311 - no secret
        self.set_exception_handler(lambda loop, context: None)  # what a killed process leaves behind is told to nobody

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._virtual

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """Start a task, and list it where the tasks of its context are listed."""
        self._check_closed()  # type: ignore[attr-defined]
        task: SimulatedTask[Any] = SimulatedTask(coro, loop=self, **options)
        context = options.get("context")
        listed = family.get() if context is None else context.get(family)
        if listed is not None:
            listed.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Call the function in the loop, soon."""
        future = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_soon(work)
        return future

    def _run_once(self) -> None:
        ready: deque[Handle] = self._ready  # type: ignore[attr-defined]
        timers: list[TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0].cancelled():
            self._forget(heapq.heappop(timers))
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not timers:
                raise Stuck("every task waits for something that nobody will do")
            self._virtual = max(self._virtual, timers[0].when())
        due: list[TimerHandle] = []
        while timers and timers[0].when() <= self._virtual:
            timer = heapq.heappop(timers)
            if timer.cancelled():
                self._forget(timer)
            else:
                timer._scheduled = False  # type: ignore[attr-defined]
                due.append(timer)
        if len(due) > 1 and self._rng is not None:
            self._rng.shuffle(due)
        ready.extend(due)
        if len(ready) > 1 and self._rng is not None:
            self._mix(ready, self._rng)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle.cancelled() or (self._frozen and self._held(handle)):
                continue
            self.steps += 1
            if self.alarm is not None and self.steps >= self.alarm[0]:
                ring, self.alarm = self.alarm[1], None
                ring()
            handle._run()
        if self.steps > self.most_steps:
            raise Stuck(f"no end after {self.steps:,} steps")

    def freeze(self, tasks: list[asyncio.Task[Any]], seconds: float) -> None:
        """Let nothing that belongs to a family of tasks run for a while: no step, no callback, no timer."""
        held: list[Handle] = []
        self._frozen.append((tasks, held))

        def thaw() -> None:
            self._frozen.remove((tasks, held))
            self._ready.extend(held)  # type: ignore[attr-defined]

        self.call_later(seconds, thaw, context=Context())

    def _held(self, handle: Handle) -> bool:
        listed = handle._context.get(family)  # type: ignore[attr-defined]
        for tasks, held in self._frozen:
            if tasks is listed:
                held.append(handle)
                return True
        return False

    def _forget(self, timer: TimerHandle) -> None:
        timer._scheduled = False  # type: ignore[attr-defined]
        self._timer_cancelled_count: int = max(0, self._timer_cancelled_count - 1)

    def _mix(self, ready: deque[Handle], rng: random.Random) -> None:
        places = [place for place, handle in enumerate(ready) if _is_step(handle)]
        if len(places) > 1:
            handles = [ready[place] for place in places]
            rng.shuffle(handles)
            for place, handle in zip(places, handles, strict=True):
                ready[place] = handle

    def _write_to_self(self) -> None:
        """Wake nobody: the loop never sleeps."""

    def _process_events(self, event_list: Any) -> None:
        """Do nothing: there are no files to watch."""


def _is_step(handle: Handle) -> bool:
    # The same look as asyncio's own debug output takes.
    return isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)  # type: ignore[attr-defined]


def simulate(work: Coroutine[Any, Any, T], loop: SimulatedLoop) -> T:
    """Run a coroutine to its end in a simulated loop, and close the loop.

    Raises:
        Stuck: it never ends.
    """
    try:
        return loop.run_until_complete(work)
    finally:
        loop.alarm = None
        loop.most_steps += loop.steps
        try:
            _end_all(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


def _end_all(loop: SimulatedLoop) -> None:
    """Cancel what is left until nothing is."""
    for _ in range(_TRIES):
        left = asyncio.all_tasks(loop)
        if not left:
            return
        for task in left:
            task.cancel()
        with suppress(Stuck):
            loop.run_until_complete(asyncio.wait(left, timeout=1.0))
