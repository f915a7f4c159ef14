"""Every fault of the proxy does what it says, on open connections, and is over when it is healed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from agentfund.clock import SimulatedClock
from agentfund.testing import Proxy
from tests.buses.servers import free_port

PATIENCE_S = 10


class Echo:
    """A server that says back what it hears, and remembers it."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                self.heard += data
                writer.write(data)
                await writer.drain()
        writer.close()


class Client:
    """A connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, words: bytes) -> None:
        self.writer.write(words)
        await self.writer.drain()

    async def hear(self, number: int) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readexactly(number)

    async def end(self) -> str:
        """How the connection ended."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return "closed" if await self.reader.read(1) == b"" else "open"
        except ConnectionResetError:
            return "reset"


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    yield echo
    server.close()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", echo.port) as proxy:
        yield proxy


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def until(true: object) -> None:
    """Wait until a condition holds."""
    assert callable(true)
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.001)


async def test_without_faults_it_passes_everything_on(proxy: Proxy) -> None:
    """A megabyte there and back, and the end of a stream arrives as one."""
    words = bytes(range(256)) * 4_096
    async with connected(proxy) as client:
        await asyncio.gather(client.say(words), listening := asyncio.ensure_future(client.hear(len(words))))
        assert listening.result() == words
        client.writer.write_eof()
        assert await client.end() == "closed"
    await until(lambda: proxy.connections == 0)
    assert (proxy.requests.passed, proxy.answers.passed, proxy.requests.dropped) == (len(words), len(words), 0)


async def test_a_delay_is_taken_by_each_direction(echo: Echo) -> None:
    """On a simulated clock, to the microsecond."""
    clock = SimulatedClock()
    async with Proxy("127.0.0.1", echo.port, clock=clock) as proxy, connected(proxy) as client:
        proxy.requests.delay, proxy.answers.delay = 2.0, 0.5
        await client.say(b"a")
        assert await client.hear(1) == b"a"
        assert clock.monotonic() == 2.5
        proxy.heal()
        await client.say(b"b")
        assert await client.hear(1) == b"b"
        assert clock.monotonic() == 2.5


async def test_jitter_is_chance_that_can_be_had_again(echo: Echo) -> None:
    """The same seed gives the same network, another one another."""

    async def took(seed: int) -> float:
        clock = SimulatedClock()
        async with Proxy("127.0.0.1", echo.port, seed=seed, clock=clock) as proxy, connected(proxy) as client:
            proxy.requests.jitter = 1.0
            for _ in range(3):
                await client.say(b"x")
                await client.hear(1)
        return clock.monotonic()

    first = await took(1)
    assert 0 < first < 3
    assert await took(1) == first != await took(2)


async def test_a_rate_makes_bytes_take_their_time(echo: Echo) -> None:
    """Ten kilobytes at a kilobyte a second take ten seconds."""
    clock = SimulatedClock()
    async with Proxy("127.0.0.1", echo.port, clock=clock) as proxy, connected(proxy) as client:
        proxy.requests.rate = 1_000
        await client.say(bytes(10_000))
        await client.hear(10_000)
        await until(lambda: round(clock.monotonic(), 6) == 10.0)


async def test_small_packets_carry_the_same_bytes(proxy: Proxy) -> None:
    """Whoever takes a packet for a message learns better."""
    proxy.requests.piece = 3
    async with connected(proxy) as client:
        await client.say(b"0123456789")
        assert await client.hear(10) == b"0123456789"
    assert proxy.requests.packets >= 4


async def test_an_answer_can_be_lost_while_its_request_arrives(proxy: Proxy, echo: Echo) -> None:
    """The server did it, the client does not know; healing ends that connection, and another one works."""
    async with connected(proxy) as client:
        await client.say(b"a")
        await client.hear(1)
        proxy.answers.lost = True
        await client.say(b"b")
        await until(lambda: proxy.answers.dropped == 1)
        assert echo.heard == b"ab"
        proxy.heal()
        assert await client.end() == "reset"
    async with connected(proxy) as client:
        await client.say(b"c")
        assert await client.hear(1) == b"c"


async def test_a_request_can_be_lost(proxy: Proxy, echo: Echo) -> None:
    """It is swallowed, and the connection looks well."""
    proxy.requests.lost = True
    async with connected(proxy) as client:
        await client.say(b"a")
        await until(lambda: proxy.requests.dropped == 1)
        assert not echo.heard
        assert proxy.connections == 1


async def test_what_is_held_arrives_later_on_the_same_connection(proxy: Proxy, echo: Echo) -> None:
    """As with a network that was gone for a while."""
    proxy.requests.held = True
    async with connected(proxy) as client:
        await client.say(b"a")
        await until(lambda: proxy.connections == 1)
        await asyncio.sleep(0.01)
        assert not echo.heard
        proxy.heal()
        assert await client.hear(1) == b"a"


@pytest.mark.parametrize(("reset", "end"), [(True, "reset"), (False, "closed")], ids=["by-rst", "by-fin"])
async def test_connections_can_be_cut(proxy: Proxy, reset: bool, end: str) -> None:
    """All of them at once; new ones are welcome."""
    async with connected(proxy) as one, connected(proxy) as two:
        for client in (one, two):
            await client.say(b"a")
            await client.hear(1)
        proxy.cut(reset=reset)
        assert [await one.end(), await two.end()] == [end, end]
    async with connected(proxy) as client:
        await client.say(b"a")
        assert await client.hear(1) == b"a"
    assert proxy.accepted == 3


async def test_new_connections_can_be_refused_while_old_ones_go_on(proxy: Proxy) -> None:
    """As when a server's port is closed; healed, it is the same port."""
    async with connected(proxy) as client:
        await client.say(b"a")
        await client.hear(1)
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        await client.say(b"b")
        assert await client.hear(1) == b"b"
        proxy.heal()
        async with connected(proxy) as another:
            await another.say(b"c")
            assert await another.hear(1) == b"c"


async def test_without_a_server_a_connection_is_reset() -> None:
    """And the proxy waits for the server to come."""
    port = free_port()
    async with Proxy("127.0.0.1", port) as proxy:
        async with connected(proxy) as client:
            assert await client.end() == "reset"
        server = await asyncio.start_server(Echo().serve, "127.0.0.1", port)
        async with connected(proxy) as client:
            await client.say(b"a")
            assert await client.hear(1) == b"a"
        server.close()


def test_it_runs_on_its_own_and_takes_commands() -> None:
    """One a line; it ends with its input."""
    command = [sys.executable, "-m", "agentfund.testing.proxy", "127.0.0.1:1", "--delay", "5"]
    lines = "delay 50 answers\nlose answers\nrefuse\nheal\ndelay much\nexplode\n"
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60, check=True)
    address, *answers = done.stdout.splitlines()
    assert address.startswith("127.0.0.1:")
    assert answers[:5] == ["done"] * 4 + ["delay needs a number"]
    assert answers[5].startswith("delay MS")
