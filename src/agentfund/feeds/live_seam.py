"""The seam of a live feed: history and what is heard, joined so that every bar comes once, in order, and whole."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from agentfund.clock import from_micros, to_micros
from agentfund.errors import FeedError
from agentfund.feeds.live_grid import Grid
from agentfund.feeds.live_line import Line, Pauses
from agentfund.feeds.live_past import Past, cancelled, held, together
from agentfund.feeds.live_series import Series
from agentfund.feeds.live_sieve import Sieve
from agentfund.feeds.live_slots import Slots
from agentfund.feeds.ticks_rules import MICRO, NEVER
from agentfund.market import Bar, Market, Window

if TYPE_CHECKING:
    from datetime import datetime

    from agentfund.feeds.live_health import Counts
    from agentfund.market import Heard
    from agentfund.protocols import Clock, Source

_log = logging.getLogger("agentfund.feeds.live")
_AGAIN = 3  # bars that were handed out are compared when the REST API is asked anyway
_LOOK_S = 1.0
_LONG_S = 3600.0
_WIDER = (1, 4, 16)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a live feed goes by; `agentfund.feeds.live.Live` explains each."""

    interval: timedelta
    offset: timedelta
    back: int
    keep: int
    lateness: timedelta
    patience: timedelta
    max_skew: timedelta
    continuous: bool
    pauses: Pauses


