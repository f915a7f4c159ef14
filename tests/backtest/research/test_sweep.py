"""Sweeps: every combination, the same result wherever it is run, and nothing lost when it is stopped."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentfund import Costs, PaperBroker
from agentfund.backtest.lanes import simulate
from agentfund.backtest.research.grid import combinations, parsed
from agentfund.backtest.research.sweep import Sweep
from agentfund.backtest.research.sweep_result import SweepResult
from agentfund.backtest.trials import TrialLedger
from agentfund.core.sizing import Sizing
from agentfund.errors import BadData, ConfigError
from agentfund.feeds import Bars
from agentfund.strategies import SmaCross
from tests.backtest.research import trying
from tests.backtest.research.trying import FREE, GRID, broker, market, same

BARS = market()


def sweep(make: Any = SmaCross, grid: Any = None, bars: Any = None, **options: Any) -> Sweep:
    """Return a small sweep."""
    return Sweep(make, grid or GRID, bars or BARS, **{"broker": broker(), "limits": FREE, **options})


def all_same(left: SweepResult, right: SweepResult) -> bool:
    """Whether two sweeps came to the same, to the byte and in the same order."""
    return len(left) == len(right) and all(same(a, b) for a, b in zip(left.attempts, right.attempts, strict=True))


def test_each_trial_is_what_simulate_gives() -> None:
    """Figures, trades and returns, in the order of the grid."""
    result = sweep().run(on="here")
    assert [dict(each.parameters) for each in result.attempts] == combinations(GRID)
    for each in result.attempts:
        alone = simulate(SmaCross(**each.parameters), BARS, broker(), limits=FREE)
        assert each.metrics == {name: figure.value for name, figure in alone.metrics.items()}
        assert each.trades == len(alone.trades) > 0
        assert each.equity.tobytes() == alone.equity.tobytes()
        assert each.returns[1:].tobytes() == alone.returns.tobytes()


@pytest.mark.parametrize(
    "options", [{"workers": 1}, {"workers": 2}, {"workers": 5}, {"workers": 2, "start": "spawn"}, {}], ids=str
)
def test_workers_change_nothing(options: dict[str, Any]) -> None:
    """However many there are and however they begin, the result is the same to the byte, in the same order."""
    assert all_same(sweep().run(on="here"), sweep().run(**options))


def test_a_combination_is_tried_where_it_is_meant() -> None:
    """`where` is asked about each, and given a copy that it may spoil."""
    result = sweep(where=lambda p: p.pop("fast") > 3 and p["slow"] == 12).run(on="here")
    assert [dict(each.parameters) for each in result.attempts] == [{"fast": 5, "slow": 12}, {"fast": 8, "slow": 12}]


def test_a_trial_that_raises_is_a_row() -> None:
    """The others are as they would be without it."""
    result, plain = sweep(trying.Fails).run(workers=2), sweep().run(on="here")
    assert [each.ok for each in result.attempts] == [True, True, False, False, True, True]
    assert "it does not like five" in result.failed[0].error
    assert result.frame()["error"].ne("").tolist() == [False, False, True, True, False, False]
    assert [each.equity.tobytes() for each in result.done] == [
        each.equity.tobytes() for each in plain.attempts if each.parameters["fast"] != 5
    ]
    assert "it does not like five" in result.text()


def test_a_combination_that_cannot_be_made_is_a_row() -> None:
    """A strategy's own refusal of its parameters does not end the sweep."""
    result = sweep(grid={"fast": [5, 20], "slow": [12]}).run(on="here")
    assert [each.ok for each in result.attempts] == [True, False]
    assert "fast must be below slow" in result.failed[0].error


