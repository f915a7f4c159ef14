"""One live feed read by several funds: the first never waits for the others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from agentfund.errors import ConfigError, FeedError
from agentfund.feeds.live_past import cancelled
from agentfund.protocols import Quoted

if TYPE_CHECKING:
    from datetime import datetime

    from agentfund.market import Instrument, Market, Quote, Status
    from agentfund.protocols import Feed


class Tee:
    """Splits a feed: `incumbent, candidate = Tee(feed).split(2)`.

    Every part is a feed that sees each moment once. The feed is read once, when the first part is read, and by whoever is
    ready for the next moment. None runs ahead of the first part by more than `most` moments, and one that lags behind by
    more is told so by a `FeedError`. When the first part is left the others go on.

    Args:
        feed: what is read.
        most: how many moments a part may lag.

    Raises:
        ConfigError: `most` is below 1.
    """

    def __init__(self, feed: Feed, *, most: int = 64) -> None:
        if most < 1:
            raise ConfigError(f"most={most}: a part may lag at least one moment")
        self.feed = feed
        self._most = most
        self._parts: list[Part] = []
        self._stream: AsyncIterator[Market] | None = None
        self._after: datetime | None = None
        self._reading: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self._ended: BaseException | None = None
        self._over = False

    def split(self, parts: int = 2) -> tuple[Part, ...]:
        """Return so many feeds of the same market; only once, so that none misses what came before it was there.

        Raises:
            ConfigError: it has been split, or into fewer than one part.
        """
        if self._parts or parts < 1:
            raise ConfigError(f"split({parts}): a feed is split once, into at least one part; make another Tee for others")
        kind = QuotedPart if isinstance(self.feed, Quoted) else Part
        self._parts = [kind(self) for _ in range(parts)]
        return tuple(self._parts)

    async def read(self, part: Part, after: datetime | None) -> AsyncGenerator[Market]:
        """Give the moments to one part; parts call it, and nobody else."""
        if part.state != "new":
            raise FeedError("this part of a Tee was read before; what it missed is gone, so make another Tee")
        if self._stream is None:
            self._stream, self._after = self.feed.stream(after), after
        elif after is not None and (self._after is None or after < self._after):
            raise FeedError(
                f"the feed is read after {self._after}, and this part asks for what comes after {after}; use the same"
            )
        part.state = "read"
        try:
            while (market := await self._next(part)) is not None:
                if after is None or market.now > after:
                    yield market
        finally:
            part.state = "left"
            part.waiting.clear()
            await self._leave()

    async def _next(self, part: Part) -> Market | None:
        while not part.waiting:
            if part.lagged:
                raise FeedError(
                    f"this part lagged more than {self._most} moments behind the feed; give it less to do or a larger most="
                )
            if self._ended is not None:
                raise self._ended
            if self._over:
                return None
            first = next(each for each in self._parts if each.state != "left")
            if self._reading is None and (part is first or len(first.waiting) < self._most):
                self._reading = asyncio.ensure_future(self._read())
            # Whoever leaves meanwhile must not take the reading with it, so it is a task of nobody's.
            await (asyncio.wait({self._reading}) if self._reading is not None else self._move())
        market = part.waiting.popleft()
        self._moved.set()
        return market

    async def _move(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    async def _read(self) -> None:
        assert self._stream is not None
        try:
            market = await anext(self._stream)
        except StopAsyncIteration:
            self._over = True
        except Exception as error:
            self._ended = error
        else:
            first = next((each for each in self._parts if each.state != "left"), None)
            for part in self._parts:
                if part.state == "left" or part.lagged:
                    continue
                if part is not first and len(part.waiting) >= self._most:
                    part.lagged = True
                    part.waiting.clear()
                else:
                    part.waiting.append(market)
        finally:
            self._reading = None
            self._moved.set()

    async def _leave(self) -> None:
        """When nobody reads any more, let go of the feed."""
        self._moved.set()
        if any(part.state == "read" for part in self._parts):
            return
        if self._reading is not None:
            await cancelled(self._reading)
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            await close()
        if not self._over and self._ended is None:
            self._ended = FeedError("all who read this feed have left, and its connection was closed; make another Tee")


class Part:
    """One of the feeds that a feed was split into; `Tee.split` makes it."""

    def __init__(self, tee: Tee) -> None:
        self._tee = tee
        self._latest: Market | None = None
        self.waiting: deque[Market] = deque()
        self.lagged = False
        self.state = "new"

    @property
    def instruments(self) -> Sequence[Instrument]:
        """What the feed has bars of."""
        return self._tee.feed.instruments

    @property
    def fingerprint(self) -> str:
        """That of the feed."""
        return self._tee.feed.fingerprint

    async def stream(self, after: datetime | None = None) -> AsyncGenerator[Market]:
        """Give the market at every moment; `after` is the same for all parts, or later for those that begin later.

        Raises:
            FeedError: the feed fails, or this part lagged too much.
        """
        reading = self._tee.read(self, after)
        try:
            async for market in reading:
                self._latest = market
                yield market
        finally:
            await reading.aclose()

    def latest(self) -> Market:
        """Return the market that this part was given last.

        Raises:
            FeedError: it was given none yet.
        """
        if self._latest is None:
            raise FeedError("no bar has come yet, so there is no market now; take the first one from stream()")
        return self._latest


class QuotedPart(Part):
    """A part of a feed that has quotes."""

    def quote(self, symbol: str) -> Quote | None:
        """Return the newest quote or trade, None where nothing was heard yet."""
        feed = self._tee.feed
        return feed.quote(symbol) if isinstance(feed, Quoted) else None

    @property
    def heard(self) -> datetime | None:
        """When anything came from the source last, by our clock, aware UTC; None before the first."""
        feed = self._tee.feed
        return feed.heard if isinstance(feed, Quoted) else None

    def status(self, symbol: str) -> Status | None:
        """Return whether an instrument is halted, None where nothing was told."""
        ask: Callable[[str], Status | None] | None = getattr(self._tee.feed, "status", None)
        return None if ask is None else ask(symbol)
