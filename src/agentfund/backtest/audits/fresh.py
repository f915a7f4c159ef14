"""Running something as if nothing had run before it: in a copy of this process, which ends with it."""

from __future__ import annotations

import os
import pickle
import select
import sys
import warnings
from collections.abc import Callable
from typing import Generic, TypeVar

from agentfund.clock import SystemClock

T = TypeVar("T")

POSSIBLE = sys.platform.startswith("linux")
"""Whether a process can copy itself here. Elsewhere system libraries do not survive it."""

PATIENCE_S = 600.0
"""Seconds after which a copy that says nothing is given up; a lock that was held when it was made is never let go."""


class Lost(Exception):
    """What ran in a copy of the process gave nothing back."""


class Fresh(Generic[T]):
    """Work under way in a copy of this process: whatever it leaves in memory is gone with the copy.

    Args:
        work: what to do; what it returns must be picklable.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._read, write = os.pipe()
        with warnings.catch_warnings():
            # Python warns of threads that the copy will not have. A copy that hangs for that is given up.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._child = os.fork()
        if self._child == 0:
            _answer(work, write)
        os.close(write)

    def result(self) -> T:
        """Wait for the work and return what it gave.

        Raises:
            Lost: it raised, or the copy died or hangs.
        """
        clock = SystemClock()
        deadline = clock.monotonic() + PATIENCE_S
        parts = []
        try:
            while True:
                ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - clock.monotonic()))
                if not ready:
                    os.kill(self._child, 9)
                    raise Lost(f"a copy of the process said nothing for {PATIENCE_S:g} seconds")
                part = os.read(self._read, 1 << 20)
                if not part:
                    break
                parts.append(part)
        finally:
            os.close(self._read)
            os.waitpid(self._child, 0)
        if not parts:
            raise Lost("a copy of the process died")
        worked, given = pickle.loads(b"".join(parts))  # noqa: S301 - our own words, from our own copy
        if not worked:
            raise Lost(given)
        result: T = given
        return result


def _answer(work: Callable[[], object], write: int) -> None:
    """Work, tell the result, and end at once: nothing that the first process has open is flushed or closed twice."""
    try:
        try:
            told = pickle.dumps((True, work()))
        except BaseException as error:
            told = pickle.dumps((False, f"{type(error).__name__}: {error}"))
        view = memoryview(told)
        while view:
            view = view[os.write(write, view) :]
    finally:
        os._exit(0)
