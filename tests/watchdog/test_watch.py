"""The watchdog round by round, on a machine whose clocks are the test's."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agentfund.errors import ConfigError
from agentfund.trading import Level, Permit
from agentfund.watchdog import Caps, LeaseFile
from agentfund.watchdog.judge import Judge, Judged
from agentfund.watchdog.keys import Key
from agentfund.watchdog.seen import Seen
from agentfund.watchdog.state import State
from tests.watchdog.scenes import D, Scene, book, stop


async def test_there_is_no_lease_before_all_was_clean_twice(tmp_path: Path) -> None:
    """Heartbeat and book, each of them new."""
    scene = Scene(tmp_path)
    reader = scene.reader()
    scene.dog.round()
    assert not reader.now().lease
    await scene.step()
    assert reader.now() == Permit(lease=False, reason="there is no valid lease of the watchdog")
    await scene.step(look=False, beat=False)
    assert not reader.now().lease
    await scene.step()
    assert reader.now() == Permit()


async def test_it_may_come_before_the_fund_and_after_it(tmp_path: Path) -> None:
    """A watchdog that waits latches nothing; a fund that beats without one has no lease."""
    scene = Scene(tmp_path)
    await scene.step(200, seconds=1.0, beat=False)
    assert scene.codes() == []
    reader = await scene.ready()
    scene.dog.close()
    scene.world.advance(60)
    scene.heart.beat(scene.pulse)
    assert not reader.now().lease
    scene.start()
    await scene.step(4)
    assert reader.now() == Permit()
    assert scene.codes() == []


async def test_a_broker_that_comes_with_its_fund_has_as_long_as_any_to_answer(tmp_path: Path) -> None:
    """A paper broker is there once its fund is: nobody has waited for it before."""
    scene = Scene(tmp_path)
    scene.stub.fails = "no fund has begun"
    await scene.step(300, seconds=0.5, beat=False)
    await scene.step(20, seconds=0.5)
    assert scene.codes() == []
    await scene.step(int(2 * scene.caps.blind_halt_s), seconds=0.5)
    assert scene.codes() == ["blind"]


async def test_a_breach_is_latched_in_the_round_that_sees_it(tmp_path: Path) -> None:
    """Not a round later: the answer of the broker wakes the round."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    scene.stub.shown = book(79_999)
    await scene.step()
    assert scene.codes() == ["drawdown", "day_loss"]
    permit = reader.now()
    assert permit.level is Level.HALT
    assert permit.reason == "equity 79999 is 20.00 % below 100000 since its peak, at most 20 %"
    assert permit.cause in scene.dog.record.open


async def test_a_latch_outlives_everything(tmp_path: Path) -> None:
    """Restarts of both, another boot, another time of day, other caps, a broker that recovers."""
    scene = Scene(tmp_path)
    await scene.ready()
    scene.stub.shown = book(margin_used=0.81)
    await scene.step()
    scene.stub.shown = book()
    for change in range(5):
        scene.world.wall += timedelta(days=change - 2)
        scene.world.boot = f"boot-{change // 2}"
        scene.caps = Caps(margin_pct=95, margin_soft_pct=90)
        scene.restart()
        await scene.step(60, seconds=1.0)
        assert scene.reader().now().level is Level.HALT
        assert scene.codes() == ["margin"]
    (cause,) = scene.dog.record.open.values()
    scene.halts.lift(cause.id, "margin is back", scene.operator())
    await scene.step(200)
    assert scene.reader().now() == Permit()


