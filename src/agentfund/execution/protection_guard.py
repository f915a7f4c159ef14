"""What protects one entry: its stop, its target, and how much of it is still held. Arithmetic only, no broker."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Literal

from agentfund.trading import ZERO, Fill, Order, OrderState, OrderStatus, OrderType, Side

Kind = Literal["stop", "target", "close"]
KINDS: tuple[Kind, ...] = ("stop", "target", "close")
NUMBERS = 256
"""How many orders of a kind are recognised for an entry, also by a process that did not send them."""


@cache
def leg_id(entry_id: str, kind: Kind, number: int) -> str:
    """Return the id of an entry's protecting order: the same for the same entry, kind and number, 26 letters and digits."""
    digest = hashlib.sha256(f"{entry_id}/{kind}/{number}".encode()).digest()
    return base64.b32encode(digest).decode().rstrip("=").lower()[:26]


@dataclass(slots=True)
class Leg:
    """An order that protects an entry, as it stands at the broker.

    Args:
        order: the order.
        kind: a stop, the sale at the target, or the sale because no stop could be placed.
        status: UNKNOWN from before it is sent until the broker has answered.
        told: how much of it has traded by the broker's word.
        sold: how much of it has traded by its fills.
        sent: when it was sent last, monotonic seconds.
    """

    order: Order
    kind: Kind
    status: OrderStatus = OrderStatus.UNKNOWN
    told: Decimal = ZERO
    sold: Decimal = ZERO
    sent: float = 0.0

    @property
    def done(self) -> Decimal:
        """How much of it has traded, by whoever knows more."""
        return max(self.told, self.sold)

    @property
    def left(self) -> Decimal:
        """How much of it can still trade."""
        return max(self.order.quantity - self.done, ZERO) if self.status.open else ZERO

    def hear(self, state: OrderState) -> None:
        """Take the broker's word. An order that has ended never comes back to life."""
        traded = state.order.quantity if state.status is OrderStatus.FILLED else max(state.filled, state.told)
        self.told = max(self.told, traded)
        if self.status.open:
            self.status = state.status


