"""The hard limits of a fund, and what is looser in them than usual."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from functools import cached_property
from typing import Any

from agentfund.errors import ConfigError
from agentfund.market import decimal

OFF = 1e12
"""A limit of this size or above is switched off; it needs no fact either."""


@dataclass(frozen=True)
class Limits:
    """Hard limits. Defaults are on and strict; loosening one is an explicit argument and stands in the log.

    "In live trading" means that the facts are asked for there: a simulation that has none goes without.

    Args:
        symbols: instruments that may be traded; empty for those of the feed.
        restricted: instruments that may not, whatever else says they may.
        proposers: names of the agents that may propose; empty for all of the pipeline.
        allow_short: whether a position may be below zero.
        require_hours: in live trading an entry needs to know that the market is open.
        require_status: in live trading an entry needs to know that the instrument is not halted.
        require_quote: in live trading an entry needs a bid and an ask.
        max_quote_age_s: oldest price on which an order may leave, in seconds beyond its bar; oldest quote, in seconds.
        max_spread_pct: widest spread between bid and ask, in percent of their middle.
        max_jump_pct: how far the quote may lie from the last bar, in percent.
        collar_pct: how far a limit or stop price may lie from the market, in percent.
        max_order_quantity: largest quantity of one order, in units of the instrument.
        max_order_notional: largest notional of one order, in the account's currency.
        max_volume_pct: largest order, in percent of the average volume of a bar.
        max_order_pct: largest notional of one order, in percent of equity.
        max_position_pct: largest position in one instrument after the fill, in percent of equity.
        max_leverage: gross exposure after the fill and all open orders, as a multiple of equity.
        max_net_leverage: net exposure, long less short, after the orders of the worse side, as a multiple of equity.
        max_sector_pct: gross exposure in one sector, in percent of equity; from `max_leverage` on it needs no sectors.
        max_cluster_pct: gross exposure in one cluster of instruments that move together, in percent of equity; likewise.
        max_positions: instruments held at once.
        max_open_orders: orders working at once.
        haircut_pct: part of the broker's buying power that is left alone, in percent.
        max_margin_pct: margin in use, by the broker's word, from which on nothing adds risk, in percent of equity.
        max_orders_per_second: decisions that order, of the whole fund.
        max_orders_per_minute: the same within a minute.
        max_orders_per_hour: the same within an hour.
        max_orders_per_day: the same within a day.
        max_agent_orders_per_second: decisions that order on the proposal of one agent.
        max_agent_orders_per_minute: the same within a minute.
        max_agent_orders_per_hour: the same within an hour.
        max_agent_orders_per_day: the same within a day.
        max_critical_per_day: critical decisions that order.
        duplicate_window_s: the same order (symbol, side, quantity) twice within these seconds is a duplicate.
        max_repeats: orders in one instrument and direction with no fill in between, before a person has to act.
        max_daily_loss_pct: loss since the day (UTC) began beyond which nothing adds risk, in percent.
        max_drawdown_pct: fall from the peak beyond which nothing adds risk, in percent.
        max_intraday_drawdown_pct: fall from the day's own peak beyond which nothing adds risk, in percent.
        require_stop: an entry needs a protective stop.
        max_stop_pct: distance of that stop from the entry, in percent.
        max_risk_pct: what is lost at most when that stop is hit, in percent of equity.
        max_decision_age_s: how long ago the agents may have been shown the market on which an order leaves.

    Raises:
        ConfigError: a limit is no number above zero, no switch, or no set of names.
    """

    symbols: frozenset[str] = frozenset()
    restricted: frozenset[str] = frozenset()
    proposers: frozenset[str] = frozenset()
    allow_short: bool = False
    require_hours: bool = True
    require_status: bool = False
    require_quote: bool = True
    max_quote_age_s: float = 60.0
    max_spread_pct: float = 1.0
    max_jump_pct: float = 10.0
    collar_pct: float = 10.0
    max_order_quantity: float = OFF
    max_order_notional: float = OFF
    max_volume_pct: float = 10.0
    max_order_pct: float = 100.0
    max_position_pct: float = 100.0
    max_leverage: float = 1.0
    max_net_leverage: float = OFF
    max_sector_pct: float = 100.0
    max_cluster_pct: float = 100.0
    max_positions: int = 20
    max_open_orders: int = 20
    haircut_pct: float = 5.0
    max_margin_pct: float = 50.0
    max_orders_per_second: int = 2
    max_orders_per_minute: int = 10
    max_orders_per_hour: int = 50
    max_orders_per_day: int = 1_000
    max_agent_orders_per_second: int = 2
    max_agent_orders_per_minute: int = 10
    max_agent_orders_per_hour: int = 50
    max_agent_orders_per_day: int = 1_000
    max_critical_per_day: int = 10
    duplicate_window_s: float = 60.0
    max_repeats: int = 5
    max_daily_loss_pct: float = 3.0
    max_drawdown_pct: float = 20.0
    max_intraday_drawdown_pct: float = 5.0
    require_stop: bool = True
    max_stop_pct: float = 15.0
    max_risk_pct: float = 15.0
    max_decision_age_s: float = 120.0

    def __post_init__(self) -> None:
        for one in fields(self):
            _validate(one.name, getattr(self, one.name), type(one.default))

    @cached_property
    def digest(self) -> str:
        """A hash of all limits: changed limits have another, 1 and 1.0 have the same."""
        told = json.dumps({name: _plain(value) for name, value in asdict(self).items()}, sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @cached_property
    def exact(self) -> dict[str, Decimal]:
        """Every number among the limits as the Decimal that it prints as."""
        told = asdict(self)
        return {name: decimal(value) for name, value in told.items() if not isinstance(value, (bool, frozenset))}

    @cached_property
    def share(self) -> dict[str, Decimal]:
        """Every limit in percent as the share that it is, 0.05 for 5 %, as exact as `exact`."""
        return {name: _hundredth(value) for name, value in self.exact.items() if name.endswith("_pct")}

    @cached_property
    def implied(self) -> frozenset[str]:
        """The limits of a part of gross exposure that hold wherever `max_leverage` does."""
        gross = self.exact["max_leverage"]
        parts = {
            "max_net_leverage": self.exact["max_net_leverage"],
            "max_sector_pct": self.share["max_sector_pct"],
            "max_cluster_pct": self.share["max_cluster_pct"],
        }
        return frozenset(name for name, most in parts.items() if most >= gross)

    def loosened(self) -> tuple[str, ...]:
        """Return one sentence for each limit that is looser than its default, in the order of the fields."""
        return tuple(
            f"{one.name} is {_shown(getattr(self, one.name))}; the default is {_shown(one.default)}"
            for one in fields(self)
            if _is_looser(one.name, getattr(self, one.name), one.default)
        )


def _validate(name: str, value: object, kind: type) -> None:
    if kind is frozenset:
        if not isinstance(value, frozenset) or not all(isinstance(one, str) and one for one in value):
            raise ConfigError(f"limit {name} must be a frozenset of names, such as frozenset({{'AAPL'}}), not {value!r}")
        return
    if kind is bool:
        if not isinstance(value, bool):
            raise ConfigError(f"limit {name} must be True or False, not {value!r}")
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"limit {name} must be a number, not {value!r}")
    if name == "haircut_pct":
        if not 0 <= value < 100:
            raise ConfigError(f"limit {name} must be from 0 to below 100, not {value}")
    elif not value > 0:
        raise ConfigError(f"limit {name} must be above zero, not {value}")
    if not math.isfinite(value):
        raise ConfigError(f"limit {name} must be finite, not {value}; {OFF:g} switches it off")
    if kind is int and value != int(value):
        raise ConfigError(f"limit {name} must be a whole number, not {value}")


def _is_looser(name: str, value: Any, default: Any) -> bool:
    """Whether a value allows what its default does not; a set of names only ever narrows."""
    if isinstance(default, frozenset) or value == default:
        return False
    if isinstance(default, bool):
        return name.startswith("allow_") == bool(value)
    return bool(value < default) == (name in ("duplicate_window_s", "haircut_pct"))


def _hundredth(value: Decimal) -> Decimal:
    """A hundredth, which no precision of the caller's context can round."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    return Decimal((sign, digits, exponent - 2))


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    return value if isinstance(value, bool) else float(value)


def _shown(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else f"{value:g}"
