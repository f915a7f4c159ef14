"""What was: the value of any indicator some bars ago, and prices as an indicator so that they can be asked for as well."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from agentfund.errors import ConfigError
from agentfund.indicators.base import NAN, All, BarLike, Indicator, Now, OfField, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from agentfund.indicators.base import AnyIndicator
    from agentfund.market import Columns, Floats
else:
    Floats = Any


class Price(OfField[float, Floats]):
    """A column as it is: `Lag(Price("close"), 5)` is the close five bars ago.

    Args:
        of: the column.

    Raises:
        ConfigError: there is no such column.
    """

    __slots__ = ()

    parameters: ClassVar[tuple[str, ...]] = ("of",)
    nothing = NAN

    @property
    def warm_up(self) -> int:
        """It comes with the first bar."""
        return 1

    def _steps(self) -> Generator[float, float, None]:
        value = NAN
        while True:
            value = yield value

    def over(self, values: Floats, compiled: bool = False) -> Floats:
        """Return a copy of the array."""
        return values.copy()


class Lag(Indicator[Now, All]):
    """The value that another indicator had `n` bars ago.

    Args:
        indicator: any indicator; a fresh one with its parameters is kept, so that the one given can go on elsewhere.
        n: bars, at least 1: an indicator sees no bar that is still to come.

    Raises:
        ConfigError: `indicator` is none, or `n` cannot be.
    """

    __slots__ = ("indicator", "n")

    parameters: ClassVar[tuple[str, ...]] = ("indicator", "n")

    def __init__(self, indicator: Indicator[Now, All], n: int = 1) -> None:
        if not isinstance(indicator, Indicator):
            raise ConfigError(f'Lag: {indicator!r} is no indicator; for a price take Lag(Price("close"))')
        self.n = whole(self, "n", n)
        self.indicator = indicator.fresh()
        self.reset()

    @property
    def recurrences(self) -> int:
        """Those of the indicator."""
        return self.indicator.recurrences

    @property
    def warm_up(self) -> int:
        """It comes `n` bars after the indicator's first value."""
        return self.indicator.warm_up + self.n

    @property
    def nothing(self) -> Now:
        """What the indicator gives during warm-up."""
        return self.indicator.nothing

    def _steps(self) -> Generator[Now, BarLike, None]:
        self.indicator.reset()
        update, nothing = self.indicator.update, self.indicator.nothing
        values = deque([nothing] * self.n, maxlen=self.n)
        bar = yield nothing
        while True:
            was = values[0]
            values.append(update(bar))
            bar = yield was

    def batch(self, columns: Columns, compiled: bool | None = None) -> All:
        """Return at every bar the value `n` bars before it; see `Indicator.batch`."""
        return self.upon(lambda indicator: indicator.batch(columns, compiled), columns, compiled)

    def upon(self, batch_of: Callable[[AnyIndicator], Any], columns: Columns, compiled: bool | None = None) -> All:
        """Return at every bar the value `n` bars before it; see `Indicator.upon`."""
        found = batch_of(self.indicator)
        lagged: Any = type(found)(*map(self._shift, found)) if isinstance(found, tuple) else self._shift(found)
        return cast("All", lagged)

    def _shift(self, values: Floats) -> Floats:
        result = np.full(len(values), NAN)
        result[self.n :] = values[: -self.n]
        return result
