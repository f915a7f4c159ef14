"""One run of a world: its processes live, die and are started again until the fund comes to its end."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from agentfund.brokers import PaperBroker
from agentfund.core import keeping
from agentfund.core.keeping import LOOK_S
from agentfund.core.session import closing
from agentfund.execution import execution
from agentfund.execution.execution import Execution
from agentfund.testing.simulator.apart import Host, Line
from agentfund.testing.simulator.broker import BustingBroker, SimulatedBroker
from agentfund.testing.simulator.bus import Disk
from agentfund.testing.simulator.escapes import sealed
from agentfund.testing.simulator.exchange import FILL_S, Exchange
from agentfund.testing.simulator.feed import SimulatedFeed, SimulatedHistory
from agentfund.testing.simulator.invariants import Watch
from agentfund.testing.simulator.llm import Provider
from agentfund.testing.simulator.loop import SimulatedLoop, Stuck, family, simulate
from agentfund.testing.simulator.process import MachineClock, Process, Truth

if TYPE_CHECKING:
    from agentfund.protocols import Broker
    from agentfund.testing.simulator.schedule import Schedule
    from agentfund.testing.simulator.world import World
    from agentfund.trading import Order, OrderState

from agentfund.testing.simulator.ports import Outcome, Ports

LIVES = 60
GRACE_S = 5.0
MOST_STEPS = 200_000
APART_S = 100.0
SLOW_FILLS = 0.2
SLOWEST_FILL_S = 600.0


@contextmanager
def _looking_every(seconds: float) -> Iterator[None]:
    """Have funds and executions look at the watchdog's word as often as this, and no more often."""
    for home in (keeping, execution):
        home.LOOK_S = seconds  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for home in (keeping, execution):
            home.LOOK_S = LOOK_S  # type: ignore[attr-defined]


