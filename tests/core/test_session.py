"""A bar's way through the house: observe, decide, record, act, and after a crash once more."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import agentfund
from agentfund import (
    Agent,
    Approval,
    ApprovalRequest,
    Decision,
    Direction,
    Limits,
    MemoryBus,
    Message,
    Outcome,
    PaperBroker,
    Proposal,
    Record,
    Router,
    SimulatedClock,
    Snapshot,
    Verdict,
    View,
    agent,
)
from agentfund.core.agent import FunctionAgent
from agentfund.core.budget import Budget
from agentfund.core.context import SharedContext, State
from agentfund.errors import BrokerUnavailable, BusUnavailable, ConfigError, LogMismatch, OrderRejected
from agentfund.llms import Rules, ScriptedLLM
from agentfund.messages import Called, Decided, Filled, Intended, Opined
from agentfund.trading import Order, OrderState, OrderStatus
from tests.market import bars, blind, broker, buyer, fund, no, wave, yes


async def run(one: Any, feed: Any, to: Any = None) -> list[Any]:
    """Run a fund to the end; return its decisions."""
    return [decision async for decision in one.run(feed, to or broker())]


async def log(bus: Any) -> list[Message]:
    """Return everything on a bus."""
    return [message async for message in bus.read()]


def events(messages: Sequence[Message], kind: type[Any]) -> list[Any]:
    """Return the events of one kind."""
    return [message.event for message in messages if isinstance(message.event, kind)]


async def test_a_decision_at_the_close_fills_at_the_next_open() -> None:
    """Never at a price that was known when it was made."""
    one = fund()
    feed = bars(wave(12))
    await run(one, feed)
    messages = await log(one.bus)
    order = events(messages, Intended)[0].order
    fill = events(messages, Filled)[0].fill
    columns = feed.columns["SIM"]
    assert order.time == feed.latest().bars.until(order.time).now
    assert float(fill.reference) == columns.open[5]
    assert fill.time >= order.time


async def test_the_default_mode_only_advises() -> None:
    """ADVISORY records what it would do."""
    one = fund(mode="advisory")
    decisions = await run(one, bars(wave(12)))
    assert {d.outcome for d in decisions} == {Outcome.ADVISED}
    assert decisions[0].reason.startswith("would buy ")
    assert events(await log(one.bus), Intended) == []


async def test_a_veto_stops_the_order_and_stands_in_the_log() -> None:
    """F18: who, and why."""
    one = fund(buyer, yes, blind, no)
    decision = (await run(one, bars(wave(6))))[0]
    assert (decision.outcome, decision.decided_by, decision.reason) == (Outcome.VETOED, "no", "not today")
    assert decision.vetoes == (("no", "not today"),)
    assert events(await log(one.bus), Intended) == []


async def test_the_gate_has_the_last_word_over_agents_that_all_agree() -> None:
    """A short is denied where short selling is off."""

    @agent(name="seller")
    def seller(context: Snapshot) -> Proposal:
        """Always sell."""
        return Proposal(direction=Direction.SHORT)

    decision = (await run(fund(seller, yes), bars(wave(3))))[0]
    assert (decision.outcome, decision.decided_by, decision.code) == (Outcome.DENIED, "gate", "short")


async def test_proposals_that_contradict_each_other_move_nothing() -> None:
    """And neither does one for an instrument that nobody trades."""

    def proposing(name: str, **what: Any) -> Agent[Any]:
        return FunctionAgent(lambda context: Proposal(**what), output=Proposal, name=name)

    both = fund(proposing("bull", direction=Direction.LONG), proposing("bear", direction=Direction.SHORT), yes)
    assert (await run(both, bars(wave(2))))[0].reason == "bull and bear contradict each other"
    strange = fund(proposing("stranger", direction=Direction.LONG, symbol="XYZ"), yes)
    assert (await run(strange, bars(wave(2))))[0].code == "unknown_symbol"


class Note(Record):
    """Something one agent gives and another reads."""

    number: int


ACTS = st.sampled_from(["long", "short", "flat", "nothing"])
VOTES = st.sampled_from(["yes", "no", "abstain"])


@settings(max_examples=400, deadline=None)
@given(
    acts=st.lists(ACTS, min_size=1, max_size=3),
    votes=st.lists(VOTES, min_size=1, max_size=3),
    scales=st.integers(0, 7),
    failing=st.sets(st.integers(0, 6), min_size=1),
)
@example(acts=["long", "short"], votes=["yes"], scales=0, failing={2})
async def test_replacing_any_agents_by_failing_ones_never_creates_or_enlarges_an_order(
    acts: list[str], votes: list[str], scales: int, failing: set[int]
) -> None:
    """Any set of agents of any small pipeline, compared with the pipeline in which nobody fails."""

    def pipeline(failing: frozenset[int]) -> list[Agent[Any]]:
        def maybe(index: int, value: Any) -> Any:
            def answer(context: Snapshot) -> Any:
                if index in failing:
                    raise RuntimeError("down")
                return value

            return answer

        made: list[Agent[Any]] = [FunctionAgent(maybe(0, Note(number=1)), output=Note, name="note")]
        for i, act in enumerate(acts):
            value = (
                None if act == "nothing" else Proposal(direction=Direction(act), position_scale=0.5 + 0.5 * (scales >> i & 1))
            )
            reads = (Note,) if i == 0 else ()
            made.append(FunctionAgent(maybe(len(made), value), output=Proposal, name=f"p{i}", reads=reads))
        for i, vote in enumerate(votes):
            verdict = None if vote == "abstain" else Verdict(approved=vote == "yes", reason="r")
            answer, judges = maybe(len(made), verdict), () if i == 0 else (Proposal,)
            made.append(FunctionAgent(answer, output=Verdict, name=f"g{i}", reads=judges, veto=i == 2))
        return made

    async def ordered(failing: frozenset[int]) -> dict[tuple[str, str], Decimal]:
        one = fund(*pipeline(failing), limits=Limits(allow_short=True))
        await run(one, bars([100.0, 100.0]))
        return {
            (event.order.symbol, event.order.side): event.order.quantity
            for message in await log(one.bus)
            if message.cycle == 1 and isinstance(event := message.event, Intended)
        }

    healthy = await ordered(frozenset())
    for key, quantity in (await ordered(frozenset(failing))).items():
        assert quantity <= healthy.get(key, Decimal(0))


async def test_the_view_is_the_fold_of_the_log_at_every_cycle() -> None:
    """The state in memory at each cycle equals the state rebuilt from the log up to there."""
    one = fund()
    session = one.session(bars(wave(60)), broker())
    at_cycle: dict[int, State] = {}
    async for _ in session.steps():
        at_cycle[one.context.state.cycle] = one.context.state
    assert len(at_cycle) > 10
    messages = await log(one.bus)
    for cycle, state in at_cycle.items():
        rebuilt = SharedContext(one.pipeline.outputs)
        upto = [m for m in messages if m.cycle <= cycle and m.type != "Ended"]
        copies = [Message(**{f: getattr(m, f) for f in Message.__slots__ if not f.startswith("_")}) for m in upto]
        rebuilt.apply(copies)
        assert rebuilt.state == state, f"cycle {cycle}"


async def test_bars_on_which_nothing_happens_leave_no_message() -> None:
    """A log of what happened, not of what did not."""
    one = fund()
    await run(one, bars([100.0] * 4))
    types = [message.type for message in await log(one.bus)]
    assert types == ["Started", "Observed", "Opined", "Ended"]


async def test_two_runs_give_byte_identical_logs() -> None:
    """Nothing in a message depends on chance or on the machine's clock."""

    async def lines() -> list[str]:
        one = fund()
        await run(one, bars(wave(80)))
        return [message.line() for message in await log(one.bus)]

    assert await lines() == await lines()


