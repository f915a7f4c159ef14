"""The simulator has teeth: bugs that are planted into a fund, or into agentfund itself, are found, each by its invariant."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from agentfund.core import deciding, sizing
from agentfund.core.agent import Agent, FunctionAgent
from agentfund.core.budget import Budget, Reservation
from agentfund.core.context import NONE, Snapshot, State
from agentfund.core.dealing import Dealing
from agentfund.core.orchestrator import Orchestrator
from agentfund.core.safety import SafetyLimits
from agentfund.core.session import Session
from agentfund.core.writer import Writer
from agentfund.errors import ConfigError
from agentfund.messages import Answered, Filled, Intended, Message, Opined
from agentfund.protocols import Bus
from agentfund.testing import CampaignFailed, Ports, World, campaign
from agentfund.testing.simulator.campaign import calm, drawn, runs
from agentfund.testing.simulator.worlds import LIMITS, WORLDS, desk, gate, rich, small, trader
from agentfund.trading import Order, OrderStatus, Proposal

MOST = 400
"""Schedules within which a planted bug has to be found; most take a handful."""


def found(world: World, name: str) -> bool:
    """Whether some schedule breaks an invariant."""
    counts = calm(world).counts
    return any(
        violation.name == name for seed in range(MOST) for violation in world.run(seed, drawn(world, seed, counts)).violations
    )


def only(*kinds: str) -> World:
    """Return the small world in which nothing else goes wrong."""
    return World(small, name="small", kinds=kinds)


class Between:
    """A line to the log that somebody has tampered with."""

    def __init__(self, bus: Bus, change: Callable[[Sequence[Message]], list[Message]]) -> None:
        self._bus = bus
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def publish(self, messages: Sequence[Message], *, sync: bool = True) -> int:
        """Write something else."""
        return await self._bus.publish(self._change(messages), sync=sync)


def tampered(change: Callable[[Sequence[Message]], list[Message]]) -> World:
    """Return a world whose fund writes to a log through somebody else's hands."""

    def fund(ports: Ports) -> Orchestrator:
        ports.bus = Between(ports.bus, change)  # type: ignore[assignment]
        return small(ports)

    return World(fund)


def with_agent(function: Callable[[Snapshot], Any], **options: Any) -> World:
    """Return a world whose trader does something else as well."""

    def fund(ports: Ports) -> Orchestrator:
        agents: list[Agent[Any]] = [FunctionAgent(function, output=Proposal, name="trader"), gate]
        return Orchestrator(agents, bus=ports.bus, clock=ports.clock, mode="autonomous", limits=LIMITS, lease=None)

    return World(fund, **options)


def usual(context: Snapshot) -> Any:
    """Do what the trader does."""
    return trader.run(context)


def hasty(submit: Any) -> Any:
    """Return a `submit` that takes silence for a no."""

    async def changed(self: Dealing, order: Order, now: datetime, *, again: bool = False) -> Answered:
        answered: Answered = await submit(self, order, now, again=again)
        return replace(answered, status=OrderStatus.REJECTED) if answered.status is OrderStatus.UNKNOWN else answered

    return changed


# -- in agentfund ----------------------------------------------------------------------------------------------------


def test_a_fill_that_is_told_twice_and_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the set of execution ids the book doubles."""
    monkeypatch.setattr(State, "has_seen", lambda self, fill_id: False)
    assert found(WORLDS["small"], "fill_once")


def test_an_order_that_is_sent_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry is harmless at a broker that dedupes, and a second position at one that does not."""
    once = Dealing.submit

    async def twice(self: Dealing, order: Order, now: datetime, *, again: bool = False) -> Answered:
        answered = await once(self, order, now, again=again)
        return await once(self, order, now, again=again) if answered.status is OrderStatus.UNKNOWN else answered

    monkeypatch.setattr(Dealing, "submit", twice)
    assert found(WORLDS["careless"], "order_once")


def test_an_order_that_leaves_before_it_is_on_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Act first, write later."""
    record = Writer.record

    async def early(self: Writer, opinions: Any, *events: Any, cycle: bool = False) -> None:
        for event in events:
            if isinstance(event, Intended):
                await self._session.dealing.submit(event.order, event.order.time)
        await record(self, opinions, *events, cycle=cycle)

    monkeypatch.setattr(Writer, "record", early)
    assert found(WORLDS["small"], "intent")


def test_silence_that_is_taken_for_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """An order whose fate is unknown is called rejected."""
    monkeypatch.setattr(Dealing, "submit", hasty(Dealing.submit))
    assert found(WORLDS["small"], "fate")


def test_an_unknown_order_that_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time alone tells nothing."""

    async def expires(self: Dealing, state: State, now: datetime) -> list[Answered]:
        unknown = [name for name, one in state.orders.items() if one.status is OrderStatus.UNKNOWN]
        return [Answered(name, OrderStatus.CANCELLED, "too old") for name in unknown]

    monkeypatch.setattr(Dealing, "answers", expires)
    assert found(only("lost_reply", "hang"), "fate")


