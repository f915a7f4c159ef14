"""Breakers in a SQLite file: real processes race to be the trial, are killed, and meet files that cannot be used."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from agentfund.buses.breakers import SqliteBreakers
from agentfund.clock import SimulatedClock
from agentfund.core.breaker import BreakerState, Permit
from agentfund.core.shared_breaker import SharedCircuitBreaker
from agentfund.errors import BusError, BusUnavailable, CircuitOpen, SchemaTooNew

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
PROCESSES: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
ROUNDS = 50
ON_A_SMALL_DISK = """
import resource, sys
from agentfund.buses.breakers import SqliteBreakers
from agentfund.clock import SimulatedClock
from agentfund.core.shared_breaker import SharedCircuitBreaker
clock = SimulatedClock()
breaker = SharedCircuitBreaker("route", SqliteBreakers(sys.argv[1]), failures=5, clock=clock)
breaker.report(breaker.acquire(), "failure")
permit = breaker.acquire()
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
breaker.report(permit, "failure")
clock.advance(2)
print(breaker.state)
try:
    breaker.acquire()
except Exception as error:
    print(type(error).__name__, *error.__notes__)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
clock.advance(2)
print(breaker.state, breaker.failures)
"""


def breaker_of(path: Path, **options: Any) -> SharedCircuitBreaker:
    store = SqliteBreakers(path, timeout=timedelta(seconds=20))
    return SharedCircuitBreaker("route", store, **{"failures": 1, "cooldown": 0.001, "cap": 0.001, **options})


def race(pipe: Connection, path: Path, trial_timeout: float) -> None:
    """Wait for a word, ask, say whether it is the trial, and on the next word report the verdict in it."""
    breaker = breaker_of(path, trial_timeout=trial_timeout)
    pipe.send("ready")
    with suppress(EOFError):
        while pipe.recv():
            permit: Permit | None = None
            with suppress(CircuitOpen):
                permit = breaker.acquire()
            pipe.send(permit is not None)
            verdict = pipe.recv()
            if permit is not None:
                breaker.report(permit, verdict)
            pipe.send("done")


def start(path: Path, count: int, trial_timeout: float = 60.0) -> list[tuple[Any, Connection]]:
    """Start processes that race."""
    started = []
    for _ in range(count):
        mine, theirs = PROCESSES.Pipe()
        process = PROCESSES.Process(target=race, args=(theirs, path, trial_timeout), daemon=True)
        process.start()
        theirs.close()
        started.append((process, mine))
    assert [pipe.recv() for _, pipe in started] == ["ready"] * count
    return started


def ask(pipes: list[Connection]) -> list[bool]:
    """Let all ask at the same moment; return who was admitted."""
    for pipe in pipes:
        pipe.send("go")
    return [pipe.recv() for pipe in pipes]


def open_and_ripe(breaker: SharedCircuitBreaker) -> None:
    """Open it, for no time."""
    breaker.reset()
    breaker.open_for(0)


@pytest.mark.parametrize("count", [2, 4])
def test_of_racing_processes_exactly_one_is_the_trial(tmp_path: Path, count: int) -> None:
    """In every round; and what it says is so for all."""
    path = tmp_path / "breakers.db"
    mine = breaker_of(path)
    racers = start(path, count)
    pipes = [pipe for _, pipe in racers]
    for number in range(ROUNDS):
        open_and_ripe(mine)
        assert sum(ask(pipes)) == 1, f"round {number}"
        assert mine.state is HALF_OPEN
        for pipe in pipes:
            pipe.send(["ok", "failure"][number % 2])
        assert [pipe.recv() for pipe in pipes] == ["done"] * count
        assert mine.state is [CLOSED, OPEN][number % 2]
    for process, pipe in racers:
        pipe.close()
        process.join(10)


def test_a_trial_that_is_killed_is_replaced_by_exactly_one(tmp_path: Path) -> None:
    """With kill -9, after its time and not before, whoever asks."""
    path = tmp_path / "breakers.db"
    mine = breaker_of(path, trial_timeout=0.5)
    racers = start(path, 4, trial_timeout=0.5)
    open_and_ripe(mine)
    admitted = ask([pipe for _, pipe in racers])
    process, pipe = racers.pop(admitted.index(True))
    process.kill()
    process.join(10)
    pipe.close()
    pipes = [pipe for _, pipe in racers]
    for other in pipes:
        other.send("neutral")
    assert [other.recv() for other in pipes] == ["done"] * 3
    early = mine.retry_after
    if early > 0.2:  # else this machine was too slow to see it before its time
        assert sum(ask(pipes)) == 0
        for other in pipes:
            other.send("neutral")
        assert [other.recv() for other in pipes] == ["done"] * 3
    while mine.state is HALF_OPEN:
        process.join(0.01)
    assert sum(ask(pipes)) == 1
    for process, pipe in racers:
        pipe.close()
        process.join(10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_store_outlives_a_fork(tmp_path: Path) -> None:
    """The child opens the file for itself, and what it writes its parent sees."""
    breaker = breaker_of(tmp_path / "breakers.db")
    assert breaker.state is CLOSED
    child = os.fork()
    if child == 0:
        try:
            breaker.disable()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert breaker.state is OPEN


@pytest.mark.parametrize("state", ["closed", "counting", "open", "half_open", "disabled"])
@pytest.mark.parametrize("boot", ["first", "second"])
def test_a_restart_finds_each_state_as_it_was(tmp_path: Path, state: str, boot: str) -> None:
    """A new process goes on where the last one was; after a reboot a cool-down and a trial begin again in full."""
    clock = SimulatedClock()

    def make(boot: str) -> SharedCircuitBreaker:
        store = SqliteBreakers(tmp_path / "breakers.db", clock=clock, boot=boot)
        return SharedCircuitBreaker("route", store, failures=2, clock=clock)

    before = make("first")
    for _ in range({"closed": 0, "counting": 1, "open": 2, "half_open": 2, "disabled": 0}[state]):
        before.report(before.acquire(), "failure")
    if state == "disabled":
        before.disable()
    if state == "half_open":
        clock.advance(30)
        permit = before.acquire()
        assert permit
    expected = (before.state, before.failures, before.trips, before.retry_after)
    clock.advance(10)
    after = make(boot)
    waited = 10 if state in ("open", "half_open") and boot == "first" else 0
    assert (after.state, after.failures, after.trips, after.retry_after + waited) == expected


def test_where_the_system_names_no_boot_the_wall_clock_is_the_stores(tmp_path: Path) -> None:
    """Its seconds, under a name of their own; elsewhere the monotonic ones."""
    clock = SimulatedClock()
    clock.advance(5)
    assert SqliteBreakers(tmp_path / "b", clock=clock, boot="").now() == ("wall", 5.0)
    assert SqliteBreakers(tmp_path / "b", clock=clock, boot="x").now() == ("x", 5.0)


def test_compare_and_set_is_on_the_version(tmp_path: Path) -> None:
    """Written once for each version, each breaker for itself, and read by whoever opens the file."""
    path = tmp_path / "breakers.db"
    one, other = SqliteBreakers(path), SqliteBreakers(path)
    assert one.load("a") is None
    assert [store.compare_and_set("a", 0, "x") for store in (one, other)] == [True, False]
    assert [store.compare_and_set("a", 1, "y") for store in (other, one)] == [True, False]
    assert not one.compare_and_set("b", 1, "z")
    one.close()
    assert (one.load("a"), other.load("a"), one.load("b")) == ((2, "y"), (2, "y"), None)


def no_database(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to look like a file of some kind" * 40)


def of_another(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")


def newer(path: Path) -> None:
    SqliteBreakers(path).load("route")
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 2")


def damaged(path: Path) -> None:
    store = SqliteBreakers(path)
    store.compare_and_set("route", 0, "x")
    store.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (no_database, BusError, "not a database, and was not touched"),
        (of_another, BusError, "belongs to another program"),
        (newer, SchemaTooNew, "upgrade agentfund"),
        (damaged, BusError, "it is damaged"),
        (Path.mkdir, BusUnavailable, "cannot be opened"),
        (Path.touch, BusError, "is empty"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_lost_store(tmp_path: Path, spoil: Any, error: type[BusError], words: str) -> None:
    """Named with its remedy and not touched; refused on order paths, local on paths to language models."""
    path = tmp_path / "breakers.db"
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(error, match=words):
        SqliteBreakers(path).load("route")
    assert breaker_of(path).state is OPEN
    assert breaker_of(path, when_store_is_lost="local").call(len, "abc") == 3
    assert before == (path.read_bytes() if path.is_file() else b"")


def test_a_row_that_was_changed_by_hand_is_a_lost_store_until_the_reset(tmp_path: Path) -> None:
    """A cut record is never read as a closed circuit."""
    path = tmp_path / "breakers.db"
    breaker = breaker_of(path)
    breaker.disable()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE breakers SET state = replace(state, 'open', 'closed')")
    with pytest.raises(CircuitOpen) as refusal:
        breaker_of(path).acquire()
    assert "damaged" in str(refusal.value.__cause__)
    breaker.reset()
    assert breaker_of(path).acquire()


def test_a_locked_file_is_a_lost_store_until_it_is_free(tmp_path: Path) -> None:
    """A verdict waits no longer than the timeout, and is told later."""
    path = tmp_path / "breakers.db"
    clock = SimulatedClock()
    breaker = SharedCircuitBreaker("route", SqliteBreakers(path, timeout=timedelta(seconds=0.05)), clock=clock)
    permit = breaker.acquire()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        breaker.report(permit, "failure")
        with pytest.raises(CircuitOpen) as refusal:
            breaker.acquire()
        assert "keeps it locked" in str(refusal.value.__cause__)
        db.execute("ROLLBACK")
    clock.advance(1)
    assert (breaker.state, breaker.failures) == (CLOSED, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of a file's size")
def test_a_full_disk_is_a_lost_store_and_nothing_is_forgotten(tmp_path: Path) -> None:
    """What can be read but not written admits nobody."""
    command = [sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path / "breakers.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    first, second, third = done.stdout.splitlines()
    assert (first, third) == ("open", "closed 2")
    assert second.startswith("CircuitOpen refused because the store of its state is lost")


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted")
def test_a_file_that_was_deleted_is_noticed(tmp_path: Path) -> None:
    """Two processes never go on with two files of one name."""
    path = tmp_path / "breakers.db"
    store = SqliteBreakers(path)
    store.compare_and_set("a", 0, "x")
    path.unlink()
    with pytest.raises(BusUnavailable, match="was deleted or replaced"):
        store.load("a")
    assert store.load("a") is None
