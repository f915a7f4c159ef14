"""Shared spending in a SQLite file: beside a plain list of what happened, over time, and in files that cannot be used."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.buses.spending import SqliteSpending
from agentfund.clock import EPOCH
from agentfund.core.budget import Reservation
from agentfund.core.ledger import add
from agentfund.core.shared_budget import SharedBudget
from agentfund.errors import BudgetExceeded, BusError, BusUnavailable, SchemaTooNew
from agentfund.spending import Pending, Spending

CENT, ONE = Decimal("0.01"), Decimal(1)
HOUR, DAY = 3600, 86_400
ON_A_SMALL_DISK = """
import resource, sys
from decimal import Decimal
from agentfund.buses.spending import SqliteSpending
from agentfund.core.shared_budget import SharedBudget
from agentfund.errors import BudgetExceeded
budget = SharedBudget(SqliteSpending(sys.argv[1]), usd_per_day=1)
held = budget.reserve(Decimal("0.5"))
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
limit(1_000)
try:
    budget.reserve(Decimal("0.1"))
except BudgetExceeded as error:
    print(error)
budget.settle(held, Decimal("0.2"))
print(budget.spent_usd, budget.reserved_usd)
limit(resource.RLIM_INFINITY)
budget.release(budget.reserve(Decimal("0.8")))
print(budget.spent_usd, budget.reserved_usd)
"""
AS_NOBODY = """
import os, sys, urllib.parse
from decimal import Decimal
from agentfund.buses.spending import SqliteSpending
from agentfund.core.shared_budget import SharedBudget
from agentfund.errors import BudgetExceeded
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for path in sys.argv[1:]:
    try:
        SharedBudget(SqliteSpending(path), usd_per_day=1).reserve(Decimal("0.1"))
    except BudgetExceeded as error:
        print(error)
"""


def run(program: str, *arguments: object) -> list[str]:
    """Run a program of its own and return its lines."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


class Clocks:
    """A wall clock that can be set, and a monotonic one that cannot."""

    def __init__(self) -> None:
        self.wall_s, self.monotonic_s = 1e6, 500.0

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.wall_s)

    def monotonic(self) -> float:
        return self.monotonic_s

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds


@pytest.fixture
def clock() -> Clocks:
    return Clocks()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spending.db"


def fits(budget: SharedBudget, usd: Decimal = ONE) -> bool:
    try:
        budget.release(budget.reserve(usd))
    except BudgetExceeded:
        return False
    return True


def spend(budget: SharedBudget, usd: Decimal = ONE) -> None:
    budget.settle(budget.reserve(usd), usd)


def refusal(budget: SharedBudget) -> str:
    with pytest.raises(BudgetExceeded) as error:
        budget.reserve(CENT)
    return str(error.value)


# -- what it adds up ---------------------------------------------------------------------------------------------------


@dataclass
class Made:
    """A call, as a plain list remembers it; `at` is when it was reserved, and once it is booked when that was."""

    usd: Decimal
    run: str
    boot: int
    at: float
    booked: bool = False


LIMITS = {"usd_per_run": Decimal(7), "usd_per_hour": Decimal(3), "usd_per_day": Decimal(5)}


def summed(calls: Iterable[Made], run: str, boot: int, now: float) -> Spending:
    """Return the sums, with the calls that an earlier start of the machine left open as booked."""
    booked: list[Made] = []
    open_: list[Made] = []
    for call in calls:
        (booked if call.booked or call.boot != boot else open_).append(call)
    return Spending(
        spent=add(call.usd for call in booked),
        reserved=add(call.usd for call in open_),
        hour=add(call.usd for call in booked if call.at > now - HOUR),
        day=add(call.usd for call in booked if call.at > now - DAY),
        run=add(call.usd for call in booked if call.run == run),
        run_reserved=add(call.usd for call in open_ if call.run == run),
    )


def room(sums: Spending, usd: Decimal) -> bool:
    return (
        add((sums.hour, sums.reserved, usd)) <= LIMITS["usd_per_hour"]
        and add((sums.day, sums.reserved, usd)) <= LIMITS["usd_per_day"]
        and add((sums.run, sums.run_reserved, usd)) <= LIMITS["usd_per_run"]
    )


