"""A server on this machine that speaks EODHD's wire protocols: `EodhdServer`."""

from agentfund.testing.eodhd.server import EodhdServer as EodhdServer

__all__ = ["EodhdServer"]
