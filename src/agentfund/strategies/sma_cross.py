"""Stocks: a cross of two moving averages, confirmed by the close."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentfund.errors import ConfigError
from agentfund.indicators import SMA
from agentfund.strategies.strategy import Strategy

if TYPE_CHECKING:
    from agentfund.indicators import AnyIndicator


class SmaCross(Strategy):
    """Long while the fast moving average is above the slow one and the close above the fast one; out when either ends.

    Args:
        fast: bars of the fast average.
        slow: bars of the slow one.
        **options: those of `Strategy`.

    Raises:
        ConfigError: the fast average is not the faster one.
    """

    def __init__(self, fast: int = 20, slow: int = 50, **options: Any) -> None:
        super().__init__(**options)
        if not 0 < fast < slow:
            raise ConfigError(f"{self.name}: fast must be below slow and above zero, not fast={fast}, slow={slow}")
        self.fast = fast
        self.slow = slow

    def indicators(self) -> Mapping[str, AnyIndicator]:
        """Return the two averages of the close."""
        return {"fast": SMA(self.fast), "slow": SMA(self.slow)}

    def enter(self, now: Any) -> Any:
        """Fast above slow, close above fast."""
        return (now.fast > now.slow) & (now.close > now.fast)

    def leave(self, now: Any) -> Any:
        """Not so any longer."""
        return (now.fast <= now.slow) | (now.close <= now.fast)
