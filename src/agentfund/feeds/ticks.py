"""Bars from ticks: `tick_bars` for ticks as they come, `bars_from_ticks` for history; the rules are in `ticks_rules`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from agentfund.feeds.history import Bars
from agentfund.feeds.ticks_arrays import TickColumns, columns_from_ticks
from agentfund.feeds.ticks_file import read_ticks_csv
from agentfund.feeds.ticks_rules import MICRO, Dollars, Every, Ticks, Volume, check
from agentfund.feeds.ticks_stream import FilledBars, TickBars, TimeBars
from agentfund.market import Instrument

if TYPE_CHECKING:
    from agentfund.market import Floats, Micros

__all__ = [
    "Dollars",
    "Every",
    "TickBars",
    "TickColumns",
    "Ticks",
    "Volume",
    "bars_from_ticks",
    "columns_from_ticks",
    "read_ticks_csv",
    "tick_bars",
]


def tick_bars(symbol: str, every: Every, *, offset: timedelta = timedelta(0), lateness: timedelta = timedelta(0)) -> TickBars:
    """Make the bars that ticks are sent to.

    Args:
        symbol: what the ticks are of.
        every: what closes a bar: an interval that divides a day, `Ticks`, `Volume` or `Dollars`.
        offset: moves the starts of time bars from midnight UTC, for sessions that begin between two multiples.
        lateness: how long to wait for late ticks.

    Raises:
        ConfigError: one of them cannot be.
    """
    check(every, offset, lateness)
    if isinstance(every, timedelta):
        return TimeBars(symbol, every // MICRO, offset // MICRO, lateness // MICRO)
    return FilledBars(symbol, every, lateness // MICRO)


def bars_from_ticks(
    instrument: Instrument | str,
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
) -> Bars:
    """Return the bars of ticks in order of arrival; a warning says how many ticks came too late and are in no bar.

    Args:
        instrument: what the ticks are of; a symbol makes an Instrument with the usual steps.
        every: what closes a bar: an interval that divides a day, `Ticks`, `Volume` or `Dollars`.
        time: microseconds since 1970 UTC, or datetime64 in UTC.
        price: above zero.
        volume: units traded, not below zero; None where the source has none.
        offset: moves the starts of time bars from midnight UTC.
        lateness: how long to wait for late ticks.
        unfinished: keep bars that no tick had closed when the ticks end.
        compiled: True for numba, False for numpy, None for numba where it is installed and the work is large.
        source: where the ticks came from, in words.

    Raises:
        BadData: a tick cannot be, or there is no bar; names the row, counted from 0.
        ConfigError: an argument cannot be, or volumes are needed and not there.
        MissingExtra: `compiled=True`, and numba is not installed.
    """
    columns, late = columns_from_ticks(
        Instrument(instrument) if isinstance(instrument, str) else instrument,
        every,
        time,
        price,
        volume,
        offset=offset,
        lateness=lateness,
        unfinished=unfinished,
        compiled=compiled,
        source=source,
    )
    told = [f"{source}: {late:,} of {len(time):,} ticks came after their bar had closed and are in none"] if late else []
    if volume is None:
        told.append(f"{source}: there is no volume, so every volume is zero")
    return Bars(columns, source=source, warnings=told)
