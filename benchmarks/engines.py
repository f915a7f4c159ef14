"""Backtest engines on the same bars with the same rules, in turns: bars a second of processor time, ours and theirs.

Each engine runs in a process of its own, from bars in its own form to round trips and final equity. What its execution
does otherwise stands beside the ratio.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks._measure import figure
from benchmarks._peers import Answer, Peer

OURS = "fills at the next open; stop before target, both on the entry bar too; a gap fills at the open; ticks, lots, limits"

DIFFERS = {
    "backtesting": "whole units; no limits",
    "backtrader": "brackets sleep on the entry bar; whole units; no limits",
    "nautilus_trader": "fills at the close that decided; walks open, high, low, close; messages; no risk checks",
    "vectorbt": "fills at the close that decided; one order a bar; stops from the fill; fractional units; RSI of simple means",
    "numba": "by hand: no ticks, lots, limits or records; fractional units",
    "pandas": "a loop by hand; fractional units; no limits or records",
}

CASES = {"sma": "SMA 20/50", "rsi": "RSI 14", "donchian": "Donchian 20", "noop": "no action"}


@dataclass(frozen=True, slots=True)
class Other:
    """An engine to compare with, and how many bars it is given.

    Args:
        package: its name.
        module: the file that serves it.
        environment: whose Python it runs in.
        bars: bars of a run.
        options: further arguments of its jobs.
        told: what to add to its name.
    """

    package: str
    module: str
    environment: str
    bars: int
    options: tuple[tuple[str, Any], ...] = ()
    told: str = ""


LINE = (
    Other("backtesting", "backtesting_engine", "engines", 100_000),
    Other("nautilus_trader", "nautilus_engine", "engines", 20_000),
    Other("backtrader", "backtrader_engine", "engines", 20_000),
    Other("backtrader", "backtrader_engine", "engines", 10_000, (("feed", "pandas"),), ", its feed from pandas"),
)
SLOW = (
    Other("pandas", "recomputing_loop", "own", 1_500, told=", all recomputed at each bar, first 1,500 bars"),
    Other("pandas", "recomputing_loop", "own", 300, (("start", 50_000),), ", all recomputed at each bar, after 50,000 bars"),
)
ARRAYS = (
    Other("vectorbt", "vectorbt_engine", "vectorbt", 0, (("engine", "numba"),), ", numba"),
    Other("vectorbt", "vectorbt_engine", "vectorbt", 0, (("engine", "rust"),), ", rust"),
    Other("numba", "numba_loop", "own", 0, told=", a loop by hand"),
)


def best(peer: Peer, rounds: int, **job: Any) -> Answer:
    """Return the fastest of some runs."""
    return min((peer.ask(**job) for _ in range(rounds)), key=lambda answer: answer.s)


def fastest(pairs: Sequence[tuple[Peer, dict[str, Any]]], rounds: int) -> list[Answer]:
    """Return the fastest run of each job, the jobs in turns, so that all see the same machine."""
    found: list[list[Answer]] = [[] for _ in pairs]
    for _ in range(rounds):
        for at, (peer, job) in enumerate(pairs):
            found[at].append(peer.ask(**job))
    return [min(each, key=lambda answer: answer.s) for each in found]


def compared(name: str, ours: Answer, bars: int, other: Other, peer: Peer, theirs: Answer, their_bars: int) -> dict[str, Any]:
    """Return bars a second of both, with what differs and what they came to."""
    one = figure(
        f"engines: {name}",
        bars / ours.s,
        "bars/s",
        peer=other.package + other.told,
        peer_value=their_bars / theirs.s,
        version_=peer.version,
    )
    return one | {
        "bars": [bars, their_bars],
        "round_trips": [ours.trades, theirs.trades],
        "final_equity": [round(ours.final, 2), round(theirs.final, 2)],
        "peer_differs": DIFFERS[other.package],
    }


def event_lane(bars: int = 100_000, rounds: int = 5, part: float = 1.0) -> Iterator[dict[str, Any]]:
    """Bar by bar: four rules, and a strategy of its own `decide` that never acts; then the recomputing loop."""
    with ExitStack() as stack:
        own = stack.enter_context(Peer("own_engine"))
        others = [(each, stack.enter_context(Peer(each.module, each.environment))) for each in LINE]
        for case, told in CASES.items():
            kinds = (
                [(case, told)] if case != "noop" else [("noop", "a condition that never holds"), ("decide", "own decide, idle")]
            )
            jobs = [(own, {"case": kind, "bars": bars, "lane": "event"}) for kind, _ in kinds]
            jobs += [
                (peer, {"case": case, "bars": int(each.bars * part), **dict(each.options)})
                for each, peer in others
                if not each.options or case in ("sma", "noop")
            ]
            answers = fastest(jobs, rounds)
            for (_, label), ours in zip(kinds, answers[: len(kinds)], strict=True):
                for (each, peer), theirs in zip(others, answers[len(kinds) :], strict=False):
                    yield compared(f"event lane, {label}", ours, bars, each, peer, theirs, int(each.bars * part))
        loop = stack.enter_context(Peer(SLOW[0].module))
        jobs = [(own, {"case": "sma", "bars": bars, "lane": "event"})]
        jobs += [(loop, {"case": "sma", "bars": each.bars, **dict(each.options)}) for each in SLOW]
        ours, *answers = fastest(jobs, 2)
        for each, theirs in zip(SLOW, answers, strict=True):
            yield compared("event lane, SMA 20/50", ours, bars, each, loop, theirs, each.bars)


def array_lane(sizes: Sequence[int] = (100_000, 1_000_000), rounds: int = 7) -> Iterator[dict[str, Any]]:
    """Whole arrays: plain and compiled, beside vectorbt with both of its engines, and the limit."""
    with ExitStack() as stack:
        own = stack.enter_context(Peer("own_engine"))
        others = [(each, stack.enter_context(Peer(each.module, each.environment))) for each in ARRAYS]
        for bars in sizes:
            for case, told in CASES.items():
                peers = [each for each in others if case == "sma" or (each[0].package == "vectorbt" and bars == sizes[0])]
                if not peers:
                    continue
                jobs = [(own, {"case": case, "bars": bars, "lane": "array", "compiled": kind}) for kind in (False, True)]
                jobs += [(peer, {"case": case, "bars": bars, **dict(each.options)}) for each, peer in peers]
                answers = fastest(jobs, rounds)
                for how, ours in zip(("plain", "compiled"), answers, strict=False):
                    for (each, peer), theirs in zip(peers, answers[2:], strict=True):
                        yield compared(f"array lane, {how}, {told}, {bars:,} bars", ours, bars, each, peer, theirs, bars)


def many(symbols: int = 50, bars: int = 20_000, rounds: int = 3) -> Iterator[dict[str, Any]]:
    """One book of many instruments; peers get five of them, because their time grows in proportion."""
    fewer = 5
    less = {"backtesting": bars, "nautilus_trader": bars // 4, "backtrader": bars // 4}
    alone = "; five instruments, scaled" + " on one account"
    with ExitStack() as stack:
        own = stack.enter_context(Peer("own_engine"))
        others = [(each, stack.enter_context(Peer(each.module, each.environment))) for each in LINE if not each.options]
        jobs = [(own, {"case": "sma", "bars": bars, "symbols": symbols, "lane": "event"})]
        jobs += [(peer, {"case": "sma", "bars": less[each.package], "symbols": fewer}) for each, peer in others]
        ours, *answers = fastest(jobs, rounds)
        for (each, peer), theirs in zip(others, answers, strict=True):
            one = compared(
                f"{symbols} instruments on one book, SMA 20/50", ours, symbols * bars, each, peer, theirs,
                fewer * less[each.package],
            )  # fmt: skip
            how = "; five instruments, run apart" if each.package == "backtesting" else alone
            yield one | {"peer_differs": one["peer_differs"] + how}


def growth(
    bars: Sequence[int] = (50_000, 100_000, 200_000, 400_000, 800_000),
    symbols: Sequence[int] = (5, 20, 50, 100),
    rounds: int = 3,
) -> Iterator[dict[str, Any]]:
    """Time a bar at the largest size over that at the smallest."""
    with Peer("own_engine") as own:
        kinds: dict[str, dict[str, Any]] = {
            "event lane": {"lane": "event"},
            "array lane, plain": {"lane": "array", "compiled": False},
            "array lane, compiled": {"lane": "array", "compiled": True},
        }
        for told, options in kinds.items():
            found = fastest([(own, {"case": "sma", "bars": n, **options}) for n in bars], rounds)
            each = [answer.s / n * 1e9 for n, answer in zip(bars, found, strict=True)]
            one = figure(f"engines: {told}, time a bar at {bars[-1]:,} bars over {bars[0]:,}", each[-1] / each[0], "")
            yield one | {"ns_a_bar": [round(value, 1) for value in each], "bars": list(bars)}
        found = fastest([(own, {"case": "sma", "bars": 5_000, "symbols": k, "lane": "event"}) for k in symbols], rounds)
        each = [answer.s / k / 5_000 * 1e9 for k, answer in zip(symbols, found, strict=True)]
        one = figure(f"engines: one book, time a bar at {symbols[-1]} instruments over {symbols[0]}", each[-1] / each[0], "")
        yield one | {"ns_a_bar": [round(value, 1) for value in each], "instruments": list(symbols)}


def figures() -> Iterator[dict[str, Any]]:
    """Give all of them."""
    yield from event_lane()
    yield from array_lane()
    yield from many()
    yield from growth()
