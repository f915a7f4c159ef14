"""What `agentfund gate` does: a server in the foreground, with limits from files and from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from agentfund.core.gate import Limits
from agentfund.errors import ConfigError
from agentfund.rpc.link import Tls
from agentfund.rpc.server import GateServer
from agentfund.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def gate_command(
    listen: str,
    limits: Sequence[str],
    *,
    cert: Path | None,
    key: Path | None,
    client_ca: Path | None,
    insecure: bool,
    name: str,
    tell: Callable[[str], object],
) -> None:
    """Serve a gate until SIGTERM or SIGINT.

    Args:
        listen: `host:port`, or `unix:/path`.
        limits: files and `name=value`; what comes later wins.
        cert: the server's certificate.
        key: its key.
        client_ca: who signs the certificates that clients must show.
        insecure: allows plaintext to elsewhere.
        name: the server's name.
        tell: told one line once it listens.

    Raises:
        ConfigError: a limit, the address or a certificate cannot be used.
    """
    if client_ca is not None and cert is None:
        raise ConfigError("--client-ca needs the server's own certificate: --tls-cert and --tls-key")
    tls = None if cert is None and key is None else Tls(cert=cert, key=key, ca=client_ca)
    held = read_settings(Limits, limits, "limit")
    server = GateServer(listen, held, tls=tls, insecure=insecure, name=name)
    how = "plaintext" if tls is None else "TLS" if client_ca is None else "mutual TLS"

    def ready() -> None:
        tell(f"gate {server.name} listens on {server.address} ({how}); limits {held.digest}")
        sys.stdout.flush()  # whoever started it waits for this line

    server.run(ready)
