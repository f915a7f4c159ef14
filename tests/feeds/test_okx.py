"""What OKX alone does; what it shares with the others is in test_wire_stream.py and test_wire_history.py."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agentfund.clock import SimulatedClock
from agentfund.errors import BadData, ConfigError, FeedError
from agentfund.feeds.okx import OKX
from agentfund.market import Alive, Bar, Quote, Tick
from agentfund.testing.exchanges import ExchangeServer, HandClock, OkxWire, Page, Reply
from tests.feeds.wires import MINUTE, START, Listening, candle, source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from agentfund.testing.exchanges.market import Shop

TRADE = {
    "instId": "BTC-USDT", "tradeId": "216970876", "px": "31684.5", "sz": "0.00001186", "side": "buy", "ts": "1714521600288",
}  # fmt: skip
ROW = ["1714521600000", "24341.4", "24344", "24313.2", "24323", "628", "2.5819", "62800", "1"]


@pytest.fixture
async def server() -> AsyncIterator[ExchangeServer]:
    async with ExchangeServer(OkxWire()) as server:
        server.shop.now = START + timedelta(days=1)
        yield server


def message(channel: str, *rows: Any, known: str = "BTC-USDT") -> dict[str, Any]:
    return {"arg": {"channel": channel, "instId": known}, "data": list(rows)}


async def test_trades_and_quotes_share_a_connection_and_candles_have_another(server: ExchangeServer) -> None:
    """The exchange has candles at /business, and everything else at /public."""
    listening = Listening(source("okx", server, "BTC/USDT", quotes=True))
    await server.subscribed(2)
    assert server.clients == 1
    args = [{"channel": each, "instId": "BTC-USDT"} for each in ("trades", "bbo-tbt")]
    assert [json.loads(text) for text in server.heard] == [{"op": "subscribe", "args": args}]
    await listening.stop()
    await server.left()
    listening = Listening(source("okx", server, "BTC/USDT", candles=timedelta(days=1), quotes=True))
    await server.subscribed(2)
    assert server.clients == 2
    assert sorted(server.topics) == ["bbo-tbt:BTC-USDT", "candle1Dutc:BTC-USDT"]
    await listening.stop()
    await server.left()


async def test_of_two_connections_one_that_ends_ends_both(server: ExchangeServer) -> None:
    """Half of the data would look like all of it."""
    for end in ("close", "cut", "wrong"):
        listening = Listening(source("okx", server, candles=MINUTE, quotes=True))
        await server.subscribed(2)
        await server.best("BTC/USDT", "1", "2")
        await server.candle("BTC/USDT", candle(0), closed=True)
        assert {type(each) for each in await listening.first(2)} == {Quote, Bar}
        first = next(iter(server._clients))
        if end == "close":
            await first.close()
            await listening.end()
        else:
            if end == "cut":
                first.transport.abort()
            else:
                await first.send("{}")
            with pytest.raises(FeedError, match="okx"):
                await listening.end()
        await server.left()


async def test_where_the_second_connection_is_refused_the_first_is_closed() -> None:
    """At once, and not when somebody happens to collect it."""

    class HalfOpen(OkxWire):
        def hear(self, text: str, path: str, topics: Sequence[str], shop: Shop) -> Reply:
            return super().hear(text, "/public", topics, shop)

    async with ExchangeServer(HalfOpen()) as server:
        listening = Listening(source("okx", server, candles=MINUTE, quotes=True))
        with pytest.raises(ConfigError, match=r"okx refused the subscription to 'BTC/USDT' with code 60018") as caught:
            await listening.end()
        assert "okx-pings" not in {task.get_name() for task in asyncio.all_tasks()}, caught
        await server.left()


async def test_the_ping_is_a_text(server: ExchangeServer) -> None:
    """The exchange knows no ping frames; it answers with a text too."""
    clock = HandClock(START)
    listening = Listening(source("okx", server, clock=clock))
    await server.subscribed()
    await clock.sleeping(20)
    clock.advance(20)
    assert await listening.first(1) == [Alive()]
    assert server.heard[-1] == "ping"
    await listening.stop()


@pytest.mark.parametrize(
    "said",
    [
        {"event": "notice", "code": "64008", "msg": "The connection will soon be closed for a service upgrade.", "connId": "a"},
        {"event": "channel-conn-count", "channel": "trades", "connCount": "1", "connId": "a"},
    ],
)
async def test_news_of_the_connection_are_signs_of_life(server: ExchangeServer, said: dict[str, Any]) -> None:
    """What has to follow, the exchange does by itself."""
    listening = Listening(source("okx", server))
    await server.subscribed()
    await server.say(said)
    assert await listening.first(1) == [Alive()]
    await listening.stop()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"event": "error", "code": "60012", "msg": "Illegal request: {}"}, "a subscription with code 60012"),
        (
            {"event": "error", "code": "60018", "msg": "channel:trades,instId:BTC-USDT doesn't exist"},
            "the subscription to 'BTC/USDT' with code 60018",
        ),
        ({"event": "channel-conn-count-error", "channel": "trades", "connCount": "30"}, "close other connections"),
        ({"event": "login", "code": "0"}, "an event of an unknown kind"),
    ],
)
async def test_a_refusal_is_an_error(server: ExchangeServer, said: dict[str, Any], why: str) -> None:
    """With the symbol where the exchange names it; what no reconnect mends is the user's to mend."""
    listening = Listening(source("okx", server))
    await server.subscribed()
    await server.say(said)
    with pytest.raises(ConfigError if "code 600" in why else FeedError, match=f"okx .*{why}"):
        await listening.end()


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ([*ROW[:8], "2"], "field 8"),
        ([*ROW[:8], 1], "field 8"),
        (ROW[:7], "field 8"),
        (["1714521600", *ROW[1:]], "field 0"),
        ([ROW[0], "x", *ROW[2:]], "field 1"),
        ([*ROW[:5], "-1", *ROW[6:]], "field 5"),
        ({"ts": 1}, "field 8"),
        ("row", "an object was expected"),
    ],
)
async def test_a_candle_of_another_shape_is_bad_data(server: ExchangeServer, row: Any, field: str) -> None:
    """Each field is checked."""
    listening = Listening(source("okx", server, candles=MINUTE))
    await server.subscribed()
    await server.say(message("candle1m", row))
    with pytest.raises(BadData, match=f"okx, candle1m.*{field}"):
        await listening.end()


