"""A broker of one's own, and the contract suite that says whether it keeps the contract.

Run the script to trade on it; run `pytest examples/03_own_broker.py` to put it through the suite.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Literal

from agentfund import Fill, Limits, MemoryBus, Orchestrator, Order, SimulatedClock, Unwatched
from agentfund.errors import OrderRejected
from agentfund.feeds import SimulatedMarket
from agentfund.market import Market
from agentfund.specialists import desk
from agentfund.testing import BrokerContract
from agentfund.trading import Account, OrderState, OrderStatus, Portfolio, Side

Leg = Literal["order", "stop", "target"]


class DealingDesk:
    """Deals at once at its own quote, for two cents of spread, and minds the stop and target of what it sold."""

    dedupes_ids = True
    spread = Decimal("0.02")

    def __init__(self, cash: Decimal) -> None:
        self.book = Portfolio(cash)
        self.quotes: dict[str, Decimal] = {}
        self.states: dict[str, OrderState] = {}
        self.done: list[Fill] = []
        self.entries: list[Order] = []  # whose stop and target are minded

    async def account(self) -> Account:
        return Account(self.book.cash, {p.symbol: p.quantity for p in self.book.positions.values()})

    async def orders(self) -> Sequence[OrderState]:
        return list(self.states.values())

    async def fills(self) -> Sequence[Fill]:
        return list(self.done)

    async def submit(self, order: Order) -> OrderState:
        if order.id in self.states:  # told twice, dealt once
            return self.states[order.id]
        if order.symbol not in self.quotes or not order.quantity > 0:
            raise OrderRejected(f"{order.quantity} {order.symbol}: no quote, or no quantity above zero")
        held = self.book.quantity(order.symbol) * order.side.sign
        if order.reduce_only and held + order.quantity > 0:
            order = replace(order, quantity=max(-held, Decimal(0)))
        self.states[order.id] = OrderState(order, OrderStatus.WORKING)
        self.deal(order.symbol)
        return self.states[order.id]

    async def cancel(self, order_id: str) -> OrderState:
        if order_id not in self.states:
            raise OrderRejected(f"no order {order_id}")
        if self.states[order_id].status.open:
            self.states[order_id] = replace(self.states[order_id], status=OrderStatus.CANCELLED)
        return self.states[order_id]

    def quote(self, symbol: str, price: Decimal, time: datetime | None = None) -> None:
        """Set the price at which the desk deals from now on."""
        self.quotes[symbol] = price
        self.deal(symbol, time)

    def deal(self, symbol: str, time: datetime | None = None) -> None:
        """Do what the quote allows: working orders first, then stops and targets."""
        price = self.quotes[symbol]
        for state in [s for s in self.states.values() if s.order.symbol == symbol and s.status.open]:
            order, sign = state.order, state.order.side.sign
            if order.limit_price is None or (order.limit_price - price) * sign >= 0:
                self.book_fill(order, order.side, order.quantity, time or order.time)
                self.entries = [order] if self.book.quantity(symbol) * sign > 0 else []
        for entry in self.entries:
            sign = entry.side.sign
            stopped = entry.stop_loss is not None and (price - entry.stop_loss) * sign <= 0
            reached = entry.take_profit is not None and (price - entry.take_profit) * sign >= 0
            if stopped or reached:
                self.book_fill(entry, entry.side.opposite, entry.quantity, time or entry.time, "stop" if stopped else "target")
                self.entries = []

    def book_fill(self, order: Order, side: Side, quantity: Decimal, time: datetime, leg: Leg = "order") -> None:
        price, name = self.quotes[order.symbol], f"{order.id}-{leg}"
        paid = price if order.limit_price else price + self.spread / 2 * side.sign
        fill = Fill(name, order.id, order.symbol, side, quantity, paid, Decimal(0), time, price, leg)
        self.done.append(fill)
        self.book = self.book.apply(fill)
        self.states[order.id] = OrderState(order, OrderStatus.FILLED, order.quantity)


class TestDealingDesk(BrokerContract):
    """The suite: a promise of the protocol in each test."""

    def make_broker(self) -> DealingDesk:
        return DealingDesk(Decimal(10_000))

    async def move_market(self, broker: DealingDesk, price: Decimal) -> None:  # type: ignore[override]
        broker.quote(self.symbol, price)


class Quoted:
    """A feed that tells the desk its quotes before it tells the fund."""

    def __init__(self, feed: SimulatedMarket, broker: DealingDesk) -> None:
        self.feed, self.broker = feed, broker
        self.instruments, self.fingerprint, self.latest = feed.instruments, feed.fingerprint, feed.latest

    async def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        async for market in self.feed.stream(after):
            for symbol, price in market.prices().items():
                self.broker.quote(symbol, price, market.now)
            yield market


async def main() -> None:
    """Let the desk of six trade on it."""
    broker = DealingDesk(Decimal(100_000))
    # Orders at a broker of one's own are live: the gate asks for hours, quotes and a watchdog, which this market has not.
    limits = Limits(require_hours=False, require_quote=False)
    fund = Orchestrator(
        desk(), bus=MemoryBus(), mode="autonomous", limits=limits, permission=Unwatched(), clock=SimulatedClock()
    )
    async for decision in fund.run(Quoted(SimulatedMarket("SIM", bars=3000, seed=4), broker), broker):
        print(f"{decision.time:%d %b %H:%M}  {decision.outcome:8} {decision.reason}")
    print(f"cash {broker.book.cash:,.2f}, {broker.book.trips} round trips, {broker.book.win_rate or 0:.0%} won")


if __name__ == "__main__":
    asyncio.run(main())
