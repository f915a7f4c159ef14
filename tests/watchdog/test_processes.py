"""Real processes: a watchdog that is killed, stopped or blind, and a fund that dies."""

from __future__ import annotations

import json
import resource
import signal
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from agentfund.clock import uptime
from agentfund.trading import Level
from agentfund.watchdog import Halts, LeaseFile, make_folder
from tests.watchdog.scenes import FUND, WATCH, process, until

TTL_S = 2.0


class Broker(socketserver.ThreadingTCPServer):
    """A broker over HTTP on a port of its own: tells an equity, or hangs, or refuses."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        self.equity, self.asked = "100000", 0
        self.answers = threading.Event()
        self.answers.set()
        broker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                broker.asked += 1
                broker.answers.wait(60)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({"equity": broker.equity}).encode())

            def log_message(self, *args: Any) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as running:
        yield running
        running.answers.set()
        running.shutdown()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_folder(str(tmp_path / "w"), passphrase=None, fund="fund", config="limits")
    return tmp_path / "w"


def reader(path: Path) -> LeaseFile:
    return LeaseFile(path, fund="fund", config="limits")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_without_its_watchdog_a_fund_has_no_lease_within_two_seconds(number: int, path: Path, broker: Broker) -> None:
    """Killed, frozen, or ended: the lease runs out by itself, and one that goes on looks again first."""
    found = reader(path)
    with process(FUND, path), process(WATCH, path, broker.port, 5) as dog:
        until(lambda: found.now().lease)
        began = uptime()
        dog.send_signal(number)
        until(lambda: not found.now().lease, TTL_S + 3)
        assert uptime() - began < TTL_S + 0.5  # which this process may be late to see
        assert found.now().level is Level.NORMAL
        if number == signal.SIGTERM:
            assert dog.wait(5) == 0
            assert dog.communicate()[1] == ""
        if number == signal.SIGSTOP:
            asked = broker.asked
            dog.send_signal(signal.SIGCONT)
            until(lambda: found.now().lease)
            assert broker.asked > asked


def test_a_frozen_watchdog_that_goes_on_against_a_silent_broker_gives_no_lease(path: Path, broker: Broker) -> None:
    """What it saw before it was stopped is not enough, however young the caps would let it be."""
    found = reader(path)
    with process(FUND, path), process(WATCH, path, broker.port, 29) as dog:
        until(lambda: found.now().lease)
        dog.send_signal(signal.SIGSTOP)
        until(lambda: not found.now().lease)
        broker.answers.clear()
        dog.send_signal(signal.SIGCONT)
        until(lambda: "stood still" in _withheld(path))
        began = uptime()
        while uptime() - began < 1.0:
            assert not found.now().lease
        broker.answers.set()
        until(lambda: found.now().lease)


def _withheld(path: Path) -> str:
    return str(json.loads((path / "status.json").read_bytes())["withheld"])


def test_a_hung_broker_stops_the_lease_and_not_the_other_checks(path: Path, broker: Broker) -> None:
    """The question that hangs has a minute; a dead fund is latched long before."""
    found = reader(path)
    with process(WATCH, path, broker.port, 1):
        with process(FUND, path) as fund:
            until(lambda: found.now().lease)
            broker.answers.clear()
            until(lambda: not found.now().lease)
            assert found.now().level is Level.NORMAL
            fund.send_signal(signal.SIGKILL)
        until(lambda: found.now().level is Level.HALT)
    assert [cause.code for cause in found.causes] == ["heartbeat"]


def test_a_latch_outlives_the_death_of_both(path: Path, broker: Broker) -> None:
    """And the fund that comes back is told so before the watchdog is."""
    with process(FUND, path), process(WATCH, path, broker.port, 5):
        found = reader(path)
        until(lambda: found.now().lease)
        broker.equity = "94000"
        until(lambda: found.now().level is Level.HALT)
        broker.equity = "100000"
    assert reader(path).now().level is Level.HALT
    with process(FUND, path), process(WATCH, path, broker.port, 5):
        again = reader(path)
        until(lambda: again.now().lease)
        assert again.now().level is Level.HALT
        assert {cause.code for cause in again.causes} == {"day_loss"}


def test_a_full_disk_while_latching_leaves_no_lease(path: Path, broker: Broker) -> None:
    """The record may not grow, everything smaller may be written: there is no lease until the halt is on the disk."""
    halts = Halts(path)
    for _ in range(12):
        cause = halts.halt("x" * 800, level=Level.CAUTION)
        halts.lift(cause.id, "y" * 800, halts.folder.operators_key(None))
    size = halts.folder.halts.stat().st_size
    limit = size + 100  # the state holds the lifts too, and stays below it

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with process(FUND, path), process(WATCH, path, broker.port, 5, preexec_fn=small):
        found = reader(path)
        until(lambda: found.now().lease)
        broker.equity = "70000"
        until(lambda: "could not be written down yet" in _withheld(path))
        until(lambda: not found.now().lease, seconds=0.5)
        broker.equity = "100000"
        began = uptime()
        while uptime() - began < 1.0:
            assert not found.now().lease
    assert halts.folder.halts.stat().st_size == size
    halts.read()
