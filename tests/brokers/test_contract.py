"""The broker contract tells right from wrong."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from agentfund.brokers import PaperBroker
from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.protocols import Broker
from agentfund.testing.broker import BrokerContract
from agentfund.trading import Account, Fill, Order, OrderState, OrderStatus


class TestPaperBroker(BrokerContract):
    """The paper broker keeps the contract."""

    def make_broker(self) -> Broker:
        return PaperBroker()


class Minimal:
    """A broker written from the protocol alone: a market of one price, no costs."""

    dedupes_ids = True

    def __init__(self) -> None:
        self.cash, self.price, self.cut = Decimal(1000), Decimal(0), False
        self.held: dict[str, Decimal] = {}
        self.states: dict[str, OrderState] = {}
        self.told: list[Fill] = []

    def ask(self) -> None:
        if self.cut:
            raise BrokerUnavailable("no connection")

    async def account(self) -> Account:
        self.ask()
        return Account(self.cash, dict(self.held))

    async def orders(self) -> Sequence[OrderState]:
        self.ask()
        return list(self.states.values())

    async def fills(self) -> Sequence[Fill]:
        self.ask()
        return list(self.told)

    async def submit(self, order: Order) -> OrderState:
        self.ask()
        if not order.quantity > 0:
            raise OrderRejected(f"quantity {order.quantity} is not above zero")
        return self.states.setdefault(order.id, OrderState(order, OrderStatus.WORKING))

    async def cancel(self, order_id: str) -> OrderState:
        self.ask()
        if order_id not in self.states:
            raise OrderRejected(f"no order {order_id}")
        if self.states[order_id].status.open:
            self.states[order_id] = replace(self.states[order_id], status=OrderStatus.CANCELLED)
        return self.states[order_id]

    def move(self, price: Decimal) -> None:
        self.price = price
        for state in [s for s in self.states.values() if s.status.open]:
            order, sign = state.order, state.order.side.sign
            held = self.held.get(order.symbol, Decimal(0))
            quantity = min(order.quantity, max(Decimal(0), -held * sign)) if order.reduce_only else order.quantity
            if order.limit_price is None or (order.limit_price - price) * sign >= 0:
                what = (order.id, order.symbol, order.side, quantity, price, Decimal(0), order.time, price)
                self.fill(order, Fill(f"f{len(self.told)}", *what))

    def fill(self, order: Order, fill: Fill) -> None:
        self.told.append(fill)
        self.cash -= fill.price * fill.quantity * fill.side.sign
        self.held[fill.symbol] = self.held.get(fill.symbol, Decimal(0)) + fill.quantity * fill.side.sign
        self.states[order.id] = OrderState(order, OrderStatus.FILLED, fill.quantity)


class MinimalContract(BrokerContract):
    """The suite on a market that is the broker's own."""

    broker = Minimal

    def make_broker(self) -> Broker:
        return self.broker()

    async def move_market(self, broker: Broker, price: Decimal) -> None:
        assert isinstance(broker, Minimal)
        broker.move(price)

    def cut_connection(self, broker: Broker) -> None:
        assert isinstance(broker, Minimal)
        broker.cut = True


class TestMinimal(MinimalContract):
    """What was written from the protocol alone keeps the contract."""


def test_a_broker_fits_on_a_screen() -> None:
    """The minimal broker needs fewer than 60 lines."""
    assert len(inspect.getsource(Minimal).splitlines()) < 60


class SendsTwice(Minimal):
    """Says that it dedupes ids, and does not."""

    async def submit(self, order: Order) -> OrderState:
        if order.id in self.states:
            await super().submit(replace(order, id=order.id + "-again"))
        return await super().submit(order)

    def fill(self, order: Order, fill: Fill) -> None:
        super().fill(order, replace(fill, order_id=order.id.removesuffix("-again")))


class SaysEmpty(Minimal):
    """Takes a failed query for an empty answer."""

    async def account(self) -> Account:
        return Account(Decimal(0), {}) if self.cut else await super().account()


