"""How fast the watchdog is: what a permit costs, from breach to latch, and how soon a lease is gone.

`python -m benchmarks watchdog` prints one JSON line a figure. The watchdog and the fund's heart are processes of their own,
the broker is a stub over HTTP, and the period is the default. There is no peer: libraries of this
kind have a switch inside their own process.
"""

from __future__ import annotations

import json
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from agentfund.trading import Level
from agentfund.watchdog import Halts, LeaseFile, make_folder
from benchmarks._measure import best_us, figure

ROUNDS = 60
ENDS = 12

WATCH = """
import asyncio, json, sys
from decimal import Decimal
from agentfund.trading import Account, Book
from agentfund.watchdog import Watchdog

class Http:
    async def book(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
        writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
        told = json.loads((await reader.read()).partition(b"\\r\\n\\r\\n")[2])
        writer.close()
        return Book(Account(Decimal(told["equity"]), {}, Decimal(told["equity"]), told["margin"]))

asyncio.run(Watchdog(sys.argv[1], broker=Http()).run())
"""

FUND = """
import asyncio, sys
from agentfund.core.pulse import Pulse
from agentfund.watchdog import Heart
asyncio.run(Heart(sys.argv[1]).keep(lambda: Pulse("fund", "limits", "waiting")))
"""


class Stub(socketserver.ThreadingTCPServer):
    """A broker over HTTP that shows a margin use of the benchmark's choice."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        self.margin = 0.1
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({"equity": "100000", "margin": stub.margin}).encode())

            def log_message(self, *args: Any) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


@contextmanager
def process(code: str, *args: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python in a process of its own, and kill it in the end."""
    command = [sys.executable, "-c", code, *map(str, args)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        try:
            yield running
        finally:
            running.send_signal(signal.SIGCONT)
            running.kill()


def until(what: Callable[[], bool], most_s: float = 30.0) -> float:
    """Wait until something holds; return the milliseconds that took."""
    began = time.perf_counter()
    while not what():
        if time.perf_counter() - began > most_s:
            sys.exit("the watchdog did not do what it should")
        time.sleep(0.0005)
    return (time.perf_counter() - began) * 1e3


def at(share: float, values: list[float]) -> float:
    """Return the value below which a share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def figures() -> Iterator[dict[str, Any]]:
    """Yield each figure as soon as it is measured."""
    with tempfile.TemporaryDirectory() as root, Stub() as stub:
        path = Path(root) / "watch"
        folder = make_folder(str(path), passphrase=None, fund="fund", config="limits")
        key, halts = folder.operators_key(None), Halts(path)
        port = stub.server_address[1]
        with process(FUND, path):
            with process(WATCH, path, port):
                reader = LeaseFile(path, fund="fund", config="limits")
                until(lambda: reader.now().lease)
                yield from permits(reader)
                yield from seen(reader, halts, key)
                yield from breaches(stub, reader, halts, key)
            stub.margin = 0.1
            yield from ends(path, port)
        stub.shutdown()


def permits(reader: LeaseFile) -> Iterator[dict[str, Any]]:
    """Measure a permit's cost: where nothing changed, and where there is a new lease."""
    yield figure("LeaseFile.now: nothing changed", best_us(reader.now, number=1_000, repeat=40), "us")

    def fresh() -> None:
        reader._lease_mark = None
        reader.now()

    yield figure("LeaseFile.now: a new lease to verify", best_us(fresh, number=200, repeat=40), "us")


def seen(reader: LeaseFile, halts: Halts, key: Any) -> Iterator[dict[str, Any]]:
    """Measure how soon a halt counts at the gate once it is written: in the very next question."""
    took, wrote = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        cause = halts.halt("benchmark")
        written = time.perf_counter()
        level = reader.now().level
        took.append((time.perf_counter() - written) * 1e6)
        wrote.append((written - began) * 1e3)
        assert level is Level.HALT
        halts.lift(cause.id, "benchmark", key)
        reader.now()
    yield figure("Halts.halt: until it is on the disk, median", at(0.5, wrote), "ms")
    yield figure("LeaseFile.now: the question that sees a halt, median", at(0.5, took), "us")
    yield figure("LeaseFile.now: the question that sees a halt, 99th percentile", at(0.99, took), "us")


def breaches(stub: Stub, reader: LeaseFile, halts: Halts, key: Any) -> Iterator[dict[str, Any]]:
    """Measure from the moment at which the broker shows a breach to the moment at which the fund's process sees the latch."""
    took = []
    for number in range(ROUNDS):
        stub.margin = 0.1
        while reader.now().level is not Level.NORMAL:
            for name in tuple(halts.read().open):
                halts.lift(name, "benchmark", key)
            time.sleep(0.6)
        time.sleep(0.017 * (number % 30))  # at any moment of the watchdog's period
        stub.margin = 0.9
        took.append(until(lambda: reader.now().level is Level.HALT))
    yield figure("breach to latch, median", at(0.5, took), "ms")
    yield figure("breach to latch, 99th percentile", at(0.99, took), "ms")
    yield figure("breach to latch, longest", max(took), "ms")


def ends(path: Path, port: int) -> Iterator[dict[str, Any]]:
    """Measure how long a lease outlives its watchdog."""
    halts = Halts(path)
    for name in tuple(halts.read().open):
        halts.lift(name, "benchmark", halts.folder.operators_key(None))
    for number in (signal.SIGKILL, signal.SIGSTOP):
        took = []
        for _ in range(ENDS):
            with process(WATCH, path, port) as dog:
                reader = LeaseFile(path, fund="fund", config="limits")
                until(lambda seen=reader: seen.now().lease and seen.left() > 1.5)  # type: ignore[misc]
                dog.send_signal(number)
                took.append(until(lambda seen=reader: not seen.now().lease))  # type: ignore[misc]
        yield figure(f"lease gone after {signal.Signals(number).name}, median", at(0.5, took), "ms")
        yield figure(f"lease gone after {signal.Signals(number).name}, longest", max(took), "ms")


if __name__ == "__main__":
    for line in figures():
        print(json.dumps(line), flush=True)
