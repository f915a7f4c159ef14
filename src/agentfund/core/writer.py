"""A run's hand on its log: nothing that was learned or decided counts before it is written there."""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from agentfund.core.context import State
from agentfund.core.past import PastView
from agentfund.core.views import due as wants_snapshot
from agentfund.core.views import refresh
from agentfund.errors import BusError
from agentfund.messages import (
    Answered,
    Approved,
    Busted,
    Call,
    Called,
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
    Started,
    Tripped,
    stable_id,
)

if TYPE_CHECKING:
    from agentfund.core.breaker import BreakerState
    from agentfund.core.leader import Leadership
    from agentfund.core.ledger import Row
    from agentfund.core.session import Session

_log = logging.getLogger("agentfund")


class Writer:
    """Writes a run's events in order, each once, and has the state that they add up to.

    What a cycle observed is written with its first word, so that a bar at which nobody says anything costs nothing.

    Args:
        session: the run.
        lead: its lead among the processes that could run the fund, None where there is but one.

    Attributes:
        state: the fund at this moment, what is not written yet included.
        opened: whether the cycle's observations are on the log.
        news: what was learned and is not written yet.
        lost: calls that belong to no opinion.
        tail: offset of the newest message that was written.
        snapshot: offset of the newest snapshot.
    """

    def __init__(self, session: Session, lead: Leadership | None) -> None:
        self.state = State()
        self.opened = False
        self.news: list[Event] = []
        self.lost: list[Call] = []
        self.tail = self.snapshot = 0
        self._session, self._lead = session, lead
        self._buffer: list[Message] = []
        self._ids: dict[str, int] = {}
        self._rows: dict[int, dict[str, int]] = {}
        self._trips: deque[Tripped] = deque()
        self._writing = asyncio.Lock()
        self._snapping: asyncio.Task[Any] | None = None

    def __repr__(self) -> str:
        return f"<Writer of {self._session.fund.name!r}: {self.tail} written, {len(self._buffer)} waiting>"

    def know(self, rows: Iterable[Row]) -> None:
        """Learn which calls are on the log already, as a run begins.

        What was paid for without an opinion is asked again, and gets rows of its own. A cycle whose marks could not be written
        may have left rows that could.
        """
        for row in rows:
            if row.cycle >= self.state.cycle:
                counts = self._rows.setdefault(row.cycle, {})
                counts[row.call.agent] = counts.get(row.call.agent, 0) + 1

    def turn(self, *, opened: bool) -> None:
        """Begin a cycle; `opened` where its observations are on the log already."""
        self.news, self._ids, self.opened = [], self._rows.pop(self._session.cycle, {}), opened

    def learn(self, event: Event) -> None:
        """Take in an event that `write_news`, or the cycle that it belongs to, puts on the log."""
        self.news.append(event)
        self.state = self.state.apply(self.message(event))

    def open(self) -> None:
        """Put what was observed among what is to be written, once a cycle has something to say."""
        if self.opened:
            return
        self.opened = True
        state = self.state
        seen = Observed(dict(state.prices), state.equity, state.peak_equity, state.day_equity)
        self.add(*self.news, seen)
        self.news = []

    def add(self, *events: Any) -> None:
        """Put events among what is to be written."""
        self._buffer += [self.message(event) for event in events]

    def add_rows(self, calls: Iterable[Call]) -> None:
        """Put calls that no opinion came of among what is to be written."""
        self._buffer += [self.message(Called(call), part=uuid.uuid4().hex) for call in calls]

    def add_left_over(self, calls: Iterable[Call]) -> None:
        """Put calls of questions that were asked ahead of time, and whose answers nobody needs, among it."""
        self._buffer += [self.message(Called(call), part=("left over", number)) for number, call in enumerate(calls)]

    def heard(self, approved: Approved) -> None:
        """Take in what a person said."""
        self.open()
        self.add(approved)

    def tripped(self, route: str, state: BreakerState, retry_after: float) -> None:
        """Take in that the breaker of a route changed."""
        # JSON has no infinity: a route that is switched off names no time.
        self._trips.append(Tripped(route, str(state), retry_after if math.isfinite(retry_after) else -1.0))

    async def write(self, *events: Event) -> None:
        """Put events on the log, and what was waiting before them."""
        self.add(*events)
        await self._flush()

    async def write_news(self) -> None:
        """Put what was learned between two cycles on the log."""
        if self.news:
            if self._session.market is not None and not self.opened:
                self.open()  # what the cycle observed goes first, or its marks would be lost
            else:
                self.add(*self.news)
            self.news = []
            await self._flush()

    async def record(self, opinions: Iterable[Opinion], *events: Event, cycle: bool = False) -> None:
        """Put a cycle's word on the log; `cycle` where its observations are to be there even if it has none."""
        told = [Opined(opinion) for opinion in opinions]
        if told or events or cycle or self._buffer:
            self.open()
            await self.write(*told, *events)

    async def write_lost(self) -> None:
        """Put calls on the log that belong to no opinion: they were paid for."""
        if self.lost and self._session.market is not None:
            rows, self.lost[:] = tuple(self.lost), ()
            self.open()
            self.add_rows(rows)
            await self._flush()

    async def close(self) -> None:
        """Write what can still be written, and stop."""
        try:
            with suppress(BusError):  # the log failed, which is why the run stops; nothing more can be written
                await self.write_lost()
                if self._buffer:
                    await self._flush()
        finally:
            if self._snapping is not None:
                self._snapping.cancel()
                await asyncio.gather(self._snapping, return_exceptions=True)

    async def _flush(self) -> None:
        async with self._writing:
            await self._publish()

    async def _publish(self) -> None:
        session, fund = self._session, self._session.fund
        session.enter()
        while self._trips:
            self.add(self._trips.popleft())
        batch, self._buffer = self._buffer, []
        paid = [message for message in batch if message.type == Called.__name__]
        if self._lead is not None and not self._lead.valid:
            if paid:  # what was paid is owed, whoever leads
                await fund.bus.publish(paid, sync=session.sync)
            self._lead.check()
        try:
            self.tail = await fund.bus.publish(batch, sync=session.sync)
        except (BusError, asyncio.CancelledError):
            self._buffer = paid  # for a last try
            raise
        fund.context.apply(batch)
        self.state = fund.context.state
        if self._lead is not None and wants_snapshot(self.tail, self.snapshot):
            self.snapshot = self.tail
            self._snapping = asyncio.ensure_future(self._leave_snapshot())

    async def _leave_snapshot(self) -> None:
        session, fund = self._session, self._session.fund
        try:
            await refresh(fund.bus, fund.name, PastView(fund.pipeline.outputs), clock=session.clock)
        except BusError as error:  # a shortcut that is missing does no harm
            _log.warning("no snapshot of the fund %r was left: %s", fund.name, error)

    def message(self, event: Any, *, part: object = "") -> Message:
        """Put an event into its envelope; its id depends on the run, the cycle and what it is, never on chance."""
        session = self._session
        run = event.run if isinstance(event, Started) else self.state.run
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
            if (kind is Answered and session.dealing.paper is None) or (kind in (Levelled, Reconciled) and session.runs):
                part = (part, session.clock.now())  # it may be said again, and is news each time
        now = session.clock.now()
        token = self._lead.token if self._lead is not None else 0
        # A log keeps an id once: what a leader of the past still writes must not stand in this one's place.
        led = (token,) if token else ()
        return Message.of(
            event,
            id=stable_id(run, session.cycle, kind.__name__, part, *led),
            stream=session.fund.name,
            producer=event.opinion.agent if kind is Opined else "orchestrator",
            time=session.market.now if session.market is not None else now,
            cycle=session.cycle,
            appended=now,
            token=token,
        )


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
