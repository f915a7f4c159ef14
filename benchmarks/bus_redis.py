"""What a log in Redis costs, beside raw redis-py of the same run: `python benchmarks/bus_redis.py` prints JSON lines.

A private server syncs its append-only file before each answer (always), or once a second (everysec). One raw peer keeps the
bare payload, ready to write, in a stream: no id, no envelope, no deduplication, no order within a key. The other is the
hand-written log: a script that remembers ids, and the payload encoded as JSON. All take turns in small rounds, because disks
have moods.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import platform
import shutil
import socket
import statistics
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.metadata import version
from multiprocessing.connection import Connection
from time import monotonic, perf_counter, sleep
from typing import Any

import redis
import redis.asyncio

from agentfund.buses import RedisBus
from agentfund.clock import EPOCH
from agentfund.messages import Message

ROUNDS = 40
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
encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode
TEXT = encode(PAYLOAD)
BY_HAND = """
if redis.call('HSETNX', KEYS[1], ARGV[1], 1) == 0 then return 0 end
return redis.call('XADD', KEYS[2], '*', 'id', ARGV[1], 'type', ARGV[2], 'time', ARGV[3], 'payload', ARGV[4])
"""
VERSIONS = {"agentfund": version("agentfund"), "python": platform.python_version(), "redis-py": version("redis")}


@contextmanager
def server(appendfsync: str) -> Iterator[int]:
    """Run a server with its data in a folder that vanishes; give its port."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    assert program, "install redis-server or valkey-server"
    with tempfile.TemporaryDirectory() as folder:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        options = {"port": port, "dir": folder, "save": "", "appendonly": "yes", "appendfsync": appendfsync}
        command = [program, *(str(word) for name, value in options.items() for word in (f"--{name}", value))]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            with redis.Redis(port=port) as client:
                while True:
                    try:
                        VERSIONS["redis"] = client.info("server")["redis_version"]
                        break
                    except redis.ConnectionError:
                        sleep(0.02)
            yield port
        finally:
            process.terminate()
            process.wait()


