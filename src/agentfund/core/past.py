"""What a run has to know of its log before it goes on: the fund's state, its orders and fills, and what was spent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from agentfund.core.codec import dump_state, load_state
from agentfund.core.context import State, typed_message
from agentfund.core.ledger import Row, add
from agentfund.messages import Answered, Busted, Call, Called, Filled, Intended, Message, Started
from agentfund.trading import Fill, OrderState, OrderStatus

if TYPE_CHECKING:
    from pydantic import BaseModel

_REMEMBERED = timedelta(hours=25)
"""How long a snapshot knows calls one by one: longer than any budget's span but that of the run, which needs a sum."""


class Past:
    """A fund's past, folded.

    Attributes:
        state: the fund.
        started: the run, None where there is none yet.
        began: when it began.
        orders: every order by id, and where it stands by the log.
        fills: every fill, as it was told.
        rows: calls of language models; long ago as one sum.
    """

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State()
        self.started: Started | None = None
        self.began: datetime | None = None
        self.orders: dict[str, OrderState] = {}
        self.fills: list[Fill] = []
        self.rows: list[Row] = []

    def add(self, message: Message) -> None:
        """Fold one message."""
        if self.state.is_stale(message):
            return
        match message.event:
            case Started() as event:
                self.started, self.began = event, message.time
            case Intended(order):
                self.orders[order.id] = OrderState(order, OrderStatus.INTENDED)
            case Answered(order_id, status, reason) if order_id in self.orders:
                self.orders[order_id] = OrderState(self.orders[order_id].order, status, reason=reason)
            case Filled(fill):
                self.fills.append(fill)
            case Busted(fill_id):
                self.fills = [fill for fill in self.fills if fill.id != fill_id]
            case Called(call):
                self.rows.append(Row(call, message.appended or message.time, message.cycle))
        self.state = self.state.apply(message)


class PastView:
    """The past as a view, for snapshots.

    Args:
        outputs: output types by name, so that opinions are typed again.
    """

    name = "past"
    version = 3

    def __init__(self, outputs: Mapping[str, type[BaseModel]] | None = None) -> None:
        self._outputs = dict(outputs or {})

    def start(self) -> Past:
        """Return an empty past."""
        return Past()

    def apply(self, value: Past, message: Message) -> Past:
        """Fold one message; the past is one object that grows."""
        value.add(typed_message(message, self._outputs))
        return value

    def dump(self, value: Past) -> Mapping[str, Any]:
        """Return a past as JSON values."""
        horizon = value.rows[-1].time - _REMEMBERED if value.rows else None
        recent = [row for row in value.rows if horizon is not None and row.time > horizon]
        old = [row.call.billed_usd for row in value.rows if horizon is not None and row.time <= horizon]
        before = add(old)
        return {
            "state": dump_state(value.state),
            "started": _out(Started | None, value.started),
            "began": None if value.began is None else value.began.isoformat(),
            "orders": _out(list[OrderState], list(value.orders.values())),
            "fills": _out(list[Fill], value.fills),
            "rows": _out(list[Row], recent),
            "spent_before": str(before),
        }

    def load(self, told: Mapping[str, Any]) -> Past:
        """Return the past that `dump` told."""
        past = Past(load_state(told["state"], self._outputs))
        past.started = _adapter(Started | None).validate_python(told["started"])
        past.began = None if told["began"] is None else datetime.fromisoformat(told["began"])
        past.orders = {one.order.id: one for one in _adapter(list[OrderState]).validate_python(told["orders"])}
        past.fills = _adapter(list[Fill]).validate_python(told["fills"])
        past.rows = _adapter(list[Row]).validate_python(told["rows"])
        if before := Decimal(told["spent_before"]):
            oldest = min((row.time for row in past.rows), default=past.began)
            assert oldest is not None
            call = Call(agent="", route="", llm="", outcome="ok", billed_usd=before)
            past.rows.insert(0, Row(call, oldest - _REMEMBERED))
        return past


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _out(kind: Any, value: Any) -> Any:
    return _adapter(kind).dump_python(value, mode="json")
