"""What Binance alone does; what it shares with the others is in test_wire_stream.py and test_wire_history.py."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agentfund.errors import BadData, ConfigError, FeedError
from agentfund.feeds.binance import Binance
from agentfund.market import Alive, Bar, Quote, Tick
from agentfund.testing.exchanges import BinanceWire, ExchangeServer, HandClock, Page
from tests.feeds.wires import MINUTE, START, Listening, candle, source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TRADE = {
    "e": "trade", "E": 1714521600001, "s": "BTCUSDT", "t": 158410082, "p": "0.01914100", "q": "0.00700000",
    "T": 1714521600000, "m": False, "M": True,
}  # fmt: skip
ROW = [
    1714521600000, "0.02501300", "0.02501800", "0.02500000", "0.02500100", "22.19000000", 1714521659999, "0.55490906",
    40, "10.92900000", "0.27336462", "0",
]  # fmt: skip
KLINE = {
    "t": 1714521600000, "T": 1714521659999, "s": "BTCUSDT", "i": "1m", "f": 1, "L": 2, "o": "0.01913200",
    "c": "0.01913500", "h": "0.01913700", "l": "0.01913100", "v": "5.08400000", "n": 16, "x": True, "q": "0.09728060",
    "V": "3.30200000", "Q": "0.06318500", "B": "0",
}  # fmt: skip


@pytest.fixture
async def server() -> AsyncIterator[ExchangeServer]:
    async with ExchangeServer(BinanceWire()) as server:
        server.shop.now = START + timedelta(days=1)
        yield server


async def test_the_subscription_is_one_message(server: ExchangeServer) -> None:
    """As the exchange documents it, with names in small letters."""
    listening = Listening(source("binance", server, "BTC/USDT", "ETH/USDT", candles=timedelta(hours=4), quotes=True))
    await server.subscribed(4)
    assert [json.loads(text) for text in server.heard] == [
        {
            "method": "SUBSCRIBE",
            "params": ["btcusdt@kline_4h", "btcusdt@bookTicker", "ethusdt@kline_4h", "ethusdt@bookTicker"],
            "id": 1,
        }
    ]
    await listening.stop()


async def test_many_subscriptions_keep_to_the_exchanges_pace(server: ExchangeServer) -> None:
    """A hundred streams in a message, which stays below four kilobytes with the longest names; four messages a second."""
    server.shop.pairs = tuple((f"AVERYLONGNAME{at:03}", "USDT") for at in range(250))
    clock = HandClock(START)
    listening = Listening(source("binance", server, *("/".join(pair) for pair in server.shop.pairs), clock=clock))
    for count in (100, 200, 250):
        await server.subscribed(count)
        assert len(server.topics) == count
        await clock.sleeping(0.25 if count < 250 else 20)
        clock.advance(0.25)
    assert [len(json.loads(text)["params"]) for text in server.heard] == [100, 100, 50]
    await listening.stop()


async def test_symbols_are_checked_once(server: ExchangeServer) -> None:
    """The websocket confirms what does not exist, so the REST API is asked: at the first connection."""
    made = source("binance", server)
    for _ in range(3):
        listening = Listening(made)
        await server.subscribed()
        await listening.stop()
        await server.left()
    assert server.asked == [("/api/v3/exchangeInfo", {"symbols": '["BTCUSDT"]'})]


async def test_no_rest_api_no_connection(server: ExchangeServer) -> None:
    """Whether a symbol exists cannot be known then; the next connection asks again."""
    clock = HandClock(START)
    made = source("binance", server, clock=clock)
    server.refusals = [Page(503, b"")] * 40
    listening = Listening(made)
    while not listening.task.done():
        clock.advance(5)
        await asyncio.sleep(0.005)
    with pytest.raises(FeedError, match="HTTP status 503"):
        await listening.end()
    assert not server.heard
    server.refusals = []
    listening = Listening(made)
    await server.subscribed()
    await listening.stop()


async def test_a_symbol_that_is_halted_is_named(server: ExchangeServer) -> None:
    """It would be silent for ever."""
    halted = {"symbol": "BTCUSDT", "status": "BREAK", "quoteAsset": "USDT", "filters": []}
    server.refusals = [Page(200, {"symbols": [halted]})]
    with pytest.raises(FeedError, match=r"does not trade 'BTC/USDT' now \(status BREAK\): wait or leave it out"):
        await Binance.find(["BTC/USDT"], rest_url=server.rest_url)


@pytest.mark.parametrize(
    "filters",
    [[], [{"filterType": "PRICE_FILTER", "tickSize": "0.00000000"}, {"filterType": "LOT_SIZE", "stepSize": "1"}], [5]],
)
async def test_steps_that_cannot_be_are_bad_data(server: ExchangeServer, filters: list[Any]) -> None:
    """No step is made up."""
    server.refusals = [
        Page(200, {"symbols": [{"symbol": "BTCUSDT", "status": "TRADING", "quoteAsset": "USDT", "filters": filters}]})
    ]
    with pytest.raises(BadData, match=r"binance, (PRICE_FILTER|LOT_SIZE)"):
        await Binance.find(["BTC/USDT"], rest_url=server.rest_url)


async def test_a_symbol_that_is_left_out_of_the_answer_is_named(server: ExchangeServer) -> None:
    """Silence is no consent."""
    server.refusals = [Page(200, {"symbols": []})]
    with pytest.raises(ConfigError, match="does not trade 'BTC/USDT': correct the symbol"):
        await Binance.find(["BTC/USDT"], rest_url=server.rest_url)


async def test_a_subscription_that_was_dropped_is_noticed(server: ExchangeServer) -> None:
    """The ping asks what is subscribed to: a stream that was lost would be silent for ever."""
    clock = HandClock(START)
    listening = Listening(source("binance", server, clock=clock))
    await server.subscribed()
    server.forget()
    await clock.sleeping(20)
    clock.advance(20)
    with pytest.raises(FeedError, match="binance has dropped the subscription to btcusdt@trade; connect again"):
        await listening.end()


@pytest.mark.parametrize(
    "said",
    [
        {"error": {"code": 2, "msg": "Invalid request: invalid stream"}, "id": 99},
        {"code": 3, "msg": "Invalid JSON: expected value at line 1 column 1"},
        {"id": 1},
    ],
)
async def test_a_refusal_is_an_error(server: ExchangeServer, said: dict[str, Any]) -> None:
    """In both forms in which the exchange refuses."""
    listening = Listening(source("binance", server))
    await server.subscribed()
    await server.say(said)
    final = "Invalid" in str(said)
    with pytest.raises(ConfigError if final else FeedError, match=r"binance refused the subscription.*; correct the symbols"):
        await listening.end()


async def test_an_answer_that_nobody_asked_for_is_an_error(server: ExchangeServer) -> None:
    """It may be that of somebody else."""
    listening = Listening(source("binance", server))
    await server.subscribed()
    await server.say({"result": None, "id": 77})
    with pytest.raises(BadData, match="nobody asked for this answer"):
        await listening.end()


async def test_the_exchanges_clock_is_passed_on(server: ExchangeServer) -> None:
    """An unfinished candle and the news of a shutdown tell its time, however far it is from ours."""
    server.shop.now = START + timedelta(hours=5, milliseconds=7)
    listening = Listening(source("binance", server, candles=MINUTE, clock=HandClock(START)))
    await server.subscribed()
    await server.candle("BTC/USDT", candle(0), closed=False)
    await server.say({"e": "serverShutdown", "E": 1714521600123})
    assert await listening.first(2) == [
        Alive(START + timedelta(hours=5, milliseconds=7)),
        Alive(START + timedelta(milliseconds=123)),
    ]
    await listening.stop()


async def test_a_quote_has_the_time_of_its_arrival(server: ExchangeServer) -> None:
    """The exchange tells none with it: by our clock, or by the exchange's as a trade has told it."""
    clock = HandClock(START)
    server.shop.now = START - timedelta(minutes=10)
    listening = Listening(source("binance", server, quotes=True, clock=clock))
    await server.subscribed(2)
    clock.advance(3)
    await server.best("BTC/USDT", "1.5", "1.75")
    await server.trade("BTC/USDT", "1", "1.5", "1")
    await listening.first(2)
    clock.advance(4)
    await server.best("BTC/USDT", "1.5", "1.75")
    quotes = [each for each in await listening.first(3) if isinstance(each, Quote)]
    assert [quote.time - START for quote in quotes] == [timedelta(seconds=3), timedelta(minutes=-10, seconds=4)]
    await listening.stop()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"T": 1714521660000}, "'T'"),
        ({"i": "5m"}, "'i'"),
        ({"x": "true"}, "'x'"),
        ({"o": None}, "'o'"),
        ({"s": "ETHUSDT"}, "ETHUSDT"),
        ({"v": "-1"}, "'v'"),
        ({"t": 1714521600}, "'t'"),
        ({"h": "0.019"}, "'h'"),
    ],
)
async def test_a_candle_of_another_shape_is_bad_data(server: ExchangeServer, change: dict[str, Any], field: str) -> None:
    """Each field is checked."""
    listening = Listening(source("binance", server, candles=MINUTE))
    await server.subscribed()
    await server.say({"e": "kline", "E": 1714521600000, "s": "BTCUSDT", "k": KLINE | change})
    with pytest.raises(BadData, match=f"binance, kline.*{field}"):
        await listening.end()


