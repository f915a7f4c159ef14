"""What the core needs to know of agents and gates in other processes: how they are asked, and nothing of where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from datetime import datetime

    from agentfund.core.context import Snapshot, State
    from agentfund.core.gate import Denial, Scene
    from agentfund.core.orchestrator import Orchestrator
    from agentfund.core.safety import Judged, SafetyWrapper
    from agentfund.messages import Call
    from agentfund.trading import Order


class Elsewhere(Protocol):
    """Asks agents that live elsewhere."""

    def hosts(self, agent: str) -> bool:
        """Return whether an agent lives elsewhere."""
        ...

    async def begin(self, fund: Orchestrator, run: str, since: datetime | None) -> None:
        """Begin a run, or carry it on: what was answered since a moment is used and not asked again."""
        ...

    def ask(self, agent: SafetyWrapper[Any], context: Snapshot, state: State, token: int) -> Judged | Awaitable[Judged]:
        """Ask an agent; who does not answer in time is unavailable."""
        ...

    def paid(self) -> Sequence[Call]:
        """Return calls that were paid for and belong to no opinion, each once."""
        ...

    async def end(self) -> None:
        """End the run."""
        ...


class Gatekeeper(Protocol):
    """A gate elsewhere, asked about each order that the fund's own gate has allowed; it can deny and nothing else."""

    def ask(self, order: Order, scene: Scene) -> Awaitable[Denial | None]:
        """Return None to allow the order, or why it is denied; no answer in time is a denial. Never raises."""
        ...
