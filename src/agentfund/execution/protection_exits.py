"""Sales that the fund itself has sent: what they can still sell needs no stop, and must not be sold twice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

from agentfund.execution.protection_guard import Guard, Leg
from agentfund.trading import ZERO, Order, OrderState


class Exits:
    """The fund's exits that have not ended, or whose fills are not told yet, by id."""

    def __init__(self) -> None:
        self.open: dict[str, Leg] = {}
        self._filled: Mapping[str, Decimal] = {}

    def expect(self, exit: Order) -> Leg:
        """Make room for an exit before it is sent; nobody asks about it until then."""
        leg = self.open[exit.id] = Leg(exit, "close", sent=math.inf)
        return leg

    def forget(self, exit_id: str) -> None:
        """An exit does not exist: what it would have sold is protected again."""
        self.open.pop(exit_id, None)

    def adopt(self, state: OrderState, guards: Sequence[Guard], now: float) -> None:
        """Take a sale that somebody else sent, an earlier process perhaps, for an exit."""
        order, told = state.order, max(state.filled, state.told)
        over = not state.status.open and self._filled.get(order.id, ZERO) >= told
        if over or order.id in self.open or not any(_sells(order, guard) for guard in guards):
            return
        leg = self.open[order.id] = Leg(order, "close", sent=now)
        leg.hear(state)

    def count(self, filled: Mapping[str, Decimal]) -> None:
        """Take up what has filled of each order; exits that are over, with all their fills told, are let go."""
        self._filled = filled
        for name, leg in tuple(self.open.items()):
            leg.sold = filled.get(name, ZERO)
            if not leg.status.open and leg.sold >= leg.told:
                del self.open[name]

    def reserved(self, guards: Sequence[Guard]) -> dict[str, Decimal]:
        """Return how much of each guard the exits can still sell, by its entry's id: oldest guard first."""
        taken: dict[str, Decimal] = {}
        for leg in self.open.values():
            left = leg.left + max(leg.told - leg.sold, ZERO)
            for guard in guards:
                if _sells(leg.order, guard):
                    share = min(left, guard.position - taken.get(guard.entry.id, ZERO))
                    taken[guard.entry.id] = taken.get(guard.entry.id, ZERO) + share
                    left -= share
        return taken

    def crowded(self, exit: Order, guards: Sequence[Guard]) -> bool:
        """Whether stops still rest on what an exit is to sell."""
        reserved = self.reserved(guards)
        for guard in guards:
            resting = sum((leg.left for leg in guard.working("stop", "target", "close")), ZERO)
            if _sells(exit, guard) and resting > guard.position - reserved.get(guard.entry.id, ZERO):
                return True
        return False


def _sells(order: Order, guard: Guard) -> bool:
    return guard.entry.symbol == order.symbol and guard.side is order.side
