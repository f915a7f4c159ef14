"""What importing costs: CPU seconds of a fresh process, less those of a bare interpreter; the least of some runs."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks._measure import figure

RUNS = 7
PEERS = {"pydantic-ai-slim": "import pydantic_ai", "langgraph": "import langgraph.graph"}
FUND = "from agentfund import Agent, CircuitBreaker, Orchestrator, PaperBroker, Router, SafetyWrapper, SharedContext, SqliteBus"


def cpu_s(code: str) -> float:
    """Return the least CPU seconds (user and system) of some processes that run this code."""
    best = float("inf")
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def figures() -> Iterator[dict[str, Any]]:
    """Give `import agentfund` and the whole face of a fund, each beside each peer."""
    bare = cpu_s("pass")
    bare_import = cpu_s("import agentfund") - bare
    fund_import = cpu_s(FUND) - bare
    for peer, code in PEERS.items():
        theirs = cpu_s(code) - bare
        yield figure("import agentfund", bare_import, "s CPU", peer=peer, peer_value=theirs)
        yield figure("import of all that a fund uses", fund_import, "s CPU", peer=peer, peer_value=theirs)
