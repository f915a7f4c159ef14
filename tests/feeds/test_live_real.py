"""A real session of ticks, lived through: AGENTFUND_REAL_DATA names the folder."""

from __future__ import annotations

import math
import os
from datetime import timedelta
from pathlib import Path

import pytest

from agentfund.clock import JumpingClock, from_micros
from agentfund.feeds.live import Live
from agentfund.feeds.recorded import Recorded
from agentfund.feeds.ticks import read_ticks_csv
from tests.feeds.live_sources import Flaky, bars, moments, whole

FOLDER = os.environ.get("AGENTFUND_REAL_DATA")
pytestmark = pytest.mark.skipif(not FOLDER, reason="AGENTFUND_REAL_DATA is not set to the folder of real market data")
FILE = Path(FOLDER or "") / "USA500_ticks_20230904.csv.gz"
FIVE = timedelta(minutes=5)


@pytest.mark.parametrize("torn", [False, True])
async def test_a_real_session_of_quotes_is_lived_through(torn: bool) -> None:
    """Five-minute bars of a day, over a line that holds and over one that is cut every twenty minutes."""
    data = read_ticks_csv(FILE, price="mid")
    start = from_micros(int(data.time.min()) - 1)
    cuts = [1200.0 * i for i in range(1, 80)] if torn else []
    source = Flaky({"USA500": data}, cuts=cuts, start=start)
    feed = Live(source, interval=FIVE, back=0, clock=source.clock, silence=None if not torn else timedelta(minutes=10))
    given = await moments(feed)
    expected = [each for each in whole("USA500", data, FIVE) if each.end <= given[-1].now]
    assert bars(given, "USA500") == expected
    assert len(given) > 50
    assert feed.health().gaps_open == 0
    assert isinstance(source.clock, JumpingClock)


async def test_a_file_is_recorded_as_it_is() -> None:
    """By its path, without limit of speed."""
    source = Recorded.ticks(FILE, "USA500", speed=math.inf)
    feed = Live(source, interval=FIVE, back=0, clock=source.clock)
    assert (await moments(feed, 3))[-1]["USA500"].close[-1] > 4000
