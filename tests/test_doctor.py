from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentfund.cli import app
from agentfund.doctor import KEYS, SERVICES, Facts, Service, examine
from agentfund.errors import ConfigError
from agentfund.routes import routes
from agentfund.runs import asked

SECRET = "hunter2-planted"
URLS = {
    "AGENTFUND_POSTGRES_URL": f"postgres://user:{SECRET}@127.0.0.1:1/db?password={SECRET}",
    "AGENTFUND_REDIS_URL": f"redis://{SECRET}@127.0.0.1:1",
    "AGENTFUND_NATS_URL": f"nats://user:pa/{SECRET}@127.0.0.1:1",
    "AGENTFUND_RABBITMQ_URL": f"amqp://127.0.0.1:{SECRET}",
}


@pytest.fixture(autouse=True)
def bare(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No program and no key of whoever runs the tests: routes look at the environment of the process."""
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)


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


ROUTES = """
import asyncio, time
class Ready:
    name = "ready"
    async def check(self): return ""
class Keyless:
    name = "keyless"
    async def check(self): return "MINE_KEY is not set:\\nset it"
class Silent:
    name = "silent"
class Slow:
    name = "slow"
    async def check(self): await asyncio.sleep(60)
class Stuck:
    name = "stuck"
    async def check(self): time.sleep(3)
class Broken:
    name = "broken"
    async def check(self): raise RuntimeError("hunter2-planted")
class Demanding:
    def __init__(self, needed): ...
    async def check(self): return ""
"""


def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Facts:
    """Return what is found where a stranger's package brings these routes."""
    plant(tmp_path, "[agentfund.llms]\n" + "".join(f"mine_{n.lower()} = stranger:{n}\n" for n in names), ROUTES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    facts = examine({}, check_s=0.3)
    sys.modules.pop("stranger", None)
    return facts


def test_a_route_says_itself_whether_it_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason and the fix in one line; a route that fails when it is asked is told by the kind of its error."""
    facts = brought(tmp_path, monkeypatch, "Ready", "Keyless", "Broken", "Demanding")
    told = {name: why for name, why in facts.routes.items() if name.startswith("mine")}
    assert told == {
        "mine_ready": "",
        "mine_keyless": "MINE_KEY is not set: set it",
        "mine_broken": "RuntimeError when it was asked",
    }
    assert advice(facts) == "language models: yes, by mine_ready"


@pytest.mark.parametrize("name", ["Slow", "Stuck"])
def test_a_route_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whether it waits or blocks."""
    began = time.monotonic()
    facts = brought(tmp_path, monkeypatch, name)
    assert time.monotonic() - began < 2.8
    assert "did not say within 0.3 s" in facts.routes[f"mine_{name.lower()}"]
    assert not advice(facts).startswith("language models: yes")


def test_without_a_route_that_can_be_used_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, or a command line with a login; what a route needs that does not say, its package knows."""
    assert advice(examine({})) == (
        "language models: not yet, set ANTHROPIC_API_KEY or OPENAI_API_KEY, or log in to the claude or codex command"
    )
    facts = brought(tmp_path, monkeypatch, "Silent", "Keyless")
    assert advice(facts) == "language models: perhaps, by mine_silent; what that needs, its own package says"
    assert "mine_silent" not in facts.routes


def test_routes_are_shown_with_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the table and in the JSON object."""
    plant(tmp_path, "[agentfund.llms]\nmine = stranger:Keyless\n", ROUTES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    assert "no, MINE_KEY is not set: set it" in CliRunner().invoke(app, ["doctor"]).stdout
    told = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert told["routes"]["mine"] == "MINE_KEY is not set: set it"
    sys.modules.pop("stranger", None)


# -- routes and options by name ----------------------------------------------------------------------------------------


def test_a_list_of_routes_leaves_out_those_that_do_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads it can take each of them."""
    plant(tmp_path, "[agentfund.llms]\nmine = stranger:Silent\ngone = no_such_package:X\nbad = stranger:Nothing\n", ROUTES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    with pytest.raises(ConfigError, match="'nobody'; there is ") as caught:
        routes("nobody")
    sys.modules.pop("stranger", None)
    names = str(caught.value).partition("there is ")[2].split(", ")
    assert {"mine", "anthropic", "rules", "local"} <= set(names)
    assert not {"gone", "bad"} & set(names)


def test_a_route_behind_the_rules_is_refused() -> None:
    """It would never be asked, and somebody would wonder why nothing is billed."""
    with pytest.raises(ConfigError, match="so anthropic after them is never asked; put rules last"):
        routes("rules,anthropic")
    assert [llm.name for llm in routes("anthropic,rules")] == ["anthropic", "rules"]


def test_to_insist_on_a_route_that_is_not_there_is_an_error() -> None:
    """It names those that are; a name with a space around it is a name."""
    with pytest.raises(ConfigError, match="--insist claud: --llm names no such route; there is anthropic, rules"):
        asked("anthropic,rules", "", "", None, "rules,claud")
    assert asked("anthropic,rules", "", "", None, "anthropic, rules").insist == ("anthropic", "rules")


def test_a_ledger_by_a_word_that_does_not_exist_names_those_that_do() -> None:
    """In one sentence, with the exit code of a wrong command line."""
    result = CliRunner().invoke(app, ["ledger", "fund.db", "--by", "colour"])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].endswith(
        "Invalid value for --by: 'colour' is not one of agent, route, llm, day, outcome"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_a_program_is_found_where_the_environment_says(tmp_path: Path) -> None:
    """Its path is told; it is not run for that."""
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
