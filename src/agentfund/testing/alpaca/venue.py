"""The market and the books behind the local Alpaca: a price moved by hand, and orders that meet it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from agentfund.clock import EPOCH
from agentfund.protocols import Clock
from agentfund.testing.alpaca.tickets import Refusal, Ticket, stamp, text
from agentfund.trading import ZERO

_HOUSE = uuid.UUID("6a1f2c9e-0000-4000-8000-a1b2c3d4e5f6")


class Venue:
    """Books of one account.

    Args:
        clock: where the time comes from.
        cash: at the beginning.
        tell: called with each trade update.
        dedupe: whether a second order with the same client id is refused.

    Attributes:
        liquidity: the most that fills of one order at one touch of the price; None is all of it.
        suspended: whether new orders are refused by the user's own wish.
        created: how many orders were ever created, legs not counted.
    """

    def __init__(self, clock: Clock, cash: Decimal, tell: Callable[[dict[str, Any]], None], *, dedupe: bool = True) -> None:
        self._clock, self._tell, self.dedupe = clock, tell, dedupe
        self.cash = cash
        self.prices: dict[str, Decimal] = {}
        self.held: dict[str, Decimal] = {}
        self.average: dict[str, Decimal] = {}
        self.tickets: list[Ticket] = []
        self.activities: list[dict[str, Any]] = []
        self.liquidity: Decimal | None = None
        self.suspended = False
        self.created = 0
        self._count = 0
        self._last = EPOCH

    def now(self) -> datetime:
        """Return the venue's time; no two calls give the same."""
        self._last = max(self._clock.now(), self._last + timedelta(microseconds=1))
        return self._last

    def name(self, kind: str) -> str:
        """Return a new id."""
        self._count += 1
        return str(uuid.uuid5(_HOUSE, f"{kind}-{self._count}"))

    def everything(self) -> list[Ticket]:
        """Return all orders, legs among them, oldest first."""
        return [ticket for top in self.tickets for ticket in (top, *top.legs)]

    def find(self, order_id: str) -> Ticket | None:
        """Return an order or a leg by Alpaca's id."""
        return next((ticket for ticket in self.everything() if ticket.id == order_id), None)

    def available(self, symbol: str) -> Decimal:
        """Return how much of a position no open order holds; zero or above."""
        position = self.held.get(symbol, ZERO)
        exits = [t for t in self.everything() if t.open and t.live and t.symbol == symbol and t.sign * position < 0]
        held = sum((t.left for t in exits if not any(s in exits[: exits.index(t)] for s in t.siblings)), ZERO)
        return max(ZERO, abs(position) - held)

    def equity(self) -> Decimal:
        """Return cash and positions at the newest prices."""
        return self.cash + sum((q * self.prices[s] for s, q in self.held.items()), ZERO)

    def gross(self) -> Decimal:
        """Return the positions' value without signs."""
        return sum((abs(q) * self.prices[s] for s, q in self.held.items()), ZERO)

    def buying_power(self) -> Decimal:
        """Return twice the equity less what is held."""
        return max(ZERO, 2 * self.equity() - self.gross())

    def place(self, ticket: Ticket) -> None:
        """Take an order; the price may touch it at once.

        Raises:
            Refusal: too few shares, too little money, or it would trade with the account itself.
        """
        position = self.held.get(ticket.symbol, ZERO)
        if any(self._washes(ticket, other) for other in self.tickets):
            raise Refusal(403, 40310000, "potential wash trade detected. use complex orders")
        if position * ticket.sign < 0:
            free = self.available(ticket.symbol)
            if ticket.qty > free:
                words = f"insufficient qty available for order (requested: {text(ticket.qty)}, available: {text(free)})"
                raise Refusal(403, 40310000, words)
        else:
            price = ticket.limit_price or ticket.stop_price or self.prices.get(ticket.symbol, ZERO)
            if price * ticket.qty > self.buying_power():
                raise Refusal(403, 40310000, "insufficient buying power")
        self.tickets.append(ticket)
        self.created += 1
        self._say("new", ticket)
        self._touch(ticket)

    def _washes(self, ticket: Ticket, other: Ticket) -> bool:
        """Return whether an order would trade with another one of the account; brackets and OCO orders are let through.

        So no stop can be put beside an entry that still works, and no simple market order beside a simple stop.
        """
        if not other.open or other.symbol != ticket.symbol or other.sign == ticket.sign or other.order_class == "oco":
            return False
        if ticket.order_class == "simple" and "stop" in (ticket.type, other.type):
            return ticket.type in ("market", "stop")
        return ticket.type == "market" and other.type != "stop"

    def cancel(self, ticket: Ticket, status: str = "canceled") -> None:
        """End an order, its legs, and those that end with it."""
        for one in (ticket, *ticket.legs, *ticket.siblings):
            if one.open:
                self._end(one, status)

    def move(self, symbol: str, price: Decimal) -> None:
        """Let the market trade at a price."""
        self.prices[symbol] = price
        # Stops come before targets: where one move touches both, the worse one happens.
        working = sorted((t for t in self.everything() if t.symbol == symbol), key=lambda t: t.type != "stop")
        for ticket in working:
            self._touch(ticket)

    def fill(self, ticket: Ticket, quantity: Decimal, price: Decimal) -> None:
        """Let a part of an order trade."""
        moment = self.now()
        ticket.filled += quantity
        ticket.spent += quantity * price
        ticket.updated = moment
        done = not ticket.left
        ticket.status = "filled" if done else "partially_filled"
        signed = quantity * ticket.sign
        before = self.held.get(ticket.symbol, ZERO)
        after = before + signed
        self.cash -= signed * price
        if before * signed >= 0:
            spent = self.average.get(ticket.symbol, ZERO) * abs(before) + quantity * price
            self.average[ticket.symbol] = spent / abs(after)
        self.held[ticket.symbol] = after
        if not after:
            del self.held[ticket.symbol]
        execution = self.name("execution")
        kind = "fill" if done else "partial_fill"
        self.activities.append(
            {
                "id": f"{moment:%Y%m%d%H%M%S%f}::{self.name('activity')}",
                "activity_type": "FILL",
                "transaction_time": stamp(moment),
                "type": kind,
                "price": text(price),
                "qty": text(quantity),
                "side": ticket.side,
                "symbol": ticket.symbol,
                "leaves_qty": text(ticket.left),
                "order_id": ticket.id,
                "cum_qty": text(ticket.filled),
                "order_status": ticket.status,
            }
        )
        more = {"price": text(price), "qty": text(quantity), "position_qty": text(after), "execution_id": execution}
        self._say(kind, ticket, **more)
        for other in ticket.siblings:
            if other.open:
                other.qty -= quantity
                if not other.left:
                    self._end(other, "canceled")
        if done and ticket.order_class in ("bracket", "oto") and ticket.parent is None:
            for number, leg in enumerate(ticket.legs):
                if not leg.open:
                    continue  # its sibling has filled just now
                leg.live, leg.status = True, "new" if number == 0 else "held"
                self._say("new" if number == 0 else "held", leg)
                self._touch(leg)

    def bust(self, activity: dict[str, Any], execution: str) -> None:
        """Take an execution back, as an exchange does with a trade in error."""
        ticket = self.find(activity["order_id"])
        assert ticket is not None
        quantity, price = Decimal(activity["qty"]), Decimal(activity["price"])
        signed = quantity * ticket.sign
        self.cash += signed * price
        self.held[ticket.symbol] = self.held.get(ticket.symbol, ZERO) - signed
        if not self.held[ticket.symbol]:
            del self.held[ticket.symbol]
        self.activities.remove(activity)
        ticket.filled -= quantity
        ticket.spent -= quantity * price
        ticket.updated = self.now()
        more = {"price": text(price), "qty": text(quantity), "execution_id": self.name("execution")}
        self._say("trade_bust", ticket, previous_execution_id=execution, **more)

    def _end(self, ticket: Ticket, status: str) -> None:
        ticket.status, ticket.updated = status, self.now()
        self._say(status, ticket)

    def _touch(self, ticket: Ticket) -> None:
        price = self.prices.get(ticket.symbol)
        if price is None or not (ticket.open and ticket.live) or ticket.status == "pending_cancel":
            return
        if ticket.type == "limit" and ticket.limit_price is not None and (price - ticket.limit_price) * ticket.sign > 0:
            return
        if ticket.type == "stop" and ticket.stop_price is not None and (price - ticket.stop_price) * ticket.sign < 0:
            return
        quantity = ticket.left if self.liquidity is None else min(ticket.left, self.liquidity)
        if quantity > 0:
            self.fill(ticket, quantity, price)

    def _say(self, event: str, ticket: Ticket, **more: Any) -> None:
        order = ticket.json(nested=False)
        self._tell({"event": event, "timestamp": stamp(ticket.updated or ticket.created), "order": order, **more})