def told(budget: SharedBudget, now: float) -> Spending:
    """Return what the store says, once the calls of the dead are booked that are not yet."""
    sums, dead = budget.spending(), [call for call in budget.pending() if call.state == "dead"]
    mine = [call.worst_case for call in dead if call.run == budget._run]
    usd = add(call.worst_case for call in dead)
    since = [(call.worst_case, (call.since - EPOCH).total_seconds()) for call in dead]
    return Spending(
        add((sums.spent, usd)),
        add((sums.reserved, usd.copy_negate())),
        add((sums.hour, *(usd for usd, at in since if at > now - HOUR))),
        add((sums.day, *(usd for usd, at in since if at > now - DAY))),
        add((sums.run, *mine)),
        add((sums.run_reserved, add(mine).copy_negate())),
    )


Step = tuple[str, int, Decimal, Decimal]


@settings(deadline=None, max_examples=80)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["reserve", "reserve", "reserve", "settle", "settle", "release", "wait", "restart", "late"]),
            st.integers(0, 2),
            st.decimals("1E-30", "1.9", places=30),
            st.decimals(0, "1.2", places=12),
        ),
        max_size=40,
    )
)
def test_it_agrees_with_a_plain_list_of_what_happened(steps: list[Step]) -> None:
    """Three processes of two runs, amounts of thirty digits, restarts of the machine that leave calls open, bills that come
    after them: every decision and every sum is that of the list."""
    clock, boot = Clocks(), 0
    calls: dict[int, Made] = {}
    held: list[tuple[SharedBudget, Reservation]] = []
    with tempfile.TemporaryDirectory() as folder:

        def begin() -> list[SharedBudget]:
            stores = [SqliteSpending(Path(folder, "s.db"), clock=clock, boot=f"{boot * 37 % 101:03}") for _ in range(3)]
            return [SharedBudget(store, **LIMITS, run=run) for store, run in zip(stores, "aab", strict=True)]

        budgets = begin()
        for what, who, usd, share in steps:
            now = clock.wall_s
            if what == "wait":
                clock.advance(round(share * 40_000))
            elif what == "restart":
                clock.advance(1)
                held, boot, clock.monotonic_s = [], boot + 1, 0.0
                budgets = begin()
            elif what == "reserve":
                expected = room(summed(calls.values(), "aab"[who], boot, now), usd)
                try:
                    reservation = budgets[who].reserve(usd)
                except BudgetExceeded:
                    assert not expected
                else:
                    assert expected
                    held.append((budgets[who], reservation))
                    calls[reservation.number] = Made(usd, "aab"[who], boot, now)
            elif what == "late":
                dead = [
                    number for number, call in calls.items() if not call.booked and call.boot != boot and call.at > now - DAY
                ]
                if dead:
                    budgets[who]._store.settle({dead[0]: usd}, "b")
                    calls[dead[0]] = Made(usd, calls[dead[0]].run, boot, now, booked=True)
            elif held:
                budget, reservation = held.pop(0)
                cost = reservation.worst_case * share if what == "settle" else Decimal(0)
                budget.settle(reservation, cost)
                calls[reservation.number] = Made(cost, calls[reservation.number].run, boot, now, booked=True)
            assert told(budgets[who], clock.wall_s) == summed(calls.values(), "aab"[who], boot, clock.wall_s)


def test_the_hour_and_the_day_slide(path: Path, clock: Clocks) -> None:
    """Money comes back 60 minutes, or 24 hours, after it was booked, and not before; a run's never does."""
    store = SqliteSpending(path, clock=clock)
    hourly, daily, run = (SharedBudget(store, **{f"usd_per_{span}": 2}, run="r") for span in ("hour", "day", "run"))
    spend(run, Decimal(2))
    for seconds, free in [(3599, 0), (1, 1), (82_799, 1), (1, 2)]:
        clock.advance(seconds)
        assert sum(fits(budget, CENT) for budget in (hourly, daily, run)) == free


