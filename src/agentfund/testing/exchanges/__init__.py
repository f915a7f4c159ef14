"""Exchanges on this machine: they speak the public wire protocols of Binance, Bybit and OKX, and fail on demand.

async with ExchangeServer(BinanceWire()) as server:
    source = Binance(["BTC/USDT"], url=server.url, rest_url=server.rest_url)
"""

from agentfund.testing.exchanges.binance import BinanceWire
from agentfund.testing.exchanges.bybit import BybitWire
from agentfund.testing.exchanges.clock import HandClock
from agentfund.testing.exchanges.market import Candle, Page, Push, Reply
from agentfund.testing.exchanges.okx import OkxWire
from agentfund.testing.exchanges.server import ExchangeServer

__all__ = ["BinanceWire", "BybitWire", "Candle", "ExchangeServer", "HandClock", "OkxWire", "Page", "Push", "Reply"]
