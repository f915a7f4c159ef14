"""From fills to what they made: the equity curve, and round trips from flat to flat."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agentfund.clock import from_micros, to_micros
from agentfund.errors import BadData
from agentfund.trading import ZERO, Direction, Fill, Portfolio, Side

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from agentfund.market import Columns, Floats, Micros

MICRO = timedelta(microseconds=1)


class Execution(NamedTuple):
    """A fill and the bar in which it happened, as a row of the time axis; `decision` is the id behind its order."""

    fill: Fill
    bar: int
    decision: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What a fund was worth at the close of each bar.

    Args:
        ends: closes of the bars of all instruments, microseconds since 1970 UTC, strictly rising.
        equity: cash and positions at the last known closes.
        held: whether anything was held at that close.
    """

    ends: Micros
    equity: Floats
    held: np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(slots=True)
class RoundTrip:
    """One way from flat to flat, in one instrument, with all entries and exits in it.

    Amounts are in the account's currency. `profit` is after commissions, spread and slippage; `cost` says how much those
    were. `exit` names what ended it: an order, the stop, the target, or `open` where it is still held and is marked at
    the last close. `bars` counts from the entry's bar to the exit's.
    """

    symbol: str
    direction: Direction
    opened: datetime
    decision: str
    entry_bar: int
    exit_bar: int = 0
    closed: datetime | None = None
    exit: str = "open"
    quantity: Decimal = ZERO
    fees: Decimal = ZERO
    cost: Decimal = ZERO
    fills: list[str] = field(default_factory=list)
    closed_by: str = ""
    _in: Decimal = ZERO
    _out: Decimal = ZERO
    _left: Decimal = ZERO

    @property
    def bars(self) -> int:
        """How many bars it was held; zero when it ended in the bar in which it began."""
        return self.exit_bar - self.entry_bar

    @property
    def entry_price(self) -> Decimal:
        """Average price of the entries."""
        return self._in / self.quantity

    @property
    def exit_price(self) -> Decimal:
        """Average price of the exits; for what is still open, the last close."""
        return self._out / self.quantity

    @property
    def profit(self) -> Decimal:
        """Profit after all costs, below zero for a loss."""
        return (self._out - self._in) * (1 if self.direction is Direction.LONG else -1) - self.fees

    @property
    def profit_pct(self) -> float:
        """Profit in percent of what the entries were worth."""
        return float(100 * self.profit / self._in)

    def _enter(self, execution: Execution, quantity: Decimal, fee: Decimal) -> None:
        self.quantity += quantity
        self._left += quantity
        self._in += quantity * execution.fill.price
        self._pay(execution.fill, quantity, fee)

    def _leave(self, execution: Execution, quantity: Decimal, fee: Decimal) -> None:
        self._left -= quantity
        self._out += quantity * execution.fill.price
        self.exit_bar = execution.bar
        self._pay(execution.fill, quantity, fee)
        if self._left == 0:
            self.closed = execution.fill.time
            self.exit = execution.fill.leg
            self.closed_by = execution.decision

    def _pay(self, fill: Fill, quantity: Decimal, fee: Decimal) -> None:
        self.fees += fee
        self.cost += fee + (fill.price - fill.reference) * quantity * fill.side.sign
        self.fills.append(fill.id)

    def _mark(self, price: Decimal, bar: int) -> None:
        self._out += self._left * price
        self.exit_bar = bar


def round_trips(executions: Sequence[Execution], marks: Mapping[str, Decimal], last: int) -> tuple[RoundTrip, ...]:
    """Return the round trips in the order in which they began.

    A fill that turns a position around ends one trip and begins the next; its commission is shared by quantity. The
    profits of all trips add up to what the fund made.

    Args:
        executions: fills in the order in which they happened.
        marks: last close of each instrument, for what is still held.
        last: last bar of the time axis.
    """
    trips: list[RoundTrip] = []
    held: dict[str, RoundTrip] = {}
    for execution in executions:
        fill = execution.fill
        quantity, fee = fill.quantity, fill.fee
        trip = held.get(fill.symbol)
        if trip and (trip.direction is Direction.LONG) is (fill.side is Side.SELL):
            closing = min(trip._left, quantity)
            share = fee if closing == quantity else fee * closing / quantity
            trip._leave(execution, closing, share)
            quantity, fee = quantity - closing, fee - share
            if trip.closed:
                del held[fill.symbol]
        if quantity:
            trip = held.get(fill.symbol)
            if trip is None:
                direction = Direction.LONG if fill.side is Side.BUY else Direction.SHORT
                trip = RoundTrip(fill.symbol, direction, fill.time, execution.decision, execution.bar)
                held[fill.symbol] = trip
                trips.append(trip)
            trip._enter(execution, quantity, fee)
    for symbol, trip in held.items():
        trip._mark(marks[symbol], last)
    return tuple(trips)


