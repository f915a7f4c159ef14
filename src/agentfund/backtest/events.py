"""The event lane for rule strategies: bar by bar over columns, one clock, one book, many instruments.

What a strategy reads stands in slots that are set from the columns as the clock moves; nothing else is made for a bar.
The book is only entered where something is on order or held, or where a strategy wants something.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.backtest.signals import awake, signals
from agentfund.backtest.trades import bar_ends
from agentfund.backtest.view import going, view_of
from agentfund.backtest.walk import (
    CUT,
    DONE,
    IN_PARTS,
    OPEN,
    OPEN_ORDERS,
    ORDER_RATE,
    POSITIONS,
    SIGNAL,
    STOP,
    TARGET,
    charge,
    denied,
    even,
    levels,
    paid,
    resize,
    rested,
    size,
    uncut,
    whole,
    worth,
)
from agentfund.core.safety import BOUNDS
from agentfund.errors import ConfigError
from agentfund.strategies.strategy import FIELDS
from agentfund.trading import Direction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentfund.backtest.result import Truths
    from agentfund.backtest.walk import Terms
    from agentfund.core.gate import Limits
    from agentfund.market import Columns, Micros
    from agentfund.strategies import Strategy

CHUNK = 1 << 12
"""Numbers are turned into Python objects this many bars at a time, so that memory does not grow with the history."""

DAY, HOUR = 86_400_000_000, 3_600_000_000
"""Microseconds of a day, and of an hour."""

NOTHING, ORDERED, HELD, LEAVING = 0, 1, 2, 3
"""Where an instrument stands."""

# What may happen at a bar of many instruments: its strategy may want something, it may be the last of a moment, or of a day.
_ENTERS, _LEAVES, _LAST, _DAY_ENDS = 1, 2, 4, 8

_STOP, _TARGET = BOUNDS["stop_pct"], BOUNDS["target_pct"]
_LONG = Direction.LONG

ROW = 13
"""Numbers of a trade: instrument, bars of decision, entry and exit, sign, lots, ticks in and out, fees in and out, what
ended it, distances of stop and target."""


def day_starts(ends: Micros) -> tuple[Any, Any]:
    """Return for each bar the first bar of the day (UTC) to which its close belongs, and the first bar of the next day."""
    midnights = np.arange(ends[0] // DAY + 1, ends[-1] // DAY + 1) * DAY if len(ends) else ends
    fresh = np.unique(np.append(np.zeros(min(1, len(ends)), np.int64), ends.searchsorted(midnights)))
    after = np.append(fresh[1:], len(ends))
    return np.repeat(fresh, after - fresh), np.repeat(after, after - fresh)


class Book:
    """What many instruments share: cash, marks, trades (one after the other, `ROW` numbers each).

    Args:
        units: cash in units of money.
        mark: units of money in a cent of equity.
    """

    __slots__ = ("day", "equity", "noes", "peak", "rows", "units")

    def __init__(self, units: float, mark: float) -> None:
        self.units = units
        self.equity = self.peak = self.day = even(units / mark)
        self.rows = array("d")
        self.noes: list[tuple[int, int, int]] = []


class Stand:
    """Where one instrument stands, with the strategy that trades it.

    Args:
        number: position among the instruments.
        strategy: who decides.
        columns: the bars.
        t: terms.

    Attributes:
        state: nothing, an entry on order, a position, or an exit on order.
        floor: price at or below which a bar ends a position; `ceiling` the other way.
        equity: equity in cents when an entry was ordered.
        now: the newest bar, where there are many instruments.
    """

    __slots__ = (
        "began", "ceiling", "closes", "columns", "decided", "equity", "fee", "floor", "highs", "lots", "lows", "now",
        "number",
        "opens", "price", "sign", "state", "stop_pct", "strategy", "t", "target_pct", "volumes",
    )  # fmt: skip

    def __init__(self, number: int, strategy: Strategy, columns: Columns, t: Terms) -> None:
        self.number, self.strategy, self.columns, self.t = number, strategy, columns, t
        # Prices are looked up where something is held; to turn all of them into Python objects would cost more.
        self.opens, self.highs, self.lows, self.closes, self.volumes = (
            np.ascontiguousarray(getattr(columns, name)).data for name in FIELDS
        )
        self.state = self.decided = self.began = self.now = 0
        self.sign = self.lots = self.fee = self.price = self.equity = self.stop_pct = self.target_pct = 0.0
        self.floor, self.ceiling = -math.inf, math.inf

    @property
    def notional(self) -> float:
        """What is held or on order, in currency units at the newest close."""
        return self.lots / self.t.per_lot * self.closes[self.now]

    def opening(self, book: Book, bar: int, others: float = 0.0, gross: float = 0.0) -> int:
        """Fill what is on order at the open of a bar; return why the broker would not fill it whole, 0 where it does.

        Args:
            book: the book.
            bar: the bar.
            others: what is held elsewhere, in currency units; `gross` is the same without signs.
            gross: see `others`.
        """
        t, first = self.t, self.opens[bar]
        if self.state == ORDERED:
            self.price = paid(first, self.sign, t)
            if t.at_fill:
                self.lots = resize(self.equity, self.price, self.stop_pct, t)
                if self.lots <= 0.0:
                    self.state, self.began = NOTHING, bar
                    book.noes.append((self.number, self.decided, 1))
                    return DONE
        if not whole(self.lots, self.volumes[bar], t):
            return IN_PARTS
        if self.state == LEAVING:
            self._exit(book, bar, SIGNAL, first)
            return DONE
        if not uncut(self.lots, self.price, book.units, others, gross, t):
            return CUT
        self.fee = charge(self.lots, self.price, t)
        book.units -= self.sign * self.lots * self.price * t.deal + self.fee
        self.began, self.state = bar, HELD
        return DONE

    def protect(self, book: Book, bar: int) -> None:
        """End a position where a bar touches its stop or its target; the stop comes first where it touches both."""
        first, low, high = self.opens[bar], self.lows[bar], self.highs[bar]
        if self.sign > 0:
            if low <= self.floor:
                self._exit(book, bar, STOP, min(first, self.floor))
            elif high >= self.ceiling:
                self._exit(book, bar, TARGET, max(first, self.ceiling))
        elif high >= self.ceiling:
            self._exit(book, bar, STOP, max(first, self.ceiling))
        elif low <= self.floor:
            self._exit(book, bar, TARGET, min(first, self.floor))

    def _exit(self, book: Book, bar: int, kind: float, price: float) -> None:
        t = self.t
        ticks = rested(price, -self.sign, t) if kind == TARGET else paid(price, -self.sign, t)
        fee = charge(self.lots, ticks, t)
        book.units += self.sign * self.lots * ticks * t.deal - fee
        self.state = NOTHING
        self._note(book, bar, ticks, fee, kind)

    def _note(self, book: Book, bar: int, ticks: float, fee: float, kind: float) -> None:
        book.rows.extend((
            self.number, self.decided, self.began, bar, self.sign, self.lots, self.price, ticks, self.fee, fee, kind,
            self.stop_pct, self.target_pct,
        ))  # fmt: skip

    def order(self, book: Book, view: Any, wanted: Direction, bar: int, gross: float, pending: float) -> bool:
        """Order an entry at the close of a bar, unless a check says no.

        Args:
            book: the book.
            view: what the strategy sees.
            wanted: long or short.
            bar: the bar that has just closed.
            gross: what is held elsewhere and on order, in currency units; `pending` is the part on order.
            pending: see `gross`.
        """
        t, sign, price = self.t, 1.0 if wanted is _LONG else -1.0, self.closes[bar]
        stop_pct, target_pct = float(self.strategy.stop(view)), float(self.strategy.target(view))
        if not (_STOP[0] <= stop_pct <= _STOP[1] and _TARGET[0] <= target_pct <= _TARGET[1]):
            if not math.isfinite(stop_pct) or math.isinf(target_pct):
                return False
            stop_pct = min(max(stop_pct, _STOP[0]), _STOP[1])
            if target_pct == target_pct:
                target_pct = min(max(target_pct, _TARGET[0]), _TARGET[1])
        lots = size(book.equity, price, stop_pct, t) if book.equity > 0 else 0.0
        stop, target = levels(price, sign, stop_pct, target_pct, t)
        code = denied(lots, price, sign, stop, target, book.units, book.equity, book.peak, book.day, gross, pending, t)
        if code:
            book.noes.append((self.number, bar, code))
            return False
        self.state, self.decided, self.sign, self.lots = ORDERED, bar, sign, lots
        self.equity, self.stop_pct, self.target_pct = book.equity, stop_pct, target_pct
        near, far = stop / t.per_tick, target / t.per_tick if target == target else sign * math.inf
        if sign > 0:
            self.floor, self.ceiling = near, far
        else:
            self.floor, self.ceiling = far, near
        return True

    def still(self, book: Book) -> None:
        """Note a position that is held at the end."""
        if self.state in (HELD, LEAVING):
            self._note(book, len(self.columns) - 1, 0.0, 0.0, OPEN)


def _wish(stand: Stand, wanted: Direction | None) -> Direction | None:
    """Return which entry an own `decide` asks for; note an exit where it asks for anything but what is held."""
    if wanted is not None and not isinstance(wanted, Direction):
        raise ConfigError(f"{stand.strategy.name}: decide gave {wanted!r}; it must give a Direction, or None")
    if stand.state == NOTHING:
        return None if wanted is Direction.FLAT else wanted
    if wanted is not None and wanted is not (Direction.LONG if stand.sign > 0 else Direction.SHORT):
        stand.state = LEAVING
    return None


def one(strategy: Strategy, columns: Columns, looked: Mapping[str, Any], t: Terms, book: Book) -> tuple[int, int]:
    """Run one strategy over one instrument; return how it ended and at which bar.

    Args:
        strategy: the strategy.
        columns: the bars.
        looked: its indicators, from `signals.looked_at`.
        t: terms.
        book: the book, which is filled.
    """
    n = len(columns)
    view, slots = view_of(strategy, looked, columns)
    seen: Any = view
    decide, enter, leave = strategy.decide, strategy.enter, strategy.leave
    own, every, direction = not strategy.elementwise, strategy.every, strategy.direction
    rows_of, step, entering, holding, deciding = going(slots)
    stand = Stand(0, strategy, columns, t)
    lows, highs, closes = stand.lows, stand.highs, stand.closes
    dated = t.max_daily_loss_pct < 100.0
    firsts, day_first = day_starts(columns.ends)[0].data if dated else b"", 0
    for begin in range(0, n, CHUNK):
        rows = rows_of(slots, begin, min(n, begin + CHUNK))
        while True:
            before, wanted = stand.state, None
            if every != 1 or before in (ORDERED, LEAVING) or (own and before):
                before, went = -1, step(seen, rows)
            elif before:
                went = holding(seen, rows, leave, lows, highs, stand.floor, stand.ceiling)
            elif own:
                wanted = deciding(seen, rows, decide)
                went = wanted is not None
            else:
                went = entering(seen, rows, enter)
            if not went:
                break
            bar = seen.at
            if stand.state:
                if dated and firsts[bar] > day_first:
                    held = stand.sign * stand.lots if stand.state != ORDERED else 0.0
                    day_first = firsts[bar]
                    book.day = worth(book.units, held, closes[day_first - 1], t)
                if stand.state != HELD:
                    units = book.units
                    if stopped := stand.opening(book, bar):
                        return stopped, bar
                    if not stand.state:
                        _flat(stand, book, units, bar)
                if stand.state and not (lows[bar] > stand.floor and highs[bar] < stand.ceiling):
                    units = book.units
                    stand.protect(book, bar)
                    _flat(stand, book, units, bar)
            if every != 1 and (bar + 1) % every:
                continue
            if own:
                if before:
                    wanted = decide(seen, stand.state != NOTHING)
                if wanted is not None:
                    wanted = _wish(stand, wanted)
            elif stand.state:
                if before == HELD or leave(seen):
                    stand.state = LEAVING
            elif before == NOTHING or enter(seen):
                wanted = direction
            if wanted is not None:
                if dated and firsts[bar] > day_first:
                    day_first, book.day = firsts[bar], book.equity
                stand.order(book, view, wanted, bar, 0.0, 0.0)
    stand.still(book)
    return DONE, n


def _flat(stand: Stand, book: Book, units: float, bar: int) -> None:
    """Bring the marks up to date after an exit; the peak may lie at a close while the position was held.

    Args:
        stand: what was held.
        book: the book.
        units: cash before the exit, in units of money.
        bar: the bar of the exit.
    """
    t = stand.t
    if bar > stand.began and t.max_drawdown_pct < 100.0:
        held = stand.closes[stand.began : bar]
        best = max(held) if stand.sign > 0 else min(held)
        book.peak = max(book.peak, worth(units, stand.sign * stand.lots, best, t))
    book.equity = even(book.units / t.mark)
    book.peak = max(book.peak, book.equity)


def many(
    strategies: Sequence[Strategy],
    columns: Sequence[Columns],
    looked: Sequence[Mapping[str, Any]],
    t: Sequence[Terms],
    book: Book,
    limits: Limits,
) -> tuple[int, int]:
    """Run strategies over many instruments on one clock and one book; return how it ended and at which bar.

    At each moment all fills come first, then equity, then each strategy in the order of the instruments; what one has
    ordered counts against the limits of the next.

    Args:
        strategies: one for each instrument.
        columns: their bars.
        looked: their indicators.
        t: their terms.
        book: the book, which is filled.
        limits: hard limits of all together.
    """
    ends = [bar_ends(each) for each in columns]
    moments = np.concatenate(ends)
    order = moments.argsort(kind="stable")
    owner = np.concatenate([np.full(len(each), i) for i, each in enumerate(ends)])[order]
    index = np.concatenate([np.arange(len(each)) for each in ends])[order]
    moments = moments[order]
    last = np.append(moments[1:] != moments[:-1], True)
    new_day = np.append(moments[1:] // DAY != moments[:-1] // DAY, False)
    asked = [_asked(s, c, a) for s, c, a in zip(strategies, columns, looked, strict=True)]
    entering, leaving = (np.concatenate([each[side] for each in asked])[order] for side in (0, 1))
    codes = entering * _ENTERS | leaving * _LEAVES | last * _LAST | new_day * _DAY_ENDS
    stands = [Stand(i, s, c, each) for i, (s, c, each) in enumerate(zip(strategies, columns, t, strict=True))]
    views: list[Any] = [view_of(s, a, c, slots=False)[0] for s, a, c in zip(strategies, looked, columns, strict=True)]
    own = [not s.elementwise for s in strategies]
    mark, unit = t[0].mark, t[0].unit
    # Marks that no limit looks at are not kept.
    marked, dated = limits.max_drawdown_pct < 100.0, limits.max_daily_loss_pct < 100.0
    active: list[Stand] = []
    wanting: list[Stand] = []
    acted: deque[int] = deque()  # when orders were decided within the last hour
    value = gross = 0.0
    waiting = False  # whether an entry is on order
    for begin in range(0, len(order), CHUNK):
        cut = slice(begin, begin + CHUNK)
        for who, bar, code in zip(*(each[cut].tolist() for each in (owner, index, codes)), strict=True):
            stand = stands[who]
            if stand.state:
                stand.now = bar
                # What is held elsewhere counts at its last close: the broker's own leverage is far off.
                if stand.state != HELD and (stopped := stand.opening(book, bar, value / unit, gross)):
                    return stopped, bar
                if stand.state and not (stand.lows[bar] > stand.floor and stand.highs[bar] < stand.ceiling):
                    stand.protect(book, bar)
                if not stand.state:
                    active.remove(stand)
                    book.equity = even(book.units / mark)
            if code & (_LEAVES if stand.state else _ENTERS):
                stand.now = bar
                wanting.append(stand)
            if code < _LAST:
                continue
            day_ends = dated and code >= _DAY_ENDS
            if marked or wanting or waiting or day_ends:
                value, gross, pending, on_order, waiting = _exposure(active)
                if active:
                    book.equity = even((book.units + value) / mark)
                if book.equity > book.peak:
                    book.peak = book.equity
            for stand in wanting:
                seen, bar = views[stand.number], stand.now
                seen.at = bar
                wanted: Direction | None
                if own[stand.number]:
                    wanted = _wish(stand, stand.strategy.decide(seen, stand.state != NOTHING))
                elif stand.state:
                    stand.state, wanted = LEAVING, None
                else:
                    wanted = stand.strategy.direction
                moment = int(ends[stand.number][bar])
                if wanted is None:
                    if stand.state == LEAVING:
                        on_order += 1
                        acted.append(moment)
                    continue
                while acted and acted[0] <= moment - HOUR:
                    acted.popleft()
                if len(acted) >= limits.max_orders_per_hour:
                    book.noes.append((stand.number, bar, ORDER_RATE))
                elif len(active) >= limits.max_positions:
                    book.noes.append((stand.number, bar, POSITIONS))
                elif on_order >= limits.max_open_orders:
                    book.noes.append((stand.number, bar, OPEN_ORDERS))
                elif stand.order(book, seen, wanted, bar, gross + pending, pending):
                    active.append(stand)
                    acted.append(moment)
                    pending += stand.notional
                    on_order += 1
                    waiting = True
            wanting.clear()
            if day_ends:
                book.day = book.equity
    for stand in stands:
        stand.still(book)
    return DONE, len(order)


def _exposure(active: Sequence[Stand]) -> tuple[float, float, float, int, bool]:
    """Return what is held in units of money, its notional and that of entries on order, orders, whether there is an entry."""
    value = gross = pending = 0.0
    on_order, waiting = 0, False
    for each in active:
        if each.state == ORDERED:
            pending += each.notional
            waiting = True
        else:
            t, close = each.t, each.closes[each.now]
            value += each.sign * each.lots * close * t.per_tick * t.deal
            gross += each.lots / t.per_lot * close
        on_order += each.state != HELD
    return value, gross, pending, on_order, waiting


def _asked(strategy: Strategy, columns: Columns, looked: Mapping[str, Any]) -> tuple[Truths, Truths]:
    """Return at which bars a strategy wants to enter, and to leave; one that decides by itself is asked at each."""
    n = len(columns)
    if not strategy.elementwise:
        due = awake(strategy, n)
        every = np.ones(n, np.bool_) if due is None else due
        return every, every
    found = signals(strategy, columns, looked)
    return found.enter, found.leave
