"""Real processes that spend from one file: they race, fork, and are killed with money set aside."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import os
import random
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from agentfund.buses.spending import SqliteSpending
from agentfund.clock import SystemClock
from agentfund.core.ledger import add
from agentfund.core.router import Router
from agentfund.core.shared_budget import SharedBudget
from agentfund.errors import BudgetExceeded, LLMUnavailable
from agentfund.llms import ScriptedLLM
from agentfund.prompt import Prompt
from agentfund.trading import Verdict

if sys.platform == "win32":
    pytest.skip("these tests fork", allow_module_level=True)

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["__main__", __name__])
CENT, ONE = Decimal("0.01"), Decimal(1)
PATIENT = timedelta(seconds=20)


def start(work: Any, *arguments: object) -> tuple[Any, Connection]:
    """Start `work(pipe, *arguments)` in a process of its own."""
    mine, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=work, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    return process, mine


def told(pipe: Connection) -> list[Any]:
    """Return all that a process said before it ended."""
    words = []
    with suppress(EOFError, ConnectionResetError):
        while True:
            words.append(pipe.recv())
    return words


def budget_of(path: Path, **options: Any) -> SharedBudget:
    return SharedBudget(SqliteSpending(path, timeout=PATIENT), **options)


def go(racers: list[tuple[Any, Connection]]) -> None:
    """Let all begin at the same moment."""
    assert [pipe.recv() for _, pipe in racers] == ["ready"] * len(racers)
    for _, pipe in racers:
        pipe.send("go")


def spend_all(pipe: Connection, path: Path, limits: dict[str, Any], seed: int) -> None:
    """Call until nothing is left, at costs of all kinds, and say what was billed."""
    budget, dice, billed = budget_of(path, **limits), random.Random(seed), []
    pipe.send("ready")
    pipe.recv()
    refused = 0
    while refused < 20:
        try:
            held = budget.reserve(dice.choice([CENT, 2 * CENT, Decimal("0.0123456789")]))
        except BudgetExceeded as error:
            if "USD is spent" not in str(error):
                raise
            refused += 1
            continue
        billed.append(held.worst_case * dice.choice([Decimal(0), Decimal("0.5"), Decimal(1)]))
        budget.settle(held, billed[-1])
    pipe.send(billed)


def ask_all(pipe: Connection, path: Path) -> None:
    """Ask a router until it says that the money is gone, eight questions at a time; say how many were answered."""
    llm = ScriptedLLM(lambda prompt: Verdict(approved=True, reason=""), price_usd=CENT, latency_s=0.001)
    router = Router([llm], budget=budget_of(path, usd_per_day=1))
    prompt = Prompt(agent="a", instructions="", inputs={}, output=Verdict)

    async def ask() -> int:
        answered = 0
        with suppress(LLMUnavailable):
            while True:
                await router.complete(prompt)
                answered += 1
        return answered

    async def main() -> int:
        return sum(await asyncio.gather(*(ask() for _ in range(8))))

    pipe.send("ready")
    pipe.recv()
    pipe.send((asyncio.run(main()), len(llm.prompts)))


def hold(pipe: Connection, path: Path, usd: Decimal) -> None:
    """Set money aside and wait for the end."""
    budget_of(path, usd_per_day=10).reserve(usd)
    pipe.send("held")
    pipe.recv()


def spend_for_ever(pipe: Connection, path: Path) -> None:
    """Say each step when it is done."""
    pipe.send((0, ""))
    budget = budget_of(path, usd_per_day=10**6)
    while True:
        held = budget.reserve(CENT)
        pipe.send((held.number, "reserved"))
        budget.settle(held, CENT / 2)
        pipe.send((held.number, "settled"))


@pytest.mark.parametrize("limits", [{"usd_per_day": 3}, {"usd_per_run": 3, "run": "r"}])
def test_racing_processes_never_pass_a_limit(tmp_path: Path, limits: dict[str, Any]) -> None:
    """They make the file together; whoever looks meanwhile sees no more than the limit, and in the end each cent is there."""
    path = tmp_path / "spending.db"
    racers = [start(spend_all, path, limits, seed) for seed in range(4)]
    go(racers)
    mine, seen = budget_of(path, **limits), []
    while any(process.is_alive() for process, _ in racers):
        sums = mine.spending()
        seen.append(add((sums.day, sums.reserved)))
        time.sleep(0.001)
    billed = add(usd for _, pipe in racers for bills in told(pipe) for usd in bills)
    assert max(seen) <= 3
    assert (mine.spent_usd, mine.reserved_usd) == (billed, Decimal(0))
    assert billed > Decimal("2.9")


def test_two_routers_in_two_processes_share_a_dollar(tmp_path: Path) -> None:
    """At a cent each there are a hundred calls, whoever makes them."""
    racers = [start(ask_all, tmp_path / "spending.db") for _ in range(2)]
    go(racers)
    answers = [answer for _, pipe in racers for answer in told(pipe)]
    assert sum(answered for answered, _ in answers) == sum(sent for _, sent in answers) == 100


class Later:
    """The machine's clock, some time from now."""

    def __init__(self) -> None:
        self.by_s = 0.0

    def now(self) -> datetime:
        return SystemClock().now() + timedelta(seconds=self.by_s)

    def monotonic(self) -> float:
        return SystemClock().monotonic() + self.by_s

    async def sleep(self, seconds: float) -> None:
        self.by_s += seconds


