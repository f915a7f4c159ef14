"""A live feed: bars on an exact grid out of what a source tells as it happens and what its REST API tells of the past."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from agentfund.clock import SystemClock, to_micros
from agentfund.errors import ConfigError, FeedError
from agentfund.feeds.live_health import Counts, Health
from agentfund.feeds.live_line import Pauses
from agentfund.feeds.live_seam import Seam, Terms
from agentfund.feeds.ticks_rules import check

if TYPE_CHECKING:
    from datetime import datetime

    from agentfund.market import Instrument, Market, Quote, Status
    from agentfund.protocols import Clock, Source

_NONE = timedelta(0)


class Live:
    """A feed of a source of live data: a `Feed` and `Quoted`.

    A bar is handed out when it has closed, whole, once, and in order. One that was heard in part, or not at all, comes from the
    source's REST API. What was handed out never changes. One stream at a time; for several readers there is `Tee`.

    Without `after` a stream begins with the first bar that closes after it was opened. With `after` it gives every moment
    since then, from the REST API up to now, and goes on live.

    Args:
        source: the provider, such as `Recorded` or `Polling`. What it gives first says that it is subscribed to everything.
        interval: length of a bar, which divides a day.
        back: how many bars of history the first window has at least, where the provider has them.
        offset: moves the starts of bars from multiples of the interval since 1970 UTC.
        lateness: how long behind its end a bar waits for stragglers; then it closes by the clock, though nothing came. Where
            not given the source's own `lateness` counts; one second where it has none.
        patience: how long a moment waits for the REST API to tell what was not heard, behind its end or the first question.
            After that it is handed out with a hole, which is logged and counted.
        silence: nothing heard for so long: the connection is cut, and made again. Where not given the source's own `silence`
            counts, None there if it cannot fall silent; 30 seconds where it has none.
        max_skew: how far the source's clock may lie from ours. Beyond that no bar is closed.
        continuous: every instrument trades in every bar, as crypto does: a bar that does not come is asked for.
        keep: how many bars a window shows at most.
        pause: the least pause before a connection is made again; pauses double, with jitter.
        longest_pause: the longest of these pauses.
        tries: after so many tries in a row over which nothing came the feed fails; None tries without end.
        clock: where the time comes from.

    Raises:
        ConfigError: an argument cannot be.
    """

    def __init__(
        self,
        source: Source,
        *,
        interval: timedelta,
        back: int = 500,
        offset: timedelta = _NONE,
        lateness: timedelta | None = None,
        patience: timedelta = timedelta(seconds=30),
        silence: timedelta | None = None,
        max_skew: timedelta = timedelta(seconds=5),
        continuous: bool = False,
        keep: int = 5000,
        pause: timedelta = timedelta(seconds=1),
        longest_pause: timedelta = timedelta(seconds=60),
        tries: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        if lateness is None:
            lateness = getattr(source, "lateness", None)
        if lateness is None:
            lateness = timedelta(seconds=1)
        if (given := getattr(source, "interval", None)) not in (None, interval):
            raise ConfigError(f"{source.name} gives bars of {given}, this feed makes bars of {interval}: make them the same")
        check(interval, offset, lateness)
        symbols = [each.symbol for each in source.instruments]
        if not symbols or len(set(symbols)) != len(symbols):
            raise ConfigError(f"{source.name}: a live feed needs instruments with different symbols, not {symbols}")
        if silence is None:  # the source knows best; None there says that it cannot fall silent
            silence = getattr(source, "silence", timedelta(seconds=30))
        spans = {"patience": patience, "max_skew": max_skew, "pause": pause}
        if silence is not None:
            spans["silence"] = silence
        if wrong := [name for name, span in spans.items() if span <= _NONE]:
            raise ConfigError(f"{wrong[0]} must be above zero, not {spans[wrong[0]]}")
        if longest_pause < pause:
            raise ConfigError(f"longest_pause={longest_pause} is shorter than pause={pause}; make it the longer one")
        if keep < 1 or not 0 <= back <= keep:
            raise ConfigError(
                f"back={back} and keep={keep}: a window keeps at least one bar, and no fewer than history gives it"
            )
        if tries is not None and tries < 1:
            raise ConfigError(f"tries={tries}: at least 1, or None for no end")
        pauses = Pauses(
            pause.total_seconds(),
            longest_pause.total_seconds(),
            math.inf if silence is None else silence.total_seconds(),
            tries,
        )
        self._source = source
        self._clock: Clock = clock or SystemClock()
        self._terms = Terms(interval, offset, back, keep, lateness, patience, max_skew, continuous, pauses)
        self._counts = Counts()
        self._seam: Seam | None = None
        self._open = False
        self._latest: Market | None = None

    def __repr__(self) -> str:
        return f"<Live {self.fingerprint}>"

    @property
    def instruments(self) -> Sequence[Instrument]:
        """What the source is subscribed to."""
        return tuple(self._source.instruments)

    @property
    def fingerprint(self) -> str:
        """A name for the source, its instruments and the grid of bars."""
        symbols = ",".join(each.symbol for each in self._source.instruments)
        offset = f"+{self._terms.offset.total_seconds():g}s" if self._terms.offset else ""
        return f"live {self._source.name} {symbols} {self._terms.interval.total_seconds():g}s{offset}"

    def stream(self, after: datetime | None = None) -> Stream:
        """Give the market at every moment at which a bar closes, after `after` or from now on.

        It ends only where the source ends for good, as a recording does. Leaving it closes the connection.

        Raises:
            FeedError: history cannot be had at the beginning; the tries are used up; the reader is far too slow; or another
                stream of this feed is open.
            ValueError: `after` has no time zone.
        """
        if after is not None:
            to_micros(after)
        return Stream(self, after)

    def begin(self) -> Seam:
        """Begin a stream; streams call it, and nobody else."""
        if self._open:
            raise FeedError("this live feed is being read already; for several readers take the parts of Tee(feed).split(2)")
        self._open = True
        self._seam = Seam(self._source, self._terms, self._clock, self._counts)
        return self._seam

    def give(self, market: Market) -> None:
        """Take note of what a stream has given; streams call it, and nobody else."""
        self._latest = market

    def end(self, seam: Seam) -> None:
        """End a stream; streams call it, and nobody else."""
        if self._open and self._seam is seam:
            self._open = False
            seam.count()

    def latest(self) -> Market:
        """Return the market that was handed out last; prices between bars are in `quote`.

        Raises:
            FeedError: nothing was handed out yet.
        """
        if self._latest is None:
            raise FeedError("no bar has closed yet, so there is no market now; take the first one from stream()")
        return self._latest

    def quote(self, symbol: str) -> Quote | None:
        """Return the newest quote or trade, None where nothing was heard yet."""
        return None if self._seam is None else self._seam.sieve.quote(symbol)

    def status(self, symbol: str) -> Status | None:
        """Return whether an instrument is halted, None where the source told nothing of it."""
        return None if self._seam is None else self._seam.sieve.status(symbol)

    @property
    def heard(self) -> datetime | None:
        """When anything came from the source last, by our clock, aware UTC; None before the first."""
        return None if self._seam is None else self._seam.heard

    def health(self) -> Health:
        """Return how the feed is doing now."""
        counts, seam, heard = self._counts, self._seam, self.heard
        now = seam if self._open else None  # what a stream has counted is added when it ends
        return Health(
            connected=now is not None and now.line.connected,
            heard=heard,
            age_s=None if heard is None else (self._clock.now() - heard).total_seconds(),
            skew_s=None if seam is None else seam.sieve.skew_s,
            skewed=seam is not None and seam.sieve.skewed,
            reconnects=counts.reconnects + (now.line.reconnects if now else 0),
            gaps_filled=counts.gaps_filled,
            gaps_open=counts.gaps_open,
            late=counts.late + (now.late if now else 0),
            bad=counts.bad + (now.bad if now else 0),
            differing=counts.differing,
            error=(now.error if now else "") or counts.error,
        )


class Stream:
    """The moments of a live feed, one after the other.

    It is no generator, because asyncio closes generators that were left open all at once when it ends, the inner ones under the
    hands of the outer.
    """

    def __init__(self, feed: Live, after: datetime | None) -> None:
        self._feed, self._after = feed, after
        self._seam: Seam | None = None
        self._ended = False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Market:
        if self._ended:
            raise StopAsyncIteration
        try:
            if self._seam is None:
                self._seam = self._feed.begin()
            market = await self._seam.next(self._after)
        except BaseException:
            await self.aclose()
            raise
        if market is None:
            await self.aclose()
            raise StopAsyncIteration
        self._feed.give(market)
        return market

    async def aclose(self) -> None:
        """Close the connection; nothing more comes."""
        self._ended = True
        seam, self._seam = self._seam, None
        if seam is not None:
            try:
                await seam.close()
            finally:
                self._feed.end(seam)

    def __del__(self) -> None:
        if self._seam is not None:  # forgotten, not closed
            self._seam.cancel()
            self._feed.end(self._seam)
