"""One fund, one process: a lease on the fund's own stream, with a fencing token that only grows.

The log decides: of two claims of the same token, which have the same id, it keeps the first. Everything a leader writes
carries its token, and the fold passes over what comes with a smaller one, so a process that was frozen and wakes up after
another took over changes nothing. It finds out before its next order, because it reads the log then.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

from agentfund.errors import BusError, LeaseLost
from agentfund.messages import Led, Message, stable_id

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from agentfund.core.context import State
    from agentfund.protocols import Bus, Clock

_log = logging.getLogger("agentfund")

SKEW = 0.1
"""The part of a lease by which the clocks of two machines may differ before both could believe that they lead."""


class Leadership:
    """A process's claim to lead a fund.

    Args:
        bus: the log.
        stream: the fund's stream.
        ttl: how long a lease lasts unless it is renewed; it is renewed three times as often.
        clock: the machine's clock.
        standby: whether to wait, however long, for a leader that is alive. Otherwise only a dead one's lease is waited for.
    """

    def __init__(self, bus: Bus, stream: str, ttl: timedelta, clock: Clock, *, standby: bool = False) -> None:
        self.holder = f"{platform.node()} {os.getpid()} {uuid.uuid4().hex[:12]}"
        self.token = 0
        self._bus = bus
        self._stream = stream
        self._ttl = ttl
        self._clock = clock
        self._standby = standby
        self._ends = float("-inf")
        self._renewals = 0
        self._read = 0
        self._keeping: asyncio.Task[None] | None = None
        self._first: tuple[int, datetime | None] | None = None

    def __repr__(self) -> str:
        return f"<Leadership of {self._stream!r} by {self.holder}: token {self.token}>"

    async def claim(self, state: State) -> bool:
        """Claim the lead where nobody else has it; return whether a claim was written, after which the log has to be read on.

        Raises:
            LeaseLost: another process leads the fund and is alive.
            BusUnavailable: the log cannot be written.
        """
        until = state.leads_until
        if until is not None and state.leader != self.holder:
            seen = (state.token, until)
            renewed = self._first is not None and seen != self._first and until > self._clock.now()  # else it was given up
            if renewed and not self._standby:
                raise LeaseLost(
                    f"the fund {self._stream!r} is led by {state.leader}, which is alive: stop that process,"
                    " or wait for its end with standby=True"
                )
            self._first = self._first or seen
            left = (until + SKEW * self._ttl - self._clock.now()).total_seconds()
            if left > 0:
                await self._clock.sleep(min(left, self._ttl.total_seconds() / 3))
                return False
        await self._write(state.token + 1, first=True)
        return True

    def won(self, state: State, offset: int = 0) -> bool:
        """Return whether the log, read on after a claim and up to an offset, says that this process leads."""
        if state.leader != self.holder:
            return False
        self.token, self._read = state.token, offset
        return True

    @property
    def lost(self) -> bool:
        """Whether another process was seen to lead."""
        return self._ends == float("-inf") and self.token > 0

    @property
    def valid(self) -> bool:
        """Whether the lease still runs, with room for the difference of two clocks."""
        return self._clock.monotonic() < self._ends

    def check(self) -> None:
        """Raise where the lease has run out.

        Raises:
            LeaseLost: it could not be renewed in time, so another process may lead by now.
        """
        if not self.valid:
            raise LeaseLost(
                f"the lease of the fund {self._stream!r} could not be renewed within {self._ttl}: the fund stops here;"
                " see to the log, and start it again"
            )

    def keep(self) -> None:
        """Renew the lease in the background until `release`."""
        self._keeping = asyncio.ensure_future(self._keep())

    async def release(self) -> None:
        """Stop renewing, and give the lead up where it is still ours, so that the next leader need not wait."""
        if self._keeping is not None:
            self._keeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeping
            self._keeping = None
        if self.token and self.valid:
            self._ends = float("-inf")
            with suppress(BusError):  # then it ends by itself
                await self._write(self.token, ends=True)

    async def _keep(self) -> None:
        while True:
            await self._clock.sleep(self._ttl.total_seconds() / 3)
            try:
                await self._write(self.token)
            except BusError as error:
                _log.warning("the lease of the fund %r could not be renewed: %s", self._stream, error)
            if self.lost:
                return

    async def _write(self, token: int, *, first: bool = False, ends: bool = False) -> None:
        began, now = self._clock.monotonic(), self._clock.now()
        self._renewals += 1
        part = "" if first else f"{self.holder} {self._renewals}"
        led = Led(self.holder, token, now - SKEW * self._ttl if ends else now + self._ttl)
        message = Message.of(
            led,
            id=stable_id("led", self._stream, token, part),
            stream=self._stream,
            producer="orchestrator",
            time=now,
            token=token,
            appended=now,
        )
        await self._bus.publish([message])
        if ends or self.lost:
            return
        if not first:
            # A renewal counts only where nobody else has taken the lead meanwhile: this process may have slept.
            async for other in self._bus.read(self._stream, after=self._read):
                self._read = other.offset
                if other.token > token:
                    self._ends = float("-inf")
                    return
        self._ends = began + (1 - SKEW) * self._ttl.total_seconds()
