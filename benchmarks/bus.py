"""What the buses cost, beside the raw sqlite3 of the same run: `python benchmarks/bus.py` prints one JSON line a figure.

There are two raw peers. One keeps the bare payload, as text that is ready to write: no id, no envelope, no deduplication.
The other is the hand-written log: the same columns with a unique id, the payload encoded as canonical JSON.
Both take turns in small rounds, and medians are compared, because disks have moods.
"""

from __future__ import annotations

import asyncio
import json
import platform
import sqlite3
import statistics
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from agentfund.buses import MemoryBus, SqliteBus
from agentfund.clock import EPOCH
from agentfund.messages import Message

ROUNDS = 15
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
TEXT = json.dumps(PAYLOAD, separators=(",", ":"), sort_keys=True)
VERSIONS = {
    "agentfund": version("agentfund"),
    "python": platform.python_version(),
    "sqlite": sqlite3.sqlite_version,
}


def make(number: int, name: str) -> list[Message]:
    """Make messages of about a kilobyte, each with an id of its own, ten to a cycle."""
    return [
        Message(f"{name}-{i:024x}", "fund", "fund", "Opined", PAYLOAD, "strategist", time, i // 10, appended=time)
        for i in range(number)
        for time in [EPOCH + timedelta(minutes=i // 10)]
    ]


def raw(path: Path, synchronous: str) -> sqlite3.Connection:
    """Open a bare table, and one with an envelope, in WAL mode."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {synchronous}")
    db.execute("CREATE TABLE IF NOT EXISTS log (offset INTEGER PRIMARY KEY, payload TEXT NOT NULL)")
    db.execute(
        "CREATE TABLE IF NOT EXISTS envelopes (offset INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, stream TEXT, key TEXT, "
        "type TEXT, version INTEGER, cycle INTEGER, cause TEXT, producer TEXT, time INTEGER, appended INTEGER, payload TEXT)"
    )
    return db


def raw_append(db: sqlite3.Connection, number: int, size: int) -> None:
    """Append rows, so many to a transaction."""
    for _ in range(0, number, size):
        db.execute("BEGIN IMMEDIATE")
        if size == 1:
            db.execute("INSERT INTO log (payload) VALUES (?)", (TEXT,))
        else:
            db.executemany("INSERT INTO log (payload) VALUES (?)", [(TEXT,)] * size)
        db.execute("COMMIT")


def raw_envelopes(db: sqlite3.Connection, messages: list[Message]) -> None:
    """Append one by one as a careful hand-written log would."""
    encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode
    for m in messages:
        moment = int(m.time.timestamp() * 1_000_000)
        row = (m.id, m.stream, m.key, m.type, m.version, m.cycle, m.cause, m.producer, moment, moment, encode(m.payload))
        db.execute("BEGIN IMMEDIATE")
        db.execute(
            "INSERT INTO envelopes (id, stream, key, type, version, cycle, cause, producer, time, appended, payload) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            row,
        )
        db.execute("COMMIT")


async def append(bus: SqliteBus, messages: list[Message], size: int, sync: bool) -> None:
    """Publish, so many messages to a batch."""
    for start in range(0, len(messages), size):
        await bus.publish(messages[start : start + size], sync=sync)


async def append_at_once(bus: SqliteBus, messages: list[Message], publishers: int) -> None:
    """Publish one by one from many tasks."""

    async def publisher(first: int) -> None:
        for one in messages[first::publishers]:
            await bus.publish([one])

    await asyncio.gather(*map(publisher, range(publishers)))


async def replay(bus: SqliteBus) -> int:
    """Read the whole log into envelopes."""
    count = 0
    async for _ in bus.read():
        count += 1
    return count


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that this took."""
    start = perf_counter()
    work()
    return perf_counter() - start


def figure(name: str, unit: str, peer: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Return one figure: medians, and which part of the peer's rate is ours."""
    value, peer_value = statistics.median(ours), statistics.median(theirs)
    return {
        "name": name,
        "value": round(value, 1),
        "unit": unit,
        "peer": peer,
        "peer_value": round(peer_value, 1),
        "ratio": round(value / peer_value, 3),
        "versions": VERSIONS,
    }


def appends(run: Callable[[Any], Any], folder: Path) -> Iterator[dict[str, Any]]:
    """Measure appending in its several ways."""
    cases = [
        ("append one by one, synced", "FULL", 200, 1),
        ("append one by one, not synced", "NORMAL", 500, 1),
        ("append in batches of 100, synced", "FULL", 2_000, 100),
    ]
    for name, synchronous, number, size in cases:
        bus, db = SqliteBus(folder / f"{name}.db"), raw(folder / f"{name}.raw", synchronous)
        ours, theirs, by_hand = [], [], []
        for round_ in range(ROUNDS):
            messages = make(number, f"{round_}")
            ours.append(number / timed(lambda: run(append(bus, messages, size, synchronous == "FULL"))))  # noqa: B023
            theirs.append(number / timed(lambda: raw_append(db, number, size)))  # noqa: B023
            if size == 1:
                by_hand.append(number / timed(lambda: raw_envelopes(db, messages)))  # noqa: B023
        run(bus.close())
        db.close()
        yield figure(f"SqliteBus: {name}", "messages/s", f"sqlite3 WAL {synchronous}, payload only", ours, theirs)
        if by_hand:
            yield figure(f"SqliteBus: {name}", "messages/s", f"sqlite3 WAL {synchronous}, log by hand", ours, by_hand)
    bus, db = SqliteBus(folder / "many.db"), raw(folder / "many.raw", "FULL")
    ours, theirs = [], []
    for round_ in range(ROUNDS):
        messages = make(640, f"{round_}")
        ours.append(640 / timed(lambda: run(append_at_once(bus, messages, 32))))  # noqa: B023
        theirs.append(200 / timed(lambda: raw_append(db, 200, 1)))
    run(bus.close())
    db.close()
    yield figure("SqliteBus: append from 32 tasks, synced", "messages/s", "sqlite3 WAL FULL, one by one", ours, theirs)


def replays(run: Callable[[Any], Any], folder: Path) -> Iterator[dict[str, Any]]:
    """Measure reading a log of twenty thousand messages."""
    number = 20_000
    bus, db = SqliteBus(folder / "replay.db"), raw(folder / "replay.raw", "NORMAL")
    run(append(bus, make(number, "r"), 1_000, False))
    raw_append(db, number, 1_000)
    ours, theirs, decoded = [], [], []
    for _ in range(5):
        ours.append(number / timed(lambda: run(replay(bus))))
        theirs.append(number / timed(lambda: db.execute("SELECT offset, payload FROM log").fetchall()))
        decoded.append(number / timed(lambda: [json.loads(row[1]) for row in db.execute("SELECT * FROM log")]))
    run(bus.close())
    db.close()
    yield figure("SqliteBus: replay into envelopes", "messages/s", "sqlite3 rows, payload as text", ours, theirs)
    yield figure("SqliteBus: replay into envelopes", "messages/s", "sqlite3 rows and json.loads", ours, decoded)


def memory(run: Callable[[Any], Any]) -> Iterator[dict[str, Any]]:
    """Measure a cycle's ten messages in memory, beside ten appends to a list."""
    ours, theirs = [], []

    def put(log: list[Message], cycles: list[list[Message]]) -> None:
        for cycle in cycles:
            for one in cycle:
                log.append(one)  # noqa: PERF402 - one by one is what is compared

    async def publish(bus: MemoryBus, cycles: list[list[Message]]) -> None:
        for cycle in cycles:
            await bus.publish(cycle)

    for _ in range(ROUNDS):
        messages = make(10_000, "m")
        cycles = [messages[start : start + 10] for start in range(0, 10_000, 10)]
        log: list[Message] = []
        ours.append(timed(lambda: run(publish(MemoryBus(), cycles))) * 1_000)  # noqa: B023
        theirs.append(timed(lambda: put(log, cycles)) * 1_000)  # noqa: B023
    yield figure("MemoryBus: publish of ten messages", "us", "ten appends to a list", ours, theirs)


def figures() -> Iterator[dict[str, Any]]:
    """Yield each figure as soon as it is measured."""
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        yield from appends(runner.run, Path(folder))
        yield from replays(runner.run, Path(folder))
        yield from memory(runner.run)


if __name__ == "__main__":
    for line in figures():
        print(json.dumps(line), flush=True)
