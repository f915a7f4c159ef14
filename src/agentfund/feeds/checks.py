"""What can be wrong with bars, where it is, and how to say so; nothing here repairs anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agentfund.clock import from_micros, to_micros
from agentfund.errors import BadData

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentfund.market import Columns, Floats, Micros

PRICES = ("open", "high", "low", "close")
FIELDS = (*PRICES, "volume")
NO_TIME = np.iinfo(np.int64).min  # how numpy writes "not a time" as an integer

_EARLIEST, _LATEST = to_micros(datetime(1800, 1, 1, tzinfo=UTC)), to_micros(datetime(2200, 1, 1, tzinfo=UTC))

# Vendors adjust prices in floating point, so an open may pass its high by the last binary digit.
_NOISE = 1e-9

_SPLITS = ((3, 2), (2, 1), (3, 1), (4, 1), (5, 1), (7, 1), (10, 1), (15, 1), (20, 1))
# The day of a split has an ordinary overnight move as well: AAPL's 4:1 of August 2020 shows as 3.91.
_SPLIT_TOLERANCE = 0.05
_SPLIT_LEAST_MOVE = 0.25
_SPLIT_DEVIATIONS = 8.0


class Check(NamedTuple):
    """One thing that can be wrong.

    Args:
        name: the problem in words that follow "rows with".
        bad: one bool for each row.
        tell: says what is wrong with one row.
    """

    name: str
    bad: NDArray[np.bool_]
    tell: Callable[[int], str]


class SuspectedSplit(NamedTuple):
    """A gap in prices that looks like a split for which they were not adjusted.

    Args:
        symbol: the instrument.
        row: the first bar behind the gap, counted from 0.
        last: start of the bar before it, microseconds since 1970 UTC.
        start: start of the first bar behind it, microseconds since 1970 UTC.
        before: the last close before it.
        after: the first open behind it.
        ratio: new shares for old ones, such as "4:1", or "1:10" for a reverse split.
    """

    symbol: str
    row: int
    last: int
    start: int
    before: float
    after: float
    ratio: str

    @property
    def call(self) -> str:
        """The call that adjusts the bars for it, once somebody has found that it is one; `bars` are the bars."""
        day = from_micros(self.start).isoformat()
        return f'Actions([Action("{self.symbol}", "{day}", "split", "{self.ratio}")]).adjusted(bars)'

    def __str__(self) -> str:
        new, _, old = self.ratio.partition(":")
        name = f"{self.ratio} {'' if int(new) > int(old) else 'reverse '}split"
        return (
            f"{self.symbol}: {when(self.last)} closes at {self.before!r} and {when(self.start)} opens at"
            f" {self.after!r}, which looks like an unadjusted {name}; adjust the prices before it, or cut the data there"
        )


def when(micros: int) -> str:
    """Return a moment as people write it, UTC, without seconds where there are none."""
    if not _EARLIEST <= micros <= _LATEST:
        return f"{micros} microseconds since 1970"
    moment = from_micros(micros).replace(tzinfo=None)
    whole = "minutes" if not (moment.second or moment.microsecond) else "auto"
    return moment.isoformat(" ", whole)


def reach_check(start: Micros) -> Check:
    """Check that times are of this age; rows without a time (NO_TIME) are left to whoever read them."""
    far = (start != NO_TIME) & ((start < _EARLIEST) | (start > _LATEST))
    return Check(
        "a time out of reach",
        far,
        lambda _: "the time is not between the years 1800 and 2200",
    )


def order_checks(start: Micros) -> list[Check]:
    """Check that times only go forward; rows without a time (NO_TIME) are left to whoever read them."""
    before = np.maximum.accumulate(start)
    known = start[1:] != NO_TIME
    repeated, earlier = np.zeros((2, len(start)), dtype=bool)
    repeated[1:] = (start[1:] == before[:-1]) & known
    earlier[1:] = (start[1:] < before[:-1]) & known
    newest_first = len(start) > 1 and bool((np.diff(start) < 0).all())
    hint = " (the rows run newest first: sort them by time)" if newest_first else ""
    return [
        Check("a repeated time", repeated, lambda i: f"the time {when(int(start[i]))} was there before"),
        Check(
            "a time before one above",
            earlier,
            lambda i: f"the time goes back, {when(int(before[i - 1]))} was there before{hint}",
        ),
    ]


def end_checks(start: Micros, end: Micros | None) -> list[Check]:
    """Check that closes of their own come after their starts, and only go forward; None is no closes of their own."""
    if end is None:
        return []
    stuck = np.zeros(len(end), dtype=bool)
    stuck[1:] = np.diff(end) <= 0
    return [
        Check(
            "a close that is not after the start",
            end <= start,
            lambda i: f"the bar closes at {when(int(end[i]))}, which is not after its start",
        ),
        Check(
            "a close that is not after the one above",
            stuck,
            lambda i: f"the bar closes at {when(int(end[i]))}, and the bar before it at {when(int(end[i - 1]))}",
        ),
    ]


def bar_checks(values: Mapping[str, Floats], cell: Callable[[int, str], str] | None = None) -> list[Check]:
    """Check the numbers of bars.

    Args:
        values: arrays by name: open, high, low, close, volume.
        cell: gives the text of one value as its source has it, by row and name.
    """
    text = cell or (lambda i, name: repr(float(values[name][i])))
    high, low = values["high"], values["low"]

    def first(i: int, wrong: Callable[[float], bool], names: Sequence[str]) -> str:
        return next(name for name in names if wrong(float(values[name][i])))

    def no_number(i: int) -> str:
        name = first(i, lambda x: not np.isfinite(x), FIELDS)
        return f"{name} is {text(i, name)}, not a number" if text(i, name) else f"{name} is empty"

    def not_positive(i: int) -> str:
        name = first(i, lambda x: x <= 0, PRICES)
        return f"{name} is {text(i, name)}; a price must be above zero"

    def outside(i: int) -> str:
        name = "open" if above["open"][i] or below["open"][i] else "close"
        side, edge = ("above", "high") if above[name][i] else ("below", "low")
        return f"{name} {text(i, name)} is {side} {edge} {text(i, edge)}"

    above = {name: values[name] > high * (1 + _NOISE) for name in ("open", "close")}
    below = {name: values[name] < low * (1 - _NOISE) for name in ("open", "close")}
    return [
        Check("a value that is no number", ~np.logical_and.reduce([np.isfinite(values[n]) for n in FIELDS]), no_number),
        Check("a price that is not above zero", np.logical_or.reduce([values[n] <= 0 for n in PRICES]), not_positive),
        Check("a negative volume", values["volume"] < 0, lambda i: f"volume {text(i, 'volume')} is below zero"),
        Check(
            "high below low",
            high < low * (1 - _NOISE),
            lambda i: f"high {text(i, 'high')} is below low {text(i, 'low')}",
        ),
        Check(
            "open or close outside high and low",
            np.logical_or.reduce([above["open"], above["close"], below["open"], below["close"]]),
            outside,
        ),
    ]


def refuse(checks: Sequence[Check], where: Callable[[int], str], fix: str) -> None:
    """Raise for the first bad row, saying where it is and how many share its problem.

    Raises:
        BadData: a check found something.
    """
    found = [(int(check.bad.argmax()), check) for check in checks if check.bad.any()]
    if not found:
        return
    row, check = min(found, key=lambda pair: pair[0])
    count = int(check.bad.sum())
    share = f" ({count:,} rows have {check.name})" if count > 1 else ""
    raise BadData(f"{where(row)}: {check.tell(row)}{share}; {fix}")


def suspicions(columns: Columns) -> list[str]:
    """Return what is allowed but should be known, one sentence each: splits, and bars that overlap."""
    return [*map(str, suspected_splits(columns)), *_overlaps(columns)]


def suspected_splits(c: Columns) -> list[SuspectedSplit]:
    """Return the gaps that look like unadjusted splits: far beyond the instrument's usual moves, and of a usual ratio."""
    if len(c) < 2:
        return []
    jump = np.log(c.close[:-1] / c.open[1:])
    usual = 1.4826 * max(float(np.median(np.abs(jump))), float(np.median(np.abs(np.log(c.close / c.open)))))
    least = max(float(np.log(1 + _SPLIT_LEAST_MOVE)), _SPLIT_DEVIATIONS * usual)
    found = []
    for i in np.flatnonzero(np.abs(jump) > least).tolist():
        before, after = float(c.close[i]), float(c.open[i + 1])
        gap = max(before / after, after / before)
        for new, old in _SPLITS:
            if abs(gap * old / new - 1) <= _SPLIT_TOLERANCE:
                ratio = f"{new}:{old}" if before > after else f"{old}:{new}"
                times = int(c.start[i]), int(c.start[i + 1])
                found.append(SuspectedSplit(c.instrument.symbol, i + 1, *times, before, after, ratio))
    return found


def _overlaps(c: Columns) -> list[str]:
    short = np.flatnonzero(c.start[1:] < c.ends[:-1])
    if not len(short):
        return []
    first = c.start[int(short[0]) + 1]
    if c.end is not None:
        return [
            f"{c.instrument.symbol}: {len(short):,} bars start before the one before has closed (the first at {when(first)});"
            " each is known only at its own close"
        ]
    return [
        f"{c.instrument.symbol}: bars are taken to last {c.interval}, but {len(short):,} of them start sooner after the one"
        f" before (the first at {when(first)}); each is known only {c.interval} after its start"
    ]
