"""Ours: bars from ticks as they come, one call a tick."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from agentfund.feeds.ticks import Every, Ticks, Volume, tick_bars
from benchmarks._peers.serve import Done, serve
from benchmarks._peers.walk import tape

KINDS: dict[str, Every] = {"ticks": Ticks(500), "volume": Volume(100_000), "minutes": timedelta(minutes=5)}


def prepare(case: str, count: int) -> Callable[[], Done]:
    """Return a run that gives the number of bars and the sum of their closes."""
    rows = list(zip(*(each.tolist() for each in tape(count)), strict=True))

    def run() -> Done:
        bars, total = 0, 0.0
        push = tick_bars("S1", KINDS[case]).push
        for when, price, volume in rows:
            for bar in push(when, price, volume):
                bars += 1
                total += bar.close
        return bars, total

    return run


if __name__ == "__main__":
    serve("agentfund", prepare)
