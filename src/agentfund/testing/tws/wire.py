"""Messages of the TWS socket protocol, version 178, as the client reads them: fields that end with a zero byte."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from decimal import Decimal

from agentfund.testing.tws.house import Deal, House, Listed, Slip

VERSION = 178
NONE = ""
Field = str | int | Decimal | bool


def frame(fields: Sequence[Field]) -> bytes:
    """Encode a message with its length before it."""
    words = (str(int(f)) if isinstance(f, bool) else str(f) for f in fields)
    body = "".join(word + "\0" for word in words).encode()
    return struct.pack(">I", len(body)) + body


def _contract(listed: Listed) -> list[Field]:
    return [listed.con_id, listed.symbol, listed.kind, NONE, 0, NONE, NONE, "SMART", listed.currency, listed.symbol, NONE]


def order_status(slip: Slip) -> list[Field]:
    """Message 3: how an order stands."""
    average = slip.paid / slip.filled if slip.filled else Decimal(0)
    numbers: list[Field] = [slip.filled, slip.remaining, average, slip.perm, slip.parent, 0, slip.client, NONE, 0]
    return [3, slip.order_id, slip.status, *numbers]


def error(request: int, code: int, text: str) -> list[Field]:
    """Message 4: an error, a warning, or news of the connection."""
    return [4, 2, request, code, text, NONE]


def open_order(slip: Slip) -> list[Field]:
    """Message 5: an order that can still trade."""
    out: list[Field] = [5, slip.order_id, *_contract(slip.listed)]
    out += [slip.action, slip.quantity, slip.kind, slip.limit, slip.stop, slip.tif, slip.oca, slip.account, NONE, 0]
    out += [slip.ref, slip.client, slip.perm, 0, 0, 0, NONE, NONE, NONE, NONE, NONE]
    out += [NONE, NONE, NONE, NONE, NONE, 0, NONE, -1, 0, NONE, NONE, NONE, NONE, NONE, NONE, 0, 0, 0, NONE]
    out += [slip.oca_type, 0, 0, NONE, slip.parent, 0, NONE, 0, NONE, NONE]
    out += [0, 0, NONE, NONE, NONE, NONE, NONE]  # continuous update ... combo description
    out += [0, 0, 0, NONE, NONE, NONE, NONE]  # legs, prices of legs, parameters, scale, hedge
    out += [0, NONE, NONE, 0, 0, NONE]  # routing, clearing, delta neutral, algorithm
    out += [0, 0, slip.status, *[NONE] * 9, NONE, NONE, NONE, NONE, NONE, 0, 0, 0]
    out += [NONE, NONE, NONE, NONE, NONE, NONE, NONE, 0, NONE, NONE, NONE, NONE, 0, 0, 0, 0]
    out += [NONE, NONE, 0]  # duration, ATS, whether the parent is cancelled with it
    return [*out, NONE, NONE, NONE, NONE, NONE]


def completed_order(slip: Slip) -> list[Field]:
    """Message 101: an order that can trade no more; it has no order id of the interface any longer."""
    out: list[Field] = [101, *_contract(slip.listed)]
    out += [slip.action, slip.quantity, slip.kind, slip.limit, slip.stop, slip.tif, slip.oca, slip.account, NONE, 0]
    out += [slip.ref, slip.perm, 0, 0, 0, NONE, NONE, NONE, NONE]
    out += [NONE, NONE, NONE, NONE, NONE, 0, NONE, -1, NONE, NONE, NONE, NONE, NONE, NONE, 0, 0, NONE]
    out += [slip.oca_type, 0, NONE, 0, NONE, NONE]
    out += [0, 0, NONE, NONE, NONE]  # continuous update ... combo description
    out += [0, 0, 0, NONE, NONE, NONE, NONE]  # legs, prices of legs, parameters, scale, hedge
    out += [NONE, NONE, 0, 0, NONE]  # clearing, delta neutral, algorithm
    out += [0, slip.status, 0, 0, 0]
    out += [NONE, NONE, NONE, 0, 0, NONE, slip.filled, NONE, 0, NONE, 0, 0, NONE, "20260102 15:00:00 UTC", slip.said]
    return [*out, NONE, NONE, NONE, NONE, NONE]


def execution(request: int, deal: Deal) -> list[Field]:
    """Message 11: an execution, live with request -1 or as an answer."""
    slip = deal.slip
    side = "BOT" if slip.action == "BUY" else "SLD"
    out: list[Field] = [11, request, slip.order_id, *_contract(slip.listed)]
    out += [deal.exec_id, deal.time.strftime("%Y%m%d %H:%M:%S UTC"), slip.account, "ISLAND", side, deal.quantity, deal.price]
    return [*out, slip.perm, slip.client, 0, slip.filled, deal.price, slip.ref, NONE, NONE, NONE, 1, 0]


def commission(deal: Deal, currency: str) -> list[Field]:
    """Message 59: what an execution cost."""
    return [59, 1, deal.exec_id, deal.fee, currency, NONE, NONE, NONE]


def position(account: str, listed: Listed, quantity: Decimal) -> list[Field]:
    """Message 61: what is held of a contract."""
    return [61, 3, account, *_contract(listed), quantity, 0]


def account_value(house: House, request: int | None) -> list[list[Field]]:
    """Messages 6, or 73 where a request asked: what the account is worth."""
    margin = sum((abs(held) for held in house.positions.values()), Decimal(0)) * Decimal(25)
    values = {
        "NetLiquidation": house.equity,
        "TotalCashValue": house.cash,
        "TotalCashBalance": house.cash,
        "AvailableFunds": house.equity - margin,
        "MaintMarginReq": margin,
    }
    if request is None:
        return [[6, 2, tag, value, house.currency, house.account] for tag, value in values.items()]
    return [[73, 1, request, house.account, NONE, tag, value, house.currency] for tag, value in values.items()]


def contract_details(request: int, listed: Listed) -> list[Field]:
    """Message 10: what a contract is."""
    out: list[Field] = [10, request, listed.symbol, listed.kind, NONE, 0, NONE, "SMART", listed.currency, listed.symbol]
    out += [listed.symbol, NONE, listed.con_id, listed.tick, NONE, NONE, NONE, 1, 0, listed.symbol, NONE, NONE, NONE, NONE]
    out += [NONE, "UTC", NONE, NONE, NONE, NONE, 0, 1, NONE, NONE, NONE, NONE, NONE]
    return [*out, 1, 1, 1]
