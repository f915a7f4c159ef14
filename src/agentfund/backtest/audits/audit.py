"""Catching look-ahead: decisions must stay what they are when the future becomes another one.

Whatever is computed from data is made again by a factory, on data that are the same up to a moment and different after
it. What was decided up to that moment must not change. No reading of code is needed, so no way of leaking is exempt.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.backtest.audits import checks
from agentfund.backtest.audits.cuts import choose_cuts, choose_fact_cuts
from agentfund.backtest.audits.fresh import POSSIBLE, Fresh, Lost
from agentfund.backtest.audits.futures import (
    CUT,
    FACT_WAYS,
    TOLD,
    WAYS,
    At,
    World,
    axis,
    elsewhere,
    limit,
    other,
    other_volume,
)
from agentfund.backtest.audits.hints import Evidence, hint
from agentfund.backtest.audits.result import Audit, Finding
from agentfund.backtest.audits.signals import causal
from agentfund.backtest.audits.traces import Make, WrongShape, trace
from agentfund.backtest.audits.tracks import DECISIONS, Key, Trace, Track, moment, shown
from agentfund.brokers.paper import PaperBroker
from agentfund.clock import from_micros

if TYPE_CHECKING:
    from agentfund.feeds.facts import Facts
    from agentfund.feeds.history import Bars
    from agentfund.protocols import Broker

__all__ = ["Audit", "Finding", "audit", "causal"]

Progress = Callable[[int, int], None]
"""Called with (runs done, runs in all) after each run."""


def audit(
    make: Make,
    bars: Bars,
    *,
    facts: Facts | None = None,
    cuts: int = 8,
    seed: int = 0,
    at: At = "close",
    broker: Callable[[], Broker] = PaperBroker,
    ask: bool = False,
    fresh: bool = True,
    progress: Progress | None = None,
) -> Audit:
    """Try whether what a factory makes looks ahead.

    The factory is given data and returns what decides on them; everything that is computed from the data beforehand
    belongs inside it, for that is where leaks sit. It is run on the data as they are, then on data that are the same up
    to a cut and different after it: cut off, drawn anew, mirrored, raised, lowered; facts removed and changed. What was
    decided up to the cut must stay the same, byte for byte; values of indicators may differ by rounding.

    Also tried: the same data twice; a run that nothing came before; other instruments chosen; orders filled at past prices;
    decisions that fit the prices without reading them.

    Args:
        make: `make(bars)`, or `make(bars, facts)` where there are facts. It gives a `Strategy`, a mapping of strategies by
            symbol, a list of agents, an `Orchestrator`, or for each bar a number (an array; a mapping of them by symbol): what
            is wanted at its close.
        bars: the data.
        facts: facts beside the bars; those of the bars where they have some.
        cuts: how many moments the future is replaced after.
        seed: chooses them, and the futures.
        at: "open" where the numbers of an array are decided at the open of their bar already.
        broker: makes the broker of a fund.
        ask: whether language models may be asked: about every bar, in some twenty runs. Their answers must be fixed.
        fresh: whether some runs are made in copies of this process, where that is possible, so that none can know what
            another one has left in memory.
        progress: called after each run with (runs done, runs in all).

    Raises:
        ConfigError: the factory gives what cannot be audited, or there are too few bars.
        Exception: whatever the factory raises on the data as they are.
    """
    world = World(bars, bars.facts) if facts is None else World(bars.with_facts(facts), facts)
    return _Work(make, world, cuts, seed, at, broker, ask, fresh and POSSIBLE, progress).done()


class _Work:
    """One audit under way."""

    def __init__(
        self,
        make: Make,
        world: World,
        cuts: int,
        seed: int,
        at: At,
        broker: Callable[[], Broker],
        ask: bool,
        fresh: bool,
        progress: Progress | None,
    ) -> None:
        self.make, self.world, self.at, self.fresh = make, world, at, fresh
        self.options: dict[str, Any] = {"at": at, "broker": broker, "ask": ask}
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.wanted_cuts = cuts
        self.progress = progress
        self.found: dict[tuple[str, str, str, str], Finding] = {}
        self.evidence: dict[tuple[str, str, str, str], Evidence] = {}
        self.fact_cuts: list[int] = []
        self.warnings: list[str] = []
        self.failed: dict[str, list[str]] = {}
        self.compared = self.runs = self.total = 0

    def done(self) -> Audit:
        """Run it all."""
        moments = axis(self.world.bars)
        self.total = self.wanted_cuts * (len(WAYS) + (len(FACT_WAYS) if self.world.facts is not None else 0)) + 7
        middle = int(moments[int(len(moments) * 0.6)])
        apart = self._apart(middle)
        # The future that is cut off comes first: a cache that is filled by the first run does not hold the rest then.
        early = self._try(middle, CUT, deep=False)
        base = self._run(self.world)
        again = self._run(self.world, deep=False)
        cuts = choose_cuts(
            self.world.bars,
            [self._ends(key, track)[track.acted] for key, track in base.decisions().items()],
            self.wanted_cuts,
            self.rng,
        )
        if self.world.facts is not None:
            self.fact_cuts = choose_fact_cuts(self.world.bars, self.world.facts, self.wanted_cuts, self.rng, self.at)
            if not self.fact_cuts:
                self.warnings.append("no fact became known within the bars that were tried, so none was tested")
        # What differs with chance would differ in every run, and tell nothing of the future.
        if not self._twice(base, again):
            self._isolated(base, apart, middle)
            self._compare(base, early, middle, CUT)
            self._futures(base, cuts)
            self._once(base, cuts[-1])
        until = limit(self.world.bars, cuts[-1], self.at)
        decided = sum(int(t.acted[: t.until(until)].sum()) for k, t in base.tracks.items() if k.what in checks.COUNTED)
        ways = WAYS if self.world.facts is None else (*WAYS, *FACT_WAYS)
        self._tell_failures()
        failed = sum(map(len, self.failed.values()))
        return Audit(
            tuple(self._explained(key, finding) for key, finding in self.found.items()),
            tuple(dict.fromkeys(self.warnings)),
            decided,
            self.compared,
            self.runs + failed,
            failed,
            tuple(map(from_micros, sorted({*cuts, *self.fact_cuts}))),
            ways,
        )

    # -- runs ---------------------------------------------------------------------------------------------------------

    def _run(self, world: World, until: int | None = None, *, deep: bool = True) -> Trace:
        made = trace(self.make, world, until=until, deep=deep, **self.options)
        self._count()
        return made

    def _count(self) -> None:
        self.runs += 1
        if self.progress is not None:
            self.progress(self.runs, max(self.total, self.runs))

    def _other(self, cut: int, way: str) -> World:
        number = (*WAYS, *FACT_WAYS).index(way)
        return other(self.world, cut, way, np.random.default_rng([self.seed, number, cut % 2**32]), self.at)

    def _try(self, cut: int, way: str, *, deep: bool) -> Trace | None:
        """Run on another future; None where the factory cannot, which is written down."""
        try:
            with quiet():
                return self._run(self._other(cut, way), limit(self.world.bars, cut, self.at), deep=deep)
        except WrongShape as error:
            self._put(Finding("future", "make", "result", cut=from_micros(cut), way=TOLD[way], after=str(error)), Evidence(way))
        except Exception as error:
            self.failed.setdefault(f"{type(error).__name__}: {error}", []).append(f"{way} at {moment(cut)}")
        return None

    def _tell_failures(self) -> None:
        for error, where in self.failed.items():
            more = f" and in {len(where) - 1} more runs" if len(where) > 1 else ""
            self.warnings.append(f"not compared: with the future {where[0]}{more} the factory raised {error}")

    def _apart(self, middle: int) -> dict[str, Trace]:
        """Run in copies of the process, each of which knows of no other run."""
        if not self.fresh:
            self.warnings.append("what a run leaves in memory for the next one was not tested: processes are not copied here")
            return {}
        found: dict[str, Trace] = {}
        for name in ("as it is", "lowered"):
            world = self.world if name == "as it is" else self._other(middle, name)
            until = None if name == "as it is" else limit(self.world.bars, middle, self.at)
            try:
                work = partial(trace, self.make, world, until=until, deep=False, **self.options)
                found[name] = Fresh(work).result()
            except Lost as lost:
                if name == "as it is":  # it raises here as well, where the caller can see it; or copies do not work
                    self.warnings.append(f"what a run leaves in memory was not tested: {lost}")
                    break
            self._count()
        return found

    # -- comparisons --------------------------------------------------------------------------------------------------

    def _twice(self, base: Trace, again: Trace) -> bool:
        """Compare two runs on the same data; whether they differ."""
        only = set(again.tracks) if _at_once(base) else None
        for key, first, values in checks.differences(base, again, None, only=only):
            self._note("chance", key, first, values, None, "the same data were given twice", Evidence(""))
        if base.universe != again.universe:
            told = Finding("chance", "make", "universe", before=_names(base), after=_names(again))
            self._put(replace(told, way="the same data were given twice"), Evidence(""))
        return bool(self.found)

    def _isolated(self, base: Trace, apart: dict[str, Trace], middle: int) -> None:
        whole = apart.get("as it is")
        if whole is None:
            return
        for key, first, values in checks.differences(whole, base, None, only=set(whole.tracks)):
            self._note("carried over", key, first, values, None, "another run came before", Evidence(""))
        for name, found in apart.items():
            if name != "as it is":
                self._compare(whole, found, middle, name, shallow=True)

    def _futures(self, base: Trace, cuts: Sequence[int]) -> None:
        """Give it other futures. What is computed at once is cheap and sees every way; a fund sees two ways a cut."""
        at_once = _at_once(base)
        deeply = (len(cuts) // 2, len(cuts) - 1) if len(cuts) > 6 else (len(cuts) // 2,)
        for number, cut in enumerate(cuts):
            ways = WAYS if at_once else (WAYS[number % 5], WAYS[(number + 2) % 5])
            for way in ways:
                # A strategy takes its time in a fund: it is tried in the middle, and late where there are many cuts.
                deep = not at_once or (way == "lowered" and number in deeply)
                self._compare(base, self._try(cut, way, deep=deep), cut, way, shallow=not deep)
        for number, cut in enumerate(self.fact_cuts):
            ways = FACT_WAYS if at_once else (FACT_WAYS[number % 3],)
            for way in ways:
                self._compare(base, self._try(cut, way, deep=not at_once), cut, way, shallow=at_once)

    def _compare(self, base: Trace, found: Trace | None, cut: int, way: str, *, shallow: bool = True) -> None:
        if found is None:
            return
        until = limit(self.world.bars, cut, self.at)
        only = set(found.tracks) | {key for key in base.tracks if key.what == "position"} if shallow else None
        there = {s for s, c in self.world.bars.columns.items() if c.closed_by(cut)}
        if base.universe is not None and found.universe is not None:
            chosen = [tuple(s for s in trace.universe or () if s in there) for trace in (base, found)]
            if chosen[0] != chosen[1]:
                told = Finding("universe", "make", "universe", cut=from_micros(cut), way=TOLD[way])
                told = replace(told, before=", ".join(chosen[0]) or "none", after=", ".join(chosen[1]) or "none")
                self._put(told, Evidence(way))
                both = set(chosen[0]) & set(chosen[1])  # what the others decide is no news
                only = {key for key in (only or set(base.tracks) | set(found.tracks)) if key.symbol in both}
        self.compared += checks.size(base, until, only)
        for key, first, values in checks.differences(base, found, until, only=only):
            kind = "facts" if way in FACT_WAYS else "future"
            columns = self.world.bars.columns.get(key.symbol) or next(iter(self.world.bars.columns.values()))
            known = columns.closed_by(until)
            back = known - columns.closed_by(first) if self.at == "close" else known - int(columns.start.searchsorted(first))
            changed = checks.changes(base.tracks.get(key), found.tracks.get(key), until)
            self._note(
                kind,
                key,
                first,
                values,
                cut,
                TOLD[way],
                Evidence(way, back, known, changed, checks.rounding(values), opened=self.at == "open"),
            )

    def _note(
        self, kind: str, key: Key, first: int, values: tuple[Any, Any], cut: int | None, way: str, evidence: Evidence
    ) -> None:
        columns = self.world.bars.columns.get(key.symbol) or next(iter(self.world.bars.columns.values()))
        bar = int(columns.start.searchsorted(first)) if self.at == "open" else columns.closed_by(first) - 1
        told = Finding(
            kind, key.who, key.what, key.symbol, from_micros(first), bar, None if cut is None else from_micros(cut), way
        )
        self._put(replace(told, before=shown(values[0]), after=shown(values[1])), evidence)

    def _put(self, finding: Finding, evidence: Evidence) -> None:
        key = (finding.kind, finding.who, finding.what, finding.symbol)
        if key in self.found:
            self.found[key] = replace(self.found[key], seen=self.found[key].seen + 1)
            self.evidence[key] = self.evidence[key].and_also(evidence)
        else:
            self.found[key], self.evidence[key] = finding, evidence

    def _explained(self, key: tuple[str, str, str, str], finding: Finding) -> Finding:
        evidence = self.evidence[key]
        if finding.kind == "future" and finding.cut is not None and finding.what in DECISIONS and self.at == "close":
            evidence = replace(evidence, volume=self._by_volume(finding))
        return replace(finding, hint=hint(finding.kind, finding.what, evidence))

    def _by_volume(self, finding: Finding) -> bool:
        """Whether another volume alone changes it, too; asked of what is computed at once."""
        if finding.what not in ("position", "enter", "leave") or finding.cut is None:
            return False
        cut = next(c for c in axis(self.world.bars).tolist() if from_micros(c) == finding.cut)
        wanted = Key(finding.who, finding.what, finding.symbol)
        try:
            base = self._run(self.world, deep=False)
            found = [self._run(other_volume(self.world, cut, factor), deep=False) for factor in (4.0, 0.25)]
        except Exception:  # it only serves the hint
            return False
        return any(True for each in found for _ in checks.differences(base, each, cut, only={wanted}))

    # -- what needs no other future -----------------------------------------------------------------------------------

    def _once(self, base: Trace, last: int) -> None:
        bars = self.world.bars
        for key, first, values in checks.lanes(base):
            self._note("lanes", key, first, values, None, "it is computed bar by bar", Evidence(""))
        for order, fill, price in checks.early_fills(base, bars):
            told = Finding("execution", "broker", "fill", order.symbol, order.time, None)
            words = f"filled at {fill.reference} at {fill.time:%Y-%m-%d %H:%M} UTC", f"the next open was at {price:g}"
            self._put(replace(told, before=words[0], after=words[1]), Evidence(""))
        self.warnings += checks.ahead_of_each_other(bars)
        if not base.decisions():
            return
        try:
            with quiet():
                found = self._run(elsewhere(self.world, np.random.default_rng([self.seed, 99])), deep=False)
        except Exception as error:
            self.warnings.append(f"not tried on other prices altogether: the factory raised {type(error).__name__}: {error}")
            return
        for key, score in checks.unmoved(base, found, bars, self.at):
            if abs(score) >= checks.BEYOND_CHANCE:
                told = Finding("memory", key.who, key.what, key.symbol, before="it decides the same when all prices are others")
                after = f"with these prices it is {abs(score):.1f} standard deviations better than chance"
                self._put(replace(told, after=after), Evidence(""))
            else:
                self.warnings.append(
                    f"{key.who}, {key.what}: it decides the same on other prices, so it follows the calendar, chance, or"
                    " something that was computed before; what it reads besides bars is tested only where it is given as facts"
                )

    def _ends(self, key: Key, track: Track) -> Any:
        if self.at == "close":
            return track.times
        return self.world.bars.columns[key.symbol].ends


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out warnings of arithmetic: other futures may hold what a formula was not written for."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def _at_once(found: Trace) -> bool:
    """Whether decisions are computed over whole arrays, which is cheap; a fund takes its time."""
    return any(key.what in ("position", "enter") for key in found.tracks)


def _names(found: Trace) -> str:
    return ", ".join(found.universe or ()) or "none"
