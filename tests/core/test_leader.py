"""One fund, one process: who leads, who waits, who takes over, and what a leader of the past can still do."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agentfund import MemoryBus, Message, SqliteBus
from agentfund.core.agent import FunctionAgent
from agentfund.core.context import State
from agentfund.core.leader import Leadership
from agentfund.errors import LeaseLost
from agentfund.messages import Answered, Intended, Led, Observed
from agentfund.trading import Direction, OrderStatus, Proposal
from tests.core.test_hostile import Real
from tests.flowing import Flowing, RunningClock
from tests.market import START, fund, yes

TTL = timedelta(seconds=0.6)


def wants() -> FunctionAgent[Proposal]:
    """Return an agent that always wants to be long."""
    return FunctionAgent(lambda c: Proposal(direction=Direction.LONG, stop_pct=2.0), output=Proposal, name="wants")


def live(bus: Any, clock: RunningClock, to: Any, **options: Any) -> Any:
    """Return one run of a live fund on a log."""
    one = fund(wants(), yes, bus=bus, clock=clock, lease=TTL, **options)
    return one.session(Flowing([100.0] * 200, clock), to)


async def log(bus: Any) -> list[Message]:
    """Return everything on a bus."""
    return [message async for message in bus.read()]


async def folded(bus: Any) -> State:
    """Return the fund's state as a reader of the log sees it."""
    state = State()
    for message in await log(bus):
        state = state.apply(message)
    return state


async def test_everything_that_a_leader_writes_carries_its_token(tmp_path: Path) -> None:
    """Messages and orders, from the first on."""
    clock, bus, to = RunningClock(), SqliteBus(tmp_path / "fund.db"), Real()
    async with aclosing(live(bus, clock, to).steps()) as steps:
        await anext(steps)
    messages = await log(bus)
    await bus.close()
    assert isinstance(messages[0].event, Led)
    assert {message.token for message in messages} == {1}
    assert [order.token for order in to.sent] == [1]


async def test_a_second_process_is_refused_while_the_first_is_alive(tmp_path: Path) -> None:
    """It waits for a dead one's lease at most, and sees that this one renews it."""
    clock, to = RunningClock(), Real()
    one, two = SqliteBus(tmp_path / "fund.db"), SqliteBus(tmp_path / "fund.db")

    async def first() -> None:
        async for _ in live(one, clock, to).steps():
            pass

    running = asyncio.ensure_future(first())
    await asyncio.sleep(0.1)
    with pytest.raises(LeaseLost, match="which is alive: stop that process"):
        await anext(live(two, clock, Real()).steps())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert {message.token for message in await log(two)} == {1}
    await one.close()
    await two.close()


async def test_a_leader_that_ends_well_leaves_the_lead_free_at_once(tmp_path: Path) -> None:
    """The next one does not wait for a lease, and has the next token."""
    clock, bus, to = RunningClock(), SqliteBus(tmp_path / "fund.db"), Real()
    for token in (1, 2, 3):
        before = clock.monotonic()
        async with aclosing(live(bus, clock, to).steps()) as steps:
            await anext(steps)
            assert (await folded(bus)).token == token
        assert clock.monotonic() - before < TTL.total_seconds() + 5
    await bus.close()


async def test_a_standby_takes_over_from_a_dead_leader_and_orders_nothing_twice(tmp_path: Path) -> None:
    """It waits as long as the leader lives; then it carries on from the log."""
    clock, to = RunningClock(), Real()
    one, two = SqliteBus(tmp_path / "fund.db"), SqliteBus(tmp_path / "fund.db")
    first = live(one, clock, to)
    steps = first.steps()
    await anext(steps)
    second = live(two, clock, to, standby=True)
    waiting = asyncio.ensure_future(anext(second.steps()))
    for _ in range(8):
        await anext(steps)
    await asyncio.sleep(TTL.total_seconds())
    assert not waiting.done()
    assert first._lead is not None
    first._lead._keeping.cancel()  # as dead as a process that was killed: it renews no more and says nothing
    await asyncio.wait_for(waiting, 10)
    state = await folded(two)
    assert (state.token, state.leader) == (2, second._lead.holder)
    assert len(to.sent) == len({order.id for order in to.sent}) == 1
    with pytest.raises(LeaseLost):
        [decision async for decision in steps]
    await one.close()
    await two.close()


