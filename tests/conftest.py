"""A second try for tests of real processes, servers and command lines.

They hold real clocks to seconds, and a machine that is busy with something else can let a second pass. A test of plain code has
no such excuse and gets one try. Whoever needed the second is named in the summary, as RERUN.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_REAL = {"approvals", "brokers", "buses", "deploy", "execution", "feeds", "live", "llms", "rpc", "watchdog", "workers"}
"""Folders whose tests talk to processes and servers."""
_ALSO = {"test_chaos.py", "test_live_guide.py", "test_examples.py", "test_cli.py", "test_proxy.py", "test_provider.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give them the second try."""
    for item in items:
        inside = item.path.relative_to(_HERE) if item.path.is_relative_to(_HERE) else Path()
        if (inside.parts[:1] and inside.parts[0] in _REAL) or item.path.name in _ALSO:
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=2))
