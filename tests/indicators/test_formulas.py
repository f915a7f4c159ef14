"""Each indicator against its formula: by hand, and as pandas has it."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from agentfund.errors import BadData, ConfigError
from agentfund.indicators import ADX, ATR, EMA, MACD, RSI, SMA, Bollinger, Donchian, Lag, Price, RealisedVol, ZScore
from tests.indicators.bars import columns_of, one_by_one, rows, same_bits, walk

NAN = np.nan
COLUMNS = walk(2_000)
CLOSE, HIGH, LOW = pd.Series(COLUMNS.close), pd.Series(COLUMNS.high), pd.Series(COLUMNS.low)


def close_to(found: Any, expected: Any) -> None:
    """Compare to 1e-9 of the value, NaN with NaN."""
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-9, atol=1e-11)


def wilder(series: pd.Series[float], n: int) -> pd.Series[float]:
    """Smooth as Wilder does, seeded with the first value."""
    return series.ewm(alpha=1 / n, adjust=False, min_periods=n).mean()


def true_range() -> pd.Series[float]:
    """Return Wilder's true range."""
    before = CLOSE.shift()
    return pd.concat([HIGH - LOW, (HIGH - before).abs(), (LOW - before).abs()], axis=1).max(axis=1)


def test_averages_are_those_of_pandas() -> None:
    """Mean and exponential mean."""
    close_to(SMA(20).batch(COLUMNS), CLOSE.rolling(20).mean())
    close_to(EMA(20).batch(COLUMNS), CLOSE.ewm(span=20, adjust=False, min_periods=20).mean())
    close_to(SMA(3, of="high").batch(COLUMNS), HIGH.rolling(3).mean())


def test_rsi_is_that_of_pandas() -> None:
    """Clipped differences, smoothed by 1/n, seeded with the first of them."""
    change = CLOSE.diff()
    gain, loss = wilder(change.clip(lower=0), 14), wilder(-change.clip(upper=0), 14)
    close_to(RSI(14).batch(COLUMNS), 100 - 100 / (1 + gain / loss))


def test_atr_is_that_of_pandas() -> None:
    """The true range smoothed by 1/n, seeded with the first bar's range."""
    close_to(ATR(14).batch(COLUMNS), wilder(true_range(), 14))


def test_donchian_is_that_of_pandas() -> None:
    """Highest high and lowest low, this bar's among them; Lag gives the channel of the bars before."""
    bands = Donchian(20).batch(COLUMNS)
    upper, lower = HIGH.rolling(20).max(), LOW.rolling(20).min()
    close_to(bands, [upper, (upper + lower) / 2, lower])
    close_to(Lag(Donchian(20), 3).batch(COLUMNS), [each.shift(3) for each in (upper, (upper + lower) / 2, lower)])
    close_to(Lag(Price("close"), 3).batch(COLUMNS), CLOSE.shift(3))


def test_macd_is_that_of_pandas() -> None:
    """Three exponential means that begin with the first bar."""
    line = CLOSE.ewm(span=12, adjust=False).mean() - CLOSE.ewm(span=26, adjust=False).mean()
    signal = line.ewm(span=9, adjust=False).mean()
    found = MACD().batch(COLUMNS)
    close_to(found.line[25:], line[25:])
    close_to(found.signal[33:], signal[33:])
    close_to(found.histogram[33:], (line - signal)[33:])
    assert np.isnan(found.line[:25]).all()
    assert np.isnan(found.signal[:33]).all()


def test_bollinger_and_z_score_are_those_of_pandas() -> None:
    """The population's deviation."""
    mean, deviation = CLOSE.rolling(20).mean(), CLOSE.rolling(20).std(ddof=0)
    close_to(Bollinger().batch(COLUMNS), [mean + 2 * deviation, mean, mean - 2 * deviation])
    close_to(ZScore(20).batch(COLUMNS), (CLOSE - mean) / deviation)


def test_realised_volatility_is_that_of_pandas() -> None:
    """The sample's deviation of log returns times the root of the bars in a year."""
    returns = pd.Series(np.log(COLUMNS.close)).diff()
    close_to(RealisedVol(30, 252).batch(COLUMNS), returns.rolling(30).std() * np.sqrt(252))


def test_adx_is_that_of_pandas() -> None:
    """Directional movement and true range from the second bar on, all smoothed by 1/n."""
    up, down = HIGH.diff(), -LOW.diff()
    moved_up, moved_down = up.where((up > down) & (up > 0), 0.0), down.where((down > up) & (down > 0), 0.0)
    reach = wilder(true_range()[1:], 14)
    plus, minus = 100 * wilder(moved_up[1:], 14) / reach, 100 * wilder(moved_down[1:], 14) / reach
    index = 100 * (plus - minus).abs() / (plus + minus)
    found = ADX(14).batch(COLUMNS)
    close_to(found.plus[1:], plus)
    close_to(found.minus[1:], minus)
    close_to(found.adx[14:], wilder(index[13:], 14))


