"""The contract of the gate, told a second time: slowly, in fractions, with no code of the gate but its data types.

`forbidden` returns every reason to deny an order. What cannot be judged is forbidden as well, by the reason "gate_error".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

from agentfund.core.gate import OFF, Limits, Rates, Scene, Status
from agentfund.hours import Blackouts, Hours
from agentfund.market import Instrument, Quote
from agentfund.trading import Level, Order, OrderStatus, OrderType, Permit, Side

HUGE = Fraction(10) ** 24


class Nonsense(Exception):
    """A fact by which nothing can be judged."""


@lru_cache(maxsize=10_000)
def fraction(value: Decimal) -> Fraction:
    """Return the same number."""
    return Fraction(value)


def money(value: Any) -> Fraction:
    """Return an amount."""
    if not isinstance(value, Decimal) or not value.is_finite() or value.adjusted() >= 24:
        raise Nonsense(value)
    return fraction(value)


def above(value: Any) -> Fraction:
    """Return an amount above zero."""
    found = money(value)
    if found <= 0:
        raise Nonsense(value)
    return found


def whole(value: Any) -> int:
    """Return a whole number from zero up."""
    if type(value) is not int or value < 0:
        raise Nonsense(value)
    return int(value)


def when(value: Any) -> datetime:
    """Return a moment whose zone is told."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise Nonsense(value)
    return value


@lru_cache(maxsize=10_000)
def percent(value: float) -> Fraction:
    """Return a limit as the number that it prints as."""
    return Fraction(str(value))


def is_order(order: Order) -> bool:
    """Whether an order is well made."""
    try:
        words = [order.id, order.symbol, order.decision]
        if not all(isinstance(word, str) for word in words) or "" in words[:2] or type(order.reduce_only) is not bool:
            return False
        if type(order.side) is not Side or type(order.type) is not OrderType:
            return False
        when(order.time)
        above(order.quantity)
        for price in (order.limit_price, order.stop_price, order.stop_loss, order.take_profit):
            if price is not None:
                above(price)
    except Nonsense:
        return False
    wanted = {OrderType.MARKET: (False, False), OrderType.LIMIT: (True, False), OrderType.STOP: (False, True)}
    return wanted[order.type] == (order.limit_price is not None, order.stop_price is not None)


def forbidden(order: Order, scene: Scene, limits: Limits) -> set[str]:
    """Return the codes of all reasons to deny an order; empty where it is allowed."""
    try:
        return _Oracle(order, scene, limits).reasons()
    except Exception:  # whatever it is, nobody could judge
        return {"gate_error"}


