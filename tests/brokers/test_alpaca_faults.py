"""What goes wrong between the Alpaca adapter and Alpaca: an order counts once, and nobody guesses its fate."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Iterator
from decimal import Decimal

import pytest

from agentfund.brokers.alpaca import Alpaca
from agentfund.errors import BrokerUnavailable, ConfigError, OrderRejected
from agentfund.testing.alpaca import AlpacaServer, Fault
from agentfund.testing.alpaca.faults import Kind
from agentfund.trading import OrderStatus, Side
from tests.brokers.test_alpaca import order, trading

POST = "POST /v2/orders"
ARRIVES: list[Kind] = ["status_after", "html_after", "hang_after", "reset_after", "truncated", "empty", "trickle", "other"]
LOST: list[Kind] = ["status_before", "html_before", "hang_before", "reset_before", "redirect"]


@pytest.fixture
def server() -> Iterator[AlpacaServer]:
    with AlpacaServer() as server:
        server.move("AAPL", 100)
        yield server


async def agrees(broker: Alpaca, server: AlpacaServer) -> bool:
    """Whether account, orders and fills of the adapter are the server's, each fill counted once."""
    account, fills = await broker.account(), await broker.fills()
    held: dict[str, Decimal] = {}
    for fill in fills:
        held[fill.symbol] = held.get(fill.symbol, Decimal(0)) + fill.quantity * fill.side.sign
    held = {symbol: quantity for symbol, quantity in held.items() if quantity}
    cash = Decimal(100_000) - sum((f.quantity * f.price * f.side.sign for f in fills), Decimal(0))
    same_book = account.cash == cash == server.venue.cash and dict(account.positions) == held == server.venue.held
    states = {state.order.id: state.filled for state in await broker.orders()}
    return same_book and all(states[t.client_id] == t.filled for t in server.venue.tickets if ".guard" not in t.client_id)


@pytest.mark.parametrize("kind", ARRIVES)
async def test_an_order_that_arrived_and_was_not_confirmed_is_found_once(server: AlpacaServer, kind: Kind) -> None:
    """Its fate is unknown, one request was sent, one order is there, and the book after recovery is the server's."""
    async with trading(server, timeout_s=0.4) as broker:
        server.fail(Fault(kind, POST, status=502 if "html" in kind else 504, seconds=0.05))
        with pytest.raises(BrokerUnavailable):
            await broker.submit(order())
        assert (server.requests[POST], server.orders_created) == (1, 1)
        (state,) = await broker.orders()
        assert (state.status, state.filled) == (OrderStatus.FILLED, Decimal(10))
        assert await agrees(broker, server)


@pytest.mark.parametrize("kind", LOST)
async def test_an_order_that_was_lost_is_not_there_and_not_refused(server: AlpacaServer, kind: Kind) -> None:
    """Nobody knows at first; Alpaca says later that it has none, and the same order can be sent again."""
    async with trading(server, timeout_s=0.4) as broker:
        server.fail(Fault(kind, POST, status=502 if "html" in kind else 504))
        with pytest.raises(BrokerUnavailable):
            await broker.submit(order())
        assert (server.requests[POST], server.orders_created) == (1, 0)
        with pytest.raises(OrderRejected):
            await broker.cancel("one")
        assert (await broker.submit(order())).status is OrderStatus.FILLED
        assert server.orders_created == 1
        assert await agrees(broker, server)


@pytest.mark.parametrize("status", [401, 403, 404, 408, 409, 418, 429, 500, 502, 503, 504])
async def test_a_status_alone_is_never_a_refusal(server: AlpacaServer, status: int) -> None:
    """Without a code from Alpaca's own table nobody knows whether the order exists."""
    async with trading(server) as broker:
        server.fail(Fault("status_before", POST, status=status))
        with pytest.raises(BrokerUnavailable):
            await broker.submit(order())
        assert server.requests[POST] == 1


@pytest.mark.parametrize("status", [401, 403, 429, 500, 504])
async def test_a_status_alone_is_never_an_empty_account(server: AlpacaServer, status: int) -> None:
    """A query that fails is an error for as long as it fails, and never an account that holds nothing."""
    async with trading(server, timeout_s=0.3) as broker:
        await broker.submit(order())
        server.fail(Fault("status_before", "GET", times=10_000, status=status))
        for query in (broker.account, broker.orders, broker.fills, broker.book):
            with pytest.raises(BrokerUnavailable):
                await query()


