"""A Redis server of our own, whose memory, disk and life are the test's."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.buses.servers import Server


class RedisServer(Server):
    """`redis-server` with its data in a folder; the test is skipped where none is installed.

    Args:
        folder: its data.
        appendfsync: how often it syncs its append-only file: "always", "everysec" or "no"; empty for no such file.
        settings: further settings, such as `maxmemory="20mb"`.
    """

    def __init__(self, folder: Path, appendfsync: str = "always", **settings: str) -> None:
        super().__init__(folder)
        self.settings = {"appendonly": "yes" if appendfsync else "no", "appendfsync": appendfsync or "no", "save": ""}
        self.settings |= {name.replace("_", "-"): value for name, value in settings.items()}
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            assert not os.environ.get("CI"), "install redis-server or valkey-server"
            pytest.skip("neither redis-server nor valkey-server is installed")
        self.program = program

    @property
    def url(self) -> str:
        """Return the address for clients."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """Return the command that runs the server."""
        settings = [word for name, value in self.settings.items() for word in (f"--{name}", value)]
        return [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), *settings]

    def accepts(self) -> bool:
        """Return whether it has loaded its data."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as client:
                client.sendall(b"PING\r\n")
                return not client.recv(100).startswith(b"-LOADING")
        except OSError:
            return False

    def do(self, *command: str | bytes | int) -> Any:
        """Run one command as an administrator would."""
        with redis.Redis(port=self.port) as client:
            return client.execute_command(*command)
