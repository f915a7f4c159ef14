"""What the fund knows: a fold over its log, and the consistent, immutable snapshots that agents see."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import BaseModel

from agentfund.errors import PipelineError
from agentfund.messages import (
    Adopted,
    Answered,
    Busted,
    Called,
    Decided,
    Ended,
    Filled,
    Intended,
    Led,
    Levelled,
    Message,
    Observed,
    Opined,
    Opinion,
    Promoted,
    Reconciled,
    Stance,
    Started,
)
from agentfund.prompt import Untrusted, mentions_untrusted
from agentfund.trading import ZERO, Decision, Fill, Order, OrderState, OrderStatus, Outcome, Portfolio, Position

if TYPE_CHECKING:
    from agentfund.market import Market, Window

Output = TypeVar("Output", bound=BaseModel)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
RECENT = 50
NEWEST = 32
"""Fills that may still change places or be taken back; those before them are settled."""
CHUNK = 256
_BUSTED = "busted "
"""Stands before the id of a fill that was taken back, among the ids that were told."""
NONE: Mapping[str, Any] = MappingProxyType({})


class State(NamedTuple):
    """The fund as its log tells it. `apply` is the whole of its behaviour.

    Attributes:
        run: id of the run, empty before it started.
        cycle: number of the newest cycle on the log.
        time: event time of the newest message.
        observed: time of the newest cycle.
        portfolio: cash and positions.
        settled: cash and positions before the newest fills.
        fills: the newest fills in the order in which they happened, however late they were told.
        prices: last known price of each instrument.
        equity: at the newest cycle's prices.
        peak_equity: highest equity so far.
        day_equity: equity when the day (UTC) began.
        day_peak_equity: highest equity of the day (UTC).
        opinions: latest opinion of each agent, by name.
        current: opinions given in the newest cycle, by name.
        decision: the newest cycle's decision, None while it is open or where nothing was proposed.
        last_decision: the newest decision of any cycle.
        orders: open orders by id, UNKNOWN ones among them.
        recent: the newest orders, oldest first.
        fill_ids: execution ids seen, so that a fill told twice counts once; in chunks, so that adding one stays cheap.
        asked: (time, agent) of each consultation of a language model in the last hour.
        acted: (time, critical, who proposed) of each decision that ordered in the last day.
        billed_usd: spent on language models.
        ended: the run came to the end of its data.
        leader: the process that leads the fund, empty where none ever did.
        token: its fencing token, which only grows.
        leads_until: when its lease ends.
        mode: how much the fund may do by itself: what it started with, or was promoted to since.
        level: what its watchdog allows, as a number of `Level`.
        lease: whether it saw a valid lease.
        wrong: how log and broker differ, one sentence each; empty where they agree.
        adopted: when a person last took over what the broker holds; fills before that are in it.
    """

    run: str = ""
    cycle: int = 0
    time: datetime | None = None
    observed: datetime | None = None
    portfolio: Portfolio = Portfolio(ZERO)
    settled: Portfolio = Portfolio(ZERO)
    fills: tuple[Fill, ...] = ()
    prices: Mapping[str, Decimal] = MappingProxyType({})
    equity: Decimal = ZERO
    peak_equity: Decimal = ZERO
    day_equity: Decimal = ZERO
    opinions: Mapping[str, Opinion] = MappingProxyType({})
    current: Mapping[str, Opinion] = MappingProxyType({})
    decision: Decision | None = None
    last_decision: Decision | None = None
    orders: Mapping[str, OrderState] = MappingProxyType({})
    recent: tuple[Order, ...] = ()
    fill_ids: tuple[frozenset[str], ...] = (frozenset(),)
    asked: tuple[tuple[datetime, str], ...] = ()
    acted: tuple[tuple[datetime, bool, tuple[str, ...]], ...] = ()
    billed_usd: Decimal = ZERO
    ended: bool = False
    leader: str = ""
    token: int = 0
    leads_until: datetime | None = None
    mode: str = ""
    level: int = 0
    lease: bool = True
    wrong: tuple[str, ...] = ()
    day_peak_equity: Decimal = ZERO
    adopted: datetime | None = None

    @property
    def drawdown(self) -> float:
        """How far equity stands below its peak, 0 to 1."""
        return float(1 - self.equity / self.peak_equity) if self.peak_equity > 0 else 0.0

    @property
    def day_return(self) -> float:
        """Profit or loss since the day (UTC) began, as a fraction of the equity then."""
        return float(self.equity / self.day_equity - 1) if self.day_equity > 0 else 0.0

    def has_seen(self, fill_id: str) -> bool:
        """Whether a fill was told before."""
        return any(fill_id in chunk for chunk in self.fill_ids)

    def is_stale(self, message: Message) -> bool:
        """Whether somebody wrote it who had lost the lead by then; it does not count, but what it says was paid did cost."""
        return 0 < message.token < self.token and message.type != Called.__name__

    def observe(self, cycle: int, time: datetime, event: Observed) -> State:
        """Return the state at the beginning of a cycle."""
        fresh = cycle != self.cycle
        same_day = self.observed is not None and self.observed.date() == time.date()
        return self._replace(
            day_peak_equity=max(self.day_peak_equity, event.equity) if same_day else event.equity,
            cycle=cycle,
            time=time,
            observed=time,
            prices=MappingProxyType(dict(event.prices)),
            equity=event.equity,
            peak_equity=event.peak_equity,
            day_equity=event.day_equity,
            current=NONE if fresh else self.current,
            decision=None if fresh else self.decision,
        )

    def apply(self, message: Message) -> State:
        """Return the state after one message; messages of other types, and of leaders of the past, change nothing."""
        if self.is_stale(message):
            return self
        event = message.event
        time = message.time
        match event:
            case Called():
                agent = event.call.agent
                asked, horizon = self.asked, time - HOUR
                if asked and asked[0][0] <= horizon:
                    asked = tuple(one for one in asked if one[0] > horizon)
                if (time, agent) not in asked:
                    asked += ((time, agent),)
                return self._replace(time=time, asked=asked, billed_usd=self.billed_usd + event.call.billed_usd)
            case Opined():
                opinion = event.opinion
                return self._replace(
                    time=time,
                    opinions=MappingProxyType({**self.opinions, opinion.agent: opinion}),
                    current=MappingProxyType({**self.current, opinion.agent: opinion}),
                )
            case Started():
                cash = event.cash
                return State(
                    run=event.run,
                    time=time,
                    portfolio=Portfolio(cash),
                    settled=Portfolio(cash),
                    mode=event.mode,
                    equity=cash,
                    peak_equity=cash,
                    day_equity=cash,
                    leader=self.leader,
                    token=self.token,
                    leads_until=self.leads_until,
                )
            case Led():
                # The first claim of a token wins it; the holder alone can renew it or give it up.
                if event.token > self.token or (event.token == self.token and event.holder == self.leader):
                    return self._replace(leader=event.holder, token=event.token, leads_until=event.until)
                return self
            case Observed():
                return self.observe(message.cycle, time, event)
            case Filled():
                fill = event.fill
                if self.has_seen(fill.id):
                    return self
                orders = self.orders
                if fill.leg == "order" and fill.order_id in orders:
                    old = orders[fill.order_id]
                    orders = _with(orders, replace(old, filled=old.filled + fill.quantity))
                return self._traded(fill)._replace(time=time, fill_ids=self._seen(fill.id), orders=orders)
            case Busted():
                return self._busted(event)._replace(time=time)
            case Adopted():
                return self._adopted(event, time)
            case Promoted():
                return self._replace(time=time, mode=event.mode)
            case Levelled():
                return self._replace(time=time, level=event.level, lease=event.lease)
            case Reconciled():
                return self._replace(time=time, wrong=event.wrong)
            case Decided():
                decision = event.decision
                acted = self.acted
                if decision.outcome is Outcome.ORDERED:
                    acted = (*(one for one in acted if one[0] > time - DAY), (time, decision.critical, decision.proposed_by))
                return self._replace(time=time, decision=decision, last_decision=decision, acted=acted)
            case Intended():
                order = event.order
                orders = MappingProxyType({**self.orders, order.id: OrderState(order, OrderStatus.INTENDED)})
                return self._replace(time=time, orders=orders, recent=(*self.recent[1 - RECENT :], order))
            case Answered():
                if event.order_id not in self.orders:
                    return self._replace(time=time)
                told = max(event.filled, self.orders[event.order_id].told)
                answered = replace(self.orders[event.order_id], status=event.status, reason=event.reason, told=told)
                return self._replace(time=time, orders=_with(self.orders, answered))
            case Ended():
                return self._replace(
                    cycle=message.cycle,
                    time=time,
                    prices=MappingProxyType(dict(event.prices)),
                    equity=event.equity,
                    peak_equity=max(self.peak_equity, event.equity),
                    current=NONE if message.cycle != self.cycle else self.current,
                    decision=None if message.cycle != self.cycle else self.decision,
                    ended=True,
                )
            case _:
                return self

    def _seen(self, fill_id: str) -> tuple[frozenset[str], ...]:
        *full, newest = self.fill_ids
        seen = (*full, newest | {fill_id})
        return seen if len(newest) < CHUNK else (*seen, frozenset())

    def _traded(self, fill: Fill) -> State:
        """Return the state with one more fill, at its place in time."""
        fills, settled = self.fills, self.settled
        if not fills or fill.time >= fills[-1].time:
            fills, portfolio = (*fills, fill), self.portfolio.apply(fill)
        else:  # told late: what came after it is added up again
            place = sum(1 for other in fills if other.time <= fill.time)
            fills = (*fills[:place], fill, *fills[place:])
            portfolio = _after(settled, fills)
        if len(fills) > NEWEST:
            settled, fills = settled.apply(fills[0]), fills[1:]
        return self._replace(portfolio=portfolio, settled=settled, fills=fills)

    def _adopted(self, event: Adopted, time: datetime) -> State:
        """Return the state that holds what the broker holds; money that came or went is neither profit nor loss."""
        positions = {
            symbol: self.portfolio.positions.get(symbol) or Position(symbol, quantity, self.prices[symbol], time)
            for symbol, quantity in event.positions.items()
        }
        positions = {symbol: replace(one, quantity=event.positions[symbol]) for symbol, one in positions.items()}
        book = replace(self.portfolio, cash=event.cash, positions=MappingProxyType(positions))
        moved = book.equity(self.prices) - self.equity
        marks = ("equity", "peak_equity", "day_equity", "day_peak_equity")
        raised = {name: getattr(self, name) + moved for name in marks}
        return self._replace(portfolio=book, settled=book, fills=(), time=time, adopted=time, wrong=(), **raised)

    def is_busted(self, fill_id: str) -> bool:
        """Whether a fill was taken back."""
        return self.has_seen(_BUSTED + fill_id)

    def _busted(self, event: Busted) -> State:
        """Return the state without a fill; one that was not told yet will not count when it is."""
        name, settled = event.fill_id, self.settled
        if self.is_busted(name):
            return self
        told = self if self.has_seen(name) else self._replace(fill_ids=self._seen(name))
        ids = told._seen(_BUSTED + name)
        gone = next((fill for fill in self.fills if fill.id == name), None)
        if gone is None:
            gone = event.fill
            if gone is None or (self.adopted is not None and gone.time < self.adopted):
                return self._replace(fill_ids=ids)  # what was taken over from the broker is as the broker has it
            # What came after it is added up already. Cash and quantities are exact; the price of entry is an average.
            settled = settled.apply(replace(gone, side=gone.side.opposite, fee=-gone.fee))
        fills = tuple(fill for fill in self.fills if fill is not gone)
        orders = self.orders
        if gone.leg == "order" and gone.order_id in orders:
            old = orders[gone.order_id]
            orders = _with(orders, replace(old, filled=old.filled - gone.quantity, told=ZERO))
        return self._replace(portfolio=_after(settled, fills), settled=settled, fills=fills, fill_ids=ids, orders=orders)


def _after(portfolio: Portfolio, fills: Iterable[Fill]) -> Portfolio:
    for fill in fills:
        portfolio = portfolio.apply(fill)
    return portfolio


def _with(orders: Mapping[str, OrderState], state: OrderState) -> Mapping[str, OrderState]:
    """Return the open orders after one of them changed: one that has ended is not among them.

    An order that the broker calls filled, in whole or in part, stays until those fills are here: before that the
    portfolio does not hold them.
    """
    over = state.status in (OrderStatus.CANCELLED, OrderStatus.REJECTED) or (
        state.status is OrderStatus.FILLED and state.told > 0
    )
    if (over and state.filled >= state.told) or state.filled >= state.order.quantity:
        return MappingProxyType({name: other for name, other in orders.items() if name != state.order.id})
    return MappingProxyType({**orders, state.order.id: state})


class Snapshot:
    """What an agent sees: the fund and the market at one moment. It never changes.

    Args:
        state: the fund.
        market: the market; None where there is none to see (a state rebuilt from the log alone).
        opinions: opinions that are in force, by agent.
        reads: output types that may be seen; None for all.
        decision: the cycle's decision, once there is one.
        market_now: gives the market at this very moment, which in live trading may be newer than `market`.
        facts: what several views of the same moment work out once.
    """

    __slots__ = ("_facts", "_market", "_market_now", "_opinions", "_reads", "decision", "state")

    def __init__(
        self,
        state: State,
        market: Market | None,
        opinions: Mapping[str, Opinion],
        *,
        reads: tuple[type[BaseModel], ...] | None = None,
        decision: Decision | None = None,
        market_now: Any = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self._facts = {} if facts is None else facts
        self.state = state
        self._market = market
        self._opinions = opinions
        self._reads = reads
        self.decision = decision
        self._market_now = market_now

    @property
    def market(self) -> Market:
        """All instruments, as they were when the cycle began.

        Raises:
            PipelineError: the snapshot was rebuilt from a log, which holds no bars.
        """
        if self._market is None:
            raise PipelineError("this snapshot was rebuilt from the log, which holds prices but no bars: use .state.prices")
        return self._market

    @property
    def market_now(self) -> Market:
        """All instruments at this very moment: newer than `market` when time has passed while others were thinking."""
        return self._market_now() if self._market_now else self.market

    @property
    def bars(self) -> Window:
        """The bars of the first instrument, as they were when the cycle began."""
        return self.market.bars

    @property
    def now(self) -> datetime:
        """When the cycle began, aware UTC."""
        if self._market is not None:
            return self._market.now
        assert self.state.time is not None
        return self.state.time

    @property
    def portfolio(self) -> Portfolio:
        """Cash and positions."""
        return self.state.portfolio

    @property
    def session(self) -> str:
        """The trading session by the hour (UTC): asia, europe, us, or closed on weekends."""
        now = self.now
        if now.weekday() >= 5:
            return "closed"
        return "asia" if now.hour < 7 else "europe" if now.hour < 13 else "us" if now.hour < 21 else "asia"

    def latest(self, kind: type[Output]) -> Output:
        """Return the newest value of an output type that the agent reads.

        Raises:
            PipelineError: the agent does not declare that it reads this type.
            LookupError: nobody has given one.
        """
        found = self.all(kind)
        if not found:
            raise LookupError(f"there is no {kind.__name__} yet")
        return found[-1]

    def all(self, kind: type[Output]) -> tuple[Output, ...]:
        """Return every agent's value of an output type that the agent reads, in the order of the pipeline."""
        if self._reads is not None and kind not in self._reads:
            declared = ", ".join(one.__name__ for one in self._reads) or "nothing"
            raise PipelineError(f"{kind.__name__} is not declared: this agent reads {declared}; add it to `reads`")
        if self.decision is not None and isinstance(self.decision, kind):
            return (self.decision,)
        return tuple(o.value for o in self._opinions.values() if o.stance is Stance.VALUE and isinstance(o.value, kind))

    def opinions(self) -> Mapping[str, Opinion]:
        """Return all opinions in force, by agent, where the reader may see all; else those it reads."""
        if self._reads is None:
            return MappingProxyType(dict(self._opinions))
        return MappingProxyType({name: o for name, o in self._opinions.items() if isinstance(o.value, self._reads)})

    @property
    def opinions_read(self) -> Mapping[str, Opinion]:
        """Every opinion that was shown, whatever its stance, by agent."""
        return self._opinions

    def seen_by(
        self,
        reads: tuple[type[BaseModel], ...],
        opinions: Mapping[str, Opinion],
        decision: Decision | None,
        portfolio: bool = True,
    ) -> Snapshot:
        """Return the same moment as an agent with these `reads` sees it, with the portfolio or without."""
        shown = decision if Decision in reads else None
        blind = self.state._replace(opinions=NONE, current=NONE, decision=None, last_decision=None, fills=())
        return (Snapshot if portfolio else MarketSnapshot)(
            blind,
            self._market,
            opinions,
            reads=reads,
            decision=shown,
            market_now=self._market_now,
            facts=self._facts,
        )

    def untrusted(self) -> dict[str, Untrusted]:
        """Return the text from outside among what is read, by a slot name that says where it comes from."""
        found: dict[str, Untrusted] = {}
        for opinion in self._opinions.values():
            if isinstance(opinion.value, BaseModel) and mentions_untrusted(type(opinion.value)):
                for number, text in enumerate(_texts(opinion.value)):
                    found[f"{opinion.agent}.{opinion.output}.{number}"] = text
        return found

    def decided(self, state: State, decision: Decision) -> Snapshot:
        """Return the same moment once the cycle has its decision."""
        return Snapshot(state, self._market, self._opinions, decision=decision, market_now=self._market_now, facts=self._facts)

    def as_inputs(self) -> dict[str, Any]:
        """Return the snapshot as JSON values for a language model: numbers first, weekday and hour but no date.

        A date would let a language model remember instead of judge.
        """
        if not self._facts:
            self._facts.update(_facts(self))
        read: dict[str, Any] = {}
        for opinion in self._opinions.values():
            value = opinion.value
            if not isinstance(value, BaseModel) or mentions_untrusted(type(value)):
                continue  # text from outside has slots of its own
            if self._reads is None or isinstance(value, self._reads):
                read.setdefault(type(value).__name__, []).append(value.model_dump(mode="json"))
        if self.decision is not None:
            read["Decision"] = [self.decision.model_dump(mode="json", exclude={"id", "time"})]
        shared = self._facts
        # Copies: what one agent does to its inputs is not seen by the next.
        market = {symbol: {**told, "change_pct": {**told["change_pct"]}} for symbol, told in shared["market"].items()}
        return {"market": market, **self._book(), "session": shared["session"], "time": shared["time"], "read": read}

    def _book(self) -> dict[str, Any]:
        state = self.state
        held = {
            symbol: {"quantity": float(p.quantity), "average_price": float(p.average_price)}
            for symbol, p in state.portfolio.positions.items()
        }
        return {
            "portfolio": {
                "cash": float(state.portfolio.cash),
                "equity": float(state.equity),
                "positions": held,
                "drawdown_pct": round(state.drawdown * 100, 3),
                "day_pnl_pct": round(state.day_return * 100, 3),
                "win_rate": state.portfolio.win_rate,
            }
        }


