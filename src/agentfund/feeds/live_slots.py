"""What is known of bars that are not handed out yet, by the moment at which they close. It opens nothing and reads no clock.

A bar is known when the source gave it closed, when all its ticks were heard over one connection, or when the REST API has it.
That an instrument did not trade in a bar is known when the whole bar was listened to, or when the REST API has later ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agentfund.clock import from_micros, to_micros
from agentfund.feeds.live_sieve import micros
from agentfund.feeds.ticks_rules import NEVER
from agentfund.feeds.ticks_stream import TimeBars
from agentfund.market import Bar, Tick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentfund.feeds.live_grid import Grid
    from agentfund.market import Heard

_SLACK = 365 * 86_400_000_000  # it is the clock that closes bars, and not a tick that lies ahead


class Span(NamedTuple):
    """A time in which everything was heard, microseconds since 1970 UTC."""

    begin: int
    end: int


class Slots:
    """Bars by the moment at which they close; all times are microseconds since 1970 UTC.

    Args:
        symbols: the instruments.
        grid: where bars begin and end.
        lateness: how long to wait for stragglers behind the end of a bar.
        handed: the newest moment that was handed out, or lies behind.
        most: how many bars of an instrument may wait to be handed out.

    Attributes:
        overrun: whether more waited; nothing is kept from then on.
        skew: the source's clock minus ours.
        late: ticks and bars that came too late.
        settled: by symbol, up to where the REST API's word is final.
    """

    def __init__(self, symbols: Sequence[str], grid: Grid, lateness: int, handed: int, most: int) -> None:
        self._symbols, self._grid, self._lateness = tuple(symbols), grid, lateness
        self._bars: dict[str, dict[int, Bar]] = {symbol: {} for symbol in symbols}
        self._makers: dict[str, TimeBars] = {}
        self._given: set[str] = set()
        self._traded: dict[str, set[int]] = {symbol: set() for symbol in symbols}
        self._spans: list[Span] = []
        self._since: int | None = None  # by our clock, and what the source's said then
        self._said = 0
        self._proof = -NEVER
        self._late = 0
        self.skew = 0
        self.handed, self._most, self.overrun = handed, most, False
        self.settled = dict.fromkeys(symbols, -NEVER)

    @property
    def late(self) -> int:
        """Ticks and bars that came when their moment was over."""
        return self._late + sum(maker.late for maker in self._makers.values())

    @property
    def since(self) -> int | None:
        """From when on all is heard over this connection, by the source's clock; None where none stands."""
        return None if self._since is None else max(self._since + max(0, self.skew), self._said)

    def take(self, item: Heard, now: int) -> int | None:
        """Take what came over the connection at `now`; return the moment of a bar that came behind others, else None."""
        said = micros(item)
        if self._since is None:
            self._since, self._said = now, now if said is None else said
        # What comes in order proves that all before it came; what tells no time is given as long as a straggler.
        self._proof = max(self._proof, now + self.skew - self._lateness if said is None else said)
        if isinstance(item, Bar):
            self._makers.pop(item.symbol, None)
            self._given.add(item.symbol)
            return self.put(item)
        if isinstance(item, Tick) and said is not None and item.symbol not in self._given:
            self._tick(item, said)
        return None

    def _tick(self, tick: Tick, time: int) -> None:
        start = self._grid.floor(time)
        if start + self._grid.interval <= self.handed:
            self._late += 1
            return
        maker = self._makers.get(tick.symbol)
        if maker is None:
            maker = TimeBars(tick.symbol, self._grid.interval, self._grid.offset, _SLACK)
            self._makers[tick.symbol] = maker
        traded = self._traded[tick.symbol]
        traded.add(start)
        self.overrun = self.overrun or len(traded) > self._most
        if self.overrun:
            return
        self._made(maker.push(time, tick.price, tick.volume))

    def _made(self, bars: Sequence[Bar]) -> None:
        since = self.since
        for bar in bars:
            if since is not None and to_micros(bar.start) >= since:  # of the others only a part was heard
                self.put(bar._replace(end=from_micros(to_micros(bar.start) + self._grid.interval)))

    def put(self, bar: Bar) -> int | None:
        """Keep a bar, the first that is told of a moment; return its moment unless that is over."""
        moment = to_micros(bar.end)
        if moment <= self.handed:
            return None
        kept = self._bars[bar.symbol]
        self.overrun = self.overrun or len(kept) >= self._most
        if not self.overrun:
            kept.setdefault(moment, bar)
        return moment

    def count_late(self) -> None:
        """Count a bar that came when its moment was over."""
        self._late += 1

    def missing(self, moment: int) -> list[str]:
        """Return the instruments without a bar that closes at a moment."""
        return [symbol for symbol in self._symbols if moment not in self._bars[symbol]]

    def traded(self, symbol: str, moment: int) -> bool:
        """Return whether a trade was heard in the bar that closes at a moment."""
        return moment - self._grid.interval in self._traded[symbol]

    def whole(self, moment: int) -> bool:
        """Return whether all of the bar that closes at a moment was heard."""
        start = moment - self._grid.interval
        since = self.since
        if since is not None and start >= since and self._proof >= moment:
            return True
        return any(span.begin <= start and moment <= span.end for span in self._spans)

    def listening(self, moment: int) -> bool:
        """Return whether the connection stands since before the bar that closes at a moment, so that it may become whole."""
        since = self.since
        return since is not None and moment - self._grid.interval >= since

    def close(self, now: int) -> None:
        """Close the bars of ticks that are over at `now`, by the later of the two clocks, and proven to be whole."""
        if not self._makers:
            return
        reached = self._grid.floor(min(now - self._lateness, self._proof))
        for maker in self._makers.values():
            self._made(maker.advance(from_micros(reached + _SLACK)))

    def broken(self, now: int | None) -> None:
        """The connection is gone: what is over at `now` stays, the rest will have to be asked for; None where nobody knows."""
        since = self.since
        if now is not None and since is not None:
            self.close(now)
            reached = self._grid.floor(min(now - self._lateness, self._proof))
            if reached > since:
                self._spans.append(Span(since, reached))
        self._late = self.late
        self._makers.clear()
        self._since, self._proof = None, -NEVER

    def hand_out(self, moment: int) -> list[Bar]:
        """Return the bars that close at a moment, and forget all that is not after it."""
        bars = [each.pop(moment) for each in self._bars.values() if moment in each]
        if bars:
            self.handed = moment
            for symbol in self._symbols:
                self._bars[symbol] = {at: bar for at, bar in self._bars[symbol].items() if at > moment}
        self._traded = {symbol: {at for at in each if at >= moment} for symbol, each in self._traded.items()}
        self._spans = [span for span in self._spans if span.end > moment]
        return bars