@pytest.mark.parametrize("field", ["s", "t", "p", "q", "T", "E"])
async def test_a_trade_without_a_field_is_bad_data(server: ExchangeServer, field: str) -> None:
    """The missing field is named."""
    listening = Listening(source("binance", server))
    await server.subscribed()
    await server.say({name: value for name, value in TRADE.items() if name != field})
    with pytest.raises(BadData, match=f"binance, trade, field '{field}': it is missing"):
        await listening.end()


async def test_a_row_of_the_past_whose_end_does_not_fit_is_bad_data(server: ExchangeServer) -> None:
    """A candle that the exchange cut short is not a whole one."""
    server.refusals = [Page(200, [[*ROW[:6], 1714521659000, *ROW[7:]]])]
    with pytest.raises(BadData, match="binance, klines, field 6: the candle that starts at 2024-05-01T00:00:00"):
        await source("binance", server).history("BTC/USDT", MINUTE, START, START + MINUTE)


async def test_ccxt_reads_the_same(server: ExchangeServer) -> None:
    """A trade, a candle and a row of the past, as an independent parser reads them."""
    pro = pytest.importorskip("ccxt.pro").binance()
    listening = Listening(source("binance", server))
    await server.subscribed()
    await server.say(TRADE)
    (tick,) = await listening.first(1)
    await listening.stop()
    theirs = pro.parse_ws_trade(TRADE)
    assert isinstance(tick, Tick)
    assert (tick.price, tick.volume, tick.time.timestamp() * 1000) == (theirs["price"], theirs["amount"], theirs["timestamp"])
    server.refusals = [Page(200, [ROW]), Page(200, [])]
    (bar,) = await source("binance", server).history("BTC/USDT", MINUTE, START, START + MINUTE)
    assert [bar.start.timestamp() * 1000, *bar[3:]] == pro.parse_ohlcv(ROW)
    listening = Listening(source("binance", server, candles=MINUTE))
    await server.subscribed()
    await server.say({"e": "kline", "E": 1714521660001, "s": "BTCUSDT", "k": KLINE})
    (live,) = await listening.first(1)
    await listening.stop()
    assert isinstance(live, Bar)
    assert list(live[3:]) == [pro.safe_float(KLINE, name) for name in "ohlcv"]


def test_it_shows_its_symbols() -> None:
    """And nothing else."""
    assert repr(Binance(["BTC/USDT", "ETH/USDT"])) == "<Binance: BTC/USDT, ETH/USDT>"
    assert Binance(["BTC/USDT"]).name == "binance"
