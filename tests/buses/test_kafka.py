"""Kafka under a log, on the mock cluster: the protocol and faults, nothing of what makes a message durable."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
from aiokafka import errors  # type: ignore[import-untyped]
from aiokafka.protocol.admin import (  # type: ignore[import-untyped]
    CreateTopicsResponse_v0,
    CreateTopicsResponse_v1,
    DescribeConfigsResponse_v0,
    DescribeConfigsResponse_v1,
)

from agentfund.buses.kafka import KafkaBus
from agentfund.buses.kafka_topic import KEEPS, KafkaTopic, created, settings, unfit
from agentfund.buses.ordered import Ordered
from agentfund.errors import BusError, BusUnavailable
from agentfund.protocols import Bus
from agentfund.testing.bus import BusContract, consuming, log, message, take
from tests.buses.bus_processes import outlive_a_consumer
from tests.buses.ordered_contract import OrderedContract, following
from tests.buses.ordered_contract import take as frames_of
from tests.buses.server_kafka import NOT_ENOUGH_REPLICAS, NOT_LEADER, PRODUCE, TIMED_OUT, MockKafka
from tests.buses.servers import free_port

SHORT = timedelta(seconds=1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockKafka]:
    """Give a mock cluster for all tests of this module, each with topics of its own."""
    cluster = MockKafka(tmp_path_factory.mktemp("kafka"))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def name(cluster: MockKafka) -> str:
    """Give the name of a topic that is there; the mock cluster makes none by request."""
    name = f"test-{uuid.uuid4().hex}"
    cluster.topic(name)
    return name


@asynccontextmanager
async def down(cluster: MockKafka) -> AsyncIterator[None]:
    """Take all brokers down for the length of a `with` block."""
    cluster.down()
    try:
        yield
    finally:
        cluster.up()


class TestKafkaBus(BusContract):
    """The bus keeps the contract."""

    @pytest.fixture(autouse=True)
    def named(self, cluster: MockKafka, name: str) -> None:
        self.cluster = cluster
        self.name = name

    def make_bus(self, folder: Path) -> Bus:
        return KafkaBus(self.cluster.url, name=self.name)


class TestKafkaTopic(OrderedContract):
    """A topic is an ordered log."""

    @pytest.fixture(autouse=True)
    def named(self, cluster: MockKafka, name: str) -> None:
        self.cluster = cluster
        self.name = name

    def make(self) -> Ordered:
        return KafkaTopic(self.cluster.url, name=self.name, timeout=SHORT)

    def gone(self) -> AbstractAsyncContextManager[None]:
        return down(self.cluster)


async def test_a_lost_acknowledgement_does_not_double_the_message(cluster: MockKafka, name: str) -> None:
    """The brokers took it, their answer came too late, and publishing it again is harmless."""
    bus = KafkaBus(cluster.url, name=name, timeout=SHORT)
    await bus.publish([message(1)])
    cluster.delay(3_000)
    try:
        with pytest.raises(BusUnavailable, match="no answer within 1 s"):
            await bus.publish([message(2)])
    finally:
        cluster.delay(0)
    assert await bus.publish([message(2)]) == 2
    assert await bus.publish([message(3)]) == 3
    assert [one.cycle for one in await log(bus)] == [1, 2, 3]
    await bus.close()


async def test_brokers_that_are_gone_and_come_back(cluster: MockKafka, name: str) -> None:
    """Publishing fails in time; afterwards all goes on by itself, for a consumer too, and nothing is doubled."""
    bus = KafkaBus(cluster.url, name=name, timeout=SHORT)
    async with consuming(bus, "g") as deliveries:
        await bus.publish([message(1)])
        await take(deliveries, 1)
        async with down(cluster):
            with pytest.raises(BusUnavailable):
                await bus.publish([message(2)])
        assert await bus.publish([message(2)]) == 2
        assert [delivery.message.cycle for delivery in await take(deliveries, 1)] == [2]
    assert [one.cycle for one in await log(bus)] == [1, 2]
    await bus.close()


async def test_another_leader_takes_over(cluster: MockKafka, name: str) -> None:
    """The partition moves from broker to broker, and nobody notices."""
    bus = KafkaBus(cluster.url, name=name)
    for number in range(6):
        cluster.lead(name, number % 3 + 1)
        assert await bus.publish([message(number)]) == number + 1
    assert [one.cycle for one in await log(bus)] == list(range(6))
    await bus.close()


@pytest.mark.parametrize(
    "error", [NOT_LEADER, TIMED_OUT, NOT_ENOUGH_REPLICAS], ids=["no leader", "timed out", "too few replicas"]
)
async def test_what_passes_by_itself_is_waited_for(cluster: MockKafka, name: str, error: int) -> None:
    """Brokers that refuse for a moment are asked again within the time."""
    bus = KafkaBus(cluster.url, name=name)
    await bus.publish([message(1)])
    cluster.fail(PRODUCE, error, error)
    assert await bus.publish([message(2)]) == 2
    assert [one.cycle for one in await log(bus)] == [1, 2]
    await bus.close()


async def test_a_killed_consumer_loses_nothing(cluster: MockKafka, name: str) -> None:
    """Two processes share the work, and one is killed in the middle of it."""
    await outlive_a_consumer("KafkaBus", cluster.url, name)


async def test_a_topic_with_several_partitions_is_refused(cluster: MockKafka) -> None:
    """There is no order across them."""
    name = f"test-{uuid.uuid4().hex}"
    cluster.topic(name, partitions=4)
    bus = KafkaBus(cluster.url, name=name)
    with pytest.raises(BusError, match="has 4 partitions and so no order"):
        await bus.publish([message(1)])
    await bus.close()


async def test_brokers_that_make_no_topics_are_not_waited_for(cluster: MockKafka) -> None:
    """The error has the command that makes the topic as it has to be, and nothing was made by asking."""
    name = f"test-{uuid.uuid4().hex}"
    bus = KafkaBus(cluster.url, name=name)
    for _ in range(2):
        with pytest.raises(BusError, match=rf"kafka-topics.sh --create --partitions 1 .*retention.ms=-1 .*--topic {name}"):
            await bus.publish([message(1)])
    await bus.close()


async def test_a_topic_that_was_made_again_is_not_the_log(cluster: MockKafka, name: str) -> None:
    """A reader that stands beyond its end is told."""
    topic = KafkaTopic(cluster.url, name=name)
    await topic.append(b"the first of another log")
    async with following(topic, 5) as frames:
        with pytest.raises(BusError, match="ends before 5"):
            await anext(frames)
    await topic.close()


async def test_a_topic_that_was_deleted_in_use_is_not_the_log_any_more(cluster: MockKafka, name: str) -> None:
    """The mock cluster makes it again when it is asked for, as Kafka may: whoever publishes or reads is told."""
    bus = KafkaBus(cluster.url, name=name, timeout=SHORT)
    await bus.publish([message(1)])
    await bus.publish([message(2)])
    cluster.delete(name)
    with pytest.raises(BusError, match="begun anew while in use"):
        await bus.publish([message(3)])
    with pytest.raises(BusError, match="begun anew while in use"):
        await log(bus)
    await bus.close()


async def test_a_follower_that_hears_nothing_asks_again(cluster: MockKafka, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody answers it begins anew, until somebody does; it skips nothing."""
    monkeypatch.setattr("agentfund.buses.kafka_topic.IDLE_S", 0.1)
    topic = KafkaTopic(cluster.url, name=name, timeout=timedelta(seconds=0.3))
    await topic.append(b"before")
    async with following(topic) as frames:
        await frames_of(frames, 1)
        waiting = asyncio.ensure_future(frames_of(frames, 1))
        async with down(cluster):
            await asyncio.sleep(1)
        other = KafkaTopic(cluster.url, name=name)
        await other.append(b"after")
        await other.close()
        assert [frame.data for frame in await waiting] == [b"after"]
    await topic.close()


