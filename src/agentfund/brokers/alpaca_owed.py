"""Protection that positions at Alpaca have to get back: which orders restore it, and who lacks it after a restart."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from agentfund.brokers.alpaca_line import reading
from agentfund.brokers.alpaca_orders import left
from agentfund.brokers.alpaca_words import money, number, side_of, status_of
from agentfund.brokers.lots import bare, lots
from agentfund.trading import ZERO, Order, OrderStatus, Side

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentfund.brokers.alpaca_fills import Fills
    from agentfund.brokers.alpaca_orders import Orders, Wire
    from agentfund.trading import Fill


@dataclass(frozen=True, slots=True)
class Owed:
    """Protection that a position has to get back.

    Args:
        entry: client id of the entry that it belongs to.
        symbol: what is held.
        side: of the orders that protect it.
        quantity: how much of the position.
        stop: price of the stop, None where there was none.
        target: price of the target, None where there was none.
        exit: client id of the exit whose failure would make it due, empty where it is due now.
        legs: Alpaca's ids of what may hold its shares still: what was taken back for it, or a target without its stop.
        tried: client id of an order whose fate is unknown.
    """

    entry: str
    symbol: str
    side: Side
    quantity: Decimal
    stop: Decimal | None
    target: Decimal | None
    exit: str = ""
    legs: tuple[str, ...] = ()
    tried: str = ""


def protection(owed: Owed, quantity: Decimal, price: Decimal | None, name: str) -> list[dict[str, Any]]:
    """Return the requests that put protection back, each for the case that the one before is refused.

    Args:
        owed: what is missing.
        quantity: how much can be protected now.
        price: the market's, None where it is not known.
        name: the client id.
    """
    common = {"client_order_id": name, "symbol": owed.symbol, "side": str(owed.side), "qty": number(quantity)}
    common["time_in_force"] = "gtc" if quantity == quantity.to_integral_value() else "day"
    market = {**common, "type": "market"}
    if owed.stop is not None and price is not None and (price - owed.stop) * owed.side.sign >= 0:
        return [market]  # its stop would have gone off while it was away
    bodies = []
    if owed.stop is not None and owed.target is not None:
        legs = {"take_profit": {"limit_price": number(owed.target)}, "stop_loss": {"stop_price": number(owed.stop)}}
        bodies.append({**common, "type": "limit", "order_class": "oco", **legs})
    if owed.stop is not None:
        bodies.append({**common, "type": "stop", "stop_price": number(owed.stop)})
    elif owed.target is not None:
        bodies.append({**common, "type": "limit", "limit_price": number(owed.target)})
    return bodies


class Known:
    """Orders and fills of the log and of this session: what entries hold follows from them.

    Args:
        fills: of this session.

    Attributes:
        orders: entries with a stop or a target and exits, by id, as they were sent.
    """

    def __init__(self, fills: Fills) -> None:
        self._fills = fills
        self._past: dict[str, Fill] = {}
        self.orders: dict[str, Order] = {}

    def add(self, order: Order) -> None:
        """Know an order; of two with one id the first counts, for Alpaca refuses the other."""
        self.orders.setdefault(order.id, order)

    def restore(self, orders: Iterable[Order], fills: Iterable[Fill]) -> None:
        """Know what the log holds."""
        for order in orders:
            self.add(order)
        self._past.update({fill.id: fill for fill in fills})

    def held(self) -> dict[str, Decimal]:
        """Return how much of each entry is held still, oldest first, by the fills that are known."""
        known = {**self._past, **{fill.id: fill for fill in self._fills.told}}
        return (
            lots(self.orders, [fill for name, fill in known.items() if name not in self._fills.busted]) if self.orders else {}
        )


def surplus(orders: Orders, symbol: str, position: Decimal) -> Wire | None:
    """Return the newest order that puts protection back, where more rests than is held; None where nothing is too much.

    Such an order can come late, when another one protects its part already, or an exit has sold it.
    """
    rests, newest = ZERO, None
    for role, wire, group in orders.members():
        if wire is not group or group["symbol"] != symbol:
            continue
        guards = [w for r, w, g in orders.members() if g is group and r.leg != "order" and left(w) > 0]
        if role.leg == "order" and group.get("legs") and status_of(group) is OrderStatus.WORKING:
            rests += money(group["filled_qty"])
        elif guards and side_of(guards[0]).sign * position < 0:
            rests += max(left(w) for w in guards)
            newest = group if role.leg != "order" else newest
    return newest if rests > abs(position) else None


def crowded(orders: Orders, known: Known) -> set[str]:
    """Return symbols of which more rests to protect than entries hold, by what is known.

    Raises:
        BrokerUnavailable: an order cannot be read.
    """
    whole: dict[str, Decimal] = {}
    for name, quantity in known.held().items():
        order = known.orders[name]
        whole[order.symbol] = whole.get(order.symbol, ZERO) + quantity * order.side.sign
    with reading("orders"):
        return {symbol for symbol, held in whole.items() if surplus(orders, symbol, held) is not None}


def lacking(
    orders: Orders, entries: Mapping[str, Order], held: Mapping[str, Decimal], position: Decimal, free: Decimal
) -> list[Owed]:
    """Return what entries of one symbol lack, by the log and by what rests at Alpaca.

    What no order holds is due now, and so is what only a target holds: its stop has died, and a target limits no loss. What an
    exit holds that still works is due where that exit fails.

    Args:
        orders: what Alpaca has.
        entries: the symbol's entries by id.
        held: how much of each is held still, oldest first.
        position: what Alpaca says is held.
        free: how much of it no order holds.
    """
    symbol = next(iter(entries.values())).symbol
    covered: dict[str, Decimal] = {}
    exits: dict[str, tuple[Decimal, Decimal]] = {}
    alone: dict[str, tuple[Decimal, tuple[str, ...]]] = {}
    for role, wire, group in orders.members():
        if wire is not group or group["symbol"] != symbol:
            continue
        guards = [(r, w) for r, w, g in orders.members() if g is group and r.leg != "order" and left(w) > 0]
        guards = [(r, w) for r, w in guards if side_of(w).sign * position < 0]
        if role.leg == "order" and group.get("legs") and status_of(group) is OrderStatus.WORKING:
            covered[role.entry] = covered.get(role.entry, ZERO) + money(
                group["filled_qty"]
            )  # `Exits` ends what is partly filled
        elif guards:
            holds = safe = max(left(w) for _, w in guards)
            if role.entry in entries and entries[role.entry].stop_loss is not None:
                safe = max((left(w) for r, w in guards if r.leg == "stop"), default=ZERO)
            covered[role.entry] = covered.get(role.entry, ZERO) + safe
            if safe < holds:
                before, names = alone.get(role.entry, (ZERO, ()))
                alone[role.entry] = before + holds - safe, (*names, *(w["id"] for r, w in guards if r.leg == "target"))
        elif role.leg == "order" and side_of(group).sign * position < 0 and left(group):
            exits[role.entry] = left(group), money(group["filled_qty"])
    found = []
    for entry, lack in bare(entries, held, position, covered):
        what = (entry.id, symbol, entry.side.opposite)
        now = min(lack, free)
        free -= now
        lack -= now
        if now > 0:
            found.append(Owed(*what, now, entry.stop_loss, entry.take_profit))
        holds, targets = alone.get(entry.id, (ZERO, ()))
        now = min(lack, holds)
        lack -= now
        if now > 0:
            found.append(Owed(*what, now, entry.stop_loss, entry.take_profit, legs=targets))
        for name, (waits, filled) in [*exits.items()]:
            part = min(lack, waits)
            if part > 0:
                found.append(Owed(*what, part + filled, entry.stop_loss, entry.take_profit, exit=name))
                exits[name] = waits - part, ZERO
                lack -= part
    return found
