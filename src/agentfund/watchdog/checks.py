"""The checks: each a pure function of what is seen, what is remembered, and the caps.

A check gives findings. What is NORMAL in level only keeps the lease back; CAUTION and REDUCE_ONLY are the watchdog's word of
the moment; from HALT on it is latched. A number that cannot be compared (NaN, infinity) counts as a breach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal

from agentfund.trading import ZERO, Level, OrderType, Resting
from agentfund.watchdog.caps import Caps
from agentfund.watchdog.seen import Finding, Memory, Seen
from agentfund.watchdog.told import HOUR, MINUTE

Check = Callable[[Seen, Memory, Caps], Iterator[Finding]]

IN_PEACE = "ended"
"""The stage of a fund that has stopped by itself."""

_IDLE = ("waiting", IN_PEACE)


def heartbeat(seen: Seen, memory: Memory, caps: Caps) -> Iterator[Finding]:
    """The fund's process beats, for the right fund, with the limits that were pinned."""
    beat = seen.beat
    if beat is None or beat.boot != seen.boot:
        if memory.alive:
            yield Finding("heartbeat", Level.HALT, "the heartbeat has gone", grace_s=caps.beat_lost_s - caps.beat_s)
        yield Finding("no_heartbeat", Level.NORMAL, "no heartbeat of a fund was seen since the machine started", withhold=True)
        return
    pulse, age = beat.pulse, seen.now - beat.uptime
    if memory.fund and pulse.fund != memory.fund:
        yield Finding("fund", Level.NORMAL, f"the heartbeat is of {pulse.fund!r}, not of {memory.fund!r}", withhold=True)
    if memory.config and pulse.config != memory.config:
        reason = f"the fund runs with limits {pulse.config}, and {memory.config} are pinned: give --config to accept others"
        yield Finding("config", Level.REDUCE_ONLY, reason, withhold=True)
    if pulse.stage == IN_PEACE:
        yield Finding("ended", Level.NORMAL, "the fund has ended", withhold=True)
    elif not -0.5 <= age <= caps.beat_s:
        yield Finding("late_heartbeat", Level.NORMAL, f"the heartbeat is {age:.1f} s old", withhold=True)
    if memory.alive and pulse.stage != IN_PEACE and not -0.5 <= age <= caps.beat_lost_s:
        yield Finding(
            "heartbeat", Level.HALT, f"process {beat.pid} has not beaten for {age:.1f} s, at most {caps.beat_lost_s:g}"
        )


def progress(seen: Seen, memory: Memory, caps: Caps) -> Iterator[Finding]:
    """Alive but stuck counts as dead."""
    if seen.beat is None or not memory.alive or seen.beat.pulse.stage in _IDLE:
        return
    stage = seen.beat.pulse.stage
    limit = caps.asking_s if stage == "asking" else caps.stuck_s
    still = seen.now - memory.progress_at
    if still > limit:
        yield Finding("stuck", Level.HALT, f"the fund has been {stage} without progress for {still:.0f} s, at most {limit:g}")


def feed(seen: Seen, memory: Memory, caps: Caps) -> Iterator[Finding]:
    """Market data arrive, where the feed says when."""
    if seen.beat is None or seen.beat.pulse.heard is None or not memory.alive:
        return
    age = (seen.wall - seen.beat.pulse.heard).total_seconds()
    if age > caps.feed_s:
        yield Finding("feed", Level.REDUCE_ONLY, f"nothing came from the feed for {age:.0f} s, at most {caps.feed_s:g}")
    elif age > caps.feed_caution_s:
        yield Finding("feed", Level.CAUTION, f"nothing came from the feed for {age:.0f} s, {caps.feed_caution_s:g} is usual")


