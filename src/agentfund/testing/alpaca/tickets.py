"""An order as the local Alpaca keeps it, and how it is told in JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from agentfund.trading import ZERO

ENDED = frozenset({"filled", "canceled", "expired", "rejected"})


class Refusal(Exception):
    """What the API refuses.

    Args:
        status: of the HTTP response.
        code: Alpaca's own.
        message: Alpaca's words.
    """

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def text(value: Decimal | None) -> str | None:
    """Return a number as Alpaca writes it: a string without an exponent and without trailing zeros."""
    if value is None:
        return None
    told = format(value, "f")
    return (told.rstrip("0").rstrip(".") or "0") if "." in told else told


def stamp(moment: datetime | None) -> str | None:
    """Return a moment as Alpaca writes it."""
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(slots=True, eq=False)
class Ticket:
    """An order of any class, or a leg of one.

    Attributes:
        live: whether the price can touch it; a bracket's legs begin to live once the entry has filled.
        spent: what its fills cost, to tell their average price.
    """

    id: str
    client_id: str
    symbol: str
    side: str
    qty: Decimal
    type: str
    tif: str
    created: datetime
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    order_class: str = "simple"
    status: str = "new"
    filled: Decimal = ZERO
    spent: Decimal = ZERO
    live: bool = True
    legs: list[Ticket] = field(default_factory=list)
    parent: Ticket | None = None
    updated: datetime | None = None

    @property
    def open(self) -> bool:
        """Whether it can still trade."""
        return self.status not in ENDED

    @property
    def left(self) -> Decimal:
        """What has not filled."""
        return self.qty - self.filled

    @property
    def sign(self) -> int:
        """1 for a buy, -1 for a sell."""
        return 1 if self.side == "buy" else -1

    @property
    def siblings(self) -> Iterator[Ticket]:
        """The orders that end when this one does: the other leg of a bracket, both sides of an OCO."""
        top = self.parent or self
        group = [*top.legs, top] if top.order_class == "oco" else top.legs if self.parent else []
        return (ticket for ticket in group if ticket is not self)

    def json(self, *, nested: bool) -> dict[str, Any]:
        """Return it as the API tells it."""
        moment, ended = stamp(self.updated or self.created), self.status
        return {
            "id": self.id,
            "client_order_id": self.client_id,
            "created_at": stamp(self.created),
            "updated_at": moment,
            "submitted_at": stamp(self.created),
            "filled_at": moment if ended == "filled" else None,
            "expired_at": moment if ended == "expired" else None,
            "canceled_at": moment if ended == "canceled" else None,
            "failed_at": moment if ended == "rejected" else None,
            "replaced_at": None,
            "replaced_by": None,
            "replaces": None,
            "asset_class": "crypto" if "/" in self.symbol else "us_equity",
            "notional": None,
            "qty": text(self.qty),
            "filled_qty": text(self.filled),
            "filled_avg_price": text(self.spent / self.filled) if self.filled else None,
            "order_class": self.order_class,
            "order_type": self.type,
            "type": self.type,
            "side": self.side,
            "time_in_force": self.tif,
            "limit_price": text(self.limit_price),
            "stop_price": text(self.stop_price),
            "status": self.status,
            "extended_hours": False,
            "legs": [leg.json(nested=True) for leg in self.legs] if nested and self.legs else None,
            "symbol": self.symbol,
        }