def test_an_open_order_that_is_lost_from_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker still works it."""
    answers = Dealing.answers

    async def blind(self: Dealing, state: State, now: datetime) -> list[Answered]:
        return [
            replace(one, status=OrderStatus.REJECTED) if one.status is OrderStatus.UNKNOWN else one
            for one in await answers(self, state, now)
        ]

    monkeypatch.setattr(Dealing, "answers", blind)
    assert found(only("stale"), "forgotten")


def test_an_answer_that_is_asked_for_again_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands on the log was paid for."""
    apply = State.apply

    def forgets(self: State, message: Message) -> State:
        state = apply(self, message)
        return state._replace(current=NONE) if isinstance(message.event, Opined) else state

    monkeypatch.setattr(State, "apply", forgets)
    assert found(World(rich, kinds=("crash_after", "crash_before")), "asked_again")


def test_calls_that_are_not_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger is short."""
    heard = Session._on_opinion

    async def quiet(self: Session, agent: Any, judged: Any) -> None:
        await heard(self, agent, (judged[0], ()))

    monkeypatch.setattr(Session, "_on_opinion", quiet)
    with pytest.raises(ConfigError, match="billed"):  # it needs no fault to be seen
        campaign(World(rich, name="rich"), schedules=1)


def test_a_budget_that_lets_everything_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """More is spent than may be."""
    numbers = iter(range(10**9))
    monkeypatch.setattr(Budget, "reserve", lambda self, worst_case: Reservation(next(numbers), worst_case))

    def poor(ports: Ports) -> Orchestrator:
        return desk(ports, usd="0.05")

    assert "budget" in {violation.name for violation in World(poor).run(0).violations}


def test_orders_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate says yes to everything, and the sizes are three times what they were."""
    plan = sizing.plan

    def large(*arguments: Any, **options: Any) -> Any:
        order = plan(*arguments, **options)
        return replace(order, quantity=order.quantity * 3) if isinstance(order, Order) and not order.reduce_only else order

    monkeypatch.setattr(deciding, "plan", large)
    monkeypatch.setattr(deciding, "check", lambda order, scene, limits: None)
    assert found(WORLDS["small"], "exposure")


