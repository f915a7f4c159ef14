"""From signals to trades: the execution model of the paper broker and the checks of the gate, in plain arithmetic.

Everything is counted in whole steps: prices in ticks, quantities in lots, money in units of which cents, and a tick times
a lot, are multiples. Whole numbers below 2**53 are exact in float64, so these functions agree to the cent with the
broker's decimals, interpreted and compiled alike. What they do not know (fills in parts, a cut by the broker's leverage)
they report, and never guess.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from agentfund.market import CENT

if TYPE_CHECKING:
    from agentfund.brokers.paper import PaperBroker
    from agentfund.core.gate import Limits
    from agentfund.core.sizing import Sizing
    from agentfund.market import Instrument

SIGNAL, STOP, TARGET, OPEN = 0.0, 1.0, 2.0, 3.0
"""What ended a trade; `OPEN` where it is still held."""

DONE, IN_PARTS, CUT = 0, 1, 2
"""How a walk ended: to the end, or at an order that would fill in parts, or that the broker's leverage would cut."""

DENIALS = (
    "",
    "zero",
    "equity",
    "daily_loss",
    "drawdown",
    "short",
    "order_size",
    "position_size",
    "leverage",
    "buying_power",
    "stop_distance",
    "target",
    "positions",
    "open_orders",
    "order_rate",
)
"""Why an entry was not ordered, by code; `zero` is a size that rounds to nothing, the others are those of the gate."""

POSITIONS, OPEN_ORDERS, ORDER_RATE = (DENIALS.index(code) for code in ("positions", "open_orders", "order_rate"))


class Terms(NamedTuple):
    """All numbers that a trade in one instrument depends on, as float64.

    Attributes:
        per_tick: ticks in a currency unit of price.
        per_lot: lots in a unit of quantity.
        deal: units of money in a tick times a lot.
        unit: units of money in a currency unit.
        fee_step: units of money in the smallest step of a fee.
        mark: units of money in a cent of equity.
        edge: half spread and slippage as a share of the price.
        rate: commission as a share of notional.
        least: least commission in currency units.
        share: share of a bar's volume that an order may take; infinite for no limit.
        broker_leverage: gross exposure over equity at which the broker cuts.
        risk_pct: share of equity that a stop loses, in percent.
        most: notional of a position over equity at most, headroom taken off.
        max_order: notional of an order over equity at most.
        max_position: notional of a position over equity at most.
        max_leverage: gross exposure over equity at most.
        max_daily_loss_pct: loss of the day beyond which nothing is added, in percent.
        max_drawdown_pct: fall from the peak beyond which nothing is added, in percent.
        max_stop_pct: distance of a stop at most, in percent.
        allow_short: 1 where a position may be below zero.
        at_fill: 1 where an entry is sized at the price of its fill, as no live order can be.
    """

    per_tick: float
    per_lot: float
    deal: float
    unit: float
    fee_step: float
    mark: float
    edge: float
    rate: float
    least: float
    share: float
    broker_leverage: float
    risk_pct: float
    most: float
    max_order: float
    max_position: float
    max_leverage: float
    max_daily_loss_pct: float
    max_drawdown_pct: float
    max_stop_pct: float
    allow_short: float
    at_fill: float


class _Slotted:
    __slots__ = Terms._fields


def slotted(t: Terms) -> Terms:
    """Return what reads like the terms, in a fifth of the time that plain Python takes for a field of a tuple."""
    made: Any = _Slotted()
    for name, value in t._asdict().items():
        setattr(made, name, value)
    return made  # type: ignore[no-any-return]


def terms(
    instrument: Instrument, broker: PaperBroker, sizing: Sizing, limits: Limits, money: Fraction, *, at_fill: bool = False
) -> Terms:
    """Return the terms of trading an instrument; `money` is the smallest unit of money, from `smallest`."""
    costs, settings = broker.costs, broker.settings
    return Terms(
        *_steps(instrument, money),
        edge=(costs.half_spread_bps + costs.slippage_bps) / 1e4,
        rate=costs.commission_bps / 1e4,
        least=costs.commission_min,
        share=float(settings["max_volume_pct"]) / 100,
        broker_leverage=float(settings["max_leverage"]),
        risk_pct=sizing.risk_pct,
        most=sizing.max_leverage * (1 - sizing.headroom_pct / 100),
        max_order=limits.max_order_pct / 100,
        max_position=limits.max_position_pct / 100,
        max_leverage=limits.max_leverage,
        max_daily_loss_pct=limits.max_daily_loss_pct,
        max_drawdown_pct=limits.max_drawdown_pct,
        max_stop_pct=limits.max_stop_pct,
        allow_short=1.0 if limits.allow_short else 0.0,
        at_fill=1.0 if at_fill else 0.0,
    )


