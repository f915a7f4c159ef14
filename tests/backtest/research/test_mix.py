"""Portfolios of sleeves: what each adds makes the whole, and weights know nothing of the future."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund import Backtest
from agentfund.backtest.lanes import simulate
from agentfund.backtest.metrics import of_curve
from agentfund.backtest.research.allocations import InverseVolatility, RiskParity, VolatilityTarget, covariance, equal_risk
from agentfund.backtest.research.mix import Mix
from agentfund.backtest.research.sleeves import Sleeve
from agentfund.errors import BadData, ConfigError
from agentfund.feeds import SimulatedMarket
from agentfund.strategies import DonchianBreakout, RsiReversion, SmaCross
from tests import market
from tests.backtest.research.trying import FREE, broker

START = pd.Timestamp("2024-01-01", tz="UTC")


def series(values: Any, every: str = "1D", start: pd.Timestamp = START) -> pd.Series[float]:
    """Return simple returns by time; the first one is of the time up to one step after `start`."""
    step = pd.Timedelta(every)
    return pd.Series(np.asarray(values, dtype=float), index=pd.date_range(start + step, periods=len(values), freq=step))


def walk(count: int, seed: int, deviation: float = 0.01) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return random returns."""
    return np.random.default_rng(seed).normal(0.0005, deviation, count)


def three(count: int = 200) -> list[Sleeve]:
    """Return sleeves of different volatility, calendar and length of bars."""
    week = series(walk(count, 2, 0.02))
    return [
        Sleeve("calm", series(walk(count, 1, 0.004))),
        Sleeve("working days", week[pd.DatetimeIndex(week.index).day_of_week < 5]),
        Sleeve("hourly", series(walk(count * 24, 3, 0.003), "1h")),
    ]


def markets() -> list[Sleeve]:
    """Return three strategies on three markets, with bars of different length."""
    quarter, hour = timedelta(minutes=15), timedelta(hours=1)
    return [
        Sleeve("stocks", SmaCross(), SimulatedMarket("AAA", bars=1500, seed=4, interval=quarter), broker(), limits=FREE),
        Sleeve(
            "forex",
            RsiReversion(),
            SimulatedMarket("EUR", bars=1400, seed=5, interval=hour, sessions="forex"),
            broker(),
            limits=FREE,
        ),
        Sleeve(
            "crypto",
            DonchianBreakout(),
            SimulatedMarket("BTC", bars=1900, seed=6, interval=hour, sessions="24h"),
            broker(),
            limits=FREE,
        ),
    ]


ALLOCATIONS: list[Any] = [
    "equal",
    "inverse_volatility",
    "volatility_target",
    "risk_parity",
    VolatilityTarget(0.3, max_leverage=2.5),
    RiskParity(lookback=30, shrinkage=0.5),
    lambda returns, names, now: {names[0]: 0.5, names[-1]: 0.25},
]


@pytest.mark.parametrize("weights", ALLOCATIONS, ids=lambda w: w if isinstance(w, str) else type(w).__name__)
@pytest.mark.parametrize("sleeves", [three, markets])
def test_what_sleeves_add_is_what_the_whole_made(weights: Any, sleeves: Any) -> None:
    """To the cent, after what moving capital cost; equity is cash and what is in the sleeves."""
    for rebalance in ("week", "month", None, timedelta(days=10)):
        result = Mix(sleeves(), weights, rebalance, cost_bps=10).run()
        assert float(result.contributions.sum()) == pytest.approx(result.final_equity - result.cash, abs=0.005)
        assert sum(each["contribution"] or 0 for each in result.sleeves.values()) == pytest.approx(
            result.final_equity - 100_000, abs=0.005
        )
        assert float(result.costs.sum()) == pytest.approx(sum(each.cost for each in result.decided), abs=1e-6)
        frame = result.frame()
        np.testing.assert_allclose(frame["equity"], frame["cash"] + frame[list(result.names)].sum(axis=1), rtol=1e-12)
        assert result.figures == of_curve(result.equity, 100_000, result.span)


