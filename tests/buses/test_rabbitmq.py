"""RabbitMQ streams under a log, on the standard service."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiormq
import pytest
import pytest_asyncio

from agentfund.buses.ordered import Ordered
from agentfund.buses.rabbitmq import RabbitBus
from agentfund.buses.rabbitmq_stream import RabbitStream
from agentfund.errors import BusError, BusUnavailable
from agentfund.protocols import Bus
from agentfund.testing.bus import BusContract, consuming, log, message, take
from tests.buses.bus_processes import outlive_a_consumer
from tests.buses.ordered_contract import OrderedContract, following
from tests.buses.ordered_contract import take as frames_of
from tests.buses.relay import Relay
from tests.buses.servers import free_port, service

FOUND = service("AGENTFUND_RABBITMQ", 5672)
if FOUND is None:
    pytest.skip("no RabbitMQ server at 127.0.0.1:5672", allow_module_level=True)
ADDRESS: str = FOUND
URL = f"amqp://guest:guest@{ADDRESS}/"
SHORT = timedelta(seconds=1)


async def declare(name: str, arguments: dict[str, Any]) -> None:
    """Make a queue."""
    connection = await aiormq.connect(URL)
    await (await connection.channel()).queue_declare(name, durable=True, arguments=arguments)
    await connection.close()


async def delete(name: str) -> None:
    """Delete a queue; it may be gone already."""
    connection = await aiormq.connect(URL)
    await (await connection.channel()).queue_delete(name)
    await connection.close()


@pytest_asyncio.fixture
async def name() -> AsyncIterator[str]:
    """Give a name for a log, and delete its queue afterwards."""
    name = f"test-{uuid.uuid4().hex}"
    yield name
    await delete(name)


class TestRabbitBus(BusContract):
    """The bus keeps the contract."""

    @pytest.fixture(autouse=True)
    def named(self, name: str) -> None:
        self.name = name

    def make_bus(self, folder: Path) -> Bus:
        return RabbitBus(URL, name=self.name)


class TestRabbitStream(OrderedContract):
    """A stream is an ordered log, over a line that can be cut."""

    @pytest_asyncio.fixture(autouse=True)
    async def named(self, name: str) -> AsyncIterator[None]:
        self.name = name
        async with Relay(ADDRESS).opened() as self.relay:
            yield

    def make(self) -> Ordered:
        return RabbitStream(f"amqp://guest:guest@{self.relay.address}/", name=self.name, timeout=timedelta(seconds=2))

    def gone(self) -> AbstractAsyncContextManager[None]:
        return self.relay.away()


async def test_a_lost_confirmation_does_not_double_the_message(name: str) -> None:
    """The server took it, its answer was lost, and publishing it again is harmless; a consumer goes on by itself."""
    async with Relay(ADDRESS).opened() as relay:
        bus = RabbitBus(f"amqp://guest:guest@{relay.address}/", name=name, timeout=SHORT)
        await bus.publish([message(1)])
        async with consuming(bus, "g") as deliveries:
            await take(deliveries, 1)
            relay.deaf = True
            with pytest.raises(BusUnavailable):
                await bus.publish([message(2)])
            await relay.cut()
            with pytest.raises(BusUnavailable):
                await bus.publish([message(2)])
            await relay.mend()
            assert await bus.publish([message(2)]) == 2
            assert await bus.publish([message(3)]) == 3
            assert [delivery.message.cycle for delivery in await take(deliveries, 2)] == [2, 3]
        assert [one.cycle for one in await log(bus)] == [1, 2, 3]
        await bus.close()


async def test_a_killed_consumer_loses_nothing(name: str) -> None:
    """Two processes share the work, and one is killed in the middle of it."""
    await outlive_a_consumer("RabbitBus", URL, name)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param({}, "x-queue-type", id="a classic queue"),
        pytest.param({"x-queue-type": "quorum"}, "x-queue-type", id="a quorum queue"),
        pytest.param({"x-queue-type": "stream", "x-max-age": "7D"}, "x-max-age", id="a stream that forgets by age"),
        pytest.param(
            {"x-queue-type": "stream", "x-max-length-bytes": 1 << 30}, "x-max-length-bytes", id="a stream that forgets by size"
        ),
    ],
)
async def test_a_queue_that_cannot_keep_a_log_is_refused(name: str, arguments: dict[str, Any], told: str) -> None:
    """The error says what is wrong with it, and the queue stays as it is."""
    await declare(name, arguments)
    bus = RabbitBus(URL, name=name)
    with pytest.raises(BusError, match=f"cannot be the log: .*{told}.*choose another name"):
        await bus.publish([message(1)])
    await bus.close()
    await declare(name, arguments)


async def test_a_stream_that_was_deleted_in_use_is_not_made_again(name: str) -> None:
    """That would hide the loss: whoever writes or reads is told."""
    stream = RabbitStream(URL, name=name)
    await stream.connect()
    await stream.append(b"precious")
    await delete(name)
    for _ in range(2):
        with pytest.raises(BusError, match="is gone"):
            await stream.append(b"more")
    with pytest.raises(BusError, match="is gone"):
        await stream.end()
    with pytest.raises(BusError, match="is gone"):
        async with following(stream, 0) as frames:
            await anext(frames)
    await stream.close()
    with pytest.raises(BusError, match="is gone"):
        await stream.connect()


async def test_a_stream_that_was_made_again_is_not_the_log(name: str) -> None:
    """A reader that stands beyond its end is told, and does not wait for it to grow."""
    stream = RabbitStream(URL, name=name, timeout=timedelta(seconds=0.3))
    await stream.connect()
    await stream.append(b"the first of another log")
    async with following(stream, 5) as frames:
        with pytest.raises(BusError, match="ends before place 5"):
            await anext(frames)
    await stream.close()


async def test_a_follower_that_hears_nothing_asks_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it begins anew, it skips nothing and gives nothing twice."""
    monkeypatch.setattr("agentfund.buses.rabbitmq_stream.IDLE_S", 0.01)
    stream = RabbitStream(URL, name=name)
    async with following(stream) as frames:
        waiting = asyncio.ensure_future(frames_of(frames, 10))
        for number in range(10):
            await asyncio.sleep(0.04)
            if number % 2:
                await stream.end()  # leaves a mark
            await stream.append(b"%d" % number)
        assert [frame.data for frame in await waiting] == [b"%d" % number for number in range(10)]
    await stream.close()


