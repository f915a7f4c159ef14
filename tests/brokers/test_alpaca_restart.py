"""Killed at any moment: the next process finds what positions are owed by the log and by Alpaca, and puts it back once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import pytest

from agentfund.brokers.alpaca import Alpaca
from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.testing.alpaca import AlpacaServer, Fault
from agentfund.testing.alpaca.tickets import Ticket
from agentfund.trading import Fill, Order, OrderStatus, Side
from tests.brokers.test_alpaca import order, trading


@pytest.fixture
def server() -> Iterator[AlpacaServer]:
    with AlpacaServer() as server:
        server.move("AAPL", 100)
        yield server


def bracket(name: str = "entry", **more: Any) -> Order:
    prices = {"stop_loss": 90, "take_profit": 120, **more}
    return order(name, **{name: value for name, value in prices.items() if value is not None})


def sell(name: str = "exit", quantity: int = 10, **more: Any) -> Order:
    return order(name, Side.SELL, quantity, reduce_only=True, **more)


def stops(server: AlpacaServer) -> list[Ticket]:
    """Stops that the price can touch."""
    return [t for t in server.venue.everything() if t.open and t.live and t.type == "stop"]


def wrong(server: AlpacaServer) -> str:
    """What is wrong with the protection; empty where stops are of the position's size, and nothing was sent twice."""
    held = server.venue.held.get("AAPL", Decimal(0))
    resting = stops(server)
    names = [ticket.client_id for ticket in server.venue.tickets]
    if len(names) != len(set(names)) or held < 0:
        return f"{held} held, sent {names}"
    if sum(stop.left for stop in resting) != held or any(stop.side != "sell" for stop in resting):
        return f"{held} held, stops {[(s.side, s.left) for s in resting]}"
    targets = [t for t in server.venue.everything() if t.open and t.live and t.type == "limit" and t.side == "sell"]
    return "" if len(targets) <= len(resting) else f"{len(targets)} targets beside {len(resting)} stops"


async def settled(server: AlpacaServer) -> None:
    """Wait until nothing is wrong, and see that it stays so."""
    for _ in range(300):
        if not wrong(server):
            break
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.03)
    assert wrong(server) == ""


@contextlib.contextmanager
def dying(server: AlpacaServer, after: int, *, heard: bool) -> Iterator[None]:
    """The process dies at a request: it came through (and the answer was not `heard`), or it did not; none comes later."""
    passing = [Fault("slow", times=after)] if after else []
    server.fail(*passing, Fault("reset_after" if heard else "reset_before"), Fault("reset_before", times=100_000))
    yield
    server.heal()


async def killed(server: AlpacaServer, log: Sequence[Order], fills: Sequence[Fill], act: Any, after: int, heard: bool) -> None:
    """Do something in a process that dies meanwhile."""
    with dying(server, after, heard=heard):
        broker = Alpaca(server.key, server.secret, url=server.url, stream=False, timeout_s=0.05)
        if fills:
            broker.restore(log, fills)
        with contextlib.suppress(BrokerUnavailable, OrderRejected):
            await act(broker)
        if broker._tending is not None:
            broker._tending.cancel()
        await broker.close()


@pytest.mark.parametrize("heard", [True, False], ids=["arrived", "lost"])
@pytest.mark.parametrize("quantity", [4, 10, 13])
async def test_killed_at_any_request_of_an_exit_nothing_stays_bare(quantity: int, heard: bool) -> None:
    """Whichever request was the last, the next process protects what is held, sends the exit again, and it sells once."""
    log = [bracket("a"), bracket("b", quantity=5, stop_loss=95, take_profit=None), sell(quantity=quantity)]
    for after in range(40):
        with AlpacaServer() as server:
            server.move("AAPL", 100)
            async with trading(server) as broker:
                for one in log[:2]:
                    await broker.submit(one)
                fills = await broker.fills()
            before = sum(server.requests.values())
            await killed(server, log, (), lambda broker: broker.submit(log[2]), after, heard)
            over = sum(server.requests.values()) - before <= after
            async with trading(server) as broker:
                broker.restore(log, fills)
                await broker.orders()
                await settled(server)
                assert (await broker.submit(log[2])).status is OrderStatus.FILLED
                await settled(server)
                assert server.venue.held.get("AAPL", Decimal(0)) == 15 - quantity
                assert broker.unprotected == ()
        if over:
            assert after > 6
            return
    raise AssertionError("the exit never ended")


