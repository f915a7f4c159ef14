"""Ticks to bars, one call a tick, beside nautilus_trader's aggregators on the same ticks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks._measure import figure
from benchmarks._peers import Peer
from benchmarks.engines import fastest

TICKS = 200_000
CASES = {"ticks": "500-tick bars", "volume": "volume bars", "minutes": "5-minute bars"}
DIFFERS = {
    "ticks": "takes ticks that are made already",
    "volume": "takes ticks that are made already; splits a tick between two bars",
    "minutes": "takes ticks that are made already; a timer closes bars, and a tick on the edge belongs to the bar before",
}


def figures(count: int = TICKS, rounds: int = 5) -> Iterator[dict[str, Any]]:
    """Give million ticks a second."""
    with Peer("own_ticks") as own, Peer("nautilus_ticks", "engines") as peer:
        for case, told in CASES.items():
            ours, theirs = fastest([(each, {"case": case, "count": count}) for each in (own, peer)], rounds)
            one = figure(
                f"ticks: {told}, tick by tick",
                count / ours.s / 1e6,
                "M ticks/s",
                peer="nautilus_trader",
                peer_value=count / theirs.s / 1e6,
                version_=peer.version,
            )
            yield one | {"bars_made": [ours.trades, theirs.trades], "peer_differs": DIFFERS[case]}
