"""What Alpaca knows of the orders of a session: entries with their legs, and which leg belongs to which entry."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import quote

from agentfund.brokers.alpaca_line import reading
from agentfund.brokers.alpaca_words import guarded, moment, money, quantity_of, state_of, status_of
from agentfund.errors import BrokerUnavailable
from agentfund.trading import ZERO, Order, OrderState, OrderStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from agentfund.brokers.alpaca_line import Line

Wire = dict[str, Any]
_PAGE = 500
_OVERLAP = timedelta(minutes=15)
"""An order may be listed later than its time says, so the newest minutes are read again each time."""
_AROUND = timedelta(seconds=2)
_MICRO = timedelta(microseconds=1)


class Role(NamedTuple):
    """Whose order it is: the client id of its entry, and which part of it."""

    entry: str
    leg: Literal["order", "stop", "target"]


class Orders:
    """The orders of an account since a moment, and older ones that are still open.

    A stale answer changes nothing: of two tellings of an order the one that was updated later counts.

    Args:
        line: to Alpaca.
        since: how far it looks back, aware UTC.
    """

    def __init__(self, line: Line, since: datetime) -> None:
        self._line, self._since = line, since
        self._groups: dict[str, Wire] = {}
        self._roles: dict[str, Role] = {}
        self._wires: dict[str, Wire] = {}
        self._named: dict[str, list[str]] = {}
        self._guards: dict[str, list[str]] = {}
        self._sent: dict[str, Order] = {}
        self._began = False

    def look_back(self, since: datetime) -> None:
        """Look back farther, where `since` is earlier."""
        self._since = min(self._since, since)

    def remember(self, order: Order) -> None:
        """Keep an order as it was sent: Alpaca does not keep all of it."""
        self._sent[order.id] = order

    def add(self, group: Wire) -> Wire:
        """Take in an order with its legs; return it as it counts now. A leg by itself is left to its entry."""
        name = group["id"]
        known = self._groups.get(name)
        if known is None and name in self._roles:
            return group
        if known is not None:
            group = {**_newer(known, group), "legs": [*_legs(known, group)] or None}
        client = group["client_order_id"]
        entry = guarded(client)
        if known is None:
            self._named.setdefault(client, []).append(name)
            if entry:
                self._guards.setdefault(entry, []).append(name)
        self._groups[name] = self._wires[name] = group
        kind: Literal["stop", "target"] = "target" if group["type"] == "limit" else "stop"
        self._roles[name] = Role(entry, kind) if entry else Role(client, "order")
        for leg in group.get("legs") or ():
            self._roles[leg["id"]] = Role(entry or client, "target" if leg["type"] == "limit" else "stop")
            self._wires[leg["id"]] = leg
            self._groups.pop(leg["id"], None)  # taken for an order of its own while its entry was not known
        return group

    async def refresh(self) -> None:
        """Read what may have changed.

        Raises:
            BrokerUnavailable: it cannot be read; what was known stays.
        """
        start = self._since
        with reading("orders"):
            times = [moment(group["created_at"]) for group in self._groups.values()]
            open_ = [moment(group["created_at"]) for group in self._groups.values() if not ended(group)]
        if times:
            start = max(start, max(times) - _OVERLAP)
        start = min([start, *(time - _MICRO for time in open_)])
        listed: set[str] = set()
        async for group in self._pages({"status": "all", "nested": "true"}, start):
            with reading("orders"):
                self.add(group)
                listed.add(group["id"])
        await self._ask_about(listed)
        if not self._began:  # what is older and still open
            async for wire in self._pages({"status": "open"}, None):
                await self.role(wire["id"])
            self._began = True

    async def _ask_about(self, listed: set[str]) -> None:
        """Ask about open orders that the list leaves out: it lags, or they came with another account's answer."""
        with reading("orders"):
            missing = [name for name, group in self._groups.items() if name not in listed and not ended(group)]
        for name in missing:
            wire = await self._line.find(f"/orders/{quote(name, safe='')}", nested="true")
            with reading("order"):
                if wire is not None and wire["id"] == name:
                    self.add(wire)
                elif wire is None:
                    self._drop(name)

    def _drop(self, name: str) -> None:
        group = self._groups.pop(name)
        for wire in (group, *(group.get("legs") or ())):
            self._roles.pop(wire["id"], None)
            self._wires.pop(wire["id"], None)

    async def role(self, order_id: str) -> Role:
        """Return whose an order is, by Alpaca's id of it.

        Raises:
            BrokerUnavailable: Alpaca does not say.
        """
        if not await self.knows(order_id):
            raise BrokerUnavailable(f"Alpaca tells of a fill of order {order_id}, and has no such order")
        return self._roles[order_id]

    async def knows(self, order_id: str) -> bool:
        """Look an order up by Alpaca's id of it; return whether it is one of this account.

        Raises:
            BrokerUnavailable: Alpaca does not say.
        """
        if order_id in self._roles:
            return True
        wire = await self._line.find(f"/orders/{quote(order_id, safe='')}", nested="true")
        if wire is None:
            return False
        with reading("order"):
            if wire["id"] != order_id:
                raise BrokerUnavailable("Alpaca answered with another order than the one that was asked for")
            born = moment(wire["created_at"])
        # A leg does not name its entry, but it was created with it.
        around = {"after": _stamp(born - _AROUND), "until": _stamp(born + _AROUND)}
        near = await self._line.ask("/orders", list, status="all", nested="true", limit=str(_PAGE), **around)
        with reading("orders"):
            for group in near:
                if order_id == group["id"] or order_id in [leg["id"] for leg in group.get("legs") or ()]:
                    self.add(group)
            if order_id not in self._roles:
                self.add(wire)
        return True

    def members(self) -> Iterator[tuple[Role, Wire, Wire]]:
        """Give every order and leg with its role and the group that it is in."""
        for group in self._groups.values():
            for wire in (group, *(group.get("legs") or ())):
                yield self._roles.get(wire["id"]) or Role(wire["client_order_id"], "order"), wire, group

    def wire(self, order_id: str) -> Wire | None:
        """Return an order or a leg by Alpaca's id."""
        return self._wires.get(order_id)

    def named(self, client_id: str) -> list[Wire]:
        """Return the orders with a client id: one, or more where Alpaca took it more than once."""
        return [self._groups[name] for name in self._named.get(client_id, ()) if name in self._groups]

    def guards(self, entry: str) -> list[Wire]:
        """Return the orders that put an entry's protection back."""
        return [self._groups[name] for name in self._guards.get(entry, ()) if name in self._groups]

    def state(self, group: Wire) -> OrderState:
        """Return how an order stands, told together with others of the same client id."""
        all_ = self.named(group["client_order_id"]) or [group]
        sent = self._sent.get(group["client_order_id"])
        states = [state_of(wire, sent) for wire in all_]
        if len(states) == 1:
            return states[0]
        # Alpaca refuses an id the second time; where something in between did not, all of them count.
        working = [state for state in states if state.status.open]
        filled = sum((state.filled for state in states), ZERO)
        status = working[0].status if working else OrderStatus.FILLED if filled else states[0].status
        return OrderState(states[0].order, status, filled, f"Alpaca has {len(states)} orders with this id")

    def states(self) -> tuple[OrderState, ...]:
        """Return entries and exits, not their legs and not what puts protection back."""
        tops = {g["client_order_id"]: g for g in self._groups.values() if not guarded(g["client_order_id"])}
        with reading("orders"):
            return tuple(self.state(group) for group in tops.values())

    async def _pages(self, query: dict[str, str], start: datetime | None) -> AsyncIterator[Wire]:
        """Read a list page by page, oldest first; two orders of one microsecond are not lost between two pages."""
        seen: set[str] = set()
        after = "" if start is None else _stamp(start)
        while True:
            bounds = {"after": after} if after else {}
            page = await self._line.ask("/orders", list, direction="asc", limit=str(_PAGE), **query, **bounds)
            with reading("orders"):
                new = [wire for wire in page if wire["id"] not in seen]
                seen.update(wire["id"] for wire in new)
                for wire in new:
                    yield wire
                if len(page) + sum(len(wire.get("legs") or ()) for wire in page) < _PAGE:
                    return
                if not new:
                    raise BrokerUnavailable("Alpaca gives the same page of orders again and again")
                after = _stamp(moment(new[-1]["created_at"]) - _MICRO)


def ended(group: Wire) -> bool:
    """Return whether an order and all its legs are over."""
    return not any(status_of(wire).open for wire in (group, *(group.get("legs") or ())))


def left(wire: Wire) -> Decimal:
    """Return what an order can still trade."""
    return max(ZERO, quantity_of(wire) - money(wire["filled_qty"])) if status_of(wire).open else ZERO


def _stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _newer(known: Wire, told: Wire) -> Wire:
    return known if moment(told["updated_at"]) < moment(known["updated_at"]) else told


def _legs(known: Wire, told: Wire) -> Iterator[Wire]:
    before = {leg["id"]: leg for leg in known.get("legs") or ()}
    after = {leg["id"]: leg for leg in told.get("legs") or ()}
    for name in before | after:
        yield _newer(before[name], after[name]) if name in before and name in after else {**before, **after}[name]
