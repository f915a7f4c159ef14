"""The side of a peer: runs one job for each line of the standard input, in the peer's own environment."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

Done: TypeAlias = tuple[int, float]
"""Round trips and final equity of all instruments together."""

Prepare: TypeAlias = Callable[..., Callable[[], Done]]
"""Gets a job's arguments, and returns what is to be timed."""


def peak_mb() -> float:
    """Return the most memory that this process has had, in MB.

    On Linux `getrusage` counts what the parent had before `exec`, so the kernel's own figure of this program is read.
    """
    try:
        told = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return next(int(line.split()[1]) for line in told.splitlines() if line.startswith("VmHWM")) / 2**10


def serve(package: str, prepare: Prepare) -> None:
    """Answer jobs until the standard input ends: seconds of processor time, round trips, final equity, and peak memory.

    What a package prints goes to the standard error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(what: Any) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    tell(version(package))
    for line in sys.stdin:
        run = prepare(**json.loads(line))
        gc.collect()
        began = time.process_time()
        trades, final = run()
        spent = time.process_time() - began
        tell({"s": spent, "trades": trades, "final": final, "peak_mb": peak_mb()})
