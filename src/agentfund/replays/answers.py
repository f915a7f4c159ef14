"""Who answers in a rerun: agents that count as changed for themselves, for all others the log.

It is what `core/elsewhere.py` describes: a session asks it in the agents' place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from agentfund.core.approval import Approval
from agentfund.core.context import typed
from agentfund.core.waking import rare
from agentfund.errors import ConfigError
from agentfund.messages import Opinion, Stance
from agentfund.replays.tally import Tally
from agentfund.strategies import Strategy
from agentfund.trading import Decision, Proposal, Verdict, View

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from agentfund.clock import SimulatedClock
    from agentfund.core.approval import ApprovalRequest
    from agentfund.core.context import Snapshot, State
    from agentfund.core.orchestrator import Orchestrator
    from agentfund.core.safety import Judged, SafetyWrapper
    from agentfund.core.waking import Due
    from agentfund.market import Market
    from agentfund.messages import Call
    from agentfund.replays.cycles import Cycles
    from agentfund.replays.roles import Role
    from agentfund.trading import Order, Portfolio

Ask = Literal["changed", "affected"]

UNASKED = "it was not asked in the recorded run"


class Answers:
    """Answers in the agents' place, cycle by cycle, as the recorded run is read.

    Args:
        cycles: the recorded run; whoever drives the session reads it one cycle ahead of each step.
        roles: the agents, by name.
        asked: names of those that answer for themselves.
        ask: what becomes of the others where what they look at changed: "changed" keeps the recorded opinion, "affected"
            asks.
        start: the first cycle of the window; before it everybody's opinion comes from the log.
        rejudge: whether recorded opinions pass the safety wrapper once more, because its bounds changed.
        live: whether the run was live: then the clock stands where the log says that it stood.

    Attributes:
        tally: who was asked, and what came from the log.
        clock: the session's clock, where the run was live.
        begin_at: called once the session has read its log; it reads the recorded run up to where the session begins.
        book_since: the first cycle in which cash, positions or orders were not those of the recorded run; 0 for none.
    """

    def __init__(
        self,
        cycles: Cycles,
        roles: Mapping[str, Role],
        asked: Collection[str],
        *,
        ask: Ask = "changed",
        start: int = 1,
        rejudge: bool = False,
        live: bool = False,
    ) -> None:
        self.cycles = cycles
        self.tally = Tally()
        self.clock: SimulatedClock | None = None
        self.begin_at: Callable[[], Awaitable[None]] | None = None
        self.book_since = 0
        self._roles = roles
        self._asked = frozenset(asked)
        self._ask = ask
        self._start = start
        self._rejudge = rejudge
        self._live = live
        self._fund: Orchestrator | None = None
        self._keeps: frozenset[str] = frozenset()
        self._typed: dict[str, tuple[Opinion, Opinion]] = {}
        self._cycle = -1
        self._same: dict[str, Opinion] = {}

    # -- what core/elsewhere.py asks for ---------------------------------------------------------------------------

    def hosts(self, agent: str) -> bool:
        """Return True: everybody is asked here."""
        return True

    async def begin(self, fund: Orchestrator, run: str, since: datetime | None) -> None:
        """Read the recorded run up to where the session begins."""
        self._fund = fund
        before = fund.pipeline.before
        if any(rare(agent.agent) or isinstance(agent.agent, Strategy) for agent in before):
            keeps = (agent.name for agent in before if not issubclass(agent.output, (Proposal, Verdict, View)))
            self._keeps = frozenset(self._roles[name].recorded for name in keeps)
        if self.begin_at is not None:
            await self.begin_at()

    def paid(self) -> Sequence[Call]:
        """Return nothing: every call belongs to an opinion."""
        return ()

    async def end(self) -> None:
        """Do nothing."""

    def ask(self, agent: SafetyWrapper[Any], context: Snapshot, state: State, token: int) -> Judged | Awaitable[Judged]:
        """Return an agent's opinion."""
        cycle = state.cycle
        if cycle != self._cycle:
            self._turn(cycle, state)
        name = agent.name
        if cycle >= self._start and name in self._asked:
            self.tally.asked[name] += 1
            return self._opine(agent, context)
        said = self.recorded(name)
        if cycle < self._start:
            return self._give(agent, said, context) if said is not None else (_unasked(agent), ())
        if said is None:
            if self._ask == "affected":
                self.tally.note("affected", name, cycle)
                return self._opine(agent, context)
            self.tally.note("missing", name, cycle)
            self.tally.given[name] += 1
            return self._heard(agent, (_unasked(agent), ()))
        if self._sees_other(agent, context):
            if self._ask == "affected":
                self.tally.note("affected", name, cycle)
                return self._opine(agent, context)
            self.tally.note("stands", name, cycle)
        given = self._give(agent, said, context)
        self.tally.given[name] += 1
        self.tally.avoided.add(given[1])
        return given

    # -- what the recorded run says --------------------------------------------------------------------------------

    def recorded(self, name: str) -> Opinion | None:
        """Return an agent's opinion in this cycle of the recorded run, None where it gave none.

        The log does not repeat an opinion that has not changed while nothing is proposed.

        Args:
            name: its name in the rerun.
        """
        return self._effective(self._roles[name].recorded) if name in self._roles else None

    def spoke(self, name: str) -> bool:
        """Whether the log holds an opinion of an agent in this very cycle."""
        return self._roles[name].recorded in self.cycles.now.said

    def _effective(self, old: str) -> Opinion | None:
        now = self.cycles.now
        if not old or old in now.said:
            return now.said.get(old)
        last = self.cycles.last.get(old)
        if last is None or old in self._keeps:
            return last
        if now.decision is not None:
            return None  # a cycle with a proposal tells everybody's opinion
        wrapper = self._wrapper(old)
        if wrapper is None:
            return last
        if issubclass(wrapper.output, Proposal) and last.stance is Stance.VALUE:
            return None
        for kind in (*wrapper.reads, *wrapper.when):
            if kind is Decision or not any(self._gave(giver, kind) for giver in self._givers(kind)):
                return None
        return last

    def _gave(self, old: str, kind: type[BaseModel]) -> bool:
        found = self._effective(old)
        return found is not None and found.stance is Stance.VALUE

    def _givers(self, kind: type[BaseModel]) -> list[str]:
        """Return the names of those who gave a type of output in the recorded run."""
        assert self._fund is not None
        mine = [
            role.recorded
            for wrapper in self._fund.pipeline.agents
            if issubclass(wrapper.output, kind) and (role := self._roles[wrapper.name]).recorded
        ]
        others = [name for name, last in self.cycles.last.items() if last.output == kind.__name__ and name not in mine]
        return [*mine, *others]

    def _wrapper(self, old: str) -> SafetyWrapper[Any] | None:
        assert self._fund is not None
        for wrapper in self._fund.pipeline.agents:
            if self._roles[wrapper.name].recorded == old:
                return wrapper
        return None

    # -- what is the same and what is not --------------------------------------------------------------------------

    def _turn(self, cycle: int, state: State) -> None:
        """Begin a cycle: is the book still the recorded one?"""
        self._cycle = cycle
        self._same.clear()
        now = self.cycles.now
        assert now.number == cycle, f"the recorded run was read to cycle {now.number}, the session is at {cycle}"
        if not self.book_since and cycle >= self._start and _book(state) != _book(self.cycles.state):
            self.book_since = cycle
        if self._live and self.clock is not None and now.written is not None:
            self.clock.move_to(now.decision.time if now.decision is not None else now.written)

    def _sees_other(self, agent: SafetyWrapper[Any], context: Snapshot) -> bool:
        """Whether an agent sees something else than it saw in the recorded run."""
        if self.book_since and agent.sees_portfolio:
            return True
        if context.decision is not None:
            before = self.cycles.now.decision
            return before is None or plain_decision(before) != plain_decision(context.decision)
        if not agent.reads:
            return False
        shown = context.opinions_read
        for name, opinion in shown.items():
            if self._same.get(name) is opinion:
                continue
            before_that = self.recorded(name)
            if before_that is None or not alike(before_that, opinion):
                return True
        seen = {self._roles[name].recorded for name in shown}
        return any(self._effective(old) is not None for kind in agent.reads for old in self._givers(kind) if old not in seen)

    # -- answers ---------------------------------------------------------------------------------------------------

    def _opine(self, agent: SafetyWrapper[Any], context: Snapshot) -> Judged | Awaitable[Judged]:
        judged = agent.opine(context)
        if not isinstance(judged, tuple):
            return self._wait(agent, judged)
        return self._heard(agent, judged)

    async def _wait(self, agent: SafetyWrapper[Any], judged: Awaitable[Judged]) -> Judged:
        return self._heard(agent, await judged)

    def _heard(self, agent: SafetyWrapper[Any], judged: Judged) -> Judged:
        opinion, rows = judged
        self.tally.made.add(rows)
        before = self.recorded(agent.name)
        if before is None or not alike(before, opinion):
            self.cycles.now.others[agent.name] = before, opinion
        else:
            self._same[agent.name] = opinion
        return judged

    def _give(self, agent: SafetyWrapper[Any], said: Opinion, context: Snapshot) -> Judged:
        known = self._typed.get(agent.name)
        if known is not None and known[0] is said:
            opinion = known[1]
        else:
            opinion = self._read(agent, said)
            self._typed[agent.name] = said, opinion
        rows = self.cycles.now.rows.get(said.agent, ()) if said.agent in self.cycles.now.said else ()
        if rows and agent.llm is not None:
            agent.rates.consult(agent.name, context.now)  # it counts against the rates that the others have left
        if said.agent != agent.name:
            rows = tuple(replace(row, agent=agent.name) for row in rows)
        judged = agent.judged(opinion, context) if self._rejudge else opinion
        if judged is opinion or alike(judged, opinion):
            self._same[agent.name] = judged
        else:
            self.cycles.now.others[agent.name] = opinion, judged
        return judged, rows

    def _read(self, agent: SafetyWrapper[Any], said: Opinion) -> Opinion:
        kind = agent.output.__name__
        if said.agent != agent.name or said.output != kind:
            said = replace(said, agent=agent.name, output=kind)
        if isinstance(said.value, BaseModel) and type(said.value) is not agent.output:  # of a log that is still in memory
            said = replace(said, value=said.value.model_dump(mode="json"))
        try:
            return typed(said, {kind: agent.output})
        except ValueError as error:
            if self._cycle < self._start:  # nobody will look at it
                return _unasked(agent)
            first = str(error).partition("\n")[0]
            raise ConfigError(
                f"what {said.agent} said in cycle {self._cycle:,} of the recorded run is no {kind} ({first}):"
                f" its type has changed, so name {agent.name!r} in changed="
            ) from None

    # -- who is asked at which bar, and a person's word --------------------------------------------------------------

    def due(self, name: str, own: Due, *, by_log: bool = False) -> Due:
        """Return at which bars an agent that acts rarely is asked.

        Args:
            name: the agent.
            own: its own word.
            by_log: whether it is asked wherever the log holds an opinion of its, too.
        """

        def due(market: Market, cycle: int, portfolio: Portfolio) -> bool:
            mine = cycle >= self._start and (name in self._asked or self._ask == "affected")
            if mine and own(market, cycle, portfolio):
                return True
            return (by_log or not mine) and self.spoke(name)

        return due

    async def approve(self, request: ApprovalRequest) -> Approval:
        """Give a person's word from the log: it is about one exact order, and holds for no other."""
        now = self.cycles.now
        for word in now.approvals:
            if word.order_hash == request.order_hash:
                return Approval(word.approved, request.order_hash, word.by, word.evidence)
        if self._live and len(now.approvals) == 1:  # the same order at a slightly different time has another hash
            word = now.approvals[0]
            if not word.approved or [plain_order(order) for order in now.orders] == [plain_order(request.order)]:
                return Approval(word.approved, request.order_hash, word.by, word.evidence)
        return Approval(False, request.order_hash, "nobody", "in the recorded run no person has seen this order")


def _unasked(agent: SafetyWrapper[Any]) -> Opinion:
    return Opinion(agent.name, agent.output.__name__, Stance.ABSTAINS, reason=UNASKED, answered_by=agent.answers_by)


def alike(one: Opinion, other: Opinion) -> bool:
    """Whether two opinions say the same; reasons for having none do not count."""
    return one.stance is other.stance and _value(one) == _value(other)


def _value(opinion: Opinion) -> Any:
    value = opinion.value
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def plain_order(order: Order) -> tuple[Any, ...]:
    """Return what an order does, without its id and its times."""
    prices = (order.limit_price, order.stop_price, order.stop_loss, order.take_profit)
    return order.symbol, order.side, order.quantity, order.type, *prices, order.reduce_only


def plain_decision(decision: Decision) -> tuple[Any, ...]:
    """Return what a decision says, without its id and its time."""
    return tuple(getattr(decision, name) for name in Decision.model_fields if name not in ("id", "time"))


def _book(state: State) -> tuple[Any, ...]:
    held = {symbol: position.quantity for symbol, position in state.portfolio.positions.items()}
    orders = [(plain_order(one.order), one.status, one.filled) for one in state.orders.values()]
    return state.portfolio.cash, held, orders
