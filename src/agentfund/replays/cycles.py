"""A recorded run cycle by cycle: what each left on the log, and the book as it stood when the cycle decided."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from agentfund.core.context import State
from agentfund.messages import (
    Answered,
    Approved,
    Called,
    Decided,
    Ended,
    Filled,
    Intended,
    Observed,
    Opined,
    Opinion,
    Started,
)
from agentfund.replays.recorded import TOLD, Claims

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from datetime import datetime

    from agentfund.messages import Call, Message
    from agentfund.replays.recorded import Recorded
    from agentfund.trading import Decision, Fill, Order

Heard = tuple[Opinion | None, Opinion | None]
"""An agent's opinion by the log, and in the rerun; None where it gave none."""


class Cycle:
    """What one cycle left on a log.

    Attributes:
        number: its number; 0 is before the first bar.
        time: when it was, None where the log holds nothing of it.
        written: when its newest message was written, None where the log holds nothing of it.
        messages: what a rerun writes too, where messages are kept.
        said: opinions by agent.
        rows: the calls behind them, by agent.
        decision: what it came to, None where nothing was proposed.
        orders: orders that were meant to be sent.
        fills: fills that were seen, each with the moment.
        approvals: what a person said.
        seen: its marks.
        ended: what the run came to.
        others: opinions that were others in the rerun, by agent.
    """

    __slots__ = (
        "approvals",
        "decision",
        "ended",
        "fills",
        "messages",
        "number",
        "orders",
        "others",
        "rows",
        "said",
        "seen",
        "time",
        "written",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.time: datetime | None = None
        self.written: datetime | None = None
        self.messages: list[Message] = []
        self.said: dict[str, Opinion] = {}
        self.rows: dict[str, tuple[Call, ...]] = {}
        self.decision: Decision | None = None
        self.orders: list[Order] = []
        self.fills: list[tuple[Fill, datetime]] = []
        self.approvals: list[Approved] = []
        self.seen: Observed | None = None
        self.ended: Ended | None = None
        self.others: dict[str, Heard] = {}

    def add(self, message: Message, rows: list[Call]) -> None:
        """Put one message where it belongs; `rows` holds the calls since the last opinion."""
        self.time = message.time
        self.written = message.appended or self.written
        match message.event:
            case Called(call):
                rows.append(call)
            case Opined(opinion):
                self.said[opinion.agent] = opinion
                if rows:
                    self.rows[opinion.agent] = tuple(rows)
                    rows.clear()
            case Decided(decision):
                self.decision = decision
            case Intended(order):
                self.orders.append(order)
            case Filled(fill):
                self.fills.append((fill, message.time))
            case Approved() as event:
                self.approvals.append(event)
            case Observed() as event:
                self.seen = event
            case Ended() as event:
                self.ended = event


def cycle_of(number: int, messages: list[Message]) -> Cycle:
    """Return a cycle of messages that are here already."""
    cycle, rows = Cycle(number), list[Any]()
    for message in messages:
        cycle.add(message, rows)
    return cycle


class Cycles:
    """Reads a recorded run forward, one cycle at a time; of what lies behind it keeps the book and the newest opinions.

    Args:
        recorded: the run.
        keep: whether cycles keep their messages.

    Attributes:
        now: the cycle that was read last.
        last: newest opinion of each agent before it.
        state: the fund as its agents saw it in this cycle: cash, positions, orders and marks; opinions are not in it.
    """

    def __init__(self, recorded: Recorded, *, keep: bool = False) -> None:
        self.now = Cycle(0)
        self.last: dict[str, Opinion] = {}
        self.state = State()
        self._run = recorded.started.run
        self._keep = keep
        self._source: AsyncGenerator[Message, None] = recorded.stream()
        self._ahead: Message | None = None
        self._over = False
        self._claims = Claims()
        self._later: list[Message] = []

    async def to(self, number: int, passed: Callable[[Cycle], None] | None = None) -> Cycle:
        """Read up to the end of a cycle and return it.

        Args:
            number: of the cycle, above those that were read.
            passed: told each cycle in between of which the log holds anything.
        """
        while True:
            following = await self._peek()
            if following is None or following.cycle > number:
                self._enter(number)
                return self.now
            self._enter(following.cycle)
            await self._fill()
            if following.cycle == number:
                return self.now
            if passed is not None:
                passed(self.now)

    async def close(self) -> None:
        """Stop reading."""
        async with aclosing(self._source):
            self._over = True

    async def _peek(self) -> Message | None:
        if self._ahead is None and not self._over:
            self._ahead = await anext(self._source, None)
            self._over = self._ahead is None
        return self._ahead

    def _enter(self, number: int) -> None:
        if number == self.now.number:
            return
        self.last.update(self.now.said)
        for message in self._later:
            self.state = self.state.apply(message)
        self._later.clear()
        self.now = Cycle(number)

    async def _fill(self) -> None:
        cycle, rows, deciding = self.now, list[Any](), False
        while (message := await self._peek()) is not None and message.cycle <= cycle.number:
            self._ahead = None
            if message.type not in TOLD:
                continue
            if message.type == Called.__name__ and not self._claims.holds(self._run, message):
                continue
            if self._keep:
                cycle.messages.append(message)
            cycle.add(message, rows)
            event = message.event
            # A cycle begins with what it observed; whatever comes after the first question is not seen by its agents.
            deciding = deciding or isinstance(event, (Called, Opined, Decided, Intended, Approved))
            if isinstance(event, (Started, Filled, Intended, Answered, Observed)):
                if deciding:
                    self._later.append(message)
                else:
                    self.state = self.state.apply(message)
