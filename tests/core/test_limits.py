"""Limits: strict by default, checked when built, and told where they are looser."""

from __future__ import annotations

import math
from dataclasses import fields
from decimal import Decimal
from typing import Any

import pytest

from agentfund.core.gate import OFF, Limits
from agentfund.errors import ConfigError


def test_the_same_limits_have_the_same_digest() -> None:
    """1 and 1.0, and sets in any order; every changed limit has another."""
    assert Limits(max_leverage=1, max_order_pct=50).digest == Limits(max_leverage=1.0, max_order_pct=50.0).digest
    names = [f"S{number}" for number in range(50)]
    assert Limits(symbols=frozenset(names)).digest == Limits(symbols=frozenset(reversed(names))).digest
    changed = [Limits(**{one.name: other(one.default)}) for one in fields(Limits)]
    assert len({Limits().digest, *(one.digest for one in changed)}) == len(fields(Limits)) + 1
    assert len({Limits(), *changed}) == len(fields(Limits)) + 1


def other(value: Any) -> Any:
    """Return another value of the same kind."""
    if isinstance(value, bool):
        return not value
    return frozenset({"X"}) if isinstance(value, frozenset) else value * 2


LOOSER: dict[str, Any] = {
    "allow_short": True,
    "require_hours": False,
    "require_quote": False,
    "require_stop": False,
    "max_leverage": 2,
    "max_order_pct": 100.5,
    "haircut_pct": 0,
    "duplicate_window_s": 59,
    "max_orders_per_second": 3,
}
STRICTER: dict[str, Any] = {
    "require_status": True,
    "max_leverage": 0.5,
    "haircut_pct": 6,
    "duplicate_window_s": 61,
    "symbols": frozenset({"A"}),
    "restricted": frozenset({"A"}),
    "proposers": frozenset({"A"}),
    "max_order_quantity": 5,
}


def test_what_is_looser_than_usual_is_told_in_a_sentence() -> None:
    """And what is stricter is not."""
    assert Limits().loosened() == ()
    assert Limits(**STRICTER).loosened() == ()
    told = Limits(**LOOSER).loosened()
    assert len(told) == len(LOOSER)
    assert "max_leverage is 2; the default is 1" in told
    assert "require_stop is off; the default is on" in told


WRONG: list[tuple[str, Any, str]] = [
    ("max_leverage", 0, "must be above zero"),
    ("max_leverage", -1, "must be above zero"),
    ("max_leverage", math.nan, "must be above zero"),
    ("max_leverage", math.inf, "must be finite"),
    ("max_leverage", "2", "must be a number"),
    ("max_leverage", None, "must be a number"),
    ("max_leverage", True, "must be a number"),
    ("max_leverage", Decimal(2), "must be a number"),
    ("max_positions", 2.5, "must be a whole number"),
    ("haircut_pct", 100, "must be from 0 to below 100"),
    ("haircut_pct", math.nan, "must be from 0 to below 100"),
    ("allow_short", 1, "must be True or False"),
    ("require_stop", None, "must be True or False"),
    ("symbols", "AAPL", "must be a frozenset"),
    ("symbols", {"AAPL"}, "must be a frozenset"),
    ("restricted", frozenset({1}), "must be a frozenset of names"),
    ("proposers", frozenset({""}), "must be a frozenset of names"),
]


@pytest.mark.parametrize(("name", "value", "match"), WRONG)
def test_what_is_no_limit_is_refused_when_it_is_built(name: str, value: Any, match: str) -> None:
    """With the name of the limit."""
    with pytest.raises(ConfigError, match=f"limit {name} {match}"):
        Limits(**{name: value})


def test_zero_is_a_haircut() -> None:
    """The only number that may be zero; what is off is off by its size."""
    assert Limits(haircut_pct=0).exact["haircut_pct"] == 0
    assert Limits().max_order_quantity == OFF
