"""The command line of the simulator: `python -m agentfund.testing.simulator`."""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from agentfund.clock import SystemClock
from agentfund.errors import AgentFundError, ConfigError
from agentfund.testing.simulator.campaign import Report, every_crash, require_life, runs
from agentfund.testing.simulator.faults import KINDS
from agentfund.testing.simulator.invariants import INVARIANTS
from agentfund.testing.simulator.schedule import parse
from agentfund.testing.simulator.world import World
from agentfund.testing.simulator.worlds import WORLDS

_CHUNK = 50
_TOLD_S = 5.0
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign, or one schedule again; return 0 where every invariant held, 1 where one was broken."""
    given = _parser().parse_args(arguments)
    if given.list:
        _list()
        return 0
    try:
        names = _names(given)
        worlds = [_world(name) for name in names]
        if given.faults is not None:
            return _again(worlds[0], given)
        for world in worlds:
            require_life(world)
        report, whole = _campaign(given, names, worlds)
    except AgentFundError as error:
        _tell(error, sys.stderr)
        return 2
    _tell(report)
    if not report:
        return 1
    return 0 if whole else INTERRUPTED


def _tell(text: object = "", to: TextIO | None = None) -> None:
    print(text, file=to or sys.stdout, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agentfund.testing.simulator",
        description="Run funds in virtual time through schedules of faults, and look whether anything is lost or doubled.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--world", default="all", help=f"one of {', '.join(WORLDS)}, several with commas, or all")
    what.add_argument("--fund", help="a fund of yours: path/to/file.py:make_fund, or the name of a World in that file")
    parser.add_argument("--schedules", type=int, default=2000, help="how many; default 2000")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first run; the next ones count on")
    parser.add_argument("--faults", help="run this one schedule, and show what happens")
    parser.add_argument("--also", default="", help="kinds of faults to add, with commas, such as twin")
    parser.add_argument("--without", default="", help="kinds not to draw, with commas: late, or submit:late")
    parser.add_argument("--crashes", action="store_true", help="kill the process at every single boundary instead")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the work")
    parser.add_argument("--list", action="store_true", help="show the kinds of faults and the invariants")
    return parser


def _names(given: argparse.Namespace) -> list[str]:
    if given.fund:
        return [given.fund]
    names = list(WORLDS) if given.world == "all" else given.world.split(",")
    if unknown := [name for name in names if name not in WORLDS]:
        raise ConfigError(f"there is no world {unknown[0]!r}; there is {', '.join(WORLDS)}")
    if given.faults is not None and len(names) > 1:
        raise ConfigError("a schedule belongs to one world: name it with --world")
    if unknown := [name for name in given.also.split(",") if name and name not in KINDS]:
        raise ConfigError(f"there is no fault {unknown[0]!r}; there is {', '.join(KINDS)}")
    return names


def _world(name: str) -> World:
    """Return one of our worlds, or the one around somebody's fund."""
    if name in WORLDS:
        return WORLDS[name]
    place, _, what = name.rpartition(":")
    path = Path(place)
    spec = importlib.util.spec_from_file_location(f"_simulated_{path.stem}", path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ConfigError(f"--fund {name}: write path/to/file.py:make_fund")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path[:0] = [str(Path.cwd()), str(path.parent.resolve())]
    spec.loader.exec_module(module)
    found: Any = getattr(module, what, None)
    if isinstance(found, World):
        return found
    if not callable(found):
        raise ConfigError(f"--fund {name}: {path} has no function {what!r}")
    return World(found, name=what)


def _again(world: World, given: argparse.Namespace) -> int:
    outcome = world.run(given.seed, parse(given.faults))
    _tell("\n".join(outcome.trace))
    _tell()
    for message in outcome.messages:
        _tell(f"{message.offset:4} {message.cycle:3} {message.type:9} {message.producer}")
    _tell()
    for violation in outcome.violations:
        _tell(violation)
    _tell("every invariant held" if outcome else f"{len(outcome.violations)} violations")
    return 0 if outcome else 1


def _campaign(given: argparse.Namespace, names: list[str], worlds: list[World]) -> tuple[Report, bool]:
    """Return what was found, and whether nobody interrupted it."""
    report = Report()
    clock = SystemClock()
    began = told = clock.monotonic()
    jobs = list(_jobs(given, names))
    total = sum(job.many for job in jobs)
    whole = True
    try:
        for part in _done(jobs, given.workers):
            known = {str(one) for one in report.failures}
            report.add(part)
            for failure in report.failures:
                if str(failure) not in known:
                    _tell(f"FAILED in {failure.world}\n{failure}", sys.stderr)
            if clock.monotonic() - told >= _TOLD_S:
                told = clock.monotonic()
                done = sum(report.runs.values())
                of = f" of {total:,}" if not given.crashes else ""
                rate = done / (told - began)
                failed = sum(report.failed.values())
                _tell(f"{done:,}{of}, {rate:.0f} a second, {failed} failed", sys.stderr)
    except KeyboardInterrupt:
        whole = False
        _tell("interrupted; what follows is what was done so far", sys.stderr)
    report.seconds = clock.monotonic() - began
    return report, whole


class Job(NamedTuple):
    """A part of the work: a world's name, seeds, and what is drawn; every crash where that is none."""

    name: str
    seed: int
    many: int
    also: tuple[str, ...]
    without: tuple[str, ...]


def _jobs(given: argparse.Namespace, names: list[str]) -> Iterator[Job]:
    also, without = (tuple(name for name in told.split(",") if name) for told in (given.also, given.without))
    if given.crashes:
        for name in names:
            yield Job(name, 0, 0, (), without)
        return
    share, rest = divmod(given.schedules, len(names))
    left = {name: share + (place < rest) for place, name in enumerate(names)}
    seeds = dict.fromkeys(names, given.seed)
    while any(left.values()):  # worlds take turns, so that an interrupted campaign has seen all of them
        for name in names:
            if count := min(left[name], _CHUNK):
                yield Job(name, seeds[name], count, also, without)
                seeds[name] += count
                left[name] -= count


def _done(jobs: list[Job], workers: int) -> Iterator[Report]:
    if workers <= 1:
        yield from map(_work, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_deaf) as pool:
        yield from pool.imap_unordered(_work, jobs)


def _deaf() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the workers


_worlds: dict[str, World] = {}
_known: dict[str, set[str]] = {}


def _work(job: Job) -> Report:
    if job.name not in _worlds:
        _worlds[job.name] = _world(job.name).leaving_out(*job.without)
    world, known = _worlds[job.name], _known.setdefault(job.name, set())
    if not job.many:
        return every_crash(world)
    report = runs(world, range(job.seed, job.seed + job.many), also=job.also, known=known)
    known |= {invariant for _, invariant in report.failed}
    return report


def _list() -> None:
    _tell("kinds of faults")
    for name, kind in KINDS.items():
        shown = f"({'|'.join(f'{one:g}' for one in kind.arguments)})" if kind.arguments else ""
        named = "" if kind.drawn else "; only when named"
        _tell(f"  {name}{shown}: {kind.means}\n    at {', '.join(kind.points)}{named}")
    _tell("invariants")
    for name, means in INVARIANTS.items():
        _tell(f"  {name}: {means}")
