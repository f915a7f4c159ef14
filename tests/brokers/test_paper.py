"""The execution model of the paper broker, a story for each of its rules."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from agentfund.brokers import PaperBroker
from agentfund.errors import BrokerError, ConfigError, OrderRejected
from agentfund.market import Instrument
from agentfund.protocols import Broker, Simulated
from agentfund.testing.broker import Prices, Stage
from agentfund.trading import Costs, Fill, Order, OrderState, OrderStatus, OrderType, Side

D = Decimal
FREE = Costs(0, 0, 0, 0)
PRICES = ("limit_price", "stop_price", "stop_loss", "take_profit")
LOTS = Instrument("TEST", lot_size=D(1))


class Paper:
    """A paper broker, the stage it plays on, and short words for orders on it."""

    def __init__(self, *instruments: Instrument, costs: Costs = FREE, **settings: Any) -> None:
        self.broker = PaperBroker(costs=costs, **settings)
        self.stage = Stage(*instruments or (LOTS,))
        self.ids = count(1)
        self.move(dict.fromkeys(self.stage.instruments, 100.0) if instruments else 100.0)

    def move(self, bars: Any) -> list[Fill]:
        return list(self.broker.advance(self.stage.move(bars)))

    def sides(self, bars: Prices) -> list[tuple[str, Side, Decimal, Decimal]]:
        """Let a bar pass; return leg, side, quantity and price of what filled."""
        return [(f.leg, f.side, f.quantity, f.price) for f in self.move(bars)]

    def order(self, side: Side, quantity: int, **more: Any) -> Order:
        words: dict[str, Any] = {"symbol": "TEST", "time": self.stage.now} | more
        for name in ("limit", "stop"):
            if f"{name}_price" in words:
                words["type"] = OrderType(name)
        prices = {name: D(str(words[name])) for name in PRICES if name in words}
        return Order(f"o{next(self.ids)}", side=side, quantity=D(quantity), **words | prices)

    async def buy(self, quantity: int, **more: Any) -> Order:
        return (await self.broker.submit(self.order(Side.BUY, quantity, **more))).order

    async def sell(self, quantity: int, **more: Any) -> Order:
        return (await self.broker.submit(self.order(Side.SELL, quantity, **more))).order

    async def exit(self, quantity: int, side: Side = Side.SELL, **more: Any) -> Order:
        return (await self.broker.submit(self.order(side, quantity, reduce_only=True, **more))).order

    async def state(self, order: Order) -> OrderState:
        return {state.order.id: state for state in await self.broker.orders()}[order.id]

    async def held(self) -> Decimal:
        return (await self.broker.account()).positions.get("TEST", D(0))


def test_the_paper_broker_meets_both_protocols() -> None:
    """It is a Broker, and its market is ours to move."""
    broker: Broker = PaperBroker(cash=5)
    assert isinstance(broker, Simulated)
    assert (broker.cash, broker.costs, broker.dedupes_ids) == (D(5), Costs(), True)


@pytest.mark.parametrize("settings", [{"cash": 0}, {"max_volume_pct": float("nan")}, {"max_leverage": -1}])
def test_a_number_that_cannot_work_is_refused_when_built(settings: dict[str, Any]) -> None:
    """The message names the argument."""
    with pytest.raises(ConfigError, match=next(iter(settings))):
        PaperBroker(**settings)


def test_costs_below_zero_are_refused() -> None:
    """No fill is better than the market."""
    with pytest.raises(ConfigError, match="slippage_bps"):
        PaperBroker(costs=Costs(slippage_bps=-1))


async def test_an_order_fills_at_the_open_after_its_decision() -> None:
    """The bar that decided is over; the next one's open is the first price to be had."""
    paper = Paper()
    order = await paper.buy(3)
    (fill,) = paper.move((101, 105, 99, 104))
    assert (fill.price, fill.quantity, fill.time) == (D(101), D(3), order.time)
    assert (await paper.state(order)).status is OrderStatus.FILLED


async def test_a_bar_that_started_before_the_decision_fills_nothing() -> None:
    """An order decided inside a bar waits for the next one."""
    paper = Paper()
    await paper.buy(3, time=paper.stage.now + timedelta(minutes=1))
    assert paper.move((101, 105, 99, 104)) == []
    assert len(paper.move(102)) == 1


