"""What a planted leak is: a factory that looks ahead, the data it is tried on, and its honest twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentfund.feeds import Bars
from tests.backtest.audits.leaks import data

Make = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Planted:
    """A factory for the audit, and how to audit it.

    `build` takes an empty folder and gives a new factory each time: some keep things between their runs. `kinds` are the
    kinds of finding of which at least one must come.
    """

    name: str
    build: Callable[[Path], Make]
    on: Callable[[], Any] = data.market
    kinds: tuple[str, ...] = ("future",)
    options: Callable[[], dict[str, Any]] = dict

    @property
    def bars(self) -> Bars:
        """The bars that it is tried on."""
        given = self.on()
        bars: Bars = given[0] if isinstance(given, tuple) else given
        return bars

    @property
    def more(self) -> dict[str, Any]:
        """What else the audit is given."""
        given = self.on()
        return {**self.options(), **({"facts": given[1]} if isinstance(given, tuple) else {})}


class Suite(dict[str, Planted]):
    """Planted leaks, or honest twins, by name."""

    def __call__(self, on: Callable[[], Any] = data.market, *kinds: str, **options: Any) -> Callable[[Make], Make]:
        """Add a factory by its name."""

        def add(make: Make) -> Make:
            self._add(make.__name__, lambda _: make, on, kinds, options)
            return make

        return add

    def built(
        self, on: Callable[[], Any] = data.market, *kinds: str, **options: Any
    ) -> Callable[[Callable[[Path], Make]], Callable[[Path], Make]]:
        """Add what builds a factory, given an empty folder: one that keeps something between its runs."""

        def add(build: Callable[[Path], Make]) -> Callable[[Path], Make]:
            self._add(build.__name__, build, on, kinds, options)
            return build

        return add

    def _add(self, name: str, build: Callable[[Path], Make], on: Any, kinds: tuple[str, ...], options: dict[str, Any]) -> None:
        assert name not in self, name
        self[name] = Planted(name, build, on, kinds or ("future",), lambda: dict(options))


LEAKS = Suite()
TWINS = Suite()
