"""Keeps every guard's stop as large as its position: looks at the broker, works out what is missing, does that.

Nothing is remembered that the broker cannot tell again. A pass that is broken off anywhere, by a crash too, leaves a state
from which the next pass goes on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from decimal import Decimal
from inspect import isawaitable
from typing import TYPE_CHECKING, TypeVar

from agentfund.errors import BrokerError, OrderRejected
from agentfund.execution.protection_exits import Exits
from agentfund.execution.protection_guard import KINDS, NUMBERS, Guard, Kind, Leg, count, leg_id
from agentfund.execution.protection_orders import Orders
from agentfund.trading import ZERO, Fill, Order, OrderState, OrderStatus

if TYPE_CHECKING:
    from agentfund.protocols import Broker, Clock

Item = TypeVar("Item")
Prices = Callable[[str], Decimal | Awaitable[Decimal | None] | None]
_log = logging.getLogger("agentfund")
_PASSES = 12


class Keeper:
    """Guards, and the broker at which their stops rest.

    Args:
        broker: where stops rest.
        clock: where the time comes from.
        prices: gives the newest price of a symbol, None where it knows none; it may be a coroutine function.
        patience_s: how long something may stand without a stop before it is sold.
        settle_s: how long an order that was sent may take to arrive.
        timeout_s: how long the broker may take to answer.
        most_stops: into how many stop orders a guard's stop may be split.
    """

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        prices: Prices | None,
        *,
        patience_s: float,
        settle_s: float,
        timeout_s: float,
        most_stops: int,
    ) -> None:
        self.broker = broker
        self.guards: list[Guard] = []
        self.fills: dict[str, Fill] = {}
        self.unseen = ""
        self._orders = Orders(broker, clock, settle_s, timeout_s)
        self._clock = clock
        self._prices = prices
        self._patience_s, self._settle_s = patience_s, settle_s
        self._most = most_stops
        self._owners: dict[str, tuple[Guard, Kind, int]] = {}
        self._leg_of: dict[str, tuple[Guard, str]] = {}
        self._busted: set[str] = set()
        self.exits = Exits()
        self._last: dict[str, Decimal] = {}

    # -- what it knows -------------------------------------------------------------------------------------------

    def add(self, entry: Order, *, restored: bool = False) -> Guard:
        """Look after an entry from now on; the same entry again is the same guard."""
        known = self.guard_of(entry.id)
        if known is not None:
            return known
        guard = Guard(entry, restored=restored)
        self.guards.append(guard)
        self.guards.sort(key=lambda one: one.entry.time)  # stable: of the same time, the one that came first
        for kind in KINDS:
            for number in range(NUMBERS):
                self._owners[leg_id(entry.id, kind, number)] = (guard, kind, number)
        return guard

    def drop(self, guard: Guard) -> None:
        """Forget a guard whose entry certainly does not exist."""
        self.guards.remove(guard)

    def guard_of(self, entry_id: str) -> Guard | None:
        """Return the guard of an entry."""
        return next((guard for guard in self.guards if guard.entry.id == entry_id), None)

    def owner(self, order_id: str) -> Guard | None:
        """Return the guard that an order protects, None where it protects none."""
        found = self._owners.get(order_id)
        return found[0] if found else None

    @property
    def busy(self) -> bool:
        """Whether there is anything to look after."""
        return any(not guard.idle for guard in self.guards) or bool(self.exits.open)

    def news(self) -> bool:
        """Whether anything has changed since it was asked last."""
        changed, self._orders.changed = self._orders.changed, False
        return changed

    @property
    def trouble(self) -> str:
        """What is wrong, in words; empty where every position has its stop."""
        told = [
            f"{guard.entry.symbol} {guard.entry.id}: {guard.trouble}"
            for guard in self.guards
            if guard.trouble and not guard.idle
        ]
        return "; ".join(([self.unseen] if self.unseen else []) + told)

    def absorb(self, told: Iterable[Fill]) -> list[Fill]:
        """Take fills as the broker tells them; return them as the fund is to hear them, in the name of their entries."""
        heard = []
        for fill in told:
            owner = self._owners.get(fill.order_id)
            if owner is not None:
                guard, kind, number = owner
                guard.used[kind] = max(guard.used[kind], number + 1)
                self._leg_of[fill.id] = (guard, fill.order_id)
                fill = replace(fill, order_id=guard.entry.id, leg="target" if kind == "target" else "stop")
            if fill.id not in self.fills:
                self.fills[fill.id] = fill
                self._last[fill.symbol] = fill.price
                self._orders.changed = True
            heard.append(fill)
        self._count()
        return heard

    def bust(self, ids: Iterable[str]) -> None:
        """Leave out fills that the broker has taken back."""
        self._busted |= set(ids)
        self._count()

    async def send(self, exit: Order) -> OrderState:
        """Send an exit of the fund, for which room was made."""
        return await self._orders.ask(self.broker.submit(exit))

    def _count(self) -> None:
        self.exits.count(count(self.guards, self.fills.values(), self._leg_of, self._busted))

    # -- one pass ------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Look, and do what is missing, until nothing is or nothing more can be done now.

        Raises:
            BrokerUnavailable: the broker cannot be seen; nothing was changed without looking.
        """
        for _ in range(_PASSES):
            if not self.busy:
                self.unseen = ""
                return
            await self.look()
            reserved = self.exits.reserved(self.guards)
            again = False
            for guard in tuple(self.guards):
                try:
                    again |= await self._care(guard, reserved.get(guard.entry.id, ZERO))
                except BrokerError as error:  # its orders are UNKNOWN now, and asked about in the next pass
                    self._say(guard, f"its stop could not be looked after: {error}")
            if not again:
                return

    async def look(self) -> None:
        """Ask the broker how everything stands."""
        try:
            states = {state.order.id: state for state in await self._orders.ask(self.broker.orders())}
            fills = await self._orders.ask(self.broker.fills())
            busts = getattr(self.broker, "busts", None)
            gone = await self._orders.ask(busts()) if busts is not None else ()
        except Exception as error:
            self.unseen = f"the broker cannot be seen: {error}"
            raise
        self.unseen = ""
        for name, state in states.items():
            owner = self._owners.get(name)
            if owner is not None:
                owner[0].meet(owner[1], owner[2], state)
            else:
                self.exits.adopt(state, self.guards, self._clock.monotonic())
        for guard in self.guards:
            mine = states.get(guard.entry.id)
            if mine is None and guard.entry_open:
                mine = await self._orders.find(guard.entry)
            if mine is not None:
                guard.entry_open, guard.told = mine.status.open, max(mine.filled, mine.told)
            elif guard.restored:
                guard.entry_open = False
            for leg in tuple(guard.legs.values()):
                if leg.status.open and not _settled(states.get(leg.order.id)):
                    await self._ask_for(leg)
        for name, leg in self.exits.open.items():
            if name in states:
                leg.hear(states[name])
            if leg.status.open and not _settled(states.get(name)) and leg.sent < math.inf:
                await self._ask_for(leg)
        self._busted |= set(gone)
        self.absorb(fills)
        await self._assume()

    async def _assume(self) -> None:
        """Where no fill of a restored entry is told any more, believe the account; nothing is held that it does not show."""
        silent = [
            one for one in self.guards if (one.restored or one.assumed) and not (one.opened or one.told or one.entry_open)
        ]
        for guard in self.guards:
            guard.restored = False
        if not silent:
            return
        account = await self._orders.ask(self.broker.account())
        before = len(self.fills)
        self.absorb(await self._orders.ask(self.broker.fills()))
        now = {state.order.id: max(state.filled, state.told) for state in await self._orders.ask(self.broker.orders())}
        moved = any(now.get(guard.entry.id, guard.told) != guard.told for guard in self.guards)
        if moved or len(self.fills) != before:  # something traded meanwhile: the next look sees account and fills at rest
            for guard in silent:
                guard.restored = True
            return
        for guard in silent:
            guard.assumed = ZERO
        for guard in reversed(silent):
            sign, symbol = guard.entry.side.sign, guard.entry.symbol
            mine = [one for one in self.guards if one.entry.symbol == symbol and one.entry.side is guard.entry.side]
            # What the broker says to have filled belongs to that entry, also before its fills are told.
            claimed = sum((one.position + max(one.told - one.opened, ZERO) for one in mine), ZERO)
            surplus = max(account.positions.get(symbol, ZERO) * sign - claimed, ZERO)
            if surplus:
                ahead = sum((leg.done - leg.sold for leg in guard.legs.values()), ZERO)
                guard.assumed = min(surplus + guard.gone + ahead, guard.entry.quantity)

    async def _ask_for(self, leg: Leg) -> None:
        """Find an order that is not listed. One that stays away for longer than it can take to arrive does not exist."""
        state = await self._orders.find(leg.order)
        if state is not None and state.status is not OrderStatus.UNKNOWN:
            leg.hear(state)
        elif self._clock.monotonic() - leg.sent >= self._settle_s:
            if leg.status is OrderStatus.WORKING:  # it was there: it has ended, and its fills tell how
                leg.status = OrderStatus.CANCELLED
            elif leg.order.id in self._owners:
                guard, kind, number = self._owners[leg.order.id]
                del guard.legs[leg.order.id]
                if guard.used[kind] == number + 1:
                    guard.used[kind] = number  # sent again under the same id, so that a late one is refused or the same
            else:
                leg.status = OrderStatus.REJECTED

    # -- one guard -----------------------------------------------------------------------------------------------

    async def _care(self, guard: Guard, reserved: Decimal) -> bool:
        """Do the next thing that a guard needs; return whether to look again at once."""
        traded = guard.entry_open and any(leg.done for leg in guard.legs.values())
        if traded and await self._cancel_entry(guard):
            return True
        sales = guard.working("target", "close")
        want = max(guard.position - reserved - sum((leg.left for leg in sales), ZERO), ZERO)
        stops = guard.working("stop")
        if any(leg.status is OrderStatus.UNKNOWN for leg in guard.legs.values()):
            return self._wait(guard, want, sum((leg.left for leg in stops if leg.status is OrderStatus.WORKING), ZERO))
        if guard.closing and want:
            return await self._sell(guard, "close", want)
        price = await self._price(guard.entry.symbol) if want else None
        if want and guard.past_target(price) and self._clock.monotonic() >= guard.target_after and not sales:
            return await self._sell(guard, "target", want)
        resting = sum((leg.left for leg in stops), ZERO)
        if resting > want:
            return await self._shrink(guard, stops, resting - want)
        if resting < want and guard.entry.stop_loss is not None:
            return await self._grow(guard, stops, want - resting, price)
        guard.exposed, guard.trouble = None, ""
        if guard.told > guard.opened and not guard.assumed:
            self._say(guard, f"the broker says that {guard.told} have filled and shows fills of {guard.opened}")
        if not want:
            guard.closing = False
        return False

    def _wait(self, guard: Guard, want: Decimal, resting: Decimal) -> bool:
        """Something is on its way: count how long the position stands open meanwhile."""
        if want > resting and guard.entry.stop_loss is not None:
            self._expose(guard)
        return False

    async def _shrink(self, guard: Guard, stops: list[Leg], excess: Decimal) -> bool:
        """Take back stops until no more rests than is held; what is missing then is placed in the next pass."""
        whole = [leg for leg in stops if leg.left <= excess]
        leg = max(whole, key=_left) if whole else min(stops, key=_left)
        return await self._orders.cancel(leg)

    async def _grow(self, guard: Guard, stops: list[Leg], missing: Decimal, price: Decimal | None) -> bool:
        """Add a stop for what has none yet. Nothing is taken back for it, unless it is too small or one too many."""
        self._expose(guard)
        # The price of a fill may be an old one: it closes nothing.
        guard.closing |= self._prices is not None and guard.past_stop(price)
        if guard.closing:
            return True
        if len(stops) < self._most:
            reason = await self._orders.send(guard, "stop", missing)
            if reason is None:
                return True
            if reason.code == "would_trigger":
                guard.closing = True
                return True
            self._say(guard, f"the broker refuses its stop: {reason}")
        if stops:  # one order in place of two: the smallest is taken back, and comes again with what is missing
            old = min(stops, key=_left)
            if not await self._orders.cancel(old):
                return False
            rest = old.order.quantity - old.done
            if old.done > old.sold or rest <= 0:  # it has traded meanwhile: count again
                return True
            if await self._orders.send(guard, "stop", rest + missing) is None:
                return True
            await self._orders.send(guard, "stop", rest)
        return guard.closing

    def _expose(self, guard: Guard) -> None:
        now = self._clock.monotonic()
        if guard.exposed is None:
            guard.exposed = now
        elif now - guard.exposed >= self._patience_s and not guard.closing:
            guard.closing = True
            self._say(guard, f"no stop could be placed within {self._patience_s:g} s: it is sold at market")

    async def _sell(self, guard: Guard, kind: Kind, want: Decimal) -> bool:
        """Take the stops back, make sure that they are, and sell; where that fails the stop is put back."""
        for leg in guard.working("stop"):
            if not await self._orders.cancel(leg):
                return False
            if leg.done > leg.sold:  # it has traded meanwhile: count again before anything is sold
                return True
        reason = await self._orders.send(guard, kind, want)
        if reason is None:
            return True
        self._say(guard, f"the broker refuses the sale of what is held: {reason}")
        guard.target_after = self._clock.monotonic() + self._patience_s
        if guard.entry.stop_loss is not None and await self._orders.send(guard, "stop", want) is None:
            guard.closing = False
            guard.exposed = None
        return False

    async def _cancel_entry(self, guard: Guard) -> bool:
        """A stop or target that trades takes back what is left of its entry."""
        try:
            state = await self._orders.ask(self.broker.cancel(guard.entry.id))
        except OrderRejected:
            return False
        guard.entry_open = state.status.open
        return not guard.entry_open

    async def _price(self, symbol: str) -> Decimal | None:
        if self._prices is not None:
            try:
                price = self._prices(symbol)
                if isawaitable(price):
                    price = await self._orders.ask(_as_coroutine(price))
            except Exception as error:  # a stop must not wait for a price
                _log.warning("%s: no price: %s", symbol, error)
                return None
            return price
        return self._last.get(symbol)

    def _say(self, guard: Guard, what: str) -> None:
        if guard.trouble != what:
            _log.error("%s %s: %s", guard.entry.symbol, guard.entry.id, what)
        guard.trouble = what


def _left(leg: Leg) -> Decimal:
    return leg.left


def _settled(state: OrderState | None) -> bool:
    return state is not None and state.status is not OrderStatus.UNKNOWN


async def _as_coroutine(value: Awaitable[Item]) -> Item:
    return await value
