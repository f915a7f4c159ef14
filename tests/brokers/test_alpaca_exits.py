"""Brackets and exits at Alpaca: a position never stands without its stop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from agentfund.brokers.alpaca import Alpaca
from agentfund.clock import SystemClock
from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.testing.alpaca import AlpacaServer, Fault
from agentfund.testing.alpaca.faults import Kind
from agentfund.trading import OrderStatus, OrderType, Side
from tests.brokers.test_alpaca import order, trading

POST = "POST /v2/orders"


@pytest.fixture
def server() -> Iterator[AlpacaServer]:
    with AlpacaServer() as server:
        server.move("AAPL", 100)
        yield server


def bracket(name: str = "entry", **more: Any) -> Any:
    return order(name, **{"stop_loss": 90, "take_profit": 120, **more})


def sell(name: str = "exit", quantity: int = 10, **more: Any) -> Any:
    return order(name, Side.SELL, quantity, reduce_only=True, **more)


async def stops(broker: Alpaca) -> dict[str, Decimal]:
    """How much stops protect at the broker, by entry."""
    found: dict[str, Decimal] = {}
    for resting in (await broker.book()).resting:
        if resting.type is OrderType.STOP:
            found[resting.entry] = found.get(resting.entry, Decimal(0)) + resting.quantity
    return found


async def until(broker: Alpaca, stop: dict[str, Decimal]) -> None:
    """Wait until stops are as they should be."""
    for _ in range(300):
        if await stops(broker) == stop:
            return
        await asyncio.sleep(0.02)
    assert await stops(broker) == stop


async def test_an_entry_with_two_legs_is_a_bracket_and_with_one_an_oto(server: AlpacaServer) -> None:
    """Both are good till cancelled, so that the legs are there tomorrow."""
    async with trading(server, time_in_force="day") as broker:
        await broker.submit(bracket("both"))
        await broker.submit(order("stop", stop_loss=90))
        await broker.submit(order("target", take_profit=120))
        told = [(t.client_id, t.order_class, t.tif, len(t.legs)) for t in server.venue.tickets]
        assert told == [("both", "bracket", "gtc", 2), ("stop", "oto", "gtc", 1), ("target", "oto", "gtc", 1)]
        assert await stops(broker) == {"both": 10, "stop": 10}


@pytest.mark.parametrize(("price", "leg"), [(89, "stop"), (121, "target")])
async def test_the_fill_of_a_leg_names_its_entry(server: AlpacaServer, price: int, leg: str) -> None:
    """A stop or target that fills is told under the entry's id, also by an adapter that came later."""
    async with trading(server) as broker:
        await broker.submit(bracket())
        server.move("AAPL", price)
        for eyes in (broker, Alpaca(server.key, server.secret, url=server.url, stream=False)):
            told = [(f.order_id, str(f.leg), f.side, f.quantity) for f in await eyes.fills()]
            ten = Decimal(10)
            assert told == [("entry", "order", Side.BUY, ten), ("entry", leg, Side.SELL, ten)]
            if eyes is not broker:
                await eyes.close()


async def test_legs_older_than_the_session_are_known_by_their_entry(server: AlpacaServer) -> None:
    """What was entered before the adapter looks back is found by its legs, which still rest."""
    async with trading(server) as broker:
        await broker.submit(bracket())
    async with trading(server, since=server.venue.now()) as broker:
        assert await stops(broker) == {"entry": 10}
        server.move("AAPL", 89)
        assert [(f.order_id, f.leg) for f in await broker.fills()] == [("entry", "stop")]


async def test_the_book_shows_legs_that_alpacas_list_of_open_orders_hides(server: AlpacaServer) -> None:
    """A stop behind a target is `held` and missing among open orders; the book shows both, with price and entry."""
    async with trading(server) as broker:
        await broker.submit(bracket())
        book = await broker.book()
        told = {(r.entry, r.type, r.price, r.side, r.quantity) for r in book.resting}
        assert told == {
            ("entry", OrderType.STOP, Decimal(90), Side.SELL, Decimal(10)),
            ("entry", OrderType.LIMIT, Decimal(120), Side.SELL, Decimal(10)),
        }
        assert book.time is not None
        assert abs((book.time - server.venue.now()).total_seconds()) < 5
        assert (book.sent, book.account.positions["AAPL"]) == (1, Decimal(10))


