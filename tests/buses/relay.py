"""A stretch of network that a test can cut: a relay on the loopback, between a client and a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any


class Relay:
    """Passes bytes on in both ways.

    Args:
        address: `host:port` of the server.

    Attributes:
        address: `host:port` for clients, while it is open.
        deaf: when true, what the server answers does not reach the clients.
    """

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._server: asyncio.Server | None = None
        self._pairs: set[asyncio.Task[Any]] = set()
        self.address = ""
        self.deaf = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Relay]:
        """Relay for the length of a `with` block."""
        await self.mend()
        try:
            yield self
        finally:
            await self.cut()

    async def mend(self) -> None:
        """Relay again, at the same address."""
        self.deaf = False
        host, _, port = self.address.rpartition(":")
        self._server = await asyncio.start_server(self._relay, host or "127.0.0.1", int(port or 0))
        self.address = "{}:{}".format(*self._server.sockets[0].getsockname()[:2])

    async def cut(self) -> None:
        """End all connections and take no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            pair.cancel()
        await asyncio.gather(*pairs, return_exceptions=True)

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Be cut for the length of a `with` block."""
        await self.cut()
        yield
        await self.mend()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        writers = [writer]
        try:
            there_reader, there_writer = await asyncio.open_connection(self._host, self._port)
            writers.append(there_writer)
            ways = [
                asyncio.ensure_future(self._pass(reader, there_writer, False)),
                asyncio.ensure_future(self._pass(there_reader, writer, True)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._pairs.discard(task)
            for one in writers:
                one.transport.abort()
            for one in writers:
                with suppress(Exception):
                    await one.wait_closed()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        while data := await reader.read(1 << 16):
            if not (answers and self.deaf):
                writer.write(data)
                await writer.drain()
