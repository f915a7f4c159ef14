"""What holds for every indicator."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.compiled import available
from agentfund.errors import ConfigError
from agentfund.indicators import ATR, RSI, SMA, Donchian, Lag, values
from agentfund.market import Columns
from tests.indicators.bars import MAKERS, any_columns, bars_of, first, one_by_one, rows, same_bits, walk

every = pytest.mark.parametrize("name", MAKERS)
compiled = pytest.mark.skipif(not available(), reason="numba is not installed: pip install 'agentfund[fast]'")


@every
@settings(deadline=None, max_examples=60)
@given(columns=any_columns(), n=st.integers(1, 25))
def test_one_bar_at_a_time_gives_the_bits_of_the_whole_array(name: str, columns: Columns, n: int) -> None:
    """Smooth, flat, gappy, huge and tiny prices: `update` and `batch` agree in every bit."""
    indicator = MAKERS[name](n)
    assert same_bits(rows(indicator.batch(columns, compiled=False)), one_by_one(indicator, columns))


@compiled
@every
@settings(deadline=None, max_examples=60)
@given(columns=any_columns(), n=st.integers(1, 25))
def test_compiled_code_gives_the_bits_of_plain_python(name: str, columns: Columns, n: int) -> None:
    """Machine code changes the time, and nothing else."""
    indicator = MAKERS[name](n)
    assert same_bits(rows(indicator.batch(columns, compiled=True)), rows(indicator.batch(columns, compiled=False)))


@every
@pytest.mark.parametrize("size", [1, 2, 19, 20, 21, 40, 61, 3_000])
def test_the_forms_agree_at_every_length(name: str, size: int) -> None:
    """Windows end at blocks, in blocks and before the first block is full."""
    indicator, columns = MAKERS[name](20), walk(size)
    assert same_bits(rows(indicator.batch(columns)), one_by_one(indicator, columns))


@every
def test_cutting_the_future_changes_no_value(name: str) -> None:
    """The value at a bar knows the bars up to it and no other."""
    indicator, columns = MAKERS[name](5), walk(83)
    whole = rows(indicator.batch(columns))
    for count in range(1, 84):
        assert same_bits(rows(indicator.batch(first(columns, count))), whole[:, :count])


@every
@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_the_first_value_comes_when_the_warm_up_says(name: str, n: int) -> None:
    """Before it something is NaN, from there on nothing is."""
    indicator = MAKERS[name](n)
    known = ~np.isnan(rows(indicator.batch(walk(200)))).any(axis=0)
    assert known.tolist() == [False] * (indicator.warm_up - 1) + [True] * (201 - indicator.warm_up)


@every
def test_a_reset_and_a_fresh_one_begin_anew(name: str) -> None:
    """What was seen is forgotten, the parameters are kept."""
    indicator, columns = MAKERS[name](4), walk(50)
    seen = one_by_one(indicator, columns)
    assert same_bits(one_by_one(indicator.fresh(), columns), seen)
    indicator.reset()
    assert same_bits(one_by_one(indicator, columns), seen)


@every
def test_equal_parameters_make_equal_indicators(name: str) -> None:
    """So do a copy and a pickle, which have seen no bar."""
    indicator, columns = MAKERS[name](4), walk(50)
    seen = one_by_one(indicator, columns)
    for other in (indicator.fresh(), copy.deepcopy(indicator), pickle.loads(pickle.dumps(indicator))):
        assert other == indicator
        assert hash(other) == hash(indicator)
        assert repr(other) == repr(indicator)
        assert same_bits(one_by_one(other, columns), seen)
    assert indicator != object()
    assert name == "Price" or indicator != MAKERS[name](9)


@every
def test_the_columns_are_left_as_they_were(name: str) -> None:
    """Arrays come from a feed that others read too."""
    columns = walk(60)
    fields = ("open", "high", "low", "close", "volume")
    before = {field: getattr(columns, field).copy() for field in fields}
    for found in np.atleast_1d(MAKERS[name](6).batch(columns)):
        np.asarray(found)[...] = 0
    assert all(np.array_equal(getattr(columns, field), before[field]) for field in fields)


def test_indicators_of_another_kind_are_another() -> None:
    """Equal numbers do not make SMA(5) an RSI(5)."""
    assert SMA(5) != RSI(5)
    assert SMA(5) != SMA(5, of="open")
    assert repr(Lag(SMA(5, of="open"), 2)) == "Lag(indicator=SMA(n=5, of='open'), n=2)"


def test_values_gives_each_by_name() -> None:
    """A strategy's indicators in one call."""
    columns = walk(100)
    found = values({"fast": SMA(5), "channel": Lag(Donchian(9)), "rsi": RSI()}, columns)
    assert list(found) == ["fast", "channel", "rsi"]
    assert same_bits(rows(found["fast"]), rows(SMA(5).batch(columns)))
    assert same_bits(found["channel"].upper[1:], Donchian(9).batch(columns).upper[:-1])


def test_a_lag_keeps_its_own_copy() -> None:
    """Two lags of one indicator, and the indicator itself, do not feed each other."""
    average, columns = SMA(3), walk(20)
    near, far = Lag(average, 1), Lag(average, 4)
    for bar in bars_of(columns):
        average.update(bar), near.update(bar), far.update(bar)
    again = bars_of(columns)[-1]
    assert near.update(again) == SMA(3).batch(columns)[-1]
    assert far.update(again) == SMA(3).batch(columns)[-4]


@pytest.mark.parametrize("n", [0, -1, 2.0, "3", True, None])
def test_a_number_of_bars_that_cannot_be_is_refused(n: Any) -> None:
    """The message names the indicator and the parameter."""
    for make in (SMA, RSI, ATR, Donchian, lambda n: Lag(SMA(3), n)):
        with pytest.raises(ConfigError, match=r"^(SMA|RSI|ATR|Donchian|Lag): n must be"):
            make(n)


def test_an_indicator_that_failed_says_so_at_the_next_bar() -> None:
    """It must not go on with half a bar, and must not end a loop without a word."""
    average = ATR(3)
    (bar,) = bars_of(walk(1))
    average.update(bar)
    with pytest.raises(AttributeError):
        average.update(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"ATR\(n=3\): an update failed before.*reset\(\)"):
        average.update(bar)
    average.reset()
    assert np.isnan(average.update(bar))
