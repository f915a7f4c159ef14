"""The executions of a session, each once: told by account activities, and heard on the stream before.

The two name an execution by different ids. What they have in common is the order and which part of it traded, so the part
is the id: the order's own id, how much had filled before and how much after.
"""

from __future__ import annotations

import logging
from collections import deque
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from agentfund.brokers.alpaca_line import reading
from agentfund.brokers.alpaca_words import moment, money, side_of
from agentfund.errors import BrokerUnavailable
from agentfund.trading import ZERO, Fill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentfund.brokers.alpaca_line import Line
    from agentfund.brokers.alpaca_orders import Orders

_PAGE = 100
_OVERLAP = timedelta(hours=1)
"""An execution may be booked later than its time says, so the newest hour is read again each time."""
_MOST_HEARD = 10_000
_log = logging.getLogger("agentfund")


class Part(NamedTuple):
    """Which part of an order traded, and at what price."""

    order_id: str
    before: Decimal
    after: Decimal
    price: Decimal

    @property
    def id(self) -> str:
        """The same however it was told."""
        return f"{self.order_id}:{_plain(self.before)}-{_plain(self.after)}"

    def meets(self, other: Part) -> bool:
        """Return whether both claim the same units."""
        return self.before < other.after and other.before < self.after


class Fills:
    """Tells fills, and which of those told were taken back.

    Args:
        line: to Alpaca.
        orders: who knows which order is whose.
        since: how far it looks back, aware UTC.
    """

    def __init__(self, line: Line, orders: Orders, since: datetime) -> None:
        self._line, self._orders, self._since = line, orders, since
        self._told: dict[str, Fill] = {}
        self._parts: dict[str, dict[str, Part]] = {}
        self._certain: set[str] = set()
        self._busted: dict[str, None] = {}
        self._executions: dict[str, str] = {}
        self._newest = since
        self._heard: deque[dict[str, Any]] = deque(maxlen=_MOST_HEARD)

    @property
    def busted(self) -> tuple[str, ...]:
        """Ids of fills that were told and taken back since."""
        return tuple(self._busted)

    @property
    def told(self) -> tuple[Fill, ...]:
        """Every fill that is known, without asking."""
        return tuple(self._told.values())

    def look_back(self, since: datetime) -> None:
        """Look back farther, where `since` is earlier."""
        self._since = min(self._since, since)

    def hear(self, update: dict[str, Any]) -> None:
        """Take a trade update; it counts when `refresh` has looked up whose it is."""
        if update.get("event") in ("fill", "partial_fill", "trade_bust", "trade_correct"):
            self._heard.append(update)

    async def refresh(self, *, whole: bool = False) -> Sequence[Fill]:
        """Read what is new and return every fill, oldest first.

        Args:
            whole: whether to read everything again, and not just the newest hour.

        Raises:
            BrokerUnavailable: it cannot be read; what was heard in the meantime is kept.
        """
        await self._listed(self._since if whole else max(self._since, self._newest - _OVERLAP))
        while self._heard:
            update = self._heard[0]
            await self._hear(update)
            if self._heard and self._heard[0] is update:
                self._heard.popleft()
        if any(self._excess(order_id) > 0 for order_id in self._parts):
            self._take_back(await self._listed(self._since))
        return sorted(self._told.values(), key=lambda fill: (fill.time, fill.id))

    async def _listed(self, start: datetime) -> set[str]:
        """Read activities from a moment on, count them, and return the ids of all that were there."""
        found: set[str] = set()
        token = ""
        after = start.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        seen: set[str] = set()
        while True:
            more = {"page_token": token} if token else {}
            query = {"after": after, "direction": "asc", "page_size": str(_PAGE), **more}
            page = await self._line.ask("/account/activities/FILL", list, **query)
            for told in page:
                with reading("account activities"):
                    if told["id"] in seen:
                        raise BrokerUnavailable("Alpaca gives the same page of activities again")
                    seen.add(told["id"])
                    done, quantity = money(told["cum_qty"]), money(told["qty"])
                    part = Part(told["order_id"], done - quantity, done, money(told["price"]))
                    time = moment(told["transaction_time"])
                found.add(await self._count(part, told, time, certain=True))
                self._newest = max(self._newest, time)
            if len(page) < _PAGE:
                return found
            token = page[-1]["id"]

    async def _hear(self, update: dict[str, Any]) -> None:
        if update["event"].startswith("trade_"):
            gone = self._executions.get(str(update.get("previous_execution_id") or update.get("execution_id")))
            if gone is not None:
                self._bust(gone, gone.split(":")[0])
            return  # of one that was never heard, and of the corrected one, the activities tell
        try:
            order = update["order"]
            done, quantity = money(order["filled_qty"]), money(update["qty"])
            part = Part(order["id"], done - quantity, done, money(update["price"]))
            time = moment(update["timestamp"])
            side_of(order)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            _log.warning("a trade update of Alpaca cannot be read; its REST API will tell: %s", error)
            return
        if not await self._orders.knows(part.order_id):
            _log.warning("a trade update of Alpaca names order %s, which is not of this account", part.order_id)
            return
        clashes = any(part.meets(other) for other in self._parts.get(part.order_id, {}).values())
        if part.id in self._told or not clashes:  # where it contradicts what is known, the activities decide
            name = await self._count(part, {**order, "qty": update["qty"]}, time, certain=False)
            self._executions[str(update.get("execution_id"))] = name

    async def _count(self, part: Part, told: dict[str, Any], time: datetime, *, certain: bool) -> str:
        """Count a part unless it is known; what is certain replaces what was only heard and does not fit."""
        role = await self._orders.role(part.order_id)
        wire = self._orders.wire(part.order_id)
        name = part.id
        for other_name, other in [*self._parts.get(part.order_id, {}).items()]:
            if not part.meets(other):
                continue
            if other == part:
                self._certain.update([other_name] if certain else [])
                return other_name
            self._bust(other_name, other.order_id)
            if other_name.split("#")[0] == part.id:  # corrected: the same units at another price
                name = f"{part.id}#{sum(known.split('#')[0] == part.id for known in self._busted) + 1}"
        with reading("fill"):
            quantity = part.after - part.before
            symbol, side = (wire or told)["symbol"], side_of(told)
            if quantity <= 0 or part.before < 0 or part.price <= 0:
                raise ValueError(f"a fill of {quantity} at {part.price}")
        if name not in self._busted:
            self._parts.setdefault(part.order_id, {})[name] = part
            self._told[name] = Fill(
                name, role.entry, symbol, side, quantity, part.price, ZERO, time, reference=part.price, leg=role.leg
            )
            self._certain.update([name] if certain else [])
        return name

    def _excess(self, order_id: str) -> Decimal:
        """Return by how much more was told for certain of an order than it has filled by Alpaca's newest word."""
        wire = self._orders.wire(order_id)
        if wire is None:
            return ZERO
        told = sum((p.after - p.before for n, p in self._parts[order_id].items() if n in self._certain), ZERO)
        with reading("orders"):
            return told - money(wire["filled_qty"])

    def _take_back(self, listed: set[str]) -> None:
        """What was an activity, and is none any more while its order has filled less, was busted."""
        for order_id, parts in self._parts.items():
            for name in [*parts]:
                if name in self._certain and name not in listed and self._excess(order_id) > 0:
                    self._bust(name, order_id)

    def _bust(self, name: str, order_id: str) -> None:
        self._parts.get(order_id, {}).pop(name, None)
        self._certain.discard(name)
        if self._told.pop(name, None) is not None:
            self._busted[name] = None


def _plain(value: Decimal) -> str:
    told = format(value, "f")
    return (told.rstrip("0").rstrip(".") or "0") if "." in told else told
