"""A live fund at a real adapter, driven bar by bar, that can die and start again: what public failures are told with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, cast

from agentfund import Decision, Direction, MemoryBus, Proposal, SimulatedClock, Snapshot
from agentfund.core.agent import FunctionAgent
from agentfund.core.session import Session
from agentfund.market import Market
from agentfund.messages import Answered, Event, Filled
from agentfund.trading import OrderStatus, Portfolio
from tests.core.test_hostile import Live
from tests.flowing import Flowing
from tests.market import START, bars, fund, yes

ZERO = Decimal(0)
BAR = timedelta(seconds=10)
"""Length of a bar: six of them are as long as an order may be on its way."""


class Fund:
    """A fund whose wish the test speaks, at whatever broker it is started with. Its log outlives each start.

    Args:
        symbol: the one instrument; it stands at 100.
        options: of the fund.

    Attributes:
        session: the run since the newest start.
        decisions: what was decided, oldest first.
    """

    def __init__(self, symbol: str = "SIM", **options: Any) -> None:
        self.symbol, self.bus, self.clock = symbol, MemoryBus(), SimulatedClock(START)
        self._source = bars([100.0] * 200, symbol=symbol, minutes=BAR / timedelta(minutes=1))  # type: ignore[arg-type]
        self._options = {"broker_timeout": timedelta(seconds=5), **options}
        self._wants: str | None = None
        self._shown = 0
        self._steps: AsyncGenerator[Decision | None, None] | None = None
        self.session: Session
        self.decisions: list[Decision] = []

    def start(self, broker: Any) -> None:
        """Start a process at a broker; it carries on from the log, with the next bar."""

        def propose(context: Snapshot) -> Proposal | None:
            return Proposal(direction=Direction(self._wants), stop_pct=2, target_pct=4) if self._wants else None

        says = FunctionAgent(propose, output=Proposal, name="says")
        one = fund(says, yes, bus=self.bus, clock=self.clock, **self._options)
        self.session = one.session(Live(self._source, self.clock, skip=self._shown), broker)
        self._steps = cast("AsyncGenerator[Decision | None, None]", self.session.steps())

    async def bar(self, wants: str | None = None, *, times: int = 1) -> Decision | None:
        """Let bars close, at each of which the fund wants something; return the last decision."""
        decision = None
        assert self._steps is not None
        for _ in range(times):
            self._wants = wants
            self._shown += 1
            decision = await anext(self._steps)
            self.decisions.extend([decision] if decision is not None else [])
        return decision

    async def die(self) -> None:
        """End the process between two bars: only its log is left."""
        if self._steps is not None:
            await self._steps.aclose()
        self._steps = None

    @property
    def held(self) -> Decimal:
        """The position by the log."""
        return self.session.state.portfolio.quantity(self.symbol)

    @property
    def open(self) -> list[OrderStatus]:
        """How the open orders stand, by the log."""
        return [mine.status for mine in self.session.state.orders.values()]

    async def log(self, *kinds: type[Any]) -> list[Any]:
        """Return what is on the log of some kinds."""
        return [event async for message in self.bus.read("fund") if isinstance(event := message.event, kinds)]

    async def statuses(self) -> list[OrderStatus]:
        """Return every answer of the broker that is on the log."""
        return [event.status for event in await self.log(Answered)]

    async def booked(self) -> Portfolio:
        """Return the book that follows from the fills on the log alone, each added up as often as it stands there."""
        book = Portfolio(Decimal(100_000))
        for event in await self.log(Filled):
            book = book.apply(event.fill)
        return book


class Quiet(Flowing):
    """A market that goes quiet after its bars: what happens then is not found because a bar closes.

    No bar is left out, however slow the machine is: the clock begins with the first.

    Attributes:
        quiet: whether no bar comes any more.
    """

    quiet = False

    async def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        """Give the bars as they close, and wait for ever."""
        self.clock.began = self.clock.monotonic()
        async for market in self.feed.stream(after):
            await asyncio.sleep(max(0.0, (market.now - self.clock.now()).total_seconds()))
            self.newest = market
            yield market
        self.quiet = True
        await asyncio.Event().wait()


def ids(events: Sequence[Event]) -> list[str]:
    """Return the execution ids of fills on a log."""
    return [event.fill.id for event in events if isinstance(event, Filled)]
