"""Hands: a session that may cancel, and at level 4 close, for a fund that does not do so itself."""

from __future__ import annotations

import asyncio
import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from agentfund.clock import SystemClock
from agentfund.errors import OrderRejected
from agentfund.messages import stable_id
from agentfund.secrets import scrub
from agentfund.trading import ZERO, Book, Level, Order, OrderState, OrderType, Resting, Side
from agentfund.watchdog.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from agentfund.protocols import Clock

_log = logging.getLogger("agentfund")

Value = TypeVar("Value")

_CLOSING = "closing-"


@runtime_checkable
class Handed(Protocol):
    """A broker session that looks, takes orders back, and sends what closes a position."""

    async def book(self) -> Book:
        """Return account and resting orders."""
        ...

    async def cancel(self, order_id: str) -> OrderState:
        """Take an order back."""
        ...

    async def submit(self, order: Order) -> OrderState:
        """Send an order."""
        ...


class Hands:
    """Acts on a halt where the fund does not: entries that still rest some seconds after the latch are taken back.

    At level 3 stops stay. At level 4 all orders are taken back where positions are to be closed, and then the positions are;
    else what protects them stays, at any level. Each order has the same id however often it is sent, so that a position is
    closed once; a new id only after the broker said no.

    Args:
        session: the session. Nothing else uses it.
        close: whether positions are closed at level 4; they are kept otherwise.
        after_s: seconds that the fund has to do it by itself.
        every_s: seconds from try to try.
        deadline_s: seconds that one call may take.
        machine: its clocks.
        clock: what waits.
    """

    def __init__(
        self,
        session: Handed,
        *,
        close: bool = False,
        after_s: float = 3.0,
        every_s: float = 1.0,
        deadline_s: float = 3.0,
        machine: Machine | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._session = session
        self._close = close
        self._after_s = after_s
        self._every_s = every_s
        self._deadline_s = deadline_s
        self._machine = machine or Machine()
        self._clock = clock or SystemClock()
        self._level = Level.NORMAL
        self._since = 0.0
        self._cause = ""
        self._refused: dict[str, int] = {}
        self._sent: set[str] = set()
        self._held: dict[str, Decimal] = {}
        self.did: list[str] = []

    def __repr__(self) -> str:
        return f"<Hands on {type(self._session).__name__}: {'close' if self._close else 'keep'}>"

    def told(self, level: Level, cause: str) -> None:
        """Learn what is latched now; costs nothing."""
        if level < Level.HALT:
            self._level = Level.NORMAL
        elif level != self._level or cause != self._cause:
            if self._level < Level.HALT:
                self._since = self._machine.uptime()
            self._level, self._cause = level, cause

    async def keep(self) -> None:
        """Act where it is needed, until cancelled."""
        while True:
            try:
                await self.once()
            except Exception as error:  # whatever the broker says, try again
                _log.error("watchdog: its hands failed: %s", scrub(f"{type(error).__name__}: {error}"))
            await self._clock.sleep(self._every_s)

    async def once(self) -> None:
        """Look, and take back or close what should not be there; each call to the broker has a deadline.

        Raises:
            Exception: what the session raises.
        """
        if self._level < Level.HALT or self._machine.uptime() - self._since < self._after_s:
            return
        book = await self._soon(self._session.book())
        closing = self._close and self._level is Level.KILL
        for one in book.resting:
            if not one.id.startswith(_CLOSING) and (closing or _adds(one, book)):
                await self._try(self._session.cancel(one.id), f"cancel {one.id}")
        if closing:
            await self._close_all(book)
        self._held = dict(book.account.positions)

    async def _close_all(self, book: Book) -> None:
        for symbol, held in book.account.positions.items():
            if self._held.get(symbol) != held or any(
                one.symbol == symbol and one.id.startswith(_CLOSING) for one in book.resting
            ):
                continue  # something is on its way: only what stands still is closed
            name = self._name(symbol, held)
            if name in self._sent and not getattr(self._session, "dedupes_ids", False):
                continue  # it may have arrived, and this broker would take it twice
            self._sent.add(name)
            side = Side.SELL if held > 0 else Side.BUY
            order = Order(name, symbol, side, abs(held), self._machine.now(), OrderType.MARKET, reduce_only=True)
            try:
                await self._soon(self._session.submit(order))
                self.did.append(f"close {held} {symbol}")
                _log.warning("watchdog: closes %s %s", held, symbol)
            except OrderRejected as error:
                self._refused[symbol] = self._refused.get(symbol, 0) + 1
                _log.error("watchdog: %s could not be closed: %s", symbol, scrub(str(error)))
            except Exception as error:  # it may have arrived: the same id is sent again
                _log.error("watchdog: closing %s: %s", symbol, scrub(f"{type(error).__name__}: {error}"))

    def _name(self, symbol: str, held: object) -> str:
        return f"{_CLOSING}{stable_id(self._cause, symbol, held, self._refused.get(symbol, 0))[:24]}"

    async def _try(self, call: Awaitable[OrderState], what: str) -> None:
        try:
            await self._soon(call)
            self.did.append(what)
            _log.warning("watchdog: %s", what)
        except Exception as error:  # the next try follows
            _log.error("watchdog: %s: %s", what, scrub(f"{type(error).__name__}: {error}"))

    async def _soon(self, call: Awaitable[Value]) -> Value:
        return await asyncio.wait_for(call, self._deadline_s)


def _adds(one: Resting, book: Book) -> bool:
    """Return whether an order could open or enlarge a position: no exit, and no leg that goes with its entry."""
    held = book.account.positions.get(one.symbol, ZERO)
    if one.entry or held * one.side.sign < 0:
        return False
    if one.type is not OrderType.STOP or held:
        return True
    # On nothing held a stop may be the leg of an entry that rests: that one goes first.
    return not any(
        other.symbol == one.symbol and other.side is not one.side and other.type is not OrderType.STOP for other in book.resting
    )
