"""Files of ticks: trades and quotes."""

from __future__ import annotations

import gzip
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from agentfund.clock import to_micros
from agentfund.errors import BadData, ConfigError
from agentfund.feeds.ticks import Ticks, Volume, bars_from_ticks, read_ticks_csv, tick_bars
from agentfund.market import Window

FOLDER = os.environ.get("AGENTFUND_REAL_DATA")
real = pytest.mark.skipif(not FOLDER, reason="AGENTFUND_REAL_DATA is not set to the folder of real market data")

TRADES = "time,price,volume\n2024-03-01 09:30:00.5,10.5,100\n2024-03-01 09:30:01,10.25,50\n"
QUOTES = "Local time,Ask,Bid,AskVolume,BidVolume\n01.03.2024 11:30:00.500 GMT+0200,10.5,10.3,2,3\n"


def written(folder: Path, text: str) -> Path:
    """Write a file."""
    path = folder / "ticks.csv"
    path.write_text(text)
    return path


def test_trades_are_read(tmp_path: Path) -> None:
    """Time, price and volume; gzipped as well."""
    path = written(tmp_path, TRADES)
    ticks = read_ticks_csv(path)
    assert ticks.time.tolist() == [
        to_micros(datetime(2024, 3, 1, 9, 30, 0, 500_000, tzinfo=UTC)),
        to_micros(datetime(2024, 3, 1, 9, 30, 1, tzinfo=UTC)),
    ]
    assert ticks.price.tolist() == [10.5, 10.25]
    assert ticks.volume is not None
    assert ticks.volume.tolist() == [100, 50]
    packed = tmp_path / "ticks.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_ticks_csv(packed).price.tolist() == [10.5, 10.25]


@pytest.mark.parametrize(("price", "expected"), [("ask", (10.5, 2)), ("bid", (10.3, 3)), ("mid", (10.4, 5)), (None, (10.4, 5))])
def test_quotes_are_read_by_the_side_asked_for(tmp_path: Path, price: Any, expected: tuple[float, float]) -> None:
    """The mid has the volume of both sides; the suffix of the time is its zone."""
    ticks = read_ticks_csv(written(tmp_path, QUOTES), price)
    assert ticks.volume is not None
    assert (ticks.price[0], ticks.volume[0]) == pytest.approx(expected)
    assert ticks.time[0] == to_micros(datetime(2024, 3, 1, 9, 30, 0, 500_000, tzinfo=UTC))


def test_a_file_without_volumes_says_so_where_they_are_needed(tmp_path: Path) -> None:
    """Bars of time need none."""
    ticks = read_ticks_csv(written(tmp_path, "time,price\n2024-03-01 09:30:00,10\n"))
    assert ticks.volume is None
    assert len(bars_from_ticks("X", timedelta(minutes=1), *ticks).columns["X"]) == 1
    with pytest.raises(ConfigError, match="needs the volume"):
        bars_from_ticks("X", Volume(1), *ticks)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TRADES + "2024-03-01 09:30:02,0,5\n", r"^ticks.csv, row 4 \(2024-03-01 09:30:02\): price is '0'; a price must be"),
        (TRADES + "2024-03-01 09:30:02,x,5\n", r"row 4 .*price is 'x'"),
        (TRADES + "2024-03-01 09:30:02,,5\n", r"row 4 .*price is empty"),
        (TRADES + "2024-03-01 09:30:02,1,-5\n", r"row 4 .*volume is '-5'; a volume must not be below zero"),
        (TRADES + "soon,1,5\n", r"row 4: time 'soon' cannot be read"),
        (QUOTES + "01.03.2024 11:30:01.000 GMT+0200,nan,10.3,2,3\n", r"row 3 .*ask is 'nan'"),
        ("time,cost\n1,2\n", r"^ticks.csv: no column for ask, bid among 'time', 'cost'"),
        ("time,price,price\n1,2,3\n", r"2 columns are called 'price'"),
        ("", "the file is empty"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_row(tmp_path: Path, text: str, said: str) -> None:
    """Nothing is left out and nothing is filled in."""
    with pytest.raises(BadData, match=said):
        read_ticks_csv(written(tmp_path, text))


def test_unusual_names_can_be_told(tmp_path: Path) -> None:
    """And what is told must be there."""
    path = written(tmp_path, "when,cost\n2024-03-01 09:30:00,10\n")
    assert read_ticks_csv(path, columns={"time": "when", "price": "cost"}).price.tolist() == [10]
    with pytest.raises(BadData, match="columns= says that price is 'Cost'"):
        read_ticks_csv(path, columns={"time": "when", "price": "Cost"})
    with pytest.raises(ConfigError, match="columns= names cost"):
        read_ticks_csv(path, columns={"cost": "cost"})
    with pytest.raises(ConfigError, match="it can be 'trade', 'mid', 'bid', 'ask'"):
        read_ticks_csv(path, cast(Any, "middle"))
    with pytest.raises(BadData, match=r"there\.csv: there is no such file"):
        read_ticks_csv(tmp_path / "there.csv")


@real
def test_a_real_session_of_quotes_becomes_five_minute_bars() -> None:
    """The bars that pandas makes of the mid, and the same from a stream."""
    import pandas as pd

    ticks = read_ticks_csv(Path(FOLDER or "") / "USA500_ticks_20230904.csv.gz")
    assert len(ticks.time) == 10_235
    bars = bars_from_ticks("USA500", timedelta(minutes=5), *ticks)
    columns = bars.columns["USA500"]
    series = pd.Series(ticks.price, index=pd.DatetimeIndex(ticks.time.astype("M8[us]")))
    expected = series.resample("5min").ohlc().dropna()
    assert columns.start.tolist() == expected.index.to_numpy("M8[us]").astype(np.int64).tolist()
    for name in ("open", "high", "low", "close"):
        assert getattr(columns, name).tolist() == expected[name].tolist()
    assert ticks.volume is not None
    assert columns.volume.sum() == pytest.approx(ticks.volume.sum())
    window = Window(columns, len(columns))
    live = tick_bars("USA500", timedelta(minutes=5))
    rows = zip(ticks.time.tolist(), ticks.price.tolist(), ticks.volume.tolist(), strict=True)
    closed = [bar for tick in rows for bar in live.push(*tick)]
    assert [*closed, *live.flush()] == [window.bar(i) for i in range(len(columns))]


@real
async def test_a_real_session_becomes_bars_of_ticks() -> None:
    """Ten thousand quotes make a hundred bars and one that is not full."""
    ticks = read_ticks_csv(Path(FOLDER or "") / "USA500_ticks_20230904.csv.gz", "bid")
    bars = bars_from_ticks("USA500", Ticks(100), *ticks)
    assert len(bars.columns["USA500"]) == 103
    assert len([market async for market in bars.stream()]) == 103
