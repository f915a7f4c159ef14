"""What asking a gate in another process costs, beside a bare echo of the same bytes in the same run.

`python benchmarks/rpc.py` prints one JSON line a figure. The peer is grpcio itself: an asynchronous server in a process of
its own that gives back what it got, asked through a channel with default options. Both take turns in small rounds.
"""

from __future__ import annotations

import asyncio
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from importlib.metadata import version
from time import perf_counter
from typing import Any

import grpc
import grpc.aio

from agentfund import Instrument, Limits, Order, Portfolio, Side
from agentfund.clock import EPOCH
from agentfund.core.gate import Scene, check
from agentfund.rpc import RemoteGate
from agentfund.trading import OrderState, OrderStatus, Position

ROUNDS, CALLS = 20, 200
ECHO = "/echo.Echo/Echo"
D = Decimal
VERSIONS = {"agentfund": version("agentfund"), "python": platform.python_version(), "grpcio": version("grpcio")}
GATE = [sys.executable, "-m", "agentfund", "gate", "--listen", "127.0.0.1:0"]

ORDER = Order("id1", "SIM", Side.BUY, D(100), EPOCH, stop_loss=D("98.00"), take_profit=D("104.00"), decision="d1")
SMALL = Scene(
    now=EPOCH,
    decided=EPOCH,
    instrument=Instrument("SIM"),
    price=D(100),
    quote_age_s=0.0,
    portfolio=Portfolio(D(100_000)),
    prices={"SIM": D(100)},
    equity=D(100_000),
    peak_equity=D(100_000),
    day_equity=D(100_000),
)
_SYMBOLS = [f"SYM{number}" for number in range(10)]
_OTHERS = [replace(ORDER, id=f"{n:032x}", symbol=_SYMBOLS[n % 10], time=EPOCH - timedelta(hours=1)) for n in range(50)]
LARGE = replace(
    SMALL,
    portfolio=Portfolio(D(1_000_000), {s: Position(s, D(10), D("99.99"), EPOCH) for s in _SYMBOLS}),
    prices={"SIM": D(100), **dict.fromkeys(_SYMBOLS, D("100.01"))},
    equity=D(1_010_001),
    peak_equity=D(1_010_001),
    day_equity=D(1_010_001),
    orders=tuple(OrderState(order, OrderStatus.WORKING) for order in _OTHERS[:10]),
    recent=tuple(_OTHERS),
)


async def echo() -> None:
    """Serve a bare echo, and say on which port."""

    async def back(request: bytes, context: Any) -> bytes:
        return request

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("echo.Echo", {"Echo": grpc.unary_unary_rpc_method_handler(back)})
    server.add_generic_rpc_handlers((handler,))
    print(f"echo 127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", flush=True)
    await server.start()
    await server.wait_for_termination()


@contextmanager
def process(*command: str) -> Iterator[str]:
    """Start a server in a process of its own, and give the address that its first line names."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        try:
            yield next(word for word in line.split() if word.startswith("127.0.0.1:"))
        finally:
            running.kill()


def times(call: Callable[[], object]) -> list[float]:
    """Return the microseconds of each call of a round."""
    found = []
    for _ in range(CALLS):
        begin = perf_counter()
        call()
        found.append((perf_counter() - begin) * 1e6)
    return found


async def times_async(call: Callable[[], Any]) -> list[float]:
    """Return the microseconds of each awaited call of a round."""
    found = []
    for _ in range(CALLS):
        begin = perf_counter()
        await call()
        found.append((perf_counter() - begin) * 1e6)
    return found


def at(share: float, values: list[float]) -> float:
    """Return the value below which a share of the values lies."""
    return sorted(values)[int(len(values) * share)]


def figure(name: str, unit: str, peer: str, value: float, peer_value: float) -> dict[str, Any]:
    """Return one figure, and what it is as a multiple of the peer's."""
    return {
        "name": name,
        "value": round(value, 1),
        "unit": unit,
        "peer": peer,
        "peer_value": round(peer_value, 1),
        "ratio": round(value / peer_value, 3),
        "versions": VERSIONS,
    }


def latencies(gate: RemoteGate, bare: Any, name: str, scene: Scene) -> Iterator[dict[str, Any]]:
    """Measure one question at a time, from a thread and from an event loop."""
    request = gate._request(ORDER, scene)
    assert isinstance(request, bytes)
    assert check(ORDER, scene, Limits()) is None
    assert gate.check(ORDER, scene) is None
    ours: list[float] = []
    theirs: list[float] = []
    awaited: list[float] = []
    with asyncio.Runner() as runner:
        for _ in range(ROUNDS):
            ours += times(lambda: gate.check(ORDER, scene))
            theirs += times(lambda: bare(request, timeout=1))
            awaited += runner.run(times_async(lambda: gate.ask(ORDER, scene)))
    peer = f"grpcio unary echo of {len(request)} bytes"
    for share, word in ((0.5, "median"), (0.99, "99th percentile")):
        yield figure(f"RemoteGate.check: {name}, {word}", "us", peer, at(share, ours), at(share, theirs))
        yield figure(f"RemoteGate.ask: {name}, {word}", "us", peer, at(share, awaited), at(share, theirs))
    limits = Limits()
    local = times(lambda: check(ORDER, scene, limits))
    yield figure(f"RemoteGate.check: {name}, median", "us", "the gate in this process", at(0.5, ours), at(0.5, local))


def together(gate: RemoteGate, bare: Any) -> dict[str, Any]:
    """Measure thirty-two threads at once."""
    request = gate._request(ORDER, SMALL)
    ours: list[float] = []
    theirs: list[float] = []
    with ThreadPoolExecutor(32) as pool:
        for _ in range(ROUNDS // 4):
            for rates, call in (
                (ours, lambda _: gate.check(ORDER, SMALL)),
                (theirs, lambda _: bare(request, timeout=5)),
            ):
                begin = perf_counter()
                list(pool.map(call, range(CALLS * 5)))
                rates.append(CALLS * 5 / (perf_counter() - begin))
    name, peer = "RemoteGate.check: thirty-two threads", "grpcio unary echo, thirty-two threads"
    return figure(name, "checks/s", peer, at(0.5, ours), at(0.5, theirs))


def figures() -> Iterator[dict[str, Any]]:
    """Yield each figure as soon as it is measured."""
    with (
        process(*GATE) as ours,
        process(sys.executable, __file__, "echo") as theirs,
        RemoteGate(ours, timeout=timedelta(seconds=5)) as gate,
        grpc.insecure_channel(theirs) as channel,
    ):
        bare = channel.unary_unary(ECHO)
        for _ in range(CALLS):
            gate.check(ORDER, SMALL)
            bare(b"warm")
        yield from latencies(gate, bare, "an empty book", SMALL)
        yield from latencies(gate, bare, "10 positions, 10 open orders, 50 recent ones", LARGE)
        yield together(gate, bare)


if __name__ == "__main__":
    if sys.argv[1:] == ["echo"]:
        asyncio.run(echo())
    else:
        for line in figures():
            print(json.dumps(line), flush=True)
