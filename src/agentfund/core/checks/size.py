"""Is the order, and what the fund holds after it, small enough? Open orders count at their worst."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from agentfund.core.checks.case import ONE, Case, Unfit, amount
from agentfund.core.checks.permission import live_without
from agentfund.core.checks.rule import Rule, rule
from agentfund.core.limits import OFF
from agentfund.trading import ZERO


@rule(exits="checked")
def reduce_only(case: Case) -> str:
    """Deny where a reduce-only order would not reduce the position, orders on their way included."""
    if case.order.reduce_only and not case.reduces:
        return f"the order would not reduce the position of {case.held}"
    return ""


@rule("max_order_quantity")
def order_quantity(case: Case) -> str:
    """Deny where the quantity of the order is too large."""
    if case.weighed(case.order.quantity) > case.exact["max_order_quantity"]:
        return f"quantity {case.order.quantity} is more than {case.limits.max_order_quantity / case.shares:g}"
    return ""


@rule("max_order_notional")
def order_notional(case: Case) -> str:
    """Deny where the notional of the order is too large an amount."""
    notional = case.notional
    if case.weighed(notional) > case.exact["max_order_notional"]:
        return f"{notional:.2f} is more than {case.limits.max_order_notional / case.shares:g}"
    return ""


@rule("max_volume_pct")
def volume(case: Case) -> str:
    """Deny where the order is too large a share of what is traded in a bar, or in live trading nobody knows the volume."""
    if case.limits.max_volume_pct >= OFF:
        return ""
    traded = case.scene.volume
    if traded is None:
        unknown = f"nobody knows how much of {case.order.symbol} is traded; Limits(max_volume_pct={OFF:g}) goes without"
        return unknown if live_without(case, traded) else ""
    if case.weighed(case.order.quantity) > amount(traded, "the volume") * case.share["max_volume_pct"]:
        percent = case.limits.max_volume_pct / case.shares
        return f"quantity {case.order.quantity} is more than {percent:g} % of the {traded} traded in a bar"
    return ""


@rule("allow_short")
def short(case: Case) -> str:
    """Deny where the position would be below zero, and short selling is off."""
    if case.limits.allow_short or case.sign > 0:
        return ""
    after = case.held - case.order.quantity - case.exposure.same_side
    return "short selling is off (Limits(allow_short=True) turns it on)" if after < 0 else ""


@rule()
def equity(case: Case) -> str:
    """Deny where equity is not above zero."""
    return "" if amount(case.equity, "equity") > ZERO else f"equity is {case.equity}"


@rule("max_order_pct")
def order_size(case: Case) -> str:
    """Deny where the notional of the order is too large a share of equity."""
    return _share(case, case.notional, "max_order_pct", halved=True)


@rule("max_position_pct")
def position_size(case: Case) -> str:
    """Deny where the position after all open orders in it is too large a share of equity."""
    more = case.order.quantity + case.exposure.same_side
    after = case.held + more if case.sign > 0 else case.held - more
    return _share(case, abs(after) * case.unit, "max_position_pct", halved=True)


@rule("max_leverage")
def leverage(case: Case) -> str:
    """Deny where gross exposure after all open orders is too large a multiple of equity."""
    return _multiple(case, case.exposure.gross, "max_leverage")


@rule("max_net_leverage")
def net_leverage(case: Case) -> str:
    """Deny where net exposure after the open orders of one side is too large a multiple of equity."""
    if "max_net_leverage" in case.limits.implied:
        return ""  # all of gross exposure is smaller than that already
    found = case.exposure
    return _multiple(case, max(abs(found.net + found.buys), abs(found.net - found.sells)), "max_net_leverage")


@rule("max_sector_pct", "max_leverage")
def sector_size(case: Case) -> str:
    """Deny where gross exposure in the sector is too large a share of equity, or in live trading nobody knows the sector."""
    return _group(case, case.scene.sectors, "sector", "max_sector_pct")


@rule("max_cluster_pct", "max_leverage")
def cluster_size(case: Case) -> str:
    """Deny where gross exposure in a cluster that moves together is too large, or in live trading nobody knows the cluster."""
    return _group(case, case.scene.clusters, "cluster", "max_cluster_pct")


def _group(case: Case, groups: Mapping[str, str] | None, what: str, limit: str) -> str:
    if limit in case.limits.implied:
        return ""  # all of gross exposure is smaller than that already
    symbol = case.order.symbol
    if groups is None:
        unknown = live_without(case, groups)
        return f"nobody knows the {what} of {symbol}; Limits({limit}={OFF:g}) goes without" if unknown else ""
    if type(groups) is not dict and not isinstance(groups, Mapping):  # the latter alone takes as long as ten lookups
        raise Unfit(f"{groups!r} names no {what}s")
    mine = groups.get(symbol)
    if mine is None:
        return f"nobody knows the {what} of {symbol}; Limits({limit}={OFF:g}) goes without"
    of, total = groups.get, ZERO
    for other, value in case.exposure.parts:
        if of(other, mine) == mine:  # what stands in no group counts as if it stood in this one
            total += value
    return _share(case, total, limit)


def _share(case: Case, value: Decimal, limit: str, *, halved: bool = False) -> str:
    if (case.weighed(value) if halved else value) <= case.equity * case.share[limit]:
        return ""
    percent = float(case.exact[limit]) / (case.shares if halved else 1)
    return f"{value:.2f} is more than {percent:g} % of equity ({case.equity:.2f})"


def _multiple(case: Case, value: Decimal, limit: str) -> str:
    told = case.exact[limit]
    if value <= case.equity * told:
        return ""
    return f"{value:.2f} is more than {float(told) * 100:g} % of equity ({case.equity:.2f})"


@rule("max_positions")
def positions(case: Case) -> str:
    """Deny where too many instruments are held or on order."""
    scene, most = case.scene, case.limits.max_positions
    if case.order.symbol in scene.portfolio.positions:
        return ""
    held = set(scene.portfolio.positions) | {state.order.symbol for state in scene.orders}
    if case.order.symbol not in held and len(held) >= most:
        return f"{len(held)} instruments are held or on order; the limit is {most}"
    return ""


@rule("max_open_orders")
def open_orders(case: Case) -> str:
    """Deny where too many orders are open."""
    found, most = len(case.scene.orders), case.limits.max_open_orders
    return f"{found} orders are open; the limit is {most}" if found >= most else ""


@rule("max_leverage", "haircut_pct")
def buying_power(case: Case) -> str:
    """Deny where a purchase costs more than cash and leverage allow, or an order more than the broker's word less a haircut."""
    notional, told = case.notional, case.scene.buying_power
    if case.sign > 0:
        cash = amount(case.scene.portfolio.cash, "cash")
        if cash + case.equity * (case.exact["max_leverage"] - ONE) - case.exposure.pending < notional:
            return f"{notional:.2f} is more than the buying power left"
    if told is not None and notional > amount(told, "buying power") * (ONE - case.share["haircut_pct"]):
        return f"{notional:.2f} is more than the broker's buying power of {told:.2f} less {case.limits.haircut_pct:g} %"
    return ""


@rule("max_margin_pct")
def margin(case: Case) -> str:
    """Deny where too much margin is in use by the broker's word."""
    used = case.scene.margin_used
    if used is None:
        return ""
    if isinstance(used, bool) or not isinstance(used, (int, float)):
        raise Unfit(f"margin in use is {used!r}, which is no number")
    if not used >= 0:
        raise Unfit(f"margin in use is {used!r}, which is no share")
    if used * 101 < case.limits.max_margin_pct:
        return ""  # a float is not exact, but not wrong by 1 %
    if Decimal(str(used)) >= case.share["max_margin_pct"]:
        return f"{used * 100:.1f} % of equity is in use as margin; the limit is {case.limits.max_margin_pct:g} %"
    return ""


RULES: tuple[Rule, ...] = (
    reduce_only,
    order_quantity,
    order_notional,
    volume,
    short,
    equity,
    order_size,
    position_size,
    leverage,
    net_leverage,
    sector_size,
    cluster_size,
    positions,
    open_orders,
    buying_power,
    margin,
)
