"""The public face: what can be imported, and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import agentfund


def test_the_face_is_sorted_complete_and_small() -> None:
    """Every name is there, in order, about forty of them."""
    names = [name for name in agentfund.__all__ if name != "__version__"]
    assert names == sorted(names)
    assert len(names) <= 48
    for name in agentfund.__all__:
        assert getattr(agentfund, name) is not None


def test_importing_agentfund_loads_no_heavy_package() -> None:
    """Neither pandas nor an SDK, not even pydantic, until a name is used that needs it."""
    code = "import sys, agentfund; print(sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("pandas", "numpy", "anthropic", "openai", "alpaca", "pydantic", "httpx2", "typer", "rich", "sqlite3"):
        assert f"'{heavy}'" not in loaded


def test_using_the_core_loads_no_data_package_and_no_sdk() -> None:
    """A fund on a log needs pydantic and the standard library."""
    code = (
        "import sys\n"
        "from agentfund import CircuitBreaker, MemoryBus, Orchestrator, PaperBroker, Router, SafetyWrapper, SqliteBus\n"
        "print(sorted(m for m in sys.modules if '.' not in m))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("pandas", "numpy", "anthropic", "openai", "alpaca", "httpx2", "typer", "rich"):
        assert f"'{heavy}'" not in loaded


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As in any module."""
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = agentfund.Nonsense
