"""What has cost others money in public does not happen here: each test names its thread, and drives a fund at an adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from agentfund import Outcome
from agentfund.messages import Filled, Intended, Reconciled
from agentfund.testing.alpaca import AlpacaServer, Fault
from agentfund.testing.alpaca.faults import Kind
from agentfund.testing.spot import Fault as SpotFault
from agentfund.trading import OrderStatus
from tests.brokers.test_alpaca import trading
from tests.brokers.test_alpaca_stream import heard, until
from tests.brokers.test_ccxt_line import BTC
from tests.core.test_hostile import saying
from tests.core.test_keeping import until as run_until
from tests.failures_brokers import Twice, exchange, impatient, liquid, stranger, workstation
from tests.failures_fund import Fund, Quiet, ids
from tests.flowing import RunningClock
from tests.market import fund as fund_of
from tests.market import yes

POST, ALWAYS = "POST /v2/orders", 1_000_000
NOTHING, ALL = Decimal(0), Decimal(500)
"""What the fund buys: half of its capital at a price of 100."""


@pytest.fixture
def server() -> Iterator[AlpacaServer]:
    with AlpacaServer() as server:
        server.move("SIM", 100)
        yield server


@pytest.fixture
async def fund() -> AsyncIterator[Fund]:
    fund = Fund()
    yield fund
    await fund.die()


async def test_a_position_older_than_the_history_window_is_what_it_was(fund: Fund, server: AlpacaServer) -> None:
    """nautilus_trader #3104: fills older than the venue's window were missing, and a short of 65 came out as 75 long."""
    liquid(server, 300)
    async with trading(server) as broker:
        fund.start(broker)
        await fund.bar("long")
        await fund.bar()
        await fund.die()
    server.act(lambda venue: venue.activities.clear())
    liquid(server, None)
    async with trading(server) as later:
        assert [fill.quantity for fill in await later.fills()] == [200]
        fund.start(later)
        await fund.bar()
        assert fund.held == server.venue.held["SIM"] == ALL
        assert (fund.session.state.wrong, fund.session.dealing.blind) == ((), "")
        await fund.bar("flat")
        await fund.bar()
        assert not fund.held
        assert not server.venue.held


async def test_a_venue_that_says_flat_is_a_difference_told_once(fund: Fund, server: AlpacaServer) -> None:
    """nautilus_trader #3622: a position that the venue no longer had was searched for once a minute, for ever."""
    async with trading(server) as broker:
        fund.start(broker)
        await fund.bar("long")
        await fund.bar()
        server.act(lambda venue: venue.cancel(venue.tickets[0].legs[0]))
        stranger(server, "sell", 500)
        await fund.bar(times=6)
        (told,) = await fund.log(Reconciled)
        assert told.wrong[0] == "the broker holds 0 SIM, the log 500"
        assert len(await fund.log(Filled)) == 1
        await fund.bar("flat")
        await fund.bar()
        assert server.venue.held == {}
        assert (await fund.statuses())[-1] is OrderStatus.REJECTED


async def test_an_order_told_as_filled_is_over_when_its_fills_are_here(fund: Fund, server: AlpacaServer) -> None:
    """nautilus_trader #3869: fills were missed, and the position with them."""
    late: list[Any] = []
    async with trading(server) as broker:
        fund.start(broker)
        await fund.bar("long")
        server.act(lambda venue: late.append(venue.activities.pop()))
        for _ in range(3):
            decision = await fund.bar("long")
            assert decision is not None
            assert decision.outcome is not Outcome.ORDERED
            assert (fund.held, fund.open) == (NOTHING, [OrderStatus.FILLED])
        server.act(lambda venue: venue.activities.extend(late))
        await fund.bar()
        assert (fund.held, fund.open, server.orders_created) == (ALL, [], 1)


async def test_an_order_of_unknown_fate_never_becomes_a_rejected_one_by_asking_in_vain(
    fund: Fund, server: AlpacaServer
) -> None:
    """nautilus_trader #3870, #4152, #4958: after some vain questions an order counted as rejected, and was live or filled."""
    server.freeze()
    async with trading(server) as broker:
        fund.start(broker)
        await fund.bar()
        server.fail(Fault("status_after", POST))
        await fund.bar("long")
        server.fail(Fault("status_before", "GET /v2/orders:by_client", times=ALWAYS, status=500))
        server.fail(*[Fault("stale", path, times=ALWAYS) for path in ("GET /v2/orders", "GET /v2/account/activities")])
        await fund.bar("long", times=5)
        with impatient(broker):
            await fund.bar("long", times=3)
        assert await fund.statuses() == [OrderStatus.UNKNOWN]
        assert {decision.outcome for decision in fund.decisions[1:]} == {Outcome.DENIED}
        server.heal()
        await fund.bar("long")
        assert (fund.open, fund.decisions[-1].outcome, server.orders_created) == ([], Outcome.HELD, 1)
        assert fund.held == server.venue.held["SIM"] == ALL