class Seam:
    """One stream of a live feed.

    Args:
        source: the source.
        terms: what the feed goes by.
        clock: where the time comes from.
        counts: what is counted.
    """

    def __init__(self, source: Source, terms: Terms, clock: Clock, counts: Counts) -> None:
        self._terms, self._clock, self.counts = terms, clock, counts
        self._interval, self._lateness = terms.interval // MICRO, terms.lateness // MICRO
        self._patience_s = terms.patience.total_seconds()
        self._grid = Grid(self._interval, terms.offset // MICRO)
        self._symbols = tuple(each.symbol for each in source.instruments)
        self._series = {each.symbol: Series(each, terms.interval, terms.keep) for each in source.instruments}
        self._windows: dict[str, Window] = {}
        self._slots = Slots((), self._grid, 0, 0, 0)
        self._past = Past(source, self._grid, clock, self._patience_s)
        self._asked: dict[str, float] = {}
        self._given_up: dict[str, int] = {}
        self._holes: dict[str, int] = {}
        self._bell = asyncio.Event()
        self._due = 0
        self._unproven = self._warned = False
        self._ended: int | None = None
        self._line: asyncio.Future[None] | None = None
        self._hold = ExitStack()
        self.sieve = Sieve(self._symbols, self._grid, terms.max_skew)
        self.line = Line(source, clock, terms.pauses, self._take, self._broken)
        self.heard: datetime | None = None

    async def next(self, after: datetime | None) -> Market | None:
        """Return the market at the next moment, None when the source has ended; `after` counts the first time."""
        self.release()
        if self._line is None:
            self._line = asyncio.ensure_future(self.line.run())
            self._line.add_done_callback(lambda _: self._bell.set())
            base = self._grid.floor(self._now() if after is None else to_micros(after))
            self._slots = Slots(self._symbols, self._grid, self._lateness, base, 4 * self._terms.keep)
            self._due = base + self._interval
            while (early := base - self._now()) > 0:
                await self._clock.sleep(early / 1e6)
            await together(*(self._begin(symbol, base) for symbol in self._symbols))
        while (bars := await self._closed(self._line)) is not None:
            if bars:
                self._hold.enter_context(held(self._clock))
                return self._market(bars)
        return None

    def release(self) -> None:
        """Let a clock that jumps go on: whoever reads has done with what it was given."""
        self._hold.close()

    def cancel(self) -> None:
        """Cut the connection without waiting for its end."""
        self.release()
        if self._line is not None and not self._line.done() and not self._line.get_loop().is_closed():
            self._line.cancel()

    async def close(self) -> None:
        """Close the connection."""
        self.cancel()
        if self._line is not None:
            await cancelled(self._line)
            self._line = None

    def _now(self) -> int:
        return to_micros(self._clock.now())

    def _take(self, item: Heard) -> None:
        """Take what came over the connection."""
        now = self._clock.now()
        self.heard = now
        if not self.sieve.take(item, now):
            return
        slots = self._slots
        slots.skew = self.sieve.skew
        moment = slots.take(item, to_micros(now))
        if isinstance(item, Bar):
            if moment is None:
                self._compare(item)
            else:
                self._due = min(self._due, moment)
            self._bell.set()
        elif self._unproven:
            self._bell.set()

    def _broken(self) -> None:
        """Keep of a connection that has ended what was whole by then."""
        now = self._now()
        self._slots.broken(None if self.sieve.skewed else now + min(0, self.sieve.skew))
        self.sieve.forget()
        if self.line.over:
            self._ended = now
        self._bell.set()

    def _compare(self, bar: Bar) -> None:
        """Compare a bar with the one that was handed out; the past does not change."""
        agrees = self._series[bar.symbol].agrees(bar)
        if agrees is None:
            self._slots.count_late()
        elif not agrees:
            self.counts.differing += 1
            _log.info("%s: the bar of %s differs from the one that was handed out", bar.symbol, bar.start.isoformat())

    async def _begin(self, symbol: str, base: int) -> None:
        """Get the bars before the first moment, and of these the newest, which the REST API may be about to make."""
        if not self._terms.back:
            return
        back, began, wider = self._terms.back, self._clock.monotonic(), 0
        while True:
            try:
                bars = await self._past.ask(symbol, base - _WIDER[wider] * back * self._interval, base)
            except FeedError as error:
                if self._clock.monotonic() - began >= self._patience_s:
                    raise FeedError(f"{error}; without history a feed begins only with back=0") from None
            else:
                if len(bars) < back and wider + 1 < len(_WIDER):  # the market may have been closed
                    wider += 1
                    continue
                over = self._now() >= base + self._lateness + self._terms.patience // MICRO
                if over or (bars and to_micros(bars[-1].end) == base):
                    break
            await self._clock.sleep(self._past.wait(symbol))
        self._past.rested(symbol)
        for bar in bars[-back:]:
            self._series[symbol].append(bar)
        if bars:
            self._windows[symbol] = self._series[symbol].window()

    async def _closed(self, line: asyncio.Future[None]) -> list[Bar] | None:
        """Wait for the next moment, and return the bars that close then, if any; None when the source has ended."""
        slots = self._slots
        while True:
            self._check(line)
            self._bell.clear()
            self._unproven = False
            now, due = self._now(), self._due
            slots.skew = self.sieve.skew
            known = now + min(0, slots.skew)  # never by a clock that is ahead of the other
            if not self._is_skewed():
                slots.close(known)
            missing = slots.missing(due)
            if now < due:
                if self._ended is not None and due > self._ended:
                    return None
                await self._nap((due - now) / 1e6)
            elif not missing:
                return self._hand_out(due)
            elif known < due + self._lateness:
                await self._nap((due + self._lateness - known) / 1e6)
            elif self._warned:
                await self._nap(_LOOK_S)
            elif unknown := [symbol for symbol in missing if self._unknown(symbol, due)]:
                await self._ask(unknown, due, known)
            elif not slots.whole(due) and slots.listening(due):
                self._unproven = True
                await self._nap(_LONG_S)
            else:
                return self._hand_out(due)

    def _check(self, line: asyncio.Future[None]) -> None:
        if self.line.failed is not None:
            raise self.line.failed
        if line.done() and not self.line.over:
            line.result()
        if self._slots.overrun:
            raise FeedError(
                f"{4 * self._terms.keep} bars wait to be read: the reader of this feed is too slow;"
                " give it less to do, or longer bars"
            )

    def _is_skewed(self) -> bool:
        skewed = self.sieve.skewed and self.line.connected
        if skewed and not self._warned:
            _log.warning(
                "the source's clock and ours differ by %.1f s, more than max_skew: no bar is closed until they agree; set the"
                " machine's clock by NTP, or allow more for a source that is delayed",
                self.sieve.skew_s,
            )
        self._warned = skewed
        return skewed

    def _unknown(self, symbol: str, due: int) -> bool:
        """Return whether the REST API must be asked what became of a bar that is not here."""
        if self._slots.settled[symbol] >= due:
            return False
        if self._slots.whole(due):
            return self._terms.continuous
        return not self._slots.listening(due)

    async def _ask(self, symbols: list[str], due: int, known: int) -> None:
        ready = [symbol for symbol in symbols if self._past.wait(symbol) <= 0]
        if ready:
            await together(*(self._fill(symbol, due, known) for symbol in ready))
        else:
            await self._nap(min(self._past.wait(symbol) for symbol in symbols))

    async def _fill(self, symbol: str, due: int, known: int) -> None:
        """Ask for all bars from the one that is missing on."""
        slots, interval = self._slots, self._interval
        end = min(self._grid.floor(known), due + (self._terms.keep - 1) * interval)
        asked = self._asked.setdefault(symbol, self._clock.monotonic())
        try:
            bars = await self._past.ask(symbol, due - (1 + _AGAIN) * interval, end)
        except FeedError:
            if self._clock.monotonic() - asked >= self._patience_s:
                self._given_up[symbol] = slots.settled[symbol] = end
                self._asked.pop(symbol)
            return
        for bar in bars:
            moment = to_micros(bar.end)
            if moment <= slots.handed:
                self._compare(bar)
            elif moment >= due:
                slots.put(bar)
        newest = to_micros(bars[-1].end) if bars else -NEVER
        final = max(newest, self._grid.floor(known - self._terms.patience // MICRO))
        if final >= due:  # later bars are there, or it had time enough to make this one
            slots.settled[symbol] = min(final, end)
            self.counts.gaps_filled += newest >= due and not slots.whole(due)
            self._asked.pop(symbol)
            self._past.rested(symbol)

    def _hand_out(self, due: int) -> list[Bar]:
        """Close a moment; say so where a bar should have been and is not."""
        slots = self._slots
        for symbol in slots.missing(due):
            if self._terms.continuous or slots.traded(symbol, due) or self._given_up.get(symbol, -NEVER) >= due:
                if self._holes.get(symbol, -NEVER) < due - self._interval:
                    self.counts.gaps_open += 1
                    _log.warning(
                        "%s: the bar that closes at %s was not heard whole, and the REST API does not have it: the windows"
                        " have a hole there (%s)",
                        symbol,
                        from_micros(due).isoformat(),
                        self._past.error or "it answers without that bar",
                    )
                self._holes[symbol] = due
        self._due = due + self._interval
        return slots.hand_out(due)

    def _market(self, bars: list[Bar]) -> Market:
        for bar in bars:
            self._series[bar.symbol].append(bar)
            self._windows[bar.symbol] = self._series[bar.symbol].window()
        windows = {symbol: self._windows[symbol] for symbol in self._symbols if symbol in self._windows}
        return Market(from_micros(to_micros(bars[0].end)), windows, tuple(bar.symbol for bar in bars))

    async def _nap(self, seconds: float) -> None:
        """Wait so long, or until something has happened."""
        ringing, timer = asyncio.ensure_future(self._bell.wait()), asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait({ringing, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancelled(ringing, timer)

    def count(self) -> None:
        """Add what this stream has counted to what the feed has."""
        counts = self.counts
        counts.late += self._slots.late
        counts.bad += self.sieve.bad + self._past.bad
        counts.reconnects += self.line.reconnects
        counts.error = self.error or counts.error

    @property
    def late(self) -> int:
        """Ticks and bars that came too late in this stream."""
        return self._slots.late

    @property
    def bad(self) -> int:
        """What was left out in this stream."""
        return self.sieve.bad + self._past.bad

    @property
    def error(self) -> str:
        """What went wrong last in this stream."""
        return self._past.error or self.line.error
