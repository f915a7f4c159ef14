"""What every indicator is: parameters, a form for whole arrays, and a form for one bar after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeAlias, TypeVar, get_args

import numpy as np

from agentfund.compiled import choose
from agentfund.errors import ConfigError

if TYPE_CHECKING:
    from typing import Self

    from agentfund.market import Columns, Floats

T = TypeVar("T")
Now = TypeVar("Now")
All = TypeVar("All")

Field: TypeAlias = Literal["open", "high", "low", "close", "volume"]

NAN = float("nan")

_FIELDS = get_args(Field)


class BarLike(Protocol):
    """The numbers of one closed bar; `agentfund.market.Bar` is one."""

    @property
    def open(self) -> float:
        """First price."""

    @property
    def high(self) -> float:
        """Highest price."""

    @property
    def low(self) -> float:
        """Lowest price."""

    @property
    def close(self) -> float:
        """Last price."""

    @property
    def volume(self) -> float:
        """Units traded."""


class Indicator(ABC, Generic[Now, All]):
    """A number, or a few, computed from the bars up to now.

    `batch` takes whole columns and `update` takes one bar; both give the same bits. Two indicators are equal when their
    class and parameters are. Parameters do not change; what `update` has seen does, until `reset`. A copy and a pickle
    have the parameters and have seen no bar.

    `Now` is what `update` gives (a float or a NamedTuple of floats), `All` what `batch` gives (arrays in the same shape).
    Subclasses write `_steps`, a generator that is sent a bar and gives the value at it: it keeps what it needs of the past
    in its own variables, which is the fastest memory that Python has.
    """

    __slots__ = ("_send",)

    _send: Callable[[Any], Now]

    parameters: ClassVar[tuple[str, ...]] = ()
    """Names of the parameters, which are also attributes."""

    @property
    def recurrences(self) -> int:
        """Loops of `batch` that cannot be told to numpy: what there is to compile."""
        return 0

    @property
    @abstractmethod
    def warm_up(self) -> int:
        """Number of bars until the first value: it comes with bar `warm_up - 1`, and before it there is NaN."""

    @property
    @abstractmethod
    def nothing(self) -> Now:
        """What `update` gives during warm-up: NaN, or a NamedTuple of NaN."""

    @abstractmethod
    def batch(self, columns: Columns, compiled: bool | None = None) -> All:
        """Return the value at every bar, NaN in warm-up.

        Args:
            columns: the bars; prices and volumes are finite, as a feed hands them out.
            compiled: True for numba, False for plain Python, None for numba where it is installed and the work is large.

        Raises:
            MissingExtra: `compiled=True`, and numba is not installed.
        """

    def upon(self, batch_of: Callable[[AnyIndicator], Any], columns: Columns, compiled: bool | None = None) -> All:
        """Return what `batch` does; an indicator made of others asks `batch_of` for them, which may know them already."""
        return self.batch(columns, compiled)

    @abstractmethod
    def _steps(self) -> Generator[Now, Any, None]:
        """Give something once, and then the value at each bar that is sent."""

    def update(self, bar: BarLike) -> Now:
        """Take the next closed bar and return the value at it, NaN in warm-up.

        Raises:
            ConfigError: an update before this one failed; what was known then is lost.
        """
        try:
            return self._send(bar)
        except StopIteration:
            raise self._lost() from None

    def _lost(self) -> ConfigError:
        # A generator ends with its first error, and a StopIteration would end the caller's loop without a word.
        return ConfigError(f"{self!r}: an update failed before, so this indicator is lost; reset() it and send the bars again")

    def reset(self) -> None:
        """Forget all bars."""
        steps = self._steps()
        next(steps)
        self._send = steps.send

    def fresh(self) -> Self:
        """Return a new one with the same parameters that has seen no bar."""
        return type(self)(**self._described())

    def _described(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.parameters}

    def _compiled(self, columns: Columns, compiled: bool | None) -> bool:
        # A smoothing takes about a tenth of a microsecond a bar in plain Python.
        return choose(compiled, len(columns) * self.recurrences // 10)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._described().items())})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, Indicator):
            return NotImplemented
        return self._described() == other._described()

    def __hash__(self) -> int:
        return hash((type(self), *self._described().values()))

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), self._described())


def _made(kind: type[AnyIndicator], parameters: dict[str, Any]) -> AnyIndicator:
    return kind(**parameters)


AnyIndicator: TypeAlias = Indicator[Any, Any]


class OfField(Indicator[Now, All]):
    """An indicator of one column: `_steps` is sent its values, and `over` takes all of them.

    Args:
        of: the column: open, high, low, close or volume.
    """

    __slots__ = ("_get", "of")

    def __init__(self, of: Field = "close") -> None:
        if of not in _FIELDS:
            raise ConfigError(f"{type(self).__name__}: of={of!r} names no column; there is {', '.join(_FIELDS)}")
        self.of = of
        self._get: Callable[[BarLike], float] = attrgetter(of)
        self.reset()

    def push(self, value: float) -> Now:
        """Take the next value of the column and return the indicator at it, as `update` does with a bar."""
        try:
            return self._send(value)
        except StopIteration:
            raise self._lost() from None

    @abstractmethod
    def over(self, values: Floats, compiled: bool = False) -> All:
        """Return the indicator at every value of an array, NaN in warm-up."""

    def update(self, bar: BarLike) -> Now:
        """Take the next closed bar and return the value at it; see `Indicator.update`."""
        try:
            return self._send(self._get(bar))
        except StopIteration:
            raise self._lost() from None

    def batch(self, columns: Columns, compiled: bool | None = None) -> All:
        """Return the value at every bar, NaN in warm-up; see `Indicator.batch`."""
        return self.over(column(columns, self.of), self._compiled(columns, compiled))


def values(indicators: Mapping[str, AnyIndicator], columns: Columns, compiled: bool | None = None) -> dict[str, Any]:
    """Return every indicator at every bar, by name: an array each, or a NamedTuple of arrays; equal ones are computed once.

    Args:
        indicators: by name.
        columns: the bars.
        compiled: as for `Indicator.batch`; None looks at the work of all of them together.

    Raises:
        MissingExtra: `compiled=True`, and numba is not installed.
    """
    recurrences = sum(indicator.recurrences for indicator in indicators.values())
    chosen = choose(compiled, len(columns) * recurrences // 10)
    known: list[tuple[AnyIndicator, Any]] = []

    def once(indicator: AnyIndicator) -> Any:
        for other, arrays in known:
            if other == indicator:
                return arrays
        arrays = indicator.upon(once, columns, chosen)
        known.append((indicator, arrays))
        return arrays

    return {name: once(indicator) for name, indicator in indicators.items()}


def column(columns: Columns, field: Field) -> Floats:
    """Return one column as float64, side by side in memory."""
    return np.ascontiguousarray(getattr(columns, field), dtype=np.float64)


def whole(owner: object, name: str, value: int, least: int = 1) -> int:
    """Return a number of bars as int.

    Raises:
        ConfigError: it is no whole number, or below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ConfigError(f"{type(owner).__name__}: {name} must be a whole number of bars, not {value!r}")
    if value < least:
        raise ConfigError(f"{type(owner).__name__}: {name} must be at least {least}, not {value}")
    return int(value)


def blank(values: Floats, count: int) -> Floats:
    """Write NaN over the first `count` values, in place, and return the array."""
    values[:count] = NAN
    return values


def quick(kind: type[Any]) -> Any:
    """Return what makes a NamedTuple of a tuple, in half the time that calling its class takes."""
    return partial(tuple.__new__, kind)