async def test_two_causes_are_lifted_one_by_one(tmp_path: Path) -> None:
    """The fund stays halted until the last."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    scene.halts.halt("first")
    scene.stub.shown = book(margin_used=0.9)
    await scene.step()
    scene.stub.shown = book()
    await scene.step()
    one, two = scene.dog.record.open
    scene.halts.lift(two, "ok", scene.operator())
    await scene.step()
    assert (reader.now().level, reader.now().cause) == (Level.HALT, one)
    scene.halts.lift(one, "ok", scene.operator())
    await scene.step(60)
    assert reader.now() == Permit()


async def test_what_is_lifted_and_still_there_is_latched_again(tmp_path: Path) -> None:
    """A lift is no permission to go on with a breach."""
    scene = Scene(tmp_path)
    await scene.ready()
    scene.stub.shown = book(margin_used=0.9)
    await scene.step()
    (first,) = scene.dog.record.open
    scene.halts.lift(first, "ok", scene.operator())
    await scene.step()
    (second,) = scene.dog.record.open
    assert second != first


async def test_a_lifted_loss_is_counted_from_where_it_ended(tmp_path: Path) -> None:
    """Otherwise a drawdown could never be lifted: nothing trades, so nothing recovers. It is latched at the next such loss."""
    scene = Scene(tmp_path)
    await scene.ready()
    scene.stub.shown = book(79_000)
    await scene.step()
    for name in tuple(scene.dog.record.open):
        scene.halts.lift(name, "accepted", scene.operator())
    await scene.step(8)
    assert scene.codes() == []
    assert scene.reader().now() == Permit()
    scene.stub.shown = book(75_000)
    await scene.step()
    assert scene.codes() == ["day_loss"]


async def test_a_loss_that_holds_at_reduce_only_lasts_till_the_next_trading_day(tmp_path: Path) -> None:
    """Through recovery, restarts and the wall clock; time itself ends it."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    scene.stub.shown = book(96_900)
    await scene.step()
    assert reader.now().level is Level.REDUCE_ONLY
    scene.stub.shown = book(99_900)
    await scene.step(200, seconds=1.0)
    scene.restart()
    scene.world.wall += timedelta(days=1)
    await scene.step(10)
    assert reader.now().level is Level.REDUCE_ONLY
    assert [one.code for one in scene.dog.judged.findings] == ["clock_jump"]  # type: ignore[union-attr]
    scene.world.wall -= timedelta(days=1)
    for _ in range(13):
        scene.world.advance(3600)
        await scene.step(3)
    await scene.step(40, seconds=1.0)
    assert scene.codes() == []
    assert reader.now() == Permit()


async def test_a_caution_lifts_itself_after_clean_checks(tmp_path: Path) -> None:
    """And reduce-only that was no loss after its cause was gone for a while."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    scene.stub.shown = book(margin_used=0.7)
    await scene.step()
    assert reader.now() == Permit(Level.CAUTION, reason="margin use is 70.0 %, 60 % is usual")
    scene.stub.shown = book()
    await scene.step(19)
    assert reader.now().level is Level.CAUTION
    await scene.step()
    assert reader.now() == Permit()
    scene.stub.shown = book(None)
    await scene.step()
    scene.stub.shown = book()
    await scene.step(119)
    assert reader.now().level is Level.REDUCE_ONLY
    await scene.step()
    assert reader.now() == Permit()


async def test_a_blind_watchdog_gives_no_lease_and_then_latches(tmp_path: Path) -> None:
    """After five seconds no lease, after thirty a halt; the heart is watched all the while."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    scene.stub.fails = "no route to host"
    await scene.step(19)
    assert reader.now().lease
    await scene.step(2)
    assert not scene.dog.leased
    await scene.step(8)
    assert not reader.now().lease
    assert scene.codes() == []
    await scene.step(100)
    assert scene.codes() == ["blind"]
    assert "no route to host" in next(iter(scene.dog.record.open.values())).reason


async def test_a_watchdog_that_stood_still_looks_again_before_it_gives_a_lease(tmp_path: Path) -> None:
    """What it saw before it was stopped does not count, however young it still is."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    scene.world.advance(2.5)
    scene.heart.beat(scene.pulse)
    scene.dog.round()
    assert not reader.now().lease
    assert "stood still" in scene.dog.judged.withhold[0]  # type: ignore[union-attr]
    await scene.step(3)
    assert reader.now() == Permit()


async def test_a_lease_counts_from_the_beginning_of_its_round(tmp_path: Path) -> None:
    """So a process that is stopped between judging and writing leaves one that has run out when it comes."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    began = scene.world.up
    scene.dog.judge = Slow(scene.dog.judge, scene)  # type: ignore[assignment]
    scene.world.advance(0.25)
    scene.heart.beat(scene.pulse)
    await scene.dog.look.once()
    scene.dog.round()
    assert scene.world.up > began + 10
    assert not reader.now().lease
    assert not scene.dog.leased


class Slow:
    """A judge after whose word ten seconds pass, as for a process that is stopped there and goes on."""

    def __init__(self, judge: Judge, scene: Scene) -> None:
        self._judge, self._scene = judge, scene

    def judge(self, seen: Seen) -> Judged:
        found = self._judge.judge(seen)
        self._scene.world.advance(10)
        return found


