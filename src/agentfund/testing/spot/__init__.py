"""A spot exchange on this machine: one that locks balances, and a server that speaks three exchanges' REST to ccxt."""

from agentfund.testing.spot.exchange import Listing, Refused, SpotExchange, SpotOrder, Trade
from agentfund.testing.spot.faults import Fault
from agentfund.testing.spot.server import SpotServer

__all__ = ["Fault", "Listing", "Refused", "SpotExchange", "SpotOrder", "SpotServer", "Trade"]
