"""What would make two runs of one seed differ: caught, or replaced by what the seed gives."""

from __future__ import annotations

import gc
import logging
import os
import platform
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, NoReturn

import agentfund.clock as machine

_EVENTS = {
    "_thread.start_new_thread": "starts a thread",
    "os.fork": "forks",
    "os.posix_spawn": "starts a process",
    "os.system": "starts a process",
    "socket.__new__": "opens a socket",
    "socket.connect": "connects a socket",
    "socket.getaddrinfo": "looks up a host",
    "sqlite3.connect": "opens a database",
    "subprocess.Popen": "starts a process",
    "time.sleep": "sleeps in real time",
}


class Escaped(BaseException):
    """Code under simulation reached for the real world. It is no `Exception`, so that no agent can hide it."""


class _Watch:
    """An audit hook cannot be removed, so it is installed once and switched."""

    installed = False
    thread: int | None = None
    found: list[str]

    @classmethod
    def hook(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if cls.thread is None or event not in _EVENTS or threading.get_ident() != cls.thread:
            return
        cls.caught(f"the fund {_EVENTS[event]} ({event})")

    @classmethod
    def caught(cls, what: str) -> NoReturn:
        cls.found.append(what)
        raise Escaped(f"{what}: under simulation nothing reaches the real world")


@contextmanager
def sealed(
    seed: int | str,
    seconds: Callable[[], float],
    wall: Callable[[], datetime],
    logged: Callable[[str], None] = lambda text: None,
) -> Iterator[list[str]]:
    """Keep code of this thread within the simulation as long as the block lasts; give the list of escapes that were caught.

    The clocks of `time` and `agentfund.clock` tell virtual time. `random`, `os.urandom`, and with it `uuid4` and `secrets`,
    give what the seed gives. The machine's name and the process's number are always the same. Sockets, threads, processes,
    databases and real sleep raise `Escaped`. `datetime.now()` called directly cannot be caught; a run that differs from its
    repetition tells of it.

    Args:
        seed: chooses what chance gives.
        seconds: virtual seconds.
        wall: virtual wall time, aware UTC.
        logged: told what agentfund logs, in place of everybody else.
    """
    thread = threading.get_ident()
    if _Watch.thread is not None:
        raise RuntimeError("one simulation at a time: this process is inside one already")
    if not _Watch.installed:
        _Watch.installed = True
        sys.addaudithook(_Watch.hook)
    chance = random.Random(f"chance {seed}")  # noqa: S311 - no secret
    before = random.getstate()
    urandom = os.urandom

    def bytes_by_seed(size: int, /) -> bytes:
        return chance.randbytes(size) if threading.get_ident() == thread else urandom(size)

    start = threading.Thread.start  # not every Python has an audit event for it, nor for sleep

    def start_by_others(self: threading.Thread) -> None:
        if threading.get_ident() == thread:
            _Watch.caught("the fund starts a thread (threading.Thread)")
        start(self)

    sleep = time.sleep

    def sleep_of_others(seconds: float, /) -> None:
        if threading.get_ident() == thread:
            _Watch.caught("the fund sleeps in real time (time.sleep)")
        sleep(seconds)

    class Now:
        """Stands for `datetime` where agentfund asks the machine what time it is."""

        @staticmethod
        def now(zone: tzinfo | None = None) -> datetime:
            return wall().astimezone(zone or UTC)

    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    clocks: dict[str, Callable[[], float]] = {
        "time": lambda: (wall() - epoch) / timedelta(seconds=1),
        "time_ns": lambda: (wall() - epoch) // timedelta(microseconds=1) * 1000,
        "monotonic": seconds,
        "monotonic_ns": lambda: int(seconds() * 1e9),
        "perf_counter": seconds,
        "perf_counter_ns": lambda: int(seconds() * 1e9),
    }
    swapped: list[tuple[Any, str, Any]] = [
        *((time, name, _only(thread, told, getattr(time, name))) for name, told in clocks.items()),
        (os, "urandom", bytes_by_seed),
        (random, "_urandom", bytes_by_seed),
        (machine, "datetime", Now),
        (threading.Thread, "start", start_by_others),
        (time, "sleep", sleep_of_others),
        (os, "getpid", _only(thread, lambda: 4711, os.getpid)),
        (platform, "node", _only(thread, lambda: "simulated", platform.node)),
    ]
    kept = [(home, name, getattr(home, name)) for home, name, _ in swapped]
    logger = logging.getLogger("agentfund")
    heard = _Hearing(logged)
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(heard)
    collecting = gc.isenabled()
    gc.disable()  # finalizers would run whenever memory says so
    try:
        for home, name, thing in swapped:
            setattr(home, name, thing)
        random.seed(chance.getrandbits(64))
        found: list[str] = []
        _Watch.found = found
        _Watch.thread = thread
        yield found
    finally:
        _Watch.thread = None
        for home, name, thing in kept:
            setattr(home, name, thing)
        random.setstate(before)
        logger.removeHandler(heard)
        logger.propagate = propagates
        if collecting:
            gc.enable()


class _Hearing(logging.Handler):
    """Hands on what is logged."""

    def __init__(self, logged: Callable[[str], None]) -> None:
        super().__init__()
        self._logged = logged

    def emit(self, record: logging.LogRecord) -> None:
        self._logged(record.getMessage())


def _only(thread: int, told: Callable[[], Any], real: Callable[[], Any]) -> Callable[[], Any]:
    """Return a clock that is virtual for one thread; others, such as a test runner's own, keep the real one."""

    def clock() -> Any:
        return told() if threading.get_ident() == thread else real()

    return clock
