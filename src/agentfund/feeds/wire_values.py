"""What an exchange writes, read strictly: a wrong value is named by exchange, channel and field."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime, timedelta
from typing import Any, NoReturn

from agentfund.clock import from_micros, to_micros
from agentfund.errors import BadData
from agentfund.market import Bar
from agentfund.secrets import scrub

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?\Z")
_NO_NUMBER = {"nan": math.nan, "inf": math.inf, "infinity": math.inf, "-inf": -math.inf, "-infinity": -math.inf}
_FIRST_MS, _LAST_MS = 10**12, 10**13  # 2001 to 2286: seconds and microseconds lie outside
_MICRO = timedelta(microseconds=1)
_READ, _SHOWN = 2_000, 200


def shown(value: object) -> str:
    """Return the beginning of what somebody else wrote, fit for an error: short, printable, and without secrets."""
    told = value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else repr(value)
    text = scrub(told[:_READ])
    text = "".join(letter if letter.isprintable() else " " for letter in text[: _SHOWN + 1])
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse(exchange: str, text: str | bytes) -> Any:
    """Return the JSON in a text.

    Raises:
        BadData: it is none.
    """
    try:
        return json.loads(text, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{exchange} sent something that is not JSON ({shown(str(error))}): {shown(text)}") from None


class Fields:
    """A JSON object or row, whose values are asked for one by one.

    Args:
        exchange: who wrote it.
        channel: where; both are named in errors.
        row: the JSON object or array.

    Raises:
        BadData: it is neither.
    """

    __slots__ = ("_channel", "_exchange", "_row")

    def __init__(self, exchange: str, channel: str, row: object) -> None:
        self._exchange = exchange
        self._channel = channel
        if not isinstance(row, dict | list):
            raise BadData(f"{exchange}, {channel}: an object was expected, not {shown(row)}; the exchange changed its format")
        self._row: Any = row

    def wrong(self, name: str | int, why: str) -> BadData:
        """Return the error that says what is wrong with a field."""
        return BadData(
            f"{self._exchange}, {self._channel}, field {name!r}: {why} in {shown(self._row)}; "
            "the exchange sent a wrong value or changed its format"
        )

    def get(self, name: str | int) -> Any:
        """Return a value as it came.

        Raises:
            BadData: there is none.
        """
        try:
            return self._row[name]
        except (KeyError, IndexError, TypeError):
            raise self.wrong(name, "it is missing") from None

    def has(self, name: str) -> bool:
        """Return whether an object has a field."""
        return isinstance(self._row, dict) and name in self._row

    def text(self, name: str | int) -> str:
        """Return a text that is not empty."""
        value = self.get(name)
        if not isinstance(value, str) or not value:
            raise self.wrong(name, f"a text was expected, not {shown(value)}")
        return value

    def key(self, name: str | int) -> str:
        """Return a trade's id, a text or a whole number, as a text."""
        value = self.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(name)

    def flag(self, name: str | int) -> bool:
        """Return true or false."""
        value = self.get(name)
        if not isinstance(value, bool):
            raise self.wrong(name, f"true or false was expected, not {shown(value)}")
        return value

    def rows(self, name: str | int) -> list[Any]:
        """Return an array."""
        value = self.get(name)
        if not isinstance(value, list):
            raise self.wrong(name, f"an array was expected, not {shown(value)}")
        return value

    def number(self, name: str | int) -> float:
        """Return what a text of digits says, whatever it is: below zero and not-a-number are the reader's to judge."""
        value = self.get(name)
        if isinstance(value, str):
            if _NUMBER.match(value):
                return float(value)
            found = _NO_NUMBER.get(value.lower())
            if found is not None:
                return found
        raise self.wrong(name, f"a number in quotes was expected, not {shown(value)}")

    def price(self, name: str | int) -> float:
        """Return a number above zero."""
        value = self.number(name)
        if not 0.0 < value < math.inf:
            raise self.wrong(name, f"a price must be above zero, not {value!r}")
        return value

    def volume(self, name: str | int) -> float:
        """Return a number that is not below zero."""
        value = self.number(name)
        if not 0.0 <= value < math.inf:
            raise self.wrong(name, f"a volume must not be below zero, not {value!r}")
        return value

    def moment(self, name: str | int) -> datetime:
        """Return a time that is told in milliseconds since 1970, a number or a text of digits."""
        value = self.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(_LAST_MS)):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not _FIRST_MS <= value < _LAST_MS:
            raise self.wrong(name, f"milliseconds since 1970 were expected, not {shown(value)}")
        return from_micros(value * 1000)

    def bar(
        self, symbol: str, interval: timedelta, names: tuple[str | int, str | int, str | int, str | int, str | int, str | int]
    ) -> Bar:
        """Return the bar in the fields for start, open, high, low, close and volume.

        Raises:
            BadData: a value cannot be, or the bar does not start on a multiple of the interval.
        """
        at = names[0]
        start = self.moment(at)
        if to_micros(start) % (interval // _MICRO):
            raise self.wrong(at, f"a bar of {interval} cannot start at {start.isoformat()}")
        first, high, low, last = (self.price(name) for name in names[1:5])
        if not low <= min(first, last) <= max(first, last) <= high:
            raise self.wrong(names[2], f"prices must lie between low and high: {first}, {high}, {low}, {last}")
        return Bar(symbol, start, start + interval, first, high, low, last, self.volume(names[5]))
