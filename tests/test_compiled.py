"""Compiled loops: the same results with numba, without it, and where nothing can be cached."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from agentfund.compiled import Compiled, available, choose, jit

needs_numba = pytest.mark.skipif(not available(), reason="numba is not installed: pip install 'agentfund[fast]'")

WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
from agentfund.compiled import available, choose, worth
from agentfund.indicators.smoothing import smooth
import numpy as np
assert not available()
assert not worth(10**9)
assert choose(None, 10**9) is False
assert smooth(np.array([1.0, 3.0]), 0.5, compiled=True).tolist() == [1.0, 2.0]
try:
    choose(True, 1)
except ImportError as error:
    print(error)
"""

WITHOUT_CACHE = """
from agentfund.compiled import jit
def twice(x):
    return x + x
print(jit(twice)(2.5))
"""

QUIET = """
import sys
import agentfund.indicators, agentfund.compiled
import agentfund.feeds.ticks
assert "numba" not in sys.modules
"""


@jit
def waves(count: int) -> float:
    """Add what rounds."""
    total = 0.0
    for i in range(count):
        total += 0.1 * (i % 7) - total / 3
    return total


def run(code: str) -> str:
    """Run code in a Python of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_numba
def test_a_compiled_function_gives_the_bits_of_the_plain_one() -> None:
    """And knows that it is compiled."""
    assert waves(10_000).hex() == waves.plain(10_000).hex()
    assert repr(waves) == "<Compiled waves>"
    assert waves.__doc__ == "Add what rounds."


@needs_numba
def test_a_division_by_zero_is_one() -> None:
    """As in plain Python, and not an infinity."""

    def over(x: float) -> float:
        return 1.0 / x

    with pytest.raises(ZeroDivisionError):
        jit(over)(0.0)


def test_without_numba_the_plain_function_runs() -> None:
    """And who insists on compiled code is told what to install."""
    assert run(WITHOUT_NUMBA) == "numba is not installed: pip install 'agentfund[fast]'"


@needs_numba
def test_code_that_cannot_be_cached_is_compiled_all_the_same() -> None:
    """A function without a file is as an install that can be read only, to numba."""
    assert run(WITHOUT_CACHE) == "5.0"


def test_nothing_is_compiled_before_it_is_called() -> None:
    """Importing indicators and feeds does not import numba."""
    run(QUIET)


@needs_numba
def test_small_work_is_not_compiled_unless_numba_is_warm() -> None:
    """The import alone takes longer than small work."""
    code = "from agentfund.compiled import *; import numpy as np; print(worth(1000), worth(200_000))"
    assert run(code) == "False True"
    waves(1)
    assert choose(None, 1)
    assert not choose(False, 10**9)
    assert choose(True, 1)


def test_a_compiled_function_is_pickled_by_its_name() -> None:
    """So that tasks can be sent to other processes."""
    again = pickle.loads(pickle.dumps(waves))
    assert isinstance(again, Compiled)
    assert again is waves
    assert np.isfinite(again.plain(3))
