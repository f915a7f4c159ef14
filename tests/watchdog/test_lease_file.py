"""Permission to trade: what counts as a lease, and what never does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agentfund.errors import ConfigError
from agentfund.protocols import Permission
from agentfund.trading import Level, Permit
from agentfund.watchdog import LeaseFile
from agentfund.watchdog.keys import Key, verifier
from agentfund.watchdog.lease import Lease
from tests.watchdog.scenes import Scene


async def test_a_lease_runs_out_by_itself(tmp_path: Path) -> None:
    """At its time to live it is valid, a moment later it is not."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    assert isinstance(reader, Permission)
    scene.world.up += 1.99
    assert reader.now() == Permit()
    scene.world.up += 0.02
    assert reader.now() == Permit(lease=False, reason="the lease has run out: the watchdog does not renew it")
    assert reader.left() == 0


async def test_no_byte_of_a_lease_can_be_changed(tmp_path: Path) -> None:
    """Each byte is flipped once: a reader that has seen nothing else never gives permission."""
    scene = Scene(tmp_path)
    await scene.ready()
    content = scene.folder.lease.read_bytes()
    verify = verifier(scene.folder.public("watchdog"))
    assert Lease.read(content, verify) is not None
    for at in range(len(content)):
        for bit in (at % 8, 5):
            changed = bytearray(content)
            changed[at] ^= 1 << bit
            assert Lease.read(bytes(changed), verify) is None, at
    for at in range(len(content)):
        assert Lease.read(content[:at], verify) is None
    scene.folder.lease.write_bytes(bytes(changed))
    assert not scene.reader().now().lease


async def test_no_byte_of_the_record_can_be_changed(tmp_path: Path) -> None:
    """With a good lease beside it there is no permission, and no level falls."""
    scene = Scene(tmp_path)
    await scene.ready()
    kept = scene.halts.halt("a", level=Level.KILL)
    gone = scene.halts.halt("b", level=Level.KILL)
    scene.halts.lift(gone.id, "ok", scene.operator())
    await scene.step()
    seen, content = await _reader(scene), scene.folder.halts.read_bytes()
    assert seen.now() == Permit(Level.KILL, lease=True, reason="a", cause=kept.id)
    for at in range(0, len(content), 3):  # each byte of a record: test_every_byte_of_a_record_counts
        changed = bytearray(content)
        changed[at] ^= 1 << (at % 8)
        scene.folder.halts.write_bytes(bytes(changed))
        fresh = scene.reader().now()
        assert not fresh.lease
        assert fresh.level >= Level.HALT
        if at % 7 == 0:  # a reader that saw the record whole
            told = seen.now()
            assert (told.level, told.lease, told.cause) == (Level.KILL, False, kept.id)


async def _reader(scene: Scene) -> LeaseFile:
    reader = scene.reader()
    reader.now()
    return reader


async def test_a_record_that_is_cut_between_two_lines_goes_with_no_lease(tmp_path: Path) -> None:
    """The chain is sound; the lease names a line that is not there. Also for a fund that begins now."""
    scene = Scene(tmp_path)
    await scene.ready()
    scene.halts.halt("one", level=Level.CAUTION)
    await scene.step()
    assert scene.reader().now().lease
    scene.folder.halts.write_bytes(b"")
    assert scene.reader().now() == Permit(lease=False, reason="the record of halts lacks line 1, which the watchdog has seen")


async def test_each_file_that_is_missing_is_no_permission(tmp_path: Path) -> None:
    """Lease and record; the keys were read before, and are not needed any more."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    for path, level in ((scene.folder.lease, Level.NORMAL), (scene.folder.halts, Level.HALT)):
        content = path.read_bytes()
        path.unlink()
        assert not reader.now().lease
        assert reader.now().level is level
        path.write_bytes(content)
        assert reader.now().lease
    for path in (scene.folder.watchdog_pub, scene.folder.operator_pub, scene.folder.beat, scene.folder.state):
        path.unlink()
        assert reader.now().lease
    with pytest.raises(ConfigError, match="watchdog --init"):
        scene.reader()


async def test_an_old_lease_that_is_put_back_is_none(tmp_path: Path) -> None:
    """The number of a lease only grows, whatever its age."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    old = scene.folder.lease.read_bytes()
    await scene.step()
    assert reader.now().lease
    scene.folder.lease.write_bytes(old)
    assert reader.now() == Permit(lease=False, reason="there is no valid lease of the watchdog")
    await scene.step()
    assert reader.now().lease


