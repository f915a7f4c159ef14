"""Ticks from text files: trades with time, price and volume, or quotes with time, ask and bid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from agentfund.errors import BadData, ConfigError
from agentfund.feeds.checks import NO_TIME, Check, reach_check, refuse, when
from agentfund.feeds.content import content
from agentfund.feeds.table import TIME_NAMES, Table, plain
from agentfund.feeds.text import TextFile, utf8
from agentfund.feeds.ticks_arrays import TickColumns
from agentfund.feeds.times import parse_times

if TYPE_CHECKING:
    from os import PathLike

    from agentfund.market import Floats

_NAMES: dict[str, tuple[str, ...]] = {
    "time": ("local time", *TIME_NAMES),
    "price": ("price", "trade price", "last", "last price"),
    "volume": ("volume", "vol", "size", "quantity", "qty", "amount"),
    "ask": ("ask", "ask price", "askprice"),
    "bid": ("bid", "bid price", "bidprice"),
    "ask_volume": ("askvolume", "ask volume", "ask size", "asksize"),
    "bid_volume": ("bidvolume", "bid volume", "bid size", "bidsize"),
}
_PRICES = ("price", "ask", "bid")


def read_ticks_csv(
    path: str | PathLike[str],
    price: Literal["trade", "mid", "bid", "ask"] | None = None,
    *,
    tz: str | None = None,
    time_format: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> TickColumns:
    """Read ticks from text with a header row, separated by tab, comma, semicolon or pipe, gzipped or not.

    The rows are taken in the order in which they stand, which need not be that of their times.

    Args:
        path: the file.
        price: "trade" takes the column of prices; "bid", "ask" and "mid" those of quotes, and the volume is then the one
            quoted on that side, for "mid" on both; it is no traded volume. None takes trades where there are any, else mid.
        tz: zone of times that name none, such as "America/New_York"; UTC where not given.
        time_format: format of the times, as for `strptime`; the usual ones are recognised.
        columns: the file's names for time, price, volume, ask, bid, ask_volume, bid_volume, where they are unusual.

    Raises:
        BadData: the file cannot be used; names the file, the row, the field and the fix.
        ConfigError: an argument names what is not there.
    """
    name = Path(path).name
    text = TextFile(name, utf8(name, content(Path(path), "ticks")))
    found = _find(name, text.header, columns or {})
    chosen = price or ("trade" if "price" in found else "mid")
    needs: dict[str, tuple[str, ...]] = {"trade": ("price",), "mid": ("ask", "bid"), "bid": ("bid",), "ask": ("ask",)}
    if chosen not in needs:
        raise ConfigError(f"price={price!r}: it can be {', '.join(map(repr, needs))} or None")
    fields = needs[chosen]
    missing = [field for field in ("time", *fields) if field not in found]
    if missing:
        raise BadData(
            f"{name}: no column for {', '.join(missing)} among {', '.join(map(repr, text.header[:12]))}; name the columns"
            " time, price, volume or time, ask, bid, or say which is which with columns="
        )
    sizes = tuple("volume" if field == "price" else f"{field}_volume" for field in fields)
    sizes = sizes if all(size in found for size in sizes) else ()
    table = text.table({field: (found[field],) for field in ("time", *fields, *sizes)})
    time, checks = parse_times(table.frame[found["time"]], tz=tz, time_format=time_format, cell=lambda i: table.cell(i, "time"))
    values = {field: _numbers(table, field) for field in (*fields, *sizes)}
    refuse(
        [*checks, reach_check(time), *(_check(table, field, value) for field, value in values.items())],
        lambda i: f"{name}, {table.row(i)}" + ("" if time[i] == NO_TIME else f" ({when(int(time[i]))})"),
        "correct the row, or leave it out",
    )
    prices: Floats = values[fields[0]] if len(fields) == 1 else (values["ask"] + values["bid"]) / 2
    volume: Floats | None = None
    if sizes:
        volume = values[sizes[0]] if len(sizes) == 1 else values["ask_volume"] + values["bid_volume"]
    return TickColumns(time, prices, volume)


def _find(name: str, header: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    if unknown := set(given) - set(_NAMES):
        raise ConfigError(f"columns= names {', '.join(sorted(unknown))}; it can name {', '.join(_NAMES)}")
    names = [plain(each) for each in header]
    found = {}
    for field, usual in _NAMES.items():
        if field in given and given[field] not in header:
            raise BadData(f"{name}: columns= says that {field} is {given[field]!r}, but the columns are {list(header)}")
        column = given.get(field, next((header[names.index(each)] for each in usual if each in names), None))
        if column is None:
            continue
        if header.count(column) > 1:
            raise BadData(f"{name}: {header.count(column)} columns are called {column!r}; keep one of them")
        found[field] = column
    return found


def _numbers(table: Table, field: str) -> Floats:
    import pandas as pd

    (column,) = table.found[field]
    return pd.to_numeric(table.frame[column], errors="coerce").to_numpy(np.float64, na_value=np.nan, copy=True)


def _check(table: Table, field: str, values: Floats) -> Check:
    priced = field in _PRICES
    good = (values > 0 if priced else values >= 0) & (values < math.inf)

    def tell(i: int) -> str:
        must = "a price must be above zero" if priced else "a volume must not be below zero"
        return f"{field} is {table.cell(i, field)!r}; {must}" if table.cell(i, field) else f"{field} is empty"

    return Check(f"a {field} that cannot be", ~good, tell)
