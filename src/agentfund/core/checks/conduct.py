"""Does the fund trade too often, has it lost too much, is the entry protected, and does it stand by a decision?"""

from __future__ import annotations

from datetime import timedelta

from agentfund.core.checks.case import LIMIT, Case, Unfit, amount, count, moment, price_of
from agentfund.core.checks.market import CLOCKS_DIFFER_S
from agentfund.core.checks.permission import live_without
from agentfund.core.checks.rule import Rule, rule
from agentfund.core.scene import Rates
from agentfund.trading import ZERO


@rule("max_orders_per_second", "max_orders_per_minute", "max_orders_per_hour", "max_orders_per_day")
def order_rate(case: Case) -> str:
    """Deny where too many decisions of the fund ordered within a second, a minute, an hour or a day."""
    hour = count(case.scene.ordered_last_hour, "ordered_last_hour")
    if hour >= case.limits.max_orders_per_hour:
        return f"{hour} orders within an hour; the limit is {case.limits.max_orders_per_hour}"
    limits = case.limits
    most = (
        limits.max_orders_per_second,
        limits.max_orders_per_minute,
        limits.max_orders_per_hour,
        limits.max_orders_per_day,
    )
    return _too_often(case.scene.rates, most, "")


@rule(
    "max_agent_orders_per_second", "max_agent_orders_per_minute", "max_agent_orders_per_hour", "max_agent_orders_per_day"
)  # fmt: skip
def agent_rate(case: Case) -> str:
    """Deny where too many decisions ordered on the proposal of the same agent."""
    limits = case.limits
    most = (
        limits.max_agent_orders_per_second,
        limits.max_agent_orders_per_minute,
        limits.max_agent_orders_per_hour,
        limits.max_agent_orders_per_day,
    )
    return _too_often(case.scene.agent_rates, most, " of one agent")


def _too_often(rates: object, most: tuple[int, int, int, int], whose: str) -> str:
    if not isinstance(rates, Rates):
        raise Unfit(f"{rates!r} are no rates")
    found = (rates.second, rates.minute, rates.hour, rates.day)
    for at in (0, 1, 2, 3):
        number = found[at]
        if type(number) is int and 0 <= number < most[at]:
            continue
        if count(number, "a rate") >= most[at]:
            span = ("a second", "a minute", "an hour", "a day")[at]
            return f"{found[at]} orders{whose} within {span}; the limit is {most[at]}"
    return ""


@rule("max_critical_per_day")
def critical_rate(case: Case) -> str:
    """Deny where too many critical decisions ordered within a day."""
    found = count(case.scene.critical_last_day, "critical_last_day")
    return f"{found} critical actions within a day" if case.scene.critical and found >= case.limits.max_critical_per_day else ""


@rule("duplicate_window_s", exits="the id")
def duplicate(case: Case) -> str:
    """Deny where the same id, or the same instrument, side and quantity again within the window, was ordered before."""
    order, scene = case.order, case.scene
    name, symbol, side = order.id, order.symbol, order.side
    for state in scene.orders:
        if state.order.id == name:
            return f"order {name} is open"
    if case.reduces:  # one exit may be like another
        for other in scene.recent:
            if other.id == name:
                return f"order {name} is the same"
        return ""
    for other in scene.recent:
        if other.id == name:
            return f"order {name} is the same"
        if other.symbol != symbol or other.side is not side or other.quantity != order.quantity:
            continue
        if scene.now - moment(other.time, "the time of an order") < timedelta(seconds=case.limits.duplicate_window_s):
            return f"order {other.id} is the same"
    return ""


@rule("max_repeats")
def repeated(case: Case) -> str:
    """Deny where orders went out in this instrument and direction again and again, and no fill changed anything."""
    found, most = count(case.scene.repeats, "repeats"), case.limits.max_repeats
    if found < most:
        return ""
    return f"{found} orders to {case.order.side} {case.order.symbol} changed nothing; the limit is {most}: a person has to look"


@rule("max_daily_loss_pct")
def daily_loss(case: Case) -> str:
    """Deny where too much was lost since the day (UTC) began."""
    return _fallen(case, case.scene.day_equity, "max_daily_loss_pct", "% lost today")


@rule("max_drawdown_pct")
def drawdown(case: Case) -> str:
    """Deny where equity is too far below its peak."""
    return _fallen(case, case.scene.peak_equity, "max_drawdown_pct", "% below the peak")


@rule("max_intraday_drawdown_pct")
def intraday_drawdown(case: Case) -> str:
    """Deny where equity is too far below its peak of the day, or in live trading nobody knows that peak."""
    peak = case.scene.day_peak_equity
    if peak is None:
        return "nobody knows the day's highest equity" if live_without(case, peak) else ""
    return _fallen(case, peak, "max_intraday_drawdown_pct", "% below the peak of the day")


def _fallen(case: Case, was: object, limit: str, told: str) -> str:
    before = price_of(was, "equity of before")
    if before - case.equity < before * case.share[limit]:
        return ""
    return f"{100 * (1 - float(case.equity) / float(before)):.2f} {told}; the limit is {getattr(case.limits, limit):g} %"


