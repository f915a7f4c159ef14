"""The local Alpaca is one for alpaca-py as it is: its typed client and its stream understand every answer."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from decimal import Decimal

import pytest

from agentfund.brokers.alpaca import Alpaca
from agentfund.testing.alpaca import AlpacaServer, Fault


@pytest.fixture
def server() -> Iterator[AlpacaServer]:
    with AlpacaServer() as server:
        server.move("AAPL", 100)
        yield server


def test_alpaca_pys_typed_client_understands_it(server: AlpacaServer) -> None:
    """Account, assets, clock, calendar, orders with legs, positions: parsed by the SDK's own models."""
    Alpaca(server.key, server.secret, url=server.url)  # imports the SDK without its deprecation warning
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import OrderClass, OrderSide, TimeInForce
    from alpaca.trading.requests import MarketOrderRequest, StopLossRequest, TakeProfitRequest

    client = TradingClient(server.key, server.secret, url_override=server.url)
    request = MarketOrderRequest(
        symbol="AAPL",
        qty=2,
        side=OrderSide.BUY,
        time_in_force=TimeInForce.GTC,
        order_class=OrderClass.BRACKET,
        take_profit=TakeProfitRequest(limit_price=110),
        stop_loss=StopLossRequest(stop_price=95),
    )
    placed = client.submit_order(request)
    assert [leg.type.value for leg in placed.legs] == ["limit", "stop"]  # type: ignore[union-attr]
    assert client.get_account().cash == "99800"  # type: ignore[union-attr]
    assert [p.qty for p in client.get_all_positions()] == ["2"]  # type: ignore[union-attr]
    assert client.get_clock().is_open  # type: ignore[union-attr]
    assert client.get_asset("AAPL").tradable  # type: ignore[union-attr]
    assert client.get_calendar()
    assert len(client.get_orders()) == 1  # the target; the stop is held and hidden
    client._session.close()


def test_a_bracket_ends_by_one_leg(server: AlpacaServer) -> None:
    """The stop fills and the target is cancelled; nothing is held, nothing rests."""
    body = {"symbol": "AAPL", "side": "buy", "qty": "2", "type": "market", "time_in_force": "gtc", "order_class": "bracket"}
    legs = {"take_profit": {"limit_price": "110"}, "stop_loss": {"stop_price": "95"}}
    server.api.answer("POST", "/v2/orders", {}, {**body, **legs})
    server.move("AAPL", 94)
    (top,) = server.venue.tickets
    assert [leg.status for leg in top.legs] == ["canceled", "filled"]
    assert (server.venue.held, server.venue.cash) == ({}, Decimal(100_000 - 2 * 6))


def test_a_target_that_fills_in_parts_leaves_the_stop_the_rest(server: AlpacaServer) -> None:
    """Both legs together never sell more than was bought."""
    body = {"symbol": "AAPL", "side": "buy", "qty": "5", "type": "market", "time_in_force": "gtc", "order_class": "bracket"}
    legs = {"take_profit": {"limit_price": "110"}, "stop_loss": {"stop_price": "95"}}
    server.api.answer("POST", "/v2/orders", {}, {**body, **legs})
    server.venue.liquidity = Decimal(2)
    server.move("AAPL", 111)
    assert server.venue.available("AAPL") == 0
    server.venue.liquidity = None
    server.move("AAPL", 94)
    assert [leg.filled for leg in server.venue.tickets[0].legs] == [2, 3]
    assert server.venue.held == {}


def test_it_runs_alone() -> None:
    """`python -m agentfund.testing.alpaca` says where it is; its market is moved from outside."""
    command = [sys.executable, "-m", "agentfund.testing.alpaca", "--port", "0", "--price", "MSFT=50"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = dict(process.stdout.readline().split(maxsplit=1) for _ in range(3))
        body = json.dumps({"symbol": "MSFT", "price": 51.5}).encode()
        with urllib.request.urlopen(f"{told['url'].strip()}/_admin/move", data=body, timeout=10) as answer:
            assert json.load(answer)["orders_created"] == 0
        process.terminate()
        assert process.wait(10) == 0


def test_a_fault_hits_what_it_names_and_so_often(server: AlpacaServer) -> None:
    """A fault is used up by the requests that it hits."""
    fault = Fault("status_before", "GET /v2/orders", times=2)
    assert (fault.hits("GET /v2/orders"), fault.hits("POST /v2/orders")) == (True, False)
    server.fail(fault)
    assert [
        server._fault(path) is not None for path in ("GET /v2/clock", "GET /v2/orders", "GET /v2/orders/1", "GET /v2/orders")
    ] == [
        False,
        True,
        True,
        False,
    ]
