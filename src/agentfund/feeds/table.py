"""A table as it was read: which column is what, and how its source writes rows and values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentfund.errors import BadData, ConfigError
from agentfund.feeds.checks import PRICES

if TYPE_CHECKING:
    import pandas as pd

TIME_NAMES = (
    *("datetime", "date time", "timestamp", "open time", "opentime", "gmt time", "utc time", "bar time", "time", "date"),
    *("unix", "unix time", "unix timestamp", "epoch", "ts", "t"),
)
_NAMES: dict[str, tuple[str, ...]] = {
    "time": TIME_NAMES,
    "open": ("open", "o", "open price"),
    "high": ("high", "h", "high price"),
    "low": ("low", "l", "low price"),
    "close": ("close", "c", "close price", "last"),
    "volume": ("volume", "vol", "v", "tick volume", "tickvol"),
}
# What pandas writes above an index without a name.
_NAMELESS = ("", "unnamed: 0", "index")


@dataclass(frozen=True, slots=True)
class Table:
    """A table of bars as it was read, before anything in it is believed.

    Args:
        name: the file's name, or what else to call it in messages.
        frame: its rows.
        found: the names of the columns of time, open, ...; a time may be in two columns.
        row: says which row a position of `frame` is in its source.
        cell: gives the text of a value as its source has it, by position and field.
        prices_as_text: a sample of the prices as they are written, to see how many decimals they have.
    """

    name: str
    frame: pd.DataFrame
    found: Mapping[str, tuple[str, ...]]
    row: Callable[[int], str]
    cell: Callable[[int, str], str]
    prices_as_text: Callable[[], Iterable[str]]


def plain(name: str) -> str:
    """Return a column's name without what differs from vendor to vendor: case, <>, underscores, leading numbers."""
    name = re.sub(r"^\d+\.\s*", "", name.strip().strip("<>\"'").lower())
    return re.sub(r"[_\s]+", " ", name).strip()


def find(name: str, header: Sequence[str], given: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Say which column holds what.

    Args:
        name: the file's name, for messages.
        header: the columns' names.
        given: what the user says about them, by field.

    Raises:
        BadData: a column is missing or there twice, or there is no header at all.
        ConfigError: `given` names a field that bars do not have.
    """
    if unknown := set(given) - set(_NAMES):
        raise ConfigError(f"columns= names {', '.join(sorted(unknown))}; it can name {', '.join(_NAMES)}")
    for field, said in given.items():
        if said not in header:
            raise BadData(f"{name}: columns= says that {field} is {said!r}, but the columns are {_list(header)}")
    names = [plain(each) for each in header]
    found: dict[str, tuple[str, ...]] = {}
    for field, usual in _NAMES.items():
        column = given.get(field, next((header[names.index(each)] for each in usual if each in names), None))
        if column is not None:
            if names.count(plain(column)) > 1 and (field not in given or header.count(column) > 1):
                raise BadData(f"{name}: {names.count(plain(column))} columns are called {column!r}; keep one of them")
            found[field] = (column,)
    if "time" not in given:
        if "time" in found and plain(found["time"][0]) in ("date", "time") and {"date", "time"} <= set(names):
            found["time"] = (header[names.index("date")], header[names.index("time")])
        elif "time" not in found and names and names[0] in _NAMELESS:
            found["time"] = (header[0],)
    missing = [field for field in ("time", *PRICES) if field not in found]
    if missing:
        raise BadData(f"{name}: {_missing(header, names, missing)}")
    return found


def _missing(header: Sequence[str], names: Sequence[str], missing: Sequence[str]) -> str:
    if all(re.fullmatch(r"[\d\s.,:/+TZ-]*", each) for each in header):
        return (
            f"there is no header row, the first row is {_list(header)}; put one above it, such as"
            " Time,Open,High,Low,Close,Volume"
        )
    adjusted = ""
    if "adj close" in names and "close" in missing:
        adjusted = " ('adj close' is not the close: open, high and low are not adjusted with it)"
    return (
        f"no column for {', '.join(missing)} among {_list(header)}{adjusted}; name the columns time, open, high, low,"
        " close, volume, or say which is which with columns="
    )


def _list(names: Sequence[str]) -> str:
    return ", ".join(repr(each) for each in names[:12]) + (", ..." if len(names) > 12 else "")
