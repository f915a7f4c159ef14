"""The fast lanes: the same trades as the fund's own cycle, and clear words where they do not know."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from agentfund import Backtest, MemoryBus, Orchestrator, PaperBroker
from agentfund.backtest.lanes import OutOfLane, simulate
from agentfund.backtest.result import Result
from agentfund.core.gate import Limits
from agentfund.core.sizing import Sizing
from agentfund.errors import ConfigError, LookaheadError
from agentfund.feeds import Bars
from agentfund.indicators import SMA
from agentfund.market import Columns, Window
from agentfund.strategies import DonchianBreakout, RsiReversion, SmaCross, Strategy
from agentfund.trading import Costs, Direction
from tests.backtest.random_markets import Case, case, market
from tests.market import bars, wave

FREE = Costs(commission_bps=0, half_spread_bps=0, slippage_bps=0)


def rows(result: Result) -> list[tuple[float, ...]]:
    """Return what makes a trade."""
    t = result.trades
    each = (t.entry_bar, t.exit_bar, t.sign, t.quantity, t.entry_price, t.exit_price, t.fees)
    return [tuple(round(float(value), 9) for value in row) for row in zip(*each, strict=True)]


def run(one: Case, **options: Any) -> Result:
    return simulate(one.strategy, one.bars, one.broker, sizing=one.sizing, limits=one.limits, **options)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_all_ways_to_run_agree_to_the_cent_on_1000_random_markets(first: int) -> None:
    """Array lane, compiled and plain, event lane, and a fund with its broker, gate and log: the same trades and equity."""
    traded = 0
    for seed in range(first, first + 100):
        one = case(seed)
        plain = run(one, lane="array", compiled=False)
        for other in (run(one, lane="array", compiled=True), run(one, lane="event")):
            assert rows(other) == rows(plain), seed
            assert np.array_equal(other.equity, plain.equity), seed
            assert other.refused == plain.refused, seed
        fund = Orchestrator([one.strategy], bus=MemoryBus(), sizing=one.sizing, limits=one.limits)
        report = Backtest(fund, one.bars, PaperBroker(one.broker.cash, costs=one.broker.costs)).run()
        told = [
            (t.entry_bar, t.exit_bar, 1 if t.direction == "long" else -1, t.quantity, t.entry_price, t.exit_price, t.fees)
            for t in report.round_trips
        ]
        assert [tuple(round(float(value), 9) for value in row) for row in told] == rows(plain), seed
        assert np.abs(report.curve.equity - plain.equity).max() < 1e-6, seed
        assert report.denials == len([reason for _, _, reason in plain.refused if reason != "zero"]), seed
        traded += len(plain.trades)
    assert traded > 300


@pytest.mark.parametrize("lane", ["array", "event"])
def test_cash_is_conserved_to_the_cent_on_every_bar(lane: Any) -> None:
    """Cash after each bar is the capital less what was paid and plus what was got, in exact fractions."""
    for seed in range(200):
        one = case(seed)
        result = run(one, lane=lane)
        t, instrument = result.trades, one.bars.instruments[0]
        moves = [Fraction(0)] * len(result.ends)
        for k in range(len(t)):
            sign, quantity = int(t.sign[k]), Fraction(str(round(t.quantity[k], 9)))
            for bar, price, fee, way in (
                (t.entry_bar[k], t.entry_price[k], t.entry_fee[k], -sign),
                *([(t.exit_bar[k], t.exit_price[k], t.exit_fee[k], sign)] if t.closed[k] else []),
            ):
                on_tick = Fraction(instrument.round_price(float(price)))
                assert abs(float(on_tick) - price) < 1e-9
                moves[bar] += way * quantity * on_tick - Fraction(str(round(fee, 2)))
        cash = Fraction(one.broker.cash)
        for bar, move in enumerate(moves):
            cash += move
            assert abs(float(cash) - result.money[bar]) < 1e-6, (seed, bar)


def test_many_instruments_share_one_book_and_its_limits() -> None:
    """Alone each would use all the equity; together they stay within the leverage of the fund."""
    r = random.Random(5)
    feeds = [market(r, symbol=f"S{i}", bars=90).columns[f"S{i}"] for i in range(6)]
    start, interval = feeds[0].start, timedelta(minutes=5)
    columns = {
        c.instrument.symbol: Columns(c.instrument, interval, start, c.open, c.high, c.low, c.close, c.volume) for c in feeds
    }
    together = Bars(columns, source="random walks")
    limits = Limits(max_daily_loss_pct=99, max_drawdown_pct=99)
    result = simulate(SmaCross(2, 5, stop_pct=2.0), together, PaperBroker(100_000), limits=limits)
    assert result.lane == "event"
    gross = sum(np.abs(held) * columns[symbol].close for symbol, held in result.positions.items())
    assert (gross <= 1.10 * result.equity).all()
    assert {reason for _, _, reason in result.refused} >= {"leverage"}
    assert len(set(result.trades.symbol.tolist())) > 1
    one_at_a_time = simulate(
        SmaCross(2, 5, stop_pct=5.0), together, limits=Limits(max_positions=1), sizing=Sizing(max_leverage=0.1)
    )
    holding = sum((held != 0).astype(int) for held in one_at_a_time.positions.values())
    assert holding.max() == 1
    assert "positions" in {reason for _, _, reason in one_at_a_time.refused}


def test_many_small_books_add_up_to_one_where_no_limit_binds() -> None:
    """With sizes so small that neither equity nor limits matter, the trades are those of each instrument alone."""
    r = random.Random(7)
    feeds = [market(r, symbol=f"S{i}", bars=90) for i in range(4)]
    together = Bars({s: c for feed in feeds for s, c in feed.columns.items()}, source="random walks")
    broker, sizing = PaperBroker(10_000_000, costs=FREE), Sizing(risk_pct=0.001)
    result = simulate(SmaCross(2, 5), together, broker, sizing=sizing)
    for number, feed in enumerate(feeds):
        alone = simulate(SmaCross(2, 5), feed, broker, sizing=sizing)
        mine = result.trades.symbol == number
        assert result.trades.entry_bar[mine].tolist() == alone.trades.entry_bar.tolist()
        assert result.trades.exit_bar[mine].tolist() == alone.trades.exit_bar.tolist()
        assert result.trades.exit_price[mine].tolist() == alone.trades.exit_price.tolist()


def test_the_future_of_the_bars_changes_no_trade_before_it() -> None:
    """Cut anywhere, what was traded up to there is the same."""
    one = case(3)
    whole = rows(run(one))
    for cut in (10, 20, 30):
        earlier = one.bars.between(end=Window(one.bars.columns["RND"], cut).now)
        part = run(Case(one.strategy, earlier, one.broker, one.sizing, one.limits))
        closed = [row for row, still in zip(rows(part), ~part.trades.closed, strict=True) if not still]
        assert closed == whole[: len(closed)]


class EveryThird(Strategy):
    """Counts its own trades, so it can only be run bar by bar."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._count = 0

    def reset(self) -> None:
        self._count = 0

    def decide(self, now: Any, held: bool) -> Direction | None:
        self._count += 1
        if held:
            return Direction.FLAT if self._count % 5 == 0 else None
        return (Direction.LONG, Direction.SHORT)[self._count % 2] if self._count % 3 == 0 else None


