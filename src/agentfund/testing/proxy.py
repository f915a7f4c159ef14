"""A bad network: a TCP proxy between any client and any server, whose faults are switched while connections are open.

In a test::

    async with Proxy("127.0.0.1", 6379) as proxy:
        client = connect("127.0.0.1", proxy.port)
        proxy.answers.lost = True     # requests arrive, answers do not: was it done or not?
        ...
        proxy.heal()

On its own: `python -m agentfund.testing.proxy 127.0.0.1:6379 --delay 50 --jitter 20`; it prints its address, and takes
`delay 50`, `lose answers`, `hold both`, `cut`, `reset`, `refuse`, `heal` and so on, one command a line.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import struct
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from agentfund.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentfund.protocols import Clock

_CHUNK = 65_536
_WAITING = 64  # chunks under way in one direction of a connection: more, and the sender has to wait
_SHARE_S = 0.02  # where the rate is limited, what gets through in so long goes at once
_LOOK_S = 0.002  # how often what is held looks whether it may go on


@dataclass(slots=True)
class Way:
    """One direction of all connections. Set what shall go wrong; it counts at once.

    Args:
        delay: seconds that every byte takes.
        jitter: up to so many seconds more, by chance; the order stays.
        rate: bytes a second that get through on a connection, 0 for no limit.
        piece: bytes of the largest packet, 0 for no limit.
        held: nothing gets through; it arrives when this is over, as with a network that was gone for a while.
        lost: nothing gets through, ever; `Proxy.heal` cuts the connections that lost something.
        passed: bytes that got through so far.
        dropped: bytes that were lost so far.
        packets: how many packets the passed bytes were.
    """

    delay: float = 0.0
    jitter: float = 0.0
    rate: float = 0.0
    piece: int = 0
    held: bool = False
    lost: bool = False
    passed: int = 0
    dropped: int = 0
    packets: int = 0

    @property
    def size(self) -> int:
        """Return how many bytes the next packet may have."""
        most = max(1, int(self.rate * _SHARE_S)) if self.rate else _CHUNK
        return min(self.piece or most, most)

    def heal(self) -> None:
        """Let everything through again; what is on its way keeps its delay."""
        self.delay = self.jitter = self.rate = 0.0
        self.piece = 0
        self.held = self.lost = False


@dataclass(eq=False, slots=True)
class _Pair:
    """A connection of a client, and the one to the server that belongs to it."""

    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    spoilt: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def cut(self, reset: bool) -> None:
        for writer in self.writers:
            raw: socket.socket | None = writer.get_extra_info("socket")
            if reset and raw is not None:
                with suppress(OSError):  # closed before, by its other end
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        if self.task is not None:
            self.task.cancel()


class Proxy:
    """A TCP proxy on a port of this machine.

    Args:
        host: where the server is.
        port: its port.
        at: address to listen on.
        listen: port to listen on, 0 for a free one.
        seed: of the chances of jitter.
        clock: times delays; the machine's unless a test brings its own.
    """

    def __init__(
        self, host: str, port: int, *, at: str = "127.0.0.1", listen: int = 0, seed: int = 0, clock: Clock | None = None
    ) -> None:
        self.requests = Way()
        self.answers = Way()
        self.accepted = 0
        self.port = listen
        self._server = (host, port)
        self._at = at
        self._dice = random.Random(seed)  # noqa: S311 - chances of a test, to be had again
        self._clock = clock or SystemClock()
        self._pairs: set[_Pair] = set()
        self._greeting: set[asyncio.Task[None]] = set()
        self._door: socket.socket | None = None
        self._doorman: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._pairs)

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.refuse()
        tasks = [*self._greeting, *(pair.task for pair in self._pairs if pair.task)]
        self.cut(reset=False)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # there the sockets are closed

    def cut(self, *, reset: bool = True) -> None:
        """End all connections, by RST or by FIN; what was on its way is gone. New ones are accepted."""
        for pair in tuple(self._pairs):
            pair.cut(reset)

    def refuse(self) -> None:
        """Refuse new connections, as a machine does on which no server listens; open ones go on."""
        if self._door is not None and self._doorman is not None:
            asyncio.get_running_loop().remove_reader(self._door)  # before another file takes its number
            self._doorman.cancel()
            self._door.close()
        self._door = self._doorman = None

    def heal(self) -> None:
        """End all faults. A connection that lost bytes is cut: no network gives the bytes after a hole."""
        self.requests.heal()
        self.answers.heal()
        for pair in tuple(self._pairs):
            if pair.spoilt:
                pair.cut(reset=True)
        if self._door is None:
            self._open()

    def _open(self) -> None:
        self._door = socket.create_server((self._at, self.port), backlog=1_024)
        self._door.setblocking(False)
        self.port = self._door.getsockname()[1]
        self._doorman = asyncio.ensure_future(self._accept(self._door))

    async def _accept(self, door: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(door)
            self.accepted += 1
            task = asyncio.ensure_future(self._serve(client))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    async def _serve(self, client: socket.socket) -> None:
        from_client, to_client = await asyncio.open_connection(sock=client)
        try:
            from_server, to_server = await asyncio.open_connection(*self._server)
        except OSError:  # no server: the client is told as by a network that knows no more
            _Pair((to_client, to_client)).cut(reset=True)
            return
        pair = _Pair((to_client, to_server), task=asyncio.current_task())
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(self.requests, pair, from_client, to_server))
                both.create_task(self._pass(self.answers, pair, from_server, to_client))
        except* OSError:  # one side was reset, and so is the other
            pair.task = None
            pair.cut(reset=True)
        finally:
            self._pairs.discard(pair)
            for writer in pair.writers:
                writer.close()

    async def _pass(self, way: Way, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WAITING)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._read(way, reader, waiting))
            both.create_task(self._write(way, pair, waiting, writer))

    async def _read(self, way: Way, reader: asyncio.StreamReader, waiting: asyncio.Queue[tuple[float, bytes]]) -> None:
        due = 0.0
        while True:
            data = await reader.read(_CHUNK)
            late = way.delay + (self._dice.uniform(0, way.jitter) if way.jitter else 0.0)
            due = max(due, self._clock.monotonic() + late)
            await waiting.put((due, data))
            if not data:
                return

    async def _write(
        self, way: Way, pair: _Pair, waiting: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due, data = await waiting.get()
            if (left := due - self._clock.monotonic()) > 0:
                await self._clock.sleep(left)
            if not data:
                await self._hold(way)
                if not way.lost:
                    with suppress(OSError):  # the other side is gone as well
                        writer.write_eof()
                return
            while data:
                await self._hold(way)
                if way.lost:
                    way.dropped += len(data)
                    pair.spoilt = True
                    break
                packet, data = data[: way.size], data[way.size :]
                writer.write(packet)
                await writer.drain()
                way.passed += len(packet)
                way.packets += 1
                await self._clock.sleep(len(packet) / way.rate if way.rate else 0)

    async def _hold(self, way: Way) -> None:
        while way.held:  # noqa: ASYNC110 - an attribute is easier to set than an event
            await asyncio.sleep(_LOOK_S)


_HELP = "delay MS, jitter MS, rate BYTES, piece BYTES, hold, lose, each for requests, answers or both; cut, reset, refuse, heal"


def obey(proxy: Proxy, command: str) -> str:
    """Do what one line says; return what to answer."""
    word, *rest = command.split() or [""]
    names = {"requests": [proxy.requests], "answers": [proxy.answers], "both": [proxy.requests, proxy.answers]}
    ways = names.get(rest[-1], names["both"]) if rest else names["both"]
    try:
        match word:
            case "delay" | "jitter":
                for way in ways:
                    setattr(way, word, float(rest[0]) / 1_000)
            case "rate":
                for way in ways:
                    way.rate = float(rest[0])
            case "piece":
                for way in ways:
                    way.piece = int(rest[0])
            case "hold":
                for way in ways:
                    way.held = True
            case "lose":
                for way in ways:
                    way.lost = True
            case "cut":
                proxy.cut(reset=False)
            case "reset":
                proxy.cut()
            case "refuse":
                proxy.refuse()
            case "heal":
                proxy.heal()
            case _:
                return _HELP
    except (IndexError, ValueError):
        return f"{word} needs a number"
    return "done"


def _listen(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[str]) -> None:
    """Read in a thread that an interrupted program need not wait for."""
    with suppress(RuntimeError):  # the program is over
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, "")


async def _run(options: argparse.Namespace) -> None:
    host, _, port = options.server.rpartition(":")
    at, _, listen = options.listen.rpartition(":")
    async with Proxy(host, int(port), at=at, listen=int(listen), seed=options.seed) as proxy:
        for way in (proxy.requests, proxy.answers):
            way.delay, way.jitter = options.delay / 1_000, options.jitter / 1_000
            way.rate, way.piece = options.rate, options.piece
        sys.stdout.write(f"{at}:{proxy.port}\n")
        sys.stdout.flush()
        lines: asyncio.Queue[str] = asyncio.Queue()
        threading.Thread(target=_listen, args=(asyncio.get_running_loop(), lines), daemon=True).start()
        while line := await lines.get():
            sys.stdout.write(obey(proxy, line) + "\n")
            sys.stdout.flush()
        if options.forever:
            await asyncio.Event().wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a proxy until its input ends."""
    parser = argparse.ArgumentParser(prog="python -m agentfund.testing.proxy", description="A bad network, on purpose.")
    parser.add_argument("server", metavar="HOST:PORT", help="where requests go")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="where to listen; port 0 is a free one")
    parser.add_argument("--delay", type=float, default=0, metavar="MS", help="what every byte takes, in each direction")
    parser.add_argument("--jitter", type=float, default=0, metavar="MS", help="up to so much more, by chance")
    parser.add_argument("--rate", type=float, default=0, metavar="BYTES", help="bytes a second")
    parser.add_argument("--piece", type=int, default=0, metavar="BYTES", help="bytes of the largest packet")
    parser.add_argument("--seed", type=int, default=0, help="of the chances")
    parser.add_argument("--forever", action="store_true", help="go on when there is no more input")
    with suppress(KeyboardInterrupt):
        asyncio.run(_run(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
