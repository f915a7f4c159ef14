"""What a market shows: instruments, ticks, bars, and a view of them that ends now.

Market data are float64. A bar is known only once it has closed, so every view is cut at the close of its newest bar.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from agentfund.clock import from_micros, to_micros
from agentfund.errors import ConfigError, FeedError, LookaheadError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

    from agentfund.feeds.facts import Facts, KnownFacts

    Floats = NDArray[np.float64]
    Micros = NDArray[np.int64]

CENT = Decimal("0.01")
NOISE = Decimal("1e-9")
_MICRO = timedelta(microseconds=1)


def decimal(value: float | Decimal | str) -> Decimal:
    """Turn a number into the Decimal that it prints as: 0.1 becomes Decimal("0.1")."""
    return value if isinstance(value, Decimal) else Decimal(str(value))


@dataclass(frozen=True, slots=True)
class Instrument:
    """Something that can be traded, and the increments in which it is traded.

    Every price, quantity and amount of money in agentfund is rounded here and nowhere else.

    Args:
        symbol: its name, as the broker and the feed know it.
        tick_size: smallest step of a price.
        lot_size: smallest step of a quantity.
        currency: what prices, cash and profits are counted in.
        cents: smallest step of an amount of that currency.
    """

    symbol: str
    tick_size: Decimal = Decimal("0.01")
    lot_size: Decimal = Decimal("0.0001")
    currency: str = "USD"
    cents: Decimal = CENT

    def __post_init__(self) -> None:
        if not self.symbol:
            raise ConfigError("an instrument needs a symbol")
        for name in ("tick_size", "lot_size", "cents"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{self.symbol}: {name} must be above zero, not {getattr(self, name)}")

    def round_price(self, price: float | Decimal, rounding: str = ROUND_HALF_EVEN) -> Decimal:
        """Round a price to the tick; `rounding` is one of the constants of `decimal`.

        What lies within a billionth of a tick is that tick: the last digits of a float64 mean nothing, and must not move a
        price by a whole tick.
        """
        ticks = decimal(price) / self.tick_size
        near = ticks.to_integral_value(rounding=ROUND_HALF_EVEN)
        if abs(ticks - near) > NOISE:
            near = ticks.to_integral_value(rounding=rounding)
        return (near * self.tick_size).quantize(self.tick_size)

    def round_quantity(self, quantity: float | Decimal) -> Decimal:
        """Round a quantity towards zero to the lot, so that rounding never adds risk."""
        return _step(decimal(quantity), self.lot_size, ROUND_DOWN)

    def round_money(self, amount: float | Decimal) -> Decimal:
        """Round an amount of money to the cent (or the currency's own smallest step)."""
        return _step(decimal(amount), self.cents, ROUND_HALF_EVEN)


def _step(value: Decimal, step: Decimal, rounding: str) -> Decimal:
    return ((value / step).to_integral_value(rounding=rounding) * step).quantize(step)


@dataclass(frozen=True, slots=True)
class Tick:
    """One trade as an exchange reports it; `time` is aware UTC."""

    exchange: str
    symbol: str
    price: float
    volume: float
    time: datetime


@dataclass(frozen=True, slots=True)
class Quote:
    """What one could trade at, at one moment.

    Args:
        symbol: what is quoted.
        bid: best price to sell at, None where the source has none.
        ask: best price to buy at, None where the source has none.
        last: last traded price, None where the source has none.
        time: when it was so, by the source's clock, aware UTC.
    """

    symbol: str
    bid: float | None
    ask: float | None
    last: float | None
    time: datetime


class Bar(NamedTuple):
    """Prices of one instrument between `start` and `end` (aware UTC); known at `end`."""

    symbol: str
    start: datetime
    end: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True, slots=True)
class Alive:
    """A source says that its connection lives, though nothing was traded; `time` is its clock where it tells it, aware UTC."""

    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Halted:
    """The exchange has halted trading in an instrument, or lets it trade again.

    Args:
        symbol: what is halted.
        halted: whether it is; False says that the halt is over.
        reason: why, in the exchange's words; empty where it gives none.
        time: since when, by the source's clock, aware UTC.
    """

    symbol: str
    halted: bool
    reason: str
    time: datetime


