"""What is known besides bars, and since when: news, fundamentals, economic releases, each with its two times.

`event_time` is what a fact is about, `known_time` is when anybody could know it. A view ends at a moment and shows what
was known then, as it was known then: later facts and later revisions are not in it.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from agentfund.clock import to_micros, utc
from agentfund.errors import BadData, LookaheadError
from agentfund.feeds.fact import Fact, plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    import pandas as pd

__all__ = ["Fact", "Facts", "KnownFacts"]


class Facts:
    """Facts and all their revisions, in the order in which they became known. It never changes.

    Give it to a feed, `bars.with_facts(facts)`: agents then find what was known at their moment in `market.facts`.

    Args:
        records: the facts in any order. Revisions of one fact are numbered by `known_time` where they are not numbered.
        source: where they came from, in words.
        warnings: what a user should know about them, one sentence each.

    Raises:
        BadData: two records are the same fact, known at the same time; or revisions contradict their times.
    """

    def __init__(self, records: Iterable[Fact], *, source: str = "records", warnings: Sequence[str] = ()) -> None:
        self._records = tuple(sorted(_numbered(records, source), key=_order))
        self._source = source
        self._warnings = tuple(warnings)
        self._known = [to_micros(fact.known_time) for fact in self._records]
        rows: dict[tuple[str, str], list[int]] = {}
        for row, fact in enumerate(self._records):
            rows.setdefault((fact.name, fact.symbol), []).append(row)
        self._lines = {
            key: _Line([self._records[row] for row in own], [self._known[row] for row in own]) for key, own in rows.items()
        }

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Fact]:
        return iter(self._records)

    def __repr__(self) -> str:
        return f"<Facts: {len(self):,} records of {len(self.names)} kinds from {self._source}>"

    @property
    def records(self) -> tuple[Fact, ...]:
        """All facts with all their revisions, by `known_time`."""
        return self._records

    @property
    def names(self) -> tuple[str, ...]:
        """The kinds of facts, sorted."""
        return tuple(sorted({name for name, _ in self._lines}))

    @property
    def source(self) -> str:
        """Where they came from, in words."""
        return self._source

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know about them, one sentence each."""
        return self._warnings

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all records; the same facts have the same one on every machine."""
        digest = hashlib.sha256()
        for fact in self._records:
            times = to_micros(fact.event_time), to_micros(fact.known_time)
            row = [fact.name, fact.symbol, fact.id, *times, fact.revision, fact.forecast, plain(fact.value)]
            digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def at(self, now: datetime) -> KnownFacts:
        """Return the view of what was known at a moment.

        Raises:
            ValueError: `now` has no time zone.
        """
        return KnownFacts(self, now)

    def until(self, known: datetime) -> Facts:
        """Return the facts that were known by a moment, and nothing of the rest.

        Raises:
            ValueError: the moment has no time zone.
        """
        count = bisect_right(self._known, to_micros(known))
        return Facts(self._records[:count], source=self._source, warnings=self._warnings)

    @staticmethod
    def from_records(records: Iterable[Fact | Mapping[str, Any]], *, source: str = "records", tz: str | None = None) -> Facts:
        """Take facts, or mappings with the fields of one: name, event_time, known_time, value, symbol, id, ...

        Args:
            records: the facts; times are aware datetimes, dates, or text as in ISO 8601.
            source: where they came from, in words.
            tz: zone of times that name none, such as "America/New_York"; without it they are refused.

        Raises:
            BadData: a record cannot be used; names the record and the field.
        """
        from agentfund.feeds.fact_files import from_records

        return from_records(records, source=source, tz=tz)

    @staticmethod
    def from_csv(
        path: str | PathLike[str],
        *,
        name: str | None = None,
        symbol: str | None = None,
        tz: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Facts:
        """Read a comma-separated file with a header: event_time, known_time, and value (a number) or text.

        Columns name, symbol, id, revision and forecast may be there; others are left alone. A `known_time` that is a day
        without a time of day counts from the end of that day.

        Args:
            path: the file, gzipped or not.
            name: the kind of all facts, where the file has no such column.
            symbol: their instrument, where the file has no such column.
            tz: zone of times that name none, such as "America/New_York"; without it they are refused.
            columns: the file's names for the fields, where they are unusual.

        Raises:
            BadData: the file cannot be used; names the file, the row and the field.
        """
        from agentfund.feeds.fact_files import from_csv

        return from_csv(path, name=name, symbol=symbol, tz=tz, columns=columns)

    @staticmethod
    def from_frame(
        frame: pd.DataFrame,
        *,
        name: str | None = None,
        symbol: str | None = None,
        tz: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Facts:
        """Take the facts of a DataFrame, with the columns of `from_csv`; a value may be a number, text or a mapping.

        Raises:
            BadData: the frame cannot be used; names the row and the field.
        """
        from agentfund.feeds.fact_files import from_frame

        return from_frame(frame, name=name, symbol=symbol, tz=tz, columns=columns)


class KnownFacts:
    """What was known at a moment. It offers no way to what became known later.

    Args:
        facts: all facts.
        now: the moment, aware; what became known at it is known.

    Raises:
        ValueError: `now` has no time zone.
    """

    __slots__ = ("_facts", "_micros", "_now")

    def __init__(self, facts: Facts, now: datetime) -> None:
        self._facts = facts
        self._now = utc(now)
        self._micros = to_micros(now)

    def __len__(self) -> int:
        return bisect_right(self._facts._known, self._micros)

    def __iter__(self) -> Iterator[Fact]:
        return iter(self._facts._records[: len(self)])

    def __repr__(self) -> str:
        return f"<KnownFacts: {len(self):,} records known at {self._now.isoformat()}>"

    @property
    def now(self) -> datetime:
        """The moment at which the view ends, aware UTC."""
        return self._now

    def as_of(self, earlier: datetime) -> KnownFacts:
        """Return what was known at an earlier moment.

        Raises:
            LookaheadError: the moment lies after now.
            ValueError: the moment has no time zone.
        """
        if utc(earlier) > self._now:
            raise LookaheadError(f"{earlier.isoformat()} lies after now ({self._now.isoformat()}); facts end there")
        return KnownFacts(self._facts, earlier)

    def latest(self, name: str, symbol: str = "", *, forecasts: bool = False) -> Fact | None:
        """Return the fact with the latest event, in its newest revision known; None where nothing is known.

        Args:
            name: the kind of fact.
            symbol: the instrument; empty for facts of none.
            forecasts: whether what was said beforehand counts, too.
        """
        line = self._facts._lines.get((name, symbol))
        count = bisect_right(line.known, self._micros) if line else 0
        at = line.newest(forecasts)[count - 1] if line and count else -1
        return line.facts[at] if line and at >= 0 else None

    def series(self, name: str, symbol: str = "", *, forecasts: bool = False) -> tuple[Fact, ...]:
        """Return one fact for each event, in its newest revision known, oldest event first."""
        line = self._facts._lines.get((name, symbol))
        if line is None:
            return ()
        known = line.facts[: bisect_right(line.known, self._micros)]
        if line.simple:
            return known
        newest = {fact.key: fact for fact in known if forecasts or not fact.forecast}
        return tuple(sorted(newest.values(), key=lambda fact: (fact.event_time, fact.id)))

    def revisions(self, name: str, symbol: str = "", *, event_time: datetime, id: str = "") -> tuple[Fact, ...]:
        """Return all versions of one fact that were known, oldest first."""
        line = self._facts._lines.get((name, symbol))
        known = line.facts[: bisect_right(line.known, self._micros)] if line else ()
        key = (name, symbol, utc(event_time), id)
        return tuple(fact for fact in known if fact.key == key)

    def since(self, moment: datetime, name: str | None = None, symbol: str | None = None) -> tuple[Fact, ...]:
        """Return what became known after a moment and by now, oldest first.

        Args:
            moment: aware; what became known at it is left out, so that adjoining spans share nothing.
            name: one kind of fact; all where not given.
            symbol: one instrument; all where not given.
        """
        begin = bisect_right(self._facts._known, to_micros(moment))
        return tuple(
            fact
            for fact in self._facts._records[begin : len(self)]
            if (name is None or fact.name == name) and (symbol is None or fact.symbol == symbol)
        )


class _Line:
    """The facts of one kind and instrument, by `known_time`."""

    __slots__ = ("_newest", "facts", "known", "simple")

    def __init__(self, facts: list[Fact], known: list[int]) -> None:
        self.facts = tuple(facts)
        self.known = known
        # Where events become known one after the other and once, what is known is the series already.
        rising = all(a.event_time < b.event_time for a, b in pairwise(facts))
        self.simple = rising and not any(fact.forecast for fact in facts)
        self._newest: dict[bool, list[int]] = {}

    def newest(self, forecasts: bool) -> list[int]:
        """Return, for each number of known facts - 1, which is the one with the latest event; -1 where none is."""
        if forecasts not in self._newest:
            best, found = -1, []
            for at, fact in enumerate(self.facts):
                counts = forecasts or not fact.forecast
                if counts and (best < 0 or fact.event_time >= self.facts[best].event_time):
                    best = at
                found.append(best)
            self._newest[forecasts] = found
        return self._newest[forecasts]


def _order(fact: Fact) -> tuple[Any, ...]:
    return fact.known_time, fact.event_time, fact.name, fact.symbol, fact.id, fact.revision


def _numbered(records: Iterable[Fact], source: str) -> Iterator[Fact]:
    versions: dict[tuple[str, str, datetime, str], list[Fact]] = {}
    for fact in records:
        versions.setdefault(fact.key, []).append(fact)
    for key, facts in versions.items():
        facts.sort(key=lambda fact: (fact.known_time, fact.revision))
        unnumbered = not any(fact.revision for fact in facts)
        for before, fact in pairwise(facts):
            if before.known_time == fact.known_time if unnumbered else before.revision >= fact.revision:
                raise BadData(f"{source}: {_twice(key, before, fact, unnumbered)}")
        for number, fact in enumerate(facts):
            yield replace(fact, revision=number) if unnumbered and number else fact


def _twice(key: tuple[str, str, datetime, str], before: Fact, fact: Fact, unnumbered: bool) -> str:
    name, symbol, event, own = key
    what = f"{name!r} of {symbol or 'no symbol'} at {event.isoformat()}" + (f" with id {own!r}" if own else "")
    if unnumbered:
        return (
            f"two records are {what}, known at {fact.known_time.isoformat()}; number them by revision, or tell them apart by id"
        )
    return (
        f"revision {fact.revision} of {what} is known at {fact.known_time.isoformat()}, and revision {before.revision} at"
        f" {before.known_time.isoformat()}; revisions must rise with known_time"
    )
