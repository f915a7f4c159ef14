"""A day of ticks through feed, agents, gate, paper broker and watchdog over SQLite, in real processes, faster than in life."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

from agentfund.feeds.recorded import Recorded
from agentfund.market import Alive, Tick
from agentfund.trading import ZERO
from tests.live import day

REAL = os.environ.get("AGENTFUND_REAL_DATA", "")
MOSTLY = 0.95


async def _judged(folder: Path, ticks: Path, symbol: str, samples: list[day.Sample], *, trades: int) -> None:
    """Hold what a day has left behind against the file of its ticks."""
    log, past = await day.messages(folder)
    bars = day.offline(ticks, symbol)
    cycles, ends = day.cycles(log), [bar.end for bar in bars]
    # A cycle for every minute that has a tick, and for no other. The recording ends within the last minute, which a machine
    # that is behind may still see closing.
    assert cycles in (ends[:-1], ends)
    assert day.witnessed(folder) == day.as_written(bars[: len(cycles)])
    held = {symbol: position.quantity for symbol, position in past.state.portfolio.positions.items()}
    cash = past.state.portfolio.cash
    assert len(past.fills) >= trades
    for other_cash, other_held in (day.folded(past), await day.restored(past)):
        assert abs(other_cash - cash) == ZERO
        assert other_held == held
    assert day.held(log) == []
    # A lease lapses, as it should, where the machine lets a process stand still for longer than it lasts; it comes back.
    assert day.leased(samples) > MOSTLY
    fund, watchdog = day.memory(samples, log)
    assert fund.flat, fund
    assert watchdog.flat, watchdog


async def test_none_of_a_recording_is_over_before_somebody_listens(tmp_path: Path) -> None:
    """However long a program takes to start: its clock stands still until then, and every tick is told."""
    ticks = tmp_path / "ticks.csv"
    day.write_ticks(ticks, hours=0.2)
    source = Recorded.ticks(ticks, "SIM", speed=1e6)
    began = source.clock.now()
    await asyncio.sleep(0.01)
    assert source.clock.now() == began
    told = [item async for item in source.connect()]
    assert told[0] == Alive(began)
    assert sum(isinstance(item, Tick) for item in told) == len(ticks.read_text().splitlines()) - 1
    assert source.clock.now() > began


@pytest.mark.timeout(300)
async def test_some_hours_leave_no_gap_and_no_drift(tmp_path: Path) -> None:
    """Three hours of a market that swings, 900 times as fast as in life."""
    ticks = tmp_path / "ticks.csv"
    day.write_ticks(ticks, hours=3)
    samples = day.lived(tmp_path, ticks, symbol="SIM", speed=900, agents="alone")
    await _judged(tmp_path, ticks, "SIM", samples, trades=1)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_a_day_at_a_hundred_times_its_speed_leaves_no_gap_and_no_drift(tmp_path: Path) -> None:
    """Nineteen hours: the desk on real quotes where they are, else a rule on ticks of our own."""
    if REAL:
        ticks, symbol, agents = Path(REAL) / "USA500_ticks_20230904.csv.gz", "USA500", "with_the_desk"
    else:
        ticks, symbol, agents = tmp_path / "ticks.csv", "SIM", "with_the_desk"
        day.write_ticks(ticks, hours=19)
    samples = day.lived(tmp_path, ticks, symbol=symbol, speed=100, agents=agents)
    await _judged(tmp_path, ticks, symbol, samples, trades=1)


@pytest.mark.timeout(300)
async def test_an_agent_that_keeps_something_of_every_cycle_is_found(tmp_path: Path) -> None:
    """The judge of the day, on a fund that leaks; its watchdog does not."""
    ticks = tmp_path / "ticks.csv"
    day.write_ticks(ticks, hours=2)
    samples = day.lived(tmp_path, ticks, symbol="SIM", speed=900, agents="leaking")
    fund, watchdog = day.memory(samples, (await day.messages(tmp_path))[0])
    assert not fund.flat, fund
    assert fund.kb == pytest.approx(day.LEAK_KB * fund.cycles, rel=0.5)
    assert watchdog.flat, watchdog


@pytest.mark.parametrize(("cycle_kb", "flat"), [(0, True), (10, False)])
def test_ten_kilobytes_a_cycle_are_found_in_a_day(cycle_kb: int, flat: bool) -> None:
    """Memory that begins with a jump, comes and goes by some hundred kilobytes, and keeps what messages and fills may keep."""
    chance = np.random.default_rng(5)
    cycles, messages, fills = (np.sort(chance.integers(first, 1054, n)) for first, n in ((1, 3000), (1, 2900), (640, 280)))
    sizes = 80_000 - 20_000 * np.exp(-cycles / 20) + chance.integers(0, 300, 3000)
    sizes += cycle_kb * cycles + 0.36 * messages.searchsorted(cycles) + 1.8 * fills.searchsorted(cycles)
    told = list(zip(cycles.tolist(), sizes.astype(int).tolist(), strict=True))
    assert day.growth(told, messages.tolist(), fills.tolist()).flat is flat
