"""A position never stands without its stop."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal

import pytest

from agentfund.brokers.paper import PaperBroker
from agentfund.errors import BrokerUnavailable, ConfigError, OrderRejected
from agentfund.execution.protected import Protected
from agentfund.execution.protection_guard import leg_id
from agentfund.testing.spot.exchange import Listing, SpotExchange
from agentfund.trading import Order, OrderState, OrderStatus, OrderType, Side
from tests.execution.spot import BTC, Crash, D, Desk, SpotBroker


async def test_an_entry_that_fills_gets_its_stop_at_once() -> None:
    """A stop of the filled quantity rests after the first look, and the entry went out without brackets."""
    desk = Desk()
    state = await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    assert state.order == desk.entries[0]
    assert [(s.left, s.trigger, s.side) for s in desk.stops] == [(D(2), D(90), "sell")]
    assert desk.broker.sent[0].stop_loss is None
    assert desk.broker.sent[0].take_profit is None
    desk.check()


async def test_each_partial_fill_grows_the_stop() -> None:
    """As freqtrade's 8374 and 2011 were not: what fills later is protected too, and what was stays so throughout."""
    desk = Desk()
    desk.exchange.depth = D("0.5")
    await desk.guarded.submit(desk.entry())
    least = D(0)
    for _ in range(5):
        await desk.guarded.settle()
        assert desk.resting == desk.held
        assert desk.resting >= least
        least = desk.resting
        assert len(desk.stops) <= 3
        desk.exchange.move(BTC, D(100))
    assert desk.held == 2
    desk.check()


async def test_a_slice_too_small_for_the_exchange_is_put_together_with_another() -> None:
    """A fill below the exchange's least order joins the stop that rests."""
    desk = Desk(SpotExchange(Listing("BTC", "USDT", min_notional=D(50))))
    desk.exchange.depth = D("1.8")
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    desk.exchange.move(BTC, D(100))  # 0.2 more, worth 20
    await desk.guarded.settle()
    assert [s.left for s in desk.stops] == [D(2)]


async def test_the_stop_is_told_as_the_entrys_leg() -> None:
    """Fills of a stop carry the entry's id and the leg; its order is not among the fund's."""
    desk = Desk()
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    assert [s.order.id for s in await desk.guarded.orders()] == ["entry0"]
    desk.exchange.move(BTC, D(89))
    await desk.guarded.settle()
    told = [(f.order_id, f.leg, f.side, f.quantity) for f in await desk.guarded.fills()]
    assert told == [("entry0", "order", Side.BUY, D(2)), ("entry0", "stop", Side.SELL, D(2))]
    assert (desk.held, len(desk.stops)) == (D(0), 0)
    assert not desk.guarded._keeper.busy


async def test_the_target_is_sold_after_the_stop_is_taken_back() -> None:
    """At the target the stop goes first, then what is held is sold; both are told as legs of the entry."""
    desk = Desk()
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    desk.exchange.move(BTC, D(121))
    await desk.guarded.settle()
    assert [(f.leg, f.quantity) for f in await desk.guarded.fills()] == [("order", D(2)), ("target", D(2))]
    assert (desk.held, len(desk.stops)) == (D(0), 0)


async def test_a_sale_that_is_refused_at_the_target_puts_the_stop_back() -> None:
    """Where the exchange refuses the sale the position has its stop again, and the target is tried later."""
    desk = Desk()
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    desk.exchange.refusing = {"market"}
    desk.exchange.move(BTC, D(121))
    await desk.guarded.settle()
    desk.check()
    assert desk.resting == 2
    desk.exchange.refusing = set()
    desk.clock.advance(11)
    await desk.guarded.settle()
    assert desk.held == 0


async def test_a_stop_that_fills_while_it_is_taken_back_is_the_end_of_it() -> None:
    """The cancel comes too late: nothing is sold a second time."""
    desk = Desk()
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    desk.exchange.move(BTC, D(121))

    async def falls(name: str) -> None:
        if name == "cancel":
            desk.broker.boundary = None
            desk.exchange.move(BTC, D(85))

    desk.broker.boundary = falls
    await desk.settle()
    assert [f.leg for f in await desk.guarded.fills()] == ["order", "stop"]
    assert desk.held == 0
    assert sum(o.side is Side.SELL and o.type is OrderType.MARKET for o in desk.broker.sent) == 0


