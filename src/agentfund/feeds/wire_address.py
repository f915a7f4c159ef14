"""Addresses of providers: a key goes to nobody in clear, except on this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from agentfund.errors import ConfigError


def address(name: str, url: str, schemes: tuple[str, str]) -> str:
    """Return an address without a slash at its end, if a key may go there.

    Args:
        name: what the argument is called.
        url: the address.
        schemes: with encryption, and without.

    Raises:
        ConfigError: it is no address, holds a user or a query, or would send a key in clear through a network.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    if parts.scheme not in schemes or not host or parts.query or parts.username:
        raise ConfigError(f"{name} must be an address such as {schemes[0]}://host/path, without user and query")
    if parts.scheme == schemes[1] and not here(url):
        raise ConfigError(f"{name} is {parts.scheme}: the key would go to {host} in clear; use {schemes[0]}")
    return url.rstrip("/")


def here(url: str) -> bool:
    """Return whether an address is on this machine, to which no proxy leads."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
