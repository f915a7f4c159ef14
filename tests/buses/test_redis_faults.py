"""Killed, frozen, emptied and full servers, and networks that lose the answers: nothing is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from agentfund.buses import RedisBus
from agentfund.errors import BusError, BusUnavailable
from agentfund.messages import Message
from agentfund.testing import Proxy
from agentfund.testing.bus import consuming, faults, log, message, take
from tests.buses.server_redis import RedisServer
from tests.buses.servers import free_port

SOON = timedelta(milliseconds=500)
BIG = [replace(message(number), payload={"text": "x" * 10_000}) for number in range(100)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that outlives its tests."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that does not."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def name() -> str:
    """A log of the test's own."""
    return uuid.uuid4().hex


@asynccontextmanager
async def opened(url: str, name: str, **how: timedelta) -> AsyncIterator[RedisBus]:
    """Open a bus that demands nothing, and close it."""
    bus = RedisBus(url, name=name, demand="none", **how)  # type: ignore[arg-type]
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def far(server: RedisServer, name: str, **how: timedelta) -> AsyncIterator[tuple[RedisBus, Proxy]]:
    """Open a bus behind a network that can be bad."""
    async with Proxy("127.0.0.1", server.port) as proxy, opened(f"redis://127.0.0.1:{proxy.port}", name, **how) as bus:
        yield bus, proxy


async def until(true: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.005)


async def test_kill_9_of_the_server_loses_nothing_acknowledged_and_doubles_nothing(doomed: RedisServer) -> None:
    """Eight publishers go on through three deaths of the server: their own retries are not seen in the log."""
    written: list[list[Message]] = [[] for _ in range(8)]
    going = True
    async with opened(doomed.url, "fund") as bus:

        async def write(writer: int) -> None:
            while going:
                number = len(written[writer])
                batch = [message(number + i, key=f"k{writer}") for i in range(3)]
                await bus.publish(batch)
                written[writer] += batch

        writers = [asyncio.ensure_future(write(writer)) for writer in range(8)]
        for _ in range(3):
            before = len(written[0])
            await until(lambda before=before: len(written[0]) > before + 30)  # type: ignore[misc]
            doomed.kill()
            await asyncio.to_thread(doomed.start)
        going = False
        await asyncio.gather(*writers)
        seen = await log(bus)
    assert faults((one for batch in written for one in batch), seen) == []
    assert [one.offset for one in seen] == list(range(1, len(seen) + 1))


async def test_a_consumer_waits_for_a_server_that_was_killed_and_goes_on_without_a_gap(doomed: RedisServer) -> None:
    """What was handed out before is not handed out again, and what it holds stays its own."""
    async with opened(doomed.url, "fund", timeout=SOON) as bus, consuming(bus, "g") as deliveries:
        await bus.publish([message(1, key="a"), message(2, key="b"), message(3, key="b")])
        (held,) = await take(deliveries, 1, ack=False)
        await take(deliveries, 1)
        doomed.kill()
        waiting = asyncio.ensure_future(take(deliveries, 2))
        await asyncio.sleep(0.8)  # longer than its timeout, so that it has given up once
        await asyncio.to_thread(doomed.start)
        await bus.publish([message(4, key="b")])
        rest = await waiting
        await held.ack()
    assert [(one.message.cycle, one.attempt) for one in (held, *rest)] == [(1, 1), (3, 1), (4, 1)]


async def test_many_connections_that_died_are_one_trouble(doomed: RedisServer) -> None:
    """A restart costs one try, and not one for each of them."""
    async with opened(doomed.url, "fund", timeout=timedelta(seconds=1)) as bus:
        await asyncio.gather(*(bus.last() for _ in range(32)))
        assert doomed.do("CLIENT", "LIST", "TYPE", "normal").count(b"cmd=evalsha") > 20
        doomed.kill()
        doomed.start()
        assert await bus.publish([message(1)]) == 1


async def test_a_frozen_server_is_unavailable_within_the_timeout_and_what_was_tried_may_be_tried_again(
    doomed: RedisServer,
) -> None:
    """It may wake up and do it; published again, the message is there once."""
    async with opened(doomed.url, "fund", timeout=SOON) as bus:
        await bus.publish([message(1)])
        doomed.freeze()
        for work in (bus.publish([message(2)]), bus.last(), log(bus)):
            async with asyncio.timeout(40):
                with pytest.raises(BusUnavailable, match=rf"127\.0\.0\.1:{doomed.port} could not be used within 0\.5 s"):
                    await work
        doomed.thaw()
        assert await bus.publish([message(2)]) == 2
        assert [one.cycle for one in await log(bus)] == [1, 2]