@given(data=st.data(), count=st.integers(2, 60), seed=st.integers(0, 10_000), bps=st.sampled_from([0.0, 3.0, 500.0]))
@settings(max_examples=40, deadline=None)
def test_contributions_add_up_whatever_the_returns(data: st.DataObject, count: int, seed: int, bps: float) -> None:
    """Also through losses of everything."""
    rng = np.random.default_rng(seed)
    sleeves = []
    for name in "abc":
        returns = rng.normal(0, 0.2, count).clip(-1, None)
        if data.draw(st.booleans()):
            returns[data.draw(st.integers(0, count - 1))] = -1.0
        sleeves.append(Sleeve(name, series(returns)))
    result = Mix(
        sleeves, data.draw(st.sampled_from(["equal", "inverse_volatility", "risk_parity"])), "week", cost_bps=bps
    ).run()
    assert float(result.contributions.sum()) == pytest.approx(result.final_equity - result.cash, abs=0.005)
    assert np.isfinite(result.equity).all()
    assert result.equity.min() >= -1e-6


@pytest.mark.parametrize("weights", ALLOCATIONS, ids=lambda w: w if isinstance(w, str) else type(w).__name__)
def test_cutting_the_future_changes_no_earlier_weight(weights: Any) -> None:
    """Nor anything else of the past: weights, equity and shares are the same bits."""
    whole = Mix(three(), weights, "week").run()
    for cut in (40, 77, 150):
        moment = START + pd.Timedelta(days=cut)
        parts = [Sleeve(each.name, each.source[each.source.index <= moment]) for each in three()]  # type: ignore[index,union-attr]
        part = Mix(parts, weights, "week").run()
        known = len(part.ends)
        assert part.ends.tolist() == whole.ends[:known].tolist()
        assert part.equity[:-1].tobytes() == whole.equity[: known - 1].tobytes()
        assert part.values[:-1].tobytes() == whole.values[: known - 1].tobytes()
        for one, two in zip(part.decided, whole.decided, strict=False):
            assert (one.time, one.weights.tolist()) == (two.time, two.weights.tolist())


def test_a_function_sees_only_what_is_known() -> None:
    """Returns up to now, not one more, and it cannot reach behind them."""
    seen = []

    def own(returns: Any, names: tuple[str, ...], now: datetime) -> dict[str, float]:
        seen.append((now, returns.copy(), returns.base is None, returns.flags.writeable))
        return dict.fromkeys(names, 0.5)

    a, b = walk(60, 1), walk(60, 2)
    Mix([Sleeve("a", series(a)), Sleeve("b", series(b))], own, "week").run()
    assert len(seen) > 5
    for now, returns, alone, writeable in seen:
        days = (now - START.to_pydatetime()).days
        np.testing.assert_allclose(returns, np.stack([a[:days], b[:days]], axis=1), rtol=1e-9, atol=1e-12)
        assert alone
        assert not writeable


def test_a_rebalancing_by_hand() -> None:
    """Half and half; one doubles; the weights of that moment hold from the next close, and moving 25 of 150 costs 1 %."""
    times = [datetime(2024, 1, 31, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 2, 2, tzinfo=UTC)]
    index = pd.DatetimeIndex([*times, datetime(2024, 2, 3, tzinfo=UTC)])
    sleeves = [
        Sleeve("up", pd.Series([1.0, 0.0, 0.0, 0.1], index=index)),
        Sleeve("flat", pd.Series([0.0, 0.0, 0.0, 0.0], index=index)),
    ]
    result = Mix(sleeves, "equal", "month", cash=100.0, cost_bps=100).run()
    assert result.equity[:2].tolist() == [150.0, 150.0]
    # up 100 -> (150 - c) / 2, flat 50 -> (150 - c) / 2; c = 1 % of what is moved
    up = result.values[2, 0]
    cost = 150.0 - result.equity[2]
    assert cost == pytest.approx(0.01 * ((100 - up) + (up - 50)), abs=1e-9)
    assert up == pytest.approx((150 - cost) / 2, abs=1e-9)
    assert result.final_equity == pytest.approx(150 - cost + 0.1 * up, abs=1e-9)
    assert result.contributions.tolist() == pytest.approx([50 + 0.1 * up - 0.01 * (100 - up), -0.01 * (up - 50)], abs=1e-9)
    assert [each.cost for each in result.decided] == pytest.approx([0.0, cost])


