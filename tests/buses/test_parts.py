"""What the buses on servers are made of: the one writer, a connection for each loop, messages as bytes, addresses."""

from __future__ import annotations

import asyncio
import importlib.metadata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfund import MemoryBus, SqliteBus
from agentfund.buses import open_bus, wire
from agentfund.buses.batching import Batch, Batcher
from agentfund.buses.loops import PerLoop
from agentfund.buses.urls import without_password
from agentfund.errors import BusError, BusUnavailable
from agentfund.testing.bus import NOON, message


class Writer:
    """Appends in memory, so many batches at a time as come, and can be told to fail."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.groups: list[int] = []
        self.fails = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(self, batches: list[Batch[int]]) -> list[int]:
        """Append all, or nothing."""
        await self.gate.wait()
        self.groups.append(len(batches))
        if self.fails:
            self.fails -= 1
            raise BusUnavailable("no")
        offsets = []
        for batch in batches:
            self.rows += batch.rows
            offsets.append(len(self.rows))
        return offsets


async def test_those_who_publish_meanwhile_share_the_next_append() -> None:
    """In the order of their calls, each with its own offset."""
    writer = Writer()
    batcher = Batcher(writer.append)
    writer.gate.clear()
    puts = [asyncio.ensure_future(batcher.put([number, number])) for number in range(10)]
    await asyncio.sleep(0)
    writer.gate.set()
    assert await asyncio.gather(*puts) == [2 * number for number in range(1, 11)]
    assert writer.rows == [number for number in range(10) for _ in range(2)]
    assert sum(writer.groups) == 10
    assert len(writer.groups) <= 2


async def test_an_append_is_no_larger_than_it_may_be() -> None:
    """A batch that is too large alone goes alone."""
    writer = Writer()
    batcher = Batcher(writer.append, most=4)
    writer.gate.clear()
    puts = [asyncio.ensure_future(batcher.put([0] * size)) for size in (1, 3, 2, 9, 1)]
    await asyncio.sleep(0)
    writer.gate.set()
    await asyncio.gather(*puts)
    assert writer.groups == [2, 1, 1, 1]


async def test_a_failure_is_told_to_all_who_shared_it_and_the_next_goes_on() -> None:
    """Nobody waits for ever."""
    writer = Writer()
    writer.fails = 1
    batcher = Batcher(writer.append)
    told = await asyncio.gather(*(batcher.put([number]) for number in range(3)), return_exceptions=True)
    assert [type(one) for one in told] == [BusUnavailable] * 3
    assert await batcher.put([7]) == 1


async def test_a_publisher_that_is_cancelled_before_its_turn_writes_nothing() -> None:
    """One that is cancelled in its turn is wholly there."""
    writer = Writer()
    batcher = Batcher(writer.append)
    writer.gate.clear()
    first = asyncio.ensure_future(batcher.put([1, 1]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = asyncio.ensure_future(batcher.put([2, 2]))
    await asyncio.sleep(0)
    for put in (first, second):
        put.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    writer.gate.set()
    assert await batcher.put([3]) == len(writer.rows)
    assert writer.rows == [1, 1, 3]


def test_each_event_loop_has_its_own_and_a_failure_is_not_kept() -> None:
    """Made at the first use, made once, made again in another loop."""
    made: list[asyncio.AbstractEventLoop] = []
    dropped: list[int] = []
    fails = [True]

    async def make() -> int:
        await asyncio.sleep(0)
        if fails.pop() if fails else False:
            raise BusUnavailable("not yet")
        made.append(asyncio.get_running_loop())
        return len(made)

    async def drop(one: int) -> None:
        dropped.append(one)

    per = PerLoop(make, drop)

    async def use() -> list[int]:
        found = await asyncio.gather(per.get(), per.get())
        assert per.ready() == found[0]
        return [*found, await per.get()]

    with pytest.raises(BusUnavailable):
        asyncio.run(per.get())
    assert asyncio.run(use()) == [1, 1, 1]
    assert asyncio.run(use()) == [2, 2, 2]

    async def close() -> None:
        await per.get()
        await per.close()
        assert per.ready() is None

    asyncio.run(close())
    assert dropped == [3]


@given(
    text=st.text(),
    payload=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    ),
    numbers=st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 3),
)
def test_a_message_survives_the_wire(text: str, payload: Any, numbers: tuple[int, int, int]) -> None:
    """Whatever stands in it."""
    version, cycle, token = numbers
    one = replace(message(1), id=text, cause=text, payload={"inside": payload}, version=version, cycle=cycle, token=token)
    assert wire.load(wire.dump(one, NOON, "the log"), 3, "the log") == one.at(3)


def test_a_lone_surrogate_survives_the_wire() -> None:
    """A language model may write one."""
    one = replace(message(1), payload={"text": "\ud83d"})
    assert wire.load(wire.dump(one, NOON, "the log"), 3, "the log").payload == {"text": "\ud83d"}


@pytest.mark.parametrize("data", [b"", b"{}", b"[1,2]", b"\xff", b'["id"]'])
def test_bytes_that_are_no_message_are_named(data: bytes) -> None:
    """With the log and the place."""
    with pytest.raises(BusError, match=r"the log: .*message 3|message 3"):
        wire.load(data, 3, "the log")


def test_an_address_chooses_the_bus(tmp_path: Path) -> None:
    """A path, a file's URL, memory; and every scheme of a server without connecting."""
    for address in (str(tmp_path / "a.db"), f"sqlite:{tmp_path / 'b.db'}", f"sqlite://{tmp_path / 'c.db'}"):
        bus = open_bus(address, demand="power")
        assert isinstance(bus, SqliteBus)
        asyncio.run(bus.close())
    assert (tmp_path / "c.db").exists()
    assert isinstance(open_bus("memory:", demand="none"), MemoryBus)
    for scheme, name in {"postgresql": "PostgresBus", "redis": "RedisBus", "nats": "NatsBus", "amqp": "RabbitBus"}.items():
        assert type(open_bus(f"{scheme}://user:secret@127.0.0.1:1/x")).__name__ == name


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://fund:se:cret@db:5432/fund", "postgresql://fund:***@db:5432/fund"),
        ("kafka://u:p@h1:9092,h2:9092", "kafka://u:***@h1:9092,h2:9092"),
        ("postgresql://db/fund?user=x&password=secret&ssl=1", "postgresql://db/fund?user=x&password=***&ssl=1"),
        ("fund.db", "fund.db"),
    ],
)
def test_an_address_is_shown_without_its_password(address: str, shown: str) -> None:
    """Wherever it stands in it."""
    assert without_password(address) == shown


def test_an_unknown_scheme_is_named_with_those_that_there_are() -> None:
    """And no bus is made."""
    with pytest.raises(BusError, match=r"mysql: is no bus: there is amqp, .*postgresql"):
        open_bus("mysql://db/fund")


def test_every_bus_is_an_entry_point() -> None:
    """So that the command line finds it, and others can be added."""
    points = {point.name for point in importlib.metadata.entry_points(group="agentfund.buses")}
    assert points >= {"kafka", "memory", "nats", "postgres", "rabbitmq", "redis", "sqlite"}