class Status(StrEnum):
    """What an exchange says of an instrument."""

    TRADING = "trading"
    HALTED = "halted"
    """Nothing trades; an order would wait for a price that nobody knows."""
    LIMIT_UP = "limit_up"
    """It may not rise further."""
    LIMIT_DOWN = "limit_down"
    """It may not fall further."""


Heard = Tick | Bar | Quote | Halted | Alive
"""What a source of live data gives."""


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The bars of one instrument, as columns of equal length: what a feed holds.

    Args:
        instrument: what was traded.
        interval: length of a bar; where bars have an `end` of their own, their usual length.
        start: starts of the bars, microseconds since 1970 UTC, strictly rising.
        open: first prices, float64.
        high: highest prices.
        low: lowest prices.
        close: last prices.
        volume: units traded; zeros where the source has none.
        end: closes of the bars, microseconds since 1970 UTC, strictly rising, each after its start; None where every bar
            closes one interval after its start.
    """

    instrument: Instrument
    interval: timedelta
    start: Micros
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    end: Micros | None = None
    _ends: Micros | None = field(default=None, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.start)

    @property
    def ends(self) -> Micros:
        """Closes of the bars, microseconds since 1970 UTC: the moments from which they are known."""
        known = self._ends if self.end is None else self.end
        if known is None:
            known = self.start + self.interval // _MICRO
            if not self.start.flags.writeable:  # what cannot change is computed once
                known.flags.writeable = False
                object.__setattr__(self, "_ends", known)
        return known

    def closed_by(self, moment: int) -> int:
        """Return how many bars had closed by a moment, microseconds since 1970 UTC."""
        if self.end is None:
            return int(self.start.searchsorted(moment - self.interval // _MICRO, side="right"))
        return int(self.end.searchsorted(moment, side="right"))


class Window:
    """The bars of one instrument up to now: newest last, so `bars.close[-1]` is the last known price.

    The arrays that it hands out are read-only and end at the newest closed bar. They are views: code that goes behind them
    (`array.base`) can find the rest, as code in the same process can find anything.
    """

    __slots__ = ("_columns", "_count")

    def __init__(self, columns: Columns, count: int) -> None:
        self._columns = columns
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<Window of {self._count} bars of {self.symbol} up to {self.now.isoformat()}>"

    @property
    def instrument(self) -> Instrument:
        """What is traded."""
        return self._columns.instrument

    @property
    def symbol(self) -> str:
        """The instrument's name."""
        return self._columns.instrument.symbol

    @property
    def interval(self) -> timedelta:
        """Length of a bar; where bars close irregularly, their usual length."""
        return self._columns.interval

    @property
    def open(self) -> Floats:
        """First prices, float64, oldest first."""
        return self._columns.open[: self._count]

    @property
    def high(self) -> Floats:
        """Highest prices, float64, oldest first."""
        return self._columns.high[: self._count]

    @property
    def low(self) -> Floats:
        """Lowest prices, float64, oldest first."""
        return self._columns.low[: self._count]

    @property
    def close(self) -> Floats:
        """Last prices, float64, oldest first."""
        return self._columns.close[: self._count]

    @property
    def volume(self) -> Floats:
        """Units traded, float64, oldest first."""
        return self._columns.volume[: self._count]

    @property
    def start(self) -> Micros:
        """Starts of the bars, microseconds since 1970 UTC, oldest first."""
        return self._columns.start[: self._count]

    @property
    def end(self) -> Micros:
        """Closes of the bars, microseconds since 1970 UTC, oldest first."""
        c = self._columns
        return self.start + c.interval // _MICRO if c.end is None else c.end[: self._count]

    @property
    def now(self) -> datetime:
        """The close of the newest bar, aware UTC."""
        c = self._columns
        if c.end is not None:
            return from_micros(c.end[self._count - 1])
        return from_micros(c.start[self._count - 1]) + c.interval

    @property
    def price(self) -> float:
        """The last known price."""
        return float(self._columns.close[self._count - 1])

    @property
    def last(self) -> Bar:
        """The newest closed bar."""
        return self.bar(-1)

    def bar(self, index: int) -> Bar:
        """Return one bar; negative indices count from the newest.

        Raises:
            LookaheadError: the bar lies after now, or before the first.
        """
        at = index if index >= 0 else self._count + index
        if not 0 <= at < self._count:
            raise LookaheadError(
                f"{self.symbol}: bar {index} asked for, {self._count} bars are known at {self.now.isoformat()}"
            )
        c = self._columns
        start = from_micros(c.start[at])
        return Bar(
            self.symbol,
            start,
            start + c.interval if c.end is None else from_micros(c.end[at]),
            float(c.open[at]),
            float(c.high[at]),
            float(c.low[at]),
            float(c.close[at]),
            float(c.volume[at]),
        )

    def until(self, moment: datetime) -> Window:
        """Return the window as it was at an earlier moment.

        Raises:
            LookaheadError: `moment` lies after now, or no bar had closed by then.
        """
        if moment > self.now:
            raise LookaheadError(f"{self.symbol}: {moment.isoformat()} lies after now ({self.now.isoformat()})")
        count = self._columns.closed_by(to_micros(moment))
        if count == 0:
            raise LookaheadError(f"{self.symbol}: no bar had closed by {moment.isoformat()}")
        return Window(self._columns, count)


