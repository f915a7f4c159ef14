"""What an exchange can do to a client: after each fault there is one order, or the truth about it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Literal

import pytest

from agentfund.brokers.ccxt import Ccxt
from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.execution.protected import Protected
from agentfund.testing.spot import Fault, Listing, SpotExchange, SpotServer
from agentfund.trading import OrderStatus, OrderType, Side
from tests.brokers.test_ccxt_line import BTC, KEYS, line, order

Scene = tuple[SpotExchange, SpotServer, Ccxt]
CREATE = {"binance": "/api/v3/order", "bybit": "/v5/order/create", "okx": "/api/v5/trade/order"}


@pytest.fixture(params=["binance", "bybit", "okx"])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    name: Literal["binance", "bybit", "okx"] = request.param
    world = SpotExchange(Listing("BTC", "USDT"))
    world.move(BTC, Decimal(100))
    async with SpotServer(world, name) as server:
        broker = line(server, name)
        await broker.account()
        yield world, server, broker
        await broker.close()


@pytest.mark.parametrize("harm", ["html", "truncated", "empty", "drop"])
async def test_an_order_whose_answer_is_spoilt_is_unknown_and_then_found(scene: Scene, harm: str) -> None:
    """Real duplicates came of this: ccxt's 2599 and 7411. The order is asked about under its id, and there is one."""
    world, server, broker = scene
    server.faults.append(Fault(harm, CREATE[broker.name], "POST"))  # type: ignore[arg-type]
    with pytest.raises(BrokerUnavailable):
        await broker.submit(order("one"))
    states = {state.order.id: state.status for state in await broker.orders()}
    arrived = harm != "drop"
    assert states["one"] is (OrderStatus.FILLED if arrived else OrderStatus.UNKNOWN)
    await broker.submit(order("one"))  # sent again: found first, where it is there
    assert len(world.orders) == 1
    assert sum(f.quantity for f in await broker.fills()) == 1


async def test_a_timeout_after_the_order_was_taken_leaves_one_order(scene: Scene) -> None:
    """Silence is no refusal: the order is there, and is found."""
    world, server, slow = scene
    broker = line(server, slow.name, timeout=timedelta(seconds=0.6))
    await broker.account()
    server.faults.append(Fault("silence", CREATE[broker.name], "POST"))
    with pytest.raises(BrokerUnavailable, match=r"no answer in time|RequestTimeout"):
        await broker.submit(order("one"))
    assert [state.status for state in await broker.orders()] == [OrderStatus.FILLED]
    assert len(world.orders) == 1
    assert sum(method == "POST" and path == CREATE[broker.name] for method, path in server.requests) == 1
    await broker.close()


BUSY = {
    "binance": [
        (418, '{"code":-1003,"msg":"banned"}'),
        (429, '{"code":-1003,"msg":"too many"}'),
        (503, "Service Unavailable"),
        (408, '{"code":-1007,"msg":"Timeout waiting for response from backend server. Send status unknown."}'),
        (400, '{"code":-1006,"msg":"An unexpected response was received"}'),
        (400, '{"code":-99999,"msg":"something new"}'),
        (401, "<html>"),
        (400, "<html>bad request"),
    ],
    "bybit": [
        (200, '{"retCode":10006,"retMsg":"Too many visits!"}'),
        (200, '{"retCode":10016,"retMsg":"Server error."}'),
        (200, '{"retCode":170007,"retMsg":"Timeout waiting for response from backend server."}'),
        (200, '{"hello":1}'),
        (403, "<html>"),
    ],
    "okx": [
        (429, '{"code":"50011","msg":"Rate limit reached"}'),
        (200, '{"code":"50004","msg":"API endpoint request timeout"}'),
        (200, '{"code":"50001","msg":"Service temporarily unavailable"}'),
        (503, "<html>"),
        (200, "{}"),
        (200, "[]"),
    ],
}


async def test_busy_or_strange_answers_are_never_a_refusal(scene: Scene) -> None:
    """Limits, maintenance, -1007, codes that nobody knows: the order's fate is unknown."""
    _, server, broker = scene
    for number, (status, body) in enumerate(BUSY[broker.name]):
        server.faults.append(Fault("refuse", CREATE[broker.name], "POST", status=status, body=body))
        with pytest.raises(BrokerUnavailable):
            await broker.submit(order(f"busy{number}"))
        states = {state.order.id: state.status for state in await broker.orders()}
        assert states[f"busy{number}"] is OrderStatus.UNKNOWN


async def test_refusals_say_no(scene: Scene) -> None:
    """Too dear, and an order of which nothing is held: OrderRejected, and nothing is asked about afterwards."""
    _, _, broker = scene
    for bad in (order("dear", quantity=Decimal(5000)), order("short", side=Side.SELL)):
        with pytest.raises(OrderRejected) as told:
            await broker.submit(bad)
        assert broker.name in str(told.value)
        assert not any(secret in str(told.value) for secret in KEYS.values())
    assert list(await broker.orders()) == []


async def test_a_stop_beyond_the_market_says_so(scene: Scene) -> None:
    """`Protected` sells at once then, instead of waiting."""
    _, _, broker = scene
    await broker.submit(order("held"))
    with pytest.raises(OrderRejected) as told:
        await broker.submit(order("stop", side=Side.SELL, type=OrderType.STOP, stop_price=Decimal(110)))
    assert told.value.code == "would_trigger"


SKEWED = {
    "binance": (400, '{"code":-1021,"msg":"Timestamp for this request is outside of the recvWindow."}'),
    "bybit": (200, '{"retCode":10002,"retMsg":"invalid request, please check your server timestamp or recv_window param"}'),
    "okx": (401, '{"code":"50102","msg":"Timestamp request expired"}'),
}