async def test_what_cannot_be_protected_is_sold_when_patience_is_over() -> None:
    """No stop for ten seconds: it is sold at market, and the trouble is told until then."""
    desk = Desk()
    desk.exchange.refusing = {"stop"}
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    assert desk.held == 2
    assert "refuses its stop" in desk.guarded.trouble
    desk.clock.advance(10)
    await desk.guarded.settle()
    assert desk.held == 0
    assert desk.guarded.trouble == ""


async def test_a_stop_beyond_the_market_is_a_sale_at_once() -> None:
    """The price fell through the stop before it could be placed: nobody waits."""
    desk = Desk()
    await desk.guarded.submit(desk.entry(stop=D(99)))
    desk.exchange.move(BTC, D(98))
    await desk.guarded.settle()
    assert desk.held == 0
    assert (await desk.guarded.fills())[-1].leg == "stop"


async def test_a_stop_that_nobody_answered_for_is_asked_about_and_not_doubled() -> None:
    """The reply is lost after the exchange took the order: it is found, and none is sent beside it."""
    desk = Desk()

    async def lose(name: str) -> None:
        if name == "submitted" and desk.broker.sent[-1].type is OrderType.STOP:
            desk.broker.boundary = None
            raise BrokerUnavailable("no reply")

    desk.broker.boundary = lose
    await desk.guarded.submit(desk.entry())
    await desk.settle()
    assert sum(o.type is OrderType.STOP for o in desk.broker.sent) == 1
    desk.check()


async def test_a_stop_that_never_arrived_is_sent_again_under_the_same_id() -> None:
    """The request is lost: after it could not be found for as long as it may take, the same id goes out."""
    desk = Desk()
    lost: list[str] = []

    async def lose(name: str) -> None:
        if name == "submit" and desk.entries and desk.held and not lost:
            lost.append(name)
            raise BrokerUnavailable("no route")

    desk.broker.boundary = lose
    await desk.guarded.submit(desk.entry())
    await desk.settle()
    assert [s.client_id for s in desk.stops] == [leg_id("entry0", "stop", 0)]
    desk.check()


async def test_an_exit_takes_the_stop_back_first() -> None:
    """The balance is locked by the stop: half is freed, sold, and the other half keeps its stop."""
    desk = Desk()
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    state = await desk.guarded.submit(desk.exit(D(1)))
    assert state.status is OrderStatus.FILLED
    await desk.guarded.settle()
    assert (desk.held, desk.resting) == (D(1), D(1))
    assert (await desk.guarded.fills())[-1].order_id == "exit"
    desk.check()


async def test_an_exit_that_is_refused_leaves_the_stop_where_it_was() -> None:
    """The exchange refuses the exit: the stop is back before the fund hears of it."""
    desk = Desk()
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    desk.exchange.refusing = {"market"}
    with pytest.raises(OrderRejected):
        await desk.guarded.submit(desk.exit(D(2)))
    desk.check()
    assert desk.resting == 2


async def test_an_exit_is_not_sent_while_its_stop_may_still_rest() -> None:
    """The cancel's reply is lost: the exit certainly does not exist, and the position stays protected."""
    desk = Desk()
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()

    async def lose(name: str) -> None:
        if name == "cancel":
            raise BrokerUnavailable("no route")

    desk.broker.boundary = lose
    with pytest.raises(OrderRejected, match="stop in its way"):
        await desk.guarded.submit(desk.exit(D(2)))
    desk.broker.boundary = None
    await desk.settle()
    desk.check()
    assert desk.resting == 2


async def test_an_exit_that_fills_in_part_gives_the_rest_its_stop_back() -> None:
    """Half of the exit trades and the rest is taken back: the other half is protected again."""
    desk = Desk()
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    desk.exchange.depth = D("0.5")
    await desk.guarded.submit(desk.exit(D(2)))
    await desk.guarded.settle()
    desk.check()
    await desk.guarded.cancel("exit")
    await desk.guarded.settle()
    assert (desk.held, desk.resting) == (D("1.5"), D("1.5"))


async def test_a_limit_exit_is_refused() -> None:
    """It would lock what the stop protects."""
    desk = Desk()
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    with pytest.raises(OrderRejected, match="without a stop"):
        await desk.guarded.submit(Order("l", BTC, Side.SELL, D(2), desk.clock.now(), OrderType.LIMIT, D(110), reduce_only=True))
    desk.check()


