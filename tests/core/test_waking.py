"""Agents that act rarely: who is asked at a bar, and what stays in force in between."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from agentfund import Agent, Backtest, MemoryBus, Orchestrator, PaperBroker, Proposal
from agentfund.core.context import Snapshot
from agentfund.errors import PipelineError
from agentfund.messages import Opined, Stance
from agentfund.specialists import desk
from agentfund.trading import Direction, Record
from tests.market import bars, wave, yes


class Mood(Record):
    """What kind of hour it is."""

    number: int


class Moody(Agent[Mood]):
    """Looks up every tenth bar."""

    every = 10
    sees_portfolio = False

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def rule(self, context: Snapshot) -> Mood:
        self.asked.append(len(context.bars))
        return Mood(number=len(context.bars))


class Follower(Agent[Proposal]):
    """Reads the mood at every bar."""

    reads = (Mood,)

    def __init__(self) -> None:
        super().__init__()
        self.read: list[tuple[int, int]] = []

    def rule(self, context: Snapshot) -> Proposal | None:
        self.read.append((len(context.bars), context.latest(Mood).number))
        return None


def test_an_agent_is_asked_at_every_so_many_bars_and_its_view_stays_in_force() -> None:
    """The reader is asked at every bar from the first view on, and sees the newest."""
    moody, follower = Moody(), Follower()
    report = Backtest(Orchestrator([moody, follower, yes], bus=MemoryBus()), bars(wave(45)), PaperBroker()).run()
    assert moody.asked == [10, 20, 30, 40]
    assert follower.read == [(bar, bar // 10 * 10) for bar in range(10, 46)]
    assert report.cycles == 45


class Weekly(Agent[Proposal]):
    """Proposes at a bar of its own choice."""

    def due(self, market: Any, cycle: int, portfolio: Any) -> bool:
        return bool(market.now.hour == 15 and market.now.minute == 0)

    def rule(self, context: Snapshot) -> Proposal:
        held = context.portfolio.direction(context.bars.symbol)
        return Proposal(direction=Direction.FLAT if held is Direction.LONG else Direction.LONG, stop_pct=5.0, target_pct=None)


def test_a_proposal_counts_at_its_bar_and_at_no_other() -> None:
    """What was proposed at three o'clock is not proposed again a bar later, and stops work in between."""
    report = Backtest(Orchestrator([Weekly(), yes], bus=MemoryBus()), bars(wave(400)), PaperBroker()).run()
    assert report.log.decisions
    assert {(d.time.hour, d.time.minute) for d in report.log.decisions} == {(15, 0)}
    assert len(report.round_trips) >= 2


class Rarely(Follower):
    """Reads the mood at every third bar."""

    every = 3


async def test_a_run_that_is_stopped_carries_on_to_the_same_log() -> None:
    """Passing over bars leaves the numbers of cycles, marks and views as they were."""

    async def run(bus: MemoryBus, stop: int | None) -> list[Any]:
        fund = Orchestrator([Moody(), Weekly(), yes], bus=bus)
        session = fund.session(bars(wave(300)), PaperBroker(), mode=None, sync=False)
        steps = session.steps()
        seen = 0
        async for _ in steps:
            seen += 1
            if seen == stop:
                break
        await steps.aclose()  # type: ignore[attr-defined]
        return [(m.id, m.type, m.cycle, m.payload) async for m in bus.read(fund.name)]

    whole = await run(MemoryBus(), None)
    for stop in (35, 99, 150, 222):
        bus = MemoryBus()
        await run(bus, stop)
        assert await run(bus, None) == whole


async def test_the_desk_with_a_slow_regime_asks_less_and_still_trades() -> None:
    """The classifier may look every eighth bar while the strategist looks at each."""
    agents = desk()
    agents[0].every = 8
    bus = MemoryBus()
    fund = Orchestrator(agents, bus=bus)
    await Backtest(fund, bars(wave(1500, drift=0.001)), PaperBroker())
    opined = [m.event.opinion async for m in bus.read(fund.name) if isinstance(m.event, Opined)]
    views = [one for one in opined if one.agent == "regime_classifier" and one.stance is Stance.VALUE]
    assert views
    assert any(one.agent == "strategist" and one.stance is Stance.VALUE for one in opined)


class Remembers(Weekly):
    """Looks again ten hours after it looked last."""

    last: datetime | None = None

    def due(self, market: Any, cycle: int, portfolio: Any) -> bool:
        if self.last is not None and market.now - self.last < timedelta(hours=10):
            return False
        self.last = market.now
        return True


def test_a_schedule_may_remember_that_it_was_asked() -> None:
    """It is asked once a bar whether it is due, so one that writes down the time is asked as often as it says."""
    report = Backtest(Orchestrator([Remembers(), yes], bus=MemoryBus()), bars(wave(300)), PaperBroker()).run()
    assert len(report.log.decisions) == 8


class Stumbles(Moody):
    """Fails once, at its second look."""

    def rule(self, context: Snapshot) -> Mood:
        self.asked.append(len(context.bars))
        if len(self.asked) == 2:
            raise RuntimeError("a hiccup")
        return Mood(number=len(context.bars))


def test_one_that_failed_is_asked_again_at_the_next_bar() -> None:
    """A hiccup does not stay in force until the next look."""
    stumbles = Stumbles()
    Backtest(Orchestrator([stumbles, Follower(), yes], bus=MemoryBus()), bars(wave(35)), PaperBroker()).run()
    assert stumbles.asked == [10, 20, 21, 30]


@pytest.mark.parametrize("every", [0, -1, 2.5, True])
def test_every_is_a_number_of_bars(every: Any) -> None:
    """Anything else is refused when the fund is built."""
    moody = Moody()
    moody.every = every
    with pytest.raises(PipelineError, match="every is a number of bars"):
        Orchestrator([moody, Follower(), yes], bus=MemoryBus())
