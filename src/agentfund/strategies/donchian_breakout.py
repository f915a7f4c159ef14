"""Crypto: a break of the previous channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentfund.indicators import Donchian, Lag
from agentfund.strategies.strategy import Strategy

if TYPE_CHECKING:
    from agentfund.indicators import AnyIndicator


class DonchianBreakout(Strategy):
    """Long when the close is above the highest high of the bars before this one; out below the middle of the channel.

    The close of a bar is never above that bar's own high, so the channel to break is the one before it. The middle, which
    is never below the lower band, is that of the channel with this bar in it.

    Args:
        period: bars of the channel.
        **options: those of `Strategy`.
    """

    def __init__(self, period: int = 20, **options: Any) -> None:
        super().__init__(**options)
        self.period = period

    def indicators(self) -> Mapping[str, AnyIndicator]:
        """Return the channel, and the channel one bar before."""
        return {"channel": Donchian(self.period), "before": Lag(Donchian(self.period))}

    def enter(self, now: Any) -> Any:
        """Above the previous channel."""
        return now.close > now.before.upper

    def leave(self, now: Any) -> Any:
        """Below the middle."""
        return now.close < now.channel.middle