async def test_a_leg_that_trades_takes_back_the_rest_of_its_entry() -> None:
    """The stop ends a bracket: what has not filled of the entry never will."""
    desk = Desk()
    desk.exchange.depth = D("0.5")
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    desk.exchange.depth = None
    entry = desk.exchange.find("entry0")
    assert entry is not None
    stop = desk.stops[0]
    stop.status = "open"
    desk.exchange._trade(stop, stop.left, D(90))
    await desk.guarded.settle()
    assert entry.status == "cancelled"


async def test_a_restart_finds_the_stop_and_does_not_double_it() -> None:
    """Another process on the same log sees the same stop under the same id."""
    desk = Desk()
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    desk.restart()
    await desk.settle()
    assert len(desk.stops) == 1
    desk.check()


async def test_a_restart_protects_what_filled_while_nobody_looked() -> None:
    """The process died between the entry's fill and its stop."""
    desk = Desk()
    await desk.guarded.submit(desk.entry())
    desk.restart()
    await desk.guarded.settle()
    desk.check()
    assert desk.resting == 2


async def test_an_old_entry_is_held_as_far_as_the_account_shows() -> None:
    """Fills that the broker does not tell any more: the account says what there is to protect, and the log does better."""
    desk = Desk()
    await desk.guarded.submit(desk.entry())
    fills = await desk.guarded.fills()
    desk.exchange.trades.clear()
    desk.exchange.orders.clear()
    desk.restart()
    await desk.guarded.settle()
    assert desk.resting == 2
    desk.restart(fills=fills)
    await desk.guarded.settle()
    desk.check()


async def test_fills_told_twice_or_late_count_once() -> None:
    """Nothing is placed for a fill that was counted, and what comes late is protected when it comes."""
    desk = Desk()
    desk.broker.lag = 1
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    assert desk.resting == 0
    assert "shows fills of 0" in desk.guarded.trouble
    desk.broker.lag = 0
    for _ in range(3):
        await desk.guarded.fills()
        await desk.guarded.settle()
    desk.check()
    assert sum(o.type is OrderType.STOP for o in desk.broker.sent) == 1


async def test_an_entry_that_is_refused_leaves_nothing_behind() -> None:
    """Too dear: no guard stays, and nobody looks after it."""
    desk = Desk()
    with pytest.raises(OrderRejected):
        await desk.guarded.submit(desk.entry(D(5000)))
    assert not desk.guarded._keeper.busy


async def test_it_looks_by_itself() -> None:
    """Without a word from the fund the stop is placed, by the task that the first order begins."""
    desk = Desk()
    placed = asyncio.Event()

    async def tell(name: str) -> None:
        if name == "submitted" and desk.stops:
            placed.set()

    desk.broker.boundary = tell
    guarded = Protected(desk.broker, prices=desk.exchange.prices.get, interval=timedelta(milliseconds=5))
    await guarded.submit(desk.entry())
    await asyncio.wait_for(placed.wait(), 10)
    await asyncio.wait_for(guarded.wake.wait(), 10)
    await guarded.close()
    desk.check()


async def test_its_stops_cannot_be_cancelled_by_the_fund() -> None:
    """The fund knows no such order."""
    desk = Desk()
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    with pytest.raises(OrderRejected, match="protects"):
        await desk.guarded.cancel(desk.stops[0].client_id)
    desk.check()


def test_a_broker_with_brackets_is_not_wrapped() -> None:
    """Two would keep the same stop."""

    class Keeps(PaperBroker):
        brackets = True

    with pytest.raises(ConfigError):
        Protected(Keeps())


def test_ids_are_short_letters_and_digits() -> None:
    """Every exchange takes them."""
    ids = {leg_id("entry", kind, n) for kind in ("stop", "target", "close") for n in range(100)}
    assert len(ids) == 300
    assert all(name.isalnum() and len(name) <= 32 for name in ids)


async def scene(desk: Desk) -> None:
    """A story with every kind of step: two fills, an exit of a part, a target."""
    desk.exchange.depth = D(1)
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()
    desk.exchange.move(BTC, D(101))
    await desk.guarded.settle()
    await desk.guarded.submit(desk.exit(D("0.5")))
    await desk.guarded.settle()
    desk.exchange.depth = None
    desk.exchange.move(BTC, D(121))
    await desk.guarded.settle()


