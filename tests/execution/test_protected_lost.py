"""What Protected does while it does not know, and after a broker's word that is not what it seems."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.execution.protection_guard import leg_id
from agentfund.testing.spot.exchange import Listing, SpotExchange
from agentfund.trading import Fill, Order, OrderState, OrderType
from tests.execution.spot import BTC, D, Desk, SpotBroker


def at(broker: SpotBroker, desk: Desk) -> Desk:
    """Return the desk with another line to its exchange."""
    desk.broker = broker
    desk.guarded = desk.make()
    return desk


class Losing(SpotBroker):
    """No stop arrives, and nobody answers for it."""

    async def submit(self, order: Order) -> OrderState:
        if order.type is OrderType.STOP:
            raise BrokerUnavailable("no route")
        return await super().submit(order)


async def test_stops_that_get_lost_again_and_again_do_not_restart_the_patience() -> None:
    """While a stop's fate is unknown the position stands open, and that time counts: it is sold when patience is over."""
    desk = Desk()
    at(Losing(desk.exchange), desk)
    await desk.guarded.submit(desk.entry())
    for _ in range(8):  # looks lie closer together than an order may take to arrive
        with suppress(BrokerUnavailable):
            await desk.guarded.settle()
        desk.clock.advance(3)
    assert desk.held == 0


class Twice(SpotBroker):
    """Sends a sale twice below our line: the second is refused, the first is done. Fills come late."""

    async def submit(self, order: Order) -> OrderState:
        state = await super().submit(order)
        if order.type is OrderType.MARKET and order.reduce_only:
            self.lag = 1
            raise OrderRejected("an order with this id exists", code="duplicate")
        return state


async def test_a_refusal_of_a_twin_is_not_taken_for_a_refusal() -> None:
    """The sale at the target was done: a stop put back for it would sell what is gone."""
    desk = Desk(SpotExchange(Listing("BTC", "USDT"), stops_lock=False))
    at(Twice(desk.exchange), desk)
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    desk.exchange.move(BTC, D(121))
    await desk.settle()
    assert [order.type for order in desk.broker.sent] == [OrderType.MARKET, OrderType.STOP, OrderType.MARKET]
    desk.broker.lag = 0
    await desk.settle()
    assert desk.broker.oversold == []
    desk.check()


class Forgetful(SpotBroker):
    """Lists what is open, and nothing that has ended."""

    async def orders(self) -> Sequence[OrderState]:
        return [state for state in await super().orders() if state.status.open]


async def test_a_stop_that_has_traded_keeps_its_number_after_a_restart() -> None:
    """Its fill is all that is left of it: a new stop under its id would count as sold already, and rest for nothing."""
    desk = Desk()
    at(Forgetful(desk.exchange), desk)
    desk.exchange.depth = D("0.5")
    await desk.guarded.submit(desk.entry(D(1)))
    await desk.guarded.settle()
    desk.exchange.move(BTC, D(100))
    await desk.guarded.settle()
    first, second = desk.stops
    desk.exchange.cancel(second)
    desk.exchange.move(BTC, D(89))
    desk.exchange.move(BTC, D(100))
    assert (first.status, desk.held) == ("filled", D("0.5"))
    desk.restart()
    await desk.settle()
    assert [stop.left for stop in desk.stops] == [D("0.5")]
    used = [placed.client_id for placed in desk.exchange.orders.values()]
    assert used.count(leg_id("entry0", "stop", 0)) == 1
    desk.check()


class Told(SpotBroker):
    """Wants to know the log's past itself."""

    pace_s = 2.0

    def restore(self, orders: Sequence[Order], fills: Sequence[Fill] = ()) -> None:
        self.past = (list(orders), list(fills))


async def test_the_broker_beneath_hears_of_the_past_too() -> None:
    """It may have to know from when on to tell trades; all orders, not only those with stops."""
    desk = Desk()
    broker = Told(desk.exchange)
    at(broker, desk)
    leaving = desk.exit(D(1))
    await desk.guarded.submit(desk.entry())
    fills = list(await desk.guarded.fills())
    desk.guarded.restore([desk.entries[0], leaving], fills)
    assert broker.past == ([desk.entries[0], leaving], fills)
    assert desk.guarded.pace_s == 2.0
