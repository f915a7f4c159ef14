"""One run of a fund: a bar's way through the house, in one direction.

observe -> decide -> record -> act. What a crash interrupts is read back from the log: finished steps are not asked
again, and an order has the same id however often its decision is carried out.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from agentfund.clock import SimulatedClock, SystemClock, from_micros
from agentfund.core.ahead import Ahead, foreseen
from agentfund.core.beginning import additions, describe, difference
from agentfund.core.budget import Budget
from agentfund.core.context import RECENT, Snapshot, State
from agentfund.core.dealing import Dealing
from agentfund.core.deciding import Deciding, Moment
from agentfund.core.keeping import Keeping, never_sent, refusal
from agentfund.core.leader import Leadership
from agentfund.core.ledger import Row, calls
from agentfund.core.past import PastView
from agentfund.core.pulse import Pulse
from agentfund.core.route import pure
from agentfund.core.router import unhurried
from agentfund.core.views import see
from agentfund.core.waking import Due, Waking, rare
from agentfund.core.writer import Writer
from agentfund.errors import ConfigError, LeaseLost, LLMUnavailable, LogMismatch
from agentfund.market import CENT
from agentfund.messages import (
    Answered,
    Busted,
    Called,
    Decided,
    Ended,
    Event,
    Filled,
    Intended,
    Observed,
    Opined,
    Opinion,
    Promoted,
    Reconciled,
    Stance,
    Started,
)
from agentfund.protocols import History
from agentfund.trading import Account, Decision, Direction, Fill, Mode, Order, OrderStatus, Outcome

if TYPE_CHECKING:
    from decimal import Decimal

    from agentfund.core.orchestrator import Orchestrator
    from agentfund.core.safety import Judged, SafetyWrapper
    from agentfund.market import Market
    from agentfund.protocols import Broker, Clock, Feed

Item = TypeVar("Item")
_log = logging.getLogger("agentfund")
NOBODY: Mapping[str, Due] = MappingProxyType({})
MICROSECOND = timedelta(microseconds=1)

_OURS: WeakKeyDictionary[Budget, set[tuple[str, object]]] = WeakKeyDictionary()
"""Runs, each with its log, whose spending a budget knows, because this process made it or has read it from the log."""

_ANSWERED = frozenset({"ok", "InvalidOutput", "Refused", "BadRequest"})
"""Outcomes of a question that somebody has answered, if only badly."""


class Session:
    """A fund on a feed and a broker, driven bar by bar.

    Args:
        fund: agents, limits and log.
        feed: where the market comes from.
        broker: where orders go.
        mode: how much the fund may do by itself.
        clock: where the time comes from.
        sync: whether the log must survive a loss of power, not just a killed process.
        ahead: whether agents that do not see the portfolio are asked about many bars of a history at once.
        insist: routes that are asked about the past although they put facts of their own into prompts.
        through_outages: whether to go on where no language model answers. Otherwise a question waits for routes that rest,
            and where nobody answers then, the run stops and can be carried on.
        due: for agents by name, at which bars they are asked, in place of their own word.

    Raises:
        ConfigError: bars of the past for a real broker; or every route would tell a language model today's date.
    """

    def __init__(
        self,
        fund: Orchestrator,
        feed: Feed,
        broker: Broker,
        *,
        mode: Mode,
        clock: Clock,
        sync: bool,
        ahead: bool = True,
        insist: Collection[str] = (),
        through_outages: bool = True,
        due: Mapping[str, Due] = NOBODY,
    ) -> None:
        self.fund = fund
        self.feed = feed
        self.dealing = Dealing(
            broker,
            fund.broker_timeout.total_seconds(),
            slow_s=fund.broker_slow.total_seconds(),
            settle_s=fund.settle.total_seconds(),
            clock=clock,
        )
        self._keeping = Keeping(self)
        self.deciding = Deciding(
            fund,
            self._now,
            self.dealing,
            mode=mode,
            clock=clock,
            note=lambda approved: self.writer.heard(approved),
            permit=self._keeping.permit,
            feed=feed,
            state_now=lambda: self.state,
        )
        self.mode = mode
        self.clock = clock
        self.sync = sync
        self.cycle = 0
        self.resumed_at = 0
        self.history = isinstance(feed, History)
        if self.history and self.dealing.paper is None and fund.clock is None:
            raise ConfigError("bars of the past would send orders to a real broker: use PaperBroker, or give the fund a clock")
        past = self.history and isinstance(clock, SimulatedClock) and not getattr(feed, "simulated", False)
        self._insisted = frozenset(insist) if past else None
        self.additions = additions(fund.pipeline.routers, self._insisted)
        many = ahead and fund.workers is None and self.history and isinstance(clock, SimulatedClock)
        self._foreseen = foreseen(fund.pipeline) if many else ()
        self._ahead: Ahead | None = None
        waking = Waking(fund.pipeline, due)
        self._waking = waking if waking.needed else None
        self._asked: tuple[int, Sequence[SafetyWrapper[Any]]] | None = None
        self._stops = not through_outages
        self._again = self._missed = False
        self._began = clock.now()
        self._stage, self._stage_since, self._progress = "starting", clock.monotonic(), 0
        self._others = 0
        self._last: datetime | None = None
        self._quiet: list[Opinion] = []
        self.market: Market | None = None
        # A lease is about processes, and a watch about time: both need a clock that runs by itself.
        shared = not getattr(fund.bus, "in_process", False)
        self.runs = not self.history and not isinstance(clock, SimulatedClock)
        leads = shared and self.runs and fund.lease is not None
        self._lead = Leadership(fund.bus, fund.name, fund.lease, clock, standby=fund.standby) if leads and fund.lease else None
        self.writer = Writer(self, self._lead)

    @property
    def state(self) -> State:
        """The fund at this moment, the newest prices included."""
        return self.writer.state

    @property
    def pulse(self) -> Pulse:
        """What the run says of itself to those who watch it from outside."""
        allowed = self._keeping.permit()
        # A recording's clock is not that of those who watch, and may run faster.
        speed = getattr(self.clock, "speed", 1.0)
        heard = getattr(self.feed, "heard", None)
        if heard is not None:
            heard = SystemClock().now() - (self.clock.now() - heard) / speed
        return Pulse(
            fund=self.fund.name,
            config=self.fund.limits.digest,
            stage=self._stage,
            stage_s=max(self.clock.monotonic() - self._stage_since, 0.0) / speed,
            cycle=self.cycle,
            progress=self._progress,
            equity=self.state.equity,
            spent_usd=self.state.billed_usd,
            heard=heard,
            level=int(allowed.level),
            lease=allowed.lease,
        )

    def enter(self, stage: str = "") -> None:
        """Say what the run does from now on, or that it goes on with it."""
        self._progress += 1
        if stage not in ("", self._stage):
            self._stage, self._stage_since = stage, self.clock.monotonic()

    async def steps(self) -> AsyncIterator[Decision | None]:
        """Run to the end of the feed; give each cycle's decision, None for a cycle without one.

        Raises:
            LogMismatch: the log holds another run.
            LeaseLost: another process leads the fund.
            BusUnavailable: the log cannot be written; nothing was ordered that is not on it.
            LLMUnavailable: nobody answered an agent, and the run is not to go through outages.
        """
        watches = [router.watch(self.writer.tripped) for router in self.fund.pipeline.routers]
        try:
            newest = after = await self._begin()
            if self.state.ended:
                return
            if self.fund.workers is not None:
                await self.fund.workers.begin(self.fund, self.state.run, self._last)
            async with (
                closing(self.feed.stream(after)) as source,
                closing(self._keeping.arrivals(source) if self.runs else source) as markets,
            ):
                async for market in markets:
                    if newest is not None and market.now <= newest:  # nobody decides twice on the same bar
                        _log.warning("the feed gave %s after %s: it is passed over", market.now, newest)
                        continue
                    newest = market.now
                    if self._waking is not None and self._sleeps(self._waking, market):
                        yield None
                    else:
                        yield await self._step(market, after)
            await self._finish()
        finally:
            self.enter("ended")
            for end in watches:
                end()
            try:
                await self._stop_asking()
            finally:  # also where that is cancelled
                try:
                    await self.writer.close()
                finally:
                    if self._lead is not None:
                        await self._lead.release()

    def _now(self) -> Market:
        """Return the market now. Of a history it is the one that this run was given: others may read the same feed ahead."""
        if self.history and self.market is not None:
            return self.market
        return self.feed.latest()

    async def _begin(self) -> datetime | None:
        fund = self.fund
        view = PastView(fund.pipeline.outputs)
        seen = await see(fund.bus, fund.name, view)
        if self._lead is not None:
            while not self._lead.won(seen.value.state, seen.offset):
                await self._lead.claim(seen.value.state)
                async for message in fund.bus.read(fund.name, after=seen.offset):
                    seen.add(view, message)
            self._lead.keep()
        past = seen.value
        self.writer.tail, self.writer.snapshot = seen.offset, seen.snapshot
        self._others = seen.offset
        orders, fills, rows, started, began = past.orders, past.fills, past.rows, past.started, past.began
        fund.context.restore(past.state)
        if isinstance(self.feed, History) and isinstance(self.clock, SimulatedClock):
            self.clock.move_to(min(from_micros(columns.start[0]) for columns in self.feed.columns.values()))
        account = await self.dealing.account()
        fresh = self.describe(account)
        self.writer.state = fund.context.state
        self.dealing.known = set(orders)
        self.dealing.since = began or self.clock.now()
        if account is not None and started is None and account.positions:
            held = ", ".join(f"{quantity} {symbol}" for symbol, quantity in account.positions.items())
            raise ConfigError(f"the account holds what this fund did not buy: {held}. Close it, or use another account")
        if isinstance(self.clock, SimulatedClock):  # the log does not know when a call was made, so it was made just now
            now = SystemClock().now()
            rows = [Row(row.call, now, row.cycle) for row in rows]
        ours = (fresh.digest, getattr(fund.bus, "path", id(fund.bus)))
        self.writer.know(rows)
        for budget in fund.pipeline.budgets:
            if started is not None and ours not in _OURS.get(budget, ()):  # another process spent it
                budget.preload(rows)
            _OURS.setdefault(budget, set()).add(ours)
        if started is None:
            if self.dealing.paper is not None and await self.dealing.broker.orders():
                raise ConfigError(f"this {type(self.dealing.broker).__name__} was used already: make a new one for a new run")
            await self.writer.write(fresh)
            return None
        if started.digest != fresh.digest:
            raise LogMismatch(difference(self.writer.message(started).payload, self.writer.message(fresh).payload, fund.name))
        await self._check_mode()
        if self.dealing.paper is None and (restore := getattr(self.dealing.broker, "restore", None)) is not None:
            restore([mine.order for mine in orders.values()], fills)
        fund.pipeline.rates.seed(self.state.asked)
        self._last = self.state.observed
        if self.dealing.paper is not None:
            self.dealing.paper.restore(tuple(orders.values()), tuple(fills), self._last)
        if self._last is None:
            return None
        # The newest cycle may be unfinished, so it is entered once more; what is on the log of it is not done again.
        self.resumed_at = self.state.cycle
        self.cycle = self.state.cycle - 1
        return self._last - MICROSECOND

    async def _check_mode(self) -> None:
        """Hold the mode against the log's: more than it allows needs a promotion, less is a word of its own."""
        allowed, modes = self.state.mode, list(Mode)
        if self.history or not allowed or self.mode == allowed:
            return
        if modes.index(self.mode) > modes.index(Mode(allowed)):
            raise ConfigError(
                f"the fund {self.fund.name!r} is {allowed} by its log, and {self.mode} is more:"
                f" a person has to promote it (agentfund promote LOG --to {self.mode} --by NAME --reason WHY)"
            )
        await self.writer.write(Promoted(self.mode, allowed, "restart", "it was started with less"))

    def describe(self, account: Account | None) -> Started:
        """Return how this run begins; see `core.beginning`."""
        return describe(self, account)

    def _sleeps(self, waking: Waking, market: Market) -> bool:
        """Pass over a bar of a history at which nothing is held or on order, and nobody is asked."""
        state = self.state
        busy = state.portfolio.positions or state.orders or self.cycle + 1 == self.resumed_at
        if busy or not self.history or self._foreseen or self.dealing.paper is None:
            return False
        asked = waking.awake(market, self.cycle + 1, state)
        if asked:
            self._asked = (self.cycle + 1, asked)
            return False
        self.cycle += 1
        self.market = market
        if isinstance(self.clock, SimulatedClock):
            self.clock.move_to(market.now)
        return True

    async def _step(self, market: Market, after: datetime | None) -> Decision | None:
        token, patience = pure.set(self._insisted), unhurried.set(self._stops)
        try:
            if self._foreseen and self._ahead is None:
                # What the log holds of the first bar is not asked again.
                known = self.state.current if self.cycle + 1 == self.resumed_at and market.now == self._last else {}
                self._ahead = Ahead(self.fund.pipeline, self._foreseen, self.feed, after, known)
            return await self._cycle(market)
        finally:
            unhurried.reset(patience)
            pure.reset(token)

    async def _cycle(self, market: Market) -> Decision | None:
        self.cycle += 1
        self.market = market
        self._quiet = []
        again = self.cycle == self.resumed_at
        self.writer.turn(opened=again)
        if again and market.now != self._last:
            self._leave_unfinished()
            again = False
        if isinstance(self.clock, SimulatedClock):
            self.clock.move_to(market.now)
        self._began = self.clock.now()
        self.enter("reconciling")
        if not again:
            await self._observe(market)
        elif self.dealing.paper is not None:
            self.dealing.paper.advance(market)  # it has seen this bar, but after a restart it does not know the market yet
        state = self.state
        snapshot = Snapshot(state, market, {}, market_now=self._now)
        opinions = dict(state.current) if again else {}
        decision = state.decision if again else None
        if decision is None and self._is_over(market):
            await self.writer.record((), cycle=True)
            return None
        self._again = decision is not None
        if decision is None:
            decision = await self._decide(snapshot, opinions)
        if decision is None:
            return None
        await self._act(decision)
        told = [a for a in self.fund.pipeline.after if not rare(a.agent) or a.agent.due(market, self.cycle, state.portfolio)]
        if told:
            after = snapshot.decided(self.state, decision)
            await self._consult(told, after, opinions)
            await self._record()
        return decision

    def _is_over(self, market: Market) -> bool:
        """Whether a live market has moved on since: what was missed while the fund was down is history, and nobody is asked."""
        if not self.runs:
            return False
        age = (self._began - market.now).total_seconds()
        most = self.fund.limits.max_decision_age_s * getattr(self.clock, "speed", 1.0)  # a recording is late by its own seconds
        over = age > max(most, market.bars.interval.total_seconds())
        if over and not self._missed:
            _log.warning("the bars from %s on are history by now (%.0f s old): nobody is asked about them", market.now, age)
        self._missed = over
        return over

    def _leave_unfinished(self) -> None:
        """Go on behind a cycle whose moment has passed: its orders may or may not have been sent."""
        self.cycle += 1
        self.writer.opened = False
        for state in tuple(self.state.orders.values()):
            if state.status is OrderStatus.INTENDED:
                lost = Answered(state.order.id, OrderStatus.UNKNOWN, "the fund stopped while the order was on its way")
                self.writer.learn(lost)

    # -- observe ---------------------------------------------------------------------------------------------------

    async def _observe(self, market: Market) -> None:
        before = self.state.equity
        day = market.now.date() if self._last is None or market.now.date() != self._last.date() else None
        self._last = market.now
        await self.look()
        if self.dealing.paper is None and not self.dealing.settled and not self.dealing.wrong:
            await self.clock.sleep(self.dealing.settle_s)
            await self.look()
        if self.runs:
            self._keeping.note(self._keeping.permit())
        state = self.state
        prices = {**state.prices, **market.prices()}
        equity = state.portfolio.equity(prices) if state.portfolio.positions else state.portfolio.cash
        equity = equity.quantize(CENT)
        seen = Observed(prices, equity, max(state.peak_equity, equity), before if day is not None else state.day_equity)
        self.writer.state = state.observe(self.cycle, market.now, seen)

    async def look(self) -> None:
        """Learn what the broker says that is news, and hold its books against the log's."""
        for _ in range(2):  # what trades between two questions makes a difference that a second look does not see
            for gone in await self.dealing.busts(self.state):
                self.writer.learn(Busted(gone, fill=await self._settled(gone)))
            for fill in await self.dealing.fills(self.market, self.state):
                self.writer.learn(Filled(fill))
            for answered in await self.dealing.answers(self.state, self.clock.now()):
                self.writer.learn(answered)
            if self.dealing.paper is None and await self._hear_others():
                continue
            if await self.dealing.compare(self.state, self._lots):
                break
        if self.dealing.wrong != self.state.wrong:
            self.writer.learn(Reconciled(self.dealing.wrong))

    async def _settled(self, fill_id: str) -> Fill | None:
        """Return a fill that the state has added up and knows no more, None where it still does or never did."""
        state = self.state
        if not state.has_seen(fill_id) or any(fill.id == fill_id for fill in state.fills):
            return None
        async for message in self.fund.bus.read(self.fund.name):
            if isinstance(event := message.event, Filled) and event.fill.id == fill_id:
                return event.fill
        return None

    async def _hear_others(self) -> bool:
        """Take in what an execution or an operator has put on the fund's stream; return whether there was anything."""
        heard = False
        async for message in self.fund.bus.read(self.fund.name, after=self._others):
            self._others = message.offset
            if message.producer in ("execution", "operator"):
                heard = True
                self.fund.context.apply([message])
                self.writer.state = self.state.apply(message)
                if isinstance(event := message.event, Intended):
                    self.dealing.known.add(event.order.id)
        return heard

    @property
    def _lots(self) -> Mapping[str, Decimal]:
        return {instrument.symbol: instrument.lot_size for instrument in self.feed.instruments}

    # -- decide ----------------------------------------------------------------------------------------------------

    async def _decide(self, snapshot: Snapshot, opinions: dict[str, Opinion]) -> Decision | None:
        pipeline = self.fund.pipeline
        asking: Sequence[SafetyWrapper[Any]] = pipeline.before
        if self._waking is not None:
            # Nobody is asked twice whether it is due: a schedule may remember that it was.
            known = self._asked is not None and self._asked[0] == self.cycle
            asking = (
                self._asked[1] if known and self._asked else self._waking.awake(snapshot.market, self.cycle, snapshot.state)
            )
            asked = {agent.name for agent in asking}
            kept = self._waking.kept(self.state)
            opinions |= {name: one for name, one in kept.items() if name not in asked and name not in opinions}
        await self._consult(asking, snapshot, opinions)
        if self._ahead is not None and (unused := await self._ahead.leftovers(snapshot.now)):
            self.writer.open()
            self.writer.add_left_over(unused)
        proposals = {a.name: opinions[a.name] for a in pipeline.proposers if a.name in opinions}
        proposed = {name: o.value for name, o in proposals.items() if o.stance is Stance.VALUE}
        if not proposed:
            before = self.fund.context.state.opinions
            told = [o for o in self._quiet if _differs(o, before.get(o.agent))]
            # A live market does not come again, so its marks (peak, day) are on the log at every bar.
            await self.writer.record(told, cycle=bool(self.writer.news) or not self.history)
            self._quiet = []
            return None
        missing = next((name for name, o in proposals.items() if o.stance is Stance.UNAVAILABLE), "")
        assert self.market is not None
        moment = Moment(self.cycle, self.state, self.market, self._began)
        work = self.deciding.conclude(moment, proposed, missing, opinions)
        decision, order = await (self._keeping.during(work) if self.runs else work)
        if order is not None:
            self.dealing.known.add(order.id)
        await self._record(Decided(decision), *([Intended(order)] if order else []))
        return decision

    async def _consult(self, agents: Sequence[SafetyWrapper[Any]], snapshot: Snapshot, opinions: dict[str, Opinion]) -> None:
        ahead, elsewhere = self._ahead, self.fund.workers

        def ask(agent: SafetyWrapper[Any], context: Snapshot) -> Judged | Awaitable[Judged]:
            if elsewhere is not None and elsewhere.hosts(agent.name):
                # Agents after the decision see the state that it led to, the others the one they were asked in.
                return elsewhere.ask(agent, context, self.state, self._lead.token if self._lead is not None else 0)
            return ahead.ask(agent, context) if ahead is not None and ahead.covers(agent) else agent.opine(context)

        outer = calls.set(self.writer.lost)
        try:
            self.enter("asking")
            # A log of the past is the same however long anybody takes; live, what was paid for is written at once.
            work = self.fund.pipeline.consult(agents, snapshot, opinions, self._on_opinion, ask=ask, in_order=self.history)
            await (self._keeping.during(work) if self.runs else work)
        finally:
            calls.reset(outer)
        if elsewhere is not None:
            self.writer.lost += elsewhere.paid()
        await self.writer.write_lost()

    async def _stop_asking(self) -> None:
        """Stop asking ahead of time and elsewhere; what was paid for so far is not lost."""
        if self._ahead is not None:
            self.writer.lost += await self._ahead.close()
            self._ahead = None
        if self.fund.workers is not None:
            await self.fund.workers.end()
            self.writer.lost += self.fund.workers.paid()

    # -- record ----------------------------------------------------------------------------------------------------

    async def _on_opinion(self, agent: SafetyWrapper[Any], judged: Judged) -> None:
        opinion, rows = judged
        if not rows:
            self._quiet.append(opinion)
            return
        if self._stops and opinion.stance is Stance.UNAVAILABLE and rows[-1].outcome not in _ANSWERED:
            self.writer.lost += rows
            raise LLMUnavailable(
                f"at bar {self.cycle:,} nobody answered {agent.name} ({opinion.reason}): run again to carry on"
            )
        # An answer that was paid for is durable before anything else happens: after a crash it is not asked again.
        self.writer.open()
        self.writer.add(*map(Called, rows), Opined(opinion))
        if self.fund.bus.durability != "none":
            await self.writer.write()

    async def _record(self, *events: Event) -> None:
        await self.writer.record(self._quiet, *events)
        self._quiet = []

    # -- act -------------------------------------------------------------------------------------------------------

    async def _act(self, decision: Decision) -> None:
        """Send the decision's order if the log says that it is intended and nothing says what became of it."""
        if decision.outcome is Outcome.ORDERED and decision.direction is Direction.FLAT:
            await self.writer.write(*await self.dealing.take_back(self.state, decision.symbol))
        for state in tuple(self.state.orders.values()):
            if state.status is not OrderStatus.INTENDED or state.order.decision != decision.id:
                continue
            late = (self.clock.now() - state.order.time).total_seconds() > self.fund.limits.max_decision_age_s
            if self._again and (late or not self.dealing.broker.dedupes_ids):
                lost = Answered(state.order.id, OrderStatus.UNKNOWN, "the fund stopped while the order was on its way")
                await self.writer.write(lost)
            else:
                await self.send(state.order)

    async def send(self, order: Order, *, closing: bool = False) -> None:
        """Send an order that is on the log as intended, unless it may not leave any more; put the answer on the log.

        Args:
            order: what to send.
            closing: whether it closes a position at level 4, where nothing else may leave.
        """
        self.enter("ordering")
        await self._check_ours(order)
        if order.reduce_only and self.dealing.paper is None and not closing:
            await self.look()  # its stop may have fired while agents or a person were thinking
            await self.writer.write_news()
        reduces = self.state.portfolio.quantity(order.symbol) * order.side.sign < 0 and order.reduce_only
        again = self._again and not closing
        why = "" if closing else refusal(order, self._keeping.permit(), adds=not reduces)
        if order.reduce_only and not reduces:
            why = why or "not sent: nothing is held any more that it could reduce"
        if again and not reduces:
            why = why or self.dealing.blind
        if closing and not why and (denial := self.deciding.denies_closing(order)):
            why = f"not sent: {denial.reason}"
        if why and again:  # it may have left before the restart, so it is not refused, and it may not leave again
            answered = Answered(order.id, OrderStatus.UNKNOWN, f"it may have been sent before the restart; {why}")
        elif why:
            answered = never_sent(order, why)
        else:
            answered = await self.dealing.submit(order, self.clock.now(), again=again)
        await self.writer.write(answered)

    async def _check_ours(self, order: Order) -> None:
        """Make sure that the order on the log is ours: a second process on the same log may have written another."""
        if getattr(self.fund.bus, "in_process", False):
            return
        if self._lead is not None:
            self._lead.check()
        async for message in self.fund.bus.read(self.fund.name, after=max(self.writer.tail - RECENT, 0)):
            if self._lead is not None and message.token > self._lead.token:
                raise LeaseLost(f"another process leads the fund {self.fund.name!r} (token {message.token}): this one stops")
            if isinstance(event := message.event, Intended) and event.order.id == order.id and event.order != order:
                raise LogMismatch(f"another process runs the fund {self.fund.name!r} on this log: stop one of them")

    async def _finish(self) -> None:
        if self.market is None or not self.history:
            return  # a live market that stops has not come to an end
        state = self.state
        self.writer.opened, self.writer.news = True, []
        prices = {**state.prices, **self.market.prices()}  # bars that were passed over had prices too
        await self.writer.write(Ended(self.cycle, self.cycle, prices, state.equity))


@asynccontextmanager
async def closing(source: AsyncIterator[Item]) -> AsyncIterator[AsyncIterator[Item]]:
    """Close what gives items when its reader leaves early, so that nothing of it is left to run."""
    try:
        yield source
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


def _differs(opinion: Opinion, before: Opinion | None) -> bool:
    if before is None or opinion.stance is not before.stance:
        return True
    if opinion.stance is Stance.UNAVAILABLE:
        return opinion.reason != before.reason
    return bool(opinion.value != before.value)
