"""What a terminal shows at one moment, and what follows from it: states of orders, fills, an account."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal

from agentfund.brokers.metatrader_words import comment, named
from agentfund.trading import ZERO, Account, OrderStatus, OrderType, Resting, Side

BUY, SELL = 0, 1
_TYPES = {2: OrderType.LIMIT, 3: OrderType.LIMIT, 4: OrderType.STOP, 5: OrderType.STOP, 6: OrderType.STOP, 7: OrderType.STOP}
_REJECTED, _FILLED = 5, 4
_LEGS: Mapping[int, Literal["stop", "target"]] = {4: "stop", 5: "target", 6: "stop"}  # SL, TP, stop out
_TAKEN_BACK = frozenset({13, 14})  # a deal that the broker has cancelled changes its type


def exact(value: float) -> Decimal:
    """Return the decimal that a float prints as."""
    return Decimal(str(value))


@dataclass(frozen=True, slots=True)
class Traded:
    """An instrument at this broker, and its steps; `name` is ours, `there` the terminal's."""

    name: str
    there: str
    contract_size: Decimal
    volume_min: Decimal
    volume_max: Decimal
    volume_step: Decimal
    point: Decimal
    digits: int
    stops_level: int
    fillings: int
    by_market: bool


@dataclass(frozen=True, slots=True)
class Dealt:
    """A deal that changed a position; `milliseconds` are of the broker's wall time."""

    id: str
    order_id: str
    leg: Literal["order", "stop", "target"]
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    milliseconds: int


