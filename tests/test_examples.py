"""Every example runs, offline, as a user would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))

EXPECTED = {
    "01_quickstart.py": "no language model was used",
    "02_own_agent.py": "crowd_reader",
    "03_own_broker.py": "round trips",
    "04_replay.py": "the regime then:",
    "06_language_models.py": "replayed: 30 answers, 0 requests, 0 USD",
    "07_strategies.py": "risk_parity:",
    "08_hybrid.py": "vetoes,",
    "09_sweep.py": "Best of 14 trials; deflated Sharpe",
    "11_counterfactual.py": "and nobody else at all",
    "12_fault_campaign.py": "every invariant held in every run",
    "13_several_processes.py": "the same as in one process: True",
    "14_watchdog.py": "lifted by the operator's key: ",
    "15_supervised.py": "careful() approved",
}


def without_language_models(empty: Path) -> dict[str, str]:
    """Return an environment in which no key is set and no command line of a provider can be found."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith(("_KEY", "_TOKEN"))}
    return {**kept, "PATH": str(empty)}


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_runs_and_says_what_it_should(script: str, tmp_path: Path) -> None:
    """In an empty folder, with nothing but what it imports."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / script],
        cwd=tmp_path,
        env=without_language_models(tmp_path),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert EXPECTED[script] in done.stdout
    assert done.stderr == ""


def test_the_brokers_example_keeps_the_contract() -> None:
    """Its suite passes when pytest runs it, as the example says."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "03_own_broker.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom(notebook: str, tmp_path: Path) -> None:
    """In a kernel, where an event loop is running already."""
    import nbformat
    from nbclient import NotebookClient

    os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")
    content = nbformat.read(EXAMPLES / notebook, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(content, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in content.cells for output in cell.get("outputs", [])]
    assert any("text/html" in output.get("data", {}) for output in shown)
