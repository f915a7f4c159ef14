"""What an error of ccxt means for an order: that it certainly does not exist, or that nobody knows.

Only the exchange's own refusal of the request counts as a no. Everything else (no answer, a busy or broken server, a limit
on requests, an answer that is not what it should be) leaves the order's fate unknown.
"""

from __future__ import annotations

import re
from typing import NoReturn

from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.secrets import scrub

REFUSALS = frozenset(
    {
        "InsufficientFunds",
        "InvalidOrder",
        "OrderImmediatelyFillable",
        "OrderNotFillable",
        "DuplicateOrderId",
        "ContractUnavailable",
        "BadSymbol",
        "BadRequest",
        "ArgumentsRequired",
        "NotSupported",
        "MarketClosed",
        "AuthenticationError",
        "PermissionDenied",
        "AccountNotEnabled",
        "AccountSuspended",
        "RestrictedLocation",
        "InvalidNonce",
    }
)
"""Names of ccxt's errors that say no. A subclass that is not listed is no refusal: a new kind of error is not understood."""

_BARE = frozenset({"AuthenticationError", "BadRequest", "PermissionDenied"})
_DUPLICATE = re.compile(r"duplicate|\b170141\b|\b110072\b|\b51016\b|\b51065\b|-4116\b", re.IGNORECASE)
_TRIGGERS = re.compile(
    r"would (immediately )?trigger|trigger immediately|\b170\d\d\d\b.*trigger price|\b5127[0-9]\b", re.IGNORECASE
)
_CODE = re.compile(r'"(?:code|retCode|ret_code)":\s*"?(-?\d+)')
_INNER = re.compile(r'"sCode":\s*"?(\d+)')
_MOST = 300


def words(error: BaseException) -> str:
    """Return an error in words, without keys, cut to a line."""
    return scrub(f"{type(error).__name__}: {error}")[:_MOST]


def code_of(error: BaseException) -> str:
    """Return the exchange's own code for an error, empty where it gave none."""
    text = str(error)
    found = [one for one in _INNER.findall(text) if one != "0"] or _CODE.findall(text)
    return found[0] if found else ""


def duplicate(error: BaseException) -> bool:
    """Whether the exchange says that it has an order with this id already: then one exists."""
    return type(error).__name__ in ("InvalidOrder", "DuplicateOrderId", "BadRequest") and bool(_DUPLICATE.search(str(error)))


def refused(error: BaseException) -> bool:
    """Whether an error certainly means that what was asked for was not done."""
    name = type(error).__name__
    if name in _BARE and not code_of(error) and "{" not in str(error) and "requires" not in str(error):
        return False  # a status alone, perhaps of a machine in between
    return name in REFUSALS and not duplicate(error)


def rejected(error: BaseException, exchange: str) -> OrderRejected:
    """Return the refusal as the fund is to see it."""
    code = code_of(error)
    name = type(error).__name__
    if name == "OrderImmediatelyFillable" or _TRIGGERS.search(str(error)):
        code = "would_trigger"
    hint = ""
    if name == "InvalidNonce":
        hint = ". This machine's clock is off: synchronise it; nothing was ordered"
    elif name in ("AuthenticationError", "PermissionDenied"):
        hint = f". Check the key's permissions and addresses at {exchange}: it needs spot trading"
    return OrderRejected(f"{exchange} refuses: {words(error)}{hint}", code=code)


def unavailable(error: BaseException, exchange: str, what: str) -> NoReturn:
    """Raise what an error that is no refusal means.

    Raises:
        BrokerUnavailable: always.
    """
    said = "no answer in time" if isinstance(error, TimeoutError) else words(error)
    raise BrokerUnavailable(f"{exchange}: {what} failed: {said}") from None
