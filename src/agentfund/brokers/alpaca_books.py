"""What Alpaca shows of an account at one moment: cash and positions that agree, and the orders that can still trade."""

from __future__ import annotations

from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from agentfund.brokers.alpaca_line import reading
from agentfund.brokers.alpaca_orders import left
from agentfund.brokers.alpaca_words import moment, money, price_of, side_of, status_of, type_of
from agentfund.errors import BrokerUnavailable
from agentfund.trading import Account, OrderStatus, Resting

if TYPE_CHECKING:
    from agentfund.brokers.alpaca_line import Line
    from agentfund.brokers.alpaca_orders import Orders

_LOOKS = 5


class Books:
    """Reads cash and positions, which Alpaca tells in two answers, so that no fill lies between them.

    Args:
        line: to Alpaca.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._name = ""
        self._agreed: tuple[Decimal, dict[str, Decimal]] | None = None

    async def account(self) -> Account:
        """Return the account. Two requests where nothing has changed since the last time, else three or more.

        Raises:
            BrokerUnavailable: it does not answer, answers with another account, or trades so fast that no moment can be told.
        """
        held = await self._positions()
        for _ in range(_LOOKS):
            told = await self._line.ask("/account")
            with reading("account"):
                name = str(told["id"])
                if self._name and name != self._name:
                    raise BrokerUnavailable("Alpaca answered with another account than before")
                self._name = name
                equity, margin = price_of(told, "equity"), price_of(told, "maintenance_margin")
                cash, power = money(told["cash"]), price_of(told, "buying_power")
            # A fill changes both. Where neither has changed since they agreed last, they agree still.
            if self._agreed != (cash, held):
                before, held = held, await self._positions()
                if held != before:
                    continue
                self._agreed = (cash, held)
            return Account(cash, MappingProxyType(held), equity, _share(margin, equity), power)
        raise BrokerUnavailable(f"Alpaca's positions changed {_LOOKS} times while the account was read; ask again")

    async def _positions(self) -> dict[str, Decimal]:
        told = await self._line.ask("/positions", list)
        with reading("positions"):
            held = {_symbol(position): money(position["qty"]) for position in told}
        return {symbol: quantity for symbol, quantity in held.items() if quantity}


def resting(orders: Orders) -> list[Resting]:
    """Return every order that can still trade, whoever sent it, legs among them."""
    found = []
    for role, wire, group in orders.members():
        if not left(wire):
            continue
        leg = role.leg != "order"
        if wire is not group and status_of(group) is OrderStatus.WORKING and group.get("order_class") != "oco":
            continue  # it protects nothing yet: its entry still works
        price = price_of(wire, "stop_price") or price_of(wire, "limit_price")
        what = (wire["client_order_id"], wire["symbol"], side_of(wire), left(wire), type_of(wire), price)
        found.append(Resting(*what, entry=role.entry if leg else "", time=moment(wire["created_at"])))
    return found


def _symbol(position: dict[str, Any]) -> str:
    """Positions name a pair BTCUSD that orders name BTC/USD."""
    symbol = str(position["symbol"])
    if position.get("asset_class") != "crypto" or "/" in symbol:
        return symbol
    for quote in ("USDT", "USDC", "USD", "BTC"):
        if symbol.endswith(quote) and symbol != quote:
            return f"{symbol.removesuffix(quote)}/{quote}"
    return symbol


def _share(margin: Decimal | None, equity: Decimal | None) -> float | None:
    if margin is None or equity is None:
        return None
    if equity > 0:
        return float(margin / equity)
    return 0.0 if not margin else float("inf")
