"""One protecting order at a time: sent, found again, taken back. Before a byte leaves it is known as UNKNOWN."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from agentfund.core.deadline import DeadlineExceeded, within
from agentfund.errors import BrokerError, BrokerUnavailable, OrderRejected
from agentfund.execution.protection_guard import NUMBERS, Guard, Kind, Leg
from agentfund.trading import Order, OrderState, OrderStatus

if TYPE_CHECKING:
    from agentfund.protocols import Broker, Clock

Item = TypeVar("Item")
_TRIES = 8


class Orders:
    """The orders that protect, at a broker.

    Args:
        broker: where they go.
        clock: where the time comes from.
        settle_s: how long an order that was sent may take to arrive.
        timeout_s: how long the broker may take to answer.

    Attributes:
        changed: whether anything was sent or taken back since this was last set to False.
    """

    def __init__(self, broker: Broker, clock: Clock, settle_s: float, timeout_s: float) -> None:
        self.broker = broker
        self.changed = False
        self._clock = clock
        self._settle_s, self._timeout_s = settle_s, timeout_s

    async def ask(self, question: Coroutine[Any, Any, Item]) -> Item:
        """Ask the broker, for at most so long.

        Raises:
            BrokerUnavailable: no answer.
        """
        try:
            return await within(self._timeout_s, question)
        except DeadlineExceeded as error:
            raise BrokerUnavailable(f"the broker gave no answer: {error}") from error
        except (BrokerError, asyncio.CancelledError):
            raise
        except Exception as error:  # whatever its library raises
            raise BrokerUnavailable(f"{type(error).__name__}: {error}") from error

    async def find(self, order: Order) -> OrderState | None:
        """Ask for one order by its id, where the broker can; None where it has none, or does not know."""
        look = getattr(self.broker, "find", None)
        if look is not None:
            found: OrderState | None = await self.ask(look(order))
            return found
        states = await self.ask(self.broker.orders())
        return next((state for state in states if state.order.id == order.id), None)

    async def send(self, guard: Guard, kind: Kind, quantity: Decimal) -> OrderRejected | None:
        """Send a protecting order; return the broker's refusal, None where it was taken or its fate is not known."""
        for _ in range(_TRIES):
            if guard.used[kind] >= NUMBERS:
                break
            leg = guard.leg(kind, quantity)
            leg.sent = self._clock.monotonic()
            guard.legs[leg.order.id] = leg  # before the first byte: whatever happens now, it is asked about
            try:
                leg.hear(await self.ask(self.broker.submit(leg.order)))
            except OrderRejected as error:
                state = await self.find(leg.order)
                if state is None or state.status is OrderStatus.REJECTED:
                    return self._refused(guard, leg, error)
                leg.hear(state)  # the refusal was of a twin
            except BrokerUnavailable:
                self.changed = True
                raise
            self.changed = True
            if leg.status is OrderStatus.REJECTED:
                return self._refused(guard, leg, OrderRejected("the broker refused it"))
            if leg.status.open or leg.done:
                return None
            # An order of an earlier life has this id, and has ended without trading: take the next number.
        return OrderRejected(f"every {kind} order of this entry ends at once, without a trade", code="ends_at_once")

    def _refused(self, guard: Guard, leg: Leg, error: OrderRejected) -> OrderRejected:
        del guard.legs[leg.order.id]
        guard.used[leg.kind] -= 1  # nothing has this id
        return error

    async def cancel(self, leg: Leg) -> bool:
        """Take an order back; return whether it certainly has ended."""
        try:
            state = await self.ask(self.broker.cancel(leg.order.id))
        except OrderRejected:  # gone by itself: how, the next look tells
            found = await self.find(leg.order)
            if found is not None:
                leg.hear(found)
            elif leg.status is OrderStatus.WORKING:
                leg.sent = min(leg.sent, self._clock.monotonic() - self._settle_s)
            return not leg.status.open
        leg.hear(state)
        self.changed = True
        return not leg.status.open
