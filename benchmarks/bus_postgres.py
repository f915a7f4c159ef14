"""What the log in Postgres costs, beside bare asyncpg on the same server: `python -m benchmarks.bus_postgres`.

The peer is a careful hand-written log: the same columns with a unique id, the payload encoded as canonical JSON, a statement
that ignores what is there already, wake-ups by NOTIFY after the commit. Both take turns in small rounds, in an order that
changes, and each figure is the median of the ratios of the rounds, because machines and disks have moods. The server is the
one at 127.0.0.1:5432, database test, or where AGENTFUND_POSTGRES=host:port says.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any
from uuid import uuid4

import asyncpg

from agentfund.buses import PostgresBus
from agentfund.messages import Message
from benchmarks.bus import PAYLOAD, make

URL = f"postgresql://postgres@{os.environ.get('AGENTFUND_POSTGRES', '127.0.0.1:5432')}/test"
ROUNDS = 15
INSERT = (
    "INSERT INTO {name}.raw (id, stream, key, type, version, cycle, cause, producer, time, appended, payload, token) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (id) DO NOTHING"
)
TABLE = """
CREATE SCHEMA IF NOT EXISTS {name};
CREATE TABLE {name}.raw (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text NOT NULL UNIQUE, stream text NOT NULL, key text NOT NULL,
    type text NOT NULL, version bigint NOT NULL, cycle bigint NOT NULL, cause text NOT NULL, producer text NOT NULL,
    time bigint NOT NULL, appended bigint NOT NULL, payload text NOT NULL, token bigint NOT NULL
)
"""
encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode
PROCESSES = multiprocessing.get_context("spawn")


def row(m: Message) -> tuple[Any, ...]:
    """Return a message as the hand-written log keeps it."""
    moment = int(m.time.timestamp() * 1_000_000)
    return m.id, m.stream, m.key, m.type, m.version, m.cycle, m.cause, m.producer, moment, moment, encode(m.payload), m.token


class Raw:
    """The hand-written log."""

    def __init__(self, connection: asyncpg.Connection[Any], name: str) -> None:
        self.connection = connection
        self.name = name
        self.insert = INSERT.format(name=name)

    async def append(self, messages: list[Message]) -> None:
        """Append one by one."""
        for one in messages:
            await self.connection.execute(self.insert, *row(one))

    async def replay(self) -> int:
        """Fetch all rows, as they come."""
        rows = await self.connection.fetch(f"SELECT * FROM {self.name}.raw ORDER BY place")
        return len(rows)

    async def decode(self) -> int:
        """Fetch all rows and decode what is inside."""
        rows = await self.connection.fetch(f"SELECT * FROM {self.name}.raw ORDER BY place")
        return len([json.loads(row["payload"]) for row in rows])


async def append(bus: PostgresBus, messages: list[Message]) -> None:
    """Publish one by one."""
    for one in messages:
        await bus.publish([one])


async def append_at_once(bus: PostgresBus, messages: list[Message], publishers: int) -> list[float]:
    """Publish one by one from many tasks; return how long each waited, in ms."""
    waits = []

    async def publisher(first: int) -> None:
        for one in messages[first::publishers]:
            start = perf_counter()
            await bus.publish([one])
            waits.append((perf_counter() - start) * 1_000)

    await asyncio.gather(*map(publisher, range(publishers)))
    return waits


async def replay(bus: PostgresBus) -> int:
    """Read the whole log into envelopes."""
    count = 0
    async for _ in bus.read():
        count += 1
    return count


async def rate(work: Awaitable[Any], number: int) -> float:
    """Return how many of something were done in a second."""
    start = perf_counter()
    await work
    return number / (perf_counter() - start)


async def turns(ours: Callable[[], Awaitable[float]], raw: Callable[[], Awaitable[float]], rounds: int) -> Any:
    """Return what both measured, round by round, taking turns at who begins."""
    pairs: list[tuple[float, float]] = []
    for number in range(rounds):
        if number % 2:
            theirs = await raw()
            pairs.append((await ours(), theirs))
        else:
            pairs.append((await ours(), await raw()))
    return list(zip(*pairs, strict=True))


def figure(name: str, unit: str, peer: str, ours: list[float], theirs: list[float], server: str) -> dict[str, Any]:
    """Return one figure: medians, and the median of the rounds' ratios."""
    return {
        "name": name,
        "value": round(statistics.median(ours), 2),
        "unit": unit,
        "peer": peer,
        "peer_value": round(statistics.median(theirs), 2),
        "ratio": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3),
        "versions": {
            "agentfund": version("agentfund"),
            "python": platform.python_version(),
            "asyncpg": version("asyncpg"),
            "postgres": server,
        },
    }


