"""A process's line to the exchange: a live `Broker` whose answers may be late, lost, old, doubled or nonsense."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.testing.simulator.process import never

if TYPE_CHECKING:
    from agentfund.testing.simulator.exchange import Exchange
    from agentfund.testing.simulator.faults import Fault
    from agentfund.testing.simulator.process import Process
    from agentfund.trading import Account, Fill, Order, OrderState

SLOW_S = 0.2


class SimulatedBroker:
    """A process's line to the exchange.

    It tells no more than the protocol asks for: of the orders those that are open, and those that ended since this line
    was opened.

    Args:
        process: who speaks.
        exchange: what really happened.
        sending: told of each order before a byte of it leaves.
    """

    def __init__(
        self, process: Process, exchange: Exchange, sending: Callable[[Process, Order], object] = lambda process, order: None
    ) -> None:
        self._process = process
        self._exchange = exchange
        self._sending = sending
        self._opened = process.truth.seconds

    @property
    def dedupes_ids(self) -> bool:
        """Whether a second order with the same id is refused or ignored."""
        return self._exchange.dedupes_ids

    async def account(self) -> Account:
        """Return cash and positions.

        Raises:
            BrokerUnavailable: no answer.
        """
        fault = await self._ask("account")
        told = self._exchange.account(self._seen(fault))
        self._process.end(fault)
        return told

    async def orders(self) -> Sequence[OrderState]:
        """Return the orders that are open, and those that ended since this line was opened.

        Raises:
            BrokerUnavailable: no answer.
        """
        fault = await self._ask("orders")
        truth = self._process.truth
        told = self._exchange.orders(self._seen(fault), since=self._opened)
        if fault is not None and fault.kind == "foreign":
            truth.foreign_until = truth.until(fault.seconds)
        if truth.seconds < truth.foreign_until:
            told.append(self._exchange.foreign())
        self._process.end(fault)
        self._process.strange = truth.seconds < truth.foreign_until
        return told

    async def fills(self) -> Sequence[Fill]:
        """Return all fills, oldest first.

        Raises:
            BrokerUnavailable: no answer.
        """
        fault = await self._ask("fills")
        kind = fault.kind if fault is not None else ""
        seen = self._process.truth.seconds - (fault.seconds if fault is not None and kind == "late" else 0.0)
        if fault is not None and kind == "withheld":
            self._exchange.withhold(self._process.truth.until(fault.seconds))
        told = [fill for fill in self._exchange.fills(seen) if not self._exchange.hides(fill.id)]
        if kind == "doubled":
            told = [fill for fill in told for _ in range(2)]
        if kind == "shuffled":
            random.Random(len(told)).shuffle(told)  # noqa: S311 - no secret
        self._process.end(fault)
        self._process.shown = seen
        return told

    async def submit(self, order: Order) -> OrderState:
        """Send an order.

        Raises:
            OrderRejected: it does not exist.
            BrokerUnavailable: nobody knows.
        """
        exchange, process, truth = self._exchange, self._process, self._process.truth
        self._sending(process, order)
        fault = await self._reach("submit")
        kind = fault.kind if fault is not None else ""
        many = fault.seconds if fault is not None else 0.0
        if kind == "reject" and order.id not in exchange.lines:  # it cannot refuse what it has taken
            exchange.refuse(order.id)
            process.end(fault)
            raise OrderRejected("no, says the simulated broker", code="simulated")
        if kind == "late":
            exchange.expect(order, truth.seconds + many, process.number)
            process.end(fault)
            raise BrokerUnavailable("504: the order is still on its way")
        told = exchange.arrive(
            order,
            process.number,
            pieces=int(many) if kind == "partial" else 1,
            delay_s=many if kind == "slow_fill" else None,
            never=kind == "no_fill",
            bust_s=many if kind == "bust" else None,
        )
        if kind == "doubled":
            exchange.arrive(order, process.number, twin=True)
        process.end(fault)
        await self._answer(fault)
        if isinstance(told, OrderRejected):
            raise told
        exchange.told(order.id, told.status)
        return told

    async def cancel(self, order_id: str) -> OrderState:
        """Take an order back.

        Raises:
            OrderRejected: there is no such order.
            BrokerUnavailable: nobody knows.
        """
        fault = await self._reach("cancel")
        told = self._exchange.cancel(order_id)
        self._process.end(fault)
        await self._answer(fault)
        if isinstance(told, OrderRejected):
            if self.dedupes_ids:  # any other broker cannot say that the order will not come
                self._exchange.refuse(order_id)
            raise told
        self._exchange.told(order_id, told.status)
        return told

    async def _reach(self, point: str) -> Fault | None:
        """Bring a request to the exchange.

        Raises:
            BrokerUnavailable: it did not arrive.
        """
        process, truth = self._process, self._process.truth
        fault = process.begin(point)
        kind = fault.kind if fault is not None else ""
        if fault is not None and kind == "outage":
            truth.cut_until = truth.until(fault.seconds)
        await process.takes(fault, SLOW_S)
        process.end(None)
        if kind == "unavailable" or truth.seconds < truth.cut_until:
            raise BrokerUnavailable("no connection")
        self._exchange.advance(truth.seconds)
        return fault

    async def _answer(self, fault: Fault | None) -> None:
        kind = fault.kind if fault is not None else ""
        if kind == "hang":
            await never()
        await self._process.takes(None, SLOW_S)
        self._process.end(None)
        if kind == "garbage":
            raise ValueError("Expecting value: line 1 column 1 (char 0)")
        if kind == "lost_reply":
            raise BrokerUnavailable("the connection was lost before the answer")

    async def _ask(self, point: str) -> Fault | None:
        fault = await self._reach(point)
        if fault is not None and fault.kind in ("hang", "garbage"):
            await self._answer(fault)
        return fault

    def _seen(self, fault: Fault | None) -> float:
        """Return the moment as of which an answer is true."""
        stale = fault.seconds if fault is not None and fault.kind == "stale" else 0.0
        return max(self._process.truth.seconds - stale, 0.0)


class BustingBroker(SimulatedBroker):
    """The same at a broker that says which fills it has taken back."""

    async def busts(self) -> Sequence[str]:
        """Return the ids of fills that were taken back.

        Raises:
            BrokerUnavailable: no answer.
        """
        fault = await self._ask("busts")
        told = self._exchange.busts(self._process.truth.seconds)
        self._process.end(fault)
        return told
