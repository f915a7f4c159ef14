"""The processes of `test_execution_crash`: a fund, and an execution that may be killed at a write to its journal."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from agentfund.buses.sqlite import SqliteBus
from agentfund.core import dealing
from agentfund.core.orchestrator import Orchestrator
from agentfund.core.permission import UNWATCHED
from agentfund.errors import AgentFundError
from agentfund.execution.execution import Execution
from agentfund.execution.remote import RemoteExecution
from agentfund.execution.server import serve
from agentfund.messages import Message
from agentfund.testing.chaos.line import ExchangeBroker, ExchangeFeed
from agentfund.testing.chaos.parts import FUND, LIMITS, SAFETY, agents

TOKEN = "a-token-that-nobody-guesses"
PATIENCE = timedelta(seconds=1)


class Careless(ExchangeBroker):
    """A line to an exchange that would take every order twice."""

    dedupes_ids = False


class Deadly:
    """A line to the log on which the process is killed before or after a write of one kind.

    Args:
        bus: the log.
        kind: `Sending` or `Sent`.
        after: whether it is durable by then.
        number: at which of them.
    """

    def __init__(self, bus: SqliteBus, kind: str, after: bool, number: int) -> None:
        self._bus = bus
        self._kind, self._after, self._left = kind, after, number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def publish(self, messages: Sequence[Message], *, sync: bool = True) -> int:
        """Write, and die."""
        self._left -= any(message.type == self._kind for message in messages)
        if self._left == 0 and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        last = await self._bus.publish(messages, sync=sync)
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return last


def execution(log: Path, port: int, address: str, deadly: tuple[str, bool, int] | None, careless: bool) -> None:
    """Run an execution until it is killed."""

    async def run() -> None:
        bus: Any = SqliteBus(log)
        broker = (Careless if careless else ExchangeBroker)(port)
        one = Execution(
            broker,
            bus=Deadly(bus, *deadly) if deadly is not None else bus,
            fund=FUND,
            limits=LIMITS,
            permission=UNWATCHED,
            broker_timeout=PATIENCE,
        )
        await serve(one, address, TOKEN, lambda where: None)

    asyncio.run(run())


def fund(log: Path, port: int, address: str) -> None:
    """Run a fund until it is killed, and again where it stops by itself, as a supervisor does."""
    # The exchange deals at once, so what it does not have after a second is not on its way: sixty would make the test long.
    dealing.SETTLED = 1.0

    async def run() -> None:
        bus = SqliteBus(log)
        one = Orchestrator(
            agents(),
            bus=bus,
            name=FUND,
            mode="autonomous",
            limits=LIMITS,
            permission=UNWATCHED,
            reconcile=timedelta(seconds=0.5),
            settle=timedelta(0),
            safety=SAFETY,
            broker_timeout=timedelta(seconds=0.3),
            lease=None,
        )
        broker = RemoteExecution(address, TOKEN)
        try:
            async for _ in one.run(ExchangeFeed(port), broker):
                pass
        finally:
            await broker.close()
            await bus.close()

    while True:
        try:
            asyncio.run(run())
        except AgentFundError:
            os.sched_yield()
            asyncio.run(asyncio.sleep(0.1))
