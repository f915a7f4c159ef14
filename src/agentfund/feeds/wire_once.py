"""What a connection has given already, so that nothing is given twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from agentfund.market import Bar

_KEPT = 512  # for each symbol: an exchange that repeats itself repeats its last messages


class Once:
    """Trades by their ids and bars by their starts; memory is bounded for each symbol."""

    def __init__(self) -> None:
        self._trades: dict[str, dict[str, None]] = {}
        self._bars: dict[str, datetime] = {}

    def trade(self, symbol: str, key: str) -> bool:
        """Return whether a trade is new."""
        seen = self._trades.setdefault(symbol, {})
        if key in seen:
            return False
        seen[key] = None
        if len(seen) > _KEPT:
            del seen[next(iter(seen))]
        return True

    def bar(self, bar: Bar) -> bool:
        """Return whether a bar is newer than all before it."""
        newest = self._bars.get(bar.symbol)
        if newest is not None and bar.start <= newest:
            return False
        self._bars[bar.symbol] = bar.start
        return True