async def test_a_clock_that_is_off_is_a_refusal_and_heals(scene: Scene) -> None:
    """-1021: nothing was ordered, the message names the clock, and the next question measures the difference again."""
    world, server, broker = scene
    status, body = SKEWED[broker.name]
    server.faults.append(Fault("refuse", CREATE[broker.name], "POST", status=status, body=body))
    with pytest.raises(OrderRejected, match="clock"):
        await broker.submit(order("one"))
    server.requests.clear()
    await broker.account()
    assert any(path.endswith("time") for _, path in server.requests)
    await broker.submit(order("one"))
    assert len(world.orders) == 1


@pytest.mark.parametrize("harm", ["html", "truncated", "empty"])
async def test_a_spoilt_answer_is_never_an_empty_one(scene: Scene, harm: str) -> None:
    """Whatever is asked: what is no answer is an error."""
    world, server, broker = scene
    await broker.submit(order("held"))
    await broker.submit(order("rests", type=OrderType.LIMIT, limit_price=Decimal(50)))
    for ask in (broker.account, broker.orders, broker.fills, broker.book):
        server.faults[:] = [Fault(harm, times=1000)]  # type: ignore[arg-type]
        with pytest.raises(BrokerUnavailable):
            await ask()
    server.faults[:] = []
    assert len([state for state in await broker.orders() if state.status.open]) == 1
    assert world.find("rests") is not None


async def test_an_answer_of_another_form_is_never_an_empty_one() -> None:
    """`{}` where Binance gives a list: ccxt would tell of no order and no trade."""
    world = SpotExchange(Listing("BTC", "USDT"))
    world.move(BTC, Decimal(100))
    async with SpotServer(world, "binance") as server:
        broker = line(server, "binance")
        await broker.submit(order("rests", type=OrderType.LIMIT, limit_price=Decimal(50)))
        for path, ask in (("openOrders", broker.orders), ("myTrades", broker.fills), ("account", broker.account)):
            server.faults[:] = [Fault("refuse", path, status=200, body="{}")]
            with pytest.raises(BrokerUnavailable):
                await ask()
        await broker.close()


async def test_an_id_that_is_taken_is_the_order_that_has_it(scene: Scene) -> None:
    """The exchange calls it a duplicate: that order is told, and there is one."""
    world, server, first = scene
    resting = order("one", type=OrderType.LIMIT, limit_price=Decimal(50))
    await first.submit(resting)
    second = line(server, first.name)
    state = await second.submit(resting)
    assert (state.status, len(world.orders)) == (OrderStatus.WORKING, 1)
    await second.close()


async def test_a_cancel_nobody_answered_for_is_asked_about(scene: Scene) -> None:
    """The reply is lost: unknown, and the next question tells that it was taken back."""
    world, server, broker = scene
    await broker.submit(order("rests", type=OrderType.LIMIT, limit_price=Decimal(50)))
    path = {"binance": "/api/v3/order", "bybit": "/v5/order/cancel", "okx": "/api/v5/trade/cancel-order"}[broker.name]
    server.faults.append(Fault("html", path, "DELETE" if broker.name == "binance" else "POST"))
    with pytest.raises(BrokerUnavailable):
        await broker.cancel("rests")
    assert [state.status for state in await broker.orders()] == [OrderStatus.CANCELLED]
    assert (await broker.cancel("rests")).status is OrderStatus.CANCELLED
    assert world.total("USDT") == 100_000


async def test_an_order_of_an_earlier_process_can_be_taken_back(scene: Scene) -> None:
    """A limit order, and a stop in the exchange's other list."""
    world, server, first = scene
    await first.submit(order("held"))
    await first.submit(order("rests", type=OrderType.LIMIT, limit_price=Decimal(50)))
    await first.submit(order("stop", side=Side.SELL, type=OrderType.STOP, stop_price=Decimal(90)))
    second = line(server, first.name)
    for name in ("rests", "stop"):
        assert (await second.cancel(name)).status is OrderStatus.CANCELLED
    assert [o.status for o in world.orders.values()] == ["filled", "cancelled", "cancelled"]
    await second.close()


async def test_a_stop_whose_answer_is_lost_is_not_doubled(scene: Scene) -> None:
    """Protected at a real protocol: the stop that arrived is found, and rests once."""
    world, server, broker = scene
    guarded = Protected(broker, interval=None, settle=timedelta(milliseconds=1))
    await guarded.submit(order("entry", stop_loss=Decimal(90)))
    path = "/api/v5/trade/order-algo" if broker.name == "okx" else CREATE[broker.name]
    server.faults.append(Fault("html", path, "POST"))
    for _ in range(3):
        await guarded.settle()
    assert [o.left for o in world.orders.values() if o.status == "waiting"] == [Decimal(1)]
    assert len(world.orders) == 2


async def test_an_order_has_not_ended_before_its_trades_are_told() -> None:
    """The exchange says filled and lists no trade yet: as an ended order it would look as if nothing had been bought."""
    world = SpotExchange(Listing("BTC", "USDT"))
    world.move(BTC, Decimal(100))
    async with SpotServer(world, "binance") as server:
        broker = line(server, "binance")
        server.faults.append(Fault("refuse", "myTrades", times=1000, status=200, body="[]"))
        assert (await broker.submit(order("one"))).status is OrderStatus.WORKING
        assert [state.status for state in await broker.orders()] == [OrderStatus.WORKING]
        server.faults.clear()
        assert [(state.status, state.filled) for state in await broker.orders()] == [(OrderStatus.FILLED, Decimal(1))]
        await broker.close()
