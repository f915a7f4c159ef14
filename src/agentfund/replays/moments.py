"""A history as a live run saw it: only the moments at which that run had a cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentfund.core.session import closing
from agentfund.errors import ConfigError, FeedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence
    from datetime import datetime

    from agentfund.market import Columns, Instrument, Market
    from agentfund.protocols import Feed, History


class Moments:
    """A feed that gives some moments of a history, each with all the bars before it.

    Args:
        feed: the history.
        history: the same.
        moments: which; the history must have all of them.
    """

    def __init__(self, feed: Feed, history: History, moments: Collection[datetime]) -> None:
        self._feed = feed
        self._history = history
        self._moments = frozenset(moments)
        self._latest: Market | None = None

    @property
    def columns(self) -> Mapping[str, Columns]:
        """All bars by symbol."""
        return self._history.columns

    @property
    def warnings(self) -> Sequence[str]:
        """What a user should know about the data."""
        return self._history.warnings

    @property
    def source(self) -> str:
        """Where the data came from."""
        return self._history.source

    @property
    def instruments(self) -> Sequence[Instrument]:
        """What it has bars of."""
        return self._feed.instruments

    @property
    def fingerprint(self) -> str:
        """That of the history."""
        return self._feed.fingerprint

    async def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        """Give the chosen moments after `after`.

        Raises:
            ConfigError: the history has no bar that closes at one of them.
        """
        wanted = sorted(moment for moment in self._moments if after is None or moment > after)
        at = 0
        async with closing(self._feed.stream(after)) as markets:
            async for market in markets:
                if at == len(wanted):
                    return
                if market.now == wanted[at]:
                    at += 1
                    self._latest = market
                    yield market
                elif market.now > wanted[at]:
                    break
        if at < len(wanted):
            raise ConfigError(
                f"the recorded run had a cycle at {wanted[at].isoformat()}, and in the history no bar closes then:"
                " give the bars that the run saw"
            )

    def latest(self) -> Market:
        """Return the market that `stream` gave last.

        Raises:
            FeedError: nothing was streamed yet.
        """
        if self._latest is None:
            raise FeedError("no bar was streamed yet")
        return self._latest