@dataclass(frozen=True)
class Reading:
    """All that a terminal showed.

    Args:
        magic: the number of our orders.
        traded: instruments, by the terminal's names.
        account: the terminal's account.
        positions: what is held.
        orders: what is pending.
        past: what ended.
        deals: what was traded.
    """

    magic: int
    traded: Mapping[str, Traded]
    account: Any
    positions: tuple[Any, ...]
    orders: tuple[Any, ...]
    past: tuple[Any, ...]
    deals: tuple[Any, ...]

    def symbol(self, there: str) -> str:
        """Return our name of a symbol, the terminal's where we have none."""
        return self.traded[there].name if there in self.traded else there

    def units(self, there: str, lots: float) -> Decimal:
        """Return how many units a volume is; lots where the symbol is not ours."""
        return exact(lots) * (self.traded[there].contract_size if there in self.traded else Decimal(1))

    def held(self, symbol: str) -> list[Any]:
        """Return the positions in one of our symbols, oldest first."""
        return sorted((p for p in self.positions if self.symbol(p.symbol) == symbol), key=lambda p: p.ticket)

    def of(self, order_id: str) -> tuple[list[Any], list[Any]]:
        """Return what is pending and what ended of an order of ours."""
        mark = comment(order_id)

        def mine(found: Iterable[Any]) -> list[Any]:
            return [o for o in found if o.magic == self.magic and o.comment == mark]

        return mine(self.orders), mine(self.past)

    def known(self, order_id: str) -> bool:
        """Return whether anything of an order of ours is there: pending, ended, dealt or held."""
        mark, tagged = comment(order_id), (*self.orders, *self.past, *self.deals, *self.positions)
        return any(thing.magic == self.magic and thing.comment == mark for thing in tagged)

    def names(self) -> list[str]:
        """Return the ids of our orders, oldest first; those of others by their tickets are left out."""
        tagged = sorted((*self.orders, *self.past), key=lambda o: o.ticket)
        return list(dict.fromkeys(named(o.comment) for o in tagged if o.magic == self.magic and named(o.comment)))

    @cached_property
    def dealt(self) -> list[Dealt]:
        """All deals of instruments, oldest first, with the order that each belongs to."""
        orders = {o.ticket: o for o in (*self.orders, *self.past)}
        opened: dict[int, str] = {}
        found = []
        for deal in sorted(self.deals, key=lambda d: (d.time_msc, d.ticket)):
            if deal.type not in (BUY, SELL):
                continue
            order = orders.get(deal.order, deal)
            name = named(order.comment) if order.magic == self.magic else ""
            leg: Literal["order", "stop", "target"] = "order"
            if name and deal.entry in (0, 2):
                opened[deal.position_id] = name  # the newest entry owns stop and target of its position
            elif not name and deal.reason in _LEGS and deal.position_id in opened:
                name, leg = opened[deal.position_id], _LEGS[deal.reason]
            fee = -(exact(deal.commission) + exact(deal.swap) + exact(deal.fee))
            side = Side.BUY if deal.type == BUY else Side.SELL
            what = (self.symbol(deal.symbol), side, self.units(deal.symbol, deal.volume), exact(deal.price))
            found.append(Dealt(str(deal.ticket), name or f"ticket:{deal.order}", leg, *what, fee, deal.time_msc))
        return found

    def taken_back(self) -> set[str]:
        """Return ids of deals that the broker has cancelled."""
        return {str(deal.ticket) for deal in self.deals if deal.type in _TAKEN_BACK}

    def filled(self, order_id: str) -> Decimal:
        """Return how much of an order was dealt, its stop and target not counted."""
        return self._filled.get(named(comment(order_id)), ZERO)

    @cached_property
    def _filled(self) -> Mapping[str, Decimal]:
        sums: dict[str, Decimal] = {}
        for deal in self.dealt:
            if deal.leg == "order":
                sums[deal.order_id] = sums.get(deal.order_id, ZERO) + deal.quantity
        return sums

    def told(self, order_id: str) -> Decimal:
        """Return how much of an order is done by its own word, which may be ahead of the deals."""
        pending, ended = self.of(order_id)
        done = [o for o in ended if o.state == _FILLED] + pending
        return sum((self.units(o.symbol, o.volume_initial) - self.units(o.symbol, o.volume_current) for o in done), ZERO)

    def stands(self, order_id: str, quantity: Decimal) -> OrderStatus:
        """Return how an order stands."""
        pending, ended = self.of(order_id)
        done = max(self.filled(order_id), self.told(order_id))
        if done >= quantity:
            return OrderStatus.FILLED
        if pending:
            return OrderStatus.WORKING
        if not ended or any(o.state == _FILLED for o in ended):
            return OrderStatus.UNKNOWN  # it has traded, and its deals are on their way
        return OrderStatus.REJECTED if not done and all(o.state == _REJECTED for o in ended) else OrderStatus.CANCELLED

    def books(self) -> Account:
        """Return cash, positions by units, equity and margin.

        A margin account pays nothing for what it holds. Cash is what would be left had the positions been paid in full: the
        balance less their worth at their opening prices, as `Portfolio` counts it.
        """
        money = self.account
        cash = exact(money.balance) + exact(money.credit)
        held: dict[str, Decimal] = {}
        for position in self.positions:
            signed = self.units(position.symbol, position.volume) * (-1 if position.type else 1)
            name = self.symbol(position.symbol)
            held[name] = held.get(name, ZERO) + signed
            cash -= signed * exact(position.price_open)
        equity = exact(money.equity)
        return Account(
            cash.quantize(Decimal("1e-8")).normalize() + 0,
            {name: quantity for name, quantity in held.items() if quantity},
            equity,
            float(exact(money.margin) / equity) if equity > 0 else None,
            exact(money.margin_free),
        )

    def resting(self) -> tuple[Resting, ...]:
        """Return everything that can still trade: pending orders, and stops and targets of positions."""
        found = []
        for order in self.orders:
            side = Side.SELL if order.type % 2 else Side.BUY
            name = named(order.comment) if order.magic == self.magic else ""
            rest = (self.symbol(order.symbol), side, self.units(order.symbol, order.volume_current))
            type_ = _TYPES.get(order.type, OrderType.MARKET)
            found.append(Resting(name or f"ticket:{order.ticket}", *rest, type_, exact(order.price_open)))
        opened = {d.position_id: named(d.comment) for d in self.deals if d.entry in (0, 2) and d.magic == self.magic}
        for held in self.positions:
            side = Side.BUY if held.type else Side.SELL
            size = self.units(held.symbol, held.volume)
            for level, type_, leg in ((held.sl, OrderType.STOP, "stop"), (held.tp, OrderType.LIMIT, "target")):
                if level:
                    owner = opened.get(held.ticket, "") or f"ticket:{held.ticket}"
                    name = self.symbol(held.symbol)
                    found.append(Resting(f"{owner}:{leg}:{held.ticket}", name, side, size, type_, exact(level), owner))
        return tuple(found)
