"""A terminal in another process: what people who do not run Windows put between their fund and the package MetaTrader5.

It speaks pickles over a connection that asks for a key, on loopback: good for tests, and for nothing that others can reach.
"""

from __future__ import annotations

from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from agentfund.testing.terminal5.fake import FakeTerminal
from agentfund.testing.terminal5.records import CONSTANTS

KEY = b"agentfund-testing"


def serve(ready: Connection, **settings: Any) -> None:
    """Offer a `FakeTerminal` on a port of 127.0.0.1, which is sent to `ready`; ends when its client says `stop`."""
    terminal = FakeTerminal(**settings)
    with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        ready.send(listener.address)
        with listener.accept() as line:
            while True:
                try:
                    name, args, kwargs = line.recv()
                except EOFError:
                    return
                if name == "stop":
                    return
                try:
                    line.send((True, getattr(terminal, name)(*args, **kwargs)))
                except Exception as error:  # it belongs to the caller
                    line.send((False, error))


class Proxied:
    """A module-like object whose functions run in the process of `serve`.

    Args:
        address: what `serve` sent.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._line = Client(address, authkey=KEY)

    def __getattr__(self, name: str) -> Any:
        if name in CONSTANTS:
            return CONSTANTS[name]

        def call(*args: Any, **kwargs: Any) -> Any:
            self._line.send((name, args, kwargs))
            fine, answer = self._line.recv()
            if not fine:
                raise answer
            return answer

        return call

    def close(self) -> None:
        """Let go of the other process; it ends."""
        self._line.close()