class Crash(BaseException):
    """Stands for a killed process: nothing catches it."""


class CrashingBus(MemoryBus):
    """Dies before or after its n-th publish; what it had published survives."""

    durability = "process"

    def __init__(self, at: int, *, after: bool) -> None:
        super().__init__()
        self.at, self.after, self.count = at, after, 0

    async def publish(self, messages: Sequence[Message], *, sync: bool = True) -> int:
        """Append, unless it is time to die."""
        self.count += 1
        if self.count == self.at and not self.after:
            raise Crash
        offset = await super().publish(messages, sync=sync)
        if self.count == self.at and self.after:
            raise Crash
        return offset


@pytest.mark.parametrize("after", [False, True])
async def test_a_run_that_is_killed_at_any_write_carries_on_to_the_same_log(after: bool) -> None:
    """Every boundary between two writes is tried; nothing is lost, asked or ordered twice."""
    feed = bars(wave(40))

    class Asked(Agent[Verdict]):
        """A gate that asks a language model."""

        reads = (Proposal,)

    def desk(llm: ScriptedLLM) -> list[Agent[Any]]:
        return [buyer, Asked(llm), blind]

    def scripted() -> ScriptedLLM:
        return ScriptedLLM(lambda prompt: Verdict(approved=True, reason="fine"))

    whole = MemoryBus()
    calm = scripted()
    await run(fund(*desk(calm), bus=whole), feed)
    expected = [message.line() for message in await log(whole)]
    for at in itertools.count(1):
        bus = CrashingBus(at, after=after)
        llm = scripted()
        try:
            await run(fund(*desk(llm), bus=bus), feed)
            break
        except Crash:
            pass
        again = MemoryBus()
        await again.publish(await log(bus))
        await run(fund(*desk(llm), bus=again), feed)
        assert [message.line() for message in await log(again)] == expected, f"killed at write {at}"
        asked = len(llm.prompts) - len(calm.prompts)
        # An answer that had not reached the log when the process died has to be asked for again; no other has.
        assert asked <= (0 if after else 1), f"killed at write {at}"
    assert at > 20