def test_a_call_under_way_for_a_day_is_still_counted(path: Path, clock: Clocks) -> None:
    """Its process lives, so it may still be billed."""
    budget = SharedBudget(SqliteSpending(path, clock=clock), usd_per_hour=1)
    budget.reserve(ONE)
    clock.advance(2 * DAY)
    assert not fits(budget, CENT)
    assert [(call.state, call.process) for call in budget.pending()] == [("under way", str(os.getpid()))]


@pytest.mark.parametrize("step_s", [-10 * DAY, -1800, 1800, 10 * DAY])
def test_setting_the_wall_clock_changes_nothing(path: Path, clock: Clocks, step_s: float) -> None:
    """Neither a step nor its correction forgets money early or late, whether it was booked before, between or after."""
    for when in ("before", "between", "after"):
        budget = SharedBudget(SqliteSpending(path.with_name(when), clock=clock, boot="b"), usd_per_hour=1)
        for moment in ("before", "between", "after"):
            clock.wall_s += {"between": step_s, "after": -step_s}.get(moment, 0)
            if moment == when:
                spend(budget)
        clock.advance(HOUR - 1)
        assert not fits(budget, CENT)
        clock.wall_s += step_s
        clock.advance(1)
        assert fits(budget)


@pytest.mark.parametrize("boots", [("", ""), ("one", "two"), ("two", "one")])
def test_a_wall_clock_that_was_set_back_forgets_late(path: Path, clock: Clocks, boots: tuple[str, str]) -> None:
    """Where nothing but the wall clock tells: on a system that does not name its start, and from one start to the next."""
    spend(SharedBudget(SqliteSpending(path, clock=clock, boot=boots[0]), usd_per_hour=1))
    clock.wall_s -= 1800
    budget = SharedBudget(SqliteSpending(path, clock=clock, boot=boots[1]), usd_per_hour=1)
    clock.advance(HOUR)
    assert not fits(budget, CENT)
    clock.advance(1800)
    assert fits(budget)


def test_a_restart_of_the_machine_leaves_open_calls_at_their_worst_case(path: Path, clock: Clocks) -> None:
    """They count until room is needed, then from the time when they were reserved; an operator can see them."""
    before = SharedBudget(SqliteSpending(path, clock=clock, boot="one"), usd_per_hour=1)
    before.reserve(ONE)
    since = clock.now()
    clock.advance(1800)
    after = SharedBudget(SqliteSpending(path, clock=clock, boot="two"), usd_per_hour=1)
    assert after.pending() == [Pending(ONE, since, "", str(os.getpid()), "dead")]
    assert not fits(after, CENT)
    assert [call.state for call in after.pending()] == ["booked"]
    assert (after.spent_usd, after.reserved_usd) == (ONE, Decimal(0))
    clock.advance(1799)
    assert not fits(after, CENT)
    clock.advance(1)
    assert fits(after)
    clock.advance(DAY)
    assert after.pending() == []


def test_a_bill_that_comes_after_all_corrects_the_worst_case(path: Path, clock: Clocks) -> None:
    """A process that only seemed dead says what its call cost: that counts, once, in every sum."""
    before = SharedBudget(SqliteSpending(path, clock=clock, boot="one"), usd_per_day=1, run="r")
    held = before.reserve(ONE)
    after = SharedBudget(SqliteSpending(path, clock=clock, boot="two"), usd_per_day=1, run="r")
    assert not fits(after, CENT)
    before._store.settle({held.number: CENT}, "another run")
    assert after.spending() == Spending(CENT, Decimal(0), CENT, CENT, CENT, Decimal(0))
    assert after.pending() == []


def test_a_process_that_cannot_be_seen_counts_as_dead_after_a_day(path: Path, clock: Clocks) -> None:
    """It may run in another container; its bill would still be booked."""
    budget = SharedBudget(SqliteSpending(path, clock=clock), usd_per_day=1)
    budget.reserve(ONE)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE reservations SET process = '1 1 elsewhere'")
    clock.wall_s += 10 * DAY
    clock.advance(DAY - 1)
    assert not fits(budget, CENT)
    assert [(call.process, call.state) for call in budget.pending()] == [("1", "not known")]
    clock.advance(1)
    assert [call.state for call in budget.pending()] == ["dead"]
    assert fits(budget)


