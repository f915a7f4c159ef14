"""From tick to order through a real bus between four processes: exchange, orchestrator, strategist's worker, gate's worker.

The exchange notes the time when it sends a bar and when the order that answers it arrives, on one clock. In between lie the
market on the bus, two questions and two answers, the decision and the intent on the log, durable, and the line to the broker.
A bus is left out where nothing answers at its standard port.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentfund.errors import AgentFundError
from agentfund.testing.chaos.line import ExchangeBroker
from benchmarks._measure import figure

ORDERS = int(os.environ.get("BENCH_ORDERS", "300"))
BAR_S = 0.05
BUSES = {
    "sqlite": (None, "sqlite:{folder}/fund.db", "power"),
    "redis": (6379, "redis://127.0.0.1:6379", "none"),
    "nats": (4222, "nats://127.0.0.1:4222", "process"),
    "postgres": (5432, "postgresql://postgres@127.0.0.1:5432/test", "power"),
    "rabbitmq": (5672, "amqp://guest:guest@127.0.0.1:5672", "process"),
}


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _part(*args: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "agentfund.testing.chaos", *args]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


async def _arrivals(port: int) -> list[dict[str, Any]] | None:
    with suppress(AgentFundError):
        broker = ExchangeBroker(port)
        told = await broker.ask("arrivals")
        await broker.close()
        return list(told["arrivals"])
    return None


def took_ms(address: str, options: dict[str, str]) -> list[float]:
    """Return milliseconds from tick to order, for each order after the first fifty."""
    port = _port()
    parts = [_part("exchange", str(port), "1", str(BAR_S))]
    while asyncio.run(_arrivals(port)) is None:
        time.sleep(0.1)
    parts.append(_part("fund", address, json.dumps(options), str(port)))
    parts += [_part("worker", address, json.dumps(options), str(port), agent) for agent in ("flipper", "judge")]
    try:
        ends = time.monotonic() + 120
        arrivals: list[dict[str, Any]] = []
        while len(arrivals) < ORDERS + 50 and time.monotonic() < ends:
            time.sleep(0.5)
            found = asyncio.run(_arrivals(port))
            arrivals = found or []
        return sorted(one["took_ns"] / 1e6 for one in arrivals[50:])
    finally:
        for part in parts:
            part.kill()
            part.wait()


def figures() -> Iterator[dict[str, Any]]:
    """Give median and 99th percentile for each bus that is there."""
    for name, (port, address, demand) in BUSES.items():
        if port is not None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                continue
        with tempfile.TemporaryDirectory() as folder:
            options = {} if port is None else {"name": f"bench_{uuid.uuid4().hex[:8]}", "demand": demand}
            took = took_ms(address.format(folder=Path(folder)), options)
        if len(took) < 20:
            print(f"{name}: only {len(took)} orders arrived", file=sys.stderr)
            continue
        for what, value in (("p50", statistics.median(took)), ("p99", took[int(0.99 * (len(took) - 1))])):
            yield figure(f"tick to order, {name}, {what} of {len(took)}", value, "ms")
