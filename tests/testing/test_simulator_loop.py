"""The loop of the simulator: virtual time, an order that a seed chooses, and no way out."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import sqlite3
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentfund.clock import SystemClock
from agentfund.testing.simulator.escapes import Escaped, sealed
from agentfund.testing.simulator.loop import SimulatedLoop, Stuck, simulate

START = datetime(2024, 1, 2, tzinfo=UTC)


def order(seed: int, **options: Any) -> list[str]:
    """Return in which order tasks and callbacks run under a seed."""
    seen: list[str] = []

    async def task(name: str) -> None:
        for step in range(3):
            seen.append(f"task {name} {step}")
            await asyncio.sleep(0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        tasks = [asyncio.ensure_future(task(name)) for name in "abcd"]
        for number in range(4):
            loop.call_soon(seen.append, f"callback {number}")
        for name in "vwxyz":
            loop.call_later(1, seen.append, f"timer {name}")
        await asyncio.gather(*tasks)
        await asyncio.sleep(2)

    simulate(main(), SimulatedLoop(seed, **options))
    return seen


def test_time_passes_without_waiting() -> None:
    """A year in a moment, to the second."""
    loop = SimulatedLoop(0)
    began = time.monotonic()

    async def year() -> float:
        async with asyncio.timeout(400 * 86_400):
            await asyncio.sleep(365 * 86_400)
        return loop.time()

    assert simulate(year(), loop) == 365 * 86_400
    assert time.monotonic() - began < 60


def test_one_seed_is_one_order_and_seeds_differ() -> None:
    """Which of two ready tasks goes first is the seed's choice."""
    assert order(7) == order(7)
    assert len({tuple(order(seed)) for seed in range(20)}) > 10


def test_callbacks_keep_the_order_in_which_they_were_registered() -> None:
    """That is what asyncio promises of `call_soon`."""
    for seed in range(50):
        callbacks = [one for one in order(seed) if one.startswith("callback")]
        assert callbacks == [f"callback {number}" for number in range(4)]


def test_a_task_that_yields_lets_every_other_ready_task_run_first() -> None:
    """However the seed shuffles, nobody takes a third step before everybody took a second."""
    for seed in range(50):
        steps = [one.split()[2] for one in order(seed) if one.startswith("task")]
        assert steps == ["0"] * 4 + ["1"] * 4 + ["2"] * 4


def test_timers_of_one_moment_come_in_any_order_and_earlier_ones_first() -> None:
    """As asyncio says; without shuffling they come as they were set."""
    timers = {tuple(one for one in order(seed) if one.startswith("timer")) for seed in range(20)}
    assert len(timers) > 5
    plain = order(3, shuffle=False)
    assert [one for one in plain if one.startswith("task")][:4] == [f"task {name} 0" for name in "abcd"]


def test_a_set_of_tasks_is_walked_in_the_same_order_in_every_process() -> None:
    """`asyncio.wait` gives sets; a set of ordinary tasks is ordered by their addresses."""

    async def main() -> list[int]:
        async def one(number: int) -> int:
            await asyncio.sleep(1)
            return number

        done, _ = await asyncio.wait([asyncio.ensure_future(one(number)) for number in range(8)])
        return [task.result() for task in done]

    assert {tuple(simulate(main(), SimulatedLoop(seed))) for seed in range(5)} == {tuple(range(8))}


@pytest.mark.parametrize("kind", ["deadlock", "livelock"])
def test_an_end_that_never_comes_is_said(kind: str) -> None:
    """Where nothing can happen any more, and where too much does."""

    async def deadlock() -> None:
        await asyncio.Event().wait()

    async def livelock() -> None:
        while True:
            await asyncio.sleep(0)

    work = {"deadlock": deadlock, "livelock": livelock}[kind]
    with pytest.raises(Stuck):
        simulate(work(), SimulatedLoop(0, most_steps=1000))


def test_functions_for_an_executor_run_in_the_loop() -> None:
    """So there is no thread; what they raise comes back."""

    def broken() -> None:
        raise OSError("no terminal")

    async def main() -> int:
        with pytest.raises(OSError, match="no terminal"):
            await asyncio.to_thread(broken)
        return await asyncio.to_thread(threading.get_ident)

    assert simulate(main(), SimulatedLoop(0)) == threading.get_ident()