async def test_a_live_order_that_a_list_leaves_out_is_not_followed_by_another(fund: Fund, server: AlpacaServer) -> None:
    """nautilus_trader #3879: orders that no answer came of were taken for cancelled, and the next ones stacked upon them."""
    server.freeze()
    liquid(server, 0)
    async with trading(server) as broker:
        fund.start(broker)
        await fund.bar("long")
        await fund.die()
    async with trading(server) as other:
        server.fail(Fault("stale", "GET /v2/orders", times=ALWAYS))
        fund.start(other)
        await fund.bar("long", times=9)
        assert await fund.statuses() == [OrderStatus.WORKING, OrderStatus.UNKNOWN]
        assert server.orders_created == 1
        server.heal()
        await fund.bar()
        assert fund.open == [OrderStatus.WORKING]
        liquid(server, None)
        await fund.bar()
        assert (fund.held, server.orders_created) == (ALL, 1)


async def test_every_start_reads_the_same_fills_under_the_same_ids(fund: Fund, server: AlpacaServer) -> None:
    """nautilus_trader #3878: each start made up other ids for the same partial fills, and counted them anew."""
    told: list[list[str]] = []
    liquid(server, 360)
    for start in range(4):
        async with trading(server) as broker:
            fund.start(broker)
            await fund.bar(None if start else "long")
            await fund.bar()
            told.append([fill.id for fill in await broker.fills()])
            liquid(server, None)
            await fund.die()
    assert [len(one) for one in told] == [1, 2, 2, 2]
    assert told[0] == told[1][:1]
    assert told[1] == told[2] == told[3] == ids(await fund.log(Filled))
    assert (await fund.booked()).quantity("SIM") == server.venue.held["SIM"] == ALL


@pytest.mark.parametrize("kind", ["status_before", "empty", "truncated"])
async def test_a_failed_query_is_never_a_flat_account(fund: Fund, server: AlpacaServer, kind: Kind) -> None:
    """nautilus_trader #4617: a failed query of positions was read as flat, and the cached position was closed."""
    async with trading(server) as broker:
        fund.start(broker)
        await fund.bar("long")
        await fund.bar()
        server.fail(Fault(kind, "GET /v2/positions", times=ALWAYS, status=500))
        with impatient(broker):
            await fund.bar(times=3)
        assert "cannot be seen" in fund.session.dealing.blind
        assert (fund.held, len(await fund.log(Filled)), await fund.log(Reconciled)) == (ALL, 1, [])
        server.heal()
        await fund.bar(times=2)
        assert (fund.held, fund.session.dealing.blind, server.orders_created) == (ALL, "", 1)


async def test_a_comparison_that_failed_is_no_agreement(fund: Fund, server: AlpacaServer) -> None:
    """nautilus_trader #4619: the repair of a position failed, its verdict was dropped, and all was reported as reconciled."""
    async with trading(server) as broker:
        fund.start(broker)
        await fund.bar()
        server.act(lambda venue: venue.held.update(SIM=Decimal(7)) or venue.average.update(SIM=Decimal(100)))
        await fund.bar("long")
        server.fail(Fault("status_before", "GET /v2/positions", times=ALWAYS, status=500))
        with impatient(broker):
            await fund.bar("long", times=2)
        server.heal()
        await fund.bar("long")
        assert {(decision.outcome, decision.code) for decision in fund.decisions} == {(Outcome.DENIED, "broker")}
        assert [event.wrong for event in await fund.log(Reconciled)] == [("the broker holds 7 SIM, the log 0",)]
        server.act(lambda venue: venue.held.clear())
        await fund.bar("long", times=2)
        assert fund.decisions[-2].outcome is Outcome.ORDERED


