"""A counterfactual rerun as plain text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from agentfund.core.ledger import laid_out
from agentfund.trading import Outcome

if TYPE_CHECKING:
    from agentfund.replays.counterfactual import Counterfactual
    from agentfund.replays.diff import Change, Diff
    from agentfund.replays.tally import Spent

MOST = 12
"""Most changes that are shown one by one."""


def lines(found: Counterfactual) -> Iterator[str]:
    """Give the lines."""
    started = found.recorded.started
    span = f"{found.begin:%Y-%m-%d %H:%M} to {found.end:%Y-%m-%d %H:%M} UTC"
    yield f"Run {started.run[:12]} of {started.fund} once more, cycles {found.first:,} to {found.last:,}, {span}"
    yield f"Changed: {'; '.join(found.what_changed) or 'nothing'}"
    yield ""
    yield from asked(found)
    yield ""
    yield from laid_out([("", "recorded", "replayed", "difference"), None, *rows(found.diff)])
    yield ""
    yield from parted(found.diff)
    if found.remarks:
        yield ""
        yield from found.remarks


def asked(found: Counterfactual) -> Iterator[str]:
    """Give what was asked, what was not, and what that leaves uncertain."""
    tally = found.tally
    yield f"Asked: {_counted(tally.asked) or 'nobody'}; {_spent(tally.made, 'made')}."
    yield f"From the log: {sum(tally.given.values()):,} opinions; {_spent(tally.avoided, 'avoided')}."
    for what, words in (
        ("affected", "Asked although they did not change, because what they look at did"),
        ("stands", "Recorded opinions that stand although what their agents look at is another"),
        ("missing", "Abstentions because the agent was not asked in the recorded run"),
    ):
        if counts := getattr(tally, what):
            since = min(tally.since[what].values())
            yield f"{words}: {_counted(counts)}; from cycle {since:,} on."
    if found.ask == "changed" and (tally.stands or tally.missing):
        yield 'ask="affected" asks these agents too.'
    if found.book_since:
        yield f"Cash, positions or orders are others from cycle {found.book_since:,} on."


def rows(diff: Diff) -> list[tuple[str, ...]]:
    """Return the figures of both runs, a row each."""
    old, new = diff.recorded, diff.replayed
    told: list[tuple[str, ...]] = [_count("decisions", old.decisions, new.decisions)]
    for outcome in Outcome:
        pair = old.outcomes.get(outcome, 0), new.outcomes.get(outcome, 0)
        if any(pair):
            told.append(_count(f"  {outcome}", *pair))
            if outcome is Outcome.DENIED:
                codes = dict.fromkeys([*old.codes, *new.codes])
                told += [_count(f"    {code}", old.codes.get(code, 0), new.codes.get(code, 0)) for code in codes]
    told += [_count(name, getattr(old, name), getattr(new, name)) for name in ("orders", "fills")]
    told.append(_count("round trips", old.trips, new.trips))
    for name in ("costs", "profit", "equity"):
        before, after = getattr(old, name), getattr(new, name)
        told.append((name, f"{before:,.2f}", f"{after:,.2f}", f"{after - before:+,.2f}"))
    for name, before, after in (
        ("return %", old.return_pct, new.return_pct),
        ("deepest fall %", old.max_drawdown_pct, new.max_drawdown_pct),
    ):
        told.append((name, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"))
    return told


def parted(diff: Diff) -> Iterator[str]:
    """Give where the two runs part."""
    if diff.first is None:
        yield "Nothing differs: every decision, order and fill is that of the log."
        return
    first, counts = diff.first, diff.counts
    yield f"The first difference is in cycle {first.cycle:,}, {first.time:%Y-%m-%d %H:%M} UTC. Its cause: {first.cause}."
    words = ", ".join(f"{count:,} {what}s" for what, count in counts.items())
    others = _counted(diff.opinions)
    yield f"In all differ: {words}" + (f"; opinions of {others}." if others else ".")
    yield ""
    told = one_by_one(diff)
    for change in told[:MOST]:
        yield from _change(change)
    if len(told) > MOST:
        yield f"and {len(told) - MOST:,} more."


def one_by_one(diff: Diff) -> list[Change]:
    """Return the changes without the orders that follow from a decision of the same cycle, which tells them."""
    decided = {change.cycle for change in diff.changes if change.what == "decision"}
    return [change for change in diff.changes if change.what != "order" or change.cycle not in decided]


def _change(change: Change) -> Iterator[str]:
    yield f"cycle {change.cycle:,}, {change.time:%Y-%m-%d %H:%M}, {change.what}: {change.cause}"
    yield f"  recorded: {change.recorded}"
    yield f"  replayed: {change.replayed}"


def _count(name: str, old: int, new: int) -> tuple[str, ...]:
    return name, f"{old:,}", f"{new:,}", f"{new - old:+,}" if new != old else "0"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _spent(spent: Spent, word: str) -> str:
    calls = f"{spent.calls:,} calls to language models {word}"
    if not spent.calls:
        return calls
    return f"{calls}, {spent.billed_usd:,.4f} USD billed, {spent.notional_usd:,.4f} USD at list prices"
