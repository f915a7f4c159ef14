"""The broker's side of the truth: an exact book of its own, which knows what every order really did."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count
from types import MappingProxyType
from typing import Any, Literal

from agentfund.errors import OrderRejected
from agentfund.market import Columns, Instrument, decimal
from agentfund.trading import ZERO, Account, Fill, Order, OrderState, OrderStatus, OrderType, Side

FILL_S = 0.4
_BPS = Decimal(10_000)


class Tape:
    """The prices of one instrument, as the exchange has them.

    Args:
        columns: the bars.
        start: the moment from which seconds count.
    """

    def __init__(self, columns: Columns, start: datetime) -> None:
        self.instrument: Instrument = columns.instrument
        origin = int(start.timestamp()) * 1_000_000
        self.opens_at = [(int(at) - origin) / 1e6 for at in columns.start]
        self.closes_at = [(int(at) - origin) / 1e6 for at in columns.ends]
        names = ("open", "high", "low", "close")
        self.open, self.high, self.low, self.close = ([decimal(float(p)) for p in getattr(columns, name)] for name in names)

    def price(self, seconds: float) -> Decimal:
        """Return the price at which a market order trades at a moment: its bar's open, the last close where all are over."""
        bar = max(bisect_right(self.opens_at, seconds) - 1, 0)
        return self.close[-1] if seconds >= self.closes_at[-1] else self.open[bar]


@dataclass(slots=True)
class Line:
    """An order in the book."""

    name: str
    order: Order
    left: Decimal
    status: OrderStatus = OrderStatus.WORKING
    protected: Decimal = ZERO
    entered_bar: int = -1
    reason: str = ""
    pieces: int = 0
    bust_s: float | None = None
    busted: Decimal = ZERO
    history: list[tuple[float, OrderState]] = field(default_factory=list)

    @property
    def state(self) -> OrderState:
        """How it stands."""
        return OrderState(self.order, self.status, self.order.quantity - self.left - self.busted, self.reason)


