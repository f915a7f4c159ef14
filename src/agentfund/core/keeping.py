"""What a live fund does between its bars: it looks at the broker on a timer, and at what it may do several times a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from agentfund.core.permission import Unwatched, permit
from agentfund.messages import Answered, Intended, Levelled, stable_id
from agentfund.trading import Level, Order, OrderStatus, Permit, Side

if TYPE_CHECKING:
    from decimal import Decimal

    from agentfund.core.session import Session
    from agentfund.market import Market

Item = TypeVar("Item")
_log = logging.getLogger("agentfund")

LOOK_S = 0.1
"""Seconds between two looks at level and lease."""

OnKill = Literal["close", "keep"]
"""What becomes of positions at level 4: they are closed at the market, or kept with their stops."""


class Keeping:
    """Keeps a live fund between its bars.

    Args:
        session: the run.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._told: tuple[int, bool] | None = None
        self._looked = float("-inf")
        self._suspended = False
        self._timer: asyncio.Future[Any] | None = None
        self._bell: asyncio.Future[Any] | None = None
        self._watched = not isinstance(session.fund.permission, (Unwatched, type(None)))
        self._live = session.dealing.paper is None

    def permit(self) -> Permit:
        """Return what the fund may do at this moment."""
        return permit(self._session.fund.permission, live=self._live)

    async def arrivals(self, markets: AsyncIterator[Market]) -> AsyncIterator[Market]:
        """Give what a feed gives, and keep the fund while it gives nothing."""
        waiting: asyncio.Future[Market | None] | None = None
        try:
            while True:
                waiting = asyncio.ensure_future(_next(markets))
                while not waiting.done():
                    self._session.enter("waiting")
                    await self._pause(waiting)
                    if not waiting.done():
                        await self.look()
                market = waiting.result()
                if market is None:
                    return
                if self.permit().level >= Level.HALT:  # a feed that is always ready must not hold a halt up
                    await self.look()
                yield market
        finally:
            for alarm in (
                self._timer,
                self._bell,
            ):  # not waited for: a reader that just stops closes several generators at once
                if alarm is not None:
                    alarm.cancel()
            if waiting is not None and not waiting.done():
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)

    async def during(self, work: Coroutine[Any, Any, Item]) -> Item:
        """Await work that may take long, such as that of agents, and let a halt take effect meanwhile."""
        if not self._watched:
            return await work
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=LOOK_S)
                if not task.done() and (allowed := self.permit()).level >= Level.HALT:
                    await self._halt(allowed)
        finally:
            if not task.done():  # cancelled, or the halt could not be written down: nobody goes on without a run
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        return task.result()

    async def look(self) -> None:
        """Do what the level asks for; compare log and broker where it is time."""
        session = self._session
        allowed = self.note(self.permit())
        if allowed.level >= Level.HALT:
            await self._take_back()  # before a broker that answers slowly is asked anything else
        if self._live and (self._woken() or session.clock.monotonic() - self._looked >= self._every):
            session.enter("reconciling")
            await session.look()
            self._looked = session.clock.monotonic()
        await session.writer.write_news()
        if allowed.level >= Level.HALT:
            await self._halt(allowed)

    def note(self, allowed: Permit) -> Permit:
        """Put a change of level or lease on the log, and return the permit."""
        told = (int(allowed.level), allowed.lease)
        if told != (self._told or (self._session.state.level, self._session.state.lease)):
            self._session.writer.learn(Levelled(*told, allowed.reason, allowed.cause))
            why = f": {allowed.reason}" if allowed.reason else ""
            _log.warning("level %s, %s%s", allowed.level.name, "lease" if allowed.lease else "no lease", why)
        self._told = told
        return allowed

    @property
    def _every(self) -> float:
        return self._session.fund.reconcile.total_seconds()

    def _woken(self) -> bool:
        wake = getattr(self._session.dealing.broker, "wake", None)
        if not isinstance(wake, asyncio.Event) or not wake.is_set():
            return False
        wake.clear()
        return True

    async def _pause(self, waiting: asyncio.Future[Any]) -> None:
        others = {waiting}
        if self._timer is None or self._timer.done():
            self._timer = asyncio.ensure_future(self._session.clock.sleep(self._every))
        others.add(self._timer)
        wake = getattr(self._session.dealing.broker, "wake", None)
        if isinstance(wake, asyncio.Event):
            if self._bell is None or self._bell.done():
                self._bell = asyncio.ensure_future(wake.wait())
            others.add(self._bell)
        # A watchdog lives in real time, whatever the fund's clock does.
        await asyncio.wait(others, timeout=LOOK_S if self._watched else None, return_when=asyncio.FIRST_COMPLETED)

    # -- halts -----------------------------------------------------------------------------------------------------

    async def _halt(self, allowed: Permit) -> None:
        session = self._session
        await self._take_back()
        if allowed.level < Level.KILL:
            return
        if session.fund.on_kill == "close":
            if self._live and session.state.portfolio.positions:
                await session.look()  # a stop may have fired since
                await session.writer.write_news()
            for symbol in tuple(session.state.portfolio.positions):
                await self._close(symbol, allowed)
        suspend = getattr(session.dealing.broker, "suspend", None)
        if suspend is not None and not self._suspended and (session.fund.on_kill == "keep" or self._flat):
            try:
                await asyncio.wait_for(suspend(), session.fund.broker_timeout.total_seconds())
                self._suspended = True
            except Exception as error:  # asked again at the next look
                _log.warning("the account could not be suspended at the broker: %s", error)

    async def _take_back(self) -> None:
        session = self._session
        for answered in await session.dealing.take_back(session.state):
            session.writer.learn(answered)
        await session.writer.write_news()

    @property
    def _flat(self) -> bool:
        state = self._session.state
        return not state.orders and not any(self._tradable(symbol) for symbol in state.portfolio.positions)

    def _tradable(self, symbol: str) -> Decimal:
        """Return how much of a position can be closed: nobody takes less than a lot."""
        held = abs(self._session.state.portfolio.quantity(symbol))
        instrument = next((one for one in self._session.feed.instruments if one.symbol == symbol), None)
        return held if instrument is None else instrument.round_quantity(held)

    async def _close(self, symbol: str, allowed: Permit) -> None:
        session, state = self._session, self._session.state
        if any(mine.order.symbol == symbol and mine.order.reduce_only for mine in state.orders.values()):
            return  # it is on its way
        name = f"halt {allowed.cause or 'without a lease'}"
        tried = [order.time for order in state.recent if order.decision == name and order.symbol == symbol]
        if tried and session.clock.now() < tried[-1] + session.fund.reconcile:
            return  # it was refused a moment ago
        if not (quantity := self._tradable(symbol)):
            return
        order = Order(
            id=stable_id(state.run, name, symbol, len(session.dealing.known)),
            symbol=symbol,
            side=Side.SELL if state.portfolio.quantity(symbol) > 0 else Side.BUY,
            quantity=quantity,
            time=session.clock.now(),
            reduce_only=True,
            decision=name,
            token=state.token,
        )
        session.dealing.known.add(order.id)
        session.writer.learn(Intended(order))
        await session.writer.write_news()
        await session.send(order, closing=True)


def refusal(order: Order, allowed: Permit, *, adds: bool) -> str:
    """Return why an order that the gate allowed a moment ago may not leave now; empty where it may."""
    if allowed.level >= Level.HALT:
        return f"not sent: {allowed.level.name.lower()} since: {allowed.reason}"
    if adds and (not allowed.lease or allowed.level >= Level.REDUCE_ONLY):
        return f"not sent: nothing may add risk since: {allowed.reason or 'there is no lease'}"
    return ""


def never_sent(order: Order, reason: str) -> Answered:
    """Return the answer to an order of which no byte has left."""
    return Answered(order.id, OrderStatus.REJECTED, reason)


async def _next(markets: AsyncIterator[Market]) -> Market | None:
    with suppress(StopAsyncIteration):
        return await anext(markets)
    return None
