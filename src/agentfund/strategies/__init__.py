"""Rule strategies: agents that need no language model, alone or in a pipeline with others.

`Strategy` is the base of one's own: a few lines say when to enter and when to leave.
"""

from __future__ import annotations

from agentfund.strategies.donchian_breakout import DonchianBreakout
from agentfund.strategies.rsi_reversion import RsiReversion
from agentfund.strategies.sma_cross import SmaCross
from agentfund.strategies.strategy import Now, Strategy

__all__ = ["DonchianBreakout", "Now", "RsiReversion", "SmaCross", "Strategy"]
