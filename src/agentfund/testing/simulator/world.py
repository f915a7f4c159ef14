"""A whole fund in a box: feed, broker, log and language models in virtual time, restarted whenever it stops."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Collection
from dataclasses import replace
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from agentfund.errors import ConfigError
from agentfund.messages import Called, Message, Tripped
from agentfund.testing.simulator.exchange import tapes_of
from agentfund.testing.simulator.faults import KINDS
from agentfund.testing.simulator.invariants import Violation
from agentfund.testing.simulator.lives import Run
from agentfund.testing.simulator.loop import SimulatedLoop, simulate
from agentfund.testing.simulator.markets import choppy
from agentfund.testing.simulator.ports import MakeFund as MakeFund
from agentfund.testing.simulator.ports import Outcome as Outcome
from agentfund.testing.simulator.ports import Ports as Ports
from agentfund.testing.simulator.schedule import parse

if TYPE_CHECKING:
    from datetime import datetime

    from agentfund.feeds import Bars
    from agentfund.market import Market
    from agentfund.testing.simulator.exchange import Tape
    from agentfund.testing.simulator.schedule import Schedule

LOOK_S = 8.0
UNRULY = ("bust", "withheld", "foreign")


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
        execution: whether orders go through an `Execution`: `within` the fund's process, or `apart` in one of its own.
        unruly: whether the broker says which fills it takes back, and does so; it holds fills back as well, and lists orders
            of somebody else.
        look_s: seconds between two looks at the watchdog's word. Ten looks a second, as there are outside, would make a run of
            a watched fund a hundred times as long.
        calm_bars: last bars during which nothing goes wrong, so that the fund can find its balance; 0 for none.
        kinds: the only kinds of faults that are drawn; all that are drawn anyway where none is named.
        also: kinds to add to these.
        without: kinds that are not drawn, such as `clock`, or not at some point, such as `submit:late`.
        during: what goes wrong anyway where a process is killed at every boundary, such as a halt, whose boundaries count too.

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
        execution: Literal["", "within", "apart"] = "",
        unruly: bool = False,
        look_s: float = LOOK_S,
        calm_bars: int = 5,
        kinds: Collection[str] = (),
        also: Collection[str] = (),
        without: Collection[str] = (),
        during: str = "",
    ) -> None:
        usual = market is None and cash == 100_000 and processes == 1 and dedupes_ids
        self.plain = usual and not (paper or refuses_twins or execution or unruly)
        self.make_fund = make_fund
        self.name = name
        self.paper = paper
        self.kinds = frozenset(kinds)
        self.also = (*also, *(UNRULY if unruly else ()))
        self.without = frozenset(without)
        self.during = parse(during)
        self._market = market if market is not None else choppy()
        self._cash = Decimal(str(cash))
        self._dedupes = dedupes_ids
        self._refuses = refuses_twins
        self.processes = processes
        self.execution = execution
        self.unruly = unruly
        self.look_s = look_s
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
        outcome = Run(self, seed, schedule).outcome()
        if self.paper and not outcome.violations and schedule:
            expected = self._calm.get(seed)
            if expected is None:
                expected = self._calm[seed] = _comparable(Run(self, seed, ()).outcome().messages)
            if _comparable(outcome.messages) != expected:
                what = "the log differs from that of a run without interruption"
                outcome = replace(outcome, violations=(Violation("same_log", what),))
        return outcome


def _comparable(messages: tuple[Message, ...]) -> list[tuple[Any, ...]]:
    """Leave out what an interruption may add: calls that were made twice, and what breakers made of it."""
    return [
        (one.id, one.cycle, one.time, one.payload) for one in messages if one.type not in (Called.__name__, Tripped.__name__)
    ]
