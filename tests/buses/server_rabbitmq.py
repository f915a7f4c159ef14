"""A RabbitMQ server of our own, whose memory, policies and life are the test's. It takes some seconds to start: share it."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from tests.buses.servers import Server, free_port

# What Debian has in the path runs as another user, with the data of the service.
BESIDE = Path("/usr/lib/rabbitmq/bin")


class RabbitServer(Server):
    """`rabbitmq-server` with its data, its cookie and its name in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.node = f"agentfund-{self.port}@localhost"
        self.distribution = free_port()

    @staticmethod
    def installed(program: str = "rabbitmq-server") -> str | None:
        """Return a program of the server, None where there is none."""
        return shutil.which(program, path=str(BESIDE)) or shutil.which(program)

    @property
    def url(self) -> str:
        """Return the address for clients."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def prepare(self) -> None:
        """Write its settings."""
        (self.folder / "env.conf").touch()
        (self.folder / "plugins").write_text("[].\n")
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlog.console = true\nlog.console.level = warning\nlog.file = false\n"
        )

    def command(self) -> list[str]:
        """Return the command that runs the server."""
        program = self.installed()
        assert program, "no rabbitmq-server is installed"
        return [*self._environment(), program]

    def kill(self) -> None:
        """Kill it; what was in the middle of dying does not serve any more."""
        super().kill()
        while self.accepts():
            time.sleep(0.01)

    def control(self, *words: str) -> None:
        """Run `rabbitmqctl`."""
        program = self.installed("rabbitmqctl")
        assert program, "no rabbitmqctl is installed"
        subprocess.run([*self._environment(), program, "--quiet", *words], check=True, capture_output=True, timeout=30)

    def _environment(self) -> list[str]:
        folder = self.folder
        settings = {
            "HOME": folder,
            "RABBITMQ_CONF_ENV_FILE": folder / "env.conf",
            "RABBITMQ_CONFIG_FILE": folder / "rabbitmq.conf",
            "RABBITMQ_DIST_PORT": self.distribution,
            "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "plugins",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": folder / "log",
            "RABBITMQ_MNESIA_BASE": folder / "data",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        return ["env", *(f"{name}={value}" for name, value in settings.items())]
