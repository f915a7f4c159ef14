"""Random trading under random faults: whatever happens, the book in the end is the server's and every position has its stop."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from agentfund.brokers.alpaca import Alpaca
from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.testing.alpaca import AlpacaServer, Fault
from agentfund.testing.alpaca.faults import Kind
from agentfund.trading import Fill, Order, OrderType, Side
from tests.brokers.test_alpaca import order, trading
from tests.brokers.test_alpaca_faults import agrees

KINDS: list[Kind] = [
    *("status_before", "status_after", "html_before", "html_after", "hang_before", "hang_after", "reset_before"),
    *("reset_after", "truncated", "empty", "other", "late", "slow", "redirect"),
]


def harm(server: AlpacaServer, chance: random.Random) -> None:
    """Let something go wrong."""
    server.lose_events, server.repeat_events = chance.choice([0, 0, 2]), chance.random() < 0.3
    if chance.random() < 0.2:
        server.drop_streams()
    for _ in range(chance.randrange(3)):
        on = chance.choice(["POST /v2/orders", "POST /v2/orders", "DELETE", "GET /v2/orders", "GET /v2/positions", "GET"])
        server.fail(Fault(chance.choice(KINDS), on, status=chance.choice([403, 429, 500, 504]), seconds=0.05))


async def step(broker: Alpaca, server: AlpacaServer, chance: random.Random, number: int, sent: dict[str, Order]) -> None:
    """Do something that a fund does."""
    held = server.venue.held.get("AAPL", Decimal(0))
    what = chance.random()
    if what < 0.35 and held >= 0:
        one = order(f"e{number}", quantity=chance.randrange(1, 9), stop_loss=chance.choice([80, 90]), take_profit=130)
        sent[one.id] = one
        await broker.submit(one)
    elif what < 0.6:
        one = order(f"x{number}", Side.SELL, chance.randrange(1, 12), reduce_only=True)
        sent[one.id] = one
        await broker.submit(one)
    elif what < 0.7 and sent:
        await broker.cancel(chance.choice([*sent]))
    elif what < 0.85:
        server.move("AAPL", chance.choice([85, 95, 100, 105, 110, 131]))
    else:
        await broker.fills()


async def settled(broker: Alpaca, server: AlpacaServer) -> None:
    """Wait until the book is the server's and what is held is protected, each within five seconds."""
    for _ in range(250):
        held = server.venue.held.get("AAPL", Decimal(0))
        stops = sum((r.quantity for r in (await broker.book()).resting if r.type is OrderType.STOP), Decimal(0))
        if stops == held and await agrees(broker, server):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"held {held}, protected {stops}, owed {broker._exits.owed}")


async def run(seed: int) -> None:
    """Thirty steps of one seed, then an hour of peace."""
    chance = random.Random(seed)
    with AlpacaServer() as server:
        server.move("AAPL", 100)
        async with contextlib.AsyncExitStack() as processes:
            settings: dict[str, Any] = {"stream": True, "timeout_s": 0.15, "partial_s": 0.1}
            broker = await processes.enter_async_context(trading(server, **settings))
            sent: dict[str, Order] = {}
            fills: Sequence[Fill] = ()
            for number in range(30):
                if chance.random() < 0.1:  # a process ends, and another one begins with the log
                    await broker.close()
                    broker = await processes.enter_async_context(trading(server, **settings))
                    broker.restore([*sent.values()], fills)
                server.act(lambda venue: setattr(venue, "liquidity", chance.choice([None, None, Decimal(2)])))
                harm(server, chance)
                with contextlib.suppress(BrokerUnavailable, OrderRejected):
                    await step(broker, server, chance, number, sent)
                    fills = await broker.fills()
            server.heal()
            server.act(lambda venue: setattr(venue, "liquidity", None))
            await asyncio.sleep(0.1)
            server.move("AAPL", 100)
            broker._line._timeout_s = 5.0
            await settled(broker, server)
            assert all(held >= 0 for held in server.venue.held.values())
            names = [ticket.client_id for ticket in server.venue.tickets]
            assert len(names) == len(set(names))


@pytest.mark.parametrize("seed", range(4))
async def test_no_fault_loses_or_doubles_an_order_or_leaves_a_position_bare(seed: int) -> None:
    """Thirty steps under faults of every kind, for a few seeds on every commit."""
    await run(seed)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 400))
async def test_no_fault_of_three_hundred_seeds(seed: int) -> None:
    """The same for many more."""
    await run(seed)
