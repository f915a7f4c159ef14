"""An execution in a process of its own, started again whenever it dies, and the fund's line to it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.testing.simulator.loop import family
from agentfund.testing.simulator.process import Process, never

if TYPE_CHECKING:
    from contextvars import Context

    from agentfund.execution.execution import Execution
    from agentfund.testing.simulator.process import Truth
    from agentfund.trading import Account, Fill, Order, OrderState

WIRE_S = 0.01
RESTART_S = 5.0


class Host:
    """The lives of an execution.

    Args:
        truth: what really happens.
        make: builds the execution of a process.
    """

    def __init__(self, truth: Truth, make: Callable[[Process], Execution]) -> None:
        self._truth = truth
        self._make = make
        self._context: Context | None = None
        self._execution: Execution | None = None
        self.process: Process | None = None

    async def supervise(self) -> None:
        """Start it again and again, until cancelled."""
        while True:
            process = self.process = Process(self._truth, len(self._truth.processes) + 1)
            process.sends = True
            context = self._context = contextvars.copy_context()
            context.run(family.set, process.tasks)
            execution = self._execution = context.run(self._make, process)
            main = process.main = self._truth.loop.create_task(execution.keep(), context=context)
            try:
                await asyncio.wait((main,))
            finally:
                self._execution = None
                await self._end(process)
            self._truth.tell(f"p{process.number} (execution) ends")
            await asyncio.sleep(process.down_s if not process.alive or process.cancelled else RESTART_S)

    async def _end(self, process: Process) -> None:
        process.alive = False
        while left := [task for task in process.tasks if not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=1.0)

    async def serve(self, name: str, *arguments: Any) -> Any:
        """Answer a request; it goes on where whoever asked does not wait any more.

        Raises:
            OrderRejected: the execution says so.
            BrokerUnavailable: it says so, or it is dead, or dies meanwhile.
        """
        execution, process = self._execution, self.process
        if execution is None or process is None or not process.alive:
            raise BrokerUnavailable("nobody listens there")
        asked: Callable[..., Any] = getattr(execution, name)
        task = self._truth.loop.create_task(asked(*arguments), context=self._context)
        await asyncio.wait((task,))
        if not process.alive or task.cancelled():
            raise BrokerUnavailable("the connection was lost before the answer")
        error = task.exception()
        if isinstance(error, OrderRejected | BrokerUnavailable):
            raise error
        if error is not None:
            raise BrokerUnavailable(f"500: {type(error).__name__}: {error}")
        return task.result()

    def hear(self, seconds: float, name: str, *arguments: Any) -> None:
        """Have a request come later, for whose answer nobody waits."""

        async def later() -> None:
            await asyncio.sleep(seconds)
            try:
                await self.serve(name, *arguments)
            except (OrderRejected, BrokerUnavailable) as error:
                self._truth.tell(f"to nobody: {error}")

        contextvars.Context().run(asyncio.ensure_future, later())


class Line:
    """A fund's line to an execution in another process, as a `Broker`.

    Args:
        process: the fund's.
        host: the execution's.
    """

    dedupes_ids = True

    def __init__(self, process: Process, host: Host) -> None:
        self._process = process
        self._host = host

    async def account(self) -> Account:
        """Return cash and positions."""
        told: Account = await self._ask("account")
        return told

    async def orders(self) -> Sequence[OrderState]:
        """Return the orders."""
        told: Sequence[OrderState] = await self._ask("orders")
        return told

    async def fills(self) -> Sequence[Fill]:
        """Return all fills."""
        told: Sequence[Fill] = await self._ask("fills")
        if self._host.process is not None and self._host.process.shown is not None:
            self._process.shown = self._host.process.shown
        return told

    async def busts(self) -> Sequence[str]:
        """Return the ids of fills that were taken back."""
        told: Sequence[str] = await self._ask("busts")
        return told

    async def submit(self, order: Order) -> OrderState:
        """Send an order."""
        told: OrderState = await self._ask("submit", order)
        return told

    async def cancel(self, order_id: str) -> OrderState:
        """Take an order back."""
        told: OrderState = await self._ask("cancel", order_id)
        return told

    async def _ask(self, name: str, *arguments: Any) -> Any:
        process = self._process
        fault = process.begin("call", name)
        kind = fault.kind if fault is not None else ""
        await process.takes(fault, WIRE_S)
        process.end(None)
        if kind == "unavailable":
            raise BrokerUnavailable("no connection to the execution")
        if fault is not None and kind == "late":
            self._host.hear(fault.seconds, name, *arguments)
            await never()
        told = await self._host.serve(name, *arguments)
        process.end(fault)
        if kind == "hang":
            await never()
        if kind == "lost_reply":
            raise BrokerUnavailable("the connection was lost before the answer")
        await process.takes(None, WIRE_S)
        process.end(None)
        return told