class Run:
    """One run of a world."""

    def __init__(self, world: World, seed: int, schedule: Schedule) -> None:
        self.world = world
        self.seed = seed
        self.schedule = schedule
        self.loop = SimulatedLoop(seed, most_steps=MOST_STEPS)
        self.truth = truth = Truth(self.loop, seed, schedule, world._start)
        self.disk = Disk(clock=MachineClock(truth))
        self.exchange: Exchange | None = None
        self.orders = 0
        if not world.paper:
            self.exchange = Exchange(
                world._tapes,
                world._start,
                cash=world._cash,
                dedupes_ids=world._dedupes,
                refuses_twins=world._refuses,
                arrived=self._arrived,
                takes_s=self._fills_after,
            )
            if world.calm_bars:
                truth.calm_from = truth.at(world._markets[-1 - world.calm_bars].now)
        self.watch = Watch(truth, self.disk, self.exchange)
        self.provider = Provider(self.watch.asked if not world.paper else lambda process, prompt: None)
        self.host = Host(truth, self._executes) if world.execution == "apart" else None
        self.finished: Process | None = None
        self.alone = world.processes == 1 and not any(fault.kind == "twin" for fault in schedule)

    def outcome(self) -> Outcome:
        """Run it."""
        truth = self.truth

        def heard(text: str) -> None:
            truth.tell(f"log: {text}")

        looking = _looking_every(self.world.look_s)
        with looking, sealed(self.seed, self.loop.time, lambda: truth.wall, heard) as escapes:
            try:
                simulate(self._whole(), self.loop)
            except Stuck as error:
                self.watch.fail("ends", str(error))
            for escape in escapes:
                self.watch.fail("sealed", escape)
            self.watch.settled(self.provider, self.finished)
        return Outcome(
            self.seed,
            self.schedule,
            tuple(self.watch.violations),
            tuple(truth.fired),
            {**truth.counts, "step": self.loop.steps},
            truth.places,
            tuple(truth.trace),
            tuple(self.disk.messages),
            len(truth.processes),
            self.orders,
        )

    def _fills_after(self) -> float:
        """Most orders fill at once; some work for a bar or longer."""
        chance = self.truth.chance
        return chance.uniform(0, SLOWEST_FILL_S) if chance.random() < SLOW_FILLS else FILL_S

    def _arrived(self, order: Order, writer: int, twin: bool) -> None:
        self.orders += 1
        self.watch.arrived(order, writer, twin)

    async def _whole(self) -> None:
        last = self.truth.at(self.world._markets[-1].now)
        try:
            async with asyncio.timeout(None if self.world.paper else last + 86_400):
                chance, many = self.truth.chance, self.world.processes
                hosting = asyncio.ensure_future(self.host.supervise()) if self.host is not None else None
                waits = [chance.uniform(0, APART_S) for _ in range(many)] if many > 1 else [0.0]
                await asyncio.gather(*map(self._supervise, waits))
                if hosting is not None:
                    hosting.cancel()
                    await asyncio.wait((hosting,))
        except TimeoutError:
            self.watch.fail("ends", "a day after the last bar the fund has not ended")

    async def _supervise(self, wait_s: float = 0.0) -> None:
        """Start the fund again and again until it comes to its end, as an operator's supervisor does."""
        await asyncio.sleep(wait_s)
        twins: list[asyncio.Task[None]] = []
        error: BaseException | None = None
        failures = 0
        for _ in range(LIVES):
            process = Process(self.truth, len(self.truth.processes) + 1)
            process.overdue = self.watch.overdue
            fault = process.begin("start")
            if fault is not None and fault.kind == "twin":
                twins.append(asyncio.ensure_future(self._supervise(fault.seconds)))
            error = await self._live(process)
            if process.fund is None and isinstance(error, Exception):
                raise error  # the fund cannot even be built
            if error is None and process.alive:
                self.finished = process
                break
            stopped = not process.alive or process.cancelled
            failures = 0 if stopped else failures + 1
            await asyncio.sleep(process.down_s if stopped else min(5.0 * 2**failures, 300.0))
        else:
            self.watch.fail("ends", f"started {LIVES} times and never came to the end: {type(error).__name__}: {error}")
        for twin in twins:
            await twin

    async def _live(self, process: Process) -> BaseException | None:
        """Run one process to its end; return what ended it, None where it came to the end of its bars."""
        context = contextvars.copy_context()
        context.run(family.set, process.tasks)
        main = process.main = self.loop.create_task(self._fund(process), context=context)
        await asyncio.wait((main,))
        error: BaseException | None
        try:
            error = main.exception()
        except asyncio.CancelledError as cancelled:
            error = cancelled
        name = type(error).__name__ if error is not None else "the end"
        self.truth.tell(f"p{process.number} ends: {name}: {error}" if error is not None else f"p{process.number} ends")
        left = [task for task in process.tasks if not task.done()]
        if left and process.alive:
            _, still = await asyncio.wait(left, timeout=GRACE_S)
            if still:
                self.watch.fail("left_running", f"process {process.number} leaves {len(still)} tasks running")
        self.watch.ended(process, error, alone=self.alone)
        if not process.alive or left:
            process.alive = False if error is not None else process.alive
            for _ in range(20):
                left = [task for task in process.tasks if not task.done()]
                if not left:
                    break
                for task in left:
                    task.cancel()
                await asyncio.wait(left, timeout=1.0)
        return error

    async def _fund(self, process: Process) -> None:
        world = self.world
        ports = Ports(process, self.provider, self.disk, paper=world.paper)
        fund = world.make_fund(ports)
        process.fund = fund
        if self.exchange is not None:
            feed: Any = SimulatedFeed(process, world._market, world._markets)
            broker: Any = self._broker(process, ports)
        else:
            feed = SimulatedHistory(process, world._market)
            broker = InterruptedPaper(process, self, world._cash)
        async with closing(fund.run(feed, broker)) as decisions:
            async for decision in decisions:
                self.truth.tell(f"p{process.number} decides {decision.outcome} {decision.code}")

    def _broker(self, process: Process, ports: Ports) -> Broker:
        if self.host is not None:
            return Line(process, self.host)
        process.sends = self.world.execution == "within"
        return self._execution(process, ports) if process.sends else self._line(process)

    def _line(self, process: Process) -> Broker:
        assert self.exchange is not None
        kind = BustingBroker if self.world.unruly else SimulatedBroker
        return kind(process, self.exchange, self.watch.sending)

    def _executes(self, process: Process) -> Execution:
        return self._execution(process, Ports(process, self.provider, self.disk, paper=False))

    def _execution(self, process: Process, ports: Ports) -> Execution:
        """Return an execution with the fund's own settings."""
        fund = self.world.make_fund(ports)
        return Execution(
            self._line(process),
            bus=ports.bus,
            fund=fund.name,
            limits=fund.limits,
            permission=fund.permission,
            on_kill=fund.on_kill,
            broker_timeout=fund.broker_timeout,
            clock=ports.clock,
        )


class InterruptedPaper(PaperBroker):
    """A paper broker whose process can be killed around each order."""

    def __init__(self, process: Process, run: Run, cash: Decimal) -> None:
        super().__init__(cash)
        self._process = process
        self._run = run

    async def submit(self, order: Order) -> OrderState:
        """Take an order, unless the process dies."""
        fault = self._process.begin("submit")
        self._run.orders += 1
        state = await super().submit(order)
        self._process.end(fault)
        return state
