"""A source's connection as a live feed keeps it: made again when it ends or falls silent, never in a busy loop."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from typing import TYPE_CHECKING, NamedTuple

from agentfund.errors import ConfigError, FeedError
from agentfund.feeds.live_past import cancelled, told

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentfund.market import Heard
    from agentfund.protocols import Clock, Source

_log = logging.getLogger("agentfund.feeds.live")
_chance = random.SystemRandom()
_TURN = 64  # so many items in one go, then others have their turn


class Pauses(NamedTuple):
    """How a connection is kept, in seconds.

    Args:
        least: the least pause before it is made again.
        most: the longest; pauses double up to it, and one that stood for longer begins again with the least.
        silence: nothing heard for so long: it is cut, and made again; infinite where it cannot fall silent.
        tries: after so many tries in a row over which nothing came the feed fails; None for never.
    """

    least: float
    most: float
    silence: float
    tries: int | None


class Line:
    """One connection after the other.

    Args:
        source: the source.
        clock: where the time comes from.
        pauses: how the connection is kept.
        take: is given everything that comes.
        broken: is called when a connection has ended.

    Attributes:
        connected: whether the connection stands and something has come over it.
        reconnects: connections that were begun after the first.
        error: why the last one ended.
        over: whether the source has ended for good.
        failed: the error that ends the feed, None while it goes on.
    """

    def __init__(
        self, source: Source, clock: Clock, pauses: Pauses, take: Callable[[Heard], None], broken: Callable[[], None]
    ) -> None:
        self._source, self._clock, self._pauses, self._take, self._broken = source, clock, pauses, take, broken
        self._heard = 0.0
        self.connected = False
        self.reconnects = 0
        self.error = ""
        self.over = False
        self.failed: Exception | None = None

    async def run(self) -> None:
        """Keep a connection until the source has ended for good, or the feed fails."""
        pauses, pause, idle = self._pauses, self._pauses.least, 0
        while True:
            began = self._heard = self._clock.monotonic()
            came = await self._once()
            idle = 0 if came else idle + 1
            self.over = getattr(self._source, "over", False) is True
            if pauses.tries is not None and idle >= pauses.tries and not self.over:
                self.failed = FeedError(
                    f"{self._source.name}: {idle} tries in a row gave nothing, the last: {self.error}; mend that, or"
                    " try on without end by tries=None"
                )
            self._broken()
            if self.over or self.failed:
                return
            if self._clock.monotonic() - began > pauses.most:
                pause = pauses.least
            _log.warning("%s: the connection ended (%s); it is made again in %.1f s", self._source.name, self.error, pause)
            await self._clock.sleep(pause * (1 + _chance.random() / 2))  # together they would all come back at once
            pause = min(pauses.most, 2 * pause)
            self.reconnects += 1

    async def _once(self) -> bool:
        """Connect once; return whether anything came."""
        self.error = "it was closed"
        listening, watching = asyncio.ensure_future(self._listen()), asyncio.ensure_future(self._watch())
        try:
            await asyncio.wait({listening, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not listening.done():
                self.error = f"nothing was heard for {self._pauses.silence:g} s"
            elif (error := listening.exception()) is not None:
                self.error = told(error)
                if isinstance(error, ConfigError):  # nothing but a person can mend that
                    self.failed = error
            return self.connected
        finally:
            self.connected = False
            await cancelled(listening, watching)

    async def _listen(self) -> None:
        stream = self._source.connect()
        count = 0
        try:
            async for item in stream:
                self._heard = self._clock.monotonic()
                self.connected = True
                self._take(item)
                count += 1
                if not count % _TURN:
                    await asyncio.sleep(0)
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()

    async def _watch(self) -> None:
        if self._pauses.silence == math.inf:
            await asyncio.Event().wait()
        while (left := self._heard + self._pauses.silence - self._clock.monotonic()) > 0:
            await self._clock.sleep(left)
