"""What really happens: time, chance and faults of one run; and the lives of the fund's processes in it."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NoReturn

from agentfund.errors import ConfigError
from agentfund.testing.simulator.permission import Word

if TYPE_CHECKING:
    from typing import Any

    from agentfund.core.orchestrator import Orchestrator
    from agentfund.testing.simulator.faults import Fault
    from agentfund.testing.simulator.loop import SimulatedLoop
    from agentfund.testing.simulator.schedule import Schedule
    from agentfund.trading import Permit

QUICK_S = 0.002
PATIENCE_S = 300.0


class Killed(BaseException):
    """The process is dead: nothing that it still tries has any effect. No `except Exception` sees it."""


class Truth:
    """The one reality behind everything that a fund is told.

    Args:
        loop: gives virtual time.
        seed: chooses how long things take.
        schedule: what goes wrong.
        start: wall time at virtual second zero, aware UTC.

    Attributes:
        skew: how far the machine's wall clock is ahead.
        counts: how often each point was passed.
        places: what was done where: operations, with what was written, and their places, as `publish#3`.
        fired: the faults that came to pass.
        trace: what happened, a line each.
        processes: all lives of the fund so far.
        calm_from: virtual second from which on nothing goes wrong any more.
        cut_until: virtual second until which the broker cannot be reached.
        down_until: virtual second until which the log cannot be reached.
        foreign_until: virtual second until which the broker lists an order of somebody else.
        troubled_until: virtual second until which what went wrong may take to heal.
        word: what the watchdog says.
    """

    def __init__(self, loop: SimulatedLoop, seed: int, schedule: Schedule, start: datetime) -> None:
        self.loop = loop
        self.chance = random.Random(f"truth {seed}")  # noqa: S311 - no secret
        self.start = start
        self.skew = timedelta(0)
        self.counts: Counter[str] = Counter()
        self.places: dict[str, list[str]] = {}
        self.fired: list[Fault] = []
        self.trace: list[str] = []
        self.processes: list[Process] = []
        self.calm_from = math.inf
        self.cut_until = -math.inf
        self.down_until = -math.inf
        self.foreign_until = -math.inf
        self.troubled_until = 0.0
        self.word = Word(self)
        self._faults = {(fault.point, fault.number): fault for fault in schedule}
        if len(self._faults) != len(schedule):
            raise ConfigError("two faults at the same place: only one of them could happen")
        self._steps = sorted(fault for fault in schedule if fault.point == "step")
        self._next_step()

    @property
    def seconds(self) -> float:
        """Virtual seconds since the start."""
        return self.loop.time()

    @property
    def now(self) -> datetime:
        """The true time, aware UTC."""
        return self.start + timedelta(seconds=self.loop.time())

    @property
    def wall(self) -> datetime:
        """What the machine's clock shows, aware UTC."""
        return self.now + self.skew

    def at(self, moment: datetime) -> float:
        """Return a true time as virtual seconds."""
        return (moment - self.start).total_seconds()

    def until(self, seconds: float) -> float:
        """Return when something ends that begins now; it ends at the latest when all is calm."""
        return min(self.seconds + seconds, self.calm_from)

    def passes(self, point: str) -> Fault | None:
        """Count that a point is passed; return what goes wrong there, None where nothing does."""
        self.counts[point] += 1
        fault = self._faults.get((point, self.counts[point]))
        if fault is None or self.loop.time() >= self.calm_from:
            return None
        self.fired.append(fault)
        if point != "permit":
            self.troubled_until = max(self.troubled_until, self.seconds + fault.seconds)
        return fault

    def tell(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.loop.time():.6f} {text}")

    def lose_power(self, fault: Fault) -> None:
        """Kill every process."""
        for process in self.processes:
            if process.alive:
                process.die(fault)

    def _next_step(self) -> None:
        if self._steps:
            fault = self._steps.pop(0)
            self.loop.alarm = (fault.number, lambda: self._stepped(fault))

    def _stepped(self, fault: Fault) -> None:
        self._next_step()
        living = [one for one in self.processes if one.alive and one.main is not None and not one.cancelled]
        if living and self.loop.time() < self.calm_from:
            self.fired.append(fault)
            self.troubled_until = max(self.troubled_until, self.seconds + fault.seconds)
            living[0].cancel(fault)


