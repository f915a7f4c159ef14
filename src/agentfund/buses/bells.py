"""Bells: how a consumer that waits learns, on its own event loop, that it is worth looking again."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Bells:
    """The bells of all consumers of one bus in this process, on whatever event loop and thread they wait."""

    def __init__(self) -> None:
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @contextmanager
    def listen(self) -> Iterator[asyncio.Event]:
        """Give an event of the running loop that every `ring` sets, as long as the block lasts."""
        bell = (asyncio.get_running_loop(), asyncio.Event())
        self._waiting.add(bell)
        try:
            yield bell[1]
        finally:
            self._waiting.discard(bell)

    def ring(self) -> None:
        """Wake all who listen; any thread may."""
        for loop, event in tuple(self._waiting):
            with suppress(RuntimeError):  # that loop is closed, and its consumer with it
                loop.call_soon_threadsafe(event.set)
