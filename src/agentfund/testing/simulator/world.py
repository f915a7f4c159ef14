"""A whole fund in a box: feed, broker, log and language models in virtual time, restarted whenever it stops."""

from __future__ import annotations

import asyncio
import contextvars
import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from agentfund.brokers import PaperBroker
from agentfund.core.session import closing
from agentfund.errors import ConfigError
from agentfund.messages import Called, Message, Tripped
from agentfund.testing.simulator.broker import SimulatedBroker
from agentfund.testing.simulator.bus import Disk, SimulatedBus
from agentfund.testing.simulator.escapes import sealed
from agentfund.testing.simulator.exchange import FILL_S, Exchange, tapes_of
from agentfund.testing.simulator.faults import KINDS
from agentfund.testing.simulator.feed import SimulatedFeed, SimulatedHistory
from agentfund.testing.simulator.invariants import Violation, Watch
from agentfund.testing.simulator.llm import Provider, Script, SimulatedLLM
from agentfund.testing.simulator.loop import SimulatedLoop, Stuck, family, simulate
from agentfund.testing.simulator.markets import choppy
from agentfund.testing.simulator.process import MachineClock, Process, Truth

if TYPE_CHECKING:
    from datetime import datetime

    from agentfund.core.orchestrator import Orchestrator
    from agentfund.feeds import Bars
    from agentfund.market import Market
    from agentfund.testing.simulator.exchange import Tape
    from agentfund.testing.simulator.faults import Fault
    from agentfund.testing.simulator.schedule import Schedule
    from agentfund.trading import Order, OrderState

LIVES = 60
GRACE_S = 5.0
MOST_STEPS = 200_000
APART_S = 100.0
SLOW_FILLS = 0.2
SLOWEST_FILL_S = 600.0


class Ports:
    """What a fund under simulation is built on, in place of the real things.

    Attributes:
        bus: the log.
        clock: the machine's clock; None in a backtest, whose time is the market's own.
    """

    def __init__(self, process: Process, provider: Provider, disk: Disk, *, paper: bool) -> None:
        self.bus = SimulatedBus(process, disk)
        self.clock = None if paper else MachineClock(process.truth)
        self._process = process
        self._provider = provider

    def llm(self, script: Script | None = None, *, name: str = "simulated", price_usd: Decimal | str = "0.01") -> SimulatedLLM:
        """Return a route to a language model.

        Args:
            script: gives the value for a prompt, None to abstain; without one the prompt's rule twin answers.
            name: its name as a route.
            price_usd: what an answer costs.
        """
        return SimulatedLLM(self._process, self._provider, script, name=name, price_usd=price_usd)


