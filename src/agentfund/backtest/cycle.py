"""The slow way that knows everything: a rule strategy alone in a fund, on the fund's own cycle and the paper broker."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.backtest.engine import Backtest
from agentfund.backtest.result import EXITS, Result, Trades
from agentfund.brokers.paper import PaperBroker
from agentfund.buses.memory import MemoryBus
from agentfund.core.orchestrator import Orchestrator
from agentfund.feeds.history import Bars

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from decimal import Decimal

    from agentfund.backtest.result import Ints
    from agentfund.core.gate import Limits
    from agentfund.core.sizing import Sizing
    from agentfund.market import Floats
    from agentfund.strategies import Strategy
    from agentfund.trading import Direction


def by_cycle(
    strategy: Strategy,
    symbol: str,
    bars: Bars,
    broker: PaperBroker,
    sizing: Sizing,
    limits: Limits,
    described: Mapping[str, Any],
) -> Result:
    """Run a strategy bar by bar as a fund does, and return the same kind of result as the fast lanes.

    A position that filled in parts is one trade at its average prices.

    Args:
        strategy: the strategy.
        symbol: what it trades.
        bars: the history.
        broker: for its cash, costs and settings; it is not touched.
        sizing: how much to trade.
        limits: hard limits.
        described: what the result says of how it was made.
    """
    feed = Bars({symbol: bars.columns[symbol]}, source=bars.source, facts=bars.facts)
    settings = {name: float(value) for name, value in broker.settings.items()}
    alone = copy.copy(strategy)  # a run leaves nothing behind in the strategy that was given
    alone.symbol = symbol
    fund = Orchestrator([alone], bus=MemoryBus(), sizing=sizing, limits=limits)
    report = Backtest(fund, feed, PaperBroker(broker.cash, costs=broker.costs, **settings)).run()
    trips = report.round_trips
    codes = {name: code for code, name in enumerate(EXITS)} | {"order": EXITS.index("signal")}
    exits = _ints(codes[trip.exit] for trip in trips)
    fees = _floats(trip.fees for trip in trips)
    trades = Trades(
        symbol=np.zeros(len(trips), np.int64),
        decided=_ints(trip.entry_bar - 1 for trip in trips),
        entry_bar=_ints(trip.entry_bar for trip in trips),
        exit_bar=_ints(trip.exit_bar for trip in trips),
        sign=_floats(_sign(trip.direction) for trip in trips),
        quantity=_floats(trip.quantity for trip in trips),
        entry_price=_floats(trip.entry_price for trip in trips),
        exit_price=_floats(trip.exit_price for trip in trips),
        entry_fee=fees,
        exit_fee=fees * 0.0,
        exit=exits,
        stop_pct=np.full(len(trips), np.nan),
        target_pct=np.full(len(trips), np.nan),
    )
    return Result(
        columns={symbol: bars.columns[symbol]},
        described=described,
        cash=float(broker.cash),
        ends=report.curve.ends,
        trades=trades,
        flows=None,
        refusals=np.zeros((3, 0), np.int64),
        lane="cycle",
        fingerprint=bars.fingerprint,
        curve=report.curve,
    )


def _ints(values: Iterable[int]) -> Ints:
    return np.array(list(values), dtype=np.int64)


def _floats(values: Iterable[Decimal | float]) -> Floats:
    return np.array([float(value) for value in values], dtype=np.float64)


def _sign(direction: Direction) -> int:
    return 1 if direction == "long" else -1
