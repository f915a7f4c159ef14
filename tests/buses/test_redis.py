"""The log in Redis keeps the contract, says what it survives, and refuses what would lose it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from agentfund.buses import RedisBus, redis_groups
from agentfund.buses.redis_server import judge
from agentfund.errors import BusError, BusUnavailable, SchemaTooNew
from agentfund.messages import Durability
from agentfund.protocols import Bus, Delivery
from agentfund.testing.bus import BusContract, consuming, faults, log, message, take
from tests.buses.server_redis import RedisServer
from tests.buses.servers import service

SESSION = uuid.uuid4().hex
ADDRESS = service("AGENTFUND_REDIS", 6379)
standard = pytest.mark.skipif(ADDRESS is None, reason="no Redis at 127.0.0.1:6379; start one, or set AGENTFUND_REDIS=host:port")


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing() -> Iterator[None]:
    yield
    if ADDRESS:
        with redis.Redis.from_url(f"redis://{ADDRESS}/0") as client:
            for key in client.scan_iter(f"{{{SESSION}-*", count=1_000):
                client.unlink(key)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that syncs before each answer."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def name(tmp_path: Path) -> str:
    """A log of the test's own."""
    return f"{SESSION}-{tmp_path.name}"


async def waits(server: RedisServer) -> None:
    """Return when a consumer waits in the server."""
    async with asyncio.timeout(40):
        while b"cmd=xread" not in server.do("CLIENT", "LIST"):
            await asyncio.sleep(0.005)


@standard
class TestRedisBus(BusContract):
    """On a server that keeps nothing on disk."""

    def make_bus(self, folder: Path) -> Bus:
        return RedisBus(f"redis://{ADDRESS}/0", name=f"{SESSION}-{folder.name}", demand="none")


class TestRedisBusOnDisk(BusContract):
    """On a server that syncs before each answer."""

    @pytest.fixture(autouse=True)
    def _server(self, server: RedisServer) -> None:
        self.url = server.url

    def make_bus(self, folder: Path) -> Bus:
        return RedisBus(self.url, name=f"{SESSION}-{folder.name}", demand="power")


@pytest.mark.parametrize(
    ("appendfsync", "level"),
    [("always", "power"), ("everysec", "process"), ("no", "process")],
    ids=["always", "everysec", "no"],
)
async def test_the_server_says_what_a_message_survives(
    server: RedisServer, name: str, appendfsync: str, level: Durability
) -> None:
    """It is asked, not assumed; before the connection the bus promises what was demanded."""
    server.do("CONFIG", "SET", "appendfsync", appendfsync)
    bus = RedisBus(server.url, name=name, demand="none")
    assert bus.durability == "none"
    words = await bus.describe()
    await bus.close()
    server.do("CONFIG", "SET", "appendfsync", "always")
    assert bus.durability == level
    assert name in words
    assert str(server.port) in words
    assert "append-only file" in words


async def test_a_server_that_is_not_durable_enough_is_refused_with_the_fix(server: RedisServer, name: str) -> None:
    """Who demands that a message survives a loss of power is told which setting stands against it."""
    server.do("CONFIG", "SET", "appendfsync", "everysec")
    bus = RedisBus(server.url, name=name, demand="power")
    with pytest.raises(BusError, match=r"does not survive a loss of power.*everysec.*CONFIG SET appendfsync always"):
        await bus.publish([message(1)])
    server.do("CONFIG", "SET", "appendfsync", "always")
    assert await bus.publish([message(1)]) == 1
    await bus.close()


@standard
async def test_a_server_without_an_append_only_file_is_refused_unless_nothing_is_demanded(name: str) -> None:
    """It is reported, not assumed."""
    bus = RedisBus(f"redis://{ADDRESS}/0", name=name)
    with pytest.raises(BusError, match=r"no append-only file.*appendonly yes.*demand='none'"):
        await bus.publish([message(1)])
    await bus.close()
    bus = RedisBus(f"redis://{ADDRESS}/0", name=name, demand="none")
    assert await bus.publish([message(1)]) == 1
    assert bus.durability == "none"
    await bus.close()


