"""The bars of one instrument as they were handed out: they are added to and never change, and memory stays flat."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from agentfund.clock import to_micros
from agentfund.market import Columns, Window

if TYPE_CHECKING:
    from agentfund.market import Bar, Floats, Instrument, Micros

_FIELDS = 5
_SAME = 1e-9
_MICRO = timedelta(microseconds=1)


class Series:
    """The newest bars of one instrument.

    Args:
        instrument: what is traded.
        interval: length of a bar.
        keep: how many bars a window shows at most.
    """

    def __init__(self, instrument: Instrument, interval: timedelta, keep: int) -> None:
        self._instrument, self._interval, self._keep = instrument, interval, keep
        self._start: Micros = np.empty(2 * keep, np.int64)
        self._values: Floats = np.empty((_FIELDS, 2 * keep), np.float64)
        self._count = 0
        self._told: set[int] = set()

    def __len__(self) -> int:
        return min(self._count, self._keep)

    def append(self, bar: Bar) -> None:
        """Add a bar that is newer than all others."""
        if self._count == len(self._start):  # windows that somebody holds keep the old arrays, which stay as they are
            start, values = np.empty_like(self._start), np.empty_like(self._values)
            kept = self._keep - 1
            start[:kept], values[:, :kept] = self._start[-kept or self._count :], self._values[:, -kept or self._count :]
            self._start, self._values, self._count = start, values, kept
            oldest = int(start[0]) if kept else 0
            self._told = {each for each in self._told if each >= oldest}
        self._start[self._count] = to_micros(bar.start)
        self._values[:, self._count] = bar[3:]
        self._count += 1

    def window(self) -> Window:
        """Return the bars as a view that cannot be written to, and that later bars do not change."""
        first = max(0, self._count - self._keep)
        start, values = self._start[first : self._count], self._values[:, first : self._count]
        start.flags.writeable = values.flags.writeable = False
        return Window(Columns(self._instrument, self._interval, start, *values), len(start))

    def agrees(self, bar: Bar) -> bool | None:
        """Return whether a bar is as it was handed out, None where there is none at its time; a difference counts once."""
        start = to_micros(bar.start)
        first = max(0, self._count - self._keep)
        at = first + int(self._start[first : self._count].searchsorted(start))
        if at == self._count or self._start[at] != start:
            return None
        if all(map(_close, self._values[:, at].tolist(), bar[3:])) or start in self._told:
            return True
        self._told.add(start)
        return False


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_SAME, abs_tol=_SAME)