async def test_a_read_is_tried_again_within_its_deadline(server: AlpacaServer) -> None:
    """Reads that meet a 429, a 502 page and a reset come through."""
    async with trading(server) as broker:
        faults = [Fault("status_before", "GET /v2/account", status=429), Fault("html_before", "GET /v2/account", status=502)]
        server.fail(*faults, Fault("reset_before", "GET /v2/account"), Fault("truncated", "GET /v2/account"))
        assert (await broker.account()).cash == 100_000
        assert server.requests["GET /v2/account"] == 5


async def test_an_order_that_is_accepted_late_is_found(server: AlpacaServer) -> None:
    """A 504 comes at once and the order a while later: unknown, then there, once."""
    async with trading(server) as broker:
        server.fail(Fault("late", POST, seconds=0.3))
        with pytest.raises(BrokerUnavailable):
            await broker.submit(order())
        assert await broker.orders() == ()
        for _ in range(100):
            if server.orders_created:
                break
            await broker._clock.sleep(0.02)
        (state,) = await broker.orders()
        assert state.filled == 10
        assert await agrees(broker, server)


async def test_a_slow_answer_is_waited_for(server: AlpacaServer) -> None:
    """An answer within the deadline counts, however slow."""
    async with trading(server) as broker:
        server.fail(Fault("slow", POST, seconds=0.3))
        assert (await broker.submit(order())).status is OrderStatus.FILLED


async def test_the_same_order_sent_again_is_the_same_order(server: AlpacaServer) -> None:
    """Alpaca's complaint about the id is looked into: what it has is what was meant."""
    async with trading(server) as broker:
        await broker.submit(order(stop_loss=90, take_profit=120))
        again = await broker.submit(order(stop_loss=90, take_profit=120))
        assert (again.status, again.filled, server.orders_created) == (OrderStatus.FILLED, Decimal(10), 1)


@pytest.mark.parametrize("other", [{"quantity": 11}, {"side": Side.SELL}, {"limit_price": 99}, {"stop_loss": 90}])
async def test_another_order_with_the_same_id_is_refused(server: AlpacaServer, other: dict[str, object]) -> None:
    """An id that belongs to an order with other content is a duplicate, and never taken for that order."""
    async with trading(server) as broker:
        await broker.submit(order())
        with pytest.raises(OrderRejected) as refusal:
            await broker.submit(order(**other))  # type: ignore[arg-type]
        assert (refusal.value.code, server.orders_created) == ("duplicate_id", 1)


async def test_a_duplicate_that_is_not_shown_is_of_unknown_fate(server: AlpacaServer) -> None:
    """Alpaca says that it has the id and does not show the order: nobody knows."""
    async with trading(server) as broker:
        await broker.submit(order())
        server.freeze()
        server._frozen.venue.tickets.clear()  # type: ignore[union-attr]
        server.fail(Fault("stale", "GET /v2/orders:by_client"))
        with pytest.raises(BrokerUnavailable, match="does not show it"):
            await broker.submit(order())


async def test_each_refusal_of_the_table_is_a_rejection_with_its_code(server: AlpacaServer) -> None:
    """Too little money, too few shares, an unknown symbol, a price between two cents, trading suspended."""
    async with trading(server) as broker:
        codes = {}
        await broker.submit(order("held"))
        cases = {
            "money": order("money", quantity=1_000_000),
            "shares": order("shares", Side.SELL, 20),
            "symbol": order("symbol", symbol="NONE"),
            "penny": order("penny", limit_price="99.001"),
        }
        for name, bad in cases.items():
            with pytest.raises(OrderRejected) as refusal:
                await broker.submit(bad)
            codes[name] = refusal.value.code
        await broker.suspend()
        with pytest.raises(OrderRejected) as refusal:
            await broker.submit(order("suspended"))
        codes["suspended"] = refusal.value.code
        assert codes == {
            "money": "40310000",
            "shares": "40310000",
            "symbol": "42210000",
            "penny": "42210000",
            "suspended": "40310000",
        }
        await broker.resume()
        assert (await broker.submit(order("resumed"))).status is OrderStatus.FILLED