async def test_a_finished_run_is_not_run_again() -> None:
    """Starting it once more asks nobody and writes nothing."""
    bus = MemoryBus()
    feed = bars(wave(30))
    await run(fund(bus=bus), feed)
    before = [message.line() for message in await log(bus)]
    assert await run(fund(bus=bus), feed) == []
    assert [message.line() for message in await log(bus)] == before


async def test_a_log_of_another_run_is_refused_and_untouched() -> None:
    """The message says what changed."""
    bus = MemoryBus()
    await run(fund(bus=bus), bars(wave(30)))
    before = len(await log(bus))
    with pytest.raises(LogMismatch, match="settings changed"):
        await run(fund(bus=bus, limits=Limits(max_leverage=2)), bars(wave(30)))
    with pytest.raises(LogMismatch, match="feed changed"):
        await run(fund(bus=bus), bars(wave(31)))
    assert len(await log(bus)) == before


class FullBus(MemoryBus):
    """Cannot write any more after some messages."""

    async def publish(self, messages: Sequence[Message], *, sync: bool = True) -> int:
        """Refuse once there are ten messages."""
        if len([m async for m in self.read()]) >= 10:
            raise BusUnavailable("disk full")
        return await super().publish(messages, sync=sync)


async def test_no_order_leaves_before_its_intent_is_durable() -> None:
    """When the log cannot be written, the broker gets nothing more."""
    bus, to = FullBus(), broker()
    with pytest.raises(BusUnavailable):
        await run(fund(bus=bus), bars(wave(200)), to)
    intended = {event.order.id for event in events(await log(bus), Intended)}
    assert {state.order.id for state in await to.orders()} <= intended