class MarketSnapshot(Snapshot):
    """What an agent with `sees_portfolio = False` sees: the market and what it reads, and nothing of the fund's book."""

    __slots__ = ()

    @property
    def state(self) -> State:
        """Not shown.

        Raises:
            PipelineError: always.
        """
        raise PipelineError("this agent does not see the portfolio: set sees_portfolio = True in its class")

    @state.setter
    def state(self, state: State) -> None:
        """Keep nothing: what is not there cannot be found."""

    def _book(self) -> dict[str, Any]:
        return {}


def _texts(value: Any) -> Iterator[Untrusted]:
    if isinstance(value, Untrusted):
        yield value
    elif isinstance(value, BaseModel):
        for _, part in value:
            yield from _texts(part)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for part in value:
            yield from _texts(part)


def _facts(context: Snapshot) -> dict[str, Any]:
    """Return what every agent is shown of a moment: market, session, weekday and hour."""
    market: dict[str, Any] = {}
    for symbol, window in context.market.windows.items():
        close = window.close[-21:].tolist()
        volume = window.volume[-20:].tolist()
        price = close[-1]
        recent = close[-20:]
        mean = sum(recent) / len(recent)
        spread = math.sqrt(sum((one - mean) ** 2 for one in recent) / len(recent))
        market[symbol] = {
            "price": price,
            "bar_minutes": window.interval.total_seconds() / 60,
            "change_pct": {
                str(back): round((price / close[-1 - back] - 1) * 100, 3) for back in (1, 5, 20) if len(close) > back
            },
            "high_20": max(window.high[-20:].tolist()),
            "low_20": min(window.low[-20:].tolist()),
            "mean_20": round(mean, 6),
            "stdev_20_pct": round(spread / mean * 100, 4),
            "volume": volume[-1],
            "volume_mean_20": round(sum(volume) / len(volume), 2),
        }
    return {
        "market": market,
        "session": context.session,
        "time": context.now.strftime("%A %H:%M UTC"),
    }


