"""Fills of Alpaca, heard and read: each counts once, and all is right with the stream dead."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest

from agentfund.brokers.alpaca import Alpaca
from agentfund.errors import BrokerUnavailable, ConfigError
from agentfund.testing.alpaca import AlpacaServer, Fault
from agentfund.trading import ZERO, Fill, Side
from tests.brokers.test_alpaca import order, trading
from tests.brokers.test_alpaca_faults import agrees


@pytest.fixture
def server() -> Iterator[AlpacaServer]:
    with AlpacaServer() as server:
        server.move("AAPL", 100)
        yield server


async def until(true: Callable[[], object]) -> None:
    """Wait for something to become true."""
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.01)
    assert true()


async def heard(broker: Alpaca, server: AlpacaServer, times: int = 1) -> None:
    """Wait until the adapter listens for the nth time and has caught up."""
    await until(lambda: broker._listener.connections >= times and server.streams.listening)
    await asyncio.wait_for(broker.wake.wait(), 5)


async def test_a_fill_heard_and_read_counts_once(server: AlpacaServer) -> None:
    """Heard while REST is silent, told by REST later: the same id, the same words."""
    async with trading(server, stream=True, timeout_s=0.5) as broker:
        await broker.orders()
        await heard(broker, server)
        broker.wake.clear()
        await broker.submit(order())
        await asyncio.wait_for(broker.wake.wait(), 5)
        await until(lambda: len(broker._fills._heard) >= 1)
        activity = server.venue.activities.pop()
        (by_stream,) = await broker.fills()
        server.venue.activities.append(activity)
        (by_rest,) = await broker.fills()
        assert by_stream == by_rest
    async with trading(server) as fresh:
        (later,) = await fresh.fills()
        assert (later.id, later.quantity, later.price) == (by_rest.id, by_rest.quantity, by_rest.price)


async def test_repeated_and_reordered_and_lost_events_count_once(server: AlpacaServer) -> None:
    """Partial fills whose events come newest first, twice, and not at all end in the server's book."""
    async with trading(server, stream=True) as broker:
        await broker.orders()
        await heard(broker, server)
        server.act(lambda venue: setattr(venue, "liquidity", Decimal(3)))
        server.repeat_events = server.hold_events = True
        await broker.submit(order())
        for price in (100, 101, 99):
            server.move("AAPL", price)
        server.release_events()
        server.lose_events = 2
        await broker.submit(order("lost", Side.SELL, 2))
        assert await agrees(broker, server)
        assert [f.quantity for f in await broker.fills()] == [3, 3, 3, 1, 2]
        await asyncio.sleep(0.1)
        assert await agrees(broker, server)
        assert await broker.busts() == ()


async def test_what_is_heard_and_does_not_fit_gives_way_to_what_is_read(server: AlpacaServer) -> None:
    """An event that lumps two executions together is taken back by the activities that tell them apart."""
    async with trading(server) as broker:
        server.act(lambda venue: setattr(venue, "liquidity", Decimal(6)))
        await broker.submit(order())
        server.move("AAPL", 100)
        kept, server.venue.activities = server.venue.activities, []
        wire = server.venue.tickets[0].json(nested=False)
        event = {
            "event": "fill",
            "execution_id": "x",
            "order": wire,
            "timestamp": wire["updated_at"],
            "price": "100",
            "qty": "10",
        }
        broker._heard(event)
        (lump,) = await broker.fills()
        server.venue.activities = kept
        assert [f.quantity for f in await broker.fills()] == [6, 4]
        assert await broker.busts() == (lump.id,)
        assert await agrees(broker, server)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_busted_fill_is_taken_back(server: AlpacaServer, stream: bool) -> None:
    """An exchange breaks a trade: its id is among the busts and its fill is gone, heard of or not."""
    async with trading(server, stream=stream) as broker:
        await broker.orders()
        if stream:
            await heard(broker, server)
        await broker.submit(order("kept"))
        await broker.submit(order("broken", quantity=3))
        told = {f.order_id: f.id for f in await broker.fills()}
        server.bust()
        if stream:
            await until(lambda: any(u["event"] == "trade_bust" for u in broker._fills._heard))
        assert [f.order_id for f in await broker.fills()] == ["kept"]
        assert await broker.busts() == (told["broken"],)
        assert await agrees(broker, server)


async def test_a_corrected_fill_has_an_id_of_its_own(server: AlpacaServer) -> None:
    """The price of an execution changes: the old fill is a bust, the new one counts."""
    async with trading(server) as broker:
        await broker.submit(order())
        (old,) = await broker.fills()
        server.venue.activities[0]["price"] = "99.5"
        (new,) = await broker.fills()
        assert (new.price, new.quantity, list(await broker.busts())) == (Decimal("99.5"), Decimal(10), [old.id])
        assert new.id != old.id
        assert await broker.fills() == [new]


async def test_fills_are_read_page_by_page(server: AlpacaServer) -> None:
    """230 executions are three pages; 1,050 orders are three of theirs; none is lost or doubled."""
    async with trading(server, timeout_s=10) as broker:
        server.act(lambda venue: setattr(venue, "liquidity", Decimal(1)))
        await broker.submit(order(quantity=230))
        for _ in range(229):
            server.move("AAPL", 100)
        fills = await broker.fills()
        assert (len(fills), len({f.id for f in fills})) == (230, 230)
        body = {"symbol": "AAPL", "side": "buy", "qty": "1", "type": "limit", "limit_price": "1", "time_in_force": "gtc"}
        for number in range(1_050):
            server.api.answer("POST", "/v2/orders", {}, {**body, "client_order_id": f"n{number}"})
        assert len(await broker.orders()) == 1_051


