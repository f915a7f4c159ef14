"""Where an audit cuts: moments after which the future is replaced."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from agentfund.backtest.audits.futures import At, axis
from agentfund.clock import to_micros
from agentfund.errors import ConfigError

if TYPE_CHECKING:
    from agentfund.feeds.facts import Facts
    from agentfund.feeds.history import Bars
    from agentfund.market import Micros

WARM_UP = 0.2
"""No cut lies in the first fifth of the bars: what needs some history has had it."""

LEAST = 20
"""Fewest moments that can be audited."""


def choose_cuts(bars: Bars, active: Sequence[Micros], cuts: int, rng: np.random.Generator) -> list[int]:
    """Return moments after which the future is replaced: spread, some near the end, most where it matters.

    One is the last moment but one. The others lie one in each of equal parts of the bars: in turn at a moment at which
    something was decided, and before a large move, for that is where a leak pays and is seen.

    Args:
        bars: the data.
        active: moments at which something was decided, one array for each that decides.
        cuts: how many.
        rng: chooses among the moments of a part.

    Raises:
        ConfigError: there are too few bars, or fewer than one cut is asked for.
    """
    if cuts < 1:
        raise ConfigError(f"cuts={cuts}: ask for at least one")
    moments = axis(bars)
    if len(moments) < LEAST:
        raise ConfigError(f"an audit needs at least {LEAST} moments at which a bar closes; there are {len(moments)}")
    first, last = int(len(moments) * WARM_UP), len(moments) - 2
    moved = np.zeros(len(moments))
    for each in bars.columns.values():
        step = np.abs(np.diff(np.log(each.close)))
        at = moments.searchsorted(each.ends[:-1])
        moved[at] = np.maximum(moved[at], step)
    acted = np.zeros(len(moments), dtype=bool)
    for times in active:
        acted[moments.searchsorted(times[times <= moments[-1]])] = True
    chosen = {last}
    edges = np.linspace(first, last, cuts).astype(int)
    due = True  # whether the next cut is to lie where something was decided
    for begin, end in pairwise(edges.tolist()):
        part = np.arange(begin, max(end, begin + 1))
        decided, moving = part[acted[part]], part[moved[part] >= np.quantile(moved[part], 0.9)]
        chosen.add(int(rng.choice(decided if due and len(decided) else moving)))
        due = not (due and len(decided))
    return [int(moments[at]) for at in sorted(chosen)]


def choose_fact_cuts(bars: Bars, facts: Facts, cuts: int, rng: np.random.Generator, at: At = "close") -> list[int]:
    """Return moments right before a fact became known: there what uses it too early is seen. All kinds take turns.

    Where decisions are made at the open, facts that became known between two bars are known then, so others are taken.

    Args:
        bars: the data.
        facts: the facts.
        cuts: how many.
        rng: chooses among the facts of a kind.
        at: when a decision about a bar is made.
    """
    moments = axis(bars)
    first, last = int(moments[int(len(moments) * WARM_UP)]), int(moments[-2])
    starts = np.unique(np.concatenate([each.start for each in bars.columns.values()]))
    kinds: dict[tuple[str, bool], list[int]] = {}
    for fact in facts.records:
        known = to_micros(fact.known_time)
        before = int(moments[moments.searchsorted(known, side="left") - 1]) if first < known <= last else 0
        opened = int(starts[min(int(starts.searchsorted(before)), len(starts) - 1)])
        if before and (at == "close" or opened < known):
            kinds.setdefault((fact.name, fact.revision > 0), []).append(known)
    queues: list[list[int]] = [rng.permutation(np.unique(np.array(each))).tolist() for _, each in sorted(kinds.items())]
    chosen: set[int] = set()
    while len(chosen) < cuts and any(queues):
        for queue in queues:
            if queue and len(chosen) < cuts:
                chosen.add(int(moments[moments.searchsorted(queue.pop(), side="left") - 1]))
    return sorted(chosen)
