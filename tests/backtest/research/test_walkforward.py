"""Walk-forward: parameters chosen on the past, traded on what follows, and nothing known before its time."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfund import PaperBroker
from agentfund.backtest.lanes import simulate
from agentfund.backtest.research.later import later
from agentfund.backtest.research.sweep import Sweep
from agentfund.backtest.research.walkforward import WalkForward, windows
from agentfund.backtest.trials import TrialLedger
from agentfund.clock import from_micros
from agentfund.errors import ConfigError
from agentfund.feeds import Bars
from agentfund.strategies import DonchianBreakout, RsiReversion, SmaCross, Strategy
from agentfund.trading import Direction
from tests.backtest.research import trying
from tests.backtest.research.trying import FREE, GRID, broker, market

if TYPE_CHECKING:
    from agentfund.backtest.research.walkforward_result import WalkForwardResult

BARS = market(900)


def walk(make: Any = SmaCross, bars: Any = None, **options: Any) -> WalkForward:
    """Return a small walk-forward."""
    options = {"train": 300, "test": 150, "broker": broker(), "limits": FREE, **options}
    return WalkForward(make, options.pop("grid", GRID), bars or BARS, **options)


@pytest.fixture(scope="module")
def result() -> WalkForwardResult:
    """Return what the small walk-forward comes to."""
    return walk().run(on="here")


def with_prices_after(bars: Bars, first: int, factor: float) -> Bars:
    """Return bars whose prices are multiplied from one bar on."""
    (column,) = bars.columns.values()
    scale = np.where(np.arange(len(column)) >= first, factor, 1.0)
    return Bars(
        replace(column, **{n: getattr(column, n) * scale for n in ("open", "high", "low", "close")}), source=bars.source
    )


@given(
    bars=st.integers(3, 300),
    train=st.integers(2, 100),
    test=st.integers(1, 50),
    extra=st.integers(0, 30),
    purge=st.integers(0, 20),
    anchored=st.booleans(),
)
def test_training_ends_before_the_test_begins(bars: int, train: int, test: int, extra: int, purge: int, anchored: bool) -> None:
    """With a gap of exactly `purge` bars; test windows never overlap, and follow each other by a step."""
    axis = np.arange(1, bars + 1, dtype=np.int64) * 60_000_000
    try:
        found = windows(axis, 0, train, test, test + extra, anchored, purge)
    except ConfigError:
        assert bars <= train + purge
        return
    for each in found:
        assert each.test - each.gap == purge
        assert each.gap - each.train == (each.gap if anchored else train)
        assert 0 <= each.train < each.gap <= each.test < each.end <= bars
    for one, two in pairwise(found):
        assert two.test - one.test == test + extra
        assert one.end <= two.test


def test_windows_by_time_follow_the_calendar() -> None:
    """Each test window holds the closes of its stretch of time; a stretch without a bar is left out."""
    day = 86_400_000_000
    axis = np.array([d * day for d in (1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 15, 16)], dtype=np.int64)  # working days
    found = windows(axis, 0, timedelta(days=4), timedelta(days=1), None, False, 0)
    assert [axis[each.test : each.end].tolist() for each in found] == [[d * day] for d in (5, 8, 9, 10, 11, 12, 15, 16)]
    assert [axis[each.train : each.gap].tolist()[-1] // day for each in found] == [4, 5, 8, 9, 10, 11, 12, 15]
    assert [axis[each.train] // day for each in found] == [1, 4, 5, 8, 8, 8, 11, 12]


def test_parameters_are_the_best_of_the_training_window(result: WalkForwardResult) -> None:
    """As a sweep over those bars alone would find."""
    assert len(result.pieces) == 4
    for piece in result.pieces:
        begin = None if piece is result.pieces[0] else from_micros(piece.train_begin)
        own = Sweep(SmaCross, GRID, BARS.between(begin, from_micros(piece.train_end)), broker=broker(), limits=FREE).run(
            on="here"
        )
        assert piece.parameters == own.best().parameters
        assert piece.inside is not None
        assert piece.inside.metrics == own.best().metrics
        assert piece.train_end == piece.begin < piece.ends[0]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_nothing_after_a_window_changes_it(number: int, result: WalkForwardResult) -> None:
    """Prices behind the test window may be anything; choice and result of the window and of those before it stay."""
    cut = sum(len(piece.ends) for piece in result.pieces[: number + 1]) + 300
    other = walk(bars=with_prices_after(BARS, cut, 3.0)).run(on="here")
    for one, two in zip(result.pieces[: number + 1], other.pieces, strict=False):
        assert one.parameters == two.parameters
        assert one.growth.tobytes() == two.growth.tobytes()


@pytest.mark.parametrize("purge", [0, 20])
def test_a_choice_knows_nothing_of_its_test_window(purge: int) -> None:
    """Prices from the first bar behind training on may be anything; the choice stays."""
    plain = walk(purge=purge).run(on="here")
    other = walk(bars=with_prices_after(BARS, 300, 0.5), purge=purge).run(on="here")
    assert plain.pieces[0].parameters == other.pieces[0].parameters
    assert plain.pieces[0].growth.tobytes() != other.pieces[0].growth.tobytes()


def test_no_trade_begins_before_the_window_and_indicators_are_warm() -> None:
    """Entries after the moment are those of the same strategy, as soon as it is flat there; none is earlier."""
    (column,) = BARS.columns.values()
    since = int(column.ends[399])
    for strategy in (SmaCross(5, 12), RsiReversion(), DonchianBreakout()):
        whole = simulate(strategy, BARS, broker(), limits=FREE)
        cut = simulate(later(strategy, since), BARS, broker(), limits=FREE)
        assert len(cut.trades)
        assert cut.trades.decided.min() >= 400
        assert cut.equity[:400].tolist() == [100_000.0] * 400
        held = whole.trades.exit_bar[whole.trades.decided < 400].max(initial=0)
        expected = whole.trades.decided[whole.trades.decided > max(held, 400)]
        assert cut.trades.decided[cut.trades.decided > max(held, 400)].tolist()[-20:] == expected.tolist()[-20:]


class EveryTenth(Strategy):
    """Decides by a count of its own: long for five bars of every ten."""

    def __init__(self) -> None:
        super().__init__(stop_pct=5.0, target_pct=None)
        self.reset()

    def reset(self) -> None:
        """Forget the count."""
        self._count = 0

    def decide(self, now: Any, held: bool) -> Direction | None:
        """Go in at the first bar of ten, out at the sixth."""
        self._count += 1
        if held:
            return Direction.FLAT if self._count % 10 == 6 else None
        return Direction.LONG if self._count % 10 == 1 else None


def test_a_strategy_with_a_decision_of_its_own_keeps_its_state() -> None:
    """It sees the earlier bars too; only what it would enter there is dropped."""
    (column,) = BARS.columns.values()
    cut = simulate(later(EveryTenth(), int(column.ends[404])), BARS, broker(), limits=FREE)
    assert cut.trades.decided[0] == 410
    assert set((cut.trades.decided % 10).tolist()) == {0}


def test_pieces_make_one_curve(result: WalkForwardResult) -> None:
    """Each begins with what the one before left; together they hold every bar behind the first training window."""
    (column,) = BARS.columns.values()
    assert result.ends.tolist() == column.ends[300:].tolist()
    level = 100_000.0
    place = 0
    for piece in result.pieces:
        np.testing.assert_allclose(result.equity[place : place + len(piece.ends)], level * piece.growth, rtol=1e-12)
        place += len(piece.ends)
        level = float(result.equity[place - 1])
    assert result.final_equity == level
    assert result.metrics["total_return"] == pytest.approx(level / 100_000 - 1)


def test_what_is_held_at_the_end_of_a_window_is_sold_with_costs() -> None:
    """The last equity of a window lies below that of the same trades marked at the close, by the costs of selling."""
    checked = 0
    dear = PaperBroker(costs=replace(broker().costs, commission_bps=50.0), max_volume_pct=1e9, max_leverage=10)
    for test in range(100, 150, 7):
        found = walk(test=test, broker=dear, train=600).run(on="here").pieces[0]
        assert found.outside is not None
        until = from_micros(int(found.ends[-1]))
        marked = simulate(later(SmaCross(**found.parameters), found.begin), BARS.between(None, until), dear, limits=FREE)
        still = ~marked.trades.closed
        worth = float((marked.trades.quantity * marked.trades.exit_price)[still].sum())
        assert found.growth[-1] * 100_000 == pytest.approx(marked.final_equity - worth * (50 + 1 + 1) / 1e4, abs=1e-6)
        checked += bool(still.any())
    assert checked


def test_it_runs_on_workers_and_carries_on(tmp_path: Path, result: WalkForwardResult) -> None:
    """The same bytes; run again with its store, it runs nothing."""
    store = tmp_path / "walk.jsonl"
    seen: list[tuple[int, int]] = []
    first = walk().run(workers=2, store=store, progress=lambda *told: seen.append(told))
    assert seen[-1] == (28, 28)
    assert first.equity.tobytes() == result.equity.tobytes()
    seen.clear()
    again = walk().run(on="here", store=store, progress=lambda *told: seen.append(told))
    assert set(seen) == {(24, 28), (28, 28)}
    assert again.equity.tobytes() == result.equity.tobytes()


def test_every_training_trial_is_counted() -> None:
    """And every test window, by the kind of run that it was."""
    ledger = TrialLedger()
    walk().run(on="here", trials=ledger)
    assert ledger.count() == 4 * 6 + 4
    assert {trial.source for trial in ledger.trials()} == {"walk-forward"}


def test_efficiency_compares_returns_a_year(result: WalkForwardResult) -> None:
    """What a test window made a year / what training promised a year; nothing where nothing was promised."""
    for piece in result.pieces:
        assert piece.inside is not None
        promised, years = piece.inside.metrics["total_return"], (piece.train_end - piece.train_begin) / (365.25 * 86_400e6)
        assert promised is not None
        kept = (float(piece.growth[-1]) - 1) / ((int(piece.ends[-1]) - piece.begin) / (365.25 * 86_400e6))
        if promised <= 0:
            assert piece.efficiency is None
        else:
            assert piece.efficiency == pytest.approx(kept / (promised / years))


def test_a_window_in_which_nothing_traded_stays_in_cash() -> None:
    """No figure, no choice, no trade."""
    found = walk(grid={"lower": [0.001], "n": [14]}, make=lambda lower, n: RsiReversion(n, lower, 50)).run(on="here")
    assert [piece.inside for piece in found.pieces] == [None] * 4
    assert found.final_equity == 100_000
    assert "nothing traded" in found.text()
    assert found.stability().empty
    found.html()


def test_a_failing_strategy_is_told() -> None:
    """One that fails with some parameters is chosen among the others; one that always fails ends the walk."""
    found = walk(trying.Fails).run(on="here")
    assert all(piece.parameters["fast"] != 5 for piece in found.pieces)
    assert "8 of 24 training trials failed" in found.text()
    with pytest.raises(ConfigError, match=r"every training trial failed.*does not like five"):
        walk(trying.Fails, grid={"fast": [5], "slow": [12]}).run(on="here")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"train": 0}, "train=0"),
        ({"test": timedelta(0)}, "test="),
        ({"test": timedelta(days=1)}, "all numbers of bars, or all times"),
        ({"step": 100}, "shorter than test"),
        ({"purge": -1}, "purge=-1"),
        ({"train": 900}, "no room"),
    ],
)
def test_windows_that_cannot_be_are_refused(options: dict[str, Any], told: str) -> None:
    """The message names the argument."""
    with pytest.raises(ConfigError, match=told):
        walk(**options)
    with pytest.raises(ConfigError, match="by='luck': there is"):
        walk(by="luck").run(on="here")


def test_it_reports_and_is_saved(tmp_path: Path, result: WalkForwardResult) -> None:
    """Text, page, tables and figures; the page loads nothing."""
    folder = result.save(tmp_path / "out")
    names = ["equity.csv", "walkforward.html", "walkforward.json", "walkforward.txt", "windows.csv"]
    assert sorted(path.name for path in folder.iterdir()) == names
    told = json.loads((folder / "walkforward.json").read_text())
    assert len(told["windows"]) == 4
    page = result.html()
    for word in ("<script", "http:", "https:", "url(", "src="):
        assert word not in page
    assert result.sentence[1:] in page
    assert result.sentence[1:] in result.text()
    assert result.stability()["share"].min() >= 1 / 3


def test_a_purge_shorter_than_the_longest_trade_is_told() -> None:
    """It is no look ahead, but the windows share a move of the market."""
    assert "leaves out fewer" in walk().run(on="here").text()
    assert "leaves out fewer" not in walk(purge=200, train=200).run(on="here").text()
