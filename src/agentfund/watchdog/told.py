"""What a fund's log tells the watchdog: positions, orders, prices, spending; a fold of its own, which knows no agent.

It is not the fund's fold on purpose: two that agree are worth more than one that is read twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from agentfund.messages import Answered, Busted, Called, Filled, Intended, Led, Levelled, Message, Observed, Started
from agentfund.trading import ZERO, Account, Book, Fill, Level, Order, OrderStatus, OrderType, Resting

TYPES = frozenset(kind.__name__ for kind in (Answered, Busted, Called, Filled, Intended, Led, Levelled, Observed, Started))
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
_OVER = (OrderStatus.CANCELLED, OrderStatus.REJECTED)


@dataclass(slots=True)
class Told:
    """A fund by its log, as far as the watchdog looks at it. It grows in place.

    Args:
        offset: place of the newest message.
        newest: its id.
        decided: id, place and words of the newest message of a trade, for those who ask what led to a halt.
        token: fencing token of the leader.
        began: whether a run has begun.
        cash: cash by the fills.
        held: signed quantities by symbol; none is zero.
        filled: what has filled, by order and leg.
        fills: by execution id, those that were taken back left out.
        busted: execution ids that were taken back.
        orders: every intent by id.
        over: intents that the broker refused or cancelled.
        live: intents that may still rest, or protect something.
        excess: orders that filled more than they are, or whose exits did, by id, in words.
        prices: newest known price by symbol.
        sent: when each intent was appended, of the last minute or so.
        spent: when each call of a language model was appended and what it cost, of the last hour or so.
        halts: ids of causes at which the fund was told to halt.
    """

    offset: int = 0
    newest: str = ""
    decided: tuple[str, int, str] = ("", 0, "")
    token: int = 0
    began: bool = False
    cash: Decimal = ZERO
    held: dict[str, Decimal] = field(default_factory=dict)
    filled: dict[str, dict[str, Decimal]] = field(default_factory=dict)
    fills: dict[str, Fill] = field(default_factory=dict)
    busted: set[str] = field(default_factory=set)
    orders: dict[str, Order] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)
    live: dict[str, Order] = field(default_factory=dict)
    excess: dict[str, str] = field(default_factory=dict)
    prices: dict[str, Decimal] = field(default_factory=dict)
    sent: deque[datetime] = field(default_factory=deque)
    spent: deque[tuple[datetime, Decimal]] = field(default_factory=deque)
    halts: set[str] = field(default_factory=set)

    def add(self, message: Message) -> None:
        """Fold one message; types that are not looked at are not read.

        Raises:
            SchemaTooNew: a newer agentfund wrote it.
            ValueError: what is inside is not what its type says.
        """
        stale = 0 < message.token < self.token and message.type != Called.__name__
        if message.type in TYPES and not stale:
            self._fold(message)
        self.offset, self.newest = message.offset, message.id  # last: what could not be read is read again

    def _fold(self, message: Message) -> None:
        when = message.appended or message.time
        match message.event:
            case Led() as event:
                self.token = max(self.token, event.token)
            case Started() as event:
                self.began, self.cash = True, event.cash
                self.fills.clear()
                self.held.clear()
                self.filled.clear()
            case Observed() as event:
                self.prices.update(event.prices)
            case Intended(order):
                if order.id not in self.orders:
                    self.sent.append(when)
                self.orders[order.id] = self.live[order.id] = order
                what = f"{order.side} {order.quantity} {order.symbol}, {order.type}, stop {order.stop_loss}"
                self.decided = (message.id, message.offset, f"{_where(message)} meant {what}")
            case Answered(order_id, status):
                if status in _OVER:
                    self.over.add(order_id)
            case Filled(fill):
                what = f"{fill.side} {fill.quantity} {fill.symbol} at {fill.price} ({fill.leg})"
                self.decided = (message.id, message.offset, f"{_where(message)} filled {what}")
                if fill.id not in self.busted and fill.id not in self.fills:
                    self.fills[fill.id] = fill
                    self.prices.setdefault(fill.symbol, fill.price)
                    self._count(fill, 1)
            case Busted(fill_id):
                self.busted.add(fill_id)
                if (gone := self.fills.pop(fill_id, None)) is not None:
                    self._count(gone, -1)
            case Called(call):
                self.spent.append((when, call.billed_usd))
            case Levelled(level, _, _, cause):
                if level >= Level.HALT and cause:
                    self.halts.add(cause)
        while self.sent and self.sent[0] < when - MINUTE:
            self.sent.popleft()
        while self.spent and self.spent[0][0] < when - HOUR:
            self.spent.popleft()

    def _count(self, fill: Fill, times: int) -> None:
        signed = fill.quantity * fill.side.sign * times
        self.cash -= signed * fill.price + fill.fee * times
        now = self.held.pop(fill.symbol, ZERO) + signed
        if now:
            self.held[fill.symbol] = now
        legs = self.filled.setdefault(fill.order_id, {})
        legs[fill.leg] = legs.get(fill.leg, ZERO) + fill.quantity * times
        order = self.orders.get(fill.order_id)
        self.excess.pop(fill.order_id, None)
        if order is None:
            self.excess[fill.order_id] = f"fill {fill.id} is of the order {fill.order_id}, which nobody meant to send"
            return
        self.live[order.id] = order
        entered, left = legs.get("order", ZERO), legs.get("stop", ZERO) + legs.get("target", ZERO)
        if entered > order.quantity:
            self.excess[order.id] = f"order {order.id} of {order.quantity} {order.symbol} has filled {entered}"
        elif left > entered:
            self.excess[order.id] = f"stop and target of order {order.id} filled {left}, and its entry {entered}"

    def orders_within(self, span: timedelta, now: datetime) -> int:
        """Return how many orders were meant in the last minute, or less of it."""
        return sum(1 for when in self.sent if now - span < when)

    def spent_within(self, span: timedelta, now: datetime) -> Decimal:
        """Return what language models cost in the last hour, or less of it, in USD."""
        return sum((cost for when, cost in self.spent if now - span < when), ZERO)

    def book(self) -> Book:
        """Return what a broker would show who had done just what the log says."""
        held, prices = dict(self.held), self.prices
        equity = self.cash + sum((quantity * prices[symbol] for symbol, quantity in held.items()), ZERO)
        return Book(Account(self.cash, held, equity), tuple(self._resting(held)))

    def _resting(self, held: Mapping[str, Decimal]) -> list[Resting]:
        found: list[Resting] = []
        protected: dict[str, Decimal] = {}
        for order in tuple(self.live.values()):
            legs = self.filled.get(order.id, {})
            inside = legs.get("order", ZERO) - legs.get("stop", ZERO) - legs.get("target", ZERO)
            left = ZERO if order.id in self.over else order.quantity - legs.get("order", ZERO)
            position = held.get(order.symbol, ZERO)
            if left > 0:
                price = order.limit_price if order.type is OrderType.LIMIT else order.stop_price
                found.append(Resting(order.id, order.symbol, order.side, left, order.type, price, time=order.time))
            elif inside <= 0 or position * order.side.sign <= 0:
                del self.live[order.id]  # a fill, or one that is taken back, brings it in again
            if inside <= 0 or position * order.side.sign <= 0:
                continue
            # Other exits take from a position too, and from the oldest bracket first.
            protected[order.symbol] = protected.get(order.symbol, ZERO) + inside
            for price, kind, leg in ((order.stop_loss, OrderType.STOP, "stop"), (order.take_profit, OrderType.LIMIT, "target")):
                if price is not None:
                    name = f"{order.id}.{leg}"
                    found.append(Resting(name, order.symbol, order.side.opposite, inside, kind, price, order.id, order.time))
        return _cut(found, held, protected)


def _where(message: Message) -> str:
    return f"cycle {message.cycle}, {message.time:%Y-%m-%d %H:%M:%S} UTC:"


def _cut(resting: list[Resting], held: Mapping[str, Decimal], protected: Mapping[str, Decimal]) -> list[Resting]:
    """Take what other exits have closed from the oldest brackets, so that no leg is larger than what is held."""
    kept: list[Resting] = []
    for leg_type in (OrderType.STOP, OrderType.LIMIT):
        excess = {symbol: max(ZERO, inside - abs(held[symbol])) for symbol, inside in protected.items()}
        for one in resting:
            if not one.entry or one.type is not leg_type:
                continue
            gone = min(excess[one.symbol], one.quantity)
            excess[one.symbol] -= gone
            if one.quantity > gone:
                kept.append(
                    Resting(one.id, one.symbol, one.side, one.quantity - gone, one.type, one.price, one.entry, one.time)
                )
    return [one for one in resting if not one.entry] + kept
