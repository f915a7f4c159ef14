"""Listening to trade updates: a hint that something has happened, and never more than that."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any

from agentfund.brokers.alpaca_sdk import connect, disconnect, hear
from agentfund.errors import BrokerUnavailable, ConfigError
from agentfund.secrets import scrub

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentfund.brokers.alpaca_sdk import Sdk
    from agentfund.protocols import Clock

_log = logging.getLogger("agentfund")
_taken: set[tuple[str, str]] = set()
_LONGEST_PAUSE = 30.0
_STEADY = 30.0
"""A connection that lasted so many seconds was a good one: the pauses begin small again."""


class Listener:
    """One trade_updates connection, kept up.

    Args:
        account: what tells the account: its server and key id. A process listens to an account once.
        sdk: alpaca-py.
        heard: called with each update.
        connected: called each time that it listens: what was missed has to be read.
        data_timeout_s: seconds without a sign of life after which the connection is given up.
        pause_s: the least pause before it connects again.
        clock: where the time comes from.

    Attributes:
        connections: how often it has listened.
        why: what ended the last connection, empty where it stands.
    """

    def __init__(
        self,
        account: tuple[str, str],
        sdk: Sdk,
        *,
        heard: Callable[[dict[str, Any]], None],
        connected: Callable[[], Awaitable[None]],
        data_timeout_s: float,
        pause_s: float,
        clock: Clock,
    ) -> None:
        self._account, self._sdk, self._heard, self._connected = account, sdk, heard, connected
        self._data_timeout_s, self._pause_s, self._clock = data_timeout_s, pause_s, clock
        self._task: asyncio.Task[None] | None = None
        self.connections = 0
        self.why = "it has not connected yet"

    def start(self) -> None:
        """Begin to listen, in the running event loop.

        Raises:
            ConfigError: this process listens to the account already; Alpaca lets in one connection, and a second one
                makes it refuse both in turn.
        """
        if self._account in _taken:
            raise ConfigError(
                "this process listens to the trade updates of this Alpaca account already, and Alpaca lets in one connection;"
                " share the adapter, or build the second one with stream=False"
            )
        _taken.add(self._account)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="agentfund-alpaca-stream")
        self._task.add_done_callback(lambda _: _taken.discard(self._account))

    async def close(self) -> None:
        """Stop listening and close the socket."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        failures = 0
        while True:
            began = self._clock.monotonic()
            self.why = scrub(await self._listen())
            failures = 1 if self._clock.monotonic() - began >= _STEADY else failures + 1
            most = min(_LONGEST_PAUSE, self._pause_s * 2 ** min(failures, 10))
            pause = max(self._pause_s, most * random.uniform(0.5, 1.0))  # noqa: S311 -- it spreads clients, it hides nothing
            _log.warning("Alpaca's trade updates ended (%s); again in %.1f s", self.why, pause)
            await self._clock.sleep(pause)

    async def _listen(self) -> str:
        """Listen until the connection ends; return why it did."""
        stream = self._sdk.stream(self._data_timeout_s)
        try:
            async with asyncio.timeout(self._data_timeout_s):
                await connect(stream)
            self.connections += 1
            self.why = ""
            # Alpaca tells nobody again what happened while nobody listened.
            try:
                await self._connected()
            except BrokerUnavailable as error:
                _log.warning("what was missed on Alpaca's stream cannot be read yet: %s", error)
            while True:
                update = await hear(stream)
                if update is not None:
                    self._heard(update)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            await disconnect(stream)
