from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentfund.cli import app
from agentfund.doctor import KEYS, SERVICES, Facts, Service, examine

SECRET = "hunter2-planted"
URLS = {
    "AGENTFUND_POSTGRES_URL": f"postgres://user:{SECRET}@127.0.0.1:1/db?password={SECRET}",
    "AGENTFUND_REDIS_URL": f"redis://{SECRET}@127.0.0.1:1",
    "AGENTFUND_NATS_URL": f"nats://user:pa/{SECRET}@127.0.0.1:1",
    "AGENTFUND_RABBITMQ_URL": f"amqp://127.0.0.1:{SECRET}",
}


@pytest.fixture
def listening() -> Iterator[int]:
    """A port of this machine that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def service(facts: Facts, name: str) -> Service:
    return next(one for one in facts.services if one.name == name)


def advice(facts: Facts) -> str:
    return next(sentence for sentence in facts.can if sentence.startswith("language models"))


def test_a_planted_secret_never_appears() -> None:
    """Keys, and passwords in addresses of every shape, are in neither form of the answer."""
    environ = {**dict.fromkeys(KEYS, SECRET), **URLS}
    for options in ([], ["--json"]):
        result = CliRunner().invoke(app, ["doctor", *options], env=environ)
        assert result.exit_code == 0
        assert "hunter2" not in result.output
    assert "hunter2" not in repr(examine({**os.environ, **environ}))


def test_json_is_one_object() -> None:
    """A program can read the answer."""
    told = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert set(told) == set(asdict(examine({})))


def test_a_key_is_set_or_not_set() -> None:
    """An empty or blank variable is not set."""
    facts = examine({"OPENAI_API_KEY": "x", "ANTHROPIC_API_KEY": "", "EODHD_API_TOKEN": " \n"})
    assert [name for name, there in facts.keys.items() if there] == ["OPENAI_API_KEY"]


def test_a_service_answers_where_something_listens(listening: int) -> None:
    """The address is taken from the environment; a closed port is no answer, with a reason."""
    facts = examine({"AGENTFUND_REDIS_URL": f"redis://127.0.0.1:{listening}/0", "AGENTFUND_NATS_URL": "nats://127.0.0.1:1"})
    assert service(facts, "Redis") == Service("Redis", "AGENTFUND_REDIS_URL", f"127.0.0.1:{listening}", True)
    assert not service(facts, "NATS").answers
    assert service(facts, "NATS").note
    assert [one.name for one in facts.services] == list(SERVICES)


@pytest.mark.parametrize(
    "url", ["localhost:5432", "x", "postgres://h:99999", "postgres://u:a/b@h", "postgres://u:12/b@h", "postgres://[::1"]
)
def test_an_address_that_cannot_be_read_is_named_but_not_shown(url: str) -> None:
    """Its variable is named, with how to write it; nothing is connected to."""
    found = service(examine({"AGENTFUND_POSTGRES_URL": url}), "Postgres")
    assert (found.address, found.answers) == ("", False)
    assert found.note.startswith("AGENTFUND_POSTGRES_URL cannot be read")


def test_an_address_without_a_port_has_the_standard_one() -> None:
    """A bare host is enough."""
    assert service(examine({"AGENTFUND_REDIS_URL": "redis://:pass@127.0.0.1"}), "Redis").address == "127.0.0.1:6379"


def test_what_agentfund_brings_is_found_and_loads() -> None:
    """Each group has its entry points, and the demo and the backtest can run."""
    facts = examine({})
    names = {(plug.group, plug.name) for plug in facts.plugs if not plug.error}
    assert names >= {("agentfund.brokers", "paper"), ("agentfund.feeds", "files"), ("agentfund.buses", "sqlite")}
    assert facts.can[:2] == ("demo: yes", "backtest with rules: yes")
    assert {package.name for package in facts.packages if package.version} >= {"pydantic", "numpy", "typer"}


def plant(folder: Path, points: str, code: str) -> None:
    """Install a package of someone else's."""
    info = folder / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    (folder / "stranger.py").write_text(code)


def test_a_plug_that_does_not_load_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others still are; what a stranger's package prints or says in an error stays inside."""
    plant(
        tmp_path,
        "[agentfund.brokers]\ngone = no_such_package:X\nbad = stranger:X\n",
        f"print('{SECRET}')\nraise SystemExit('{SECRET}')",
    )
    monkeypatch.syspath_prepend(tmp_path)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    plugs = {plug["name"]: plug["error"] for plug in json.loads(result.stdout)["plugs"]}
    assert plugs["gone"] == "ModuleNotFoundError: No module named 'no_such_package'"
    assert plugs["bad"] == "SystemExit"
    assert plugs["paper"] == ""
    assert SECRET not in result.output


def test_language_models_need_a_key_and_a_route(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key alone is not said to be enough; with a route that it opens it is."""
    assert "no package installed here brings a route" in advice(examine({"OPENAI_API_KEY": "x"}))
    plant(tmp_path, "[agentfund.llms]\nopenai = stranger:Route\n", "class Route: ...")
    monkeypatch.syspath_prepend(tmp_path)
    assert "set ANTHROPIC_API_KEY or OPENAI_API_KEY" in advice(examine({}))
    assert "yes, by openai" in advice(examine({"OPENAI_API_KEY": "x"}))
    sys.modules.pop("stranger", None)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_a_program_is_found_and_not_run(tmp_path: Path) -> None:
    """Its path is told; had it been run, it would have left a file."""
    program = tmp_path / "claude"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    facts = examine({"PATH": str(tmp_path)})
    assert facts.programs == {"claude": str(program), "codex": None}
    assert not (tmp_path / "ran").exists()


def test_the_room_on_the_disk_is_told() -> None:
    """In gigabytes, of the working directory."""
    facts = examine({})
    assert facts.folder == str(Path.cwd())
    assert facts.disk_free_gb is not None
    assert facts.disk_free_gb > 0