class MoodyBroker(PaperBroker):
    """Fails to answer in a way that is set."""

    failure: Exception | None = None

    async def submit(self, order: Order) -> OrderState:
        """Raise what was set, after or before taking the order."""
        if self.failure is not None:
            raise self.failure
        return await super().submit(order)


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (OrderRejected("no margin"), OrderStatus.REJECTED),
        (BrokerUnavailable("504"), OrderStatus.UNKNOWN),
        (ValueError("not JSON"), OrderStatus.UNKNOWN),
    ],
)
async def test_only_a_clear_no_is_a_rejection_everything_else_is_unknown(failure: Exception, status: OrderStatus) -> None:
    """An order whose fate is unknown blocks new entries in its symbol."""
    to = MoodyBroker(cash=Decimal(100_000))
    to.failure = failure
    one = fund()
    decisions = await run(one, bars(wave(12)), to)
    answered = [m.event for m in await log(one.bus) if m.type == "Answered"]
    assert answered[0].status is status  # type: ignore[union-attr]
    expected = Outcome.DENIED if status is OrderStatus.UNKNOWN else Outcome.ORDERED
    assert decisions[1].outcome is expected


async def test_a_person_approves_the_exact_order_in_supervised_mode() -> None:
    """And silence, another order's hash or a no means no."""

    def answering(approved: bool, hash_of: Any = lambda request: request.order_hash) -> Any:
        return lambda request: Approval(approved, hash_of(request), "ann")

    async def outcome(approver: Any) -> tuple[Outcome, str]:
        decision = (await run(fund(mode="supervised", approver=approver), bars(wave(6))))[0]
        return decision.outcome, decision.decided_by

    assert await outcome(answering(True)) == (Outcome.ORDERED, "person")
    assert await outcome(answering(False)) == (Outcome.DECLINED, "person")
    assert await outcome(answering(True, lambda request: "another")) == (Outcome.DECLINED, "person")


async def test_silence_and_a_failure_to_ask_are_a_no() -> None:
    """Whether the approver is a function or a coroutine."""

    async def asleep(request: ApprovalRequest) -> Approval:
        await asyncio.Event().wait()
        raise AssertionError

    def slow(request: ApprovalRequest) -> Approval:
        time.sleep(0.2)
        return Approval(True, request.order_hash, "ann")

    def broken(request: ApprovalRequest) -> Approval:
        raise OSError("no terminal")

    for approver, why in ((asleep, "no answer within"), (slow, "no answer within"), (broken, "no terminal")):
        one = fund(mode="supervised", approver=approver, approval_timeout=timedelta(seconds=0.05))
        decision = (await run(one, bars(wave(6))))[0]
        assert (decision.outcome, decision.decided_by) == (Outcome.DECLINED, "person")
        assert why in decision.reason


async def test_a_person_may_take_longer_than_a_decision_may_be_old() -> None:
    """Their yes is a decision of its own; the gate looks again at the prices of that moment."""
    clock = SimulatedClock()

    def approver(request: ApprovalRequest) -> Approval:
        clock.advance(120)
        return Approval(True, request.order_hash, "ann")

    decision = (await run(fund(mode="supervised", approver=approver, clock=clock), bars(wave(6))))[0]
    assert decision.outcome is Outcome.ORDERED


async def test_a_fresh_budget_knows_what_the_log_says_was_spent() -> None:
    """After a restart the money is not there a second time."""

    class Asked(Agent[View]):
        """A blind gate that asks."""

        when = (Proposal,)

    def desk(budget: Budget) -> list[Agent[Any]]:
        llm = ScriptedLLM(lambda prompt: View(direction=Direction.LONG), price_usd="0.01")
        return [buyer, Asked(Router([llm], budget=budget))]

    bus, feed = MemoryBus(), bars(wave(30))
    async for _ in fund(*desk(Budget(usd_per_run=1)), bus=bus).run(feed, broker()):
        break
    after = Budget(usd_per_run=1)
    await run(fund(*desk(after), bus=bus), feed)
    calls = events(await log(bus), Called)
    assert len(calls) > 3
    assert after.spent_usd == sum(event.call.billed_usd for event in calls)