async def test_without_a_server_it_is_unavailable_and_then_not(doomed: RedisServer) -> None:
    """A bus can be made before its server is there."""
    doomed.stop()
    async with opened(doomed.url, "fund", timeout=SOON) as bus:
        for work in (bus.publish([message(1)]), bus.describe(), anext(bus.consume("g"))):
            with pytest.raises(BusUnavailable, match="Start the server"):
                await work
        doomed.start()
        assert await bus.publish([message(1)]) == 1


async def test_a_server_that_comes_back_empty_is_an_error_and_not_an_empty_log(tmp_path: Path) -> None:
    """The log went back, and a bus that knows better refuses; one that is opened again begins anew."""
    server = RedisServer(tmp_path, appendfsync="")
    server.start()
    try:
        async with opened(server.url, "fund") as bus, opened(server.url, "fund") as other:
            await bus.publish([message(1), message(2)])
            server.kill()
            server.start()
            for work in (bus.publish([message(3)]), log(bus), bus.last(), anext(bus.consume("g")), bus.dead_letters("g")):
                with pytest.raises(BusError, match=r"not what it was.*lost messages or was emptied"):
                    await work
            await other.publish([message(number) for number in range(9)])
            with pytest.raises(BusError, match="not what it was"):  # longer than it was, and yet another log
                await log(bus)
            assert len(await log(other)) == 9
    finally:
        server.stop()


async def test_a_server_that_comes_back_with_an_old_snapshot_is_an_error(tmp_path: Path) -> None:
    """It is the same log, and it went back: what was acknowledged since is gone."""
    server = RedisServer(tmp_path, appendfsync="")
    server.start()
    try:
        async with opened(server.url, "fund") as bus:
            await bus.publish([message(1)])
            server.do("SAVE")
            await bus.publish([message(2), message(3)])
            server.kill()
            server.start()
            for work in (bus.publish([message(4)]), log(bus), bus.last()):
                with pytest.raises(BusError, match="ends at 1, and went further"):
                    await work
        async with opened(server.url, "fund") as bus:
            assert await bus.publish([message(5)]) == 2
    finally:
        server.stop()


async def test_a_log_that_is_emptied_under_its_consumer_is_an_error(server: RedisServer, name: str) -> None:
    """Also for the one that waits for what comes next."""
    async with opened(server.url, name) as bus, consuming(bus, "g") as deliveries:
        await bus.publish([message(1)])
        await take(deliveries, 1)
        waiting = asyncio.ensure_future(anext(deliveries))
        await asyncio.sleep(0.01)
        server.do("UNLINK", *server.do("KEYS", f"{{{name}}}:*"))
        with pytest.raises(BusError, match="not what it was"):
            await waiting


async def test_a_full_server_takes_nothing_of_a_batch_and_says_what_to_do(tmp_path: Path) -> None:
    """Consumers can still answer; with more memory the bus goes on."""
    server = RedisServer(tmp_path, appendfsync="no", maxmemory="6mb")
    server.start()
    try:
        async with opened(server.url, "fund") as bus:
            batches = [[replace(one, id=f"{number}-{one.id}") for one in BIG] for number in range(9)]
            good = 0
            with pytest.raises(BusUnavailable, match=r"memory is full \(maxmemory\): raise maxmemory"):  # noqa: PT012
                for batch in batches:
                    await bus.publish(batch)
                    good += 1
            assert 0 < good < 9
            assert len(await log(bus)) == 100 * good
            server.do("CONFIG", "SET", "maxmemory", "1mb")  # less than is used
            async with consuming(bus, "g") as deliveries:
                await take(deliveries, 2)
            server.do("CONFIG", "SET", "maxmemory", "0")
            for batch in batches[good:]:
                await bus.publish(batch)
            assert faults((one for batch in batches for one in batch), await log(bus)) == []
    finally:
        server.stop()


async def test_a_lost_acknowledgement_repeated_gives_the_message_once(server: RedisServer, name: str) -> None:
    """The answer is lost for good: the publisher does not know, and publishes again when the network is back."""
    async with opened(server.url, name) as near, far(server, name, timeout=SOON) as (bus, proxy):
        await bus.publish([message(1)])
        proxy.answers.lost = True
        with pytest.raises(BusUnavailable, match="may be published again"):
            await bus.publish([message(2), message(3)])
        assert [one.cycle for one in await log(near)] == [1, 2, 3]
        proxy.heal()
        assert await bus.publish([message(2), message(3)]) == 3
        assert [one.cycle for one in await log(near)] == [1, 2, 3]


