"""Orders that wait for a person."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentfund.clock import SystemClock
from agentfund.core.approval import Approval, ApprovalRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentfund.protocols import Clock

LEAST_EVIDENCE = 20
"""Characters of evidence that overriding a veto needs."""
LEAST_HASH = 6
"""Characters of a hash or an id that name an order without meaning another one."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of an answer: taken, or why not."""

    taken: bool
    reason: str


class Board:
    """Where orders wait for a person, each named by its hash. It is an approver: `Orchestrator(approver=board)`.

    Args:
        clock: where the time comes from.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._waiting: dict[str, tuple[ApprovalRequest, asyncio.Future[Approval]]] = {}

    async def __call__(self, request: ApprovalRequest) -> Approval:
        """Wait for a person's word on one exact order."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Approval] = loop.create_future()
        self._waiting[request.order_hash] = (request, answer)
        try:
            return await answer
        finally:
            self._waiting.pop(request.order_hash, None)

    def waiting(self) -> Sequence[ApprovalRequest]:
        """Return what waits and has not expired, oldest first."""
        now = self._clock.now()
        return [request for request, answer in self._waiting.values() if request.expires > now and not answer.done()]

    def answer(self, order_hash: str, approved: bool, by: str, evidence: str = "") -> Answered:
        """Take a person's word. Call it in the loop in which the orders wait.

        Args:
            order_hash: hash of the order that the person saw.
            approved: yes or no.
            by: the person's name.
            evidence: why a veto is overridden.
        """
        found = self._waiting.get(order_hash)
        if found is None or found[1].done():
            return Answered(False, "no such order waits: it was answered, it has expired, or it is another one by now")
        request, answer = found
        if request.expires <= self._clock.now():
            return Answered(False, "it has expired, and silence is a no")
        if not by.strip():
            return Answered(False, "an answer needs a name: who says so?")
        if approved and request.overrides_veto and len(evidence.strip()) < LEAST_EVIDENCE:
            return Answered(False, f"gate agents vetoed it: a yes needs evidence of at least {LEAST_EVIDENCE} characters")
        answer.set_result(Approval(approved, order_hash, by.strip(), evidence.strip()))
        return Answered(True, "approved" if approved else "declined")
