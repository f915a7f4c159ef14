"""A small HTTP/1.1 server in a thread of its own: sync code, any event loop and other processes can talk to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

_BIGGEST = 1 << 26
_NO_LINGER = struct.pack("ii", 1, 0)


class ClientGone(Exception):
    """The client has closed the connection before it was answered."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request as it came.

    Args:
        method: in upper case.
        path: without the query.
        headers: names in lower case.
        body: all of it.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """Return the body as a JSON object, empty where it is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


class Exchange:
    """The way back to the client for one request."""

    def __init__(self, writer: asyncio.StreamWriter, gone: asyncio.Event, *, bare: bool) -> None:
        self._writer = writer
        self._gone = gone
        self._bare = bare  # a HEAD request wants no body

    async def pause(self, seconds: float | None) -> None:
        """Wait, for ever with None.

        Raises:
            ClientGone: the client did not.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), seconds)
        if self._gone.is_set():
            raise ClientGone

    async def send(self, status: int, body: bytes, headers: Mapping[str, str], *, claimed: int | None = None) -> None:
        """Answer in one piece; `claimed` is a length to lie about."""
        head = _head(status, {**headers, "content-length": str(len(body) if claimed is None else claimed)})
        await self._write(head if self._bare else head + body)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin an answer in pieces."""
        await self._write(_head(status, {**headers, "transfer-encoding": "chunked"}))

    async def piece(self, data: bytes) -> None:
        """Send one piece."""
        if data:
            await self._write(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        """End an answer in pieces."""
        await self._write(b"0\r\n\r\n")

    def reset(self) -> None:
        """Break the connection, so that the client sees a reset and not an end."""
        found = self._writer.get_extra_info("socket")
        if found is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._writer.transport.abort()

    async def _write(self, data: bytes) -> None:
        if self._gone.is_set():
            raise ClientGone
        self._writer.write(data)
        try:
            await self._writer.drain()
        except ConnectionError:
            raise ClientGone from None


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


class HttpServer:
    """Serves requests on 127.0.0.1, each connection by one task; use `start` and `stop`.

    Args:
        answer: called in the server's loop for each request; what it raises closes the connection.
    """

    def __init__(self, answer: Callable[[HttpRequest, Exchange], Awaitable[None]]) -> None:
        self._answer = answer
        self._connections: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None

    @property
    def url(self) -> str:
        """Where it listens: `http://127.0.0.1:PORT`.

        Raises:
            RuntimeError: it is not started.
        """
        if self._socket is None:
            raise RuntimeError("the server is not started: use it as `with Provider() as provider:`")
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._connections)

    def start(self) -> None:
        """Listen on a free port; return once it does."""
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self._ready.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="agentfund-provider", daemon=True)
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Close all connections and stop listening; return once it is done."""
        thread, self._thread = self._thread, None
        if thread is None or self._loop is None or self._stop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        thread.join()
        self._socket = None

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        assert self._socket is not None
        server = await self._loop.create_server(self._protocol, sock=self._socket, backlog=2048)
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader, gone = asyncio.StreamReader(limit=_BIGGEST), asyncio.Event()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._connection(reader, writer, gone))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        return _Watched(reader, connected, gone)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gone: asyncio.Event) -> None:
        # asyncio switches Nagle's delay off only for sockets that name their protocol, and this one does not.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while (request := await _read(reader, writer)) is not None:
                await self._answer(request, Exchange(writer, gone, bare=request.method == "HEAD"))
                if request.headers.get("connection", "").lower() == "close" or writer.is_closing():
                    break
        except (ClientGone, ConnectionError, asyncio.IncompleteReadError, ValueError, asyncio.LimitOverrunError):
            pass
        finally:
            # What is left in the buffer of a client that does not read must not keep the server from stopping.
            if self._stop is not None and self._stop.is_set():
                writer.transport.abort()
            writer.transport.close()


class _Watched(asyncio.StreamReaderProtocol):
    """Says at once that the client has gone, also while nobody reads."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None],
        gone: asyncio.Event,
    ) -> None:
        super().__init__(reader, connected)
        self._gone = gone

    def eof_received(self) -> bool | None:
        self._gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        super().connection_lost(exc)


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> HttpRequest | None:
    """Return the next request, None where the client is done."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip().split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return HttpRequest(method.upper(), target.split("?", 1)[0], headers, body)