async def test_account_tells_equity_margin_and_buying_power(server: AlpacaServer) -> None:
    """Margin is the maintenance margin's share of equity; fields that Alpaca has removed are not asked for."""
    async with trading(server) as broker:
        await broker.submit(order())
        account = await broker.account()
        assert [account.cash, account.equity, account.buying_power] == [Decimal(n) for n in (99_000, 100_000, 199_000)]
        assert account.margin_used == pytest.approx(0.003)


async def test_an_exit_takes_back_the_legs_that_hold_its_shares(server: AlpacaServer) -> None:
    """Alpaca would refuse it; the legs go, the exit fills, nothing is left."""
    async with trading(server) as broker:
        await broker.submit(bracket())
        assert (await broker.submit(sell())).status is OrderStatus.FILLED
        book = await broker.book()
        assert (dict(book.account.positions), book.resting) == ({}, ())
        assert broker.unprotected == ()


async def test_an_exit_of_a_part_leaves_the_rest_protected(server: AlpacaServer) -> None:
    """What the exit does not need gets its stop and target back before the exit leaves."""
    async with trading(server) as broker:
        await broker.submit(bracket())
        await broker.submit(sell(quantity=4))
        assert dict((await broker.account()).positions) == {"AAPL": 6}
        assert await stops(broker) == {"entry": 6}
        server.move("AAPL", 89)
        fills = await broker.fills()
        assert (fills[-1].order_id, str(fills[-1].leg), fills[-1].quantity) == ("entry", "stop", Decimal(6))
        assert await broker.account() == await broker.account()
        assert {s.order.id for s in await broker.orders()} == {"entry", "exit"}


async def test_an_exit_is_cut_to_the_position(server: AlpacaServer) -> None:
    """Alpaca knows no reduce-only: an exit that is too large sells what is held, and one of nothing is refused."""
    async with trading(server) as broker:
        await broker.submit(order())
        assert (await broker.submit(sell(quantity=25))).filled == 10
        with pytest.raises(OrderRejected) as refusal:
            await broker.submit(sell("second"))
        assert refusal.value.code == "nothing_to_reduce"
        assert (await broker.submit(sell(quantity=25))).filled == 10  # the same again is the same
        assert server.venue.held == {}


async def test_a_short_position_is_covered_the_same_way(server: AlpacaServer) -> None:
    """Sides are turned around, and nothing else."""
    async with trading(server) as broker:
        await broker.submit(order("entry", Side.SELL, stop_loss=110, take_profit=80))
        assert await stops(broker) == {"entry": 10}
        await broker.submit(order("exit", Side.BUY, 4, reduce_only=True))
        assert await stops(broker) == {"entry": 6}
        server.move("AAPL", 111)
        assert dict((await broker.account()).positions) == {}


async def test_an_exit_that_is_refused_puts_the_protection_back(server: AlpacaServer) -> None:
    """Trading is suspended between the cancel and the exit, and resumed: the stop comes back by itself."""
    async with trading(server) as broker:
        await broker.submit(bracket())
        server.venue.suspended = True
        with pytest.raises(OrderRejected):
            await broker.submit(sell())
        assert list(broker.unprotected) == ["AAPL"]
        server.venue.suspended = False
        await until(broker, {"entry": Decimal(10)})
        assert list(broker.unprotected) == []


LOST: list[Kind] = ["status_before", "html_before", "hang_before", "reset_before"]


@pytest.mark.parametrize("kind", LOST)
async def test_an_exit_that_was_lost_puts_the_protection_back(server: AlpacaServer, kind: Kind) -> None:
    """Nobody knows of the exit; Alpaca shows none and the shares are free, so the stop is back when `submit` raises."""
    async with trading(server, timeout_s=0.4) as broker:
        await broker.submit(bracket())
        server.fail(Fault(kind, POST))
        with pytest.raises(BrokerUnavailable):
            await broker.submit(sell())
        assert await stops(broker) == {"entry": 10}
        assert dict((await broker.account()).positions) == {"AAPL": 10}


@pytest.mark.parametrize("kind", ["status_after", "reset_after", "hang_after", "other", "truncated"])
async def test_an_exit_that_arrived_unconfirmed_sells_once(server: AlpacaServer, kind: Kind) -> None:
    """Its fate is unknown and then FILLED; no stop is left that would open a short position."""
    async with trading(server, timeout_s=0.4) as broker:
        await broker.submit(bracket())
        server.fail(Fault(kind, POST))
        with pytest.raises(BrokerUnavailable):
            await broker.submit(sell())
        states = {s.order.id: s.status for s in await broker.orders()}
        assert states == {"entry": OrderStatus.FILLED, "exit": OrderStatus.FILLED}
        assert (await broker.book()).resting == ()
        assert server.venue.held == {}