@pytest.mark.parametrize("heard", [True, False], ids=["arrived", "lost"])
async def test_killed_again_while_it_puts_protection_back_it_doubles_nothing(heard: bool) -> None:
    """The second process dies at every request of its own in turn; the third finds one stop, or puts one there."""
    log = [bracket("a"), sell()]
    for after in range(20):
        with AlpacaServer() as server:
            server.move("AAPL", 100)
            async with trading(server) as broker:
                await broker.submit(log[0])
                fills = await broker.fills()
            server.api.answer("DELETE", f"/v2/orders/{stops(server)[0].id}", {}, None)
            assert wrong(server)
            before = sum(server.requests.values())
            await killed(server, log, fills, lambda broker: broker.orders(), after, heard)
            over = sum(server.requests.values()) - before <= after
            async with trading(server) as broker:
                broker.restore(log, fills)
                await settled(server)
            assert {t.client_id for t in server.venue.tickets} == {"a", "a.guard1"}
            assert [(str(s.stop_price), str(s.parent.limit_price)) for s in stops(server) if s.parent] == [("90", "120")]
        if over:
            assert after > 4
            return
    raise AssertionError("it never ended")


async def test_an_exit_that_still_works_keeps_its_shares_and_gives_them_back_where_it_fails(server: AlpacaServer) -> None:
    """The process dies after the exit was sent; it fills in part and is taken back: the rest has its stop."""
    log = [bracket("a"), bracket("b", quantity=5), sell(quantity=12)]
    async with trading(server) as broker:
        for one in log[:2]:
            await broker.submit(one)
        fills = await broker.fills()
        server.act(lambda venue: setattr(venue, "liquidity", Decimal(2)))
        assert (await broker.submit(log[2])).filled == 2
    async with trading(server) as broker:
        broker.restore(log, fills)
        await broker.orders()
        server.move("AAPL", 100)
        assert sum(stop.left for stop in stops(server)) == 3  # what the exit does not need
        assert server.venue.held == {"AAPL": Decimal(11)}
        await broker.cancel("exit")
        await settled(server)


async def test_a_running_process_shares_what_an_exit_has_sold_among_its_entries(server: AlpacaServer) -> None:
    """An exit that took the legs of two entries and sold less than both leaves neither of them bare."""
    async with trading(server) as broker:
        for one in (bracket("a"), bracket("b", quantity=5)):
            await broker.submit(one)
        server.act(lambda venue: setattr(venue, "liquidity", Decimal(12)))
        assert (await broker.submit(sell(quantity=15))).filled == 12
        server.act(lambda venue: setattr(venue, "liquidity", Decimal(0)))
        await broker.cancel("exit")
        await settled(server)
        assert server.venue.held == {"AAPL": Decimal(3)}


async def test_an_entry_killed_between_its_end_in_part_and_its_stop_gets_one(server: AlpacaServer) -> None:
    """The rest was taken back and the legs with it; the process died before it sent the stop."""
    server.act(lambda venue: setattr(venue, "liquidity", Decimal(4)))
    async with trading(server) as broker:
        await broker.submit(bracket())
    server.act(lambda venue: venue.cancel(venue.tickets[0]))
    async with trading(server) as broker:
        broker.restore([bracket()], ())  # its fill is not on the log yet
        await settled(server)
        assert [stop.left for stop in stops(server)] == [4]


async def test_what_came_without_a_stop_and_what_was_closed_gets_none(server: AlpacaServer) -> None:
    """Only entries with a stop are owed one, and only of what they hold still."""
    log = [bracket("a"), sell("x"), bracket("b", quantity=5), order("plain", quantity=3)]
    async with trading(server) as broker:
        for one in log:
            await broker.submit(one)
        fills = await broker.fills()
    async with trading(server) as broker:
        broker.restore(log, fills)
        await broker.orders()
        assert [stop.left for stop in stops(server)] == [5]
        assert server.orders_created == 4