def test_a_worker_that_dies_once_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its trial is run again, and the log names the parameters that it was at."""
    once = str(tmp_path / "died")
    with caplog.at_level(logging.WARNING, "agentfund"):
        result = sweep(trying.Dies, {**GRID, "once": [once]}).run(workers=2)
    assert all(each.ok for each in result.attempts)
    assert len(caplog.records) == 1
    assert "fast=5" in caplog.text
    assert "SIGKILL" in caplog.text


def test_a_trial_that_kills_every_worker_is_a_row(caplog: pytest.LogCaptureFixture) -> None:
    """Two workers are lost to it, and the sweep goes on."""
    with caplog.at_level(logging.WARNING, "agentfund"):
        result = sweep(trying.Dies).run(workers=2)
    assert [each.ok for each in result.attempts] == [True, True, False, False, True, True]
    assert all(each.error.startswith("WorkerDied") and not each.lasting for each in result.failed)


def test_a_sweep_that_was_stopped_does_only_what_is_missing(tmp_path: Path) -> None:
    """What was done is kept, and the result is that of a sweep that was never stopped."""
    store = tmp_path / "sweep.jsonl"

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        sweep().run(on="here", store=store, progress=stop)
    assert str(stopped.value) == f"stopped after 2 of 6 trials; they are kept in {store}. Run the same again to do the rest."
    seen: list[tuple[int, int]] = []
    result = sweep().run(workers=2, store=store, progress=lambda *told: seen.append(told))
    assert seen[0] == (2, 6)
    assert seen[-1] == (6, 6)
    assert all_same(result, sweep().run(on="here"))
    assert len(store.read_text().splitlines()) == 6


def test_without_a_store_the_message_says_what_would_have_helped() -> None:
    """Nobody should lose an hour of work twice."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        sweep().run(on="here", progress=stop)
    assert 'store="sweep.jsonl"' in str(stopped.value)


def test_a_torn_last_line_is_run_again(tmp_path: Path) -> None:
    """As a power cut leaves it; the lines before it are kept."""
    store = tmp_path / "sweep.jsonl"
    whole = sweep().run(on="here", store=store)
    content = store.read_bytes()
    store.write_bytes(content[:-40])
    seen: list[int] = []
    assert all_same(whole, sweep().run(on="here", store=store, progress=lambda done, _: seen.append(done)))
    assert seen == [5, 6]
    assert store.read_bytes() == content


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    """Nothing is silently repaired."""
    store = tmp_path / "sweep.jsonl"
    sweep().run(on="here", store=store)
    lines = store.read_text().splitlines()
    store.write_text("\n".join([lines[0], lines[1][:50], *lines[2:]]) + "\n")
    with pytest.raises(BadData, match=r"sweep\.jsonl, line 2"):
        sweep().run(on="here", store=store)


def moved(bars: Bars) -> Bars:
    """Return the same bars with the last volume changed."""
    (column,) = bars.columns.values()
    volume = column.volume.copy()
    volume[-1] += 1
    return Bars(replace(column, volume=volume), source=bars.source)


@pytest.mark.parametrize(
    "change",
    [
        {"bars": moved(BARS)},
        {"broker": PaperBroker(90_000, max_volume_pct=1e9, max_leverage=10)},
        {"broker": PaperBroker(costs=Costs(commission_bps=2), max_volume_pct=1e9, max_leverage=10)},
        {"sizing": Sizing(risk_pct=0.5)},
        {"limits": replace(FREE, max_position_pct=90)},
        {"make": trying.Fails},
        {"make": trying.variant(50.0)},
        {"rows": 100},
        {"lane": "event"},
    ],
    ids=lambda change: "+".join(change),
)
def test_a_stored_trial_is_not_taken_for_another(change: dict[str, Any], tmp_path: Path) -> None:
    """Data, strategy and settings are part of its key."""
    store = tmp_path / "sweep.jsonl"
    sweep().run(on="here", store=store)
    seen: list[int] = []
    sweep(**change).run(on="here", store=store, progress=lambda done, _: seen.append(done))
    assert seen[0] == 0
    seen.clear()
    sweep(**change).run(on="here", store=store, progress=lambda done, _: seen.append(done))
    assert seen == [6]


def test_what_a_strategy_closes_over_is_part_of_its_key(tmp_path: Path) -> None:
    """The same code with another number in it is another strategy."""
    store = tmp_path / "sweep.jsonl"
    for threshold, known in ((50.0, 0), (60.0, 0), (50.0, 6)):
        seen: list[tuple[int, int]] = []
        sweep(trying.variant(threshold)).run(on="here", store=store, progress=lambda *told, seen=seen: seen.append(told))
        assert seen[0] == (known, 6)


def test_two_programs_do_not_write_one_store(tmp_path: Path) -> None:
    """The second one is told, before it runs anything."""
    store = tmp_path / "sweep.jsonl"

    def again(done: int, total: int) -> None:
        with pytest.raises(ConfigError, match="another program is writing"):
            sweep().run(on="here", store=store)

    sweep().run(on="here", store=store, progress=again)


