"""The trade_updates stream of the local Alpaca: JSON in binary frames, one connection an account."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from agentfund.testing.alpaca.http import Request


class Streams:
    """The connections that listen to trade updates.

    Args:
        keys: key id and secret that are let in.

    Attributes:
        most: how many connections at once; a further one is answered 429, as Alpaca does.
        attempts: how many connections were tried.
        refused: how many of them were answered 429.
        sent: how many events went out, counted for each connection.
        deaf: nothing is read and nothing is answered, as on a connection whose other end has gone.
    """

    def __init__(self, keys: tuple[str, str]) -> None:
        self._keys = keys
        self._listening: dict[asyncio.StreamWriter, Any] = {}
        self._open = 0
        self.most = 1
        self.attempts = self.refused = self.sent = 0
        self.deaf = False

    @property
    def listening(self) -> int:
        """How many connections listen to trade updates now."""
        return len(self._listening)

    def push(self, event: dict[str, Any]) -> None:
        """Send an event to all who listen; call it in the server's loop."""
        data = json.dumps({"stream": "trade_updates", "data": event}).encode()
        for writer, protocol in list(self._listening.items()):
            if not writer.is_closing() and not self.deaf:
                protocol.send_binary(data)
                writer.write(b"".join(protocol.data_to_send()))
                self.sent += 1

    def drop(self) -> None:
        """Break all connections; call it in the server's loop."""
        for writer in list(self._listening):
            writer.transport.abort()

    async def serve(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        from websockets.http11 import Request as Handshake
        from websockets.server import ServerProtocol

        self.attempts += 1
        protocol = ServerProtocol()
        protocol.receive_data(request.raw)
        handshake = next(event for event in protocol.events_received() if isinstance(event, Handshake))
        full = self._open >= self.most
        self.refused += full
        protocol.send_response(protocol.reject(429, "too many connections\n") if full else protocol.accept(handshake))
        writer.write(b"".join(protocol.data_to_send()))
        await writer.drain()
        if full:
            return
        self._open += 1
        try:
            await self._talk(protocol, reader, writer)
        finally:
            self._open -= 1
            self._listening.pop(writer, None)

    async def _talk(self, protocol: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from websockets.frames import Frame, Opcode

        authorized = False
        while data := await reader.read(65536):
            if self.deaf:
                continue
            protocol.receive_data(data)
            for event in protocol.events_received():
                if not isinstance(event, Frame) or event.opcode not in (Opcode.TEXT, Opcode.BINARY):
                    continue
                told = json.loads(bytes(event.data))
                if told.get("action") in ("authenticate", "auth"):
                    given = told.get("data", told)
                    authorized = (given.get("key_id"), given.get("secret_key")) == self._keys
                    status = "authorized" if authorized else "unauthorized"
                    answer = {"stream": "authorization", "data": {"action": "authenticate", "status": status}}
                    protocol.send_binary(json.dumps(answer).encode())
                elif told.get("action") == "listen" and authorized:
                    streams = told["data"]["streams"]
                    protocol.send_binary(json.dumps({"stream": "listening", "data": {"streams": streams}}).encode())
                    self._listening[writer] = protocol
            writer.write(b"".join(protocol.data_to_send()))
            await writer.drain()
            if protocol.close_expected():
                return
