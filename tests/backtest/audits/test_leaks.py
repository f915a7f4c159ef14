"""The audit against planted leaks: each is caught, and no honest twin is accused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentfund.backtest.audits.audit import Audit, audit
from agentfund.backtest.audits.fresh import POSSIBLE
from tests.backtest.audits.leaks import agents, facts, series, several, stateful  # noqa: F401  # they fill the suites
from tests.backtest.audits.leaks.honest import honest
from tests.backtest.audits.leaks.planted import LEAKS, TWINS, Planted

CUTS = 6


def told(planted: Planted, folder: Path, **options: Any) -> Audit:
    """Audit a planted leak or its twin."""
    return audit(planted.build(folder), planted.bars, **{"cuts": CUTS, **planted.more, **options})


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_caught(name: str, tmp_path: Path) -> None:
    """With a finding of its kind, that says when and what it likely is."""
    if "carried over" in LEAKS[name].kinds and not POSSIBLE:
        pytest.skip("a process cannot copy itself here, and the audit says so")
    found = told(LEAKS[name], tmp_path)
    assert {finding.kind for finding in found.findings} & set(LEAKS[name].kinds), str(found)
    assert not found.clean
    assert all(finding.hint for finding in found.findings)


@pytest.mark.parametrize("name", TWINS)
def test_an_honest_twin_is_not_accused(name: str, tmp_path: Path) -> None:
    """And something was tested."""
    found = told(TWINS[name], tmp_path)
    assert found.clean, str(found)


@pytest.mark.parametrize("block", range(10))
def test_two_hundred_honest_strategies_are_not_accused(block: int, tmp_path: Path) -> None:
    """Random indicators and rules, machines with a state, seeded chance, longer bars, refits, facts, several instruments."""
    tested = 0
    for seed in range(20 * block, 20 * block + 20):
        found = told(honest(seed), tmp_path, cuts=3, fresh=seed % 5 == 0)  # a copy of a process takes its time
        assert not found.findings, f"{honest(seed).name}: {found}"
        tested += found.tested
    assert tested >= 18  # a rule that never wants anything tests nothing


def test_the_suite_has_at_least_eighty_leaks() -> None:
    """Each under a name of its own, many beside an honest twin."""
    assert len(LEAKS) >= 80
    assert len(TWINS) >= 35
