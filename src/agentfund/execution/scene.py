"""What a gate can know of the market and the book without a feed of its own: the log's word, and the broker's."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING

from agentfund.core.gate import Scene
from agentfund.core.limits import OFF, Limits
from agentfund.market import Instrument
from agentfund.trading import Portfolio, Position

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from agentfund.core.past import Past
    from agentfund.hours import Hours
    from agentfund.trading import Account, Order, Permit

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def instruments(past: Past) -> Mapping[str, Instrument]:
    """Return what the fund trades, by symbol, with its increments; as the log says the feed had them."""
    if past.started is None:
        return {}
    feed = past.started.feed
    return {
        symbol: Instrument(symbol, Decimal(tick), Decimal(lot), currency)
        for symbol, (tick, lot, currency) in zip(feed["symbols"], feed["increments"], strict=True)
    }


def knowable(limits: Limits, hours: Hours | None) -> Limits:
    """Return limits without what only a feed can tell: quotes, volumes and halts were judged where the feed is."""
    told = limits.require_hours and hours is not None
    return replace(limits, require_quote=False, require_status=False, require_hours=told, max_volume_pct=OFF)


def held_at(account: Account, past: Past, now: datetime) -> Portfolio:
    """Return a portfolio of what a broker says is held, which is right about that even where the fund's log is behind."""
    known = past.state.portfolio.positions
    positions = {
        symbol: known[symbol]
        if symbol in known and known[symbol].quantity == quantity
        else Position(symbol, quantity, past.state.prices.get(symbol, Decimal(0)), now)
        for symbol, quantity in account.positions.items()
        if quantity
    }
    return Portfolio(account.cash, MappingProxyType(positions))


def scene_of(order: Order, past: Past, account: Account, allowed: Permit, now: datetime, hours: Hours | None = None) -> Scene:
    """Return what the gate looks at.

    Args:
        order: the order.
        past: the fund by its log.
        account: cash and positions by the broker's books; where equity is lower there, that counts.
        allowed: level and lease.
        now: the time, aware UTC.
        hours: opening hours.
    """
    state = past.state
    equity = state.equity if account.equity is None else min(state.equity, account.equity)
    seen = state.observed or now
    decision = state.last_decision if state.last_decision and state.last_decision.id == order.decision else None
    return Scene(
        now=now,
        decided=order.time,
        instrument=instruments(past).get(order.symbol),
        price=state.prices.get(order.symbol, Decimal("nan")),
        quote_age_s=(now - seen).total_seconds(),
        portfolio=held_at(account, past, now),
        prices=state.prices,
        equity=equity,
        peak_equity=state.peak_equity,
        day_equity=state.day_equity,
        orders=tuple(mine for mine in state.orders.values() if mine.order.id != order.id),
        recent=tuple(other for other in state.recent if other.id != order.id),
        # The decision behind this order is among them already.
        ordered_last_hour=max(sum(1 for time, _, _ in state.acted if time > now - HOUR) - 1, 0),
        critical_last_day=max(sum(1 for time, critical, _ in state.acted if critical and time > now - DAY) - 1, 0),
        day_peak_equity=state.day_peak_equity or None,
        buying_power=account.buying_power,
        margin_used=account.margin_used,
        decided_quantity=order.quantity,
        critical=decision is not None and decision.critical,
        proposed_by=() if decision is None else decision.proposed_by,
        hours=hours,
        permit=allowed,
        live=True,
    )