def test_the_file_does_not_grow_with_the_days(path: Path, clock: Clocks) -> None:
    """What no limit needs any more is deleted; what was spent in all is still known."""
    store = SqliteSpending(path, clock=clock)
    budget = SharedBudget(store, usd_per_day=1000, run="r")
    for _ in range(200):
        spend(budget)
        clock.advance(HOUR)
    assert budget.spending() == Spending(Decimal(200), Decimal(0), Decimal(0), Decimal(23), Decimal(200), Decimal(0))
    spend(budget)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM bookings").fetchone() == (24,)


def test_what_is_set_aside_outlives_a_loss_of_power(path: Path) -> None:
    """It is synced before the call leaves; a bill that is lost leaves the reservation, which counts more."""
    store = SqliteSpending(path)

    def synced() -> bool:
        return bool(store._file.use(lambda db: db.execute("PRAGMA synchronous").fetchone()[0]) == 2)

    budget = SharedBudget(store)
    held = budget.reserve(CENT)
    assert synced()
    budget.settle(held, CENT)
    assert not synced()


# -- files that cannot be used -----------------------------------------------------------------------------------------


def no_database(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to look like a file of some kind" * 40)


def of_another(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE theirs (x)")


def newer(path: Path) -> None:
    store = SqliteSpending(path)
    store.spending("")
    store.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 2")


def damaged(path: Path) -> None:
    store = SqliteSpending(path)
    spend(SharedBudget(store))
    store.close()
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (no_database, BusError, "is not a database, and was not touched: choose another path"),
        (of_another, BusError, "belongs to another program"),
        (newer, SchemaTooNew, "has database version 2, this agentfund reads 1: upgrade agentfund"),
        (damaged, BusError, "it is damaged: restore it from a backup"),
        (Path.mkdir, BusUnavailable, "is a directory"),
        (Path.touch, BusError, "is empty"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_nothing_is_spent(
    path: Path, spoil: Callable[[Path], None], error: type[BusError], words: str
) -> None:
    """With its remedy, and without touching it."""
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    assert words in refusal(SharedBudget(SqliteSpending(path), usd_per_day=1))
    with pytest.raises(error, match=words):
        SqliteSpending(path).spending("")
    assert before == (path.read_bytes() if path.is_file() else b"")
    assert spoil is damaged or list(path.parent.iterdir()) == [path]


def test_a_place_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """The fund starts without it, and no paid call is made until it is there."""
    budget = SharedBudget(SqliteSpending(tmp_path / "missing" / "spending.db"), usd_per_day=1)
    assert "spending.db cannot be opened: No such file or directory" in refusal(budget)
    (tmp_path / "missing").mkdir()
    assert fits(budget)


def test_sums_that_were_changed_by_hand_into_nonsense_are_refused(path: Path) -> None:
    """What is no number is no room."""
    store = SqliteSpending(path)
    budget = SharedBudget(store, usd_per_day=1)
    spend(budget, CENT)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE totals SET day = 'much'")
    assert "the budget cannot be asked, so nothing was sent" in refusal(budget)


def test_a_locked_file_is_refused_and_not_waited_for_again_and_again(path: Path, clock: Clocks) -> None:
    """The first call waits for the timeout, those of the next second not at all; then the file is asked again."""
    budget = SharedBudget(SqliteSpending(path, clock=clock, timeout=timedelta(seconds=0.05)), usd_per_day=1)
    held = budget.reserve(CENT)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        assert "another process keeps it locked" in refusal(budget)
        db.execute("ROLLBACK")
    assert "another process keeps it locked" in refusal(budget)
    budget.settle(held, CENT)
    assert (budget.spent_usd, budget.reserved_usd) == (Decimal(0), CENT)
    clock.advance(1)
    assert fits(budget, CENT)
    assert (budget.spent_usd, budget.reserved_usd) == (CENT, Decimal(0))


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted")
def test_a_file_that_was_deleted_does_not_make_a_budget_of_zero(path: Path) -> None:
    """Calls are refused until it is back, also with another file in its place and after a close."""
    store = SqliteSpending(path)
    budget = SharedBudget(store, usd_per_day=1)
    spend(budget)
    away, other = path.with_name("away"), path.with_name("other")
    path.rename(away)
    gone = "was deleted or replaced while in use: put it back"
    assert gone in refusal(budget)
    spend(SharedBudget(SqliteSpending(other)), CENT)
    shutil.copy(other, path)
    assert gone in refusal(budget)
    path.unlink()
    store.close()
    assert gone in refusal(budget)
    away.rename(path)
    assert "usd_per_day is 1 USD: 1 USD is spent" in refusal(budget)


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted")
def test_no_file_is_made_beside_what_is_left_of_another(path: Path) -> None:
    """SQLite would take the old file's last changes for the new one's."""
    store = SqliteSpending(path)
    spend(SharedBudget(store))
    path.unlink()
    budget = SharedBudget(SqliteSpending(path), usd_per_day=1)
    assert "spending.db-wal is left of a file that is gone: put" in refusal(budget)
    assert not path.exists()
    path.with_name("spending.db-wal").unlink()
    assert fits(budget)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of a file's size")
def test_a_full_disk_refuses_and_a_bill_waits(path: Path) -> None:
    """The write itself fails, for real: the call under way stays at its worst case until the disk has room."""
    refused, full, after = run(ON_A_SMALL_DISK, path)
    assert refused.startswith(f"the budget cannot be asked, so nothing was sent: {path}: ")
    assert "file-size limits" in refused
    assert (full, after) == ("0 0.5", "0.2 0.0")


def test_a_disk_that_is_really_full() -> None:
    """A file system of one megabyte: where it may be mounted, which needs root."""
    disk = Path(tempfile.mkdtemp(prefix="agentfund-disk-"))
    mount = shutil.which("mount")
    if os.getuid() or not mount or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        store = SqliteSpending(disk / "spending.db")
        budget = SharedBudget(store, usd_per_day=1)
        held = budget.reserve(Decimal("0.5"))
        with (disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(b"x" * 4096)
        refused = ""
        while not refused:  # until the pages that the file has already are used up
            try:
                budget.release(budget.reserve(CENT))
            except BudgetExceeded as error:
                refused = str(error)
        assert "free some space" in refused or "check the disk" in refused
        budget.settle(held, CENT)
        assert budget.reserved_usd >= Decimal("0.5")
        (disk / "ballast").unlink()
        assert fits(budget, Decimal("0.99"))
        assert (budget.spent_usd, budget.reserved_usd) == (CENT, Decimal(0))
        store.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
        disk.rmdir()


@pytest.mark.skipif(sys.platform == "win32", reason="rights are others there")
def test_missing_rights_are_named() -> None:
    """A file that may not be written, one in a folder that may not, a folder where none can be made."""
    folder = Path(tempfile.mkdtemp())  # one that another user can reach
    try:
        for name in ("file.db", "folder.db"):
            spend(SharedBudget(SqliteSpending(folder / name)), CENT)
        (folder / "file.db").chmod(0o444)
        (folder / "folder.db").chmod(0o666)
        folder.chmod(0o555)
        lines = run(AS_NOBODY, *(folder / name for name in ("file.db", "folder.db", "new.db")))
        assert len(lines) == 3
        for line, name in zip(lines, ("file.db", "folder.db", "new.db"), strict=True):
            assert line.startswith(f"the budget cannot be asked, so nothing was sent: {folder / name}")
            assert "allow writing" in line or "read and write there" in line or "Permission denied" in line
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_does_not_travel(path: Path, take: Callable[[Any], object]) -> None:
    """Another process opens the file for itself."""
    with pytest.raises(TypeError, match="with the same path"):
        take(SqliteSpending(path))
