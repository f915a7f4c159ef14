"""An independent client gets the same from the same server: so the server speaks as the exchanges do, and we read it right."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from agentfund.market import Tick
from agentfund.testing.exchanges import ExchangeServer
from tests.feeds.wires import MINUTE, START, WIRES, Listening, candle, source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ccxt = pytest.importorskip("ccxt")


@pytest.fixture(params=["binance", "bybit", "okx"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def server(kind: str) -> AsyncIterator[ExchangeServer]:
    async with ExchangeServer(WIRES[kind]()) as server:
        server.shop.now = START + timedelta(hours=1)
        yield server


def moved(value: Any, server: ExchangeServer) -> Any:
    """Return a client's addresses with the same paths on our server."""
    if isinstance(value, dict):
        return {name: moved(each, server) for name, each in value.items()}
    parts = urlsplit(value.replace("{hostname}", "localhost"))
    return (server.url.removesuffix("/ws") if parts.scheme == "wss" else server.rest_url) + parts.path


def client(module: Any, kind: str, server: ExchangeServer) -> Any:
    made = getattr(module, kind)()
    made.urls["api"] = moved(made.urls["api"], server)
    known = {"id": f"BTC{'-' if kind == 'okx' else ''}USDT", "symbol": "BTC/USDT", "type": "spot", "spot": True, "active": True}
    known |= {
        "lowercaseId": "btcusdt",
        "base": "BTC",
        "quote": "USDT",
        "baseId": "BTC",
        "quoteId": "USDT",
        "contract": False,
        "option": False,
    }
    made.set_markets([made.safe_market_structure(known)])
    return made


async def test_a_history_is_the_same(kind: str, server: ExchangeServer) -> None:
    """Fifty bars, by REST."""
    server.hold("BTC/USDT", [candle(at, str(100 + at % 5 / 4)) for at in range(50)])
    made = client(ccxt, kind, server)
    theirs = await asyncio.to_thread(made.fetch_ohlcv, "BTC/USDT", "1m", int(START.timestamp() * 1000), 50)
    made.session.close()
    ours = await source(kind, server).history("BTC/USDT", MINUTE, START, START + 50 * MINUTE)
    assert [[bar.start.timestamp() * 1000, *bar[3:]] for bar in ours] == theirs
    assert len(ours) == 50


async def test_a_trade_is_the_same(kind: str, server: ExchangeServer) -> None:
    """By websocket, to both at once."""
    made = client(pytest.importorskip("ccxt.pro"), kind, server)
    listening = Listening(source(kind, server))
    watching = asyncio.create_task(made.watch_trades("BTC/USDT"))
    await server.subscribed(2)
    await server.trade("BTC/USDT", "77", "64000.10", "0.25", START + timedelta(milliseconds=5))
    (ours,) = await listening.first(1)
    (theirs,) = await asyncio.wait_for(watching, 10)
    assert isinstance(ours, Tick)
    assert (ours.price, ours.volume, ours.time.timestamp() * 1000) == (theirs["price"], theirs["amount"], theirs["timestamp"])
    await listening.stop()
    await made.close()
