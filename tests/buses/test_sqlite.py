"""What the bus in a SQLite file promises beyond the contract of every bus."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentfund.buses import SqliteBus
from agentfund.clock import SimulatedClock
from agentfund.errors import BusError
from agentfund.messages import Message
from agentfund.protocols import Bus
from agentfund.testing.bus import NOON, BusContract, consuming, faults, log, message, take

TEXT = st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


class TestSqliteBus(BusContract):
    """The bus in a SQLite file keeps the contract."""

    def make_bus(self, folder: Path) -> Bus:
        return SqliteBus(folder / "fund.db")


def test_any_payload_and_any_time_come_back_exactly(tmp_path: Path) -> None:
    """What goes in comes out, to the microsecond and to the last bit, also half a character of an LLM."""
    bus = SqliteBus(tmp_path / "fund.db")

    @given(payload=st.dictionaries(TEXT, VALUES, max_size=4), micros=st.integers(-(10**15), 10**16))
    @example(payload={"text": "half a character: \ud83d"}, micros=0)
    @example(payload={"spread": float("inf")}, micros=1)
    @settings(max_examples=60, deadline=None)
    def check(payload: dict[str, object], micros: int) -> None:
        moment = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
        appended = moment + timedelta(microseconds=1)
        one = replace(message(1), id=uuid4().hex, payload=payload, time=moment, appended=appended)
        offset = asyncio.run(bus.publish([one], sync=False))
        assert asyncio.run(log(bus, after=offset - 1)) == [one.at(offset)]

    check()
    asyncio.run(bus.close())


async def write(path: Path, batches: int = 40) -> None:
    """Publish the same sequence of batches of several sizes, synced and not."""
    bus = SqliteBus(path)
    for number in range(batches):
        await bus.publish([message(number * 10 + i, key=f"k{i}") for i in range(number % 7 + 1)], sync=number % 3 > 0)
    await bus.close()


async def test_the_same_sequence_gives_the_same_bytes(tmp_path: Path) -> None:
    """A backtest repeated is a file repeated: no time, no random number lies in it."""
    await write(tmp_path / "a.db")
    await write(tmp_path / "b.db")
    await write(tmp_path / "c.db", batches=39)
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.db", "b.db", "c.db"))
    assert a == b
    assert a != c


async def test_a_finished_log_is_one_file(tmp_path: Path) -> None:
    """After close nothing lies beside it, and reading it leaves nothing there."""
    await write(tmp_path / "fund.db")
    before = (tmp_path / "fund.db").read_bytes()
    reader = SqliteBus(tmp_path / "fund.db", read_only=True)
    assert len(await log(reader)) > 100
    assert [path.name for path in tmp_path.iterdir()] == ["fund.db"]
    await reader.close()
    assert (tmp_path / "fund.db").read_bytes() == before


async def test_the_table_can_be_read_with_any_tool(tmp_path: Path) -> None:
    """Times are microseconds, payloads compact JSON with sorted keys, the file is marked as ours."""
    bus = SqliteBus(tmp_path / "fund.db")
    await bus.publish([replace(message(1), payload={"b": 1, "a": [1.5]}, time=NOON)])
    await bus.close()
    with closing(sqlite3.connect(tmp_path / "fund.db")) as db:
        assert db.execute("SELECT offset, id, time, payload FROM messages").fetchall() == [
            (1, "w-k-1", 1767614400000000, '{"a":[1.5],"b":1}')
        ]
        assert db.execute("PRAGMA application_id").fetchone()[0].to_bytes(4, "big") == b"agfd"
        assert db.execute("PRAGMA user_version").fetchone() == (2,)


async def test_the_log_is_append_only_for_every_tool(tmp_path: Path) -> None:
    """Neither a delete nor an update of a message passes, whoever tries."""
    await write(tmp_path / "fund.db", batches=1)
    with closing(sqlite3.connect(tmp_path / "fund.db")) as db:
        for change in ("DELETE FROM messages", "UPDATE messages SET payload = '{}'"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                db.execute(change)


async def test_synced_and_unsynced_messages_use_different_settings(tmp_path: Path) -> None:
    """FULL for what must survive a loss of power, NORMAL for the rest, and FULL again after it."""
    bus = SqliteBus(tmp_path / "fund.db")
    assert bus.durability == "power"
    levels = []
    for number, sync in enumerate((True, False, False, True)):
        await bus.publish([message(number)], sync=sync)
        levels.append(bus._file.db.execute("PRAGMA synchronous").fetchone()[0])
    assert levels == [2, 1, 1, 2]
    await bus.close()


@pytest.mark.parametrize(
    "bad",
    [
        replace(message(1), payload={"x": object()}),
        replace(message(1), payload={"x": {1, 2}}),
        replace(message(1), key="\ud800"),
        replace(message(1), cycle=2**63),
        replace(message(1), id=7),  # type: ignore[arg-type]
        replace(message(1), time=datetime(2026, 1, 5)),  # noqa: DTZ001 - naive on purpose
    ],
)
async def test_a_message_that_cannot_be_written_is_named_and_harms_nobody(bad: Message, tmp_path: Path) -> None:
    """Its own publisher gets the error; another one that shares the commit does not."""
    bus = SqliteBus(tmp_path / "fund.db")
    results = await asyncio.gather(
        bus.publish([message(5)]), bus.publish([message(6), bad]), bus.publish([message(7)]), return_exceptions=True
    )
    assert isinstance(results[1], BusError)
    assert "'Noted'" in str(results[1]) or "(Noted)" in str(results[1])
    assert [one.cycle for one in await log(bus)] == [5, 7]
    await bus.close()


async def test_publishers_that_are_ready_together_share_a_commit(tmp_path: Path) -> None:
    """Thirty-two tasks cost a few commits, not thirty-two each."""
    bus = SqliteBus(tmp_path / "fund.db")
    statements: list[str] = []
    bus._file.db.set_trace_callback(statements.append)

    async def publisher(key: str) -> None:
        for number in range(5):
            await bus.publish([message(number, key=key)])

    await asyncio.gather(*(publisher(f"k{number}") for number in range(32)))
    assert statements.count("COMMIT") < 20
    assert len(await log(bus)) == 160
    await bus.close()


async def test_a_lone_publisher_lets_other_tasks_run(tmp_path: Path) -> None:
    """A long loop of publishing does not starve a heartbeat."""
    bus = SqliteBus(tmp_path / "fund.db")
    beats = 0

    async def heart() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.001)
            beats += 1

    task = asyncio.ensure_future(heart())
    end, number = asyncio.get_running_loop().time() + 0.2, 0
    while asyncio.get_running_loop().time() < end:
        await bus.publish([message(number)], sync=False)
        number += 1
    task.cancel()
    assert beats >= 5
    await bus.close()


async def test_threads_may_write_at_once(tmp_path: Path) -> None:
    """Loops of their own, one bus: nothing lost, doubled or reordered."""
    bus = SqliteBus(tmp_path / "fund.db")
    written = [[message(number, key=f"k{writer}") for number in range(50)] for writer in range(3)]

    async def publisher(batch: list[Message]) -> None:
        for one in batch:
            await bus.publish([one], sync=False)

    threads = [threading.Thread(target=lambda batch=batch: asyncio.run(publisher(batch))) for batch in written]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        await asyncio.sleep(0.005)
    assert faults((one for batch in written for one in batch), await log(bus)) == []
    await bus.close()


async def test_many_may_make_the_file_at_once(tmp_path: Path) -> None:
    """Four race to be the first; all end in the same file, and no message falls between two."""
    for round_ in range(3):
        together = threading.Barrier(4)

        def first(number: int, path: Path = tmp_path / f"{round_}.db", together: threading.Barrier = together) -> SqliteBus:
            together.wait()
            bus = SqliteBus(path)
            asyncio.run(bus.publish([message(number)]))
            return bus

        with ThreadPoolExecutor(4) as threads:
            buses = list(threads.map(first, range(4)))
        for bus in buses:
            assert sorted(one.cycle for one in await log(bus)) == [0, 1, 2, 3]
        for bus in buses:
            await bus.close()


async def test_memory_stays_flat_over_a_long_log(tmp_path: Path) -> None:
    """Eight thousand messages of a kilobyte pass through less than two megabytes."""
    bus = SqliteBus(tmp_path / "fund.db")
    for start in range(0, 8_000, 1_000):
        text = "x" * 1_000
        await bus.publish([replace(message(start + i), payload={"text": text}) for i in range(1_000)], sync=False)
    tracemalloc.start()
    count = 0
    async for _ in bus.read():
        count += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (count, peak < 2_000_000) == (8_000, True)
    await bus.close()


async def test_a_reader_stops_where_the_log_ended_when_it_began(tmp_path: Path) -> None:
    """A reading ends although a writer goes on, and one that is given up leaves the bus usable."""
    bus = SqliteBus(tmp_path / "fund.db")
    await bus.publish([message(number) for number in range(600)])
    seen = 0
    async for _ in bus.read():
        seen += 1
        await bus.publish([message(1_000 + seen)], sync=False)
    assert seen == 600
    async for one in bus.read():
        if one.offset == 300:
            break
    assert await bus.publish([message(5_000)]) == 1_201
    await bus.close()


async def test_ctrl_c_in_the_middle_of_a_write_leaves_all_or_nothing(tmp_path: Path) -> None:
    """An interrupt at any line of a publish, as Ctrl-C makes it, and the next one works."""
    bus = SqliteBus(tmp_path / "fund.db")
    batch = [message(number) for number in range(2_000)]
    interrupted = 0
    for round_ in range(12):
        signal.setitimer(signal.ITIMER_REAL, 0.001 + round_ * 0.001)
        previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            bus._file.write(True, _insert_slowly, batch)
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        assert len(await log(bus)) in (0, 2_000)
    assert interrupted > 0
    await bus.publish(batch)
    assert faults(batch, await log(bus)) == []
    await bus.close()


def _insert_slowly(db: sqlite3.Connection, batch: list[Message]) -> None:
    for one in batch:
        values = (one.id, json.dumps(one.payload))
        db.execute("INSERT OR IGNORE INTO messages VALUES (NULL, ?, 's', 'k', 't', 1, 0, '', 'p', 0, 0, ?, 0)", values)


async def test_a_consumer_past_its_lease_is_taken_for_dead(tmp_path: Path) -> None:
    """Another process gets the message after the lease, not before; who comes back late is told."""
    clock = SimulatedClock(NOON)
    one, two = (SqliteBus(tmp_path / "fund.db", clock=clock, lease=timedelta(seconds=30)) for _ in range(2))
    await one.publish([message(1)])
    async with consuming(one, "g") as first, consuming(two, "g") as second:
        (frozen,) = await take(first, 1, ack=False)
        waiting = asyncio.ensure_future(take(second, 1, ack=False))
        clock.advance(29.9)
        await asyncio.sleep(0.1)
        assert not waiting.done()
        clock.advance(0.2)
        (again,) = await waiting
        assert (again.message, again.attempt) == (frozen.message, 2)
        with pytest.raises(BusError, match="lease of 0:00:30"):
            await frozen.ack()
        await again.ack()
    await one.close()
    await two.close()


async def test_a_late_ack_counts_while_nobody_else_has_the_message(tmp_path: Path) -> None:
    """Slow work that was not handed to another is not done twice."""
    clock = SimulatedClock(NOON)
    bus = SqliteBus(tmp_path / "fund.db", clock=clock)
    await bus.publish([message(1), message(2)])
    async with consuming(bus, "g") as deliveries:
        (slow,) = await take(deliveries, 1, ack=False)
        clock.advance(100)
        await slow.ack()
        (after,) = await take(deliveries, 1)
    assert after.message.cycle == 2
    await bus.close()


async def test_a_message_that_kills_its_consumers_becomes_a_dead_letter(tmp_path: Path) -> None:
    """No answer within the lease, again and again: it is put aside and its key goes on."""
    clock = SimulatedClock(NOON)
    bus = SqliteBus(tmp_path / "fund.db", clock=clock, max_attempts=3)
    await bus.publish([message(1), message(2)])
    async with consuming(bus, "g") as deliveries:
        attempts = []
        for _ in range(3):
            (poison,) = await take(deliveries, 1, ack=False)
            attempts.append(poison.attempt)
            clock.advance(31)
        (after,) = await take(deliveries, 1)
    assert (attempts, after.message.cycle) == ([1, 2, 3], 2)
    assert await bus.dead_letters("g") == [(message(1).at(1), "no consumer answered for it within its lease")]
    await bus.close()


async def test_a_busy_key_bounds_what_is_set_aside(tmp_path: Path) -> None:
    """While one key is stuck, the table of pending messages stays small, and nothing is lost after it."""
    bus = SqliteBus(tmp_path / "fund.db")
    written = [message(number) for number in range(4_000)]
    await bus.publish(written)
    async with consuming(bus, "g") as one, consuming(bus, "g") as two:
        (stuck,) = await take(one, 1, ack=False)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(two), 0.3)
        with closing(sqlite3.connect(tmp_path / "fund.db")) as db:
            assert db.execute("SELECT count(*) FROM pending").fetchone()[0] <= 1_280
        await stuck.ack()
    async with consuming(bus, "g") as three:
        assert [delivery.message.cycle for delivery in await take(three, 3)] == [1, 2, 3]
    await bus.close()


async def test_a_consumer_that_is_cancelled_before_it_has_its_message_hands_it_back(tmp_path: Path) -> None:
    """Another consumer has it at once, not only after the lease."""
    bus = SqliteBus(tmp_path / "fund.db")
    await bus.publish([message(1)])
    asking = asyncio.ensure_future(anext(bus.consume("g")))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    async with consuming(bus, "g") as deliveries, asyncio.timeout(1):
        again = await anext(deliveries)
    assert (again.message.offset, again.attempt) == (1, 2)
    await bus.close()
