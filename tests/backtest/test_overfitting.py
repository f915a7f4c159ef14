"""The probability of backtest overfitting: against a plain reading of the paper, on noise, and on a true edge."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agentfund.backtest.overfitting import overfitting
from agentfund.errors import BadData, ConfigError

if TYPE_CHECKING:
    from agentfund.market import Floats


def plain(returns: Floats, parts: int) -> list[float]:
    """The logits as the paper spells them out, with concatenated halves and sorted ranks."""
    blocks = np.split(returns, parts)
    logits = []
    for half in itertools.combinations(range(parts), parts // 2):
        inside = np.concatenate([blocks[i] for i in half])
        outside = np.concatenate([blocks[i] for i in range(parts) if i not in half])
        best = int((inside.mean(axis=0) / inside.std(axis=0)).argmax())
        there = outside.mean(axis=0) / outside.std(axis=0)
        rank = (sorted(there).index(there[best]) + 1) / (returns.shape[1] + 1)
        logits.append(math.log(rank / (1 - rank)))
    return logits


def test_it_is_what_the_paper_says() -> None:
    """Every logit of every split, on returns with fat tails."""
    returns = np.random.default_rng(4).standard_t(3, (120, 7)) * 0.01
    found = overfitting(returns, 6)
    assert found.logits == pytest.approx(plain(returns, 6))
    assert found.probability == np.mean([logit <= 0 for logit in plain(returns, 6)])
    assert (len(found.logits), found.trials, found.bars) == (20, 7, 120)


def test_on_noise_choosing_the_best_is_as_good_as_choosing_blindly() -> None:
    """Over many searches the mean is one half; a single one lies anywhere about it."""
    rng = np.random.default_rng(2)
    found = [overfitting(rng.normal(0, 0.01, (500, 40)), 10).probability for _ in range(60)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)


def test_a_true_edge_is_not_overfitted() -> None:
    """One setting of fifty with a true Sharpe ratio of 3 a year over four years."""
    returns = np.random.default_rng(1).normal(0, 0.01, (1008, 50))
    returns[:, 7] += 0.01 * 3 / math.sqrt(252)
    found = overfitting(returns)
    assert found.probability < 0.02
    assert found.loss < 0.02
    assert "0.0" in found.sentence


def test_settings_chosen_for_opposite_halves_are_overfitted() -> None:
    """Each setting wins in one part and loses in all others, so what is best here is worst there."""
    returns = np.random.default_rng(1).normal(0, 0.001, (160, 16)) - 0.001
    for part in range(16):
        returns[part * 10 : part * 10 + 10, part] += 0.02
    found = overfitting(returns)
    assert found.probability > 0.9
    assert found.slope is not None
    assert found.slope < 0


def test_settings_that_never_traded_share_their_rank() -> None:
    """All equal: the middle rank, a logit of zero, and no slope."""
    found = overfitting(np.zeros((40, 5)), 4)
    assert found.logits.tolist() == [0.0] * 6
    assert (found.probability, found.slope, found.loss) == (1.0, None, 0.0)


@pytest.mark.parametrize(
    ("returns", "parts", "error", "words"),
    [
        (np.zeros(40), 4, ConfigError, "one column for each setting"),
        (np.zeros((40, 1)), 4, ConfigError, "at least two settings"),
        (np.zeros((40, 3)), 5, ConfigError, "even number"),
        (np.zeros((5, 3)), 4, ConfigError, "at least 8 bars"),
        (np.where(np.arange(120).reshape(40, 3) == 7, np.nan, 0.0), 4, BadData, "row 2, column 1 is nan"),
    ],
)
def test_what_cannot_be_judged_is_refused(returns: Floats, parts: int, error: type[Exception], words: str) -> None:
    """The message says what to give."""
    with pytest.raises(error, match=words):
        overfitting(returns, parts)
