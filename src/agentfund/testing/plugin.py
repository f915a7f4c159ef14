"""A pytest plugin: no test reaches beyond this machine.

Switch it on with `agentfund_network = "loopback"` in the pytest settings, or `--agentfund-network loopback`. A test that
then connects to, or looks up, anything but the loopback range fails with `NetworkForbidden`, whatever library it uses.
"""

from __future__ import annotations

import ipaddress
import sys
from typing import Any

import pytest


class NetworkForbidden(RuntimeError):
    """A test tried to reach beyond the loopback range."""


class _Guard:
    """An audit hook cannot be removed, so it is installed once and switched."""

    installed = False
    active = False

    @classmethod
    def hook(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if not cls.active:
            return
        if event == "socket.connect":
            address = arguments[1]
            if isinstance(address, tuple) and not _local(str(address[0])):
                raise NetworkForbidden(f"a test connects to {address[0]}: use a server on 127.0.0.1")
        elif event == "socket.getaddrinfo" and arguments[0] is not None:
            host = arguments[0].decode() if isinstance(arguments[0], bytes) else str(arguments[0])
            if not _local(host):
                raise NetworkForbidden(f"a test looks up {host}: use a server on 127.0.0.1")


def _local(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting and the option."""
    parser.addini("agentfund_network", "loopback: tests may reach this machine only; any: no guard", default="any")
    parser.addoption("--agentfund-network", choices=("loopback", "any"), default=None, help="overrides agentfund_network")


def pytest_configure(config: pytest.Config) -> None:
    """Switch the guard on where it is asked for."""
    wanted = config.getoption("--agentfund-network") or config.getini("agentfund_network")
    _Guard.active = wanted == "loopback"
    if _Guard.active and not _Guard.installed:
        _Guard.installed = True
        sys.addaudithook(_Guard.hook)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Switch the guard off."""
    _Guard.active = False
