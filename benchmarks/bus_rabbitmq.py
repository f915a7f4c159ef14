"""What a log on a RabbitMQ stream costs, beside raw aio-pika: `python benchmarks/bus_rabbitmq.py`: JSON lines.

It needs a server at `AGENTFUND_RABBITMQ`, 127.0.0.1:5672 where the variable does not say. Neither side is synced to a disk:
a stream is confirmed before that. The raw peer publishes the bare payload to a stream of its own, with confirmations: no
id, no envelope, no deduplication, no order within a key once consumers share the work. Both take turns in small rounds, and
medians are compared.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import platform
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from importlib.metadata import version
from multiprocessing.connection import Connection
from time import monotonic, perf_counter
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from agentfund.buses import RabbitBus
from agentfund.clock import EPOCH
from agentfund.messages import Message

URL = f"amqp://guest:guest@{os.environ.get('AGENTFUND_RABBITMQ', '127.0.0.1:5672')}/"
ROUNDS = 11
PREFETCH = 200
STREAM: dict[str, Any] = {"x-queue-type": "stream"}
PAYLOAD = {
    "opinion": {
        "agent": "strategist",
        "output": "Proposal",
        "stance": "value",
        "value": {"symbol": "AAPL", "side": "buy", "weight": 0.25, "stop": 181.5, "target": 203.75, "confidence": 0.62},
        "reason": "The regime is calm and the trend of twenty days holds. " * 11,
        "clamps": [],
        "answered_by": "rules",
        "degraded": False,
    }
}
VERSIONS = {
    "agentfund": version("agentfund"),
    "python": platform.python_version(),
    "aio-pika": version("aio-pika"),
    "aiormq": version("aiormq"),
}


def make(number: int, name: str) -> list[Message]:
    """Make messages of about a kilobyte, each with an id of its own, ten to a cycle."""
    return [
        Message(f"{name}-{i:024x}", "fund", "fund", "Opined", PAYLOAD, "strategist", time, i // 10, appended=time)
        for i in range(number)
        for time in [EPOCH + timedelta(minutes=i // 10)]
    ]


def encoded(payload: dict[str, Any]) -> bytes:
    """Return a payload as the raw peer sends it."""
    return json.dumps(payload, separators=(",", ":"), sort_keys=True).encode()


def figure(name: str, unit: str, peer: str, ours: list[float], theirs: list[float], q: float = 0.5) -> dict[str, Any]:
    """Return one figure: a quantile of ours and of the peer's, and their ratio."""
    value, peer_value = (sorted(values)[min(int(q * len(values)), len(values) - 1)] for values in (ours, theirs))
    return {
        "name": f"RabbitBus: {name}",
        "value": round(value, 1),
        "unit": unit,
        "peer": f"aio-pika: {peer}",
        "peer_value": round(peer_value, 1),
        "ratio": round(value / peer_value, 3),
        "versions": VERSIONS,
    }


class Raw:
    """A stream, and a channel to it."""

    def __init__(self, connection: AbstractConnection, channel: AbstractChannel, name: str) -> None:
        self.connection = connection
        self.channel = channel
        self.name = name

    @classmethod
    async def open(cls, name: str) -> Raw:
        """Connect, and make the stream where it is not there."""
        connection = await aio_pika.connect(URL)
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        await channel.declare_queue(name, durable=True, arguments=STREAM)
        return cls(connection, channel, name)

    async def publish(self, body: bytes) -> None:
        """Publish and wait for the confirmation."""
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await self.channel.default_exchange.publish(message, self.name)

    async def consume(self, number: int, work: Callable[[bytes], None], start: str) -> None:
        """Work on so many messages, each acknowledged."""
        done = asyncio.Event()
        count = 0

        async def take(message: AbstractIncomingMessage) -> None:
            nonlocal count
            work(message.body)
            await message.ack()
            count += 1
            if count == number:
                done.set()

        queue = await self.channel.get_queue(self.name)
        await queue.consume(take, arguments={"x-stream-offset": start})
        await done.wait()

    async def close(self) -> None:
        """Let go of it."""
        await self.connection.close()


async def seconds(work: Awaitable[object]) -> float:
    """Return the seconds that this took."""
    begin = perf_counter()
    await work
    return perf_counter() - begin


