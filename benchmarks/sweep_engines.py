"""A hundred pairs of averages over one history, beside vectorbt and a loop by hand, on one core each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from benchmarks._peers import Peer
from benchmarks.engines import ARRAYS, compared, fastest

PAIRS = [(fast, slow) for fast in range(5, 55, 5) for slow in range(60, 160, 10)]


def figures(bars: int = 100_000, rounds: int = 3) -> Iterator[dict[str, Any]]:
    """Give bars a second, a bar counted once for each pair."""
    with ExitStack() as stack:
        own = stack.enter_context(Peer("own_sweep"))
        others = [(each, stack.enter_context(Peer(each.module, each.environment))) for each in ARRAYS]
        jobs = [(own, {"case": "sma", "bars": bars, "pairs": PAIRS})]
        jobs += [(peer, {"case": "sma", "bars": bars, "pairs": PAIRS, **dict(each.options)}) for each, peer in others]
        ours, *answers = fastest(jobs, rounds)
        count = bars * len(PAIRS)
        for (each, peer), theirs in zip(others, answers, strict=True):
            one = compared(f"sweep of {len(PAIRS)} pairs over {bars:,} bars", ours, count, each, peer, theirs, count)
            yield one | {"peak_mb": [round(ours.peak_mb), round(theirs.peak_mb)]}