async def test_a_market_order_pays_half_spread_and_slippage_and_is_rounded_against_the_trader() -> None:
    """A buy pays more and a sell gets less, to the next tick; the reference is the market's own price."""
    paper = Paper(costs=Costs(commission_bps=1, half_spread_bps=1, slippage_bps=1))
    await paper.buy(10)
    (bought,) = paper.move(100.01)
    assert (bought.price, bought.reference, bought.fee) == (D("100.04"), D("100.01"), D("0.10"))
    await paper.sell(10)
    (sold,) = paper.move(100.01)
    assert (sold.price, sold.reference, sold.cost) == (D("99.98"), D("100.01"), D("0.40"))


async def test_a_commission_has_a_least_amount() -> None:
    """A small fill pays the least commission."""
    paper = Paper(costs=Costs(commission_bps=1, commission_min=1.5))
    await paper.buy(1)
    assert paper.move(100)[0].fee == D("1.50")


async def test_a_limit_order_fills_at_a_better_open() -> None:
    """An open below a buy limit is the price that is paid, without spread or slippage."""
    paper = Paper(costs=Costs())
    await paper.buy(1, limit_price=99)
    assert paper.sides((98, 99, 97, 98)) == [("order", Side.BUY, D(1), D(98))]


async def test_a_limit_order_fills_at_its_price_when_the_bar_trades_through_it() -> None:
    """A touch is not enough, one tick more is; the price is the limit."""
    paper = Paper(costs=Costs())
    await paper.buy(1, limit_price=99)
    assert paper.sides((100, 101, 99, 100)) == []
    assert paper.sides((100, 101, 98.99, 100)) == [("order", Side.BUY, D(1), D(99))]
    await paper.sell(1, limit_price=102)
    assert paper.sides((100, 102, 99, 100)) == []
    assert paper.sides((100, 102.01, 99, 100)) == [("order", Side.SELL, D(1), D(102))]


async def test_a_limit_is_never_passed_by_rounding() -> None:
    """Where the open lies between two ticks, rounding against the trader stops at the limit."""
    paper = Paper()
    await paper.sell(1, limit_price=99)
    assert paper.sides(99.004) == [("order", Side.SELL, D(1), D("99.00"))]


async def test_a_stop_order_triggers_when_touched() -> None:
    """A touch is enough; half spread and slippage come on top."""
    paper = Paper(costs=Costs(commission_bps=0))
    await paper.buy(1, stop_price=101)
    assert paper.sides((100, 100.99, 99, 100)) == []
    assert paper.sides((100, 101, 99, 100)) == [("order", Side.BUY, D(1), D("101.03"))]


async def test_a_gap_through_a_stop_order_fills_at_the_open() -> None:
    """The trigger was never to be had."""
    paper = Paper()
    await paper.sell(1, stop_price=95)
    assert paper.sides((92, 93, 91, 93)) == [("order", Side.SELL, D(1), D(92))]


async def test_a_bracket_lives_inside_the_entry_bar() -> None:
    """Entry and stop in one bar."""
    paper = Paper()
    await paper.buy(2, stop_loss=99, take_profit=103)
    assert paper.sides((100, 101, 98, 100)) == [("order", Side.BUY, D(2), D(100)), ("stop", Side.SELL, D(2), D(99))]
    assert await paper.held() == 0


async def test_the_stop_comes_first_when_both_are_touched() -> None:
    """A bar does not tell which came first, so it was the stop; the target is gone then."""
    paper = Paper()
    await paper.sell(2, stop_loss=103, take_profit=98)
    paper.move(100)
    assert paper.sides((100, 103, 98, 100)) == [("stop", Side.BUY, D(2), D(103))]
    assert paper.sides((100, 110, 90, 100)) == []


async def test_a_target_counts_when_touched_and_ends_the_stop() -> None:
    """One cancels the other."""
    paper = Paper(costs=Costs(commission_bps=0))
    await paper.buy(2, stop_loss=95, take_profit=103)
    paper.move(100)
    assert paper.sides((100, 103, 99, 100)) == [("target", Side.SELL, D(2), D(103))]
    assert paper.sides((100, 101, 90, 100)) == []


