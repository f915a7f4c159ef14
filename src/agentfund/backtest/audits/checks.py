"""Comparisons of what was decided on one set of data with what was decided on another."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.backtest.audits.signals import same
from agentfund.backtest.audits.tracks import STEPPED, Key, Trace, Track, position
from agentfund.clock import to_micros
from agentfund.trading import Fill, Order, OrderType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentfund.backtest.audits.futures import At
    from agentfund.feeds.history import Bars

COUNTED = ("decision", "position", "enter")
"""What is counted as decisions that there were to compare: each wish once."""

BEYOND_CHANCE = 5.0
"""Standard deviations; of two million rows of chance one is as good."""

_HORIZONS = (1, 5)
_LEAD_LEAST = 0.5

Difference = tuple[Key, int, tuple[Any, Any]]
"""Whose it is, when it first differs, and the two values."""


def differences(base: Trace, found: Trace, until: int | None, *, only: Collection[Key] | None = None) -> Iterator[Difference]:
    """Give the first difference of each track, up to a moment.

    Args:
        base: what was decided on the data as they are.
        found: what was decided on others.
        until: last moment that is compared, None for all.
        only: the tracks that are compared, None for all.
    """
    for key in dict.fromkeys([*base.tracks, *found.tracks]):
        if only is None or key in only:
            first = _first(base.tracks.get(key), found.tracks.get(key), until)
            if first is not None:
                yield key, *first


def _first(one: Track | None, two: Track | None, until: int | None) -> tuple[int, tuple[Any, Any]] | None:
    one, two = _both(one, two)
    a, b = (len(t.values) if until is None else t.until(until) for t in (one, two))
    count = min(a, b)
    moved = one.times[:count] != two.times[:count]
    wrong = np.flatnonzero(moved | ~same(one.values[:count], two.values[:count], one.rounding))
    if len(wrong):
        at = int(wrong[0])
        if not moved[at]:
            return int(one.times[at]), (one.values[at], two.values[at])
        earlier = one.times[at] < two.times[at]
        return (int(one.times[at]), (one.values[at], None)) if earlier else (int(two.times[at]), (None, two.values[at]))
    if a > count:
        return int(one.times[count]), (one.values[count], None)
    if b > count:
        return int(two.times[count]), (None, two.values[count])
    return None


def _both(one: Track | None, two: Track | None) -> tuple[Track, Track]:
    """Put nothing in the place of a track that is not there: zeros where the other has numbers, no event where it has texts."""
    there = one if one is not None else two
    assert there is not None
    kept = slice(None) if there.values.dtype.kind in "biuf" else slice(0)
    nothing = Track(there.times[kept], np.zeros_like(there.values[kept]))
    return one if one is not None else nothing, two if two is not None else nothing


def changes(one: Track | None, two: Track | None, until: int) -> int:
    """Return how many values differ up to a moment, where both are rows by bar; 0 where that cannot be said."""
    one, two = _both(one, two)
    a, b = one.until(until), two.until(until)
    return int((~same(one.values[:a], two.values[:b], one.rounding)).sum()) if a == b else 0


def rounding(values: tuple[Any, Any]) -> bool:
    """Whether two values differ by no more than the order in which sums are made can bring."""
    if not all(isinstance(value, float | np.floating) for value in values):
        return False
    one, two = map(float, values)
    return abs(one - two) <= 1e-9 * max(abs(one), abs(two))


def size(base: Trace, until: int, only: Collection[Key] | None) -> int:
    """Return how many values there are to compare up to a moment."""
    return sum(track.until(until) for key, track in base.tracks.items() if only is None or key in only)


def lanes(base: Trace) -> Iterator[Difference]:
    """Give the conditions that say something else bar by bar than over whole arrays."""
    for key, track in base.tracks.items():
        at_once = base.tracks.get(Key(key.who, key.what.removesuffix(STEPPED), key.symbol))
        if key.what.endswith(STEPPED) and at_once is not None:
            first = _first(at_once, track, int(track.times[-1]))
            if first is not None:
                yield Key(key.who, key.what.removesuffix(STEPPED), key.symbol), *first


def early_fills(found: Trace, bars: Bars) -> Iterator[tuple[Order, Fill, float]]:
    """Give market orders that were filled at a price that was past when they were decided, with the price that came next.

    A fill is in order where its price before costs is the open of a bar that starts at the decision or later.
    """
    for order, fill in found.fills:
        columns = bars.columns.get(fill.symbol)
        if columns is None or order.type is not OrderType.MARKET or fill.leg != "order":
            continue
        first = int(columns.start.searchsorted(to_micros(order.time), side="left"))
        last = max(int(columns.start.searchsorted(to_micros(fill.time), side="right")), first + 1)
        opens = columns.open[first:last]
        tick = float(columns.instrument.tick_size)
        if len(opens) and (fill.time < order.time or not (np.abs(opens - float(fill.reference)) <= tick).any()):
            yield order, fill, float(opens[0])


def unmoved(base: Trace, found: Trace, bars: Bars, at: At) -> Iterator[tuple[Key, float]]:
    """Give the decisions that are the same on other prices, and how much better than chance they fit these prices.

    The score is the correlation of what is wanted with the move that follows, in standard deviations of that of a row
    that knows nothing: r times the root of the number of moves that do not overlap.
    """
    for key, track in base.decisions().items():
        columns = bars.columns.get(key.symbol)
        there = found.tracks.get(key)
        if columns is None or there is None or key.what not in COUNTED:
            continue
        wanted = position(track)
        if not np.ptp(wanted) and track.values.dtype.kind in "biuf":
            continue  # always the same: it decides nothing
        if not (np.array_equal(track.times, there.times) and np.array_equal(wanted, position(there))):
            continue
        row = np.zeros(len(columns))
        places = columns.start.searchsorted(track.times) if at == "open" else columns.ends.searchsorted(track.times)
        row[places] = wanted
        yield key, max((_score(row, columns.open, columns.close, step, at) for step in _HORIZONS), key=abs)


def _score(row: NDArray[np.float64], opens: NDArray[np.float64], close: NDArray[np.float64], step: int, at: At) -> float:
    begin = opens if at == "open" else close
    end = close[step - 1 :] if at == "open" else close[step:]
    moves = np.log(end / begin[: len(end)])
    wanted = row[: len(moves)]
    if len(moves) < 3 or not np.ptp(wanted) or not np.ptp(moves):
        return 0.0
    return float(np.corrcoef(wanted, moves)[0, 1] * np.sqrt(len(moves) / step))


def ahead_of_each_other(bars: Bars) -> list[str]:
    """Return a sentence for each pair of instruments of which one moves a bar before the other.

    Bars whose times are ends where starts are expected, or times in another zone, show so where there is another
    instrument to compare them with. Alone they cannot be told.
    """
    told = []
    for (first, one), (second, two) in combinations(bars.columns.items(), 2):
        _, a, b = np.intersect1d(one.ends, two.ends, assume_unique=True, return_indices=True)
        if len(a) < 50:
            continue
        x, y = np.diff(np.log(one.close[a])), np.diff(np.log(two.close[b]))
        if not (np.ptp(x) and np.ptp(y)):
            continue
        now = abs(float(np.corrcoef(x, y)[0, 1]))
        for early, late, u, v in ((first, second, x[:-1], y[1:]), (second, first, y[:-1], x[1:])):
            lead = abs(float(np.corrcoef(u, v)[0, 1]))
            if lead > _LEAD_LEAST and lead > 2 * now:
                told.append(
                    f"{early} moves one bar before {late} (correlation {lead:.2f}, {now:.2f} at the same time): the times of"
                    " one of them may be ends where starts are expected, or of another zone"
                )
    return told