def test_never_rebalanced_it_is_the_mean_of_the_sleeves() -> None:
    """Equal parts that grow by themselves."""
    result = Mix(three(), "equal", None).run()
    np.testing.assert_allclose(result.equity, 100_000 * result.levels.mean(axis=1), rtol=1e-12)
    assert len(result.decided) == 1


def test_calendars_meet_on_one_axis() -> None:
    """Every close of every sleeve is a moment; a sleeve without a bar there keeps its last value."""
    result = Mix(three(30), "equal", None).run()
    frame = result.frame()
    assert len(frame) == 30 * 24
    times = pd.DatetimeIndex(frame.index)
    sunday = frame[(times.day_of_week == 6) & (times.hour > 0)]
    days = pd.DatetimeIndex(sunday.index).date
    assert sunday["working days"].groupby(days).nunique().eq(1).all()
    assert sunday["hourly"].groupby(days).nunique().gt(20).all()


@st.composite
def matrices(draw: st.DrawFn) -> Any:
    """Return returns of some sleeves with correlations and very different deviations."""
    count = draw(st.integers(2, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mixed = rng.normal(size=(count + 60, count)) @ rng.normal(size=(count, count))
    return mixed * 10.0 ** rng.uniform(-4, 1, count)


@given(returns=matrices(), shrinkage=st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_every_sleeve_adds_the_same_risk(returns: Any, shrinkage: float) -> None:
    """w[i] (S w)[i] is one number, and the weights are above zero and add up to 1."""
    matrix = covariance(returns, shrinkage)
    weights = equal_risk(matrix)
    risks = weights * (matrix @ weights)
    np.testing.assert_allclose(risks, risks.mean(), rtol=1e-6)
    assert weights.min() > 0
    assert weights.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("correlation", [-1.0, -0.999999, 0.0, 0.999999, 1.0])
def test_sleeves_that_mirror_each_other_get_the_same(correlation: float) -> None:
    """Also where the matrix cannot be inverted."""
    assert equal_risk(np.array([[1.0, correlation], [correlation, 1.0]])).tolist() == pytest.approx([0.5, 0.5])


@given(returns=matrices())
@settings(max_examples=40, deadline=None)
def test_without_correlations_risk_parity_is_inverse_volatility(returns: Any) -> None:
    """Fully shrunk, both give 1 / deviation."""
    names = tuple(map(str, range(returns.shape[1])))
    now = datetime(2024, 1, 1, tzinfo=UTC)
    parity = RiskParity(lookback=None, shrinkage=1.0)(returns, names, now)
    inverse = InverseVolatility(lookback=None)(returns, names, now)
    assert parity == pytest.approx(inverse, rel=1e-6)


def test_a_volatility_target_is_met_within_its_leverage() -> None:
    """The whole moves about as much as wanted; with a low cap it moves less, and never more is borrowed."""
    sleeves = [Sleeve("a", series(walk(800, 1, 0.01))), Sleeve("b", series(walk(800, 2, 0.01)))]
    met = Mix(sleeves, VolatilityTarget(0.2, max_leverage=3.0), "week", cost_bps=0).run()
    assert met.metrics["volatility"] == pytest.approx(0.2, rel=0.12)
    assert max(float(each.weights.sum()) for each in met.decided) > 1.2
    capped = Mix(sleeves, VolatilityTarget(0.2, max_leverage=1.0), "week", cost_bps=0).run()
    assert max(float(each.weights.sum()) for each in capped.decided) <= 1 + 1e-9
    low = Mix(sleeves, VolatilityTarget(0.05, max_leverage=1.0), "week", cost_bps=0).run()
    assert low.metrics["volatility"] == pytest.approx(0.05, rel=0.35)


def test_too_few_returns_give_equal_weights() -> None:
    """Until there is enough to measure, nothing is pretended."""
    result = Mix(three(60), "risk_parity", "week").run()
    early = [each for each in result.decided if (each.time / 1e6 - START.timestamp()) / 86_400 < 20]
    late = [each for each in result.decided if each not in early]
    assert len(early) >= 2
    assert all(each.weights.tolist() == pytest.approx([1 / 3] * 3) for each in early)
    assert all(each.weights[0] > 0.5 for each in late)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"a": -0.1}, "a gets -0.1"),
        ({"a": 0.7, "b": 0.4}, "add up to 1.1"),
        ({"a": float("nan")}, "a gets nan"),
        ({"c": 0.5}, "no sleeve 'c'; there is a, b"),
        ({"a": True}, "a gets True"),
        ({"a": "0.5"}, "a gets '0.5'"),
        ([0.5, 0.5], "give a weight by name"),
        (None, "give a weight by name"),
    ],
)
def test_weights_that_cannot_be_used_are_named(given: Any, told: str) -> None:
    """With the function, the moment and the sleeve."""

    def picked(returns: Any, names: tuple[str, ...], now: datetime) -> Any:
        return given

    with pytest.raises(ConfigError, match=f"weights of picked at 2024-01-01.*{told}"):
        Mix([Sleeve("a", series([0.1, 0.1])), Sleeve("b", series([0.1, 0.1]))], picked).run()


