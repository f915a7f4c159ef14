"""A run that was live is rerun over the history of its bars; what follows the machine's clock is not compared."""

from __future__ import annotations

import asyncio

import pytest

from agentfund import MemoryBus, Orchestrator, PaperBroker
from agentfund.errors import ConfigError
from agentfund.feeds import Bars
from agentfund.replays.counterfactual import counterfactual
from agentfund.replays.exact import exact
from agentfund.replays.recorded import Recorded
from tests.flowing import BAR_S, Flowing, RunningClock
from tests.market import bars, wave
from tests.replays.making import ASKED, Stricter, crew, market, messages_of, tampered

CLOSES = wave(50, seed=3)


@pytest.fixture(scope="module")
def life() -> tuple[MemoryBus, Bars]:
    """Return the log of a live run on a paper broker, and the bars that it saw."""
    clock, bus = RunningClock(), MemoryBus()
    flowing = Flowing(CLOSES, clock)
    fund = Orchestrator(crew(), bus=bus, mode="autonomous", clock=clock)

    async def live() -> None:
        async for _ in fund.run(flowing, PaperBroker()):
            pass

    asyncio.run(live())
    return bus, flowing.feed


@pytest.fixture(autouse=True)
def nobody_was_asked() -> None:
    """Begin to count."""
    ASKED.clear()


async def test_a_live_run_is_the_same_but_for_its_clock(life: tuple[MemoryBus, Bars]) -> None:
    """Opinions, decisions, orders and fills; what cannot be equal is said."""
    bus, feed = life
    was = await Recorded.read(bus)
    assert was.live
    found = await exact(was, crew(), feed)
    assert found, found
    assert found.compared > 100
    assert any("machine's clock" in remark for remark in found.remarks)
    kinds = [message.type for message in await messages_of(bus)]
    assert kinds.count("Filled") > 3

    decided = [at for at, kind in enumerate(kinds) if kind == "Decided"][2]
    other = await exact(await Recorded.read(tampered(await messages_of(bus), decided, decision__price=1.0)), crew(), feed)
    assert other.difference is not None
    assert other.difference.field == "payload.decision.price"


async def test_a_live_run_is_rerun_with_a_changed_gate(life: tuple[MemoryBus, Bars]) -> None:
    """Nothing differs where nothing changed, and only the gate is asked where it did."""
    bus, feed = life
    was = await Recorded.read(bus)
    same = await counterfactual(was, crew(), feed)
    assert not same.diff.changes
    assert (same.tally.missing, same.tally.stands) == ({}, {})
    found = await counterfactual(was, crew(Stricter(name="gate")), feed)
    assert set(ASKED) == {"gate"}
    assert found.diff.changes
    half = was.cycles // 2
    part = await counterfactual(was, crew(Stricter(name="gate")), feed, window=(half, None))
    assert all(change.cycle >= half for change in part.diff.changes)


async def test_bars_that_a_live_run_cannot_have_seen_are_refused(life: tuple[MemoryBus, Bars]) -> None:
    """No bar closes when it had a cycle, or another instrument."""
    bus, _ = life
    was = await Recorded.read(bus)
    with pytest.raises(ConfigError, match="no bar closes then"):
        await exact(was, crew(), market(50))
    with pytest.raises(ConfigError, match="saw SIM, and the feed holds OTHER"):
        await exact(was, crew(), bars(CLOSES, symbol="OTHER", minutes=BAR_S / 60))  # type: ignore[arg-type]


async def test_prices_that_a_live_run_did_not_see_are_counted(life: tuple[MemoryBus, Bars]) -> None:
    """A live source has no fingerprint, so prices are compared."""
    bus, _ = life
    moved = bars([price + 0.01 for price in CLOSES], minutes=BAR_S / 60)  # type: ignore[arg-type]
    found = await exact(await Recorded.read(bus), crew(), moved, ask="nobody")
    assert any("are not the closes of the feed" in remark for remark in found.remarks)
