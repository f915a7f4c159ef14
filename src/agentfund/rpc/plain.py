"""Decimals, moments and names as a message carries them: one spelling each, exactly, or a `Malformed`."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal

from agentfund.clock import to_micros

_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:E[+-]?[0-9]+)?|-?s?NaN[0-9]*|-?Infinity").fullmatch
_LONGEST = 64
_FARTHEST = 500  # powers of ten; printing more of them would cost a server its memory


class Malformed(ValueError):
    """Something that is no order or no scene; says which part."""


def told(value: Decimal, what: str, symbol: str = "") -> str:
    """Return a decimal's text; Malformed where it is none, or has more digits than any amount of money."""
    if not isinstance(value, Decimal):
        raise Malformed(f"{what} {symbol}".rstrip() + f": {value!r} is no Decimal")
    text = str(value)
    if len(text) > _LONGEST or ("E" in text and abs(value.adjusted()) > _FARTHEST):
        raise Malformed(f"{what} {symbol}".rstrip() + f": {text[:_LONGEST]} has more digits than any amount of money")
    return text


def number(text: str, what: str, symbol: str = "") -> Decimal:
    """Return the decimal of a text; Malformed where it is none."""
    if len(text) > _LONGEST or not _NUMBER(text):
        why = f"{text[:_LONGEST]!r} is no decimal" if text else "is missing"
        raise Malformed(f"{what} {symbol}".rstrip() + f": {why}")
    value = Decimal(text)
    if "E" in text and abs(value.adjusted()) > _FARTHEST:
        raise Malformed(f"{what} {symbol}".rstrip() + f": {text} has more digits than any amount of money")
    return value


def moment(value: datetime, what: str) -> int:
    """Return microseconds since 1970 UTC; Malformed where it is no aware datetime."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise Malformed(f"{what}: {value!r} is no aware datetime")
    return to_micros(value)


def name(text: str, what: str) -> str:
    """Return what programs compare, which has to arrive as it is."""
    if not isinstance(text, str):
        raise Malformed(f"{what}: {text!r} is no text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Malformed(f"{what}: {text!r} is no text that can be sent") from None
    return text


def words(text: str) -> str:
    """Return what people read; half a character in a broker's words must not keep a position from being closed."""
    return text.encode(errors="backslashreplace").decode()
