"""Real processes on one file, and kill -9 in the middle of their work."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import sys
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from agentfund.buses import SqliteBus
from agentfund.messages import Message
from agentfund.testing.bus import consuming, faults, log, message, take

if sys.platform == "win32":
    pytest.skip("these tests fork", allow_module_level=True)

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["__main__", __name__])
LEASE = timedelta(seconds=0.3)


def start(work: Any, *arguments: object) -> tuple[Any, Connection]:
    """Start `work(pipe, *arguments)` in a process of its own."""
    mine, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=work, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    return process, mine


def told(pipe: Connection) -> list[Any]:
    """Return all that a process said before it ended."""
    words = []
    with suppress(EOFError):
        while True:
            words.append(pipe.recv())
    return words


def batch(number: int) -> list[Message]:
    """Return the five messages of one batch."""
    return [message(number * 10 + i, key=f"k{i % 2}") for i in range(5)]


def produce(acknowledged: Connection, path: Path, first: int) -> None:
    """Publish batches for ever, and say of each that it was acknowledged."""

    async def main() -> None:
        bus = SqliteBus(path)
        number = first
        while True:
            await bus.publish(batch(number), sync=number % 2 == 0)
            acknowledged.send(number)
            number += 1

    asyncio.run(main())


def write(done: Connection, path: Path, writer: int, number: int) -> None:
    """Publish messages one by one."""

    async def main() -> None:
        bus = SqliteBus(path)
        for i in range(number):
            await bus.publish([message(i, key=f"k{writer}")], sync=i % 10 == 0)
        await bus.close()
        done.send(True)

    asyncio.run(main())


def consume(worked: Connection, path: Path) -> None:
    """Work on messages for ever: say what was done, then acknowledge it."""

    async def main() -> None:
        async for delivery in SqliteBus(path, lease=LEASE).consume("g"):
            worked.send(delivery.message.offset)
            await delivery.ack()

    asyncio.run(main())


async def test_kill_9_of_a_producer_loses_nothing_acknowledged_and_leaves_no_half_batch(tmp_path: Path) -> None:
    """Twenty rounds on one file, killed at random moments, the making of the file among them."""
    path, dice = tmp_path / "fund.db", random.Random(7)
    acknowledged: list[int] = []
    for round_ in range(20):
        process, pipe = start(produce, path, round_ * 10_000)
        await asyncio.sleep(dice.uniform(0.01, 0.12))
        process.kill()
        process.join()
        acknowledged += told(pipe)
    bus = SqliteBus(path)
    seen = await log(bus)
    whole = {one.cycle // 10 for one in seen}
    assert len(acknowledged) > 100
    assert set(acknowledged) <= whole
    assert len(whole - set(acknowledged)) <= 20  # at most the one in flight in each round
    assert faults((one for number in sorted(whole) for one in batch(number)), seen) == []
    assert [one.offset for one in seen] == list(range(1, len(seen) + 1))
    await bus.publish([message(1, key="after")])
    await bus.close()


async def test_four_processes_write_and_a_reader_misses_nothing(tmp_path: Path) -> None:
    """They race to make the file; a reader that follows by offset gets every message once and in order."""
    path = tmp_path / "fund.db"
    writers = [start(write, path, writer, 100) for writer in range(4)]
    seen: list[Message] = []
    async with asyncio.timeout(30):
        while not path.exists():
            await asyncio.sleep(0.001)
        reader = SqliteBus(path, read_only=True)
        while len(seen) < 400:
            seen += await log(reader, after=seen[-1].offset if seen else 0)
            await asyncio.sleep(0.002)
    assert [told(pipe) for process, pipe in writers] == [[True]] * 4
    for process, _ in writers:
        process.join()
    assert faults((message(i, key=f"k{writer}") for writer in range(4) for i in range(100)), seen) == []
    await reader.close()


async def test_kill_9_of_a_consumer_loses_nothing_and_keeps_the_order(tmp_path: Path) -> None:
    """Two consumers share the work and are killed again and again; at most what they held comes twice."""
    path, dice = tmp_path / "fund.db", random.Random(3)
    written = [message(number, key=f"k{number % 3}") for number in range(3_000)]
    bus = SqliteBus(path, lease=LEASE)
    await bus.publish(written)
    one, two = start(consume, path), start(consume, path)
    killed = 0
    worked: list[int] = []
    for _ in range(4):
        await asyncio.sleep(dice.uniform(0.05, 0.2))
        one[0].kill()
        one[0].join()
        killed += 1
        worked += told(one[1])
        one, two = two, start(consume, path)
    for process, pipe in (one, two):
        process.kill()
        process.join()
        killed += 1
        worked += told(pipe)
    assert len(set(worked)) > 10
    rest: list[int] = []
    async with asyncio.timeout(30), consuming(bus, "g") as deliveries:
        while len(set(worked) | set(rest)) < len(written):
            rest += [delivery.message.offset for delivery in await take(deliveries, 1)]
    assert len(worked) + len(rest) - len(written) <= killed
    await bus.close()


async def test_order_within_a_key_outlives_its_consumers(tmp_path: Path) -> None:
    """One consumer after another is killed in the middle: the first coming of each message is in order."""
    path, dice = tmp_path / "fund.db", random.Random(5)
    written = [message(number, key=f"k{number % 3}") for number in range(2_000)]
    bus = SqliteBus(path, lease=LEASE)
    await bus.publish(written)
    worked: list[int] = []
    for _ in range(4):
        process, pipe = start(consume, path)
        await asyncio.sleep(dice.uniform(0.05, 0.15))
        process.kill()
        process.join()
        worked += told(pipe)
    first = [written[offset - 1] for offset in dict.fromkeys(worked)]
    assert len(first) > 10
    assert [fault for fault in faults(written, first) if "lost" not in fault] == []
    await bus.close()
