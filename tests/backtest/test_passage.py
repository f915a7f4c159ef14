"""Hypothetical trades are walked as the paper broker would have walked them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.backtest.passage import OPEN, SIGNAL, STOP, TARGET, Passage
from agentfund.brokers.paper import PaperBroker
from agentfund.market import Columns, Instrument, Market, Window
from agentfund.trading import Costs, Fill, Order, Side
from tests.market import START

MINUTE = timedelta(minutes=1)


def random_bars(seed: int, count: int = 40) -> Columns:
    """Bars with gaps and long wicks, on the tick."""
    rng = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.01, count))), 2)
    opens = np.round(np.concatenate([[100.0], close[:-1]]) * (1 + rng.normal(0, 0.006, count)), 2)
    high = np.round(np.maximum(opens, close) + rng.exponential(0.4, count), 2)
    low = np.round(np.minimum(opens, close) - rng.exponential(0.4, count), 2)
    start = (START - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) + np.arange(count) * 60_000_000
    return Columns(Instrument("SIM"), MINUTE, start, opens, high, low, close, np.zeros(count))


def broker_trade(columns: Columns, order: Order, decided: int, until: int, costs: Costs) -> list[Fill]:
    """What the paper broker makes of a bracket that is closed at the open of bar `until`."""
    broker = PaperBroker(cash=Decimal(10_000_000), costs=costs)
    fills: list[Fill] = []
    for count in range(decided + 1, len(columns) + 1):
        market = Market((window := Window(columns, count)).now, {"SIM": window}, ("SIM",))
        fills += broker.advance(market)
        if count == decided + 1:
            asyncio.run(broker.submit(order))
        elif count == until and len(fills) == 1:
            close = Order("c", "SIM", order.side.opposite, order.quantity, market.now, reduce_only=True)
            asyncio.run(broker.submit(close))
    return fills


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 10_000),
    st.integers(0, 37),
    st.sampled_from([1.0, -1.0]),
    st.floats(0.002, 0.03),
    st.one_of(st.none(), st.floats(0.002, 0.03)),
    st.integers(1, 50),
)
def test_a_walk_is_what_the_paper_broker_does(
    seed: int, decided: int, sign: float, stop: float, target: float | None, length: int
) -> None:
    """Same bars, same bracket, same costs: the same end, and the same profit to the cents that fees are rounded to."""
    columns, costs = random_bars(seed), Costs(commission_bps=2.0, half_spread_bps=3.0, slippage_bps=1.0)
    passage = Passage(columns, costs=costs)
    until = min(decided + 1 + length, len(columns))
    at, sides, quantity = np.array([decided + 1]), np.array([sign]), np.array([10.0])
    distances = np.array([stop]), np.array([np.nan if target is None else target])
    stops, targets = passage.levels(columns.close[[decided]], sides, *distances)
    walked = passage.walk(at, sides, stops, targets, np.array([until]))
    order = Order(
        "o",
        "SIM",
        Side.BUY if sign > 0 else Side.SELL,
        Decimal(10),
        Window(columns, decided + 1).now,
        stop_loss=Decimal(str(round(stops[0], 2))),
        take_profit=None if target is None else Decimal(str(round(targets[0], 2))),
    )
    fills = broker_trade(columns, order, decided, until, costs)
    kind = int(walked.kind[0])
    assert kind == (OPEN if len(fills) == 1 else {"order": SIGNAL, "stop": STOP, "target": TARGET}[fills[1].leg])
    made = sum(-float(f.price * f.quantity) * f.side.sign - float(f.fee) for f in fills)
    if kind == OPEN:
        made += 10.0 * sign * float(columns.close[-1])
    else:
        assert columns.start[walked.bar[0]] == (fills[1].time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert passage.profit(at, sides, quantity, walked)[0] == pytest.approx(made, abs=0.0101)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_many_trades_at_once_are_what_they_are_one_by_one(seed: int, trades: int) -> None:
    """However far apart, in whatever shape."""
    rng = np.random.default_rng(seed)
    columns = random_bars(seed, 300)
    entry, sign = rng.integers(1, 300, trades), rng.choice([1.0, -1.0], trades)
    stop, target = rng.uniform(0.001, 0.1, (2, trades))
    until = entry + rng.integers(0, 300, trades)
    levels = Passage(columns).levels(columns.close[entry - 1], sign, stop, target)
    together = Passage(columns).walk(entry, sign, *levels, until)
    for i in range(trades):
        one = slice(i, i + 1)
        alone = Passage(columns).walk(entry[one], sign[one], levels[0][one], levels[1][one], until[one])
        assert [float(x[0]) for x in alone] == [float(x[i]) for x in together]
