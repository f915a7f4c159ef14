"""What a rule strategy's indicators and conditions say, over whole arrays and bar by bar, and whether they look ahead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agentfund.backtest.audits.futures import CHANGES, FIELDS, changed, cut_off
from agentfund.clock import from_micros
from agentfund.errors import LookaheadError
from agentfund.indicators import values
from agentfund.market import Window
from agentfund.strategies.strategy import Now, Strategy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentfund.indicators import AnyIndicator
    from agentfund.market import Columns

CONDITIONS = ("enter", "leave", "stop", "target")

ROUNDING = 1e-9
"""Relative difference of an indicator's values that is put down to rounding."""

ENOUGH = 2000
"""Bars on which `causal` tries a strategy: what looks ahead does so on any bars."""


class Row(NamedTuple):
    """One name's values at every bar.

    Args:
        values: numbers or truth values.
        rounding: relative difference below which two of them are the same.
    """

    values: NDArray[Any]
    rounding: float = 0.0


def is_strategy(thing: object) -> bool:
    """Whether it is a rule strategy."""
    return isinstance(thing, Strategy)


def signals(strategy: Strategy, columns: Columns) -> dict[str, Row]:
    """Return every indicator, and every condition where they can be computed at once, over whole arrays."""
    found = _values(strategy.indicators(), columns)
    rows = {f"indicator {name}": Row(row, ROUNDING) for name, row in _flat(found)}
    if strategy.elementwise:
        now = _now(columns, found)
        try:
            rows |= {name: Row(_condition(strategy, name, now, len(columns))) for name in CONDITIONS}
        except (TypeError, ValueError):  # written for one bar at a time: it is asked so
            return rows
    return rows


def stepped(strategy: Strategy, columns: Columns, count: int) -> dict[str, Row]:
    """Return the conditions at the first bars, each computed from what one bar after the other has left.

    Truth values; where a condition cannot be computed of one bar, the error in words.
    """
    window = Window(columns, count)
    each = {name: indicator.fresh() for name, indicator in strategy.indicators().items()}
    told: dict[str, list[Any]] = {"enter": [], "leave": []}
    for at in range(count):
        bar = window.bar(at)
        now = Now({field: getattr(bar, field) for field in FIELDS} | {name: one.update(bar) for name, one in each.items()})
        for name, row in told.items():
            row.append(_asked(strategy, name, now))
    return {
        name: Row(np.array(row, dtype=None if all(isinstance(one, bool) for one in row) else object))
        for name, row in told.items()
    }


