"""The past that a market remembers is the past that was."""

from __future__ import annotations

from agentfund.brokers.rewind import markets_between
from agentfund.market import Instrument, Market
from agentfund.testing.broker import Stage


def seen(market: Market) -> tuple[object, ...]:
    return market.now, sorted(market.updated), {symbol: (len(w), w.last) for symbol, w in market.windows.items()}


def test_a_rewound_market_shows_what_the_market_showed() -> None:
    """Moment by moment: the same bars, the same symbols with a new one, none before its first."""
    stage = Stage(Instrument("A"), Instrument("B"))
    lived = [stage.move(bars) for bars in ({"A": 1}, {"A": 2}, {"B": 3}, {"A": 4, "B": 5}, {"A": 6}, {"B": 7})]
    for first in range(len(lived)):
        past = markets_between(lived[-1], lived[first].now, lived[-2].now)
        assert [seen(market) for market in past] == [seen(market) for market in lived[first + 1 : -1]]
