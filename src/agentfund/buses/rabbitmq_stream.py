"""A RabbitMQ stream as an ordered log of frames, spoken to over AMQP 0.9.1: RabbitMQ 3.9 or newer, no plugin.

A stream keeps what was published for good, in one order, and counts it. It is confirmed once the majority of its replicas
have written it, and it is not synced to the disk before that: the level is "process". With one node a killed server loses
nothing that was confirmed, and a loss of power may lose the newest. There is one gap, the server's own: killed within
seconds of making its very first stream, RabbitMQ 3.10 does not find that stream again, and says that it is down.

A publisher is not told where its frame lies, and nobody can ask over AMQP where a stream ends. So `end` publishes a mark of
some bytes, which readers leave out, and waits for it: what was confirmed before lies before it, on whatever node one reads.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import unquote, urlsplit

from agentfund.buses.batching import Batch, Batcher
from agentfund.buses.loops import PerLoop
from agentfund.buses.ordered import Frame
from agentfund.errors import BusError, BusUnavailable

try:
    import aiormq
    from aiormq import exceptions as amqp
    from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
    from pamqp.commands import Basic
except ImportError as error:
    raise BusError("RabbitBus needs aio-pika: pip install 'agentfund[rabbitmq]'") from error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiormq.abc import AbstractChannel, DeliveredMessage
    from yarl import URL

    from agentfund.messages import Durability

HEARTBEAT_S = 10
PREFETCH = 64
"""Frames that are under way to a reader, so it bounds what a reader holds."""

ACK_EVERY = 16
IDLE_S = 5.0
"""A reader that heard nothing for so long asks again."""

GOODBYE_S = 0.5
MARK = "agentfund-mark"
FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 1.0
_REFUSED = (amqp.AuthenticationError, amqp.ChannelAccessRefused, amqp.ConnectionNotAllowed, amqp.ProbableAuthenticationError)


class _Entry(NamedTuple):
    """What lies at one place: a frame, or a mark."""

    place: int
    mark: str
    data: bytes


class _Line(TransportFactory):
    """One connection. Publishing and reading have one each, because a server without memory stops listening to publishers."""

    connection: aiormq.Connection

    def __init__(self, secure: bool) -> None:
        self._inner = TLSTransportFactory() if secure else TCPTransportFactory()
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open the socket, for aiormq."""
        reader, self._writer = await self._inner.create(url, **options)
        return reader, self._writer

    async def blocked(self) -> bool:
        """Return whether the server said that it takes no messages now."""
        try:
            async with asyncio.timeout(0.01):
                await self.connection.ready()
        except TimeoutError:
            return not self.connection.is_closed
        return False

    async def close(self) -> None:
        """Take leave, and slam the door where the server does not answer."""
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self.connection.close()
        except BaseException as error:
            self.slam()
            if _cancelled(error):
                raise

    def slam(self) -> None:
        """End it at once."""
        if self._writer is not None:
            self._writer.transport.abort()


class _Publishing:
    """What one event loop publishes with."""

    def __init__(self, line: _Line, channel: AbstractChannel, ends: Batcher[None]) -> None:
        self.line = line
        self.channel = channel
        self.ends = ends
        self.known = (-1, -1)  # up to this place the last frame lies there


class _Reading:
    """A consumer of a stream on a channel of its own, from a place on or from the last chunk on."""

    def __init__(self, channel: AbstractChannel) -> None:
        self.channel = channel
        self._came: deque[DeliveredMessage] = deque()
        self._bell = asyncio.Event()
        self._taken = 0
        channel.closing.add_done_callback(lambda _: self._bell.set())

    async def start(self, stream: str, start: int | str) -> None:
        """Ask for it."""
        await self.channel.basic_qos(prefetch_count=PREFETCH)
        await self.channel.basic_consume(stream, self._take, arguments={"x-stream-offset": start})

    async def _take(self, message: DeliveredMessage) -> None:
        self._came.append(message)
        self._bell.set()

    async def ready(self, patience: float) -> bool:
        """Wait until something is there; return whether it came in time."""
        while not self._came:
            if self.channel.is_closed:
                raise amqp.ChannelClosed(None, "the channel was closed")
            self._bell.clear()
            try:
                async with asyncio.timeout(patience):
                    await self._bell.wait()
            except TimeoutError:
                return False
        return True

    async def next(self, patience: float) -> _Entry | None:
        """Return what comes next, None where nothing came for so long."""
        if not self._came and not await self.ready(patience):
            return None
        message = self._came.popleft()
        self._taken += 1
        if self._taken % ACK_EVERY == 0:
            await self.channel.basic_ack(cast("Basic.Deliver", message.delivery).delivery_tag or 0, multiple=True, wait=False)
        headers = message.header.properties.headers or {}
        return _Entry(cast("int", headers["x-stream-offset"]), cast("str", headers.get(MARK, "")), message.body)


