"""Strategies and markets that the tests of sweeps try; importable, so that any worker finds them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfund import PaperBroker
from agentfund.backtest.research.attempt import Attempt
from agentfund.core.gate import Limits
from agentfund.feeds import SimulatedMarket
from agentfund.indicators import SMA, AnyIndicator
from agentfund.strategies import SmaCross, Strategy

if TYPE_CHECKING:
    from agentfund.market import Columns, Floats

GRID: dict[str, list[Any]] = {"fast": [3, 5, 8], "slow": [12, 20]}
FREE = Limits(max_drawdown_pct=100, max_daily_loss_pct=100)


def market(bars: int = 600, *, seed: int = 3, symbol: str = "SIM") -> SimulatedMarket:
    """Return a simulated market."""
    return SimulatedMarket(symbol, bars=bars, seed=seed)


def broker() -> PaperBroker:
    """Return a broker for whom no order is too large."""
    return PaperBroker(max_volume_pct=1e9, max_leverage=10)


def same(left: Attempt, right: Attempt) -> bool:
    """Whether two trials are the same to the byte."""
    plain = ("parameters", "metrics", "reasons", "trades", "longest", "refused", "moments", "per_year", "described", "data")
    told = [getattr(left, name) == getattr(right, name) for name in (*plain, "start", "end", "error")]
    arrays = [getattr(left, name).tobytes() == getattr(right, name).tobytes() for name in ("returns", "equity")]
    return all(told + arrays)


class Fails(SmaCross):
    """Raises where its fast average is 5."""

    def enter(self, now: Any) -> Any:
        """Enter, or raise."""
        if self.fast == 5:
            raise RuntimeError("it does not like five")
        return super().enter(now)


class Dies(SmaCross):
    """Its process is killed where its fast average is 5: each time, or until a file of that name is there."""

    def __init__(self, fast: int = 3, slow: int = 12, *, once: str = "") -> None:
        super().__init__(fast, slow)
        self.once = once

    def enter(self, now: Any) -> Any:
        """Enter, or die."""
        if self.fast == 5 and not (self.once and Path(self.once).exists()):
            if self.once:
                Path(self.once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().enter(now)


class Slow(SmaCross):
    """Takes a while to be made, and writes its process id into a folder."""

    def __init__(self, fast: int = 3, slow: int = 12, *, folder: str = "", seconds: float = 0.2) -> None:
        super().__init__(fast, slow)
        self.folder = folder
        self.seconds = seconds
        (Path(folder) / f"{os.getpid()}.pid").touch()
        time.sleep(seconds)


class Counted(SMA):
    """A moving average that counts how often it is computed over a whole series."""

    __slots__ = ()
    computed: list[int] = []  # noqa: RUF012 - shared on purpose

    def batch(self, columns: Columns, compiled: bool | None = None) -> Floats:
        """Compute and count."""
        self.computed.append(self.n)
        return super().batch(columns, compiled)


class OnCounted(SmaCross):
    """A cross of averages that count."""

    def indicators(self) -> Mapping[str, AnyIndicator]:
        """Return the averages."""
        return {"fast": Counted(self.fast), "slow": Counted(self.slow)}


def by_symbol(fast: int, slow: int) -> Mapping[str, Strategy]:
    """Return a strategy for one symbol."""
    return {"SIM": SmaCross(fast, slow)}


def variant(threshold: float) -> Callable[..., Strategy]:
    """Return a factory that closes over a number."""

    class Variant(SmaCross):
        def enter(self, now: Any) -> Any:
            return super().enter(now) & (now.close > threshold)

    return Variant
