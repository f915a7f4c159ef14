"""The machine over a log of frames, on a broker in memory: the contract, and what is its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentfund.buses import mirrored_link
from agentfund.buses.mirrored import MirroredBus
from agentfund.clock import SimulatedClock
from agentfund.errors import BusError, BusUnavailable
from agentfund.messages import Message
from agentfund.protocols import Bus
from agentfund.testing.bus import NOON, BusContract, consuming, faults, log, message, take
from tests.buses.lines import Broker, Line

_brokers: dict[Path, Broker] = {}


class TestMirroredBus(BusContract):
    """The machine keeps the contract on a broker that only keeps an order."""

    def make_bus(self, folder: Path) -> Bus:
        return MirroredBus(Line(_brokers.setdefault(folder, Broker())))


class TestMirroredBusWithAFile(BusContract):
    """And with a mirror that is kept."""

    def make_bus(self, folder: Path) -> Bus:
        return MirroredBus(Line(_brokers.setdefault(folder, Broker())), mirror=folder / "mirror.db")


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def bus(broker: Broker) -> AsyncIterator[MirroredBus]:
    bus = MirroredBus(Line(broker))
    yield bus
    await bus.close()


async def test_a_consumer_that_waits_gets_what_comes_by_the_very_frame_that_brings_it(bus: MirroredBus, broker: Broker) -> None:
    """Its claim is parked in the log: no frame lies between the publishing and the ack."""
    async with consuming(bus, "g") as deliveries:
        for number in range(3):
            waiting = asyncio.ensure_future(take(deliveries, 1))
            while broker.parts()[-1:] != ["take"]:
                await asyncio.sleep(0.001)
            await bus.publish([message(number)])
            await waiting
    assert broker.parts() == ["log", *(["take", "put", "settle"] * 3), "leave"]


async def test_a_parked_claim_ends_with_its_consumer(bus: MirroredBus, broker: Broker) -> None:
    """What comes after it has left goes to the next one at once, as the first attempt."""
    async with consuming(bus, "g") as deliveries:
        waiting = asyncio.ensure_future(take(deliveries, 1))
        while "take" not in broker.parts():
            await asyncio.sleep(0.001)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await bus.publish([message(1)])
    async with consuming(bus, "g") as deliveries:
        (delivery,) = await take(deliveries, 1)
    assert delivery.attempt == 1


async def test_a_parked_claim_of_a_dead_consumer_ends_after_a_while(broker: Broker) -> None:
    """A tenth of a lease later nothing is given to it any more."""
    clock = SimulatedClock(NOON)
    dead, bus = MirroredBus(Line(broker), clock=clock), MirroredBus(Line(broker), clock=clock)
    waiting = asyncio.ensure_future(anext(dead.consume("g")))
    while "take" not in broker.parts():
        await asyncio.sleep(0.001)
    clock.advance(3.1)
    await bus.publish([message(1)])
    async with consuming(bus, "g") as deliveries:
        (delivery,) = await take(deliveries, 1)
    assert delivery.attempt == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await dead.close()
    await bus.close()


async def test_a_group_of_one_stream_asks_nothing_when_others_grow(broker: Broker) -> None:
    """Messages of other streams cost its consumers no frames, and it finds its own far behind them."""
    clock = SimulatedClock(NOON)
    bus = MirroredBus(Line(broker), clock=clock)
    async with consuming(bus, "g", "mine") as deliveries:
        waiting = asyncio.ensure_future(take(deliveries, 1))
        while "take" not in broker.parts():
            await asyncio.sleep(0.001)
        clock.advance(10)  # its claim is parked no more
        for number in range(600):
            await bus.publish([message(number, stream="other")])
            await asyncio.sleep(0)
        assert broker.parts().count("take") == 1
        await bus.publish([message(1, stream="mine", key="x")])
        (delivery,) = await waiting
    assert delivery.message.offset == 601
    await bus.close()


async def test_one_impossible_message_fails_its_batch_and_not_those_that_share_the_frame(bus: MirroredBus) -> None:
    """It is found before it joins them."""
    from dataclasses import replace

    wrong = [replace(message(1), cycle=2**63), replace(message(1), id="\ud800"), replace(message(1), payload={"a": object()})]
    results = await asyncio.gather(*(bus.publish([one]) for one in [*wrong, message(2), message(3)]), return_exceptions=True)
    assert [isinstance(result, BusError) for result in results] == [True, True, True, False, False]
    assert [one.cycle for one in await log(bus)] == [2, 3]


async def test_what_an_llm_may_write_survives(bus: MirroredBus) -> None:
    """Lone surrogates, line breaks and NUL in payloads and reasons."""
    text = "\ud83d half \n\r\x00  end"
    one = Message.new("Noted", {"text": text}, stream="s", producer="p", time=NOON)
    await bus.publish([one])
    assert (await log(bus))[0].payload == {"text": text}
    other = MirroredBus(bus._log, max_attempts=1)
    async with consuming(other, "g") as deliveries:
        (delivery,) = await take(deliveries, 1, ack=False)
        await delivery.nack(text)
    ((letter, reason),) = await bus.dead_letters("g")
    assert letter.id == one.id
    assert reason == text.encode("utf-8", "backslashreplace").decode()
    await other.close()


@pytest.mark.parametrize(
    ("level", "demand", "fine"),
    [("none", "process", False), ("process", "power", False), ("none", "none", True), ("power", "process", True)],
)
async def test_less_than_what_is_demanded_is_refused(broker: Broker, level: str, demand: str, fine: bool) -> None:
    """Before anything is written."""
    bus = MirroredBus(Line(broker, level), demand=demand)  # type: ignore[arg-type]
    assert bus.durability == demand
    if fine:
        await bus.publish([message(1)])
        assert bus.durability == level
        assert level in await bus.describe()
    else:
        with pytest.raises(BusError, match=f"{level!r}, and {demand!r} is demanded"):
            await bus.publish([message(1)])
        assert broker.frames == []
    await bus.close()


async def test_publishers_that_are_ready_together_share_a_frame(bus: MirroredBus, broker: Broker) -> None:
    """One goes ahead alone, the others together: three frames with the beginning of the log."""
    await bus.publish([])
    offsets = await asyncio.gather(*(bus.publish([message(number)]) for number in range(32)))
    assert offsets == list(range(1, 33))
    assert len(broker.frames) == 3


async def test_who_writes_alone_follows_nothing_after_a_while(
    bus: MirroredBus, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own frames do not come back to it, and when another writes it follows again."""
    monkeypatch.setattr(mirrored_link, "_LINGER_S", 0.01)
    await bus.publish([message(1)])
    while broker.followers > 0:
        await asyncio.sleep(0.005)
    broker.read = 0
    for number in range(20):
        await bus.publish([message(number)])
    assert broker.read == 0
    other = MirroredBus(Line(broker))
    await other.publish([message(50)])
    assert await bus.publish([message(51)]) == 22
    assert broker.followers > 0
    await other.close()