class Market:
    """All instruments of a feed at one moment.

    Args:
        now: the moment, aware UTC; no bar in it closes later.
        windows: the bars of each instrument, by symbol; the first is the one `bars` gives.
        updated: the symbols whose bar closed at `now`.
        facts: what is on record besides bars; only what was known at `now` is shown.
    """

    __slots__ = ("_facts", "_now", "_updated", "_windows")

    def __init__(
        self, now: datetime, windows: Mapping[str, Window], updated: tuple[str, ...], facts: Facts | None = None
    ) -> None:
        self._now = now
        self._windows = windows
        self._updated = updated
        self._facts = facts

    def __repr__(self) -> str:
        return f"<Market of {', '.join(self._windows)} at {self._now.isoformat()}>"

    @property
    def now(self) -> datetime:
        """The moment, aware UTC."""
        return self._now

    @property
    def windows(self) -> Mapping[str, Window]:
        """The bars of each instrument, by symbol; read-only."""
        return MappingProxyType(self._windows)

    @property
    def updated(self) -> tuple[str, ...]:
        """The symbols whose bar closed at `now`."""
        return self._updated

    @property
    def bars(self) -> Window:
        """The bars of the first instrument: the only one, in a fund that trades one."""
        return next(iter(self._windows.values()))

    @property
    def facts(self) -> KnownFacts:
        """News, fundamentals and other facts that were known at `now`.

        Raises:
            FeedError: the feed has none.
        """
        if self._facts is None:
            raise FeedError("this feed has no facts beside its bars: give it some, bars.with_facts(Facts.from_csv(...))")
        return self._facts.at(self._now)

    def __getitem__(self, symbol: str) -> Window:
        """Return the bars of one instrument.

        Raises:
            FeedError: the feed has no bar of it yet, or never will.
        """
        try:
            return self._windows[symbol]
        except KeyError:
            raise FeedError(
                f"no bar of {symbol!r} is known at {self.now.isoformat()}; there is {', '.join(self._windows)}"
            ) from None

    def prices(self) -> dict[str, Decimal]:
        """Return the last known price of each instrument, as Decimal for the book."""
        return {symbol: decimal(window.price) for symbol, window in self._windows.items()}


def read_only(columns: dict[str, Any]) -> dict[str, Any]:
    """Make arrays read-only in place, so that no agent can change the past for the next one."""
    for array in columns.values():
        array.flags.writeable = False
    return columns
