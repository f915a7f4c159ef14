"""A person at a terminal: one exact order, approved by its hash or declined, before it expires."""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING, TextIO

from agentfund.approvals.board import LEAST_EVIDENCE, LEAST_HASH
from agentfund.clock import SystemClock
from agentfund.core.approval import Approval
from agentfund.plain import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentfund.core.approval import ApprovalRequest
    from agentfund.protocols import Clock


def rows(request: ApprovalRequest) -> Mapping[str, str]:
    """Return all that a person has to see of an order, by name."""
    order, decision = request.order, request.decision
    told = {
        "order": f"{order.side} {order.quantity.normalize():f} {order.symbol} at {order.type}"
        + (", only to reduce" if order.reduce_only else ""),
        "limit price": str(order.limit_price or ""),
        "trigger": str(order.stop_price or ""),
        "stop": str(order.stop_loss or ""),
        "target": str(order.take_profit or ""),
        "price": "" if decision.price is None else f"{decision.price:g}",
        "why": decision.reason,
        "proposed by": ", ".join(decision.proposed_by),
        "vetoed by": "; ".join(f"{name}: {reason}" for name, reason in decision.vetoes),
        "expires": request.expires.isoformat(timespec="seconds"),
        "hash": request.order_hash,
    }
    return {name: value for name, value in told.items() if value}


class TerminalApprover:
    """Asks a person at a terminal about each exact order: `Orchestrator(approver=TerminalApprover("Ada"))`.

    To approve it the person types the first six characters of its hash, or more of them, so that a word meant for another
    order, or for another program, approves nothing. A yes is told what to type; anything else is a no.

    Args:
        by: the person's name.
        stdin: where answers are typed.
        stdout: where questions are shown.
        clock: where the time comes from.
    """

    def __init__(
        self, by: str, *, stdin: TextIO | None = None, stdout: TextIO | None = None, clock: Clock | None = None
    ) -> None:
        self._by = by
        self._in = stdin
        self._out = stdout
        self._clock = clock or SystemClock()

    def __call__(self, request: ApprovalRequest) -> Approval:
        """Ask; whatever is not the order's hash is a no."""
        self._drain()  # what was typed for an order before this one is no answer to it
        width = max(map(len, rows(request)))
        self._say("\nAn order waits for you:")
        for name, value in rows(request).items():
            told = plain(value).replace("\n", " ")
            self._say(f"  {name:<{width}}  {told}")
        word = request.order_hash[:LEAST_HASH]
        answer = self._line(request, f"Send exactly this order? Type the first {LEAST_HASH} characters of its hash, or no: ")
        while answer is not None and answer.lower() in ("y", "yes"):
            answer = self._line(request, f"A yes could be meant for another order. To send this one, type {word}: ")
        if answer is None or not (len(answer) >= LEAST_HASH and request.order_hash.startswith(answer)):
            return Approval(False, request.order_hash, self._by, "" if answer is not None else "no answer in time")
        evidence = ""
        if request.overrides_veto:
            told = f"Gate agents vetoed it. Why are they wrong? At least {LEAST_EVIDENCE} characters: "
            evidence = self._line(request, told) or ""
        return Approval(True, request.order_hash, self._by, evidence)

    def _line(self, request: ApprovalRequest, question: str) -> str | None:
        """Return a line typed before the order expires, None where there is none."""
        self._say(question, end="")
        stdin = self._in or sys.stdin
        left = (request.expires - self._clock.now()).total_seconds()
        try:  # where it cannot be waited for, such as on Windows, the orchestrator's own time limit holds
            ready = select.select([stdin], [], [], max(left, 0.0))[0] if left > 0 else []
        except (OSError, ValueError):
            ready = [stdin]
        line = stdin.readline() if ready else ""
        return line.strip() if line else None

    def _drain(self) -> None:
        stdin = self._in or sys.stdin
        try:
            while select.select([stdin], [], [], 0)[0] and stdin.readline():
                pass
        except (OSError, ValueError):
            return  # no terminal and no pipe

    def _say(self, text: str, end: str = "\n") -> None:
        print(text, end=end, file=self._out or sys.stdout, flush=True)
