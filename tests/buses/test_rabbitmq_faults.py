"""RabbitMQ streams under a log, on a server that is killed, frozen, short of memory, and told to forget."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest
import pytest_asyncio

from agentfund.buses.rabbitmq import RabbitBus
from agentfund.buses.rabbitmq_stream import RabbitStream
from agentfund.errors import BusError, BusUnavailable
from agentfund.messages import Message
from agentfund.testing.bus import consuming, faults, log, message
from tests.buses.ordered_contract import first, following
from tests.buses.server_rabbitmq import RabbitServer

if RabbitServer.installed() is None:
    pytest.skip("no rabbitmq-server is installed", allow_module_level=True)

PATIENCE_S = 90.0
SHORT = timedelta(seconds=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """Give a server for all tests of this module, each with streams of its own."""
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq"))
    server.start()
    yield server
    server.kill()


@pytest_asyncio.fixture
async def bus(server: RabbitServer) -> AsyncIterator[RabbitBus]:
    """Give a bus that does not wait for long."""
    bus = RabbitBus(server.url, name=f"test-{uuid.uuid4().hex}", timeout=SHORT)
    yield bus
    await bus.close()


async def insist(bus: RabbitBus, one: Message) -> int:
    """Publish until it is acknowledged."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await bus.publish([one])
            except BusUnavailable:
                await asyncio.sleep(0.05)


async def test_a_frozen_server_and_its_return(server: RabbitServer, bus: RabbitBus) -> None:
    """Publishing fails in time while it is frozen; what is published again afterwards is there once."""
    await bus.publish([message(1)])
    server.freeze()
    try:
        with pytest.raises(BusUnavailable, match="no answer within 1 s"):
            await bus.publish([message(2)])
    finally:
        server.thaw()
    assert await insist(bus, message(2)) == 2
    assert [one.cycle for one in await log(bus)] == [1, 2]


async def test_a_server_short_of_memory_takes_nothing_and_can_be_read(server: RabbitServer) -> None:
    """Whoever publishes is told why; whoever follows gets what is there."""
    stream = RabbitStream(server.url, name="short", timeout=SHORT)
    await stream.connect()
    for number in range(100):
        await stream.append(b"%d" % number)
    await asyncio.to_thread(server.control, "set_vm_memory_high_watermark", "0.000001")
    try:
        with pytest.raises(BusUnavailable, match="short of memory or disk"):
            await stream.append(b"refused")
        assert [frame.data for frame in await first(stream, 100)] == [b"%d" % number for number in range(100)]
    finally:
        await asyncio.to_thread(server.control, "set_vm_memory_high_watermark", "0.4")
    await stream.append(b"more")
    await stream.close()


async def test_a_policy_that_discards_is_found_out(server: RabbitServer) -> None:
    """Nobody is told of a policy over AMQP, but a beginning that is missing can be seen."""
    policy = '{"max-length-bytes": 200000, "stream-max-segment-size-bytes": 100000}'
    await asyncio.to_thread(server.control, "set_policy", "short", "^forgetful$", policy, "--apply-to", "queues")
    stream = RabbitStream(server.url, name="forgetful", timeout=SHORT)
    await stream.connect()
    for _ in range(10):
        await stream.append(bytes(100_000))
    with pytest.raises(BusError, match=r"begins at place \d+, what was before is gone: a policy"):
        async with following(stream) as frames:
            await anext(frames)
    await stream.close()


async def test_kill_9_of_the_server_loses_and_doubles_nothing(server: RabbitServer, bus: RabbitBus) -> None:
    """Eight publishers and a consumer go on by themselves when it is back: all that was acknowledged is there, once."""
    written = [[message(number, key=f"k{writer}") for number in range(200)] for writer in range(8)]
    stop = asyncio.Event()
    acknowledged: list[Message] = []
    consumed: list[Message] = []

    async def publish(batch: list[Message]) -> None:
        for one in batch:
            if stop.is_set():
                return
            await insist(bus, one)
            acknowledged.append(one)
            await asyncio.sleep(0.002)

    async def consume() -> None:
        async with consuming(bus, "g") as deliveries:
            async for delivery in deliveries:
                consumed.append(delivery.message)
                while not delivery.settled:  # type: ignore[attr-defined]
                    try:
                        await delivery.ack()
                    except BusUnavailable:
                        await asyncio.sleep(0.05)

    await bus.publish([message(0, key="first")])
    # The server writes down only after seconds where its first stream ever is to be found: that is its own affair.
    await asyncio.to_thread(server.control, "eval", "[dets:sync(Table) || Table <- dets:all()].")
    consumer = asyncio.ensure_future(consume())
    publishers = asyncio.gather(*map(publish, written))
    await asyncio.sleep(0.3)
    before = len(acknowledged)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(PATIENCE_S):
        while len(acknowledged) < before + 100:
            await asyncio.sleep(0.05)
    stop.set()
    await publishers
    everything = [message(0, key="first"), *acknowledged]
    async with asyncio.timeout(PATIENCE_S):
        while len(consumed) < len(everything):
            await asyncio.sleep(0.05)
    consumer.cancel()
    await asyncio.gather(consumer, return_exceptions=True)
    seen = await log(bus)
    assert before > 20
    assert faults(everything, seen) == []
    assert [one.offset for one in seen] == list(range(1, len(seen) + 1))
    assert faults(everything, consumed) == []
