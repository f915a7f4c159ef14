"""Sources of market data: one file for each."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentfund.feeds.actions import Action, Actions
    from agentfund.feeds.alpaca_data import AlpacaData
    from agentfund.feeds.binance import Binance
    from agentfund.feeds.bybit import Bybit
    from agentfund.feeds.eodhd import EODHD
    from agentfund.feeds.facts import Fact, Facts, KnownFacts
    from agentfund.feeds.history import Bars
    from agentfund.feeds.live import Live
    from agentfund.feeds.live_health import Health
    from agentfund.feeds.masked import Masked
    from agentfund.feeds.okx import OKX
    from agentfund.feeds.polling import Polling
    from agentfund.feeds.recorded import Recorded
    from agentfund.feeds.simulated import SimulatedMarket
    from agentfund.feeds.tee import Tee

_HOMES = {
    "Action": "actions",
    "Actions": "actions",
    "AlpacaData": "alpaca_data",
    "Bars": "history",
    "Binance": "binance",
    "Bybit": "bybit",
    "EODHD": "eodhd",
    "Fact": "facts",
    "Facts": "facts",
    "Health": "live_health",
    "KnownFacts": "facts",
    "Live": "live",
    "Masked": "masked",
    "OKX": "okx",
    "Polling": "polling",
    "Recorded": "recorded",
    "SimulatedMarket": "simulated",
    "Tee": "tee",
}

__all__ = [  # noqa: RUF022 - in the order of dir()
    "Action",
    "Actions",
    "AlpacaData",
    "Bars",
    "Binance",
    "Bybit",
    "EODHD",
    "Fact",
    "Facts",
    "Health",
    "KnownFacts",
    "Live",
    "Masked",
    "OKX",
    "Polling",
    "Recorded",
    "SimulatedMarket",
    "Tee",
]


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that a program that needs one feed does not pay for the others.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"agentfund.feeds.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
