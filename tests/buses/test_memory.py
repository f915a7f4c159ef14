from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agentfund.buses import MemoryBus
from agentfund.clock import SimulatedClock
from agentfund.errors import BusUnavailable
from agentfund.protocols import Bus
from agentfund.testing.bus import BusContract, consuming, faults, log, message, take


class TestMemoryBus(BusContract):
    """The bus in memory keeps the contract."""

    def make_bus(self, folder: Path) -> Bus:
        return MemoryBus()


async def test_it_promises_no_durability() -> None:
    """The log ends with the process, and the bus says so."""
    assert MemoryBus().durability == "none"


async def test_the_injected_clock_stamps_what_has_no_append_time() -> None:
    """A backtest's log carries simulated time."""
    bus = MemoryBus(clock=SimulatedClock(datetime(2020, 1, 1, tzinfo=UTC)))
    await bus.publish([message(1), message(2).at(9)])
    await bus.publish([type(message(3)).new("Noted", {}, stream="s", producer="p", time=message(3).time)])
    assert [one.appended for one in await log(bus)][2] == datetime(2020, 1, 1, tzinfo=UTC)


async def test_payloads_are_handed_on_as_they_are() -> None:
    """Nothing is encoded again: the reader gets the very object."""
    bus, one = MemoryBus(), message(1)
    await bus.publish([one])
    assert (await log(bus))[0].payload is one.payload


async def test_threads_may_write_at_once_and_wake_a_consumer_elsewhere() -> None:
    """Four threads with loops of their own write; a consumer on this loop gets each message once, in order."""
    bus = MemoryBus()
    written = [[message(number, key=f"k{writer}") for number in range(200)] for writer in range(4)]

    async def write(batch: list[object]) -> None:
        for one in batch:
            await bus.publish([one])  # type: ignore[list-item]

    threads = [threading.Thread(target=lambda batch=batch: asyncio.run(write(batch))) for batch in written]
    async with consuming(bus, "g") as deliveries:
        waiting = asyncio.ensure_future(take(deliveries, 800))
        await asyncio.sleep(0)
        for thread in threads:
            thread.start()
        seen = [delivery.message for delivery in await waiting]
    for thread in threads:
        thread.join()
    everything = [one for batch in written for one in batch]
    assert faults(everything, seen) == []
    assert faults(everything, await log(bus)) == []


async def test_a_thread_wakes_a_loop_that_sleeps() -> None:
    """What another thread publishes arrives at once, not when this loop happens to wake."""
    bus = MemoryBus()
    timer = threading.Timer(0.1, lambda: asyncio.run(bus.publish([message(1)])))
    async with consuming(bus, "g") as deliveries:
        timer.start()
        started = asyncio.get_running_loop().time()
        await take(deliveries, 1)
    timer.join()
    assert asyncio.get_running_loop().time() - started < 5


async def test_after_close_consumers_end_and_the_log_stays_readable() -> None:
    """A finished run's log can be read; what is published too late is refused, not swallowed."""
    bus = MemoryBus()
    await bus.publish([message(1)])
    async with consuming(bus, "g") as deliveries:
        await take(deliveries, 1)
        waiting = asyncio.ensure_future(anext(deliveries, None))
        await asyncio.sleep(0)
        await bus.close()
        assert await waiting is None
    assert len(await log(bus)) == 1
    with pytest.raises(BusUnavailable, match="closed"):
        await bus.publish([message(2)])
