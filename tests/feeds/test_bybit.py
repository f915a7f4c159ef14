"""What Bybit alone does; what it shares with the others is in test_wire_stream.py and test_wire_history.py."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agentfund.clock import SimulatedClock
from agentfund.errors import BadData, ConfigError, FeedError
from agentfund.feeds.bybit import Bybit
from agentfund.market import Alive, Bar, Quote, Tick
from agentfund.testing.exchanges import BybitWire, ExchangeServer, HandClock, Page
from tests.feeds.wires import MINUTE, START, Listening, candle, source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TRADE = {
    "T": 1714521600865, "s": "BTCUSDT", "S": "Buy", "v": "0.001", "p": "16578.50", "L": "PlusTick",
    "i": "20f43950-d8dd-5b31-9112-a178eb6023af", "BT": False,
}  # fmt: skip
CANDLE = {
    "start": 1714521600000, "end": 1714521659999, "interval": "1", "open": "16987.5", "close": "16987.7",
    "high": "16988", "low": "16987.1", "volume": "23.511", "turnover": "399396.344", "confirm": True,
    "timestamp": 1714521660014,
}  # fmt: skip
ROW = ["1714521600000", "49592.43", "49644.91", "49342.37", "49349.42", "1451.59", "2.4343353100000003"]


@pytest.fixture
async def server() -> AsyncIterator[ExchangeServer]:
    async with ExchangeServer(BybitWire()) as server:
        server.shop.now = START + timedelta(days=1)
        yield server


def trades(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"topic": "publicTrade.BTCUSDT", "type": "snapshot", "ts": 1714521600868, "data": list(rows)}


def candles(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"topic": "kline.1.BTCUSDT", "type": "snapshot", "ts": 1714521660015, "data": list(rows)}


async def test_ten_topics_go_into_a_message(server: ExchangeServer) -> None:
    """The exchange takes no more about the spot market."""
    server.shop.pairs = tuple((f"C{at}", "USDT") for at in range(12))
    clock = HandClock(START)
    listening = Listening(
        source("bybit", server, *(f"C{at}/USDT" for at in range(12)), candles=timedelta(hours=2), quotes=True, clock=clock)
    )
    for count in (10, 20, 24):
        await server.subscribed(count)
        await clock.sleeping(0.1 if count < 24 else 20)
        clock.advance(0.1)
    sent = [json.loads(text) for text in server.heard]
    assert [(each["op"], len(each["args"])) for each in sent] == [("subscribe", 10), ("subscribe", 10), ("subscribe", 4)]
    assert sent[0]["args"][:2] == ["kline.120.C0USDT", "orderbook.1.C0USDT"]
    await listening.stop()


async def test_all_trades_of_a_message_are_given(server: ExchangeServer) -> None:
    """In order; one that is told again in the next message is not."""
    listening = Listening(source("bybit", server))
    await server.subscribed()
    await server.say(trades(TRADE | {"i": "a", "p": "1"}, TRADE | {"i": "b", "p": "2"}))
    await server.say(trades(TRADE | {"i": "b", "p": "2"}, TRADE | {"i": "c", "p": "3"}))
    assert [tick.price for tick in await listening.first(3) if isinstance(tick, Tick)] == [1, 2, 3]
    await listening.stop()


async def test_the_exchanges_clock_is_passed_on(server: ExchangeServer) -> None:
    """An unfinished candle and one kind of pong tell its time, however far it is from ours."""
    server.shop.now = START + timedelta(hours=5, milliseconds=7)
    listening = Listening(source("bybit", server, candles=MINUTE, clock=HandClock(START)))
    await server.subscribed()
    await server.candle("BTC/USDT", candle(0), closed=False)
    await server.say({"req_id": "ping-1", "op": "pong", "args": ["1714521600123"], "conn_id": "d266"})
    assert await listening.first(2) == [
        Alive(START + timedelta(hours=5, milliseconds=7)),
        Alive(START + timedelta(milliseconds=123)),
    ]
    await listening.stop()


async def test_the_ping_is_the_exchanges_own(server: ExchangeServer) -> None:
    """A text, every twenty seconds."""
    clock = HandClock(START)
    listening = Listening(source("bybit", server, clock=clock))
    await server.subscribed()
    await clock.sleeping(20)
    clock.advance(19.9)
    clock.advance(0.2)
    await listening.first(1)
    assert json.loads(server.heard[-1]) == {"req_id": "ping-1", "op": "ping"}
    await listening.stop()


async def test_best_prices_follow_snapshots_and_changes(server: ExchangeServer) -> None:
    """A change sets or takes away a price; a snapshot begins anew."""

    def book(kind: str, bids: list[Any], asks: list[Any]) -> dict[str, Any]:
        return {
            "topic": "orderbook.1.BTCUSDT",
            "type": kind,
            "ts": 1714521600000,
            "data": {"s": "BTCUSDT", "b": bids, "a": asks},
        }

    listening = Listening(source("bybit", server, quotes=True))
    await server.subscribed(2)
    await server.say(book("snapshot", [["100", "1"]], [["101", "2"]]))
    await server.say(book("delta", [["100", "0"], ["99.5", "4"]], []))
    await server.say(book("delta", [], [["101", "0"]]))
    await server.say(book("snapshot", [], [["102", "1"]]))
    expected = [(100, 101), (99.5, 101), (99.5, None), (None, 102)]
    assert await listening.first(4) == [Quote("BTC/USDT", bid, ask, None, START) for bid, ask in expected]
    await listening.stop()
    await server.left()
    listening = Listening(source("bybit", server, quotes=True))
    await server.subscribed(2)
    await server.say(book("delta", [["100", "1"]], []))
    with pytest.raises(BadData, match="a snapshot was expected first"):
        await listening.end()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"success": False, "ret_msg": "error:handler not found,topic:publicTrade.BTCUSDT", "op": "subscribe"}, "'BTC/USDT'"),
        ({"success": False, "ret_msg": "error:invalid op", "req_id": "x"}, "a request: error:invalid op"),
        ({"retCode": 10404, "retMsg": "op type is not found", "op": "x"}, "op type is not found"),
        ({"success": True, "op": "subscribe", "data": {"failTopics": ["publicTrade.BTCUSDT"]}}, "'BTC/USDT'"),
    ],
)
async def test_a_refusal_is_an_error(server: ExchangeServer, said: dict[str, Any], why: str) -> None:
    """In every form, with the symbol where the exchange names it, which no reconnect mends."""
    listening = Listening(source("bybit", server))
    await server.subscribed()
    await server.say(said)
    with pytest.raises(ConfigError if "BTC" in why else FeedError, match=f"bybit refused .*{why}.*correct the symbols"):
        await listening.end()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"end": 1714521660000}, "'end'"),
        ({"interval": "5"}, "'end'"),
        ({"confirm": "true"}, "'confirm'"),
        ({"open": None}, "'open'"),
        ({"volume": "-1"}, "'volume'"),
        ({"start": 1714521600}, "'start'"),
        ({"high": "1"}, "'high'"),
    ],
)
async def test_a_candle_of_another_shape_is_bad_data(server: ExchangeServer, change: dict[str, Any], field: str) -> None:
    """Each field is checked."""
    listening = Listening(source("bybit", server, candles=MINUTE))
    await server.subscribed()
    await server.say(candles(CANDLE | change))
    with pytest.raises(BadData, match=rf"bybit, kline\.1\.BTCUSDT, field {field}"):
        await listening.end()


@pytest.mark.parametrize("topic", ["kline.5.BTCUSDT", "kline.BTCUSDT", "kline.1.ETHUSDT", "kline..", "publicTrade."])
async def test_what_nobody_subscribed_to_is_an_error(server: ExchangeServer, topic: str) -> None:
    """A candle of another length would be a wrong bar."""
    listening = Listening(source("bybit", server, candles=MINUTE))
    await server.subscribed()
    await server.say(candles(CANDLE) | {"topic": topic})
    with pytest.raises(FeedError, match=f"bybit, {topic}"):
        await listening.end()


@pytest.mark.parametrize("field", ["s", "i", "p", "v", "T"])
async def test_a_trade_without_a_field_is_bad_data(server: ExchangeServer, field: str) -> None:
    """The missing field is named."""
    listening = Listening(source("bybit", server))
    await server.subscribed()
    await server.say(trades({name: value for name, value in TRADE.items() if name != field}))
    with pytest.raises(BadData, match=rf"bybit, publicTrade\.BTCUSDT, field '{field}': it is missing"):
        await listening.end()


async def test_a_limit_that_is_told_with_status_200_is_kept(server: ExchangeServer) -> None:
    """The exchange says it in the body; after a second it is asked again."""
    server.hold("BTC/USDT", [candle(at) for at in range(5)])
    limited = Page(200, {"retCode": 10006, "retMsg": "Too many visits. Exceeded the API Rate Limit.", "result": {}, "time": 1})
    server.refusals = [limited, limited]
    clock = SimulatedClock(START)
    bars = await source("bybit", server, clock=clock).history("BTC/USDT", MINUTE, START, START + 3 * MINUTE)
    assert len(bars) == 3
    assert clock.now() >= START + timedelta(seconds=2)
    server.refusals = [limited] * 40
    with pytest.raises(FeedError, match="bybit was asked too much at /v5/market/kline"):
        await source("bybit", server, clock=clock).history("BTC/USDT", MINUTE, START, START + 3 * MINUTE)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"symbol": "ETHUSDT"}, "BTCUSDT was asked for"),
        ({"status": "PreLaunch"}, r"does not trade 'BTC/USDT' now \(status PreLaunch\)"),
        ({"priceFilter": {"tickSize": "0"}}, "a price must be above zero"),
        ({"lotSizeFilter": None}, "an object was expected"),
    ],
)
async def test_an_instrument_that_cannot_be_is_an_error(server: ExchangeServer, change: dict[str, Any], why: str) -> None:
    """No step is made up."""
    row = {"symbol": "BTCUSDT", "quoteCoin": "USDT", "status": "Trading", "priceFilter": {"tickSize": "0.01"}}
    row |= {"lotSizeFilter": {"basePrecision": "0.000001"}} | change
    server.refusals = [Page(200, {"retCode": 0, "retMsg": "OK", "result": {"list": [row]}, "time": 1714521600000})]
    with pytest.raises(FeedError, match=why):
        await Bybit.find(["BTC/USDT"], rest_url=server.rest_url)


async def test_ccxt_reads_the_same(server: ExchangeServer) -> None:
    """A trade, a candle and a row of the past, as an independent parser reads them."""
    pro = pytest.importorskip("ccxt.pro").bybit()
    listening = Listening(source("bybit", server))
    await server.subscribed()
    await server.say(trades(TRADE))
    (tick,) = await listening.first(1)
    await listening.stop()
    theirs = pro.parse_ws_trade(TRADE)
    assert isinstance(tick, Tick)
    assert (tick.price, tick.volume, tick.time.timestamp() * 1000) == (theirs["price"], theirs["amount"], theirs["timestamp"])
    listening = Listening(source("bybit", server, candles=MINUTE))
    await server.subscribed()
    await server.say(candles(CANDLE))
    (live,) = await listening.first(1)
    await listening.stop()
    assert isinstance(live, Bar)
    assert [live.start.timestamp() * 1000, *live[3:]] == pro.parse_ws_ohlcv(CANDLE)
    body = {"retCode": 0, "retMsg": "OK", "result": {"list": [ROW]}, "time": 1714608000000}
    server.refusals = [Page(200, body)]
    (bar,) = await source("bybit", server).history("BTC/USDT", MINUTE, START, START + MINUTE)
    assert [bar.start.timestamp() * 1000, *bar[3:]] == pro.parse_ohlcv(ROW)


def test_it_shows_its_symbols() -> None:
    """And nothing else."""
    assert repr(Bybit(["BTC/USDT", "ETH/USDT"])) == "<Bybit: BTC/USDT, ETH/USDT>"
    assert Bybit(["BTC/USDT"]).name == "bybit"