class Exchange:
    """What really happened: orders, fills, cash and positions, to the cent, as a function of time.

    Market orders fill soon after they arrive, at the open of the bar that runs. A bar's stops, targets and limits are looked
    at when it ends; where both stop and target were reached it was the stop.

    Args:
        tapes: prices by symbol.
        start: wall time at second zero, aware UTC.
        cash: money at the beginning.
        commission_bps: commission in basis points of the notional.
        dedupes_ids: whether a second order with the same id has no effect.
        refuses_twins: whether a second order with the same id is answered by a refusal; otherwise by how the first stands.
        arrived: called with every order that reaches it.
        takes_s: gives the seconds until an order fills, where nobody says it.
    """

    def __init__(
        self,
        tapes: Mapping[str, Tape],
        start: datetime,
        *,
        cash: Decimal = Decimal(100_000),
        commission_bps: Decimal = Decimal(1),
        dedupes_ids: bool = True,
        refuses_twins: bool = False,
        arrived: Callable[[Order, int, bool], None] = lambda order, writer, twin: None,
        takes_s: Callable[[], float] = lambda: FILL_S,
    ) -> None:
        self.dedupes_ids = dedupes_ids
        self._refuses = refuses_twins
        self._tapes = tapes
        self._start = start
        self._rate = commission_bps / _BPS
        self._arrived = arrived
        self._takes_s = takes_s
        self._now = 0.0
        self._cash = cash
        self._held: dict[str, Decimal] = {}
        self.lines: dict[str, Line] = {}
        self._fills: list[Fill] = []
        self._fill_times: list[float] = []
        self._busts: dict[str, float] = {}
        self._hidden: dict[str, float] = {}
        self._accounts: list[tuple[float, Decimal, Mapping[str, Decimal]]] = [(0.0, cash, MappingProxyType({}))]
        self._told: dict[str, set[OrderStatus]] = {}
        self._numbers = count()
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._bars = dict.fromkeys(tapes, 0)

    # -- what a broker's line asks for -------------------------------------------------------------------------------

    def account(self, seen: float) -> Account:
        """Return cash and positions as they were at a moment."""
        at = bisect_right(self._accounts, seen, key=lambda one: one[0])
        _, cash, held = self._accounts[max(at - 1, 0)]
        return Account(cash, held)

    def orders(self, seen: float, *, since: float) -> list[OrderState]:
        """Return the orders as they were at a moment, but for those that had ended before `since`."""
        found = []
        for line in self.lines.values():
            at = bisect_right(line.history, seen, key=lambda one: one[0])
            if not at:
                continue
            time, state = line.history[at - 1]
            if state.status.open or time >= since:
                found.append(state)
                self.told(line.order.id, state.status)
        return found

    def fills(self, seen: float) -> list[Fill]:
        """Return the fills up to a moment that were not taken back by then, oldest first."""
        told = self._fills[: bisect_right(self._fill_times, seen)]
        gone = set(self.busts(seen))
        return [fill for fill in told if fill.id not in gone] if gone else told

    def busts(self, seen: float) -> list[str]:
        """Return the ids of fills that were taken back up to a moment."""
        return [name for name, at in self._busts.items() if at <= seen]

    def withhold(self, until: float) -> None:
        """Tell nobody of the newest fill until a moment."""
        if self._fills:
            self._hidden.setdefault(self._fills[-1].id, until)

    def foreign(self) -> OrderState:
        """Return an order that somebody else has on the same account."""
        order = Order("not-of-this-fund", next(iter(self._tapes)), Side.BUY, Decimal(1), self._start, stop_loss=Decimal(1))
        return OrderState(order, OrderStatus.WORKING)

    def hides(self, fill_id: str) -> bool:
        """Whether nobody is told of a fill now."""
        return self._now < self._hidden.get(fill_id, -math.inf)

    def arrive(
        self,
        order: Order,
        writer: int,
        *,
        pieces: int = 1,
        delay_s: float | None = None,
        never: bool = False,
        twin: bool = False,
        bust_s: float | None = None,
    ) -> OrderState | OrderRejected:
        """Take an order; return how it stands, or the refusal.

        Args:
            order: the order.
            writer: number of the process that sent it.
            pieces: in how many pieces it fills.
            delay_s: seconds until it fills; as long as it takes here where None.
            never: whether it works until it is taken back.
            twin: whether it is the network's doing that it comes again.
            bust_s: seconds after which its first fill is taken back; never where None.
        """
        self._arrived(order, writer, twin)
        name = order.id
        if name in self.lines:
            if self.dedupes_ids:
                return OrderRejected("duplicate id", code="duplicate") if self._refuses else self.lines[name].state
            name = f"{name}+{len(self.lines)}"
        if order.symbol not in self._tapes or not order.quantity > 0:
            self.refuse(order.id)
            return OrderRejected("there is no such instrument, or the quantity is not above zero", code="simulated")
        line = self.lines[name] = Line(name, order, order.quantity, bust_s=bust_s)
        self._keep(line)
        if order.type is OrderType.MARKET and not never:
            lot = self._tapes[order.symbol].instrument.lot_size
            begins = self._now + (self._takes_s() if delay_s is None else delay_s)
            size = max((order.quantity / pieces) // lot * lot, lot)
            for piece in range(pieces):
                last = piece == pieces - 1
                self._at(begins + piece * 30, self._market, line, None if last else size)
        return line.state

    def expect(self, order: Order, seconds: float, writer: int) -> None:
        """Take an order that is on its way until a moment."""
        self._at(seconds, lambda: self.arrive(order, writer))

    def cancel(self, order_id: str) -> OrderState | OrderRejected:
        """Take an order back; a bracket goes on protecting what has filled."""
        line = self.lines.get(order_id)
        if line is None:
            return OrderRejected("there is no such order", code="unknown_order")
        if line.status.open:
            self._end(line, OrderStatus.CANCELLED, "cancelled on request")
        return line.state

    # -- what was said, for the invariants ---------------------------------------------------------------------------

    def refuse(self, order_id: str) -> None:
        """Remember that somebody was told that an order does not exist."""
        self.told(order_id, OrderStatus.REJECTED)

    def told(self, order_id: str, status: OrderStatus) -> None:
        """Remember what somebody was told of an order."""
        self._told.setdefault(order_id, set()).add(status)

    def was_told(self, order_id: str, status: OrderStatus) -> bool:
        """Whether anybody was ever told that an order has this status."""
        return status in self._told.get(order_id, ())

    @property
    def gross(self) -> Decimal:
        """Value of all positions without their signs, at the prices of now."""
        return sum((abs(q) * self._tapes[s].price(self._now) for s, q in self._held.items()), ZERO)

    @property
    def equity(self) -> Decimal:
        """Cash and positions at the prices of now."""
        return self._cash + sum((q * self._tapes[s].price(self._now) for s, q in self._held.items()), ZERO)

    def worst_case(self, order: Order) -> Decimal:
        """Return the value of all positions if every entry that works fills, and this one too."""
        waiting = [(line.order, line.left) for line in self.lines.values() if line.status.open and not line.order.reduce_only]
        return self.gross + sum(
            (left * self._tapes[one.symbol].price(self._now) for one, left in (*waiting, (order, order.quantity))), ZERO
        )

    # -- time --------------------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let happen what happens up to a moment."""
        while True:
            bar_at, symbol = min(self._closing(), default=(math.inf, ""))
            event_at = self._events[0][0] if self._events else math.inf
            if min(bar_at, event_at) > seconds:
                break
            if event_at <= bar_at:
                self._now, _, event, arguments = heapq.heappop(self._events)
                event(*arguments)
            else:
                self._now = bar_at
                self._bar(symbol, self._bars[symbol])
                self._bars[symbol] += 1
        self._now = max(self._now, seconds)

    def _closing(self) -> Iterator[tuple[float, str]]:
        """Give the next close of each instrument."""
        for symbol, bar in self._bars.items():
            closes = self._tapes[symbol].closes_at
            if bar < len(closes):
                yield closes[bar], symbol

    def _at(self, seconds: float, event: Callable[..., Any], *arguments: Any) -> None:
        heapq.heappush(self._events, (seconds, next(self._numbers), event, arguments))

    def _market(self, line: Line, quantity: Decimal | None) -> None:
        if line.status is OrderStatus.WORKING:
            tape = self._tapes[line.order.symbol]
            self._trade(line, "order", min(line.left, quantity or line.left), tape.price(self._now))

    def _bar(self, symbol: str, bar: int) -> None:
        tape = self._tapes[symbol]
        for line in tuple(self.lines.values()):
            order = line.order
            if order.symbol != symbol:
                continue
            if line.protected > 0:
                self._protect(line, tape, bar)
            if line.status is OrderStatus.WORKING and order.type is not OrderType.MARKET:
                self._rest(line, tape, bar)

    def _protect(self, line: Line, tape: Tape, bar: int) -> None:
        order, buys = line.order, line.order.side is Side.BUY
        opened = tape.open[bar] if line.entered_bar < bar else None
        stop, target = order.stop_loss, order.take_profit
        if stop is not None and (tape.low[bar] <= stop if buys else tape.high[bar] >= stop):
            beyond = opened is not None and (opened < stop if buys else opened > stop)
            self._trade(line, "stop", line.protected, opened if beyond and opened is not None else stop)
        elif target is not None and (tape.high[bar] >= target if buys else tape.low[bar] <= target):
            self._trade(line, "target", line.protected, target)

    def _rest(self, line: Line, tape: Tape, bar: int) -> None:
        order, buys = line.order, line.order.side is Side.BUY
        if order.type is OrderType.LIMIT and order.limit_price is not None:
            if tape.low[bar] < order.limit_price if buys else tape.high[bar] > order.limit_price:
                self._trade(line, "order", line.left, order.limit_price)
        elif order.stop_price is not None and (
            tape.high[bar] >= order.stop_price if buys else tape.low[bar] <= order.stop_price
        ):
            self._trade(line, "order", line.left, order.stop_price)

    def _trade(self, line: Line, leg: Literal["order", "stop", "target"], quantity: Decimal, price: Decimal) -> None:
        order = line.order
        side = order.side if leg == "order" else order.side.opposite
        held = self._held.get(order.symbol, ZERO)
        if leg != "order" or order.reduce_only:
            quantity = min(quantity, max(-held * side.sign, ZERO))
            if not quantity:
                line.protected = ZERO
                if leg == "order":
                    self._end(line, OrderStatus.CANCELLED, "nothing is held that it could reduce")
                return
        line.pieces += 1
        instrument = self._tapes[order.symbol].instrument
        fee = instrument.round_money(quantity * price * self._rate)
        moment = self._start + timedelta(seconds=self._now)
        fill = Fill(f"{line.name}-{leg}-{line.pieces}", order.id, order.symbol, side, quantity, price, fee, moment, price, leg)
        self._fills.append(fill)
        self._fill_times.append(self._now)
        self._cash -= quantity * side.sign * price + fee
        after = held + quantity * side.sign
        self._held = {**self._held, order.symbol: after}
        if not after:
            del self._held[order.symbol]
        self._accounts.append((self._now, self._cash, MappingProxyType(self._held)))
        if leg == "order":
            if line.bust_s is not None:
                self._at(self._now + line.bust_s, self._bust, line, fill)
                line.bust_s = None
            line.left -= quantity
            if not line.left:
                line.status = OrderStatus.FILLED
            self._keep(line)
            if order.stop_loss is not None or order.take_profit is not None:
                line.protected += quantity
                line.entered_bar = bisect_right(self._tapes[order.symbol].opens_at, self._now) - 1
        else:
            line.protected = ZERO
            if line.status.open:
                self._end(line, OrderStatus.CANCELLED, f"its {leg} was reached")
        if abs(after) < abs(held) or held * after < 0:
            self._unprotect(order.symbol, abs(after))

    def _bust(self, line: Line, fill: Fill) -> None:
        """Take a fill back, and with it what its bracket would protect."""
        self._busts[fill.id] = self._now
        signed = fill.quantity * fill.side.sign
        after = self._held.get(fill.symbol, ZERO) - signed
        self._cash += signed * fill.price + fill.fee
        self._held = {**{s: q for s, q in self._held.items() if s != fill.symbol}, **({fill.symbol: after} if after else {})}
        self._accounts.append((self._now, self._cash, MappingProxyType(self._held)))
        line.busted += fill.quantity
        line.protected = max(line.protected - fill.quantity, ZERO)
        if line.status is OrderStatus.FILLED and line.busted >= line.order.quantity:
            line.status, line.reason = OrderStatus.CANCELLED, "all that it traded was taken back"
        self._keep(line)

    def _unprotect(self, symbol: str, held: Decimal) -> None:
        """Let brackets protect no more than is held, the newest first."""
        for line in reversed(self.lines.values()):
            if line.order.symbol == symbol and line.protected:
                line.protected = min(line.protected, held)
                held -= line.protected

    def _end(self, line: Line, status: OrderStatus, reason: str) -> None:
        line.status, line.reason = status, reason
        self._keep(line)

    def _keep(self, line: Line) -> None:
        line.history.append((self._now, line.state))


def tapes_of(columns: Mapping[str, Columns], start: datetime) -> dict[str, Tape]:
    """Return the tapes of instruments by symbol."""
    return {symbol: Tape(each, start) for symbol, each in columns.items()}


def total(fills: Iterable[Fill], cash: Decimal) -> tuple[Decimal, dict[str, Decimal]]:
    """Return cash and positions after fills, summed without any help of what is tested."""
    held: dict[str, Decimal] = {}
    for fill in fills:
        signed = fill.quantity if fill.side is Side.BUY else -fill.quantity
        cash -= signed * fill.price + fill.fee
        held[fill.symbol] = held.get(fill.symbol, ZERO) + signed
    return cash, {symbol: quantity for symbol, quantity in held.items() if quantity}
