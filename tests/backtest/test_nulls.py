"""What chance makes of a result's own trades: fair to the lucky, blind to nobody's skill, the same for the same seed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agentfund import Backtest
from agentfund.backtest.lanes import simulate
from agentfund.backtest.nulls import Null, Nulls, Taken
from agentfund.backtest.report import Report
from agentfund.errors import ConfigError
from agentfund.strategies import SmaCross
from agentfund.trading import Costs
from tests.market import bars, broker, fund, wave

from .test_report import Bars, Story

if TYPE_CHECKING:
    from agentfund.market import Floats

FREE = Costs(commission_bps=0.0, half_spread_bps=0.0, slippage_bps=0.0)


def taken(profits: Floats, *, length: int = 5, sign: float = 1.0, stop: float = np.nan) -> Taken:
    """Trades of 1,000 that were each held for some bars."""
    count = len(profits)
    columns = (np.full(count, sign), np.full(count, 1000.0), np.full(count, stop), np.full(count, np.nan))
    return Taken(*columns, np.full(count, length), np.zeros(count, np.int64), profits)


def nulls(trades: Taken, prices: Floats | list[float], costs: Costs = FREE, **options: int) -> Nulls:
    """Nulls of these trades on a market of these closes."""
    columns = bars(list(prices)).columns
    return Nulls(columns, {"SIM": len(columns["SIM"])}, {"SIM": trades}, 10_000.0, costs, **options)


def test_random_trading_lies_anywhere_among_the_draws() -> None:
    """Trades at times that chance chose: over many runs their percentiles are spread evenly."""
    columns = bars(wave(400)).columns["SIM"]
    rng = np.random.default_rng(3)
    found = []
    for seed in range(120):
        entries = 1 + np.sort(rng.choice(65, 12, replace=False)) * 6
        made = 1000.0 * (columns.open[entries + 5] / columns.open[entries] - 1.0)
        null = nulls(taken(made), wave(400), seed=seed).random_entry
        assert null is not None
        found.append(null.percentile)
    assert np.mean(found) == pytest.approx(50, abs=7)
    assert 0.02 <= np.mean(np.array(found) > 95) + np.mean(np.array(found) < 5) <= 0.2


def test_knowing_the_future_is_better_than_all_draws() -> None:
    """The twelve best non-overlapping moments of the market: no draw is as good."""
    columns = bars(wave(400)).columns["SIM"]
    gains = columns.open[6:] / columns.open[:-6] - 1.0
    best = np.sort(gains[::6])[-12:]
    for null in (nulls(taken(1000.0 * best, length=6), wave(400)).random_entry, nulls(taken(1000 * best), wave(400)).shuffled):
        assert null is not None
        assert (null.percentile, null.p_value) == (100.0, 1 / 201)
        assert "better than chance" in null.sentence


def test_the_best_of_many_must_be_better_than_the_best_of_chance() -> None:
    """One draw in a hundred is as good: alone that is rare, as the best of fifty trials it is not."""
    one = Null("random entry", 1.0, np.arange(-198.0, 2.0))
    assert one.p_value == pytest.approx(2 / 201)
    assert "better than chance" in one.sentence
    best = replace(one, trials=50)
    assert best.p_best == pytest.approx(1 - (1 - 2 / 201) ** 50)
    assert best.sentence.endswith("p = 0.010, 0.393 as the best of 50 trials): not told from chance")


def test_in_a_market_that_only_rises_being_long_proves_nothing() -> None:
    """Whatever was gained, chance gains as well: the median is near the result."""
    prices = list(np.linspace(100, 200, 500))
    columns = bars(prices).columns["SIM"]
    entries = np.arange(10, 490, 40)
    made = 1000.0 * (columns.open[entries + 5] / columns.open[entries] - 1.0)
    null = nulls(taken(made), prices).random_entry
    assert null is not None
    assert null.result > 0
    assert 5 < null.percentile < 95


def test_chance_pays_the_same_costs() -> None:
    """On a market that does not move, the draws lose exactly what trading costs."""
    flat = nulls(taken(np.zeros(10)), [100.0] * 200, Costs(commission_bps=10.0, half_spread_bps=0.0, slippage_bps=0.0))
    for null in (flat.random_entry, flat.shuffled):
        assert null is not None
        assert null.draws == pytest.approx(np.full(200, -10 * 2 * 1000 * 0.001 / 10_000))


def test_chance_keeps_the_stops() -> None:
    """A market that falls by a tenth a bar: a stop of one percent, taken at the gap, loses one bar and not five."""
    prices = list(1e6 * 0.9 ** np.arange(100))
    with_stop = nulls(taken(np.zeros(5), stop=0.01), prices).random_entry
    without = nulls(taken(np.zeros(5)), prices).random_entry
    assert with_stop is not None
    assert without is not None
    assert with_stop.draws.min() > -5 * 0.02
    assert without.draws.max() < -5 * 0.02


def test_the_same_seed_gives_the_same_draws_and_another_seed_others() -> None:
    """Nothing depends on the machine."""
    one, two, other = (nulls(taken(np.zeros(5)), wave(100), seed=seed).random_entry for seed in (1, 1, 2))
    assert one is not None
    assert two is not None
    assert other is not None
    assert one.draws.tolist() == two.draws.tolist() != other.draws.tolist()


def test_where_trades_fill_the_whole_market_their_order_is_left_to_chance() -> None:
    """Ten long ones and ten short ones with no bar between them: the draws differ by their order alone."""
    trades = taken(np.zeros(20), length=9)._replace(sign=np.repeat([1.0, -1.0], 10))
    null = nulls(trades, wave(201)).random_entry
    assert null is not None
    assert np.isfinite(null.draws).all()
    assert len(set(null.draws.tolist())) > 100


def test_without_a_trade_there_is_no_null() -> None:
    """And nothing to say of it in the report."""
    report = Report.of(Story().end(3, "1000"), Bars(10, 10, 10))
    assert report.nulls.random_entry is None
    assert report.to_json()["nulls"] == {"random_entry": None, "shuffled": None}


def test_a_report_made_from_a_log_has_its_nulls() -> None:
    """What the trades made is the report's total return."""
    report = Backtest(fund(), bars(wave(600)), broker()).run()
    for null in (report.nulls.random_entry, report.nulls.shuffled):
        assert null is not None
        assert null.result == pytest.approx(report.total_return)
        assert len(null.draws) == 200


def test_a_simulated_result_has_its_nulls() -> None:
    """The trades do not say how far their stops were unless they carry it, so it is asked for."""
    result = simulate(SmaCross(fast=5, slow=20), bars(wave(2000)), broker())
    null = Nulls.of(result, stop_pct=1.0, target_pct=2.0).random_entry
    assert null is not None
    assert null.result == pytest.approx(result.total_return)


def test_too_few_draws_are_refused() -> None:
    """A percentile of five draws says nothing."""
    with pytest.raises(ConfigError, match="fewer than 20"):
        nulls(taken(np.zeros(3)), wave(50), draws=5)