async def test_a_refusal_of_a_copy_is_no_refusal_of_the_order(server: AlpacaServer) -> None:
    """Something on the way sends the order twice and passes on the second answer: Alpaca is asked, and has it."""
    async with trading(server) as broker:
        expensive = order(quantity=1_500)
        server.act(lambda venue: None)
        first = {"client_order_id": "one", "symbol": "AAPL", "side": "buy", "qty": "1500", "type": "market"}
        server.api.answer("POST", "/v2/orders", {}, {**first, "time_in_force": "gtc"})
        server.venue.dedupe = False  # so that the copy is refused for want of money
        assert (await broker.submit(expensive)).filled == 1_500
        assert server.orders_created == 1


async def test_a_stale_snapshot_changes_nothing_that_is_known(server: AlpacaServer) -> None:
    """What a lagging replica says of orders and activities takes nothing back."""
    async with trading(server) as broker:
        server.act(lambda venue: setattr(venue, "liquidity", Decimal(4)))
        await broker.submit(order())
        server.freeze()
        server.act(lambda venue: setattr(venue, "liquidity", None))
        server.move("AAPL", 100)
        before = (await broker.orders(), await broker.fills())
        server.fail(*[Fault("stale", path, times=50) for path in ("GET /v2/orders", "GET /v2/account/activities")])
        assert (await broker.orders(), await broker.fills()) == before
        assert await broker.busts() == ()


async def test_another_accounts_reply_is_never_believed(server: AlpacaServer) -> None:
    """An account that is suddenly another one is an error."""
    async with trading(server) as broker:
        await broker.account()
        server.fail(Fault("other", "GET /v2/account"))
        with pytest.raises(BrokerUnavailable, match="another account"):
            await broker.account()


async def test_a_cancel_without_an_answer_is_of_unknown_fate(server: AlpacaServer) -> None:
    """A 504 to a cancel says nothing; asking again tells."""
    async with trading(server) as broker:
        await broker.submit(order(limit_price=90))
        server.fail(Fault("status_after", "DELETE"))
        with pytest.raises(BrokerUnavailable):
            await broker.cancel("one")
        assert (await broker.cancel("one")).status is OrderStatus.CANCELLED


async def test_a_cancel_that_is_not_done_yet_says_so(server: AlpacaServer) -> None:
    """An order that waits to be cancelled still works, and tells why."""
    async with trading(server, timeout_s=0.2) as broker:
        await broker.submit(order(limit_price=90))
        server.api.slow_cancel = True
        state = await broker.cancel("one")
        assert (state.status, state.reason) == (OrderStatus.WORKING, "the cancel is on its way")
        server.api.finish_cancels()
        assert (await broker.cancel("one")).status is OrderStatus.CANCELLED


async def test_alpaca_py_sends_an_order_again_on_504_and_we_do_not(server: AlpacaServer) -> None:
    """alpaca-py by itself makes two orders of a 504 that came after the order; through us it is one request and one order."""
    from alpaca.trading.client import TradingClient

    body = {"symbol": "AAPL", "side": "buy", "qty": "1", "type": "market", "time_in_force": "day"}
    bare = TradingClient(server.key, server.secret, url_override=server.url)
    bare._retry_wait = 0
    server.fail(Fault("status_after", POST))
    bare.post("/orders", body)
    bare._session.close()
    assert server.orders_created == 2
    async with trading(server) as broker:
        server.fail(Fault("status_after", POST))
        with pytest.raises(BrokerUnavailable):
            await broker.submit(order())
    assert (server.orders_created, server.requests[POST]) == (3, 3)


async def test_alpaca_py_cannot_name_an_html_502_and_we_can(server: AlpacaServer) -> None:
    """The SDK's error raises a JSONDecodeError when it is asked for its code; ours is unknown fate with the status."""
    async with trading(server) as broker:
        server.fail(Fault("html_after", POST, status=502))
        with pytest.raises(BrokerUnavailable, match="HTTP 502"):
            await broker.submit(order())


