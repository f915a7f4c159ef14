"""One run of a fund: a bar's way through the house, in one direction.

observe -> decide -> record -> act. What a crash interrupts is read back from the log: finished steps are not asked
again, and an order has the same id however often its decision is carried out.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from agentfund.clock import SimulatedClock, SystemClock, from_micros
from agentfund.core.ahead import Ahead, foreseen
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
from agentfund.core.views import due as wants_snapshot
from agentfund.core.views import refresh, see
from agentfund.core.waking import Due, Waking, rare
from agentfund.errors import BusError, ConfigError, LeaseLost, LLMUnavailable, LogMismatch
from agentfund.market import CENT, decimal
from agentfund.messages import (
    Answered,
    Approved,
    Busted,
    Call,
    Called,
    Decided,
    Ended,
    Event,
    Filled,
    Intended,
    Levelled,
    Message,
    Observed,
    Opined,
    Opinion,
    Promoted,
    Reconciled,
    Stance,
    Started,
    Tripped,
    stable_id,
)
from agentfund.protocols import History
from agentfund.trading import Account, Decision, Direction, Fill, Mode, Order, OrderStatus, Outcome
from agentfund.version import __version__

if TYPE_CHECKING:
    from decimal import Decimal

    from agentfund.core.breaker import BreakerState
    from agentfund.core.orchestrator import Orchestrator
    from agentfund.core.router import Router
    from agentfund.core.safety import Judged, SafetyWrapper
    from agentfund.market import Market
    from agentfund.protocols import Broker, Clock, Feed

Item = TypeVar("Item")
_log = logging.getLogger("agentfund")
NOBODY: Mapping[str, Due] = MappingProxyType({})
MICROSECOND = timedelta(microseconds=1)
MOST_CASH = 10**15

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
            note=self._heard,
            permit=self._keeping.permit,
            feed=feed,
            state_now=lambda: self._state,
        )
        self.mode = mode
        self.clock = clock
        self.sync = sync
        self.cycle = 0
        self.resumed_at = 0
        self._history = isinstance(feed, History)
        if self._history and self.dealing.paper is None and fund.clock is None:
            raise ConfigError("bars of the past would send orders to a real broker: use PaperBroker, or give the fund a clock")
        past = self._history and isinstance(clock, SimulatedClock) and not getattr(feed, "simulated", False)
        self._insisted = frozenset(insist) if past else None
        self._additions = _additions(fund.pipeline.routers, self._insisted)
        many = ahead and fund.workers is None and self._history and isinstance(clock, SimulatedClock)
        self._foreseen = foreseen(fund.pipeline) if many else ()
        self._ahead: Ahead | None = None
        waking = Waking(fund.pipeline, due)
        self._waking = waking if waking.needed else None
        self._asked: tuple[int, Sequence[SafetyWrapper[Any]]] | None = None
        self._stops = not through_outages
        self._lost: list[Call] = []
        self._trips: deque[Tripped] = deque()
        self._again = False
        self._began = clock.now()
        self._stage, self._stage_since, self._progress = "starting", clock.monotonic(), 0
        self._writing = asyncio.Lock()
        self._tail = self._others = 0
        self._snapshot = 0
        self._snapping: asyncio.Task[Any] | None = None
        self._state = State()
        self._last: datetime | None = None
        self._news: list[Event] = []
        self._buffer: list[Message] = []
        self._quiet: list[Opinion] = []
        self._opened = False
        self._market: Market | None = None
        self._ids: dict[str, int] = {}
        self._rows: dict[int, dict[str, int]] = {}
        # A lease is about processes, and a watch about time: both need a clock that runs by itself.
        shared = not getattr(fund.bus, "in_process", False)
        self._runs = not self._history and not isinstance(clock, SimulatedClock)
        leads = shared and self._runs and fund.lease is not None
        self._lead = Leadership(fund.bus, fund.name, fund.lease, clock, standby=fund.standby) if leads and fund.lease else None

    @property
    def state(self) -> State:
        """The fund at this moment, the newest prices included."""
        return self._state

    @property
    def pulse(self) -> Pulse:
        """What the run says of itself to those who watch it from outside."""
        allowed = self._keeping.permit()
        heard = getattr(self.feed, "heard", None)
        if heard is not None:  # a recording's clock is not that of those who watch
            heard = SystemClock().now() - (self.clock.now() - heard)
        return Pulse(
            fund=self.fund.name,
            config=self.fund.limits.digest,
            stage=self._stage,
            stage_s=max(self.clock.monotonic() - self._stage_since, 0.0),
            cycle=self.cycle,
            progress=self._progress,
            equity=self._state.equity,
            spent_usd=self._state.billed_usd,
            heard=heard,
            level=int(allowed.level),
            lease=allowed.lease,
        )

    def enter(self, stage: str) -> None:
        """Say what the run does from now on."""
        self._progress += 1
        if stage != self._stage:
            self._stage, self._stage_since = stage, self.clock.monotonic()

    async def steps(self) -> AsyncIterator[Decision | None]:
        """Run to the end of the feed; give each cycle's decision, None for a cycle without one.

        Raises:
            LogMismatch: the log holds another run.
            LeaseLost: another process leads the fund.
            BusUnavailable: the log cannot be written; nothing was ordered that is not on it.
            LLMUnavailable: nobody answered an agent, and the run is not to go through outages.
        """
        watches = [router.watch(self._tripped) for router in self.fund.pipeline.routers]
        try:
            newest = after = await self._begin()
            if self._state.ended:
                return
            if self.fund.workers is not None:
                await self.fund.workers.begin(self.fund, self._state.run, self._last)
            async with (
                closing(self.feed.stream(after)) as source,
                closing(self._keeping.arrivals(source) if self._runs else source) as markets,
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
                    if self._snapping is not None:
                        self._snapping.cancel()
                        await asyncio.gather(self._snapping, return_exceptions=True)
                finally:
                    if self._lead is not None:
                        await self._lead.release()

    def _now(self) -> Market:
        """Return the market now. Of a history it is the one that this run was given: others may read the same feed ahead."""
        if self._history and self._market is not None:
            return self._market
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
        self._tail, self._snapshot = seen.offset, seen.snapshot
        self._others = seen.offset
        orders, fills, rows, started, began = past.orders, past.fills, past.rows, past.started, past.began
        fund.context.restore(past.state)
        if isinstance(self.feed, History) and isinstance(self.clock, SimulatedClock):
            self.clock.move_to(min(from_micros(columns.start[0]) for columns in self.feed.columns.values()))
        account = await self.dealing.account()
        fresh = self.describe(account)
        self._state = fund.context.state
        self.dealing.known = set(orders)
        self.dealing.since = began or self.clock.now()
        if account is not None and started is None and account.positions:
            held = ", ".join(f"{quantity} {symbol}" for symbol, quantity in account.positions.items())
            raise ConfigError(f"the account holds what this fund did not buy: {held}. Close it, or use another account")
        if isinstance(self.clock, SimulatedClock):  # the log does not know when a call was made, so it was made just now
            now = SystemClock().now()
            rows = [Row(row.call, now, row.cycle) for row in rows]
        ours = (fresh.digest, getattr(fund.bus, "path", id(fund.bus)))
        # What was paid for without an opinion is asked again, and gets rows of its own. A cycle whose marks could not be
        # written may have left rows that could.
        for row in rows:
            if row.cycle >= self._state.cycle:
                counts = self._rows.setdefault(row.cycle, {})
                counts[row.call.agent] = counts.get(row.call.agent, 0) + 1
        for budget in fund.pipeline.budgets:
            if started is not None and ours not in _OURS.get(budget, ()):  # another process spent it
                budget.preload(rows)
            _OURS.setdefault(budget, set()).add(ours)
        if started is None:
            if self.dealing.paper is not None and await self.dealing.broker.orders():
                raise ConfigError(f"this {type(self.dealing.broker).__name__} was used already: make a new one for a new run")
            self._buffer.append(self._message(fresh))
            await self._flush()
            return None
        if started.digest != fresh.digest:
            raise LogMismatch(_difference(self._message(started).payload, self._message(fresh).payload, fund.name))
        await self._check_mode()
        if self.dealing.paper is None and (restore := getattr(self.dealing.broker, "restore", None)) is not None:
            restore([mine.order for mine in orders.values()], fills)
        fund.pipeline.rates.seed(self._state.asked)
        self._last = self._state.observed
        if self.dealing.paper is not None:
            self.dealing.paper.restore(tuple(orders.values()), tuple(fills), self._last)
        if self._last is None:
            return None
        # The newest cycle may be unfinished, so it is entered once more; what is on the log of it is not done again.
        self.resumed_at = self._state.cycle
        self.cycle = self._state.cycle - 1
        return self._last - MICROSECOND

    async def _check_mode(self) -> None:
        """Hold the mode against the log's: more than it allows needs a promotion, less is a word of its own."""
        allowed, modes = self._state.mode, list(Mode)
        if self._history or not allowed or self.mode == allowed:
            return
        if modes.index(self.mode) > modes.index(Mode(allowed)):
            raise ConfigError(
                f"the fund {self.fund.name!r} is {allowed} by its log, and {self.mode} is more:"
                f" a person has to promote it (agentfund promote LOG --to {self.mode} --by NAME --reason WHY)"
            )
        self._buffer.append(self._message(Promoted(self.mode, allowed, "restart", "it was started with less")))
        await self._flush()

    def describe(self, account: Account | None) -> Started:
        """Return how this run begins: all that its result depends on; `account` is a real broker's, None of a paper one."""
        told = self.fund.describe()
        paper = self.dealing.paper
        cash = paper.cash if paper is not None else account.cash if account is not None else decimal(0)
        if paper is not None and not 0 < cash < MOST_CASH:
            raise ConfigError(f"cash must be above zero and below {MOST_CASH:,}, so that it is exact to the cent; it is {cash}")
        cash = cash.quantize(CENT)
        broker: dict[str, Any] = {"class": type(self.dealing.broker).__name__, "simulated": paper is not None}
        if paper is not None:
            broker["costs"] = str(paper.costs)
            broker["settings"] = {k: str(v) for k, v in getattr(paper, "settings", {}).items()}
        feed = {
            "class": type(self.feed).__name__,
            "fingerprint": self.feed.fingerprint,
            "symbols": [instrument.symbol for instrument in self.feed.instruments],
            "increments": [[str(i.tick_size), str(i.lot_size), i.currency] for i in self.feed.instruments],
            "source": getattr(self.feed, "source", ""),
        }
        told["settings"] |= self._additions
        mode = self.mode if self._history else ""  # live it changes by promotion, and the run is the same
        digest = stable_id(told, broker, feed, mode, self.fund.name, cash if paper is not None else "")
        # A real broker must never be sent an id that another run of the same fund has used.
        run = digest if paper is not None else stable_id(digest, self.clock.now())
        agents = tuple(told["agents"])
        return Started(run, self.fund.name, self.mode, agents, told["settings"], feed, broker, cash, __version__, digest)

    def _sleeps(self, waking: Waking, market: Market) -> bool:
        """Pass over a bar of a history at which nothing is held or on order, and nobody is asked."""
        state = self._state
        busy = state.portfolio.positions or state.orders or self.cycle + 1 == self.resumed_at
        if busy or not self._history or self._foreseen or self.dealing.paper is None:
            return False
        asked = waking.awake(market, self.cycle + 1, state)
        if asked:
            self._asked = (self.cycle + 1, asked)
            return False
        self.cycle += 1
        self._market = market
        if isinstance(self.clock, SimulatedClock):
            self.clock.move_to(market.now)
        return True

    async def _step(self, market: Market, after: datetime | None) -> Decision | None:
        token, patience = pure.set(self._insisted), unhurried.set(self._stops)
        try:
            if self._foreseen and self._ahead is None:
                # What the log holds of the first bar is not asked again.
                known = self._state.current if self.cycle + 1 == self.resumed_at and market.now == self._last else {}
                self._ahead = Ahead(self.fund.pipeline, self._foreseen, self.feed, after, known)
            return await self._cycle(market)
        finally:
            unhurried.reset(patience)
            pure.reset(token)

    async def _cycle(self, market: Market) -> Decision | None:
        self.cycle += 1
        self._market = market
        self._news, self._quiet, self._ids = [], [], self._rows.pop(self.cycle, {})
        self._opened = self.cycle == self.resumed_at
        if self._opened and market.now != self._last:
            self._leave_unfinished()
        if isinstance(self.clock, SimulatedClock):
            self.clock.move_to(market.now)
        self._began = self.clock.now()
        self.enter("reconciling")
        if not self._opened:
            await self._observe(market)
        elif self.dealing.paper is not None:
            self.dealing.paper.advance(market)  # it has seen this bar, but after a restart it does not know the market yet
        state = self._state
        snapshot = Snapshot(state, market, {}, market_now=self._now)
        opinions = dict(state.current) if self._opened else {}
        decision = state.decision if self._opened else None
        self._again = decision is not None
        if decision is None:
            decision = await self._decide(snapshot, opinions)
        if decision is None:
            return None
        await self._act(decision)
        told = [a for a in self.fund.pipeline.after if not rare(a.agent) or a.agent.due(market, self.cycle, state.portfolio)]
        if told:
            after = snapshot.decided(self._state, decision)
            await self._consult(told, after, opinions)
            await self._record(self._quiet)
        return decision

    def _leave_unfinished(self) -> None:
        """Go on behind a cycle whose moment has passed: its orders may or may not have been sent."""
        self.cycle += 1
        self._opened = False
        for state in tuple(self._state.orders.values()):
            if state.status is OrderStatus.INTENDED:
                lost = Answered(state.order.id, OrderStatus.UNKNOWN, "the fund stopped while the order was on its way")
                self.learn(lost)

    # -- observe ---------------------------------------------------------------------------------------------------

    async def _observe(self, market: Market) -> None:
        before = self._state.equity
        day = market.now.date() if self._last is None or market.now.date() != self._last.date() else None
        self._last = market.now
        await self.look()
        if self.dealing.paper is None and not self.dealing.settled and not self.dealing.wrong:
            await self.clock.sleep(self.dealing.settle_s)
            await self.look()
        if self._runs:
            self._keeping.note(self._keeping.permit())
        state = self._state
        prices = {**state.prices, **market.prices()}
        equity = state.portfolio.equity(prices) if state.portfolio.positions else state.portfolio.cash
        equity = equity.quantize(CENT)
        seen = Observed(prices, equity, max(state.peak_equity, equity), before if day is not None else state.day_equity)
        self._state = state.observe(self.cycle, market.now, seen)

    async def look(self) -> None:
        """Learn what the broker says that is news, and hold its books against the log's."""
        for _ in range(2):  # what trades between two questions makes a difference that a second look does not see
            for gone in await self.dealing.busts(self._state):
                self.learn(Busted(gone, fill=await self._settled(gone)))
            for fill in await self.dealing.fills(self._market, self._state):
                self.learn(Filled(fill))
            for answered in await self.dealing.answers(self._state, self.clock.now()):
                self.learn(answered)
            if self.dealing.paper is None and await self._hear_others():
                continue
            if await self.dealing.compare(self._state, self._lots):
                break
        if self.dealing.wrong != self._state.wrong:
            self.learn(Reconciled(self.dealing.wrong))

    async def _settled(self, fill_id: str) -> Fill | None:
        """Return a fill that the state has added up and knows no more, None where it still does or never did."""
        state = self._state
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
                self._state = self._state.apply(message)
                if isinstance(event := message.event, Intended):
                    self.dealing.known.add(event.order.id)
        return heard

    @property
    def _lots(self) -> Mapping[str, Decimal]:
        return {instrument.symbol: instrument.lot_size for instrument in self.feed.instruments}

    def learn(self, event: Event) -> None:
        """Take in an event that `write_news`, or the cycle that it belongs to, puts on the log."""
        self._news.append(event)
        self._state = self._state.apply(self._message(event))

    async def write_news(self) -> None:
        """Put what was learned between two cycles on the log."""
        if self._news:
            if self._market is not None and not self._opened:
                self._open()  # what the cycle observed goes first, or its marks would be lost
            else:
                self._buffer += [self._message(event) for event in self._news]
            self._news = []
            await self._flush()

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
            kept = self._waking.kept(self._state)
            opinions |= {name: one for name, one in kept.items() if name not in asked and name not in opinions}
        await self._consult(asking, snapshot, opinions)
        if self._ahead is not None:
            for number, call in enumerate(await self._ahead.leftovers(snapshot.now)):
                self._open()
                self._buffer.append(self._message(Called(call), part=("left over", number)))
        proposals = {a.name: opinions[a.name] for a in pipeline.proposers if a.name in opinions}
        proposed = {name: o.value for name, o in proposals.items() if o.stance is Stance.VALUE}
        if not proposed:
            before = self.fund.context.state.opinions
            told = [o for o in self._quiet if _differs(o, before.get(o.agent))]
            # A live market does not come again, so its marks (peak, day) are on the log at every bar.
            await self._record(told, cycle=bool(self._news) or not self._history)
            return None
        missing = next((name for name, o in proposals.items() if o.stance is Stance.UNAVAILABLE), "")
        assert self._market is not None
        moment = Moment(self.cycle, self._state, self._market, self._began)
        work = self.deciding.conclude(moment, proposed, missing, opinions)
        decision, order = await (self._keeping.during(work) if self._runs else work)
        if order is not None:
            self.dealing.known.add(order.id)
        await self._record(self._quiet, Decided(decision), *([Intended(order)] if order else []))
        return decision

    async def _consult(self, agents: Sequence[SafetyWrapper[Any]], snapshot: Snapshot, opinions: dict[str, Opinion]) -> None:
        ahead, elsewhere = self._ahead, self.fund.workers

        def ask(agent: SafetyWrapper[Any], context: Snapshot) -> Judged | Awaitable[Judged]:
            if elsewhere is not None and elsewhere.hosts(agent.name):
                # Agents after the decision see the state that it led to, the others the one they were asked in.
                return elsewhere.ask(agent, context, self._state, self._lead.token if self._lead is not None else 0)
            return ahead.ask(agent, context) if ahead is not None and ahead.covers(agent) else agent.opine(context)

        outer = calls.set(self._lost)
        try:
            self.enter("asking")
            # A log of the past is the same however long anybody takes; live, what was paid for is written at once.
            work = self.fund.pipeline.consult(agents, snapshot, opinions, self._on_opinion, ask=ask, in_order=self._history)
            await (self._keeping.during(work) if self._runs else work)
        finally:
            calls.reset(outer)
        if elsewhere is not None:
            self._lost += elsewhere.paid()
        await self._write_lost()

    async def _write_lost(self) -> None:
        """Write down calls that belong to no opinion: they were paid for."""
        if self._lost and self._market is not None:
            rows, self._lost[:] = tuple(self._lost), ()
            self._open()
            for call in rows:
                self._buffer.append(self._message(Called(call), part=uuid.uuid4().hex))
            await self._flush()

    async def _stop_asking(self) -> None:
        """Stop asking ahead of time, and write down every call that is not on the log yet."""
        if self._ahead is not None:
            self._lost += await self._ahead.close()
            self._ahead = None
        if self.fund.workers is not None:
            await self.fund.workers.end()
            self._lost += self.fund.workers.paid()
        with suppress(BusError):  # the log failed, which is why the run stops; nothing more can be written
            await self._write_lost()
            if self._buffer:
                await self._flush()

    # -- record ----------------------------------------------------------------------------------------------------

    async def _on_opinion(self, agent: SafetyWrapper[Any], judged: Judged) -> None:
        opinion, rows = judged
        if not rows:
            self._quiet.append(opinion)
            return
        if self._stops and opinion.stance is Stance.UNAVAILABLE and rows[-1].outcome not in _ANSWERED:
            self._lost += rows
            raise LLMUnavailable(
                f"at bar {self.cycle:,} nobody answered {agent.name} ({opinion.reason}): run again to carry on"
            )
        # An answer that was paid for is durable before anything else happens: after a crash it is not asked again.
        self._open()
        for call in rows:
            self._add(Called(call))
        self._add(Opined(opinion))
        if self.fund.bus.durability != "none":
            await self._flush()

    async def _record(self, opinions: list[Opinion], *events: Event, cycle: bool = False) -> None:
        if not (opinions or events or cycle or self._buffer):
            return
        self._open()
        for opinion in opinions:
            self._add(Opined(opinion))
        for event in events:
            self._add(event)
        self._quiet = []
        await self._flush()

    def _open(self) -> None:
        """Write what was observed, once a cycle has something to say."""
        if self._opened:
            return
        self._opened = True
        state = self._state
        for event in self._news:
            self._buffer.append(self._message(event))
        seen = Observed(dict(state.prices), state.equity, state.peak_equity, state.day_equity)
        self._buffer.append(self._message(seen))
        self._news = []

    def _heard(self, approved: Approved) -> None:
        self._open()
        self._add(approved)

    def _add(self, event: Event) -> None:
        self._buffer.append(self._message(event))

    def _tripped(self, route: str, state: BreakerState, retry_after: float) -> None:
        # JSON has no infinity: a route that is switched off names no time.
        self._trips.append(Tripped(route, str(state), retry_after if math.isfinite(retry_after) else -1.0))

    async def _flush(self) -> None:
        async with self._writing:
            await self._write()

    async def _write(self) -> None:
        self._progress += 1
        while self._trips:
            self._add(self._trips.popleft())
        batch, self._buffer = self._buffer, []
        paid = [message for message in batch if message.type == Called.__name__]
        if self._lead is not None and not self._lead.valid:
            if paid:  # what was paid is owed, whoever leads
                await self.fund.bus.publish(paid, sync=self.sync)
            self._lead.check()
        try:
            self._tail = await self.fund.bus.publish(batch, sync=self.sync)
        except (BusError, asyncio.CancelledError):
            self._buffer = paid  # for a last try
            raise
        self.fund.context.apply(batch)
        self._state = self.fund.context.state
        if self._lead is not None and wants_snapshot(self._tail, self._snapshot):
            self._snapshot = self._tail
            self._snapping = asyncio.ensure_future(self._leave_snapshot())

    async def _leave_snapshot(self) -> None:
        try:
            await refresh(self.fund.bus, self.fund.name, PastView(self.fund.pipeline.outputs), clock=self.clock)
        except BusError as error:  # a shortcut that is missing does no harm
            _log.warning("no snapshot of the fund %r was left: %s", self.fund.name, error)

    def _message(self, event: Any, *, part: object = "") -> Message:
        """Put an event into its envelope; its id depends on the run, the cycle and what it is, never on chance."""
        run = event.run if isinstance(event, Started) else self._state.run
        kind = type(event)
        if part:
            pass
        elif kind is Called:
            agent = event.call.agent
            self._ids[agent] = number = self._ids.get(agent, 0) + 1
            part = (agent, event.call.digest, number)
        elif kind is Tripped:
            self._ids[event.route] = number = self._ids.get(event.route, 0) + 1
            part = (event.route, event.state, number)
        elif kind in _PARTS:
            part = _PARTS[kind](event)
            if (kind is Answered and self.dealing.paper is None) or (kind in (Levelled, Reconciled) and self._runs):
                part = (part, self.clock.now())  # it may be said again, and is news each time
        time = self._market.now if self._market is not None else self.clock.now()
        token = self._lead.token if self._lead is not None else 0
        # A log keeps an id once: what a leader of the past still writes must not stand in this one's place.
        led = (token,) if token else ()
        return Message.of(
            event,
            id=stable_id(run, self.cycle, kind.__name__, part, *led),
            stream=self.fund.name,
            producer=event.opinion.agent if kind is Opined else "orchestrator",
            time=time,
            cycle=self.cycle,
            appended=self.clock.now(),
            token=token,
        )

    # -- act -------------------------------------------------------------------------------------------------------

    async def _act(self, decision: Decision) -> None:
        """Send the decision's order if the log says that it is intended and nothing says what became of it."""
        if decision.outcome is Outcome.ORDERED and decision.direction is Direction.FLAT:
            for answered in await self.dealing.take_back(self._state, decision.symbol):
                self._add(answered)
            await self._flush()
        for state in tuple(self._state.orders.values()):
            if state.status is not OrderStatus.INTENDED or state.order.decision != decision.id:
                continue
            late = (self.clock.now() - state.order.time).total_seconds() > self.fund.limits.max_decision_age_s
            if self._again and (late or not self.dealing.broker.dedupes_ids):
                lost = Answered(state.order.id, OrderStatus.UNKNOWN, "the fund stopped while the order was on its way")
                self._add(lost)
                await self._flush()
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
            await self.write_news()
        reduces = self._state.portfolio.quantity(order.symbol) * order.side.sign < 0 and order.reduce_only
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
        self._add(answered)
        await self._flush()

    async def _check_ours(self, order: Order) -> None:
        """Make sure that the order on the log is ours: a second process on the same log may have written another."""
        if getattr(self.fund.bus, "in_process", False):
            return
        if self._lead is not None:
            self._lead.check()
        async for message in self.fund.bus.read(self.fund.name, after=max(self._tail - RECENT, 0)):
            if self._lead is not None and message.token > self._lead.token:
                raise LeaseLost(f"another process leads the fund {self.fund.name!r} (token {message.token}): this one stops")
            if isinstance(event := message.event, Intended) and event.order.id == order.id and event.order != order:
                raise LogMismatch(f"another process runs the fund {self.fund.name!r} on this log: stop one of them")

    async def _finish(self) -> None:
        if self._market is None or not self._history:
            return  # a live market that stops has not come to an end
        state = self._state
        self._opened = True
        self._news = []
        prices = {**state.prices, **self._market.prices()}  # bars that were passed over had prices too
        self._add(Ended(self.cycle, self.cycle, prices, state.equity))
        await self._flush()


