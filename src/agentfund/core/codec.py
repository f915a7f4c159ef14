"""A fund's state and opinions as JSON values and back: for snapshots on the log, and for agents in other processes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import cache
from types import MappingProxyType
from typing import Any, get_origin

from pydantic import BaseModel, TypeAdapter

from agentfund.core.context import State, typed
from agentfund.messages import Opinion
from agentfund.trading import Decision, Fill, Order, OrderState, Portfolio, Position

Outputs = Mapping[str, type[BaseModel]]

_STATE: dict[str, Any] = {
    "run": str,
    "cycle": int,
    "time": datetime | None,
    "observed": datetime | None,
    "prices": dict[str, Decimal],
    "equity": Decimal,
    "peak_equity": Decimal,
    "day_equity": Decimal,
    "opinions": dict[str, Opinion],
    "current": dict[str, Opinion],
    "decision": Decision | None,
    "last_decision": Decision | None,
    "orders": dict[str, OrderState],
    "recent": tuple[Order, ...],
    "fill_ids": tuple[frozenset[str], ...],
    "asked": tuple[tuple[datetime, str], ...],
    "acted": tuple[tuple[datetime, bool, tuple[str, ...]], ...],
    "day_peak_equity": Decimal,
    "billed_usd": Decimal,
    "ended": bool,
    "leader": str,
    "token": int,
    "leads_until": datetime | None,
    "fills": tuple[Fill, ...],
    "mode": str,
    "level": int,
    "lease": bool,
    "wrong": tuple[str, ...],
    "adopted": datetime | None,
}
_PORTFOLIO: dict[str, Any] = {
    "cash": Decimal,
    "positions": dict[str, Position],
    "realized": Decimal,
    "fees": Decimal,
    "trips": int,
    "wins": int,
}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _out(kind: Any, value: Any) -> Any:
    if isinstance(value, Mapping):  # as pairs: their order counts, and JSON on a log is sorted by name
        return list(_adapter(kind).dump_python(dict(value), mode="json").items())
    return _adapter(kind).dump_python(value, mode="json")


def _in(kind: Any, told: Any) -> Any:
    return _adapter(kind).validate_python(dict(told) if get_origin(kind) is dict else told)


def dump_state(state: State) -> dict[str, Any]:
    """Return a state as JSON values; sets come sorted, so equal states give equal values."""
    told = {name: _out(kind, getattr(state, name)) for name, kind in _STATE.items()}
    told["fill_ids"] = [sorted(chunk) for chunk in state.fill_ids]
    books = {name: _dump_book(getattr(state, name)) for name in ("portfolio", "settled")}
    return {**told, **books}


def _dump_book(portfolio: Portfolio) -> dict[str, Any]:
    return {name: _out(kind, getattr(portfolio, name)) for name, kind in _PORTFOLIO.items()}


def _load_book(told: Mapping[str, Any]) -> Portfolio:
    book = {name: _in(kind, told[name]) for name, kind in _PORTFOLIO.items()}
    book["positions"] = MappingProxyType(book["positions"])
    return Portfolio(**book)


def load_state(told: Mapping[str, Any], outputs: Outputs) -> State:
    """Return the state that `dump_state` told.

    Args:
        told: its values.
        outputs: output types by name; an opinion of another type keeps its plain values.

    Raises:
        ValueError: they are no state.
    """
    fields: dict[str, Any] = {}
    for name, kind in _STATE.items():
        value = _in(kind, told[name])
        fields[name] = MappingProxyType(value) if isinstance(value, dict) else value
    for name in ("opinions", "current"):
        fields[name] = MappingProxyType({agent: typed(one, outputs) for agent, one in fields[name].items()})
    return State(portfolio=_load_book(told["portfolio"]), settled=_load_book(told["settled"]), **fields)


def dump_opinion(opinion: Opinion) -> dict[str, Any]:
    """Return an opinion as JSON values."""
    told: dict[str, Any] = _out(Opinion, opinion)
    return told


def load_opinion(told: Any, outputs: Outputs) -> Opinion:
    """Return the opinion that `dump_opinion` told.

    Raises:
        ValueError: it is none, or its value does not fit its output type.
    """
    opinion: Opinion = _adapter(Opinion).validate_python(told)
    return typed(opinion, outputs)
