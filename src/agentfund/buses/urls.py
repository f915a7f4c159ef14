"""A log by its address: one line of configuration chooses between a file and a cluster."""

from __future__ import annotations

import importlib.metadata
import re
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from agentfund.errors import BusError

if TYPE_CHECKING:
    from agentfund.protocols import Bus

GROUP = "agentfund.buses"
SCHEMES = {
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
    "kafka": "kafka",
    "memory": "memory",
    "nats": "nats",
    "postgres": "postgres",
    "postgresql": "postgres",
    "redis": "redis",
    "rediss": "redis",
    "sqlite": "sqlite",
    "tls": "nats",
}
"""Which bus an address is of, by its scheme; a package may add others by an entry point of the scheme's name."""


_LOGIN = re.compile(r"(://[^/?#@\s:]*):[^/?#\s]*@")
_QUERY = re.compile(r"(?i)([?&;](?:[a-z_]*password|[a-z_]*secret|[a-z_]*token|pass)=)[^&;#\s]*")


def without_password(address: str) -> str:
    """Return an address as it may be shown."""
    return _QUERY.sub(r"\1***", _LOGIN.sub(r"\1:***@", address))


def open_bus(address: str, **options: Any) -> Bus:
    """Return the log at an address: `fund.db`, `sqlite:fund.db`, `postgresql://...`, `redis://...`, `nats://...` and so on.

    Args:
        address: a path, or a URL whose scheme says which bus.
        options: what the bus takes besides its address.

    Raises:
        BusError: the scheme is not known, or the package that the bus needs is not installed; says which.
    """
    scheme = urlsplit(address).scheme.lower()
    if len(scheme) < 2:  # a path, perhaps with the letter of a drive
        scheme, address = "sqlite", f"sqlite:{address}"
    name = SCHEMES.get(scheme, scheme)
    found = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in found:
        raise BusError(f"{scheme}: is no bus: there is {', '.join(sorted({*SCHEMES, *found}))}")
    kind = found[name].load()
    if name in ("memory", "sqlite"):  # they have no server that could promise less than is asked for
        options.pop("demand", None)
    if name == "memory":  # and consumers in the same process cannot die alone
        options.pop("lease", None)
        return cast("Bus", kind(**options))
    if name == "sqlite":
        address = address.removeprefix("sqlite:").removeprefix("//")
    return cast("Bus", kind(address, **options))