@pytest.mark.parametrize(
    ("info", "config", "level", "says"),
    [
        ({"aof_enabled": "1"}, {}, "process", "not known"),
        ({"aof_enabled": "0"}, {}, "none", "loses the log"),
        ({}, {}, "none", "as far as INFO"),
        ({}, {"appendonly": "no", "save": "60 1"}, "none", "last snapshot"),
        ({}, {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "yes"}, "process", "rewritten"),
        ({"connected_slaves": "2"}, {"appendonly": "yes", "appendfsync": "always"}, "power", "failover"),
    ],
    ids=["config-forbidden", "config-forbidden-no-file", "all-forbidden", "snapshots", "no-sync-on-rewrite", "replicas"],
)
def test_what_a_server_says_is_judged(info: dict[str, str], config: dict[str, str], level: str, says: str) -> None:
    """What is not known is said, and counts for the less."""
    found = judge({"redis_version": "7.2.4"} | info, config)
    assert (found.level, found.trouble, found.failing) == (level, "", "")
    assert says in found.why


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({"redis_version": "6.2.1"}, "too old"),
        ({"role": "slave", "master_host": "db", "master_port": "7"}, "primary, db:7"),
        ({"maxmemory_policy": "allkeys-lru"}, "noeviction"),
    ],
    ids=["old", "replica", "evicting"],
)
def test_servers_that_would_lose_the_log_are_refused(info: dict[str, str], says: str) -> None:
    """Whatever is demanded."""
    assert says in judge({"redis_version": "7.2.4"} | info, {}).trouble


def test_valkey_is_known_by_its_own_version_and_a_failing_disk_is_told() -> None:
    """Valkey gives an old version of Redis as well, for those who ask for it."""
    found = judge({"redis_version": "7.2.4", "valkey_version": "8.1.0", "aof_last_write_status": "err"}, {"appendonly": "yes"})
    assert found.server == "Valkey 8.1.0"
    assert "disk" in found.failing


