"""An agent that wants a halt gone and may write wherever the fund may: it lifts nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from agentfund.messages import Levelled
from agentfund.secrets import Secret
from agentfund.trading import Level
from agentfund.watchdog import Halts, LogReader, make_folder
from tests.watchdog.scenes import Scene, as_root, begun, message, process

HOSTILE = """
import json, os, random, sys, time
from datetime import datetime, UTC
from pathlib import Path
from agentfund.watchdog.chain import GENESIS, Chain, Line, anew, salvage
from agentfund.watchdog.keys import Key
from agentfund.watchdog.halts import Halts
from agentfund.watchdog.lease import Lease
from agentfund.trading import Level

path, seed = Path(sys.argv[1]), int(sys.argv[2])
rng, key = random.Random(seed), Key.new()
halts, lease = path / "halts.jsonl", path / "lease.json"
old = {file: file.read_bytes() for file in (halts, lease, path / "state.json")}

def lift():
    content = halts.read_bytes()
    chain = salvage(content, (path / "watchdog.pub").read_text().strip(), (path / "operator.pub").read_text().strip())
    for name in chain.open:
        body = {"cause": name, "reason": "all is well", "by": "agent", "time": ""}
        line = Line.make(chain.n + 1, rng.choice(["lift", "over"]), body, chain.head, key)
        with halts.open("ab") as file:
            file.write(line.text())
        break

def begin():
    halts.write_bytes(anew(rng.randrange(9), GENESIS, [], [], key).text())

def permit():
    told = Lease("fund", "limits", Level.NORMAL, "", "boot-1", 1e9, 2.0, 10**18, 0, GENESIS, key.public)
    lease.write_bytes(told.signed(key))

def back():
    file = rng.choice(list(old)); file.write_bytes(old[file])

def exchange():
    (path / "operator.pub").write_text(key.public)

def remove():
    file = rng.choice([halts, lease, path / "heartbeat.json", path / "status.json"])
    if file.exists(): file.unlink()

def cut():
    content = halts.read_bytes(); halts.write_bytes(content[:rng.randrange(len(content) + 1)])

def flip():
    content = bytearray(halts.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    halts.write_bytes(bytes(content))

def ask():
    try: Halts(path).lift(next(iter(Halts(path).read().open), "x"), "please", key)
    except Exception: pass

done = refused = 0
for _ in range(int(sys.argv[3])):
    try:
        rng.choice([lift, begin, permit, back, exchange, remove, cut, flip, ask])()
        done += 1
    except PermissionError:
        refused += 1
    except OSError:
        pass
    time.sleep(0.001)
print(done, refused, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
async def test_of_a_hostile_agent_with_the_same_user_nothing_is_lifted(seed: int, tmp_path: Path) -> None:
    """It forges, cuts, replays, removes and exchanges files while watchdog and fund look: every cause stays, in both."""
    scene = Scene(tmp_path)
    reader = await scene.ready()
    mine = {scene.halts.halt("one").id, scene.halts.halt("two", level=Level.KILL).id}
    await scene.step()
    assert reader.now().level is Level.KILL
    rng = random.Random(seed)
    with process(HOSTILE, scene.path, seed, 150) as hostile:
        while hostile.poll() is None:
            if rng.random() < 0.7:
                await scene.step()
            assert reader.now().level is Level.KILL
            assert mine <= {cause.id for cause in reader.causes}
            assert mine <= set(scene.dog.record.open)
            if rng.random() < 0.05:
                scene.restart()
        out, err = hostile.communicate()
        assert (int(out.split()[0]) > 100, err) == (True, "")
    await scene.step(4)
    assert mine <= set(scene.dog.record.open)
    assert scene.reader().now().level is Level.KILL
    assert [line for line in scene.dog.record.lifted.values() if line.kind == "lift"] == []


@pytest.mark.skipif(not as_root(), reason="only root can be another user")
async def test_of_a_hostile_agent_with_another_user_nothing_is_written(tmp_path: Path) -> None:
    """The privilege boundary: every try is refused."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o005)
    scene = Scene(tmp_path)
    await scene.ready()
    scene.halts.halt("one")
    await scene.step()
    scene.path.chmod(0o755)
    scene.folder.halts.chmod(0o664)
    before = {file.name: file.read_bytes() for file in scene.path.iterdir()}
    with process(HOSTILE, scene.path, 1, 100, user=65534, group=65534, extra_groups=[]) as hostile:
        out, err = hostile.communicate(timeout=60)
    assert err == ""
    assert int(out.split()[1]) > 50
    assert {file.name: file.read_bytes() for file in scene.path.iterdir()} == before


async def test_a_record_and_a_state_put_back_together_are_found_by_the_funds_log(tmp_path: Path) -> None:
    """An old pair, both signed, while watchdog and fund were dead: the log tells of a halt that the record does not know."""
    from agentfund.buses.memory import MemoryBus

    bus = MemoryBus()
    await bus.publish(begun())
    scene = Scene(tmp_path, bus=bus)
    await scene.step(2)
    old = [(file, file.read_bytes()) for file in (scene.folder.state, scene.folder.halts)]
    cause = scene.halts.halt("one")
    await scene.step()
    await bus.publish([message(Levelled(3, True, "one", cause.id), 9)])
    scene.dog.close()
    for file, content in old:
        file.write_bytes(content)
    scene.start()
    await scene.step(8)
    assert f"forgotten_halt:{cause.id}" in scene.codes()
    assert isinstance(LogReader(bus, "fund"), LogReader)


def test_agents_can_ask_for_a_halt_and_for_nothing_else(tmp_path: Path) -> None:
    """No key, no lift: not with the watchdog's key either, and not without the passphrase."""
    from agentfund.errors import ConfigError

    folder = make_folder(str(tmp_path / "w"), passphrase=Secret("correct horse"))
    halts = Halts(tmp_path / "w")
    cause = halts.halt("I am not sure what I am doing")
    for wrong in (None, Secret("correct house"), Secret("")):
        with pytest.raises(ConfigError, match="passphrase"):
            folder.operators_key(wrong)
    with pytest.raises(ConfigError, match="not the operator's key"):
        halts.lift(cause.id, "please", folder.own_key())
    assert halts.read().level is Level.HALT
    halts.lift(cause.id, "ok", folder.operators_key(Secret("correct horse")))
    assert halts.read().level is Level.NORMAL