async def test_a_frame_that_is_too_large_is_refused(cluster: MockKafka, name: str) -> None:
    """To try again would not help, so it is no `BusUnavailable`."""
    topic = KafkaTopic(cluster.url, name=name)
    with pytest.raises(BusError, match="cannot take this") as told:
        await topic.append(bytes(2_000_000))
    assert not isinstance(told.value, BusUnavailable)
    await topic.close()


async def test_nobody_there() -> None:
    """The error names the addresses without the password, and says what to do."""
    port = free_port()
    bus = KafkaBus(f"kafka://user:secret@127.0.0.1:{port}?security=SASL_PLAINTEXT", timeout=SHORT)
    with pytest.raises(BusUnavailable, match=f"127.0.0.1:{port} cannot be reached.*start the brokers") as told:
        await bus.publish([message(1)])
    assert "secret" not in str(told.value)
    await bus.close()


async def test_the_level_is_process_and_no_more(cluster: MockKafka, name: str) -> None:
    """Kafka acknowledges before it syncs; a client cannot know that this cluster keeps nothing at all."""
    bus = KafkaBus(cluster.url, name=name)
    told = await bus.describe()
    assert bus.durability == "process"
    assert "replication factor 3, min.insync.replicas unknown" in told
    assert "the brokers do not tell" in told
    assert "not synced" in told
    await bus.close()
    with pytest.raises(BusError, match=r"'power' cannot be had.*demand='process'"):
        KafkaBus(cluster.url, demand="power")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        pytest.param("amqp://127.0.0.1", "agentfund", id="another scheme"),
        pytest.param("127.0.0.1:9092", "agentfund", id="no scheme"),
        pytest.param("kafka://127.0.0.1?security=none", "agentfund", id="a protocol that is none"),
        pytest.param("kafka://127.0.0.1?acks=0", "agentfund", id="an option that is none"),
        pytest.param("kafka://127.0.0.1", "", id="no name"),
        pytest.param("kafka://127.0.0.1", "..", id="two dots"),
        pytest.param("kafka://127.0.0.1", "a/b", id="a slash"),
    ],
)
def test_an_address_or_a_name_that_cannot_be(url: str, name: str) -> None:
    """It is told when the bus is made, before anything is connected."""
    with pytest.raises(BusError, match=r"is not Kafka|cannot name a topic|there is PLAINTEXT|is nothing that an address"):
        KafkaBus(url, name=name)