async def test_a_server_that_evicts_is_refused(server: RedisServer, name: str) -> None:
    """When its memory is full it would delete the log."""
    server.do("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    bus = RedisBus(server.url, name=name, demand="none")
    with pytest.raises(BusError, match=r"allkeys-random.*noeviction"):
        await bus.publish([message(1)])
    await bus.close()
    server.do("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_a_replica_is_refused(server: RedisServer, name: str, tmp_path: Path) -> None:
    """What is written to it is lost."""
    replica = RedisServer(tmp_path, "no", replicaof=f"127.0.0.1 {server.port}")
    replica.start()
    bus = RedisBus(replica.url, name=name, demand="none")
    try:
        with pytest.raises(BusError, match=rf"replica.*primary, 127\.0\.0\.1:{server.port}"):
            await bus.publish([message(1)])
    finally:
        await bus.close()
        replica.stop()


async def test_users_with_few_rights_are_told_which_they_lack(server: RedisServer, name: str) -> None:
    """Half a script is worse than none: who may not write all of it writes nothing. Reading goes on."""
    server.do("ACL", "SETUSER", "careful", "on", ">secret", "~*", "+@all", "-config")
    server.do("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-hset", "-config", "-info")
    at = f"127.0.0.1:{server.port}/0"
    bus = RedisBus(f"redis://careful:secret@{at}", name=name)
    await bus.publish([message(1)])
    assert bus.durability == "process"
    assert "not known" in await bus.describe()
    await bus.close()
    bus = RedisBus(f"redis://reader:secret@{at}", name=name, demand="none")
    assert await log(bus) == [message(1).at(1)]
    for work in (bus.publish([message(2)]), anext(bus.consume("g"))):
        with pytest.raises(BusError, match=r"may only read.*HSET"):
            await work
    assert len(await log(bus)) == 1
    await bus.close()


async def test_a_wrong_password_is_no_secret_of_the_error(server: RedisServer, name: str) -> None:
    """It names the address, not the password."""
    bus = RedisBus(f"redis://careful:wrong-one@127.0.0.1:{server.port}/0", name=name)
    with pytest.raises(BusError, match=f"127.0.0.1:{server.port}: name or password are wrong") as error:
        await bus.last()
    assert "wrong-one" not in str(error.value)
    await bus.close()


@pytest.mark.parametrize(
    "url", ["127.0.0.1:6379", "http://127.0.0.1", "redis://127.0.0.1:port", "redis://127.0.0.1/0?colour=red"]
)
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    """With one that would be."""
    with pytest.raises(BusError, match="redis://host:6379/0"):
        RedisBus(url)


@pytest.mark.parametrize("bad", ["", "a{b}"], ids=["empty", "braces"])
def test_names_that_would_break_the_keys_are_refused(bad: str) -> None:
    """Braces decide on which node of a cluster a key lies."""
    with pytest.raises(BusError, match="cannot name a log"):
        RedisBus("redis://127.0.0.1", name=bad)


@pytest.mark.parametrize("url", ["redis://h:1/0?max_connections=5", "rediss://h:1", "unix:///tmp/redis.sock?db=1"])
def test_addresses_may_have_the_options_of_the_library(url: str) -> None:
    """Those of its pool do not matter here; TLS and sockets do."""
    assert RedisBus(url).durability == "process"


def test_without_the_package_the_extra_is_named() -> None:
    """And importing the buses works."""
    program = (
        "import sys; sys.modules['redis'] = None\n"
        "from agentfund.buses import RedisBus\nfrom agentfund.errors import BusError\n"
        "try:\n    RedisBus('redis://h')\nexcept BusError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'agentfund[redis]'" in done.stdout


@pytest.mark.parametrize("key", ["meta", "log", "ids"])
async def test_keys_of_another_program_are_not_touched(server: RedisServer, name: str, key: str) -> None:
    """Also when they are of a kind that would do."""
    server.do("HSET", f"{{{name}}}:{key}", "theirs", "1")
    bus = RedisBus(server.url, name=name)
    with pytest.raises(BusError, match="choose another name"):
        await bus.publish([message(1)])
    await bus.close()
    assert server.do("HGETALL", f"{{{name}}}:{key}") == {b"theirs": b"1"}
    assert server.do("KEYS", f"{{{name}}}:*") == [f"{{{name}}}:{key}".encode()]


async def test_a_log_of_a_newer_agentfund_is_not_misread(server: RedisServer, name: str) -> None:
    """It says what to do."""
    server.do("HSET", f"{{{name}}}:meta", "format", "9", "id", "x", "end", "3")
    bus = RedisBus(server.url, name=name)
    with pytest.raises(SchemaTooNew, match=r"format 9.*upgrade"):
        await log(bus)
    await bus.close()


async def test_deleted_messages_are_an_error_and_not_a_gap(server: RedisServer, name: str) -> None:
    """A reader never goes on behind a hole."""
    bus = RedisBus(server.url, name=name)
    await bus.publish([message(number) for number in range(5)])
    server.do("XDEL", f"{{{name}}}:log", "3-0")
    with pytest.raises(BusError, match="deleted or changed"):
        await log(bus)
    await bus.close()


async def test_what_llms_write_survives(server: RedisServer, name: str) -> None:
    """A lone surrogate, which is no UTF-8, and a reason that has one."""
    written = replace(message(1, key="k 1", stream="s 1"), payload={"text": "\ud800 \x00"})
    bus = RedisBus(server.url, name=name, max_attempts=1)
    await bus.publish([written])
    assert await log(bus, "s 1") == [await bus.last("s 1")] == [written.at(1)]
    assert await log(bus, "\ud800") == []
    async with consuming(bus, "g \ud800", "s 1") as deliveries:
        (delivery,) = await take(deliveries, 1, ack=False)
        await delivery.nack("no: \ud800\n")
    assert await bus.dead_letters("g \ud800") == [(written.at(1), "no: \ud800\n")]
    await bus.close()


async def test_what_nobody_answered_for_within_its_lease_becomes_a_dead_letter(server: RedisServer, name: str) -> None:
    """After as many attempts as are allowed, with the reason; a consumer that answers then is refused."""
    bus = RedisBus(server.url, name=name, max_attempts=1, lease=timedelta(milliseconds=20))
    await bus.publish([message(1), message(2)])
    async with consuming(bus, "g") as one, consuming(bus, "g") as two:
        (late,) = await take(one, 1, ack=False)
        (after,) = await take(two, 1)
        with pytest.raises(BusError, match="another consumer"):
            await late.ack()
    assert (late.message.cycle, after.message.cycle) == (1, 2)
    assert await bus.dead_letters("g") == [(message(1).at(1), "no consumer answered for it within its lease")]
    await bus.close()


@standard
async def test_more_dead_letters_than_a_page_are_all_told(name: str) -> None:
    """Oldest first, whatever stream they were consumed from."""
    written = [message(number, stream=f"s{number % 2}") for number in range(300)]
    bus = RedisBus(f"redis://{ADDRESS}/0", name=name, max_attempts=1, demand="none")
    await bus.publish(written)
    for stream in ("s1", "s0"):
        async with consuming(bus, "g", stream) as deliveries:
            for _ in range(150):
                await (await anext(deliveries)).nack(stream)
    assert [one.cycle for one, _ in await bus.dead_letters("g")] == list(range(300))
    await bus.close()


async def test_who_waits_is_woken_by_all_that_sets_something_free(
    server: RedisServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message, an ack, a nack and the leaving of another consumer, each told by the server and not found by looking."""
    monkeypatch.setattr(redis_groups, "_POLL_S", 60.0)
    bus, other = (RedisBus(server.url, name=name, lease=timedelta(hours=1)) for _ in range(2))

    async def waiting(deliveries: AsyncIterator[Delivery]) -> asyncio.Future[list[Delivery]]:
        task = asyncio.ensure_future(take(deliveries, 1, ack=False))
        await waits(server)
        return task

    async with consuming(bus, "g") as one:
        async with consuming(other, "g") as two:
            task = await waiting(one)
            await other.publish([message(1), message(2), message(3)])
            (first,) = await task
            task = await waiting(two)
            await first.ack()
            (second,) = await task
            task = await waiting(one)
            await second.nack("again")
            (second,) = await task
            task = await waiting(two)
            await second.ack()
            await task
            task = await waiting(one)
        (third,) = await task
    assert (third.message.cycle, third.attempt) == (3, 2)
    await bus.close()
    await other.close()


async def test_a_group_sets_aside_a_bounded_part_of_the_log(server: RedisServer, name: str) -> None:
    """However long the log is; what waits behind is reached as the work goes on."""
    bus = RedisBus(server.url, name=name)
    await bus.publish([message(number, key="slow") for number in range(3_000)] + [message(0, key="other")])
    async with consuming(bus, "g") as deliveries:
        (held,) = await take(deliveries, 1, ack=False)
        waiting = asyncio.ensure_future(take(deliveries, 1))
        await waits(server)
        assert server.do("HGET", f'{{{name}}}:group:["g", null]', "pending") == b"1024"
        await held.ack()
        assert [one.message.cycle for one in await waiting] == [1]
    await bus.close()


async def test_one_bus_serves_several_loops_and_threads(server: RedisServer, name: str) -> None:
    """At once and one after another; each has its own connections."""
    bus = RedisBus(server.url, name=name)

    def work(writer: int) -> None:
        async def write() -> None:
            for number in range(20):
                await bus.publish([message(number, key=f"k{writer}")])

        asyncio.run(write())

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(3)]
    for thread in threads:
        thread.start()
    await bus.publish([message(0, key="k3")])
    for thread in threads:
        await asyncio.to_thread(thread.join)
    written = [message(number, key=f"k{writer}") for writer in range(3) for number in range(20)] + [message(0, key="k3")]
    assert faults(written, await log(bus)) == []
    await bus.close()


async def test_after_its_end_a_bus_refuses_and_its_consumers_end(
    server: RedisServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that waits for what comes; what it held is handed back."""
    monkeypatch.setattr(redis_groups, "_POLL_S", 60.0)
    bus, other = (RedisBus(server.url, name=name, lease=timedelta(hours=1)) for _ in range(2))
    await bus.publish([message(1)])

    async def consume() -> list[int]:
        return [delivery.message.cycle async for delivery in bus.consume("g")]

    waiting = asyncio.ensure_future(consume())
    await waits(server)
    await bus.close()
    async with asyncio.timeout(40):
        assert await waiting == [1]
    for work in (bus.publish([message(2)]), bus.last()):
        with pytest.raises(BusUnavailable, match="closed"):
            await work
    async with consuming(other, "g") as deliveries:
        (again,) = await take(deliveries, 1)
    assert again.attempt == 2
    await other.close()
