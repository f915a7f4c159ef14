"""Contract suites, fakes, and a pytest plugin for those who build on agentfund.

Subclass the suite of what you have written (`class TestMyBroker(BrokerContract)`), and let pytest say whether it keeps
the contract. The fakes are the embedded adapters themselves: `ScriptedLLM`, `PaperBroker`, `SimulatedMarket`, `MemoryBus`.
`Provider` is a server of language models on this machine: it speaks the real wire protocols, and fails on demand.
`EodhdServer`, `AlpacaDataServer` and `ExchangeServer(BinanceWire())` are providers of live data on this machine.
`campaign` runs a fund of yours in virtual time, through hundreds of schedules of faults.
`Proxy` is a bad network between any client and any server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentfund.errors import MissingExtra

if TYPE_CHECKING:
    from agentfund.testing.alpaca_data import AlpacaDataServer as AlpacaDataServer
    from agentfund.testing.broker import BrokerContract as BrokerContract
    from agentfund.testing.bus import BusContract as BusContract
    from agentfund.testing.eodhd import EodhdServer as EodhdServer
    from agentfund.testing.exchanges import BinanceWire as BinanceWire
    from agentfund.testing.exchanges import BybitWire as BybitWire
    from agentfund.testing.exchanges import ExchangeServer as ExchangeServer
    from agentfund.testing.exchanges import OkxWire as OkxWire
    from agentfund.testing.feed import FeedContract as FeedContract
    from agentfund.testing.llm import LLMContract as LLMContract
    from agentfund.testing.provider import Provider as Provider
    from agentfund.testing.provider_faults import Fault as Fault
    from agentfund.testing.proxy import Proxy as Proxy
    from agentfund.testing.simulator import CampaignFailed as CampaignFailed
    from agentfund.testing.simulator import Ports as Ports
    from agentfund.testing.simulator import World as World
    from agentfund.testing.simulator import campaign as campaign

_HOMES = {
    "AlpacaDataServer": "alpaca_data",
    "BinanceWire": "exchanges",
    "BrokerContract": "broker",
    "BusContract": "bus",
    "BybitWire": "exchanges",
    "CampaignFailed": "simulator",
    "EodhdServer": "eodhd",
    "ExchangeServer": "exchanges",
    "Fault": "provider_faults",
    "FeedContract": "feed",
    "LLMContract": "llm",
    "OkxWire": "exchanges",
    "Ports": "simulator",
    "Provider": "provider",
    "Proxy": "proxy",
    "World": "simulator",
    "campaign": "simulator",
}

__all__ = [
    "AlpacaDataServer",
    "BinanceWire",
    "BrokerContract",
    "BusContract",
    "BybitWire",
    "CampaignFailed",
    "EodhdServer",
    "ExchangeServer",
    "Fault",
    "FeedContract",
    "LLMContract",
    "OkxWire",
    "Ports",
    "Provider",
    "Proxy",
    "World",
    "campaign",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'agentfund.testing' has no attribute {name!r}")
    try:
        return getattr(import_module(f"agentfund.testing.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in ("pytest", "pytest_asyncio"):
            raise
        raise MissingExtra("pytest", "testing") from None