async def test_threads_and_loops_use_one_bus_at_once(broker: Broker, tmp_path: Path) -> None:
    """Four threads with loops of their own write and consume on one bus object."""
    bus = MirroredBus(Line(broker))
    written = [[message(number, key=f"k{writer}") for number in range(40)] for writer in range(4)]
    seen: list[Message] = []
    failed: list[BaseException] = []

    async def write(batch: list[Message]) -> None:
        async with consuming(bus, "g") as deliveries:
            for one in batch:
                await bus.publish([one])
                seen.extend(delivery.message for delivery in await take(deliveries, 1))

    def run(batch: list[Message]) -> None:
        try:
            asyncio.run(write(batch))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(batch,)) for batch in written]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        await asyncio.sleep(0.01)
    assert failed == []
    everything = [one for batch in written for one in batch]
    assert faults(everything, await log(bus)) == []
    assert sorted(one.id for one in seen) == sorted(one.id for one in everything)
    await bus.close()


def test_one_loop_after_another_uses_one_bus(broker: Broker) -> None:
    """Each ends without closing it, and the next goes on where it was."""
    bus = MirroredBus(Line(broker))
    for number in range(3):
        assert asyncio.run(bus.publish([message(number)])) == number + 1
    assert broker.followers == 0

    async def end() -> None:
        assert len(await log(bus)) == 3
        await bus.close()

    asyncio.run(end())


async def test_after_close_nothing_is_taken(bus: MirroredBus) -> None:
    """Publishing and reading fail, consumers end, and closing twice is harmless."""
    await bus.publish([message(1)])
    async with consuming(bus, "g") as deliveries:
        await take(deliveries, 1)
        waiting = asyncio.ensure_future(anext(deliveries, None))
        await asyncio.sleep(0.01)
        await bus.close()
        assert await waiting is None
    for work in (bus.publish([message(2)]), bus.last(), log(bus), bus.dead_letters("g")):
        with pytest.raises(BusUnavailable, match="closed"):
            await work
    await bus.close()
