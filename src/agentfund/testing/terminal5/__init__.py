"""A local MetaTrader terminal: a module-like object with the functions, constants and named tuples of the package MetaTrader5.

It knows netting and hedging accounts, pending entries, stops and targets of positions, and deals with their reasons, and it
fails on demand. `serve` offers one to other processes. It is written from the package's documentation; no terminal was asked
whether it behaves the same.
"""

from __future__ import annotations

from agentfund.testing.terminal5.fake import FakeTerminal
from agentfund.testing.terminal5.proxy import Proxied, serve

__all__ = ["FakeTerminal", "Proxied", "serve"]
