"""The Alpaca adapter keeps the contract, with the real SDK over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio

from agentfund.brokers.alpaca import Alpaca
from agentfund.clock import SystemClock
from agentfund.protocols import Broker
from agentfund.testing.alpaca import AlpacaServer, Fault
from agentfund.testing.broker import BrokerContract
from agentfund.trading import Order, OrderType, Side

NOW = SystemClock().now()


@asynccontextmanager
async def trading(server: AlpacaServer, **options: Any) -> AsyncIterator[Alpaca]:
    """An adapter at a local server, without a stream unless one is asked for; closed at the end."""
    settings = {"url": server.url, "timeout_s": 2.0, "reconnect_s": 0.05, "stream": False, **options}
    async with Alpaca(server.key, server.secret, **settings) as broker:
        yield broker


def order(name: str = "one", side: Side = Side.BUY, quantity: Decimal | int = 10, **more: Any) -> Order:
    """An order of ten AAPL; its type follows from its prices."""
    kind = OrderType.LIMIT if "limit_price" in more else OrderType.STOP if "stop_price" in more else OrderType.MARKET
    prices = {
        name: Decimal(str(value)) if name.endswith(("price", "loss", "profit")) else value for name, value in more.items()
    }
    settings: dict[str, Any] = {"symbol": "AAPL", "time": NOW, "type": kind, **prices}
    return Order(id=name, side=side, quantity=Decimal(quantity), **settings)


class TwiceTaken(Alpaca):
    """An adapter that does not rely on the broker to refuse an id the second time."""

    dedupes_ids = False


class TestAlpaca(BrokerContract):
    """The adapter keeps the contract at a broker that dedupes ids."""

    dedupe = True
    adapter = Alpaca

    @pytest.fixture(autouse=True)
    def _server(self) -> Iterator[None]:
        with AlpacaServer(dedupe=self.dedupe) as self.server:
            self.server.move(self.symbol, self.price)
            yield

    @pytest_asyncio.fixture(autouse=True)
    async def _closed(self) -> AsyncIterator[None]:
        self.brokers: list[Alpaca] = []
        yield
        for broker in self.brokers:
            await broker.close()

    def make_broker(self) -> Broker:
        broker = self.adapter(self.server.key, self.server.secret, url=self.server.url, timeout_s=5, reconnect_s=0.05)
        self.brokers.append(broker)
        return broker

    async def move_market(self, broker: Broker, price: Decimal) -> None:
        self.server.move(self.symbol, price)

    def cut_connection(self, broker: Broker) -> None:
        assert isinstance(broker, Alpaca)
        broker._line._timeout_s = 0.3  # a deadline to wait for, and nothing else about the connection
        self.server.fail(Fault("reset_before", times=10_000))


class TestAlpacaThatDoesNotDedupe(TestAlpaca):
    """The adapter keeps the contract where an id can be taken twice."""

    dedupe = False
    adapter = TwiceTaken
