"""The log in Postgres when its server is killed, frozen, cut off, or promises too little."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest

from agentfund.buses import PostgresBus
from agentfund.errors import BusError, BusUnavailable
from agentfund.messages import Message
from agentfund.testing.bus import consuming, faults, log, message, take
from tests.buses.relay import Relay
from tests.buses.server_postgres import PostgresServer, installed

if not installed():
    pytest.skip("no Postgres is installed here (initdb, postgres)", allow_module_level=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Give a server that may be killed and frozen; what is not synced stays in its memory for long."""
    server = PostgresServer(tmp_path_factory.mktemp("postgres"), wal_writer_delay="10s", autovacuum="off")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def name() -> str:
    """Give the name of a log; the whole server is gone afterwards."""
    return f"t_{uuid4().hex}"


async def repeated(bus: PostgresBus, batch: list[Message]) -> int:
    """Publish as often as it takes."""
    while True:
        with suppress(BusUnavailable):
            return await bus.publish(batch)


async def test_kill_9_of_the_server_under_load_loses_nothing_acknowledged(server: PostgresServer, name: str) -> None:
    """Eight publishers repeat what got no answer, a follower and a consumer go on: no loss, no double, no gap, in order."""
    bus = PostgresBus(server.url, name=name, timeout=timedelta(seconds=0.2), lease=timedelta(seconds=1))
    written = [[message(number, key=f"k{writer}") for number in range(60)] for writer in range(8)]
    number = sum(map(len, written))
    await bus.publish([])
    acknowledged: list[tuple[Message, int]] = []
    followed: list[Message] = []
    worked: list[Message] = []

    async def publish(batch: list[Message]) -> None:
        for one in batch:
            acknowledged.append((one, await repeated(bus, [one])))
            await asyncio.sleep(0.002)

    async def follow() -> None:
        while len(followed) < number:
            with suppress(BusUnavailable):
                followed.extend(await log(bus, after=followed[-1].offset if followed else 0))
            await asyncio.sleep(0.005)

    async def work() -> None:
        async with consuming(bus, "g") as deliveries:
            async for delivery in deliveries:
                worked.append(delivery.message)
                while True:
                    try:
                        await delivery.ack()
                        break
                    except BusUnavailable:
                        await asyncio.sleep(0.01)
                    except BusError:  # the server died with what it knew of this delivery: it comes again
                        break
                if len({one.id for one in worked}) == number:
                    return

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for task in (*map(publish, written), follow(), work()):
            tasks.create_task(task)
        for _ in range(3):
            await asyncio.sleep(0.15)
            server.kill()
            await asyncio.to_thread(server.start)
    published = [one for batch in written for one in batch]
    seen = await log(bus)
    assert [one.offset for one in seen] == list(range(1, number + 1))
    assert faults(published, seen) == faults(published, followed) == []
    assert {one.id: offset for one, offset in acknowledged} == {one.id: one.offset for one in seen}
    assert faults(published, {one.id: one for one in worked}.values()) == []
    await bus.close()