@pytest.mark.parametrize("seed", range(20))
def test_a_strategy_that_decides_by_itself_runs_bar_by_bar_and_as_in_a_fund(seed: int) -> None:
    """Both directions and a memory of its own; the event lane and the fund's cycle agree."""
    one = case(seed)
    limits = Limits(allow_short=True, max_daily_loss_pct=99, max_drawdown_pct=99)
    result = simulate(EveryThird(stop_pct=2.0), one.bars, one.broker, limits=limits)
    assert result.lane == "event"
    fund = Orchestrator([EveryThird(stop_pct=2.0)], bus=MemoryBus(), limits=limits)
    report = Backtest(fund, one.bars, PaperBroker(one.broker.cash, costs=one.broker.costs)).run()
    assert [(t.entry_bar, t.exit_bar, round(float(t.exit_price), 9)) for t in report.round_trips] == [
        (row[0], row[1], row[5]) for row in rows(result)
    ]
    with pytest.raises(ConfigError, match="decide of its own"):
        simulate(EveryThird(), one.bars, lane="array")


class OneBarAtATime(SmaCross):
    """Written with `and`, which no array understands."""

    def enter(self, now: Any) -> Any:
        return now.fast > now.slow and now.close > now.fast


def test_a_condition_for_one_bar_at_a_time_takes_the_event_lane() -> None:
    """The same trades, by the slower way; and the array lane says why it cannot."""
    feed = bars(wave(300))
    assert simulate(OneBarAtATime(3, 9), feed).lane == "event"
    assert rows(simulate(OneBarAtATime(3, 9), feed)) == rows(simulate(SmaCross(3, 9), feed))
    with pytest.raises(ConfigError, match="cannot be taken over a whole series"):
        simulate(OneBarAtATime(3, 9), feed, lane="array")


