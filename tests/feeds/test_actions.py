"""Splits and dividends: named and never applied by themselves."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.clock import from_micros, to_micros
from agentfund.errors import BadData, ConfigError
from agentfund.feeds import Action, Actions, Bars
from agentfund.market import Columns, Instrument

FOLDER = os.environ.get("AGENTFUND_REAL_DATA")
DAY = timedelta(days=1)
T0 = datetime(2024, 1, 1, tzinfo=UTC)


def daily(close: list[float], symbol: str = "X") -> Bars:
    """Daily bars, each opening at the close before it."""
    closes = np.array(close)
    opens = np.concatenate([closes[:1], closes[:-1]])
    start = to_micros(T0) + np.arange(len(closes), dtype=np.int64) * 86_400_000_000
    high, low = np.maximum(opens, closes), np.minimum(opens, closes)
    volume = np.full(len(closes), 1000.0)
    return Bars(Columns(Instrument(symbol), DAY, start, opens, high, low, closes, volume), source="made for a test")


def torn(bars: Bars, splits: dict[int, float]) -> Bars:
    """The same bars as they would have been traded with splits before these rows, the last level being as it is."""
    (columns,) = bars.columns.values()
    factor = np.ones(len(columns))
    for row, ratio in splits.items():
        factor[:row] *= ratio
    names = ("open", "high", "low", "close")
    parts = {name: getattr(columns, name) * factor for name in names}
    return Bars(replace(columns, **parts, volume=columns.volume / factor), source=bars.source)


def day(row: int) -> datetime:
    """The day of a row."""
    return T0 + row * DAY


def changes(bars: Bars) -> Any:
    """Returns from close to close."""
    (columns,) = bars.columns.values()
    return columns.close[1:] / columns.close[:-1] - 1


WALK = [100 * 1.01 ** ((i * 7) % 11 - 5) for i in range(40)]


walks = st.lists(st.floats(-0.05, 0.05), min_size=6, max_size=30).map(
    lambda steps: (100 * np.exp(np.cumsum(steps))).tolist(),
)


@given(walks, st.data())
@settings(deadline=None, max_examples=60)
def test_adjusting_mends_what_splits_tore(closes: list[float], data: st.DataObject) -> None:
    """Prices and volumes are what they were before the tear, whatever the ratios; turnover in money never changes."""
    rows = data.draw(st.lists(st.integers(1, len(closes) - 1), min_size=1, max_size=3, unique=True))
    ratios = {row: data.draw(st.sampled_from([1.5, 2.0, 4.0, 7.0, 0.1, 0.5])) for row in rows}
    whole = daily(closes)
    bars = torn(whole, ratios)
    actions = Actions(Action("X", day(row), "split", ratio) for row, ratio in ratios.items())
    mended = actions.adjusted(bars)
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_allclose(getattr(mended.columns["X"], name), getattr(whole.columns["X"], name), rtol=1e-12)
    forward = actions.adjusted(bars, point_in_time=True)
    np.testing.assert_allclose(changes(forward), changes(whole), rtol=1e-9, atol=1e-12)
    for each in (mended, forward):
        turnover = each.columns["X"].close * each.columns["X"].volume
        np.testing.assert_allclose(turnover, bars.columns["X"].close * bars.columns["X"].volume, rtol=1e-12)
    assert bars.fingerprint not in (mended.fingerprint, forward.fingerprint)


@given(walks, st.data())
@settings(deadline=None, max_examples=60)
def test_point_in_time_means_that_no_price_depends_on_what_follows(closes: list[float], data: st.DataObject) -> None:
    """Cut the data anywhere, and the adjusted prices up to there are the same; those moved to today's level are not."""
    row = data.draw(st.integers(1, len(closes) - 1))
    cut = data.draw(st.integers(1, len(closes) - 1))
    bars = torn(daily(closes), {row: 4.0})
    actions = Actions([Action("X", day(row), "split", "4:1"), Action("X", day(max(1, row - 1)), "dividend", 0.5)])
    short = bars.between(end=day(cut))
    causal = [actions.adjusted(each, point_in_time=True, dividends=True).columns["X"].close for each in (bars, short)]
    assert causal[0][:cut].tolist() == causal[1].tolist()
    if cut <= row:
        moved = [actions.adjusted(each).columns["X"].close for each in (bars, short)]
        assert not np.allclose(moved[0][:cut], moved[1])