async def test_a_dead_fund_is_latched_and_one_that_ended_is_not(tmp_path: Path) -> None:
    """Its last word makes the difference."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    scene.pulse = replace(scene.pulse, stage="ended")
    await scene.step(3)
    assert not scene.dog.leased
    await scene.step(60, seconds=1.0, beat=False)
    assert scene.codes() == []
    scene.pulse = replace(scene.pulse, stage="asking")
    await scene.step(4)
    assert reader.now() == Permit()
    await scene.step(8, beat=False)
    assert not scene.dog.leased
    assert scene.codes() == []
    await scene.step(16, beat=False)
    assert scene.codes() == ["heartbeat"]


async def test_a_heartbeat_that_is_removed_is_a_dead_fund(tmp_path: Path) -> None:
    """As one that stays."""
    scene = Scene(tmp_path)
    await scene.ready()
    scene.folder.beat.unlink()
    await scene.step(beat=False)
    assert not scene.dog.leased
    await scene.step(20, beat=False)
    assert scene.codes() == ["heartbeat"]


async def test_a_fund_with_other_limits_than_were_pinned_gets_no_lease(tmp_path: Path) -> None:
    """Until the operator says that these are meant."""
    scene = Scene(tmp_path)
    await scene.ready()
    scene.pulse = replace(scene.pulse, config="looser")
    await scene.step(20)
    assert not scene.reader(config="looser").now().lease
    assert not scene.reader().now().lease
    scene.restart(config="looser")
    await scene.step(4)
    assert scene.reader(config="looser").now() == Permit()
    with pytest.raises(ConfigError, match="is the folder of the fund 'fund', not of 'another'"):
        scene.restart(fund="another")


async def test_a_second_watchdog_is_refused(tmp_path: Path) -> None:
    """Two would give leases past each other."""
    scene = Scene(tmp_path)
    with pytest.raises(ConfigError, match="another watchdog watches in"):
        scene.start()


DAMAGE: dict[str, Any] = {
    "record removed": lambda f: f.halts.unlink(),
    "record emptied": lambda f: f.halts.write_bytes(b""),
    "record cut": lambda f: f.halts.write_bytes(f.halts.read_bytes()[:-40]),
    "last line cut": lambda f: f.halts.write_bytes(f.halts.read_bytes().splitlines(keepends=True)[0]),
    "record changed": lambda f: f.halts.write_bytes(f.halts.read_bytes().replace(b"first", b"FIRST")),
    "record of zeros": lambda f: f.halts.write_bytes(bytes(1000)),
    "record a link": lambda f: (f.halts.unlink(), f.halts.symlink_to(f.watchdog_pub)),
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("running", [True, False], ids=["running", "dead"])
async def test_damage_is_latched_and_nothing_is_forgotten(what: str, running: bool, tmp_path: Path) -> None:
    """Whether the watchdog lives or not: the causes stay, and the damage is one more."""
    scene = Scene(tmp_path)
    await scene.ready()
    first, second = scene.halts.halt("first", level=Level.KILL), scene.halts.halt("second")
    await scene.step()
    if not running:
        scene.dog.close()
    DAMAGE[what](scene.folder)
    if not running:
        scene.start()
    await scene.step(4)
    assert {first.id, second.id} < set(scene.dog.record.open)
    assert scene.codes().count("tampering") == 1
    permit = scene.reader().now()
    assert (permit.level, permit.cause) == (Level.KILL, first.id)
    for name in tuple(scene.dog.record.open):
        scene.halts.lift(name, "ok", scene.operator())
    await scene.step(4)
    assert scene.reader().now() == Permit()


async def test_a_halt_that_was_written_just_before_the_damage_is_kept(tmp_path: Path) -> None:
    """The watchdog had not seen it: what can be trusted of the damaged record counts."""
    scene = Scene(tmp_path)
    await scene.ready()
    seen = scene.halts.halt("seen")
    await scene.step()
    unseen = scene.halts.halt("unseen", level=Level.KILL)
    scene.halts.lift(seen.id, "ok", scene.operator())
    with scene.folder.halts.open("ab") as file:
        file.write(b"garbage")
    await scene.step()
    assert scene.codes() == ["asked", "tampering"]
    assert set(scene.dog.record.open) > {unseen.id}
    assert scene.reader().now().level is Level.KILL


@pytest.mark.parametrize("what", ["removed", "changed", "old"])
async def test_a_lost_state_is_latched(what: str, tmp_path: Path) -> None:
    """Without it nobody knows the peak, nor how long the record was."""
    scene = Scene(tmp_path)
    await scene.ready()
    old = scene.folder.state.read_bytes()
    first = scene.halts.halt("first")
    await scene.step()
    scene.dog.close()
    content = scene.folder.state.read_bytes()
    if what == "removed":
        scene.folder.state.unlink()
    elif what == "changed":
        scene.folder.state.write_bytes(content.replace(b'"peak":"1', b'"peak":"2'))
    else:
        scene.folder.state.write_bytes(old)  # the record goes on from it: nothing is lost
    scene.start()
    await scene.step(4)
    assert first.id in scene.dog.record.open
    assert ("tampering" in scene.codes()) is (what != "old")


async def test_the_operators_key_cannot_be_exchanged(tmp_path: Path) -> None:
    """The one that was pinned stands again, and it is latched."""
    scene = Scene(tmp_path)
    await scene.ready()
    pinned = scene.folder.public("operator")
    scene.dog.close()
    forged = Key.new()
    scene.folder.operator_pub.write_text(forged.public)
    scene.start()
    scene.folder.watchdog_pub.unlink()
    await scene.step()
    assert scene.reader().now().reason.startswith("somebody exchanged or removed operator.pub")
    assert scene.folder.public("operator") == pinned
    assert scene.codes() == ["tampering"]


async def test_tampering_kills_where_the_caps_say_so(tmp_path: Path) -> None:
    """`kill` names codes."""
    scene = Scene(tmp_path, Caps(kill=frozenset({"tampering", "margin"})))
    await scene.ready()
    scene.folder.halts.unlink()
    scene.stub.shown = book(margin_used=2.0)
    await scene.step()
    assert {one.code: one.level for one in scene.dog.record.open.values()} == {
        "tampering": Level.KILL,
        "margin": Level.KILL,
    }


async def test_a_halt_that_cannot_be_written_keeps_the_lease_back_until_it_is(tmp_path: Path) -> None:
    """The breach may be gone meanwhile; the latch is not."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    path, away = scene.folder.halts, scene.path / "away"
    path.rename(away)
    path.mkdir()
    scene.stub.shown = book(margin_used=0.9)
    await scene.step()
    scene.stub.shown = book()
    await scene.step(12)
    assert not reader.now().lease
    path.rmdir()
    away.rename(path)
    await scene.step()
    assert "margin" in scene.codes()
    assert reader.now().level is Level.HALT


