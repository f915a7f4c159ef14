"""A local Trader Workstation: a server that speaks enough of the TWS socket protocol for the real `ib_async` client.

It knows orders, brackets, OCA groups, executions, commissions, positions and account values, and it fails on demand. It is
written from the protocol as the client reads it; no Trader Workstation was asked whether it behaves the same.
"""

from __future__ import annotations

from agentfund.testing.tws.house import Deal, House, Listed, Slip
from agentfund.testing.tws.server import FakeTWS

__all__ = ["Deal", "FakeTWS", "House", "Listed", "Slip"]
