"""Mirrors: kept, refused, and the same for all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from agentfund.buses.mirrored import MirroredBus
from agentfund.errors import BusError, BusUnavailable
from agentfund.testing.bus import consuming, log, message, take
from tests.buses.lines import Broker, Line, tables


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def bus(broker: Broker) -> AsyncIterator[MirroredBus]:
    bus = MirroredBus(Line(broker))
    yield bus
    await bus.close()


async def test_a_kept_mirror_reads_only_what_is_new(broker: Broker, tmp_path: Path) -> None:
    """A restart reads the frame where it stands, to know the log, and those that came since."""
    bus = MirroredBus(Line(broker), mirror=tmp_path / "mirror.db")
    for number in range(50):
        await bus.publish([message(number)])
    async with consuming(bus, "g") as deliveries:
        await take(deliveries, 3)
    before = tables(bus)
    await bus.close()
    broker.read = 0
    again = MirroredBus(Line(broker), mirror=tmp_path / "mirror.db")
    assert len(await log(again)) == 50
    assert tables(again) == before
    assert broker.read <= 2
    fresh = MirroredBus(Line(broker))
    assert await log(fresh) == await log(again)
    assert tables(fresh) == before
    await again.close()
    await fresh.close()


async def test_a_mirror_of_another_log_is_refused(broker: Broker, tmp_path: Path) -> None:
    """Also of one that was deleted and begun anew, shorter or longer; the message says what to delete."""
    path = tmp_path / "mirror.db"
    bus = MirroredBus(Line(broker), mirror=path)
    await bus.publish([message(1)])
    await bus.close()
    for number in (0, 5):
        other = Broker()
        writer = MirroredBus(Line(other))
        for one in range(number):
            await writer.publish([message(one)])
        bus = MirroredBus(Line(other), mirror=path)
        with pytest.raises(BusError, match=r"mirror\.db is the mirror of another log"):
            await bus.publish([message(2)])
        await bus.close()
        await writer.close()


async def test_a_log_that_is_begun_anew_under_a_bus_is_an_error(bus: MirroredBus, broker: Broker) -> None:
    """Whether it reads or writes, it does not mix the two."""
    for number in range(5):
        await bus.publish([message(number)])
    first, broker.frames = broker.frames, broker.frames[:1]
    with pytest.raises(BusError, match="begun anew"):
        await bus.last()
    with pytest.raises(BusError, match="begun anew"):
        await bus.publish([message(9)])
    broker.frames = first


async def test_a_log_that_lost_its_end_and_went_on_is_not_mixed_with_what_was_there(broker: Broker) -> None:
    """It is as long as before, or longer; another frame lies where the mirror stands."""
    bus, other = MirroredBus(Line(broker)), MirroredBus(Line(broker))
    for number in range(4):
        await bus.publish([message(number)])
    del broker.frames[3:]
    broker.cut()
    while broker.followers > 0:
        await asyncio.sleep(0)
    for number in range(3):
        await other.publish([message(number, writer="other")])
    with pytest.raises(BusError, match="begun anew"):
        await bus.last()
    with pytest.raises(BusError, match="begun anew"):
        await bus.publish([message(9)])
    await bus.close()
    await other.close()


async def test_two_buses_do_not_share_a_mirror(broker: Broker, tmp_path: Path) -> None:
    """The second is told to take a file of its own, and works when the first is gone."""
    one, two = (MirroredBus(Line(broker), mirror=tmp_path / "mirror.db") for _ in range(2))
    await one.publish([message(1)])
    with pytest.raises(BusUnavailable, match="another bus uses the mirror"):
        await two.publish([message(2)])
    await one.close()
    assert await two.publish([message(2)]) == 2
    await two.close()


async def test_a_file_that_is_no_mirror_is_not_touched(broker: Broker, tmp_path: Path) -> None:
    """Not even a log of agentfund."""
    path = tmp_path / "notes.txt"
    path.write_text("mine\n" * 100)
    bus = MirroredBus(Line(broker), mirror=path)
    with pytest.raises(BusError, match="not touched"):
        await bus.last()
    await bus.close()
    assert path.read_text() == "mine\n" * 100


async def test_what_is_foreseen_is_what_comes(bus: MirroredBus, broker: Broker) -> None:
    """Who writes alone has its frames folded later; the offsets are those that every other mirror finds."""
    batches = [[1], [2], [1], [3, 3, 2], [4, 1], [2], [5], [5, 6]]
    for _ in range(2):
        told = [await bus.publish([message(number) for number in batch]) for batch in batches]
        assert told == [1, 2, 1, 2, 1, 2, 5, 6]
    assert bus._mirror is not None
    assert bus._mirror.behind
    other = MirroredBus(Line(broker))
    assert await log(bus) == await log(other)
    assert tables(bus) == tables(other)
    await other.close()


@pytest.mark.parametrize("kept", [False, True], ids=["temporary", "kept"])
async def test_a_mirror_that_cannot_be_written_for_a_while_goes_on_then(broker: Broker, tmp_path: Path, kept: bool) -> None:
    """The disk is full: nothing more can be published or read, until there is space again."""
    bus = MirroredBus(Line(broker), mirror=tmp_path / "mirror.db" if kept else None, timeout=timedelta(seconds=0.2))
    writer = MirroredBus(Line(broker))
    await bus.publish([message(0)])
    assert bus._mirror is not None
    pages = bus._mirror.rows("PRAGMA page_count")[0][0]
    bus._mirror.rows(f"PRAGMA max_page_count = {pages}")
    written = [message(number) for number in range(1, 200)]
    await writer.publish(written)
    with pytest.raises(BusUnavailable):
        await bus.last()
    bus._mirror.rows("PRAGMA max_page_count = 100000")
    async with asyncio.timeout(40):
        while True:
            with suppress(BusUnavailable):
                assert await bus.publish([message(200)]) == 201
                break
    assert await log(bus) == await log(writer)
    assert tables(bus) == tables(writer)
    await bus.close()
    await writer.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
async def test_a_forked_process_does_not_write_in_the_mirror_of_its_parent(bus: MirroredBus) -> None:
    """It is told to open the log again."""
    await bus.publish([message(1)])
    assert bus._mirror is not None
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(BaseException):
            try:
                bus._mirror.rows("SELECT 1")
            except BusUnavailable as error:
                code = 0 if "forked" in str(error) else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(await log(bus)) == 1
