"""The exchange in memory behind HTTP on 127.0.0.1: enough of the REST of Binance, Bybit v5 and OKX v5 for ccxt."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from agentfund.testing.spot import binance, bybit, okx
from agentfund.testing.spot.exchange import SpotExchange
from agentfund.testing.spot.faults import Fault

Answer = tuple[int, Any]
Speak = Callable[[SpotExchange, str, str, Mapping[str, Any]], Answer]
_SPEAK: Mapping[str, Speak] = {"binance": binance.answer, "bybit": bybit.answer, "okx": okx.answer}


class SpotServer:
    """Serves one exchange in one dialect, in the event loop that starts it.

    Use it as an asynchronous context manager; `url` is where it listens.

    Args:
        exchange: what it serves.
        dialect: whose REST it speaks.

    Attributes:
        faults: what to spoil, tried in order.
        requests: method and path of every request that came.
    """

    def __init__(self, exchange: SpotExchange, dialect: Literal["binance", "bybit", "okx"]) -> None:
        self.exchange = exchange
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.url = ""
        self._speak = _SPEAK[dialect]
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen on a free port."""
        line = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        line.bind(("127.0.0.1", 0))
        self._server = await asyncio.start_server(self._serve, sock=line)
        self.url = f"http://127.0.0.1:{line.getsockname()[1]}"

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is None:
            return
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in tuple(self._writers):
            writer.close()
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, target, _ = head.split("\r\n", 1)[0].split(" ")
                length = next((int(x.split(":")[1]) for x in head.split("\r\n") if x.lower().startswith("content-length")), 0)
                body = (await reader.readexactly(length)).decode()
                if not await self._answer(method, target, body, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, method: str, target: str, body: str, writer: asyncio.StreamWriter) -> bool:
        parts = urlsplit(target)
        self.requests.append((method, parts.path))
        params: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
        if body.startswith(("{", "[")):
            given = json.loads(body)
            params |= given if isinstance(given, dict) else {"list": given}
        else:
            params |= dict(parse_qsl(body, keep_blank_values=True))
        fault = next((one for one in self.faults if one.meets(method, parts.path)), None)
        harm = fault.harm if fault else ""
        if harm == "drop":
            return False
        if harm == "silence_before":
            await asyncio.Event().wait()
        if fault is not None and harm == "refuse":
            return await self._send(writer, fault.status, fault.body)
        status, answer = self._speak(self.exchange, method, parts.path, params)
        if harm == "silence":
            await asyncio.Event().wait()
        text = json.dumps(answer)
        if fault is not None and harm in ("html", "truncated", "empty"):
            status = fault.status
            text = {"html": "<html><body>502 Bad Gateway</body></html>", "truncated": text[: len(text) // 2], "empty": ""}[harm]
            return await self._send(writer, status, text, "text/html" if harm == "html" else "application/json")
        return await self._send(writer, status, text)

    async def _send(self, writer: asyncio.StreamWriter, status: int, text: str, kind: str = "application/json") -> bool:
        body = text.encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        return True