async def test_a_lease_of_elsewhere_is_none(tmp_path: Path) -> None:
    """Another fund, other limits, another key, another boot of the machine, another operator."""
    scene, other = Scene(tmp_path / "one"), Scene(tmp_path / "two")
    reader = await scene.ready()
    await other.ready()
    assert "is for the fund 'fund'" in scene.reader(fund="another").now().reason
    assert "knows other limits (limits) than the fund has (looser)" in scene.reader(config="looser").now().reason
    assert not scene.reader(fund="another").now().lease
    assert not scene.reader(config="looser").now().lease
    ours = scene.folder.lease.read_bytes()
    scene.folder.lease.write_bytes(other.folder.lease.read_bytes())
    assert not reader.now().lease
    scene.folder.lease.write_bytes(ours)
    assert reader.now().lease
    scene.world.boot = "boot-2"
    assert reader.now().reason == "the lease is from before the machine was started"
    scene.world.boot = "boot-1"
    scene.folder.operator_pub.write_text(Key.new().public)
    assert scene.reader().now() == Permit(lease=False, reason="the lease names another operator's key")


async def test_a_lease_from_the_future_is_none(tmp_path: Path) -> None:
    """As one would be that was made on a machine that had run for longer."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    scene.world.up -= 10
    assert not reader.now().lease


async def test_a_lease_cannot_claim_to_last(tmp_path: Path) -> None:
    """Whoever has the key could, and is not believed."""
    scene = Scene(tmp_path)
    await scene.ready()
    key = scene.folder.own_key()
    lease = Lease.read(scene.folder.lease.read_bytes(), verifier(key.public))
    assert lease is not None
    scene.folder.lease.write_bytes(replace(lease, ttl=1e9).signed(key))
    assert not scene.reader().now().lease


async def test_the_wall_clock_does_not_matter(tmp_path: Path) -> None:
    """A lease counts by uptime."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    scene.world.wall = scene.world.wall.replace(year=2031)
    assert reader.now() == Permit()
    scene.world.up += 3
    scene.world.wall = scene.world.wall.replace(year=2019)
    assert not reader.now().lease


async def test_a_halt_works_before_the_watchdog_has_seen_it(tmp_path: Path) -> None:
    """The record is read, not the lease alone: the very next question is answered with it."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    cause = scene.halts.halt("stop")
    assert reader.now() == Permit(Level.HALT, lease=True, reason="stop", cause=cause.id)
    scene.halts.lift(cause.id, "ok", scene.operator())
    assert reader.now() == Permit()


async def test_what_was_latched_stays_in_memory_whatever_becomes_of_the_files(tmp_path: Path) -> None:
    """Even the watchdog's own key cannot lift a halt."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    empty, lease = scene.folder.halts.read_bytes(), scene.folder.lease.read_bytes()
    cause = scene.halts.halt("stop")
    assert reader.now().level is Level.HALT
    scene.folder.halts.write_bytes(empty)
    scene.folder.lease.write_bytes(lease)
    assert (reader.now().level, reader.now().lease) == (Level.HALT, False)
    from agentfund.watchdog.chain import GENESIS, Line, anew

    over = Line.make(9, "over", {"cause": cause.id, "reason": "x"}, GENESIS, scene.folder.own_key())
    first = anew(7, GENESIS, [], [over], scene.folder.own_key())
    scene.folder.halts.write_bytes(first.text())
    stolen = Lease.read(lease, verifier(scene.folder.public("watchdog")))
    assert stolen is not None
    forged = replace(stolen, n=8, head=first.hash, seq=stolen.seq + 1)
    scene.folder.lease.write_bytes(forged.signed(scene.folder.own_key()))
    assert reader.now() == Permit(Level.HALT, lease=True, reason="stop", cause=cause.id)


async def test_a_key_that_is_known_from_elsewhere_is_held_against_the_folder(tmp_path: Path) -> None:
    """So that keys that were exchanged before the fund began are found."""
    scene = Scene(tmp_path)
    scene.reader(key=scene.folder.public("watchdog"))
    with pytest.raises(ConfigError, match="is not the key that was given"):
        scene.reader(key=Key.new().public)


async def test_a_flood_is_not_read(tmp_path: Path) -> None:
    """A record of many megabytes is damage, and costs the reader nothing."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    with scene.folder.halts.open("ab") as file:
        file.truncate(5_000_000)
    assert reader.now() == Permit(Level.HALT, lease=False, reason="the record of halts is too long to be read")
    await scene.step()
    assert scene.codes() == ["tampering"]
    assert scene.folder.halts.stat().st_size < 10_000


async def test_it_never_raises(tmp_path: Path) -> None:
    """Whatever lies where a file should be."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    for path in (scene.folder.lease, scene.folder.halts):
        path.unlink()
        path.mkdir()
        assert not reader.now().lease
        path.rmdir()
        path.symlink_to("/dev/zero")
        assert not reader.now().lease
        path.unlink()
        path.symlink_to(path)
        assert not reader.now().lease
        path.unlink()
