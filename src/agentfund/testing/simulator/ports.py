"""What a fund under simulation is built on, and how its run ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING

from agentfund.messages import Message
from agentfund.testing.simulator.bus import Disk, SimulatedBus
from agentfund.testing.simulator.invariants import Violation
from agentfund.testing.simulator.llm import Provider, Script, SimulatedLLM
from agentfund.testing.simulator.permission import SimulatedPermission
from agentfund.testing.simulator.process import MachineClock, Process

if TYPE_CHECKING:
    from agentfund.core.orchestrator import Orchestrator
    from agentfund.testing.simulator.faults import Fault
    from agentfund.testing.simulator.schedule import Schedule


class Ports:
    """What a fund under simulation is built on, in place of the real things.

    Attributes:
        bus: the log.
        clock: the machine's clock; None in a backtest, whose time is the market's own.
        permission: the watchdog's word, which changes by schedule.
    """

    def __init__(self, process: Process, provider: Provider, disk: Disk, *, paper: bool) -> None:
        self.bus = SimulatedBus(process, disk)
        self.clock = None if paper else MachineClock(process.truth)
        self.permission = SimulatedPermission(process)
        self._process = process
        self._provider = provider

    def llm(self, script: Script | None = None, *, name: str = "simulated", price_usd: Decimal | str = "0.01") -> SimulatedLLM:
        """Return a route to a language model.

        Args:
            script: gives the value for a prompt, None to abstain; without one the prompt's rule twin answers.
            name: its name as a route.
            price_usd: what an answer costs.
        """
        return SimulatedLLM(self._process, self._provider, script, name=name, price_usd=price_usd)


MakeFund = Callable[[Ports], "Orchestrator"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        seed: chose what takes how long, and who goes first.
        schedule: what was to go wrong.
        violations: what must not be, in the order in which it was found; empty is good.
        fired: the faults that came to pass.
        counts: how often each point was passed.
        places: what was done where: operations, with what was written, and their places.
        trace: what happened, a line each.
        messages: the log.
        lives: how many processes it took.
        orders: orders that reached the broker.
    """

    seed: int
    schedule: Schedule
    violations: tuple[Violation, ...]
    fired: tuple[Fault, ...]
    counts: Mapping[str, int]
    places: Mapping[str, Sequence[str]]
    trace: tuple[str, ...]
    messages: tuple[Message, ...]
    lives: int
    orders: int

    @cached_property
    def text(self) -> str:
        """Trace and log: two runs are the same run if this is the same."""
        return "\n".join((*self.trace, *(message.line() for message in self.messages)))

    def __bool__(self) -> bool:
        return not self.violations
