"""The three strategies against results that two other engines agree on, on data that development packages ship."""

from __future__ import annotations

import warnings
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np
import pytest

from agentfund import PaperBroker
from agentfund.backtest.lanes import simulate
from agentfund.core.gate import Limits
from agentfund.core.sizing import Sizing
from agentfund.feeds import Bars
from agentfund.market import Columns, Instrument
from agentfund.strategies import DonchianBreakout, RsiReversion, SmaCross, Strategy
from agentfund.trading import Costs
from tests.backtest import oracle
from tests.feeds.test_real_files import FOLDER, real

FINE = Decimal("1e-8")
OFF = Limits(
    max_daily_loss_pct=1e9, max_drawdown_pct=1e9, max_order_pct=1e9, max_position_pct=1e9, max_leverage=1e9, max_risk_pct=1e12
)  # fmt: skip

# Signals at the close, fills at the next open, sized at the fill, fractional, one position, stop 1 % and target 2 % from
# the close that decided, stop before target, gaps at the open, costs in basis points of notional on each side.
# data, strategy, bps: trades, exits by signal, stop and target, open at the end, final equity, drawdown, Sharpe
REFERENCE = """
goog   sma  0 492   5 286 200 1 138243.4470 0.173595  0.398168
goog   sma 10 492   5 286 200 1  51728.8893 0.530972 -0.635385
goog   rsi  0  62   0  40  22 0  89632.2610 0.154994 -0.344176
goog   rsi 10  62   0  40  22 0  79179.3292 0.243478 -0.731617
goog   don  0 179   0 109  70 0 110777.6337 0.115204  0.212675
goog   don 10 179   0 109  70 0  77441.6518 0.255622 -0.411923
eurusd sma  0 174 171   2   1 0 103178.4541 0.028984  0.891890
eurusd sma 10 174 171   2   1 0  72854.1820 0.271749 -7.880232
eurusd rsi  0  34  32   2   0 0 102541.3749 0.014298  1.273600
eurusd rsi 10  34  32   2   0 0  95800.3513 0.047062 -1.991460
eurusd don  0 100  98   1   1 0 103587.0926 0.021405  1.073211
eurusd don 10 100  98   1   1 0  84809.9327 0.153323 -4.583096
sp500  sma  0 503  86 266 151 0 115950.1876 0.270625  0.143579
sp500  sma 10 503  86 266 151 0  42400.5081 0.629523 -0.591854
sp500  rsi  0  84   0  50  34 0 115913.3152 0.077170  0.264101
sp500  rsi 10  84   0  50  34 0  97987.7600 0.139833 -0.019208
sp500  don  0 236  16 144  76 0 104258.1562 0.210023  0.067108
sp500  don 10 236  16 144  76 0  65031.3810 0.423020 -0.406375
nasdaq sma  0 726  65 401 260 0 118816.5053 0.374092  0.143913
nasdaq sma 10 726  65 401 260 0  27815.1225 0.728953 -0.696414
nasdaq rsi  0  85   0  52  33 0  80999.5189 0.240923 -0.353597
nasdaq rsi 10  85   0  52  33 0  68336.4404 0.348269 -0.625041
nasdaq don  0 315   5 196 114 0  98389.7284 0.343810  0.016172
nasdaq don 10 315   5 196 114 0  52401.5516 0.541083 -0.503910
"""
STRATEGIES: dict[str, type[Strategy]] = {"sma": SmaCross, "rsi": RsiReversion, "don": DonchianBreakout}


@cache
def bars(name: str) -> Bars:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame: Any
        if name in ("goog", "eurusd"):
            from backtesting import test as shipped

            frame = {"goog": shipped.GOOG, "eurusd": shipped.EURUSD}[name]
        else:
            from importlib import import_module

            frame = import_module(f"arch.data.{name}").load()
    column: dict[str, Any] = {
        field: np.ascontiguousarray(frame[field.title()], dtype=np.float64) for field in ("open", "high", "low", "close")
    }
    start = np.ascontiguousarray(frame.index.as_unit("us").asi8)
    interval = timedelta(hours=1) if name == "eurusd" else timedelta(days=1)
    instrument = Instrument(name, tick_size=FINE, lot_size=FINE, cents=FINE)
    return Bars(Columns(instrument, interval, start, **column, volume=np.zeros(len(start))), source=name)


