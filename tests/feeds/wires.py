"""What tests of the exchanges' sources share."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from agentfund.feeds.binance import Binance
from agentfund.feeds.bybit import Bybit
from agentfund.feeds.okx import OKX
from agentfund.market import Alive
from agentfund.testing.exchanges import BinanceWire, BybitWire, Candle, ExchangeServer, OkxWire

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from agentfund.market import Heard
    from agentfund.testing.exchanges.market import Wire

    Source = Binance | Bybit | OKX

START = datetime(2024, 5, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SOURCES: dict[str, Any] = {"binance": Binance, "bybit": Bybit, "okx": OKX}
WIRES: dict[str, type[Wire]] = {"binance": BinanceWire, "bybit": BybitWire, "okx": OkxWire}


def source(kind: str, server: ExchangeServer, *symbols: str, **options: Any) -> Source:
    made: Source = SOURCES[kind](symbols or ["BTC/USDT"], url=server.url, rest_url=server.rest_url, **options)
    return made


def candle(minute: int, close: str = "101.5") -> Candle:
    return Candle(START + minute * MINUTE, MINUTE, "100", "102.25", "99.5", close, "7.5")


class Listening:
    """A source that is being listened to; that it is subscribed, which it says first, is not kept."""

    def __init__(self, source: Source) -> None:
        self.stream: AsyncGenerator[Heard, None] = source.connect()
        self.heard: list[Heard] = []
        self.error: BaseException | None = None
        self._news = asyncio.Event()
        self.task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async with aclosing(self.stream) as stream:
            try:
                assert await anext(stream) == Alive()
                async for heard in stream:
                    self.heard.append(heard)
                    self._news.set()
            finally:
                self._news.set()

    async def first(self, count: int) -> list[Heard]:
        """Return the first so many; raises what the source raises."""
        while len(self.heard) < count and not self.task.done():
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 10)
        if len(self.heard) < count:
            await self.task
        assert len(self.heard) >= count, f"it ended after {self.heard}"
        return self.heard[:count]

    async def end(self) -> list[Heard]:
        """Return all when it has ended by itself; raises what the source raises."""
        await asyncio.wait_for(self.task, 10)
        return self.heard

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
