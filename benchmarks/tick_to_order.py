"""From tick to order through a real bus between four processes: exchange, orchestrator, strategist's worker, gate's worker.

The exchange notes when it sends each bar and when each order arrives, on one clock; the log says which bar an order answers. In
between lie the market on the bus, two questions and two answers, the decision and the intent on the log, durable, and the line
to the broker. Bars come every `BENCH_BAR_S` seconds: where a cycle takes longer than a bar, the time in the queue counts. A bus
is left out where nothing answers at its standard port.
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

from agentfund.buses.urls import open_bus
from agentfund.clock import to_micros
from agentfund.errors import AgentFundError
from agentfund.messages import Intended
from agentfund.testing.chaos.line import ExchangeBroker
from agentfund.testing.chaos.parts import FUND
from benchmarks._measure import figure

ORDERS = int(os.environ.get("BENCH_ORDERS", "300"))
BAR_S = float(os.environ.get("BENCH_BAR_S", "0.05"))
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


async def _told(port: int) -> dict[str, Any]:
    with suppress(AgentFundError):
        broker = ExchangeBroker(port)
        told: dict[str, Any] = await broker.ask("arrivals")
        await broker.close()
        return told
    return {}


async def _answered(address: str, options: dict[str, str]) -> dict[str, str]:
    """Return the end of the bar that each order answers, in microseconds, by the order's id."""
    bus = open_bus(address, **options)
    try:
        return {
            event.order.id: str(to_micros(message.time))
            async for message in bus.read(FUND)
            if isinstance(event := message.event, Intended)
        }
    finally:
        await bus.close()


def took_ms(address: str, options: dict[str, str]) -> list[float]:
    """Return milliseconds from tick to order, for each order after the first fifty."""
    port = _port()
    parts = [_part("exchange", str(port), "1", str(BAR_S))]
    while not asyncio.run(_told(port)):
        time.sleep(0.1)
    parts.append(_part("fund", address, json.dumps(options), str(port)))
    parts += [_part("worker", address, json.dumps(options), str(port), agent) for agent in ("flipper", "judge")]
    try:
        ends = time.monotonic() + 120
        told: dict[str, Any] = {"arrivals": [], "sent_ns": {}}
        while len(told["arrivals"]) < ORDERS + 50 and time.monotonic() < ends:
            time.sleep(0.5)
            told = asyncio.run(_told(port)) or told
        bars, sent = asyncio.run(_answered(address, options)), told["sent_ns"]
        orders = [(one["at_ns"], sent.get(bars[one["id"]])) for one in told["arrivals"][50:]]
        return sorted((at - began) / 1e6 for at, began in orders if began is not None)
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
