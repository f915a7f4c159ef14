"""A Postgres server of our own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.buses.servers import Server


def binary(name: str) -> str:
    """Return where a program of Postgres lies: on the path, or where Debian keeps it."""
    found = shutil.which(name)
    if found is None:
        homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        found = str(homes[-1] / name) if homes else name
    return found


def installed() -> bool:
    """Return whether there is a Postgres to start; under CI there has to be."""
    return bool(os.environ.get("CI")) or all(shutil.which(binary(name)) for name in ("initdb", "postgres"))


class PostgresServer(Server):
    """Postgres with trust for everybody on the loopback. Its data outlive a `kill`, and are gone after `stop`.

    Args:
        folder: its output.
        settings: of the server, by name.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        super().__init__(folder)
        self.settings = settings
        # Not in the folder of the test, which another user may not enter; Postgres refuses to be root.
        self.data = Path(tempfile.mkdtemp(prefix="agentfund-postgres-"))
        if user := self.user():
            shutil.chown(self.data, user)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def user(self) -> str | None:
        return "postgres" if os.geteuid() == 0 else None

    def prepare(self) -> None:
        if not (self.data / "PG_VERSION").exists():
            how = "-U postgres --auth=trust --encoding=UTF8 --no-locale --no-sync --no-instructions"
            made = subprocess.run(
                [binary("initdb"), "-D", self.data, *how.split()], user=self.user(), cwd="/", capture_output=True, check=False
            )
            assert made.returncode == 0, made.stderr.decode()

    def command(self) -> list[str]:
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "shared_buffers": "16MB", **self.settings}
        more = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [binary("postgres"), "-D", str(self.data), "-p", str(self.port), *more]

    def accepts(self) -> bool:
        login = struct.pack("!i", 196_608) + b"user\0postgres\0database\0postgres\0\0"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as line:
                line.sendall(struct.pack("!i", len(login) + 4) + login)
                return line.recv(1) == b"R"  # and not E: it is starting up
        except OSError:
            return False

    def kill(self) -> None:
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGSTOP)  # so that no child comes while they are counted
        children = self._children()
        super().kill()
        while any(_state(child) not in ("", "Z", "X") for child in children):  # they hold memory that a start finds in use
            time.sleep(0.005)

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.data, ignore_errors=True)

    def _signal(self, number: int) -> None:
        """Signal all its processes: each is in a session of its own."""
        if self.process is None or self.process.poll() is not None:
            return
        if number == signal.SIGTERM:
            os.kill(self.process.pid, signal.SIGQUIT)  # at once, and it tells its children
            return
        if number != signal.SIGCONT:
            os.kill(self.process.pid, signal.SIGSTOP)
        for process in (*self._children(), self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def _children(self) -> list[int]:
        assert self.process is not None
        processes = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
        return [one for one in processes if (fields := _fields(one)) and int(fields[1]) == self.process.pid]


def _fields(process: int) -> list[str]:
    """Return what the system says of a process, from its state on; nothing where there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _state(process: int) -> str:
    return "".join(_fields(process)[:1])
