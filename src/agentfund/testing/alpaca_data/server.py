"""Alpaca's market data on this machine: the stream in msgpack and the pages of bars on one port, and failures on demand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgpack  # type: ignore[import-untyped]  # it brings no types
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

_SILENT = logging.Logger("agentfund.testing.alpaca_data", logging.CRITICAL + 1)  # a log of frames would hold keys
_CHANNELS = ("trades", "quotes", "bars", "updatedBars", "dailyBars", "statuses", "lulds", "corrections", "cancelErrors")


@dataclass(slots=True, eq=False)
class Subscriber:
    """A stream that is open; `channels` are the symbols by channel that it subscribed to."""

    path: str
    connection: ServerConnection
    channels: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Canned:
    """An answer that the REST API gives instead of its own."""

    status: int
    body: str
    headers: Mapping[str, str]


class AlpacaDataServer:
    """Serves the protocols of Alpaca's market data on 127.0.0.1; use it as `async with AlpacaDataServer() as server`.

    Args:
        key: the only key that it knows.
        secret: its secret.
        most: how many streams an account may have.

    Attributes:
        rows: what the REST API has, by symbol and timeframe, such as `("AAPL", "1Min")`.
        page_size: the most rows of a page.
        asked: the requests of the REST API, path and parameters.
        greeting: the first frames of a stream; None for none.
        denial: frames that answer a login instead of the usual ones; None for those, empty for none.
        ignored: symbols that a subscription does not confirm.
        refusal: an HTTP status with which streams are refused; 0 for none.
        subscribers: the streams that are open.
        date: the server's clock in the headers; None for the time that it is.
    """

    def __init__(self, key: str = "PKTESTKEY0000000", secret: str = "a-secret-of-alpaca", most: int = 1) -> None:  # noqa: S107 - they open nothing but this server
        self.key, self.secret, self.most = key, secret, most
        self.rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.page_size = 10_000
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.greeting: Sequence[Mapping[str, Any]] | None = ({"T": "success", "msg": "connected"},)
        self.denial: Sequence[Mapping[str, Any]] | None = None
        self.ignored: set[str] = set()
        self.refusal = 0
        self.subscribers: list[Subscriber] = []
        self.date: str | None = None
        self._canned: deque[Canned] = deque()
        self._changed = asyncio.Event()
        self._server: Server | None = None

    async def __aenter__(self) -> AlpacaDataServer:
        self._server = await serve(
            self._stream,
            "127.0.0.1",
            0,
            process_request=self._request,
            compression=None,
            close_timeout=0.2,
            logger=_SILENT,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None, "use it as `async with AlpacaDataServer() as server`"
        return int(next(iter(self._server.sockets)).getsockname()[1])

    @property
    def url(self) -> str:
        """The address of the stream of stocks by IEX."""
        return f"ws://127.0.0.1:{self.port}/v2/iex"

    @property
    def crypto_url(self) -> str:
        """The address of the stream of crypto."""
        return f"ws://127.0.0.1:{self.port}/v1beta3/crypto/us"

    @property
    def rest_url(self) -> str:
        """The address of the REST API."""
        return f"http://127.0.0.1:{self.port}"

    def answer(self, status: int, body: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Let the REST API answer its next request so, instead of by itself."""
        self._canned.append(Canned(status, body, headers or {}))

    async def subscribed(self, count: int = 1) -> list[Subscriber]:
        """Wait until so many streams have subscribed; return them."""
        while len(found := [each for each in self.subscribers if each.channels]) < count:
            self._changed.clear()
            await self._changed.wait()
        return found

    async def idle(self) -> None:
        """Wait until no stream is open."""
        while self.subscribers:
            self._changed.clear()
            await self._changed.wait()

    async def send(self, *frames: Any) -> None:
        """Send frames in one message to all streams; datetimes become timestamps of msgpack, bytes go as they are."""
        data = frames[0] if isinstance(frames[0], bytes) else msgpack.packb([_packed(frame) for frame in frames])
        for each in self.subscribers:
            await each.connection.send(data)

    async def close(self, code: int = 1000) -> None:
        """Close all streams in good order."""
        for each in list(self.subscribers):
            await each.connection.close(code)

    def cut(self) -> None:
        """Break all streams."""
        for each in self.subscribers:
            each.connection.transport.abort()

    async def _stream(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        subscriber = Subscriber(urlsplit(connection.request.path).path, connection)
        others = sum(each.path == subscriber.path for each in self.subscribers)
        self.subscribers.append(subscriber)
        try:
            if self.greeting is not None:
                await connection.send(msgpack.packb(list(self.greeting)))
            login = msgpack.unpackb(await connection.recv())
            for frame in self._admitted(login, others):
                await connection.send(msgpack.packb([frame]))
                if frame["T"] == "error":
                    return
            async for data in connection:
                told = msgpack.unpackb(data)
                subscriber.channels = {name: list(told[name]) for name in _CHANNELS if name in told}
                confirmed = {
                    name: [symbol for symbol in subscriber.channels.get(name, []) if symbol not in self.ignored]
                    for name in _CHANNELS
                }
                await connection.send(msgpack.packb([{"T": "subscription", **confirmed}]))
                self._changed.set()
        except ConnectionClosed:
            pass
        finally:
            with contextlib.suppress(ValueError):
                self.subscribers.remove(subscriber)
            self._changed.set()

    def _admitted(self, login: Mapping[str, Any], others: int) -> Sequence[Mapping[str, Any]]:
        if self.denial is not None:
            return self.denial
        if (login.get("key"), login.get("secret")) != (self.key, self.secret):
            return ({"T": "error", "code": 402, "msg": "auth failed"},)
        if others >= self.most:
            return ({"T": "error", "code": 406, "msg": "connection limit exceeded"},)
        return ({"T": "success", "msg": "authenticated"},)

    def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" in request.headers:
            return self._response(self.refusal, "") if self.refusal else None
        parts = urlsplit(request.path)
        params = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.asked.append((parts.path, params))
        if self._canned:
            canned = self._canned.popleft()
            return self._response(canned.status, canned.body, canned.headers)
        keys = request.headers.get("APCA-API-KEY-ID"), request.headers.get("APCA-API-SECRET-KEY")
        if keys != (self.key, self.secret):
            return self._response(403, '{"message": "forbidden."}')
        if parts.path not in ("/v2/stocks/bars", "/v1beta3/crypto/us/bars"):
            return self._response(404, '{"message": "endpoint not found."}')
        return self._page(params)

    def _page(self, params: Mapping[str, str]) -> Response:
        symbol = params["symbols"]
        first, last = datetime.fromisoformat(params["start"]), datetime.fromisoformat(params["end"])
        rows = [
            row
            for row in self.rows.get((symbol, params["timeframe"]), ())
            if first <= datetime.fromisoformat(str(row["t"])) <= last
        ]
        begin = int(params.get("page_token", "0"))
        end = begin + min(self.page_size, int(params.get("limit", "1000")))
        token = str(end) if end < len(rows) else None
        bars = {symbol: rows[begin:end]} if rows else {}
        return self._response(200, json.dumps({"bars": bars, "next_page_token": token}))

    def _response(self, status: int, body: str, headers: Mapping[str, str] | None = None) -> Response:
        raw = body.encode()
        told = Headers({"Content-Length": str(len(raw)), "Connection": "close"})
        told["Date"] = self.date or f"{datetime.now(UTC):%a, %d %b %Y %H:%M:%S GMT}"
        for name, value in (headers or {}).items():
            told[name] = value
        return Response(status, HTTPStatus(status).phrase, told, raw)


def _packed(frame: Any) -> Any:
    """Return a frame as msgpack writes it."""
    if not isinstance(frame, Mapping):
        return frame
    return {
        name: msgpack.Timestamp.from_datetime(value) if isinstance(value, datetime) else value for name, value in frame.items()
    }
