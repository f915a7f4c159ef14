"""Is the market open, and is what it shows fresh and sane?"""

from __future__ import annotations

import math
from decimal import Decimal

from agentfund.core.checks.case import MOST, Case, Unfit, amount
from agentfund.core.checks.permission import live_without
from agentfund.core.checks.rule import Rule, rule
from agentfund.core.limits import OFF
from agentfund.core.scene import Status
from agentfund.hours import Blackouts
from agentfund.trading import ZERO

CLOCKS_DIFFER_S = 1
"""Clocks differ by a little."""

_HALTED, _BANDS = Status.HALTED, (Status.LIMIT_UP, Status.LIMIT_DOWN)


@rule("require_hours")
def unknown_hours(case: Case) -> str:
    """Deny where trading is live and nobody knows whether the market is open."""
    scene, symbol = case.scene, case.order.symbol
    if scene.hours is None:
        if live_without(case, scene.hours) and case.limits.require_hours:
            return f"nobody knows when {symbol} is traded: give hours, or Limits(require_hours=False)"
        return ""
    return "" if case.is_open is not None else f"the hours of {symbol} at {scene.now.isoformat()} are not known: extend them"


@rule()
def closed(case: Case) -> str:
    """Deny where the market is closed."""
    if case.scene.hours is None or case.is_open:
        return ""
    return f"the market of {case.order.symbol} is closed at {case.scene.now.isoformat()}"


@rule()
def blackout(case: Case) -> str:
    """Deny where the moment lies in a blackout of the instrument, or blackouts are no longer known."""
    known, now = case.scene.blackouts, case.scene.now
    if not isinstance(known, Blackouts):
        raise Unfit(f"{known!r} are no blackouts")
    if known.until is not None and now >= known.until:
        return f"blackouts are known until {known.until.isoformat()}: read them again"
    window = known.at(case.order.symbol, now)
    return "" if window is None else f"a blackout until {window.end.isoformat()}: {window.reason or 'no reason is told'}"


@rule(exits="checked")
def halted(case: Case) -> str:
    """Deny where the exchange has halted the instrument."""
    status = case.scene.status
    if status is not None and not isinstance(status, Status):
        raise Unfit(f"{status!r} is no status")
    return f"{case.order.symbol} is halted" if status is _HALTED else ""


@rule("require_status")
def unknown_status(case: Case) -> str:
    """Deny where trading is live, the limits ask for the exchange's word on the instrument, and there is none."""
    if live_without(case, case.scene.status) and case.limits.require_status:
        return f"nobody knows whether {case.order.symbol} is halted; Limits(require_status=False) goes without"
    return ""


@rule()
def price_band(case: Case) -> str:
    """Deny where the instrument stands at a limit of the exchange, up or down."""
    status = case.scene.status
    return f"{case.order.symbol} stands at {status}" if status in _BANDS else ""


@rule(exits="checked")
def quote(case: Case) -> str:
    """Deny where the market's price is not a number above zero."""
    price = case.scene.price
    if isinstance(price, Decimal) and price.is_finite() and ZERO < price < MOST:
        return ""
    return f"the price of {case.order.symbol} is {price}"


@rule("max_quote_age_s", exits="the future only")
def stale_quote(case: Case) -> str:
    """Deny where the market that the agents saw, or that of now, is too old beyond its bar or comes from the future."""
    most = case.limits.max_quote_age_s
    # An exit may wait for a market that is closed.
    if not -CLOCKS_DIFFER_S <= case.scene.quote_age_s <= (math.inf if case.reduces else most):
        return f"the price of {case.order.symbol} is {case.scene.quote_age_s:.1f} s old; at most {most:g} s"
    return ""


@rule("require_quote")
def no_quote(case: Case) -> str:
    """Deny where trading is live and there is no quote."""
    if live_without(case, case.scene.quote) and case.limits.require_quote:
        return f"there is no quote of {case.order.symbol}; Limits(require_quote=False) goes by its bars alone"
    return ""