async def test_an_exit_that_comes_late_finds_the_protection_back_and_is_refused(server: AlpacaServer) -> None:
    """The 504 is answered by a new stop, which holds the shares: the late exit cannot sell them a second time."""
    async with trading(server) as broker:
        await broker.submit(bracket())
        server.fail(Fault("late", POST, seconds=0.4))
        with pytest.raises(BrokerUnavailable):
            await broker.submit(sell())
        await asyncio.sleep(0.6)
        assert await stops(broker) == {"entry": 10}
        assert dict((await broker.account()).positions) == {"AAPL": 10}


async def test_protection_of_unknown_fate_is_not_put_there_twice(server: AlpacaServer) -> None:
    """The order that puts it back meets a 504 after it arrived: it is looked for, and found."""
    async with trading(server) as broker:
        await broker.submit(bracket())
        server.fail(Fault("status_before", POST), Fault("status_after", POST))
        with pytest.raises(BrokerUnavailable):
            await broker.submit(sell())
        await until(broker, {"entry": Decimal(10)})
        await asyncio.sleep(0.7)
        assert await stops(broker) == {"entry": 10}
        assert server.orders_created == 2
        assert broker.unprotected == ()


async def test_an_exit_waits_until_it_is_known_whether_a_stop_rests(server: AlpacaServer) -> None:
    """A stop whose fate is unknown may still come: an exit beside it would sell the same shares, and the stop go short."""
    async with trading(server) as broker:
        await broker.submit(bracket())
        server.fail(Fault("status_before", POST), Fault("late", POST, seconds=0.5))
        with pytest.raises(BrokerUnavailable):
            await broker.submit(sell())
        await broker.submit(sell("again"))
        await asyncio.sleep(0.8)
        assert server.venue.held == {}
        assert (await broker.book()).resting == ()


async def test_an_exit_nobody_waits_for_is_carried_to_its_end(server: AlpacaServer) -> None:
    """Cancelling the call in the middle leaves no position without stop and without exit."""
    async with trading(server) as broker:
        await broker.submit(bracket())
        server.fail(Fault("slow", "DELETE", seconds=0.2))
        task = asyncio.ensure_future(broker.submit(sell()))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert server.venue.held == {}


async def test_a_stop_that_would_have_gone_off_while_it_was_away_goes_off(server: AlpacaServer) -> None:
    """The market is beyond the stop when it comes back, so the position is sold as the stop would have sold it."""
    async with trading(server) as broker:
        await broker.submit(bracket())
        server.venue.suspended = True
        with pytest.raises(OrderRejected):
            await broker.submit(sell())
        server.move("AAPL", 80)
        server.venue.suspended = False
        for _ in range(200):
            if not server.venue.held:
                break
            await asyncio.sleep(0.02)
        (last,) = [f for f in await broker.fills() if f.leg != "order"]
        assert (last.order_id, str(last.leg), last.price) == ("entry", "stop", Decimal(80))


async def test_an_exit_that_is_taken_back_leaves_the_stop_in_place(server: AlpacaServer) -> None:
    """A market exit that waits and is cancelled gives its shares back to the stop."""
    async with trading(server) as broker:
        await broker.submit(bracket())
        server.act(lambda venue: setattr(venue, "liquidity", Decimal(0)))
        assert (await broker.submit(sell())).status is OrderStatus.WORKING
        assert (await broker.cancel("exit")).status is OrderStatus.CANCELLED
        assert await stops(broker) == {"entry": 10}


async def test_an_entry_that_ends_in_part_keeps_its_stop(server: AlpacaServer) -> None:
    """Alpaca cancels the legs with the rest of the entry; what has filled is protected all the same."""
    async with trading(server) as broker:
        server.act(lambda venue: setattr(venue, "liquidity", Decimal(4)))
        assert (await broker.submit(bracket())).filled == 4
        server.act(lambda venue: setattr(venue, "liquidity", Decimal(0)))
        state = await broker.cancel("entry")
        assert (state.status, state.filled) == (OrderStatus.CANCELLED, Decimal(4))
        assert await stops(broker) == {"entry": 4}