def _asked(strategy: Strategy, name: str, now: Now) -> bool | str:
    """Return what a condition says of one bar; what it raises as words, for in a fund it would give no answer."""
    try:
        return bool(getattr(strategy, name)(now))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def causal(strategy: Strategy, columns: Columns, cuts: int = 2, *, bars: int = ENOUGH) -> None:
    """Make sure that no indicator and no condition of a strategy looks ahead when it is given whole arrays.

    Each indicator is computed again on bars that end earlier, and on bars whose prices go elsewhere after a cut: up to the
    cut it must say the same. Conditions must look at one bar at a time: given the bars in another order, or fewer of
    them, they must say the same of each.

    Args:
        strategy: what is tried.
        columns: bars to try it on.
        cuts: how many cuts.
        bars: how many of the bars are taken; the newest.

    Raises:
        LookaheadError: something looks ahead; names the indicator or the condition, and the bar.
    """
    c = columns if len(columns) <= bars else _newest(columns, bars)
    if len(c) < 2:
        return
    rng = np.random.default_rng(0)
    base = _values(strategy.indicators(), c)
    for known in sorted({max(1, len(c) - 1 - number * len(c) // (cuts + 1)) for number in range(cuts)}):
        _check_indicators(strategy, c, base, known, rng)
    if strategy.elementwise:
        for name, at, before, after in crossed(strategy, c, base, cuts):
            raise LookaheadError(
                f"{strategy.name}: {name}(now) looks at other bars than its own: at {_bar(c, at)} it gives {before} among all"
                f" bars and {after} when the bars around it are others; write it elementwise, and put what needs earlier"
                " bars into an indicator"
            )


def crossed(
    strategy: Strategy, c: Columns, found: Mapping[str, Any] | None = None, cuts: int = 2
) -> Iterator[tuple[str, int, Any, Any]]:
    """Give each condition that looks at other bars than its own: its name, the first such bar, and what it says there.

    The order of the bars is changed, which catches what is shifted, and bars are left out at the end, which catches what is
    measured over all of them.
    """
    found = _values(strategy.indicators(), c) if found is None else found
    everything = _now(c, found)
    order = np.random.default_rng(0).permutation(len(c))
    picks = [order, *(np.arange(max(1, len(c) - 1 - number * len(c) // (cuts + 1))) for number in range(cuts))]
    for name in CONDITIONS:
        whole = _condition(strategy, name, everything, len(c))
        for pick in picks:
            part = _condition(strategy, name, Now(_picked(everything.__dict__, pick)), len(pick))
            wrong = np.flatnonzero(~same(whole[pick], part, 0.0))
            if len(wrong):
                first = wrong[pick[wrong].argmin()]
                yield name, int(pick[first]), whole[pick[first]].item(), part[first].item()
                break


def _check_indicators(strategy: Strategy, c: Columns, base: Mapping[str, Any], known: int, rng: np.random.Generator) -> None:
    worlds = {"bars after it are left out": cut_off(c, known)}
    worlds |= {f"prices after it are {way}": changed(c, known, CHANGES[way], rng) for way in ("raised", "lowered")}
    indicators = strategy.indicators()
    for what, other in worlds.items():
        there = dict(_flat(_values(indicators, other)))
        for name, row in _flat(base):
            wrong = np.flatnonzero(~same(row[:known], there[name][:known], ROUNDING))
            if len(wrong):
                at = int(wrong[0])
                indicator = indicators[name.partition(".")[0]]
                raise LookaheadError(
                    f"{strategy.name}: the indicator {name!r} ({indicator!r}) looks ahead: at {_bar(c, at)} it is"
                    f" {row[at]:.10g}, and {there[name][at]:.10g} when {what} ({_bar(c, known - 1)}); its batch() may use"
                    " bars up to each bar only"
                )


def _newest(c: Columns, bars: int) -> Columns:
    from dataclasses import replace

    names = ("start", *FIELDS) if c.end is None else ("start", "end", *FIELDS)
    return replace(c, **{name: getattr(c, name)[-bars:] for name in names})


def _bar(c: Columns, at: int) -> str:
    return f"bar {at} ({from_micros(int(c.ends[at])):%Y-%m-%d %H:%M} UTC)"


def _values(indicators: Mapping[str, AnyIndicator], columns: Columns) -> dict[str, Any]:
    return values(indicators, columns)


def _now(columns: Columns, found: Mapping[str, Any]) -> Now:
    return Now({field: getattr(columns, field) for field in FIELDS} | dict(found))


def _condition(strategy: Strategy, name: str, now: Now, count: int) -> NDArray[Any]:
    given = np.asarray(getattr(strategy, name)(now))
    return np.array(np.broadcast_to(given, (count,)))


def _flat(found: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Give every array by name; the parts of a NamedTuple by `name.part`."""
    for name, value in found.items():
        if isinstance(value, tuple):
            for part, row in zip(getattr(value, "_fields", range(len(value))), value, strict=True):
                yield f"{name}.{part}", np.asarray(row)
        else:
            yield name, np.asarray(value)


def _picked(found: Mapping[str, Any], pick: NDArray[np.int64]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, tuple):
            parts = [np.asarray(row)[pick] for row in value]
            made[name] = type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        else:
            made[name] = np.asarray(value)[pick]
    return made


def same(one: NDArray[Any], other: NDArray[Any], rounding: float = 0.0) -> NDArray[np.bool_]:
    """Return where two rows hold the same: NaN is NaN, and numbers may differ relatively by `rounding`."""
    equal: NDArray[np.bool_] = np.asarray(one == other, dtype=bool)
    if one.dtype.kind == "f" and other.dtype.kind == "f":
        equal = equal | (np.isnan(one) & np.isnan(other))
        if rounding:
            with np.errstate(invalid="ignore"):
                equal = equal | (np.abs(one - other) <= rounding * np.maximum(np.abs(one), np.abs(other)))
    return equal
