"""A watchdog's word that changes by schedule: the lease lost for a while, a halt, a kill, each lifted in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from agentfund.trading import Level, Permit

if TYPE_CHECKING:
    from agentfund.testing.simulator.faults import Fault
    from agentfund.testing.simulator.process import Process, Truth

LEVELS = {"reduce": Level.REDUCE_ONLY, "halt": Level.HALT, "kill": Level.KILL}


class Said(NamedTuple):
    """What the watchdog says for a while.

    Args:
        level: the level.
        lease: whether there is a lease.
        since: virtual second from which on.
        until: virtual second until which.
        cause: names it.
    """

    level: Level
    lease: bool
    since: float
    until: float
    cause: str


class Word:
    """The watchdog's word in one run: the same for every process that asks.

    Args:
        truth: what really happens.

    Attributes:
        changed: virtual second in which it said something else last.
        lifting: called with what is said a moment before it is lifted.
    """

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._said: list[Said] = []
        self._numbers = 0
        self.changed = 0.0
        self.lifting: Callable[[Said], object] = lambda said: None

    def say(self, fault: Fault) -> None:
        """Say something for a while."""
        truth = self._truth
        self.changed = truth.seconds
        self._numbers += 1
        level = LEVELS.get(fault.kind, Level.NORMAL)
        until = truth.until(fault.seconds)
        said = Said(level, fault.kind != "lost", truth.seconds, until, f"h{self._numbers}" if level >= Level.HALT else "")
        self._said.append(said)
        truth.loop.call_at(until, self._lift, said)

    def _lift(self, said: Said) -> None:
        self.lifting(said)
        self._said.remove(said)
        self.changed = self._truth.seconds
        self._truth.tell(f"watchdog: {said.level.name.lower() if said.lease else 'no lease'} is over")

    @property
    def now(self) -> Permit:
        """What it says at this moment."""
        if not self._said:
            return Permit()
        highest = max(self._said, key=lambda one: one.level)
        return Permit(highest.level, all(one.lease for one in self._said), "the schedule says so", highest.cause)

    def adding_since(self) -> float | None:
        """Return since when nothing may add risk, None where it may."""
        return min((one.since for one in self._said if one.level >= Level.REDUCE_ONLY or not one.lease), default=None)

    def halted_since(self) -> float | None:
        """Return since when there is a halt, None where there is none."""
        return min((one.since for one in self._said if one.level >= Level.HALT), default=None)


class SimulatedPermission:
    """A process's look at the watchdog's word, as a `Permission`.

    Args:
        process: who looks.
    """

    def __init__(self, process: Process) -> None:
        self._process = process

    def now(self) -> Permit:
        """Return level and lease at this moment."""
        return self._process.permitted()