async def test_a_connection_that_breaks_before_the_answer_is_no_matter(server: RedisServer, name: str) -> None:
    """The bus asks again by itself, and the message is there once."""
    async with opened(server.url, name) as near, far(server, name) as (bus, proxy):
        await bus.publish([message(1)])
        for number, reset in ((2, True), (3, False)):
            proxy.answers.held = True
            publishing = asyncio.ensure_future(bus.publish([message(number)]))
            while await near.publish([]) < number:  # it arrived
                await asyncio.sleep(0.005)
            proxy.cut(reset=reset)
            proxy.heal()
            assert await publishing == number
        assert [one.cycle for one in await log(near)] == [1, 2, 3]


async def test_a_message_whose_handing_over_was_lost_comes_again_at_once(server: RedisServer, name: str) -> None:
    """Not only after its lease: the consumer gives back what it does not know of."""
    async with opened(server.url, name) as near, far(server, name) as (bus, proxy), consuming(bus, "g") as deliveries:
        await bus.publish([message(1, key="a")])
        (held,) = await take(deliveries, 1, ack=False)
        waiting = asyncio.ensure_future(take(deliveries, 2))
        await asyncio.sleep(0.01)
        proxy.answers.held = True
        await near.publish([message(2), message(3)])
        await until(lambda: server.do("ZCARD", f'{{{name}}}:group:["g", null]:held') == 2)
        proxy.cut()
        proxy.heal()
        assert [(one.message.cycle, one.attempt) for one in await waiting] == [(2, 2), (3, 1)]
        await held.ack()


async def test_an_ack_whose_answer_was_lost_counts(server: RedisServer, name: str) -> None:
    """Within its lease nobody else can have had the message; and it does not come again."""
    async with far(server, name, timeout=2 * SOON) as (bus, proxy), consuming(bus, "g") as deliveries:
        await bus.publish([message(number, key=f"k{number}") for number in range(4)])
        await take(deliveries, 1)  # the server knows the scripts by then
        first, second, third = await take(deliveries, 3, ack=False)
        proxy.answers.held = True
        acking = asyncio.ensure_future(first.ack())
        await until(lambda: server.do("ZCARD", f'{{{name}}}:group:["g", null]:held') == 2)
        proxy.cut()
        proxy.heal()
        await acking
        proxy.answers.lost = True
        with pytest.raises(BusUnavailable):
            await second.ack()
        proxy.heal()
        await second.ack()
        await third.nack("once more")
        (again,) = await take(deliveries, 1)
        assert (again.message.cycle, again.attempt) == (3, 2)


async def test_a_slow_network_in_small_packets_changes_nothing(server: RedisServer, name: str) -> None:
    """Answers arrive in pieces, and publishers share their ways."""
    written = [[message(number, key=f"k{writer}") for number in range(5)] for writer in range(8)]
    async with far(server, name) as (bus, proxy):
        proxy.requests.delay = proxy.answers.jitter = 0.002
        proxy.answers.piece = 7

        async def write(batch: list[Message]) -> None:
            for one in batch:
                await bus.publish([one])

        await asyncio.gather(*map(write, written))
        assert faults((one for batch in written for one in batch), await log(bus)) == []


async def test_the_log_is_found_in_a_cluster(tmp_path: Path) -> None:
    """It lies on one node; another node says which, also to consumers."""
    gossip = [f"{free_port()}" for _ in range(2)]
    nodes = [RedisServer(tmp_path / port, "no", cluster_enabled="yes", cluster_port=port) for port in gossip]
    try:
        for node in nodes:
            node.start()
        for node, slots in zip(nodes, ((0, 8_191), (8_192, 16_383)), strict=True):
            node.do("CLUSTER", "ADDSLOTSRANGE", *slots)
        nodes[0].do("CLUSTER", "MEET", "127.0.0.1", nodes[1].port, gossip[1])
        await until(lambda: all(b"cluster_state:ok" in node.do("CLUSTER", "INFO") for node in nodes))
        for name in ("fund", "another", "third"):
            async with opened(nodes[0].url, name) as bus, consuming(bus, "g") as deliveries:
                assert await bus.publish([message(1), message(2)]) == 2
                assert [one.message.cycle for one in await take(deliveries, 2)] == [1, 2]
                assert len(await log(bus)) == 2
        homes = [
            sum(f"{{{name}}}:log".encode() in node.do("KEYS", "*") for name in ("fund", "another", "third")) for node in nodes
        ]
        assert sum(homes) == 3
        assert homes[1] > 0
    finally:
        for node in nodes:
            node.stop()
