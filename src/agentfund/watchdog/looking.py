"""Looking at the broker and the log without ever waiting for them: each question has a deadline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Generic, TypeVar

from agentfund.errors import BrokerUnavailable
from agentfund.secrets import scrub

if TYPE_CHECKING:
    from agentfund.protocols import Clock, Watched
    from agentfund.trading import Book
    from agentfund.watchdog.machine import Machine

Value = TypeVar("Value")


class Look(Generic[Value]):
    """The newest answer to a question, and how old it is.

    Args:
        ask: asks.
        machine: its clocks.
        deadline_s: how long an answer may take.

    Attributes:
        value: the newest answer, None before the first.
        at: uptime when it was asked for.
        wall: wall time when it came.
        error: why the last question got no answer, empty where it did.
    """

    def __init__(self, ask: Callable[[], Awaitable[Value]], machine: Machine, deadline_s: float) -> None:
        self.value: Value | None = None
        self.at = 0.0
        self.wall: datetime | None = None
        self.error = ""
        self._ask = ask
        self._machine = machine
        self._deadline_s = deadline_s

    async def once(self) -> None:
        """Ask once; whatever goes wrong is an error to be shown, never raised."""
        asked = self._machine.uptime()
        try:
            value = await asyncio.wait_for(self._ask(), self._deadline_s)
        except TimeoutError:
            self.error = f"no answer within {self._deadline_s:g} s"
        except Exception as error:  # a session may fail in any way, and the watchdog goes on
            self.error = scrub(f"{type(error).__name__}: {error}")[:500]
        else:
            self.value, self.at, self.wall, self.error = value, asked, self._machine.now(), ""

    async def keep(self, every_s: float, clock: Clock, news: asyncio.Event) -> None:
        """Ask again and again, so many seconds apart, and tell when there is news."""
        while True:
            began = self._machine.uptime()
            await self.once()
            news.set()
            await clock.sleep(max(0.01, every_s - (self._machine.uptime() - began)))


class Apart:
    """A broker session in a thread with an event loop of its own: however it hangs, checks go on.

    Args:
        make: makes the session; called in that thread.
        pace_s: seconds that it wants between two questions.
    """

    def __init__(self, make: Callable[[], Watched], pace_s: float = 0.0) -> None:
        self.pace_s = pace_s
        self._make = make
        self._session: Watched | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="agentfund broker session", daemon=True).start()

    async def book(self) -> Book:
        """Return the broker's book.

        Raises:
            BrokerUnavailable: it does not answer.
        """
        return await self.call(self._book)

    async def call(self, what: Callable[[], Awaitable[Value]]) -> Value:
        """Return what is awaited in the thread of the session."""

        async def awaited() -> Value:
            return await what()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(awaited(), self._loop))

    async def _book(self) -> Book:
        if self._session is None:
            self._session = self._make()
        found = self._session.book
        if not callable(found):
            raise BrokerUnavailable("the session has no book()")
        return await found()
