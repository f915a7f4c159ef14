"""A market as it was: the moments that a market's windows remember, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentfund.clock import from_micros
from agentfund.market import Market, Window

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime


def markets_between(market: Market, since: datetime, until: datetime) -> Iterator[Market]:
    """Give the market at each moment at which a bar closed, after `since` and up to `until`, oldest first."""
    closes = {close for window in market.windows.values() for close in _closes(window, since, until)}
    for moment in sorted(closes):
        windows = {}
        for symbol, window in market.windows.items():
            if window.bar(0).end <= moment:
                windows[symbol] = window.until(min(moment, window.now))
        yield Market(moment, windows, tuple(symbol for symbol, window in windows.items() if window.now == moment))


def _closes(window: Window, since: datetime, until: datetime) -> Iterator[datetime]:
    for close in map(from_micros, window.end.tolist()):
        if since < close <= until:
            yield close