@pytest.mark.parametrize("status", ["canceled", "expired", "rejected"])
@pytest.mark.parametrize("again", [False, True], ids=["of the bracket", "that was put back"])
async def test_a_stop_that_dies_beside_its_target_is_put_back(server: AlpacaServer, status: str, again: bool) -> None:
    """A target limits no loss: it makes room, and both come back over what is held, once."""
    async with trading(server) as broker:
        await broker.submit(bracket())
        if again:
            await broker.submit(sell(quantity=4))
        await broker.fills()
        held = server.venue.held["AAPL"]
        (stop,) = [t for t in server.venue.everything() if t.open and t.type == "stop"]
        server.act(lambda venue: venue._end(stop, status))
        assert await stops(broker) == {}
        await until(broker, {"entry": held})
        resting = (await broker.book()).resting
        assert sorted((r.type, r.quantity, r.price) for r in resting) == [
            (OrderType.LIMIT, held, Decimal(120)),
            (OrderType.STOP, held, Decimal(90)),
        ]
        assert broker.unprotected == ()


async def test_an_entry_that_came_with_a_target_alone_keeps_it(server: AlpacaServer) -> None:
    """Where no stop was asked for, none is missing."""
    async with trading(server) as broker:
        await broker.submit(order("entry", take_profit=120))
        await broker.fills()
        assert [r.type for r in (await broker.book()).resting] == [OrderType.LIMIT]
        assert (broker.unprotected, server.venue.created) == ((), 1)


async def test_an_exit_with_a_limit_never_takes_the_stop_away(server: AlpacaServer) -> None:
    """It could wait for days with nothing below it, so it is refused where the legs hold the shares."""
    async with trading(server) as broker:
        await broker.submit(bracket())
        with pytest.raises(OrderRejected) as refusal:
            await broker.submit(sell(limit_price=130))
        assert refusal.value.code == "held_for_orders"
        assert await stops(broker) == {"entry": 10}


async def test_a_leg_that_fills_while_it_is_taken_back_counts(server: AlpacaServer) -> None:
    """The stop goes off between the look and the cancel: the exit finds nothing to reduce."""
    async with trading(server) as broker:
        await broker.submit(bracket())
        server.fail(Fault("slow", "DELETE", seconds=0.3))
        task = asyncio.ensure_future(broker.submit(sell()))
        await asyncio.sleep(0.15)
        server.move("AAPL", 89)
        with pytest.raises(OrderRejected):
            await task
        assert server.venue.held == {}
        assert (await broker.book()).resting == ()


async def test_an_exit_that_waits_too_long_is_not_sent_any_more(server: AlpacaServer) -> None:
    """Half a minute later whoever sent it counts it as lost: it stays away, and the stop comes back."""
    clock = Late()
    async with trading(server, clock=clock) as broker:
        await broker.submit(bracket())
        clock.sudden = 60.0
        with pytest.raises(OrderRejected) as refusal:
            await broker.submit(sell())
        assert refusal.value.code == "too_late"
        assert await stops(broker) == {"entry": 10}
        assert dict((await broker.account()).positions) == {"AAPL": 10}


class Late(SystemClock):
    """A clock on which a minute passes after it was looked at first."""

    sudden = passed = 0.0

    def monotonic(self) -> float:
        now = super().monotonic() + self.passed
        self.passed, self.sudden = self.passed + self.sudden, 0.0
        return now


async def test_fractions_are_day_orders_and_have_no_bracket(server: AlpacaServer) -> None:
    """Alpaca refuses them otherwise; the message names the fix and nothing is sent."""
    async with trading(server) as broker:
        await broker.submit(order("part", quantity=Decimal("0.5")))
        assert server.venue.tickets[0].tif == "day"
        with pytest.raises(OrderRejected, match="lot_size=1"):
            await broker.submit(bracket(quantity=Decimal("0.5")))
        assert server.requests[POST] == 1


async def test_crypto_is_good_till_cancelled_and_has_no_bracket(server: AlpacaServer) -> None:
    """A session of crypto says so by `brackets`; positions bear the orders' names."""
    server.move("BTC/USD", 20_000)
    async with trading(server, crypto=True) as broker:
        assert broker.brackets is False
        coin: dict[str, Any] = {"symbol": "BTC/USD", "quantity": Decimal("0.5")}
        await broker.submit(order("coin", **coin))
        with pytest.raises(OrderRejected, match="crypto=True"):
            await broker.submit(bracket("bracket", **coin))
        assert dict((await broker.account()).positions) == {"BTC/USD": Decimal("0.5")}
        assert (await broker.submit(order("out", Side.SELL, reduce_only=True, symbol="BTC/USD"))).filled == Decimal("0.5")
        assert {t.tif for t in server.venue.tickets} == {"gtc"}
        assert Alpaca(server.key, server.secret, url=server.url).brackets is True