def inside(work: Callable[[], Any], seed: int = 1) -> tuple[Any, list[str]]:
    """Run something sealed; return what it gave and what was caught."""
    with sealed(seed, lambda: 12.5, lambda: START + timedelta(seconds=12.5)) as escapes:
        return work(), escapes


def test_clocks_tell_virtual_time_and_are_put_back() -> None:
    """Those of `time`, and the machine's clock of agentfund."""
    before = (time.time, time.monotonic, os.urandom, os.getpid)
    told, _ = inside(
        lambda: (time.time(), time.monotonic(), time.perf_counter(), SystemClock().now(), SystemClock().monotonic())
    )
    moment = START + timedelta(seconds=12.5)
    assert told == (moment.timestamp(), 12.5, 12.5, moment, 12.5)
    assert (time.time, time.monotonic, os.urandom, os.getpid) == before
    assert abs(SystemClock().now().timestamp() - time.time()) < 60


def test_chance_is_the_seeds() -> None:
    """Numbers, ids and bytes; outside, chance goes on as if nothing had been."""

    def chance() -> Any:
        return random.random(), uuid.uuid4(), os.urandom(8), random.SystemRandom().random()

    random.seed(99)
    expected = random.Random(99).random()
    assert inside(chance)[0] == inside(chance)[0] != inside(chance, seed=2)[0]
    assert random.random() == expected


ESCAPES: dict[str, Callable[[], Any]] = {
    "a socket": lambda: socket.socket(),
    "a thread": lambda: threading.Thread(target=print).start(),
    "a process": lambda: subprocess.run(["true"], check=False),
    "a look-up": lambda: socket.getaddrinfo("localhost", 80),
    "a sleep": lambda: time.sleep(0.001),
    "a database": lambda: sqlite3.connect(":memory:"),
}


@pytest.mark.parametrize("name", ESCAPES)
def test_what_reaches_for_the_real_world_is_caught_and_cannot_be_hidden(name: str) -> None:
    """`except Exception` does not see it, and it is written down."""

    def hides() -> None:
        try:
            ESCAPES[name]()
        except Exception:
            pytest.fail("it was hidden")

    with sealed(1, lambda: 0.0, lambda: START) as caught, pytest.raises(Escaped):
        hides()
    assert len(caught) == 1


def test_another_thread_keeps_the_real_world() -> None:
    """A test runner's own threads go on."""
    told: list[float] = []
    go, done = threading.Event(), threading.Event()

    def elsewhere() -> None:
        go.wait(10)
        told.append(time.time())
        done.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()

    def work() -> None:
        go.set()
        assert done.wait(10)

    inside(work)
    thread.join()
    assert told[0] > START.timestamp() + 86_400


def test_what_agentfund_logs_goes_to_the_simulation(caplog: pytest.LogCaptureFixture) -> None:
    """Not to the terminal of whoever runs ten thousand schedules."""
    heard: list[str] = []
    with sealed(1, lambda: 0.0, lambda: START, heard.append):
        logging.getLogger("agentfund").warning("the lease of %s", "fund")
    assert heard == ["the lease of fund"]
    assert caplog.messages == []


def test_one_simulation_at_a_time() -> None:
    """A second one inside would put the wrong things back."""

    def nested() -> None:
        with sealed(1, lambda: 0.0, lambda: START):
            pass

    with pytest.raises(RuntimeError, match="one simulation at a time"):
        inside(nested)


def test_tasks_that_are_left_are_ended_with_the_loop() -> None:
    """Nothing is pending when it closes, also where a task clings to life for a while."""
    ended: list[str] = []
    left: list[asyncio.Task[None]] = []

    async def clings() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(0)
            ended.append("let go")

    async def main() -> None:
        left.append(asyncio.ensure_future(clings()))
        await asyncio.sleep(0)

    work: Coroutine[Any, Any, None] = main()
    simulate(work, SimulatedLoop(0))
    assert ended == ["let go"]
