"""The machine over a log of frames, when everything goes wrong that can."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import suppress
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from agentfund.buses import MemoryBus
from agentfund.buses.frames import LARGEST
from agentfund.buses.mirrored import MirroredBus
from agentfund.buses.ordered import Frame
from agentfund.clock import SimulatedClock
from agentfund.errors import BusError, BusUnavailable, SchemaTooNew
from agentfund.messages import Message
from agentfund.protocols import Bus, Delivery
from agentfund.testing.bus import NOON, consuming, faults, log, message, take
from tests.buses.lines import LATE, LOST_ACKNOWLEDGEMENT, Broker, FaultyLine, Line, tables


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def bus(broker: Broker) -> AsyncIterator[MirroredBus]:
    bus = MirroredBus(Line(broker))
    yield bus
    await bus.close()


async def publish(bus: Bus, batch: list[Message]) -> int:
    """Publish, again and again until it is acknowledged."""
    async with asyncio.timeout(20):
        while True:
            with suppress(BusUnavailable):
                return await bus.publish(batch)


async def acked(delivery: Delivery) -> None:
    """Acknowledge, again and again until it is certain."""
    while True:
        with suppress(BusUnavailable):
            return await delivery.ack()


async def settled(bus: MirroredBus) -> None:
    """Wait until a bus has read everything."""
    async with asyncio.timeout(20):
        while True:
            with suppress(BusUnavailable):
                await bus.last()
                return


def model(frames: list[bytes]) -> list[tuple[str, ...]]:
    """Return the ids that a log of frames says, by rules that are written here once more."""
    newest: dict[str, int] = {}
    ids = []
    for frame in frames:
        head = json.loads(frame.partition(b"\n")[0])
        writer, number, _ = head["frame"]
        if number > newest.get(writer, 0):
            newest[writer] = number
            ids += [tuple(one[0] for one in part[1:]) for part in head["parts"] if part[0] == "put"]
    return ids


@pytest.mark.parametrize("seed", range(4))
async def test_all_mirrors_of_a_log_are_the_same_whatever_the_network_does(broker: Broker, seed: int) -> None:
    """Four buses publish and consume through faults: equal tables, nothing lost or doubled, as a plain log would have it."""
    dice = random.Random(seed)
    lines = [FaultyLine(broker, random.Random(seed * 10 + number)) for number in range(4)]
    buses = [MirroredBus(line, lease=timedelta(seconds=0.05), max_attempts=3) for line in lines]
    written = [[message(number, key=f"k{writer}", stream=f"s{number % 2}") for number in range(12)] for writer in range(4)]
    everything = {one.id: one for batch in written for one in batch}
    offsets: dict[str, int] = {}
    given: dict[str, dict[str, Message]] = {"a": {}, "b": {}}

    async def write(bus: Bus, batch: list[Message]) -> None:
        start = 0
        while start < len(batch):
            size = dice.randrange(1, 5)
            some = batch[max(0, start - dice.randrange(2)) : start + size]  # some of it again
            offsets[some[-1].id] = await publish(bus, some)
            start += size

    async def work(bus: Bus, group: str) -> None:
        while True:
            with suppress(BusUnavailable, TimeoutError):
                async with asyncio.timeout(dice.uniform(0.02, 0.3)), consuming(bus, group) as deliveries:
                    async for delivery in deliveries:
                        given[group].setdefault(delivery.message.id, delivery.message)
                        with suppress(BusError):
                            await (delivery.ack() if dice.randrange(8) else delivery.nack("the dice say no"))

    async with asyncio.timeout(40):
        writing = asyncio.gather(*map(write, buses, written))
        if seed % 2:  # with nobody waiting, frames are folded in another way
            await writing
        workers = [asyncio.ensure_future(work(bus, group)) for bus, group in zip(buses, cycle("ab"), strict=False)]
        await writing
        while [group[3] for group in tables(buses[0])["groups"]] != [48, 48] or tables(buses[0])["pending"]:
            await asyncio.sleep(0.01)
            await settled(buses[0])
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        for line in lines:
            line.calm = True
        await asyncio.sleep(0.02)  # what is late comes
        for bus in buses:
            await settled(bus)
    first, *others = map(tables, buses)
    assert all(other == first for other in others)
    seen = await log(buses[0])
    assert faults((one for batch in written for one in batch), seen) == []
    plain = MemoryBus()
    for ids in model(broker.frames):
        await plain.publish([everything[name] for name in ids])
    assert await log(plain) == seen
    assert all(seen[offset - 1].id == name for name, offset in offsets.items())
    for came in given.values():
        assert [fault for fault in faults(everything.values(), came.values()) if "lost" not in fault] == []
    for group, came in given.items():
        assert everything.keys() - came.keys() <= {one.id for one, _ in await buses[0].dead_letters(group)}
    for bus in buses:
        await bus.close()


@pytest.mark.parametrize("seed", range(2))
async def test_consumers_of_several_buses_keep_the_order_through_faults(broker: Broker, seed: int) -> None:
    """Three buses share the work of a group: each key in order, nothing lost; what was acknowledged does not come again."""
    buses = [MirroredBus(FaultyLine(broker, random.Random(seed * 10 + number))) for number in range(3)]
    written = [message(number, key=f"k{number % 4}") for number in range(60)]
    seen: list[Message] = []
    done: set[str] = set()

    async def work(bus: Bus) -> None:
        async with consuming(bus, "g") as deliveries:
            async for delivery in deliveries:
                assert delivery.message.id not in done
                seen.append(delivery.message)
                await acked(delivery)
                done.add(delivery.message.id)

    async with asyncio.timeout(30):
        await publish(buses[0], written)
        workers = [asyncio.ensure_future(work(bus)) for bus in buses]
        while len(done) < len(written):
            await asyncio.sleep(0.01)
            for worker in workers:
                assert not worker.done() or worker.exception() is None
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    assert faults(written, seen) == []
    for bus in buses:
        await bus.close()


async def test_every_frame_twice_changes_nothing(broker: Broker) -> None:
    """Also the frames of consumers: no message is claimed by a claim that was repeated, no answer counts twice."""

    class Twice(Line):
        async def append(self, data: bytes) -> int | None:
            self.broker.append(data)
            return self.broker.append(data)

    bus = MirroredBus(Twice(broker))
    await bus.publish([message(number, key=f"k{number}") for number in range(5)])
    async with consuming(bus, "g") as deliveries:
        seen = await take(deliveries, 3)
        assert [(delivery.message.cycle, delivery.attempt) for delivery in seen] == [(0, 1), (1, 1), (2, 1)]
        assert [(row[1], row[3]) for row in tables(bus)["pending"]] == [(4, 0), (5, 0)]
    await bus.close()


class Gate(Line):
    """A line that can be shut: frames wait before they are appended."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker)
        self.waiting = 0
        self.last = b""
        self.open = asyncio.Event()
        self.open.set()

    async def append(self, data: bytes) -> int | None:
        self.last = data
        self.waiting += 1
        await self.open.wait()
        self.waiting -= 1
        return await super().append(data)

    async def shut(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Shut it, begin some work, and wait until that waits."""
        self.open.clear()
        task = asyncio.ensure_future(work)
        while not self.waiting:
            await asyncio.sleep(0.001)
        return task


async def test_what_came_to_a_consumer_that_was_gone_already_does_not_count_as_an_attempt(broker: Broker) -> None:
    """Its claim was under way when it left; the next one gets the message at once."""
    gate = Gate(broker)
    bus = MirroredBus(gate)
    await bus.publish([message(1)])
    deliveries = bus.consume("g")
    waiting = await gate.shut(take(deliveries, 1))
    data, gate.last = gate.last, b""
    waiting.cancel()
    await asyncio.sleep(0)
    broker.append(data)  # it went out before
    gate.open.set()
    await asyncio.gather(waiting, return_exceptions=True)
    async with consuming(bus, "g") as again:
        (delivery,) = await take(again, 1)
    assert delivery.attempt == 1
    await bus.close()


async def test_what_comes_to_a_consumer_when_its_lease_is_over_is_not_handed_over(broker: Broker) -> None:
    """It belongs to whoever claims it next."""
    clock, gate = SimulatedClock(NOON), Gate(broker)
    bus = MirroredBus(gate, clock=clock)
    await bus.publish([message(1)])
    async with consuming(bus, "g") as deliveries:
        waiting = await gate.shut(take(deliveries, 1))
        clock.advance(31)
        gate.open.set()
        (delivery,) = await waiting
    assert delivery.attempt == 2
    await bus.close()


async def test_a_frame_that_comes_after_its_writer_gave_it_up_is_passed_over(broker: Broker) -> None:
    """The writer has written others since: whoever reads the log decides alike that it does not count."""
    line = FaultyLine(broker, random.Random(0))
    line.calm = True
    bus, other = MirroredBus(line), MirroredBus(Line(broker))
    await bus.publish([message(1)])
    line.calm, line.dice = False, LATE
    with pytest.raises(BusUnavailable, match="late"):
        await bus.publish([message(2)])
    line.calm = True
    await bus.publish([message(3)])
    await asyncio.sleep(0.02)
    assert broker.parts() == ["log", "put", "put", "put"]
    assert [one.cycle for one in await log(bus)] == [one.cycle for one in await log(other)] == [1, 3]
    await bus.close()
    await other.close()


async def test_an_ack_whose_acknowledgement_was_lost_may_be_repeated(broker: Broker) -> None:
    """It counted the first time, and the second is no alarm."""
    line = FaultyLine(broker, random.Random(0))
    line.calm = True
    bus = MirroredBus(line)
    await bus.publish([message(1)])
    async with consuming(bus, "g") as deliveries:
        (delivery,) = await take(deliveries, 1, ack=False)
        line.calm, line.dice = False, LOST_ACKNOWLEDGEMENT
        with pytest.raises(BusUnavailable, match="acknowledgement"):
            await delivery.ack()
        line.calm = True
        await delivery.ack()
    await bus.close()


async def test_a_claim_whose_acknowledgement_was_lost_still_gets_its_message(broker: Broker) -> None:
    """The log says that the consumer has it, so it gets it, long before the lease would hand it to another."""
    line = FaultyLine(broker, random.Random(0))
    line.calm = True
    bus = MirroredBus(line, lease=timedelta(hours=1))
    await bus.publish([message(1)])
    line.calm, line.dice = False, LOST_ACKNOWLEDGEMENT
    async with consuming(bus, "g") as deliveries:
        (delivery,) = await take(deliveries, 1, ack=False)
        line.calm = True
        await delivery.ack()
    assert delivery.attempt == 1
    await bus.close()


@pytest.mark.parametrize("kept", [False, True], ids=["temporary", "kept"])
async def test_what_was_appended_and_not_folded_when_the_process_died_is_there(
    broker: Broker, tmp_path: Path, kept: bool
) -> None:
    """The log has it: the next start reads it, and publishing it again changes nothing."""

    class Dying(Line):
        dies = False

        async def append(self, data: bytes) -> int | None:
            place = self.broker.append(data)
            if self.dies:
                self.broker.cut()
                raise asyncio.CancelledError
            return place

    line = Dying(broker)
    mirror = tmp_path / "mirror.db" if kept else None
    bus = MirroredBus(line, mirror=mirror)
    await bus.publish([message(1)])
    line.dies = True
    with pytest.raises(asyncio.CancelledError):
        await bus.publish([message(2)])
    await bus.close()
    again = MirroredBus(Line(broker), mirror=mirror)
    assert await again.publish([message(2)]) == 2
    assert [one.cycle for one in await log(again)] == [1, 2]
    await again.close()


async def test_what_is_written_and_does_not_come_back_is_no_success(broker: Broker) -> None:
    """The offset is not known, so publishing fails, and may be repeated."""

    class Deaf(Line):
        deaf = False

        def follow(self, after: int) -> AsyncGenerator[Frame, None]:
            return super().follow(1_000_000 if self.deaf else after)

        async def append(self, data: bytes) -> int | None:
            place = await super().append(data)
            return None if self.deaf else place

    line = Deaf(broker)
    bus = MirroredBus(line, timeout=timedelta(seconds=0.1))
    await bus.publish([message(0)])
    line.deaf = True
    broker.cut()
    await asyncio.sleep(0.1)
    with pytest.raises(BusUnavailable, match="not read back"):
        await bus.publish([message(1)])
    with pytest.raises(BusUnavailable, match="nothing was read"):
        await bus.last()
    await bus.close()


async def test_a_batch_of_many_megabytes_is_still_all_or_nothing(broker: Broker) -> None:
    """It goes in pieces, and counts with the last; a writer that dies before leaves nothing to see."""

    class Short(Line):
        left = 2

        async def append(self, data: bytes) -> int | None:
            self.left -= 1
            if self.left < 0:
                raise BusUnavailable("the line broke")
            return self.broker.append(data)

    big = [message(number).at(number) for number in range(4)]
    batch = [Message.new("Big", {"text": "é" * LARGEST}, stream="s", producer="p", time=NOON) for _ in range(3)]
    line = Short(broker)
    bus, other = MirroredBus(line), MirroredBus(Line(broker))
    with pytest.raises(BusUnavailable):
        await bus.publish(batch)
    assert await log(other) == []
    line.left = 1_000
    await other.publish(big[:1])
    writing = asyncio.ensure_future(bus.publish(batch))
    await other.publish(big[1:])
    await writing
    assert await log(bus) == await log(other)
    assert [one.payload for one in await log(bus) if one.type == "Big"] == [one.payload for one in batch]
    assert tables(bus)["pieces"] == []
    assert max(map(len, broker.frames)) < LARGEST + 200
    await bus.close()
    await other.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b'{"some":"json"}',
        b'{"agentfund":1,"frame":["w",1,0],"parts":[]}',
        b'{"agentfund":1,"frame":["w",1,0],"parts":[["dance"]]}',
        b'{"agentfund":1,"frame":["w",1,0],"parts":[["put",["id"]]]}',
        b'{"agentfund":1,"frame":["w",1,0],"parts":[["put",["i",{},"k","t",1,1,"","p",1,1,0]]]}\n{}',
        b'{"agentfund":1,"frame":["w",1,0],"parts":[["settle","g",null,"x"]]}',
        b'{"agentfund":1,"frame":["w","x",0],"parts":[["log","x"]]}',
        b'{"agentfund":1,"frame":["w",1,0],"piece":["a","b"]}\n{}',
    ],
    ids=lambda data: data[-24:].decode("latin-1") or "empty",
)
async def test_a_foreign_frame_is_an_error_that_names_its_place(broker: Broker, data: bytes) -> None:
    """What lies before it was read; nothing behind it is, and nothing is written."""
    bus = MirroredBus(Line(broker))
    await bus.publish([message(1)])
    broker.append(data)
    other = MirroredBus(Line(broker))
    for one in (bus, other):
        with pytest.raises(BusError, match="place 2 is no frame of agentfund"):
            await log(one)
        with pytest.raises(BusError, match="place 2"):
            await one.publish([message(2)])
        assert tables(one)["place"] == 1
        assert len(tables(one)["messages"]) == 1
    await bus.close()
    await other.close()


async def test_a_consumer_is_told_of_a_foreign_frame(bus: MirroredBus, broker: Broker) -> None:
    """It does not wait for ever."""
    async with consuming(bus, "g") as deliveries:
        waiting = asyncio.ensure_future(take(deliveries, 1))
        while "take" not in broker.parts():
            await asyncio.sleep(0.001)
        broker.append(b"foreign")
        with pytest.raises(BusError, match="is no frame"):
            await waiting


async def test_a_sequence_that_agentfund_did_not_begin_is_refused(broker: Broker) -> None:
    """Nothing is added to it."""
    broker.append(b'{"agentfund":1,"frame":["w",1,0],"parts":[["put"]]}')
    bus = MirroredBus(Line(broker))
    with pytest.raises(BusError, match="not begun by agentfund"):
        await bus.last()
    await bus.close()
    assert len(broker.frames) == 1


async def test_a_newer_format_is_not_guessed(bus: MirroredBus, broker: Broker) -> None:
    """Whoever folds otherwise than the others would be wrong without knowing."""
    await bus.publish([message(1)])
    broker.append(b'{"agentfund":2,"frame":["w",1,0],"news":[]}')
    with pytest.raises(SchemaTooNew, match="upgrade agentfund"):
        await bus.last()
