"""Consumers of the log in Postgres: how they share it, are woken, and hand back."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from agentfund.buses import PostgresBus
from agentfund.buses.postgres_schema import Names
from agentfund.errors import BusError, BusUnavailable
from agentfund.messages import Message
from agentfund.testing.bus import consuming, faults, message, take
from tests.buses.servers import service

ADDRESS = service("AGENTFUND_POSTGRES", 5432)
if ADDRESS is None:
    pytest.skip("no Postgres at 127.0.0.1:5432; set AGENTFUND_POSTGRES=host:port", allow_module_level=True)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["__main__", __name__])
URL = f"postgresql://postgres@{ADDRESS}/test"
if TYPE_CHECKING:
    Sql = asyncpg.Connection[Any]


@pytest_asyncio.fixture
async def sql() -> AsyncIterator[Sql]:
    """Give a connection of our own, past the bus."""
    connection = await asyncpg.connect(URL)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def name(sql: Sql) -> AsyncIterator[str]:
    """Give the name of a log that is gone after the test."""
    chosen = f"t_{uuid4().hex}"
    yield chosen
    await sql.execute(f'DROP SCHEMA IF EXISTS "{chosen}" CASCADE')


@pytest_asyncio.fixture
async def bus(name: str) -> AsyncIterator[PostgresBus]:
    """Give an empty bus."""
    bus = PostgresBus(URL, name=name)
    yield bus
    await bus.close()


def started(work: Any, *arguments: object) -> tuple[Any, Connection]:
    """Start `work(pipe, *arguments)` in a process of its own."""
    mine, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=work, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    return process, mine


def consume(worked: Connection, name: str) -> None:
    """Work on messages for ever: say when what was begun, then acknowledge it."""

    async def main() -> None:
        async for delivery in PostgresBus(URL, name=name, lease=timedelta(seconds=1)).consume("g"):
            worked.send((time.monotonic_ns(), delivery.message))
            await asyncio.sleep(0.002)
            await delivery.ack()

    asyncio.run(main())


async def test_two_processes_share_the_work_and_one_is_killed(name: str) -> None:
    """Nothing is lost, each key stays in order, and at most what the dead one held comes twice."""
    written = [message(number, key=f"k{number % 4}") for number in range(120)]
    bus = PostgresBus(URL, name=name)
    await bus.publish(written)
    workers = [started(consume, name) for _ in range(2)]
    worked: list[tuple[int, Message]] = []
    async with asyncio.timeout(30):
        while len({one.id for _, one in worked}) < len(written):
            for process, pipe in workers:
                while pipe.poll():
                    try:
                        worked.append(pipe.recv())
                    except EOFError:
                        break
                if len(worked) > 40 and process is workers[0][0]:
                    process.kill()
            await asyncio.sleep(0.005)
    for process, pipe in workers:
        process.kill()
        process.join()
        pipe.close()
    await bus.close()
    seen = [one for _, one in sorted(worked, key=lambda begun: begun[0])]
    assert len(seen) - len(written) <= 1
    assert faults(written, {one.id: one for one in seen}.values()) == []  # in the order of their first coming


async def listener(sql: Sql, name: str) -> asyncio.Queue[str]:
    """Listen past the bus, as a consumer in another process does; return what is told."""
    told: asyncio.Queue[str] = asyncio.Queue()
    names = Names(name)
    await sql.add_listener(names.channel, lambda *word: told.put_nowait(str(word[3])))
    await sql.execute("SELECT pg_advisory_lock_shared($1)", names.lock("bell"))
    return told


async def test_who_listens_is_told_how_far_the_log_goes(bus: PostgresBus, sql: Sql, name: str) -> None:
    """By one message, by the next that knows of the listener, by a batch, and not by what was there already."""
    await bus.publish([message(0)])
    told = await listener(sql, name)
    expected = []
    async with asyncio.timeout(40):
        for batch in ([1], [2], [3, 4], [5], [5, 1]):
            place = await bus.publish([message(number) for number in batch])
            if batch != [5, 1]:
                expected.append(str(place))
                assert await told.get() == expected[-1]
    assert expected == ["2", "3", "5", "6"]


async def test_a_waiting_consumer_is_woken_by_another_process(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not look by itself: here it would not for a minute."""
    monkeypatch.setattr("agentfund.buses.postgres._POLL_S", 60.0)
    bus, writer = PostgresBus(URL, name=name), PostgresBus(URL, name=name)
    async with consuming(bus, "g") as deliveries:
        for number in range(6):
            waiting = asyncio.ensure_future(take(deliveries, 1))
            await asyncio.sleep(0.05)
            await writer.publish([message(number)], sync=number % 2 == 0)
            assert [one.message.cycle for one in await waiting] == [number]
    await bus.close()
    await writer.close()