async def test_a_gap_through_the_stop_fills_at_the_open_with_costs() -> None:
    """The loss is the market's, not the one that was planned."""
    paper = Paper(costs=Costs(commission_bps=0))
    await paper.buy(2, stop_loss=95, take_profit=103)
    paper.move(100)
    assert paper.sides((90, 104, 89, 91)) == [("stop", Side.SELL, D(2), D("89.98"))]


async def test_a_gap_through_the_target_fills_at_the_open_without_costs() -> None:
    """A limit gets the better price."""
    paper = Paper(costs=Costs(commission_bps=0))
    await paper.buy(2, stop_loss=95, take_profit=103)
    paper.move(100)
    assert paper.sides((105, 106, 96, 97)) == [("target", Side.SELL, D(2), D(105))]


async def test_the_stop_comes_first_even_when_the_bar_opens_beyond_the_target() -> None:
    """The convention of the reference figures: whoever touches both has lost."""
    paper = Paper()
    await paper.buy(2, stop_loss=95, take_profit=103)
    paper.move(100)
    assert paper.sides((105, 106, 95, 97)) == [("stop", Side.SELL, D(2), D(95))]


async def test_an_entry_that_opens_beyond_its_stop_is_closed_at_that_open() -> None:
    """The stop was gapped before there was anything to protect."""
    paper = Paper()
    await paper.buy(2, stop_loss=99)
    assert paper.sides((97, 98, 96, 98)) == [("order", Side.BUY, D(2), D(97)), ("stop", Side.SELL, D(2), D(97))]


@pytest.mark.parametrize(("close", "legs"), [(101, ["order"]), (103, ["order", "target"])])
async def test_a_high_before_a_limit_entry_is_not_its_profit(close: float, legs: list[str]) -> None:
    """After an entry by limit inside the bar only the close is known to come later."""
    paper = Paper()
    await paper.buy(2, limit_price=99, take_profit=102)
    assert [fill.leg for fill in paper.move((100, 104, 98, close))] == legs


async def test_a_bracket_inside_the_entry_bar_knows_no_price_before_the_entry() -> None:
    """What the open lay beyond was no gap through the stop of a position that was not there."""
    paper = Paper()
    await paper.buy(2, stop_price=100, stop_loss=97)
    assert paper.sides((95, 101, 94, 100)) == [("order", Side.BUY, D(2), D(100)), ("stop", Side.SELL, D(2), D(97))]


async def test_a_bracket_follows_partial_entry_fills() -> None:
    """What has filled is protected, no more; a stop takes the rest of the entry with it."""
    paper = Paper()
    order = await paper.buy(30, stop_loss=95)
    assert paper.sides((100, 101, 99, 100, 100)) == [("order", Side.BUY, D(10), D(100))]
    assert paper.sides((100, 101, 99, 100, 100)) == [("order", Side.BUY, D(10), D(100))]
    assert paper.sides((96, 97, 94, 95, 50)) == [("order", Side.BUY, D(5), D(96)), ("stop", Side.SELL, D(25), D(95))]
    state = await paper.state(order)
    assert (state.status, state.filled, state.reason) == (OrderStatus.CANCELLED, D(25), "its stop was reached")
    assert await paper.held() == 0


async def test_a_bracket_leg_fills_whole_however_thin_the_bar() -> None:
    """Half an exit would leave a position that nothing protects."""
    paper = Paper()
    await paper.buy(30, stop_loss=95)
    paper.move(100)
    assert paper.sides((96, 97, 94, 95, 10)) == [("stop", Side.SELL, D(30), D(95))]


async def test_a_reduce_only_stop_fills_whole_and_other_exits_take_their_share() -> None:
    """A stop protects; an exit that somebody decided waits like any order."""
    paper = Paper()
    await paper.buy(30)
    paper.move(100)
    await paper.exit(5)
    assert [fill.quantity for fill in paper.move((100, 100, 100, 100, 10))] == [D(1)]
    await paper.exit(30, stop_price=95)
    assert paper.sides((96, 97, 95, 96, 10)) == [("order", Side.SELL, D(1), D(96)), ("order", Side.SELL, D(28), D(95))]


