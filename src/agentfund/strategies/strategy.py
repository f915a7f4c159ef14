"""A rule strategy: when to enter, when to leave, how far the stop; an agent that needs no language model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from agentfund.core.agent import Abstain, Agent, code_digest
from agentfund.errors import ConfigError, PipelineError
from agentfund.messages import stable_id
from agentfund.trading import Direction, Proposal

if TYPE_CHECKING:
    from agentfund.core.context import Snapshot
    from agentfund.indicators import AnyIndicator
    from agentfund.market import Window

FIELDS = ("open", "high", "low", "close", "volume")


class Now:
    """The newest bar and the indicators at it, by name: `now.close`, `now.fast`, `now.band.upper`.

    The same names stand for whole arrays where a strategy is run over a whole series at once.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class Strategy(Agent[Proposal]):
    """A rule strategy: indicators, a condition to enter and one to leave, a stop and a target.

    The conditions are elementwise: write `(now.fast > now.slow) & (now.close > now.fast)`, with `&`, `|` and comparisons
    instead of `and`, `or` and `not`. The same line is then one decision at one bar, and all decisions of a whole series at
    once. A condition that cannot be written so goes into `decide`, which is asked bar by bar.

    It proposes one position at a time; size, stop and target become an order by the fund's sizing. Since it is plain code
    it needs no gate agent behind it: the fund's limits judge what it proposes.

    Args:
        stop_pct: distance of the stop in percent of the price at decision time, 0.5 to 15.
        target_pct: distance of the target in percent, 0.1 to 100; None for no target.
        symbol: the instrument; the first of the market where it is empty.
        name: its name in the log.

    Attributes:
        direction: which way it trades, long or short.
    """

    needs_gate = False
    direction: ClassVar[Direction] = Direction.LONG

    def __init__(
        self, *, stop_pct: float = 1.0, target_pct: float | None = 2.0, symbol: str = "", name: str | None = None
    ) -> None:
        super().__init__(name=name)
        if not 0 < stop_pct < 100:
            raise ConfigError(f"{self.name}: stop_pct is a distance in percent of the price, not {stop_pct}")
        if target_pct is not None and not target_pct > 0:
            raise ConfigError(f"{self.name}: target_pct is a distance in percent of the price, or None, not {target_pct}")
        self.stop_pct = stop_pct
        self.target_pct = target_pct
        self.symbol = symbol
        self._grown: _Grown | None = None

    def indicators(self) -> Mapping[str, AnyIndicator]:
        """Return what it looks at, by the name under which `now` gives it."""
        return {}

    def enter(self, now: Any) -> Any:
        """Return whether to enter, while nothing is held: a truth value, or an array of them where `now` holds arrays."""
        raise PipelineError(f"{self.name} has no condition to enter: define enter(self, now), or decide(self, now, held)")

    def leave(self, now: Any) -> Any:
        """Return whether to leave what is held; by default stop and target alone end a trade."""
        return False

    def stop(self, now: Any) -> Any:
        """Return the distance of the stop in percent for an entry now; the parameter by default."""
        return self.stop_pct

    def target(self, now: Any) -> Any:
        """Return the distance of the target in percent for an entry now, NaN for none; the parameter by default."""
        return math.nan if self.target_pct is None else self.target_pct

    def decide(self, now: Any, held: bool) -> Direction | None:
        """Return what to hold from here on, None for no change. Asked at every bar, whether something is held or not.

        Override it for what `enter` and `leave` cannot say, such as a count of one's own trades. A strategy that does is
        run bar by bar; `reset` must forget what it keeps.
        """
        if held:
            return Direction.FLAT if self.leave(now) else None
        return self.direction if self.enter(now) else None

    def reset(self) -> None:
        """Forget what an own `decide` has kept from bar to bar; called before each run."""

    def restart(self) -> None:
        """Forget everything of an earlier run."""
        self._grown = None

    @property
    def settings(self) -> dict[str, Any]:
        """Its parameters: what a result depends on besides its code."""
        return {k: v for k, v in vars(self).items() if not k.startswith("_") and k not in ("llm", "name", "symbol")}

    @property
    def elementwise(self) -> bool:
        """Whether its decisions follow from `enter` and `leave` alone, so that a whole series can be done at once."""
        return type(self).decide is Strategy.decide

    @property
    def digest(self) -> str:
        """A hash of its code, its parameters and its indicators."""
        code = [_code(getattr(type(self), name)) for name in ("indicators", "enter", "leave", "stop", "target", "decide")]
        return stable_id(super().digest, code, repr(dict(self.indicators())), repr(sorted(self.settings.items())))[:16]

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"{type(self).__name__}({told})"

    def rule(self, context: Snapshot) -> Proposal | Abstain:
        """Propose what `decide` says of the newest bar."""
        market = context.market
        symbol = self.symbol or context.bars.symbol
        if symbol not in market.updated:
            return Abstain("no bar of its instrument has just closed")
        window = market[symbol]
        if self._grown is None or not self._grown.precedes(window):
            self.reset()
            self._grown = _Grown(self.indicators())
        now = self._grown.up_to(window)
        held = context.portfolio.direction(symbol)
        working = [state.order for state in context.state.orders.values() if state.order.symbol == symbol]
        if working and (held is Direction.FLAT or any(order.reduce_only for order in working)):
            return Abstain("its order is still working")
        wanted = self.decide(now, held is not Direction.FLAT)
        if wanted is None or wanted is held:
            return Abstain("no signal")
        if wanted is Direction.FLAT:
            return Proposal(direction=wanted, symbol=self.symbol, thesis="its condition to leave holds")
        target = float(self.target(now))
        return Proposal(
            direction=wanted,
            symbol=self.symbol,
            thesis="its condition to enter holds",
            stop_pct=float(self.stop(now)),
            target_pct=None if math.isnan(target) else target,
        )


_code = lru_cache(maxsize=256)(code_digest)


class _Bar:
    """The numbers of one bar."""

    __slots__ = FIELDS

    open: float
    high: float
    low: float
    close: float
    volume: float


class _Grown:
    """Indicators that have seen the bars of a window one after the other."""

    def __init__(self, indicators: Mapping[str, AnyIndicator]) -> None:
        self._each = {name: indicator.fresh() for name, indicator in indicators.items()}
        self._count = 0
        self._last: tuple[float, ...] = ()
        self._now = Now({})

    def precedes(self, window: Window) -> bool:
        """Whether the window goes on where these left off."""
        return not self._count or (self._count <= len(window) and _row(window, self._count - 1) == self._last)

    def up_to(self, window: Window) -> Now:
        """See the rest of the window; return what holds at its end."""
        bar, values = _Bar(), {}
        fresh = [getattr(window, field)[self._count :].tolist() for field in FIELDS]
        for bar.open, bar.high, bar.low, bar.close, bar.volume in zip(*fresh, strict=True):
            values = {name: indicator.update(bar) for name, indicator in self._each.items()}
        if fresh[0]:
            self._now = Now({field: getattr(bar, field) for field in FIELDS} | values)
        self._count = len(window)
        self._last = _row(window, self._count - 1)
        return self._now


def _row(window: Window, bar: int) -> tuple[float, ...]:
    """Return what tells one bar of a market from the same bar of another."""
    return (int(window.start[bar]), *(float(getattr(window, field)[bar]) for field in FIELDS))
