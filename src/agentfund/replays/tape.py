"""The log of a rerun: it begins with what is given, hands on what is written cycle by cycle, and keeps nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentfund.errors import BusError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
    from datetime import datetime

    from agentfund.messages import Durability, Message
    from agentfund.protocols import Delivery


class Tape:
    """A bus for one rerun.

    Args:
        before: gives what is on it at the beginning, oldest first.
    """

    def __init__(self, before: Callable[[], AsyncIterator[Message]]) -> None:
        self._before = before
        self._offset = 0
        self._fresh: list[Message] = []
        self._known: set[str] = set()
        self._cycle = 0

    @property
    def durability(self) -> Durability:
        """`none`: nothing is kept."""
        return "none"

    async def publish(self, messages: Sequence[Message], *, sync: bool = True) -> int:
        """Take messages, each once by its id within a cycle; return the offset of the last."""
        for message in messages:
            if message.cycle != self._cycle:
                self._cycle = message.cycle
                self._known.clear()
            if message.id not in self._known:
                self._known.add(message.id)
                self._offset += 1
                self._fresh.append(message)
        return self._offset

    async def read(
        self, stream: str | None = None, *, after: int = 0, since: datetime | None = None
    ) -> AsyncGenerator[Message, None]:
        """Give what was there at the beginning."""
        if after:
            return
        async for message in self._before():
            if message.cycle != self._cycle:
                self._cycle = message.cycle
                self._known.clear()
            self._known.add(message.id)
            self._offset += 1
            yield message

    async def last(self, stream: str | None = None) -> Message | None:
        """Return the newest message that was not taken yet."""
        return self._fresh[-1] if self._fresh else None

    def consume(self, group: str, stream: str | None = None) -> AsyncIterator[Delivery]:
        """Refuse: a rerun has no consumers.

        Raises:
            BusError: always.
        """
        raise BusError("the log of a rerun has no consumers: publish its messages to a bus of your own")

    async def close(self) -> None:
        """Forget what was not taken."""
        self._fresh.clear()

    def take(self) -> list[Message]:
        """Return what was written since the last time."""
        fresh, self._fresh = self._fresh, []
        return fresh
