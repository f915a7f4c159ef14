"""The brokerage behind the local Trader Workstation: orders, brackets, OCA groups, cash and positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from itertools import count

from agentfund.clock import SystemClock
from agentfund.protocols import Clock

ZERO = Decimal(0)
_DONE = frozenset({"Filled", "Cancelled", "Inactive"})


@dataclass(frozen=True)
class Listed:
    """A contract that can be traded here.

    Args:
        con_id: its number.
        symbol: its name.
        kind: STK, CASH or CRYPTO.
        currency: what it is paid in.
        tick: smallest step of its price.
    """

    con_id: int
    symbol: str
    kind: str = "STK"
    currency: str = "USD"
    tick: str = "0.01"


@dataclass(eq=False)
class Slip:
    """An order at the house; `parent` is the order id of the entry that it belongs to, 0 where it stands alone."""

    order_id: int
    client: int
    perm: int
    listed: Listed
    action: str
    quantity: Decimal
    kind: str
    limit: Decimal
    stop: Decimal
    oca: str = ""
    oca_type: int = 0
    ref: str = ""
    parent: int = 0
    account: str = ""
    tif: str = "DAY"
    status: str = "PendingSubmit"
    transmitted: bool = False
    filled: Decimal = ZERO
    paid: Decimal = ZERO
    said: str = ""

    @property
    def done(self) -> bool:
        """Whether it can trade no more."""
        return self.status in _DONE

    @property
    def remaining(self) -> Decimal:
        """What it can still trade."""
        return self.quantity - self.filled


@dataclass(frozen=True)
class Deal:
    """An execution."""

    exec_id: str
    slip: Slip
    quantity: Decimal
    price: Decimal
    fee: Decimal
    time: datetime


@dataclass
class House:
    """Keeps the books; `told` is called with "order", "deal" or "fee" and the thing that changed.

    Args:
        listed: what can be traded.
        cash: at the beginning, in `currency`.
        account: the account's name.
        currency: the account's currency.
        fee: commission of an execution.
        clock: where the time comes from.
        hold_fees: keeps commissions back until `tell_fee`.
        unlisted: order references that no list shows.
        lists_refused: whether what it refused stays among open orders, as inactive.
    """

    listed: tuple[Listed, ...] = (Listed(265598, "TEST"),)
    cash: Decimal = Decimal(100_000)
    account: str = "DU1234567"
    currency: str = "USD"
    fee: Decimal = Decimal("1.00")
    clock: Clock = field(default_factory=SystemClock)
    told: Callable[[str, Slip | Deal], None] = lambda _kind, _thing: None
    hold_fees: bool = False
    unlisted: set[str] = field(default_factory=set)
    lists_refused: bool = False
    slips: list[Slip] = field(default_factory=list)
    deals: list[Deal] = field(default_factory=list)
    fees_told: set[str] = field(default_factory=set)
    prices: dict[str, Decimal] = field(default_factory=dict)
    positions: dict[int, Decimal] = field(default_factory=dict)
    _numbers: Iterable[int] = field(default_factory=lambda: count(1))

    def number(self) -> int:
        """Return a number that was never given before: permanent ids and execution ids are made of it."""
        return next(iter(self._numbers))

    def find(self, client: int, order_id: int) -> Slip | None:
        """Return the newest order of a client by its order id."""
        return next((s for s in reversed(self.slips) if (s.client, s.order_id) == (client, order_id)), None)

    def named(self, ref: str) -> list[Slip]:
        """Return all orders with an order reference."""
        return [slip for slip in self.slips if slip.ref == ref]

    def live(self) -> list[Slip]:
        """Return all orders that can still trade."""
        return [slip for slip in self.slips if not slip.done]

    def place(self, slip: Slip, *, transmit: bool) -> None:
        """Take an order in; with `transmit` it goes to market, together with the family that waits for it."""
        self.slips.append(slip)
        if not transmit:
            return
        family = [s for s in self.slips if s.client == slip.client and not s.done and self._kin(s, slip)]
        for member in family:
            member.transmitted = True
        for member in family:
            parent = self.find(member.client, member.parent) if member.parent else None
            waits = parent is not None and parent.filled < parent.quantity
            self._say(member, "PreSubmitted" if waits or member.kind == "STP" else "Submitted")
        self.work(slip.listed)

    def change(self, slip: Slip, quantity: Decimal, limit: Decimal, stop: Decimal) -> None:
        """Change an order in its place."""
        slip.quantity, slip.limit, slip.stop = quantity, limit, stop
        self._say(slip, slip.status)
        self.work(slip.listed)

    def cancel(self, slip: Slip, why: str = "Cancelled by Trader") -> None:
        """Take an order back; the legs of an entry go with it, whether or not it has filled in part."""
        self._end(slip, "Cancelled", why)
        for leg in [s for s in self.live() if s.parent == slip.order_id and s.client == slip.client]:
            self._end(leg, "Cancelled", "Parent order was cancelled")

    def refuse(self, slip: Slip, why: str) -> None:
        """Refuse an order that was taken in already; its legs fall with it."""
        self._end(slip, "Inactive", f"Rejected: {why}")
        for leg in [s for s in self.live() if s.parent == slip.order_id and s.client == slip.client]:
            self._end(leg, "Cancelled", "Parent order was rejected")

    def move(self, symbol: str, price: Decimal) -> None:
        """Let the market trade at a price."""
        self.prices[symbol] = price
        for listed in self.listed:
            if listed.symbol == symbol:
                self.work(listed)

    def work(self, listed: Listed) -> None:
        """Fill what the market has come to, stops first."""
        price = self.prices.get(listed.symbol)
        if price is None:
            return
        for slip in sorted(self.live(), key=lambda s: (bool(s.parent), s.kind != "STP")):
            if slip.listed is listed and self._due(slip, price):
                best = price if slip.kind != "LMT" else slip.limit if self._worse(slip, price) else price
                self.fill(slip, self._may(slip), best)

    def fill(self, slip: Slip, quantity: Decimal, price: Decimal) -> Deal | None:
        """Trade a part of an order, or all of it."""
        if quantity <= 0 or slip.done or not slip.transmitted:
            return None
        signed = quantity if slip.action == "BUY" else -quantity
        slip.filled += quantity
        slip.paid += quantity * price
        self.cash -= signed * price + self.fee
        self.positions[slip.listed.con_id] = self.positions.get(slip.listed.con_id, ZERO) + signed
        deal = Deal(f"0000e0d5.{self.number():08x}.01.01", slip, quantity, price, self.fee, self.clock.now())
        self.deals.append(deal)
        self.told("deal", deal)
        self._say(slip, "Filled" if slip.remaining == 0 else "Submitted")
        if not self.hold_fees:
            self.tell_fee(deal)
        if slip.remaining == 0:
            for leg in [s for s in self.live() if s.parent == slip.order_id and s.client == slip.client]:
                self._say(leg, "PreSubmitted" if leg.kind == "STP" else "Submitted")
        self._reduce(slip, quantity)
        return deal

    def tell_fee(self, deal: Deal) -> None:
        """Report the commission of an execution."""
        self.fees_told.add(deal.exec_id)
        self.told("fee", deal)

    def correct(self, deal: Deal, price: Decimal, quantity: Decimal | None = None) -> Deal:
        """Report an execution again with another price or quantity, under the next revision of its id."""
        stem, _, revision = deal.exec_id.rpartition(".")
        size = deal.quantity if quantity is None else quantity
        better = Deal(f"{stem}.{int(revision) + 1:02d}", deal.slip, size, price, deal.fee, deal.time)
        sign = 1 if deal.slip.action == "BUY" else -1
        self.cash += sign * (deal.quantity * deal.price - size * price)
        held = self.positions.get(deal.slip.listed.con_id, ZERO)
        self.positions[deal.slip.listed.con_id] = held + sign * (size - deal.quantity)
        self.deals.append(better)
        self.told("deal", better)
        if not self.hold_fees:
            self.tell_fee(better)
        return better

    @property
    def equity(self) -> Decimal:
        """Cash plus positions at the last prices."""
        worth = {listed.con_id: self.prices.get(listed.symbol, ZERO) for listed in self.listed}
        return self.cash + sum((held * worth[con] for con, held in self.positions.items()), ZERO)

    def _kin(self, one: Slip, other: Slip) -> bool:
        family = other.parent or other.order_id
        return family in (one.order_id, one.parent)

    def _may(self, slip: Slip) -> Decimal:
        parent = self.find(slip.client, slip.parent) if slip.parent else None
        return slip.remaining if parent is None else min(slip.remaining, parent.filled - slip.filled)

    def _due(self, slip: Slip, price: Decimal) -> bool:
        if slip.done or not slip.transmitted or self._may(slip) <= 0:
            return False
        buys = slip.action == "BUY"
        if slip.kind == "LMT":
            return price <= slip.limit if buys else price >= slip.limit
        if slip.kind == "STP":
            return price >= slip.stop if buys else price <= slip.stop
        return True

    def _worse(self, slip: Slip, price: Decimal) -> bool:
        return price > slip.limit if slip.action == "BUY" else price < slip.limit

    def _reduce(self, slip: Slip, quantity: Decimal) -> None:
        for other in [s for s in self.live() if slip.oca and s.oca == slip.oca and s is not slip]:
            if other.oca_type in (2, 3) and other.quantity - quantity > other.filled:
                other.quantity -= quantity
                self._say(other, other.status)
            else:
                self._end(other, "Cancelled", "OCA group")

    def _end(self, slip: Slip, status: str, why: str) -> None:
        if not slip.done:
            slip.said = why
            self._say(slip, status)

    def _say(self, slip: Slip, status: str) -> None:
        slip.status = status
        self.told("order", slip)