async def test_peaks_outlive_a_restart(tmp_path: Path) -> None:
    """A drawdown is from the highest equity of any life."""
    scene = Scene(tmp_path)
    await scene.ready()
    scene.stub.shown = book(130_000)
    await scene.step()
    scene.restart()
    await scene.step(2)
    scene.stub.shown = book(129_000)
    scene.world.boot = "boot-2"
    scene.restart()
    scene.stub.shown = book(103_000)
    await scene.step()
    assert "drawdown" in scene.codes()


async def test_a_position_without_its_stop_is_latched_after_its_grace(tmp_path: Path) -> None:
    """A leg of a bracket may come a moment after the fill, and a stop may be moved."""
    scene = Scene(tmp_path)
    await scene.ready()
    scene.stub.shown = book(100_000, {"AAA": 10})
    await scene.step(19)
    scene.stub.shown = book(100_000, {"AAA": 10}, stop())
    await scene.step()
    scene.stub.shown = book(100_000, {"AAA": 10}, stop(quantity=9))
    await scene.step(20)
    assert scene.codes() == []
    await scene.step()
    assert scene.codes() == ["stop:AAA"]


async def test_a_broker_that_answers_nonsense_halts(tmp_path: Path) -> None:
    """What cannot be judged is not well."""
    scene = Scene(tmp_path)
    await scene.ready()
    scene.stub.shown = book("NaN")
    await scene.step()
    assert scene.codes() == ["equity"]
    scene.stub.shown = None  # type: ignore[assignment]
    await scene.step(24)
    assert not scene.dog.leased


async def test_it_tells_the_service_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round, by a datagram."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        scene = Scene(tmp_path)
        await scene.ready()
        told = [manager.recv(1000).decode() for _ in range(3)]
    assert all(one.startswith("WATCHDOG=1\nSTATUS=") for one in told)
    assert told[-1] == "WATCHDOG=1\nSTATUS=level 0"


async def test_it_leaves_no_file_that_others_may_write(tmp_path: Path) -> None:
    """The record may be appended to by the group; nothing else may."""
    scene = Scene(tmp_path)
    await scene.ready()
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in scene.path.iterdir()}
    assert modes["halts.jsonl"] == "0o660"
    assert modes["watchdog.key"] == modes["operator.key"] == modes["watchdog.lock"] == "0o600"
    assert {modes[name] for name in ("lease.json", "state.json", "operator.pub", "watchdog.pub", "status.json")} == {"0o644"}
    assert oct(scene.path.stat().st_mode) == "0o41770"
    assert os.getpid() > 0


def test_a_state_is_what_was_signed_or_nothing() -> None:
    """Each byte."""
    key = Key.new()
    from agentfund.watchdog.keys import verifier

    content = State("op", peak=str(D(5))).signed(key)
    verify = verifier(key.public)
    assert State.read(content, verify) == State("op", peak="5")
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << (at % 8)
        assert State.read(bytes(changed), verify) is None


def test_a_lease_outlasts_a_round(tmp_path: Path) -> None:
    """Otherwise it would run out before the next."""
    with pytest.raises(ConfigError, match="at least two rounds"):
        Scene(tmp_path, ttl_s=0.4)
    assert LeaseFile.__doc__
