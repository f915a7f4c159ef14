"""The fund's log, read on and on; and a book made of it, where no broker has one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from agentfund.errors import BrokerUnavailable, BusError, BusUnavailable
from agentfund.watchdog.told import Told

if TYPE_CHECKING:
    from agentfund.protocols import Bus
    from agentfund.trading import Book


class LogReader:
    """Reads what is new in a fund's log.

    Args:
        bus: the log, or what opens it: a fund that has not begun has none yet.
        fund: name of the fund's stream, or what says it once it is known.
    """

    def __init__(self, bus: Bus | Callable[[], Bus], fund: str | Callable[[], str]) -> None:
        self._open = bus
        self._bus: Bus | None = None if callable(bus) else bus
        self._fund = fund
        self.told = Told()
        self.rewound = ""

    def __repr__(self) -> str:
        return f"<LogReader of {self._fund!r} at {self.told.offset}>"

    async def read(self) -> Told:
        """Read what is new and return the whole.

        Raises:
            BusUnavailable: the log cannot be read now.
            BusError: it never will.
        """
        fund = self._fund() if callable(self._fund) else self._fund
        if not fund:
            raise BusUnavailable("nobody knows yet which fund it is: no heartbeat was seen, and --fund does not say")
        if self._bus is None:
            assert callable(self._open)
            self._bus = self._open()
        try:
            return await self._read(self._bus, fund)
        except BusError:
            with suppress(BusError):
                await self.close()  # a file that another process has opened to write, say, has to be opened again
            raise

    async def _read(self, bus: Bus, fund: str) -> Told:
        told = self.told
        async for message in bus.read(fund, after=told.offset):
            told.add(message)
        newest = await bus.last(fund)
        if told.offset and (newest is None or newest.offset < told.offset):
            self.rewound = f"the log went to {told.offset} and now ends at {newest.offset if newest else 0}"
        elif newest is not None and newest.offset == told.offset and newest.id != told.newest:
            self.rewound = f"message {told.offset} of the log was {told.newest} and now is {newest.id}"
        return told

    async def close(self) -> None:
        """Let go of the log."""
        if self._bus is not None and callable(self._open):
            bus, self._bus = self._bus, None
            await bus.close()


class LogBook:
    """A `Watched` for paper trading: what the fund's own log says is held and rests. Nobody else's word is behind it.

    Args:
        bus: the log, or what opens it.
        fund: the fund's name, or what says it once it is known.
    """

    word = "log"
    """Whose word it is; a broker's session has none."""

    def __init__(self, bus: Bus | Callable[[], Bus], fund: str | Callable[[], str]) -> None:
        self._reader = LogReader(bus, fund)

    def __repr__(self) -> str:
        return f"<LogBook of {self._reader!r}>"

    async def book(self) -> Book:
        """Return positions, cash, and orders that are open by the log, with the stops and targets of what is held.

        Raises:
            BrokerUnavailable: the log cannot be read.
        """
        try:
            told = await self._reader.read()
        except BusError as error:
            raise BrokerUnavailable(f"the log, which stands in for the broker, cannot be read: {error}") from None
        if not told.began:
            raise BrokerUnavailable("the log, which stands in for the broker, has no run yet: start the fund")
        return told.book()
