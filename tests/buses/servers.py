"""Real servers of our own, each in a folder and on a free port, that a test may kill, freeze and start again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

PATIENCE_S = 90.0


def free_port() -> int:
    """Return a port of the loopback on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def service(variable: str, port: int) -> str | None:
    """Return `host:port` of a service at its standard port or where a variable says, None where nobody answers there.

    Under CI a missing service is an error, so that no test is skipped there for the lack of one.
    """
    address = os.environ.get(variable, f"127.0.0.1:{port}")
    host, _, number = address.rpartition(":")
    try:
        socket.create_connection((host, int(number)), timeout=2).close()
    except OSError as error:
        if os.environ.get("CI"):
            raise AssertionError(f"no service at {address}: {error}; start it, or set {variable}=host:port") from error
        return None
    return address


class Server(ABC):
    """A server process with its data in a folder: they outlive a `kill`, and `start` finds them again.

    Args:
        folder: its data and its output; made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    @abstractmethod
    def url(self) -> str:
        """Return the address for clients."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Make what the server needs before its first start."""

    def accepts(self) -> bool:
        """Return whether clients are served; a port that is open is enough where it says so."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def user(self) -> str | None:
        """Return as whom it runs, None for ourselves; some servers refuse to be root."""
        return None

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self.prepare()
        with (self.folder / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(
                self.command(), stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True, user=self.user()
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self.accepts():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"{self.command()[0]} did not start:\n{(self.folder / 'output.txt').read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill it and all its children at once (SIGKILL)."""
        self._signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def freeze(self) -> None:
        """Stop all its processes (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it for good."""
        if self.process is not None and self.process.poll() is None:
            self.thaw()
            self._signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def _signal(self, number: int) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