class Process:
    """One life of the fund: from its start until it is killed, fails, is cancelled or comes to its end.

    Args:
        truth: what really happens.
        number: counts lives from 1.

    Attributes:
        alive: whether what it does has any effect.
        cancelled: whether somebody outside cancelled it.
        down_s: seconds until it is started again.
        tasks: all tasks that it started.
        main: its first task.
        fund: the fund that it runs.
        moment: the newest bar that it was given.
        mute: whether the last thing that it tried to write failed.
        deaf: whether it could not read the log.
        shown: the moment as of which it was shown its fills, in virtual seconds; None before that.
        born: when it began, in virtual seconds.
        sends: whether it is an execution, alone or with a fund.
        permit: what the watchdog said when it looked last; None before that.
        strange: whether the broker's newest list of orders had one of somebody else.
        overdue: called when it goes on long after it was cancelled.
    """

    def __init__(self, truth: Truth, number: int) -> None:
        self.truth = truth
        self.number = number
        self.alive = True
        self.cancelled = False
        self.down_s = 5.0
        self.tasks: list[asyncio.Task[Any]] = []
        self.main: asyncio.Task[None] | None = None
        self.fund: Orchestrator | None = None
        self.moment: datetime | None = None
        self.mute = False
        self.deaf = False
        self.shown: float | None = None
        self.sends = False
        self.born = truth.seconds
        self.strange = False
        self.permit: Permit | None = None
        self.overdue: Callable[[Process], object] = lambda process: None
        truth.processes.append(self)

    def begin(self, point: str, what: str = "") -> Fault | None:
        """Pass a point; return what goes wrong there.

        Args:
            point: which.
            what: tells one operation from another there, such as what is written.

        Raises:
            Killed: the process is dead, or dies here.
        """
        if not self.alive:
            raise Killed
        fault = self.truth.passes(point)
        wrong = f" {fault}" if fault is not None else ""
        number = self.truth.counts[point]
        self.truth.places.setdefault(f"{point} {what}" if what else point, []).append(f"{point}#{number}")
        self.truth.tell(f"p{self.number} {point} {number}{wrong}")
        if fault is not None and fault.kind == "crash_before":
            self._killed(fault)
        if fault is not None and fault.kind == "freeze":
            self.truth.loop.freeze(self.tasks, fault.seconds)
        if fault is not None and fault.kind == "cancel" and not self.cancelled:
            self.cancel(fault)
        return fault

    def end(self, fault: Fault | None) -> None:
        """Come back from an operation.

        Raises:
            Killed: the process is dead, or dies here.
        """
        if not self.alive:
            raise Killed
        if fault is not None and fault.kind == "crash_after":
            self._killed(fault)

    def permitted(self) -> Permit:
        """Return what the watchdog says.

        Raises:
            Killed: the process is dead.
        """
        if not self.alive:
            raise Killed
        fault = self.truth.passes("permit")
        if fault is not None:
            self.truth.tell(f"p{self.number} permit {fault.number} {fault}")
            self.truth.word.say(fault)
        self.permit = self.truth.word.now
        return self.permit

    async def takes(self, fault: Fault | None, seconds: float = QUICK_S) -> None:
        """Let some of the time pass that an operation takes."""
        slow = fault.seconds if fault is not None and fault.kind == "slow" else 0.0
        await asyncio.sleep(seconds * self.truth.chance.random() + slow)

    def die(self, fault: Fault) -> None:
        """End at once."""
        self.alive = False
        self.down_s = fault.seconds
        self.truth.tell(f"p{self.number} is killed")
        for task in self.tasks:
            if not task.done():
                self.truth.loop.call_soon(task.cancel)

    def cancel(self, fault: Fault) -> None:
        """Cancel the fund, as a supervisor does that stops it."""
        self.cancelled = True
        self.down_s = fault.seconds
        self.truth.tell(f"p{self.number} is cancelled")
        if self.main is not None:
            self.main.cancel()
            self.truth.loop.call_later(PATIENCE_S, self._look)

    def _look(self) -> None:
        if self.alive and self.main is not None and not self.main.done():
            self.overdue(self)

    def _killed(self, fault: Fault) -> NoReturn:
        self.die(fault)
        raise Killed


async def never() -> NoReturn:
    """Wait for what never comes."""
    await asyncio.Event().wait()
    raise AssertionError


class MachineClock:
    """The clock of the simulated machine: a `Clock` whose wall time can be set wrong, and whose seconds only go forward.

    Args:
        truth: what really happens.
    """

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def now(self) -> datetime:
        """Return what the wall clock shows, aware UTC."""
        return self._truth.wall

    def monotonic(self) -> float:
        """Return virtual seconds."""
        return self._truth.seconds

    async def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        await asyncio.sleep(seconds)
