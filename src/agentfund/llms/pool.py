"""What is kept for the next question: things that belong to an event loop and end with it, and programs started ahead."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable
from typing import Any, Generic, Protocol, TypeVar

from agentfund.llms.processes import Child

MOST_IDLE = 4
"""Most programs that wait at once, whatever they wait for."""


class Closable(Protocol):
    """Something that can be ended, with or without an event loop to wait in."""

    async def close(self) -> None:
        """End it and wait."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


T = TypeVar("T", bound=Closable)


class PerLoop(Generic[T]):
    """One of something for each event loop, closed when the loop ends.

    Args:
        make: makes one, in the loop that it is for.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None, None]]] = {}

    async def here(self) -> T:
        """Return the running loop's."""
        loop = asyncio.get_running_loop()
        self._sweep()
        if loop not in self._made:
            # A loop closes its asynchronous generators when it ends; nothing else is called then, and a task would be in
            # the way of those who count tasks.
            guard = self._until_the_loop_ends(loop)
            self._made[loop] = (self._make(), guard)
            await anext(guard)
        return self._made[loop][0]

    async def close(self) -> None:
        """Close the running loop's; end those of loops that were closed without a word."""
        self._sweep()
        made = self._made.pop(asyncio.get_running_loop(), None)
        if made is not None:
            await made[0].close()
            await made[1].aclose()

    def _sweep(self) -> None:
        for loop in [loop for loop in list(self._made) if loop.is_closed()]:
            self._made.pop(loop)[0].kill()

    async def _until_the_loop_ends(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            made = self._made.pop(loop, None)
            if made is not None:
                await made[0].close()


class Idle:
    """Programs that were started ahead and wait for their one question.

    Args:
        idle_s: seconds after which a waiting program is ended.
        most: most that wait for the same kind of question.
    """

    def __init__(self, idle_s: float, most: int) -> None:
        self._idle_s = idle_s
        self._most = most
        self._waiting: dict[Hashable, list[tuple[Child, asyncio.TimerHandle]]] = {}
        self._starting = 0
        self._asked: dict[Hashable, float] = {}

    def __len__(self) -> int:
        return sum(len(one) for one in self._waiting.values())

    def take(self, key: Hashable) -> Child | None:
        """Return a program that waits for this kind of question, None where none does."""
        found = None
        waiting = self._waiting.get(key, [])
        while waiting and found is None:
            child, timer = waiting.pop()
            timer.cancel()
            found = child if child.alive else None
        return found

    def wants(self, key: Hashable) -> bool:
        """Whether one more should wait for this kind of question, which is asked now: not when it is asked the first time."""
        now = asyncio.get_running_loop().time()
        self._asked = {one: when for one, when in self._asked.items() if now - when < self._idle_s}
        again = key in self._asked
        self._asked[key] = now
        return again and len(self._waiting.get(key, ())) < self._most and len(self) + self._starting < MOST_IDLE

    async def start(self, key: Hashable, starting: Coroutine[Any, Any, Child]) -> None:
        """Start one more."""
        self._starting += 1
        try:
            child = await starting
        finally:
            self._starting -= 1
        timer = asyncio.get_running_loop().call_later(self._idle_s, self._expire, key, child)
        self._waiting.setdefault(key, []).append((child, timer))

    def _expire(self, key: Hashable, child: Child) -> None:
        self._waiting[key] = [one for one in self._waiting.get(key, []) if one[0] is not child]
        if not self._waiting[key]:
            del self._waiting[key]
        child.kill()

    async def close(self) -> None:
        """End all, and wait until they are gone."""
        children = self._drop()
        for child in children:
            child.kill()
        for child in children:
            await child.close()

    def kill(self) -> None:
        """End all at once."""
        for child in self._drop():
            child.kill()

    def _drop(self) -> list[Child]:
        waiting = [one for kept in self._waiting.values() for one in kept]
        self._waiting.clear()
        for _, timer in waiting:
            with contextlib.suppress(RuntimeError):
                timer.cancel()
        return [child for child, _ in waiting]
