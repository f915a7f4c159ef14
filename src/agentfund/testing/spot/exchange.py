"""A spot exchange in memory. What an order is to sell or to pay with is locked while it rests, as real exchanges do."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from itertools import count
from typing import Literal

ZERO = Decimal(0)

Status = Literal["waiting", "open", "filled", "cancelled", "rejected"]
"""`waiting` is a stop order whose trigger the market has not met."""
FeeIn = Literal["quote", "received", "third"]
Reason = Literal["funds", "duplicate", "filter", "trigger", "symbol", "unknown", "window", "combination"]


class Refused(Exception):
    """The exchange says no: nothing was changed.

    Args:
        reason: which rule it was.
        text: in words.
    """

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Listing:
    """What can be traded: `base` for `quote`, prices in steps of `tick`, quantities in steps of `lot`."""

    base: str
    quote: str
    tick: Decimal = Decimal("0.01")
    lot: Decimal = Decimal("0.0001")
    min_notional: Decimal = ZERO

    @property
    def symbol(self) -> str:
        """As ccxt writes it."""
        return f"{self.base}/{self.quote}"


@dataclass(slots=True)
class SpotOrder:
    """An order in the exchange's book; `locked` is in the base of a sell and the quote of a buy."""

    id: str
    client_id: str
    symbol: str
    side: Literal["buy", "sell"]
    type: Literal["market", "limit", "stop", "stop_limit"]
    quantity: Decimal
    price: Decimal | None
    trigger: Decimal | None
    time: int
    status: Status = "open"
    filled: Decimal = ZERO
    paid: Decimal = ZERO
    locked: Decimal = ZERO
    number: int = 0

    @property
    def left(self) -> Decimal:
        """How much of it can still trade."""
        return self.quantity - self.filled if self.status in ("open", "waiting") else ZERO


@dataclass(frozen=True, slots=True)
class Trade:
    """A quantity that changed hands; `fee` is in `fee_currency`, `number` counts all trades."""

    id: str
    number: int
    order: SpotOrder
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str
    time: int


