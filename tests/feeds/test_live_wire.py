"""A live feed over real sockets: a websocket server that drops, repeats, reorders and babbles, and a REST API beside it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from agentfund.clock import JumpingClock, from_micros, to_micros
from agentfund.errors import FeedError
from agentfund.feeds.ticks import TickColumns
from agentfund.market import Alive, Bar, Heard, Instrument, Tick
from tests.feeds.live_sources import at, bars, live, moments, ticks, whole


class Exchange:
    """Ticks by websocket and bars by REST, on loopback, with the faults that a test asks for.

    Args:
        data: what happens.
        clock: when it happens.
        drops: seconds from 9:30 at which connections are torn.
        faults: what is sent besides: "garbage", "twice", "reordered".
        skew_s: how far its clock is ahead.
        rest_fails: every such question is answered with 503, 0 for none.
    """

    def __init__(
        self,
        data: TickColumns,
        clock: JumpingClock,
        *,
        drops: Sequence[float] = (),
        faults: Sequence[str] = (),
        skew_s: float = 0.0,
        rest_fails: int = 0,
    ) -> None:
        self.clock, self.drops, self.faults, self.rest_fails = clock, sorted(drops), faults, rest_fails
        self.skew = timedelta(seconds=skew_s)
        self.bars = whole("A", data)
        self.events = self._events(data)
        self.questions = self.connections = 0
        self.ports = (0, 0)

    def _events(self, data: TickColumns) -> list[tuple[int, str]]:
        made = []
        for i, (time, price) in enumerate(zip(data.time.tolist(), data.price.tolist(), strict=True)):
            size = 1.0 if data.volume is None else float(data.volume[i])
            made.append((time, json.dumps({"id": i, "t": time, "p": price, "q": size})))
            if "twice" in self.faults and i % 5 == 0:
                made.append((time + 1000, made[-1][1]))
            if "garbage" in self.faults and i % 7 == 0:
                made += [(time, "<html>502</html>"), (time, json.dumps({"id": -i, "t": time, "p": -1.0, "q": "x"}))]
        if "reordered" in self.faults:
            made = [(time + (1_500_000 if i % 3 == 0 else 0), text) for i, (time, text) in enumerate(made)]
        return sorted(made, key=lambda each: each[0])

    async def _stream(self, socket: ServerConnection) -> None:
        self.connections += 1
        assert json.loads(await socket.recv()) == {"op": "subscribe"}
        await socket.send('{"op": "subscribed"}')
        began = to_micros(self.clock.now())
        drop = next((to_micros(at(each)) for each in self.drops if to_micros(at(each)) > began), None)
        with suppress(ConnectionClosed):
            for time, text in self.events:
                if time < began:
                    continue
                due = time if drop is None else min(time, drop)
                while (left := due - to_micros(self.clock.now())) > 0:
                    await self.clock.sleep(left / 1e6)
                if drop is not None and time >= drop:
                    socket.transport.abort()
                    return
                await socket.send(text)
            await self.clock.sleep(1e6)

    async def _rest(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked = {name: int(values[0]) for name, values in parse_qs(urlsplit(request.split(" ")[1]).query).items()}
        self.questions += 1
        status, body = 200, b"[]"
        if self.rest_fails and self.questions % self.rest_fails == 0:
            status, body = 503, b"<html>busy</html>"
        else:
            now = self.clock.now() - timedelta(seconds=3)
            found = [each for each in self.bars if each.end <= now and to_micros(each.start) >= asked["start"]]
            body = json.dumps(
                [[to_micros(each.start), *each[3:]] for each in found if to_micros(each.end) <= asked["end"]]
            ).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[WireSource]:
        """Serve, and give a source that is connected to it."""
        async with serve(self._stream, "127.0.0.1", 0, close_timeout=0.1) as stream:
            rest = await asyncio.start_server(self._rest, "127.0.0.1", 0)
            async with rest:
                ports = [next(iter(each.sockets)).getsockname()[1] for each in (stream, rest)]
                yield WireSource(self, *ports)


class WireSource:
    """A source as an adapter is one: it subscribes, parses, leaves out what it knows, and asks by REST."""

    name = "wire"

    def __init__(self, exchange: Exchange, stream: int, rest: int) -> None:
        self.instruments = (Instrument("A"),)
        self.clock = exchange.clock
        self._skew = exchange.skew
        self._urls = f"ws://127.0.0.1:{stream}", f"http://127.0.0.1:{rest}"

    async def connect(self) -> AsyncGenerator[Heard]:
        """Connect once."""
        seen: set[int] = set()
        async with connect(self._urls[0], close_timeout=0.1, ping_interval=None, proxy=None) as socket:
            await socket.send('{"op": "subscribe"}')
            await socket.recv()
            yield Alive()
            async for text in socket:
                try:
                    told: dict[str, Any] = json.loads(text)
                except ValueError:
                    continue
                if told["id"] not in seen:
                    seen.add(told["id"])
                    size = told["q"] if isinstance(told["q"], float) else 1.0
                    yield Tick("wire", "A", told["p"], size, from_micros(told["t"]) + self._skew)

    async def history(self, symbol: str, interval: timedelta, start: datetime, end: datetime) -> Sequence[Bar]:
        """Ask by REST."""
        async with httpx2.AsyncClient(trust_env=False) as client:
            params = {"start": to_micros(start), "end": to_micros(end)}
            answer = await client.get(self._urls[1], params=params)
        if answer.status_code != 200:
            raise FeedError(f"{answer.status_code}: the REST API is busy")
        rows = [(from_micros(int(row[0])), row[1:]) for row in answer.json()]
        return [Bar(symbol, begin, begin + interval, *map(float, numbers)) for begin, numbers in rows]


@pytest.mark.parametrize(
    "faults",
    [
        {},
        {"drops": [130.0, 250.0, 301.0, 340.0]},
        {"faults": ["garbage", "twice"]},
        {"faults": ["reordered"]},
        {"skew_s": 2.0},
        {"drops": [200.0, 410.0], "faults": ["garbage", "twice", "reordered"], "rest_fails": 2},
    ],
    ids=["nothing", "drops", "garbage and repeats", "reordered", "a clock ahead", "all at once"],
)
async def test_bars_over_a_real_socket_are_those_of_the_file(faults: dict[str, Any]) -> None:
    """Whatever the wire does, each bar comes once, in order, whole."""
    data = ticks(300, every_s=2.0)
    clock = JumpingClock(at(65))
    if "skew_s" in faults:  # the source's own times are what bars are made of
        data = data._replace(time=data.time - 2_000_000)
    exchange = Exchange(data, clock, **faults)
    if "skew_s" in faults:
        exchange.bars = whole("A", data._replace(time=data.time + 2_000_000))
    async with exchange.running() as source:
        feed = live(source, back=2, lateness=timedelta(seconds=4), silence=timedelta(seconds=40), continuous=False)
        given = await moments(feed, 7)
    expected = [each for each in exchange.bars if at(120) <= each.end <= at(480)]
    assert bars(given) == expected
    assert exchange.connections == 1 + len(faults.get("drops", ()))
    health = feed.health()
    assert (health.gaps_open, health.differing, health.late) == (0, 0, 0)
    assert (health.bad > 0) == ("garbage" in faults.get("faults", ()))
    assert health.reconnects == len(faults.get("drops", ()))
    if "skew_s" in faults:
        assert feed.health().skewed is False


async def test_a_server_that_is_not_there_is_tried_again_and_bars_come_by_rest() -> None:
    """No busy loop; the error says what is wrong."""
    exchange = Exchange(ticks(300, every_s=2.0), JumpingClock(at(65)))
    async with exchange.running() as source:
        source._urls = "ws://127.0.0.1:1", source._urls[1]
        feed = live(source)
        given = await moments(feed, 3)
        assert bars(given) == [each for each in exchange.bars if at(120) <= each.end <= at(240)]
    assert exchange.connections == 0
    assert feed.health().reconnects <= 12
    assert feed.health().error.startswith(("ConnectionRefusedError", "OSError"))