async def test_a_warm_restart_leaves_a_live_position_alone(fund: Fund, server: AlpacaServer) -> None:
    """nautilus_trader #4736: a restart with the position in its cache made up the opposite fill and began as if flat."""
    for start in range(3):
        async with trading(server) as broker:
            fund.start(broker)
            await fund.bar("long")
            await fund.bar("long")
            assert (fund.held, fund.session.state.wrong) == (ALL, ()), start
            await fund.die()
    assert [decision.outcome for decision in fund.decisions] == [Outcome.ORDERED, *[Outcome.HELD] * 5]
    assert len(await fund.log(Filled)) == len(server.venue.activities) == 1
    assert server.venue.held["SIM"] == ALL


async def test_a_working_order_is_kept_where_the_fills_are_not_the_position(fund: Fund, server: AlpacaServer) -> None:
    """nautilus_trader #5000: at a start whose fills did not add up to the position, orders that still worked were dropped."""
    liquid(server, 0)
    async with trading(server) as broker:
        fund.start(broker)
        await fund.bar("long")
        await fund.die()
    server.act(lambda venue: venue.held.update(SIM=Decimal(7)) or venue.average.update(SIM=Decimal(100)))
    async with trading(server) as later:
        fund.start(later)
        await fund.bar("long", times=3)
        assert (fund.open, server.orders_created) == ([OrderStatus.WORKING], 1)
        await fund.bar("flat")
        await fund.bar()
        assert (fund.open, server.venue.tickets[0].status) == ([], "canceled")
        assert fund.session.state.wrong == ("the broker holds 7 SIM, the log 0",)


async def test_a_fill_heard_and_read_is_one_fill(fund: Fund, server: AlpacaServer) -> None:
    """nautilus_trader PR #3493, #1001: a fill inferred of an order's state and the real one that came later both counted."""
    late: list[Any] = []
    liquid(server, 200)
    server.repeat_events = True
    async with trading(server, stream=True) as broker:
        fund.start(broker)
        await fund.bar()
        await heard(broker, server)
        await fund.bar("long")
        await until(lambda: len(broker._fills._heard) > 1)
        server.act(lambda venue: late.append(venue.activities.pop()))
        await fund.bar()
        assert fund.held == 200
        server.act(lambda venue: venue.activities.extend(late))
        liquid(server, None)
        await fund.bar(times=2)
        assert (await fund.booked()).quantity("SIM") == fund.held == server.venue.held["SIM"] == ALL
        assert len(await fund.log(Filled)) == 2


@pytest.mark.parametrize("status", [429, 504])
async def test_an_order_that_meets_a_gateways_error_is_one_order(fund: Fund, server: AlpacaServer, status: int) -> None:
    """alpaca-py sends a POST again on 429 and 504: one call, and as many orders as answers got lost."""
    async with trading(server) as broker:
        fund.start(broker)
        server.fail(Fault("status_after", POST, times=3, status=status))
        await fund.bar("long", times=3)
        assert (server.requests[POST], server.orders_created) == (1, 1)
        assert (await fund.statuses(), fund.open) == ([OrderStatus.UNKNOWN], [])
        assert fund.held == server.venue.held["SIM"] == ALL


async def test_a_duplicate_that_the_broker_does_not_show_stays_unknown(fund: Fund, server: AlpacaServer) -> None:
    """Tinkoff investAPI #369: an order was "a duplicate" whose state nobody could read, and it showed up much later."""
    server.freeze()
    liquid(server, 0)
    server.api = Twice(server.venue)
    async with trading(server) as broker:
        fund.start(broker)
        await fund.bar()
        server.fail(Fault("stale", "GET /v2/orders", times=ALWAYS))
        await fund.bar("long", times=12)
        assert (await fund.statuses(), server.orders_created) == ([OrderStatus.UNKNOWN], 1)
        server.heal()
        liquid(server, None)
        await fund.bar()
        assert (fund.held, len(await fund.log(Intended)), server.orders_created) == (ALL, 1, 1)


async def test_fills_of_a_lost_connection_are_there_when_it_is_back(server: AlpacaServer) -> None:
    """alpaca-py's stream connects again and says nothing of the fills meanwhile: here a stop went off, between two bars."""
    clock = RunningClock()
    feed = Quiet([100.0] * 3, clock)
    async with trading(server, stream=True) as broker:
        one = fund_of(saying("long"), yes, clock=clock, reconcile=timedelta(minutes=10))
        session = one.session(feed, broker)
        lost: list[int] = []

        def sold() -> bool:
            held = session.state.portfolio.positions
            if held and feed.quiet and server.streams.listening and session.pulse.stage == "waiting" and not lost:
                lost.append(len(server.venue.activities))
                server.lose_events = ALWAYS
                server.drop_streams()
                server.move("SIM", 97)
            return bool(lost) and not held

        await run_until(session, sold, seconds=30)
        assert lost == [1]
        assert [fill.leg for fill in session.state.fills] == ["order", "stop"]
        assert session.state.portfolio.cash == server.venue.cash