def test_a_dividend_gives_the_holders_return() -> None:
    """Across the day, the adjusted return is (price after + dividend) / price before, to the first order exactly that."""
    bars = daily([100.0, 100.0, 98.0, 98.0])
    (columns,) = bars.columns.values()
    opens = columns.open.copy()
    opens[2] = 98.0
    bars = Bars(replace(columns, open=opens, high=np.maximum(opens, columns.close)), source="x")
    actions = Actions([Action("X", day(2), "dividend", 2.0)])
    adjusted = actions.adjusted(bars, dividends=True)
    assert adjusted.columns["X"].close.tolist() == [98.0, 98.0, 98.0, 98.0]
    assert adjusted.columns["X"].volume.tolist() == columns.volume.tolist()
    assert actions.adjusted(bars).columns["X"].close.tolist() == columns.close.tolist()
    assert "so nothing is adjusted" in actions.adjusted(bars).warnings[0]
    with pytest.raises(BadData, match=r"a dividend of 100 of X on 2024-01-03 00:00 is not below the price"):
        Actions([Action("X", day(2), "dividend", 100)]).adjusted(bars, dividends=True)


def test_a_split_without_a_gap_is_refused() -> None:
    """Data that are adjusted already would be torn by adjusting them again; the dates and the ratio are named."""
    actions = Actions([Action("X", day(20), "split", "4:1")])
    with pytest.raises(BadData) as refusal:
        actions.adjusted(daily(WALK))
    assert "a 4:1 split of X on 2024-01-21 00:00 should show as a fall to 1/4" in str(refusal.value)
    assert "2024-01-20 00:00 closes at" in str(refusal.value)
    assert "2024-01-21 00:00 opens at" in str(refusal.value)
    assert "a ratio of 1;" in str(refusal.value)
    assert "check=False" in str(refusal.value)
    forced = actions.adjusted(daily(WALK), check=False)
    assert forced.columns["X"].close[19] == WALK[19] / 4
    once = actions.adjusted(torn(daily(WALK), {20: 4.0}))
    with pytest.raises(BadData, match="may be adjusted already"):
        actions.adjusted(once)
    with pytest.raises(BadData, match="or the day is another one"):
        Actions([Action("X", day(21), "split", 4)]).adjusted(torn(daily(WALK), {20: 4.0}))


def test_a_suspected_split_names_the_call_that_mends_it() -> None:
    """The call is the exact one: it runs as it stands, and the suspicion is gone."""
    bars = torn(daily(WALK), {20: 4.0})
    (split,) = bars.suspected_splits()
    assert (split.symbol, split.row, split.ratio) == ("X", 20, "4:1")
    assert split.call == 'Actions([Action("X", "2024-01-21T00:00:00+00:00", "split", "4:1")]).adjusted(bars)'
    assert str(split) in bars.warnings
    mended = eval(split.call, {"Actions": Actions, "Action": Action, "bars": bars})
    assert mended.suspected_splits() == ()
    assert bars.suspected_splits() == (split,)
    (back,) = torn(daily(WALK), {20: 0.1}).suspected_splits()
    assert back.ratio == "1:10"


def test_nothing_is_adjusted_silently() -> None:
    """The source and the warnings say what was done, also that levels look ahead where they do."""
    bars = torn(daily(WALK), {20: 4.0})
    actions = Actions([Action("X", day(20), "split", "4:1")], source="splits.csv")
    told = actions.adjusted(bars)
    assert told.source == "made for a test, adjusted by splits.csv"
    assert told.warnings[0] == "X: prices before it are adjusted for the 4:1 split of X on 2024-01-21 00:00"
    assert "looks ahead there" in told.warnings[1]
    assert len(told.warnings) == 2
    forward = actions.adjusted(bars, point_in_time=True)
    assert forward.warnings == ("X: prices from it on are adjusted for the 4:1 split of X on 2024-01-21 00:00",)


def test_other_instruments_and_other_times_are_left_alone() -> None:
    """Actions of what is not there, before the first bar or after the last change nothing."""
    bars = Bars({**daily(WALK).columns, **daily(WALK, "Y").columns}, source="two")
    actions = Actions([Action("Z", day(20), "split", 4), Action("X", day(0), "split", 4), Action("Y", day(99), "split", 4)])
    same = actions.adjusted(bars)
    assert same.fingerprint == bars.fingerprint
    assert same.warnings == ("no action of records falls into the bars, so nothing is adjusted",)


