"""Settings as a command line names them: files of names with values, and single values."""

from __future__ import annotations

import json
import tomllib
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agentfund.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Settings = TypeVar("Settings")
_SWITCHES = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


def read_settings(kind: type[Settings], given: Sequence[str], what: str) -> Settings:
    """Return the settings that files (TOML, JSON) and `name=value` say, the later of two; the others are as by default.

    Args:
        kind: a dataclass whose fields have defaults: numbers, switches and sets of names.
        given: files, and `name=value`.
        what: what one of them is called, such as "limit".

    Raises:
        ConfigError: a file cannot be read, a name is none, or a value does not fit.
    """
    kinds = {field.name: type(field.default) for field in fields(kind)}  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if equals and not Path(one).is_file():
            name = _known(name.strip(), one, kinds, what)
            found[name] = _read(kinds[name], name, text.strip(), what)
        else:
            for key, value in _file(Path(one), what).items():
                found[key] = _fits(kinds[_known(key, one, kinds, what)], key, value, value, what)
    return kind(**found)


def _known(name: str, where: str, kinds: Mapping[str, type], what: str) -> str:
    if name not in kinds:
        raise ConfigError(f"{where}: there is no {what} {name!r}; there is {', '.join(kinds)}")
    return name


def _file(path: Path, what: str) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        told = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"the {what}s {path} cannot be read: {error.strerror or error}; write FILE or name=value") from None
    except ValueError as error:
        raise ConfigError(f"the {what}s {path} are no {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    if not isinstance(told, dict):
        raise ConfigError(f"the {what}s {path} must be names with values")
    return told


def _read(kind: type, name: str, text: str, what: str) -> Any:
    if kind is frozenset:
        return frozenset(part.strip() for part in text.split(",") if part.strip())
    if kind is bool:
        return _fits(kind, name, _SWITCHES.get(text.lower()), text, what)
    return _fits(kind, name, _number(text), text, what)


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return None


def _fits(kind: type, name: str, value: Any, given: Any, what: str) -> Any:
    if kind is frozenset and isinstance(value, (list, frozenset)) and all(isinstance(one, str) for one in value):
        return frozenset(value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if kind in (int, bool) and type(value) is kind:
        return value
    wanted = {frozenset: "names", bool: "on or off", int: "a whole number", float: "a number"}[kind]
    raise ConfigError(f"{what} {name} is {wanted}, not {given!r}")