@rule("require_stop")
def no_stop(case: Case) -> str:
    """Deny where an entry has no protective stop."""
    return "an entry needs a protective stop" if case.order.stop_loss is None and case.limits.require_stop else ""


@rule("max_stop_pct")
def stop_distance(case: Case) -> str:
    """Deny where the stop lies on the wrong side of the entry or too far from it."""
    stop, entry = case.order.stop_loss, case.entry
    if stop is None:
        return ""
    distance = entry - stop if case.sign > 0 else (entry - stop) * case.sign
    if ZERO < distance <= entry * case.share["max_stop_pct"]:
        return ""
    percent = 100 * float(distance) / float(entry)
    return f"the stop lies {percent:.2f} % from the entry; it must be 0 to {case.limits.max_stop_pct:g} %"


@rule()
def target(case: Case) -> str:
    """Deny where the target lies on the wrong side of the entry."""
    target, entry = case.order.take_profit, case.entry
    if target is None or (target > entry if case.sign > 0 else target < entry):
        return ""
    return f"the target {target} lies on the wrong side of {entry}"


@rule("max_risk_pct")
def risk(case: Case) -> str:
    """Deny where the stop, hit after the worst fill, loses too large a share of equity."""
    order, worst, told = case.order, case.entry, None
    if order.stop_loss is None:
        return ""
    if order.type is LIMIT:
        assert order.limit_price is not None
        worst = order.limit_price
    elif (quote := case.quote) is not None:
        told = quote.to_buy if case.sign > 0 else quote.to_sell
        if told is not None and (told > worst if case.sign > 0 else told < worst):
            worst = told
    lost = (worst - order.stop_loss if case.sign > 0 else order.stop_loss - worst) * order.quantity
    if case.weighed(lost) <= case.equity * case.share["max_risk_pct"]:
        return ""
    most = case.limits.max_risk_pct / case.shares
    return f"the stop loses {lost:.2f}, more than {most:g} % of equity ({case.equity:.2f})"


@rule()
def self_cross(case: Case) -> str:
    """Deny where the order could trade with an open order of the fund on the other side."""
    order = case.order
    symbol, side = order.symbol, order.side
    for state in case.scene.orders:
        other = state.order
        if other.symbol != symbol or other.side is side:
            continue
        if order.type is LIMIT and other.type is LIMIT:
            mine, theirs = price_of(order.limit_price, "a limit"), price_of(other.limit_price, "a limit of an open order")
            if (mine - theirs) * case.sign < 0:
                continue
        return f"order {other.id} of this fund stands on the other side: one would trade with oneself"
    return ""


@rule(exits="checked")
def no_decision(case: Case) -> str:
    """Deny where the order names no decision."""
    return "" if case.order.decision else "the order names no decision"


@rule("max_decision_age_s", exits="checked")
def stale_decision(case: Case) -> str:
    """Deny where the agents were shown the market too long ago, or the order comes from the future."""
    scene = case.scene
    age = (scene.now - moment(scene.decided, "decided")).total_seconds()
    if not 0 <= age <= case.limits.max_decision_age_s:
        return f"the decision is {age:.1f} s old; at most {case.limits.max_decision_age_s:g} s"
    if case.order.time <= scene.now:
        return ""
    early = (case.order.time - scene.now).total_seconds()
    return f"the order's time lies {early:.1f} s in the future" if early > CLOCKS_DIFFER_S else ""


@rule("proposers", exits="checked")
def proposer(case: Case) -> str:
    """Deny where the limits name who may propose, and somebody else did, or nobody."""
    allowed, by = case.limits.proposers, case.scene.proposed_by
    if not isinstance(by, tuple):
        raise Unfit(f"{by!r} names no agents")
    if not allowed or (by and allowed.issuperset(by)):
        return ""
    return f"{', '.join(map(str, by)) or 'nobody'} proposed it; {', '.join(sorted(allowed))} may"


@rule()
def more_than_decided(case: Case) -> str:
    """Deny where the orders of the decision are larger together than it said, or in live trading nobody knows what it said."""
    order, said = case.order, case.scene.decided_quantity
    if said is None:
        return "nobody knows the quantity that the decision said" if live_without(case, said) else ""
    decision, others, total = order.decision, {}, order.quantity
    for other in case.scene.recent:
        if other.decision == decision:
            others[other.id] = other
    for state in case.scene.orders:
        if state.order.decision == decision:
            others[state.order.id] = state.order
    for other in others.values():
        total += price_of(other.quantity, "the quantity of an order")
    if total > amount(said, "the quantity that the decision said"):
        return f"the orders of decision {order.decision} come to {total}, and it said {said}"
    return ""


RULES: tuple[Rule, ...] = (
    order_rate,
    agent_rate,
    critical_rate,
    duplicate,
    repeated,
    daily_loss,
    drawdown,
    intraday_drawdown,
    no_stop,
    stop_distance,
    target,
    risk,
    self_cross,
    no_decision,
    stale_decision,
    proposer,
    more_than_decided,
)
