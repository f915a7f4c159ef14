"""A day of ticks through feed, agents, gate, paper broker and watchdog over SQLite, in real processes, faster than in life."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from agentfund.trading import ZERO
from tests.live import day

REAL = os.environ.get("AGENTFUND_REAL_DATA", "")


async def _judged(folder: Path, ticks: Path, symbol: str, samples: list[day.Sample], *, trades: int) -> None:
    """Hold what a day has left behind against the file of its ticks."""
    log, past = await day.messages(folder)
    bars = day.offline(ticks, symbol)
    assert day.cycles(log) == [bar.end for bar in bars]  # a cycle for every minute that has a tick, and for no other
    assert day.witnessed(folder) == day.as_written(bars)
    held = {symbol: position.quantity for symbol, position in past.state.portfolio.positions.items()}
    cash = past.state.portfolio.cash
    assert len(past.fills) >= trades
    for other_cash, other_held in (day.folded(past), await day.restored(past)):
        assert abs(other_cash - cash) == ZERO
        assert other_held == held
    assert day.without_a_lease(log) == []
    assert day.withheld(samples) == set()
    assert _fund(samples).flat, _fund(samples)
    assert _watchdog(samples).flat, _watchdog(samples)


def _fund(samples: Sequence[day.Sample]) -> day.Growth:
    return day.growth([(one.cycle, one.fund_kb) for one in samples])


def _watchdog(samples: Sequence[day.Sample]) -> day.Growth:
    return day.growth([(one.cycle, one.watchdog_kb) for one in samples])


@pytest.mark.timeout(120)
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


@pytest.mark.timeout(120)
def test_an_agent_that_keeps_something_of_every_cycle_is_not_flat(tmp_path: Path) -> None:
    """The judge of the day, on a fund that leaks; its watchdog does not."""
    ticks = tmp_path / "ticks.csv"
    day.write_ticks(ticks, hours=2)
    samples = day.lived(tmp_path, ticks, symbol="SIM", speed=900, agents="leaking")
    leaks = _fund(samples)
    assert not leaks.flat
    assert leaks.cycle_kb == pytest.approx(day.LEAK_KB, rel=0.5)
    assert _watchdog(samples).flat


@pytest.mark.parametrize(("kept_kb", "flat"), [(0, True), (2, True), (10, False)])
def test_ten_kilobytes_a_cycle_are_found_in_a_day(kept_kb: int, flat: bool) -> None:
    """Memory that starts with a jump, comes and goes by half a megabyte, and keeps so much of each cycle."""
    noise = np.random.default_rng(5).integers(0, 512, 5000)
    cycles = np.sort(np.random.default_rng(6).integers(0, 1054, 5000))
    sizes = 150_000 - 60_000 * np.exp(-cycles / 20) + noise + kept_kb * cycles
    assert day.growth(list(zip(cycles.tolist(), sizes.astype(int).tolist(), strict=True))).flat is flat