def test_an_error_that_nobody_has_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed question to the broker leaves the fund as it came."""

    async def raw(self: Dealing, market: Any, state: State) -> Any:
        return [fill for fill in await self.broker.fills() if not state.has_seen(fill.id)]

    monkeypatch.setattr(Dealing, "fills", raw)

    assert found(only("garbage"), "errors")


# -- in what a user builds -------------------------------------------------------------------------------------------


def test_a_log_that_drops_a_message() -> None:
    """What is in memory is not what is on the log."""
    assert found(tampered(lambda messages: [one for one in messages if one.type != "Answered"] or list(messages)), "fold")


def test_a_log_that_changes_what_is_written() -> None:
    """A fill with another price."""

    def changed(messages: Sequence[Message]) -> list[Message]:
        return [
            replace(one, payload={"fill": {**one.payload["fill"], "price": "1.00"}}) if one.type == Filled.__name__ else one
            for one in messages
        ]

    assert found(tampered(changed), "books")


def test_a_log_that_says_yes_and_writes_nothing() -> None:
    """An intent that never became durable."""

    def swallowed(messages: Sequence[Message]) -> list[Message]:
        return [one for one in messages if one.type != Intended.__name__]

    assert found(tampered(swallowed), "intent")


def test_an_error_of_the_log_that_is_none_of_ours() -> None:
    """An adapter lets an exception of its client library through."""

    def breaks(messages: Sequence[Message]) -> list[Message]:
        if any(one.type == Intended.__name__ for one in messages):
            raise KeyError("connection")
        return list(messages)

    assert "errors" in {violation.name for violation in tampered(breaks).run(0).violations}


def test_an_agent_that_swallows_cancellation() -> None:
    """Who is told to stop stops."""

    async def clings(context: Snapshot) -> Any:
        for _ in range(8):
            try:
                await asyncio.sleep(50)
            except BaseException:
                continue
        return usual(context)

    def fund(ports: Ports) -> Orchestrator:
        agents: list[Agent[Any]] = [FunctionAgent(clings, output=Proposal, name="clings"), gate]
        patient = SafetyLimits(time_limit_s=3000)
        limits = replace(LIMITS, max_decision_age_s=3000, max_quote_age_s=3000)
        return Orchestrator(
            agents, bus=ports.bus, clock=ports.clock, mode="autonomous", limits=limits, safety=patient, lease=None
        )

    assert found(World(fund, kinds=("cancel",)), "cancelled")


def test_an_agent_that_leaves_something_running() -> None:
    """A task of its own that nobody ends."""

    tasks: list[asyncio.Future[None]] = []

    def starts(context: Snapshot) -> Any:
        tasks.append(asyncio.ensure_future(asyncio.sleep(10**6)))
        return usual(context)

    assert "left_running" in {violation.name for violation in with_agent(starts).run(0).violations}


@pytest.mark.parametrize("reach", [lambda: time.sleep(0.01), lambda: socket.socket()], ids=["sleeps", "connects"])
def test_an_agent_that_reaches_for_the_real_world(reach: Callable[[], Any]) -> None:
    """Caught, although the safety wrapper catches what agents raise."""

    def reaches(context: Snapshot) -> Any:
        reach()
        return usual(context)

    assert "sealed" in {violation.name for violation in with_agent(reaches).run(0).violations}


def test_an_agent_that_reads_the_machines_clock() -> None:
    """It cannot be caught, but two runs of one seed differ."""

    def clock(context: Snapshot) -> Proposal | None:
        given = usual(context)
        micros = datetime.now(UTC).microsecond
        return given.model_copy(update={"thesis": str(micros)}) if given is not None else None

    report = runs(with_agent(clock), range(100))
    assert report.failed["fund", "repeatable"] == 1


def test_an_agent_that_remembers_in_a_backtest() -> None:
    """What it remembers is gone after an interruption, so the log is another."""

    def fund(ports: Ports) -> Orchestrator:
        seen: list[float] = []

        def remembers(context: Snapshot) -> Proposal | None:
            seen.append(context.bars.price)
            return Proposal(direction="long", stop_pct=1) if len(seen) % 4 == 0 else None

        agents: list[Agent[Any]] = [FunctionAgent(remembers, output=Proposal, name="remembers"), gate]
        return Orchestrator(agents, bus=ports.bus, clock=ports.clock, mode="autonomous", limits=LIMITS)

    assert found(World(fund, paper=True, kinds=("crash_after", "crash_before")), "same_log")


def test_an_agent_that_never_comes_back() -> None:
    """It yields for ever, so no deadline in virtual time ever comes."""

    async def spins(context: Snapshot) -> Any:
        while True:
            await asyncio.sleep(0)

    assert "ends" in {violation.name for violation in with_agent(spins).run(0).violations}


def test_a_feed_that_repeats_itself_is_told_of() -> None:
    """Where it is named: it breaks the contract of feeds, and a fund has to refuse it."""
    world = World(small, name="small", kinds=("repeat",))
    names = {invariant for _, invariant in runs(world, range(20)).failed}
    assert names <= {"order_of_log"}


def test_a_fund_that_orders_nothing_proves_nothing() -> None:
    """A campaign says so, instead of passing."""

    def idle(ports: Ports) -> Orchestrator:
        return Orchestrator([trader, gate], bus=ports.bus, clock=ports.clock, limits=LIMITS)

    with pytest.raises(ConfigError, match="sends no order"):
        campaign(idle, schedules=1)


def plain(ports: Ports) -> Orchestrator:
    """A fund as a user has it in a file of theirs."""
    return small(ports)


def test_a_campaign_that_finds_something_fails_with_a_line_that_shows_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schedule is made small, and the line names the file and the function."""
    monkeypatch.setattr(Dealing, "submit", hasty(Dealing.submit))
    with pytest.raises(CampaignFailed, match="fate") as failed:
        campaign(plain, schedules=100)
    line = next(one.line for one in failed.value.report.failures if one.violations[0].name == "fate")
    assert line in failed.value.reproduce
    match = re.fullmatch(
        r"python -m agentfund\.testing\.simulator --fund \S*test_simulator_teeth\.py:plain --seed (\d+) --faults '(.*)'", line
    )
    assert match is not None, line
    assert len(match[2].split(",")) == 1
    with pytest.raises(CampaignFailed, match="fate"):
        campaign(plain, seed=int(match[1]), faults=match[2])
    monkeypatch.undo()
    assert campaign(plain, seed=int(match[1]), faults=match[2])