async def test_alpaca_py_has_no_timeout_and_we_have(server: AlpacaServer) -> None:
    """A server that never answers, and one that answers a byte at a time, are given up at the deadline; threads end."""
    for kind, seconds in (("hang_before", 0.0), ("trickle", 0.1)):
        broker = Alpaca(server.key, server.secret, url=server.url, timeout_s=0.3, stream=False)
        server.fail(Fault(kind, "GET /v2/account", times=99, seconds=seconds))  # type: ignore[arg-type]
        began = broker._clock.monotonic()
        with pytest.raises(BrokerUnavailable):
            await broker.account()
        assert broker._clock.monotonic() - began < 20
        await broker.close()
        server.heal()
    for _ in range(200):
        if not [t for t in threading.enumerate() if t.name.startswith("agentfund-alpaca_")]:
            break
        await broker._clock.sleep(0.02)
    assert not [t for t in threading.enumerate() if t.name.startswith("agentfund-alpaca_")]


async def test_an_order_that_waits_for_a_thread_is_not_sent_after_its_time(server: AlpacaServer) -> None:
    """All threads hang: the order's fate is unknown, and it does not leave later when nobody expects it any more."""
    async with trading(server, timeout_s=1.0) as broker:
        server.fail(Fault("hang_before", "GET", times=99))
        hanging = [asyncio.ensure_future(broker._line.ask("/clock")) for _ in range(4)]
        await asyncio.sleep(0.1)
        waiting = asyncio.ensure_future(broker.submit(order()))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.gather(waiting, *hanging, return_exceptions=True)
        await asyncio.sleep(0.5)
        assert server.requests[POST] == 0


async def test_too_many_requests_are_answered_and_never_a_storm(server: AlpacaServer) -> None:
    """Within its deadline a read is tried a few times with growing pauses, and no more."""
    async with trading(server, timeout_s=1.0) as broker:
        server.rate = 0
        with pytest.raises(BrokerUnavailable, match="429"):
            await broker.orders()
        assert sum(server.requests.values()) < 30


async def test_money_goes_out_to_the_last_digit(server: AlpacaServer) -> None:
    """Prices and quantities are strings on the wire: no float rounds them."""
    async with trading(server, time_in_force="day") as broker:
        price = Decimal("0.1") + Decimal("0.2")
        await broker.submit(order(quantity=Decimal("0.123456789"), limit_price=price))
        (ticket,) = server.venue.tickets
        assert (ticket.qty, ticket.limit_price) == (Decimal("0.123456789"), Decimal("0.3"))
        assert (ticket.tif, str(ticket.limit_price)) == ("day", "0.3")


async def test_no_key_is_in_an_error_or_a_repr(server: AlpacaServer) -> None:
    """Neither words nor what hangs on an error hold a key."""
    async with trading(server, timeout_s=0.3) as broker:
        for kind in LOST[:4]:
            server.fail(Fault(kind, times=99))
            with pytest.raises(BrokerUnavailable) as error:
                await broker.submit(order())
            server.heal()
            text = "".join(traceback.format_exception(error.value)) + repr(broker)
            found: BaseException | None = error.value
            while found is not None:
                text += repr(vars(found)) + str(getattr(getattr(found, "request", None), "headers", ""))
                found = found.__context__
            assert server.secret not in text
            assert server.key not in text


async def test_wrong_keys_say_so(server: AlpacaServer) -> None:
    """The message names the fix."""
    async with Alpaca("PKWRONG00000", "wrong-secret-00000", url=server.url, stream=False) as broker:
        with pytest.raises(BrokerUnavailable, match="paper keys go with paper=True"):
            await broker.account()


def test_what_cannot_work_is_refused_when_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys, a url that would send them in clear, a paper that is no truth value."""
    monkeypatch.delenv("APCA_API_KEY_ID", raising=False)
    monkeypatch.delenv("APCA_API_SECRET_KEY", raising=False)
    with pytest.raises(ConfigError, match="APCA_API_KEY_ID"):
        Alpaca()
    monkeypatch.setenv("APCA_API_KEY_ID", "PKENVIRONMENT")
    monkeypatch.setenv("APCA_API_SECRET_KEY", "secret-of-the-environment")
    assert repr(Alpaca()) == "<Alpaca paper account>"
    assert repr(Alpaca(paper=False)) == "<Alpaca LIVE account>"
    with pytest.raises(ConfigError, match="https"):
        Alpaca(url="http://example.com")
    with pytest.raises(ConfigError, match="paper"):
        Alpaca(paper="yes")  # type: ignore[arg-type]