async def test_orders_of_one_moment_are_not_lost_between_pages(server: AlpacaServer) -> None:
    """Alpaca's list goes on after a time; orders of the same microsecond stand on both sides of a page's end."""
    async with trading(server, timeout_s=10) as broker:
        body = {"symbol": "AAPL", "side": "buy", "qty": "1", "type": "limit", "limit_price": "1", "time_in_force": "gtc"}
        for number in range(600):
            server.api.answer("POST", "/v2/orders", {}, {**body, "client_order_id": f"n{number}"})
        for ticket in server.venue.tickets[490:510]:
            ticket.created = server.venue.tickets[490].created
        assert len(await broker.orders()) == 600


async def test_alpaca_py_loses_fills_over_a_reconnect_and_we_do_not(server: AlpacaServer) -> None:
    """A stream that drops tells nobody of what happened meanwhile; after each reconnect everything is read."""
    async with trading(server, stream=True) as broker:
        await broker.submit(order("before"))
        await heard(broker, server)
        server.drop_streams()
        await until(lambda: not server.streams.listening)
        server.move("AAPL", 100)
        broker.wake.clear()
        server.lose_events = 99
        server.api.answer("POST", "/v2/orders", {}, _raw("while-down"))
        server.lose_events = 0
        await heard(broker, server, 2)
        assert {f.order_id for f in broker._fills._told.values()} == {"before", "while-down"}


async def test_the_stream_is_only_a_hint(server: AlpacaServer) -> None:
    """With every event lost and every connection refused the book is right."""
    server.streams.most = 0
    async with trading(server, stream=True) as broker:
        await broker.submit(order())
        await broker.submit(order("out", Side.SELL, 4))
        assert await agrees(broker, server)


async def test_alpaca_py_740_refused_connections_make_no_storm(server: AlpacaServer) -> None:
    """Someone else holds the one connection: ours is tried with growing pauses, never faster than the least one."""
    server.streams.most = 0
    async with trading(server, stream=True, reconnect_s=0.1) as broker:
        await broker.orders()
        await asyncio.sleep(1.0)
        assert 2 <= server.streams.attempts <= 7
        assert "429" in broker._listener.why
        server.streams.most = 1
        await heard(broker, server)


async def test_a_second_stream_of_an_account_is_refused_in_the_process(server: AlpacaServer) -> None:
    """`listen` says so; an adapter that would have listened by itself goes on without."""
    async with trading(server, stream=True) as first, trading(server, stream=True) as second:
        await first.orders()
        await heard(first, server)
        with pytest.raises(ConfigError, match="one connection"):
            second.listen()
        await second.submit(order())
        assert await agrees(second, server)
        assert server.streams.attempts == 1
    async with trading(server, stream=True) as third:
        third.listen()
        await heard(third, server)


async def test_a_deaf_connection_is_given_up(server: AlpacaServer) -> None:
    """Nothing comes, not even a pong: after `data_timeout_s` the adapter connects again."""
    async with trading(server, stream=True, data_timeout_s=0.4) as broker:
        await broker.orders()
        await heard(broker, server)
        server.streams.deaf, server.streams.most = True, 9
        await until(lambda: server.streams.attempts >= 2)
        server.streams.deaf = False
        await heard(broker, server, 2)


async def test_rest_that_fails_after_a_reconnect_does_not_end_the_stream(server: AlpacaServer) -> None:
    """The catching up fails; the next question catches up instead."""
    async with trading(server, stream=True, timeout_s=0.2) as broker:
        server.fail(Fault("status_before", "GET", times=10_000))
        with pytest.raises(BrokerUnavailable):
            await broker.orders()
        await until(lambda: server.streams.listening)
        await asyncio.sleep(0.3)
        server.heal()
        await broker.submit(order())
        assert await agrees(broker, server)
        assert broker._listener.connections == 1


async def test_nothing_is_left_when_it_is_closed(server: AlpacaServer) -> None:
    """No task and no thread of ours outlives `close`."""
    async with trading(server, stream=True) as broker:
        await broker.submit(order())
        await heard(broker, server)
    assert not [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    assert not [t for t in threading.enumerate() if t.name.startswith("agentfund-alpaca_")]
    with pytest.raises(BrokerUnavailable, match="closed"):
        await broker.account()


async def test_an_event_that_cannot_be_read_is_left_to_rest(server: AlpacaServer) -> None:
    """Unknown events, missing fields and strange numbers change nothing."""
    async with trading(server) as broker:
        await broker.submit(order())
        for update in ({"event": "fill"}, {"event": "new_kind"}, {"event": "fill", "order": {"id": "x", "filled_qty": "NaN"}}):
            broker._heard(update)
        assert await agrees(broker, server)


async def test_fills_are_decimals_without_fees(server: AlpacaServer) -> None:
    """Alpaca takes no commission; price and quantity are exact."""
    async with trading(server) as broker:
        server.move("AAPL", "100.07")
        await broker.submit(order(quantity=3))
        (fill,) = await broker.fills()
        assert isinstance(fill, Fill)
        assert (fill.quantity, fill.price, fill.fee, str(fill.leg)) == (Decimal(3), Decimal("100.07"), ZERO, "order")


def _raw(name: str) -> dict[str, str]:
    return {"client_order_id": name, "symbol": "AAPL", "side": "buy", "qty": "1", "type": "market", "time_in_force": "gtc"}