@lru_cache(maxsize=256)  # fractions are slow, and a sweep asks for the same ones in each trial
def _steps(instrument: Instrument, money: Fraction) -> tuple[float, float, float, float, float, float]:
    """Return the terms `per_tick`, `per_lot`, `deal`, `unit`, `fee_step` and `mark`."""
    tick, lot = Fraction(instrument.tick_size), Fraction(instrument.lot_size)
    cents, cent = Fraction(instrument.cents), Fraction(CENT)
    deal = float(tick * lot / money)
    return float(1 / tick), float(1 / lot), deal, float(1 / money), float(cents / money), float(cent / money)


@lru_cache(maxsize=256)
def smallest(instruments: tuple[Instrument, ...], cash: Decimal) -> Fraction:
    """Return the largest amount of money of which every price step, fee step, cent and the cash are multiples."""
    parts = [Fraction(CENT), Fraction(cash)]
    for each in instruments:
        parts += [Fraction(each.tick_size) * Fraction(each.lot_size), Fraction(each.cents)]
    found = parts[0]
    for part in parts[1:]:
        found = Fraction(
            math.gcd(found.numerator * part.denominator, part.numerator * found.denominator),
            found.denominator * part.denominator,
        )
    return found


# A number that should be whole is off by some units in its last place, from the arithmetic before it. What lies so near
# to a whole number is that number; what does not is rounded the way the caller says.


def up(x: float) -> float:
    """Return the smallest whole number that is not below x."""
    whole = math.floor(x + 0.5)
    return whole + 1.0 if x - whole > 1e-9 + 1e-15 * abs(x) else float(whole)


def down(x: float) -> float:
    """Return the largest whole number that is not above x."""
    whole = math.floor(x + 0.5)
    return whole - 1.0 if whole - x > 1e-9 + 1e-15 * abs(x) else float(whole)


def lots_in(x: float) -> float:
    """Return the largest whole number that is not above x, which is off by no more than the arithmetic before it."""
    whole = math.floor(x + 0.5)
    return whole - 1.0 if whole - x > 8e-16 * abs(x) else float(whole)


def even(x: float) -> float:
    """Return the nearest whole number, the even one of two that are equally near."""
    low = math.floor(x)
    part = x - low
    tie = 1e-11 + 1e-15 * abs(x)
    if part >= 0.5 - tie and part <= 0.5 + tie:
        return float(low + (low & 1))
    return float(low + (part > 0.5))  # no branch: a processor would guess it wrong half of the time


def paid(price: float, sign: float, t: Terms) -> float:
    """Return the ticks that a market or stop order pays: after spread and slippage, on the tick that is worse."""
    if sign > 0:
        return up(price * (1.0 + t.edge) * t.per_tick)
    return down(price * (1.0 - t.edge) * t.per_tick)


def rested(price: float, sign: float, t: Terms) -> float:
    """Return the ticks that a resting limit order pays."""
    return up(price * t.per_tick) if sign > 0 else down(price * t.per_tick)


def charge(lots: float, ticks: float, t: Terms) -> float:
    """Return the commission in units of money."""
    if t.rate == 0.0 and t.least == 0.0:
        return 0.0
    fee = max(lots * ticks * t.deal / t.unit * t.rate, t.least)
    return even(fee * t.unit / t.fee_step) * t.fee_step


def worth(units: float, lots: float, price: float, t: Terms) -> float:
    """Return equity in whole cents: units of cash, and a position (lots, below zero for a short one) at a price."""
    return even((units + lots * price * t.per_tick * t.deal) / t.mark)


def size(equity: float, price: float, stop_pct: float, t: Terms) -> float:
    """Return the lots at which the stop loses the share of equity that is to be risked; equity in cents."""
    money = equity * t.mark / t.unit
    risked, most = money * t.risk_pct / (price * stop_pct), money * t.most / price
    return lots_in((most if most < risked else risked) * t.per_lot)


def resize(equity: float, ticks: float, stop_pct: float, t: Terms) -> float:
    """Return the lots of an entry that is sized at its fill: at most what equity can pay, commission included."""
    money, price = equity * t.mark / t.unit, ticks / t.per_tick
    risked = money * t.risk_pct / (price * stop_pct)
    return lots_in(min(risked, money * t.most / (price * (1.0 + t.rate))) * t.per_lot)


