"""Corporate actions: splits and dividends as data beside the bars, and bars adjusted for them, never by themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from agentfund.clock import to_micros
from agentfund.errors import BadData
from agentfund.feeds.checks import PRICES, when
from agentfund.feeds.facts import Fact, Facts
from agentfund.feeds.history import Bars
from agentfund.feeds.moments import moment, zone
from agentfund.feeds.rows import Row, csv_rows, record_row
from agentfund.market import read_only

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from zoneinfo import ZoneInfo

    from agentfund.market import Columns, Floats

Kind = Literal["split", "dividend"]

_FIELDS = ("symbol", "ex_date", "kind", "value", "known_time")


@dataclass(frozen=True, slots=True)
class Action:
    """A split or a dividend of one instrument.

    Args:
        symbol: the instrument.
        ex_date: from when on it trades without it: an aware datetime, a day (its beginning, UTC), or either as text.
        kind: "split" or "dividend".
        value: of a split, new shares for one old share, as a number or as "4:1" ("1:10" for a reverse split); of a dividend,
            the money for one share, in the currency of the prices, as it was paid.
        known_time: when it was announced, where that is known.

    Raises:
        BadData: a field cannot be; says which and why.
    """

    symbol: str
    ex_date: datetime
    kind: Kind
    value: float
    known_time: datetime | None = None

    def __init__(
        self,
        symbol: str,
        ex_date: datetime | date | str,
        kind: Kind,
        value: float | Decimal | str,
        known_time: datetime | date | str | None = None,
    ) -> None:
        if not symbol:
            raise BadData("symbol: it is empty; name the instrument")
        if kind not in get_args(Kind):
            raise BadData(f"kind: {kind!r} is neither 'split' nor 'dividend'")
        known = None if known_time is None else _moment("known_time", known_time, None, day_ends=True)
        fields = (symbol, _moment("ex_date", ex_date, None), kind, _number(kind, value), known)
        for name, field in zip(self.__slots__, fields, strict=True):
            object.__setattr__(self, name, field)

    def __str__(self) -> str:
        what = f"{self.ratio} split" if self.kind == "split" else f"dividend of {self.value:g}"
        return f"{what} of {self.symbol} on {when(to_micros(self.ex_date))}"

    @property
    def ratio(self) -> str:
        """Of a split, new shares for old ones, such as "4:1"; of a dividend, nothing."""
        if self.kind != "split":
            return ""
        ratio = Fraction(self.value).limit_denominator(1000)
        return f"{ratio.numerator}:{ratio.denominator}"


class Actions:
    """Corporate actions of one instrument or of many.

    Args:
        records: the actions, in any order.
        source: where they came from, in words.

    Raises:
        BadData: an action is there twice.
    """

    def __init__(self, records: Iterable[Action], *, source: str = "records") -> None:
        self._records = tuple(sorted(records, key=lambda action: (action.ex_date, action.symbol, action.kind)))
        self._source = source
        seen = set()
        for action in self._records:
            if (key := (action.symbol, action.ex_date, action.kind)) in seen:
                raise BadData(f"{source}: there are two records of a {action}; leave one out, or add them up")
            seen.add(key)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Action]:
        return iter(self._records)

    def __repr__(self) -> str:
        return f"<Actions: {len(self):,} from {self._source}>"

    @property
    def records(self) -> tuple[Action, ...]:
        """All actions by `ex_date`."""
        return self._records

    @property
    def source(self) -> str:
        """Where they came from, in words."""
        return self._source

    @staticmethod
    def from_records(
        records: Iterable[Action | Mapping[str, Any]], *, source: str = "records", tz: str | None = None
    ) -> Actions:
        """Take actions, or mappings with the fields of one: symbol, ex_date, kind, value and, where known, known_time.

        Args:
            records: the actions; a day without a time of day is its beginning.
            source: where they came from, in words.
            tz: zone of days and of times that name none; days are UTC where not given, and such times are refused.

        Raises:
            BadData: a record cannot be used; names the record and the field.
        """
        local = zone(tz)
        made = [
            each if isinstance(each, Action) else _action(record_row(each, f"{source}, record {i}", _FIELDS), local)
            for i, each in enumerate(records)
        ]
        return Actions(made, source=source)

    @staticmethod
    def from_csv(
        path: str | PathLike[str],
        *,
        symbol: str | None = None,
        tz: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Actions:
        """Read a comma-separated file with the columns symbol, ex_date, kind, value and, where known, known_time.

        Args:
            path: the file, gzipped or not.
            symbol: the instrument, where the file has no such column.
            tz: zone of days and of times that name none; days are UTC where not given, and such times are refused.
            columns: the file's names for the fields, where they are unusual.

        Raises:
            BadData: the file cannot be used; names the file, the row and the field.
        """
        local = zone(tz)
        named = {} if symbol is None else {"symbol": symbol}
        rows = [Row(row.where, {**named, **row.values}) for row in csv_rows(path, _FIELDS, columns)]
        return Actions([_action(row, local) for row in rows], source=Path(path).name)

    def as_facts(self) -> Facts:
        """Return them as facts named "split" and "dividend": known when announced, or from their day on.

        The value of a split is the number of new shares for one old share.
        """
        return Facts(
            (
                Fact(
                    action.kind,
                    event_time=action.ex_date,
                    known_time=action.known_time or action.ex_date,
                    value=action.value,
                    symbol=action.symbol,
                    forecast=action.known_time is not None and action.known_time < action.ex_date,
                )
                for action in self._records
            ),
            source=self._source,
        )

    def adjusted(self, bars: Bars, *, dividends: bool = False, point_in_time: bool = False, check: bool = True) -> Bars:
        """Return new bars without the gaps that the actions tore; the given ones stay as they are.

        A split of r new shares for one divides the prices before it by r and multiplies volumes by r. A dividend d multiplies
        the prices before it by 1 - d / c, c being the last close before it, so that returns are those of a holder who buys
        shares for it at once (method of the CRSP adjusted price series).

        Prices adjusted this way end at the level at which the instrument trades, and begin at one that follows from what came
        later: a rule that looks at a price LEVEL (below 5, a round number) then looks into the future. With
        `point_in_time` the first price stays as it was and the later ones are moved instead: returns are the same, and no
        price depends on what comes after it, but later levels are not those that were traded.

        Args:
            bars: bars as they were traded.
            dividends: whether to adjust for dividends, too.
            point_in_time: whether to move the prices behind an action instead of those before it.
            check: whether a split must show as a gap in the prices. A dividend is too small to be seen there.

        Raises:
            BadData: a split shows no gap of its size, as in data that are adjusted already; or a dividend is as large as the
                price.
        """
        columns: dict[str, Columns] = {}
        told: list[str] = []
        for symbol, each in bars.columns.items():
            within = [action for action in self._records if action.symbol == symbol and _row(each, action)]
            chosen = [action for action in within if dividends or action.kind == "split"]
            columns[symbol] = _adjusted(each, chosen, point_in_time, check, bars.source)
            told += _sentences(each, chosen, point_in_time)
        if not told:
            told.append(f"no action of {self._source} falls into the bars, so nothing is adjusted")
        source = f"{bars.source}, adjusted by {self._source}"
        return Bars(columns, source=source, warnings=(*bars.told, *told), facts=bars.facts)


def _row(columns: Columns, action: Action) -> int:
    """Return the first bar that trades without the action; 0 where all do, or none."""
    at = int(columns.start.searchsorted(to_micros(action.ex_date), side="left"))
    return at if at < len(columns) else 0


def _adjusted(c: Columns, actions: Sequence[Action], forward: bool, check: bool, source: str) -> Columns:
    price, volume = np.ones(len(c)), np.ones(len(c))
    for action in actions:
        at = _row(c, action)
        factor = _factor(c, action, at, check, source)
        span = slice(at, None) if forward else slice(0, at)
        price[span] *= 1 / factor if forward else factor
        if action.kind == "split":
            volume[span] *= factor if forward else 1 / factor
    moved: dict[str, Floats] = {name: getattr(c, name) * price for name in PRICES}
    return replace(c, **read_only({**moved, "volume": c.volume * volume}))


def _factor(c: Columns, action: Action, at: int, check: bool, source: str) -> float:
    """Return what prices before an action are multiplied by."""
    before, after = float(c.close[at - 1]), float(c.open[at])
    gap = f"{when(int(c.start[at - 1]))} closes at {before!r} and {when(int(c.start[at]))} opens at {after!r}"
    if action.kind == "dividend":
        if action.value >= before:
            raise BadData(
                f"{source}: a {action} is not below the price, {gap}; give the money for one share as it was paid then"
            )
        return 1 - action.value / before
    # Nearer to the ratio than to no split at all: the day has an ordinary move of its own.
    away = abs(math.log(before / after / action.value))
    if check and away > abs(math.log(action.value)) / 2:
        raise BadData(
            f"{source}: a {action} should show as a fall to 1/{action.value:g}, but {gap}, a ratio of {before / after:.4g};"
            " the prices may be adjusted already, or the day is another one; check=False adjusts all the same"
        )
    return 1 / action.value


def _sentences(c: Columns, actions: Sequence[Action], forward: bool) -> Iterator[str]:
    side = "from it on" if forward else "before it"
    for action in actions:
        yield f"{c.instrument.symbol}: prices {side} are adjusted for the {action}"
    if actions and not forward:
        yield (
            f"{c.instrument.symbol}: levels of prices before {when(to_micros(actions[-1].ex_date))} follow from later actions:"
            " a rule that looks at levels instead of changes looks ahead there (point_in_time=True does not)"
        )


def _action(row: Row, local: ZoneInfo | None) -> Action:
    for field in _FIELDS[:4]:
        if field not in row.values:
            raise row.wrong(field, "it is empty or missing")
    values = dict(row.values)
    for field in ("ex_date", "known_time"):
        if field in values:
            try:
                values[field] = _moment(field, values[field], local, day_ends=field == "known_time")
            except BadData as error:
                raise BadData(f"{row.where}, {error}") from None
    try:
        return Action(**{**values, "kind": str(values["kind"]).strip().lower()})
    except BadData as error:
        raise BadData(f"{row.where}, {error}") from None


def _moment(field: str, value: object, local: ZoneInfo | None, *, day_ends: bool = False) -> datetime:
    try:
        return moment(value, local or (zone("UTC") if _is_day(value) else None), day_ends=day_ends)
    except ValueError as error:
        raise BadData(f"{field}: {error}") from None


def _is_day(value: object) -> bool:
    if isinstance(value, str):
        try:
            date.fromisoformat(value.strip())
        except ValueError:
            return False
        return True
    return isinstance(value, date) and not isinstance(value, datetime)


def _number(kind: Kind, value: Any) -> float:
    try:
        if kind == "split" and isinstance(value, str) and ":" in value:
            new, _, old = value.partition(":")
            number = float(Fraction(new.strip()) / Fraction(old.strip()))
        else:
            number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        form = "new shares for one old share, as 4 or '4:1'" if kind == "split" else "money for one share"
        raise BadData(f"value: {value!r} is not what a {kind} takes, {form}, above zero")
    if kind == "split" and number == 1:
        raise BadData("value: a split of 1:1 is none")
    return number
