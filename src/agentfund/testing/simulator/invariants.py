"""What must be true of every run, whatever goes wrong: looked at as it happens, and when all is over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from agentfund.core.context import SharedContext, State
from agentfund.core.dealing import ABSENT
from agentfund.errors import BrokerUnavailable, BusError, FeedError, LLMUnavailable, LogMismatch
from agentfund.market import decimal
from agentfund.messages import (
    Answered,
    Busted,
    Called,
    Decided,
    Filled,
    Intended,
    Led,
    Levelled,
    Message,
    Observed,
    Opined,
    Started,
)
from agentfund.testing.simulator.exchange import total
from agentfund.testing.simulator.process import Killed
from agentfund.trading import ZERO, Fill, Level, Order, OrderStatus

if TYPE_CHECKING:
    from agentfund.prompt import Prompt
    from agentfund.testing.simulator.bus import Disk
    from agentfund.testing.simulator.exchange import Exchange
    from agentfund.testing.simulator.llm import Provider
    from agentfund.testing.simulator.permission import Said
    from agentfund.testing.simulator.process import Process, Truth

INVARIANTS = {
    "acknowledged": "a message whose writer was told that it is durable is on the log, once",
    "intent": "no order reaches the broker before its intent is durable, word for word",
    "order_once": "no order id is sent twice to a broker that does not dedupe",
    "fill_once": "every fill that the broker has told counts once in the book, and nothing else does",
    "books": "once all is calm the log's cash and positions are the broker's",
    "fate": "an order changes its fate on the log by the broker's word alone, never by time",
    "forgotten": "an order that works or has traded is not called rejected or cancelled, and one that works stays open",
    "halted": "no order leaves for the broker after a halt was said, and nothing that adds risk without a lease",
    "resting": "under a halt no entry of the fund's rests at a broker that answers",
    "killed": "at level 4 no position stays at a broker that answers, where positions are to be closed",
    "level": "the level and the lease on the log are what the watchdog said last",
    "stranger": "nothing adds risk while the broker lists an order of somebody else",
    "sent_once": "an execution sends no order twice, whatever the broker would do with the second",
    "journal": "an execution has written down durably that it sends an order before a byte of it leaves",
    "exposure": "what the fund has sent can never bring it beyond its leverage",
    "billed": "every amount that was billed is on the log",
    "budget": "no more is spent than the budget says",
    "asked_again": "nobody is asked again about what is on the log already",
    "order_of_log": "one start, cycles and moments that only go forward, one decision in each",
    "fold": "the state in memory is the fold of the log",
    "errors": "no error leaves the fund but the documented ones",
    "cancelled": "a fund that is cancelled ends",
    "left_running": "a fund that has ended leaves nothing running",
    "ends": "the fund comes to the end of its bars",
    "same_log": "a backtest that was interrupted leaves the same log",
    "sealed": "nothing reaches for the real world",
    "repeatable": "the same seed gives the same run",
}
"""What is checked, by name."""

_DOCUMENTED = (BusError, FeedError, BrokerUnavailable, LLMUnavailable)
_MANY = 20
HEALED_S = 700.0
"""Virtual seconds within which a fund under a halt has done what the halt asks for, once nothing goes wrong any more."""
_OVER = Decimal("1.05")
"""Room for prices that move between the check and the order."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be.

    Args:
        name: the invariant.
        what: what was found.
    """

    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.name}: {self.what}"


class Watch:
    """Looks at a run of one fund.

    Args:
        truth: what really happens.
        disk: the log.
        exchange: the book; None where the broker is on paper.
    """

    def __init__(self, truth: Truth, disk: Disk, exchange: Exchange | None) -> None:
        self.violations: list[Violation] = []
        self.exchange = exchange
        self.arrivals: Counter[str] = Counter()
        self._truth = truth
        self._disk = disk
        self._intents: dict[str, Order] = {}
        self._answered: set[tuple[datetime, str]] = set()
        self._token = 0
        self._exempt: set[int] = set()
        self._folded = (-1, State())
        self._journaled: set[str] = set()
        self._sent: Counter[str] = Counter()
        disk.told = self.durable
        truth.word.lifting = self.lifting

    def fail(self, name: str, what: str) -> None:
        """Write down a violation."""
        assert name in INVARIANTS, name
        found = Violation(name, what)
        if found not in self.violations and len(self.violations) < _MANY:
            self.violations.append(found)
            self._truth.tell(f"VIOLATION {found}")

    # -- as it happens -----------------------------------------------------------------------------------------------

    def durable(self, message: Message) -> None:
        """See a message that has become durable."""
        if message.type == Led.__name__:
            self._token = max(self._token, message.token)
        elif 0 < message.token < self._token:
            return  # whoever wrote it had lost the lead: it does not count
        elif isinstance(event := message.event if message.type == Intended.__name__ else None, Intended):
            order = event.order
            if self._intents.setdefault(order.id, order) != order:
                self.fail("intent", f"two intents of order {order.id[:8]}")
        elif isinstance(event := message.event if message.type == Opined.__name__ else None, Opined):
            self._answered.add((message.time, event.opinion.agent))
        elif message.type == "Sending":
            self._journaled.add(message.payload["order"])

    def sending(self, process: Process, order: Order) -> None:
        """See an order a moment before a byte of it leaves."""
        word, now = self._truth.word, self._truth.seconds
        closing = order.reduce_only and order.decision.startswith("halt ")
        halted, adding = word.halted_since(), word.adding_since()
        if halted is not None and halted < now and not closing:
            self.fail("halted", f"order {order.id[:8]} leaves {now - halted:.1f} s after a halt was said")
        if adding is not None and adding < now and not order.reduce_only:
            self.fail("halted", f"entry {order.id[:8]} leaves {now - adding:.1f} s after nothing may add risk any more")
        known = process.permit
        if known is not None and known.level >= Level.HALT and not closing:
            self.fail("halted", f"order {order.id[:8]} leaves although the halt was seen")
        if known is not None and (known.level >= Level.REDUCE_ONLY or not known.lease) and not order.reduce_only:
            self.fail("halted", f"entry {order.id[:8]} leaves although it was seen that nothing may add risk")
        if process.strange and not order.reduce_only:
            self.fail("stranger", f"entry {order.id[:8]} leaves while an order of somebody else is listed")
        self._sent[order.id] += 1
        if process.sends and self._sent[order.id] > 1:
            self.fail("sent_once", f"order {order.id[:8]} is sent {self._sent[order.id]} times")
        if process.sends and order.id not in self._journaled:
            self.fail("journal", f"order {order.id[:8]} leaves, and it is not written down that it is sent")

    def lifting(self, said: Said) -> None:
        """See what has become of a halt a moment before it is lifted; where much went wrong meanwhile nothing is asked for."""
        truth, exchange = self._truth, self.exchange
        living = [process for process in truth.processes if process.alive and process.main is not None]
        began = max([said.since, truth.troubled_until, *(process.born for process in living)])
        if exchange is None or not living or truth.seconds - began < HEALED_S:
            return
        exchange.advance(truth.seconds)
        permit = truth.word.now
        if truth.seconds - truth.word.changed >= HEALED_S:
            last = next((one.payload for one in reversed(self._disk.messages) if one.type == Levelled.__name__), {})
            if (last.get("level"), last.get("lease")) != (int(permit.level), permit.lease):
                self.fail("level", f"the watchdog says {permit.level.name}, lease {permit.lease}; the log {last}")
        if permit.level < Level.HALT:
            return
        closing = set()
        for line in exchange.lines.values():
            if line.status.open and line.order.reduce_only:
                closing.add(line.order.symbol)
            elif line.status.open:
                self.fail(
                    "resting", f"entry {line.name[:8]} rests {truth.seconds - began:.0f} s under a halt in which all was calm"
                )
        held = exchange.account(truth.seconds).positions
        fund = next((process.fund for process in truth.processes if process.fund is not None), None)
        if said.level >= Level.KILL and fund is not None and fund.on_kill == "close" and (left := held.keys() - closing):
            self.fail("killed", f"{', '.join(left)} is held {truth.seconds - began:.0f} s after all was calm at level 4")

    def arrived(self, order: Order, writer: int, twin: bool) -> None:
        """See an order arrive at the exchange; `twin` where the network has doubled it."""
        assert self.exchange is not None
        intent = self._intents.get(order.id)
        if intent is None:
            self.fail("intent", f"order {order.id[:8]} arrives and no intent is durable")
        elif intent != order:
            self.fail("intent", f"order {order.id[:8]} arrives as {order}, intended was {intent}")
        if twin:
            return
        self.arrivals[order.id] += 1
        if self.arrivals[order.id] > 1 and not self.exchange.dedupes_ids:
            self.fail("order_once", f"order {order.id[:8]} was sent {self.arrivals[order.id]} times")
        own = self._truth.processes[writer - 1].fund
        fund = own or next((process.fund for process in self._truth.processes if process.fund is not None), None)
        if fund is None or order.reduce_only or order.id in self.exchange.lines:
            return
        most = self.exchange.equity * decimal(fund.limits.max_leverage) * _OVER
        worst = self.exchange.worst_case(order)
        if worst > most:
            self.fail("exposure", f"with order {order.id[:8]} {worst:.0f} may be held, at most {most:.0f} is allowed")

    def asked(self, process: Process, prompt: Prompt) -> None:
        """See a question arrive at a language model."""
        if process.moment is not None and (process.moment, prompt.agent) in self._answered:
            self.fail("asked_again", f"{prompt.agent} is asked again about {process.moment:%H:%M}")

    def overdue(self, process: Process) -> None:
        """See a fund go on that was cancelled."""
        self.fail("cancelled", f"process {process.number} goes on long after it was cancelled")
        process.alive = False
        for task in process.tasks:
            task.cancel()

    def ended(self, process: Process, error: BaseException | None, *, alone: bool) -> None:
        """See the end of a process."""
        killed = not process.alive or isinstance(error, Killed)
        if killed or process.mute:
            self._exempt.add(process.number)
        if killed or process.fund is None:
            return
        cancelled = process.cancelled and isinstance(error, asyncio.CancelledError)
        documented = isinstance(error, _DOCUMENTED) and not (alone and isinstance(error, LogMismatch))
        if error is not None and not cancelled and not documented:
            self.fail("errors", f"{type(error).__name__}: {error}")
        # Who is stopped in the middle of a write may not know what came of it; the next process reads it.
        stopped = isinstance(error, BusError | asyncio.CancelledError)
        if alone and not stopped and not process.mute and not process.deaf:
            fund = process.fund
            folded = SharedContext(fund.pipeline.outputs).apply(self._disk.messages)
            self._folded = len(self._disk), folded
            if different := _differences(fund.context.state, folded):
                self.fail("fold", f"memory and log differ in {different}")

    # -- when all is over --------------------------------------------------------------------------------------------

    def settled(self, provider: Provider, finished: Process | None) -> None:
        """Look at the whole of a run once it is over."""
        messages = self._disk.messages
        counts = Counter(message.id for message in messages)
        for name in sorted(self._disk.acknowledged):
            if counts[name] != 1:
                self.fail("acknowledged", f"{name} is on the log {counts[name]} times")
        counted = list(self._counted(messages))
        self._order(counted)
        self._bills(provider, messages)
        if self.exchange is not None:
            length, state = self._folded
            if length != len(messages):
                state = SharedContext().apply(messages)
            self._fates(self.exchange, counted, state)
            self._levels(counted, state)
            if finished is not None and finished.shown is not None and not finished.mute:
                self._books(self.exchange, counted, state, finished.shown)

    def _counted(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Leave out what was written by who had lost the lead."""
        token = 0
        for message in messages:
            token = max(token, message.token) if message.type == Led.__name__ else token
            if not 0 < message.token < token or message.type == Called.__name__:
                yield message

    def _order(self, messages: list[Message]) -> None:
        starts = sum(message.type == Started.__name__ for message in messages)
        if starts > 1:
            self.fail("order_of_log", f"{starts} starts")
        cycle, moment = 0, None
        decided: set[int] = set()
        for message in messages:
            if message.type == Observed.__name__:
                if message.cycle <= cycle:
                    self.fail("order_of_log", f"cycle {message.cycle} begins after cycle {cycle}")
                if moment is not None and message.time <= moment:
                    self.fail("order_of_log", f"{message.time:%H:%M} is observed after {moment:%H:%M}")
                cycle, moment = message.cycle, message.time
            elif message.type == Decided.__name__:
                if message.cycle in decided:
                    self.fail("order_of_log", f"cycle {message.cycle} has two decisions")
                decided.add(message.cycle)

    def _bills(self, provider: Provider, messages: list[Message]) -> None:
        rows: dict[int, Decimal] = {}
        for message, writer in zip(messages, self._disk.writers, strict=True):
            if message.type == Called.__name__:
                rows[writer] = rows.get(writer, ZERO) + Decimal(message.payload["call"]["billed_usd"])
        unseen = ZERO
        for writer, billed in provider.billed.items():
            missing = billed - rows.get(writer, ZERO)
            if missing > 0 and writer not in self._exempt:
                self.fail("billed", f"process {writer} owes {billed} USD, its rows say {rows.get(writer, ZERO)} USD")
            unseen += max(missing, ZERO) if writer in self._exempt else ZERO
        fund = next((process.fund for process in self._truth.processes if process.fund is not None), None)
        for budget in fund.pipeline.budgets if fund is not None else ():
            paid = sum(provider.billed.values(), ZERO) - unseen
            for window in budget.windows:
                if window.span is None and paid > window.limit:
                    self.fail("budget", f"{paid} USD were billed, {window.name} is {window.limit} USD")

    def _fates(self, exchange: Exchange, messages: list[Message], state: State) -> None:
        last: dict[str, OrderStatus] = {}
        for message in messages:
            if message.type == Answered.__name__ and isinstance(event := message.event, Answered):
                last[event.order_id] = event.status
                unsent = event.status is OrderStatus.REJECTED and not self._sent[event.order_id]
                # What is proven absent must never have arrived, nor arrive later.
                arrived = (line for line in exchange.lines.values() if line.order.id == event.order_id)
                over = (OrderStatus.REJECTED, OrderStatus.CANCELLED)
                proven = event.reason == ABSENT and all(line.status in over and not line.pieces for line in arrived)
                said = unsent or proven or exchange.was_told(event.order_id, event.status)
                if event.status is not OrderStatus.UNKNOWN and not said:
                    self.fail("fate", f"order {event.order_id[:8]} is {event.status} on the log; the broker never said so")
        for name, line in exchange.lines.items():
            filled = line.order.quantity - line.left
            if line.status.open and name not in state.orders:
                self.fail("forgotten", f"order {name[:8]} works at the broker and is {last.get(name, 'unknown')} on the log")
            elif filled and last.get(name) is OrderStatus.REJECTED:
                self.fail("forgotten", f"order {name[:8]} has traded and is rejected on the log")

    def _levels(self, messages: list[Message], state: State) -> None:
        """In the end all is calm, so the watchdog says that all is well, where anybody has asked it."""
        if not self._truth.counts["permit"]:
            return
        last = next((message.event for message in reversed(messages) if message.type == Levelled.__name__), None)
        if isinstance(last, Levelled) and (last.level, last.lease) != (0, True):
            self.fail("level", f"the log says level {last.level}, lease {last.lease}; the watchdog said that all is well since")
        if state.level:
            self.fail("level", f"the fund is at level {state.level} by its log; the watchdog said that all is well since")

    def _books(self, exchange: Exchange, messages: list[Message], state: State, shown: float) -> None:
        mine: dict[str, Fill] = {}
        cash: Decimal | None = None
        for message in messages:
            if message.type == Started.__name__ and isinstance(start := message.event, Started):
                cash = start.cash
            if message.type == Filled.__name__ and isinstance(event := message.event, Filled):
                if event.fill.id in mine:
                    self.fail("fill_once", f"fill {event.fill.id[-12:]} is on the log twice")
                mine[event.fill.id] = event.fill
        for message in messages:
            if message.type == Busted.__name__ and isinstance(bust := message.event, Busted):
                mine.pop(bust.fill_id, None)
        theirs = {fill.id: fill for fill in exchange.fills(shown)}
        for name in sorted(theirs.keys() - mine.keys()):
            self.fail("fill_once", f"fill {name[:8]}{name[-8:]} was told and is not on the log")
        for name in sorted(mine.keys() - theirs.keys()):
            self.fail("fill_once", f"fill {name[:8]}{name[-8:]} is on the log and never happened")
        if cash is None:
            return
        account = exchange.account(shown)
        held = {symbol: quantity for symbol, quantity in account.positions.items() if quantity}
        if total(theirs.values(), cash) != (account.cash, held):
            self.fail("books", "the exchange's fills do not add up to its account")
        book = (state.portfolio.cash, {symbol: p.quantity for symbol, p in state.portfolio.positions.items()})
        if book != (account.cash, held):
            self.fail("books", f"the log holds {book[0]} and {book[1]}, the broker {account.cash} and {held}")


def _differences(mine: State, folded: State) -> str:
    """Return what differs; whose lead it is is not looked at, because renewals go to the log alone."""
    left_out = {"leader", "token", "leads_until", "time"}
    a, b = mine._asdict(), folded._asdict()
    for one in (a, b):  # an execution writes orders of its own, which the fund hears of later
        one["recent"] = sorted(one["recent"], key=lambda order: (order.time, order.id))
    return ", ".join(name for name in a if name not in left_out and a[name] != b[name])
