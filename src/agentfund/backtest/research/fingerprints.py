"""A hash of what an object does and of what it is set to, so that a stored result is never taken for another's."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType

import numpy as np

_PLAIN = (bool, int, float, complex, str, bytes, type(None), datetime, timedelta, Decimal, Fraction)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_OURS = "agentfund"
_OWN = frozenset({"__module__", "__dict__", "__weakref__", "__doc__", "__annotations__", "__qualname__", "__firstlineno__"})


def fingerprint(thing: object) -> str:
    """Return 32 hexadecimal digits that depend on an object's code and settings alone.

    Counted are: plain values, collections of them, arrays; an object's attributes; of a function its bytecode, defaults,
    what it closes over, and the functions, classes and values of its own package that it names; of a class the functions
    and values of it and of its bases. Of agentfund only the code itself is counted and of other packages only the names:
    their versions say the rest. Another version of Python gives another fingerprint.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(thing, [], ""):
        digest.update(part.encode())
        digest.update(b"\x1f")
    return digest.hexdigest()


def _parts(thing: object, seen: list[object], home: str) -> Iterator[str]:
    """Give the texts that make a thing what it is; `home` is the package that is looked into."""
    if isinstance(thing, Enum):
        yield f"{type(thing).__qualname__}.{thing.name}"
    elif isinstance(thing, _PLAIN):
        yield f"{type(thing).__name__}={thing!r}"
    elif isinstance(thing, np.generic):
        yield f"{thing.dtype}={thing.item()!r}"
    elif isinstance(thing, np.ndarray):
        yield f"array {thing.dtype} {thing.shape}"
        yield hashlib.blake2b(np.ascontiguousarray(thing).tobytes(), digest_size=16).hexdigest()
    elif isinstance(thing, ModuleType | BuiltinFunctionType):
        yield f"name {thing.__name__}"
    elif any(thing is one for one in seen):
        yield "again"
    else:
        seen.append(thing)
        yield from _made_of(thing, seen, home)


def _made_of(thing: object, seen: list[object], home: str) -> Iterator[str]:
    if isinstance(thing, FunctionType):
        yield from _function(thing, seen, home or _package(thing))
    elif inspect.isclass(thing):
        yield from _class(thing, seen, home or _package(thing))
    elif isinstance(thing, staticmethod | classmethod):
        yield from _parts(thing.__func__, seen, home)
    elif isinstance(thing, property):
        yield from _parts(thing.fget, seen, home)
    elif isinstance(thing, partial):
        for part in (thing.func, thing.args, thing.keywords):
            yield from _parts(part, seen, home)
    elif inspect.ismethod(thing):
        yield from _parts(thing.__func__, seen, home)
        yield from _parts(thing.__self__, seen, home)
    elif isinstance(thing, Mapping):
        yield f"mapping of {len(thing)}"
        for key, value in thing.items():
            yield from _parts(key, seen, home)
            yield from _parts(value, seen, home)
    elif isinstance(thing, list | tuple):
        yield f"{type(thing).__name__} of {len(thing)}"
        for each in thing:
            yield from _parts(each, seen, home)
    elif isinstance(thing, set | frozenset):
        yield f"set of {sorted(_ADDRESS.sub('', repr(each)) for each in thing)}"
    else:
        yield from _object(thing, seen, home)


def _package(thing: type | FunctionType) -> str:
    return (thing.__module__ or "").partition(".")[0]


def _object(thing: object, seen: list[object], home: str) -> Iterator[str]:
    yield from _parts(type(thing), seen, home)
    if dataclasses.is_dataclass(thing):
        state = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    else:
        slots = [name for base in type(thing).__mro__ for name in _names(vars(base).get("__slots__", ()))]
        state = {name: getattr(thing, name) for name in slots if hasattr(thing, name)} | dict(getattr(thing, "__dict__", {}))
    if not state:
        yield _ADDRESS.sub("", repr(thing))
    for name in sorted(state):
        yield f".{name}"
        yield from _parts(state[name], seen, home)


def _names(slots: object) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots) if isinstance(slots, tuple | list) else ()


def _class(thing: type, seen: list[object], home: str) -> Iterator[str]:
    yield f"class {thing.__module__}.{thing.__qualname__}"
    for base in thing.__mro__:
        if _package(base) not in (home, _OURS):
            continue
        for name, value in sorted(vars(base).items()):
            if name in _OWN or not isinstance(value, (*_PLAIN, FunctionType, staticmethod, classmethod, property, tuple)):
                continue
            yield f"{base.__qualname__}.{name}"
            yield from _parts(value, seen, home)


def _function(thing: FunctionType, seen: list[object], home: str) -> Iterator[str]:
    yield f"function {thing.__module__}.{thing.__qualname__}"
    if _package(thing) not in (home, _OURS):
        return
    yield from _code(thing.__code__)
    for value in (thing.__defaults__, thing.__kwdefaults__):
        yield from _parts(value, seen, home)
    if _package(thing) == _OURS:
        return
    for cell in thing.__closure__ or ():
        try:
            yield from _parts(cell.cell_contents, seen, home)
        except ValueError:  # a name that was not given a value yet
            yield "empty"
    for name in _globals(thing.__code__):
        if name in thing.__globals__:
            yield f"global {name}"
            yield from _parts(thing.__globals__[name], seen, home)


def _code(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_argcount, code.co_kwonlyargcount, code.co_flags))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)


def _globals(code: CodeType) -> list[str]:
    nested = [name for one in code.co_consts if isinstance(one, CodeType) for name in _globals(one)]
    return sorted({*code.co_names, *nested})
