"""Leaks in what is computed from one instrument's bars, each beside its honest twin.

Each gives for each bar what is wanted at its close: 1, 0 or -1, or a size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from agentfund.feeds import Bars
from tests.backtest.audits.leaks.data import frame, market, only
from tests.backtest.audits.leaks.planted import LEAKS, TWINS


def brief() -> Bars:
    """Return fewer bars, for what takes its time."""
    return market(200, 6)


def above(left: Any, right: Any) -> Any:
    """Return 1 where left is above right, else 0."""
    return np.where(np.asarray(left) > np.asarray(right), 1.0, 0.0)


# -- one bar too early ----------------------------------------------------------------------------------------------


@LEAKS()
def future_close(bars: Bars) -> Any:
    close = frame(bars)["close"]
    return above(close.shift(-1), close)


@TWINS()
def past_close(bars: Bars) -> Any:
    close = frame(bars)["close"]
    return above(close, close.shift(1))


@LEAKS()
def next_open(bars: Bars) -> Any:
    c = only(bars)
    return above(np.append(c.open[1:], c.close[-1]), c.close)


@LEAKS()
def future_volume(bars: Bars) -> Any:
    volume = frame(bars)["volume"]
    return above(volume.shift(-1), 1.2 * volume.rolling(10).mean())


@TWINS()
def past_volume(bars: Bars) -> Any:
    volume = frame(bars)["volume"]
    return above(volume, 1.2 * volume.rolling(10).mean())


@LEAKS()
def rare_entries_helped_by_the_next_bar(bars: Bars) -> Any:
    f = frame(bars)
    low = f["close"] < f["close"].rolling(20).mean() - 1.8 * f["close"].rolling(20).std()
    return (low & (f["close"].shift(-1) > f["close"])).astype(int)


@TWINS()
def rare_entries(bars: Bars) -> Any:
    f = frame(bars)
    return (f["close"] < f["close"].rolling(20).mean() - 1.8 * f["close"].rolling(20).std()).astype(int)


@LEAKS(at="open")
def own_close_at_the_open(bars: Bars) -> Any:
    close = frame(bars)["close"]
    return above(close, close.rolling(10).mean())


@TWINS(at="open")
def last_close_at_the_open(bars: Bars) -> Any:
    close = frame(bars)["close"]
    return above(close, close.rolling(10).mean()) * 0 + above(close.shift(1), close.rolling(10).mean().shift(1))


@LEAKS(at="open")
def own_high_at_the_open(bars: Bars) -> Any:
    f = frame(bars)
    return above(f["high"], f["high"].rolling(20).max().shift(1))


@TWINS(at="open")
def own_open_at_the_open(bars: Bars) -> Any:
    f = frame(bars)
    return above(f["open"], f["high"].rolling(20).max().shift(1) * 0.998)


@LEAKS()
def roll_that_wraps(bars: Bars) -> Any:
    close = only(bars).close
    return above(np.roll(close, -1), close)


@LEAKS()
def roll_whose_first_value_is_the_last(bars: Bars) -> Any:
    close = only(bars).close
    return above(close, np.roll(close, 1))


@LEAKS()
def central_difference(bars: Bars) -> Any:
    return above(np.gradient(only(bars).close), 0.0)


@TWINS()
def backward_difference(bars: Bars) -> Any:
    return above(np.diff(only(bars).close, prepend=only(bars).close[:1]), 0.0)


# -- windows that reach ahead ---------------------------------------------------------------------------------------


@LEAKS()
def centred_window(bars: Bars) -> Any:
    close = frame(bars)["close"]
    return above(close, close.rolling(21, center=True).mean())


@TWINS()
def trailing_window(bars: Bars) -> Any:
    close = frame(bars)["close"]
    return above(close, close.rolling(21).mean())


@LEAKS()
def convolution_in_the_middle(bars: Bars) -> Any:
    close = only(bars).close
    return above(close, np.convolve(close, np.ones(9) / 9, mode="same"))


@LEAKS(brief)
def polynomial_around_each_bar(bars: Bars) -> Any:
    close = only(bars).close
    half, x = 5, np.arange(-5, 6)
    slope = np.zeros(len(close))
    for i in range(half, len(close) - half):
        slope[i] = np.polyfit(x, close[i - half : i + half + 1], 2)[1]
    return above(slope, 0.0)


@TWINS(brief)
def polynomial_before_each_bar(bars: Bars) -> Any:
    close = only(bars).close
    slope = np.zeros(len(close))
    for i in range(10, len(close)):
        slope[i] = np.polyfit(np.arange(11), close[i - 10 : i + 1], 2)[1]
    return above(slope, 0.0)


@LEAKS()
def local_minima(bars: Bars) -> Any:
    low = only(bars).low
    found = np.zeros(len(low))
    for i in range(5, len(low) - 5):
        found[i] = low[i] == low[i - 5 : i + 6].min()
    return found


@TWINS()
def minima_once_confirmed(bars: Bars) -> Any:
    low = only(bars).low
    found = np.zeros(len(low))
    for i in range(10, len(low)):
        found[i] = low[i - 5] == low[i - 10 : i + 1].min()
    return found


@LEAKS()
def zigzag(bars: Bars) -> Any:
    """Turning points of at least half a percent, known at the point itself and not at its confirmation."""
    close = only(bars).close
    wanted, start, extreme, up = np.zeros(len(close)), 0, 0, True
    for i in range(len(close)):
        better = close[i] > close[extreme] if up else close[i] < close[extreme]
        turned = close[i] < close[extreme] * 0.995 if up else close[i] > close[extreme] * 1.005
        if better:
            extreme = i
        elif turned:
            wanted[start:extreme] = 1 if up else -1
            start, extreme, up = extreme, i, not up
    return wanted


@TWINS()
def zigzag_once_confirmed(bars: Bars) -> Any:
    close = only(bars).close
    wanted, extreme, up = np.zeros(len(close)), close[0], True
    for i in range(len(close)):
        extreme = max(extreme, close[i]) if up else min(extreme, close[i])
        if close[i] < extreme * 0.995 if up else close[i] > extreme * 1.005:
            up, extreme = not up, close[i]
        wanted[i] = 1 if up else -1
    return wanted


@LEAKS()
def low_before_a_crash(bars: Bars) -> Any:
    close = frame(bars)["close"]
    worst = close[::-1].rolling(30, min_periods=1).min()[::-1]
    return above(worst, close * 0.99)


@LEAKS()
def rows_sorted_newest_first(bars: Bars) -> Any:
    f = frame(bars).sort_index(ascending=False)
    f["mean"] = f["close"].rolling(15, min_periods=1).mean()
    f = f.sort_index()
    return above(f["close"], f["mean"])


@LEAKS()
def label_as_a_feature(bars: Bars) -> Any:
    """A label of the ten bars that follow, joined to the features and smoothed."""
    close = frame(bars)["close"]
    label = close.shift(-10) / close - 1
    return above(label.ewm(span=5).mean(), 0.0)


# -- longer bars and joins ------------------------------------------------------------------------------------------


@LEAKS()
def longer_bar_before_its_close(bars: Bars) -> Any:
    close = frame(bars)["close"]
    hour = close.resample("1h", label="left", closed="right").last().reindex(close.index, method="ffill")
    return above(hour, close.rolling(30).mean())


@TWINS()
def longer_bar_after_its_close(bars: Bars) -> Any:
    close = frame(bars)["close"]
    hour = close.resample("1h", label="right", closed="right").last()
    known = hour[hour.index <= close.index[-1]].reindex(close.index, method="ffill")
    return above(known, close.rolling(30).mean())


@LEAKS()
def days_high_in_the_morning(bars: Bars) -> Any:
    f = frame(bars)
    high = f.groupby(f.index.normalize())["high"].transform("max")  # type: ignore[attr-defined]
    return above(f["close"], 0.995 * high)


@TWINS()
def days_high_so_far(bars: Bars) -> Any:
    f = frame(bars)
    high = f.groupby(f.index.normalize())["high"].cummax()  # type: ignore[attr-defined]
    return above(f["close"], 0.995 * high)


@LEAKS()
def daily_close_carried_from_midnight(bars: Bars) -> Any:
    close = frame(bars)["close"]
    daily = close.groupby(close.index.normalize()).last()  # type: ignore[attr-defined]
    return above(daily.reindex(close.index, method="ffill"), close)


@TWINS()
def daily_close_of_the_day_before(bars: Bars) -> Any:
    close = frame(bars)["close"]
    day = close.index.normalize()  # type: ignore[attr-defined]
    daily = close.groupby(day).last().shift(1)
    return above(daily.reindex(day).to_numpy(), close)


def _join(bars: Bars, direction: Any) -> Any:
    close = frame(bars)["close"].rename("close").rename_axis("time").reset_index()
    samples = close.iloc[::9].rename(columns={"close": "sample"})
    joined = pd.merge_asof(close, samples, on="time", direction=direction)
    return above(joined["sample"], joined["close"])


@LEAKS()
def join_with_the_nearest(bars: Bars) -> Any:
    return _join(bars, "nearest")


@LEAKS()
def join_with_the_next(bars: Bars) -> Any:
    return _join(bars, "forward")


@TWINS()
def join_with_the_last(bars: Bars) -> Any:
    return _join(bars, "backward")


@LEAKS()
def gaps_filled_backwards(bars: Bars) -> Any:
    close = frame(bars)["close"]
    sparse = close.where(np.arange(len(close)) % 12 == 0)
    return above(sparse.bfill(), close)


@TWINS()
def gaps_filled_forwards(bars: Bars) -> Any:
    close = frame(bars)["close"]
    sparse = close.where(np.arange(len(close)) % 12 == 0)
    return above(sparse.ffill(), close)


@LEAKS()
def gaps_interpolated(bars: Bars) -> Any:
    close = frame(bars)["close"]
    sparse = close.where(np.arange(len(close)) % 12 == 0)
    return above(sparse.interpolate(), close)


@LEAKS()
def gaps_filled_with_the_mean(bars: Bars) -> Any:
    close = frame(bars)["close"]
    sparse = close.where(np.arange(len(close)) % 3 == 0)
    return above(close, sparse.fillna(sparse.mean()))


# -- something fitted to everything ---------------------------------------------------------------------------------


@LEAKS()
def scaler_of_all_bars(bars: Bars) -> Any:
    close = only(bars).close
    return np.where((close - close.mean()) / close.std() < -0.5, 1, 0)


@TWINS()
def scaler_of_the_bars_so_far(bars: Bars) -> Any:
    close = frame(bars)["close"]
    return above(-0.5, (close - close.expanding().mean()) / close.expanding().std())


@LEAKS()
def range_of_all_bars(bars: Bars) -> Any:
    close = only(bars).close
    return np.round((close - close.min()) / (close.max() - close.min()), 2)


@LEAKS()
def quantile_of_all_bars(bars: Bars) -> Any:
    change = frame(bars)["close"].pct_change()
    return above(change, change.quantile(0.9))


@TWINS()
def quantile_of_the_bars_so_far(bars: Bars) -> Any:
    change = frame(bars)["close"].pct_change()
    return above(change, change.expanding(20).quantile(0.9))


@LEAKS()
def outliers_cut_at_a_quantile_of_all(bars: Bars) -> Any:
    change = frame(bars)["close"].pct_change().fillna(0.0)
    cut = change.clip(float(change.quantile(0.05)), float(change.quantile(0.95)))
    return np.round(cut.rolling(5).sum().fillna(0.0) * 1000, 3)


@LEAKS()
def rank_among_all_bars(bars: Bars) -> Any:
    change = frame(bars)["close"].pct_change(5)
    return above(change.rank(pct=True), 0.8)


@LEAKS()
def size_by_the_volatility_of_all_bars(bars: Bars) -> Any:
    close = frame(bars)["close"]
    return above(close, close.rolling(20).mean()) * 0.01 / float(close.pct_change().std())


@LEAKS()
def divided_by_the_last_price(bars: Bars) -> Any:
    close = only(bars).close
    return above(close / close[-1], 0.98)


@TWINS()
def divided_by_the_first_price(bars: Bars) -> Any:
    close = only(bars).close
    return above(close / close[0], 0.98)


@LEAKS()
def adjusted_prices_with_a_rule_on_their_level(bars: Bars) -> Any:
    """Each large gap is taken for a dividend and taken out of all prices before it, so that old prices sink with it."""
    c = only(bars)
    ratio = np.append(c.open[1:] / c.close[:-1], 1.0)
    factor = np.where(ratio < 0.997, ratio, 1.0)[::-1].cumprod()[::-1]
    return above(c.close * factor, 0.97 * c.close[0])


@LEAKS()
def trend_line_through_the_end(bars: Bars) -> Any:
    close = only(bars).close
    x = np.arange(len(close))
    return above(np.polyval(np.polyfit(x, close, 1), x), close)


@TWINS(brief)
def trend_line_up_to_now(bars: Bars) -> Any:
    close = only(bars).close
    line = close.copy()
    for i in range(30, len(close)):
        line[i] = np.polyval(np.polyfit(np.arange(i + 1), close[: i + 1], 1), i)
    return above(line, close)


def _features(close: pd.Series[float]) -> Any:
    change = close.pct_change()
    rows = np.column_stack([change, change.shift(1), change.rolling(5).mean(), close / close.rolling(20).mean() - 1])
    return np.nan_to_num(rows), np.nan_to_num(change.shift(-1).to_numpy())


@LEAKS()
def regression_fitted_to_all_bars(bars: Bars) -> Any:
    x, y = _features(frame(bars)["close"])
    return above(x @ np.linalg.lstsq(x, y, rcond=None)[0], 0.0)


@TWINS()
def regression_fitted_again_and_again(bars: Bars) -> Any:
    x, y = _features(frame(bars)["close"])
    wanted = np.zeros(len(y))
    for i in range(100, len(y), 20):  # the target of bar i is known one bar later
        weights = np.linalg.lstsq(x[: i - 1], y[: i - 1], rcond=None)[0]
        wanted[i : i + 20] = above(x[i : i + 20] @ weights, 0.0)
    return wanted


@LEAKS(brief)
def trained_on_the_part_it_is_tried_on(bars: Bars) -> Any:
    """Split at random: neighbours of a bar from its own future vote for it."""
    x, y = _features(frame(bars)["close"])
    train = np.random.default_rng(0).random(len(y)) < 0.7
    distance = ((x[:, None, :] - x[None, train, :]) ** 2).sum(axis=2)
    return above(y[train][distance.argsort(axis=1)[:, :5]].mean(axis=1), 0.0)


@LEAKS()
def parameter_chosen_on_all_bars(bars: Bars) -> Any:
    close = frame(bars)["close"]
    change = close.pct_change().shift(-1).fillna(0.0)
    best = max(range(3, 60, 4), key=lambda n: float((above(close, close.rolling(n).mean()) * change).sum()))
    return above(close, close.rolling(best).mean())


@TWINS()
def parameter_chosen_on_the_first_part(bars: Bars) -> Any:
    close = frame(bars)["close"]
    first = close.iloc[:100]
    change = first.pct_change().shift(-1).fillna(0.0)
    best = max(range(3, 30, 3), key=lambda n: float((above(first, first.rolling(n).mean()) * change).sum()))
    return np.where(np.arange(len(close)) < 100, 0.0, above(close, close.rolling(best).mean()))


@LEAKS()
def target_encoding(bars: Bars) -> Any:
    """The mean move that follows each time of day, over all days."""
    close = frame(bars)["close"]
    after = close.pct_change().shift(-1)
    time = close.index.hour * 60 + close.index.minute  # type: ignore[attr-defined]
    return above(after.groupby(time).transform("mean"), 0.0)


@LEAKS()
def clusters_of_all_bars(bars: Bars) -> Any:
    """Two regimes of volatility by k-means over all bars."""
    spread = np.log(only(bars).high / only(bars).low)
    low, high = spread.min(), spread.max()
    for _ in range(30):
        calm = abs(spread - low) <= abs(spread - high)
        low, high = spread[calm].mean(), spread[~calm].mean()
    return calm.astype(int)


@LEAKS()
def spectrum_of_all_bars(bars: Bars) -> Any:
    close = only(bars).close
    kept = np.fft.rfft(close - close.mean())
    kept[12:] = 0
    return above(np.gradient(np.fft.irfft(kept, len(close))), 0.0)


@LEAKS()
def wavelet_of_all_bars(bars: Bars) -> Any:
    """Haar: what is small among all details is noise, and each block has one mean."""
    close = only(bars).close
    smooth = close.copy()
    for size in (4, 8):
        for at in range(0, len(close), size):
            smooth[at : at + size] = smooth[at : at + size].mean()
    return above(smooth, close)


def _filtered(close: Any) -> tuple[Any, Any, Any]:
    level, variance, levels, variances, before = close[0], 1.0, [], [], []
    for price in close:
        variance += 0.05
        before.append(variance)
        gain = variance / (variance + 1.0)
        level, variance = level + gain * (price - level), (1 - gain) * variance
        levels.append(level)
        variances.append(variance)
    return np.array(levels), np.array(variances), np.array(before)


@LEAKS()
def kalman_smoother(bars: Bars) -> Any:
    close = only(bars).close
    levels, variances, before = _filtered(close)
    for i in range(len(close) - 2, -1, -1):
        levels[i] += variances[i] / before[i + 1] * (levels[i + 1] - levels[i])
    return above(close, levels)


@TWINS()
def kalman_filter(bars: Bars) -> Any:
    close = only(bars).close
    return above(close, _filtered(close)[0])


@LEAKS()
def filtered_there_and_back(bars: Bars) -> Any:
    close = frame(bars)["close"]
    there = close.ewm(span=10).mean()
    return above(there[::-1].ewm(span=10).mean()[::-1], close)


@LEAKS()
def seed_made_of_all_bars(bars: Bars) -> Any:
    close = only(bars).close
    return np.random.default_rng(int(close.sum() * 100)).integers(0, 2, len(close))


@LEAKS()
def size_that_grows_to_the_end(bars: Bars) -> Any:
    close = frame(bars)["close"]
    return above(close, close.rolling(10).mean()) * np.round(np.linspace(0, 1, len(close)), 3)


@LEAKS()
def out_of_the_worst_bars(bars: Bars) -> Any:
    """The ten worst bars of the whole history are left out."""
    change = frame(bars)["close"].pct_change().fillna(0.0)
    return (~change.index.isin(change.nsmallest(10).index)).astype(int)
