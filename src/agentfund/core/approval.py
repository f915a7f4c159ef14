"""A person's yes to one exact order, in supervised mode."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agentfund.messages import stable_id
from agentfund.trading import Decision, Order


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """What a person is asked.

    Args:
        order: the exact order.
        order_hash: its hash; an approval of another hash is no approval.
        decision: what led to it. Where gate agents vetoed it, a yes is an override and needs evidence.
        expires: after this moment silence means no, aware UTC.
    """

    order: Order
    order_hash: str
    decision: Decision
    expires: datetime

    @property
    def overrides_veto(self) -> bool:
        """Whether a yes would override a gate agent's veto."""
        return bool(self.decision.vetoes)


@dataclass(frozen=True, slots=True)
class Approval:
    """A person's answer.

    Args:
        approved: yes or no.
        order_hash: hash of the order that the person saw.
        by: who answered.
        evidence: why a veto is overridden; at least a sentence of 20 characters.
    """

    approved: bool
    order_hash: str
    by: str
    evidence: str = ""


NOBODY = "nobody"
"""Who answers where no person did."""

Approver = Callable[[ApprovalRequest], Approval | Awaitable[Approval]]


def order_hash(order: Order) -> str:
    """Return the hash of all that an order says."""
    return stable_id(repr(order))


async def ask(approver: Approver, request: ApprovalRequest, timeout_s: float) -> Approval:
    """Return the person's answer; silence, a failure, another order's hash or an override without evidence is a no."""
    try:
        async with asyncio.timeout(timeout_s):
            given: object = await _answer(approver, request)
    except TimeoutError:
        return Approval(False, request.order_hash, NOBODY, f"no answer within {timeout_s:g} s")
    except Exception as error:
        return Approval(False, request.order_hash, NOBODY, f"asking failed: {type(error).__name__}: {error}")
    if not isinstance(given, Approval):
        return Approval(False, request.order_hash, NOBODY, f"the answer is a {type(given).__name__}, not an Approval")
    answer = given
    if answer.approved and answer.order_hash != request.order_hash:
        return Approval(False, request.order_hash, answer.by, "the approval is of another order")
    if answer.approved and request.overrides_veto and len(answer.evidence.strip()) < 20:
        return Approval(False, request.order_hash, answer.by, "overriding a veto needs evidence of at least 20 characters")
    return answer


async def _answer(approver: Approver, request: ApprovalRequest) -> object:
    if inspect.iscoroutinefunction(approver):
        return await approver(request)
    # A function that waits for a person would hold up everything else, so it waits in a thread of its own.
    answer: Any = await asyncio.to_thread(approver, request)
    return await answer if inspect.isawaitable(answer) else answer