async def test_trades_are_there_after_a_reconnect(fund: Fund) -> None:
    """ib_insync #130: after a reconnect the list of trades was empty, though the order had filled."""
    async with workstation() as (tws, broker):
        fund.start(broker)
        await fund.bar()
        tws.cut_at = (3, "silent")
        await fund.bar("long")
        assert await fund.statuses() == [OrderStatus.UNKNOWN]
        await fund.bar("long", times=2)
        assert (fund.held, fund.open, len(tws.house.slips)) == (ALL, [], 3)
        tws.cut()
        tws.move("SIM", Decimal(97))
        await fund.bar(times=2)
        assert fund.held == 0
        assert [fill.leg for fill in fund.session.state.fills] == ["order", "stop"]
        assert (await fund.booked()).cash == tws.house.cash


async def test_a_stop_that_became_two_never_turns_the_position_around(fund: Fund) -> None:
    """nautilus_trader #4564: a change met a lost connection, a stop became two of one number, and the second went off later."""
    async with workstation() as (tws, broker):
        fund.start(broker)
        await fund.bar("long")
        await fund.bar()
        (stop,) = [slip for slip in tws.house.live() if slip.kind == "STP"]
        tws.do(lambda: tws.house.slips.append(replace(stop, perm=stop.perm + 1000, stop=Decimal("98.5"))))
        await fund.bar("flat", times=3)
        tws.move("SIM", Decimal(97))
        await fund.bar(times=2)
        assert fund.held == tws.house.positions[265598] == 0
        assert tws.house.live() == []


async def test_an_order_that_timed_out_is_one_order() -> None:
    """ccxt #2599, #7411, catalyst #315, #317: a RequestTimeout was taken for a failure, and the order was sent again."""
    async with exchange() as (world, server, guarded, fund):
        await fund.bar()
        server.faults.append(SpotFault("silence", path="/order", method="POST"))
        await fund.bar("long", times=4)
        assert (await fund.statuses())[0] is OrderStatus.UNKNOWN
        assert [order.side for order in world.orders.values()] == ["buy"]
        assert (fund.held, fund.open) == (world.total("BTC"), [])
        await guarded.settle()
        assert [(order.type, order.left) for order in world.orders.values() if order.left] == [("stop", ALL)]


@pytest.mark.parametrize("rest", ["fills", "is taken back"])
async def test_what_is_too_small_for_a_stop_is_told_and_protected_with_the_rest(rest: str) -> None:
    """freqtrade #2011: an entry filled in part, the exchange refused so small a stop, and the bot ended with an exception."""
    async with exchange(min_notional=Decimal(10)) as (world, _, guarded, fund):
        world.depth = Decimal("0.05")
        await fund.bar("long")
        await guarded.settle()
        assert "refuses its stop" in guarded.trouble
        if rest == "fills":
            world.depth = None
            world.move(BTC, Decimal(100))
            await guarded.settle()
            await fund.bar()
            assert sum(order.left for order in world.orders.values() if order.type == "stop") == fund.held == ALL
            assert guarded.trouble == ""
        else:
            await fund.bar("flat")
            for _ in range(3):
                await guarded.settle()
                await fund.bar("flat")
            assert "refuses its stop" in guarded.trouble
            assert (len(world.orders), fund.held) == (1, world.total("BTC"))


async def test_a_stop_that_fills_in_part_is_followed_by_an_exit_of_the_rest() -> None:
    """freqtrade #8374, #8526: a stop filled in part, and what was sold or protected next was of the size before."""
    async with exchange() as (world, _, guarded, fund):
        await fund.bar("long")
        await guarded.settle()
        await fund.bar()
        world.depth = Decimal(100)
        world.move(BTC, Decimal(97))
        await guarded.settle()
        await fund.bar()
        (stop,) = [order for order in world.orders.values() if order.type == "stop"]
        assert fund.held == stop.left == 400
        world.depth = None
        await fund.bar("flat")
        await fund.bar()
        assert [int(order.filled) for order in world.orders.values()] == [500, 100, 400]
        assert fund.held == world.total("BTC") == 0
        assert (await fund.booked()).cash == world.total("USDT")