def clock(seen: Seen, memory: Memory, caps: Caps) -> Iterator[Finding]:
    """The wall clock goes on as time does, and agrees with the broker's."""
    if abs(memory.jump_s) > caps.clock_s:
        yield Finding("clock_jump", Level.REDUCE_ONLY, f"the wall clock was moved by {memory.jump_s:+.1f} s")
    if seen.book is not None and seen.book.time is not None and seen.book_wall is not None:
        apart = (seen.book_wall - seen.book.time).total_seconds()
        if not abs(apart) <= caps.clock_s:
            reason = f"wall clock and broker's clock are {apart:+.1f} s apart, at most {caps.clock_s:g}"
            yield Finding("clock", Level.REDUCE_ONLY, reason)


def blind(seen: Seen, memory: Memory, caps: Caps) -> Iterator[Finding]:
    """The broker answers."""
    watched = memory.book_seen or memory.alive
    yield from _sight("blind", "the broker", seen, memory, caps, seen.book is not None, seen.book_at, seen.book_error, watched)


def log(seen: Seen, memory: Memory, caps: Caps) -> Iterator[Finding]:
    """The fund's log can be read, and only grows."""
    if not seen.log:
        return
    if seen.rewound:
        yield Finding("log_rewound", Level.HALT, f"the fund's log goes backwards: {seen.rewound}")
    there = seen.told is not None
    yield from _sight("log_blind", "the log", seen, memory, caps, there, seen.told_at, seen.log_error, memory.log_seen)


def _sight(
    code: str, what: str, seen: Seen, memory: Memory, caps: Caps, there: bool, at: float, error: str, watched: bool
) -> Iterator[Finding]:
    age = seen.now - (at if there else max(memory.began, memory.alive_at))  # a paper broker is there once its fund is
    why = f": {error}" if error else ""
    if not there:
        yield Finding(f"no_{code}", Level.NORMAL, f"{what} has not answered yet{why}", withhold=True)
    elif not age <= caps.blind_s:
        reason = f"{what} has not answered for {age:.1f} s, at most {caps.blind_s:g}{why}"
        yield Finding(f"late_{code}", Level.NORMAL, reason, withhold=True)
    if watched and not age <= caps.blind_halt_s:
        yield Finding(code, Level.HALT, f"{what} has not answered for {age:.0f} s, at most {caps.blind_halt_s:g}{why}")


def equity(seen: Seen, memory: Memory, caps: Caps) -> Iterator[Finding]:
    """The broker's own equity stands within drawdown and daily loss."""
    if seen.book is None:
        return
    now = seen.book.account.equity
    if now is None:
        yield Finding("equity", Level.REDUCE_ONLY, "the broker does not say what the account is worth")
        return
    if not now.is_finite() or now <= 0:
        yield Finding("equity", Level.HALT, f"the account is worth {now}", loss=True)
        return
    for code, top, soft, hard, since in (
        ("drawdown", memory.peak, caps.drawdown_soft_pct, caps.drawdown_pct, "its peak"),
        ("day_loss", memory.day_equity, caps.day_loss_soft_pct, caps.day_loss_pct, "the day began"),
    ):
        if not top:
            continue
        fall = float(100 * (1 - now / top))
        reason = f"equity {now} is {fall:.2f} % below {top} since {since}"
        if fall >= hard:
            yield Finding(code, Level.HALT, f"{reason}, at most {hard:g} %", loss=True)
        elif fall >= soft:
            yield Finding(f"{code}_soft", Level.REDUCE_ONLY, f"{reason}; from {soft:g} % on nothing adds risk", loss=True)


def margin(seen: Seen, memory: Memory, caps: Caps) -> Iterator[Finding]:
    """Maintenance margin leaves room, where the broker tells it."""
    used = None if seen.book is None else seen.book.account.margin_used
    if used is None:
        return
    if not 100 * used <= caps.margin_pct:
        yield Finding("margin", Level.HALT, f"margin use is {100 * used:.1f} %, at most {caps.margin_pct:g} %")
    elif 100 * used > caps.margin_soft_pct:
        yield Finding("margin", Level.CAUTION, f"margin use is {100 * used:.1f} %, {caps.margin_soft_pct:g} % is usual")


