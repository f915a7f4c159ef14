"""Sending and taking back: which answers of Alpaca mean no, and that all the others mean that nobody knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentfund.brokers.alpaca_line import NOT_FOUND, reading
from agentfund.brokers.alpaca_words import same, status_of
from agentfund.errors import BrokerUnavailable, OrderRejected, OrderUnseen
from agentfund.trading import OrderStatus

if TYPE_CHECKING:
    from agentfund.brokers.alpaca_line import Line
    from agentfund.brokers.alpaca_sdk import Told
    from agentfund.protocols import Clock

    Wire = dict[str, Any]

DUPLICATE = (422, 40010001, "client_order_id must be unique")
NO: frozenset[tuple[int, int]] = frozenset(
    {
        (400, 40010000),  # the body is not what Alpaca takes
        (400, 40010001),  # a field is missing or wrong
        (403, 40310000),  # too little money or too few shares, a wash trade, the account may not trade
        (403, 40310100),  # the account may not trade within the day
        (404, 40410000),  # no such asset
        (422, 40010000),
        (422, 40010001),
        (422, 42210000),  # the order cannot be worked as it is
        (422, 42210001),
    }
)
"""Status and code of the answers after which an order does not exist. Nothing else means that."""


class Desk:
    """Writes to one account, each time once.

    Args:
        line: to Alpaca.
        timeout_s: how long a cancel may take to be carried out.
        clock: where the time comes from.
    """

    def __init__(self, line: Line, timeout_s: float, clock: Clock) -> None:
        self._line, self._timeout_s, self._clock = line, timeout_s, clock

    async def find(self, client_id: str) -> Wire | None:
        """Return an order by our id with its legs, None where Alpaca says that it has none.

        Raises:
            BrokerUnavailable: it cannot be told.
        """
        wire: Wire | None = await self._line.find("/orders:by_client_order_id", client_order_id=client_id, nested="true")
        if wire is not None and wire.get("client_order_id") != client_id:
            raise BrokerUnavailable(f"asked for order {client_id!r}, Alpaca answered with {wire.get('client_order_id')!r}")
        return wire

    async def send(self, body: dict[str, Any], *, at_most: bool = False) -> Wire:
        """Send an order; return it as Alpaca has it.

        Args:
            body: the request.
            at_most: whether an order of this id that is smaller counts as this one.

        Raises:
            OrderRejected: Alpaca refused, and does not have it.
            BrokerUnavailable: nobody knows whether it has it.
        """
        name = body["client_order_id"]
        told = await self._line.send("POST", "/orders", body)
        wire = told.json()
        if told.status in (200, 201) and isinstance(wire, dict):
            with reading("answer to an order"):
                if same(wire, body):
                    return wire
            raise BrokerUnavailable(f"order {name!r}: Alpaca answered with another order, {wire.get('client_order_id')!r}")
        code = told.code
        if code is None or (told.status, code) not in NO:
            raise BrokerUnavailable(f"the fate of order {name!r} is unknown: {told}; orders() tells once Alpaca answers")
        # Something on the way may have sent it twice, and passed on only the refusal of the second: Alpaca has the last word.
        found = await self.find(name)
        if found is None:
            if _duplicate(told):
                raise OrderUnseen(f"Alpaca says that it has order {name!r}, and does not show it")
            raise OrderRejected(f"Alpaca refuses order {name!r} for {body['symbol']}: {told}", code=str(code))
        with reading("order"):
            if same(found, body, at_most=at_most):
                return found
        raise OrderRejected(
            f"order {name!r}: another order has this id already; give each order an id of its own", code="duplicate_id"
        )

    async def still_open(self, legs: tuple[str, ...]) -> list[Wire]:
        """Return which legs stand still: a cancel whose answer was lost may yet take one away."""
        wires = [await self._line.ask(f"/orders/{leg}") for leg in legs]
        with reading("order"):
            return [wire for wire in wires if status_of(wire).open]

    async def cancel(self, wire: Wire) -> Wire:
        """Take an order back; return it as it stands, with its legs, once Alpaca has done it or its time is over.

        Raises:
            BrokerUnavailable: nobody knows whether it was taken back.
        """
        order_id = wire["id"]
        if _working(wire):
            told = await self._line.send("DELETE", f"/orders/{order_id}")
            known = told.code
            if told.status not in (200, 204, 207) and (told.status, known) not in ((422, 42210000), (404, NOT_FOUND)):
                raise BrokerUnavailable(f"nobody knows whether order {wire['client_order_id']!r} was taken back: {told}")
        end, pause = self._clock.monotonic() + self._timeout_s, 0.02
        while True:
            found: Wire = await self._line.ask(f"/orders/{order_id}", nested="true")
            if found.get("id") != order_id:
                raise BrokerUnavailable("Alpaca answered with another order than the one that was asked for")
            if not _working(found) or self._clock.monotonic() >= end:
                return found
            await self._clock.sleep(pause)
            pause = min(1.0, 2 * pause)


def _duplicate(told: Told) -> bool:
    status, code, words = DUPLICATE
    body = told.json()
    return (told.status, told.code) == (status, code) and isinstance(body, dict) and words in str(body.get("message"))


def _working(wire: Wire) -> bool:
    with reading("order"):
        return status_of(wire) in (OrderStatus.WORKING, OrderStatus.UNKNOWN)
