"""One event loop's connection to NATS: requests that are answered or fail in time, and what the server sends by itself."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

from agentfund.errors import BusError, BusUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nats.aio.client import Client
    from nats.aio.msg import Msg

SILENCE_S = 2.0  # without a heartbeat for so long the server has forgotten us
RETRY_S = 0.05
_PING_S = 5


class Arrivals:
    """What the server sends to one follower."""

    def __init__(self) -> None:
        self._messages: deque[Msg | None] = deque()
        self._came = asyncio.Event()

    def put(self, message: Msg) -> None:
        """Take a message in."""
        self._messages.append(message)
        self._came.set()

    def end(self) -> None:
        """Say that there will be none: the connection is cut."""
        self._messages.append(None)
        self._came.set()

    async def get(self) -> Msg | None:
        """Return the next message, None where there will be none."""
        while not self._messages:
            self._came.clear()
            try:
                async with asyncio.timeout(SILENCE_S):
                    await self._came.wait()
            except TimeoutError:
                return None
        return self._messages.popleft()


class Sink(asyncio.Future["Msg"]):
    """Takes each message of a subscription at once, where a callback would wait for its turn in a task of its own."""

    def __init__(self, take: Callable[[Msg], None]) -> None:
        super().__init__()
        self._take = take

    def set_result(self, result: Msg) -> None:
        """Take the next message."""
        self._take(result)


class Line:
    """One event loop's connection to the server.

    Args:
        home: names the log in errors.
        timeout_s: how long to wait for an answer.

    Attributes:
        client: of nats-py.
        following: who is told when the connection is cut.
        newest: the last frame that was seen here, and its place.
        doubted: whether the connection was cut since, so that the server may not be what it was.
    """

    def __init__(self, home: str, timeout_s: float) -> None:
        self.home = home
        self.client: Client = client()()
        self.following: set[Arrivals] = set()
        self.newest: tuple[int, bytes] | None = None
        self.doubted = False
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._names = count(1)
        self._answers: dict[str, asyncio.Future[Msg]] = {}
        self._inbox = ""
        self._up = asyncio.Event()
        self._error: Exception | None = None
        self._refused: asyncio.Future[None] = self._loop.create_future()

    async def open(self, servers: list[str], options: dict[str, Any]) -> None:
        """Connect; from then on the client connects again by itself, for ever."""
        dialing = asyncio.ensure_future(
            self.client.connect(
                servers,
                name="agentfund",
                error_cb=self._on_error,
                disconnected_cb=self._on_cut,
                reconnected_cb=self._on_back,
                closed_cb=self._on_cut,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RETRY_S,  # type: ignore[arg-type]
                connect_timeout=self._timeout_s,  # type: ignore[arg-type]
                ping_interval=_PING_S,
                pending_size=0,  # nothing is sent later than its caller waits for it
                **options,
            )
        )
        try:
            await asyncio.wait((dialing, self._refused), timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if dialing.done():
                dialing.result()
                self._inbox = self.client.new_inbox()
                await self.client.subscribe(f"{self._inbox}.*", future=Sink(self._on_answer))
                self._up.set()
                return
        except errors() as error:
            self._error = self._error or error
        finally:
            if not self._up.is_set():
                dialing.cancel()
                await asyncio.gather(dialing, return_exceptions=True)
                await self.close()
        if self._refused.done():
            raise BusError(f"{self.home}: the server refuses the login: {self._error}: check user, password or credentials")
        raise self.lost(self._error)

    async def ask(
        self,
        subject: str,
        data: bytes,
        *,
        nobody: Callable[[Line], Awaitable[object]] | None = None,
        doubted: Callable[[Line], Awaitable[object]] | None = None,
    ) -> bytes:
        """Send a request and return its answer; again where the connection is cut or nobody answers for the moment.

        Args:
            subject: whom to ask.
            data: what.
            nobody: raises where it is no wonder that nobody answers.
            doubted: raises where the server is not what it was before the connection was cut.

        Raises:
            BusUnavailable: there is no answer in time.
        """
        deadline = self._loop.time() + self._timeout_s
        while True:
            if not self._up.is_set():
                await self._come_up(deadline)
            if self.doubted and doubted is not None:
                await doubted(self)
                self.doubted = False
            name = str(next(self._names))
            answer = self._answers[name] = self._loop.create_future()
            timer = self._loop.call_at(deadline, self._expire, answer)
            try:
                try:
                    await self.client.publish(subject, data, reply=f"{self._inbox}.{name}")
                except errors() as error:
                    if self.client.is_closed or self._loop.time() > deadline:
                        raise self.lost(error) from error
                    await asyncio.sleep(RETRY_S)  # it is cut, and we are told in a moment
                    continue
                message = await answer
            except ConnectionResetError:
                continue  # the connection was cut, and it is not known what came of it
            except TimeoutError as error:
                raise self.lost(error) from error
            finally:
                timer.cancel()
                del self._answers[name]
            if not message.headers or message.headers.get("Status") != "503":
                return bytes(message.data)
            if nobody is not None:
                await nobody(self)
            if self._loop.time() + RETRY_S > deadline:
                raise BusUnavailable(f"{self.home}: JetStream does not answer: start nats-server with -js, and see its log")
            await asyncio.sleep(RETRY_S)

    def lost(self, error: BaseException | None) -> BusUnavailable:
        """Return the error for a server that cannot be reached."""
        why = f" ({error})" if error is not None and str(error) else ""
        return BusUnavailable(
            f"{self.home} did not answer in {self._timeout_s:g} s{why}: check that the server runs there and can be reached"
        )

    async def close(self) -> None:
        """Hang up."""
        with suppress(Exception):
            await self.client.close()

    async def _come_up(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await self._up.wait()
        except TimeoutError as error:
            raise self.lost(self._error) from error

    def _expire(self, answer: asyncio.Future[Msg]) -> None:
        if not answer.done():
            answer.set_exception(TimeoutError())

    def _on_answer(self, message: Msg) -> None:
        answer = self._answers.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(message)

    async def _on_error(self, error: Exception) -> None:
        self._error = error
        if "authorization" in str(error).lower() and not self._refused.done():
            self._refused.set_result(None)

    async def _on_cut(self) -> None:
        self._up.clear()
        self.doubted = self.newest is not None
        for arrivals in self.following:
            arrivals.end()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError())

    async def _on_back(self) -> None:
        self._up.set()


def client() -> type[Client]:
    """Return the client's class.

    Raises:
        BusError: nats-py is not installed.
    """
    try:
        from nats.aio.client import Client
    except ModuleNotFoundError as error:
        raise BusError("nats-py is not installed: pip install 'agentfund[nats]'") from error
    return Client


def errors() -> tuple[type[Exception], ...]:
    """Return what the client raises where the server cannot be reached."""
    from nats.errors import Error

    return Error, OSError, TimeoutError
