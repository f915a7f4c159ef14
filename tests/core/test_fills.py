"""Fills are a set: however they are told, the same ones make the same book."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.core.codec import dump_state, load_state
from agentfund.core.context import HOUR, NEWEST, State
from agentfund.messages import Adopted, Answered, Busted, Event, Filled, Intended, Message, Observed, Started
from agentfund.trading import Fill, Order, OrderStatus, Side
from tests.market import START

CASH = Decimal(100_000)


def message(event: Event) -> Message:
    """Put an event into an envelope."""
    return Message.of(event, id="m", stream="fund", producer="test", time=START)


def begun() -> State:
    """Return a fund that has just begun."""
    return State().apply(message(Started("run", "fund", "autonomous", (), {}, {}, {}, CASH, "1")))


def fold(state: State, *events: Event) -> State:
    """Return the state after events."""
    for event in events:
        state = state.apply(message(event))
    return state


def fill(number: int, side: Side, quantity: int, price: int, order: str = "o") -> Fill:
    """Return a fill that happened `number` seconds after the start."""
    cost = Decimal(price)
    moment = START + timedelta(seconds=number)
    return Fill(f"f{number}", order, "SIM", side, Decimal(quantity), cost, Decimal(1), moment, cost)


trades = st.lists(st.tuples(st.sampled_from(Side), st.integers(1, 9), st.integers(90, 110)), min_size=1, max_size=NEWEST - 2)


@settings(max_examples=150, deadline=None)
@given(trades, st.data())
def test_late_repeated_and_busted_fills_end_in_the_same_book(trades: list[tuple[Side, int, int]], data: st.DataObject) -> None:
    """Any order, any repetition, fills taken back before or after they were told: the book of those that stand."""
    told = [fill(number, *one) for number, one in enumerate(trades)]
    busted = data.draw(st.sets(st.sampled_from([one.id for one in told])))
    expected = fold(begun(), *(Filled(one) for one in told if one.id not in busted))
    events: list[Event] = [*map(Filled, told), *map(Filled, told[::2]), *map(Busted, busted)]
    shuffled = data.draw(st.permutations(events))
    assert fold(begun(), *shuffled).portfolio == expected.portfolio


def test_a_fill_that_is_told_late_counts_at_its_place() -> None:
    """A round trip told backwards has the profit, the price and the trips that it had."""
    buy, sell, again = fill(1, Side.BUY, 10, 100), fill(2, Side.SELL, 10, 110), fill(3, Side.BUY, 5, 105)
    straight = fold(begun(), Filled(buy), Filled(sell), Filled(again)).portfolio
    assert fold(begun(), Filled(again), Filled(sell), Filled(buy)).portfolio == straight
    assert [straight.realized, straight.wins, straight.positions["SIM"].average_price] == [100, 1, 105]


def test_a_busted_fill_opens_its_order_again() -> None:
    """What was taken back is not filled: the order works on at what is left."""
    order = Order("o", "SIM", Side.BUY, Decimal(10), START)
    one, two = fill(1, Side.BUY, 4, 100), fill(2, Side.BUY, 3, 100)
    state = fold(begun(), Intended(order), Answered("o", OrderStatus.WORKING), Filled(one), Filled(two), Busted(one.id))
    assert state.orders["o"].filled == 3
    assert state.portfolio.quantity("SIM") == 3
    assert fold(state, Filled(one)).portfolio == state.portfolio, "it is told once more, and is gone all the same"


def test_settled_fills_are_forgotten_one_by_one_and_the_book_stays() -> None:
    """A state holds few fills however many there were, and survives being written down."""
    told = [fill(number, Side.BUY if number % 3 else Side.SELL, 2, 100 + number % 7) for number in range(3 * NEWEST)]
    state = fold(begun(), *map(Filled, told))
    assert len(state.fills) == NEWEST
    assert all(one.time < other.time for one, other in pairwise(state.fills))
    kept = load_state(dump_state(state), {})
    assert kept == state
    late = replace(told[-3], id="late", time=told[-3].time + timedelta(milliseconds=1))
    assert fold(kept, Filled(late)) == fold(state, Filled(late))


@pytest.mark.parametrize("field", ["mode", "level", "wrong", "settled", "day_peak_equity"])
def test_what_is_new_in_a_state_is_written_down(field: str) -> None:
    """A snapshot loses nothing of it."""
    changed: dict[str, Any] = {
        "mode": "advisory",
        "level": 3,
        "wrong": ("a", "b"),
        "settled": begun().portfolio,
        "day_peak_equity": CASH,
    }
    state = begun()._replace(**{field: changed[field]})
    assert getattr(load_state(dump_state(state), {}), field) == changed[field]


@pytest.mark.parametrize("told", [True, False], ids=["its fill is told", "its fill is not found"])
def test_a_fill_that_is_taken_back_long_after_is_out_of_the_book_to_the_cent(told: bool) -> None:
    """So many came after it that the state has added it up; the log still has it."""
    old = fill(0, Side.BUY, 10, 100)
    later = [fill(number, Side.BUY if number % 2 else Side.SELL, 1, 100 + number % 7) for number in range(1, 2 * NEWEST)]
    state = fold(begun(), Filled(old), *map(Filled, later))
    bust = Busted(old.id, fill=old if told else None)
    after, never = fold(state, bust, bust), fold(begun(), *map(Filled, later))
    assert after.is_busted(old.id)
    expected = never if told else state
    assert after.portfolio.cash == expected.portfolio.cash
    assert after.portfolio.quantity("SIM") == expected.portfolio.quantity("SIM")
    assert after.portfolio.fees == expected.portfolio.fees
    assert load_state(dump_state(after), {}) == after


def test_what_was_taken_over_is_as_the_broker_has_it() -> None:
    """A fill of before an adoption that is taken back changes nothing here: the books that were taken over decide."""
    old = fill(0, Side.BUY, 10, 100)
    taken = Message.of(
        Adopted(CASH, {"SIM": Decimal(4)}, "ann", "looked"), id="m", stream="fund", producer="operator", time=old.time + HOUR
    )
    seen = Observed({"SIM": Decimal(100)}, CASH, CASH, CASH)
    state = fold(begun(), Filled(old), seen).apply(taken)
    assert fold(state, Busted(old.id, fill=old)).portfolio == state.portfolio
