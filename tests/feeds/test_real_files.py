"""Real files, where they are: AGENTFUND_REAL_DATA names their folder."""

from __future__ import annotations

import os
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from agentfund.errors import BadData
from agentfund.feeds import Bars

FOLDER = os.environ.get("AGENTFUND_REAL_DATA")
pytestmark = pytest.mark.skipif(not FOLDER, reason="AGENTFUND_REAL_DATA is not set to the folder of real market data")


def real(name: str) -> Bars:
    """Read one of the files."""
    return Bars.from_file(Path(FOLDER or "") / name)


@pytest.mark.parametrize(
    ("name", "rows", "interval", "tick"),
    [
        ("AAPL_15m.csv.gz", 43_105, timedelta(minutes=15), "0.001"),
        ("EURUSD_4h.csv.gz", 25_847, timedelta(hours=4), "0.00001"),
        ("BTCUSD_30m.csv.gz", 78_408, timedelta(minutes=30), "0.1"),
    ],
)
async def test_a_real_file_is_read_and_streamed_whole(name: str, rows: int, interval: timedelta, tick: str) -> None:
    """Rows, interval, tick and symbol come out, and every bar is streamed."""
    bars = real(name)
    (columns,) = bars.columns.values()
    assert (len(columns), columns.interval) == (rows, interval)
    assert bars.instruments[0].tick_size == Decimal(tick)
    assert bars.instruments[0].symbol == name.partition("_")[0]
    assert len([market.now async for market in bars.stream()]) == rows


def test_the_split_of_aapl_is_told_of_and_nothing_else() -> None:
    """One split in AAPL; the gaps of EURUSD and BTCUSD are the market's own."""
    assert real("AAPL_15m.csv.gz").warnings == (
        "AAPL: 2020-08-28 19:45 closes at 499.057 and 2020-08-31 13:30 opens at 127.527, which looks like an unadjusted"
        " 4:1 split; adjust the prices before it, or cut the data there",
    )
    assert real("EURUSD_4h.csv.gz").warnings == ()
    assert real("BTCUSD_30m.csv.gz").warnings == ()


def test_a_file_of_quotes_is_refused_as_bars() -> None:
    """Ticks have no open, high, low and close."""
    with pytest.raises(BadData, match="no column for time, open, high, low, close among 'Local time', 'Ask', 'Bid'"):
        real("USA500_ticks_20230904.csv.gz")
