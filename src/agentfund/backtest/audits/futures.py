"""Other futures: the same bars and facts up to a moment, and something else after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from agentfund.clock import from_micros
from agentfund.errors import ConfigError
from agentfund.feeds.facts import Facts
from agentfund.feeds.history import Bars
from agentfund.market import Columns, read_only
from agentfund.prompt import Untrusted

if TYPE_CHECKING:
    from agentfund.market import Floats, Micros

At = Literal["close", "open"]
"""Whether a decision about a bar is made at its close, or already at its open."""

PRICES = ("open", "high", "low", "close")
FIELDS = (*PRICES, "volume")
_MOVE = 1.5
"""Factor by which the future is raised or lowered: enough to push any usual comparison to its other side."""

_FARTHEST = 20.0
"""No price goes farther than e to this power, so that all stay finite and above zero."""


@dataclass(frozen=True, slots=True)
class World:
    """What a factory is given: bars, and facts where there are any."""

    bars: Bars
    facts: Facts | None = None


def axis(bars: Bars) -> Micros:
    """Return every moment at which a bar closes, rising."""
    return np.unique(np.concatenate([each.ends for each in bars.columns.values()]))


# -- bars -----------------------------------------------------------------------------------------------------------

Change = Callable[[Columns, int, np.random.Generator], Mapping[str, "Floats"]]
"""Makes other values of the bars from a number on: their columns by name."""


def _shuffled(c: Columns, known: int, rng: np.random.Generator) -> dict[str, Floats]:
    """Chain the shapes of bars of the whole history, drawn anew, to the last close."""
    count = len(c) - known
    drawn = rng.permutation(len(c))[:count]
    before = np.concatenate([c.open[:1], c.close[:-1]])
    gap, body = c.open[drawn] / before[drawn], c.close[drawn] / c.open[drawn]
    close = _last(c, known) * np.cumprod(gap * body)
    opened = close / body
    return {
        "open": opened,
        "high": opened * c.high[drawn] / c.open[drawn],
        "low": opened * c.low[drawn] / c.open[drawn],
        "close": close,
        "volume": c.volume[drawn],
    }


def _mirrored(c: Columns, known: int, rng: np.random.Generator) -> dict[str, Floats]:
    """Turn every rise after the last close into a fall of the same size, and back; volume runs backwards."""
    square = _last(c, known) ** 2
    return {
        "open": square / c.open[known:],
        "high": square / c.low[known:],
        "low": square / c.high[known:],
        "close": square / c.close[known:],
        "volume": c.volume[known:][::-1],
    }


def _moved(factor: float, stretch: float, volume: float) -> Change:
    """Return what moves the level by a factor, every move since the last close by a power, and the volume by a factor."""

    def change(c: Columns, known: int, rng: np.random.Generator) -> dict[str, Floats]:
        last = _last(c, known)
        moved = {}
        for name in PRICES:
            far = np.clip(stretch * np.log(getattr(c, name)[known:] / last), -_FARTHEST, _FARTHEST)
            moved[name] = last * factor * np.exp(far)
        return {**moved, "volume": c.volume[known:] * volume}

    return change


def _last(c: Columns, known: int) -> float:
    return float(c.close[known - 1] if known else c.open[0])


CUT = "cut off"
CHANGES: Mapping[str, Change] = {
    "shuffled": _shuffled,
    "mirrored": _mirrored,
    "raised": _moved(_MOVE, 3.0, 2.0),
    "lowered": _moved(1 / _MOVE, 1 / 3, 0.5),
}
FACTS_CUT, FACTS_RAISED, FACTS_LOWERED = "facts removed", "facts raised", "facts lowered"
WAYS = (CUT, *CHANGES)
FACT_WAYS = (FACTS_CUT, FACTS_RAISED, FACTS_LOWERED)

TOLD = {
    CUT: "every bar after it was taken away",
    "shuffled": "the bars after it were drawn anew from the bars' own moves",
    "mirrored": "every rise after it was turned into a fall and back",
    "raised": "prices after it were raised by half, their moves tripled and volume doubled",
    "lowered": "prices after it were lowered by a third, their moves cut to a third and volume halved",
    FACTS_CUT: "the facts that became known after it were taken away",
    FACTS_RAISED: "the facts that became known after it were given far higher values, and other texts",
    FACTS_LOWERED: "the facts that became known after it were given far lower values, and other texts",
}


def other(world: World, cut: int, way: str, rng: np.random.Generator, at: At = "close") -> World:
    """Return a world that is the same up to a moment.

    Args:
        world: the data as they are.
        cut: the moment, microseconds since 1970 UTC: the close of a bar.
        way: one of `WAYS` or `FACT_WAYS`.
        rng: for the ways that draw.
        at: "open" leaves the open of the bar after the moment as it is, for it is known.
    """
    if way in FACT_WAYS:
        return _other_facts(world, limit(world.bars, cut, at), way)
    columns = {}
    for symbol, each in world.bars.columns.items():
        known = each.closed_by(cut)
        made = cut_off(each, known, at) if way == CUT else changed(each, known, CHANGES[way], rng, at)
        if len(made):
            columns[symbol] = made
    return World(_like(world.bars, columns), world.facts)


def limit(bars: Bars, cut: int, at: At) -> int:
    """Return the last moment at which nothing may change: the cut, or the first open after it."""
    if at == "close":
        return cut
    known = [(each, each.closed_by(cut)) for each in bars.columns.values()]
    return max(cut, min((int(each.start[count]) for each, count in known if count < len(each)), default=cut))


def elsewhere(world: World, rng: np.random.Generator) -> World:
    """Return a world with the same times in which everything else went another way from the first bar on."""
    columns = {symbol: changed(each, 0, _shuffled, rng) for symbol, each in world.bars.columns.items()}
    made = World(_like(world.bars, columns), world.facts)
    return made if made.facts is None else _other_facts(made, None, FACTS_LOWERED)


def other_volume(world: World, cut: int, factor: float) -> World:
    """Return a world in which nothing but the volume after a moment is another."""

    def change(c: Columns, known: int, rng: np.random.Generator) -> dict[str, Floats]:
        return {name: getattr(c, name)[known:] for name in PRICES} | {"volume": factor * (1.0 + c.volume[known:])}

    rng = np.random.default_rng(0)
    columns = {symbol: changed(each, each.closed_by(cut), change, rng) for symbol, each in world.bars.columns.items()}
    return World(_like(world.bars, columns), world.facts)


def _like(bars: Bars, columns: Mapping[str, Columns]) -> Bars:
    return Bars(columns, source=bars.source, facts=bars.facts)


def cut_off(c: Columns, known: int, at: At = "close") -> Columns:
    """Return the first bars; with `at="open"` also the open of the next one, which is all there is of it."""
    kept: dict[str, Any] = {name: getattr(c, name)[:known] for name in _names(c)}
    if at == "open" and known < len(c):
        opened = c.open[known : known + 1]
        more = {name: getattr(c, name)[known : known + 1] for name in kept}
        more |= {**dict.fromkeys(PRICES, opened), "volume": np.zeros(1)}
        kept = {name: np.concatenate([kept[name], more[name]]) for name in kept}
    return replace(c, **read_only({name: np.array(values) for name, values in kept.items()}))


def _names(c: Columns) -> tuple[str, ...]:
    return ("start", *FIELDS) if c.end is None else ("start", "end", *FIELDS)


def changed(c: Columns, known: int, change: Change, rng: np.random.Generator, at: At = "close") -> Columns:
    """Return bars of which the first so many are as they were; with `at="open"` also the open of the next one."""
    if known == len(c):
        return c
    future = {name: np.asarray(values, dtype=np.float64) for name, values in change(c, known, rng).items()}
    if at == "open":
        scale = c.open[known] / future["open"][0]
        for name in PRICES:
            future[name] = future[name].copy()
            future[name][0] *= scale
        future["open"][0] = c.open[known]
    made = {name: np.concatenate([getattr(c, name)[:known], values]) for name, values in future.items()}
    return replace(c, **read_only(made))


# -- facts ----------------------------------------------------------------------------------------------------------


def _other_facts(world: World, cut: int | None, way: str) -> World:
    facts = world.facts
    if facts is None:
        raise ConfigError("there are no facts to change; give them with facts=")
    kept = () if cut is None else facts.until(from_micros(cut)).records
    later = facts.records[len(kept) :]  # they lie in the order in which they became known
    sign = {FACTS_CUT: 0.0, FACTS_RAISED: 1.0, FACTS_LOWERED: -1.0}[way]
    made = [replace(fact, value=_other_value(fact.value, sign)) for fact in later] if sign else []
    there = Facts([*kept, *made], source=facts.source)
    return World(world.bars.with_facts(there) if world.bars.facts is not None else world.bars, there)


def _other_value(value: Any, sign: float) -> Any:
    """Return another value of the same kind, far above or below."""
    if isinstance(value, Mapping):
        return {name: _other_value(part, sign) for name, part in value.items()}
    if isinstance(value, Untrusted):
        return replace(value, text=value.text[::-1] + (" better" if sign > 0 else " worse"))
    return value + sign * (4.0 * abs(value) + 1.0)
