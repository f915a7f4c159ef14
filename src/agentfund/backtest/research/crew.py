"""Work that is shared out: tasks go to workers one by one, and one that dies costs one trial a second attempt, no more."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from agentfund.backtest.research.attempt import Attempt, Bench, Setting, Task
from agentfund.backtest.research.grid import written
from agentfund.errors import ConfigError

# A worker holds this many tasks, so that it does not wait for the next one.
AHEAD = 2
# Workers that died before they could begin, after which it is no accident.
_HOPELESS = 3

_log = logging.getLogger("agentfund")


class Ready(NamedTuple):
    """A worker has its bars."""

    worker: int


class Done(NamedTuple):
    """A worker finished its oldest task."""

    worker: int
    attempt: Attempt


class Unfit(NamedTuple):
    """A worker could not begin at all."""

    worker: int
    reason: str


class Died(NamedTuple):
    """A worker is gone without a word."""

    worker: int
    reason: str


Event = Ready | Done | Unfit | Died


class Crew(Protocol):
    """Workers somewhere: in processes of this machine, or on a cluster."""

    def hire(self) -> int:
        """Start a worker and return its number; it says `Ready` when it can take tasks."""
        ...

    def give(self, worker: int, task: Task) -> None:
        """Hand over a task; one that has died meanwhile says so in an event."""
        ...

    def wait(self) -> Sequence[Event]:
        """Return what happened, waiting until something has."""
        ...

    def dismiss(self) -> None:
        """End all workers at once, whatever they are doing."""
        ...


def alone(setting: Setting, tasks: Sequence[Task]) -> Iterator[list[tuple[int, Attempt]]]:
    """Run the tasks here, one after the other."""
    bench = Bench(setting)
    for number, task in enumerate(tasks):
        yield [(number, bench.run(task))]


def shared_out(crew: Crew, workers: int, tasks: Sequence[Task]) -> Iterator[list[tuple[int, Attempt]]]:
    """Run the tasks on a crew; give the trials as they end, each with the number of its task.

    The task that a dying worker was at is tried once more. Where that worker dies too, the trial has failed.

    Args:
        crew: who works.
        workers: how many at once.
        tasks: what to do.

    Raises:
        ConfigError: workers cannot begin.
    """
    waiting = deque(range(len(tasks)))
    holding: dict[int, deque[int]] = {}
    ready: set[int] = set()
    deaths: Counter[int] = Counter()
    stillborn = 0
    try:
        while waiting or any(holding.values()):
            while len(holding) < min(workers, len(waiting) + sum(map(len, holding.values()))):
                holding[crew.hire()] = deque()
            ended: list[tuple[int, Attempt]] = []
            for event in crew.wait():
                mine = holding[event.worker]
                if isinstance(event, Ready):
                    ready.add(event.worker)
                elif isinstance(event, Done):
                    ended.append((mine.popleft(), event.attempt))
                elif isinstance(event, Unfit):
                    raise ConfigError(event.reason)
                else:
                    del holding[event.worker]
                    stillborn += event.worker not in ready
                    if stillborn > _HOPELESS:
                        raise ConfigError(
                            f"{stillborn} workers died before they could begin, the last one so: {event.reason};"
                            ' look at memory, or run with on="here" to see the cause'
                        )
                    if mine:
                        ended += _bury(event, mine.popleft(), tasks, deaths, waiting)
                    waiting.extendleft(reversed(mine))
            for worker, mine in holding.items():
                # A second task bridges the way to the worker and back; the last tasks go to whoever is free.
                while worker in ready and waiting and (not mine or (len(mine) < AHEAD and len(waiting) >= 2 * len(holding))):
                    mine.append(waiting.popleft())
                    crew.give(worker, tasks[mine[-1]])
            if ended:
                yield ended
    finally:
        crew.dismiss()


def _bury(
    event: Died, number: int, tasks: Sequence[Task], deaths: Counter[int], waiting: deque[int]
) -> list[tuple[int, Attempt]]:
    """Say what the worker was at; put that back once, or give it up."""
    deaths[number] += 1
    task = tasks[number]
    if deaths[number] == 1:
        waiting.appendleft(number)
        _log.warning("a worker died (%s) at the trial %s; it is tried once more", event.reason, written(task.parameters))
        return []
    reason = f"WorkerDied: two workers died at this trial, the second one so: {event.reason}"
    _log.warning("the trial %s failed: %s", written(task.parameters), reason)
    return [(number, Attempt(task.parameters, error=reason, lasting=False))]
