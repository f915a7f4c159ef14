"""What the circuit breaker adds to a call and what a refusal costs, side by side with its peers.

`python benchmarks/breaker.py` or `python -m benchmarks breaker` prints one JSON line a figure. Each peer is used as its
documentation shows, by its decorator, and so are we in the lines that name a peer; `call` and `acall` are our shorter
ways. pybreaker has no protection for `async def`, so it has no async lines.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: make `benchmarks` importable
    sys.path.insert(0, str(Path(__file__).parents[1]))

from agentfund.core.breaker import CircuitBreaker
from benchmarks._measure import best_us, best_us_async, figure, show

Sync = Callable[[], object]
Async = Callable[[], Awaitable[object]]


class Broken(Exception):
    pass


broken = False


def work() -> int:
    if broken:
        raise Broken
    return 1


async def awork() -> int:
    if broken:
        raise Broken
    return 1


def agentfund() -> tuple[Sync, Async | None]:
    breaker = CircuitBreaker("route")
    return breaker(work), breaker(awork)


def purgatory(module: Any) -> tuple[Sync, Async | None]:
    return module.SyncCircuitBreakerFactory()("route")(work), module.AsyncCircuitBreakerFactory()("route")(awork)


def pybreaker(module: Any) -> tuple[Sync, Async | None]:
    return module.CircuitBreaker()(work), None


def aiobreaker(module: Any) -> tuple[Sync, Async | None]:
    long = timedelta(hours=1)
    return module.CircuitBreaker(timeout_duration=long)(work), module.CircuitBreaker(timeout_duration=long)(awork)


def circuitbreaker(module: Any) -> tuple[Sync, Async | None]:
    return module.CircuitBreaker()(work), module.CircuitBreaker()(awork)


def refused(fn: Sync) -> Sync:
    def call() -> str:
        try:
            fn()
        except Exception as error:
            return type(error).__name__
        return "admitted"

    return call


def refused_async(fn: Async) -> Async:
    async def call() -> str:
        try:
            await fn()
        except Exception as error:
            return type(error).__name__
        return "admitted"

    return call


async def _run(fn: Async) -> object:
    return await fn()


def measure(fn: Sync, afn: Async | None) -> dict[str, float]:
    """Return microseconds: added to a call, and of a refusal after the failures that opened it."""
    global broken
    took = {"sync call, added": best_us(fn) - best_us(work)}
    if afn is not None:
        took["async call, added"] = best_us_async(afn) - best_us_async(awork)
    broken = True
    try:
        ends = {refused(fn)() for _ in range(7)}
        took["sync refusal"] = best_us(refused(fn))
        if afn is not None:
            ends |= {asyncio.run(_run(refused_async(afn))) for _ in range(7)}
            took["async refusal"] = best_us_async(refused_async(afn))
    finally:
        broken = False
    if "admitted" in ends or refused(fn)() == "admitted":
        raise RuntimeError(f"it did not open: {ends}")
    return took


def figures() -> Iterator[dict[str, Any]]:
    """Yield every figure, ours alone and against each peer that is installed."""
    closed, dated = CircuitBreaker("route"), CircuitBreaker("route", deadline=60.0)
    bare, abare = best_us(lambda: work()), best_us_async(lambda: awork())
    yield figure("breaker: call(), added", best_us(lambda: closed.call(work)) - bare, "us")
    yield figure("breaker: acall(), added", best_us_async(lambda: closed.acall(awork)) - abare, "us")
    yield figure("breaker: call() with a deadline, added", best_us(lambda: dated.call(work)) - bare, "us")
    yield figure("breaker: acall() with a deadline, added", best_us_async(lambda: dated.acall(awork)) - abare, "us")
    for make in (purgatory, pybreaker, aiobreaker, circuitbreaker):
        peer = make.__name__
        try:
            module = import_module(peer)
        except ImportError:
            print(f"{peer} is not installed, its lines are left out: pip install {peer}", file=sys.stderr)
            continue
        ours, theirs = measure(*agentfund()), measure(*make(module))
        for name, us in theirs.items():
            yield figure(f"breaker: {name}", ours[name], "us", peer=peer, peer_value=us)


if __name__ == "__main__":
    show(figures())
