"""Rows and frames of data providers: numbers and bars, strictly read, and bars merged onto a longer grid."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from agentfund.clock import EPOCH
from agentfund.errors import BadData
from agentfund.market import Bar

if TYPE_CHECKING:
    from datetime import datetime

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_NOTHING = ("", "null", "none", "nan", "na", "n/a")
_NOISE = 1e-9  # vendors compute in floating point, so an open may pass its high by the last binary digit


def number(value: Any, where: str, field: str) -> float | None:
    """Return a number that came as one or as text, None where the provider has none.

    Raises:
        BadData: it is neither.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in _NOTHING):
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < math.inf:
        raise BadData(f"{where}, {field}: {value!r:.60} is no number; ask the provider, or leave the symbol out")
    return float(value)


def needed(row: Mapping[str, Any], field: str, where: str) -> float:
    """Return the number that a row must have.

    Raises:
        BadData: there is none.
    """
    found = number(row.get(field), where, field)
    if found is None:
        raise BadData(f"{where}, {field}: there is none; ask the provider, or leave the symbol out")
    return found


def price(row: Mapping[str, Any], field: str, where: str) -> float:
    """Return the price that a row must have.

    Raises:
        BadData: there is none, or it is not above zero.
    """
    found = needed(row, field, where)
    if found <= 0:
        raise BadData(f"{where}, {field}: {found!r} is no price, which must be above zero; ask the provider")
    return found


def amount(row: Mapping[str, Any], field: str, where: str) -> float:
    """Return the quantity that a row must have.

    Raises:
        BadData: there is none, or it is below zero.
    """
    found = needed(row, field, where)
    if found < 0:
        raise BadData(f"{where}, {field}: {found!r} is no quantity, which must not be below zero; ask the provider")
    return found


def checked(bar: Bar, where: str) -> Bar:
    """Return a bar whose prices can be; where open or close pass high or low by rounding alone, high and low are widened.

    Raises:
        BadData: a price is not above zero, a volume below zero, or open or close lie outside high and low.
    """
    for field in ("open", "high", "low", "close"):
        if not 0 < getattr(bar, field) < math.inf:
            raise BadData(f"{where}, {field}: {getattr(bar, field)!r} is no price, which must be above zero; ask the provider")
    if not 0 <= bar.volume < math.inf:
        raise BadData(f"{where}, volume: {bar.volume!r} is no volume, which must not be below zero; ask the provider")
    for field in ("open", "close", "low"):
        value = getattr(bar, field)
        if value > bar.high * (1 + _NOISE):
            raise BadData(f"{where}, {field}: {value!r} is above the high {bar.high!r}; ask the provider")
        if value < bar.low * (1 - _NOISE):
            raise BadData(f"{where}, {field}: {value!r} is below the low {bar.low!r}; ask the provider")
    if bar.low <= min(bar.open, bar.close) and max(bar.open, bar.close) <= bar.high:
        return bar
    return bar._replace(high=max(bar.open, bar.high, bar.close), low=min(bar.open, bar.low, bar.close))


def floor(moment: datetime, interval: timedelta) -> datetime:
    """Return the last start of a bar at or before a moment; bars start at multiples of the interval since 1970 UTC."""
    return moment - (moment - EPOCH) % interval


def ceiling(moment: datetime, interval: timedelta) -> datetime:
    """Return the first start of a bar at or after a moment."""
    return moment + (EPOCH - moment) % interval


def merged(bars: Iterable[Bar], interval: timedelta) -> list[Bar]:
    """Return bars on a longer grid: first open, highest high, lowest low, last close, all volume.

    Args:
        bars: oldest first, each within one interval of the grid.
        interval: length of the bars to make.
    """
    made: list[Bar] = []
    for bar in bars:
        start = floor(bar.start, interval)
        if made and made[-1].start == start:
            made[-1] = joined(made[-1], bar)
        else:
            made.append(bar._replace(start=start, end=start + interval))
    return made


def joined(earlier: Bar, later: Bar) -> Bar:
    """Return an unfinished bar with the next part of it; start and end stay."""
    return earlier._replace(
        high=max(earlier.high, later.high),
        low=min(earlier.low, later.low),
        close=later.close,
        volume=earlier.volume + later.volume,
    )
