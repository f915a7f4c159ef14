"""What entries still hold, by their fills, and which of it stands without its stop: for brokers that put stops back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, Protocol

from agentfund.trading import ZERO, Order, Side


class Done(Protocol):
    """A fill, or an execution that will be one."""

    @property
    def id(self) -> str:
        """Its execution id."""
        ...

    @property
    def order_id(self) -> str:
        """The order that it belongs to; a leg's is its entry."""
        ...

    @property
    def symbol(self) -> str:
        """What was traded."""
        ...

    @property
    def side(self) -> Side:
        """Which way."""
        ...

    @property
    def quantity(self) -> Decimal:
        """How much, above zero."""
        ...

    @property
    def time(self) -> datetime:
        """When, aware UTC."""
        ...

    @property
    def leg(self) -> Literal["order", "stop", "target"]:
        """The order itself, or a bracket's stop or target."""
        ...


@dataclass(slots=True)
class _Lot:
    entry: str
    side: Side
    quantity: Decimal


def guarded(order: Order) -> bool:
    """Return whether an order is an entry that came with a stop or a target."""
    return not order.reduce_only and (order.stop_loss is not None or order.take_profit is not None)


def lots(orders: Mapping[str, Order], done: Iterable[Done]) -> dict[str, Decimal]:
    """Return how much of each entry with a stop or a target is held still, oldest first.

    A leg closes its own entry. Everything else that goes against what is held closes first what came without a stop, because
    no leg had to be taken back for it, and then the oldest entry.

    Args:
        orders: orders by id, as they were sent.
        done: what was filled, in any order, each once.
    """

    def when(one: Done) -> tuple[datetime, int, str]:
        """Clocks of brokers may count whole seconds: within one, entries come before legs and legs before exits."""
        order = orders.get(one.order_id)
        return one.time, 1 if one.leg != "order" else 2 if order is not None and order.reduce_only else 0, one.id

    books: dict[str, list[_Lot]] = {}
    for one in sorted(done, key=when):
        book, left = books.setdefault(one.symbol, []), one.quantity
        own = one.order_id if one.leg != "order" else ""
        for lot in sorted(book, key=lambda lot: (lot.entry != own, lot.entry in orders and guarded(orders[lot.entry]))):
            if lot.side is not one.side:
                gone = min(lot.quantity, left)
                lot.quantity -= gone
                left -= gone
        order = orders.get(one.order_id)
        if left > 0 and one.leg == "order" and not (order is not None and order.reduce_only):
            book.append(_Lot(one.order_id, one.side, left))
        book[:] = [lot for lot in book if lot.quantity > 0]
    found: dict[str, Decimal] = {}
    for lot in (lot for book in books.values() for lot in book):
        if lot.entry in orders and guarded(orders[lot.entry]):
            found[lot.entry] = found.get(lot.entry, ZERO) + lot.quantity
    return found


def bare(
    entries: Mapping[str, Order], held: Mapping[str, Decimal], position: Decimal, covered: Mapping[str, Decimal]
) -> list[tuple[Order, Decimal]]:
    """Return which entries of one symbol lack protection, and of how much: together never more than the position.

    Args:
        entries: the symbol's entries by id.
        held: how much of each is held still, oldest first, by `lots`.
        position: what the broker says is held, negative when short.
        covered: how much rests at the broker to protect it, by the entry that it belongs to.
    """
    mine = [name for name in held if name in entries and entries[name].side.sign * position > 0]
    lack = min(abs(position), sum((held[name] for name in mine), ZERO)) - sum(covered.values(), ZERO)
    found: dict[str, Decimal] = {}
    # An exit takes the legs of the oldest entry. So what still has legs is likelier closed by it, where both could be.
    for counts in (1, 0):
        for name in reversed(mine):
            part = min(lack, held[name] - counts * covered.get(name, ZERO) - found.get(name, ZERO))
            if part > 0:
                found[name] = found.get(name, ZERO) + part
                lack -= part
    return [(entries[name], found[name]) for name in mine if name in found]