class PeeksAtTheMaximum(Strategy):
    """Compares with the maximum of the whole series."""

    def enter(self, now: Any) -> Any:
        return now.close < 0.98 * np.max(now.close)


def test_a_condition_that_mixes_bars_is_found_out() -> None:
    """It would say something else of a bar alone."""
    with pytest.raises(LookaheadError, match="mixes bars"):
        simulate(PeeksAtTheMaximum(), bars(wave(300)))


class Numbers(Strategy):
    """Gives numbers where truth values are wanted."""

    def enter(self, now: Any) -> Any:
        return now.close - 100


class Clash(Strategy):
    """Hides the close behind an indicator."""

    def indicators(self) -> dict[str, Any]:
        return {"close": SMA(3)}


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        (Numbers(), {}, "must give truth values"),
        (Clash(), {}, "cannot be called 'close'"),
        (SmaCross(), {"lane": "fast"}, "lane='fast'"),
        (SmaCross(symbol="NVDA"), {}, "no bars of 'NVDA'"),
        ({"SIM": "sma"}, {}, "is no strategy"),
        ({}, {}, "no strategy to run"),
    ],
)
def test_what_cannot_work_is_told(strategy: Any, options: dict[str, Any], message: str) -> None:
    """Each error names the cause."""
    with pytest.raises(ConfigError, match=message):
        simulate(strategy, bars(wave(80)), **options)


def thin(count: int) -> Bars:
    """Return bars in which little is traded."""
    (columns,) = bars(wave(count)).columns.values()
    volume = np.full(count, 500.0)
    return Bars(
        Columns(
            columns.instrument, columns.interval, columns.start, columns.open, columns.high, columns.low, columns.close, volume
        ),
        source="thin",
    )


@pytest.mark.parametrize("lane", ["array", "event"])
def test_an_order_that_fills_in_parts_is_no_matter_for_a_fast_lane(lane: Any) -> None:
    """The fast lane says so with the bar; by itself `simulate` takes the fund's own cycle instead."""
    with pytest.raises(OutOfLane, match=r"SIM, bar \d+ .* fills in parts"):
        simulate(SmaCross(3, 9), thin(200), lane=lane)
    result = simulate(SmaCross(3, 9), thin(200))
    fund = Orchestrator([SmaCross(3, 9)], bus=MemoryBus())
    report = Backtest(fund, thin(200), PaperBroker()).run()
    assert result.lane == "cycle"
    assert result.final_equity == pytest.approx(float(report.final_equity))
    assert [row[:2] for row in rows(result)] == [(t.entry_bar, t.exit_bar) for t in report.round_trips]
    assert result.total_return == pytest.approx(report.total_return)


def test_bars_so_short_that_the_limit_of_orders_an_hour_could_bind_are_left_to_the_cycle() -> None:
    """A minute has sixty bars an hour, the limit is fifty orders."""
    feed = bars(wave(120), minutes=1)
    with pytest.raises(OutOfLane, match="orders an hour"):
        simulate(SmaCross(3, 9), feed, lane="event")
    assert simulate(SmaCross(3, 9), feed).lane == "cycle"
    assert simulate(SmaCross(3, 9), feed, limits=Limits(max_orders_per_hour=60)).lane == "array"


class Counted(RsiReversion):
    """Counts how often it is asked."""

    asked = 0

    def decide(self, now: Any, held: bool) -> Direction | None:
        Counted.asked += 1
        return super().decide(now, held)

    elementwise = True  # what it counts does not change what it says


def test_a_fund_stops_only_where_its_strategy_has_something_to_say() -> None:
    """The rule is asked at signals alone, and the cycles are counted as if it had been asked at every bar."""
    feed = bars(wave(3000))
    result = simulate(RsiReversion(), feed, PaperBroker(costs=FREE))
    report = Backtest(Orchestrator([Counted()], bus=MemoryBus()), feed, PaperBroker(costs=FREE)).run()
    assert len(result.trades) == len(report.round_trips) > 3
    assert report.cycles == 3000
    assert 0 < Counted.asked < 600


def test_a_result_is_readable() -> None:
    """As text and as a table."""
    result = simulate(DonchianBreakout(5), bars(wave(400)), PaperBroker(costs=FREE))
    assert "trades" in result.text()
    assert "Sharpe" in str(result)
    frame = result.frame()
    assert len(frame) == len(result.trades) > 0
    assert frame["profit"].sum() == pytest.approx(result.final_equity - 100_000, abs=1e-6)
    assert Decimal(str(round(result.final_equity, 2))) > 0
    assert result.metrics["hit_rate"].value is not None


