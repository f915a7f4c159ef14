"""A day of ticks through feed, agents, gate, paper broker and watchdog over SQLite, in real processes, faster than in life."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentfund.trading import ZERO
from tests.live import day

REAL = os.environ.get("AGENTFUND_REAL_DATA", "")
MOST_GROWTH_KB = 8 * 1024
"""Over half a day of minutes. A fund that kept one window of 5,000 bars a minute, or a watchdog that kept a page of its log,
would pass it within some minutes; what Python's allocator adds and gives back is a quarter of it."""


async def _judged(folder: Path, ticks: Path, symbol: str, samples: list[day.Sample], *, trades: int) -> None:
    """Hold what a day has left behind against the file of its ticks."""
    log, past = await day.messages(folder)
    bars = day.offline(ticks, symbol)
    ends = [bar.end for bar in bars]
    cycles = day.cycles(log)
    # The recording runs while the program starts: what was over by then is history, and the rest is lived through.
    assert cycles == ends[len(ends) - len(cycles) :]
    assert len(cycles) > 0.8 * len(ends)
    assert day.witnessed(folder) == day.as_written(bars)
    held = {symbol: position.quantity for symbol, position in past.state.portfolio.positions.items()}
    cash = past.state.portfolio.cash
    assert len(past.fills) >= trades
    for other_cash, other_held in (day.folded(past), await day.restored(past)):
        assert abs(other_cash - cash) == ZERO
        assert other_held == held
    assert day.without_a_lease(log) == []
    assert day.withheld(samples) == set()
    for sizes in ([(one.at, one.fund_kb) for one in samples], [(one.at, one.watchdog_kb) for one in samples]):
        assert day.growth_kb(sizes) < MOST_GROWTH_KB


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
