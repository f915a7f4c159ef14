"""Rows of small tables (facts, corporate actions) by field, each with the words that say where it stands."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from agentfund.errors import BadData, ConfigError
from agentfund.feeds.content import content
from agentfund.feeds.table import plain
from agentfund.feeds.text import utf8

if TYPE_CHECKING:
    from os import PathLike

    import pandas as pd


class Row(NamedTuple):
    """One row.

    Args:
        where: the file and the row, for messages.
        values: what it holds, by field; a field that is empty is not there.
    """

    where: str
    values: Mapping[str, Any]

    def wrong(self, field: str, told: str) -> BadData:
        """Return the error that names this row and a field of it."""
        return BadData(f"{self.where}, {field}: {told}")


def csv_rows(path: str | PathLike[str], fields: Sequence[str], columns: Mapping[str, str] | None = None) -> list[Row]:
    """Read a comma-separated file with a header row, gzipped or not; columns that are no field are left alone.

    Raises:
        BadData: the file cannot be read, or a row has another number of values than the header.
        ConfigError: `columns` names a field that there is not.
    """
    name = Path(path).name
    reader = csv.reader(io.StringIO(utf8(name, content(path, "rows")).decode(), newline=""), strict=True)
    rows: list[Row] = []
    places: dict[str, int] = {}
    width = 0
    before = 0
    try:
        for values in reader:
            where, before = f"{name}, row {before + 1}", reader.line_num
            if not any(value.strip() for value in values):
                continue
            if not places:
                places, width = _places(name, values, fields, columns), len(values)
                continue
            if len(values) != width:
                raise BadData(f"{where}: there are {len(values)} values where the header has {width} names; correct the row")
            found = {field: values[at].strip() for field, at in places.items()}
            rows.append(Row(where, {field: value for field, value in found.items() if value}))
    except csv.Error as error:
        raise BadData(f"{name}, row {before + 1}: it cannot be read as comma-separated text ({error})") from None
    return rows


def frame_rows(frame: pd.DataFrame, name: str, fields: Sequence[str], columns: Mapping[str, str] | None = None) -> list[Row]:
    """Take the rows of a DataFrame; an index with a name is a column as well.

    Raises:
        BadData: two columns are the same field.
        ConfigError: `columns` names a field that there is not.
    """
    import pandas as pd

    whole = frame.reset_index() if any(each is not None for each in frame.index.names) else frame
    places = _places(name, [str(each) for each in whole.columns], fields, columns)
    parts = {field: whole.iloc[:, at].tolist() for field, at in places.items()}
    rows = []
    for i in range(len(whole)):
        values = {field: column[i] for field, column in parts.items()}
        there = {k: v for k, v in values.items() if isinstance(v, Mapping) or not (pd.isna(v) or v == "")}
        rows.append(Row(f"{name}, iloc {i}", there))
    return rows


def record_row(record: Mapping[str, Any], where: str, fields: Sequence[str]) -> Row:
    """Take a record by its keys.

    Raises:
        BadData: it is no mapping, or has a key that is no field.
    """
    if not isinstance(record, Mapping):
        raise BadData(f"{where}: it is a {type(record).__name__}; give mappings with the keys {', '.join(fields)}")
    if unknown := [str(key) for key in record if key not in fields]:
        raise BadData(f"{where}: {', '.join(unknown)} is no field; the fields are {', '.join(fields)}")
    return Row(where, {key: value for key, value in record.items() if value is not None and value != ""})


def _places(name: str, header: Sequence[str], fields: Sequence[str], columns: Mapping[str, str] | None) -> dict[str, int]:
    given = columns or {}
    if unknown := set(given) - set(fields):
        raise ConfigError(f"columns= names {', '.join(sorted(unknown))}; it can name {', '.join(fields)}")
    for field, said in given.items():
        if said not in header:
            raise BadData(f"{name}: columns= says that {field} is {said!r}, but the columns are {', '.join(map(repr, header))}")
    names = [plain(each) for each in header]
    places = {}
    for field in fields:
        if field in given:
            places[field] = header.index(given[field])
        elif plain(field) in names:
            places[field] = names.index(plain(field))
            if names.count(plain(field)) > 1:
                raise BadData(f"{name}: {names.count(plain(field))} columns are called {field!r}; keep one of them")
    if not places:
        raise BadData(
            f"{name}: no column is one of {', '.join(fields)} among {', '.join(map(repr, header))}; is there a header row?"
        )
    return places
