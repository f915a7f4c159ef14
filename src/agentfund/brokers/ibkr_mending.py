"""Stops that positions at Interactive Brokers lack or have too many of, found by the log, by executions and by what rests.

Legs can be refused, lost, or taken back for an exit that was never sent, and a process can end between any two messages. So
each look compares them with what entries hold. A stop is changed only where fills and positions both say that it is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from agentfund.brokers.ibkr_survey import Seen, Survey
from agentfund.brokers.ibkr_words import STOP, TARGET, revision
from agentfund.brokers.lots import Done, bare, lots
from agentfund.errors import BrokerUnavailable
from agentfund.trading import ZERO, Fill, Order

if TYPE_CHECKING:
    from agentfund.brokers.ibkr_desk import Desk
    from agentfund.protocols import Clock

_log = logging.getLogger("agentfund")
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class Mending:
    """Gives positions the stops that they have to have.

    Args:
        client_id: the session's number; orders of others are left alone.
        clock: where the time comes from.
    """

    def __init__(self, client_id: int, clock: Clock) -> None:
        self._client, self._clock = client_id, clock
        self._past: dict[str, Fill] = {}
        self._again: dict[str, tuple[float, float]] = {}

    def restore(self, fills: Iterable[Fill]) -> None:
        """Know fills of the log: the workstation tells those of today alone."""
        self._past.update({fill.id: fill for fill in fills})

    async def mend(
        self,
        desk: Desk,
        seen: Survey,
        orders: Mapping[str, Order],
        sent: Iterable[Order],
        positions: Callable[[], Awaitable[Mapping[str, Decimal]]],
    ) -> bool:
        """Put right what is wrong with the stops of our entries; return whether anything was sent.

        Args:
            desk: where orders are sent.
            seen: what rests and what was executed.
            orders: our orders by id, as they were sent.
            sent: exits that may be on their way and are in no list yet.
            positions: asks what is held.
        """
        entries = {name: order for name, order in orders.items() if order.stop_loss is not None and not order.reduce_only}
        held = lots(orders, self._done(seen)) if entries else {}
        on_way = [*sent]
        acted, position = False, None
        for symbol in dict.fromkeys(order.symbol for order in entries.values()):
            mine = {name: order for name, order in entries.items() if order.symbol == symbol}
            stops = [s for s in seen.orders if s.part == STOP and not s.ended and not s.idle and s.symbol == symbol]
            whole = {name: lot for name, lot in held.items() if name in mine}
            if not stops and not whole:
                continue
            covered = {s.id: _covers(s.id, stops, seen, whole) for s in stops}
            leaving = _leaving(seen, stops, mine, symbol) + sum((o.quantity for o in on_way if o.symbol == symbol), ZERO)
            if sum(whole.values(), ZERO) == sum(covered.values(), ZERO) + leaving:
                for name in mine:
                    self._again.pop(name, None)
                acted |= await self._pair(desk, stops, mine, seen)
                continue
            position = position or await positions()
            has = position.get(symbol, ZERO)
            left = max(ZERO, abs(has) - leaving) * (1 if has > 0 else -1)
            try:
                for entry, lack in bare(mine, whole, left, covered):
                    acted |= await self._add(desk, entry, lack, seen)
                over = sum(covered.values(), ZERO) - max(abs(left), sum(whole.values(), ZERO) - leaving)
                if over > 0:
                    acted |= await self._take(desk, over, stops, covered, whole, seen)
            except BrokerUnavailable as error:
                _log.error("the stops of %s are not of its position's size: %s", symbol, error)
                acted = True
        return acted

    async def _pair(self, desk: Desk, stops: Sequence[Seen], entries: Mapping[str, Order], seen: Survey) -> bool:
        """Give stops of the right size their targets: a process can end between the two messages."""
        acted = False
        for stop in [s for s in stops if s.client == self._client and s.id in entries]:
            entry, size, group = entries[stop.id], stop.quantity - stop.filled, stop.trade.order.ocaGroup
            working, now = seen.entry(stop.id), self._clock.monotonic()
            if (working is not None and not working.ended) or entry.take_profit is None or not group:
                continue
            targets = [s for s in seen.of(stop.id) if s.part == TARGET and not s.ended and not s.idle]
            name = f"{stop.id}:{TARGET}"
            at, pause = self._again.get(name, (now, _FIRST_PAUSE))
            if any(s.quantity - s.filled != size for s in targets) or (not targets and now >= at):
                self._again[name] = (now + pause, min(_LONGEST_PAUSE, 2 * pause))
                acted = True
                try:
                    await desk.resize(targets, size)
                    if not targets:
                        desk.aim(entry, size, group)
                except BrokerUnavailable as error:
                    _log.error("the target of %s is not of its stop's size: %s", stop.id, error)
        return acted

    def _done(self, seen: Survey) -> Sequence[Done]:
        """Give fills of the log and executions of today, each once and as it was corrected last."""
        newest: dict[str, Done] = {}
        told: list[Done] = [*self._past.values(), *seen.latest]
        for one in told:
            stem, at = revision(one.id)
            if stem not in newest or at >= revision(newest[stem].id)[1]:
                newest[stem] = one
        return [one for one in newest.values() if one.quantity > 0]

    async def _add(self, desk: Desk, entry: Order, lack: Decimal, seen: Survey) -> bool:
        now = self._clock.monotonic()
        at, pause = self._again.get(entry.id, (now, _FIRST_PAUSE))
        if now < at:
            return False
        # A stop that is refused is not sent at every look: the pauses grow.
        self._again[entry.id] = (now + pause, min(_LONGEST_PAUSE, 2 * pause))
        working = seen.entry(entry.id)
        legs = [leg for leg in seen.of(entry.id) if leg.leg and not leg.ended]
        if any(one.client != self._client for one in (*legs, *([working] if working and not working.ended else []))):
            _log.error("%s of %s lack a stop, and only another client id can change its orders", lack, entry.symbol)
            return False
        for leg in [leg for leg in legs if leg.idle]:
            await desk.take_back(leg)
        legs = [leg for leg in legs if not leg.idle]
        stops = [leg for leg in legs if leg.part == STOP]
        if working is not None and not working.ended:
            _log.warning("order %s has traded and has no stop: its rest is taken back", entry.id)
            await desk.take_back(working)
            del self._again[entry.id]
        elif stops:
            size = stops[-1].quantity - stops[-1].filled + lack
            await desk.resize([leg for leg in legs if leg.part != STOP or leg is stops[-1]], size)
        else:
            for leg in legs:  # a target alone: its pair is broken
                await desk.take_back(leg)
            desk.protect(entry, lack)
        return True

    async def _take(
        self,
        desk: Desk,
        over: Decimal,
        stops: Sequence[Seen],
        covered: Mapping[str, Decimal],
        held: Mapping[str, Decimal],
        seen: Survey,
    ) -> bool:
        """Make one stop smaller that would turn the position around, first where more rests than the entry holds."""
        mine = [s for s in reversed(stops) if s.client == self._client and covered[s.id] > 0]
        for counts in (1, 0):
            for stop in mine:
                size = stop.quantity - stop.filled
                part = min(over, size, covered[stop.id] - counts * held.get(stop.id, ZERO))
                if part > 0:
                    _log.warning("stops of %s are larger than its position: that of %s loses %s", stop.symbol, stop.id, part)
                    pair = {stop.trade.order.ocaGroup} - {""}
                    others = [s for s in seen.of(stop.id) if s.leg and not s.ended and s is not stop]
                    await desk.resize([stop, *(s for s in others if s.trade.order.ocaGroup in pair)], size - part)
                    return True
        return False


def _covers(entry: str, stops: Sequence[Seen], seen: Survey, held: Mapping[str, Decimal]) -> Decimal:
    """Return how much of what an entry holds its stops protect; those of one that works yet protect what it has traded."""
    size = sum((s.quantity - s.filled for s in stops if s.id == entry), ZERO)
    order = seen.entry(entry)
    return min(size, held.get(entry, ZERO)) if order is not None and not order.ended else size


def _leaving(seen: Survey, stops: Sequence[Seen], entries: Mapping[str, Order], symbol: str) -> Decimal:
    """Return what exits that still work can sell."""
    sides = {order.side.opposite for order in entries.values()} | {stop.side for stop in stops}
    exits = [s for s in seen.orders if s.symbol == symbol and not s.ended and not s.leg and s.id not in entries]
    return sum(
        (max(ZERO, s.quantity - max(s.filled, seen.traded(s.id))) for s in exits if s.side in sides),
        ZERO,
    )
