"""What callers want in a log of frames, and what became of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentfund.buses.frames import Part

UNKNOWN: Any = object()
"""What becomes of a want that is not folded."""


class Want:
    """What one caller wants in the log.

    Args:
        part: of a frame.

    Attributes:
        result: what it came to; it may come late, after the caller was told that nobody knows.
        done: whom to tell.
    """

    __slots__ = ("done", "part", "result")

    def __init__(self, part: Part) -> None:
        self.part = part
        self.result = UNKNOWN
        self.done: asyncio.Future[Any] | None = None

    def promise(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Any]:
        """Return the future of what it comes to."""
        if self.done is None:
            self.done = loop.create_future()
            self.done.add_done_callback(_noticed)  # who asked may be gone
        return self.done

    @property
    def size(self) -> int:
        """Bytes that it adds to a frame."""
        return len(self.part.line) + sum(map(len, self.part.payloads)) + len(self.part.payloads)


class Sent:
    """A frame on its way: acknowledged by the broker, folded into the mirror, in either order.

    Args:
        wants: what is in it.
    """

    __slots__ = ("acknowledged", "folded", "timer", "wants")

    def __init__(self, wants: list[Want]) -> None:
        self.wants = wants
        self.acknowledged = False
        self.folded = False
        self.timer: asyncio.TimerHandle | None = None

    def resolve(self) -> None:
        """Tell all who wait what came of it; in their event loop."""
        if self.timer is not None:
            self.timer.cancel()
        for want in self.wants:
            if want.done is not None and not want.done.done():
                want.done.set_result(want.result)


def reject(wants: Sequence[Want], error: BaseException) -> None:
    """Tell all who wait that nobody knows; in their event loop."""
    for want in wants:
        if want.done is not None and not want.done.done():
            want.done.set_exception(error)


def _noticed(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()