async def test_a_lost_acknowledgement_does_not_double(server: PostgresServer, name: str) -> None:
    """The server has appended, its answer is lost, the publisher tries again: kept once, at one place."""
    async with Relay(f"127.0.0.1:{server.port}").opened() as relay:
        bus = PostgresBus(server.url.replace(f"127.0.0.1:{server.port}", relay.address), name=name)
        direct = PostgresBus(server.url, name=name)
        place = 0
        for number in range(0, 60, 10):
            for batch in ([0], [1, 2], [3]):  # so that all there is to ask is known to the server
                await bus.publish([message(number + more) for more in batch])
            batch = [4, 5][: 1 + number // 10 % 2]
            place += 4 + len(batch)
            relay.deaf = True
            publishing = asyncio.ensure_future(bus.publish([message(number + more) for more in batch]))
            async with asyncio.timeout(40):
                while await direct.last() != message(number + batch[-1]).at(place):
                    await asyncio.sleep(0.002)
            async with relay.away():
                pass
            assert await publishing == place
        seen = await log(direct)
        assert [one.offset for one in seen] == list(range(1, place + 1))
        assert len({one.id for one in seen}) == place
        await bus.close()
        await direct.close()


async def test_a_consumer_whose_answers_are_lost_goes_on(server: PostgresServer, name: str) -> None:
    """An ack that arrived is no error when it is given again; what was taken and never came is taken again at once."""
    sql = await asyncpg.connect(server.url)
    async with Relay(f"127.0.0.1:{server.port}").opened() as relay:
        url = server.url.replace(f"127.0.0.1:{server.port}", relay.address)
        bus = PostgresBus(url, name=name, lease=timedelta(seconds=60))
        await bus.publish([message(number) for number in range(1, 5)])

        async def pending(attempt: int) -> list[int]:
            query = f'SELECT "offset" FROM "{name}".agent_pending WHERE attempt >= $1'
            return [row[0] for row in await sql.fetch(query, attempt)]

        async with consuming(bus, "g") as deliveries, asyncio.timeout(20):
            await take(deliveries, 1)
            (two,) = await take(deliveries, 1, ack=False)
            relay.deaf = True
            acking = asyncio.ensure_future(two.ack())
            while await pending(1):
                await asyncio.sleep(0.002)
            async with relay.away():
                pass
            await acking
            await take(deliveries, 1)
            relay.deaf = True
            taking = asyncio.ensure_future(take(deliveries, 1))
            while await pending(1) != [4]:
                await asyncio.sleep(0.002)
            async with relay.away():
                pass
            (four,) = await taking
        assert (two.message.cycle, four.message.cycle, four.attempt) == (2, 4, 2)
        assert await pending(0) == []
        await bus.close()
    await sql.close()


async def test_a_frozen_server_is_unavailable_within_patience(server: PostgresServer, name: str) -> None:
    """To publish, also after a publisher was cancelled, to read and to answer; thawed, all goes on where it was."""
    bus, fresh, other = (
        PostgresBus(server.url, name=log_, timeout=timedelta(seconds=0.3)) for log_ in (name, name, f"{name}_other")
    )
    await bus.publish([message(1)])
    await other.publish([message(1)])
    async with consuming(bus, "g") as deliveries:
        (one,) = await take(deliveries, 1, ack=False)
        server.freeze()
        try:
            cancelled = asyncio.ensure_future(other.publish([message(2)]))
            await asyncio.sleep(0.05)
            cancelled.cancel()
            attempts = bus.publish([message(2)]), log(bus), one.ack(), other.publish([message(3)]), fresh.publish([message(2)])
            for attempt in attempts:
                begun = time.monotonic()
                with pytest.raises(BusUnavailable, match=r"no answer within 0\.3 s"):
                    await attempt
                assert time.monotonic() - begun < 5
        finally:
            server.thaw()
        await one.ack()
        await repeated(bus, [message(2)])
        (two,) = await take(deliveries, 1)
        assert two.message.cycle == 2
    assert [each.cycle for each in await log(fresh)] == [1, 2]
    for each in (bus, fresh, other):
        await each.close()


async def test_a_server_that_is_gone_is_unavailable_and_comes_back(server: PostgresServer, name: str) -> None:
    """Who reads and publishes is told; a consumer waits and gets what comes afterwards."""
    bus = PostgresBus(server.url, name=name, timeout=timedelta(seconds=0.2))
    await bus.publish([message(1)])
    async with consuming(bus, "g") as deliveries:
        await take(deliveries, 1)

        async def wait() -> int:
            while True:  # the first message may come again: answers are not synced
                (one,) = await take(deliveries, 1)
                if one.message.cycle != 1:
                    return one.message.cycle

        waiting = asyncio.ensure_future(wait())
        server.kill()
        for attempt in (bus.publish([message(2)]), bus.last(), bus.describe()):
            with pytest.raises(BusUnavailable, match="start the server"):
                await attempt
        await asyncio.to_thread(server.start)
        await bus.publish([message(3)])
        assert await waiting == 3
    await bus.close()


async def test_what_was_not_synced_is_made_durable_by_publishing_it_again(server: PostgresServer, name: str) -> None:
    """Without sync a killed server loses the newest messages; a known message that is published with sync is kept."""
    bus = PostgresBus(server.url, name=name, demand="power")
    await bus.publish([message(1)])
    await bus.publish([message(2)], sync=False)
    assert await bus.publish([message(2)]) == 2
    await bus.publish([message(3), message(4)], sync=False)
    assert await bus.publish([message(3), message(4)]) == 4
    await bus.publish([message(5)], sync=False)
    server.kill()
    await asyncio.to_thread(server.start)
    assert [one.cycle for one in await log(bus)] == [1, 2, 3, 4]
    assert await bus.publish([message(6)]) == 5
    await bus.close()


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Give a server that promises little."""
    server = PostgresServer(tmp_path_factory.mktemp("weak"), fsync="off", synchronous_commit="off")
    try:
        server.start()
        yield server
    finally:
        server.stop()


async def test_a_server_that_promises_less_than_demanded_is_refused(weak: PostgresServer, name: str) -> None:
    """The setting and the fix are named; nothing was published."""
    for parameters, demand, words in (
        ("", "process", "synchronous_commit = off.*SET synchronous_commit = on"),
        ("?synchronous_commit=on", "power", "demanded is 'power', found is 'process': fsync = off: .*postgresql.conf"),
    ):
        bus = PostgresBus(weak.url + parameters, name=name, demand="power" if demand == "power" else "process")
        with pytest.raises(BusError, match=words) as error:
            await bus.publish([message(1)])
        assert not isinstance(error.value, BusUnavailable)
        assert bus.durability != demand
        await bus.close()


async def test_a_weak_server_will_do_where_less_is_demanded(weak: PostgresServer, name: str) -> None:
    """And it says how weak it is."""
    bus = PostgresBus(weak.url, name=name, demand="none")
    await bus.publish([message(1)])
    assert bus.durability == "none"
    assert "fsync = off" in await bus.describe()
    patched = PostgresBus(f"{weak.url}?synchronous_commit=on", name=name)
    assert await patched.publish([message(2)]) == 2
    assert patched.durability == "process"
    await bus.close()
    await patched.close()
