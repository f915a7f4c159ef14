"""What Interactive Brokers says, and what it means here: error codes, order states, order references, execution ids."""

from __future__ import annotations

from agentfund.trading import OrderStatus, OrderType

REFUSALS = {
    103: "the order id was used before; the next connection asks for a new one",
    104: "a filled order cannot be modified",
    107: "the order cannot be transmitted as it is",
    109: "the price is out of the range that precautionary settings allow",
    110: "the price is no multiple of the contract's smallest price step",
    111: "this time in force cannot go with this order",
    116: "the exchange is closed to this order",
    125: "this order type cannot have this price",
    132: "the order cannot be submitted without the account's permission",
    133: "the new order was not submitted",
    134: "the modification was not submitted",
    135: "the entry of this leg does not exist",
    200: "no such contract, or more than one; check the contract's arguments",
    201: "the order was rejected",
    203: "this security is not available to the account, or trading in it is not allowed",
    321: "the request does not pass the server's checks; is the interface read-only?",
    382: "the price violates the percentage constraint of the precautionary settings",
    383: "the size violates the size limit of the precautionary settings",
    387: "this order type is not supported for this contract",
    388: "the order size is smaller than the least size",
    391: "the good-till date is wrong",
    426: "no account has shares enough",
    434: "the order size cannot be zero",
    435: "the account is missing or wrong",
    436: "the account's allocation is missing",
    460: "the account has no permission to trade this",
    461: "this order type is not permitted",
    10268: "an order attribute is no longer supported; update ib_async",
    10269: "an order attribute is no longer supported; update ib_async",
    10289: "this contract needs a cash quantity",
    10318: "this order does not support fractional quantities",
}
"""Codes that mean, for a new order, that it does not exist. Everything else leaves its fate unknown."""

SEVERED = frozenset({1100, 1300, 2110})
"""The workstation lost its connection to Interactive Brokers, or moves to another port."""

RESTORED = frozenset({1101, 1102})
"""The workstation is connected again; 1101 lost its subscriptions."""

ID_IN_USE = 326
NOT_THERE = 10147
TOO_LATE = frozenset({161, 10148})

_STATES = {
    "Filled": OrderStatus.FILLED,
    "Cancelled": OrderStatus.CANCELLED,
    "ApiCancelled": OrderStatus.CANCELLED,
    "Inactive": OrderStatus.UNKNOWN,  # refused, or held and perhaps sent on later: only the list of ended orders tells
    "Submitted": OrderStatus.WORKING,
    "PreSubmitted": OrderStatus.WORKING,
    "PendingSubmit": OrderStatus.WORKING,
    "ApiPending": OrderStatus.WORKING,
    "PendingCancel": OrderStatus.WORKING,
    "ValidationError": OrderStatus.WORKING,
    "ApiUpdate": OrderStatus.WORKING,
}
ACKNOWLEDGED = frozenset({"Submitted", "PreSubmitted", "Filled", "Cancelled", "ApiCancelled", "Inactive"})
"""States that only the server gives; an order that was sent and not heard of is PendingSubmit."""

ENTRY, STOP, TARGET = "entry", "stop", "target"


def status(state: str, *, ended: bool) -> OrderStatus:
    """Return what a state means; `ended` where it comes from the list of orders that trade no more."""
    if ended and state == "Inactive":
        return OrderStatus.REJECTED
    return _STATES.get(state, OrderStatus.UNKNOWN)


def kind(order_type: str) -> OrderType:
    """Return the type of an order that rests; a stop that is more than a stop is one too."""
    if order_type == "MKT":
        return OrderType.MARKET
    return OrderType.STOP if order_type.startswith(("STP", "TRAIL")) else OrderType.LIMIT


def reference(order_id: str, part: str = "") -> str:
    """Return the order reference: our id, and which part of a bracket it is."""
    return f"{order_id}:{part}" if part else order_id


def parts(ref: str) -> tuple[str, str]:
    """Split an order reference into our id and the part of the bracket, empty where it is an order that stands alone."""
    stem, colon, part = ref.rpartition(":")
    return (stem, part) if colon and part in (ENTRY, STOP, TARGET) else (ref, "")


def revision(execution: str) -> tuple[str, int]:
    """Split an execution id into what stays and the number that grows with every correction."""
    stem, dot, number = execution.rpartition(".")
    return (stem, int(number)) if dot and number.isdecimal() else (execution, 0)