def test_kill_9_with_money_set_aside_counts_as_the_worst_case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is shown, and booked when room is needed, as of its reservation; after its hour the budget is free again."""
    path, clock = tmp_path / "spending.db", Later()
    process, pipe = start(hold, path, ONE)
    assert pipe.recv() == "held"
    budget = SharedBudget(SqliteSpending(path, clock=clock), usd_per_hour=1)
    assert [(call.process, call.state, call.worst_case) for call in budget.pending()] == [(str(process.pid), "under way", ONE)]
    with pytest.raises(BudgetExceeded, match="0 USD is spent, 1 USD is reserved"):
        budget.reserve(CENT)
    process.kill()
    process.join()
    assert [call.state for call in budget.pending()] == ["dead"]
    with pytest.raises(BudgetExceeded, match="1 USD is spent, 0 USD is reserved"):
        budget.reserve(CENT)
    assert [call.state for call in budget.pending()] == ["booked"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"process {process.pid} ended before it said what a call cost" in caplog.text
    clock.by_s = 3590.0
    with pytest.raises(BudgetExceeded):
        budget.reserve(CENT)
    clock.by_s = 3610.0
    budget.settle(budget.reserve(ONE), CENT)
    assert (budget.spent_usd, budget.reserved_usd) == (ONE + CENT, Decimal(0))


def test_kill_9_at_any_moment_forgets_nothing(tmp_path: Path) -> None:
    """Twenty rounds on one file: what was said to be reserved or settled is in the sums, and at most one call more a round."""
    path, dice = tmp_path / "spending.db", random.Random(5)
    said: dict[int, str] = {}
    for _ in range(20):
        process, pipe = start(spend_for_ever, path)
        pipe.recv()
        time.sleep(dice.uniform(0, 0.08))
        process.kill()
        process.join()
        said |= dict(told(pipe))
    settled, reserved = (sum(word == what for word in said.values()) for what in ("settled", "reserved"))
    budget = budget_of(path, usd_per_day=1)
    assert settled > 20
    assert {call.state for call in budget.pending()} <= {"dead"}
    left = len(budget.pending())
    assert budget.reserved_usd == left * CENT
    assert settled <= budget.spent_usd / (CENT / 2) <= settled + reserved
    assert settled + reserved <= budget.spent_usd / (CENT / 2) + left <= settled + reserved + 20
    with pytest.raises(BudgetExceeded):
        budget.reserve(ONE)
    assert budget.reserved_usd == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_spending_spends_from_the_same_file(tmp_path: Path) -> None:
    """Threads spend while the process forks; parent and children open the file for themselves, and every cent is there."""
    path = tmp_path / "spending.db"
    budget, done, counts = budget_of(path, usd_per_day=10**6), threading.Event(), [0, 0]

    def work(number: int) -> None:
        while not done.is_set():
            budget.settle(budget.reserve(CENT), CENT)
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    children = []
    for _ in range(10):
        time.sleep(0.005)
        child = os.fork()
        if child == 0:
            try:
                for _ in range(20):
                    budget.settle(budget.reserve(CENT), CENT)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 10
    done.set()
    for thread in threads:
        thread.join()
    assert (budget.spent_usd, budget.reserved_usd) == ((sum(counts) + 200) * CENT, Decimal(0))


@pytest.mark.skipif(sys.platform != "linux", reason="it calls the C library")
def test_a_fork_that_python_does_not_know_of_is_refused(tmp_path: Path) -> None:
    """Its copy of the connection believes in locks that only its parent holds."""
    budget = budget_of(tmp_path / "spending.db", usd_per_day=1)
    budget.release(budget.reserve(CENT))
    read, write = os.pipe()
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        try:
            budget.reserve(CENT)
        except BudgetExceeded as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    assert b"was forked past Python: start processes with multiprocessing" in os.read(read, 1000)
    os.close(read)
    budget.release(budget.reserve(ONE))
