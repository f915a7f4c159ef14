"""What a fund and an execution in another process say to each other: JSON over HTTP on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from agentfund.trading import Account, Book, Fill, Order, OrderState

QUESTIONS: dict[str, TypeAdapter[Any]] = {
    "account": TypeAdapter(Account),
    "orders": TypeAdapter(Sequence[OrderState]),
    "fills": TypeAdapter(Sequence[Fill]),
    "busts": TypeAdapter(Sequence[str]),
    "book": TypeAdapter(Book),
    "suspend": TypeAdapter(None),
}
"""Questions without an argument, each with the type of its answer."""

ORDER: TypeAdapter[Order] = TypeAdapter(Order)
PAST: TypeAdapter[tuple[Sequence[Order], Sequence[Fill]]] = TypeAdapter(tuple[Sequence[Order], Sequence[Fill]])
STATE: TypeAdapter[OrderState] = TypeAdapter(OrderState)
MOST_BYTES = 1 << 20
"""Largest request."""
MOST_PAST = 1 << 28
"""Largest past: all orders and fills of a fund."""
