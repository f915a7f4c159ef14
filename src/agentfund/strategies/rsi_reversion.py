"""Forex: back to the mean after a fall that went too far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentfund.errors import ConfigError
from agentfund.indicators import RSI
from agentfund.strategies.strategy import Strategy

if TYPE_CHECKING:
    from agentfund.indicators import AnyIndicator


class RsiReversion(Strategy):
    """Long when Wilder's relative strength index is below `below`; out when it is back at `out`.

    Args:
        period: bars of the index.
        below: strength below which it enters, 0 to 100.
        out: strength at or above which it leaves.
        **options: those of `Strategy`.

    Raises:
        ConfigError: it would leave where it enters.
    """

    def __init__(self, period: int = 14, below: float = 30.0, out: float = 50.0, **options: Any) -> None:
        super().__init__(**options)
        if not 0 < below < out <= 100:
            raise ConfigError(f"{self.name}: it takes 0 < below < out <= 100, not below={below}, out={out}")
        self.period = period
        self.below = below
        self.out = out

    def indicators(self) -> Mapping[str, AnyIndicator]:
        """Return the index of the close."""
        return {"rsi": RSI(self.period)}

    def enter(self, now: Any) -> Any:
        """The fall went too far."""
        return now.rsi < self.below

    def leave(self, now: Any) -> Any:
        """The middle is reached."""
        return now.rsi >= self.out
