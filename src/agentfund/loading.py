"""Something of a user's own, by a name on the command line: `module:name` or `file.py:name`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from agentfund.errors import ConfigError


def named(what: str) -> bool:
    """Whether a text has the form of such a name."""
    where, _, name = what.rpartition(":")
    return bool(where and name)


def thing(what: str) -> Any:
    """Return what a name means; its module is run for it.

    Args:
        what: `module:name` or `file.py:name`; the name may have dots.

    Raises:
        ConfigError: there is no such file, module or name, or it cannot be run; says what there is.
    """
    where, _, name = what.rpartition(":")
    module = _file(Path(where)) if where.endswith(".py") else _module(where)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            there = ", ".join(_callables(module)) or "nothing that can be called"
            raise ConfigError(f"{where} has no {name!r}; it has {there}")
        found = getattr(found, part)
    return found


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:  # a command of its own does not look where it stands, as python -m does
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(f"there is no module {name!r} here ({here}); a file is named with .py: file.py:make") from None
        raise ConfigError(f"{name} cannot be imported: it needs {error.name}, which is not installed") from error
    except Exception as error:
        raise ConfigError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"_loaded_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # so that it finds its neighbours
        sys.path.insert(0, folder)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return module


def _callables(module: ModuleType) -> list[str]:
    own = {name: thing for name, thing in vars(module).items() if not name.startswith("_") and callable(thing)}
    return [name for name, thing in own.items() if getattr(thing, "__module__", None) == module.__name__]
