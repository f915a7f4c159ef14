"""Separated text as it lies on disk; rows are counted as an editor counts them, the first line being row 1."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from agentfund.errors import BadData
from agentfund.feeds.checks import PRICES
from agentfund.feeds.table import Table

if TYPE_CHECKING:
    import pandas as pd

_SEPARATORS = "\t,;|"
_SAMPLE_BYTES = 200_000


def utf8(name: str, data: bytes) -> bytes:
    """Return text as UTF-8 without a byte order mark.

    Raises:
        BadData: it is no text.
    """
    try:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return data.decode("utf-16").encode()
        data.decode("utf-8")
        wrong = data.find(b"\x00")
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong >= 0:
        row = data.count(b"\n", 0, wrong) + 1
        raise BadData(f"{name}, row {row}: this is no UTF-8 text; give a table of bars as text, saved as UTF-8")
    return data.removeprefix(b"\xef\xbb\xbf")


class TextFile:
    """A table in a text file.

    Args:
        name: the file's name, for messages.
        data: its content, UTF-8, not blank.

    Raises:
        BadData: nothing separates the columns.
    """

    def __init__(self, name: str, data: bytes) -> None:
        self._name = name
        self._data = data
        head = data[:_SAMPLE_BYTES].splitlines()
        at = next(i for i, line in enumerate(head) if line.strip())
        line = head[at].decode(errors="replace")
        # Lines up to the header and with it: what is below is data.
        self._above = at + 1
        self._separator = max(_SEPARATORS, key=line.count)
        if self._separator not in line:
            raise BadData(
                f"{name}, row {self._above}: no tab, comma, semicolon or pipe separates the columns in {line[:80]!r};"
                " is it a table of bars with a header row?"
            )
        self.header = self._fields(head[at])
        comma = self._separator == ";" and any(b"," in each for each in head[self._above : self._above + 20])
        self._decimal = "," if comma else "."

    def table(self, found: Mapping[str, tuple[str, ...]]) -> Table:
        """Read it all.

        Args:
            found: which column holds what, from `agentfund.feeds.table.find`.

        Raises:
            BadData: there is no row, or rows and header have different numbers of values.
        """
        places = {column: self.header.index(column) for columns in found.values() for column in columns}
        frame = self._frame([str(places[column]) for column in found["time"]]).dropna(how="all")
        if frame.empty:
            raise BadData(f"{self._name}: there is a header row and nothing below it; it needs bars")
        lines = (frame.index.to_numpy() + self._above).tolist()
        extra = frame.pop(str(len(self.header))).notna().to_numpy()
        if extra.any():
            raise BadData(
                f"{self._name}, row {lines[int(extra.argmax())] + 1}: there are more values than the header has names"
                f" ({len(self.header)}); correct the row or the header"
            )

        def cell(i: int, field: str) -> str:
            fields = self._fields(self._lines[lines[i]])
            return " ".join(fields[places[column]].strip() for column in found[field] if places[column] < len(fields))

        return Table(
            self._name,
            frame.rename(columns={str(place): column for column, place in places.items()}),
            found,
            lambda i: f"row {lines[i] + 1}",
            cell,
            lambda: self._sample([places[found[price][0]] for price in PRICES]),
        )

    def _frame(self, texts: Sequence[str]) -> pd.DataFrame:
        import pandas as pd

        # pandas 3.1 reads floats exactly and deprecates the option; before that, exactness has to be asked for.
        exact: dict[str, Any] = {"float_precision": "round_trip"}
        if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1):
            exact = {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)
                frame: pd.DataFrame = pd.read_csv(
                    io.BytesIO(self._data),
                    sep=self._separator,
                    decimal=self._decimal,
                    header=None,
                    # One place more than the header has: a value too many is seen, a separator at the end is not.
                    names=[str(place) for place in range(len(self.header) + 1)],
                    skiprows=self._above,
                    index_col=False,
                    skip_blank_lines=False,
                    skipinitialspace=True,
                    low_memory=False,
                    dtype=dict.fromkeys(texts, "str"),
                    **exact,
                )
                return frame
        except pd.errors.EmptyDataError:
            return pd.DataFrame()
        except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
            raise BadData(f"{self._name}{self._ragged(str(error))}") from None

    def _ragged(self, said: str) -> str:
        found = re.search(r"Expected \d+ fields in line (\d+), saw (\d+)", said)
        if found:
            return (
                f", row {found[1]}: there are {found[2]} values where the header has {len(self.header)} names; correct the row"
            )
        if "Length of header" in said:
            return f": the rows have more values than the header has names ({len(self.header)}); correct the header"
        return f": it cannot be read as a table ({said.strip()}); look for a stray quotation mark"

    @cached_property
    def _lines(self) -> list[bytes]:
        return self._data.splitlines()

    def _fields(self, line: bytes) -> list[str]:
        return next(csv.reader([line.decode(errors="replace")], delimiter=self._separator), [])

    def _sample(self, places: Sequence[int]) -> Iterable[str]:
        # The beginning and the end of the file, without the lines that the cut went through.
        lines = self._data[:_SAMPLE_BYTES].splitlines()[self._above :]
        if len(self._data) > _SAMPLE_BYTES:
            lines = lines[:-1] + self._data[-_SAMPLE_BYTES:].splitlines()[1:]
        for line in lines:
            fields = self._fields(line)
            yield from (fields[place].strip().replace(self._decimal, ".") for place in places if place < len(fields))