async def test_an_exit_takes_from_the_oldest_bracket_first() -> None:
    """What is protected never exceeds what is held."""
    paper = Paper()
    await paper.buy(10, stop_loss=95)
    await paper.buy(10, stop_loss=97)
    paper.move(100)
    await paper.exit(15)
    paper.move(100)
    assert paper.sides((96, 99, 94, 95)) == [("stop", Side.SELL, D(5), D(96))]


async def test_of_two_stops_the_nearer_is_reached_first() -> None:
    """The way to the farther one leads past it."""
    paper = Paper()
    await paper.buy(10, stop_loss=95)
    await paper.buy(10, stop_loss=97)
    paper.move(100)
    assert [fill.price for fill in paper.move((98, 99, 94, 95))] == [D(97), D(95)]


async def test_a_market_exit_comes_before_the_stop_of_its_bar() -> None:
    """An exit decided at a close is taken at the next open, and the stop has nothing left to do."""
    paper = Paper()
    await paper.buy(2, stop_loss=95, take_profit=103)
    paper.move(100)
    await paper.exit(2)
    assert paper.sides((94, 104, 90, 95)) == [("order", Side.SELL, D(2), D(94))]


async def test_a_reduce_only_order_never_turns_a_position_around() -> None:
    """It is cut to what is held, and the rest is cancelled."""
    paper = Paper()
    await paper.buy(2)
    paper.move(100)
    order = await paper.exit(5)
    assert paper.sides(100) == [("order", Side.SELL, D(2), D(100))]
    state = await paper.state(order)
    assert (state.status, state.filled, state.reason) == (OrderStatus.CANCELLED, D(2), "the position is closed")


@pytest.mark.parametrize("side", list(Side))
async def test_a_reduce_only_order_with_nothing_to_reduce_is_cancelled(side: Side) -> None:
    """Nothing held, or held the other way: cancelled with a reason."""
    paper = Paper()
    if side is Side.BUY:
        await paper.buy(2)
        paper.move(100)
    order = await paper.exit(1, side)
    assert paper.move(100) == []
    state = await paper.state(order)
    assert (state.status, state.reason) == (OrderStatus.CANCELLED, "nothing is held that it could reduce")


async def test_a_protective_stop_sent_with_its_entry_works_from_the_open() -> None:
    """A reduce-only stop that the open gaps through waits for the entry at that open."""
    paper = Paper()
    await paper.exit(5, stop_price=99)
    await paper.buy(5)
    assert paper.sides(98) == [("order", Side.BUY, D(5), D(98)), ("order", Side.SELL, D(5), D(98))]


async def test_a_closed_position_leaves_no_exit_behind() -> None:
    """Stops and targets sent as orders of their own die with the position; entries live on."""
    paper = Paper()
    await paper.buy(2, take_profit=110)
    paper.move(100)
    stop, entry = await paper.exit(2, stop_price=95), await paper.buy(1, limit_price=80)
    await paper.exit(2)
    paper.move(100)
    assert (await paper.state(stop)).reason == "the position is closed"
    assert (await paper.state(entry)).status is OrderStatus.WORKING
    await paper.buy(1)
    paper.move(100)
    assert paper.sides((100, 111, 94, 100)) == []


async def test_an_entry_against_a_position_turns_it_and_ends_its_bracket() -> None:
    """Only what it opens on the other side is protected by its own bracket."""
    paper = Paper()
    await paper.buy(10, stop_loss=95)
    paper.move(100)
    await paper.sell(15, stop_loss=105)
    paper.move(100)
    assert await paper.held() == D(-5)
    assert paper.sides((100, 106, 90, 100)) == [("stop", Side.BUY, D(5), D(105))]


async def test_an_order_takes_its_share_of_a_bar_and_works_on() -> None:
    """Ten percent of the volume in each bar, in whole lots; nothing of a bar too thin; no limit without volume."""
    paper = Paper()
    order = await paper.buy(100)
    bars: list[Prices] = [(100, 100, 100, 100, 255), (101, 101, 101, 101, 9), (102, 102, 102, 102, 300), 103]
    assert [[fill.quantity for fill in paper.move(bar)] for bar in bars] == [[25], [], [30], [45]]
    assert [fill.id for fill in await paper.broker.fills()] == [f"{order.id}-order-{n}" for n in (1, 2, 3)]


