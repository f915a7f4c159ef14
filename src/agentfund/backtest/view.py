"""What a strategy sees of the newest bar, and the loops that move it from bar to bar until something happens."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agentfund.strategies.strategy import FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from agentfund.market import Columns, Floats
    from agentfund.strategies import Strategy

_CONDITIONS = ("enter", "leave", "decide", "stop", "target")


class View:
    """What a strategy sees of the newest bar, by name; four names are slots, the others are looked up when they are read."""

    __slots__ = ("a", "at", "b", "c", "d")


def view_of(
    strategy: Strategy, looked: Mapping[str, Any], columns: Columns, *, slots: bool = True
) -> tuple[View, list[Floats]]:
    """Return a view for one instrument, and the columns that stand in its slots, at most four.

    The slots go to numbers that the strategy's code names; whatever else it reads is looked up.
    """
    known = {name: getattr(columns, name) for name in FIELDS}
    known |= {name: each for name, each in looked.items() if not isinstance(each, tuple)}
    named = {name for method in _CONDITIONS for name in getattr(type(strategy), method).__code__.co_names}
    first = [name for name in (*looked, "close", "open", "high", "low", "volume") if name in known and name in named]
    first = first[:4] if slots else []
    names: dict[str, Any] = {name: View.__dict__[slot] for name, slot in zip(first, "abcd", strict=False)}
    for name, array in known.items():
        if name not in names:
            names[name] = property(_reader(np.ascontiguousarray(array).data))
    for name, each in looked.items():
        if isinstance(each, tuple):
            parts = zip(each._fields, each, strict=True)  # type: ignore[attr-defined]  # a NamedTuple
            names[name] = _grouped({field: np.ascontiguousarray(part).data for field, part in parts})
    kind = type("Now", (View,), {"__slots__": (), **names})
    made: View = kind()
    for name, each in looked.items():
        if isinstance(each, tuple):
            names[name].owner = made
    return made, [known[name] for name in first]


def _reader(column: Any) -> Any:
    return lambda self: column[self.at]


def _grouped(parts: Mapping[str, Any]) -> Any:
    def make(name: str) -> Any:
        column = parts[name]
        return property(lambda self: column[self.owner.at])

    return type("Group", (), {"__slots__": ("owner",), **{name: make(name) for name in parts}})()


class Going(NamedTuple):
    """Loops over rows of bars, each a bar's number and what stands in the slots; they stop where something happens.

    Attributes:
        rows: returns an iterator over the rows of some bars; the loops share it.
        step: goes to the next bar; returns whether there is one.
        entering: goes to the next bar at which a condition holds; returns whether there is one.
        holding: goes to the next bar that touches either price, or at which a condition holds; returns whether there is one.
        deciding: goes to the next bar at which an own `decide` wants something; returns what, None at the end.
    """

    rows: Any
    step: Any
    entering: Any
    holding: Any
    deciding: Any


def going(slots: Sequence[Floats]) -> Going:
    """Return the loops for these slots; where there are none, nothing but the bar's number is set."""
    return _SLOTTED if slots else _BARE


def _bare_rows(slots: Sequence[Floats], begin: int, end: int) -> Iterator[int]:
    return iter(range(begin, end))


def _bare_step(seen: Any, rows: Any) -> bool:
    for seen.at in rows:
        return True
    return False


def _bare_entering(seen: Any, rows: Any, enter: Any) -> bool:
    for seen.at in rows:  # noqa: SIM110 - a generator takes longer
        if enter(seen):
            return True
    return False


def _bare_holding(seen: Any, rows: Any, leave: Any, lows: Any, highs: Any, floor: float, ceiling: float) -> bool:
    for bar in rows:
        seen.at = bar
        if lows[bar] <= floor or highs[bar] >= ceiling or leave(seen):
            return True
    return False


def _bare_deciding(seen: Any, rows: Any, decide: Any) -> Any:
    for seen.at in rows:
        if (wanted := decide(seen, False)) is not None:
            return wanted
    return None


def _rows(slots: Sequence[Floats], begin: int, end: int) -> Iterator[tuple[Any, ...]]:
    lists: list[Any] = [each[begin:end].tolist() for each in slots]
    return zip(range(begin, end), *lists, *[repeat(0.0)] * (4 - len(lists)), strict=False)


def _step(seen: Any, rows: Any) -> bool:
    for seen.at, seen.a, seen.b, seen.c, seen.d in rows:
        return True
    return False


def _entering(seen: Any, rows: Any, enter: Any) -> bool:
    for seen.at, seen.a, seen.b, seen.c, seen.d in rows:  # noqa: SIM110 - a generator takes longer
        if enter(seen):
            return True
    return False


def _holding(seen: Any, rows: Any, leave: Any, lows: Any, highs: Any, floor: float, ceiling: float) -> bool:
    for bar, seen.a, seen.b, seen.c, seen.d in rows:
        seen.at = bar
        if lows[bar] <= floor or highs[bar] >= ceiling or leave(seen):
            return True
    return False


def _deciding(seen: Any, rows: Any, decide: Any) -> Any:
    for seen.at, seen.a, seen.b, seen.c, seen.d in rows:
        if (wanted := decide(seen, False)) is not None:
            return wanted
    return None


_BARE = Going(_bare_rows, _bare_step, _bare_entering, _bare_holding, _bare_deciding)
_SLOTTED = Going(_rows, _step, _entering, _holding, _deciding)
