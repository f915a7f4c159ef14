"""Trades of an exchange as fills of a book: what is told is what the balances show.

A commission in the base currency leaves less than was bought. Such a fill is told with what is left of it, in whole lots,
because a rest below one lot can be neither sold nor protected; the commission and the rest are told as its fee, valued at
its price, so that the cash is exact. A trade of which less than a lot is left is told with the order's next one; once the
order has ended it is told as a fill of quantity zero, whose fee is all that it cost. A commission in a third currency is no
part of this account's cash: the fill's fee is zero and `elsewhere` adds it up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal

from agentfund.trading import ZERO, Fill, Side


@dataclass(frozen=True, slots=True)
class RawTrade:
    """A trade as the exchange told it; `fees` are amounts by currency, below zero where it pays a rebate."""

    id: str
    exchange_order: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fees: tuple[tuple[str, Decimal], ...]
    time: datetime
    client_id: str = ""


@dataclass(slots=True)
class _Order:
    gross: Decimal = ZERO
    exact: Decimal = ZERO
    told: Decimal = ZERO
    owed: Decimal = ZERO
    newest: RawTrade | None = None


@dataclass(slots=True)
class Folded:
    """Fills of one session, each trade counted once.

    Attributes:
        fills: what is told, in the order in which it was heard.
        elsewhere: commissions in other currencies than an instrument's own two.
        told: by symbol, what the fills left.
        net: by symbol, what the trades did to the base balance, dust included.
        held: by symbol, what the log says was held before the first of these trades.
        rests: by symbol, how many buys before them may have left dust.
    """

    fills: list[Fill] = field(default_factory=list)
    elsewhere: dict[str, Decimal] = field(default_factory=dict)
    net: dict[str, Decimal] = field(default_factory=dict)
    told: dict[str, Decimal] = field(default_factory=dict)
    held: Mapping[str, Decimal] = field(default_factory=dict)
    rests: Mapping[str, int] = field(default_factory=dict)
    _seen: set[tuple[str, str]] = field(default_factory=set)
    _orders: dict[str, _Order] = field(default_factory=dict)

    def gross(self, order_id: str) -> Decimal:
        """Return how much of an order has traded, commissions not taken off."""
        known = self._orders.get(order_id)
        return known.gross if known else ZERO

    def filled(self, order_id: str) -> Decimal:
        """Return how much of an order has been told as fills."""
        known = self._orders.get(order_id)
        return known.told if known else ZERO

    @property
    def owing(self) -> list[RawTrade]:
        """The newest trade of every order that has moved cash of which no fill tells yet."""
        return [one.newest for one in self._orders.values() if one.owed and one.newest is not None]

    def settle(self, order_id: str) -> None:
        """An order has ended, and all its trades are counted: tell what cash it has moved beyond its fills."""
        order = self._orders.get(order_id)
        if order is not None and order.newest is not None and order.owed:
            self._tell(order.newest, order_id, ZERO, order.owed)
            order.owed = ZERO

    def seen(self, trade_id: str, symbol: str) -> bool:
        """Whether a trade was added before."""
        return (symbol, trade_id) in self._seen

    def add(self, trade: RawTrade, order_id: str, lot: Decimal) -> None:
        """Count a trade, if it was not counted yet.

        Args:
            trade: what happened.
            order_id: the client order id of its order.
            lot: smallest step of a quantity.
        """
        if self.seen(trade.id, trade.symbol):
            return
        self._seen.add((trade.symbol, trade.id))
        base, quote = trade.symbol.split("/")
        in_base = sum((fee for currency, fee in trade.fees if currency == base), ZERO)
        in_quote = sum((fee for currency, fee in trade.fees if currency == quote), ZERO)
        for currency, fee in trade.fees:
            if currency not in (base, quote):
                self.elsewhere[currency] = self.elsewhere.get(currency, ZERO) + fee
        order = self._orders.setdefault(order_id, _Order())
        order.gross += trade.quantity
        order.exact += trade.quantity - in_base * trade.side.sign
        whole = (order.exact / lot).to_integral_value(ROUND_FLOOR) * lot
        quantity = max(whole - order.told, ZERO)
        # Cash moves by the whole price of the trade and the commission in cash; the fee is what makes it so.
        fee = (trade.quantity - quantity) * trade.price * trade.side.sign + in_quote + order.owed
        self.net[trade.symbol] = self.net.get(trade.symbol, ZERO) + trade.quantity * trade.side.sign - in_base
        order.newest = trade
        if not quantity:  # less than a lot is left of it: its money is told with the order's next fill, or at its end
            order.owed = fee
            return
        order.owed = ZERO
        order.told += quantity
        self.told[trade.symbol] = self.told.get(trade.symbol, ZERO) + quantity * trade.side.sign
        self._tell(trade, order_id, quantity, fee)

    def _tell(self, trade: RawTrade, order_id: str, quantity: Decimal, fee: Decimal) -> None:
        self.fills.append(
            Fill(
                f"{trade.symbol}:{trade.id}",
                order_id,
                trade.symbol,
                trade.side,
                quantity,
                trade.price,
                fee,
                trade.time,
                trade.price,
            )
        )

    def rest(self, symbol: str, balance: Decimal) -> Decimal:
        """Return what of a balance neither these trades nor the log explain."""
        return balance - self.net.get(symbol, ZERO) - self.held.get(symbol, ZERO)

    def position(self, symbol: str, balance: Decimal, lot: Decimal, least: Decimal) -> Decimal:
        """Return what a balance means as a position.

        Args:
            symbol: the instrument.
            balance: of its base currency, free and locked.
            lot: smallest step of a quantity.
            least: below this quantity nothing can be sold at all.
        """
        # What was there before and is in no book is dust: too little to be anything, or what so many buys have left.
        if ZERO <= self.rest(symbol, balance) < max(least, lot * (1 + self.rests.get(symbol, 0))):
            return self.held.get(symbol, ZERO) + self.told.get(symbol, ZERO)
        whole = (balance / lot).to_integral_value(ROUND_FLOOR) * lot
        return whole if whole >= max(least, lot) else ZERO
