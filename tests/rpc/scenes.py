"""Random orders and scenes, most of them near the one that the gate allows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from agentfund import Instrument, Order, Portfolio, Side
from agentfund.clock import from_micros
from agentfund.core.gate import Scene
from agentfund.trading import OrderState, OrderStatus, OrderType, Position
from tests.core.test_gate import order as good_order
from tests.core.test_gate import scene as good_scene
from tests.market import START

D = Decimal
SYMBOLS = ("SIM", "SIM2", "ÜBER-€")

prices = st.sampled_from(["100", "100.00", "1E+2", "98.00", "104.00", "99.5", "110.01", "0.01", "100.005"]).map(D)
amounts = st.one_of(
    prices,
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=4),
    st.fractions(0, 1000).map(lambda part: D(part.numerator) / D(part.denominator)),  # 28 digits, as averages have
)
moments = st.one_of(
    st.integers(-200_000_000, 200_000_000).map(lambda micros: START + timedelta(microseconds=micros)),
    st.integers(-3 * 10**16, 2 * 10**17).map(from_micros),
)
texts = st.text(max_size=12)
symbols = st.sampled_from(SYMBOLS)
orders = st.builds(
    Order,
    id=texts,
    symbol=symbols,
    side=st.sampled_from(Side),
    quantity=amounts,
    time=moments,
    type=st.sampled_from(OrderType),
    limit_price=st.none() | prices,
    stop_price=st.none() | prices,
    stop_loss=st.none() | prices,
    take_profit=st.none() | prices,
    reduce_only=st.booleans(),
    decision=texts,
    token=st.integers(0, 2**63),
)
states = st.builds(OrderState, order=orders, status=st.sampled_from(OrderStatus), filled=amounts, reason=texts, told=amounts)
portfolios = st.builds(
    Portfolio,
    cash=amounts,
    positions=st.lists(st.builds(Position, symbols, amounts, amounts, moments, amounts), max_size=2).map(
        lambda held: {position.symbol: position for position in held}
    ),
    realized=amounts,
    fees=amounts,
    trips=st.integers(0, 10**6),
    wins=st.integers(0, 10**6),
)
instruments = st.builds(
    Instrument, symbols, st.sampled_from([D("0.01"), D(1)]), st.sampled_from([D("0.0001"), D(10)]), texts, st.just(D("0.01"))
)
ANYTHING: dict[str, st.SearchStrategy[Any]] = {
    "now": moments,
    "decided": moments,
    "instrument": st.none() | instruments,
    "price": prices,
    "quote_age_s": st.floats(-10, 100),
    "portfolio": portfolios,
    "prices": st.dictionaries(symbols, amounts),
    "equity": amounts,
    "peak_equity": amounts,
    "day_equity": amounts,
    "orders": st.lists(states, max_size=2).map(tuple),
    "recent": st.lists(orders, max_size=2).map(tuple),
    "ordered_last_hour": st.integers(0, 60),
    "critical_last_day": st.integers(0, 12),
    "critical": st.booleans(),
    "degraded": st.booleans(),
    "blind": texts,
}
ORDERED: dict[str, st.SearchStrategy[Any]] = {
    "quantity": amounts,
    "side": st.sampled_from(Side),
    "limit_price": st.none() | prices,
    "stop_loss": st.none() | prices,
    "take_profit": st.none() | prices,
    "type": st.sampled_from(OrderType),
    "reduce_only": st.booleans(),
    "symbol": symbols,
    "id": texts,
}


@st.composite
def near(draw: st.DrawFn) -> tuple[Order, Scene]:
    """Draw the order that the gate allows and its scene, with a few changes."""
    changed = draw(st.lists(st.sampled_from([*ORDERED, *ANYTHING]), max_size=4, unique=True))
    order, scene = good_order(), good_scene()
    for name in changed:
        if name in ORDERED:
            order = replace(order, **{name: draw(ORDERED[name])})
        else:
            scene = replace(scene, **{name: draw(ANYTHING[name])})
    return order, scene


far = st.tuples(orders, st.builds(Scene, **ANYTHING))
