"""Bars from whole arrays of ticks, the same bits as one by one: see `agentfund.feeds.ticks_rules` for the rules."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agentfund.compiled import choose, jit
from agentfund.errors import BadData, ConfigError
from agentfund.feeds.checks import Check, reach_check, refuse, when
from agentfund.feeds.ticks_rules import MICRO, NEVER, Dollars, Every, Ticks, Volume, check
from agentfund.market import Columns, Instrument, read_only

if TYPE_CHECKING:
    from agentfund.market import Floats, Micros

# Where fewer than one interval in so many ticks can hold any, edges are looked up; else every tick is divided.
_SPARSE = 8
# Bars of more ticks than this are summed one by one.
_LONG = 100
_CHUNK = 16_384
# Whole numbers up to here add without rounding.
_EXACT = 2.0**53


class TickColumns(NamedTuple):
    """Ticks in order of arrival, as columns of equal length; times are microseconds since 1970 UTC."""

    time: Micros
    price: Floats
    volume: Floats | None


class _Given(NamedTuple):
    time: Micros
    price: Floats
    volume: Floats


class _Found(NamedTuple):
    start: Micros
    end: Micros | None
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats


def columns_from_ticks(
    instrument: Instrument,
    every: Every,
    time: Micros,
    price: Floats,
    volume: Floats | None = None,
    *,
    offset: timedelta = timedelta(0),
    lateness: timedelta = timedelta(0),
    unfinished: bool = True,
    compiled: bool | None = None,
    source: str = "ticks",
) -> tuple[Columns, int]:
    """Return the bars of ticks in order of arrival, and how many ticks came too late and are in no bar.

    Args:
        instrument: what the ticks are of.
        every: what closes a bar: an interval that divides a day, `Ticks`, `Volume` or `Dollars`.
        time: microseconds since 1970 UTC, or datetime64 in UTC.
        price: above zero.
        volume: units traded, not below zero; None where the source has none.
        offset: moves the starts of time bars from midnight UTC.
        lateness: how long to wait for late ticks.
        unfinished: keep bars that no tick had closed when the ticks end.
        compiled: True for numba, False for numpy, None for numba where it is installed and the work is large.
        source: where the ticks came from, for messages.

    Raises:
        BadData: a tick cannot be, or there is no bar; names the row, counted from 0.
        ConfigError: an argument cannot be, or volumes are needed and not there.
        MissingExtra: `compiled=True`, and numba is not installed.
    """
    check(every, offset, lateness)
    if volume is None and isinstance(every, Volume | Dollars):
        raise ConfigError(f"{every} needs the volume of each tick, and there is none; give volume=, or take time bars")
    ticks = _given(source, time, price, volume)
    # A tick takes about a hundredth of a microsecond in numpy.
    fast = choose(compiled, len(ticks.time) // 100)
    if isinstance(every, timedelta):
        span, late_by = every // MICRO, lateness // MICRO
        made = _compiled_time(ticks, span, offset // MICRO, late_by) if fast else None
        found, late = (made, 0) if made else _by_time(ticks, _checked(source, ticks), span, offset // MICRO, late_by)
        closed = int((found.start + (span + late_by) <= ticks.time.max()).sum()) if not unfinished else len(found.start)
        interval = every
    else:
        found, late, closed = _by_filling(ticks, _checked(source, ticks), every, lateness // MICRO, fast)
        lengths = found.start if found.end is None else found.end - found.start
        interval = int(np.median(lengths)) * MICRO
    if not unfinished:
        found = _Found(*(None if each is None else each[:closed] for each in found))  # type: ignore[arg-type]
    if not len(found.start):
        raise BadData(f"{source}: {len(ticks.time):,} ticks close no bar of {every}; take shorter bars, or unfinished=True")
    arrays: dict[str, Any] = found._asdict()
    end = arrays.pop("end")
    if end is not None:
        arrays["end"] = end
    return Columns(instrument, interval, **read_only(arrays)), late


def _given(source: str, time: Micros, price: Floats, volume: Floats | None) -> _Given:
    time = np.asarray(time)
    if time.dtype.kind == "M":
        time = time.astype("M8[us]").astype(np.int64)
    if time.dtype.kind not in "iu":
        raise BadData(f"{source}: time must be whole microseconds since 1970 (int64) or datetime64, not {time.dtype}")
    given = _Given(
        np.ascontiguousarray(time, np.int64),
        np.ascontiguousarray(price, np.float64),
        np.zeros(len(time)) if volume is None else np.ascontiguousarray(volume, np.float64),
    )
    sizes = {name: array.shape for name, array in given._asdict().items()}
    if len(set(sizes.values())) != 1 or given.time.ndim != 1:
        raise BadData(f"{source}: the columns have unequal shapes: {', '.join(f'{n} {k}' for n, k in sizes.items())}")
    if not len(given.time):
        raise BadData(f"{source}: there is no tick; give at least one")
    return given


def _checked(source: str, given: _Given) -> bool:
    """Refuse what cannot be, and return whether the times only go forward."""
    time, price, volume = given
    sound = in_order = True
    for at in range(0, len(time), _CHUNK):  # a chunk stays in the processor's cache from one look to the next
        moments, prices, volumes = time[at : at + _CHUNK + 1], price[at : at + _CHUNK], volume[at : at + _CHUNK]
        # The extremes tell whether all is well; a NaN is an extreme, too.
        sound = sound and 0 < prices.min() <= prices.max() < math.inf and 0 <= volumes.min() <= volumes.max() < math.inf
        in_order = in_order and bool((moments[1:] >= moments[:-1]).all())
    ends = time[[0, -1]] if in_order else np.array([time.min(), time.max()])
    if not sound or reach_check(ends).bad.any():
        refuse([reach_check(time), *tick_checks(given)], lambda i: f"{source}, tick {i}", "correct the row, or leave it out")
    return in_order


def tick_checks(given: _Given) -> list[Check]:
    """Check the numbers of ticks: prices above zero, volumes not below it, nothing that is no number."""
    time, price, volume = given
    return [
        Check(
            "a price that is not above zero",
            ~((price > 0) & (price < math.inf)),
            lambda i: f"({when(int(time[i]))}) price is {float(price[i])!r}, and a price must be above zero",
        ),
        Check(
            "a volume that is no number or below zero",
            ~((volume >= 0) & (volume < math.inf)),
            lambda i: f"({when(int(time[i]))}) volume is {float(volume[i])!r}, and a volume must not be below zero",
        ),
    ]


def _by_time(ticks: _Given, in_order: bool, interval: int, offset: int, lateness: int) -> tuple[_Found, int]:
    time, price, volume = ticks
    late = 0
    if in_order:
        first, last = int(time[0]), int(time[-1])
        first -= (first - offset) % interval
        if (last - first) // interval < len(time) // _SPARSE:
            edges = np.arange(first, last + 1, interval)
            begin = time.searchsorted(edges)
            kept = np.append(begin[1:], len(time)) > begin
            begin, start = begin[kept], edges[kept]
        else:
            begin, start = _runs(time - (time - offset) % interval)
        ordered, volumes = price, _volumes(volume, begin)
    else:
        starts = time - (time - offset) % interval
        newest = np.concatenate([[-NEVER], np.maximum.accumulate(time)[:-1]])
        kept = newest < starts + (interval + lateness)
        late = len(time) - int(np.count_nonzero(kept))
        starts, time, price, volume = starts[kept], time[kept], price[kept], volume[kept]
        order = time.argsort(kind="stable")
        ordered = price[order]
        begin, start = _runs(starts[order])
        volumes = _binned(start.searchsorted(starts), volume, len(start))
    end = start + (interval + lateness) if lateness else None
    return _Found(start, end, *_prices(ordered, begin), volumes), late


def _runs(values: Micros) -> tuple[Micros, Micros]:
    begin = np.flatnonzero(values[1:] != values[:-1]) + 1
    begin = np.concatenate([[0], begin])
    return begin, values[begin]


def _prices(price: Floats, begin: Micros) -> tuple[Floats, Floats, Floats, Floats]:
    stop = np.append(begin[1:], len(price)) - 1
    return price[begin], np.maximum.reduceat(price, begin), np.minimum.reduceat(price, begin), price[stop]


def _volumes(volume: Floats, begin: Micros) -> Floats:
    # One after the other, as a running bar adds them; numpy's sum would add in pairs.
    stop = np.append(begin[1:], len(volume))
    if len(begin) * _LONG > len(volume):
        return _binned(np.repeat(np.arange(len(begin)), stop - begin), volume, len(begin))
    spans = zip(begin.tolist(), stop.tolist(), strict=True)
    return np.array([np.add.accumulate(volume[first:last])[-1] for first, last in spans])


def _binned(bar: Micros, volume: Floats, count: int) -> Floats:
    return np.bincount(bar, volume, count).astype(np.float64, copy=False)


def _by_filling(
    ticks: _Given, in_order: bool, every: Ticks | Volume | Dollars, lateness: int, fast: bool
) -> tuple[_Found, int, int]:
    newest, price, volume = ticks
    late = 0
    if not in_order:
        time = newest
        newest = np.maximum.accumulate(time)
        kept = np.ones(len(time), dtype=bool)
        kept[1:] = time[1:] >= newest[:-1] - lateness
        late = len(time) - int(np.count_nonzero(kept))
        newest, price, volume = newest[kept], price[kept], volume[kept]
    match every:
        case Ticks(count):
            cuts = np.arange(count, len(price) + 1, count)
        case Volume(units):
            cuts = _cuts(volume, float(units), fast)
        case Dollars(amount):
            cuts = _cuts(price * volume, float(amount), fast)
    closed = len(cuts)
    if not closed or cuts[-1] < len(price):
        cuts = np.append(cuts, len(price))
    begin = np.concatenate([[0], cuts[:-1]])
    number = np.arange(len(cuts))
    end = np.maximum.accumulate(newest[cuts - 1] - number) + number + 1
    start = newest[begin]
    start[1:] = np.maximum(start[1:], end[:-1])
    return _Found(start, end, *_prices(price, begin), _volumes(volume, begin)), late, closed


def _cuts(filling: Floats, full: float, fast: bool) -> Micros:
    """Return the positions behind the ticks that fill a bar, each sum begun at nothing behind the one before."""
    if fast:
        found = np.empty(len(filling), dtype=np.int64)
        return found[: _fill(filling, full, found)].copy()
    running = np.cumsum(filling)
    total, size = float(running[-1]), len(filling)
    # Differences of running sums tell where a bar is full, but for rounding; near the edge it is added up anew.
    doubt = (2 * size + 16) * float(np.finfo(np.float64).eps) * total
    if total < _EXACT and bool((filling == np.floor(filling)).all()):
        doubt, full = 0.0, float(math.ceil(full))
    cuts: list[int] = []
    at, before = 0, 0.0
    while True:
        to = int(running.searchsorted(before + full - doubt))
        if to < at:
            to = at
        if to < size and running[to] < before + full + doubt:
            to = _added_up(filling, at, to, full)
        if to >= size:
            return np.array(cuts, dtype=np.int64)
        at = to + 1
        cuts.append(at)
        before = float(running[to])


def _added_up(filling: Floats, at: int, to: int, full: float) -> int:
    total = float(np.add.accumulate(filling[at : to + 1])[-1])
    while total < full:
        to += 1
        if to >= len(filling):
            break
        total += float(filling[to])
    return to


@jit
def _fill(filling: Floats, full: float, cuts: Micros) -> int:
    count = 0
    total = 0.0
    for i in range(len(filling)):
        total += filling[i]
        if total >= full:
            cuts[count] = i + 1
            count += 1
            total = 0.0
    return count


def _compiled_time(ticks: _Given, interval: int, offset: int, lateness: int) -> _Found | None:
    """Return the bars; None where a tick is out of order or cannot be, which numpy knows how to handle and to name."""
    time, price, volume = ticks
    if reach_check(time[[0, -1]]).bad.any() or time[-1] < time[0]:
        return None
    most = min(len(time), (int(time[-1]) - int(time[0])) // interval + 2)
    start, numbers = np.empty(most, dtype=np.int64), np.empty((5, most))
    count = _time_bars(time, price, volume, interval, offset, start, *numbers)
    if count < 0:
        return None
    start = start[:count].copy()
    end = start + (interval + lateness) if lateness else None
    return _Found(start, end, *(each[:count].copy() for each in numbers))


@jit
def _time_bars(
    time: Micros,
    price: Floats,
    volume: Floats,
    interval: int,
    offset: int,
    starts: Micros,
    opens: Floats,
    highs: Floats,
    lows: Floats,
    closes: Floats,
    volumes: Floats,
) -> int:
    count = 0
    at = 0
    before = time[0]
    while at < len(time):
        if count == len(starts) or time[at] < before:
            return -1
        begin = at
        start = time[at] - (time[at] - offset) % interval
        end = start + interval
        high = low = price[at]
        total = 0.0
        sound = True
        for i in range(begin, len(time)):
            moment = time[i]
            if moment >= end:
                break
            x = price[i]
            y = volume[i]
            # Without branches in here it is three times as fast.
            sound &= (moment >= before) & (x > 0.0) & (y >= 0.0)
            before = moment
            high = x if x > high else high
            low = x if x < low else low
            total += y
            at = i + 1
        if not sound or not high < np.inf or not total < np.inf:
            return -1
        starts[count] = start
        opens[count] = price[begin]
        highs[count] = high
        lows[count] = low
        closes[count] = price[at - 1]
        volumes[count] = total
        count += 1
    return count
