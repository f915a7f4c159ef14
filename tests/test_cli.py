from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentfund.buses.sqlite import SqliteBus
from agentfund.cli import app
from agentfund.clock import EPOCH, from_micros
from agentfund.feeds.simulated import SimulatedMarket
from agentfund.messages import Call, Called, Decided, Ended, Event, Message, Opined, Opinion, Stance, Started
from agentfund.prompt import Usage
from agentfund.trading import Decision, Direction, Outcome

COMMANDS = (
    *("demo", "backtest", "estimate", "worker", "journal", "ledger", "replay", "rerun", "gate", "doctor"),
    *("paper", "live", "approve", "promote", "resolve", "adopt", "execution", "watchdog", "halt", "lift", "status"),
)
HEAD = "time,open,high,low,close,volume"
GOOD = "2024-01-01 00:15,1,2,0.5,1.5,10"
RESULTS = ["decisions.csv", "equity.csv", "fills.csv", "fund.db", "journal.md", "report.html", "report.json", "report.txt"]
WANTED = (
    "symbol bars cycles decisions vetoes orders fills final_equity total_return sharpe max_drawdown costs llm_cost_usd warnings"
)


def run(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def failed(result: Any, *words: str) -> None:
    """Assert that a command failed as it should: code 1, one line, no traceback."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    for word in words:
        assert word in result.stderr


def spawn(*args: object, before: str = "") -> subprocess.Popen[str]:
    code = f"{before}\nimport sys\nfrom agentfund.__main__ import main\nsys.exit(main())"
    command = [sys.executable, *(("-c", code) if before else ("-m", "agentfund")), *map(str, args)]
    # A job in the background inherits an ignored SIGINT, and tests may be run in one.
    before_it = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before_it)


def log_of(folder: Path) -> str:
    result = run("replay", folder, "--log")
    assert result.exit_code == 0
    return str(result.stdout)


def publish(path: Path, events: Iterable[tuple[Event, int]], fund: str = "fund") -> Path:
    """Write events, each with its cycle, as a fund would."""
    messages = [
        Message.of(
            event, id=f"{fund}-{n}", stream=fund, producer="test", time=datetime(2024, 1, 1, cycle, tzinfo=UTC), cycle=cycle
        )
        for n, (event, cycle) in enumerate(events)
    ]

    async def write() -> None:
        bus = SqliteBus(path)
        await bus.publish(messages)
        await bus.close()

    asyncio.run(write())
    return path


def started(fund: str = "fund") -> Started:
    return Started("r" * 32, fund, "autonomous", (), {}, {"class": "Test"}, {}, Decimal(1000), "0")


def decided(reason: str) -> Decided:
    when = datetime(2024, 1, 1, 1, tzinfo=UTC)
    return Decided(
        Decision(
            id="d",
            cycle=1,
            time=when,
            outcome=Outcome.HELD,
            decided_by="x",
            reason=reason,
            symbol="S",
            direction=Direction.LONG,
        )
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of bars."""
    (columns,) = SimulatedMarket("TEST", bars=2000, seed=6).columns.values()
    path = tmp_path_factory.mktemp("data") / "TEST_15m.csv"
    rows = zip(columns.start, columns.open, columns.high, columns.low, columns.close, columns.volume, strict=True)
    path.write_text(f"{HEAD}\n" + "".join(f"{from_micros(t).isoformat()},{o},{h},{lo},{c},{v}\n" for t, o, h, lo, c, v in rows))
    return path


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    assert run("backtest", "--data", data, "--out", out).exit_code == 0
    return out


# -- the door ----------------------------------------------------------------------------------------------------------


def test_without_arguments_it_shows_what_it_can_do() -> None:
    """A plain call prints the help and is no error."""
    result = run()
    assert result.exit_code == 0
    assert all(name in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_an_example(command: str) -> None:
    """The help of a command ends in something to copy."""
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: agentfund {command}" in " ".join(result.stdout.split())


def test_help_loads_nothing_heavy() -> None:
    """Importing the command line brings neither pandas nor numpy nor pydantic."""
    code = "import sys, agentfund.cli; print({'pandas', 'numpy', 'pydantic', 'sqlite3'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_without_typer_it_says_what_to_install() -> None:
    """The extra is named, and the exit code is that of a usage error."""
    process = spawn("demo", before="import sys; sys.modules['typer'] = None")
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert err == "agentfund's command line needs typer: pip install 'agentfund[cli]'\n"


def test_usage_errors_end_with_two() -> None:
    """An unknown command, a bad number and a bad time are the caller's."""
    assert run("frobnicate").exit_code == 2
    assert run("demo", "--bars", "1").exit_code == 2
    assert run("backtest", "--data", "x.csv", "--out", "o", "--from", "2024-13-01").exit_code == 2
    assert "--at" in run("replay", "fund.db", "--at", "yesterday").stderr


# -- demo --------------------------------------------------------------------------------------------------------------


def test_the_demo_leaves_its_results_and_says_what_ran(tmp_path: Path) -> None:
    """All files are there, and nobody can think that a language model or a real market was at work."""
    result = run("demo", "--out", tmp_path / "d", "--bars", 700)
    assert result.exit_code == 0
    assert "No language model was used" in result.stdout
    assert "simulated market" in result.stdout
    assert {path.name for path in (tmp_path / "d").iterdir()} >= {*RESULTS, "trades.csv"}
    assert (tmp_path / "d" / "journal.md").read_text().startswith("# Journal")


def test_the_demo_starts_afresh_and_touches_no_other_file(tmp_path: Path) -> None:
    """A second demo replaces the first one's files; a stranger's stay, and one in the way stops it before it starts."""
    (tmp_path / "notes.txt").write_text("mine")
    assert run("demo", "--out", tmp_path, "--bars", 50).exit_code == 0
    assert json.loads((tmp_path / "report.json").read_text())["bars"] == 50
    assert run("demo", "--out", tmp_path, "--bars", 60).exit_code == 0
    assert json.loads((tmp_path / "report.json").read_text())["bars"] == 60
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["fund.db", "fund.db-wal", "report.html", "journal.md"])
@pytest.mark.parametrize("command", ["demo", "backtest"])
def test_a_file_of_someone_else_is_never_replaced(tmp_path: Path, data: Path, command: str, name: str) -> None:
    """What is in the way and not on our record stays as it is, with --fresh too."""
    (tmp_path / name).write_text("mine")
    options = ["--data", data, "--fresh"] if command == "backtest" else []
    failed(run(command, "--out", tmp_path, *options), name, "another --out")
    assert (tmp_path / name).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_demo_does_not_replace_a_backtest(whole: Path) -> None:
    """Results of a run on real data are not a demo's to remove."""
    before = (whole / "fund.db").read_bytes()
    failed(run("demo", "--out", whole), "backtest")
    assert (whole / "fund.db").read_bytes() == before


# -- backtest ----------------------------------------------------------------------------------------------------------


def test_json_is_one_object_and_the_rest_goes_to_stderr(data: Path, whole: Path) -> None:
    """A program can read stdout; a run that had ended is not run again, which stderr says."""
    before = log_of(whole)
    result = run("backtest", "--data", data, "--out", whole, "--json")
    told = json.loads(result.stdout)
    assert set(WANTED.split()) <= set(told)
    assert (told["symbol"], told["bars"]) == ("TEST", 2000)
    assert told["decisions"] > 0
    assert "holds the whole run already" in result.stderr
    assert log_of(whole) == before


BAD = {
    "empty": ("", ("empty.csv", "empty")),
    "header": (HEAD, ("header.csv", "nothing below")),
    "one-row": (f"{HEAD}\n{GOOD}", ("one-row.csv", "--bar-minutes")),
    "unsorted": (f"{HEAD}\n{GOOD}\n2024-01-01 00:00,1,2,0.5,1.5,10", ("unsorted.csv, row 3", "--on-bad drop")),
    "duplicate": (f"{HEAD}\n{GOOD}\n{GOOD}", ("duplicate.csv, row 3", "--on-bad drop")),
    "nan": (f"{HEAD}\n{GOOD}\n2024-01-01 00:30,NaN,2,0.5,1.5,10", ("nan.csv, row 3", "open")),
    "negative": (f"{HEAD}\n{GOOD}\n2024-01-01 00:30,1,2,-0.5,1.5,10", ("negative.csv, row 3", "low", "-0.5")),
    "columns": ("a,b,c\n1,2,3", ("columns.csv", "time", "open")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_named_with_its_row(tmp_path: Path, name: str) -> None:
    """One line says which file, which row, what is wrong and what to do; no results are left."""
    text, words = BAD[name]
    path = tmp_path / f"{name}.csv"
    path.write_text(text)
    failed(run("backtest", "--data", path, "--out", tmp_path / "o"), *words)
    assert not (tmp_path / "o").exists()


def test_a_path_that_is_no_file_is_named(tmp_path: Path) -> None:
    """A missing file, a folder, and an extension that says nothing."""
    failed(run("backtest", "--data", tmp_path / "gone.csv", "--out", tmp_path / "o"), "gone.csv")
    failed(run("backtest", "--data", tmp_path, "--out", tmp_path / "o"), str(tmp_path), "folder")


def test_an_output_folder_that_cannot_be_is_named(tmp_path: Path, data: Path) -> None:
    """A file in the folder's place, above it, and a place where nobody can make one."""
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        failed(run("backtest", "--data", data, "--out", out), str(out), "--out")
    assert (tmp_path / "file").read_text() == "mine"
    if sys.platform == "linux":
        failed(run("backtest", "--data", data, "--out", "/proc/agentfund"), "/proc/agentfund")


def test_advice_is_given_in_options_that_exist(tmp_path: Path) -> None:
    """What the library calls an argument is an option here, and does what the error promised."""
    path = tmp_path / "two.csv"
    path.write_text(f"{HEAD}\n{GOOD}\n{GOOD}\n")
    result = run("backtest", "--data", path, "--out", tmp_path / "o", "--on-bad", "drop", "--bar-minutes", 15)
    assert result.exit_code == 0
    failed(run("backtest", "--data", path, "--out", tmp_path / "o", "--on-bad", "drop", "--tz", "Mars/X"), "--tz Mars/X")


def test_dates_choose_the_bars_and_a_last_day_is_included(tmp_path: Path, data: Path) -> None:
    """A simulated day has 26 bars of 15 minutes."""
    options = ["--from", "2024-01-03", "--to", "2024-01-04", "--symbol", "ANY", "--json"]
    told = json.loads(run("backtest", "--data", data, "--out", tmp_path, *options).stdout)
    assert (told["bars"], told["symbol"]) == (52, "ANY")
    assert told["start"].startswith("2024-01-03")
    assert told["end"].startswith("2024-01-04")


def test_costs_are_options(tmp_path: Path, data: Path) -> None:
    """A run without costs has none, and says so."""
    free = ["--commission-bps", 0, "--half-spread-bps", 0, "--slippage-bps", 0, "--to", "2024-03-01", "--json"]
    told = json.loads(run("backtest", "--data", data, "--out", tmp_path, *free).stdout)
    assert told["fills"] > 0
    assert told["costs"] == 0
    assert "commission 0 bps" in " ".join(told["execution"])


def test_another_run_is_refused_until_fresh_is_given(tmp_path: Path, data: Path) -> None:
    """A log is carried on by its own run alone; --fresh removes our files and no other."""
    short = ["backtest", "--data", data, "--out", tmp_path, "--to", "2024-01-10"]
    (tmp_path / "notes.txt").write_text("mine")
    assert run(*short).exit_code == 0
    before = log_of(tmp_path)
    failed(run(*short, "--cash", 5000), "cash changed", "--fresh", "another --out")
    assert log_of(tmp_path) == before
    assert run(*short, "--cash", 5000, "--fresh").exit_code == 0
    assert log_of(tmp_path) != before
    assert (tmp_path / "notes.txt").read_text() == "mine"


FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, 250_000))"


@pytest.mark.parametrize("how", ["killed", "interrupted", "disk full"])
def test_an_interrupted_run_ends_in_the_same_log(tmp_path: Path, data: Path, whole: Path, how: str) -> None:
    """kill -9, Ctrl-C and a disk that fills up (a limit on file size stands for it): the same command carries on."""
    if sys.platform == "win32":
        pytest.skip("signals and limits of POSIX")
    command = ["backtest", "--data", data, "--out", tmp_path]
    process = spawn(*command, before=FULL if how == "disk full" else "")
    while how != "disk full" and sum(path.stat().st_size for path in tmp_path.glob("fund.db*")) < 250_000:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    if how != "disk full":
        process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == {"killed": -signal.SIGKILL, "interrupted": 130, "disk full": 1}[how]
    assert "Traceback" not in err
    assert out == ""
    if how != "killed":
        assert re.search(r"stopped after bar [1-9][\d,]*; run the same command again to carry on\n$", err)
    part = log_of(tmp_path)
    assert 1 < len(part.splitlines()) < len(log_of(whole).splitlines())
    result = run(*command)
    assert result.exit_code == 0
    assert "carrying on after bar" in result.stderr
    assert log_of(tmp_path) == log_of(whole)
    assert (tmp_path / "report.json").read_bytes() == (whole / "report.json").read_bytes()


def test_two_runs_give_the_same_log(tmp_path: Path, data: Path, whole: Path) -> None:
    """What `replay --log` prints can be compared with diff."""
    assert run("backtest", "--data", data, "--out", tmp_path).exit_code == 0
    assert log_of(tmp_path) == log_of(whole)
    assert log_of(whole).count('"type":"Decided"') > 1


def test_a_log_that_may_not_be_written_is_named_and_read(tmp_path: Path, data: Path) -> None:
    """Root may write anything, so root gives that right up first (setpriv, without the capability dac_override)."""
    command = ["backtest", "--data", str(data), "--out", str(tmp_path), "--to", "2024-01-05"]
    assert run(*command).exit_code == 0
    (tmp_path / "fund.db").chmod(0o444)
    privileged = hasattr(os, "geteuid") and os.geteuid() == 0
    setpriv = shutil.which("setpriv")
    if privileged and setpriv is None:
        pytest.skip("root without setpriv may write anything")
    lesser = [str(setpriv), "--bounding-set=-dac_override"] if privileged else []
    program = [*lesser, sys.executable, "-m", "agentfund"]
    done = subprocess.run([*program, *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: .*fund\.db cannot be written: it is read-only.*\n", done.stderr)
    read = subprocess.run([*program, "replay", tmp_path, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(read.stdout)["ended"] is True


# -- language models ---------------------------------------------------------------------------------------------------

ROUTES = """
import os
from dataclasses import replace
from decimal import Decimal
from agentfund.errors import BadCredentials
from agentfund.llms.rules import Rules
class Tiny:
    name = "tiny"
    def __init__(self, llm="m1", base_url="http://here"):
        self.llm, self.settings = llm, base_url
    async def check(self):
        return "" if "TINY_KEY" in os.environ else "TINY_KEY is not set: set it"
    async def complete(self, prompt):
        if why := await self.check():
            raise BadCredentials(why)
        usd = Decimal("0.01")
        return replace(await Rules().complete(prompt), route=self.name, llm=self.llm, billed_usd=usd, notional_usd=usd)
    def worst_case_usd(self, prompt):
        return Decimal("0.01")
class Dated(Tiny):
    name = "dated"
    adds = "today's date"
"""


@pytest.fixture
def tiny(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone else's package of two routes, which answer as the rules do and bill a cent; their key is set."""
    folder = tmp_path_factory.mktemp("package")
    info = folder / "tiny-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[agentfund.llms]\ntiny = tiny_routes:Tiny\ndated = tiny_routes:Dated\n")
    (folder / "tiny_routes.py").write_text(ROUTES)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("TINY_KEY", "x")


@pytest.fixture(scope="module")
def brief(data: Path) -> list[str]:
    """The command of a short backtest, but for its folder."""
    return ["backtest", "--data", str(data), "--to", "2024-03-06"]


@pytest.mark.usefixtures("tiny")
def test_language_models_answer_in_place_of_the_rules(tmp_path: Path, brief: list[str]) -> None:
    """The estimate comes first, on stderr; who decides as the rules do ends where they do, and each call is in the ledger."""
    result = run(*brief, "--out", tmp_path / "llm", "--llm", "tiny:m2", "--budget-usd", 100, "--json")
    assert result.exit_code == 0
    assert re.search(r"^regime_classifier +tiny +m2 ", result.stderr, re.MULTILINE)
    told = json.loads(result.stdout)
    assert run(*brief, "--out", tmp_path / "rules").exit_code == 0
    assert (tmp_path / "llm" / "equity.csv").read_bytes() == (tmp_path / "rules" / "equity.csv").read_bytes()
    assert told["fills"] > 0
    spent = json.loads(run("ledger", tmp_path / "llm", "--json").stdout)
    assert spent["total"]["billed_usd"] == f"{Decimal(told['llm_cost_usd']):.2f}"
    assert set(spent["by_route"]) == {"tiny"}
    assert set(spent["by_llm"]) == {"m2"}
    assert spent["by_agent"]["regime_classifier"]["calls"] == told["bars"]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("option", ["--budget-usd", "--budget-usd-per-day"])
def test_a_run_that_a_budget_would_stop_does_not_begin(tmp_path: Path, brief: list[str], option: str) -> None:
    """The estimate says why, in the words of the command line; nothing is asked and no log is left, until a person says yes."""
    command = [*brief, "--out", tmp_path, "--llm", "tiny", option, "0.5"]
    result = run(*command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"! over budget: {option} is 0.5 USD: about" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: a budget would stop this run")
    assert list(tmp_path.iterdir()) == []
    stopped = run(*command, "--yes")
    assert stopped.exit_code == 1
    assert "nobody answered" in stopped.stderr
    assert stopped.stderr.splitlines()[-1].endswith("; run the same command again to carry on")
    assert json.loads(run("ledger", tmp_path, "--json").stdout)["total"]["billed_usd"] == "0.50"
    assert run(*command[:-1], "50", "--yes").exit_code == 0
    spent = json.loads(run("ledger", tmp_path, "--json").stdout)
    assert spent["by_outcome"]["ok"]["calls"] == Decimal(spent["total"]["billed_usd"]) * 100 > 50


@pytest.mark.usefixtures("tiny")
def test_a_run_that_costs_money_needs_a_budget(tmp_path: Path, brief: list[str]) -> None:
    """Nobody spends without a limit by leaving an option out."""
    result = run(*brief, "--out", tmp_path, "--llm", "tiny")
    assert result.exit_code == 1
    assert re.search(r"error: this run would ask language models for about \d+\.\d\d USD, and no budget", result.stderr)
    assert run(*brief, "--out", tmp_path, "--llm", "tiny", "--yes").exit_code == 0
    assert run(*brief, "--out", tmp_path / "free", "--llm", "rules").exit_code == 0


@pytest.mark.usefixtures("tiny")
def test_a_recorded_run_is_replayed_by_the_same_command_without_a_key(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every answer is on the cassette, so nothing is asked and nothing is billed; an estimate makes no cassette."""
    tape = tmp_path / "tapes" / "answers.db"
    options = ["--data", data, "--to", "2024-01-05", "--llm", "tiny", "--budget-usd", "9", "--record", tape, "--json"]
    assert json.loads(run("estimate", *options).stdout)["billed_usd"] == "6.240000"  # no agent is known not to be asked
    assert not tape.parent.exists()
    first = run("backtest", *options, "--out", tmp_path / "first")
    assert json.loads(run("estimate", *options).stdout)["billed_usd"] == "0.000000"
    monkeypatch.delenv("TINY_KEY")
    again = run("backtest", *options, "--out", tmp_path / "again")
    before, after = json.loads(first.stdout), json.loads(again.stdout)
    assert (before["llm_calls"], before["llm_cost_usd"]) == (104, 1.04)
    assert (after["llm_calls"], after["llm_cost_usd"]) == (104, 0)
    assert again.stderr.splitlines() == [
        "tiny cannot be used here: TINY_KEY is not set: set it",
        "nobody can be asked, so each answer must be on the cassette",
    ]
    options[3] = "2024-01-08"
    longer = run("backtest", *options, "--out", tmp_path / "longer")
    assert (longer.exit_code, longer.stdout) == (1, "")
    assert "has no answer" in longer.stderr
    assert longer.stderr.splitlines()[-1].startswith("stopped after bar 105")


@pytest.mark.usefixtures("tiny")
def test_a_run_that_nobody_could_answer_does_not_begin(
    tmp_path: Path, brief: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the routes lack is said at once, not once for each bar; a second route that can be used is enough."""
    monkeypatch.delenv("TINY_KEY")
    result = run(*brief, "--out", tmp_path, "--llm", "tiny", "--budget-usd", 100)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "tiny cannot be used here: TINY_KEY is not set: set it",
        "error: no route of --llm can be used here; what each of them needs is said above",
    ]
    assert run(*brief, "--out", tmp_path, "--llm", "tiny,rules").exit_code == 0


@pytest.mark.usefixtures("tiny")
def test_a_route_that_tells_the_date_is_asked_about_real_data_only_when_insisted(tmp_path: Path, brief: list[str]) -> None:
    """The error says how, in options that exist."""
    command = [*brief, "--out", tmp_path, "--llm", "dated", "--budget-usd", "100"]
    result = run(*command)
    assert result.exit_code == 1
    assert "--insist dated" in result.stderr
    assert "Backtest(" not in result.stderr
    assert run(*command, "--insist", "dated").exit_code == 0


@pytest.mark.usefixtures("tiny")
def test_an_estimate_is_made_without_a_key_and_asks_nobody(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is on stdout, as text or as JSON; that a budget would not do is an answer, not an error."""
    monkeypatch.delenv("TINY_KEY")
    command = ["estimate", "--data", data, "--llm", "tiny", "--budget-usd", "5", "--bars", "60", "--seconds-per-call", "2"]
    shown, read = run(*command), run(*command, "--json")
    assert shown.exit_code == read.exit_code == 0
    assert "rehearsed over 60 of 2,000 bars" in shown.stdout
    assert "! over budget: --budget-usd is 5 USD" in shown.stdout
    told = json.loads(read.stdout)
    assert told["by_route"]["tiny"]["calls"] == told["calls"] > 2000
    assert float(told["billed_usd"]) == pytest.approx(told["calls"] / 100, abs=0.01)
    assert told["seconds_per_call"] == 2


def test_words_that_name_no_route_are_told_what_to_write(data: Path) -> None:
    """One line, with what there is."""
    for word, *words in (
        ("nobody", "'nobody'", "there is", "rules", "local"),
        ("scripted", "needs arguments"),
        ("rules:m", "takes no model"),
        ("rules:m@http://127.0.0.1:1/v1", "takes no model and no address"),
        ("rules,rules", "names rules twice"),
        (",", "names no route"),
        ("a:b@ftp://x", "cannot be read"),
        ("local:m", "local:MODEL@http://127.0.0.1:11434/v1"),
    ):
        failed(run("estimate", "--data", data, "--llm", word), *words)
    failed(run("estimate", "--data", data, "--llm", "rules", "--budget-usd", "much"), "--budget-usd must be", "'much'")


def test_options_about_language_models_need_one(tmp_path: Path, data: Path) -> None:
    """They would be without effect, and somebody would believe that a budget holds."""
    for option in ("--budget-usd", "--budget-usd-per-day", "--record", "--insist"):
        failed(run("backtest", "--data", data, "--out", tmp_path / "o", option, "1"), option, "--llm")


# -- reading a log -----------------------------------------------------------------------------------------------------


def test_the_journal_tells_every_decision(whole: Path, tmp_path: Path) -> None:
    """On stdout and in a file it is the same text, with a heading for each decision."""
    shown = run("journal", whole).stdout
    assert run("journal", whole / "fund.db", "--out", tmp_path / "j.md").exit_code == 0
    assert (tmp_path / "j.md").read_text() == shown == (whole / "journal.md").read_text()
    assert shown.count("\n## ") == log_of(whole).count('"type":"Decided"')


def test_the_journal_is_not_written_over_the_log(whole: Path) -> None:
    """The log is what everything else can be made from again."""
    before = (whole / "fund.db").read_bytes()
    failed(run("journal", whole, "--out", whole / "fund.db"), "the log")
    assert (whole / "fund.db").read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_and_a_device_is_not_replaced(whole: Path) -> None:
    """/dev/full refuses every write, and is still a device afterwards."""
    failed(run("journal", whole, "--out", "/dev/full"), "/dev/full", "No space")
    assert not Path("/dev/full").is_file()


def test_what_an_agent_said_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """Escape sequences are shown, not sent; square brackets are not taken for styles."""
    opinion = Opinion("a[/red]", "X", Stance.ABSTAINS, reason="\x1b[2J[/bold]")
    log = publish(tmp_path / "f.db", [(started(), 0), (Opined(opinion), 1), (decided("\x1b]0;owned\x07"), 1)])
    for command in ("journal", "replay", "ledger"):
        result = run(command, log)
        assert result.exit_code == 0
        assert "\x1b" not in result.stdout
        assert "\x07" not in result.stdout
    assert "\\x1b[2J[/bold]" in run("replay", log).stdout


def test_the_ledger_adds_up_what_was_billed(tmp_path: Path) -> None:
    """To the last digit, by agent, route, language model, day and outcome; money in JSON is text, so that nothing rounds it."""
    calls = [
        Call("a", "api", "m", "ok", Usage(10, 3, 4, 2), billed_usd=Decimal("0.10000000000000000001")),
        Call("b", "api", "m", "Refused", billed_usd=Decimal("0.2")),
        Call("b", "flat", "n", "ok", Usage(7, 1), notional_usd=Decimal("0.05")),
    ]
    log = publish(tmp_path / "f.db", [(started(), 0), *((Called(call), n + 1) for n, call in enumerate(calls))])
    told = json.loads(run("ledger", log, "--json").stdout)
    assert told["total"]["billed_usd"] == "0.30000000000000000001"
    assert told["by_agent"]["b"]["ok"] == 1
    assert (told["by_route"]["flat"]["billed_usd"], told["by_route"]["flat"]["notional_usd"]) == ("0", "0.05")
    assert set(told["by_outcome"]) == {"ok", "Refused"}
    assert set(told["by_day"]) == {"2024-01-01"}
    assert [row["agent"] for row in told["calls"]] == ["a", "b", "b"]
    assert told["calls"][0]["cache_write_tokens"] == 2
    tables = run("ledger", log).stdout
    assert [line.split()[0] for line in tables.splitlines() if " calls  ok " in line] == ["agent", "route", "day"]
    assert "0.3000" in tables
    alone = run("ledger", log, "--by", "llm").stdout.splitlines()
    assert [line.split()[0] for line in alone if line[0] not in "-*"] == ["llm", "m", "n", "total"]
    assert run("ledger", log, "--by", "colour").exit_code == 2


def test_a_long_run_is_not_shown_day_by_day(tmp_path: Path) -> None:
    """Its days are there for whoever asks."""
    months = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(32)]
    events: list[Event] = [started(), *(Called(Call("a", "api", "m", "ok")) for _ in months)]
    messages = [
        Message.of(event, id=f"{n}", stream="fund", producer="test", time=time, cycle=n)
        for n, (event, time) in enumerate(zip(events, [months[0], *months], strict=True))
    ]

    async def write() -> None:
        bus = SqliteBus(tmp_path / "f.db")
        await bus.publish(messages)
        await bus.close()

    asyncio.run(write())
    told = run("ledger", tmp_path / "f.db").stdout
    assert "2024-02-01" not in told
    assert "The calls are of 32 days; --by day shows them." in told
    assert "2024-02-01" in run("ledger", tmp_path / "f.db", "--by", "day").stdout


def test_a_state_is_rebuilt_from_the_log_alone(whole: Path) -> None:
    """At every decision, cash is what the fills up to it leave, counted here from the lines of the log."""
    lines = [json.loads(line) for line in log_of(whole).splitlines()]
    cycles = [line["cycle"] for line in lines if line["type"] == "Decided"]
    for cycle in cycles[:3]:
        state = json.loads(run("replay", whole, "--at", f"cycle:{cycle}", "--json").stdout)
        cash = Decimal(100_000)
        for line in lines:
            if line["type"] == "Filled" and line["cycle"] <= cycle:
                fill = line["payload"]["fill"]
                sign = 1 if fill["side"] == "buy" else -1
                cash -= sign * Decimal(fill["quantity"]) * Decimal(fill["price"]) + Decimal(fill["fee"])
        assert Decimal(state["cash"]) == cash
        assert state["last_decision"]["cycle"] == state["cycle"] == cycle
        time = next(line["time"] for line in lines if line["cycle"] == cycle)
        assert json.loads(run("replay", whole, "--at", time, "--json").stdout) == state
        naive = time.removesuffix("+00:00")
        assert json.loads(run("replay", whole, "--at", naive, "--json").stdout) == state


def test_the_end_is_shown_where_no_moment_is_given(whole: Path) -> None:
    """Its equity is the report's."""
    state = json.loads(run("replay", whole, "--json").stdout)
    report = json.loads((whole / "report.json").read_text())
    assert state["ended"] is True
    assert float(state["equity"]) == pytest.approx(report["final_equity"], abs=0.01)
    assert set(state["opinions"]) >= {"regime_classifier", "strategist"}
    assert "Last decision" in run("replay", whole).stdout


def test_a_moment_before_the_first_cycle_is_an_error(whole: Path) -> None:
    """Nothing had been seen yet, which is not the same as an empty fund; the fund before it can be asked for."""
    for more in ((), ("--log",), ("--json",)):
        failed(run("replay", whole, "--at", "2023-12-31", *more), "before the first message")
    assert json.loads(run("replay", whole, "--at", "cycle:0", "--json").stdout)["cash"] == "100000.00"


def test_lines_end_at_the_moment_too(whole: Path) -> None:
    """`--log --at` gives the beginning of the log and nothing later."""
    every = log_of(whole)
    cycle = json.loads(every.splitlines()[len(every.splitlines()) // 2])["cycle"]
    part = run("replay", whole, "--log", "--at", f"cycle:{cycle}").stdout
    assert every.startswith(part)
    assert json.loads(part.splitlines()[-1])["cycle"] == cycle


@pytest.mark.parametrize("command", ["journal", "ledger", "replay"])
def test_what_is_no_log_of_ours_is_refused_untouched(tmp_path: Path, whole: Path, command: str) -> None:
    """A missing file is not made, a stranger's is not touched, a newer one is not guessed at."""
    note, newer = tmp_path / "note.db", tmp_path / "newer.db"
    note.write_text("not a database")
    shutil.copy(whole / "fund.db", newer)
    database = sqlite3.connect(newer)
    database.execute("PRAGMA user_version = 999")
    database.close()
    failed(run(command, tmp_path / "gone.db"), "gone.db", "no log")
    failed(run(command, note), "note.db", "not a database")
    failed(run(command, newer), "newer.db", "999", "upgrade")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["newer.db", "note.db"]
    assert note.read_text() == "not a database"


def test_a_message_that_does_not_fit_its_type_is_named(tmp_path: Path) -> None:
    """A damaged log gives one line with the place, not a traceback."""
    log = publish(tmp_path / "f.db", [(started(), 0)])

    async def spoil() -> None:
        bus = SqliteBus(log)
        await bus.publish([Message("x", "fund", "fund", "Filled", {"fill": 7}, "test", EPOCH)])
        await bus.close()

    asyncio.run(spoil())
    failed(run("replay", log), "f.db", "message 2", "Filled")


def test_a_fund_is_chosen_where_a_log_holds_several(tmp_path: Path) -> None:
    """Nobody is shown another fund's money by accident."""
    log = publish(tmp_path / "f.db", [(started("one"), 0), (Ended(1, 1, {}, Decimal(1)), 1)], "one")
    publish(log, [(started("two"), 0), (Ended(2, 2, {}, Decimal(2)), 2)], "two")
    failed(run("replay", log), "--fund one", "--fund two")
    failed(run("replay", log, "--fund", "three"), "'three'")
    assert json.loads(run("replay", log, "--fund", "two", "--json").stdout)["equity"] == "2"


def test_a_reader_who_leaves_early_is_no_error(whole: Path) -> None:
    """`replay --log | head -1` says nothing on stderr."""
    process = spawn("replay", whole, "--log")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("{")
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait()
    process.stderr.close()
