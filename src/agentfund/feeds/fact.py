"""A fact: something that was so, what it is about, and since when it could be known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from numbers import Real
from types import MappingProxyType
from typing import Any

from agentfund.clock import utc
from agentfund.errors import BadData
from agentfund.prompt import Untrusted

Value = float | Untrusted | Mapping[str, float | Untrusted]
"""What a fact says: a number, text from outside, or several of these by name."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that was so, and since when it could be known.

    Args:
        name: what kind of fact it is, such as "eps" or "headline".
        event_time: what it is about, aware; kept as UTC.
        known_time: when anybody could know it, aware; kept as UTC.
        value: a finite number, `Untrusted` text, or a mapping of these by name; plain text becomes `Untrusted`.
        symbol: the instrument; empty where it is of none.
        id: tells facts of one kind, instrument and event time apart, such as two headlines of one second.
        revision: which version it is: 0, then higher ones, known later.
        forecast: whether it was said before the event; only then may `known_time` lie before `event_time`.

    Raises:
        BadData: a field cannot be; says which and why.
    """

    name: str
    event_time: datetime
    known_time: datetime
    value: Value
    symbol: str = ""
    id: str = ""
    revision: int = 0
    forecast: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise BadData(f"name: {self.name!r} names no kind of fact; give one, such as 'eps'")
        for field in ("event_time", "known_time"):
            try:
                object.__setattr__(self, field, utc(getattr(self, field)))
            except ValueError as error:
                raise BadData(f"{field}: {error}") from None
        if self.known_time < self.event_time and not self.forecast:
            raise BadData(
                f"known_time: {self.known_time.isoformat()} lies before event_time {self.event_time.isoformat()}; nobody"
                " knows what has not happened yet: correct it, or set forecast where it was said beforehand"
            )
        if isinstance(self.revision, bool) or not isinstance(self.revision, int) or self.revision < 0:
            raise BadData(f"revision: {self.revision!r} is no whole number from 0 up")
        object.__setattr__(self, "value", _value(self.value, self.name))

    @property
    def number(self) -> float:
        """The value, where it is a number.

        Raises:
            BadData: it is text, or several parts.
        """
        if isinstance(self.value, float):
            return self.value
        raise BadData(f"value: {self.name!r} is a {type(self.value).__name__} and no number; look at .value")

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only mapping does not go through pickle by itself.
        value = dict(self.value) if isinstance(self.value, Mapping) else self.value
        rest = (self.symbol, self.id, self.revision, self.forecast)
        return Fact, (self.name, self.event_time, self.known_time, value, *rest)

    @property
    def key(self) -> tuple[str, str, datetime, str]:
        """What all its revisions share: name, symbol, event time and id."""
        return self.name, self.symbol, self.event_time, self.id


def _value(value: Any, name: str) -> Value:
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise BadData(f"value: the key {key!r} is no text; name the parts of a value by text")
        return MappingProxyType({key: _single(part, f"{name}.{key}") for key, part in value.items()})
    return _single(value, name)


def _single(value: Any, name: str) -> float | Untrusted:
    if isinstance(value, Untrusted):
        return value
    if isinstance(value, str):
        return Untrusted(value, name)
    number = not isinstance(value, bool) and isinstance(value, (Real, Decimal))
    if number and math.isfinite(value):
        return float(value)
    raise BadData(f"value: {value!r} is no finite number and no text")


def plain(value: Value) -> Any:
    """Return a value as JSON values from which it can be told exactly: what fingerprints are made of."""
    if isinstance(value, Untrusted):
        return [value.text, value.source]
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return value.hex()
