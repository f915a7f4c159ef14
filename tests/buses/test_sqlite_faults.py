"""Full disks, missing rights, locks, strangers' files: each is named, and nothing of a batch is half there."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from agentfund.buses import SqliteBus
from agentfund.errors import BusError, BusUnavailable, SchemaTooNew
from agentfund.testing.bus import faults, log, message

BATCH = [replace(message(number), payload={"text": "x" * 4_000}) for number in range(200)]
AS_NOBODY = """
import asyncio, os, sys, urllib.parse, uuid  # what is loaded later could not be read any more
from agentfund.buses.sqlite import SqliteBus
from agentfund.clock import EPOCH
from agentfund.errors import BusError
from agentfund.messages import Message
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
async def main(path, how):
    bus = SqliteBus(path, read_only=how == "read")
    if how == "write":
        await bus.publish([Message.new("Noted", {}, stream="s", producer="p", time=EPOCH)])
    print(len([one async for one in bus.read()]), "messages")
    await bus.close()
for how, path in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        asyncio.run(main(path, how))
    except BusError as error:
        print(type(error).__name__, error)
"""
ON_A_SMALL_DISK = """
import asyncio, resource, sys
from agentfund.buses import SqliteBus
from agentfund.errors import BusUnavailable
from agentfund.testing.bus import log
from tests.buses.test_sqlite_faults import BATCH
async def main():
    bus = SqliteBus(sys.argv[1])
    await bus.publish(BATCH[:1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    try:
        await bus.publish(BATCH)
    except BusUnavailable as error:
        print(error)
    print(len(await log(bus)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(await bus.publish(BATCH))
    await bus.close()
asyncio.run(main())
"""


def run(program: str, *arguments: object) -> list[str]:
    """Run a program of its own and return its lines."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that another user can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


async def make_log(path: Path, number: int = 3) -> bytes:
    """Leave a finished log and return its bytes."""
    bus = SqliteBus(path)
    await bus.publish([message(i) for i in range(number)])
    await bus.close()
    return path.read_bytes()


async def test_a_full_disk_leaves_nothing_of_the_batch_and_the_bus_goes_on(tmp_path: Path) -> None:
    """SQLite's own page limit stands for the disk: the same error, the same way back."""
    bus = SqliteBus(tmp_path / "fund.db")
    await bus.publish(BATCH[:1])
    bus._file.db.execute("PRAGMA max_page_count = 60")
    with pytest.raises(BusUnavailable, match=r"fund\.db.*full.*free some space"):
        await bus.publish(BATCH)
    assert await log(bus) == [BATCH[0].at(1)]
    bus._file.db.execute("PRAGMA max_page_count = 1000000")
    assert await bus.publish(BATCH) == 200
    await bus.close()


def test_a_file_size_limit_of_the_system_leaves_nothing_of_the_batch(tmp_path: Path) -> None:
    """The write itself fails half-way through the batch, for real; when the limit goes, the bus works."""
    error, count, offset = run(ON_A_SMALL_DISK, tmp_path / "fund.db")
    assert "fund.db" in error
    assert "file-size limits" in error
    assert (count, offset) == ("1", "200")


async def test_a_disk_that_is_really_full() -> None:
    """A file system of one megabyte: where it may be mounted, which needs root."""
    # Not below pytest's own folder: were the test killed, pytest could not clean up there any more.
    disk = Path(tempfile.mkdtemp(prefix="agentfund-disk-"))
    mount = shutil.which("mount")
    if os.getuid() or not mount or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        bus = SqliteBus(disk / "fund.db")
        (disk / "ballast").write_bytes(b"x" * 600_000)
        await bus.publish(BATCH[:1])
        with pytest.raises(BusUnavailable, match=r"fund\.db"):
            await bus.publish(BATCH)
        assert await log(bus) == [BATCH[0].at(1)]
        (disk / "ballast").unlink()
        assert await bus.publish(BATCH[:50]) == 50
        await bus.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
        disk.rmdir()


async def test_a_lock_held_too_long_is_named_and_the_loop_runs_meanwhile(tmp_path: Path) -> None:
    """Waiting does not stop other tasks; when the lock goes, the bus works."""
    bus = SqliteBus(tmp_path / "fund.db", timeout=timedelta(seconds=0.2))
    beats = 0

    async def heart() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.005)
            beats += 1

    task = asyncio.ensure_future(heart())
    with closing(sqlite3.connect(tmp_path / "fund.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusUnavailable, match=r"fund\.db.*locked.*timeout"):
            await bus.publish([message(1)])
        other.execute("ROLLBACK")
    task.cancel()
    assert beats > 5
    assert await bus.publish([message(2)]) == 1
    await bus.close()


async def test_a_lock_that_goes_in_time_is_waited_for(tmp_path: Path) -> None:
    """A short lock costs time, not a message."""
    bus = SqliteBus(tmp_path / "fund.db")
    with closing(sqlite3.connect(tmp_path / "fund.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        publishing = asyncio.ensure_future(bus.publish([message(1)]))
        await asyncio.sleep(0.05)
        assert not publishing.done()
        other.execute("ROLLBACK")
        assert await publishing == 1
    await bus.close()


async def test_a_log_deleted_while_open_is_noticed(tmp_path: Path) -> None:
    """Writing on into a file without a name would lose every message."""
    bus = SqliteBus(tmp_path / "fund.db")
    await bus.publish([message(1)])
    (tmp_path / "fund.db").rename(tmp_path / "elsewhere.db")
    await asyncio.sleep(0.01)
    with pytest.raises(BusUnavailable, match="deleted or replaced"):
        await bus.publish([message(2)])
    (tmp_path / "elsewhere.db").rename(tmp_path / "fund.db")
    assert await bus.publish([message(3)]) == 2
    await bus.close()


async def test_a_closed_bus_says_so(tmp_path: Path) -> None:
    """Neither reading nor writing pretends, and closing twice is fine."""
    bus = SqliteBus(tmp_path / "fund.db")
    await bus.close()
    await bus.close()
    with pytest.raises(BusUnavailable, match="is closed"):
        await bus.publish([message(1)])
    with pytest.raises(BusUnavailable, match="is closed"):
        await log(bus)


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_strangers_file_is_never_touched(read_only: bool, tmp_path: Path) -> None:
    """Text, an empty file, another program's database in WAL mode: an error that names it, the bytes as before."""
    (tmp_path / "notes.txt").write_text("to do: " * 1_000)
    (tmp_path / "empty.db").touch()
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (a)")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in before:
        with pytest.raises(BusError, match=f"{name}.*choose another path"):
            SqliteBus(tmp_path / name, read_only=read_only)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_newer_log_is_refused_with_both_versions(read_only: bool, tmp_path: Path) -> None:
    """An older agentfund does not guess at a newer one's tables."""
    await make_log(tmp_path / "fund.db")
    with closing(sqlite3.connect(tmp_path / "fund.db")) as db:
        db.execute("PRAGMA user_version = 7")
    before = (tmp_path / "fund.db").read_bytes()
    with pytest.raises(SchemaTooNew, match=r"fund\.db has database version 7, this agentfund reads 2: upgrade"):
        SqliteBus(tmp_path / "fund.db", read_only=read_only)
    assert (tmp_path / "fund.db").read_bytes() == before


async def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    """Nothing is read past the damage as if it were not there."""
    path = tmp_path / "fund.db"
    whole = await make_log(path, 2_000)
    path.write_bytes(whole[:8_192] + b"\xff" * (len(whole) - 8_192))

    async def read() -> None:
        bus = SqliteBus(path, read_only=True)
        try:
            await log(bus)
        finally:
            await bus.close()

    with pytest.raises(BusError, match=r"fund\.db.*damaged.*backup"):
        await read()


async def test_a_log_whose_checkpoint_was_killed_half_way_is_whole(tmp_path: Path) -> None:
    """The header may be in the file already and the pages not yet: the WAL still has them all."""
    bus = SqliteBus(tmp_path / "fund.db")
    await bus.publish(BATCH)
    file, wal = ((tmp_path / name).read_bytes() for name in ("fund.db", "fund.db-wal"))
    await bus.close()
    frames = [wal[start : start + 24 + 4_096] for start in range(32, len(wal), 24 + 4_096)]
    header = [frame[24:] for frame in frames if int.from_bytes(frame[:4], "big") == 1][-1]
    assert int.from_bytes(header[28:32], "big") > len(file) // 4_096
    (tmp_path / "killed.db").write_bytes(header + file[4_096:])
    (tmp_path / "killed.db-wal").write_bytes(wal)
    bus = SqliteBus(tmp_path / "killed.db")
    assert faults(BATCH, await log(bus)) == []
    await bus.close()


async def test_places_where_no_log_can_be_are_named(tmp_path: Path) -> None:
    """A missing folder, a folder in place of the file, and nothing to read."""
    with pytest.raises(BusUnavailable, match="missing"):
        SqliteBus(tmp_path / "missing" / "fund.db")
    with pytest.raises(BusUnavailable, match="is a directory"):
        SqliteBus(tmp_path)
    with pytest.raises(BusUnavailable, match=r"nothing\.db"):
        SqliteBus(tmp_path / "nothing.db", read_only=True)
    assert list(tmp_path.iterdir()) == []


async def test_names_that_mean_something_in_a_uri_are_plain_names(tmp_path: Path) -> None:
    """A path is a path: `?mode=memory#1` does not end up elsewhere."""
    await make_log(tmp_path / "a?mode=memory#1 %20.db")
    assert [path.name for path in tmp_path.iterdir()] == ["a?mode=memory#1 %20.db"]


async def test_a_read_only_bus_follows_a_writer_and_changes_nothing(tmp_path: Path) -> None:
    """It sees what is committed while the writer is at work; publishing and consuming are refused."""
    writer = SqliteBus(tmp_path / "fund.db")
    await writer.publish([message(1)])
    reader = SqliteBus(tmp_path / "fund.db", read_only=True)
    before = (tmp_path / "fund.db").read_bytes()
    assert len(await log(reader)) == 1
    await writer.publish([message(2)])
    assert len(await log(reader)) == 2
    with pytest.raises(BusUnavailable, match="read_only=True"):
        await reader.publish([message(3)])
    with pytest.raises(BusUnavailable, match="read_only=True"):
        await anext(reader.consume("g"))
    assert (tmp_path / "fund.db").read_bytes() == before
    await writer.close()
    assert len(await log(reader)) == 2
    await reader.close()


async def test_a_log_without_write_permission_can_be_read_and_says_why_it_cannot_be_written(folder: Path) -> None:
    """A read-only file in a read-only folder, for a user without rights, finished or as a copy in WAL mode."""
    path = folder / "fund.db"
    await make_log(path)
    with closing(sqlite3.connect(folder / "wal.db")) as db:
        await make_log(folder / "copy.db")
        with closing(sqlite3.connect(folder / "copy.db")) as source:
            source.backup(db)
        db.execute("PRAGMA journal_mode = WAL")
    fund, wal, new = folder / "fund.db", folder / "wal.db", folder / "new.db"
    fund.chmod(0o444)
    wal.chmod(0o444)
    folder.chmod(0o555)
    before = sorted(entry.name for entry in folder.iterdir())
    lines = run(AS_NOBODY, "read", fund, "read", wal, "write", fund, "write", wal, "write", new)
    assert lines[:2] == ["3 messages", "3 messages"]
    for line, name in zip(lines[2:], (fund, wal, new), strict=True):
        assert line.startswith(f"BusUnavailable {name}")
        assert "read_only=True" in line or "Permission denied" in line
    assert sorted(entry.name for entry in folder.iterdir()) == before


async def test_a_file_that_may_be_written_in_a_folder_that_may_not_is_refused_with_the_cause(folder: Path) -> None:
    """WAL mode needs files beside the log."""
    await make_log(folder / "fund.db")
    (folder / "fund.db").chmod(0o666)
    folder.chmod(0o555)
    (line,) = run(AS_NOBODY, "write", folder / "fund.db")
    assert line.startswith("BusUnavailable")
    assert "director" in line
    reader = SqliteBus(folder / "fund.db", read_only=True)
    assert faults([message(i) for i in range(3)], await log(reader)) == []
    await reader.close()