def bar_ends(column: Columns) -> Micros:
    """Return the moments at which its bars closed, microseconds since 1970 UTC."""
    return column.ends


def time_axis(columns: Mapping[str, Columns], until: datetime | None = None) -> Micros:
    """Return the moments at which a bar of any instrument closed, microseconds since 1970 UTC, strictly rising."""
    ends = [bar_ends(column) for column in columns.values()]
    axis = ends[0] if len(ends) == 1 else np.unique(np.concatenate(ends))
    return axis if until is None else axis[: int(axis.searchsorted(to_micros(until), side="right"))]


def place(fills: Sequence[tuple[Fill, datetime]], columns: Mapping[str, Columns], axis: Micros) -> list[tuple[Fill, int]]:
    """Return each fill with the row of the axis at which its bar closed, in the order of those rows.

    A bar's close and the next bar's open are one moment. A fill that was seen at the moment at which it happened cannot
    be of a bar that opens then, because that bar is only seen at its close.

    Args:
        fills: fills, each with the moment at which the fund saw it.
        columns: the bars, by symbol.
        axis: the time axis.

    Raises:
        BadData: a fill is of an instrument that the history does not hold.
    """
    placed = []
    for fill, seen in fills:
        if fill.symbol not in columns:
            raise BadData(
                f"fill {fill.id} is of {fill.symbol!r}, the history holds {', '.join(columns)}:"
                " give the report the history that the run used"
            )
        column = columns[fill.symbol]
        moment = to_micros(fill.time) - (seen <= fill.time)
        bar = max(0, int(column.start.searchsorted(moment, side="right")) - 1)
        close = int(column.start[bar]) + column.interval // MICRO if column.end is None else int(column.end[bar])
        row = int(axis.searchsorted(close))
        placed.append((fill, min(row, len(axis) - 1)))
    return sorted(placed, key=lambda pair: pair[1])


def last_known(column: Columns, values: Floats, axis: Micros) -> Floats:
    """Return the newest of `values` (one for each bar of `column`) at each moment of the axis, NaN before the first."""
    at = bar_ends(column).searchsorted(axis, side="right") - 1
    return np.where(at >= 0, values[np.maximum(at, 0)], np.nan)


def equity_curve(
    columns: Mapping[str, Columns], axis: Micros, cash: Decimal, executions: Sequence[Execution]
) -> tuple[Curve, Portfolio]:
    """Return the equity at every bar and the portfolio at the end: a fold over the fills, then arrays.

    Cash and positions after each fill are exact (`Decimal`) before they become float64, so nothing adds up.
    """
    book = Portfolio(cash)
    cashes, rows = [cash], []
    quantities: dict[str, list[Decimal]] = {}
    for execution in executions:
        book = book.apply(execution.fill)
        rows.append(execution.bar)
        cashes.append(book.cash)
        for symbol in {*quantities, execution.fill.symbol}:
            steps = quantities.setdefault(symbol, [ZERO] * (len(cashes) - 1))
            steps.append(book.quantity(symbol))
    done = np.asarray(rows, dtype=np.int64).searchsorted(np.arange(len(axis)), side="right")
    equity = np.asarray(cashes, dtype=np.float64)[done]
    held = np.zeros(len(axis), dtype=np.bool_)
    for symbol, steps in quantities.items():
        quantity = np.asarray(steps, dtype=np.float64)[done]
        column = columns[symbol]
        equity = equity + np.where(quantity != 0, quantity * last_known(column, column.close, axis), 0.0)
        held |= quantity != 0
    return Curve(axis, equity, held), book


def moments(axis: Micros) -> list[datetime]:
    """Return the moments of a time axis as aware UTC datetimes."""
    return [from_micros(micros) for micros in axis.tolist()]
