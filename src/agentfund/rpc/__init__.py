"""The gate and the risk check as a service over gRPC: `GateServer` answers, `RemoteGate` and `RemoteAgent` ask."""

from __future__ import annotations

from agentfund.errors import MissingExtra

try:
    import google.protobuf  # noqa: F401 - asked for here, so that the message names the extra
    import grpc  # noqa: F401
except ImportError:
    raise MissingExtra("grpcio", "grpc") from None

from agentfund.rpc.agents import RemoteAgent
from agentfund.rpc.client import RemoteGate
from agentfund.rpc.link import Tls
from agentfund.rpc.server import GateServer

__all__ = ["GateServer", "RemoteAgent", "RemoteGate", "Tls"]
