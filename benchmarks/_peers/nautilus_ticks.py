"""nautilus_trader's aggregators, fed one prebuilt trade tick after the other; its time bars close by a clock's timer."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from nautilus_trader.common.component import TestClock
from nautilus_trader.data.aggregation import TickBarAggregator, TimeBarAggregator, VolumeBarAggregator
from nautilus_trader.model.data import BarType, TradeTick
from nautilus_trader.model.enums import AggressorSide
from nautilus_trader.model.identifiers import TradeId
from nautilus_trader.model.objects import Price, Quantity

from benchmarks._peers.nautilus_engine import equity
from benchmarks._peers.serve import Done, serve
from benchmarks._peers.walk import tape

KINDS = {
    "ticks": (TickBarAggregator, "500-TICK"),
    "volume": (VolumeBarAggregator, "100000-VOLUME"),
    "minutes": (TimeBarAggregator, "5-MINUTE"),
}
STEP_NS = 300_000_000_000


@lru_cache(maxsize=1)
def ticks(count: int) -> list[Any]:
    """Return trades with one id for all, because making a million ids is not what is measured."""
    name, same = equity(1).id, TradeId("1")
    side = AggressorSide.BUYER
    when, price, volume = (each.tolist() for each in tape(count))
    return [
        TradeTick(name, Price(p, 2), Quantity(v, 0), side, same, t * 1000, t * 1000)
        for t, p, v in zip(when, price, volume, strict=True)
    ]


def prepare(case: str, count: int) -> Callable[[], Done]:
    """Return a run that gives the number of bars and the sum of their closes."""
    given, (kind, step) = ticks(count), KINDS[case]
    made: list[Any] = []
    timed = case == "minutes"
    clock = TestClock()
    first = given[0].ts_event // STEP_NS * STEP_NS
    clock.set_time(first)
    start: tuple[Any, ...] = (clock,) if timed else ()
    aggregator = kind(equity(1), BarType.from_str(f"S1.SIM-{step}-LAST-INTERNAL"), made.append, *start)
    if timed and hasattr(aggregator, "start_timer"):
        aggregator.start_timer()

    def plain() -> Done:
        handle = aggregator.handle_trade_tick
        for tick in given:
            handle(tick)
        return len(made), float(np.sum([bar.close.as_double() for bar in made]))

    def by_clock() -> Done:
        handle, until = aggregator.handle_trade_tick, first + STEP_NS
        for tick in given:
            if tick.ts_event > until:
                for event in clock.advance_time(until):
                    event.handle()
                until += STEP_NS
            handle(tick)
        return len(made), float(np.sum([bar.close.as_double() for bar in made]))

    return by_clock if timed else plain


if __name__ == "__main__":
    serve("nautilus_trader", prepare)
