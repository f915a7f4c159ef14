"""The body of `agentfund sweep`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentfund.backtest.research.progress import shown
from agentfund.backtest.research.sweep_command import sweep_command
from agentfund.errors import ConfigError
from tests.backtest.research.trying import FREE, broker, market


def test_a_sweep_is_typed_and_left_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run again, it finds everything there, and counts nothing twice."""
    settings = ["fast=3,5,20", "slow=10:20:10"]
    for _ in range(2):
        result = sweep_command(
            "sma", market(300), settings, tmp_path, broker=broker(), limits=FREE, where=["fast<slow"], workers=1
        )
        assert [dict(each.parameters) for each in result.attempts] == [
            {"fast": 3, "slow": 10},
            {"fast": 3, "slow": 20},
            {"fast": 5, "slow": 10},
            {"fast": 5, "slow": 20},
        ]
        assert result.known is not None
        assert len(result.known) == 4
        assert "SmaCross, trials: 4 of 4" in capsys.readouterr().err
    assert {"sweep.html", "sweep.jsonl", "trials.jsonl", "trials.csv"} <= {path.name for path in tmp_path.iterdir()}


def test_a_strategy_of_ones_own_is_named_by_its_module(tmp_path: Path) -> None:
    """A class, or a function that makes strategies."""
    result = sweep_command(
        "tests.backtest.research.trying:Fails", market(200), ["fast=3", "slow=12"], tmp_path, broker=broker(), workers=1
    )
    assert result.name == "Fails"


@pytest.mark.parametrize(
    ("what", "where", "told"),
    [
        ("ema", [], "there is sma, rsi, donchian, or module:name"),
        ("nowhere:X", [], "nowhere cannot be imported"),
        ("tests.backtest.research.trying:X", [], "has no 'X'"),
        ("sma", ["fast"], "compare a parameter"),
        ("sma", ["quick<slow"], "there is fast, slow"),
        ("sma", ["fast<quick"], "'quick' is no parameter and no number"),
    ],
)
def test_what_cannot_be_read_is_named(what: str, where: list[str], told: str, tmp_path: Path) -> None:
    """And what is there is said."""
    with pytest.raises(ConfigError, match=re.escape(told)):
        sweep_command(what, market(200), ["fast=3", "slow=12"], tmp_path, where=where)


@pytest.mark.parametrize(
    ("where", "left"), [("fast>=5", 2), ("slow==12", 2), ("fast!=3", 2), ("fast > slow", 0), ("slow<=12.5", 2)]
)
def test_conditions_choose_combinations(where: str, left: int, tmp_path: Path) -> None:
    """All comparisons, with parameters and numbers."""
    settings = ["fast=3,5", "slow=12,20"]
    if not left:
        with pytest.raises(ConfigError, match="none of the 4 combinations"):
            sweep_command("sma", market(200), settings, tmp_path, where=[where], workers=1)
        return
    assert len(sweep_command("sma", market(200), settings, tmp_path, broker=broker(), where=[where], on="here")) == left


def test_progress_is_a_line_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """One at the end; what was there before is no work of this run."""
    with shown("trials") as move:
        move(3, 5)
        move(4, 5)
        move(5, 5)
    assert re.fullmatch(r"trials: 5 of 5 in [\d.]+ s\n", capsys.readouterr().err)
