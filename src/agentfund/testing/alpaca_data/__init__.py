"""A server on this machine that speaks the wire protocols of Alpaca's market data: `AlpacaDataServer`."""

from agentfund.testing.alpaca_data.server import AlpacaDataServer as AlpacaDataServer

__all__ = ["AlpacaDataServer"]
