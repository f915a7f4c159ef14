"""The routes of the local Alpaca: what each path of the trading API v2 answers."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from agentfund.testing.alpaca.intake import BAD_ORDER, taken
from agentfund.testing.alpaca.tickets import Refusal, Ticket, stamp, text
from agentfund.testing.alpaca.venue import Venue
from agentfund.trading import ZERO

NOT_FOUND = 40410000
ACCOUNT = "904837e3-3b76-47ec-b432-046db621571b"


class Api:
    """Answers requests about a venue.

    Args:
        venue: the books.

    Attributes:
        slow_cancel: a cancel is only asked for, and waits for `finish_cancels`.
    """

    def __init__(self, venue: Venue) -> None:
        self.venue = venue
        self.slow_cancel = False

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        """Return status and JSON for a request; None is an empty body.

        Raises:
            Refusal: what the API refuses.
        """
        parts = tuple(part for part in path.split("/") if part)[1:]
        match (method, *parts):
            case ("GET", "account"):
                return 200, self._account()
            case ("GET", "account", "configurations"):
                return 200, {"suspend_trade": self.venue.suspended, "no_shorting": False, "max_margin_multiplier": "4"}
            case ("PATCH", "account", "configurations"):
                self.venue.suspended = bool(body.get("suspend_trade", self.venue.suspended))
                return self.answer("GET", path, query, None)
            case ("GET", "account", "activities", "FILL"):
                return 200, self._activities(query)
            case ("GET", "positions"):
                return 200, [self._position(symbol) for symbol in self.venue.held]
            case ("GET", "positions", *rest):
                flat = "".join(rest)  # of a pair Alpaca's positions know BTCUSD, its orders BTC/USD
                symbol = next((held for held in self.venue.held if held.replace("/", "") == flat), None)
                if symbol is None:
                    raise Refusal(404, NOT_FOUND, "position does not exist")
                return 200, self._position(symbol)
            case ("GET", "clock"):
                now = stamp(self.venue.now())
                return 200, {"timestamp": now, "is_open": True, "next_open": now, "next_close": now}
            case ("GET", "calendar"):
                return 200, [{"date": f"{self.venue.now():%Y-%m-%d}", "open": "09:30", "close": "16:00"}]
            case ("GET", "assets"):
                return 200, [self._asset(symbol) for symbol in self.venue.prices]
            case ("GET", "assets", *rest):
                if "/".join(rest) not in self.venue.prices:
                    raise Refusal(404, NOT_FOUND, f"asset not found for {'/'.join(rest)}")
                return 200, self._asset("/".join(rest))
            case ("GET", "orders:by_client_order_id"):
                return 200, self._mine(query.get("client_order_id", "")).json(nested=True)
            case ("GET", "orders"):
                return 200, self._orders(query)
            case ("POST", "orders"):
                ticket = taken(self.venue, body)
                self.venue.place(ticket)
                return 200, ticket.json(nested=True)
            case ("GET", "orders", order_id):
                return 200, self._ticket(order_id).json(nested=query.get("nested") == "true")
            case ("DELETE", "orders", order_id):
                return self._cancel(self._ticket(order_id))
            case _:
                raise Refusal(404, NOT_FOUND, "endpoint not found.")

    def finish_cancels(self) -> None:
        """Let what was asked to be cancelled be cancelled."""
        for ticket in self.venue.everything():
            if ticket.status == "pending_cancel":
                self.venue.cancel(ticket)

    def _ticket(self, order_id: str) -> Ticket:
        found = self.venue.find(order_id)
        if found is None:
            raise Refusal(404, NOT_FOUND, f"order not found for {order_id}")
        return found

    def _mine(self, client_id: str) -> Ticket:
        found = next((ticket for ticket in self.venue.everything() if ticket.client_id == client_id), None)
        if found is None:
            raise Refusal(404, NOT_FOUND, f"order not found for {client_id}")
        return found

    def _cancel(self, ticket: Ticket) -> tuple[int, Any]:
        if not ticket.open:
            raise Refusal(422, BAD_ORDER, f'order is already in "{ticket.status}" state')
        if self.slow_cancel:
            ticket.status = "pending_cancel"
        else:
            self.venue.cancel(ticket)
        return 204, None

    def _orders(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """List as Alpaca does: without nesting held legs are left out, with it a leg is found under its parent alone."""
        nested, status = query.get("nested") == "true", query.get("status", "open")
        known = self.venue.tickets if nested else self.venue.everything()
        if status == "open":
            known = [t for t in known if t.open and t.status != "held"]
        elif status == "closed":
            known = [t for t in known if not t.open]
        if "symbols" in query:
            known = [t for t in known if t.symbol in query["symbols"].split(",")]
        told = [(ticket.created, ticket.json(nested=nested)) for ticket in known]
        if "after" in query:
            told = [(at, one) for at, one in told if str(stamp(at)) > query["after"]]
        if "until" in query:
            told = [(at, one) for at, one in told if str(stamp(at)) < query["until"]]
        told.sort(key=lambda pair: pair[0], reverse=query.get("direction", "desc") == "desc")
        return [one for _, one in told[: min(500, int(query.get("limit", "50")))]]

    def _activities(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        told = [a for a in self.venue.activities if a["transaction_time"] > query.get("after", "")]
        if query.get("direction", "desc") == "desc":
            told.reverse()
        token = query.get("page_token")
        if token:
            at = next((i for i, a in enumerate(told) if a["id"] == token), None)
            if at is None:
                raise Refusal(422, BAD_ORDER, "invalid page_token")
            told = told[at + 1 :]
        return told[: min(100, int(query.get("page_size", "100")))]

    def _account(self) -> dict[str, Any]:
        venue = self.venue
        long = sum((q * venue.prices[s] for s, q in venue.held.items() if q > 0), ZERO)
        return {
            "id": ACCOUNT,
            "account_number": "PA3LOCAL0001",
            "status": "ACTIVE",
            "currency": "USD",
            "cash": text(venue.cash),
            "equity": text(venue.equity()),
            "last_equity": text(venue.equity()),
            "buying_power": text(venue.buying_power()),
            "multiplier": "2",
            "long_market_value": text(long),
            "short_market_value": text(venue.equity() - venue.cash - long),
            "initial_margin": text(venue.gross() / 2),
            "maintenance_margin": text(venue.gross() * Decimal("0.3")),
            "trading_blocked": False,
            "account_blocked": False,
            "trade_suspended_by_user": venue.suspended,
            "shorting_enabled": True,
        }

    def _position(self, symbol: str) -> dict[str, Any]:
        quantity, price = self.venue.held[symbol], self.venue.prices[symbol]
        return {
            "asset_id": ACCOUNT,
            "symbol": symbol.replace("/", ""),
            "asset_class": "crypto" if "/" in symbol else "us_equity",
            "qty": text(quantity),
            "qty_available": text(self.venue.available(symbol) * (1 if quantity > 0 else -1)),
            "side": "long" if quantity > 0 else "short",
            "avg_entry_price": text(self.venue.average[symbol]),
            "exchange": "NASDAQ",
            "cost_basis": text(quantity * self.venue.average[symbol]),
            "market_value": text(quantity * price),
            "current_price": text(price),
        }

    def _asset(self, symbol: str) -> dict[str, Any]:
        kind = "crypto" if "/" in symbol else "us_equity"
        yes = dict.fromkeys(("tradable", "marginable", "shortable", "easy_to_borrow", "fractionable"), True)
        return {"id": ACCOUNT, "class": kind, "exchange": "NASDAQ", "symbol": symbol, "status": "active", **yes}