async def test_who_may_not_enter_is_told_without_the_password(name: str) -> None:
    """A wrong password, and a vhost that is not there."""
    for url in (f"amqp://guest:secret@{ADDRESS}/", f"amqp://guest:guest@{ADDRESS}/nowhere"):
        bus = RabbitBus(url, name=name)
        with pytest.raises(BusError, match=f"{name}.*{ADDRESS}.*(refuses us|not let us in).*check ") as told:
            await bus.publish([message(1)])
        assert not isinstance(told.value, BusUnavailable)
        assert "secret" not in str(told.value)
        await bus.close()


async def test_nobody_there(name: str) -> None:
    """The error names the address without the password, and says what to do."""
    port = free_port()
    bus = RabbitBus(f"amqp://guest:secret@127.0.0.1:{port}/", name=name, timeout=SHORT)
    with pytest.raises(BusUnavailable, match=f"127.0.0.1:{port} cannot be reached.*start it") as told:
        await bus.publish([message(1)])
    assert "secret" not in str(told.value)
    await bus.close()


async def test_the_level_is_process_and_no_more(name: str) -> None:
    """A stream is confirmed before it is synced; the description says so."""
    bus = RabbitBus(URL, name=name)
    told = await bus.describe()
    assert bus.durability == "process"
    assert ADDRESS in told
    assert "not synced" in told
    await bus.close()
    with pytest.raises(BusError, match=r"'power' cannot be had.*demand='process'"):
        RabbitBus(URL, demand="power")


@pytest.mark.parametrize(
    ("url", "name"),
    [("redis://127.0.0.1", "agentfund"), ("127.0.0.1:5672", "agentfund"), (URL, ""), (URL, "x" * 256), (URL, "amq.rabbit")],
    ids=["another scheme", "no scheme", "no name", "a long name", "a name of the server's own"],
)
def test_an_address_or_a_name_that_cannot_be(url: str, name: str) -> None:
    """It is told when the bus is made, before anything is connected."""
    with pytest.raises(BusError, match=r"is not RabbitMQ|cannot name a queue"):
        RabbitBus(url, name=name)


def test_without_its_client_the_other_buses_work() -> None:
    """Whoever asks for this one is told what to install."""
    program = "import sys; sys.modules['aiormq'] = None; from agentfund.buses import MemoryBus, RabbitBus"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (
        done.stderr.splitlines()[-1] == "agentfund.errors.BusError: RabbitBus needs aio-pika: pip install 'agentfund[rabbitmq]'"
    )