@pytest.mark.parametrize("field", ["instId", "tradeId", "px", "sz", "ts"])
async def test_a_trade_without_a_field_is_bad_data(server: ExchangeServer, field: str) -> None:
    """The missing field is named."""
    listening = Listening(source("okx", server))
    await server.subscribed()
    await server.say(message("trades", {name: value for name, value in TRADE.items() if name != field}))
    with pytest.raises(BadData, match=f"okx, trades, field '{field}': it is missing"):
        await listening.end()


@pytest.mark.parametrize(
    "said",
    [
        message("trades", TRADE | {"instId": "ETH-USDT"}),
        message("trades", TRADE, known="ETH-USDT"),
        message("candle5m", ROW),
        message("books", {}),
        {"arg": "trades", "data": []},
        {"arg": {"channel": "trades", "instId": "BTC-USDT"}, "data": {}},
    ],
)
async def test_what_nobody_subscribed_to_is_an_error(server: ExchangeServer, said: dict[str, Any]) -> None:
    """A trade of another instrument would be a wrong price."""
    listening = Listening(source("okx", server, candles=None))
    await server.subscribed()
    await server.say(said)
    with pytest.raises(FeedError, match="okx"):
        await listening.end()
    assert listening.heard == []


async def test_the_newest_candles_come_from_where_they_are_first(server: ExchangeServer) -> None:
    """A gap of minutes is filled at once; what is older comes from the archive."""
    server.hold("BTC/USDT", [candle(at) for at in range(3000)])
    server.shop.now = START + 3000 * MINUTE
    clock = SimulatedClock(server.shop.now)
    bars = await source("okx", server, clock=clock).history("BTC/USDT", MINUTE, START, START + 3000 * MINUTE)
    assert [bar.start for bar in bars] == [START + at * MINUTE for at in range(3000)]
    paths = [path.rsplit("/", 1)[-1] for path, _ in server.asked]
    assert paths == ["history-candles"] * 6 + ["candles"] * 5
    assert clock.now() - server.shop.now == 10 * timedelta(seconds=0.11)