async def test_a_short_position_gets_its_stop_back_on_its_own_side(server: AlpacaServer) -> None:
    """Sides are turned around."""
    log = [order("a", Side.SELL, stop_loss=110, take_profit=80)]
    async with trading(server) as broker:
        await broker.submit(log[0])
        fills = await broker.fills()
    server.act(lambda venue: venue.cancel(venue.tickets[0].legs[0]))
    async with trading(server) as broker:
        broker.restore(log, fills)
        for _ in range(100):
            if stops(server):
                break
            await asyncio.sleep(0.01)
        assert [(s.side, str(s.left), str(s.stop_price)) for s in stops(server)] == [("buy", "10", "110")]


async def test_a_session_that_only_looks_puts_nothing_back(server: AlpacaServer) -> None:
    """A watchdog's session was told of no entry, so it sends nothing whatever is missing."""
    async with trading(server) as broker:
        await broker.submit(bracket())
    server.act(lambda venue: venue.cancel(venue.tickets[0].legs[0]))
    async with trading(server) as eyes:
        for _ in range(3):
            assert (await eyes.book()).resting == ()
    assert server.requests["POST /v2/orders"] == 1


@pytest.mark.parametrize("target", [120, None])
async def test_the_rest_of_an_entry_filled_in_part_is_ended_so_that_it_has_a_stop(
    server: AlpacaServer, target: int | None
) -> None:
    """Its legs sleep while it works, and Alpaca lets no stop rest beside it: after `partial_s` it is over, and protected."""
    async with trading(server, partial_s=0.1, stream=True) as broker:
        await broker.orders()
        server.act(lambda venue: setattr(venue, "liquidity", Decimal(4)))
        await broker.submit(bracket(limit_price=99, take_profit=target))
        server.move("AAPL", 99)  # nobody asks for anything: a trade update tells of it
        await settled(server)
        (state,) = await broker.orders()
        assert (state.status, state.filled) == (OrderStatus.CANCELLED, Decimal(4))
        assert [stop.left for stop in stops(server)] == [4]


async def test_an_entry_that_fills_within_the_time_is_left_alone(server: AlpacaServer) -> None:
    """Its own legs wake, and there is no other stop."""
    async with trading(server, partial_s=0.4) as broker:
        server.act(lambda venue: setattr(venue, "liquidity", Decimal(4)))
        await broker.submit(bracket())
        await broker.orders()
        server.act(lambda venue: setattr(venue, "liquidity", None))
        server.move("AAPL", 100)
        await asyncio.sleep(0.6)
        assert [t.client_id for t in server.venue.tickets] == ["entry"]
        await settled(server)


async def test_an_entry_in_the_way_of_a_stop_is_taken_back(server: AlpacaServer) -> None:
    """Alpaca refuses a stop beside a purchase that still works; the position comes first."""
    log = [bracket("a", take_profit=None), bracket("b", limit_price=95, take_profit=None)]
    async with trading(server) as broker:
        for one in log:
            await broker.submit(one)
        fills = await broker.fills()
    server.act(lambda venue: venue.cancel(venue.tickets[0].legs[0]))
    async with trading(server) as broker:
        broker.restore(log, fills)
        await settled(server)
        assert {t.client_id: t.status for t in server.venue.tickets} == {"a": "filled", "b": "canceled", "a.guard1": "new"}


async def test_cash_and_positions_are_of_one_moment(server: AlpacaServer) -> None:
    """A fill between the two answers is seen: they are asked for again until they agree."""
    async with trading(server) as broker:
        server.fail(Fault("slow", "GET /v2/positions"), Fault("slow", "GET /v2/positions", seconds=0.2))
        asked = asyncio.ensure_future(broker.account())
        await asyncio.sleep(0.1)
        body = {"client_order_id": "x", "symbol": "AAPL", "side": "buy", "qty": "10", "type": "market", "time_in_force": "gtc"}
        server.api.answer("POST", "/v2/orders", {}, body)
        account = await asked
        assert (account.cash, account.positions["AAPL"]) == (Decimal(99_000), Decimal(10))


async def test_a_look_costs_three_requests_where_nothing_has_changed(server: AlpacaServer) -> None:
    """With its pace, a watchdog takes 90 of the 200 requests of a minute, and 120 where each look meets a fill."""
    async with trading(server) as broker:
        await broker.submit(bracket())
        await broker.book()
        before = sum(server.requests.values())
        for _ in range(5):
            await broker.book()
        assert sum(server.requests.values()) - before == 15
        assert 60 / Alpaca.pace_s * 4 <= 120
