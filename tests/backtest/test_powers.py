"""Figures of long series: in parts, in blocks and in machine code they are what one plain pass gives."""

from __future__ import annotations

import numpy as np
import pytest

from agentfund.backtest import powers
from agentfund.backtest.metrics import drawdowns, kurtosis, max_drawdown, skewness
from agentfund.backtest.powers import powers_of

PART = powers._PART


@pytest.mark.parametrize("count", [2, 3, PART - 1, PART, PART + 1, 3 * PART + 7])
def test_machine_code_adds_up_to_the_same_bits(count: int) -> None:
    """The sums are defined number by number, so the order in which they are made is the same."""
    returns = np.random.default_rng(count).normal(0, 1e-3, count)
    plain, compiled = powers._sums(returns, 1e-5), powers._compiled_sums(returns, 1e-5)
    assert plain.tobytes() == compiled.tobytes()


@pytest.mark.parametrize("size", [1e-200, 1e-3, 1.0, 1e200])
def test_powers_are_those_of_the_formulas_at_any_size(size: float) -> None:
    """Returns of any size have the same shape; their fourth powers alone would leave float64."""
    returns = np.random.default_rng(1).standard_t(4, 2 * PART + 5)
    found, distance = powers_of(returns * size), returns - returns.mean()
    assert found is not None
    assert found.deviation == pytest.approx(returns.std() * size, rel=1e-12)
    assert found.downside == pytest.approx(np.sqrt(np.mean(np.minimum(returns, 0) ** 2)) * size, rel=1e-12)
    assert skewness(returns * size).value == pytest.approx(np.mean(distance**3) / returns.std() ** 3, rel=1e-9)
    assert kurtosis(returns * size).value == pytest.approx(np.mean(distance**4) / returns.std() ** 4, rel=1e-9)


@pytest.mark.parametrize("seed", range(30))
def test_the_deepest_fall_is_found_in_blocks_as_it_is_bar_by_bar(seed: int) -> None:
    """Whatever the curve: rising, falling, flat, with ties, down to nothing."""
    random = np.random.default_rng(seed)
    steps = random.normal(0, [1e-3, 1e-5, 0.05, 0.0][seed % 4], int(random.integers(1, 20_000)))
    equity = 1e5 * np.exp(np.cumsum(steps))
    if seed % 3 == 0:
        equity = np.round(equity, -2)
    if seed % 5 == 0:
        equity = np.maximum.accumulate(equity)
    if seed % 7 == 0:
        equity = equity - 0.5 * equity.mean()
    falls = drawdowns(equity)
    found = max_drawdown(equity)
    assert found.depth == max(0.0, -float(falls.min()))
    assert found.trough == (int(falls.argmin()) if found.depth else 0)