def levels(price: float, sign: float, stop_pct: float, target_pct: float, t: Terms) -> tuple[float, float]:
    """Return stop and target in ticks; both are rounded towards the market. NaN where there is no target."""
    if sign > 0:
        return (
            up(price * (1.0 - stop_pct / 100.0) * t.per_tick),
            down(price * (1.0 + target_pct / 100.0) * t.per_tick) if target_pct == target_pct else math.nan,
        )
    target = up(price * (1.0 - target_pct / 100.0) * t.per_tick) if target_pct == target_pct else math.nan
    return down(price * (1.0 + stop_pct / 100.0) * t.per_tick), target if target > 0.0 else math.nan


def denied(
    lots: float,
    price: float,
    sign: float,
    stop: float,
    target: float,
    units: float,
    equity: float,
    peak: float,
    day: float,
    gross: float,
    pending: float,
    t: Terms,
) -> int:
    """Return the code of the first check that an entry fails, in the order of the gate; 0 to allow it.

    Args:
        lots: its size.
        price: the last price.
        sign: 1 for a long position, -1 for a short one.
        stop: its stop, in ticks.
        target: its target, in ticks; NaN for none.
        units: cash in units of money.
        equity: equity in cents, as `peak` and `day` (when the day began) are.
        peak: its highest so far.
        day: what it was when the day began.
        gross: notional of what is held elsewhere and of what is on order, in currency units.
        pending: the part of it that is on order.
        t: terms.
    """
    if lots <= 0.0:
        return 1
    if equity <= 0.0:
        return 2
    if equity < day and (1.0 - equity / day) * 100.0 >= t.max_daily_loss_pct:
        return 3
    if equity < peak and (1.0 - equity / peak) * 100.0 >= t.max_drawdown_pct:
        return 4
    if sign < 0 and t.allow_short == 0.0:
        return 5
    money = equity * t.mark / t.unit
    notional = lots / t.per_lot * price
    slack = 1e-12 * money if money < 1e7 else 1e-5  # the noise of float64, and never half a cent
    if notional > money * t.max_order + slack:
        return 6
    if notional > money * t.max_position + slack:
        return 7
    if gross + notional > money * t.max_leverage + slack:
        return 8
    if sign > 0 and units / t.unit + money * (t.max_leverage - 1.0) - pending < notional - slack:
        return 9
    distance = (1.0 - stop / t.per_tick / price) * sign * 100.0
    if not 1e-12 < distance <= t.max_stop_pct + 1e-9:
        return 10
    if target == target and (target / t.per_tick - price) * sign <= 0.0:
        return 11
    return 0


def whole(lots: float, volume: float, t: Terms) -> bool:
    """Return whether a bar of that volume fills an order at once."""
    most = volume * t.share * t.per_lot
    # Far from the limit it does not matter how it is rounded.
    return volume <= 0.0 or lots + 1.0 <= most or lots <= down(most)


def uncut(lots: float, ticks: float, units: float, others: float, gross: float, t: Terms) -> bool:
    """Return whether the broker's leverage lets a whole entry through.

    Args:
        lots: its size.
        ticks: its price.
        units: cash in units of money.
        others: what is held elsewhere, in currency units.
        gross: the same without signs.
        t: terms.
    """
    notional = lots * ticks * t.deal / t.unit
    left = t.broker_leverage * (units / t.unit + others) - gross - notional
    if t.rate == 0.0 and t.least == 0.0:
        return left >= 0.0
    return left >= t.broker_leverage * charge(lots, ticks, t) / t.unit


def coming(marks: Any, j: int, n: int) -> int:
    """Return the first marked bar at or after j; n for none."""
    while j < n and not marks[j]:
        j += 1
    return j


def touched(against: Any, favour: Any, low: float, high: float, j: int, end: int) -> int:
    """Return the first bar from j on that touches either price; `end` for none before it."""
    while j < end and against[j] > low and not favour[j] >= high:
        j += 1
    return j


def best_close(closes: Any, sign: float, begin: int, end: int) -> float:
    """Return the close at which a position was worth most."""
    best: float = sign * closes[begin]
    for j in range(begin + 1, end):
        best = max(best, sign * closes[j])
    return sign * best


