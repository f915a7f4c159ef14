"""The bars that all engines are measured on; needs numpy alone, because it is imported in the peers' environments too."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

STEP_US = 300_000_000
FIRST_US = 1_600_041_600_000_000
STRETCH = 100_000
VOLUME = 1e8


class Walk(NamedTuple):
    """Five-minute bars as columns: microseconds since 1970 UTC at their start, prices in cents' steps, units."""

    start: Any
    open: Any
    high: Any
    low: Any
    close: Any
    volume: Any


@lru_cache(maxsize=128)
def walk(bars: int, seed: int = 1) -> Walk:
    """Return a random walk that comes back to 100 every 100,000 bars, so that long histories have the same prices.

    A bar opens at the close before it, and its volume is so large that every order fills at once. AGENTFUND_WALK names a
    file that holds it already, for a process whose memory is measured.
    """
    if file := os.environ.get("AGENTFUND_WALK"):
        with np.load(file) as held:
            return Walk(*(held[name] for name in Walk._fields))
    random = np.random.default_rng(seed)
    steps = random.normal(0, 0.002, bars)
    path = np.concatenate([_bridge(steps[at : at + STRETCH]) for at in range(0, bars, STRETCH)])
    close = np.round(100 * np.exp(path), 2)
    first = np.concatenate([[100.0], close[:-1]])
    up, down = (np.exp(np.abs(random.normal(0, 0.001, bars))) for _ in range(2))
    high = np.round(np.maximum(first, close) * up, 2)
    low = np.round(np.minimum(first, close) / down, 2)
    start = FIRST_US + np.arange(bars, dtype=np.int64) * STEP_US
    return Walk(start, first, high, low, close, np.full(bars, VOLUME))


def _bridge(steps: Any) -> Any:
    path = np.cumsum(steps)
    return path - path[-1] * np.arange(1, len(path) + 1) / len(path) if len(path) == STRETCH else path


@lru_cache(maxsize=4)
def tape(count: int) -> tuple[Any, Any, Any]:
    """Return ticks in order: times in microseconds, ten a second; prices in cents' steps; whole volumes."""
    random = np.random.default_rng(4)
    return (
        FIRST_US + 1 + np.cumsum(random.integers(1, 200_000, count)),
        np.round(100 * np.exp(np.cumsum(random.normal(0, 1e-5, count))), 2),
        random.integers(1, 500, count).astype(np.float64),
    )