def test_an_indicator_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """SMA(12) is part of three trials, and its arrays are shared."""
    made = sweep(trying.OnCounted)  # which looks once whether it sees the future
    monkeypatch.setattr(trying.Counted, "computed", [])
    made.run(on="here")
    assert sorted(trying.Counted.computed) == [3, 5, 8, 12, 20]


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        ({}, "at least one parameter"),
        ({"fast": 5}, "'fast' must be a list"),
        ({"fast": "abc"}, "'fast' must be a list"),
        ({"fast": []}, "'fast' has no value"),
        ({"fast": [5, 5]}, "'fast' has the value 5 twice"),
        ({"fast": [3], "rule": [lambda x: x]}, "'rule' has the value .*function"),
        ({"fast": [float("nan")]}, "'fast' has the value NaN"),
    ],
)
def test_a_grid_that_cannot_work_is_named(grid: Any, told: str) -> None:
    """The message names the parameter."""
    with pytest.raises(ConfigError, match=told):
        Sweep(SmaCross, grid, BARS)


def test_numbers_of_numpy_are_numbers() -> None:
    """np.arange makes a grid, and its numbers are stored as plain ones."""
    result = sweep(grid={"fast": np.arange(3, 6), "slow": (12,)}).run(on="here")
    assert [each.parameters["fast"] for each in result.attempts] == [3, 4, 5]
    assert all(type(each.parameters["fast"]) is int for each in result.attempts)


def test_a_strategy_instead_of_its_class_is_refused() -> None:
    """A sweep makes its strategies itself."""
    with pytest.raises(ConfigError, match="strategy's class"):
        Sweep(SmaCross(), GRID, BARS)  # type: ignore[arg-type]


def test_a_factory_and_a_mapping_of_strategies_work() -> None:
    """A lambda under fork, and one strategy for each symbol, give what the class gives."""
    plain = sweep().run(on="here")
    for make in (lambda fast, slow: SmaCross(fast, slow), trying.by_symbol):
        other = sweep(make).run(workers=2)
        assert [each.equity.tobytes() for each in other.attempts] == [each.equity.tobytes() for each in plain.attempts]


def test_a_lambda_cannot_be_spawned() -> None:
    """The message says so before any worker begins."""
    with pytest.raises(ConfigError, match="cannot be sent to a worker process"):
        sweep(lambda fast, slow: SmaCross(fast, slow)).run(workers=2, start="spawn")


SCRIPT = """
from agentfund.backtest.research.sweep import Sweep
from agentfund.feeds import SimulatedMarket
from agentfund import PaperBroker
from agentfund.strategies import SmaCross

class Mine(SmaCross):
    pass

if __name__ == "__main__":
    sweep = Sweep(Mine, {"fast": [3, 5], "slow": [12]}, SimulatedMarket(bars=300), broker=PaperBroker(max_volume_pct=1e9))
    print(len(sweep.run(workers=2, start=START).done))
"""


