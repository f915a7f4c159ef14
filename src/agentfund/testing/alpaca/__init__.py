"""Alpaca on this machine: `AlpacaServer` speaks its trading protocol over real sockets, and fails on demand.

It runs alone as well, for users and examples: `python -m agentfund.testing.alpaca --port 8900`.
"""

from agentfund.testing.alpaca.faults import Fault
from agentfund.testing.alpaca.server import AlpacaServer

__all__ = ["AlpacaServer", "Fault"]
