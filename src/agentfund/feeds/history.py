"""Bars in memory: a feed that holds its whole history, of one instrument or of several on one clock."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.clock import EPOCH, to_micros
from agentfund.errors import BadData, ConfigError, FeedError
from agentfund.feeds.checks import (
    FIELDS,
    SuspectedSplit,
    bar_checks,
    end_checks,
    order_checks,
    reach_check,
    refuse,
    suspected_splits,
    suspicions,
    when,
)
from agentfund.market import Columns, Instrument, Market, Window, read_only

if TYPE_CHECKING:
    from os import PathLike
    from typing import Self, Unpack

    import pandas as pd

    from agentfund.feeds.facts import Facts
    from agentfund.feeds.files import Options, Read
    from agentfund.market import Micros

# Moments are turned into Python objects this many at a time, so that memory does not grow with the history.
_CHUNK = 8192


class Bars:
    """Bars that are all here already. It is a `Feed` and a `History`.

    One run at a time: `latest()` gives what the newest stream gave last, so two runs at once need a `Bars` each
    (`bars.with_facts(bars.facts)` is a second one, shares the arrays and costs next to nothing).

    Args:
        columns: bars of one instrument, or of several by symbol; the first is the one that `Market.bars` gives. Arrays
            that can still be written to are copied, so that the past cannot change.
        source: where the data came from, in words; says so where they are simulated.
        warnings: what a user should know about the data, one sentence each; suspected splits are added.
        facts: news, fundamentals and the like, by the time at which they became known; agents find them as `market.facts`.

    Raises:
        BadData: bars are unsorted or repeated, hold NaN, prices that are not above zero, or a high below a low, ...
        ConfigError: there is no instrument, or one is filed under another's symbol.
    """

    def __init__(
        self,
        columns: Mapping[str, Columns] | Columns,
        *,
        source: str,
        warnings: Sequence[str] = (),
        facts: Facts | None = None,
    ) -> None:
        by_symbol = {columns.instrument.symbol: columns} if isinstance(columns, Columns) else dict(columns)
        if not by_symbol:
            raise ConfigError("no bars: give the columns of at least one instrument")
        for symbol, each in by_symbol.items():
            if symbol != each.instrument.symbol:
                raise ConfigError(f"the bars filed under {symbol!r} are of {each.instrument.symbol!r}; use one name for both")
        self._columns = MappingProxyType({symbol: _checked(each) for symbol, each in by_symbol.items()})
        self._source = source
        self._told = tuple(warnings)
        self._suspicions = tuple(text for each in self._columns.values() for text in suspicions(each))
        self._facts = facts
        self._latest: Market | None = None

    def __repr__(self) -> str:
        sizes = ", ".join(f"{symbol} ({len(each):,})" for symbol, each in self._columns.items())
        return f"<Bars of {sizes} from {self._source}>"

    @property
    def columns(self) -> Mapping[str, Columns]:
        """All bars by symbol."""
        return self._columns

    @property
    def instruments(self) -> Sequence[Instrument]:
        """What it has bars of."""
        return tuple(each.instrument for each in self._columns.values())

    @property
    def source(self) -> str:
        """Where the data came from, in words."""
        return self._source

    @property
    def warnings(self) -> Sequence[str]:
        """What a user should know about the data, one sentence each."""
        return (*self._told, *self._suspicions, *(self._facts.warnings if self._facts is not None else ()))

    @property
    def told(self) -> Sequence[str]:
        """The part of the warnings that came with the data: what is not found in the bars or said by the facts."""
        return self._told

    @property
    def facts(self) -> Facts | None:
        """All that is on record beside the bars, None where nothing is; agents see `market.facts` instead."""
        return self._facts

    def with_facts(self, facts: Facts | None) -> Self:
        """Return the same bars with these facts beside them, in place of any that were there."""
        feed = copy.copy(self)
        feed.__dict__.pop("fingerprint", None)
        feed._facts = facts
        feed._latest = None
        return feed

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over symbols, intervals, all numbers and facts; the same data have the same one on every machine."""
        digest = hashlib.sha256()
        for symbol, each in self._columns.items():
            digest.update(f"{symbol}\x1f{each.interval // timedelta(microseconds=1)}\x1f{len(each)}\x1f".encode())
            digest.update(each.start.astype("<i8", copy=False).tobytes())
            for name in FIELDS:
                digest.update(getattr(each, name).astype("<f8", copy=False).tobytes())
            if each.end is not None:
                digest.update(b"end\x1f" + each.end.astype("<i8", copy=False).tobytes())
        if self._facts is not None:
            digest.update(b"facts\x1f" + self._facts.fingerprint.encode())
        return digest.hexdigest()

    def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        """Give the market at every moment at which a bar closes, after `after` or from the beginning.

        Raises:
            ValueError: `after` has no time zone.
        """
        since = None if after is None else to_micros(after)
        if len(self._columns) == 1:
            return self._stream_one(next(iter(self._columns.values())), since)
        return self._stream_merged(since)

    async def _stream_one(self, columns: Columns, since: int | None) -> AsyncIterator[Market]:
        symbol = columns.instrument.symbol
        updated = (symbol,)
        facts = self._facts
        ends = columns.ends
        first = 0 if since is None else int(ends.searchsorted(since, side="right"))
        for at in range(first, len(ends), _CHUNK):
            chunk = ends[at : at + _CHUNK]
            for count, now in enumerate(_moments(chunk), at + 1):
                self._latest = market = Market(now, {symbol: Window(columns, count)}, updated, facts)
                yield market

    async def _stream_merged(self, since: int | None) -> AsyncIterator[Market]:
        symbols = tuple(self._columns)
        series = tuple(self._columns.values())
        ends = [each.ends for each in series]
        seen = [0 if since is None else int(each.searchsorted(since, side="right")) for each in ends]
        windows = {symbols[i]: Window(series[i], count) for i, count in enumerate(seen) if count}
        rest = [each[count:] for each, count in zip(ends, seen, strict=True)]
        # A stable sort of the series laid end to end puts bars in order of time, then of instrument.
        every = np.concatenate(rest)
        order = every.argsort(kind="stable")
        owner = np.concatenate([np.full(len(each), i) for i, each in enumerate(rest)])[order]
        count = np.concatenate([np.arange(n + 1, n + 1 + len(each)) for n, each in zip(seen, rest, strict=True)])[order]
        every = every[order]
        starts = np.flatnonzero(np.diff(every, prepend=every[:1] - 1))
        stops = np.append(starts[1:], len(every))
        for at in range(0, len(starts), _CHUNK):
            begin, end = starts[at : at + _CHUNK], stops[at : at + _CHUNK]
            base = int(begin[0])
            owners, counts = owner[base : end[-1]].tolist(), count[base : end[-1]].tolist()
            names = [symbols[i] for i in owners]
            held = [series[i] for i in owners]
            for now, a, b in zip(_moments(every[begin]), (begin - base).tolist(), (end - base).tolist(), strict=True):
                updated = tuple(names[a:b])
                known = len(windows)
                windows.update(zip(updated, map(Window, held[a:b], counts[a:b]), strict=True))
                if len(windows) != known:
                    windows = {symbol: windows[symbol] for symbol in symbols if symbol in windows}
                self._latest = market = Market(now, windows.copy(), updated, self._facts)
                yield market

    def latest(self) -> Market:
        """Return the market that `stream` gave last.

        Raises:
            FeedError: nothing was streamed yet, and the end of the data would be a look into the future.
        """
        if self._latest is None:
            raise FeedError("no bar was streamed yet, so there is no market now; take the first one from stream()")
        return self._latest

    def between(self, start: datetime | None = None, end: datetime | None = None) -> Bars:
        """Return the bars that close after `start` and no later than `end`; adjoining spans share no bar.

        Raises:
            BadData: there are none.
            ValueError: a time has no time zone.
        """
        spans = {}
        for symbol, each in self._columns.items():
            ends = each.ends
            first = 0 if start is None else int(ends.searchsorted(to_micros(start), side="right"))
            last = len(ends) if end is None else int(ends.searchsorted(to_micros(end), side="right"))
            spans[symbol] = slice(first, last)
        return self._cut(spans, f"between {start or 'the beginning'} and {end or 'the end'}")

    def tail(self, n: int) -> Bars:
        """Return the newest `n` bars of each instrument."""
        if n < 1:
            raise ConfigError(f"tail({n}): ask for at least one bar")
        return self._cut({symbol: slice(-n, None) for symbol in self._columns}, f"newest {n} bars")

    def suspected_splits(self) -> tuple[SuspectedSplit, ...]:
        """Return the gaps that look like splits for which prices were not adjusted; each names the call that would do it."""
        return tuple(split for each in self._columns.values() for split in suspected_splits(each))

    def _cut(self, spans: Mapping[str, slice], what: str) -> Bars:
        parts = {symbol: _sliced(self._columns[symbol], span) for symbol, span in spans.items()}
        empty = [symbol for symbol, each in parts.items() if not len(each)]
        if len(empty) == len(parts):
            held = "; ".join(
                f"{symbol} closes its bars from {when(each.ends[0])} to {when(each.ends[-1])}"
                for symbol, each in self._columns.items()
            )
            raise BadData(f"{self._source}: there is no bar {what}; {held} UTC")
        told = [f"{symbol} has no bar {what} and is left out" for symbol in empty]
        kept = {symbol: each for symbol, each in parts.items() if len(each)}
        return Bars(kept, source=self._source, warnings=(*self._told, *told), facts=self._facts)

    @staticmethod
    def from_csv(path: str | PathLike[str], symbol: str | None = None, **options: Unpack[Options]) -> Bars:
        """Read a text file of bars, gzipped or not; see `agentfund.feeds.files.Options` for what can be said about it.

        Raises:
            BadData: the file cannot be used; names the file, the row, the field and the fix.
        """
        from agentfund.feeds.files import read_csv

        return _of(read_csv(path, symbol, **options))

    @staticmethod
    def from_parquet(path: str | PathLike[str], symbol: str | None = None, **options: Unpack[Options]) -> Bars:
        """Read a Parquet file of bars.

        Raises:
            BadData: the file cannot be used.
            MissingExtra: pyarrow is not installed.
        """
        from agentfund.feeds.files import read_parquet

        return _of(read_parquet(path, symbol, **options))

    @staticmethod
    def from_file(path: str | PathLike[str], symbol: str | None = None, **options: Unpack[Options]) -> Bars:
        """Read a file of bars by its extension: .csv, .tsv, .txt (each also with .gz) or .parquet.

        Raises:
            BadData: the file cannot be used.
        """
        from agentfund.feeds.files import read_file

        return _of(read_file(path, symbol, **options))

    @staticmethod
    def from_frame(frame: pd.DataFrame, symbol: str, **options: Unpack[Options]) -> Bars:
        """Take the bars of a DataFrame: times in its index or in a column; its numbers are copied.

        Raises:
            BadData: the frame cannot be used.
        """
        from agentfund.feeds.files import read_frame

        return _of(read_frame(frame, symbol, **options))