def walk(
    enter: Any,
    leave: Any,
    opens: Any,
    against: Any,
    favour: Any,
    closes: Any,
    volumes: Any,
    days: Any,
    stops: Any,
    targets: Any,
    sign: float,
    units: float,
    t: Terms,
    out: Any,
    refused: Any,
    codes: Any,
) -> tuple[int, int, int, int]:
    """Trade one instrument from signal to signal.

    Sequences are arrays, or what stands for them in plain Python; of length n (bars) where nothing else is said.

    Args:
        enter: whether it would enter at the close of a bar.
        leave: whether it would leave there.
        opens: first prices.
        against: lows for a long position, negated highs for a short one.
        favour: highs for a long position, negated lows for a short one.
        closes: last prices.
        volumes: units traded, zero where the source has none.
        days: first bar of the day to which a bar's close belongs; empty where no limit looks at the day.
        stops: distance of the stop in percent; one number for all bars, or one for each.
        targets: distance of the target in percent, NaN for none; as `stops`.
        sign: 1 for long positions, -1 for short ones.
        units: cash in units of money.
        t: terms.
        out: nine rows to be filled, each as long as there are bars marked in `enter`: the bar of the decision, of the entry,
            and of the exit (or the last one), lots, ticks in, ticks out, fee in, fee out, what ended it.
        refused: to be filled with the bars at which an entry was not ordered; as long as the rows of `out`.
        codes: to be filled with the reasons.

    Returns:
        How it ended, the bar at which it did, number of trades, number of refused entries.
    """
    n = len(opens)
    decided, began, ended, amount, price_in, price_out, fee_in, fee_out, reason = out
    trades, noes = 0, 0
    # Marks that no limit looks at are not kept.
    marked, dated = t.max_drawdown_pct < 100.0, len(days) > 0
    many_stops, many_targets = int(len(stops) > 1), int(len(targets) > 1)
    per_tick, deal, free = t.per_tick, t.deal, t.rate == 0.0 and t.least == 0.0
    equity = even(units / t.mark)
    peak, day, day_first = equity, equity, 0
    j, over = 0, -1
    while True:
        i = coming(enter, j, n)
        if i == n:
            break
        j = i + 1
        if dated and days[i] > day_first:
            # The day began while nothing was held, or the lines below have seen it begin.
            day_first, day = days[i], equity
        price, stop_pct = closes[i], stops[i * many_stops]
        lots = size(equity, price, stop_pct, t) if equity > 0.0 else 0.0
        stop, target = levels(price, sign, stop_pct, targets[i * many_targets], t)
        code = denied(lots, price, sign, stop, target, units, equity, peak, day, 0.0, 0.0, t)
        if code:
            refused[noes], codes[noes] = i, code
            noes += 1
            continue
        if j == n:
            break
        ticks = paid(opens[j], sign, t)
        if t.at_fill != 0.0:
            lots = resize(equity, ticks, stop_pct, t)
            if lots <= 0.0:
                refused[noes], codes[noes] = i, 1
                noes += 1
                continue
        if not whole(lots, volumes[j], t):
            return IN_PARTS, j, trades, noes
        if not uncut(lots, ticks, units, 0.0, 0.0, t):
            return CUT, j, trades, noes
        if dated and days[j] == j:
            day_first, day = j, equity
        fee = 0.0 if free else charge(lots, ticks, t)
        held = lots * sign
        units -= held * ticks * deal + fee
        decided[trades], began[trades], amount[trades], price_in[trades], fee_in[trades] = i, j, lots, ticks, fee
        low, high = sign * stop / per_tick, sign * target / per_tick
        # A position ends where a bar touches stop or target, or at the open after the first bar that says to leave.
        # The bar that says so may lie far behind that end, and is still the first one for the positions up to there.
        if over < j:
            over = coming(leave, j, n)
        end = min(over + 1, n)
        first, j = j, touched(against, favour, low, high, j, end)
        if j < end:
            if against[j] <= low:
                kind, left = STOP, paid(sign * min(sign * opens[j], low), -sign, t)
            else:
                kind, left = TARGET, rested(sign * max(sign * opens[j], high), -sign, t)
        elif j < n:
            if not whole(lots, volumes[j], t):
                return IN_PARTS, j, trades, noes
            kind, left = SIGNAL, paid(opens[j], -sign, t)
        else:
            ended[trades], price_out[trades], fee_out[trades], reason[trades] = n - 1, 0.0, 0.0, OPEN
            trades += 1
            break
        if dated and days[j] > first:
            day_first = days[j]
            day = worth(units, held, closes[day_first - 1], t)
        if marked and j > first:
            peak = max(peak, worth(units, held, best_close(closes, sign, first, j), t))
        paid_out = 0.0 if free else charge(lots, left, t)
        units += held * left * deal - paid_out
        equity = even(units / t.mark)
        peak = max(peak, equity)
        ended[trades], price_out[trades], fee_out[trades], reason[trades] = j, left, paid_out, kind
        trades += 1
    return DONE, n, trades, noes