async def test_what_a_leader_of_the_past_writes_does_not_count() -> None:
    """The fold passes over it, wherever it is read."""
    bus = MemoryBus()
    clock = RunningClock()
    old, new = (Leadership(bus, "fund", TTL, clock) for _ in range(2))
    assert await old.claim(await folded(bus))
    assert old.won(await folded(bus))
    await asyncio.sleep(1.2 * TTL.total_seconds())
    assert await new.claim(await folded(bus))
    assert new.won(await folded(bus))
    assert not old.won(await folded(bus))
    seen = Observed({}, Decimal(1), Decimal(1), Decimal(1))
    late = Message.of(seen, id="late", stream="fund", producer="orchestrator", time=START, cycle=7, token=old.token)
    await bus.publish([late])
    assert (await folded(bus)).cycle == 0
    await old._write(old.token)  # its renewal changes nothing either
    assert (await folded(bus)).leader == new.holder


async def test_a_renewal_of_a_process_that_slept_does_not_count(tmp_path: Path) -> None:
    """It reads the log behind its renewal, and knows that it leads no more, in whatever mode it runs."""
    clock, advisory = RunningClock(), {"mode": "advisory"}
    one, two = SqliteBus(tmp_path / "fund.db"), SqliteBus(tmp_path / "fund.db")
    session = live(one, clock, Real(), **advisory)
    steps = session.steps()
    await anext(steps)
    lead = session._lead
    lead._keeping.cancel()  # as if frozen
    await asyncio.sleep(1.3 * TTL.total_seconds())
    async with aclosing(live(two, clock, Real(), **advisory).steps()) as others:
        await anext(others)
        await lead._write(lead.token)  # thawed: the first thing it does
        assert lead.lost
        with pytest.raises(LeaseLost):
            [decision async for decision in steps]
    await one.close()
    await two.close()


async def test_what_a_leader_of_the_past_writes_stands_in_nobodys_place(tmp_path: Path) -> None:
    """Both are in the same cycle of the same run, and a log keeps an id once."""
    clock = RunningClock()
    one, two = SqliteBus(tmp_path / "fund.db"), SqliteBus(tmp_path / "fund.db")
    old, new = live(one, clock, Real()), live(two, clock, Real())
    first, second = old.steps(), new.steps()
    await anext(first)
    old._lead._keeping.cancel()
    old._lead._ends = float("inf")
    await anext(second)
    old.cycle = new.cycle
    for _ in range(3):
        await anext(first)
        await anext(second)
    await first.aclose()
    state = await folded(two)
    assert state.cycle == new.cycle
    assert state.portfolio == new.state.portfolio
    assert state.token == 2
    await second.aclose()
    await one.close()
    await two.close()


async def test_a_lead_that_is_given_up_is_no_sign_of_life(tmp_path: Path) -> None:
    """A process that waits for a dead leader's lease sees it end well, and leads."""
    clock, bus = RunningClock(), MemoryBus()
    leaving, coming = (Leadership(bus, "fund", TTL, clock) for _ in range(2))
    await leaving.claim(await folded(bus))
    assert leaving.won(await folded(bus))
    assert not await coming.claim(await folded(bus))
    await leaving.release()
    assert await coming.claim(await folded(bus))
    assert coming.won(await folded(bus))


async def test_of_many_that_claim_at_once_one_wins() -> None:
    """Twenty claims of the same token have the same id, and a log keeps the first."""
    bus, clock = MemoryBus(), RunningClock()
    claims = [Leadership(bus, "fund", TTL, clock) for _ in range(20)]
    empty = await folded(bus)
    await asyncio.gather(*(one.claim(empty) for one in claims))
    state = await folded(bus)
    assert [one.won(state) for one in claims].count(True) == 1
    assert len(await log(bus)) == 1


async def test_a_leader_that_was_frozen_sends_no_order(tmp_path: Path) -> None:
    """It wakes up after another took over, with an order on its lips."""
    clock, to, other = RunningClock(), Real(), Real()
    one, two = SqliteBus(tmp_path / "fund.db"), SqliteBus(tmp_path / "fund.db")
    session = live(one, clock, to)
    original = session._check_ours

    async def frozen(order: Any) -> None:
        session._lead._keeping.cancel()
        session._lead._ends = float("inf")  # its own clock stood still as well
        taker = live(two, clock, other)
        async with aclosing(taker.steps()) as steps:
            await anext(steps)
        await original(order)

    session._check_ours = frozen
    with pytest.raises(LeaseLost, match="another process leads"):
        async for _ in session.steps():
            pass
    assert to.sent == []
    intents = [e.order.id for m in await log(two) if isinstance(e := m.event, Intended)]
    answers = [(e.order_id, e.status) for m in await log(two) if isinstance(e := m.event, Answered)]
    assert answers[0] == (intents[0], OrderStatus.UNKNOWN)  # the taker cannot know whether it was sent
    await one.close()
    await two.close()
