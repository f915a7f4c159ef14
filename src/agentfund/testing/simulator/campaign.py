"""Many schedules of faults: what was tried, what failed, and the one line that makes it fail again."""

from __future__ import annotations

import gc
import inspect
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentfund.clock import SystemClock
from agentfund.errors import ConfigError
from agentfund.testing.simulator.faults import KINDS, Fault
from agentfund.testing.simulator.invariants import Violation
from agentfund.testing.simulator.schedule import Schedule, crashes, draw, pairs, parse, shrink, told
from agentfund.testing.simulator.world import MakeFund, Outcome, World

COMMAND = "python -m agentfund.testing.simulator"
_SHRUNK = 3
_REPEATED = 100
_COLLECTED = 100
_RARE = ("orders", "cancel", "latest")
_SELDOM = 4


@dataclass(frozen=True)
class Failure:
    """A schedule that breaks an invariant.

    Args:
        world: name of the world.
        seed: seed of the run.
        schedule: the smallest schedule found that breaks the same invariant.
        violations: what it breaks.
        line: runs it again.
    """

    world: str
    seed: int
    schedule: Schedule
    violations: tuple[Violation, ...]
    line: str

    def __str__(self) -> str:
        return "\n".join((*(f"  {one}" for one in self.violations[:3]), f"  {self.line}"))


