"""Bars from files and DataFrames: what is wrong in them is named and never repaired."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict, Unpack, cast

import numpy as np

from agentfund.errors import BadData, ConfigError, MissingExtra
from agentfund.feeds.checks import FIELDS, NO_TIME, PRICES, Check, bar_checks, order_checks, reach_check, refuse, when
from agentfund.feeds.content import content, line
from agentfund.feeds.table import TIME_NAMES, Table, find, plain
from agentfund.feeds.text import TextFile, utf8
from agentfund.feeds.times import parse_times
from agentfund.market import Columns, Instrument, decimal, read_only

if TYPE_CHECKING:
    from os import PathLike

    import pandas as pd

    from agentfund.market import Floats, Micros

_EXTENSIONS = re.compile(r"(\.(csv|tsv|txt|parquet|gz))+$", re.IGNORECASE)
_INTERVAL_IN_NAME = re.compile(
    r"[_\-\s](\d+\s?(s|sec|m|min|h|hour|d|day|w|mo)|m\d+|h\d|d1|daily|hourly|minutes?|weekly|monthly|\d{4,})(?![a-z0-9]).*$",
    re.IGNORECASE,
)
_SAMPLE = 2_000
# No exchange quotes finer; what comes behind is noise of floating point.
_MOST_DECIMALS = 8
_ENOUGH = 0.9


class Options(TypedDict, total=False):
    """What can be said about a file where it does not say it itself.

    Attributes:
        interval: length of a bar; the most common distance between bars where not given.
        tick_size: smallest step of a price; what the decimals of the prices say where not given.
        lot_size: smallest step of a quantity.
        currency: what prices are counted in.
        tz: zone of times that name none, such as "America/New_York"; UTC where not given.
        time_format: format of the times, as for `strptime`; the usual ones are recognised.
        columns: the file's names for time, open, high, low, close, volume, where they are unusual.
        on_bad: "raise" (the default), or "drop" to leave bad rows out and say how many in the warnings.
    """

    interval: timedelta
    tick_size: Decimal | str | float
    lot_size: Decimal | str | float
    currency: str
    tz: str
    time_format: str
    columns: Mapping[str, str]
    on_bad: Literal["raise", "drop"]


class Read(NamedTuple):
    """What a file gave: its bars, where they came from, and what a user should know about them."""

    columns: Columns
    source: str
    warnings: tuple[str, ...]


def read_file(path: str | PathLike[str], symbol: str | None = None, **options: Unpack[Options]) -> Read:
    """Read bars by the file's extension."""
    name = Path(path).name
    if name.lower().endswith(".parquet"):
        return read_parquet(path, symbol, **options)
    if name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".txt")):
        return read_csv(path, symbol, **options)
    raise BadData(f"{name}: its extension names no format that can be read; .csv, .tsv, .txt (also with .gz) and .parquet do")


def read_csv(path: str | PathLike[str], symbol: str | None = None, **options: Unpack[Options]) -> Read:
    """Read bars from text with a header row, separated by tab, comma, semicolon or pipe, gzipped or not."""
    name = Path(path).name
    text = TextFile(name, utf8(name, content(path)))
    return _read(text.table(find(name, text.header, options.get("columns", {}))), symbol or _symbol(name), options)


def read_parquet(path: str | PathLike[str], symbol: str | None = None, **options: Unpack[Options]) -> Read:
    """Read bars from a Parquet file, as pandas and others write it."""
    import pandas as pd

    name, data = Path(path).name, content(path)
    try:
        frame = pd.read_parquet(io.BytesIO(data), engine="pyarrow")
    except ImportError:
        raise MissingExtra("pyarrow", "parquet") from None
    except (OSError, ValueError, NotImplementedError, LookupError) as error:  # what pyarrow's own errors are made of
        raise BadData(f"{name}: it is not a whole Parquet file ({line(error)}); write or fetch it again") from error
    return _read(_framed(name, frame, symbol or _symbol(name), options), symbol or _symbol(name), options)


def read_frame(frame: pd.DataFrame, symbol: str, **options: Unpack[Options]) -> Read:
    """Read bars from a DataFrame with the times in its index or in a column."""
    return _read(_framed(f"DataFrame of {symbol}", frame, symbol, options), symbol, options)


def _framed(name: str, frame: pd.DataFrame, symbol: str, options: Options) -> Table:
    import pandas as pd

    if frame.empty:
        raise BadData(f"{name}: it is empty; it needs bars")
    if frame.columns.nlevels > 1:
        level = next((n for n in range(frame.columns.nlevels) if symbol in frame.columns.get_level_values(n)), None)
        if level is None:
            raise BadData(
                f"{name}: its columns have {frame.columns.nlevels} levels and none names {symbol}; select one instrument"
            )
        frame = cast("pd.DataFrame", frame.xs(symbol, axis=1, level=level))
    index, given = frame.index, dict(options.get("columns", {}))
    frame = frame.rename(columns=str).reset_index(drop=True)
    if "time" not in given and (isinstance(index, pd.DatetimeIndex) or plain(str(index.name)) in TIME_NAMES):
        given["time"] = "" if index.name is None else str(index.name)
        frame = frame.drop(columns=given["time"], errors="ignore")
        frame.insert(0, given["time"], index)
    found = find(name, list(frame.columns), given)

    def cell(i: int, field: str) -> str:
        values = [frame[column].iloc[i] for column in found[field]]
        return " ".join("" if pd.isna(value) else str(value) for value in values)

    def sample() -> Iterable[str]:
        for price in PRICES:
            values = frame[found[price][0]]
            for part in (values.iloc[:_SAMPLE], values.iloc[_SAMPLE:].iloc[-_SAMPLE:]):
                yield from (str(value).removesuffix(".0") for value in part.tolist())

    return Table(name, frame, found, lambda i: f"iloc {i}", cell, sample)


