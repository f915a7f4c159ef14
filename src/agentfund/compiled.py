"""Loops in machine code where numba is installed: same operations in the same order, so the same bits.

This is the only file that imports numba (the extra `fast`), and it does so when a compiled function is first called. No
fastmath and no threads: what a compiled loop gives is bit for bit what the plain one gives.
"""

from __future__ import annotations

from functools import cache, update_wrapper
from importlib import import_module
from importlib.util import find_spec
from types import FunctionType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from agentfund.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

# Importing numba and loading a function from its cache takes about 0.4 s; a plain loop does about a microsecond a bar.
_WORTH = 200_000

_warm = False


@cache
def available() -> bool:
    """Say whether numba is installed. Does not import it."""
    return find_spec("numba") is not None


def worth(bars: int) -> bool:
    """Say whether so much work is worth compiling for: it is large, or numba is loaded and warm anyway.

    Args:
        bars: the work, counted in bars of a loop that takes about a microsecond for each.
    """
    return available() and (_warm or bars >= _WORTH)


def choose(compiled: bool | None, bars: int) -> bool:
    """Return whether to run compiled code, from what the caller asked for.

    Args:
        compiled: True, False, or None to compile when it is `worth` it.
        bars: the work, as for `worth`.

    Raises:
        MissingExtra: True, and numba is not installed.
    """
    if compiled is None:
        return worth(bars)
    if compiled and not available():
        raise MissingExtra("numba", "fast")
    return compiled


class Compiled(Generic[P, R]):
    """A function that is compiled when it is first called; `plain` is the function as it was written."""

    def __init__(self, function: Callable[P, R]) -> None:
        self.plain = function
        self._fast: Callable[P, R] | None = None
        update_wrapper(self, function)

    def __repr__(self) -> str:
        return f"<Compiled {self.plain.__qualname__}>"

    def __reduce__(self) -> str:
        return self.plain.__qualname__  # a pickle names it, and another process compiles its own

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it compiled."""
        global _warm
        if self._fast is None:
            self._fast = _compile(self.plain)
        result = self._fast(*args, **kwargs)
        _warm = available()
        return result


def jit(function: Callable[P, R]) -> Compiled[P, R]:
    """Return a function that numba compiles when it is first called; where numba is missing, the plain one runs.

    The function takes and gives numbers and arrays. Functions of its own file that it calls are compiled with it; it calls
    no other of ours, because numba's cache on disk notices a change in that file and nowhere else. A division by zero
    raises, as in plain Python.
    """
    return Compiled(function)


def _compile(function: Callable[P, R]) -> Callable[P, R]:
    return _njit(function, {}) if available() else function


def _njit(function: Any, done: dict[Any, Any]) -> Any:
    if function in done:
        return done[function]
    numba: Any = import_module("numba")
    known = function.__globals__
    called = [known[name] for name in function.__code__.co_names if isinstance(known.get(name), FunctionType)]
    helpers = {each.__name__: _njit(each, done) for each in called if each.__module__ == function.__module__}
    source = function
    if helpers:
        source = FunctionType(function.__code__, {**known, **helpers}, function.__name__, function.__defaults__)
        source.__qualname__, source.__module__ = function.__qualname__, function.__module__
    # What a compiled loop calls becomes part of it: a call in each of its rounds costs more than most of them do.
    try:
        made = numba.njit(cache=True, forceinline=True)(source)
    except RuntimeError:  # nowhere to keep a cache: a read-only install without a home, or code without a file
        made = numba.njit(forceinline=True)(source)
    done[function] = made
    return made
