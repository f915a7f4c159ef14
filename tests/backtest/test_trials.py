"""The ledger of trials: nothing is lost, nothing is changed unseen, the same run counts once."""

from __future__ import annotations

import json
import math
import multiprocessing
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from agentfund.backtest.trials import Trial, TrialLedger, dataset
from agentfund.clock import SimulatedClock
from agentfund.errors import BadData, ConfigError

START = datetime(2024, 1, 2, tzinfo=UTC)


def trial(number: int = 0, **more: object) -> Trial:
    one = Trial(
        name=f"cross {number}",
        described={"fast": number},
        symbols=("ACME",),
        origin="acme.csv",
        data="bars-1",
        start=START,
        end=START + timedelta(days=365),
        bars=252,
        bars_per_year=252.0,
        sharpe=0.01 * number,
        skewness=0.0,
        kurtosis=3.0,
        total_return=0.1,
    )
    return replace(one, **more)  # type: ignore[arg-type]


def test_what_was_recorded_is_read_again(tmp_path: Path) -> None:
    """Another ledger on the same file gives the same trials, with the time at which they were recorded."""
    ledger = TrialLedger(tmp_path / "trials.jsonl", clock=SimulatedClock(START))
    added = [ledger.add(trial(0)), *ledger.extend([trial(1), trial(2, sharpe=None)])]
    again = TrialLedger(tmp_path / "trials.jsonl")
    assert again.runs == tuple(added)
    assert {one.time for one in again.runs} == {START}
    assert len(again) == 3


@pytest.mark.parametrize("path", [None, "trials.jsonl"])
def test_the_same_run_counts_once_and_its_repeats_are_visible(path: str | None, tmp_path: Path) -> None:
    """In memory as on disk; the same run with another result is another draw, because one could choose."""
    ledger = TrialLedger(None if path is None else tmp_path / path)
    for one in (trial(1), trial(1), trial(2), trial(1, sharpe=0.5)):
        ledger.add(one)
    assert (len(ledger), len(ledger.runs)) == (3, 4)
    assert ledger.repeats(trial(1)) == 2
    assert trial(1).id == trial(1, sharpe=0.5, time=START).id != trial(2).id


def test_trials_on_the_same_symbols_from_the_same_source_count_together() -> None:
    """Another span and another length of a bar are the same data; another file or another symbol is not."""
    ledger = TrialLedger()
    ledger.extend(
        [
            trial(1),
            trial(2, data="bars-2", end=START + timedelta(days=90)),
            trial(3, symbols=("OTHER",)),
            trial(4, origin="other.csv"),
        ]
    )
    assert ledger.count(dataset(["ACME"], "acme.csv")) == 2
    assert ledger.count("bars-2") == 1
    assert dataset(["A", "B"], "x") == dataset(["B", "A"], "x")


