"""A delivery: a message in the hands of a consumer, until it says what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentfund.messages import Message


class Delivery:
    """A message handed over.

    Args:
        message: what was handed over.
        attempt: 1 the first time; it only grows, so it serves as the fencing token too.
        answer: writes down what became of it: done, or failed for a reason.
    """

    def __init__(self, message: Message, attempt: int, answer: Callable[[Delivery, str | None], Awaitable[None]]) -> None:
        self.message = message
        self.attempt = attempt
        self.settled = False
        self._answer = answer

    async def ack(self) -> None:
        """Done.

        Raises:
            BusError: another consumer has the message by now, because it was handed back or its lease ran out.
        """
        await self._settle(None)

    async def nack(self, reason: str) -> None:
        """Failed: again, or among the dead letters."""
        await self._settle(reason)

    async def _settle(self, reason: str | None) -> None:
        if not self.settled:
            await self._answer(self, reason)
            self.settled = True
