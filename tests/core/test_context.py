"""The shared context: a fold over the log, and what agents see of it."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from agentfund import Direction, MemoryBus, Message, Proposal, SharedContext, Snapshot, Verdict
from agentfund.core.context import State
from agentfund.errors import LookaheadError, PipelineError, SchemaTooNew
from agentfund.messages import Event, Filled, Observed, Opined, Opinion, Stance, Started
from agentfund.trading import Fill, Side
from tests.market import START, bars, broker, fund, last, wave

D = Decimal


def message(event: Event, cycle: int = 1, number: int = 0) -> Message:
    """Put an event into an envelope."""
    time = START + timedelta(minutes=15 * cycle)
    name = f"{cycle}-{type(event).__name__}-{number}"
    return Message.of(event, id=name, stream="fund", producer="test", time=time, cycle=cycle)


STARTED = message(Started("run", "fund", "autonomous", (), {}, {}, {}, D(1000), "0"), cycle=0)


def fill(name: str, side: Side, quantity: int, price: int, *, fee: int = 0) -> Message:
    """Return a fill in an envelope."""
    return message(Filled(Fill(name, "o1", "SIM", side, D(quantity), D(price), D(fee), START, D(price))), number=hash(name))


def test_a_fill_that_is_told_twice_counts_once() -> None:
    """Fills are a set by execution id, in whatever order they come."""
    state = State().apply(STARTED)
    buy, more = fill("a", Side.BUY, 2, 100), fill("b", Side.BUY, 3, 110)
    once = state.apply(buy).apply(more)
    assert state.apply(more).apply(buy).apply(more).portfolio.cash == once.portfolio.cash == D(470)
    assert once.portfolio.quantity("SIM") == 5
    assert once.portfolio.positions["SIM"].average_price == D(106)


def test_a_round_trip_counts_as_won_by_all_its_parts() -> None:
    """Also when its last part alone lost."""
    state = State().apply(STARTED)
    for step in (fill("a", Side.BUY, 4, 100), fill("b", Side.SELL, 3, 120), fill("c", Side.SELL, 1, 90)):
        state = state.apply(step)
    assert (state.portfolio.trips, state.portfolio.wins, state.portfolio.win_rate) == (1, 1, 1.0)
    assert state.portfolio.realized == D(50)


def test_a_position_that_turns_around_ends_one_trip_and_begins_another() -> None:
    """Long two, sell five: short three at the new price."""
    state = State().apply(STARTED).apply(fill("a", Side.BUY, 2, 100)).apply(fill("b", Side.SELL, 5, 90))
    position = state.portfolio.positions["SIM"]
    assert (position.quantity, position.average_price, state.portfolio.trips) == (D(-3), D(90), 1)


def test_drawdown_and_the_days_return_come_from_what_was_observed() -> None:
    """F24, as fractions."""
    state = State().apply(STARTED).apply(message(Observed({"SIM": D(100)}, D(900), D(1200), D(1000))))
    assert state.drawdown == pytest.approx(0.25)
    assert state.day_return == pytest.approx(-0.1)


def test_messages_of_ones_own_change_nothing() -> None:
    """Services may use the same log."""
    state = State().apply(STARTED)
    mine = Message.new("Weather", {"rain": True}, stream="fund", producer="me", time=START)
    assert state.apply(mine) is state


def test_a_message_of_a_newer_schema_is_refused_by_name() -> None:
    """Rather than misread."""
    newer = replace(STARTED, version=99, _event=None)
    with pytest.raises(SchemaTooNew, match="Started has schema version 99"):
        State().apply(newer)


def test_values_read_from_a_log_are_typed_again() -> None:
    """`context.latest(Proposal)` works on a log that was written by another process."""
    opinion = Opinion("strategist", "Proposal", Stance.VALUE, Proposal(direction=Direction.LONG))
    written = message(Opined(opinion))
    read = replace(written, _event=None)
    context = SharedContext({"Proposal": Proposal})
    context.apply([STARTED, read])
    assert context.latest(Proposal) == Proposal(direction=Direction.LONG)
    with pytest.raises(LookupError, match="there is no Verdict yet"):
        context.latest(Verdict)


async def test_readers_in_other_threads_always_see_a_consistent_state() -> None:
    """Equity at each cycle was written as cash; nobody ever sees one without the other."""
    context = SharedContext()
    context.apply([STARTED])
    stop, torn = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            state = context.snapshot().state
            if state.cycle and state.equity != state.prices["SIM"]:
                torn.append(state)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for cycle in range(1, 800):
        context.apply([message(Observed({"SIM": D(cycle)}, D(cycle), D(cycle), D(cycle)), cycle)])
    stop.set()
    for reader in readers:
        reader.join()
    assert torn == []
    assert context.state.cycle == 799


def test_a_snapshot_never_changes() -> None:
    """What was seen stays as it was while the fund goes on."""
    context = SharedContext()
    context.apply([STARTED])
    before = context.snapshot()
    context.apply([message(Observed({"SIM": D(5)}, D(5), D(1000), D(1000)))])
    assert before.state.equity == D(1000)
    assert context.snapshot().state.equity == D(5)


def test_the_window_of_a_snapshot_ends_now_and_is_read_only() -> None:
    """No agent reads the future or rewrites the past."""
    bars_now = Snapshot(State(), last(bars(wave(10))), {}).bars
    with pytest.raises(LookaheadError, match="10 bars are known"):
        bars_now.bar(10)
    with pytest.raises(LookaheadError, match="lies after now"):
        bars_now.until(bars_now.now + timedelta(seconds=1))
    with pytest.raises(ValueError, match="read-only"):
        bars_now.close[0] = 1.0
    assert len(bars_now.until(bars_now.now - timedelta(minutes=1))) == 9


def test_a_snapshot_from_a_log_says_that_it_has_no_bars() -> None:
    """Prices are on the log, bars are not."""
    with pytest.raises(PipelineError, match="holds prices but no bars"):
        _ = SharedContext().snapshot().bars


@pytest.mark.parametrize(("hour", "session"), [(3, "asia"), (8, "europe"), (15, "us"), (22, "asia")])
def test_the_trading_session_follows_the_hour(hour: int, session: str) -> None:
    """F24; at weekends it is closed."""
    time = START.replace(hour=hour)
    assert Snapshot(State()._replace(time=time), None, {}).session == session
    assert Snapshot(State()._replace(time=time + timedelta(days=4)), None, {}).session == "closed"


async def test_open_orders_are_in_the_state_and_ended_ones_are_not() -> None:
    """The state stays small however long the fund runs."""
    one = fund(bus=MemoryBus())
    session = one.session(bars(wave(800)), broker())
    most = 0
    async for _ in session.steps():
        most = max(most, len(one.context.state.orders))
    assert one.context.state.portfolio.trips > 3
    assert most <= 2
    recent: Any = one.context.state.recent
    assert 3 < len(recent) <= 50
