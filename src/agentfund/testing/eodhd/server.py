"""EODHD on this machine: its websockets and its REST API on one port, and its failures on demand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

_LONGEST_S = {"1m": 120 * 86_400, "5m": 600 * 86_400, "1h": 7200 * 86_400}
_MOST_SYMBOLS = 50
_SILENT = logging.Logger("agentfund.testing.eodhd", logging.CRITICAL + 1)  # a log of requests would hold tokens
_AUTHORIZED = {"status_code": 200, "message": "Authorized"}


@dataclass(slots=True, eq=False)
class Subscriber:
    """A websocket that is open.

    Attributes:
        market: which of the websockets it is.
        batches: the symbols of each message by which it subscribed.
    """

    market: str
    connection: ServerConnection
    batches: list[list[str]] = field(default_factory=list)

    @property
    def symbols(self) -> set[str]:
        """What it subscribed to."""
        return {symbol for batch in self.batches for symbol in batch}


@dataclass(frozen=True, slots=True)
class Canned:
    """An answer that the REST API gives instead of its own."""

    status: int
    body: str
    headers: Mapping[str, str]


class EodhdServer:
    """Serves EODHD's protocols on 127.0.0.1; use it as `async with EodhdServer() as server`.

    Args:
        token: the only one that it knows.

    Attributes:
        rows: what the REST API has, by path and interval, such as `("intraday/AAPL.US", "5m")` or `("eod/AAPL.US", "d")`.
        asked: the requests of the REST API, path and parameters without the token.
        greeting: the first frame of a websocket; None for none.
        refusal: an HTTP status with which websockets are refused; 0 for none.
        subscribers: the websockets that are open.
        date: the server's clock in the headers; None for the time that it is.
    """

    def __init__(self, token: str = "a-token-of-eodhd") -> None:  # noqa: S107 - it opens nothing but this server
        self.token = token
        self.rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.greeting: Mapping[str, Any] | None = _AUTHORIZED
        self.refusal = 0
        self.subscribers: list[Subscriber] = []
        self.date: str | None = None
        self._canned: deque[Canned] = deque()
        self._changed = asyncio.Event()
        self._server: Server | None = None

    async def __aenter__(self) -> EodhdServer:
        self._server = await serve(
            self._websocket,
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
        assert self._server is not None, "use it as `async with EodhdServer() as server`"
        return int(next(iter(self._server.sockets)).getsockname()[1])

    @property
    def url(self) -> str:
        """The address of the websockets."""
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def rest_url(self) -> str:
        """The address of the REST API."""
        return f"http://127.0.0.1:{self.port}/api"

    def answer(self, status: int, body: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Let the REST API answer its next request so, instead of by itself."""
        self._canned.append(Canned(status, body, headers or {}))

    async def until(self, count: int, market: str | None = None) -> list[Subscriber]:
        """Wait until so many symbols are subscribed to; return the websockets."""
        while True:
            found = [each for each in self.subscribers if market in (None, each.market)]
            if sum(len(each.symbols) for each in found) >= count:
                return found
            self._changed.clear()
            await self._changed.wait()

    async def idle(self) -> None:
        """Wait until no websocket is open."""
        while self.subscribers:
            self._changed.clear()
            await self._changed.wait()

    async def send(self, frame: Mapping[str, Any] | str) -> None:
        """Send a frame to everybody who has subscribed to its symbol; a text or a status goes to all."""
        text = frame if isinstance(frame, str) else json.dumps(frame)
        symbol = None if isinstance(frame, str) else frame.get("s")
        for each in self.subscribers:
            if symbol is None or symbol in each.symbols:
                await each.connection.send(text)

    async def close(self, code: int = 1000) -> None:
        """Close all websockets in good order."""
        for each in list(self.subscribers):
            await each.connection.close(code)

    def cut(self) -> None:
        """Break all websockets."""
        for each in self.subscribers:
            each.connection.transport.abort()

    async def _websocket(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        market = urlsplit(connection.request.path).path.removeprefix("/ws/")
        subscriber = Subscriber(market, connection)
        self.subscribers.append(subscriber)
        try:
            if self.greeting is not None:
                await connection.send(json.dumps(self.greeting))
            async for text in connection:
                told = json.loads(text)
                symbols = [symbol.strip() for symbol in told["symbols"].split(",")]
                if len(symbols) > _MOST_SYMBOLS:
                    await connection.send(json.dumps({"status_code": 422, "message": "Symbols limit reached"}))
                elif told["action"] == "subscribe":
                    subscriber.batches.append(symbols)
                self._changed.set()
        except ConnectionClosed:
            pass
        finally:
            with contextlib.suppress(ValueError):
                self.subscribers.remove(subscriber)
            self._changed.set()

    def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        parts = urlsplit(request.path)
        params = {name: values[0] for name, values in parse_qs(parts.query).items()}
        token = params.pop("api_token", "")
        if parts.path.startswith("/ws/"):
            if self.refusal or token != self.token:
                return self._response(self.refusal or 401, "Unauthorized")
            return None
        path = parts.path.removeprefix("/api/")
        self.asked.append((path, params))
        if self._canned:
            canned = self._canned.popleft()
            return self._response(canned.status, canned.body, canned.headers)
        if token != self.token:
            return self._response(401, "Unauthenticated")
        return self._rows(path, params)

    def _rows(self, path: str, params: Mapping[str, str]) -> Response:
        interval = params.get("interval", params.get("period", "5m"))
        if (path, interval) not in self.rows:
            return self._response(404, "Ticker Not Found.")
        rows = self.rows[path, interval]
        if path.startswith("eod/"):
            return self._json([row for row in rows if params["from"] <= row["date"] <= params["to"]])
        first, last = int(params["from"]), int(params["to"])
        if last - first > _LONGEST_S[interval]:
            return self._response(422, json.dumps({"errors": {"from": ["The range is too long"]}}))
        return self._json([row for row in rows if first <= _seconds(row) <= last])

    def _json(self, rows: Sequence[Mapping[str, Any]]) -> Response:
        return self._response(200, json.dumps(rows), {"Content-Type": "application/json"})

    def _response(self, status: int, body: str, headers: Mapping[str, str] | None = None) -> Response:
        raw = body.encode()
        told = Headers({"Content-Length": str(len(raw)), "Connection": "close"})
        told["Date"] = self.date or f"{datetime.now(UTC):%a, %d %b %Y %H:%M:%S GMT}"
        for name, value in (headers or {}).items():
            told[name] = value
        return Response(status, HTTPStatus(status).phrase, told, raw)


def _seconds(row: Mapping[str, Any]) -> int:
    """Return when a row starts, by whichever field says so."""
    for name in ("timestamp", "Timestamp"):
        if row.get(name) is not None:
            return int(row[name])
    text = row.get("datetime") or (f"{row['date']} {row['time']}" if "time" in row else row["date"])
    offset = timedelta(seconds=int(row.get("gmtoffset") or 0))
    return int((datetime.fromisoformat(text).replace(tzinfo=UTC) - offset).timestamp())