class SpotExchange:
    """Balances, orders and trades.

    Args:
        listings: what is traded.
        funds: free balances at the beginning, by currency.
        fee: commission as a share of what is traded.
        fee_in: whether it is taken in the quote currency, in what is received, or in a third currency, BNB.
        duplicates: whether a client id may be used again once its order has ended, or never.
        stops_lock: whether a stop order locks its balance before it is triggered; where not, and the balance is gone by
            then, it fails.
    """

    def __init__(
        self,
        *listings: Listing,
        funds: dict[str, Decimal] | None = None,
        fee: Decimal = ZERO,
        fee_in: FeeIn = "quote",
        duplicates: Literal["open", "ever"] = "open",
        stops_lock: bool = True,
    ) -> None:
        self.listings = {one.symbol: one for one in listings or (Listing("BTC", "USDT"),)}
        self.free: dict[str, Decimal] = dict(funds if funds is not None else {"USDT": Decimal(100_000), "BNB": Decimal(10)})
        self.used: dict[str, Decimal] = {}
        self.fee, self.fee_in, self.duplicates, self.stops_lock = fee, fee_in, duplicates, stops_lock
        self.prices: dict[str, Decimal] = {}
        self.orders: dict[str, SpotOrder] = {}
        self.trades: list[Trade] = []
        self.depth: Decimal | None = None
        """The most that a market order trades at once; the rest of it waits for the next move. No limit where None."""
        self.refusing: set[str] = set()
        """Types of orders that are refused for now."""
        self.now = 1_790_000_000_000
        """Milliseconds since 1970; every order and trade moves it on."""
        self._numbers = count(1)

    # -- orders --------------------------------------------------------------------------------------------------

    def place(
        self,
        client_id: str,
        symbol: str,
        side: Literal["buy", "sell"],
        type: Literal["market", "limit", "stop", "stop_limit"],
        quantity: Decimal,
        price: Decimal | None = None,
        trigger: Decimal | None = None,
    ) -> SpotOrder:
        """Take an order.

        Raises:
            Refused: it is not there.
        """
        listing = self.listings.get(symbol)
        if listing is None:
            raise Refused("symbol", f"there is no market {symbol}")
        twin = self.find(client_id)
        if twin is not None and (self.duplicates == "ever" or twin.left):
            raise Refused("duplicate", "an order with this client id exists")
        last = self.prices.get(symbol, ZERO)
        worth = price if price is not None else trigger if trigger is not None else last
        if quantity <= 0 or quantity % listing.lot or (price is not None and (price <= 0 or price % listing.tick)):
            raise Refused("filter", "quantity or price is off its step")
        if type in self.refusing or quantity * worth < listing.min_notional:
            raise Refused("filter", "this order is not taken")
        if trigger is not None and (last <= trigger if side == "sell" else last >= trigger):
            raise Refused("trigger", "the stop would trigger at once")
        order = SpotOrder(f"x{len(self.orders) + 1}", client_id, symbol, side, type, quantity, price, trigger, self._tick())
        order.number = len(self.orders) + 1
        if trigger is None or self.stops_lock:
            self._reserve(order, worth)
        order.status = "waiting" if trigger is not None else "open"
        self.orders[order.id] = order
        self._match(symbol, [order])
        return order

    def find(self, client_id: str) -> SpotOrder | None:
        """Return the newest order with a client id."""
        return next((order for order in reversed(self.orders.values()) if client_id and order.client_id == client_id), None)

    def cancel(self, order: SpotOrder | None) -> SpotOrder:
        """Take an order back.

        Raises:
            Refused: there is no such order, or it has ended.
        """
        if order is None or not order.left:
            raise Refused("unknown", "there is no such open order")
        self._end(order, "cancelled")
        return order

    def move(self, symbol: str, price: Decimal) -> None:
        """Let the market trade at a price: stops are met, then orders trade that can."""
        self.prices[symbol] = price
        for order in tuple(self.orders.values()):
            if order.symbol == symbol and order.status == "waiting" and order.trigger is not None:
                met = price <= order.trigger if order.side == "sell" else price >= order.trigger
                if met:
                    order.status = "open"
                    try:
                        if not self.stops_lock:
                            self._reserve(order, order.trigger)
                    except Refused:
                        self._end(order, "rejected")
        self._match(symbol, list(self.orders.values()))

    def total(self, currency: str) -> Decimal:
        """Return a balance, free and locked."""
        return self.free.get(currency, ZERO) + self.used.get(currency, ZERO)

    # -- matching ------------------------------------------------------------------------------------------------

    def _match(self, symbol: str, orders: list[SpotOrder]) -> None:
        price = self.prices.get(symbol)
        if price is None:
            return
        for order in orders:
            if order.symbol != symbol or order.status != "open":
                continue
            if order.price is not None:
                if (order.price - price) * (1 if order.side == "buy" else -1) < 0:
                    continue
                self._trade(order, order.left, order.price)
            else:
                self._trade(order, min(order.left, self.depth or order.left), price)

    def _trade(self, order: SpotOrder, quantity: Decimal, price: Decimal) -> None:
        listing = self.listings[order.symbol]
        cost, buys = quantity * price, order.side == "buy"
        if self.fee_in == "third":
            currency, fee = "BNB", cost * self.fee / 500
        elif self.fee_in == "received" and buys:
            currency, fee = listing.base, quantity * self.fee
        else:
            currency, fee = listing.quote, cost * self.fee
        release = min(order.locked, order.locked * quantity / order.left)
        self._lock(self._asset(order), -release)
        order.locked -= release
        got, gave = (listing.base, listing.quote) if buys else (listing.quote, listing.base)
        self.free[got] = self.free.get(got, ZERO) + (quantity if buys else cost)
        self.free[gave] = self.free.get(gave, ZERO) - (cost if buys else quantity)
        self.free[currency] = self.free.get(currency, ZERO) - fee
        order.filled += quantity
        order.paid += cost
        number = next(self._numbers)
        self.trades.append(Trade(f"{number}", number, order, quantity, price, fee, currency, self._tick()))
        if order.filled == order.quantity:
            self._end(order, "filled")

    def _reserve(self, order: SpotOrder, worth: Decimal) -> None:
        asset, amount = self._asset(order), order.quantity if order.side == "sell" else order.quantity * worth
        if self.free.get(asset, ZERO) < amount:
            raise Refused("funds", "the balance is not enough")
        self._lock(asset, amount)
        order.locked = amount

    def _end(self, order: SpotOrder, status: Status) -> None:
        self._lock(self._asset(order), -order.locked)
        order.locked = ZERO
        order.status = status

    def _asset(self, order: SpotOrder) -> str:
        listing = self.listings[order.symbol]
        return listing.base if order.side == "sell" else listing.quote

    def _lock(self, asset: str, amount: Decimal) -> None:
        self.free[asset] = self.free.get(asset, ZERO) - amount
        self.used[asset] = self.used.get(asset, ZERO) + amount

    def _tick(self) -> int:
        self.now += 1
        return self.now