async def test_what_comes_while_a_key_is_in_work_waits_behind_it(bus: PostgresBus) -> None:
    """One by one and several at once; other keys go on, and a group of a stream sees nothing else."""
    await bus.publish([message(1, key="a")])
    async with consuming(bus, "g", "fund") as one, consuming(bus, "g", "fund") as two:
        (first,) = await take(one, 1, ack=False)
        waiting = asyncio.ensure_future(take(two, 1))
        for single in (message(2, key="a"), message(0, key="b", stream="other"), message(3, key="b")):
            await asyncio.sleep(0.05)  # the consumer looks at each alone
            await bus.publish([single])
        seen = [each.message.cycle for each in await waiting]
        for batch in ([("a", 4), ("b", 5)], [("b", 6), ("a", 7)]):
            await bus.publish([message(number, key="b", stream="other") for _, number in batch])
            await bus.publish([message(number, key=key, writer="w2") for key, number in batch])
            seen += [each.message.cycle for each in await take(two, 1)]
        await first.ack()
        seen += [each.message.cycle for each in await take(two, 3)]
    assert seen == [3, 5, 6, 2, 4, 7]


async def test_a_consumer_goes_on_when_its_listening_session_is_ended(name: str, sql: Sql) -> None:
    """It looks by itself meanwhile, and listens again."""
    bus, writer = PostgresBus(URL, name=name), PostgresBus(URL, name=name)
    listening = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted AND "
    listening += "((classid::bigint << 32) | objid::bigint) = $1"

    async def session() -> int:
        async with asyncio.timeout(40):
            while not (found := await sql.fetch(listening, Names(name).lock("bell"))):
                await asyncio.sleep(0.01)
        return int(found[0]["pid"])

    async with consuming(bus, "g") as deliveries:
        for number in range(3):
            waiting = asyncio.ensure_future(take(deliveries, 1))
            pid = await session()
            await sql.execute("SELECT pg_terminate_backend($1)", pid)
            await writer.publish([message(number)])
            assert [one.message.cycle for one in await waiting] == [number]
        assert await session() != pid
    await bus.close()
    await writer.close()


async def test_a_lease_that_ends_hands_the_message_to_another(name: str) -> None:
    """With a higher attempt, and the first one's answer is refused; after too many it is put aside."""
    bus = PostgresBus(URL, name=name, lease=timedelta(seconds=0.1), max_attempts=2)
    await bus.publish([message(1), message(2)])
    async with consuming(bus, "g") as one, consuming(bus, "g") as two, consuming(bus, "g") as three:
        (first,) = await take(one, 1, ack=False)
        (second,) = await take(two, 1, ack=False)
        assert [(each.message.cycle, each.attempt) for each in (first, second)] == [(1, 1), (1, 2)]
        with pytest.raises(BusError, match="another consumer"):
            await first.ack()
        (next_,) = await take(three, 1)
        assert next_.message.cycle == 2
        with pytest.raises(BusError, match="another consumer"):
            await second.ack()
    assert [(one.cycle, reason) for one, reason in await bus.dead_letters("g")] == [
        (1, "no consumer answered for it within its lease")
    ]
    await bus.close()


async def test_a_group_that_was_removed_is_told(bus: PostgresBus, sql: Sql, name: str) -> None:
    """Its consumer does not wait for ever; who begins anew begins with the log."""
    await bus.publish([message(1)])
    async with consuming(bus, "g") as deliveries:
        await take(deliveries, 1)
        await sql.execute(f'DELETE FROM "{name}".agent_groups')
        with pytest.raises(BusError, match="begin to consume anew"):
            await take(deliveries, 1)
    async with consuming(bus, "g") as deliveries:
        assert [one.message.cycle for one in await take(deliveries, 1)] == [1]


async def test_closing_the_bus_hands_back_what_its_consumers_hold(name: str) -> None:
    """At once, not when the lease ends, also where nobody closed the iterator."""
    bus, other = PostgresBus(URL, name=name), PostgresBus(URL, name=name)
    await bus.publish([message(1)])
    deliveries = bus.consume("g")
    await take(deliveries, 1, ack=False)
    await bus.close()
    async with consuming(other, "g") as again:
        assert [one.attempt for one in await take(again, 1)] == [2]
    with pytest.raises(BusUnavailable, match="closed"):
        await bus.publish([message(2)])
    with suppress(StopAsyncIteration):
        await anext(deliveries)
    await other.close()
