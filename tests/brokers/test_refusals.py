"""What the paper broker refuses, with a sentence and a code, and that nothing of it stays."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from agentfund.brokers import PaperBroker
from agentfund.errors import OrderRejected
from agentfund.market import Instrument
from agentfund.testing.broker import Stage
from agentfund.trading import Order, OrderType, Side

D = Decimal
LIMIT, STOP = OrderType.LIMIT, OrderType.STOP
NAIVE = datetime(2024, 1, 1)  # noqa: DTZ001 - this is the mistake


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("no_id", {"id": ""}),
        ("unknown_symbol", {"symbol": "TSET"}),
        ("naive_time", {"time": NAIVE}),
        ("bad_quantity", {"quantity": D(0)}),
        ("bad_quantity", {"quantity": D(-1)}),
        ("bad_quantity", {"quantity": D("NaN")}),
        ("bad_quantity", {"quantity": D("sNaN")}),
        ("bad_quantity", {"quantity": D("Infinity")}),
        ("bad_quantity", {"quantity": 1.0}),
        ("bad_quantity", {"quantity": D("1.05")}),
        ("bad_quantity", {"quantity": D("1e40") + D("0.05")}),
        ("bad_limit_price", {"type": LIMIT}),
        ("bad_limit_price", {"limit_price": D(99)}),
        ("bad_limit_price", {"type": LIMIT, "limit_price": D("99.001")}),
        ("bad_limit_price", {"type": LIMIT, "limit_price": D("NaN")}),
        ("bad_stop_price", {"type": STOP}),
        ("bad_stop_price", {"stop_price": D(99)}),
        ("bad_stop_price", {"type": STOP, "stop_price": D(0)}),
        ("bad_stop_loss", {"stop_loss": D("98.555")}),
        ("bad_take_profit", {"take_profit": D("NaN")}),
        ("bad_bracket", {"stop_loss": D(102), "take_profit": D(98)}),
        ("bad_bracket", {"stop_loss": D(100), "take_profit": D(100)}),
        ("bad_bracket", {"side": Side.SELL, "stop_loss": D(98), "take_profit": D(102)}),
        ("bad_bracket", {"type": LIMIT, "limit_price": D(99), "stop_loss": D(99)}),
        ("bad_bracket", {"type": STOP, "stop_price": D(101), "take_profit": D(100)}),
        ("bad_bracket", {"reduce_only": True, "stop_loss": D(98)}),
    ],
)
async def test_an_order_that_cannot_work_is_refused(code: str, change: dict[str, Any]) -> None:
    """The error names the order and carries the field's code; the order does not exist afterwards."""
    broker, stage = PaperBroker(), Stage(Instrument("TEST", lot_size=D("0.1")))
    broker.advance(stage.move(100))
    order = replace(Order("mine", "TEST", Side.BUY, D(1), stage.now), **change)
    with pytest.raises(OrderRejected, match=repr(order.id)) as refusal:
        await broker.submit(order)
    assert refusal.value.code == code
    assert await broker.orders() == ()
    assert broker.advance(stage.move(100)) == ()


async def test_before_the_first_bar_no_symbol_is_known() -> None:
    """Without a bar nobody knows the increments."""
    with pytest.raises(OrderRejected, match="first bar"):
        await PaperBroker().submit(Order("mine", "TEST", Side.BUY, D(1), Stage().now))


@pytest.mark.parametrize("side", list(Side))
async def test_a_bracket_on_the_right_side_is_taken(side: Side) -> None:
    """Stop, entry and target in their order, for both sides and each type."""
    broker, stage = PaperBroker(), Stage()
    broker.advance(stage.move(100))
    stop, entry, target = (D(100) + step * side.sign for step in (-2, 0, 2))
    order = Order("market", "TEST", side, D(1), stage.now, stop_loss=stop, take_profit=target)
    await broker.submit(order)
    await broker.submit(replace(order, id="limit", type=LIMIT, limit_price=entry))
    await broker.submit(replace(order, id="stop", type=STOP, stop_price=entry))
    assert len(await broker.orders()) == 3


async def test_cancelling_what_was_never_sent_is_refused() -> None:
    """An unknown id is an error."""
    with pytest.raises(OrderRejected, match="'nobody'") as refusal:
        await PaperBroker().cancel("nobody")
    assert refusal.value.code == "unknown_order"