def _additions(routers: Sequence[Router], insisted: frozenset[str] | None) -> dict[str, dict[str, str]]:
    """Return the routes that are not asked about the past, and those that are although, each with what it adds."""
    if insisted is None:
        return {}
    found: dict[str, dict[str, str]] = {"not_asked": {}, "insisted": {}}
    for router in routers:
        added = router.additions()
        found["insisted"] |= {name: what for name, what in added.items() if name in insisted}
        refused = {name: what for name, what in added.items() if name not in insisted}
        found["not_asked"] |= refused
        if refused and {llm.name for llm in router.routes} <= set(refused):
            names = ", ".join(refused)
            raise ConfigError(
                f"{names} would put {next(iter(refused.values()))} into every prompt, so a backtest on real data would not be"
                f" honest: add a route that does not, such as Anthropic(), or say Backtest(..., insist={sorted(refused)!r})"
            )
    return {name: what for name, what in found.items() if what}


@asynccontextmanager
async def closing(source: AsyncIterator[Item]) -> AsyncIterator[AsyncIterator[Item]]:
    """Close what gives items when its reader leaves early, so that nothing of it is left to run."""
    try:
        yield source
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


# What tells one event from another of its kind in the same cycle.
_PARTS: Mapping[type[Any], Callable[[Any], object]] = {
    Opined: lambda event: event.opinion.agent,
    Filled: lambda event: event.fill.id,
    Busted: lambda event: event.fill_id,
    Answered: lambda event: (event.order_id, event.status),
    Intended: lambda event: event.order.id,
    Levelled: lambda event: (event.level, event.lease, event.cause),
    Promoted: lambda event: (event.before, event.mode),
    Reconciled: lambda event: event.wrong,
}


def _differs(opinion: Opinion, before: Opinion | None) -> bool:
    if before is None or opinion.stance is not before.stance:
        return True
    if opinion.stance is Stance.UNAVAILABLE:
        return opinion.reason != before.reason
    return bool(opinion.value != before.value)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], stream: str) -> str:
    changed = [name for name in old if name not in ("run", "version", "digest") and old[name] != new[name]]
    return (
        f"the log's stream {stream!r} holds another run: {', '.join(changed)} changed since."
        " Choose another file or another name for the fund; a log is never overwritten"
    )
