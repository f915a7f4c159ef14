"""What the array lane's loop calls in plain Python: the same answers as its own helpers, from many bars in one call."""

from __future__ import annotations

from typing import Any

_STEP = 16


def coming(marks: bytes, j: int, n: int) -> int:
    """Return the first marked bar at or after j; n for none."""
    found = marks.find(1, j)
    return n if found < 0 else found


def touched(against: Any, favour: Any, low: float, high: float, j: int, end: int) -> int:
    """Return the first bar from j on that touches either price; `end` for none before it."""
    while j < end:
        cut = slice(j, min(j + _STEP, end))
        if min(against[cut]) <= low or max(favour[cut]) >= high:
            while against[j] > low and not favour[j] >= high:
                j += 1
            return j
        j += _STEP
    return end


def best_close(closes: Any, sign: float, begin: int, end: int) -> float:
    """Return the close at which a position was worth most."""
    return float(max(closes[begin:end]) if sign > 0 else min(closes[begin:end]))


HELPERS = {"coming": coming, "touched": touched, "best_close": best_close}
