"""`agentfund watchdog`, `halt`, `lift` and `status`, as an operator types them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from agentfund import SqliteBus
from agentfund.cli import Commands
from agentfund.errors import ConfigError
from agentfund.settings import read_settings
from agentfund.trading import Level
from agentfund.watchdog import Caps, Halts, LeaseFile
from agentfund.watchdog.commands import add
from agentfund.watchdog.serving import session_maker
from tests.watchdog.scenes import COMMAND, FUND, Scene, begun, book, process, until

app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
add(app)
SECRET = "correct horse battery"


def run(*args: object, typed: str = "", **env: str) -> Any:
    return CliRunner().invoke(app, [str(one) for one in args], input=typed, env=env)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "pass").write_text(SECRET + "\n")
    result = run("watchdog", "--dir", tmp_path / "w", "--init", "--fund", "fund", "--passphrase-file", tmp_path / "pass")
    assert result.exit_code == 0, result.stderr
    assert SECRET not in result.output
    return tmp_path / "w"


def test_the_folder_is_made_once(path: Path) -> None:
    """New keys over old ones would lift everything."""
    result = run("watchdog", "--dir", path, "--init", "--without-passphrase")
    assert result.exit_code == 1
    assert "has watchdog.key already" in result.stderr
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in path.iterdir())


def test_a_short_passphrase_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """Its file can be read by whoever shares the machine."""
    result = run("watchdog", "--dir", tmp_path / "w", "--init", typed="short\nshort\n")
    assert "at least 8 characters" in result.stderr
    assert not (tmp_path / "w").exists()


def test_anybody_halts_and_only_the_passphrase_lifts(path: Path, tmp_path: Path) -> None:
    """One cause at a time, by its id and with a reason; a wrong word changes nothing."""
    assert "latched at level 3" in run("halt", path, "--reason", "prices look wrong").stdout
    second = run("halt", path, "--reason", "and the clock \x1b[31m", "--level", "4").stdout.split()[-1]
    first = next(one.id for one in Halts(path).read().open.values() if one.id != second)
    before = Halts(path).content()
    given = ("--cause", first, "--reason", "checked")
    for wrong, words in (
        (("--cause", "xyz", "--reason", "checked", "--passphrase-file", tmp_path / "pass"), "no cause 'xyz' is latched"),
        (("--cause", first, "--passphrase-file", tmp_path / "pass"), "needs a reason"),
        ((*given, "--key", path / "watchdog.key"), "is not the key that this fund's operator has"),
    ):
        result = run("lift", path, *wrong, typed="\n")
        assert result.exit_code == 1
        assert words in result.stderr
        assert "\x1b" not in result.output
    assert "does not open the key" in run("lift", path, *given, AGENTFUND_OPERATOR_PASSPHRASE="guessed wrong").stderr
    assert "does not open the key" in run("lift", path, *given, typed="guessed\n").stderr
    assert Halts(path).content() == before
    result = run("lift", path, typed=f"{first}\nchecked by hand\n{SECRET}\n")
    assert result.exit_code == 0, result.stderr
    assert f"latched now: {second}" in result.stdout
    assert "prices look wrong" in result.stderr
    told = json.loads(
        run("lift", path, "--cause", second, "--reason", "x", "--json", AGENTFUND_OPERATOR_PASSPHRASE=SECRET).stdout
    )
    assert told == {"lifted": second, "level": 0, "causes": []}
    assert "nothing is latched" in run("lift", path).stderr


async def test_a_lift_shows_what_led_to_the_halt(tmp_path: Path) -> None:
    """The journal of that cycle from the log, and the last trade from the record where there is no log."""
    bus = SqliteBus(tmp_path / "fund.db")
    await bus.publish(begun())
    scene = Scene(tmp_path, bus=bus)
    await scene.step(2)
    scene.stub.shown = book(50_000)
    await scene.step()
    await bus.close()
    shown = (await asyncio.to_thread(run, "lift", scene.path, "--bus", tmp_path / "fund.db", typed="\n")).stderr
    assert "what the fund did last: cycle 0, 2024-03-05 12:00:00 UTC: filled buy 10 AAA at 100 (order)" in shown
    assert any(line.startswith("  | ") and "AAA" in line for line in shown.splitlines())
    without = await asyncio.to_thread(run, "lift", scene.path, "--bus", tmp_path / "none.db", typed="\n")
    assert "cannot be read" in without.stderr


async def test_the_status_is_told_when_everything_is_dead(tmp_path: Path) -> None:
    """From files alone; for people and for programs."""
    scene = Scene(tmp_path)
    await scene.ready()
    cause = scene.halts.halt("stop")
    scene.stub.shown = book(margin_used=0.7)
    await scene.step()
    scene.dog.close()
    shown = run("status", scene.path)
    assert shown.exit_code == 0
    for words in (
        "fund: level 3, HALT",
        "none: nothing may add risk",
        "not running",
        cause.id,
        "margin use is 70.0 %",
        "whole",
    ):
        assert words in shown.stdout
    told = json.loads(run("status", scene.path, "--json").stdout)
    assert (told["level"], told["lease"], told["causes"][0]["id"], told["caps"]) == (3, False, cause.id, Caps().digest)
    for file in (scene.folder.status, scene.folder.state, scene.folder.lease, scene.folder.beat, scene.folder.halts):
        file.unlink()
        shown = run("status", scene.path)
        assert shown.exit_code == 0
    assert "cannot be read" in shown.stdout
    assert "watchdog --init" in run("status", tmp_path / "elsewhere").stderr


def test_caps_come_from_files_and_words(tmp_path: Path) -> None:
    """What is meant and not understood would leave a hole, so it is refused."""
    (tmp_path / "caps.toml").write_text('drawdown_pct = 18\nkill = ["conservation", "tampering"]\n')
    found = read_settings(Caps, [str(tmp_path / "caps.toml"), "day_loss_pct=4", "require_stop=off"], "cap")
    assert found == Caps(drawdown_pct=18.0, kill=frozenset({"conservation", "tampering"}), day_loss_pct=4.0, require_stop=False)
    assert found.digest == Caps(drawdown_pct=18, kill=found.kill, day_loss_pct=4, require_stop=False).digest
    for wrong in (
        "drawdwn=1",
        "drawdown_pct=many",
        "orders_per_minute=1.5",
        "require_stop=maybe",
        "drawdown_pct=nan",
        "none.toml",
    ):
        with pytest.raises(ConfigError):
            read_settings(Caps, [wrong], "cap")


def test_a_broker_that_cannot_be_looked_at_is_refused(path: Path) -> None:
    """Before the watchdog begins."""
    with pytest.raises(ConfigError, match="there is no broker 'nobody'"):
        session_maker("nobody")
    with pytest.raises(ConfigError, match=r"has no book\(\)"):
        session_maker("paper")
    assert "give --broker" in run("watchdog", "--dir", path).stderr


def test_the_command_watches_a_paper_fund_until_it_is_told_to_end(path: Path, tmp_path: Path) -> None:
    """By the log's own word; the log and the fund may come later."""
    args = ("watchdog", "--dir", path, "--bus", tmp_path / "fund.db", "--config", "limits")
    with process(COMMAND, *args, env={**os.environ}) as dog:
        assert dog.stderr is not None
        assert "watchdog: fund in" in dog.stderr.readline()

        async def trade() -> None:
            bus = SqliteBus(tmp_path / "fund.db")
            await bus.publish(begun())
            await bus.close()

        asyncio.run(trade())
        found = LeaseFile(path, fund="fund", config="limits")
        with process(FUND, path):
            until(lambda: found.now().lease)
            assert found.now().level is Level.NORMAL
            dog.send_signal(signal.SIGTERM)
            assert dog.wait(10) == 0
