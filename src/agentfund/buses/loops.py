"""Connections belong to the event loop that made them, and a bus does not: one connection for each loop that uses it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One thing for each event loop, made at its first use there.

    Args:
        make: makes it, in the running loop.
        drop: lets go of it, in the loop that made it.
    """

    def __init__(self, make: Callable[[], Awaitable[T]], drop: Callable[[T], Awaitable[None]]) -> None:
        self._make = make
        self._drop = drop
        self._made: dict[asyncio.AbstractEventLoop, asyncio.Future[T]] = {}

    async def get(self) -> T:
        """Return the running loop's; a failure to make it is not kept, so the next use tries again."""
        loop = asyncio.get_running_loop()
        found = self._made.get(loop)
        if found is None:
            for other in [one for one in tuple(self._made) if one.is_closed()]:
                del self._made[other]  # its connections died with it
            found = self._made[loop] = asyncio.ensure_future(self._make())
        try:
            return await asyncio.shield(found)
        except BaseException:
            if found.done() and (found.cancelled() or found.exception() is not None) and self._made.get(loop) is found:
                del self._made[loop]
            raise

    def ready(self) -> T | None:
        """Return the running loop's where it is there already: the short way of a busy publisher."""
        found = self._made.get(asyncio.get_running_loop())
        there = found is not None and found.done() and not found.cancelled() and found.exception() is None
        return found.result() if found is not None and there else None

    async def close(self) -> None:
        """Let go of the running loop's; what other loops made ends with them."""
        found = self._made.pop(asyncio.get_running_loop(), None)
        if found is None:
            return
        if not found.done():
            found.cancel()
        elif not found.cancelled() and found.exception() is None:
            await self._drop(found.result())
