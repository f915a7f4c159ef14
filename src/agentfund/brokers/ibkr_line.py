"""One connection to a Trader Workstation or IB Gateway, through `ib_async`: deadlines, connectivity, and coming back.

`ib_async` waits for ever where nobody answers, and matches answers to requests by kind alone. So every request has a
deadline, requests go one after the other, and a request that was not answered in time costs the connection: its late answer
must not be taken for the answer to another.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from agentfund.brokers.ibkr_words import ID_IN_USE, RESTORED, SEVERED
from agentfund.errors import BrokerUnavailable, ConfigError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentfund.protocols import Clock

Answer = TypeVar("Answer")
LONGEST_RETRY_S = 60.0
_log = logging.getLogger("agentfund")


def library() -> Any:
    """Return the module `ib_async`.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import ib_async
    except ImportError:
        raise MissingExtra("ib_async", "ibkr") from None
    return ib_async


class Line:
    """A connection that is made when it is needed, and given up when it does not answer.

    Args:
        host: where the workstation runs.
        port: its port for the interface.
        client_id: which session of the interface this is.
        timeout_s: how long an answer may take.
        retry_s: how long to wait after a connection failed; doubles up to a minute.
        clock: where the time comes from.
        wake: set when anything arrives.

    Attributes:
        ib: the client; everything in it is of this connection alone.
        news: what was said of an order id: error codes with their texts.
        stale: True where nothing may be sent before everything was looked at once more.
    """

    def __init__(
        self, host: str, port: int, client_id: int, timeout_s: float, retry_s: float, clock: Clock, wake: asyncio.Event
    ) -> None:
        self._lib = library()
        self._where, self.client_id = (host, port), client_id
        self._timeout_s, self._retry_s, self._clock, self.wake = timeout_s, retry_s, clock, wake
        self.ib: Any = None
        self.news: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
        self.stale = True
        self._severed = ""
        self._refusal = ""
        self._failures, self._next = 0, 0.0
        self._changed = asyncio.Event()

    def contract(self, **arguments: Any) -> Any:
        """Return a contract of `ib_async`."""
        try:
            return self._lib.Contract(**arguments)
        except TypeError as error:
            raise ConfigError(f"these are no arguments of an ib_async Contract: {error}") from None

    def order(self, **fields: Any) -> Any:
        """Return an order of `ib_async`."""
        return self._lib.Order(**fields)

    def lost(self, what: str) -> BrokerUnavailable:
        """Return the error of a connection that is not there."""
        host, port = self._where
        return BrokerUnavailable(f"Interactive Brokers at {host}:{port}: {what}")

    async def ready(self) -> bool:
        """Make sure of the connection; return whether it is a new one.

        Raises:
            BrokerUnavailable: there is none, or the workstation itself is cut off.
        """
        if self.ib is not None and self.ib.isConnected():
            if self._severed:
                raise self.lost(self._severed)
            return False
        if self._clock.monotonic() < self._next:
            raise self.lost("not connected; the next attempt waits")
        await self._connect()
        return True

    async def ask(self, what: str, request: Callable[[Any], Awaitable[Answer]]) -> Answer:
        """Ask the client for something and wait for the answer.

        Raises:
            BrokerUnavailable: no answer within the deadline, an error instead of one, or the connection ended.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await request(self.ib)
        except TimeoutError:
            self.drop()
            raise self.lost(f"no answer to {what} within {self._timeout_s:g} s; the connection was given up") from None
        except Exception as error:  # a lost connection, or an error of the server in place of the answer
            self.drop()
            raise self.lost(f"{what} could not be asked: {type(error).__name__}: {error}") from None
        if self._severed or not self.ib.isConnected():  # ib_async ends some requests with what it has when it loses the line
            raise self.lost(self._severed or f"the connection ended at {what}")
        return answer

    def tell(self, what: str, act: Callable[[Any], Answer]) -> Answer:
        """Send something that has no answer of its own.

        Raises:
            BrokerUnavailable: there is no connection, so a part of it may have gone out.
        """
        if self.ib is None or not self.ib.isConnected():
            raise self.lost(f"the connection ended before {what}")
        try:
            return act(self.ib)
        except Exception as error:  # ib_async asserts, and raises what the socket raises
            raise self.lost(f"{what} failed on its way out: {type(error).__name__}: {error}") from None

    async def until(self, happened: Callable[[], bool]) -> bool:
        """Wait until something has happened; return False where it did not within the deadline or the line is lost."""
        try:
            async with asyncio.timeout(self._timeout_s):
                while not happened():
                    if self.ib is None or not self.ib.isConnected() or self._severed:
                        return False
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def drop(self) -> None:
        """Let go of the connection; the next question makes another."""
        ib, self.ib = self.ib, None
        self.stale = True
        self.news.clear()
        if ib is not None:
            with suppress(Exception):  # a transport that is gone already says so
                ib.disconnect()
        self._stir()

    async def _connect(self) -> None:
        self.drop()
        self._severed = self._refusal = ""
        ib = self._lib.IB()
        ib.RaiseRequestErrors = True
        ib.errorEvent += self._error
        orders = (ib.orderStatusEvent, ib.openOrderEvent, ib.execDetailsEvent, ib.commissionReportEvent)
        for event in (*orders, ib.disconnectedEvent):
            event += self._stir
        failure = await self._attempt(ib)
        if failure:
            self._failures += 1
            wait = min(self._retry_s * 2 ** (self._failures - 1), LONGEST_RETRY_S)
            self._next = self._clock.monotonic() + wait
            why = self._refusal or failure
            raise self.lost(f"cannot connect ({why}); is the workstation running, with its interface switched on?")
        self._failures = 0
        self.ib = ib

    async def _attempt(self, ib: Any) -> str:
        """Connect; return why it failed, empty where it did not."""
        (host, port), nothing = self._where, self._lib.StartupFetchNONE  # what is needed is asked for afterwards, one by one
        attempt = asyncio.ensure_future(
            ib.connectAsync(host, port, self.client_id, timeout=self._timeout_s, fetchFields=nothing, raiseSyncErrors=True)
        )

        closed = asyncio.Event()  # ib_async would wait for the rest of the handshake until the deadline

        def close(*_: object) -> None:
            closed.set()

        ib.client.conn.disconnected += close
        gone = asyncio.ensure_future(closed.wait())
        try:
            await asyncio.wait({attempt, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ib.client.conn.disconnected -= close
            gone.cancel()
            while not attempt.done():  # `wait_for` of Python 3.11 can swallow one cancellation
                attempt.cancel()
                await asyncio.wait({attempt}, timeout=0.05)
        if attempt.cancelled():
            return "the connection was closed at once"
        error = attempt.exception()
        return f"{type(error).__name__}: {error}" if error else ""

    def _error(self, request: int, code: int, text: str, *_: object) -> None:
        if code in SEVERED:
            self._severed = f"the workstation lost its connection to the brokerage ({code}: {text})"
            self.stale = True
            _log.warning("%s", self._severed)
        elif code in RESTORED:
            self._severed = ""
            self.stale = True
        elif code == ID_IN_USE:
            self._refusal = f"client id {self.client_id} is in use by another session: stop it, or use another client_id"
        elif request >= 0:
            self.news[request].append((code, text))
        self._stir()

    def _stir(self, *_: object) -> None:
        self._changed.set()
        self.wake.set()
