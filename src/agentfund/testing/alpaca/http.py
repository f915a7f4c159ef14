"""HTTP/1.1 and WebSocket on one port of 127.0.0.1, served by a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import format_datetime
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from weakref import WeakSet

from agentfund.protocols import Clock

_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came; `raw` is its head, `query` the last value of each parameter."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    raw: bytes

    def json(self) -> Any:
        """Return the body as JSON, None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class Reply:
    """The way back for one request.

    Args:
        writer: the connection.
        clock: where the header Date comes from.
    """

    def __init__(self, writer: asyncio.StreamWriter, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock

    async def send(
        self, status: int, body: bytes, *, headers: Mapping[str, str] | None = None, claimed: int | None = None, pace: float = 0
    ) -> None:
        """Answer; `claimed` is a length to lie about, `pace` seconds between two bytes of the body."""
        try:
            reason = HTTPStatus(status).phrase
        except ValueError:
            reason = "Unknown"
        told = {
            "date": format_datetime(self._clock.now().replace(microsecond=0), usegmt=True),
            "content-type": "application/json",
            "content-length": str(len(body) if claimed is None else claimed),
            **(headers or {}),
        }
        head = f"HTTP/1.1 {status} {reason}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in told.items()) + "\r\n"
        self._writer.write(head.encode("latin-1") + (b"" if pace else body))
        for byte in body if pace else b"":
            self._writer.write(bytes((byte,)))
            await self._writer.drain()
            await asyncio.sleep(pace)
        await self._writer.drain()

    def reset(self) -> None:
        """Break the connection, so that the client sees a reset and not an end."""
        found = self._writer.get_extra_info("socket")
        if found is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._writer.transport.abort()


Handler = Callable[[Request, Reply], Awaitable[None]]
Upgrade = Callable[[Request, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class HttpThread:
    """Serves each connection by a task, in a loop and a thread of its own.

    Args:
        answer: called for each request.
        upgrade: called for a request that wants to become a WebSocket, with the connection.
        clock: where the header Date comes from.
        port: where to listen, 0 for any free port.
    """

    def __init__(self, answer: Handler, upgrade: Upgrade, clock: Clock, port: int = 0) -> None:
        self._answer, self._upgrade, self._clock, self._port = answer, upgrade, clock, port
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: WeakSet[asyncio.WriteTransport] = WeakSet()
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    @property
    def address(self) -> str:
        """Host and port: `127.0.0.1:PORT`.

        Raises:
            RuntimeError: it is not started.
        """
        if self._socket is None:
            raise RuntimeError("the server is not started: use it as `with AlpacaServer() as server:`")
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    def start(self) -> None:
        """Listen; return once it does."""
        self._socket = socket.create_server(("127.0.0.1", self._port), backlog=256)
        self._ready.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="agentfund-alpaca-server", daemon=True)
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Close everything; return once it is done."""
        thread, self._thread = self._thread, None
        if thread is None or self.loop is None or self._stop is None:
            return
        self.loop.call_soon_threadsafe(self._stop.set)
        thread.join()
        self._socket = None

    def later(self, seconds: float, work: Callable[[], object]) -> None:
        """Do something in the server's thread after a while."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.loop.call_later, seconds, work)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        assert self._socket is not None
        self._socket.setblocking(False)
        accepting = asyncio.ensure_future(self._accept(self._socket))
        self._ready.set()
        await self._stop.wait()
        socket.create_connection(self._socket.getsockname()).close()  # wakes it up, so that nothing is lost half accepted
        await accepting
        self._socket.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for transport in tuple(self._transports):
            transport.abort()
        await asyncio.sleep(0)

    async def _accept(self, listening: socket.socket) -> None:
        # Not by asyncio.Server: one that is closed leaves connections behind that it accepted just before.
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listening)
            if self._stop is not None and self._stop.is_set():
                connection.close()
                return
            reader = asyncio.StreamReader(limit=1 << 24)
            protocol = asyncio.StreamReaderProtocol(reader, self._connected)
            await loop.connect_accepted_socket(partial(_same, protocol), connection)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._transports.add(writer.transport)  # beyond its task: what is not sent yet keeps it open
        task = asyncio.ensure_future(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio switches Nagle's delay off only for sockets that name their protocol, and this one does not.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while (request := await _read(reader)) is not None and not writer.is_closing():
                if request.headers.get("upgrade", "").lower() == "websocket":
                    await self._upgrade(request, reader, writer)
                    break
                await self._answer(request, Reply(writer, self._clock))
        except (ConnectionError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            writer.transport.abort() if self._stop is not None and self._stop.is_set() else writer.transport.close()


def _same(protocol: asyncio.StreamReaderProtocol) -> asyncio.StreamReaderProtocol:
    return protocol


async def _read(reader: asyncio.StreamReader) -> Request | None:
    with contextlib.suppress(asyncio.IncompleteReadError):
        raw = await reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").rstrip().split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        parts = urlsplit(target)
        return Request(method.upper(), unquote(parts.path), dict(parse_qsl(parts.query)), headers, body, raw)
    return None