def test_a_sharpe_ratio_of_other_bars_is_converted_by_the_square_root_of_time() -> None:
    """0.1 a day is 0.1 / sqrt(26) in each of 26 bars of a day; without a calendar it stays."""
    assert trial(sharpe=0.1).sharpe_in(252.0 * 26) == pytest.approx(0.1 / math.sqrt(26))
    assert trial(sharpe=0.1).sharpe_in(None) == 0.1
    assert trial(sharpe=None).sharpe_in(252.0) == 0.0


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of five trials."""
    path = tmp_path / "trials.jsonl"
    TrialLedger(path).extend(trial(number) for number in range(5))
    return path


@pytest.mark.parametrize("line", range(5))
def test_an_edited_line_is_named(path: Path, line: int) -> None:
    """One digit of one figure, in any line, the newest among them."""
    changed = lines(path)
    changed[line] = changed[line].replace(b'"bars":252', b'"bars":253')
    path.write_bytes(b"".join(changed))
    with pytest.raises(BadData, match=rf"trials\.jsonl, line {line + 1}: edited"):
        TrialLedger(path)


@pytest.mark.parametrize("line", range(5))
def test_a_removed_line_is_named(path: Path, line: int) -> None:
    """Any line, the newest among them."""
    left = lines(path)
    del left[line]
    path.write_bytes(b"".join(left))
    with pytest.raises(BadData, match=rf"trials\.jsonl, line {line + 1}: removed"):
        TrialLedger(path)


def test_a_line_that_is_no_json_is_named(path: Path) -> None:
    """In the middle it is no torn line but a damaged one."""
    changed = lines(path)
    changed[2] = changed[2][:30] + b"\n"
    path.write_bytes(b"".join(changed))
    with pytest.raises(BadData, match="line 3: cannot be read"):
        TrialLedger(path)


def test_lines_removed_under_an_open_ledger_are_noticed(path: Path) -> None:
    """It looks again before it counts or adds."""
    ledger = TrialLedger(path)
    path.write_bytes(b"".join(lines(path)[:3]))
    with pytest.raises(BadData, match="removed from the end"):
        len(ledger)
    path.unlink()
    with pytest.raises(BadData, match="is gone"):
        ledger.trials()


@pytest.mark.parametrize("kept", [1, 30, -1])
def test_a_torn_last_line_is_told_and_loses_nothing_else(path: Path, kept: int) -> None:
    """A crash in the middle of an append: what was whole counts, the rest is cut off with the next one, and noted for ever."""
    whole = lines(path)
    torn = TrialLedger(None)
    draft = json.dumps({"n": 6, "before": "0", "trial": torn.add(trial(6)).to_json()}).encode()
    path.write_bytes(b"".join(whole) + draft[:kept])
    ledger = TrialLedger(path)
    assert len(ledger) == 5
    assert ledger.notes == ("line 6 was torn by a crash and is left out",)
    ledger.add(trial(7))
    again = TrialLedger(path)
    assert [one.name for one in again.runs] == [*(f"cross {n}" for n in range(5)), "cross 7"]
    assert again.notes == ledger.notes == (f"line 6 was torn by a crash; {len(draft[:kept])} bytes were cut off",)


def test_whole_lines_that_a_crash_left_without_their_head_count(path: Path) -> None:
    """The lines are on the disk before the head is: a crash between the two loses nothing."""
    head = path.with_name("trials.jsonl.head").read_bytes()
    TrialLedger(path).add(trial(9))
    path.with_name("trials.jsonl.head").write_bytes(head)
    ledger = TrialLedger(path)
    assert (len(ledger), ledger.notes) == (6, ())


def test_a_lost_head_is_told_now_and_later(path: Path) -> None:
    """Without it the end of the file has no witness; that it was lost stays on the record."""
    path.with_name("trials.jsonl.head").unlink()
    ledger = TrialLedger(path)
    assert len(ledger) == 5
    assert "is lost" in ledger.notes[0]
    ledger.add(trial(6))
    assert "was lost by line 6" in TrialLedger(path).notes[0]


def append(path: Path, process: int, together: Barrier) -> None:
    ledger = TrialLedger(path)
    together.wait()
    for number in range(60):
        ledger.add(trial(1000 * process + number))


def test_processes_and_threads_append_at_the_same_time(path: Path) -> None:
    """Nothing is lost, nothing is torn, and the chain holds; an open ledger sees what others added."""
    watching, shared = TrialLedger(path), TrialLedger(path)
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(3)
    workers = [context.Process(target=append, args=(path, number, together)) for number in (1, 2)]
    threads = [
        threading.Thread(target=lambda base=base: [shared.add(trial(base + n)) for n in range(20)]) for base in (3000, 4000)
    ]
    for worker in workers:
        worker.start()
    together.wait()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(watching) == len(shared) == len(TrialLedger(path)) == 5 + 160
    assert TrialLedger(path).notes == ()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A folder where the file should be."""
    with pytest.raises(ConfigError, match=r"cannot use .*: .*another file"):
        TrialLedger(tmp_path).add(trial())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_not_finite_is_refused(value: float) -> None:
    """And nothing of it is recorded."""
    ledger = TrialLedger()
    with pytest.raises(ConfigError, match=r"cross 1.* not finite"):
        ledger.extend([trial(0), trial(1, sharpe=value)])
    assert len(ledger) == 0
