"""A broker behind a mask: real orders go out, masked words come back."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from agentfund.brokers.paper import PaperBroker
from agentfund.brokers.unmasking import UNTOLD, Unmasking
from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.feeds.mask import Mask
from agentfund.market import Instrument
from agentfund.protocols import Broker, Simulated
from agentfund.testing.broker import BrokerContract, Stage
from agentfund.trading import Account, Fill, Order, OrderState, OrderStatus, OrderType, Side

SHIFT = timedelta(weeks=700)
MASK = Mask({"AAPL": "ASSET1"}, {"AAPL": Decimal("0.64")}, {"AAPL": Decimal("1.5625")}, SHIFT)
HALF = Mask({"AAPL": "ASSET1"}, {"AAPL": Decimal("0.5")}, {"AAPL": Decimal(2)}, SHIFT)


class Cut:
    """A paper broker whose connection can be cut."""

    dedupes_ids = True

    def __init__(self) -> None:
        self.paper = PaperBroker()
        self.cut = False

    async def account(self) -> Account:
        self._look()
        return await self.paper.account()

    async def orders(self) -> tuple[OrderState, ...]:
        self._look()
        return tuple(await self.paper.orders())

    async def fills(self) -> tuple[Fill, ...]:
        self._look()
        return tuple(await self.paper.fills())

    async def submit(self, order: Order) -> OrderState:
        self._look()
        return await self.paper.submit(order)

    async def cancel(self, order_id: str) -> OrderState:
        self._look()
        return await self.paper.cancel(order_id)

    def _look(self) -> None:
        if self.cut:
            raise BrokerUnavailable("no line to the venue of AAPL at 125.43")


class TestUnmasking(BrokerContract):
    """It keeps the contract of brokers in the masked market, while the market that it trades in is the real one."""

    symbol = "ASSET1"
    quantity = Decimal(2)
    price = Decimal(50)
    far = Decimal(5)

    def make_broker(self) -> Broker:
        self.real = Stage(Instrument("AAPL"), start=self.stage.now)
        self.inner = Cut()
        return Unmasking(self.inner, HALF)

    def order(self, name: str, side: Side = Side.BUY, **more: object) -> Order:
        return replace(super().order(name, side, **more), time=HALF.hide(self.real.now))  # type: ignore[arg-type]

    async def move_market(self, broker: Broker, price: Decimal) -> None:
        self.inner.paper.advance(self.real.move(float(HALF.show_price("ASSET1", price))))

    def cut_connection(self, broker: Broker) -> None:
        self.inner.cut = True


def stage_and_broker() -> tuple[Stage, PaperBroker, Unmasking]:
    """A real market after its first bar, the real broker, and the one behind the mask."""
    stage, paper = Stage(Instrument("AAPL")), PaperBroker()
    paper.advance(stage.move(100.0))
    return stage, paper, Unmasking(paper, MASK)


def order(stage: Stage, **changes: object) -> Order:
    """A masked order with a bracket."""
    return replace(
        Order(
            "o1",
            "ASSET1",
            Side.BUY,
            Decimal("15.625"),
            MASK.hide(stage.now),
            stop_loss=Decimal("57.6"),
            take_profit=Decimal("70.4"),
        ),
        **changes,  # type: ignore[arg-type]
    )


async def test_the_real_broker_gets_the_real_order() -> None:
    """Symbol, quantity, prices and time are those of the real market; what comes back is masked; money is the same."""
    stage, paper, broker = stage_and_broker()
    state = await broker.submit(order(stage))
    assert state == OrderState(order(stage), OrderStatus.WORKING)
    (sent,) = [told.order for told in await paper.orders()]
    assert (sent.symbol, sent.quantity, sent.time) == ("AAPL", Decimal(10), stage.now)
    assert (sent.stop_loss, sent.take_profit) == (Decimal(90), Decimal(110))
    paper.advance(stage.move((100.0, 101.0, 99.0, 100.5)))
    (real,), (masked,) = await paper.fills(), await broker.fills()
    assert (masked.symbol, masked.quantity, masked.time) == ("ASSET1", Decimal("15.625"), real.time + SHIFT)
    assert masked.price * masked.quantity == real.price * real.quantity
    assert (masked.fee, masked.id) == (real.fee, real.id)
    account, own = await broker.account(), await paper.account()
    assert account.cash == own.cash
    assert dict(account.positions) == {"ASSET1": Decimal("15.625")}
    assert not isinstance(broker, Simulated)
    assert repr(broker) == "<Unmasking of a PaperBroker>"


async def test_a_refusal_does_not_tell_what_is_masked(caplog: pytest.LogCaptureFixture) -> None:
    """The broker's words name a ticker and prices: they go to the operator's log, and the fund gets the code."""
    stage, _, broker = stage_and_broker()
    with caplog.at_level(logging.WARNING, "agentfund"), pytest.raises(OrderRejected) as refusal:
        await broker.submit(order(stage, stop_loss=Decimal("76.8")))
    assert str(refusal.value) == UNTOLD
    assert refusal.value.code == "bad_bracket"
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__
    assert "AAPL" in caplog.text
    with pytest.raises(OrderRejected, match="'AAPL' is no instrument of the masked market") as unknown:
        await broker.submit(order(stage, symbol="AAPL"))
    assert unknown.value.code == "unknown_symbol"


async def test_a_reason_does_not_tell_what_is_masked() -> None:
    """Not at a cancellation, not in the list of orders, not when the line is cut."""
    stage, paper, broker = stage_and_broker()
    limit = order(stage, type=OrderType.LIMIT, limit_price=Decimal("60.8"))
    await broker.submit(limit)
    assert (await paper.cancel("o1")).reason == "cancelled on request"
    (state,) = await broker.orders()
    assert (state.status, state.reason) == (OrderStatus.CANCELLED, UNTOLD)
    assert (await broker.cancel("o1")).reason == UNTOLD
    inner = Cut()
    inner.cut = True
    with pytest.raises(BrokerUnavailable) as lost:
        await Unmasking(inner, MASK).account()
    assert "AAPL" not in str(lost.value)