class _Oracle:
    def __init__(self, order: Order, scene: Scene, limits: Limits) -> None:
        self.order, self.scene, self.limits = order, scene, limits
        self.found: set[str] = set()
        # A check that meets nonsense cannot judge; but one that comes before it may have denied already.
        self.unjudged = False

    def reasons(self) -> set[str]:
        order, scene = self.order, self.scene
        for flag in (scene.live, scene.critical, scene.degraded):
            if type(flag) is not bool:
                raise Nonsense(flag)
        if not isinstance(scene.blind, str):
            raise Nonsense(scene.blind)
        when(scene.now)
        permit = scene.permit
        if permit is not None and not (type(permit) is Permit and type(permit.level) is Level and type(permit.lease) is bool):
            raise Nonsense(permit)
        self.held = money(scene.portfolio.positions[order.symbol].quantity) if self.holds(order.symbol) else Fraction(0)
        self.exit = self.only_reduces()
        if permit is not None and permit.level in (Level.HALT, Level.KILL):
            self.found.add("halt")
        if not is_order(order):
            self.found.add("schema")
            return self.found | {"gate_error", "level", "lease", "no_permit"} if not self.exit else self.found
        self.try_(self.everybody)
        if not self.exit:
            for part in (self.permission, self.market, self.quotes, self.sizes, self.conduct, self.losses, self.protection):
                self.try_(part)
        return self.found | ({"gate_error"} if self.unjudged else set())

    def try_(self, part: Any) -> None:
        try:
            part()
        except Exception:
            self.unjudged = True

    def holds(self, symbol: Any) -> bool:
        return self.scene.portfolio.positions.get(symbol) is not None

    def no(self, code: str, denied: bool) -> None:
        if denied:
            self.found.add(code)

    def only_reduces(self) -> bool:
        """Against the position, and with all that is on its way there no larger than it."""
        order = self.order
        if self.held == 0 or type(order.side) is not Side:
            return False
        against = order.side is (Side.SELL if self.held > 0 else Side.BUY)
        if not against:
            return False
        try:
            total = above(order.quantity)
        except Nonsense:
            return False
        for state in self.scene.orders:
            if state.order.symbol == order.symbol and state.order.side is order.side:
                total += self.open_part(state)
        return total <= abs(self.held)

    @staticmethod
    def open_part(state: Any) -> Fraction:
        quantity, filled = above(state.order.quantity), money(state.filled)
        if filled < 0:
            raise Nonsense(filled)
        return max(quantity - filled, Fraction(0))

    # What every order has to pass

    def everybody(self) -> None:
        order, scene, limits = self.order, self.scene, self.limits
        self.no("restricted", order.symbol in limits.restricted)
        self.no("not_allowed", bool(limits.symbols) and order.symbol not in limits.symbols)
        instrument = scene.instrument
        if not isinstance(instrument, Instrument) or instrument.symbol != order.symbol:
            self.found.add("unknown_symbol")
        else:
            self.no("lot", (fraction(order.quantity) / fraction(instrument.lot_size)).denominator != 1)
            prices = [order.limit_price, order.stop_price, order.stop_loss, order.take_profit]
            ticks = [fraction(price) / fraction(instrument.tick_size) for price in prices if price is not None]
            self.no("tick", any(one.denominator != 1 for one in ticks))
        if scene.status is not None and type(scene.status) is not Status:
            raise Nonsense(scene.status)
        self.no("halted", scene.status is Status.HALTED)
        try:
            price = above(scene.price)
        except Nonsense:
            self.found.add("quote")
            price = Fraction(0)
        age = scene.quote_age_s
        fresh = age >= -1 and (age <= limits.max_quote_age_s or self.exit)
        self.no("stale_quote", not fresh)
        for told in (order.limit_price, order.stop_price):
            if told is not None and price:
                self.no("collar", abs(fraction(told) / price - 1) > percent(limits.collar_pct) / 100)
        self.no("reduce_only", order.reduce_only and not self.exit)
        open_ids = [state.order.id for state in scene.orders]
        self.no("duplicate", order.id in open_ids or order.id in [other.id for other in scene.recent])
        self.no("no_decision", order.decision == "")
        age_s = (when(scene.now) - when(scene.decided)).total_seconds()
        self.no("stale_decision", age_s < 0 or age_s > limits.max_decision_age_s)
        self.no("stale_decision", order.time > scene.now + timedelta(seconds=1))
        if type(scene.proposed_by) is not tuple:
            raise Nonsense(scene.proposed_by)
        if limits.proposers:
            self.no("proposer", not scene.proposed_by or not set(scene.proposed_by) <= limits.proposers)

    # What only concerns what adds risk

    def permission(self) -> None:
        scene, symbol = self.scene, self.order.symbol
        permit = scene.permit
        if permit is None:
            self.no("no_permit", scene.live)
        else:
            self.no("level", permit.level is Level.REDUCE_ONLY)
            self.no("lease", permit.lease is False)
            known = self.held != 0 or symbol in [state.order.symbol for state in scene.orders]
            self.no("new_symbol", permit.level is Level.CAUTION and not known)
        self.no("broker", scene.blind != "")
        self.no("degraded", scene.degraded)
        for state in scene.orders:
            if type(state.status) is not OrderStatus:
                self.found.add("unknown_order")
            self.no("unknown_order", state.status is OrderStatus.UNKNOWN and state.order.symbol == symbol)

    def market(self) -> None:
        scene, limits, symbol = self.scene, self.limits, self.order.symbol
        if scene.hours is None:
            self.no("unknown_hours", scene.live and limits.require_hours)
        else:
            if type(scene.hours) is not Hours:
                raise Nonsense(scene.hours)
            now = (scene.now - datetime.fromisoformat("1970-01-01T00:00:00+00:00")) // timedelta(microseconds=1)
            schedule = scene.hours.schedules.get(symbol) or scene.hours.schedules.get("")
            if schedule is None or now < schedule.since or now >= schedule.until:
                self.found |= {"unknown_hours", "closed"}
            else:
                spans = zip(schedule.opens, schedule.closes, strict=True)
                self.no("closed", not any(start <= now < end for start, end in spans))
        if type(scene.blackouts) is not Blackouts:
            raise Nonsense(scene.blackouts)
        until = scene.blackouts.until
        self.no("blackout", until is not None and until <= scene.now)
        for window in scene.blackouts.windows:
            concerned = symbol in window.symbols or window.symbols == frozenset()
            self.no("blackout", concerned and window.start <= scene.now < window.end)
        self.no("unknown_status", scene.live and limits.require_status and scene.status is None)
        self.no("price_band", scene.status in {Status.LIMIT_UP, Status.LIMIT_DOWN})

    def quotes(self) -> None:
        scene, limits, quote = self.scene, self.limits, self.scene.quote
        if quote is None:
            self.no("no_quote", scene.live and limits.require_quote)
            return
        bid, ask, last = self.sides()
        assert isinstance(quote, Quote)
        age = (scene.now - when(quote.time)).total_seconds()
        self.no("old_quote", age < -1 or age > limits.max_quote_age_s)
        self.no("bad_quote", quote.symbol != self.order.symbol)
        names = [price for price in (bid, ask, last) if price is not None]
        if not names:
            self.found.add("bad_quote")
            return
        if bid is not None and ask is not None:
            self.no("bad_quote", bid > ask)
            middle = (bid + ask) / 2
            if limits.max_spread_pct < OFF:
                self.no("spread", (ask - bid) / middle > percent(limits.max_spread_pct) / 100)
        else:
            middle = names[0]
            if limits.max_spread_pct < OFF:
                self.no("spread", scene.live and limits.require_quote)
        self.no("jump", abs(middle / above(scene.price) - 1) > percent(limits.max_jump_pct) / 100)

    def sides(self) -> tuple[Fraction | None, Fraction | None, Fraction | None]:
        quote = self.scene.quote
        if quote is None:
            return None, None, None
        if type(quote) is not Quote:
            raise Nonsense(quote)
        found: list[Fraction | None] = []
        for price in (quote.bid, quote.ask, quote.last):
            if price is None:
                found.append(None)
            elif type(price) not in (int, float):
                raise Nonsense(price)
            else:
                found.append(above(Decimal(repr(price))))
        return found[0], found[1], found[2]

    def prices(self) -> tuple[Fraction, Fraction, Fraction]:
        """Return the expected price, the worst one to count a unit at, and the worst one to begin a loss at."""
        order, price = self.order, above(self.scene.price)
        bid, ask, last = self.sides()
        ask, bid = ask or last or Fraction(0), bid or last or HUGE
        if order.type is OrderType.MARKET:
            return price, max(price, ask), max(price, ask) if order.side is Side.BUY else min(price, bid)
        if order.type is OrderType.LIMIT:
            assert order.limit_price is not None
            limit = fraction(order.limit_price)
            if order.side is Side.BUY:
                return min(limit, price), limit, limit
            return max(limit, price), max(limit, price, ask), limit
        assert order.stop_price is not None
        stop = fraction(order.stop_price)
        if order.side is Side.BUY:
            return max(stop, price), max(stop, price, ask), max(stop, price, ask)
        return min(stop, price), max(stop, price, ask), min(stop, price, bid)

    def sizes(self) -> None:
        order, scene, limits = self.order, self.scene, self.limits
        half = Fraction(1, 2) if scene.permit is not None and scene.permit.level is Level.CAUTION else Fraction(1)
        quantity, equity = fraction(order.quantity), money(scene.equity)
        expected, unit, worst = self.prices()
        notional = quantity * unit
        sign = 1 if order.side is Side.BUY else -1
        self.no("min_notional", quantity * expected < money(scene.min_notional))
        self.no("order_quantity", quantity > percent(limits.max_order_quantity) * half)
        self.no("order_notional", notional > percent(limits.max_order_notional) * half)
        if limits.max_volume_pct < OFF:
            if scene.volume is None:
                self.no("volume", scene.live)
            else:
                self.no("volume", quantity > money(scene.volume) * percent(limits.max_volume_pct) / 100 * half)
        self.no("equity", equity <= 0)
        if order.stop_loss is not None:
            lost = (worst - fraction(order.stop_loss)) * sign * quantity
            self.no("risk", lost > equity * percent(limits.max_risk_pct) / 100 * half)
        self.no("order_size", notional > equity * percent(limits.max_order_pct) / 100 * half)
        values: list[tuple[str, Fraction]] = []
        for symbol, position in scene.portfolio.positions.items():
            if symbol != position.symbol:
                raise Nonsense(symbol)
            values.append((symbol, money(position.quantity) * above(scene.prices[symbol])))
        adds: list[tuple[str, int, Fraction]] = [(order.symbol, sign, notional)]
        ahead = Fraction(0)
        for state in scene.orders:
            other, left = state.order, self.open_part(state)
            if type(other.side) is not Side or type(other.reduce_only) is not bool or not isinstance(other.symbol, str):
                raise Nonsense(other)
            if other.symbol == order.symbol and other.side is order.side:
                ahead += left
            if not other.reduce_only:
                at = [scene.prices[other.symbol], other.limit_price, other.stop_price]
                worth = left * max(above(price) for price in at if price is not None or at.index(price) == 0)
                adds.append((other.symbol, 1 if other.side is Side.BUY else -1, worth))
        after = self.held + sign * (quantity + ahead)
        self.no("short", not limits.allow_short and sign < 0 and after < 0)
        self.no("position_size", abs(after) * unit > equity * percent(limits.max_position_pct) / 100 * half)
        gross = sum((abs(value) for _, value in values), Fraction(0)) + sum((value for _, _, value in adds), Fraction(0))
        self.no("leverage", gross > equity * percent(limits.max_leverage))
        net = sum((value for _, value in values), Fraction(0))
        ends = [net + sum((d * v for _, d, v in adds if d == side), Fraction(0)) for side in (1, -1)]
        self.no("net_leverage", max(map(abs, ends)) > equity * percent(limits.max_net_leverage))
        shares = [*((symbol, abs(value)) for symbol, value in values), *((symbol, value) for symbol, _, value in adds)]
        self.group("sector_size", scene.sectors, limits.max_sector_pct, shares, equity)
        self.group("cluster_size", scene.clusters, limits.max_cluster_pct, shares, equity)
        known = {*scene.portfolio.positions, *(state.order.symbol for state in scene.orders)}
        self.no("positions", order.symbol not in known and len(known) + 1 > limits.max_positions)
        self.no("open_orders", len(scene.orders) + 1 > limits.max_open_orders)
        pending = sum((value for _, _, value in adds[1:]), Fraction(0))
        if sign > 0:
            power = money(scene.portfolio.cash) + equity * (percent(limits.max_leverage) - 1) - pending
            self.no("buying_power", notional > power)
        if scene.buying_power is not None:
            self.no("buying_power", notional > money(scene.buying_power) * (1 - percent(limits.haircut_pct) / 100))
        if scene.margin_used is not None:
            used = scene.margin_used
            if type(used) not in (int, float) or math.isnan(used) or math.isinf(used) or used < 0:
                raise Nonsense(used)
            self.no("margin", Fraction(str(used)) * 100 >= percent(limits.max_margin_pct))

    def group(
        self, code: str, of: Mapping[str, str] | None, most: float, shares: list[tuple[str, Fraction]], equity: Fraction
    ) -> None:
        if percent(most) >= percent(self.limits.max_leverage) * 100:
            return
        if of is None:
            self.no(code, self.scene.live)
            return
        if not isinstance(of, Mapping):
            raise Nonsense(of)
        mine = of.get(self.order.symbol)
        if mine is None:
            self.found.add(code)
            return
        inside = [value for symbol, value in shares if symbol not in of or of[symbol] == mine]
        self.no(code, sum(inside, Fraction(0)) > equity * percent(most) / 100)

    def conduct(self) -> None:
        order, scene, limits = self.order, self.scene, self.limits
        self.no("order_rate", whole(scene.ordered_last_hour) >= limits.max_orders_per_hour)
        for code, rates, prefix in (
            ("order_rate", scene.rates, "max_orders_per_"),
            ("agent_rate", scene.agent_rates, "max_agent_orders_per_"),
        ):
            if type(rates) is not Rates:
                raise Nonsense(rates)
            for span in ("second", "minute", "hour", "day"):
                self.no(code, whole(getattr(rates, span)) >= getattr(limits, prefix + span))
        self.no("critical_rate", whole(scene.critical_last_day) >= limits.max_critical_per_day and scene.critical)
        for other in scene.recent:
            if (other.symbol, other.side, other.quantity) == (order.symbol, order.side, order.quantity):
                passed = scene.now - when(other.time)
                self.no("duplicate", passed < timedelta(seconds=limits.duplicate_window_s))
        self.no("repeated", whole(scene.repeats) >= limits.max_repeats)
        for state in scene.orders:
            other = state.order
            if other.symbol == order.symbol and other.side is not order.side:
                both_limits = order.type is other.type is OrderType.LIMIT
                if both_limits:
                    mine, theirs = above(order.limit_price), above(other.limit_price)
                    self.no("self_cross", mine >= theirs if order.side is Side.BUY else mine <= theirs)
                else:
                    self.found.add("self_cross")
        if scene.decided_quantity is None:
            self.no("more_than_decided", scene.live)
        else:
            siblings = {o.id: o for o in [*scene.recent, *(s.order for s in scene.orders)] if o.decision == order.decision}
            total = fraction(order.quantity) + sum((above(o.quantity) for o in siblings.values()), Fraction(0))
            self.no("more_than_decided", total > money(scene.decided_quantity))

    def losses(self) -> None:
        scene, limits = self.scene, self.limits
        equity = money(scene.equity)
        self.no("daily_loss", 1 - equity / above(scene.day_equity) >= percent(limits.max_daily_loss_pct) / 100)
        self.no("drawdown", 1 - equity / above(scene.peak_equity) >= percent(limits.max_drawdown_pct) / 100)
        if scene.day_peak_equity is None:
            self.no("intraday_drawdown", scene.live)
        else:
            fallen = 1 - equity / above(scene.day_peak_equity)
            self.no("intraday_drawdown", fallen >= percent(limits.max_intraday_drawdown_pct) / 100)

    def protection(self) -> None:
        order, limits = self.order, self.limits
        if order.stop_loss is None:
            self.no("no_stop", limits.require_stop)
            return_early = order.take_profit is None
            if return_early:
                return
        entry, _, _ = self.prices()
        sign = 1 if order.side is Side.BUY else -1
        if order.stop_loss is not None:
            distance = sign * (1 - fraction(order.stop_loss) / entry)
            self.no("stop_distance", distance <= 0 or distance > percent(limits.max_stop_pct) / 100)
        if order.take_profit is not None:
            self.no("target", sign * (fraction(order.take_profit) - entry) <= 0)
