"""Ours: orders fill at the next open; stop before target, both on the entry bar too; one account for all instruments."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Any

from agentfund.backtest.lanes import simulate
from agentfund.brokers.paper import PaperBroker
from agentfund.core.gate import Limits
from agentfund.core.sizing import Sizing
from agentfund.feeds.history import Bars
from agentfund.market import Columns, Instrument
from agentfund.strategies import DonchianBreakout, RsiReversion, SmaCross, Strategy
from agentfund.trading import Costs, Direction
from benchmarks._peers.serve import Done, serve
from benchmarks._peers.walk import walk

LOOSE = 1e9


class Never(Strategy):
    """Its condition to enter never holds."""

    def enter(self, now: Any) -> Any:
        """Return False."""
        return False


class Idle(Strategy):
    """Decides by itself, at each bar, and never anything."""

    def decide(self, now: Any, held: bool) -> Direction | None:
        """Return None."""
        return None


KINDS: dict[str, type[Strategy]] = {
    "sma": SmaCross,
    "rsi": RsiReversion,
    "donchian": DonchianBreakout,
    "noop": Never,
    "decide": Idle,
}


@lru_cache(maxsize=8)
def history(bars: int, symbols: int) -> Bars:
    """Return the bars as ours."""
    numbers = range(1, symbols + 1)
    return Bars(
        {f"S{each}": Columns(Instrument(f"S{each}"), timedelta(minutes=5), *walk(bars, each)) for each in numbers},
        source="simulated",
    )


def terms(symbols: int) -> dict[str, Any]:
    """Return the arguments of a run: no costs, no limit that would stop it, an equal share of equity for each instrument."""
    return {
        "broker": PaperBroker(100_000, costs=Costs(0, 0, 0, 0), max_leverage=10),
        "sizing": Sizing(max_leverage=1 / symbols),
        "limits": Limits(
            max_daily_loss_pct=LOOSE, max_drawdown_pct=LOOSE, max_positions=symbols, max_open_orders=symbols, max_leverage=2
        ),
    }


def prepare(case: str, bars: int, symbols: int = 1, lane: Any = "event", compiled: bool | None = None) -> Callable[[], Done]:
    """Return a run from bars to round trips and final equity."""
    given, how = history(bars, symbols), terms(symbols)

    def run() -> Done:
        result = simulate(KINDS[case](), given, lane=lane, compiled=compiled, **how)
        return len(result.trades), result.final_equity

    return run


if __name__ == "__main__":
    serve("agentfund", prepare)
