"""`agentfund rerun`: exactly, or with something changed; one line and a code where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentfund import SqliteBus
from agentfund.cli import app
from agentfund.clock import from_micros
from agentfund.feeds import SimulatedMarket


def call(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folder of a backtest over a part of a file of bars, and the file."""
    folder = tmp_path_factory.mktemp("rerun")
    columns = SimulatedMarket("SIM", bars=1_400, seed=5).columns["SIM"]
    data = folder / "SIM.csv"
    names = ("open", "high", "low", "close", "volume")
    with data.open("w", encoding="utf-8") as file:
        file.write("time,open,high,low,close,volume\n")
        for at, start in enumerate(columns.start):
            row = ",".join(str(getattr(columns, name)[at]) for name in names)
            file.write(f"{from_micros(int(start)):%Y-%m-%d %H:%M},{row}\n")
    done = call("backtest", "--data", data, "--out", folder / "out", "--from", "2024-01-03")
    assert done.exit_code == 0, done.stderr
    return folder / "out", data


def test_a_run_of_which_nothing_is_changed_is_compared(run: tuple[Path, Path]) -> None:
    """The part of the file that it saw is found; the exit code says that nothing differs."""
    log, data = run
    done = call("rerun", log, "--data", data)
    assert done.exit_code == 0, done.output
    assert "messages compared: the same" in done.stdout


def test_a_log_that_was_changed_ends_in_exit_code_1(run: tuple[Path, Path], tmp_path: Path) -> None:
    """With the difference."""
    import asyncio

    from tests.replays.making import messages_of, tampered

    log, data = run

    async def spoil() -> None:
        clean, other = SqliteBus(log / "fund.db", read_only=True), SqliteBus(tmp_path / "fund.db")
        messages = await messages_of(clean)
        at = next(at for at, message in enumerate(messages) if message.type == "Filled")
        await other.publish(tampered(messages, at, fill__price="1.5"))
        await clean.close()
        await other.close()

    asyncio.run(spoil())
    done = call("rerun", tmp_path, "--data", data, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["difference"]["field"] == "payload.fill.price"


def test_limits_are_changed_by_name(run: tuple[Path, Path], tmp_path: Path) -> None:
    """Within a window, with a page of both runs; nobody is asked."""
    log, data = run
    page = tmp_path / "both.html"
    options = ("--limits", "max_order_pct=30", "--limits", "sizing.risk_pct=0.9", "--from", "cycle:700", "--to", "2024-03-15")
    done = call("rerun", log, "--data", data, *options, "--html", page)
    assert done.exit_code == 0, done.output
    assert "Changed: limits.max_order_pct 100 -> 30; sizing.risk_pct 1 -> 0.9" in done.stdout
    assert "Asked: nobody" in done.stdout
    assert "cycles 700 to 1," in done.stdout
    assert str(page) in done.stdout
    assert "<svg" in page.read_text(encoding="utf-8")


def test_other_agents_come_from_a_file(run: tuple[Path, Path], tmp_path: Path) -> None:
    """Those that changed are asked, and no other."""
    log, data = run
    code = (
        "from agentfund import Verdict\nfrom agentfund.specialists import RiskGate, desk\n\n\n"
        "class Never(RiskGate):\n    def rule(self, context):\n        return Verdict(approved=False, reason='never')\n\n\n"
        "def make(bars):\n    return [Never(name='risk_gate') if a.name == 'risk_gate' else a for a in desk()]\n"
    )
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    done = call("rerun", log, "--data", data, "--agents", f"{tmp_path / 'mine.py'}:make", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert list(told["asked"]) == ["risk_gate"]
    assert told["diff"]["replayed"]["orders"] == 0 < told["diff"]["recorded"]["orders"]


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "a setting that is none": (("--limits", "max_fun=1"), "write NAME=VALUE"),
    "a setting without a value": (("--limits", "max_positions"), "write NAME=VALUE"),
    "a value that is no number": (("--limits", "max_positions=many"), "is no number"),
    "a switch that is none": (("--limits", "allow_short=maybe"), "write on or off"),
    "a window beyond the run": (("--from", "cycle:99999"), "lies beyond the run"),
    "a page of nothing": (("--html", "page.html"), "--html shows what was changed"),
    "an agent that is not there": (("--changed", "nobody"), "has no agent 'nobody'"),
    "language models without a budget": (("--llm", "anthropic", "--changed", "risk_gate"), "give --budget-usd"),
    "another fund": (("--fund", "other"), "holds no run of a fund 'other'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_ends_in_one_line(run: tuple[Path, Path], case: str) -> None:
    """And exit code 1."""
    log, data = run
    options, words = REFUSED[case]
    done = call("rerun", log, "--data", data, *options)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr


def test_other_bars_are_refused(run: tuple[Path, Path], tmp_path: Path) -> None:
    """As is a log of other agents than the desk, where nobody says where they are."""
    log, data = run
    short = tmp_path / "SIM.csv"
    short.write_text("\n".join(data.read_text(encoding="utf-8").splitlines()[:900]), encoding="utf-8")
    done = call("rerun", log, "--data", short)
    assert (done.exit_code, "has the fingerprint" in done.stderr) == (1, True)
    alone = tmp_path / "alone"
    assert call("backtest", "--data", short, "--out", alone, "--agents", "sma").exit_code == 0
    done = call("rerun", alone, "--data", short)
    assert "the log is of sma_cross, not of the desk" in done.stderr
    done = call("rerun", alone, "--data", short, "--agents", "sma")
    assert (done.exit_code, "messages compared: the same" in done.stdout) == (0, True)
    done = call("rerun", alone, "--data", short, "--agents", "sma", "--limits", "allow_short=on")
    assert (done.exit_code, "Asked: nobody" in done.stdout) == (0, True)
