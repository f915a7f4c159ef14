"""Run benchmarks beside their peers: `python -m benchmarks [NAME ...]`; prints one JSON line a figure."""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module

from benchmarks._measure import show

NAMES = (
    "imports",
    "pipeline",
    "breaker",
    "bus",
    "backtest",
    "llms",
    "indicators",
    "ticks",
    "engines",
    "engines_whole",
    "sweep",
    "sweep_engines",
    "ticks_peers",
    "tick_to_order",
    "bus_postgres",
    "bus_redis",
    "bus_nats",
    "bus_rabbitmq",
    "rpc",
    "gate",
    "watchdog",
)


def main() -> None:
    """Run those that are named, or all."""
    wanted = sys.argv[1:] or list(NAMES)
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        sys.exit(f"unknown benchmark {unknown[0]!r}; there is {', '.join(NAMES)}")
    for name in wanted:
        module = import_module(f"benchmarks.{name}")
        if hasattr(module, "figures"):
            show(module.figures())
        else:  # it awaits what it measures, and prints by itself
            asyncio.run(module.main())


if __name__ == "__main__":
    main()