@pytest.mark.parametrize(
    ("start", "how", "told"),
    [
        ("fork", "file", "2"),
        ("spawn", "file", "2"),
        ("fork", "prompt", "2"),
        ("spawn", "prompt", "defined in a notebook or at the prompt"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")
def test_a_strategy_of_a_script_or_a_notebook_works_or_says_why(start: str, how: str, told: str, tmp_path: Path) -> None:
    """Forked workers have it; spawned ones import the script, and cannot import a prompt."""
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT.replace("START", repr(start)))
    command = [sys.executable, str(script)] if how == "file" else [sys.executable, "-c", script.read_text()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert told in done.stdout + done.stderr


STOPPED = """
import sys
from tests.backtest.research import trying
from agentfund.backtest.research.sweep import Sweep

folder, store = sys.argv[1:]
grid = {"fast": [3, 4, 5, 6, 7, 8], "slow": [12, 20], "folder": [folder], "seconds": [0.5]}
Sweep(trying.Slow, grid, trying.market(200), broker=trying.broker()).run(workers=2, store=store)
"""


def stopped(how: signal.Signals, tmp_path: Path) -> tuple[subprocess.CompletedProcess[str], list[int], int]:
    """Run a sweep in a process group of its own, end it by a signal; return how, its workers, and how many trials it kept."""
    store, folder = tmp_path / "sweep.jsonl", tmp_path / "pids"
    folder.mkdir()
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", STOPPED, str(folder), str(store)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root, start_new_session=True
    )
    until = time.monotonic() + 60
    while time.monotonic() < until and not (store.exists() and store.read_bytes().count(b"\n") >= 2):
        time.sleep(0.02)
    # Ctrl-C reaches the whole group, as at a terminal; a kill reaches the parent alone.
    if how is signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    out, err = process.communicate(timeout=60)
    workers = [int(path.stem) for path in folder.glob("*.pid")]
    while time.monotonic() < until and any(alive(each) for each in workers):
        time.sleep(0.02)
    kept = store.read_bytes().count(b"\n")
    return subprocess.CompletedProcess(command, process.returncode, out, err), workers, kept


def alive(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_ends_the_workers_and_keeps_what_was_done(tmp_path: Path) -> None:
    """The message says how to carry on, and no worker complains."""
    done, workers, kept = stopped(signal.SIGINT, tmp_path)
    assert done.returncode == -signal.SIGINT
    assert f"stopped after {kept} of 12 trials" in done.stderr
    assert done.stderr.count("Traceback") == 1
    assert 2 <= kept < 12
    assert len(workers) in (2, 3)  # the parent looks once itself whether the strategy sees the future
    assert not any(map(alive, workers))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    """Nobody is left who computes for nobody."""
    done, workers, kept = stopped(signal.SIGKILL, tmp_path)
    assert done.returncode == -signal.SIGKILL
    assert 2 <= kept < 12
    assert not any(map(alive, workers))


def test_no_worker_is_left_after_a_sweep() -> None:
    """The processes are gone when `run` returns."""
    before = multiprocessing.active_children()
    sweep().run(workers=2)
    assert multiprocessing.active_children() == before


def test_every_trial_is_counted_once(tmp_path: Path) -> None:
    """Run again, also from the store, it counts no trial twice; another market counts for itself."""
    ledger = TrialLedger(tmp_path / "trials.jsonl")
    sweep().run(workers=2, trials=ledger, store=tmp_path / "sweep.jsonl")
    assert ledger.count() == 6
    sweep().run(on="here", trials=tmp_path / "trials.jsonl", store=tmp_path / "sweep.jsonl")
    assert ledger.count() == 6
    sweep(trying.Fails).run(on="here", trials=ledger)
    assert ledger.count() == 10
    assert {trial.source for trial in ledger.trials()} == {"sweep"}


def test_trials_of_earlier_sweeps_deflate_the_best_of_this_one() -> None:
    """With the ledger, all that was tried on the data counts."""
    ledger = TrialLedger()
    alone = sweep(grid={"fast": [8], "slow": [12, 20]}).run(on="here").deflated
    sweep(grid={"fast": [2, 3, 4, 5, 6, 7], "slow": [12, 20, 40, 60]}).run(on="here", trials=ledger)
    among = sweep(grid={"fast": [8], "slow": [12, 20]}).run(on="here", trials=ledger).deflated
    assert alone is not None
    assert among is not None
    assert (alone.trials, among.trials) == (2, 26)
    assert among.expected_max > alone.expected_max


def test_the_best_is_the_highest_or_the_lowest() -> None:
    """Of drawdown and volatility less is better; equal ones come in the order of the grid."""
    result = sweep().run(on="here")
    sharpes = [each.metrics["sharpe"] for each in result.attempts]
    assert result.best().metrics["sharpe"] == max(value for value in sharpes if value is not None)
    depths = [each.metrics["max_drawdown"] or 0.0 for each in result.attempts]
    assert result.best("max_drawdown").metrics["max_drawdown"] == min(depths)
    with pytest.raises(ConfigError, match=r"no trial has a figure 'luck'; there is .*sharpe"):
        result.best("luck")


def test_rows_compound_to_the_whole() -> None:
    """Where several bars share a row, their returns are compounded, and the last row ends with the last bar."""
    fine, coarse = sweep().run(on="here"), sweep(rows=50).run(on="here")
    assert coarse.returns.shape == (50, 6)
    assert fine.returns.shape == (600, 6)
    np.testing.assert_allclose(np.prod(1 + coarse.returns, axis=0), np.prod(1 + fine.returns, axis=0), rtol=1e-12)
    assert coarse.ends[-1] == fine.ends[-1]
    assert [each.metrics for each in coarse.attempts] == [each.metrics for each in fine.attempts]
    assert coarse.returns_frame().shape == (50, 6)


def test_the_result_says_what_the_best_is_worth() -> None:
    """In the text, on the page, and in the file, with the number of trials."""
    result = sweep().run(on="here")
    assert result.honest.startswith("best of 6 trials; deflated Sharpe 0.")
    assert "probability of overfitting 0." in result.honest or "probability of overfitting 1." in result.honest
    for told in (result.text(), result.html()):
        assert result.honest[1:] in told


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    """No script, no address, and no text of a user becomes HTML."""
    bars = Bars(next(iter(BARS.columns.values())), source="<script>alert(1)</script>")
    page = sweep(trying.Fails, bars=bars).run(on="here").html()
    for word in ("<script", "http:", "https:", "url(", "src=", "@import"):
        assert word not in page
    assert "&lt;script&gt;" in page
    assert "default-src 'none'" in page


def test_a_heat_map_shows_the_median_over_other_parameters() -> None:
    """And says so; a cell without a trial is empty."""
    result = sweep(grid={"fast": [3, 5], "slow": [12, 20], "stop_pct": [1.0, 2.0, 3.0]}).run(on="here")
    drawn = result.heatmap()
    assert "sharpe over slow and fast, median over stop_pct" in drawn
    cell = np.median(
        [each.metrics["sharpe"] or 0 for each in result.done if (each.parameters["fast"], each.parameters["slow"]) == (5, 20)]
    )
    assert f"slow=20, fast=5: {cell:.2f}<" in drawn
    assert "over fast" in result.heatmap("fast", "stop_pct")
    with pytest.raises(ConfigError, match="no parameter 'slower'"):
        result.heatmap("slower")
    assert "over fast" in sweep(grid={"fast": [3, 5], "slow": [12]}).run(on="here").heatmap()


def test_a_sweep_of_failures_still_reports() -> None:
    """Text, page, table and figures say what went wrong."""
    result = sweep(trying.Fails, {"fast": [5], "slow": [12, 20]}).run(on="here")
    assert "2 trials failed" in result.text()
    assert "it does not like five" in result.html()
    assert len(result.frame()) == 2
    assert result.returns.shape == (600, 0)
    assert result.deflated is None
    with pytest.raises(ConfigError, match="every trial failed"):
        result.best()


def test_it_is_saved_in_files_that_can_be_read(tmp_path: Path) -> None:
    """Page, text, figures and tables."""
    result = sweep(trying.Fails).run(on="here")
    folder = result.save(tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == [
        "returns.csv",
        "sweep.html",
        "sweep.json",
        "sweep.txt",
        "trials.csv",
    ]
    told = json.loads((folder / "sweep.json").read_text())
    assert [trial["parameters"] for trial in told["trials"]] == combinations(GRID)


def test_a_limit_that_ended_trials_is_told() -> None:
    """Otherwise one would compare when the limit struck, not the parameters."""
    strict = replace(FREE, max_drawdown_pct=0.5)
    assert "limit of drawdown (0.5 %)" in sweep(limits=strict).run(on="here").text()
    assert "limit of drawdown" not in sweep().run(on="here").text()


@pytest.mark.parametrize(
    ("settings", "grid"),
    [
        (["fast=5,10,20", "slow=50:200:50"], {"fast": [5, 10, 20], "slow": [50, 100, 150, 200]}),
        (["stop_pct=0.5:1.0:0.1"], {"stop_pct": [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]}),
        (
            ["target_pct=none,2", "flag=true,false", "side=long"],
            {"target_pct": [None, 2], "flag": [True, False], "side": ["long"]},
        ),
        (["n=3:5"], {"n": [3, 4, 5]}),
    ],
)
def test_a_grid_can_be_typed(settings: list[str], grid: dict[str, Any]) -> None:
    """Lists, ranges with both ends, numbers, words."""
    assert parsed(settings) == grid


@pytest.mark.parametrize("setting", ["fast", "fast=", "=5", "fast=1:2:0", "fast=5:1", "fast=a:b"])
def test_a_typed_grid_that_cannot_be_read_is_named(setting: str) -> None:
    """The message repeats it."""
    with pytest.raises(ConfigError, match=setting):
        parsed([setting])


def test_plain_values_of_many_kinds_are_parameters(tmp_path: Path) -> None:
    """They are stored, compared and shown."""
    grid = {"fast": [3], "slow": [12], "target_pct": [None, 2.0], "name": ["a", "b"]}
    store = tmp_path / "sweep.jsonl"
    first = sweep(grid=grid).run(on="here", store=store)
    assert all_same(first, sweep(grid=grid).run(on="here", store=store))
    assert len(first) == 4
    assert combinations({"hold": [timedelta(hours=1), (1, 2)]}) == [{"hold": timedelta(hours=1)}, {"hold": (1, 2)}]
