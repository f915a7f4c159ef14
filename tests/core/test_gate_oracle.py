"""The gate against its contract told a second time, over hostile intents, both ways."""

from __future__ import annotations

import pytest

from agentfund.core.gate import CHECKS, check
from tests.core.gate_intents import Chance, intent, limits_of
from tests.core.gate_oracle import forbidden

PER_LIMITS = 25


def compare(seed: int, count: int) -> set[str]:
    """Judge intents both ways; return every code that the gate gave, "" among them where it allowed."""
    r = Chance(seed)
    seen = set()
    for number in range(count):
        if number % PER_LIMITS == 0:
            limits = limits_of(r)
        order, scene = intent(r)
        denial, reasons = check(order, scene, limits), forbidden(order, scene, limits)
        code = "" if denial is None else denial.code
        if (denial is None) is bool(reasons) or (code and "gate_error" not in reasons and code not in reasons):
            raise AssertionError(
                f"seed {seed}, intent {number}: the gate says {denial}, the oracle {reasons}\n{order}\n{scene}"
            )
        seen.add(code)
    return seen


@pytest.mark.parametrize("seed", range(10))
def test_the_gate_is_its_contract_over_hostile_intents(seed: int) -> None:
    """Ten times 10,000: wrong types, NaN, replays, in-flight orders, orders of unknown fate, forged ids, and good orders."""
    assert compare(seed, 10_000) >= {"", "gate_error", "schema", "duplicate", "unknown_order", "leverage", "buying_power"}


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_the_gate_is_its_contract_over_a_million_hostile_intents() -> None:
    """And every check denies some of them."""
    seen: set[str] = set()
    for seed in range(100, 200):
        seen |= compare(seed, 10_000)
    assert seen == {"", "gate_error", *(one.code for one in CHECKS)}
