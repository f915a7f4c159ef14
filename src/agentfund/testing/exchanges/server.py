"""The server: websockets and REST on one port of this machine, for any wire."""

from __future__ import annotations

import asyncio
import json
from email.utils import format_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, urlsplit

from agentfund.errors import MissingExtra
from agentfund.testing.exchanges.market import Candle, Page, Push, Shop, Wire

try:
    from websockets.asyncio.server import Server, ServerConnection, serve
    from websockets.datastructures import Headers
    from websockets.exceptions import ConnectionClosed
    from websockets.http11 import Request, Response
except ImportError:
    raise MissingExtra("websockets", "exchanges") from None

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


class ExchangeServer:
    """An exchange on 127.0.0.1, in the loop of the test: use it as `async with ExchangeServer(BinanceWire()) as server`.

    Args:
        wire: how it speaks.
        shop: what it has.

    Attributes:
        shop: what it has; change it as the test goes on.
        mute: answers nothing on websockets, neither subscriptions nor pings.
        refusals: pages for the next questions to the REST API, before it answers as it should.
        turned_away: a page for those who open a websocket, None to let them in.
        heard: what clients sent, in order.
        asked: questions to the REST API, path and query, in order.
    """

    def __init__(self, wire: Wire, shop: Shop | None = None) -> None:
        self._wire = wire
        self.shop = shop or Shop()
        self.mute = False
        self.refusals: list[Page] = []
        self.turned_away: Page | None = None
        self.heard: list[str] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        self._clients: dict[ServerConnection, list[str]] = {}
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._client, "127.0.0.1", 0, process_request=self._request, compression=None, ping_interval=None, close_timeout=1
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    @property
    def _address(self) -> str:
        if self._server is None:
            raise RuntimeError("the server is not started: use it as `async with ExchangeServer(...) as server:`")
        return f"127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    @property
    def url(self) -> str:
        """Where its websockets are."""
        return f"ws://{self._address}/ws"

    @property
    def rest_url(self) -> str:
        """Where its REST API is."""
        return f"http://{self._address}"

    @property
    def clients(self) -> int:
        """How many websockets are open."""
        return len(self._clients)

    @property
    def topics(self) -> tuple[str, ...]:
        """What all clients together are subscribed to."""
        return tuple(topic for topics in self._clients.values() for topic in topics)

    async def subscribed(self, count: int = 1) -> None:
        """Return once there are so many subscriptions."""
        while len(self.topics) < count:  # noqa: ASYNC110 - it is the other side that moves
            await asyncio.sleep(0.001)

    async def left(self) -> None:
        """Return once no websocket is open."""
        while self._clients:  # noqa: ASYNC110 - it is the other side that moves
            await asyncio.sleep(0.001)

    async def trade(self, pair: str, key: str, price: str, volume: str, time: datetime | None = None) -> None:
        """Tell a trade to those who have subscribed."""
        await self.push(self._wire.trade(_pair(pair), key, price, volume, time or self.shop.now, self.shop))

    async def candle(self, pair: str, candle: Candle, *, closed: bool) -> None:
        """Tell how a candle stands, to those who have subscribed."""
        await self.push(self._wire.candle(_pair(pair), candle, self.shop, closed=closed))

    async def best(self, pair: str, bid: str | None, ask: str | None) -> None:
        """Tell the best prices, None where nobody is there."""
        await self.push(self._wire.best(_pair(pair), bid, ask, self.shop))

    def hold(self, pair: str, candles: Sequence[Candle]) -> None:
        """Have candles of the past, oldest first."""
        self.shop.candles[_pair(pair), candles[0].interval] = list(candles)

    async def push(self, push: Push) -> None:
        """Send a message to those who have subscribed to its topic."""
        text = json.dumps(push.body)
        for client, topics in list(self._clients.items()):
            if push.topic in topics:
                await client.send(text)

    async def say(self, body: Any) -> None:
        """Send anything to everybody: JSON, or a text as it is."""
        for client in list(self._clients):
            await client.send(body if isinstance(body, str) else json.dumps(body))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close all websockets in good order, as exchanges do once a day."""
        for client in list(self._clients):
            await client.close(code, reason)

    def cut(self) -> None:
        """Break all websockets."""
        for client in list(self._clients):
            client.transport.abort()

    def forget(self) -> None:
        """Drop all subscriptions without a word."""
        for topics in self._clients.values():
            topics.clear()

    async def _client(self, client: ServerConnection) -> None:
        topics = self._clients[client] = []
        path = urlsplit(client.request.path).path if client.request else ""
        try:
            async for text in client:
                said = text if isinstance(text, str) else text.decode()
                self.heard.append(said)
                if self.mute:
                    continue
                reply = self._wire.hear(said, path, topics, self.shop)
                topics.extend(topic for topic in reply.topics if topic not in topics)
                for answer in reply.texts:
                    await client.send(answer)
        except ConnectionClosed:
            pass
        finally:
            del self._clients[client]

    def _request(self, client: ServerConnection, request: Request) -> Response | None:
        if request.headers.get("upgrade", "").lower() == "websocket":
            return None if self.turned_away is None else self._response(self.turned_away)
        parts = urlsplit(request.path)
        query = dict(parse_qsl(parts.query))
        self.asked.append((parts.path, query))
        page = self.refusals.pop(0) if self.refusals else self._wire.get(parts.path, query, self.shop)
        return self._response(page)

    def _response(self, page: Page) -> Response:
        body = page.body if isinstance(page.body, bytes) else json.dumps(page.body).encode()
        headers = {"Content-Type": "application/json", "Date": format_datetime(self.shop.now, usegmt=True)}
        headers |= {"Content-Length": str(len(body)), "Connection": "close", **page.headers}
        return Response(page.status, HTTPStatus(page.status).phrase, Headers(headers), body)


def _pair(pair: str) -> tuple[str, str]:
    base, _, quote = pair.partition("/")
    return base, quote
