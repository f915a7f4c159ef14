"""Views of a log: the same value from a snapshot and from the whole log, now and at any past moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from agentfund import MemoryBus, Message, Proposal, Record, SqliteBus
from agentfund.core import views
from agentfund.core.agent import FunctionAgent
from agentfund.core.codec import dump_state, load_state
from agentfund.core.context import State
from agentfund.core.journal import journal
from agentfund.core.ledger import Ledger
from agentfund.core.past import PastView
from agentfund.core.standard_views import JournalView, LedgerView, StateView, totals_by
from agentfund.core.views import due, refresh, see, stream
from agentfund.feeds import SimulatedMarket
from agentfund.llms import ScriptedLLM
from agentfund.messages import Led, Started
from agentfund.prompt import Prompt
from agentfund.specialists import desk
from tests.core.test_hostile import Real
from tests.flowing import Flowing, RunningClock
from tests.market import broker, fund, yes


def ruled(prompt: Prompt) -> Any:
    """Return what an agent's rule twin says."""
    assert prompt.rule is not None
    return prompt.rule()


OUTPUTS = fund(*desk()).pipeline.outputs


@pytest.fixture(scope="module")
def recorded() -> list[Message]:
    """Give the log of a run with orders, fills, opinions and language models."""

    async def run() -> list[Message]:
        bus = MemoryBus()
        llm = ScriptedLLM(lambda prompt: said if isinstance(said := ruled(prompt), Record) else None, price_usd="0.0125")
        one = fund(*desk(llm), bus=bus)
        async for _ in one.run(SimulatedMarket(bars=1_500, seed=4), broker()):
            pass
        return [message async for message in bus.read()]

    return asyncio.run(run())


def folded(messages: Sequence[Message]) -> State:
    """Return the state after messages, without any shortcut."""
    view = StateView(OUTPUTS)
    value = view.start()
    for message in messages:
        value = view.apply(value, message)
    return value


def test_a_state_survives_json_at_every_message(recorded: list[Message]) -> None:
    """Every field, exactly."""
    state = State()
    kinds = set()
    for message in recorded:
        state = StateView(OUTPUTS).apply(state, message)
        kinds.add(message.type)
        again = load_state(json.loads(json.dumps(dump_state(state))), OUTPUTS)
        assert again == state
    assert {"Started", "Observed", "Opined", "Called", "Decided", "Intended", "Answered", "Filled", "Ended"} <= kinds


def test_a_past_survives_json(recorded: list[Message]) -> None:
    """With its orders, fills and calls."""
    view = PastView(OUTPUTS)
    past = view.start()
    for number, message in enumerate(recorded):
        past = view.apply(past, message)
        if number % 50 == 0 or number == len(recorded) - 1:
            again = view.load(json.loads(json.dumps(view.dump(past))))
            assert (again.state, again.orders, again.fills) == (past.state, past.orders, past.fills)
            assert (told(again.started), again.began) == (told(past.started), past.began)
            assert Ledger(again.rows).billed_usd == Ledger(past.rows).billed_usd
            recent = [row for row in again.rows if row.call.agent]  # what is older is one sum
            assert recent == past.rows[len(past.rows) - len(recent) :]


def told(event: Started | None) -> Any:
    """Return an event as it lies in a log."""
    return json.loads(TypeAdapter(Started | None).dump_json(event))


async def logged(messages: Sequence[Message]) -> MemoryBus:
    """Return a bus with these messages."""
    bus = MemoryBus()
    await bus.publish([replace(one, offset=0) for one in messages])
    return bus