@rule("max_quote_age_s")
def old_quote(case: Case) -> str:
    """Deny where the quote is too old, or comes from the future."""
    if (found := case.quote) is None:
        return ""
    age = (case.scene.now - found.time).total_seconds()
    most = case.limits.max_quote_age_s
    if not -CLOCKS_DIFFER_S <= age <= most:
        return f"the quote of {case.order.symbol} is {age:.1f} s old; at most {most:g} s"
    return ""


@rule()
def bad_quote(case: Case) -> str:
    """Deny where the quote is of another instrument, names no price, or bids more than it asks."""
    if (found := case.quote) is None:
        return ""
    if found.symbol != case.order.symbol:
        return f"the quote is of {found.symbol}, the order of {case.order.symbol}"
    bid, ask = found.bid, found.ask
    if bid is None and ask is None and found.last is None:
        return f"the quote of {case.order.symbol} names no price"
    return f"the quote is crossed: bid {bid}, ask {ask}" if bid is not None and ask is not None and bid > ask else ""


@rule("max_spread_pct", "require_quote")
def spread(case: Case) -> str:
    """Deny where bid and ask lie too far apart, or trading is live and one of them is missing."""
    if (found := case.quote) is None or case.limits.max_spread_pct >= OFF:
        return ""
    bid, ask = found.bid, found.ask
    if bid is None or ask is None:
        missing = case.scene.live and case.limits.require_quote
        told = f"the quote of {case.order.symbol} has no bid or no ask; Limits(require_quote=False) goes without"
        return told if missing else ""
    apart = ask - bid
    if apart + apart > (ask + bid) * case.share["max_spread_pct"]:
        return f"bid {bid} and ask {ask} lie more than {case.limits.max_spread_pct:g} % apart"
    return ""


@rule("max_jump_pct")
def jump(case: Case) -> str:
    """Deny where the quote lies too far from the last bar."""
    if (found := case.quote) is None:
        return ""
    bid, ask, price = found.bid, found.ask, case.scene.price
    if bid is not None and ask is not None:
        twice = bid + ask
    else:
        one = bid or ask or found.last
        assert one is not None
        twice = one * 2
    bar = price + price
    if abs(twice - bar) > bar * case.share["max_jump_pct"]:
        return f"the quote lies more than {case.limits.max_jump_pct:g} % from the last bar ({price})"
    return ""


@rule("collar_pct", exits="checked")
def collar(case: Case) -> str:
    """Deny where a limit or stop price lies too far from the market."""
    market = case.scene.price
    for price in (case.order.limit_price, case.order.stop_price):
        if price is not None and abs(price - market) > case.share["collar_pct"] * market:
            return f"price {price} is more than {case.limits.collar_pct:g} % from the market ({market})"
    return ""


@rule(exits="checked")
def lot(case: Case) -> str:
    """Deny where the quantity is not a multiple of the lot."""
    assert case.scene.instrument is not None
    lot = case.scene.instrument.lot_size
    return f"quantity {case.order.quantity} is not a multiple of the lot {lot}" if case.order.quantity % lot else ""


@rule(exits="checked")
def tick(case: Case) -> str:
    """Deny where a price is not a multiple of the tick."""
    assert case.scene.instrument is not None
    order, tick = case.order, case.scene.instrument.tick_size
    for price in (order.limit_price, order.stop_price, order.stop_loss, order.take_profit):
        if price is not None and price % tick:
            return f"price {price} is not a multiple of the tick {tick}"
    return ""


@rule()
def min_notional(case: Case) -> str:
    """Deny where the order is worth less than the exchange takes."""
    least = amount(case.scene.min_notional, "the least notional")
    if case.order.quantity * case.entry < least:
        return f"the order is worth less than {least}, the least that {case.order.symbol} takes"
    return ""


RULES: tuple[Rule, ...] = (
    unknown_hours,
    closed,
    blackout,
    halted,
    unknown_status,
    price_band,
    quote,
    stale_quote,
    no_quote,
    old_quote,
    bad_quote,
    spread,
    jump,
    collar,
    lot,
    tick,
    min_notional,
)