def stops(seen: Seen, memory: Memory, caps: Caps) -> Iterator[Finding]:
    """Every position has live stops of its size, on the right side, within reach, and not more of them than can be filled."""
    if seen.book is None:
        return
    prices = seen.told.prices if seen.told is not None else {}
    for symbol, held in seen.book.account.positions.items():
        sign = 1 if held > 0 else -1
        rest = [one for one in seen.book.resting if one.symbol == symbol]
        live = [one for one in rest if one.type is OrderType.STOP and one.side.sign == -sign]
        good = [one for one in live if not _wrong(one, sign, prices.get(symbol), caps)]
        covered = sum((one.quantity for one in good), ZERO)
        if caps.require_stop and not covered >= abs(held):
            worst = next((_wrong(one, sign, prices.get(symbol), caps) for one in live if one not in good), "")
            reason = f"{held} {symbol} are held and stops cover {covered}{'; ' if worst else ''}{worst}"
            yield Finding("stop", Level.HALT, reason, grace_s=caps.settle_s, about=symbol)
        adding = sum((one.quantity for one in rest if one.side.sign == sign), ZERO)
        whole = sum((one.quantity for one in live), ZERO)
        if whole > abs(held) + adding:
            reason = f"stops of {whole} rest on {held} {symbol}: they would turn the position over"
            yield Finding("stop_excess", Level.REDUCE_ONLY, reason, grace_s=caps.settle_s, about=symbol)


def _wrong(stop: Resting, sign: int, price: Decimal | None, caps: Caps) -> str:
    """Return what is wrong with a stop's place, empty where nothing is."""
    if stop.price is None or not stop.price.is_finite() or stop.price <= 0:
        return f"stop {stop.id} has no trigger"
    if price is None or not price.is_finite() or price <= 0:
        return ""  # the broker holds it, and nobody knows a price
    away = float(100 * sign * (1 - stop.price / price))
    if away < -caps.stop_slack_pct:
        return f"stop {stop.id} at {stop.price} is on the wrong side of {price}"
    if away > caps.max_stop_pct + caps.stop_slack_pct:
        return f"stop {stop.id} at {stop.price} is {away:.1f} % from {price}, at most {caps.max_stop_pct:g} %"
    return ""


def books(seen: Seen, memory: Memory, caps: Caps) -> Iterator[Finding]:
    """Broker and log hold the same, and somebody meant every order that rests."""
    if seen.book is None or seen.told is None:
        return
    theirs: Mapping[str, Decimal] = seen.book.account.positions
    ours = seen.told.held
    traded = {order.symbol for order in seen.told.orders.values()} if set(theirs) - set(ours) else set()
    for symbol in sorted({*theirs, *ours}):
        there, here = theirs.get(symbol, ZERO), ours.get(symbol, ZERO)
        if there == here:
            continue
        reason = f"the broker holds {there} {symbol}, the log {here}"
        if not here and symbol not in traded:
            yield Finding("foreign_position", Level.HALT, f"{reason}: nobody meant it", grace_s=caps.settle_s, about=symbol)
        else:
            yield Finding("mismatch", Level.REDUCE_ONLY, reason, grace_s=caps.settle_s, about=symbol)
    for one in seen.book.resting:
        if one.id in seen.told.orders or (one.entry and one.entry in seen.told.orders):
            continue
        held = theirs.get(one.symbol, ZERO)
        if not one.entry and held * one.side.sign < 0 and one.quantity <= abs(held):
            continue  # a leg of a bracket, of a broker that does not say whose
        reason = f"{one.side} {one.quantity} {one.symbol} rests at the broker as {one.id}, and the log has no intent of it"
        yield Finding("foreign_order", Level.REDUCE_ONLY, reason, grace_s=caps.settle_s, about=one.id)


