"""Servers that a gate's client may meet: the real one in a process of its own, and some that are no gate at all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from agentfund.rpc.link import GATE, RISK
from tests.buses.servers import Server


class GateProcess(Server):
    """`agentfund gate` in a process that a test may kill and freeze.

    Args:
        folder: its output.
        options: further options of the command.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self.options = options

    @property
    def url(self) -> str:
        """Return its address."""
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return the command."""
        return [sys.executable, "-m", "agentfund", "gate", "--listen", self.url, *self.options]


@contextmanager
def answering(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """Give the address of a server that answers every request with bytes of the test's choice."""

    def respond(request: bytes, context: Any) -> bytes:
        return answer(request)

    method = grpc.unary_unary_rpc_method_handler(respond)
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(GATE, {"Check": method}),
            grpc.method_handlers_generic_handler(RISK, {"Judge": method}),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