@dataclass(slots=True)
class Guard:
    """An entry with a stop or a target, and everything that was sent to protect it.

    Args:
        entry: the order as the fund sent it, with its stop and target.
        opened: how much of it has filled.
        gone: how much of that has gone by fills: its own exits, and what the fund sold.
        entry_open: whether more of it can fill.
        legs: the protecting orders by id.
        used: how many numbers of each kind are taken.
        exposed: since when something of it has no stop, monotonic seconds; None where all has.
        closing: whether it is being sold because it cannot be protected.
        target_after: no attempt at the target before this moment, monotonic seconds.
        trouble: what is wrong, empty where nothing is.
        restored: whether the process did not see its beginning.
        assumed: what is held of it by the broker's account, where no fill of it is known.
        told: how much of the entry has filled by the broker's word.
    """

    entry: Order
    opened: Decimal = ZERO
    gone: Decimal = ZERO
    entry_open: bool = True
    legs: dict[str, Leg] = field(default_factory=dict)
    used: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    exposed: float | None = None
    closing: bool = False
    target_after: float = 0.0
    trouble: str = ""
    restored: bool = False
    assumed: Decimal = ZERO
    told: Decimal = ZERO

    @property
    def side(self) -> Side:
        """The side of everything that protects it."""
        return self.entry.side.opposite

    @property
    def position(self) -> Decimal:
        """How much of it is held, also where the broker's word is ahead of its fills; never below zero."""
        ahead = sum((leg.done - leg.sold for leg in self.legs.values()), ZERO)
        return max((self.opened or self.assumed) - self.gone - ahead, ZERO)

    def working(self, *kinds: Kind) -> list[Leg]:
        """Return the protecting orders that can still trade, oldest first."""
        return [leg for leg in self.legs.values() if leg.kind in kinds and leg.status.open]

    @property
    def unknown(self) -> list[Leg]:
        """Protecting orders of which nobody knows whether they arrived."""
        return [leg for leg in self.legs.values() if leg.status is OrderStatus.UNKNOWN]

    @property
    def idle(self) -> bool:
        """Whether there is nothing to look after."""
        ended = not (self.entry_open or self.restored or any(leg.status.open for leg in self.legs.values()))
        return ended and not self.position and (self.opened or self.assumed) >= self.told

    def leg(self, kind: Kind, quantity: Decimal) -> Leg:
        """Make the next protecting order of a kind."""
        number = self.used[kind]
        order = Order(
            id=leg_id(self.entry.id, kind, number),
            symbol=self.entry.symbol,
            side=self.side,
            quantity=quantity,
            time=self.entry.time,
            type=OrderType.STOP if kind == "stop" else OrderType.MARKET,
            stop_price=self.entry.stop_loss if kind == "stop" else None,
            reduce_only=True,
            decision=self.entry.decision,
            token=self.entry.token,
        )
        self.used[kind] = number + 1
        return Leg(order, kind)

    def meet(self, kind: Kind, number: int, state: OrderState) -> None:
        """Take up what the broker tells of one of its protecting orders, whoever sent it."""
        known = self.legs.get(state.order.id)
        if known is None:
            if state.status is OrderStatus.REJECTED:
                return
            known = self.legs[state.order.id] = Leg(state.order, kind)
        elif known.order.quantity != state.order.quantity and state.status.open:
            known.order = replace(known.order, quantity=state.order.quantity)
        known.hear(state)
        self.used[kind] = max(self.used[kind], number + 1)

    def past_stop(self, price: Decimal | None) -> bool:
        """Whether a price lies at or beyond the stop, so that a stop order makes no sense any more."""
        stop = self.entry.stop_loss
        return price is not None and stop is not None and (price - stop) * self.entry.side.sign <= 0

    def past_target(self, price: Decimal | None) -> bool:
        """Whether a price has reached the target."""
        target = self.entry.take_profit
        return price is not None and target is not None and (price - target) * self.entry.side.sign >= 0


def count(
    guards: Sequence[Guard], fills: Iterable[Fill], leg_of: Mapping[str, tuple[Guard, str]], gone: Iterable[str]
) -> dict[str, Decimal]:
    """Work out from fills what each guard holds; return what has filled of every other order, by its id.

    A fill on a guard's other side that is none of its protecting orders is the fund's own exit: it takes from the oldest
    guard first that had begun to fill by then.

    Args:
        guards: oldest first.
        fills: every fill that is known, as the fund is told of it, oldest first.
        leg_of: guard and protecting order of a fill, by its id.
        gone: ids of fills that the broker has taken back.
    """
    by_entry = {guard.entry.id: guard for guard in guards}
    begun: dict[str, datetime] = {}
    for guard in guards:
        guard.opened = guard.gone = ZERO
        for leg in guard.legs.values():
            leg.sold = ZERO
    exits: list[Fill] = []
    others: dict[str, Decimal] = {}
    lost = frozenset(gone)
    for fill in fills:
        if fill.id in lost:
            continue
        owner = by_entry.get(fill.order_id)
        if owner is None:
            others[fill.order_id] = others.get(fill.order_id, ZERO) + fill.quantity
            exits.append(fill)
        elif fill.leg == "order":
            owner.opened += fill.quantity
            begun[owner.entry.id] = min(fill.time, begun.get(owner.entry.id, fill.time))
        else:
            owner.gone += fill.quantity
            _, name = leg_of.get(fill.id, (owner, ""))
            if name in owner.legs:
                owner.legs[name].sold += fill.quantity
    for fill in sorted(exits, key=lambda one: one.time):
        left = fill.quantity
        for guard in guards:
            first = begun.get(guard.entry.id)
            if left and guard.side is fill.side and guard.entry.symbol == fill.symbol and (first is None or first <= fill.time):
                taken = min(left, guard.position)
                guard.gone += taken
                left -= taken
    return others
