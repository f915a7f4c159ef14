"""How a person names an order."""

from __future__ import annotations

import pytest

from agentfund.errors import ConfigError
from agentfund.live.words import meant

ORDERS = ("3fa94c07aa", "3fa94c07bb", "77", "77aa00bb")


@pytest.mark.parametrize(
    ("given", "order"), [("3fa94c07a", "3fa94c07aa"), ("77aa00", "77aa00bb"), ("77", "77"), ("3fa94c07bb", "3fa94c07bb")]
)
def test_an_order_is_meant_by_its_whole_name_or_six_characters_of_it(given: str, order: str) -> None:
    """A whole name counts however short it is, and before names that begin with it."""
    assert meant(given, ORDERS) == order


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "at least 6 characters"),
        ("77aa0", "at least 6 characters"),
        ("3fa94c", "fits 2 orders, give more of it: 3fa94c07aa, 3fa94c07bb"),
        ("99aa00", "no order begins with '99aa00'"),
    ],
)
def test_what_could_mean_another_order_is_refused(given: str, words: str) -> None:
    """Too little of a name, a beginning of two, and one of none."""
    with pytest.raises(ConfigError, match=words):
        meant(given, ORDERS)