async def test_what_is_left_of_a_triggered_stop_is_a_market_order() -> None:
    """The trigger is not waited for a second time."""
    paper = Paper()
    await paper.buy(15, stop_price=101)
    assert [fill.price for fill in paper.move((100, 102, 100, 100, 100))] == [D(101)]
    assert [fill.price for fill in paper.move((99, 99, 99, 99, 100))] == [D(99)]


async def test_an_entry_is_cut_to_what_the_leverage_allows() -> None:
    """Exactly what fits is filled, the rest cancelled with a reason."""
    paper = Paper(cash=1000)
    order = await paper.buy(30)
    assert paper.sides(100) == [("order", Side.BUY, D(20), D(100))]
    state = await paper.state(order)
    assert (state.status, state.filled) == (OrderStatus.CANCELLED, D(20))
    assert state.reason.startswith("buying power")


async def test_an_entry_without_any_buying_power_is_cancelled() -> None:
    """Nothing fits, nothing fills, and it does not wait for better times."""
    paper = Paper(cash=1000)
    await paper.buy(20)
    paper.move(100)
    order = await paper.sell(50)
    paper.move(100)
    assert await paper.held() == D(-20)
    more = await paper.sell(1)
    assert paper.move(100) == []
    assert [(await paper.state(o)).status for o in (order, more)] == [OrderStatus.CANCELLED] * 2


async def test_commission_counts_against_buying_power() -> None:
    """With one percent commission 19 units fit where 20 would without."""
    paper = Paper(cash=1000, costs=Costs(100, 0, 0, 0))
    await paper.buy(20)
    paper.move(100)
    assert await paper.held() == D(19)


async def test_a_fee_that_is_rounded_up_fits_too() -> None:
    """Gross exposure stays within the leverage to the last cent."""
    paper = Paper(Instrument("TEST", lot_size=D("1e-8")), cash=1000, max_leverage=1, costs=Costs(1, 0, 0, 0))
    await paper.buy(20)
    (fill,) = paper.move(100)
    assert fill.quantity * fill.price <= 1000 - fill.fee < fill.quantity * fill.price + D("0.02")


async def test_nothing_is_sold_short_for_nothing() -> None:
    """A price below one tick rounds down to zero; there is no telling how much of that fits."""
    paper = Paper()
    await paper.sell(1)
    assert paper.move(0.001) == []


async def test_exits_at_the_open_free_buying_power_for_entries_at_the_same_open() -> None:
    """From one instrument into another at full leverage, whatever the order of symbols or of submission."""
    paper = Paper(replace(LOTS, symbol="A"), replace(LOTS, symbol="B"), cash=1000)
    await paper.buy(20, symbol="B")
    paper.move({"A": 100, "B": 100})
    await paper.buy(20, symbol="A")
    await paper.exit(20, symbol="B")
    fills = paper.move({"A": 100, "B": 100})
    assert [(f.symbol, f.side, f.quantity) for f in fills] == [("B", Side.SELL, D(20)), ("A", Side.BUY, D(20))]


async def test_buying_power_knows_no_price_later_than_the_open() -> None:
    """What another position gains inside the bar does not pay for an entry at its open."""
    paper = Paper(replace(LOTS, symbol="A"), replace(LOTS, symbol="B"), cash=1000)
    await paper.buy(20, symbol="B")
    paper.move({"A": 100, "B": 100})
    await paper.buy(20, symbol="A")
    assert paper.move({"A": 100, "B": (100, 200, 100, 200)}) == []


async def test_the_same_order_again_returns_how_it_stands() -> None:
    """Sending twice is harmless, also after it has filled."""
    paper = Paper()
    order = await paper.buy(3)
    assert (await paper.broker.submit(order)).status is OrderStatus.WORKING
    paper.move(100)
    assert (await paper.broker.submit(order)).status is OrderStatus.FILLED
    assert paper.move(100) == []


async def test_another_order_under_the_same_id_is_rejected() -> None:
    """An id means one order."""
    paper = Paper()
    order = await paper.buy(3)
    with pytest.raises(OrderRejected, match="another order") as refusal:
        await paper.broker.submit(replace(order, quantity=D(4)))
    assert refusal.value.code == "duplicate_id"


