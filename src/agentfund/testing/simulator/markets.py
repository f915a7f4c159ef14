"""A small market that moves enough for stops and targets to be reached within a few bars."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from agentfund.clock import to_micros
from agentfund.market import Columns, Instrument, read_only

if TYPE_CHECKING:
    from agentfund.feeds import Bars

START = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)


@lru_cache(maxsize=16)
def choppy(bars: int = 20, *, seed: int = 1, minutes: int = 4, symbol: str = "SIM", step_pct: float = 0.35) -> Bars:
    """Return bars of a random walk, to the cent.

    Args:
        bars: how many.
        seed: chooses the walk.
        minutes: length of a bar.
        symbol: what to call the instrument.
        step_pct: standard deviation of a bar's move, in percent.
    """
    import numpy as np

    from agentfund.feeds import Bars

    rng = random.Random(f"choppy {seed}")  # noqa: S311 - no secret
    rows = []
    close = 100.0
    for _ in range(bars):
        opened = round(close * (1 + rng.gauss(0, step_pct / 1000)), 2)
        close = round(opened * (1 + rng.gauss(0, step_pct / 100)), 2)
        reach = abs(rng.gauss(0, step_pct / 200))
        rows.append(
            (opened, round(max(opened, close) * (1 + reach), 2), round(min(opened, close) * (1 - reach), 2), close, 0.0)
        )
    interval = timedelta(minutes=minutes)
    start = to_micros(START) + np.arange(bars, dtype=np.int64) * (interval // timedelta(microseconds=1))
    names = ("open", "high", "low", "close", "volume")
    arrays = {name: np.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    columns = Columns(Instrument(symbol), interval, **read_only({"start": start, **arrays}))
    return Bars(columns, source=f"a simulated market, not real data ({bars} bars, seed {seed})")
