"""Bells between processes: a consumer in another process hears at once, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from agentfund import SqliteBus
from agentfund.buses import sqlite
from agentfund.buses.doorbells import Doorbells
from agentfund.testing.bus import message

PUBLISH = """
import asyncio, sys
from agentfund import SqliteBus
from agentfund.testing.bus import message

async def main():
    bus = SqliteBus(sys.argv[1])
    sys.stdin.readline()
    await bus.publish([message(1)])
    await bus.close()

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def own_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let doors be hung in a place of the test's own, with a short path, as sockets need it."""
    with tempfile.TemporaryDirectory() as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        monkeypatch.setenv("TMPDIR", place)
        yield Path(place)


async def test_a_consumer_in_another_process_need_not_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that looks only once an hour is told all the same."""
    bus = SqliteBus(tmp_path / "fund.db")
    monkeypatch.setattr(sqlite, "RETRY_S", 3_600.0)
    monkeypatch.setattr(sqlite, "_POLL_S", 3_600.0)
    command = [sys.executable, "-c", PUBLISH, str(tmp_path / "fund.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as other:
        async with aclosing(bus.consume("g")) as deliveries:
            waiting = asyncio.ensure_future(anext(deliveries))
            await asyncio.sleep(0.05)
            other.communicate("now\n")
            delivery = await asyncio.wait_for(waiting, 20)
            await delivery.ack()
    assert delivery.message.cycle == 1
    await bus.close()


async def test_nothing_is_left_of_doors(own_place: Path) -> None:
    """Neither of consumers that end, nor, once somebody knocks, of those that were killed."""
    bells, other, event = Doorbells("log"), Doorbells("log"), asyncio.Event()
    folder = own_place / f"agentfund-{os.getuid()}" / "log"
    with bells.listen(event):
        with other.listen(asyncio.Event()):
            assert len(list(folder.iterdir())) == 2
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as killed:
            killed.bind(str(folder / "killed"))
        (folder / "note").touch()
        other.knock()
        await asyncio.wait_for(event.wait(), 10)
        assert len(list(folder.iterdir())) == 2
        (folder / "note").unlink()  # only doors are taken away
    assert not folder.exists()
    other.close()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="there are no users here")
async def test_in_a_folder_that_others_can_write_nothing_is_done(own_place: Path) -> None:
    """Another user may have made it, with a link to a folder of ours in it."""
    mine = own_place / "mine"
    mine.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as precious:
        precious.bind(str(mine / "precious"))
    trap = own_place / f"agentfund-{os.getuid()}"
    trap.mkdir(mode=0o777)
    trap.chmod(0o777)
    (trap / "log").symlink_to(mine)
    bells = Doorbells("log")
    with bells.listen(asyncio.Event()):
        bells.knock()
    assert [one.name for one in mine.iterdir()] == ["precious"]


async def test_where_no_door_can_be_hung_the_log_works_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumer looks for itself."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere" / ("x" * 200)))
    bus = SqliteBus(tmp_path / "fund.db")
    async with aclosing(bus.consume("g")) as deliveries:
        await bus.publish([message(1)])
        delivery = await asyncio.wait_for(anext(deliveries), 20)
        await delivery.ack()
    assert delivery.message.cycle == 1
    await bus.close()