async def test_cancelling_an_entry_leaves_its_bracket_on_what_has_filled() -> None:
    """Only what has not filled can be taken back."""
    paper = Paper()
    order = await paper.buy(30, stop_loss=95)
    paper.move((100, 100, 100, 100, 100))
    state = await paper.broker.cancel(order.id)
    assert (state.status, state.filled) == (OrderStatus.CANCELLED, D(10))
    assert paper.sides((100, 100, 94, 100)) == [("stop", Side.SELL, D(10), D(95))]


async def test_a_bar_is_not_processed_twice() -> None:
    """The same market again, or an older one, changes nothing."""
    paper = Paper()
    older = paper.stage.move(100)
    market = paper.stage.move((100, 100, 100, 100, 100))
    await paper.buy(30, time=older.now)
    assert len(paper.broker.advance(market)) == 1
    assert paper.broker.advance(market) == ()
    assert paper.broker.advance(older) == ()


async def test_a_symbol_without_a_bar_waits() -> None:
    """An order meets the bars of its own symbol only."""
    paper = Paper(replace(LOTS, symbol="A"), replace(LOTS, symbol="B"))
    await paper.buy(1, symbol="B")
    assert paper.move({"A": 100}) == []
    assert [fill.symbol for fill in paper.move({"B": 100})] == ["B"]


async def test_a_restored_broker_dedupes_what_was_sent_before() -> None:
    """The newest bar is entered once more after a crash: nothing fills in it, and new orders can be judged at once."""
    paper = Paper()
    order = await paper.buy(1)
    market = paper.stage.move(100)
    restored = PaperBroker(costs=FREE)
    restored.restore([OrderState(order, OrderStatus.INTENDED)], [], market.now)
    assert restored.advance(market) == ()
    assert (await restored.submit(order)).status is OrderStatus.WORKING
    assert (await restored.submit(paper.order(Side.BUY, 1))).status is OrderStatus.WORKING


async def test_a_restored_broker_takes_each_fill_once_and_no_rejected_order() -> None:
    """Fills are a set by id; a rejected order does not exist."""
    paper = Paper()
    order, other = await paper.buy(1), paper.order(Side.BUY, 1)
    (fill,) = paper.move(100)
    states = [OrderState(order, OrderStatus.WORKING), OrderState(other, OrderStatus.REJECTED)]
    paper.broker.restore(states, [fill, fill], paper.stage.now)
    assert await paper.held() == 1
    assert [state.order for state in await paper.broker.orders()] == [order]


async def test_what_was_cancelled_without_a_word_stays_cancelled() -> None:
    """The log says that an order works, the bars say that there was no buying power for it."""
    paper = Paper(cash=1000)
    held = await paper.buy(20)
    paper.move(100)
    second = await paper.buy(1)
    paper.move(100)
    fills, now = await paper.broker.fills(), paper.stage.now
    paper.broker.restore([OrderState(o, OrderStatus.WORKING) for o in (held, second)], fills, now)
    assert paper.move(150) == []
    state = await paper.state(second)
    assert (state.status, state.reason[:12]) == (OrderStatus.CANCELLED, "buying power")


async def test_without_the_bars_of_the_past_nothing_is_guessed() -> None:
    """Where the windows do not reach back, fills and cancellations are all that counts."""
    paper = Paper(cash=1000, max_leverage=1)
    orders = [await paper.buy(10)]
    paper.move(100)
    orders += [await paper.buy(1, limit_price=50), await paper.exit(10)]
    paper.move(100)
    orders.append(await paper.buy(10))
    recent = Stage(LOTS, start=paper.stage.now)
    for stage in (paper.stage, recent):
        paper.broker.advance(stage.move((100, 100, 100, 100, 50)))
    fills = await paper.broker.fills()
    assert [fill.quantity for fill in fills] == [10, 10, 5]
    paper.broker.restore([OrderState(order, OrderStatus.WORKING) for order in orders], fills, recent.now)
    (fill,) = paper.broker.advance(recent.move(100))
    assert (fill.order_id, fill.quantity) == (orders[-1].id, D(5))


async def test_a_foreign_fill_is_named_and_nothing_is_lost() -> None:
    """Orders and fills from two logs cannot be put together."""
    paper = Paper()
    await paper.buy(1)
    (fill,) = paper.move(100)
    with pytest.raises(BrokerError, match=r"o1-order-1.*same log"):
        paper.broker.restore([], [fill], None)
    assert await paper.held() == 1
