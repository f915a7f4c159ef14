"""Brokers: where orders go. Each adapter is one file, and is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentfund.brokers.alpaca import Alpaca
    from agentfund.brokers.ccxt import Ccxt
    from agentfund.brokers.ibkr import InteractiveBrokers
    from agentfund.brokers.metatrader import MetaTrader5Broker
    from agentfund.brokers.paper import PaperBroker

__all__ = ["Alpaca", "Ccxt", "InteractiveBrokers", "MetaTrader5Broker", "PaperBroker"]

_HOMES = {
    "Alpaca": "alpaca",
    "Ccxt": "ccxt",
    "InteractiveBrokers": "ibkr",
    "MetaTrader5Broker": "metatrader",
    "PaperBroker": "paper",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
