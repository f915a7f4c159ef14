"""The deterministic gate."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund import Instrument, Limits, Order, Portfolio, Side
from agentfund.core.gate import Scene, check
from agentfund.errors import ConfigError
from agentfund.trading import OrderState, OrderStatus, OrderType, Position
from tests.market import START

D = Decimal
LONG = Portfolio(D(50_000), {"SIM": Position("SIM", D(500), D(100), START)})


def order(**changes: Any) -> Order:
    """Return an order that the gate allows, with changes."""
    good = Order("id1", "SIM", Side.BUY, D(100), START, stop_loss=D("98.00"), take_profit=D("104.00"), decision="d1")
    return replace(good, **changes)


def scene(**changes: Any) -> Scene:
    """Return a scene in which that order is allowed, with changes."""
    good = Scene(
        now=START,
        decided=START,
        instrument=Instrument("SIM"),
        price=D(100),
        quote_age_s=0,
        portfolio=Portfolio(D(100_000)),
        prices={"SIM": D(100)},
        equity=D(100_000),
        peak_equity=D(100_000),
        day_equity=D(100_000),
    )
    return replace(good, **changes)


def code(order: Order, scene: Scene, limits: Limits | None = None) -> str:
    """Return the code of the denial, empty when the order is allowed."""
    denial = check(order, scene, limits or Limits())
    return denial.code if denial else ""


def test_a_good_order_is_allowed() -> None:
    """So that the denials below mean something."""
    assert code(order(), scene()) == ""


def working(status: OrderStatus = OrderStatus.WORKING, **changes: Any) -> tuple[OrderState, ...]:
    """Return one open order."""
    return (OrderState(order(id="other", **changes), status),)


TWO = {"SIM": D(100), "SIM2": D(100)}
DENIED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("schema", {"quantity": D(0)}, {}),
    ("schema", {"quantity": D(-5)}, {}),
    ("schema", {"quantity": D("NaN")}, {}),
    ("schema", {"quantity": None}, {}),
    ("schema", {"quantity": 100.0}, {}),
    ("schema", {"id": ""}, {}),
    ("schema", {"stop_loss": D("Infinity")}, {}),
    ("schema", {"type": OrderType.LIMIT}, {}),
    ("schema", {"type": OrderType.STOP}, {}),
    ("unknown_symbol", {"symbol": "XYZ"}, {}),
    ("unknown_symbol", {}, {"instrument": None}),
    ("quote", {}, {"price": D("NaN")}),
    ("quote", {}, {"price": D(0)}),
    ("stale_quote", {}, {"quote_age_s": 61}),
    ("stale_quote", {}, {"quote_age_s": -1.5}),
    ("stale_quote", {}, {"quote_age_s": math.nan}),
    ("no_decision", {"decision": ""}, {}),
    ("stale_decision", {}, {"decided": START - timedelta(seconds=121)}),
    ("stale_decision", {}, {"decided": START + timedelta(seconds=1)}),
    ("lot", {"quantity": D("100.00001")}, {}),
    ("tick", {"stop_loss": D("98.001")}, {}),
    ("collar", {"type": OrderType.LIMIT, "limit_price": D("110.01")}, {}),
    ("reduce_only", {"reduce_only": True}, {}),
    ("reduce_only", {"reduce_only": True, "side": Side.SELL, "quantity": D(501)}, {"portfolio": LONG}),
    ("unknown_order", {}, {"orders": working(OrderStatus.UNKNOWN)}),
    ("degraded", {}, {"degraded": True}),
    ("broker", {}, {"blind": "the broker cannot be seen"}),
    ("daily_loss", {}, {"day_equity": D("103100")}),
    ("drawdown", {}, {"peak_equity": D("125000")}),
    ("equity", {}, {"equity": D(0)}),
    ("short", {"side": Side.SELL, "stop_loss": D(102), "take_profit": D(96)}, {}),
    ("order_size", {"quantity": D("1000.01")}, {}),
    ("position_size", {"quantity": D("600")}, {"portfolio": LONG}),
    (
        "leverage",
        {"quantity": D("600")},
        {"orders": working(symbol="SIM2", quantity=D(500)), "prices": {"SIM": D(100), "SIM2": D(100)}},
    ),
    ("order_rate", {}, {"ordered_last_hour": 50}),
    ("critical_rate", {}, {"critical": True, "critical_last_day": 10}),
    ("duplicate", {}, {"recent": (order(),)}),
    ("duplicate", {}, {"recent": (order(id="other"),)}),
    ("no_stop", {"stop_loss": None}, {}),
    ("stop_distance", {"stop_loss": D(101)}, {}),
    ("stop_distance", {"stop_loss": D(84)}, {}),
    ("target", {"take_profit": D(99)}, {}),
    ("gate_error", {}, {"equity": None}),
    ("gate_error", {}, {"now": None}),
]


@pytest.mark.parametrize(("expected", "order_changes", "scene_changes"), DENIED)
def test_each_check_denies_with_its_code(expected: str, order_changes: dict[str, Any], scene_changes: dict[str, Any]) -> None:
    """One change from the good order is enough."""
    assert code(order(**order_changes), scene(**scene_changes)) == expected


def test_a_restricted_instrument_is_denied_even_where_it_is_allowed() -> None:
    """The restricted list wins."""
    both = Limits(symbols=frozenset({"SIM"}), restricted=frozenset({"SIM"}))
    assert code(order(), scene(), both) == "restricted"
    assert code(order(), scene(), Limits(symbols=frozenset({"OTHER"}))) == "not_allowed"


def test_what_reduces_risk_leaves_even_after_losses() -> None:
    """Losses, degradation, a closed market and an unknown order do not keep a position from being closed."""
    closing = order(side=Side.SELL, quantity=D(500), reduce_only=True, stop_loss=None, take_profit=None)
    bad = scene(
        portfolio=LONG, peak_equity=D(200_000), day_equity=D(200_000), degraded=True, orders=working(OrderStatus.UNKNOWN)
    )
    bad = replace(bad, quote_age_s=9_999)
    assert code(closing, bad) == ""


def test_two_closing_orders_for_one_position_are_not_both_allowed() -> None:
    """What is under way already counts."""
    closing = order(side=Side.SELL, quantity=D(500), reduce_only=True, stop_loss=None, take_profit=None)
    first = (OrderState(replace(closing, id="first"), OrderStatus.WORKING),)
    assert code(closing, scene(portfolio=LONG, orders=first)) == "reduce_only"


def test_a_limit_that_is_not_above_zero_is_refused() -> None:
    """A limit cannot be switched off by a nonsense number."""
    with pytest.raises(ConfigError, match="limit max_leverage must be above zero"):
        Limits(max_leverage=0)
    with pytest.raises(ConfigError, match="max_drawdown_pct"):
        Limits(max_drawdown_pct=math.nan)


def test_changed_limits_have_another_digest() -> None:
    """So the log can tell them apart."""
    assert Limits().digest == Limits().digest != Limits(max_leverage=2).digest


numbers = st.one_of(st.decimals(allow_nan=True, allow_infinity=True), st.none(), st.floats(), st.integers(-(10**6), 10**6))


@settings(max_examples=400, deadline=None)
@given(quantity=numbers, stop=numbers, target=numbers, price=numbers, equity=numbers, cash=numbers)
def test_the_gate_never_raises_and_never_lets_a_limit_be_passed(
    quantity: Any, stop: Any, target: Any, price: Any, equity: Any, cash: Any
) -> None:
    """Whatever the numbers are: an allowed order is finite, within leverage, and has its stop on the right side."""
    limits = Limits()
    one = order(quantity=quantity, stop_loss=stop, take_profit=target)
    view = scene(
        price=price, prices={"SIM": price}, equity=equity, peak_equity=equity, day_equity=equity, portfolio=Portfolio(cash)
    )
    if check(one, view, limits) is None:
        assert isinstance(quantity, Decimal)
        assert 0 < quantity * price <= equity
        assert stop is not None
        assert price * D("0.85") <= stop < price