MakeFund = Callable[[Ports], "Orchestrator"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        seed: chose what takes how long, and who goes first.
        schedule: what was to go wrong.
        violations: what must not be, in the order in which it was found; empty is good.
        fired: the faults that came to pass.
        counts: how often each point was passed.
        trace: what happened, a line each.
        messages: the log.
        lives: how many processes it took.
        orders: orders that reached the broker.
    """

    seed: int
    schedule: Schedule
    violations: tuple[Violation, ...]
    fired: tuple[Fault, ...]
    counts: Mapping[str, int]
    trace: tuple[str, ...]
    messages: tuple[Message, ...]
    lives: int
    orders: int

    @cached_property
    def text(self) -> str:
        """Trace and log: two runs are the same run if this is the same."""
        return "\n".join((*self.trace, *(message.line() for message in self.messages)))

    def __bool__(self) -> bool:
        return not self.violations


class World:
    """A fund and everything around it. A run of it depends on the seed and the schedule alone.

    Args:
        make_fund: builds the fund on the ports that it is given; called anew for every process.
        name: its name in a line that reproduces a run.
        market: the bars; a market that moves enough for stops and targets where none is given.
        cash: money at the beginning.
        paper: a backtest on a `PaperBroker` instead of live trading at the simulated exchange; then the log has to be the same
            whatever interrupts it.
        dedupes_ids: whether the broker takes a second order with the same id for the first.
        refuses_twins: whether it answers the second by a refusal.
        processes: how many processes run the fund on the same log at once.
        calm_bars: last bars during which nothing goes wrong, so that the fund can find its balance; 0 for none.
        kinds: the only kinds of faults that are drawn; all that are drawn anyway where none is named.
        also: kinds to add to these.
        without: kinds that are not drawn, such as `clock`, or not at some point, such as `submit:late`.

    Attributes:
        builtin: whether the command line knows it by its name.
        plain: whether it is what the command line makes of a fund by itself.
    """

    builtin = False

    def __init__(
        self,
        make_fund: MakeFund,
        *,
        name: str = "fund",
        market: Bars | None = None,
        cash: Decimal | float = 100_000,
        paper: bool = False,
        dedupes_ids: bool = True,
        refuses_twins: bool = False,
        processes: int = 1,
        calm_bars: int = 5,
        kinds: Collection[str] = (),
        also: Collection[str] = (),
        without: Collection[str] = (),
    ) -> None:
        self.plain = market is None and cash == 100_000 and processes == 1 and dedupes_ids and not (paper or refuses_twins)
        self.make_fund = make_fund
        self.name = name
        self.paper = paper
        self.kinds = frozenset(kinds)
        self.also = tuple(also)
        self.without = frozenset(without)
        self._market = market if market is not None else choppy()
        self._cash = Decimal(str(cash))
        self._dedupes = dedupes_ids
        self._refuses = refuses_twins
        self.processes = processes
        self.calm_bars = calm_bars
        self._calm: dict[int, list[tuple[Any, ...]]] = {}

    def __repr__(self) -> str:
        return f"<World {self.name!r}>"

    def draws(self, point: str, kind: str) -> bool:
        """Whether schedules of this world may contain a kind of fault at a point."""
        named = kind in self.kinds if self.kinds else KINDS[kind].drawn or kind in self.also
        return named and kind not in self.without and f"{point}:{kind}" not in self.without

    def leaving_out(self, *without: str) -> World:
        """Return the same world without kinds of faults, such as `clock`, or without a kind at a point, as `submit:late`."""
        other = copy.copy(self)
        other.without = self.without | set(without)
        return other

    def never_calm(self) -> World:
        """Return the same world in which something can go wrong to the very end."""
        other = copy.copy(self)
        other.calm_bars = 0
        return other

    @cached_property
    def _markets(self) -> tuple[Market, ...]:
        async def collect() -> tuple[Market, ...]:
            return tuple([market async for market in self._market.stream()])

        markets = simulate(collect(), SimulatedLoop(0))
        if len(markets) <= self.calm_bars:
            raise ConfigError(f"{len(markets)} bars are too few: the last {self.calm_bars} of them are calm")
        return markets

    @cached_property
    def _start(self) -> datetime:
        first = self._markets[0]
        return first.now - first.bars.interval

    @cached_property
    def _tapes(self) -> dict[str, Tape]:
        return tapes_of(self._market.columns, self._start)

    def run(self, seed: int = 0, schedule: Schedule = ()) -> Outcome:
        """Run the fund to the end of its bars, through everything that goes wrong.

        Raises:
            ConfigError: it runs inside another event loop.
        """
        if asyncio._get_running_loop() is not None:
            raise ConfigError("a simulation has an event loop of its own: call it from a plain function, not from async def")
        _ = self._markets, self._tapes
        outcome = _Run(self, seed, schedule).outcome()
        if self.paper and not outcome.violations and schedule:
            expected = self._calm.get(seed)
            if expected is None:
                expected = self._calm[seed] = _comparable(_Run(self, seed, ()).outcome().messages)
            if _comparable(outcome.messages) != expected:
                what = "the log differs from that of a run without interruption"
                outcome = replace(outcome, violations=(Violation("same_log", what),))
        return outcome


def _comparable(messages: tuple[Message, ...]) -> list[tuple[Any, ...]]:
    """Leave out what an interruption may add: calls that were made twice, and what breakers made of it."""
    return [
        (one.id, one.cycle, one.time, one.payload) for one in messages if one.type not in (Called.__name__, Tripped.__name__)
    ]


class _Run:
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
        self.finished: Process | None = None
        self.alone = world.processes == 1 and not any(fault.kind == "twin" for fault in schedule)

    def outcome(self) -> Outcome:
        """Run it."""
        truth = self.truth
        with sealed(self.seed, self.loop.time, lambda: truth.wall, lambda text: truth.tell(f"log: {text}")) as escapes:
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
                waits = [chance.uniform(0, APART_S) for _ in range(many)] if many > 1 else [0.0]
                await asyncio.gather(*map(self._supervise, waits))
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
            broker: Any = SimulatedBroker(process, self.exchange)
        else:
            feed = SimulatedHistory(process, world._market)
            broker = InterruptedPaper(process, self, world._cash)
        async with closing(fund.run(feed, broker)) as decisions:
            async for decision in decisions:
                self.truth.tell(f"p{process.number} decides {decision.outcome} {decision.code}")


class InterruptedPaper(PaperBroker):
    """A paper broker whose process can be killed around each order."""

    def __init__(self, process: Process, run: _Run, cash: Decimal) -> None:
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