class RenamesFills(Minimal):
    """Gives a fill a new id each time that it is told."""

    asked = 0

    async def fills(self) -> Sequence[Fill]:
        self.asked += 1
        return [replace(fill, id=f"{fill.id}-{self.asked}") for fill in await super().fills()]


class HidesFees(Minimal):
    """Takes a fee that its fills do not tell of."""

    def fill(self, order: Order, fill: Fill) -> None:
        super().fill(order, fill)
        self.cash -= Decimal("0.01")


class TurnsAround(Minimal):
    """Takes a reduce-only order for an ordinary one."""

    async def submit(self, order: Order) -> OrderState:
        return await super().submit(replace(order, reduce_only=False))


class AlwaysCancels(Minimal):
    """Says CANCELLED to whatever it is asked to cancel."""

    async def cancel(self, order_id: str) -> OrderState:
        return replace(await super().cancel(order_id), status=OrderStatus.CANCELLED)


class ForgetsCancels(Minimal):
    """Says CANCELLED and goes on working."""

    async def cancel(self, order_id: str) -> OrderState:
        before = self.states.get(order_id)
        told = await super().cancel(order_id)
        self.states[order_id] = before or told
        return told


class AcceptsUnknown(Minimal):
    """Takes back what was never sent."""

    async def cancel(self, order_id: str) -> OrderState:
        self.ask()
        self.states.setdefault(order_id, OrderState(BrokerContract().order("made-up"), OrderStatus.CANCELLED))
        return await super().cancel(order_id)


class FillsTwice(Minimal):
    """Fills a limit order again on the next move."""

    def fill(self, order: Order, fill: Fill) -> None:
        super().fill(order, fill)
        if order.limit_price is not None and len(self.told) < 2:
            self.states[order.id] = OrderState(order, OrderStatus.WORKING)


class ForgetsOrders(Minimal):
    """Shows only what has ended."""

    async def orders(self) -> Sequence[OrderState]:
        return [state for state in await super().orders() if not state.status.open]


class KeepsRefused(Minimal):
    """Refuses an order and works it all the same."""

    async def submit(self, order: Order) -> OrderState:
        if not order.quantity > 0:
            self.states[order.id] = OrderState(replace(order, quantity=-order.quantity), OrderStatus.WORKING)
        return await super().submit(order)


async def broken(broker: type[Minimal]) -> set[str]:
    """Run the suite on a broker; return the names of the tests that it fails."""
    found = set()
    for name in [name for name in dir(BrokerContract) if name.startswith("test_")]:
        suite = type("Suite", (MinimalContract,), {"broker": broker})()
        try:
            await getattr(suite, name)()
        except (Exception, pytest.fail.Exception):
            found.add(name.removeprefix("test_"))
    return found


@pytest.mark.parametrize(
    ("broker", "promises"),
    [
        (Minimal, set()),
        (SendsTwice, {"an_order_sent_twice_trades_once"}),
        (SaysEmpty, {"a_failed_query_is_an_error_and_never_empty"}),
        (HidesFees, {"the_account_is_the_fold_of_the_fills"}),
        (TurnsAround, {"a_reduce_only_order_never_turns_a_position_around"}),
        (ForgetsOrders, {"orders_shows_what_works"}),
        (KeepsRefused, {"a_refused_order_does_not_exist"}),
        (RenamesFills, {"a_fill_told_twice_has_the_same_id"}),
        (AlwaysCancels, {"a_cancel_that_comes_too_late_says_filled"}),
        (ForgetsCancels, {"a_cancelled_order_never_trades"}),
        (AcceptsUnknown, {"an_unknown_order_cannot_be_cancelled"}),
        (FillsTwice, {"an_order_is_never_filled_beyond_its_quantity"}),
    ],
)
async def test_the_suite_tells_right_from_wrong(broker: type[Minimal], promises: set[str]) -> None:
    """Each broken broker fails the promise that it breaks, and no other."""
    assert await broken(broker) == promises
