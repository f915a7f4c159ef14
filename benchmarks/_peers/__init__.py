"""Engines of others, each in a process of its own, run in turns with ours on the same bars.

`python3 dev.py bench` makes their environments, because they pin what we do not: vectorbt 1.2 wants pandas 3, nautilus_trader
wants pandas 2.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENTS = Path(os.environ.get("AGENTFUND_PEERS", ROOT))
"""The folder of the environments; AGENTFUND_PEERS names another."""

PYTHONS = {
    "own": Path(sys.executable),
    "engines": ENVIRONMENTS / ".venv-engines/bin/python",
    "vectorbt": ENVIRONMENTS / ".venv-vectorbt/bin/python",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run came to: seconds of processor time, round trips, final equity, and the process's peak memory in MB."""

    s: float
    trades: int
    final: float
    peak_mb: float


class Peer:
    """A process that runs jobs; use it in a `with` block.

    Args:
        module: the file under `benchmarks/_peers` that serves.
        environment: whose Python it runs with: "own", "engines" or "vectorbt".
    """

    def __init__(self, module: str, environment: str = "own") -> None:
        self.module, self.python = module, PYTHONS[environment]
        if not self.python.exists():
            raise SystemExit(f"{self.python} is missing: python3 dev.py bench makes it")
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process

    def __enter__(self) -> Peer:
        self._process = subprocess.Popen(
            [self.python, "-m", f"benchmarks._peers.{self.module}"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.version: str = self._read()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._errors.close()

    def ask(self, **job: Any) -> Answer:
        """Run one job."""
        assert self._process.stdin is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        return Answer(**self._read())

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise SystemExit(f"benchmarks._peers.{self.module} has ended:\n{self._errors.read()[-2000:]}")
        return json.loads(line)
