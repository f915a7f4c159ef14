"""A strategy that sees all bars and trades only the later ones: indicators are warm before the first decision."""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.clock import to_micros
from agentfund.indicators import Indicator
from agentfund.strategies import Strategy
from agentfund.trading import Direction

if TYPE_CHECKING:
    from agentfund.indicators import AnyIndicator
    from agentfund.market import Columns, Floats

_NAME = "within_window"


class Since(Indicator[float, "Floats"]):
    """1 at bars that close after a moment, 0 before.

    Args:
        moment: microseconds since 1970 UTC.
    """

    __slots__ = ("_send", "moment")

    parameters = ("moment",)

    def __init__(self, moment: int) -> None:
        self.moment = moment
        self.reset()

    @property
    def warm_up(self) -> int:
        """It needs one bar."""
        return 1

    @property
    def nothing(self) -> float:
        """What there is before the first bar."""
        return float("nan")

    def batch(self, columns: Columns, compiled: bool | None = None) -> Floats:
        """Return the value at every bar."""
        return (columns.ends > self.moment).astype(np.float64)

    def _steps(self) -> Generator[float, Any, None]:
        value = self.nothing
        while True:
            bar = yield value
            value = float(to_micros(bar.end) > self.moment)


def later(strategy: Strategy, since: int) -> Strategy:
    """Return a copy of a strategy that enters nothing at a close up to `since`, microseconds since 1970 UTC."""
    kind = type(strategy)

    class Later(kind):  # type: ignore[misc, valid-type]  # made of whatever class the strategy has
        def indicators(self) -> Mapping[str, AnyIndicator]:
            return {**super().indicators(), _NAME: Since(since)}

        def enter(self, now: Any) -> Any:
            return super().enter(now) & (getattr(now, _NAME) > 0.5)

    if not strategy.elementwise:

        def decide(self: Any, now: Any, held: bool) -> Direction | None:
            wanted: Direction | None = kind.decide(self, now, held)
            return wanted if wanted is Direction.FLAT or getattr(now, _NAME) > 0.5 else None

        Later.decide = decide

    Later.__name__, Later.__qualname__, Later.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    copied = copy.copy(strategy)
    copied.__class__ = Later
    return copied