@pytest.mark.parametrize("row", REFERENCE.strip().splitlines(), ids=lambda row: "-".join(row.split()[:3]))
@pytest.mark.parametrize(("lane", "compiled"), [("array", False), ("array", True), ("event", None)])
def test_the_strategies_equal_the_reference_results(row: str, lane: Any, compiled: bool | None) -> None:
    """Trades and exits are the same ones; equity, drawdown and Sharpe agree to a millionth."""
    data, name, bps, *expected = row.split()
    trades, signal, stop, target, still, equity, drawdown, sharpe = map(float, expected)
    broker = PaperBroker(
        100_000, costs=Costs(commission_bps=float(bps), half_spread_bps=0, slippage_bps=0), max_leverage=1e9
    )  # fmt: skip
    result = simulate(
        STRATEGIES[name](),
        bars(data),
        broker,
        sizing=Sizing(headroom_pct=0),
        limits=OFF,
        lane=lane,
        compiled=compiled,
        sized_at="fill",
    )
    assert len(result.trades) == trades
    assert result.trades.count() == {"signal": signal, "stop": stop, "target": target, "open": still}
    assert result.final_equity == pytest.approx(equity, rel=1e-6)
    assert result.max_drawdown == pytest.approx(drawdown, abs=2e-6)
    returns = np.diff(np.append(100_000, result.equity)) / np.append(100_000, result.equity)[:-1]
    per_year = 252 * 24 if data == "eurusd" else 252
    assert returns.mean() / returns.std() * per_year**0.5 == pytest.approx(sharpe, abs=2e-5)


@pytest.mark.skipif(not FOLDER, reason="AGENTFUND_REAL_DATA is not set to the folder of real market data")
@pytest.mark.parametrize("file", ["AAPL_15m.csv.gz", "EURUSD_4h.csv.gz", "BTCUSD_30m.csv.gz"])
@pytest.mark.parametrize("name", ["sma", "rsi", "don"])
@pytest.mark.parametrize("bps", [0, 10])
def test_on_real_files_the_lanes_equal_a_backtest_written_on_a_blank_page(file: str, name: str, bps: int) -> None:
    """Trades are the same ones; equity and drawdown agree to a millionth."""
    read = real(file)
    columns = next(iter(read.columns.values()))
    # Prices are rounded against the trader at each fill, which adds up over thousands of trades.
    instrument = Instrument(columns.instrument.symbol, tick_size=Decimal("1e-11"), lot_size=FINE, cents=FINE)
    # Moved by far less than a tick, so that no average equals a price: there the last bit of a sum would decide.
    apart = 1 + 1e-7 * np.random.default_rng(1).random(len(columns))
    prices: dict[str, Any] = {field: getattr(columns, field) * apart for field in ("open", "high", "low", "close")}
    columns = replace(columns, instrument=instrument, volume=np.zeros(len(columns)), **prices)
    fine = Bars(columns, source=read.source)
    enter, leave = getattr(oracle, name)(columns)
    trades, curve = oracle.run(columns, enter, leave, bps / 1e4)
    equity, drawdown = oracle.summary(curve)
    broker = PaperBroker(100_000, costs=Costs(commission_bps=bps, half_spread_bps=0, slippage_bps=0), max_leverage=1e9)
    lane: Any
    for lane in ("array", "event"):
        result = simulate(
            STRATEGIES[name](), fine, broker, sizing=Sizing(headroom_pct=0), limits=OFF, lane=lane, sized_at="fill"
        )  # fmt: skip
        assert len(result.trades) == trades
        # Sizes are rounded down to 1e-8 units; an account that has shrunk to cents feels that.
        assert result.final_equity == pytest.approx(equity, rel=1e-6, abs=0.01)
        assert result.max_drawdown == pytest.approx(drawdown, abs=2e-6)