def _read(table: Table, symbol: str, options: Options) -> Read:
    import pandas as pd

    on_bad = options.get("on_bad", "raise")
    if on_bad not in ("raise", "drop"):
        raise ConfigError(f"on_bad={on_bad!r}: it can be 'raise' or 'drop'")
    frame, found, told = table.frame, table.found, list[str]()
    times = [frame[column] for column in found["time"]]
    start, checks = parse_times(
        times[0] if len(times) == 1 else times[0].astype("str") + " " + times[1].astype("str"),
        tz=options.get("tz"),
        time_format=options.get("time_format"),
        cell=lambda i: table.cell(i, "time"),
    )
    values = {
        field: pd.to_numeric(frame[found[field][0]], errors="coerce").to_numpy(np.float64, na_value=np.nan, copy=True)
        for field in FIELDS
        if field in found
    }
    if "volume" not in values:
        values["volume"] = np.zeros(len(start))
        told.append(f"{table.name}: there is no volume column, so every volume is zero; columns= can name one")
    checks = [*checks, reach_check(start), *bar_checks(values, table.cell)]
    if on_bad == "drop":
        start, values = _dropped(table, start, values, checks, told)
    else:
        refuse(
            [*checks, *order_checks(start)],
            lambda i: f"{table.name}, {table.row(i)}" + ("" if start[i] == NO_TIME else f" ({when(start[i])})"),
            "correct the data, or pass on_bad='drop' to leave such rows out",
        )
    tick, lot = options.get("tick_size"), options.get("lot_size", "0.0001")
    instrument = Instrument(
        symbol,
        tick_size=_tick_size(table.prices_as_text()) if tick is None else decimal(tick),
        lot_size=decimal(lot),
        currency=options.get("currency", "USD"),
    )
    interval = options.get("interval") or _interval(table.name, start)
    columns = Columns(instrument, interval, **read_only({"start": start, **values}))
    return Read(columns, table.name, tuple(told))


def _dropped(
    table: Table, start: Micros, values: dict[str, Floats], checks: list[Check], told: list[str]
) -> tuple[Micros, dict[str, Floats]]:
    """Leave bad rows out, and tell how many for what reason."""
    keep = np.ones(len(start), dtype=bool)

    def drop(check: Check, positions: Micros) -> None:
        bad = positions[check.bad & keep[positions]]
        if len(bad):
            rows = (
                f"1 row ({table.row(int(bad[0]))})" if len(bad) == 1 else f"{len(bad):,} rows ({table.row(int(bad[0]))} first)"
            )
            told.append(f"{table.name}: left out {rows} with {check.name}")
            keep[bad] = False

    for check in checks:
        drop(check, np.arange(len(start)))
    left = np.flatnonzero(keep)
    if len(left):
        for check in order_checks(start[left]):
            drop(check, left)
    if not keep.any():
        raise BadData(f"{table.name}: on_bad='drop' leaves no row; {'; '.join(told)}")
    return start[keep], {field: array[keep] for field, array in values.items()}


def _interval(name: str, start: Micros) -> timedelta:
    if len(start) < 2:
        raise BadData(f"{name}: one bar does not say how long it lasts; give interval=, such as interval=timedelta(days=1)")
    distances, counts = np.unique(np.diff(start), return_counts=True)
    return timedelta(microseconds=int(distances[counts.argmax()]))


def _tick_size(texts: Iterable[str]) -> Decimal:
    """Return the step that nearly all prices are multiples of; a few odd ones do not make it finer."""
    decimals = sorted(places for text in texts if (places := _decimals(text)) is not None)
    if not decimals:
        return Decimal("0.01")
    return Decimal(1).scaleb(-decimals[math.ceil(len(decimals) * _ENOUGH) - 1])


def _decimals(text: str) -> int | None:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    if not value.is_finite():
        return None
    exponent = int(value.as_tuple().exponent)
    if -exponent > _MOST_DECIMALS:
        single = np.float32(text)
        # A number that single precision holds was 104.06 before somebody widened it to 104.05999755859375.
        value = Decimal(str(single)) if float(single) == float(text) else value
        exponent = int(round(value, _MOST_DECIMALS).normalize().as_tuple().exponent)
    return max(0, -exponent)


def _symbol(name: str) -> str:
    """AAPL_15m.csv.gz is of AAPL, BTC-USD.csv of BTC-USD."""
    return _INTERVAL_IN_NAME.sub("", _EXTENSIONS.sub("", name)).strip(" _-")
