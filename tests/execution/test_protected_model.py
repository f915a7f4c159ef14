"""Whatever happens in whatever order, what is held is protected once things have settled, and nothing is sold twice."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from decimal import Decimal
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentfund.errors import BrokerError, BrokerUnavailable
from agentfund.testing.spot.exchange import Listing, SpotExchange
from agentfund.trading import Portfolio
from tests.execution.spot import BTC, Crash, D, Desk

PRICES = st.sampled_from([80, 89, 90, 95, 99, 100, 101, 110, 119, 120, 130])
STEP = st.one_of(
    st.tuples(st.just("move"), PRICES),
    st.tuples(st.just("enter"), st.sampled_from(["0.5", "1", "2"])),
    st.tuples(st.just("limit"), st.sampled_from(["0.7", "1.5"])),
    st.tuples(st.just("exit"), st.sampled_from(["0.3", "1", "2"])),
    st.tuples(st.just("cancel"), st.integers(0, 3)),
    st.tuples(st.just("depth"), st.sampled_from([None, "0.3", "0.4"])),
    st.tuples(st.just("lag"), st.sampled_from([0, 1, 2])),
    st.tuples(st.just("refuse"), st.sampled_from(["", "stop", "market"])),
    st.tuples(st.just("wait"), st.sampled_from([1, 4, 12])),
    st.tuples(st.just("fills"), st.none()),
)
HARM = st.tuples(st.sampled_from(["", "crash", "lost", "move"]), st.integers(0, 12), PRICES)
STEPS = st.lists(st.tuples(STEP, HARM), min_size=2, max_size=14)


class Story:
    """Runs steps against a desk, with harm at a boundary of each."""

    def __init__(self, *, dedupes: bool, locks: bool) -> None:
        duplicates: Literal["ever", "open"] = "ever" if dedupes else "open"
        self.desk = Desk(SpotExchange(Listing("BTC", "USDT"), duplicates=duplicates, stops_lock=locks))
        self.lagged = False
        self.desk.broker.dedupes_ids = dedupes
        self.exits = itertools.count()
        self.left = -1

    async def run(self, steps: list[tuple[tuple[str, object], tuple[str, int, int]]]) -> None:
        for (what, value), (kind, at, price) in steps:
            self.left = at

            async def harm(name: str, kind: str = kind, price: int = price) -> None:
                self.left -= 1
                if self.left == -1 and kind:
                    if kind == "move":
                        self.desk.exchange.move(BTC, D(price))
                    else:
                        raise Crash if kind == "crash" else BrokerUnavailable("lost")

            self.desk.broker.boundary = harm
            try:
                await self.step(what, value)
                await self.desk.guarded.settle()
            except Crash:
                self.desk.broker.boundary = None
                self.desk.restart()
            except BrokerError:
                pass
            self.desk.broker.boundary = None
            self.laws()
        exchange = self.desk.exchange
        exchange.depth, exchange.refusing, self.desk.broker.lag = None, set(), 0
        exchange.move(BTC, exchange.prices[BTC])
        for _ in range(4):
            await self.desk.settle()
        self.laws()
        self.desk.check()
        await self.told()

    async def step(self, what: str, value: object) -> None:
        desk, exchange = self.desk, self.desk.exchange
        if what == "move":
            exchange.move(BTC, D(str(value)))
        elif what in ("enter", "limit") and len(desk.entries) < 4:
            last = exchange.prices[BTC]
            limit = last - 1 if what == "limit" else None
            await desk.guarded.submit(desk.entry(D(str(value)), limit=limit, stop=last - 8, take_profit=last + 12))
        elif what == "exit":
            await desk.guarded.submit(desk.exit(D(str(value)), f"exit{next(self.exits)}"))
        elif what == "cancel" and desk.entries:
            await desk.guarded.cancel(desk.entries[int(str(value)) % len(desk.entries)].id)
        elif what == "depth":
            exchange.depth = None if value is None else D(str(value))
        elif what == "lag":
            desk.broker.lag = int(str(value))
            self.lagged = True
        elif what == "refuse":
            exchange.refusing = {str(value)} - {""}
        elif what == "wait":
            desk.clock.advance(float(str(value)))
        elif what == "fills":
            await desk.guarded.fills()
            await desk.guarded.fills()

    def laws(self) -> None:
        """Nothing is sold that is not held, no client id has two living orders, no order trades beyond its quantity."""
        exchange = self.desk.exchange
        assert self.desk.held >= 0
        assert self.lagged or not self.desk.broker.oversold
        living = Counter(order.client_id for order in exchange.orders.values() if order.left)
        assert all(number == 1 for number in living.values())
        for entry in self.desk.entries:
            traded = sum((t.quantity for t in exchange.trades if t.order.client_id == entry.id), Decimal(0))
            assert traded <= entry.quantity

    async def told(self) -> None:
        """The fund's book, folded from what it was told, is what the exchange holds; each leg is told of an entry."""
        book = Portfolio(D(100_000))
        entries = {entry.id for entry in self.desk.entries}
        for fill in await self.desk.guarded.fills():
            assert fill.order_id in entries or fill.order_id.startswith("exit")
            book = book.apply(fill)
        assert book.quantity(BTC) == self.desk.held
        assert book.cash == self.desk.exchange.total("USDT")


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("dedupes", [True, False])
@given(steps=STEPS)
@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_what_is_held_is_protected_whatever_happens(
    dedupes: bool, locks: bool, steps: list[tuple[tuple[str, object], tuple[str, int, int]]]
) -> None:
    """Random orders, prices, partial fills, late fills, refusals, crashes and lost messages."""
    asyncio.run(Story(dedupes=dedupes, locks=locks).run(steps))


@pytest.mark.long
@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("dedupes", [True, False])
@given(steps=STEPS)
@settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(3600)
def test_the_campaign(dedupes: bool, locks: bool, steps: list[tuple[tuple[str, object], tuple[str, int, int]]]) -> None:
    """The same for as long as it takes to find what is rare."""
    asyncio.run(Story(dedupes=dedupes, locks=locks).run(steps))