def test_a_file_of_actions_is_read(tmp_path: Path) -> None:
    """Days, ratios, amounts and announcements."""
    path = tmp_path / "actions.csv"
    path.write_text(
        "symbol,ex_date,kind,value,known_time\nAAPL,2020-08-31,split,4:1,2020-07-30T20:30Z\nAAPL,2020-08-07,Dividend,0.82,\n"
    )
    dividend, split = Actions.from_csv(path)
    assert (dividend.kind, dividend.value, dividend.ex_date) == ("dividend", 0.82, datetime(2020, 8, 7, tzinfo=UTC))
    assert (split.kind, split.value, split.ratio) == ("split", 4.0, "4:1")
    assert split.known_time == datetime(2020, 7, 30, 20, 30, tzinfo=UTC)
    assert Actions.from_csv(path, tz="America/New_York").records[1].ex_date.hour == 4
    records = [{"symbol": "AAPL", "ex_date": date(2020, 8, 31), "kind": "split", "value": Decimal(4)}]
    assert Actions.from_records([*records, dividend]).records[1].ex_date == split.ex_date


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("X,2020-08-31,split,4-1", "a.csv, row 2, value: '4-1' is not what a split takes"),
        ("X,2020-08-31,split,0", "value: '0' is not what a split takes"),
        ("X,2020-08-31,split,4:0", "value: '4:0' is not what a split takes"),
        ("X,2020-08-31,split,2:2", "a split of 1:1 is none"),
        ("X,2020-08-31,dividend,-1", "value: '-1' is not what a dividend takes, money for one share"),
        ("X,2020-08-31,spinoff,1", "kind: 'spinoff' is neither"),
        ("X,31/8/2020,split,4", "row 2, ex_date: '31/8/2020' is no time"),
        ("X,2020-08-31T09:30,split,4", "ex_date: '2020-08-31T09:30' has no time zone"),
        (",2020-08-31,split,4", "row 2, symbol: it is empty"),
        ("X,,split,4", "row 2, ex_date: it is empty"),
        ("X,2020-08-31,split,4\nX,2020-08-31,split,2", "two records of a"),
    ],
)
def test_a_bad_action_is_named(tmp_path: Path, row: str, message: str) -> None:
    """File, row, field and the fix."""
    path = tmp_path / "a.csv"
    path.write_text(f"symbol,ex_date,kind,value\n{row}\n")
    with pytest.raises(BadData, match=message):
        Actions.from_csv(path)
    with pytest.raises(ConfigError, match="no time zone"):
        Actions.from_csv(path, tz="Nowhere")


def test_announcements_are_facts() -> None:
    """An announced split is a forecast until its day; one without an announcement is known from its day on."""
    actions = Actions([Action("X", day(20), "split", "4:1", day(5)), Action("X", day(9), "dividend", 0.5)])
    facts = actions.as_facts()
    early = facts.at(day(6))
    assert early.latest("split", "X") is None
    announced = early.latest("split", "X", forecasts=True)
    assert announced is not None
    assert (announced.value, announced.event_time) == (4.0, day(20))
    assert facts.at(day(9) - timedelta(microseconds=1)).latest("dividend", "X") is None
    assert facts.at(day(9)).latest("dividend", "X") is not None


@pytest.mark.skipif(not FOLDER, reason="AGENTFUND_REAL_DATA is not set to the folder of real market data")
def test_the_split_of_aapl_is_mended() -> None:
    """Four for one at the end of August 2020: the gap becomes an ordinary move, and nothing else changes."""
    bars = Bars.from_file(Path(FOLDER or "") / "AAPL_15m.csv.gz")
    (split,) = bars.suspected_splits()
    assert split.ratio == "4:1"
    assert from_micros(split.start) == datetime(2020, 8, 31, 13, 30, tzinfo=UTC)
    mended = Actions([Action("AAPL", date(2020, 8, 31), "split", "4:1")]).adjusted(bars)
    assert mended.suspected_splits() == ()
    before, after = bars.columns["AAPL"], mended.columns["AAPL"]
    assert abs(after.open[split.row] / after.close[split.row - 1] - 1) < 0.03
    assert after.close[: split.row].tolist() == (before.close[: split.row] / 4).tolist()
    assert after.close[split.row :].tolist() == before.close[split.row :].tolist()
    with pytest.raises(BadData, match="should show as a fall to 1/10"):
        Actions([Action("AAPL", date(2020, 8, 31), "split", 10)]).adjusted(mended, check=True)
