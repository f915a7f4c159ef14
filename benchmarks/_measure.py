"""What the benchmarks share: the best of some runs, and the shape of a figure."""

from __future__ import annotations

import asyncio
import gc
import json
import platform
import time
from collections.abc import Awaitable, Callable, Iterable
from importlib.metadata import version
from typing import Any


def best_us(fn: Callable[[], object], *, number: int = 2_000, repeat: int = 60) -> float:
    """Return microseconds per call: `number` calls in a row, the best of `repeat` runs (short runs dodge a busy machine)."""

    def run() -> float:
        begin = time.perf_counter()
        for _ in range(number):
            fn()
        return time.perf_counter() - begin

    return _best(run, number, repeat)


def best_us_async(fn: Callable[[], Awaitable[object]], *, number: int = 2_000, repeat: int = 60) -> float:
    """Return microseconds per awaited call, in one task of one loop, the best of `repeat` runs."""

    async def run() -> float:
        begin = time.perf_counter()
        for _ in range(number):
            await fn()
        return time.perf_counter() - begin

    return _best(lambda: asyncio.run(run()), number, repeat)


def _best(run: Callable[[], float], number: int, repeat: int) -> float:
    enabled = gc.isenabled()
    gc.disable()
    try:
        return min(run() for _ in range(repeat)) / number * 1e6
    finally:
        if enabled:
            gc.enable()


def figure(
    name: str,
    value: float,
    unit: str,
    *,
    peer: str | None = None,
    peer_value: float | None = None,
    version_: str | None = None,
) -> dict[str, Any]:
    """Return one figure. `ratio` is our value divided by the peer's; `peer` is an installed package, or say its version."""
    versions = {"python": platform.python_version(), "agentfund": version("agentfund")}
    if peer is not None:
        versions[peer] = version_ or version(peer)
    return {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "peer": peer,
        "peer_value": None if peer_value is None else round(peer_value, 3),
        "ratio": round(value / peer_value, 3) if peer_value else None,
        "versions": versions,
    }


def show(figures: Iterable[dict[str, Any]]) -> None:
    """Print one JSON line a figure, as it comes."""
    for one in figures:
        print(json.dumps(one), flush=True)
