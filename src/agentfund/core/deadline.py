"""Wait for something at most so long, at no cost where nothing has to be waited for."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine for at most so long; one that ends without waiting needs no timer.

    Args:
        seconds: how long.
        work: a coroutine that has not begun.

    Raises:
        DeadlineExceeded: the time is over; the coroutine was cancelled.
    """
    try:
        first = work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    try:
        async with asyncio.timeout(seconds) as limit:
            result = await _rest(work, first)
    except TimeoutError:
        if limit.expired():
            raise DeadlineExceeded(seconds, None) from None
        raise
    if limit.expired():  # it would not be cancelled, and came back too late
        raise DeadlineExceeded(seconds, result)
    return result


class DeadlineExceeded(Exception):
    """The time given to `within` is over; unlike a `TimeoutError`, it cannot come from inside.

    Args:
        seconds: how long it was.
        value: what came back all the same, too late; None where nothing did.
    """

    def __init__(self, seconds: float, value: Any) -> None:
        super().__init__(f"no answer within {seconds:g} s")
        self.value = value


@types.coroutine
def _rest(work: Coroutine[Any, Any, T], waited_for: Any) -> Generator[Any, Any, T]:
    """Go on with a coroutine that has begun and waits for something, as `await` would have done."""
    while True:
        thrown: BaseException | None = None
        sent: Any = None
        try:
            sent = yield waited_for
        except BaseException as error:
            thrown = error
        try:
            waited_for = work.send(sent) if thrown is None else work.throw(thrown)
        except StopIteration as done:
            result: T = done.value
            return result