def _of(read: Read) -> Bars:
    return Bars(read.columns, source=read.source, warnings=read.warnings)


def _moments(ends: Micros) -> list[datetime]:
    return list(map(EPOCH.__add__, ends.astype("m8[us]").tolist()))


def _sliced(columns: Columns, span: slice) -> Columns:
    parts = {name: getattr(columns, name)[span] for name in ("start", *FIELDS)}
    return replace(columns, **parts, end=None if columns.end is None else columns.end[span])


def _checked(columns: Columns) -> Columns:
    symbol = columns.instrument.symbol
    arrays: dict[str, Any] = {}
    times = ("start",) if columns.end is None else ("start", "end")
    for name in (*times, *FIELDS):
        given, kind = np.asarray(getattr(columns, name)), np.int64 if name in times else np.float64
        if given.ndim != 1 or given.dtype.kind not in "iuf":
            raise BadData(f"{symbol}: {name} must be one row of numbers, not {given.dtype} of shape {given.shape}")
        if name in times and given.dtype.kind == "f":
            raise BadData(f"{symbol}: {name} must be whole microseconds since 1970 (int64), not {given.dtype}")
        arrays[name] = given.astype(kind, copy=given.flags.writeable)
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) != 1:
        raise BadData(f"{symbol}: the columns have unequal lengths: {', '.join(f'{n} {k}' for n, k in sizes.items())}")
    if not sizes["start"]:
        raise BadData(f"{symbol}: there is no bar; leave the instrument out, or give it at least one")
    if columns.interval <= timedelta(0):
        raise BadData(f"{symbol}: interval must be above zero, not {columns.interval}")
    start = arrays["start"]
    refuse(
        [reach_check(start), *order_checks(start), *end_checks(start, arrays.get("end")), *bar_checks(arrays)],
        lambda i: f"{symbol}, bar {i} ({when(start[i])})",
        "correct the data where they come from",
    )
    return Columns(columns.instrument, columns.interval, **read_only(arrays))