async def test_what_was_spent_ten_days_ago_is_not_spent_today() -> None:
    """Live, each call counts at the time at which it was made; a restart does not make the whole log today's."""

    class Wall:
        time = datetime(2026, 3, 1, tzinfo=UTC)

        def now(self) -> datetime:
            return self.time

        def monotonic(self) -> float:
            return self.time.timestamp()

        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(0)

    class Asked(Agent[View]):
        """A blind gate that asks."""

        when = (Proposal,)

    clock, bus, feed = Wall(), MemoryBus(), bars(wave(30))

    async def some(count: int) -> Budget:
        budget = Budget(usd_per_day=1, clock=clock)
        llm = ScriptedLLM(lambda prompt: View(direction=Direction.LONG), price_usd="0.01")
        async for _ in fund(buyer, Asked(Router([llm], budget=budget)), bus=bus, clock=clock).run(feed, broker()):
            count -= 1
            if not count:
                break
        return budget

    await some(3)
    clock.time += timedelta(days=10)
    later = await some(1)
    assert later.spent_usd >= Decimal("0.03")
    later.reserve(Decimal("0.98"))  # no more than today's own calls stand in the way


async def test_cash_beyond_what_is_exact_is_refused() -> None:
    """Rather than rounded somewhere."""
    with pytest.raises(ConfigError, match="cash must be above zero and below"):
        await run(fund(), bars(wave(6)), broker(10**16))


async def test_overriding_a_veto_needs_a_person_with_evidence() -> None:
    """F07: recorded strong evidence; a hard limit cannot be overridden at all."""

    async def outcome(evidence: str, **options: Any) -> Outcome:
        def approver(request: ApprovalRequest) -> Approval:
            assert request.overrides_veto
            return Approval(True, request.order_hash, "ann", evidence)

        one = fund(buyer, no, mode="supervised", approver=approver, **options)
        decision: Decision = (await run(one, bars(wave(6))))[0]
        return decision.outcome

    assert await outcome("") is Outcome.DECLINED
    assert await outcome("The earnings call at 14:00 removed the reason of the veto.") is Outcome.ORDERED
    strict = Limits(restricted=frozenset({"SIM"}))
    assert await outcome("The earnings call at 14:00 removed the reason of the veto.", limits=strict) is Outcome.DENIED


async def test_rules_in_place_of_language_models_that_are_down_open_nothing() -> None:
    """F06: the fund goes on, degraded, with no new positions."""

    class Buyer(Agent[Proposal]):
        """Always long."""

        def rule(self, context: Snapshot) -> Proposal:
            """Be long."""
            return Proposal(direction=Direction.LONG)

    down = Router([ScriptedLLM([]), Rules()])
    decision = (await run(fund(Buyer(down), yes), bars(wave(3))))[0]
    assert (decision.outcome, decision.code) == (Outcome.DENIED, "degraded")
    healthy = (await run(fund(Buyer(), yes), bars(wave(3))))[0]
    assert healthy.outcome is Outcome.ORDERED


async def test_every_call_stands_in_the_log_before_its_answer_is_used() -> None:
    """The ledger row comes before the opinion, the opinion before the decision."""

    class Asked(Agent[View]):
        """A blind gate that asks."""

        when = (Proposal,)

    llm = ScriptedLLM(lambda prompt: View(direction=Direction.LONG))
    one = fund(buyer, Asked(llm))
    await run(one, bars(wave(6)))
    messages = await log(one.bus)
    types = [m.type for m in messages if m.cycle == 5]
    assert types.index("Called") < types.index("Decided") < types.index("Intended") < types.index("Answered")
    assert events(messages, Called)[0].call.agent == "asked"
    assert [e.opinion.answered_by for e in events(messages, Opined) if e.opinion.agent == "asked"] == ["scripted"]
    assert len(events(messages, Decided)) == 1


def test_there_is_one_path_to_submit() -> None:
    """Rule one: a broker is sent an order in one line of the package, and only the session leads there.

    A broker around a broker hands on what it was sent; it stands behind that line, not beside it.
    """
    source = Path(agentfund.__file__).parent
    code = {path: path.read_text(encoding="utf-8") for path in source.rglob("*.py") if "testing" not in path.parts}
    for call, home in (("broker.submit(", "dealing"), ("dealing.submit(", "session")):
        within = {path: text for path, text in code.items() if path.parent.name not in ("brokers", "execution")}
        assert {path.stem: text.count(call) for path, text in within.items() if call in text} == {home: 1}