async def appends(name: str) -> AsyncIterator[dict[str, Any]]:
    """Measure appending one by one, and from 32 tasks."""
    raw, bus, body = await Raw.open(f"{name}-raw"), RabbitBus(URL, name=name), encoded(PAYLOAD)
    ours, theirs, many, theirs_many = [], [], [], []
    waits: list[float] = []
    theirs_waits: list[float] = []

    async def publish(messages: list[Message], waited: list[float]) -> None:
        waited += [1e3 * await seconds(bus.publish([one])) for one in messages]

    async def publish_raw(number: int, waited: list[float]) -> None:
        waited += [1e3 * await seconds(raw.publish(body)) for _ in range(number)]

    for round_ in range(ROUNDS):
        ours.append(200 / await seconds(publish(make(200, f"one{round_}"), [])))
        theirs.append(200 / await seconds(publish_raw(200, [])))
        messages = make(1_600, f"many{round_}")
        many.append(1_600 / await seconds(asyncio.gather(*(publish(messages[i::32], waits) for i in range(32)))))
        theirs_many.append(1_600 / await seconds(asyncio.gather(*(publish_raw(50, theirs_waits) for _ in range(32)))))
    await bus.close()
    await raw.close()
    one_by_one = "publish one by one, confirmed, payload only"
    yield figure("append one by one", "messages/s", one_by_one, ours, theirs)
    yield figure("append from 32 tasks", "messages/s", one_by_one, many, theirs)
    yield figure("append from 32 tasks", "messages/s", "publish from 32 tasks, confirmed, payload only", many, theirs_many)
    yield figure("append from 32 tasks, p99", "ms", "publish from 32 tasks, p99", waits, theirs_waits, 0.99)


async def replays(name: str, number: int = 5_000) -> AsyncIterator[dict[str, Any]]:
    """Measure reading a log into envelopes, by a process that has read nothing of it and by one that has."""
    raw, bus, body = await Raw.open(f"{name}-raw"), RabbitBus(URL, name=name), encoded(PAYLOAD)
    messages = make(number, "r")
    for start in range(0, number, 10):
        await bus.publish(messages[start : start + 10])
        await asyncio.gather(*(raw.publish(body) for _ in range(10)))

    async def read(bus: RabbitBus) -> None:
        assert len([one async for one in bus.read()]) == number

    async def read_raw() -> None:
        reader = await Raw.open(f"{name}-raw")
        await reader.consume(number, json.loads, "first")
        await reader.close()

    cold, warm, theirs = [], [], []
    for _ in range(3):
        fresh = RabbitBus(URL, name=name)
        cold.append(number / await seconds(read(fresh)))
        await fresh.close()
        warm.append(number / await seconds(read(bus)))
        theirs.append(number / await seconds(read_raw()))
    await bus.close()
    await raw.close()
    peer = "consume a stream from its beginning, and json.loads"
    yield figure("replay by a process that starts, written ten by ten", "messages/s", peer, cold, theirs)
    yield figure("replay by a process that follows already", "messages/s", peer, warm, theirs)


def consume(pipe: Connection, name: str, number: int) -> None:
    """Tell how long after their sending messages arrived here, as a consumer of the bus."""

    async def main() -> None:
        bus, waits = RabbitBus(URL, name=name), []
        pipe.send("ready")
        async for delivery in bus.consume("g"):
            waits.append(1e3 * (monotonic() - delivery.message.payload["sent"]))
            await delivery.ack()
            if len(waits) == number:
                break
        await bus.close()
        pipe.send(waits)

    asyncio.run(main())


def consume_raw(pipe: Connection, name: str, number: int) -> None:
    """Tell the same as a consumer of the raw stream."""

    async def main() -> None:
        raw, waits = await Raw.open(f"{name}-raw"), []
        pipe.send("ready")
        await raw.consume(number, lambda body: waits.append(1e3 * (monotonic() - json.loads(body)["sent"])), "first")
        await raw.close()
        pipe.send(waits)

    asyncio.run(main())


async def relays(name: str, number: int = 500) -> AsyncIterator[dict[str, Any]]:
    """Measure the way of a message into another process, from the call of publish on."""
    bus = RabbitBus(URL, name=name)
    await bus.last()
    raw = await Raw.open(f"{name}-raw")
    processes = multiprocessing.get_context("spawn")
    pipes = []
    for work in (consume, consume_raw):
        mine, theirs = processes.Pipe()
        processes.Process(target=work, args=(theirs, name, number), daemon=True).start()
        pipes.append(mine)
        mine.recv()
    await asyncio.sleep(0.5)
    for one in make(number, "relay"):
        payload = {**PAYLOAD, "sent": monotonic()}
        await bus.publish([Message(one.id, "fund", "fund", "Opined", payload, "p", EPOCH, appended=EPOCH)])
        await asyncio.sleep(0.005)
        await raw.publish(encoded({**PAYLOAD, "sent": monotonic()}))
        await asyncio.sleep(0.005)
    ours, theirs_ = [pipe.recv() for pipe in pipes]
    await bus.close()
    await raw.close()
    for q in (0.5, 0.99):
        part = f"p{q * 100:.0f}"
        yield figure(f"publish to consume in another process, {part}", "ms", f"publish to consume, {part}", ours, theirs_, q)


async def main() -> None:
    """Print each figure as soon as it is measured, and leave nothing behind."""
    for measure in (appends, replays, relays):
        name = f"bench-{uuid.uuid4().hex}"
        try:
            async for one in measure(name):
                print(json.dumps(one), flush=True)
        finally:
            async with await aio_pika.connect(URL) as connection, connection.channel() as channel:
                for queue in (name, f"{name}-raw"):
                    await channel.queue_delete(queue)


if __name__ == "__main__":
    asyncio.run(main())
