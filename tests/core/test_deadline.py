"""Waiting at most so long."""

from __future__ import annotations

import asyncio

import pytest

from agentfund.core.deadline import DeadlineExceeded, within


async def test_what_ends_without_waiting_gives_its_value_and_its_error() -> None:
    """No timer is involved."""

    async def at_once(value: int) -> int:
        if value < 0:
            raise ValueError("below zero")
        return value

    assert await within(1, at_once(5)) == 5
    with pytest.raises(ValueError, match="below zero"):
        await within(1, at_once(-1))


async def test_what_waits_gives_its_value_and_its_error() -> None:
    """Over several waits, with values sent back into it."""

    async def later(value: int) -> int:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, future.set_result, value)
        got = await future + await asyncio.sleep(0.001, 1)
        if value < 0:
            raise ValueError("below zero")
        return int(got)

    assert await within(1, later(5)) == 6
    with pytest.raises(ValueError, match="below zero"):
        await within(1, later(-5))


async def test_what_takes_too_long_is_cancelled() -> None:
    """And has had its chance to clean up."""
    ended: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cleaned up")

    with pytest.raises(DeadlineExceeded, match=r"no answer within 0.01 s") as error:
        await within(0.01, forever())
    assert ended == ["cleaned up"]
    assert error.value.value is None


async def test_what_will_not_be_cancelled_comes_too_late_with_its_value() -> None:
    """The value is kept, because it may have been paid for."""

    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "paid"

    with pytest.raises(DeadlineExceeded) as error:
        await within(0.01, stubborn())
    assert error.value.value == "paid"


async def test_a_time_out_inside_is_not_taken_for_the_deadline() -> None:
    """Each has its own error."""

    async def inner() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await within(1, inner())


async def test_cancelling_the_waiter_cancels_the_work() -> None:
    """Cancellation passes through at once."""
    cancelled: list[bool] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    task = asyncio.ensure_future(within(10, forever()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled == [True]