@dataclass
class Report:
    """What a campaign has tried and found; reports add up.

    Args:
        runs: runs by world.
        seconds: real seconds, of all workers together.
        fired: faults that came to pass, by kind.
        places: where a process was killed: world, point with number, kind.
        boundaries: places that a campaign of crashes set out to try.
        lives: processes started.
        orders: orders that reached a broker.
        failed: runs that broke an invariant, by world and invariant.
        failures: the first of each, made small.
    """

    runs: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    fired: Counter[str] = field(default_factory=Counter)
    places: set[tuple[str, str, str]] = field(default_factory=set)
    boundaries: int = 0
    lives: int = 0
    orders: int = 0
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not self.failed

    def add(self, other: Report) -> None:
        """Add another report."""
        for name in ("runs", "fired", "failed"):
            getattr(self, name).update(getattr(other, name))
        for name in ("seconds", "boundaries", "lives", "orders"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.places |= other.places
        known = {(one.world, one.violations[0].name) for one in self.failures}
        self.failures += [one for one in other.failures if (one.world, one.violations[0].name) not in known]

    def saw(self, world: World, outcome: Outcome) -> None:
        """Count a run."""
        self.runs[world.name] += 1
        self.lives += outcome.lives
        self.orders += outcome.orders
        for fault in outcome.fired:
            self.fired[fault.kind] += 1
            if fault.kind.startswith(("crash", "power", "cancel")):
                self.places.add((world.name, fault.where if fault.point != "step" else fault.point, fault.kind))

    def __str__(self) -> str:
        count = sum(self.runs.values())
        worlds = ", ".join(f"{name} {runs:,}" for name, runs in self.runs.items())
        never = [name for name, kind in KINDS.items() if kind.drawn and not self.fired[name]]
        rate = count / self.seconds if self.seconds else 0.0
        lines = [
            f"{count:,} schedules ({worlds}) in {self.seconds:.1f} s, {rate:.0f} a second",
            f"{sum(self.fired.values()):,} faults came to pass, {self.lives:,} processes started, {self.orders:,} orders sent",
            "kinds: " + ", ".join(f"{name} {times:,}" for name, times in self.fired.most_common()),
            f"killed at {len(self.places):,}{f' of {self.boundaries:,}' if self.boundaries else ' different'} places",
        ]
        if never and not self.boundaries:
            lines.append(f"never came to pass: {', '.join(never)}")
        if not self.failed:
            lines.append("nothing lost, nothing doubled: every invariant held in every run")
        for (world, name), times in self.failed.items():
            lines.append(f"FAILED in {world}, {times:,} times: {name}")
        return "\n".join([*lines, *map(str, self.failures)])


class CampaignFailed(AssertionError):
    """An invariant was broken; the message says which, and how to see it again.

    Attributes:
        report: what was tried and found.
        reproduce: a line for each failure.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report
        self.reproduce = [failure.line for failure in report.failures]


def campaign(
    fund: MakeFund | World,
    schedules: int = 200,
    *,
    seed: int = 0,
    faults: str | None = None,
    also: Sequence[str] = (),
    without: Sequence[str] = (),
    progress: Callable[[Report], object] = lambda report: None,
) -> Report:
    """Run a fund through many schedules of faults, each drawn from a seed of its own.

    Args:
        fund: builds the fund on the ports that it is given; or a world, where the fund needs a market or a broker of its own.
        schedules: how many.
        seed: the first run's seed; the next ones count on.
        faults: this one schedule instead, as a reproduction line has it.
        also: kinds of faults to add to those that are drawn anyway.
        without: kinds to leave out, such as `clock`, or `submit:late` for one point.
        progress: told after every hundred runs.

    Raises:
        CampaignFailed: an invariant was broken.
        ConfigError: without any fault the fund fails, or orders nothing, so that the campaign would prove nothing.
    """
    world = fund if isinstance(fund, World) else World(fund, name=getattr(fund, "__name__", "fund"))
    world = world.leaving_out(*without)
    if faults is not None:
        report = once(world, seed, parse(faults))
    else:
        require_life(world)
        report = runs(world, range(seed, seed + schedules), also=also, progress=progress)
    if not report:
        raise CampaignFailed(report)
    return report


def once(world: World, seed: int, schedule: Schedule) -> Report:
    """Run one schedule as it is."""
    report, began = Report(), SystemClock().monotonic()
    outcome = world.run(seed, schedule)
    report.saw(world, outcome)
    report.seconds = SystemClock().monotonic() - began
    if not outcome:
        _failed(report, world, outcome, small=False)
    return report


def runs(
    world: World,
    seeds: Iterable[int],
    *,
    also: Sequence[str] = (),
    progress: Callable[[Report], object] = lambda report: None,
    known: Iterable[str] = (),
) -> Report:
    """Run the schedules that these seeds draw.

    Args:
        world: what runs.
        seeds: one for each run.
        also: kinds of faults to add.
        progress: told now and then.
        known: invariants of which a small example is known already: their failures are counted only.
    """
    counts = calm(world).counts
    jobs = ((seed, drawn(world, seed, counts, also)) for seed in seeds)
    return _all(world, jobs, progress, known)


def every_crash(world: World, *, progress: Callable[[Report], object] = lambda report: None) -> Report:
    """Kill the process before and after every operation of a run, one by one; all of them are tried.

    Nothing else goes wrong, but for what the world says that goes wrong anyway.
    """
    world = world.never_calm()
    counts = world.run(0, world.during).counts
    jobs = [(0, with_one(world.during, one[0])) for one in crashes(counts) if world.draws(one[0].point, one[0].kind)]
    report = _all(world, jobs, progress, ())
    report.boundaries = len(jobs)
    return report


def with_one(schedule: Schedule, fault: Fault) -> Schedule:
    """Return a schedule with one fault more, which takes the place of another at the same operation."""
    return tuple(sorted((*(one for one in schedule if one.where != fault.where), fault)))


def calm(world: World) -> Outcome:
    """Return a run in which nothing goes wrong."""
    return world.run(0)


def drawn(world: World, seed: int, counts: Mapping[str, int], also: Sequence[str] = ()) -> Schedule:
    """Return the schedule of a seed."""
    if not world.paper:  # what comes only after something else went wrong
        counts = {**dict.fromkeys(_RARE, _SELDOM), **counts}
    possible = pairs(counts, lambda point, kind: kind in also or world.draws(point, kind))
    return draw(random.Random(f"schedule {seed}"), counts, possible)  # noqa: S311 - no secret


def require_life(world: World) -> None:
    """Make sure that a campaign proves something.

    Raises:
        ConfigError: without any fault the fund fails, or orders nothing.
    """
    outcome = calm(world)
    if not outcome:
        raise ConfigError(f"{world.name} fails although nothing goes wrong: {outcome.violations[0]}")
    if not outcome.orders:
        raise ConfigError(
            f"{world.name} sends no order in {outcome.counts.get('bar', 0)} bars, so nothing could be lost or doubled:"
            ' use mode="autonomous", and agents that trade'
        )


def _all(
    world: World, jobs: Iterable[tuple[int, Schedule]], progress: Callable[[Report], object], known: Iterable[str]
) -> Report:
    report, clock = Report(), SystemClock()
    seen = Counter(dict.fromkeys(known, _SHRUNK))
    began = clock.monotonic()
    collecting = gc.isenabled()
    gc.disable()  # runs leave cycles behind; they are collected in between, all at once
    gc.freeze()  # and nothing else is looked at
    try:
        for number, (seed, schedule) in enumerate(jobs, 1):
            outcome = world.run(seed, schedule)
            if outcome and number % _REPEATED == 0 and world.run(seed, schedule).text != outcome.text:
                what = "the same seed gave two different runs: something reads a clock, chance or an address of the machine"
                outcome = replace(outcome, violations=(Violation("repeatable", what),))
            report.saw(world, outcome)
            if not outcome:
                name = outcome.violations[0].name
                seen[name] += 1
                _failed(report, world, outcome, small=seen[name] == 1 and name != "repeatable")
            if number % _COLLECTED == 0:
                gc.collect()
                report.seconds = clock.monotonic() - began
                progress(report)
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
    report.seconds = clock.monotonic() - began
    return report


def _failed(report: Report, world: World, outcome: Outcome, *, small: bool) -> None:
    name = outcome.violations[0].name
    report.failed[world.name, name] += 1
    if (world.name, name) in {(one.world, one.violations[0].name) for one in report.failures}:
        return
    schedule, violations = outcome.schedule, outcome.violations
    if small:

        def fails(one: Schedule) -> bool:
            return any(violation.name == name for violation in world.run(outcome.seed, one).violations)

        schedule = shrink(schedule, fails)
        violations = world.run(outcome.seed, schedule).violations or violations
        violations = tuple(sorted(violations, key=lambda one: one.name != name))  # the one that was looked for comes first
    report.failures.append(Failure(world.name, outcome.seed, schedule, violations, line(world, outcome.seed, schedule)))


def line(world: World, seed: int, schedule: Schedule) -> str:
    """Return the one line that runs a schedule again."""
    what = f"--seed {seed} --faults '{told(schedule)}'"
    if world.builtin:
        return f"{COMMAND} --world {world.name} {what}"
    function: Any = world.make_fund
    place = inspect.getsourcefile(inspect.unwrap(function)) if inspect.isfunction(function) else None
    if place is None or "<locals>" in function.__qualname__ or not world.plain:
        return f"campaign({world.name}, seed={seed}, faults='{told(schedule)}')"
    path = Path(place)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{COMMAND} --fund {path.as_posix()}:{function.__qualname__} {what}"
