"""The verbs of this repository: `python3 dev.py demo | test | clis | ci | fmt | lint | type | docs | bench`.

It needs nothing but Python 3.11 with venv and pip: it makes `.venv` beside itself and installs what a verb needs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
CLIS = ROOT / ".clis"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")

# Peers of the benchmarks that cannot live beside us, nor beside each other: litellm pins an older openai, nautilus_trader
# wants pandas 2, and vectorbt wants pandas 3.
PEERS = {
    ".venv-peers": ["litellm"],
    ".venv-engines": ["nautilus_trader", "backtrader", "backtesting"],
    ".venv-vectorbt": ["vectorbt[rust]>=1.2"],
}


def run(*command: str | Path, **variables: str) -> None:
    """Run a command in the repository; end with its exit code when it fails."""
    print("$", *command, flush=True)
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env={**os.environ, **variables}, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def install(*groups: str) -> None:
    """Make the virtual environment and install agentfund with dependency groups, unless that was done already."""
    stamp = VENV / f".installed-{'-'.join(groups) or 'user'}"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not PYTHON.exists():
        print("making .venv", flush=True)
        venv.create(VENV, with_pip=True)
        run(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "pip>=25.1")
    flags = [part for group in groups for part in ("--group", group)]
    extras = "all" if groups else "cli,parquet,prices"  # a first look needs no compiler and no cluster
    run(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", f".[{extras}]", *flags)
    stamp.write_text(wanted)


def clis() -> None:
    """Install the command lines of providers that tests run, at the versions they were measured at, into `.clis/`."""
    install("dev")
    told = subprocess.run([PYTHON, "-m", "tests.llms.clis"], cwd=ROOT, check=True, capture_output=True, text=True)
    packages = told.stdout.split()
    stamp = CLIS / ".installed"
    if stamp.exists() and stamp.read_text() == told.stdout:
        return
    if shutil.which("npm") is None:
        sys.exit("npm is not on the PATH: install Node, or run the tests without the command lines: python3 dev.py test")
    flags = ("--no-save", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund")
    CLIS.mkdir(exist_ok=True)
    run("npm", "install", "--silent", "--prefix", CLIS, *flags, *packages)
    stamp.write_text(told.stdout)


def demo() -> None:
    """Run the main job: a desk of six agents over a simulated market; leaves a report, a journal and a log in `out/`."""
    install()
    run(BIN / "agentfund", "demo", *sys.argv[2:])


def test() -> None:
    """Run the tests; further arguments go to pytest."""
    install("dev")
    if os.environ.get("CI"):
        clis()
    found = {"AGENTFUND_TEST_CLIS": str(CLIS)} if CLIS.is_dir() else {}
    given = sys.argv[2:] if sys.argv[1:2] == ["test"] else ()
    # One process a core; -n 0 for one alone. Tests of real processes and servers hold real clocks to seconds, which a machine
    # that is busy with something else can let pass: whoever fails has two more tries, and is named in the summary as RERUN.
    run(PYTHON, "-m", "pytest", "--numprocesses=auto", "--reruns=2", "--reruns-delay=2", *given, **found)


def fmt() -> None:
    """Format the code."""
    install("dev")
    run(BIN / "ruff", "check", "--fix", "--quiet", ".")
    run(BIN / "ruff", "format", ".")


def lint() -> None:
    """Check style, and that imports go down only."""
    install("dev")
    run(BIN / "ruff", "check", ".")
    run(BIN / "ruff", "format", "--check", ".")
    run(BIN / "lint-imports")


def type() -> None:  # noqa: A001 - the verb
    """Check types, strictly, over source and tests."""
    install("dev")
    run(BIN / "mypy")


def docs() -> None:
    """Build the documentation into `site/`; a broken link or reference is an error."""
    install("dev")
    run(BIN / "mkdocs", "build", "--strict", NO_MKDOCS_2_WARNING="1")


def bench() -> None:
    """Run the benchmarks beside their peers; prints one JSON line a figure."""
    install("dev", "bench")
    for folder, packages in PEERS.items():
        peers = ROOT / folder
        if not (peers / ".installed").exists():
            print(f"making {folder}", flush=True)
            venv.create(peers, with_pip=True)
            run(peers / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
            (peers / ".installed").touch()
    run(PYTHON, "-m", "benchmarks", *sys.argv[2:])


def ci() -> None:
    """Run all that must hold before a change lands."""
    for verb in (lint, type, docs, test):
        print(f"== {verb.__name__}", flush=True)
        verb()


def clean() -> None:
    """Remove what the verbs have made."""
    for folder in (".venv", *PEERS, ".clis", "out", "site", "build", "dist"):
        shutil.rmtree(ROOT / folder, ignore_errors=True)


VERBS: dict[str, Callable[[], None]] = {
    verb.__name__: verb for verb in (demo, test, clis, ci, fmt, lint, type, docs, bench, clean)
}

if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever runs this may have an older one
        sys.exit(f"agentfund needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    verb = VERBS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if verb is None:
        print(__doc__)
        for name, function in VERBS.items():
            print(f"  {name:6} {(function.__doc__ or '').splitlines()[0]}")
        sys.exit(0 if len(sys.argv) == 1 or sys.argv[1] in ("-h", "--help") else 2)
    verb()