def test_what_no_weight_names_is_cash() -> None:
    """A selection agent that names one sleeve leaves the rest in cash."""
    result = Mix([Sleeve("a", series([0.1, 0.1])), Sleeve("b", series([0.5, 0.5]))], lambda r, n, t: {"a": 0.4}, None).run()
    assert result.final_equity == pytest.approx(100_000 * (0.6 + 0.4 * 1.21))


def test_a_sleeve_that_ended_gets_no_weight() -> None:
    """Its share lies still until a rebalancing finds it ended, and the others share what there is."""
    sleeves = [Sleeve("short", series(walk(50, 1))), Sleeve("long", series(walk(200, 2)))]
    asked = []

    def own(returns: Any, names: tuple[str, ...], now: datetime) -> dict[str, float]:
        asked.append(names)
        assert returns.shape[1] == len(names)
        return dict.fromkeys(names, 1 / len(names))

    result = Mix(sleeves, own, "month").run()
    assert result.decided[2].weights.tolist() == [0.5, 0.5]
    assert [each.weights.tolist() for each in result.decided[3:]] == [[0.0, 1.0]] * 4
    assert asked[-1] == ("long",)
    assert "short ends on 2024-02-20" in result.text()


def test_a_sleeve_that_lost_all_gets_nothing_more() -> None:
    """It takes its share down, and no other."""
    returns = walk(120, 1)
    returns[20] = -1.0
    result = Mix([Sleeve("broke", series(returns)), Sleeve("fine", series(np.zeros(120)))], "equal", "month", cost_bps=0).run()
    assert result.final_equity == pytest.approx(50_000)
    assert [each.weights.tolist() for each in result.decided[1:]] == [[0.0, 1.0]] * 3
    assert "broke lost all its capital" in result.warnings


