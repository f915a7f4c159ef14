"""Sweeps on a Ray cluster: the same call, the same bytes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from agentfund.backtest.research.sweep import Sweep
from agentfund.errors import MissingExtra
from agentfund.strategies import SmaCross
from tests.backtest.research import trying
from tests.backtest.research.test_sweep import BARS, all_same, sweep
from tests.backtest.research.trying import FREE, GRID, broker

if find_spec("ray") is None and not os.environ.get("CI"):
    pytest.skip("ray is not installed: pip install 'agentfund[ray]'", allow_module_level=True)

# Ray's own start and its stopping processes are not ours to tidy up.
pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Start a cluster of two cores on this machine."""
    import ray

    root = str(Path(__file__).parents[3])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )
    yield ray
    ray.shutdown()


def test_a_cluster_changes_nothing(ray: Any) -> None:
    """The same trials in the same order, to the byte, also of a strategy that only this module knows."""

    class Own(SmaCross):
        pass

    for make in (SmaCross, Own):
        here = sweep(make).run(on="here")
        there = sweep(make).run(workers=2, on="ray")
        assert all_same(here, there)
    assert ray.is_initialized()


def test_a_trial_that_fails_or_kills_its_worker_is_a_row(ray: Any) -> None:
    """As on one machine."""
    grid = {"fast": [3, 5, 8], "slow": [12]}
    for make, error in ((trying.Fails, "RuntimeError: it does not like five"), (trying.Dies, "WorkerDied")):
        result = sweep(make, grid).run(workers=2, on="ray")
        assert [each.ok for each in result.attempts] == [True, False, True]
        assert result.failed[0].error.startswith(error)


def test_it_carries_on_from_what_was_stored_elsewhere(ray: Any, tmp_path: Path) -> None:
    """A sweep begun on this machine is finished on the cluster."""
    store = tmp_path / "sweep.jsonl"
    Sweep(SmaCross, {**GRID, "fast": [3]}, BARS, broker=broker(), limits=FREE).run(on="here", store=store)
    seen: list[int] = []
    result = sweep().run(on="ray", store=store, progress=lambda done, _: seen.append(done))
    assert seen[0] == 2
    assert all_same(result, sweep().run(on="here"))


def test_without_ray_the_message_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for every extra."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'agentfund\[ray\]'"):
        sweep().run(on="ray")