def conservation(seen: Seen, memory: Memory, caps: Caps) -> Iterator[Finding]:
    """No order fills or rests for more than was meant, and no bracket's legs for more than their entry."""
    if seen.told is None:
        return
    for order_id, reason in seen.told.excess.items():
        yield Finding("conservation", Level.HALT, reason, about=order_id)
    if seen.book is None:
        return
    legs: dict[tuple[str, OrderType], Decimal] = {}
    for one in seen.book.resting:
        meant = seen.told.orders.get(one.id)
        if meant is not None and one.quantity > meant.quantity:
            reason = f"order {one.id} was meant for {meant.quantity} {one.symbol} and rests for {one.quantity}"
            yield Finding("conservation", Level.HALT, reason, about=one.id)
        if one.entry:
            legs[one.entry, one.type] = legs.get((one.entry, one.type), ZERO) + one.quantity
    for (entry, kind), whole in legs.items():
        meant = seen.told.orders.get(entry)
        if meant is not None and whole > meant.quantity:
            reason = f"{kind} legs of order {entry} rest for {whole} {meant.symbol}, and it was meant for {meant.quantity}"
            yield Finding("conservation", Level.HALT, reason, grace_s=caps.settle_s, about=entry)


def rate(seen: Seen, memory: Memory, caps: Caps) -> Iterator[Finding]:
    """Orders leave no faster than they should."""
    meant = seen.told.orders_within(MINUTE, seen.wall) if seen.told is not None else 0
    told = seen.book.sent if seen.book is not None and seen.book.sent is not None else 0
    sent, whose = max((meant, "log"), (told, "broker"))
    if sent > caps.orders_per_minute:
        reason = f"{sent} orders within a minute by the {whose}'s count, at most {caps.orders_per_minute}"
        yield Finding("order_rate", Level.HALT, reason)


def spending(seen: Seen, memory: Memory, caps: Caps) -> Iterator[Finding]:
    """Language models cost no more than they should."""
    if seen.told is None:
        return
    spent, most = float(seen.told.spent_within(HOUR, seen.wall)), caps.spend_usd_per_hour
    reason = f"language models cost {spent:.2f} USD within an hour, at most {most:g}"
    if not spent <= most:
        yield Finding("spending", Level.REDUCE_ONLY, reason)
    elif spent > 0.8 * most:
        yield Finding("spending", Level.CAUTION, reason)


def disk(seen: Seen, memory: Memory, caps: Caps) -> Iterator[Finding]:
    """There is room for the log, and for a halt."""
    free = seen.disk_mb
    if free is None or free < caps.disk_mb:
        told = "cannot be told" if free is None else f"is {free:.0f} MB, at least {caps.disk_mb:g}"
        yield Finding("disk", Level.REDUCE_ONLY, f"free space {told}")
    elif free < caps.disk_low_mb:
        yield Finding("disk", Level.CAUTION, f"free space is {free:.0f} MB, {caps.disk_low_mb:g} is usual")


def forgotten(seen: Seen, memory: Memory, caps: Caps) -> Iterator[Finding]:
    """Every halt that the fund's log tells of is in the record."""
    if seen.told is None:
        return
    for cause in sorted(seen.told.halts - seen.known):
        reason = f"the fund's log tells of the halt {cause}, and the record does not know it: it was put back to an older state"
        yield Finding("forgotten_halt", Level.HALT, reason, about=cause, grace_s=1.0)


CHECKS: tuple[Check, ...] = (
    heartbeat,
    progress,
    equity,
    margin,
    stops,
    conservation,
    rate,
    books,
    blind,
    log,
    forgotten,
    clock,
    feed,
    spending,
    disk,
)


def find(seen: Seen, memory: Memory, caps: Caps) -> list[Finding]:
    """Return what all checks find; a check that fails is a finding itself."""
    found: list[Finding] = []
    for check in CHECKS:
        try:
            found += check(seen, memory, caps)
        except Exception as error:  # what cannot be judged is not well
            reason = f"the check {check.__name__} failed: {type(error).__name__}: {error}"
            found.append(Finding(check.__name__, Level.HALT, reason, grace_s=caps.settle_s, about="failed"))
    return found
