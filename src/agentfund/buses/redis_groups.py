"""A consumer of a group: takes messages by one script each, and says by another what became of them."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import uuid
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from agentfund.buses import redis_scripts as scripts
from agentfund.buses import wire
from agentfund.buses.delivery import Delivery
from agentfund.buses.redis_log import text
from agentfund.errors import BusError, BusUnavailable

if TYPE_CHECKING:
    from agentfund.buses.redis_link import Ask, Pool
    from agentfund.buses.redis_log import Log, Words

_POLL_S = 1.0  # how seldom an idle consumer asks although nothing came
_AGAIN_S = 0.5  # how long to wait before a server that was gone for a whole timeout is asked again
_MICROSECOND = timedelta(microseconds=1)
_log = logging.getLogger(__name__)


class Consumer:
    """One consumer, from the beginning of its iterator to the end.

    Args:
        log: the log.
        pool: the connections of its event loop, for answers.
        own: a connection of its own, for waiting.
        group: its group.
        stream: the stream it consumes, None for all.
        lease: how long it may work on a message.
        max_attempts: how often a message is handed over.
    """

    def __init__(
        self, log: Log, pool: Pool, own: Pool, group: str, stream: str | None, *, lease: timedelta, max_attempts: int
    ) -> None:
        self._log = log
        self._pool = pool
        self._own = own
        self._lease = lease
        self._max_attempts = max_attempts
        self._tag = uuid.uuid4().hex[:12].encode()
        self._only = (0, b"") if stream is None else (1, text(stream))
        self._keys = log.group(group, stream)
        self._held: list[Delivery] = []
        self._unsure: set[int] = set()  # offsets whose ack may have arrived
        self._careful_until = 0.0  # until then, a lost answer may have given it a message that it does not know of
        self._idle: tuple[float, bytes, bytes] | None = None  # how long to wait for what comes after these places
        self._poll_s = min(_POLL_S, lease.total_seconds() / 2)
        self._gone = self._left = False

    async def take(self) -> Delivery | None:
        """Return the next message; None where there was none for a while."""
        clock, careful = asyncio.get_running_loop().time, self._careful_until
        ask, began = self._ask(clock() < careful), clock()
        self._careful_until = math.inf
        try:
            found = await self._log.run(self._own, ask)
        except BusUnavailable as error:
            if not self._own.closed:
                if not self._gone:
                    _log.warning("a consumer waits for its server: %s", error)
                self._gone = True
                await asyncio.sleep(_AGAIN_S)
            return None
        if ask.repeated or careful == math.inf:
            careful = clock() + self._poll_s + _AGAIN_S  # so long may what was sent before still wait in the server
        self._careful_until = careful
        if self._gone:
            _log.warning("a consumer goes on, its server is back: %s", self._log.home)
        self._gone = False
        return self._found(found, began)

    async def leave(self) -> None:
        """Hand back what was not answered for; where that fails, the lease does it."""
        self._left = True
        lost = asyncio.get_running_loop().time() < self._careful_until
        if lost or any(not delivery.settled for delivery in self._held):
            with suppress(BusError):
                await self._log.run(self._pool, self._log.ask(scripts.RELEASE, self._keys, (self._tag,)))

    def _ask(self, careful: bool) -> Ask:
        self._held = [delivery for delivery in self._held if not delivery.settled]
        base: Words = (self._tag, self._lease // _MICROSECOND, self._max_attempts)
        again: Words = (*base, 1, *self._only, *(delivery.message.offset for delivery in self._held))
        ask = self._log.ask(scripts.TAKE, self._keys, again if careful else (*base, 0, *self._only), again)
        if self._idle:
            ask.waits_s, end, bell = self._idle
            places = (self._log.log, self._keys[-1], end + b"-0", bell + b"-0")
            ask.blocking = (b"XREAD", b"COUNT", 1, b"BLOCK", math.ceil(ask.waits_s * 1_000), b"STREAMS", *places)
            self._idle = None
        return ask

    def _found(self, found: bytes, began: float) -> Delivery | None:
        place, number, *rest = found.split(b" ", 2)
        if place == b"0":
            end, bell = rest[0].split(b" ")
            if wait := int(number):
                self._idle = (min(wait / 1e6, self._poll_s) if wait > 0 else self._poll_s, end, bell)
            return None
        message = self._log.message(int(place), wire.value(rest[0], int(place), self._log.home))
        delivery = Delivery(message, int(number), partial(self._answer, began + self._lease.total_seconds()))
        self._held.append(delivery)
        return delivery

    async def _answer(self, ends: float, delivery: Delivery, reason: str | None) -> None:
        offset, attempt, key = delivery.message.offset, delivery.attempt, text(delivery.message.key)
        verdict = b"done" if reason is None else b"dead" if attempt >= self._max_attempts else b"again"
        holder = b"%d %s" % (attempt, self._tag)
        args = (offset, holder, key, verdict, json.dumps(reason or "").encode())
        ask = self._log.ask(scripts.SETTLE, self._keys, args)
        try:
            mine = await self._log.run(self._pool, ask) == b"1"
        except BusUnavailable:
            self._unsure.add(offset)
            raise
        # Within the lease nobody else can have had it: it is gone because an ack arrived whose answer was lost.
        lost = (ask.repeated or offset in self._unsure) and not self._left and asyncio.get_running_loop().time() < ends
        if not mine and not lost and reason is None:
            raise BusError(
                f"{self._log.home}: message {offset} was handed to another consumer before this ack, so it may take effect "
                f"twice; make the lease of {self._lease} longer than the longest work"
            )
        self._unsure.discard(offset)
