"""Real processes on one log in Redis: many writers, killed and stopped consumers."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import pytest

from agentfund.buses import RedisBus
from agentfund.errors import BusError
from agentfund.messages import Message
from agentfund.testing.bus import consuming, faults, log, message, take
from tests.buses.server_redis import RedisServer

if sys.platform == "win32":
    pytest.skip("Redis does not run there", allow_module_level=True)

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["__main__", __name__])
LEASE = timedelta(seconds=0.3)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that syncs before each answer."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def name() -> str:
    """A log of the test's own."""
    return uuid.uuid4().hex


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


def write(done: Connection, url: str, name: str, writers: int) -> None:
    """Publish from several tasks, each with a key of its own."""

    async def main() -> None:
        bus = RedisBus(url, name=name)

        async def one(key: str) -> None:
            for number in range(40):
                await bus.publish([message(number, key=key)])

        await asyncio.gather(*(one(f"k{writer}") for writer in range(writers, writers + 8)))
        await bus.close()
        done.send(True)

    asyncio.run(main())


def consume(worked: Connection, url: str, name: str) -> None:
    """Work on messages for ever: say what was done, then acknowledge it."""

    async def main() -> None:
        async for delivery in RedisBus(url, name=name, lease=LEASE).consume("g"):
            worked.send(delivery.message.offset)
            await delivery.ack()

    asyncio.run(main())


def take_one(said: Connection, url: str, name: str) -> None:
    """Take a message, say so, and then say what became of its ack."""

    async def main() -> None:
        bus = RedisBus(url, name=name, lease=LEASE)
        async with consuming(bus, "g") as deliveries:
            delivery = await anext(deliveries)
            said.send(delivery.message.cycle)
            await asyncio.sleep(0.01)
            try:
                await delivery.ack()
                said.send("done")
            except BusError as error:
                said.send(str(error))
        await bus.close()

    asyncio.run(main())


async def test_sixteen_writers_in_two_processes_and_a_follower_that_skips_nothing(server: RedisServer, name: str) -> None:
    """Offsets appear in their order, whoever wrote them."""
    writers = [start(write, server.url, name, first) for first in (0, 8)]
    bus = RedisBus(server.url, name=name)
    seen: list[Message] = []
    async with asyncio.timeout(30):
        while len(seen) < 640:
            seen += await log(bus, after=seen[-1].offset if seen else 0)
            await asyncio.sleep(0.001)
    assert [await asyncio.to_thread(told, pipe) for _, pipe in writers] == [[True]] * 2
    for process, _ in writers:
        process.join()
    assert faults((message(i, key=f"k{writer}") for writer in range(16) for i in range(40)), seen) == []
    assert [one.offset for one in seen] == list(range(1, 641))
    await bus.close()


async def test_kill_9_of_a_consumer_loses_nothing_and_keeps_the_order(server: RedisServer, name: str) -> None:
    """Two consumers share the work and are killed again and again; at most what they held comes twice."""
    dice = random.Random(3)
    written = [message(number, key=f"k{number % 3}") for number in range(600)]
    bus = RedisBus(server.url, name=name, lease=LEASE)
    await bus.publish(written)
    one, two = start(consume, server.url, name), start(consume, server.url, name)
    killed = 0
    worked: list[int] = []
    for _ in range(3):
        await asyncio.to_thread(one[1].poll, 10)  # until it is at work
        await asyncio.sleep(dice.uniform(0.01, 0.1))
        one[0].kill()
        one[0].join()
        killed += 1
        worked += told(one[1])
        one, two = two, start(consume, server.url, name)
    for process, pipe in (one, two):
        process.kill()
        process.join()
        killed += 1
        worked += told(pipe)
    assert worked
    rest: list[int] = []
    async with asyncio.timeout(30), consuming(bus, "g") as deliveries:
        while len(set(worked) | set(rest)) < len(written):
            rest += [delivery.message.offset for delivery in await take(deliveries, 1)]
    assert len(worked) + len(rest) - len(written) <= killed
    await bus.close()


async def test_order_within_a_key_outlives_its_consumers(server: RedisServer, name: str) -> None:
    """One consumer after another is killed in the middle: the first coming of each message is in order."""
    dice = random.Random(5)
    written = [message(number, key=f"k{number % 3}") for number in range(600)]
    bus = RedisBus(server.url, name=name)
    await bus.publish(written)
    worked: list[int] = []
    for _ in range(3):
        process, pipe = start(consume, server.url, name)
        await asyncio.to_thread(pipe.poll, 10)
        await asyncio.sleep(dice.uniform(0.01, 0.1))
        process.kill()
        process.join()
        worked += told(pipe)
    first = [written[offset - 1] for offset in dict.fromkeys(worked)]
    assert len(first) > 3
    assert [fault for fault in faults(written, first) if "lost" not in fault] == []
    await bus.close()


async def test_a_consumer_that_was_stopped_beyond_its_lease_is_told_so(server: RedisServer, name: str) -> None:
    """Another has worked on its message meanwhile: nobody works twice without knowing."""
    bus = RedisBus(server.url, name=name, lease=LEASE)
    await bus.publish([message(1), message(2)])
    process, pipe = start(take_one, server.url, name)
    assert await asyncio.to_thread(pipe.recv) == 1
    os.kill(process.pid, signal.SIGSTOP)
    async with consuming(bus, "g") as deliveries:
        taken = await take(deliveries, 2)
    os.kill(process.pid, signal.SIGCONT)
    (answer,) = await asyncio.to_thread(told, pipe)
    process.join()
    assert [(one.message.cycle, one.attempt) for one in taken] == [(1, 2), (2, 1)]
    assert "another consumer" in answer
    await bus.close()