def test_rsi_by_hand() -> None:
    """Differences +2, -1, 0, +3 with n = 2, each smoothed by a half."""
    # gains 2, 1, 0.5, 1.75; losses 0, 0.5, 0.25, 0.125
    expected = [NAN, NAN, 100 / 1.5, 50 / 0.75, 175 / 1.875]
    close_to(RSI(2).batch(columns_of([10, 12, 11, 11, 14])), expected)


def test_atr_by_hand() -> None:
    """A gap counts from the close before it."""
    columns = columns_of([10, 15, 14], high=[11, 16, 15], low=[9, 14.5, 11])
    # ranges 2; 16 - 10 = 6 over the gap; 15 - 11 = 4. Smoothed by a half: 2, 4, 4.
    close_to(ATR(2).batch(columns), [NAN, 4, 4])


def test_adx_by_hand() -> None:
    """Up two, then down one, with n = 1: nothing is smoothed."""
    columns = columns_of([10, 12, 11], high=[11, 13, 12.5], low=[9, 10, 9])
    # bar 1: up 2, down -1: +DM 2, true range 13 - 10 = 3. bar 2: up -0.5, down 1: -DM 1, true range 12.5 - 9 = 3.5.
    close_to(ADX(1).batch(columns), [[NAN, 100, 100], [NAN, 200 / 3, 0], [NAN, 0, 100 / 3.5]])


def test_macd_by_hand() -> None:
    """EMA(1) is the price itself; EMA(3) moves by a half."""
    # EMA(3) of 8, 12, 14: 8, 10, 12; line 0, 2, 2; signal with n = 1 is the line.
    close_to(MACD(1, 3, 1).batch(columns_of([8, 12, 14])), [[NAN, NAN, 2], [NAN, NAN, 2], [NAN, NAN, 0]])


def test_a_market_that_stands_still_has_exact_values() -> None:
    """No rounding makes a mean cross a price that does not move."""
    for price in (0.1, 1 / 3, 4516.181):
        flat = columns_of([price] * 130)
        for average in (SMA(20), SMA(50), EMA(20)):
            assert set(average.batch(flat)[49:]) == {price}
        assert set(np.concatenate(Bollinger(20).batch(flat))[19:40]) == {price}
        assert set(ZScore(20).batch(flat)[19:]) == {0.0}
        assert set(RSI().batch(flat)[14:]) == {50.0}
        assert set(RealisedVol(20, 252).batch(flat)[20:]) == {0.0}
        assert [set(each[27:]) for each in ADX().batch(flat)] == [{0.0}] * 3
        for indicator in (SMA(20), SMA(50), EMA(20), Bollinger(20), ZScore(20), RSI(), RealisedVol(20, 252), ADX()):
            assert same_bits(rows(indicator.batch(flat)), one_by_one(indicator, flat))


def test_rsi_is_100_where_nothing_falls_and_0_where_nothing_rises() -> None:
    """The ends of its scale."""
    assert set(RSI(5).batch(columns_of(np.arange(1.0, 30)))[5:]) == {100.0}
    assert set(RSI(5).batch(columns_of(np.arange(30.0, 1, -1)))[5:]) == {0.0}


def test_a_huge_price_leaves_no_trace_once_it_is_out_of_the_window() -> None:
    """Sums that subtract would keep its rounding error for ever."""
    prices = np.full(100, 1.1)
    prices[7] = 1e17
    prices[50:] += np.arange(50) % 3 / 7
    clean = np.where(prices > 1e9, 1.1, prices)
    for indicator in (SMA(10), ZScore(10), Bollinger(10)):
        found, expected = (np.atleast_2d(indicator.batch(columns_of(each))) for each in (prices, clean))
        assert np.array_equal(found[:, 20:], expected[:, 20:])


def test_a_price_without_a_logarithm_is_named() -> None:
    """A log return needs prices above zero."""
    with pytest.raises(BadData, match=r"close is 0\.0, and a log return needs a price above zero"):
        RealisedVol(2, 252).batch(columns_of([1, 2, 0]))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MACD(26, 12), r"fast \(26\) must be less than slow \(12\)"),
        (lambda: Bollinger(1), "n must be at least 2"),
        (lambda: Bollinger(20, -1), "k must be finite"),
        (lambda: RealisedVol(20, 0), "bars_per_year must be above zero"),
        (lambda: RealisedVol(1, 252), "n must be at least 2"),
        (lambda: SMA(3, of=cast(Any, "price")), "there is open, high, low, close, volume"),
        (lambda: Lag(cast(Any, "close")), r'take Lag\(Price\("close"\)\)'),
    ],
)
def test_parameters_that_cannot_be_are_refused(make: Any, said: str) -> None:
    """With what is wrong and what would be right."""
    with pytest.raises(ConfigError, match=said):
        make()
