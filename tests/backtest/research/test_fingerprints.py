"""Fingerprints of code and settings: the same for the same, another for another."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentfund.backtest.research.fingerprints import fingerprint
from agentfund.core.gate import Limits
from agentfund.indicators import EMA, SMA
from agentfund.strategies import RsiReversion, SmaCross

LEVEL = 3


class Colour(Enum):
    """Two of them."""

    RED = 1
    BLUE = 2


@dataclass
class Held:
    """Something with state."""

    value: Any


class Slotted:
    """Something with slots."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def helper(level: int) -> Any:
    """Return a function that closes over a number, and over the module's own."""
    return lambda x: x > level + LEVEL


def plus(x: int, by: int = 1) -> int:
    """Add."""
    return x + by


THINGS: dict[str, Any] = {
    "one": 1,
    "one as float": 1.0,
    "true": True,
    "text": "1",
    "none": None,
    "decimal": Decimal(1),
    "time": timedelta(1),
    "list": [1],
    "tuple": (1,),
    "pair": (1, 2),
    "nested": (1, (2,)),
    "mapping": {"a": 1},
    "other mapping": {"a": 2},
    "set": frozenset({"a", "b"}),
    "red": Colour.RED,
    "blue": Colour.BLUE,
    "array": np.arange(3.0),
    "other array": np.arange(4.0),
    "whole array": np.arange(3),
    "held 1": Held(1),
    "held 2": Held(2),
    "slotted 1": Slotted(1),
    "slotted 2": Slotted(2),
    "closure 1": helper(1),
    "closure 2": helper(2),
    "function": plus,
    "partial 1": partial(plus, by=1),
    "partial 2": partial(plus, by=2),
    "class": SmaCross,
    "other class": RsiReversion,
    "strategy": SmaCross(5, 20),
    "other strategy": SmaCross(5, 21),
    "limits": Limits(),
    "other limits": Limits(symbols=frozenset({"A", "B"})),
    "sma": SMA(5),
    "ema": EMA(5),
}


def test_different_things_have_different_fingerprints() -> None:
    """All of the above."""
    found = {name: fingerprint(thing) for name, thing in THINGS.items()}
    assert len(set(found.values())) == len(found), found


@pytest.mark.parametrize("name", THINGS)
def test_the_same_thing_has_the_same_fingerprint_in_another_process(name: str) -> None:
    """Whatever its hashes and addresses are there."""
    code = f"from tests.backtest.research.test_fingerprints import *; print(fingerprint(THINGS[{name!r}]))"
    if name not in ("set", "class", "strategy", "closure 1", "other limits", "held 1"):  # a process each is slow
        assert fingerprint(THINGS[name]) == fingerprint(THINGS[name])
        return
    root = Path(__file__).parents[3]
    told = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root, env={"PYTHONHASHSEED": seed}
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert told == {fingerprint(THINGS[name])}


def made(source: str) -> Any:
    """Return the function `f` of a piece of code."""
    namespace: dict[str, Any] = {"__name__": "mine"}
    exec(source, namespace)
    return namespace["f"]


PLAIN = "K = 2\ndef g(x): return x + 1\ndef f(x):\n    return g(x) * K > 3\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("> 3", "> 4"),
        ("> 3", ">= 3"),
        ("x + 1", "x + 2"),
        ("K = 2", "K = 3"),
        ("g(x) *", "g(x + 0) *"),
        ("def f(x)", "def f(x, y=1)"),
    ],
)
def test_a_changed_line_changes_it(old: str, new: str) -> None:
    """Also one in a function or a number that it names."""
    assert fingerprint(made(PLAIN)) == fingerprint(made(PLAIN))
    assert fingerprint(made(PLAIN)) != fingerprint(made(PLAIN.replace(old, new)))


CLASS = """
class Base:
    level = 1
    def check(self): return self.level
    @property
    def p(self): return 1
    @staticmethod
    def s(): return 1
class Mine(Base):
    def run(self): return self.check()
f = Mine
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [("level = 1", "level = 2"), ("self.level", "-self.level"), ("def p(self): return 1", "def p(self): return 2"),
     ("def s(): return 1", "def s(): return 2"), ("self.check()", "not self.check()")],
)  # fmt: skip
def test_a_changed_class_or_base_changes_it(old: str, new: str) -> None:
    """Values, methods, properties and static methods, own and inherited."""
    assert fingerprint(made(CLASS)) == fingerprint(made(CLASS))
    assert fingerprint(made(CLASS)) != fingerprint(made(CLASS.replace(old, new)))


def test_things_that_hold_themselves_end() -> None:
    """A circle is gone around once."""
    one: list[Any] = [1]
    one.append(one)
    assert len(fingerprint(one)) == 32
