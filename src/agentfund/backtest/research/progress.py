"""How far long work has come: a bar on stderr, or a line now and then where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from agentfund.clock import SystemClock

_EVERY_S = 10.0


@contextmanager
def shown(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress while the block runs; give what moves it: a function of (done, in all).

    On a terminal with rich (extra `cli`) it is a bar, otherwise a line every ten seconds and at the end.
    """
    if sys.stderr.isatty() and find_spec("rich") is not None:
        with _bar(what) as move:
            yield move
    else:
        yield _Lines(what)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    def __init__(self, what: str) -> None:
        self._what = what
        self._clock = SystemClock()
        self._began = self._last = self._clock.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = self._clock.monotonic()
        if self._first is None:
            self._first = done
        if done < total and now - self._last < _EVERY_S:
            return
        self._last = now
        own, passed = done - self._first, now - self._began
        left = f", about {(total - done) * passed / own:,.0f} s left" if own and done < total else ""
        sys.stderr.write(f"{self._what}: {done:,} of {total:,} in {passed:,.1f} s{left}\n")
        sys.stderr.flush()