def test_sleeves_of_every_kind_mix() -> None:
    """A fund's report, a result of simulate, a strategy and a series of returns; each grows as it did by itself."""
    report = Backtest(market.fund(), market.bars(market.wave(300)), market.broker()).run()
    bars = SimulatedMarket("AAA", bars=400, seed=4)
    simulated = simulate(SmaCross(), bars, broker(), limits=FREE)
    sleeves = [
        Sleeve("fund", report),
        Sleeve("result", simulated),
        Sleeve("strategy", SmaCross(), bars, broker(), limits=FREE),
        Sleeve("series", series(walk(30, 1))),
    ]
    result = Mix(sleeves, "equal", None).run()
    assert result.levels[-1, 0] == pytest.approx(float(report.final_equity) / 100_000)
    # The mix begins with the last of all sleeves; the levels of the others start there.
    assert (result.levels[:, 1] == result.levels[:, 2]).all()
    assert result.levels[-1, 1] == pytest.approx(simulated.final_equity / 100_000)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (pd.Series([0.1], index=pd.DatetimeIndex(["2024-01-01"])), "aware times"),
        (series([0.1, float("nan")]), "row 1 .*nan is no simple"),
        (series([0.1, -1.5]), "row 1 .*-1.5 is no simple"),
        (series([0.1, 0.2])[::-1], "row 1: times must rise"),
        (series([]), "no return"),
        (pd.Series([0.1, 0.2]), "aware times"),
    ],
)
def test_bad_returns_are_named(given: Any, told: str) -> None:
    """With the sleeve and the row; nothing is repaired."""
    with pytest.raises(BadData, match=f"sleeve 'x'.*{told}"):
        Mix([Sleeve("x", given)]).run()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Sleeve("x", SmaCross()), "needs bars"),
        (lambda: Sleeve("", series([0.1])), "needs a name"),
        (lambda: Sleeve("x", series([0.1]), SimulatedMarket(bars=10)), "leave out the bars"),
        (lambda: Mix([]), "needs sleeves"),
        (lambda: Mix([Sleeve("x", series([0.1]))] * 2), "two sleeves are called 'x'"),
        (lambda: Mix([Sleeve("x", series([0.1]))], "best"), "weights='best': there is equal"),  # type: ignore[arg-type]
        (lambda: Mix([Sleeve("x", series([0.1]))], rebalance="hour"), "rebalance='hour'"),  # type: ignore[arg-type]
        (lambda: Mix([Sleeve("x", series([0.1]))], rebalance=timedelta(0)), "above zero"),
        (lambda: Mix([Sleeve("x", series([0.1]))], cash=0), "cash=0"),
        (lambda: Mix([Sleeve("x", series([0.1]))], cost_bps=-1), "cost_bps=-1"),
        (lambda: RiskParity(shrinkage=2), "shrinkage=2"),
        (lambda: InverseVolatility(lookback=5, least=20), "lookback=5"),
        (lambda: VolatilityTarget(0.0), "target=0.0"),
        (lambda: Mix([Sleeve("x", 5)]).run(), "int is none of a strategy"),  # type: ignore[arg-type]
    ],
)
def test_a_mix_that_cannot_work_is_refused(make: Any, told: str) -> None:
    """The message names what is wrong."""
    with pytest.raises(ConfigError, match=told):
        make()


def test_sleeves_that_never_meet_are_refused() -> None:
    """One ends before the other begins."""
    late = series(walk(10, 1), start=START + pd.Timedelta(days=100))
    with pytest.raises(ConfigError, match="sleeve 'early' ends before 'late' begins"):
        Mix([Sleeve("early", series(walk(10, 1))), Sleeve("late", late)]).run()


def test_it_reports_and_is_saved(tmp_path: Path) -> None:
    """Text, page, tables and figures; the page loads nothing."""
    result = Mix([*three(), Sleeve("<b>bold</b>", series(walk(200, 9)))], "risk_parity").run()
    folder = result.save(tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["equity.csv", "mix.html", "mix.json", "mix.txt", "weights.csv"]
    told = json.loads((folder / "mix.json").read_text())
    assert told["sleeves"]["calm"]["contribution"] == pytest.approx(float(result.contributions[0]))
    page = result.html()
    for word in ("<script", "http:", "https:", "url(", "src=", "<b>bold"):
        assert word not in page
    assert len(result.weights()) == len(result.decided)
    assert np.diag(result.correlations()).tolist() == pytest.approx([1.0] * 4)
    assert "RiskParity" in result.text()