class SharedContext:
    """The fund's state, shared: one fold over the log, many readers.

    Writers take a lock; readers never wait, because each change puts a whole new state in the old one's place.

    Args:
        outputs: output types by name, so that values read from a log are typed again.
    """

    def __init__(self, outputs: Mapping[str, type[BaseModel]] | None = None) -> None:
        self._lock = threading.Lock()
        self._state = State()
        self._outputs = dict(outputs or {})

    @property
    def state(self) -> State:
        """The newest state."""
        return self._state

    def restore(self, state: State) -> None:
        """Put a state that was folded elsewhere, from a snapshot and the messages after it, in the place of this one."""
        with self._lock:
            self._state = state

    def apply(self, messages: Iterable[Message]) -> State:
        """Fold messages into the state, in order; return the new one. Safe from any thread or task."""
        with self._lock:
            state = self._state
            for message in messages:
                state = state.apply(typed_message(message, self._outputs))
            self._state = state
        return state

    def snapshot(self, market: Market | None = None) -> Snapshot:
        """Return an immutable, consistent view of now."""
        state = self._state
        return Snapshot(state, market, state.opinions)

    def latest(self, kind: type[Output]) -> Output:
        """Return the newest value of an output type on the log."""
        return self.snapshot().latest(kind)


def typed(opinion: Opinion, outputs: Mapping[str, type[BaseModel]]) -> Opinion:
    """Return an opinion with its value as the output type that it names, where that is known.

    Raises:
        ValueError: the value does not fit the type.
    """
    if isinstance(opinion.value, dict) and opinion.output in outputs:
        return replace(opinion, value=outputs[opinion.output].model_validate(opinion.value))
    return opinion


def typed_message(message: Message, outputs: Mapping[str, type[BaseModel]]) -> Message:
    """Return a message with the opinion in it typed, where there is one."""
    event = message.event
    if isinstance(event, Opined) and isinstance(event.opinion.value, dict):
        return replace(message, _event=Opined(typed(event.opinion, outputs)))
    return message