def make(number: int, name: str) -> list[Message]:
    """Make messages of about a kilobyte, each with an id of its own, ten to a cycle."""
    return [
        Message(f"{name}-{i:024x}", "fund", "fund", "Opined", PAYLOAD, "strategist", time, i // 10, appended=time)
        for i in range(number)
        for time in [EPOCH + timedelta(minutes=i // 10)]
    ]


def figure(name: str, unit: str, peer: str, ours: float, theirs: float, ratio: float | None = None) -> dict[str, Any]:
    """Return one figure."""
    return {
        "name": name,
        "value": round(ours, 1),
        "unit": unit,
        "peer": peer,
        "peer_value": round(theirs, 1),
        "ratio": round(ours / theirs if ratio is None else ratio, 3),
        "versions": VERSIONS,
    }


def rate(name: str, peer: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Return a figure of rates, whose ratio is the median of the rounds' ratios: within a round the disk has one mood."""
    ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    return figure(name, "messages/s", peer, statistics.median(ours), statistics.median(theirs), ratio)


async def appends(port: int, durable: str) -> AsyncIterator[dict[str, Any]]:
    """Measure appending one by one, and from many tasks."""
    raw = redis.asyncio.Redis(port=port)
    by_hand = raw.register_script(BY_HAND)
    bus = RedisBus(f"redis://127.0.0.1:{port}/0")
    rates: dict[str, list[float]] = {"ours": [], "raw": [], "by hand": []}
    many: list[float] = []

    async def publisher(messages: list[Message]) -> None:
        for one in messages:
            await bus.publish([one])

    async def bare(messages: list[Message]) -> None:
        for _ in messages:
            await raw.xadd("raw", {"payload": TEXT})

    async def scripted(messages: list[Message]) -> None:
        for one in messages:
            await by_hand(keys=["ids", "hand"], args=[one.id, one.type, one.time.isoformat(), encode(one.payload)])

    turns = list(zip(rates, (publisher, bare, scripted), strict=True))
    for round_ in range(ROUNDS):
        messages = make(50, f"one{round_}")
        turns.append(turns.pop(0))  # nobody is always the one after the others
        for name, work in turns:
            begin = perf_counter()
            await work(messages)
            rates[name].append(50 / (perf_counter() - begin))
    alone: list[float] = []
    for round_ in range(ROUNDS // 2):
        messages = make(640, f"many{round_}")
        begin = perf_counter()
        await asyncio.gather(*(publisher(messages[first::32]) for first in range(32)))
        many.append(640 / (perf_counter() - begin))
        begin = perf_counter()
        await bare(messages[:100])
        alone.append(100 / (perf_counter() - begin))
    ours, theirs, hand = rates.values()
    await bus.close()
    await raw.aclose()
    peer = f"redis-py XADD one by one, payload only, {durable}"
    yield rate(f"RedisBus: append one by one, {durable}", peer, ours, theirs)
    yield rate(f"RedisBus: append one by one, {durable}", f"redis-py, log by hand, {durable}", ours, hand)
    yield rate(f"RedisBus: append from 32 tasks, {durable}", peer, many, alone)


async def replays(port: int, durable: str) -> AsyncIterator[dict[str, Any]]:
    """Measure reading a log of twenty thousand messages."""
    number, ours, theirs, decoded = 20_000, [], [], []
    raw = redis.asyncio.Redis(port=port)
    bus = RedisBus(f"redis://127.0.0.1:{port}/0", name="replay")
    messages = make(number, "r")
    for start in range(0, number, 500):
        await bus.publish(messages[start : start + 500])
        async with raw.pipeline(transaction=False) as pipe:
            for _ in range(500):
                pipe.xadd("replay", {"payload": TEXT})
            await pipe.execute()

    async def pages() -> AsyncIterator[Any]:
        after = b"-"
        while rows := await raw.xrange("replay", after, count=1_000):
            yield rows
            after = b"(" + rows[-1][0]  # type: ignore[operator]

    for _ in range(5):
        begin = perf_counter()
        count = 0
        async for _message in bus.read():
            count += 1
        ours.append(number / (perf_counter() - begin))
        assert count == number
        begin = perf_counter()
        assert sum([len(rows) async for rows in pages()]) == number
        theirs.append(number / (perf_counter() - begin))
        begin = perf_counter()
        async for rows in pages():
            _decoded = [json.loads(fields[b"payload"]) for _, fields in rows]
        decoded.append(number / (perf_counter() - begin))
    await bus.close()
    await raw.aclose()
    yield rate(f"RedisBus: replay into envelopes, {durable}", "redis-py XRANGE, payload as bytes", ours, theirs)
    yield rate(f"RedisBus: replay into envelopes, {durable}", "redis-py XRANGE and json.loads", ours, decoded)


def consume(pipe: Connection, port: int, number: int) -> None:
    """Tell how long after their sending messages arrived here, as a consumer of the bus."""

    async def main() -> None:
        bus = RedisBus(f"redis://127.0.0.1:{port}/0", name="relay")
        seconds: list[float] = []
        pipe.send("ready")
        async for delivery in bus.consume("g"):
            seconds.append(monotonic() - delivery.message.payload["sent"])
            await delivery.ack()
            if len(seconds) == number:
                break
        await bus.close()
        pipe.send(seconds)

    asyncio.run(main())


def consume_raw(pipe: Connection, port: int, number: int) -> None:
    """Tell the same with XREADGROUP and XACK."""

    async def main() -> None:
        raw: Any = redis.asyncio.Redis(port=port)
        seconds: list[float] = []
        await raw.xgroup_create("relay", "g", "0", mkstream=True)
        pipe.send("ready")
        while len(seconds) < number:
            ((_, rows),) = await raw.xreadgroup("g", "c", {"relay": ">"}, count=1, block=5_000)
            ((name, fields),) = rows
            seconds.append(monotonic() - json.loads(fields[b"payload"])["sent"])
            await raw.xack("relay", "g", name)
        await raw.aclose()
        pipe.send(seconds)

    asyncio.run(main())


async def relays(port: int, durable: str, number: int = 1_500) -> AsyncIterator[dict[str, Any]]:
    """Measure the way of a message into another process, from the call of publish on."""
    processes = multiprocessing.get_context("spawn")
    pipes = []
    for work in (consume, consume_raw):
        mine, theirs = processes.Pipe()
        processes.Process(target=work, args=(theirs, port, number), daemon=True).start()
        pipes.append(mine)
        mine.recv()
    raw = redis.asyncio.Redis(port=port)
    bus = RedisBus(f"redis://127.0.0.1:{port}/0", name="relay")
    await bus.last()
    await asyncio.sleep(0.5)
    for one in make(number, f"relay-{durable}"):
        payload = {**PAYLOAD, "sent": monotonic()}
        await bus.publish([Message(one.id, "fund", "fund", "Opined", payload, "p", EPOCH, appended=EPOCH)])
        await asyncio.sleep(0.002)
        await raw.xadd("relay", {"payload": encode({**PAYLOAD, "sent": monotonic()})})
        await asyncio.sleep(0.002)
    ours, theirs_ = ([seconds * 1e6 for seconds in pipe.recv()] for pipe in pipes)
    await bus.close()
    await raw.aclose()
    for q in (0.5, 0.99):
        name = f"RedisBus: publish to consume in another process, p{q * 100:.0f}, {durable}"
        mine, other = (sorted(values)[int(q * len(values))] for values in (ours, theirs_))
        yield figure(name, "us", "redis-py XADD, XREADGROUP, XACK", mine, other)


def figures() -> Iterator[dict[str, Any]]:
    """Yield each figure as soon as its part is measured."""

    async def all_of(part: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
        return [one async for one in part]

    parts: list[Callable[[int, str], AsyncIterator[dict[str, Any]]]] = [appends, relays, replays]
    for appendfsync in ("always", "everysec"):
        with server(appendfsync) as port:
            for part in parts:
                yield from asyncio.run(all_of(part(port, appendfsync)))


if __name__ == "__main__":
    for line in figures():
        print(json.dumps(line), flush=True)
