"""What every exchange's stream does: connect, subscribe, wait for each confirmation, and give what comes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from agentfund.errors import FeedError
from agentfund.feeds.wire_refusals import EXCHANGE_SOCKET
from agentfund.feeds.wire_socket import opened
from agentfund.market import Alive

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Sequence

    from agentfund.feeds.wire_socket import Socket
    from agentfund.market import Heard
    from agentfund.protocols import Clock

_CONFIRM_S = 10.0
_MERGED = 64


@dataclass(frozen=True, slots=True)
class Request:
    """A message that subscribes.

    Args:
        text: as it is sent.
        topics: what the exchange has to confirm.
    """

    text: str
    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The exchange confirms subscriptions."""

    topics: tuple[str, ...]


class Dialect(Protocol):
    """What an exchange says, and how it wants to be spoken to; one for each connection."""

    @property
    def exchange(self) -> str:
        """For errors."""
        ...

    @property
    def url(self) -> str:
        """Where to connect to."""
        ...

    @property
    def pause_s(self) -> float:
        """Seconds between two requests."""
        ...

    def requests(self) -> Sequence[Request]:
        """Return what is to be sent first."""
        ...

    def ping(self) -> str:
        """Return the text of a ping."""
        ...

    def read(self, text: str) -> Sequence[Heard | Confirmed]:
        """Return what a message says.

        Raises:
            FeedError: it is a refusal.
            ConfigError: it is one that no reconnect can mend.
            BadData: it has a shape or a value that cannot be.
        """
        ...


async def listen(dialect: Dialect, clock: Clock) -> AsyncGenerator[Heard, None]:
    """Give what comes on one connection until it ends; leaving closes it. The first says that all is subscribed to.

    Raises:
        FeedError: it cannot connect, a subscription is refused or not confirmed, or the connection breaks.
        ConfigError: it refuses what no reconnect can mend.
        BadData: a message has a shape or a value that cannot be.
    """
    async with opened(dialect.exchange, dialect.url, clock, EXCHANGE_SOCKET, ping=dialect.ping) as socket:
        early = await _subscribe(dialect, socket, clock)
        yield Alive()
        for heard in early:
            yield heard
        while (text := await socket.next()) is not None:
            for said in (text,) if isinstance(text, Alive) else dialect.read(text):
                if not isinstance(said, Confirmed):
                    yield said


async def _subscribe(dialect: Dialect, socket: Socket, clock: Clock) -> list[Heard]:
    """Subscribe to all; return what came in between."""
    early: list[Heard] = []
    for number, request in enumerate(dialect.requests()):
        if number:
            await clock.sleep(dialect.pause_s)
        missing = dict.fromkeys(request.topics)
        asking = _confirmed(dialect, socket, request, missing, early)
        if not await _within(asking, clock, _CONFIRM_S):
            raise FeedError(f"{dialect.exchange} did not confirm {', '.join(missing)} within {_CONFIRM_S:.0f} s; connect again")
    return early


async def _confirmed(dialect: Dialect, socket: Socket, request: Request, missing: dict[str, None], early: list[Heard]) -> None:
    await socket.send(request.text)
    while missing:
        text = await socket.next()
        if text is None:
            raise FeedError(f"{dialect.exchange} closed the connection before it confirmed {', '.join(missing)}; connect again")
        for said in (text,) if isinstance(text, Alive) else dialect.read(text):
            if isinstance(said, Confirmed):
                for topic in said.topics:
                    missing.pop(topic, None)
            else:
                early.append(said)


async def _within(work: Coroutine[object, object, None], clock: Clock, seconds: float) -> bool:
    """Do something within a time; return whether it was done."""
    task = asyncio.ensure_future(work)
    alarm = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait((task, alarm), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        task.result()
        return True
    finally:
        await _stop(task, alarm)


async def _stop(*tasks: asyncio.Future[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def merged(streams: Sequence[AsyncGenerator[Heard, None]]) -> AsyncGenerator[Heard, None]:
    """Give what several connections give, as it comes; the first that ends or fails ends them all.

    Nothing is given before each has given something, so what comes first says that all is subscribed to on all of them.
    """
    queue: asyncio.Queue[Heard | Exception | None] = asyncio.Queue(_MERGED)

    async def pump(stream: AsyncGenerator[Heard, None]) -> None:
        try:
            async for heard in stream:
                await queue.put(heard)
        except Exception as error:
            await queue.put(error)
        else:
            await queue.put(None)

    tasks: list[asyncio.Task[None]] = []
    try:
        first = [await anext(stream) for stream in streams]
        tasks += [asyncio.create_task(pump(stream)) for stream in streams]
        yield first[0]
        while (heard := await queue.get()) is not None:
            if isinstance(heard, Exception):
                raise heard
            yield heard
    finally:
        await _stop(*tasks)
        for stream in streams:
            await stream.aclose()
