"""A pytest plugin: no test reaches beyond this machine, and a campaign of faults that fails says how to see it again.

Switch the guard on with `agentfund_network = "loopback"` in the pytest settings, or `--agentfund-network loopback`. A test that
then connects to, or looks up, anything but the loopback range fails with `NetworkForbidden`, whatever library it uses.

`fault_campaign` is `agentfund.testing.campaign` as a fixture, with `--agentfund-schedules` and `--agentfund-seed` in force.
Where it fails, in whatever test, the lines that reproduce it stand at the end of the report.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from agentfund.testing.simulator import Report

AGAIN = "agentfund: to see it again"


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
    """Add the setting and the options."""
    parser.addini("agentfund_network", "loopback: tests may reach this machine only; any: no guard", default="any")
    parser.addoption("--agentfund-network", choices=("loopback", "any"), default=None, help="overrides agentfund_network")
    parser.addoption("--agentfund-schedules", type=int, default=None, help="schedules of faults that fault_campaign runs")
    parser.addoption("--agentfund-seed", type=int, default=None, help="the first seed of fault_campaign")


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


@pytest.fixture
def fault_campaign(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """Give `campaign`; how many schedules, and from which seed on, can be said on the command line."""
    from agentfund.testing.simulator import campaign

    said = {
        "schedules": request.config.getoption("--agentfund-schedules"),
        "seed": request.config.getoption("--agentfund-seed"),
    }

    def run(fund: Any, schedules: int = 200, **options: Any) -> Report:
        given = {"schedules": schedules, **options}
        return campaign(fund, **{**given, **{name: value for name, value in said.items() if value is not None}})

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the lines that reproduce a failed campaign into the report of its test."""
    report = yield
    lines = getattr(call.excinfo.value, "reproduce", None) if call.excinfo is not None else None
    if isinstance(lines, list) and report.failed:
        report.sections.append((AGAIN, "\n".join(map(str, lines))))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say at the end of everything how failed campaigns can be seen again."""
    lines = {
        line
        for report in terminalreporter.stats.get("failed", ())
        for title, text in report.sections
        if title == AGAIN
        for line in text.splitlines()
    }
    if lines:
        terminalreporter.section(AGAIN)
        for line in sorted(lines):
            terminalreporter.write_line(line)
