"""The combinations of a sweep's parameters, in an order that never changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

from agentfund.errors import ConfigError

Parameters = Mapping[str, Any]

_PLAIN = (bool, int, float, str, type(None), timedelta, Decimal, Enum)


def combinations(
    grid: Mapping[str, Iterable[Any]], where: Callable[[dict[str, Any]], bool] | None = None
) -> list[dict[str, Any]]:
    """Return every combination that `where` lets through; the last parameter moves fastest.

    Args:
        grid: values by name of the parameter.
        where: says whether a combination is meant; all of them where it is left out.

    Raises:
        ConfigError: a parameter has no value, one twice, or one that cannot be written down; or nothing is left.
    """
    if not isinstance(grid, Mapping) or not grid:
        raise ConfigError('a grid is a mapping of at least one parameter to its values, such as {"fast": [5, 10, 20]}')
    axes = {name: _values(name, given) for name, given in grid.items()}
    every = [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*axes.values())]
    kept = [each for each in every if where is None or where(dict(each))]
    if not kept:
        raise ConfigError(f"`where` lets none of the {len(every):,} combinations through; check its condition")
    return kept


def _values(name: str, given: Iterable[Any]) -> list[Any]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise ConfigError(f"parameter {name!r} must be a list of values to try, not {given!r}: write {{{name!r}: [{given!r}]}}")
    values = [_plain(name, each) for each in given]
    if not values:
        raise ConfigError(f"parameter {name!r} has no value to try")
    seen: list[str] = []
    for value in values:
        if repr(value) in seen:
            raise ConfigError(f"parameter {name!r} has the value {value!r} twice; one trial of each is enough")
        seen.append(repr(value))
    return values


def _plain(name: str, value: Any) -> Any:
    """Return a value that can be written down and sent to another process; numbers of numpy become Python's."""
    if hasattr(value, "dtype") and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, tuple):
        return tuple(_plain(name, each) for each in value)
    if not isinstance(value, _PLAIN):
        raise ConfigError(
            f"parameter {name!r} has the value {value!r}: a {type(value).__name__} cannot be written down nor sent to another"
            " process; use numbers, texts or names, and let the strategy look up what they stand for"
        )
    if isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"parameter {name!r} has the value NaN, which equals nothing; leave it out")
    return value


def written(parameters: Parameters) -> str:
    """Return parameters as text, the same for equal ones: `fast=5, slow=50`."""
    return ", ".join(f"{name}={word(value)}" for name, value in parameters.items())


def word(value: Any) -> str:
    """Return a parameter's value as text."""
    if isinstance(value, Enum):
        return str(value.value)
    return str(value) if isinstance(value, timedelta | Decimal | str) else repr(value)


def parsed(settings: Sequence[str]) -> dict[str, list[Any]]:
    """Read a grid as it is typed on a command line: `fast=5,10,20` or `slow=50:200:50` (from, to, step, both ends in).

    Raises:
        ConfigError: a setting cannot be read; says which.
    """
    grid: dict[str, list[Any]] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not (equals and name.strip().isidentifier() and text.strip()):
            raise ConfigError(f"{setting!r} is no parameter: write name=5,10,20 or name=50:200:50")
        if name.strip() in grid:
            raise ConfigError(f"parameter {name.strip()!r} is given twice; put all its values into one list")
        grid[name.strip()] = [one for part in text.split(",") for one in _read(setting, part.strip())]
    return grid


def _read(setting: str, text: str) -> list[Any]:
    if ":" not in text:
        return [_float(_number(text))]
    parts = [_number(part) for part in text.split(":")]
    if len(parts) not in (2, 3) or not all(isinstance(p, int | Decimal) and not isinstance(p, bool) for p in parts):
        raise ConfigError(f"{setting!r}: a range is from:to or from:to:step, all numbers")
    first, last, step = (*parts, 1)[:3]
    if step <= 0 or last < first:
        raise ConfigError(f"{setting!r}: a range goes up, by a step above zero")
    count = int((last - first) // step) + 1
    # Decimal steps end where they say: 0.1:0.3:0.1 is 0.1, 0.2 and 0.3.
    return [_float(first + step * number) for number in range(count)]


def _number(text: str) -> Any:
    """Return what a text says: true or false, none, a whole number, a decimal number, else itself."""
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = Decimal(text)
    except ArithmeticError:
        return text
    return number if number.is_finite() else text


def _float(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value