def test_what_a_topic_keeps_is_read_from_the_brokers_answer() -> None:
    """In the library's own types, through bytes and back, in the versions that differ."""
    entries = [("retention.ms", "604800000"), ("cleanup.policy", "delete"), ("min.insync.replicas", "2")]
    old = DescribeConfigsResponse_v0(0, [(0, "", 2, "log", [(*entry, False, False, False) for entry in entries])])
    new = DescribeConfigsResponse_v1(0, [(0, None, 2, "log", [(*entry, False, 1, False, []) for entry in entries])])
    for answer in (old, new):
        told = settings([type(answer).decode(BytesIO(answer.encode()))])
        assert told == dict(entries)
        assert unfit(told) == {"retention.ms": "604800000"}
    assert unfit({**KEEPS, "min.insync.replicas": "1"}) == {}
    with pytest.raises(errors.TopicAuthorizationFailedError):
        settings([DescribeConfigsResponse_v0(0, [(29, "not for you", 2, "log", [])])])


def test_what_became_of_a_topic_is_read_from_the_brokers_answer() -> None:
    """In the library's own types, through bytes and back, in the versions that differ."""
    for answer, kind in (
        (CreateTopicsResponse_v0([("log", 0)]), errors.NoError),
        (CreateTopicsResponse_v1([("log", 36, "it exists")]), errors.TopicAlreadyExistsError),
        (CreateTopicsResponse_v1([("log", 38, None)]), errors.InvalidReplicationFactorError),
    ):
        assert created(type(answer).decode(BytesIO(answer.encode())))[0] is kind


def test_without_its_client_the_other_buses_work() -> None:
    """Whoever asks for this one is told what to install."""
    program = "import sys; sys.modules['aiokafka'] = None; from agentfund.buses import MemoryBus, KafkaBus"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "agentfund.errors.BusError: KafkaBus needs aiokafka: pip install 'agentfund[kafka]'"