class RabbitStream:
    """A RabbitMQ stream as an `Ordered` log.

    Args:
        url: `amqp://user:password@host:port/vhost`, or `amqps:` for TLS; what aiormq takes as a query is passed on.
        name: the queue.
        timeout: how long to wait for the server.
    """

    def __init__(self, url: str, *, name: str = "agentfund", timeout: timedelta = timedelta(seconds=5)) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("amqp", "amqps"):
            raise BusError(f"{parts.scheme or 'no scheme'}: is not RabbitMQ: amqp://user:password@host:port/vhost")
        if not 0 < len(name.encode()) <= 255 or name.startswith("amq."):
            raise BusError(f"{name!r} cannot name a queue: 1 to 255 bytes, not beginning with 'amq.'")
        host = parts.netloc.rpartition("@")[2] or "localhost"
        vhost = unquote(parts.path[1:]) or "/"
        self.home = f"stream {name!r} of RabbitMQ at {host}" + (f" (vhost {vhost})" if vhost != "/" else "")
        query = parts.query if "heartbeat=" in parts.query else f"{parts.query}&heartbeat={HEARTBEAT_S}".lstrip("&")
        self._url = parts._replace(query=query).geturl()
        self._name = name
        self._patience = timeout.total_seconds()
        self._there = False
        self._version = ""
        self._links = PerLoop(self._open, lambda link: link.line.close())

    async def connect(self) -> Durability:
        """Make the stream where it is not there yet."""
        await self._links.get()
        return "process"

    async def describe(self) -> str:
        """Return what was found."""
        await self._links.get()
        return (
            f"{self.home}, version {self._version}: confirmed when the majority of its replicas have written it, not synced: "
            "a killed server loses nothing, a loss of power of all replicas at once may lose the newest messages"
        )

    async def append(self, data: bytes) -> None:
        """Publish a frame and wait for its confirmation, which does not tell the place."""
        link = self._links.ready() or await self._links.get()
        properties = Basic.Properties(delivery_mode=2)
        async with self._speaking(link):
            await link.channel.basic_publish(data, routing_key=self._name, properties=properties, mandatory=True)

    async def end(self) -> int:
        """Return the place of the last frame; those who ask while a mark is under way share the next mark."""
        link = self._links.ready() or await self._links.get()
        return await link.ends.put([])

    async def follow(self, after: int) -> AsyncIterator[Frame]:
        """Give the frames beyond a place and then those that come.

        Raises:
            BusError: the stream was deleted, made again, lost its end or its beginning: it is not the log any more.
        """
        line: _Line | None = None
        wait = FIRST_WAIT_S
        try:
            while True:
                try:
                    link = await self._links.get()
                    line = line or await self._dial()
                    # From the last known place, not the one behind it: a consumer that begins beyond the end is not told so.
                    async with self._reading(line, max(after, 0)) as reading:
                        if after >= 0 and not await reading.ready(self._patience):
                            raise await self._lost(link, after)
                        while (entry := await reading.next(IDLE_S)) is not None:
                            if entry.place > after + 1:
                                await self._complete(line, after)
                            if entry.place > after:
                                after, wait = entry.place, FIRST_WAIT_S
                                if not entry.mark:
                                    yield Frame(entry.place, entry.data)
                except BusUnavailable:
                    if line is not None:
                        await line.close()
                        line = None
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, LONGEST_WAIT_S)
        finally:
            if line is not None:
                await line.close()

    async def close(self) -> None:
        """Let go of what the running loop publishes with."""
        await self._links.close()

    async def _dial(self) -> _Line:
        line = _Line(self._url.startswith("amqps:"))
        who: dict[str, Any] = {"connection_name": f"agentfund {self._name}"}
        try:
            async with asyncio.timeout(self._patience):
                line.connection = await aiormq.connect(self._url, transport_factory=line, client_properties=who)
        except BaseException as error:
            line.slam()
            if _cancelled(error):
                raise
            if isinstance(error, amqp.InvalidFrameError | ValueError):  # the first is what aiormq makes of being turned away
                raise BusError(
                    f"{self.home} does not let us in: {error}; check the address, and that the vhost is there"
                ) from error
            raise self._failure(error) from error
        self._version = str(line.connection.server_properties.get("version", ""))
        return line

    async def _open(self) -> _Publishing:
        line = await self._dial()
        try:
            async with asyncio.timeout(self._patience):
                channel = await line.connection.channel()
                if self._there:  # what was there is not made again: that would hide its loss
                    await channel.queue_declare(self._name, passive=True)
                await channel.queue_declare(self._name, durable=True, arguments={"x-queue-type": "stream"})
        except BaseException as error:
            await line.close()
            if _cancelled(error):
                raise
            raise self._failure(error) from error
        self._there = True
        link = _Publishing(line, channel, Batcher(lambda batches: self._ends(link, batches)))
        return link

    @asynccontextmanager
    async def _speaking(self, link: _Publishing) -> AsyncIterator[None]:
        """Speak to the server within the time, and give the connection up where it does not answer."""
        try:
            async with asyncio.timeout(self._patience):
                yield
        except BaseException as error:
            if _cancelled(error):
                raise
            failure = self._failure(error)
            if isinstance(error, TimeoutError) and await link.line.blocked():
                failure = BusUnavailable(
                    f"{self.home} takes nothing now, it is short of memory or disk: rabbitmqctl list_alarms"
                )
            if self._links.ready() is link:
                await self._links.close()
            if isinstance(error, amqp.PublishError):
                await self._links.get()  # tells whether the stream is gone, or not there yet after a start of the server
            if failure is error:
                raise
            raise failure from error

    @asynccontextmanager
    async def _reading(self, line: _Line, start: int | str) -> AsyncIterator[_Reading]:
        channel = None
        try:
            async with asyncio.timeout(self._patience):
                channel = await line.connection.channel(publisher_confirms=False)
                reading = _Reading(channel)
                await reading.start(self._name, start)
            yield reading
        except BaseException as error:
            if _cancelled(error) or isinstance(error, BusError):
                raise
            raise self._failure(error) from error
        finally:
            if channel is not None and not channel.is_closed:
                with suppress(Exception):
                    async with asyncio.timeout(self._patience):
                        await channel.close()

    async def _lost(self, link: _Publishing, after: int) -> BusError:
        """Return why a place that was in the log does not come."""
        await link.ends.put([])
        if link.known[0] > after:
            return BusUnavailable(f"{self.home} did not answer in {self._patience:g} s")
        return BusError(
            f"{self.home} ends before place {after}, which was in it: it was made again or lost its end; "
            "restore it, or choose another name for the log"
        )

    async def _complete(self, line: _Line, after: int) -> None:
        """Places may be left out by the server itself, but not the beginning."""
        async with self._reading(line, "first") as reading:
            entry = await reading.next(self._patience)
        if entry is None:
            raise BusUnavailable(f"{self.home} did not answer")
        if entry.place > after + 1:
            raise BusError(
                f"{self.home} begins at place {entry.place}, what was before is gone: a policy with max-age or "
                "max-length-bytes discards it; take the policy away, and restore the stream or choose another name for the log"
            )

    async def _ends(self, link: _Publishing, batches: list[Batch[None]]) -> list[int]:
        async with self._speaking(link):
            mark = uuid.uuid4().hex
            async with self._reading(link.line, "last") as reading:
                # On the same channel, so that the mark lies behind what the consumer begins with.
                properties = Basic.Properties(delivery_mode=2, headers={MARK: mark})
                await reading.channel.basic_publish(b"", routing_key=self._name, properties=properties)
                first, last, entry = -1, -1, None
                while entry is None or entry.mark != mark:
                    entry = await reading.next(self._patience)
                    if entry is None:
                        raise TimeoutError
                    first = entry.place if first < 0 else first
                    last = last if entry.mark else entry.place
            if last < 0:
                last = await self._before(link, first)
            link.known = (entry.place, last)
        return [last] * len(batches)

    async def _before(self, link: _Publishing, place: int) -> int:
        """Return the place of the last frame before a place; there are only marks where one would expect it."""
        known, last = link.known
        step = PREFETCH
        while place > known + 1:
            start = max(place - step, known + 1)
            found = -1
            async with self._reading(link.line, start) as reading:
                while (entry := await reading.next(self._patience)) is not None and entry.place < place:
                    found = found if entry.mark else entry.place
            if entry is None:
                raise TimeoutError
            if found >= 0:
                return found
            place, step = start, 8 * step
        return last

    def _failure(self, error: BaseException) -> BusError:
        """Return what to tell of an error: `BusUnavailable` where trying again may help."""
        if isinstance(error, BusError):
            return error
        if isinstance(error, amqp.ChannelNotFoundEntity) and "no queue" in str(error):  # else it is starting
            return BusError(f"{self.home} is gone, somebody deleted it: restore it, or choose another name for the log")
        if isinstance(error, amqp.ChannelPreconditionFailed) and "running replica" not in str(error):
            return BusError(f"{self.home} cannot be the log: {error}; choose another name for the log, or delete that queue")
        if isinstance(error, _REFUSED):
            return BusError(f"{self.home} refuses us: {error}; check user, password, vhost and their permissions")
        told = str(error) or type(error).__name__
        if isinstance(error, TimeoutError):
            told = f"no answer within {self._patience:g} s"
        return BusUnavailable(f"{self.home} cannot be reached: {told}; start it, or correct the address")


def _cancelled(error: BaseException) -> bool:
    """Return whether our own task is to end; aiormq says the same of a connection that it has closed."""
    task = asyncio.current_task()
    return isinstance(error, GeneratorExit) or (isinstance(error, asyncio.CancelledError) and bool(task and task.cancelling()))
