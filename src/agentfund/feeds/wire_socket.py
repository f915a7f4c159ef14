"""One websocket to a provider: texts in order, pings in its own words or the protocol's, and an end that says why."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from agentfund.errors import ConfigError, FeedError, MissingExtra
from agentfund.feeds.wire_address import here
from agentfund.feeds.wire_values import shown
from agentfund.market import Alive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from websockets.asyncio.client import ClientConnection

    from agentfund.feeds.wire_refusals import Refusals
    from agentfund.protocols import Clock

PING_S = 20.0
CLOSE_S = 1.0
_QUEUE = 64  # messages that wait for a slow reader; then the connection is not read, and TCP holds the provider back
_BIGGEST = 1 << 20
_GOOD_ENDS = (1000, 1001)

SILENT = logging.Logger("agentfund.feeds.wire_socket", logging.CRITICAL + 1)
"""Addresses and logins hold keys and are logged on debug, so that a connection's log is kept to itself."""


class Errors(NamedTuple):
    """The errors of the websockets package, for those who read a connection that an SDK has opened."""

    closed: type[Exception]
    any: type[Exception]


def errors() -> Errors:
    """Return the errors of the websockets package, which is imported here alone.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        from websockets.exceptions import ConnectionClosed, WebSocketException
    except ImportError:
        raise MissingExtra("websockets", "exchanges") from None
    return Errors(ConnectionClosed, WebSocketException)


def ended_well(error: Exception) -> bool:
    """Return whether the other side has closed the connection in good order."""
    received = getattr(error, "rcvd", None)
    return received is not None and received.code in _GOOD_ENDS


class Socket:
    """An open connection; `opened` makes one.

    Args:
        provider: for errors.
        connection: of the websockets package.
        clock: times the provider's own pings.
        ping: makes the text of such a ping, None where there are none.
        alive_s: seconds of silence after which the protocol's ping is sent, and in which it has to be answered; None for never.
    """

    def __init__(
        self, provider: str, connection: ClientConnection, clock: Clock, ping: Callable[[], str] | None, alive_s: float | None
    ) -> None:
        self._provider = provider
        self._connection = connection
        self._clock = clock
        self._ping = ping
        self._alive_s = alive_s
        self._heard = clock.monotonic()
        self._waits = False
        self._failure: str | None = None

    async def send(self, text: str) -> None:
        """Send a text.

        Raises:
            FeedError: the connection has ended.
        """
        try:
            await self._connection.send(text)
        except errors().closed as error:
            raise self._ended(error) from None

    async def next(self) -> str | Alive | None:
        """Return the next message, None where the provider has closed the connection in good order.

        A market may be quiet: where nothing came for `alive_s` and a ping was answered, that is `Alive`.

        Raises:
            FeedError: the connection broke, or pings are not answered; says why.
        """
        self._heard = self._clock.monotonic()  # silence counts while somebody listens
        self._waits = True
        try:
            try:
                async with asyncio.timeout(self._alive_s):
                    return await self._connection.recv(decode=True)
            except TimeoutError:
                return await self._answered()
        except errors().closed as error:
            if self._failure is None and ended_well(error):
                return None
            raise self._ended(error) from None
        finally:
            self._waits = False

    async def _answered(self) -> Alive:
        pong = await self._connection.ping()
        try:
            async with asyncio.timeout(self._alive_s):
                await pong
        except TimeoutError:
            self._break(f"nothing came for {2 * (self._alive_s or 0):g} s, and it did not answer a ping")
            raise self._ended(None) from None
        return Alive()

    async def beat(self) -> None:
        """Send the provider's own ping for ever; break the connection where nothing comes for two though somebody listens."""
        while self._ping is not None:
            await self._clock.sleep(PING_S)
            silent = self._clock.monotonic() - self._heard
            if self._waits and silent >= 2 * PING_S:
                self._break(f"nothing came for {silent:.0f} s, not even an answer to a ping")
                return
            try:
                await self._connection.send(self._ping())
            except errors().closed:  # the reader says why
                return

    def _break(self, why: str) -> None:
        self._failure = why
        self._connection.transport.abort()

    def _ended(self, error: Exception | None) -> FeedError:
        why = self._failure
        told, sent = getattr(error, "rcvd", None), getattr(error, "sent", None)
        if why is None and told is not None:
            why = f"the other side closed it with code {told.code}" + (f" ({shown(told.reason)})" if told.reason else "")
        elif why is None and sent is not None:
            why = f"it was closed with code {sent.code} ({shown(sent.reason)})"
        return FeedError(f"{self._provider}: the connection ended: {why or 'it broke'}; connect again and fill the gap")


@asynccontextmanager
async def opened(
    provider: str,
    url: str,
    clock: Clock,
    refusals: Refusals,
    *,
    ping: Callable[[], str] | None = None,
    alive_s: float | None = None,
    open_s: float = 10.0,
) -> AsyncIterator[Socket]:
    """Connect, ping in the background, and close in the end.

    Args:
        provider: for errors.
        url: where to, `wss://...`; its query, which may hold a key, is shown to nobody.
        clock: times the provider's own pings.
        refusals: what it means where the provider does not open the websocket, by the status of HTTP.
        ping: makes the text of the provider's own ping, None where there are none.
        alive_s: seconds of silence after which the protocol's ping is sent; None for never.
        open_s: seconds that opening may take.

    Raises:
        FeedError: nobody answers there, or it refuses; names the fix.
        ConfigError: the address is none, or it refuses what no reconnect can mend.
        MissingExtra: websockets is not installed.
    """
    try:
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidStatus, InvalidURI
    except ImportError:
        raise MissingExtra("websockets", "exchanges") from None
    named = shown(url.partition("?")[0])
    try:
        connection = await connect(
            url,
            compression=None,
            proxy=None if here(url) else True,
            open_timeout=open_s,
            close_timeout=CLOSE_S,
            ping_interval=None,  # a ping is sent by `beat` or after silence; theirs are answered by the package
            max_size=_BIGGEST,
            max_queue=_QUEUE,
            logger=SILENT,
        )
    except InvalidStatus as error:
        status, body = error.response.status_code, bytes(error.response.body or b"")
        said = f" ({shown(body)})" if body.strip() else ""
        raise refusals.error(f"{provider} refused the connection to {named} with HTTP status {status}{said}", status) from None
    except InvalidURI:
        raise ConfigError(f"{provider}: {named} is no address of a websocket: it begins with wss:// or ws://") from None
    except (OSError, TimeoutError, errors().any) as error:
        why = shown(str(error)) or type(error).__name__
        raise FeedError(f"{provider} cannot be reached at {named} ({why}): check the network and the url") from None
    socket = Socket(provider, connection, clock, ping, alive_s)
    beat = asyncio.create_task(socket.beat(), name=f"{provider}-pings")
    try:
        yield socket
    finally:
        beat.cancel()
        try:
            await asyncio.gather(beat, return_exceptions=True)
        finally:
            await connection.close()