async def test_a_limit_that_is_told_in_the_body_is_kept(server: ExchangeServer) -> None:
    """With status 200 or 429."""
    server.hold("BTC/USDT", [candle(at) for at in range(5)])
    body = {"code": "50011", "msg": "Too Many Requests", "data": []}
    server.refusals = [Page(200, body), Page(429, body)]
    clock = SimulatedClock(START)
    bars = await source("okx", server, clock=clock).history("BTC/USDT", MINUTE, START, START + 3 * MINUTE)
    assert len(bars) == 3
    assert clock.now() >= START + timedelta(seconds=2)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"instId": "ETH-USDT"}, "BTC-USDT was asked for"),
        ({"state": "suspend"}, r"does not trade 'BTC/USDT' now \(state suspend\)"),
        ({"tickSz": ""}, "a number in quotes was expected"),
        ({"lotSz": "0"}, "a price must be above zero"),
    ],
)
async def test_an_instrument_that_cannot_be_is_an_error(server: ExchangeServer, change: dict[str, Any], why: str) -> None:
    """No step is made up."""
    row = {"instId": "BTC-USDT", "quoteCcy": "USDT", "state": "live", "tickSz": "0.1", "lotSz": "0.00000001"} | change
    server.refusals = [Page(200, {"code": "0", "msg": "", "data": [row]})]
    with pytest.raises(FeedError, match=why):
        await OKX.find(["BTC/USDT"], rest_url=server.rest_url)


async def test_ccxt_reads_the_same(server: ExchangeServer) -> None:
    """A trade, a candle and a row of the past, as an independent parser reads them."""
    pro = pytest.importorskip("ccxt.pro").okx()
    listening = Listening(source("okx", server))
    await server.subscribed()
    await server.say(message("trades", TRADE))
    (tick,) = await listening.first(1)
    await listening.stop()
    theirs = pro.parse_trade(TRADE)
    assert isinstance(tick, Tick)
    assert (tick.price, tick.volume, tick.time.timestamp() * 1000) == (theirs["price"], theirs["amount"], theirs["timestamp"])
    read = pro.parse_ohlcv(ROW, {"type": "spot", "spot": True})
    listening = Listening(source("okx", server, candles=MINUTE))
    await server.subscribed()
    await server.say(message("candle1m", ROW))
    (live,) = await listening.first(1)
    await listening.stop()
    assert isinstance(live, Bar)
    assert [live.start.timestamp() * 1000, *live[3:]] == read
    server.refusals = [Page(200, {"code": "0", "msg": "", "data": [ROW]})]
    (bar,) = await source("okx", server).history("BTC/USDT", MINUTE, START, START + MINUTE)
    assert bar == live


def test_it_shows_its_symbols() -> None:
    """And nothing else."""
    assert repr(OKX(["BTC/USDT", "ETH/USDT"])) == "<OKX: BTC/USDT, ETH/USDT>"
    assert OKX(["BTC/USDT"]).name == "okx"


async def test_too_many_connections_are_final_for_a_source_that_was_never_connected(server: ExchangeServer) -> None:
    """They are other programs'; later one's own dead connection may be among them, and that passes."""
    said = {"event": "channel-conn-count-error", "channel": "trades", "connCount": "30"}
    made = source("okx", server)
    for kind in (ConfigError, FeedError):
        server.mute = True
        listening = Listening(made)
        while not server.clients:
            await asyncio.sleep(0.001)
        await server.say(said)
        with pytest.raises(kind, match="close other connections"):
            await listening.end()
        server.mute = False
        await server.left()
        listening = Listening(made)
        await server.subscribed()
        await server.trade("BTC/USDT", "1", "100", "1")
        await listening.first(1)
        await listening.stop()
        await server.left()