@pytest.mark.parametrize("harm", ["crash", "lost"])
async def test_nothing_is_lost_or_doubled_where_it_breaks_off_at_any_await(harm: str) -> None:
    """The process dies, or a message is lost, at every boundary in turn: what is held ends up protected or sold, once."""
    count = 0

    async def counting(name: str) -> None:
        nonlocal count
        count += 1

    desk = Desk()
    desk.broker.boundary = counting
    await scene(desk)
    total = count
    assert total > 30
    for at in range(total):
        desk, seen = Desk(), [0]

        async def breaks(name: str, desk: Desk = desk, seen: list[int] = seen, at: int = at) -> None:
            seen[0] += 1
            if seen[0] == at + 1:
                raise Crash if harm == "crash" else BrokerUnavailable("lost")

        desk.broker.boundary = breaks
        try:
            await scene(desk)
        except Crash:
            desk.broker.boundary = None
            desk.restart()
        except (BrokerUnavailable, OrderRejected):
            pass
        desk.broker.boundary = None
        desk.exchange.depth = None
        desk.exchange.move(BTC, desk.exchange.prices[BTC])
        await desk.settle()
        await desk.settle()
        desk.check()
        sold = sum((t.quantity for t in desk.exchange.trades if t.order.side == "sell"), Decimal(0))
        bought = sum((t.quantity for t in desk.exchange.trades if t.order.side == "buy"), Decimal(0))
        assert sold <= bought <= 2


async def test_an_exit_whose_fills_come_late_needs_no_stop_meanwhile() -> None:
    """The broker says that it is sold and shows no fill: no stop is sent for what is gone, here or after a restart."""
    for restart in (False, True):
        desk = Desk(SpotExchange(Listing("BTC", "USDT"), stops_lock=False))
        await desk.guarded.submit(desk.entry())
        await desk.guarded.settle()
        desk.broker.lag = 1
        await desk.guarded.submit(desk.exit(D(2)))
        if restart:
            desk.restart()
        await desk.settle()
        assert desk.broker.oversold == []
        desk.broker.lag = 0
        await desk.settle()
        desk.check()
        assert not desk.guarded._keeper.busy


async def test_a_sale_whose_fate_is_unknown_is_not_followed_by_a_stop() -> None:
    """The reply to the sale at the target is lost, and fills come late: nothing more is sent before it is found."""
    desk = Desk(SpotExchange(Listing("BTC", "USDT"), stops_lock=False))
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()

    async def lose(name: str) -> None:
        if name == "submitted" and desk.broker.sent[-1].type is OrderType.MARKET:
            desk.broker.lag = 1
            raise BrokerUnavailable("no reply")
        if name == "find":
            raise BrokerUnavailable("no route")

    desk.broker.boundary = lose
    desk.exchange.move(BTC, D(121))
    sent = len(desk.broker.sent)
    await desk.settle()
    assert len(desk.broker.sent) == sent + 1
    desk.broker.boundary, desk.broker.lag = None, 0
    await desk.settle()
    desk.check()
    assert desk.broker.oversold == []


async def test_a_fill_that_was_taken_back_is_not_protected() -> None:
    """The exchange busts a trade: its stop goes with it."""
    desk = Desk(SpotExchange(Listing("BTC", "USDT"), stops_lock=False))
    gone: list[str] = []

    class Busts(SpotBroker):
        async def busts(self) -> list[str]:
            return gone

    desk.broker = Busts(desk.exchange)
    desk.guarded = desk.make()
    desk.exchange.depth = D(1)
    await desk.guarded.submit(desk.entry())
    desk.exchange.move(BTC, D(100))
    await desk.guarded.settle()
    assert desk.resting == 2
    gone.append(desk.exchange.trades[-1].id)
    await desk.guarded.settle()
    assert desk.resting == 1
    assert await desk.guarded.busts() == gone


async def test_a_stop_that_is_still_being_cancelled_is_not_sold_beside() -> None:
    """The exchange says that the cancel is on its way: the sale waits."""
    desk = Desk(SpotExchange(Listing("BTC", "USDT"), stops_lock=False))
    await desk.guarded.submit(desk.entry())
    await desk.guarded.settle()

    class Slow(SpotBroker):
        async def cancel(self, order_id: str) -> OrderState:
            found = self.exchange.find(order_id)
            assert found is not None
            return self.state(found)

    desk.broker = Slow(desk.exchange)
    desk.restart()
    desk.exchange.move(BTC, D(121))
    await desk.settle()
    assert (desk.held, desk.resting) == (D(2), D(2))
    assert desk.broker.oversold == []
