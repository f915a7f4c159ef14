"""A line to the local exchange, for the tests of Ccxt."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from agentfund.brokers.ccxt import Ccxt
from agentfund.protocols import Clock
from agentfund.testing.spot import SpotServer
from agentfund.trading import Order, Side

BTC = "BTC/USDT"
SINCE = datetime(2026, 9, 1, tzinfo=UTC)
KEYS: dict[str, Any] = {"key": "key-of-a-test-1234", "secret": "secret-of-a-test-1234", "password": "phrase-of-a-test-1234"}


def line(
    server: SpotServer,
    name: str,
    *,
    symbols: Sequence[str] = (BTC,),
    timeout: timedelta = timedelta(seconds=10),
    since: datetime | None = SINCE,
    clock: Clock | None = None,
) -> Ccxt:
    """Return a broker at the server, as fast as it goes."""
    options = {"rateLimit": 0.01, "timeout_on_exit": 0}  # ccxt waits for a quarter of a second whenever it is closed
    return Ccxt(name, symbols, **KEYS, urls=server.url, since=since, timeout=timeout, options=options, clock=clock)


def order(name: str, **more: Any) -> Order:
    """Return an order to buy one at the market, or what `more` makes of it."""
    told: dict[str, Any] = {"symbol": BTC, "side": Side.BUY, "quantity": Decimal(1), "time": SINCE} | more
    return Order(id=name, **told)


def test_a_line_shows_no_key() -> None:
    """Neither its repr nor what it is made of."""
    assert "1234" not in repr(Ccxt("binance", [BTC], **KEYS))


def test_ccxt_does_not_change_how_numbers_are_rounded() -> None:
    """Importing it sets the rounding of `decimal` for whoever imports it; the fund's stays as it was."""
    code = (
        "import decimal; before = decimal.getcontext().rounding; from agentfund.brokers.ccxt import Ccxt;"
        "Ccxt('binance', ['BTC/USDT']); assert decimal.getcontext().rounding == before"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
