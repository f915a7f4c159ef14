"""What MetaTrader says, and what it means here: return codes, and our ids in comments."""

from __future__ import annotations

import base64
import hashlib
import re

DONE = frozenset({10008, 10009, 10010})
"""Placed, done, done in part."""

REFUSALS = {
    10004: "requote: the price had moved, and nothing was traded at the new one",
    10006: "the dealer rejected it",
    10007: "it was cancelled by the trader",
    10013: "the request is invalid",
    10014: "the volume is invalid",
    10015: "the price is invalid",
    10016: "the stops are invalid or too close to the price",
    10017: "trading is disabled for this account or symbol",
    10018: "the market is closed",
    10019: "there is not enough money",
    10020: "the price had moved too far; nothing was traded",
    10021: "there are no quotes to trade at; nothing was traded",
    10022: "the expiration is invalid",
    10024: "too many requests; it was not taken",
    10026: "the server does not allow automated trading",
    10027: "the terminal does not allow automated trading; switch on Algo Trading",
    10030: "the filling mode is not supported",
    10032: "this needs a live account",
    10033: "too many pending orders",
    10034: "the volume limit of the symbol is reached",
    10035: "the order type is invalid or prohibited",
    10036: "the position is closed already",
    10038: "it would close more than is held",
    10039: "the position is being closed already",
    10040: "too many positions",
    10042: "only long positions are allowed",
    10043: "only short positions are allowed",
    10044: "positions may only be closed",
    10045: "positions may only be closed oldest first",
    10046: "opposite positions in one symbol are disabled",
}
"""Codes that mean that nothing was and nothing will be traded by the request.

A requote (10004), a changed price (10020) and missing quotes (10021) belong here: the server gives them in place of a trade,
and a new price would need a new request. A timeout (10012), no connection (10031), a locked request (10028), an order that
changes state (10023) and a processing error (10011) do not: the server may have carried the request out.
"""

LONGEST = 25
"""Characters of a comment that brokers leave alone; the field holds 31."""

_HEX = re.compile(r"[0-9a-f]{32}")


def comment(order_id: str) -> str:
    """Return the comment of an order, 25 characters at most.

    The ids of agentfund have 128 bits: they fit as they are, and two of them never share a comment. A short id of other form
    fits too. Of a longer one there is a hash of 132 bits: a million of them collide with a chance of 1e-28.
    """
    if _HEX.fullmatch(order_id):
        return "af:" + base64.urlsafe_b64encode(bytes.fromhex(order_id)).decode().rstrip("=")
    if len(order_id) <= LONGEST - 3 and order_id.isascii() and order_id.isprintable():
        return "as:" + order_id
    return "ah:" + base64.urlsafe_b64encode(hashlib.blake2b(order_id.encode(), digest_size=17).digest()).decode()[:22]


def named(text: str) -> str:
    """Return the id in a comment, empty where it is none of ours; of a hash the comment itself."""
    if text.startswith("as:"):
        return text[3:]
    if text.startswith("ah:") and len(text) == LONGEST:
        return text
    if text.startswith("af:") and len(text) == LONGEST:
        try:
            return base64.urlsafe_b64decode(text[3:] + "==").hex()
        except ValueError:
            return ""
    return ""
