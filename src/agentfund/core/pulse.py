"""What a running fund says of itself to those who watch it from outside."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Pulse:
    """A fund's own word on how it goes.

    Args:
        fund: its name.
        config: the digest of its limits.
        stage: what it does now: starting, waiting (for the feed), asking (agents), ordering, reconciling, ended.
        stage_s: for how many seconds it has been doing that.
        cycle: number of the newest cycle.
        progress: grows with everything that is done; one that stands still outside `waiting` is stuck.
        equity: by its own log.
        spent_usd: on language models, by its own log.
        heard: when anything came from the feed last, aware UTC; None where the feed does not say.
        level: the level that it acts on.
        lease: whether it sees a valid lease.
    """

    fund: str
    config: str
    stage: str = "starting"
    stage_s: float = 0.0
    cycle: int = 0
    progress: int = 0
    equity: Decimal = Decimal(0)
    spent_usd: Decimal = Decimal(0)
    heard: datetime | None = None
    level: int = 0
    lease: bool = False
