"""The brokers of the public failures: local servers, what goes wrong with them, and adapters that talk to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

from agentfund.brokers.alpaca import Alpaca
from agentfund.brokers.ibkr import InteractiveBrokers
from agentfund.execution.protected import Protected
from agentfund.testing.alpaca import AlpacaServer
from agentfund.testing.alpaca.api import Api
from agentfund.testing.spot import Listing, SpotExchange, SpotServer
from agentfund.testing.tws import FakeTWS, House, Listed
from tests.brokers.test_ccxt_line import BTC, line
from tests.failures_fund import Fund


def liquid(server: AlpacaServer, most: int | None) -> None:
    """Let a touch of the price fill so much of an order, None for all of it."""
    server.act(lambda venue: setattr(venue, "liquidity", None if most is None else Decimal(most)))
    server.move("SIM", 100)


@contextmanager
def impatient(broker: Alpaca) -> Iterator[None]:
    """Let questions of which none will be answered end soon; those that will be may take their time."""
    line = broker._line
    line._timeout_s, before = 0.2, line._timeout_s
    try:
        yield
    finally:
        line._timeout_s = before


def stranger(server: AlpacaServer, side: str, quantity: int) -> None:
    """Trade by hand in the fund's account."""
    body = {"client_order_id": f"by-hand-{side}", "symbol": "SIM", "side": side, "qty": str(quantity), "type": "market"}
    server.api.answer("POST", "/v2/orders", {}, {**body, "time_in_force": "day"})


class Twice(Api):
    """Alpaca behind a machine that sends each order twice and passes on the second answer."""

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        """Answer, and an order the second time."""
        if (method, path) == ("POST", "/v2/orders"):
            super().answer(method, path, query, body)
        return super().answer(method, path, query, body)


@asynccontextmanager
async def workstation() -> AsyncIterator[tuple[FakeTWS, InteractiveBrokers]]:
    """A local workstation, and a session at it."""
    with FakeTWS(House(listed=(Listed(265598, "SIM"),))) as tws:
        tws.move("SIM", Decimal(100))
        told: dict[str, Any] = {"client_id": 7, "contracts": {"SIM": {"secType": "STK"}}, "timeout_s": 2.0, "retry_s": 0.0}
        broker = InteractiveBrokers("127.0.0.1", tws.port, **told, settle_s=0.0)
        try:
            yield tws, broker
        finally:
            await broker.close()


@asynccontextmanager
async def exchange(**options: Any) -> AsyncIterator[tuple[SpotExchange, SpotServer, Protected, Fund]]:
    """An exchange, where it is served, a protected broker at it, and a fund."""
    world, fund = SpotExchange(Listing("BTC", "USDT", **options)), Fund(BTC)
    world.move(BTC, Decimal(100))
    async with SpotServer(world, "binance") as server:
        guarded = Protected(line(server, "binance", timeout=timedelta(seconds=2)), interval=None)
        fund.start(guarded)
        try:
            yield world, server, guarded, fund
        finally:
            await fund.die()
            await guarded.close()