def two(second: Bars) -> Bars:
    """Return two instruments: A, and another market called B."""
    (a,), (b,) = (list(feed.columns.values()) for feed in (bars(wave(300), symbol="A"), second))
    return Bars({"A": a, "B": replace(b, instrument=replace(b.instrument, symbol="B"))}, source="two")


def test_the_slow_way_trades_the_instrument_that_was_asked_for() -> None:
    """Where a fast lane does not know, the fund's cycle runs the same instrument, and leaves the strategy as it was."""
    strategy = SmaCross(3, 9)
    feed = two(thin(300))
    result = simulate({"B": strategy}, feed)
    alone = simulate(SmaCross(3, 9), Bars({"B": feed.columns["B"]}, source="alone"))
    assert (result.lane, result.symbols, strategy.symbol) == ("cycle", ("B",), "")
    assert rows(result) == rows(alone)
    with pytest.raises(ConfigError, match="given for B trades A"):
        simulate({"B": SmaCross(symbol="A")}, feed)


def test_bars_that_overlap_fill_no_order_before_it_was_decided() -> None:
    """A bar that begins before the decision is no matter for a fast lane."""
    (columns,) = bars(wave(200)).columns.values()
    longer = Bars(replace(columns, interval=timedelta(minutes=20)), source="overlapping")
    with pytest.raises(OutOfLane, match="overlap"):
        simulate(SmaCross(3, 9), longer, lane="array")
    assert simulate(SmaCross(3, 9), longer).lane == "cycle"


def test_a_strategy_that_ran_before_says_the_same_as_a_new_one() -> None:
    """Nothing of one market is left when it looks at another with the same times."""
    first, second = bars(wave(300, seed=1)), bars(wave(300, seed=2))
    used = SmaCross(3, 9)
    trips = []
    for strategy, feed in ((used, first), (used, second), (SmaCross(3, 9), second)):
        report = Backtest(Orchestrator([strategy], bus=MemoryBus()), feed, PaperBroker()).run()
        trips.append([(t.entry_bar, t.exit_bar) for t in report.round_trips])
    assert trips[1] == trips[2] != trips[0]


def test_orders_an_hour_are_counted_over_all_instruments() -> None:
    """Six that want to trade at once pass no limit of two."""
    r = random.Random(5)
    feeds = [market(r, symbol=f"S{i}", bars=90).columns[f"S{i}"] for i in range(6)]
    columns = {c.instrument.symbol: replace(c, start=feeds[0].start, interval=timedelta(minutes=5)) for c in feeds}
    result = simulate(
        SmaCross(2, 5), Bars(columns, source="six"), limits=Limits(max_orders_per_hour=2), sizing=Sizing(max_leverage=0.1)
    )
    decided = sorted(feeds[0].start[result.trades.decided].tolist())
    assert all(later - earlier >= 3_600_000_000 for earlier, later in zip(decided, decided[2:], strict=False))
    assert "order_rate" in {reason for _, _, reason in result.refused}


class Words(Strategy):
    """Gives a word where a direction is wanted."""

    def decide(self, now: Any, held: bool) -> Any:
        return "long"


class NoNumber(SmaCross):
    """Divides by zero now and then."""

    def stop(self, now: Any) -> Any:
        return np.where(now.close > 100, np.inf, 1.0)


def test_what_is_no_direction_and_no_number_trades_nothing() -> None:
    """A word is told; an infinite stop is no proposal, in any lane."""
    feed = bars(wave(300))
    with pytest.raises(ConfigError, match="decide gave 'long'"):
        simulate(Words(), feed)
    array, event = (simulate(NoNumber(3, 9), feed, lane=lane) for lane in ("array", "event"))
    assert rows(array) == rows(event)
    assert 0 < len(array.trades) < len(simulate(SmaCross(3, 9), feed).trades)
    (columns,) = feed.columns.values()
    assert (columns.close[array.trades.decided] <= 100).all()


def test_cash_is_counted_in_cents_as_a_fund_counts_it() -> None:
    """Parts of a cent are rounded before the first trade."""
    feed = bars(wave(300))
    result = simulate(SmaCross(3, 9), feed, PaperBroker(Decimal("100000.005")), sizing=Sizing(headroom_pct=0))
    fund = Orchestrator([SmaCross(3, 9)], bus=MemoryBus(), sizing=Sizing(headroom_pct=0))
    report = Backtest(fund, feed, PaperBroker(Decimal("100000.005"))).run()
    assert [row[:2] for row in rows(result)] == [(t.entry_bar, t.exit_bar) for t in report.round_trips]
