"""What counts as a breach: strict by default, and with a digest, so that everybody can see whether it was changed."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass

from agentfund.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Caps:
    """The watchdog's own limits. They lie beyond the gate's: what they find, the gate should have stopped.

    Percentages are 0 to 100; times are seconds.

    Args:
        drawdown_soft_pct: fall of the broker's equity from its peak from which on nothing adds risk.
        drawdown_pct: fall at which the fund is halted.
        day_loss_soft_pct: loss since the day (UTC) began from which on nothing adds risk.
        day_loss_pct: loss at which the fund is halted.
        margin_soft_pct: maintenance margin over equity from which on size is halved.
        margin_pct: margin above which the fund is halted.
        require_stop: every position has a live protective stop.
        max_stop_pct: farthest distance of that stop from the log's newest price.
        stop_slack_pct: how far beyond that price a stop may lie, because the price is a bar old.
        settle_s: how long broker and log may differ, and a position may be without its whole stop, while fills arrive.
        orders_per_minute: orders sent, by the broker's count or the log's, whichever is more.
        spend_usd_per_hour: spent on language models, by the log.
        feed_caution_s: silence of the feed from which on size is halved.
        feed_s: silence from which on nothing adds risk.
        clock_s: how far wall clock and broker's clock may differ, and how far the wall clock may jump.
        beat_s: age of the heartbeat from which on there is no lease.
        beat_lost_s: age at which the fund is halted.
        stuck_s: how long nothing may get done outside of waiting.
        asking_s: the same while agents are asked.
        blind_s: age of what the broker or the log said last, from which on there is no lease.
        blind_halt_s: age at which the fund is halted.
        disk_low_mb: free space below which size is halved.
        disk_mb: free space below which nothing adds risk.
        clean_checks: clean checks in a row after which a caution is over.
        clean_s: how long the cause of reduce-only has to be gone, where it was no loss.
        kill: codes of checks that do not halt but kill (level 4).
    """

    drawdown_soft_pct: float = 15.0
    drawdown_pct: float = 20.0
    day_loss_soft_pct: float = 3.0
    day_loss_pct: float = 5.0
    margin_soft_pct: float = 60.0
    margin_pct: float = 80.0
    require_stop: bool = True
    max_stop_pct: float = 15.0
    stop_slack_pct: float = 2.0
    settle_s: float = 5.0
    orders_per_minute: int = 30
    spend_usd_per_hour: float = 20.0
    feed_caution_s: float = 60.0
    feed_s: float = 300.0
    clock_s: float = 5.0
    beat_s: float = 1.5
    beat_lost_s: float = 5.0
    stuck_s: float = 60.0
    asking_s: float = 300.0
    blind_s: float = 5.0
    blind_halt_s: float = 30.0
    disk_low_mb: float = 500.0
    disk_mb: float = 100.0
    clean_checks: int = 20
    clean_s: float = 30.0
    kill: frozenset[str] = frozenset({"conservation"})

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"cap {name} must be a number above zero, not {value}")
        for soft, hard in (
            ("drawdown_soft_pct", "drawdown_pct"),
            ("day_loss_soft_pct", "day_loss_pct"),
            ("margin_soft_pct", "margin_pct"),
            ("feed_caution_s", "feed_s"),
            ("beat_s", "beat_lost_s"),
            ("blind_s", "blind_halt_s"),
            ("disk_mb", "disk_low_mb"),
        ):
            if getattr(self, soft) > getattr(self, hard):
                raise ConfigError(f"cap {soft} must not be above {hard}: {getattr(self, soft)} and {getattr(self, hard)}")

    @property
    def digest(self) -> str:
        """A hash of all caps: changed caps have another."""
        told = repr([(name, sorted(v) if isinstance(v, frozenset) else float(v)) for name, v in asdict(self).items()])
        return hashlib.sha256(told.encode()).hexdigest()[:16]