def percentile(values: list[float], percent: float) -> float:
    """Return the value below which so many percent lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


async def appends(bus: PostgresBus, raw: Raw, server: str) -> list[dict[str, Any]]:
    """Measure appending, by one publisher and by many."""
    peer = "asyncpg, log by hand, one by one"
    count = 0

    def fresh(number: int) -> list[Message]:
        nonlocal count
        count += 1
        return make(number, f"a{count}")

    async def ours() -> float:
        messages = fresh(200)
        return await rate(append(bus, messages), 200)

    async def theirs() -> float:
        messages = fresh(200)
        return await rate(raw.append(messages), 200)

    waits: list[float] = []

    async def many() -> float:
        messages = fresh(1_280)
        start = perf_counter()
        waits.extend(await append_at_once(bus, messages, 32))
        return 1_280 / (perf_counter() - start)

    await ours(), await theirs(), await many()
    waits.clear()
    one = await turns(ours, theirs, 3 * ROUNDS)
    at_once = await turns(many, theirs, ROUNDS)
    p99 = [percentile(waits, 99)]
    return [
        figure("PostgresBus: append one by one", "messages/s", peer, one[0], one[1], server),
        figure("PostgresBus: append from 32 tasks", "messages/s", peer, at_once[0], at_once[1], server),
        figure("PostgresBus: append from 32 tasks, p99", "ms", "5 ms", p99, [5.0], server),
    ]


async def replays(bus: PostgresBus, raw: Raw, server: str) -> list[dict[str, Any]]:
    """Measure reading a log of twenty thousand messages."""
    number = 20_000
    messages = make(number, "r")
    for start in range(0, number, 1_000):
        await bus.publish(messages[start : start + 1_000], sync=False)
    await raw.connection.executemany(raw.insert, map(row, messages))
    bare = await turns(lambda: rate(replay(bus), number), lambda: rate(raw.replay(), number), 9)
    decoded = await turns(lambda: rate(replay(bus), number), lambda: rate(raw.decode(), number), 9)
    name = "PostgresBus: replay into envelopes"
    return [
        figure(name, "messages/s", "asyncpg fetch of all rows, payload as text", bare[0], bare[1], server),
        figure(name, "messages/s", "asyncpg fetch of all rows and json.loads", decoded[0], decoded[1], server),
    ]


def consume(pipe: Connection, name: str) -> None:
    """Be the bus's consumer: tell how old each message was when it came."""

    async def main() -> None:
        bus = PostgresBus(URL, name=name)
        async for delivery in bus.consume("g"):
            pipe.send(time.monotonic_ns() - int(delivery.message.cause))
            await delivery.ack()

    with suppress(KeyboardInterrupt):
        asyncio.run(main())


def consume_raw(pipe: Connection, name: str) -> None:
    """Be the hand-written log's consumer: fetch what is new when told."""

    async def main() -> None:
        connection = await asyncpg.connect(URL)
        told = asyncio.Event()
        await connection.add_listener(name, lambda *_: told.set())
        place = 0
        while True:
            for found in await connection.fetch(f"SELECT * FROM {name}.raw WHERE place > $1 ORDER BY place", place):
                place = found["place"]
                pipe.send(time.monotonic_ns() - int(found["cause"]))
                json.loads(found["payload"])
            await told.wait()
            told.clear()

    with suppress(KeyboardInterrupt):
        asyncio.run(main())


async def latencies(bus: PostgresBus, raw: Raw, server: str, number: int = 50) -> list[dict[str, Any]]:
    """Measure the way from publishing to another process's consumer."""
    pipes = []
    workers = []
    for target in (consume, consume_raw):
        mine, theirs = PROCESSES.Pipe(duplex=False)
        worker = PROCESSES.Process(target=target, args=(theirs, raw.name), daemon=True)
        worker.start()
        pipes.append(mine)
        workers.append(worker)
    loop = asyncio.get_running_loop()

    def stamped() -> Message:
        m = make(1, uuid4().hex)[0]
        return Message(
            m.id, m.stream, m.key, m.type, PAYLOAD, m.producer, m.time, m.cycle, str(time.monotonic_ns()), appended=m.time
        )

    async def ours() -> list[float]:
        ages = []
        for _ in range(number):
            await bus.publish([stamped()])
            ages.append(await loop.run_in_executor(None, pipes[0].recv) / 1e6)
            await asyncio.sleep(0.002)
        return ages

    async def by_hand() -> list[float]:
        ages = []
        for _ in range(number):
            await raw.append([stamped()])
            await raw.connection.execute("SELECT pg_notify($1, '1')", raw.name)
            ages.append(await loop.run_in_executor(None, pipes[1].recv) / 1e6)
            await asyncio.sleep(0.002)
        return ages

    mine_ages: list[list[float]] = []
    their_ages: list[list[float]] = []
    await ours(), await by_hand()
    for turn in range(2 * ROUNDS):
        for ages, work in (
            ((mine_ages, ours), (their_ages, by_hand)) if turn % 2 else ((their_ages, by_hand), (mine_ages, ours))
        ):
            ages.append(await work())
    for worker in workers:
        worker.kill()
        worker.join()
    medians = [[statistics.median(ages) for ages in side] for side in (mine_ages, their_ages)]
    tails = [[percentile([age for ages in side for age in ages], 99)] for side in (mine_ages, their_ages)]
    peer = "asyncpg, NOTIFY after commit, fetch"
    return [
        figure("PostgresBus: publish to consume in another process, p50", "ms", peer, medians[0], medians[1], server),
        figure("PostgresBus: publish to consume in another process, p99", "ms", peer, tails[0], tails[1], server),
    ]


def figures() -> Iterator[dict[str, Any]]:
    """Yield each figure once its group is measured."""
    with asyncio.Runner() as runner:
        for measure in (appends, latencies, replays):

            async def alone(measure: Any = measure) -> list[dict[str, Any]]:
                name = f"bench_{uuid4().hex[:12]}"
                connection = await asyncpg.connect(URL)
                bus = PostgresBus(URL, name=name)
                try:
                    await bus.publish([])
                    await connection.execute(TABLE.format(name=name))
                    server = await connection.fetchval("SHOW server_version")
                    found: list[dict[str, Any]] = await measure(bus, Raw(connection, name), server)
                    return found
                finally:
                    await bus.close()
                    await connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
                    await connection.close()

            yield from runner.run(alone())


if __name__ == "__main__":
    for line in figures():
        print(json.dumps(line), flush=True)
