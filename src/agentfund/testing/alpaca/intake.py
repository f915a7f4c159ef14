"""What the local Alpaca checks before it takes an order, in Alpaca's own codes."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from agentfund.testing.alpaca.tickets import Refusal, Ticket
from agentfund.testing.alpaca.venue import Venue

BAD_BODY, BAD_FIELD, BAD_ORDER, FORBIDDEN = 40010000, 40010001, 42210000, 40310000
_TYPES = ("market", "limit", "stop")
_CLASSES = ("simple", "bracket", "oco", "oto")


def taken(venue: Venue, body: Any) -> Ticket:
    """Check an order request and return the order, which is not placed yet.

    Raises:
        Refusal: it cannot be taken.
    """
    if not isinstance(body, dict):
        raise Refusal(400, BAD_BODY, "request body format is invalid")
    if venue.suspended:
        raise Refusal(403, FORBIDDEN, "new orders are rejected by user request")
    symbol, side, kind = body.get("symbol"), body.get("side"), body.get("type")
    if symbol not in venue.prices:
        raise Refusal(422, BAD_ORDER, f'asset "{symbol}" not found')
    if side not in ("buy", "sell") or kind not in _TYPES or body.get("order_class", "simple") not in _CLASSES:
        raise Refusal(422, BAD_FIELD, "side, type or order_class is not one of the known")
    client_id = body.get("client_order_id") or venue.name("client")
    if venue.dedupe and any(t.client_id == client_id for t in venue.everything()):
        raise Refusal(422, BAD_FIELD, "client_order_id must be unique")
    ticket = Ticket(
        id=venue.name("order"),
        client_id=client_id,
        symbol=symbol,
        side=side,
        qty=_number(body, "qty"),
        type=kind,
        tif=body.get("time_in_force", ""),
        created=venue.now(),
        limit_price=_number(body, "limit_price") if kind == "limit" and "limit_price" in body else None,
        stop_price=_number(body, "stop_price") if kind == "stop" else None,
        order_class=body.get("order_class", "simple"),
    )
    _time_in_force(ticket)
    _legs(venue, ticket, body)
    if ticket.type == "limit" and ticket.limit_price is None:
        raise Refusal(422, BAD_FIELD, "limit orders require limit price")
    _stops_wait(venue, ticket)
    return ticket


def _number(body: dict[str, Any], name: str) -> Decimal:
    given = body.get(name)
    if given is None:
        raise Refusal(422, BAD_FIELD, f"{name} is required")
    try:
        value = Decimal(str(given))
    except InvalidOperation:
        raise Refusal(422, BAD_FIELD, f"{name} is no number") from None
    if not value.is_finite() or value <= 0:
        raise Refusal(422, BAD_ORDER, f"{name} must be > 0")
    places = value.as_tuple().exponent
    if isinstance(places, int) and places < -9:
        raise Refusal(422, BAD_ORDER, f"{name} is limited to 9 decimal places")
    if name != "qty" and "/" not in body["symbol"] and value >= 1 and value % Decimal("0.01"):
        raise Refusal(422, BAD_ORDER, f"invalid {name} {given}. sub-penny increment does not fulfill minimum pricing criteria")
    return value


def _time_in_force(ticket: Ticket) -> None:
    fractional = ticket.qty != ticket.qty.to_integral_value()
    if "/" in ticket.symbol:
        if ticket.tif not in ("gtc", "ioc"):
            raise Refusal(422, BAD_ORDER, "invalid crypto time_in_force")
        if ticket.order_class != "simple":
            raise Refusal(422, BAD_ORDER, "crypto orders not allowed for advanced order_class")
        return
    if ticket.tif not in ("day", "gtc"):
        raise Refusal(422, BAD_FIELD, "invalid time_in_force")
    if fractional and ticket.tif != "day":
        raise Refusal(422, BAD_ORDER, "fractional orders must be DAY orders")
    if fractional and ticket.order_class != "simple":
        raise Refusal(422, BAD_ORDER, "fractional orders must be simple orders")


def _legs(venue: Venue, ticket: Ticket, body: dict[str, Any]) -> None:
    target, stop = body.get("take_profit"), body.get("stop_loss")
    many = (target is not None) + (stop is not None)
    if ticket.order_class == "simple":
        if many:
            raise Refusal(422, BAD_FIELD, "simple orders take no take_profit and no stop_loss")
        return
    if ticket.order_class in ("bracket", "oco") and many < 2:
        raise Refusal(422, BAD_FIELD, f"{ticket.order_class} orders require take_profit.limit_price and stop_loss.stop_price")
    if ticket.order_class == "oto" and many != 1:
        raise Refusal(422, BAD_FIELD, "oto orders require exactly one of take_profit and stop_loss")
    if target is not None:
        price = _number({**target, "symbol": ticket.symbol}, "limit_price")
        if ticket.order_class == "oco":
            ticket.limit_price = price
        else:
            ticket.legs.append(_leg(venue, ticket, "limit", price))
    if stop is not None:
        ticket.legs.append(_leg(venue, ticket, "stop", _number({**stop, "symbol": ticket.symbol}, "stop_price")))


def _leg(venue: Venue, entry: Ticket, kind: str, price: Decimal) -> Ticket:
    oco = entry.order_class == "oco"
    return Ticket(
        id=venue.name("order"),
        client_id=venue.name("client"),
        symbol=entry.symbol,
        side=entry.side if oco else "sell" if entry.side == "buy" else "buy",
        qty=entry.qty,
        type=kind,
        tif=entry.tif,
        created=entry.created,
        limit_price=price if kind == "limit" else None,
        stop_price=price if kind == "stop" else None,
        order_class=entry.order_class,
        status="held",
        live=oco,
        parent=entry,
    )


def _stops_wait(venue: Venue, ticket: Ticket) -> None:
    """A stop that the market has passed already is refused, of exits as of entries."""
    price = venue.prices[ticket.symbol]
    alone = ticket.order_class in ("simple", "oco")
    for stop in (ticket, *ticket.legs) if alone else ticket.legs:
        if stop.stop_price is not None and (price - stop.stop_price) * stop.sign >= 0 and (alone or ticket.type == "market"):
            words = "stop price must be less than current price" if stop.sign < 0 else "stop price must exceed current price"
            raise Refusal(422, BAD_ORDER, words)