async def test_from_a_snapshot_it_is_the_same_and_little_is_read(recorded: list[Message], monkeypatch: Any) -> None:
    """At whatever point of the log it was taken."""
    monkeypatch.setattr(views, "LEAST", 20)
    for cut in range(20, len(recorded), len(recorded) // 7):
        bus = await logged(recorded[:cut])
        await refresh(bus, "fund", StateView(OUTPUTS))
        await refresh(bus, "fund", LedgerView())
        await refresh(bus, "fund", JournalView())
        await bus.publish([replace(one, offset=0) for one in recorded[cut:]])
        state = await see(bus, "fund", StateView(OUTPUTS))
        assert state.value == folded(recorded)
        assert state.read == len(recorded) - cut
        totals = (await see(bus, "fund", LedgerView())).value
        ledger = Ledger.of(recorded)
        for what in ("agent", "route", "llm", "day", "outcome"):
            assert totals_by(totals, what) == pytest.approx(ledger.by(what))
        assert (await see(bus, "fund", JournalView())).value.lines == journal(recorded).splitlines()


async def test_any_past_moment_by_cycle_and_by_time(recorded: list[Message], monkeypatch: Any) -> None:
    """With many snapshots on the log, the nearest one before the moment is taken, and never one behind it."""
    monkeypatch.setattr(views, "LEAST", 20)
    bus = await logged([])
    for start in range(0, len(recorded), 30):
        await bus.publish([replace(one, offset=0) for one in recorded[start : start + 30]])
        await refresh(bus, "fund", StateView(OUTPUTS))
    assert len([one async for one in bus.read(stream("fund", "state"))]) > 3
    for cycle in sorted({message.cycle for message in recorded})[::11]:
        expected = folded([one for one in recorded if one.cycle <= cycle])
        assert (await see(bus, "fund", StateView(OUTPUTS), cycle=cycle)).value == expected
        time = expected.time
        assert time is not None
        assert (await see(bus, "fund", StateView(OUTPUTS), time=time)).value == expected
        early = await see(bus, "fund", StateView(OUTPUTS), time=time - timedelta(microseconds=1))
        assert early.value == folded([one for one in recorded if one.time < time])


@pytest.mark.parametrize("harm", ["version", "value", "foreign"])
async def test_a_snapshot_that_cannot_be_used_is_passed_over(recorded: list[Message], monkeypatch: Any, harm: str) -> None:
    """The log is the source; the value comes out of it all the same."""
    monkeypatch.setattr(views, "LEAST", 20)
    bus = await logged(recorded)
    await refresh(bus, "fund", StateView(OUTPUTS))
    snapshot = await bus.last(stream("fund", "state"))
    assert snapshot is not None
    inside = dict(snapshot.payload)
    if harm == "version":
        inside["view"] = 99
    elif harm == "value":
        inside["value"] = {"state": "lost"}
    kind = "Something" if harm == "foreign" else snapshot.type
    await bus.publish([replace(snapshot, id="harmed", payload=inside, type=kind, offset=0)])
    found = await see(bus, "fund", StateView(OUTPUTS))
    assert found.value == folded(recorded)
    assert found.read == len(recorded)


def test_calls_whose_times_jump_add_up_all_the_same(recorded: list[Message]) -> None:
    """One clock was a month ahead for a moment; what is spent stays spent, and what is of today stays of today."""
    view = PastView(OUTPUTS)
    past = view.start()
    for message in recorded:
        past = view.apply(past, message)
    ahead = replace(past.rows[0], time=past.rows[-1].time + timedelta(days=30))
    past.rows.insert(len(past.rows) // 2, ahead)
    again = view.load(json.loads(json.dumps(view.dump(past))))
    assert Ledger(again.rows).billed_usd == Ledger(past.rows).billed_usd
    assert again.rows[-1] == past.rows[-1]
    assert ahead in again.rows


async def test_a_leaders_clock_is_not_the_markets(recorded: list[Message]) -> None:
    """Renewals lie between the messages of a run over the past; a moment of the market is found all the same."""
    led = Led("a process", 1, recorded[-1].time + timedelta(days=900))
    now = recorded[-1].time + timedelta(days=899)
    renewals = [
        Message.of(led, id=f"led-{number}", stream="fund", producer="orchestrator", time=now, token=1)
        for number in range(len(recorded))
    ]
    bus = MemoryBus()
    for renewal, one in zip(renewals, recorded, strict=True):
        await bus.publish([replace(one, offset=0, token=1), renewal])
    middle = recorded[len(recorded) // 2]
    expected = folded([one for one in recorded if one.cycle <= middle.cycle])
    for how in ({"cycle": middle.cycle}, {"time": expected.time}):
        seen = await see(bus, "fund", StateView(OUTPUTS), **how)
        assert seen.value._replace(leader="", token=0, leads_until=None, time=None) == expected._replace(time=None)
    told = [one async for one in bus.read("fund")]
    assert journal(told) == journal(recorded)


def test_snapshots_stay_a_small_multiple_of_the_last() -> None:
    """The log grows by a quarter from one to the next, and whoever starts reads a fifth of it at most."""
    taken = [0]
    for offset in range(0, 1_000_000, 10):
        if due(offset, taken[-1]):
            taken.append(offset)
        assert offset - taken[-1] <= max(views.LEAST, offset / 5 + 10)
    assert sum(taken) < 6 * taken[-1]


async def test_a_live_fund_starts_from_its_snapshot(tmp_path: Path, monkeypatch: Any) -> None:
    """It leaves one as it runs, and the next start does not read what lies before it."""
    monkeypatch.setattr(views, "LEAST", 10)
    clock, to, bus = RunningClock(), Real(), SqliteBus(tmp_path / "fund.db")

    async def some(count: int) -> State:
        session: Any = fund(still(), yes, bus=bus, clock=clock).session(Flowing([100.0] * 400, clock), to)
        async with aclosing(session.steps()) as steps:
            for _ in range(count):
                await anext(steps)
            while session.writer._snapping is not None and not session.writer._snapping.done():
                await anext(steps)
            found: State = session.state
            return found

    before = await some(12)
    snapshot = await bus.last(stream("fund", "past"))
    assert snapshot is not None
    seen = await see(bus, "fund", PastView())
    assert seen.read < seen.offset - 5
    assert seen.value.state.run == before.run
    after = await some(3)
    assert after.run == before.run
    assert after.cycle > before.cycle
    assert len([m async for m in bus.read("fund") if m.type == Started.__name__]) == 1
    await bus.close()


def still() -> FunctionAgent[Proposal]:
    """Return an agent that proposes nothing."""
    return FunctionAgent(lambda c: None, output=Proposal, name="still")
