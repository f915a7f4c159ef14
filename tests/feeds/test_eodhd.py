"""EODHD as a source: the real HTTP client and websocket against a server that speaks its protocols."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import traceback
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
import pytest_asyncio

from agentfund.clock import SimulatedClock
from agentfund.errors import AgentFundError, BadData, ConfigError, FeedError
from agentfund.feeds.eodhd import EODHD
from agentfund.feeds.eodhd_rows import LeftOut, bars_of
from agentfund.feeds.eodhd_symbols import EodhdMarket
from agentfund.market import Alive, Bar, Heard, Instrument, Quote, Tick
from agentfund.protocols import Source
from agentfund.testing.eodhd import EodhdServer

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
START = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN = "6f1d2a9c41b7.55018423"
T = int(START.timestamp() * 1000)
AT = START + timedelta(microseconds=123_000)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[EodhdServer]:
    """Run EODHD on this machine."""
    async with EodhdServer(TOKEN) as server:
        yield server


def source(server: EodhdServer, symbols: list[Any], market: EodhdMarket = "us", **more: Any) -> EODHD:
    """Make a source of the server, whose waits take no time."""
    more.setdefault("clock", SimulatedClock(NOW))
    return EODHD(symbols, token=TOKEN, market=market, url=server.url, rest_url=server.rest_url, **more)


def row(start: datetime, price: float = 100.0, volume: float | None = 10, **more: Any) -> dict[str, Any]:
    """Write a row as the REST API does."""
    return {
        "timestamp": int(start.timestamp()),
        "gmtoffset": 0,
        "datetime": f"{start:%Y-%m-%d %H:%M:%S}",
        "open": price,
        "high": price + 2,
        "low": price - 2,
        "close": price + 1,
        "volume": volume,
        **more,
    }


def bar(start: datetime, price: float = 100.0, volume: float = 10.0, unit: timedelta = MINUTE, symbol: str = "AAPL") -> Bar:
    """Return what `row` says."""
    return Bar(symbol, start, start + unit, price, price + 2, price - 2, price + 1, volume)


async def heard(stream: AsyncGenerator[Heard, None], count: int) -> list[Heard]:
    """Take so many items after the first, which says that all is subscribed to."""
    assert await anext(stream) == Alive()
    return [await anext(stream) for _ in range(count)]


async def live(server: EodhdServer, feed: EODHD, frames: list[Any], count: int) -> list[Heard]:
    """Connect, send frames once all is subscribed to, and return what was heard."""
    await server.idle()
    async with aclosing(feed.connect()) as stream:
        taking = asyncio.create_task(heard(stream, count))
        await server.until(len(feed.instruments))
        for frame in frames:
            await server.send(frame)
        return await taking


async def failing(server: EodhdServer, feed: EODHD, frame: Any) -> BaseException:
    """Return the error that a frame causes."""
    with pytest.raises(AgentFundError) as caught:
        await live(server, feed, [frame], 1)
    return caught.value


def test_it_is_a_source() -> None:
    """Name and instruments are known before anything is connected."""
    feed: Source = EODHD(["AAPL"], token=TOKEN)
    assert feed.name == "eodhd-us"
    assert [each.symbol for each in feed.instruments] == ["AAPL"]
    assert repr(feed) == "<EODHD us: AAPL>"


@pytest.mark.parametrize(
    ("market", "given", "symbol", "currency"),
    [
        ("us", "AAPL", "AAPL", "USD"),
        ("us", "brk-b.us", "BRK-B", "USD"),
        ("us-quote", "AAPL.US", "AAPL", "USD"),
        ("forex", "EUR/USD", "EURUSD", "USD"),
        ("forex", "usdjpy.FOREX", "USDJPY", "JPY"),
        ("crypto", "BTC-USD.CC", "BTC-USD", "USD"),
        ("crypto", "eth/usd", "ETH-USD", "USD"),
    ],
)
def test_every_form_of_a_symbol_is_one(market: EodhdMarket, given: str, symbol: str, currency: str) -> None:
    """Whatever people write, the fund sees one name."""
    (made,) = EODHD([given], token=TOKEN, market=market).instruments
    assert (made.symbol, made.currency) == (symbol, currency)


def test_an_instrument_keeps_its_steps() -> None:
    """Only its name is brought into the normal form."""
    given = Instrument("EURUSD.FOREX", tick_size=Decimal("0.0001"))
    (made,) = EODHD([given], token=TOKEN, market="forex").instruments
    assert made == Instrument("EURUSD", tick_size=Decimal("0.0001"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"symbols": []}, "needs a list of symbols"),
        ({"symbols": "AAPL"}, "needs a list of symbols"),
        ({"symbols": ["AAPL", "aapl.us"]}, "AAPL is given twice"),
        ({"symbols": ["BRK.B"]}, "write it as AAPL or BRK-B"),
        ({"symbols": ["VOD.LSE"]}, "no symbol of EODHD's market 'us'"),
        ({"symbols": ["BTC"], "market": "crypto"}, "write it as BTC-USD"),
        ({"symbols": ["EUR"], "market": "forex"}, "write it as EURUSD"),
        ({"symbols": ["AAPL"], "market": "uk"}, "has no market 'uk'; it has us, us-quote, forex, crypto"),
        ({"symbols": ["AAPL"], "token": " "}, "set EODHD_API_TOKEN"),
        ({"symbols": ["AAPL"], "url": "ws://example.com/ws"}, "url is ws: the key would go to example.com in clear; use wss"),
        ({"symbols": ["AAPL"], "rest_url": "http://example.com"}, "rest_url is http"),
        ({"symbols": ["AAPL"], "rest_url": "https://example.com/?api_token=x"}, "without user and query"),
        ({"symbols": ["AAPL"], "alive_s": 0}, "alive_s must be a positive number"),
    ],
)
def test_what_cannot_work_is_refused_at_once(arguments: dict[str, Any], said: str) -> None:
    """Before anything is sent, and with the fix."""
    with pytest.raises(ConfigError, match=said):
        EODHD(**{"token": TOKEN, **arguments})


def test_the_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under its usual name; without one nothing starts."""
    monkeypatch.delenv("EODHD_API_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="EODHD_API_TOKEN"):
        EODHD(["AAPL"])
    monkeypatch.setenv("EODHD_API_TOKEN", TOKEN)
    assert EODHD(["AAPL"]).name == "eodhd-us"


TRADE = {"s": "AAPL", "p": 185.5, "v": 12, "c": [12, 37], "dp": False, "ms": "open", "t": T + 123}


async def test_trades_of_stocks_are_ticks(server: EodhdServer) -> None:
    """Numbers or texts; the state of the market is kept beside them."""
    feed = source(server, ["AAPL"])
    late = {**TRADE, "p": "186.25", "v": "3", "ms": "extended-hours", "t": T // 1000}
    ticks = await live(server, feed, [TRADE, late], 2)
    assert ticks == [Tick("EODHD", "AAPL", 185.5, 12.0, AT), Tick("EODHD", "AAPL", 186.25, 3.0, START)]
    assert feed.status == {"AAPL": "extended-hours"}


async def test_quotes_of_stocks_are_quotes(server: EodhdServer) -> None:
    """A side without a price is None; their mids are no ticks unless asked for."""
    frames = [
        {"s": "AAPL", "ap": 185.6, "as": 100, "bp": 185.5, "bs": 200, "t": T + 123},
        {"s": "AAPL", "ap": None, "as": 0, "bp": 185.5, "bs": 200, "t": T + 123},
        {"s": "AAPL", "ap": 0, "as": 0, "bp": "185.5", "bs": 200, "t": T + 123},
    ]
    one_sided = Quote("AAPL", 185.5, None, None, AT)
    told = await live(server, source(server, ["AAPL.US"], "us-quote"), frames, 3)
    assert told == [Quote("AAPL", 185.5, 185.6, None, AT), one_sided, one_sided]


async def test_quotes_of_currencies_are_quotes_and_ticks_of_their_mid(server: EodhdServer) -> None:
    """There are no trades, so that bars are made of mids, without volume; `mids=False` gives quotes alone."""
    frame = {"s": "EURUSD", "a": "1.0952", "b": "1.0950", "dc": "0.06", "dd": "0.0007", "ppms": False, "t": T + 123}
    quote = Quote("EURUSD", 1.095, 1.0952, None, AT)
    told = await live(server, source(server, ["EUR/USD"], "forex"), [frame], 2)
    assert told[0] == quote
    assert told[1] == Tick("EODHD", "EURUSD", (1.095 + 1.0952) / 2, 0.0, AT)
    assert await live(server, source(server, ["EURUSD"], "forex", mids=False), [frame, frame], 2) == [quote, quote]
    crossed = {**frame, "a": "1.0949"}
    told = await live(server, source(server, ["EURUSD"], "forex"), [crossed, frame], 3)
    assert told[:2] == [Quote("EURUSD", 1.095, 1.0949, None, AT), quote]


async def test_trades_of_crypto_are_ticks(server: EodhdServer) -> None:
    """Prices and quantities arrive as texts."""
    frame = {"s": "BTC-USD", "p": "84588.5", "q": "0.002", "dc": "0.2196", "dd": "185.7", "t": T + 123}
    told = await live(server, source(server, ["BTC/USD"], "crypto"), [frame], 1)
    assert told == [Tick("EODHD", "BTC-USD", 84588.5, 0.002, AT)]


async def test_frames_without_a_price_and_of_strangers_are_counted(server: EodhdServer) -> None:
    """They are no data, and no reason to stop."""
    feed = source(server, ["AAPL"])
    stranger = json.dumps({**TRADE, "s": "MSFT"})
    told = await live(server, feed, [{**TRADE, "p": None}, {**TRADE, "p": 0}, stranger, TRADE], 1)
    assert told == [Tick("EODHD", "AAPL", 185.5, 12.0, AT)]
    assert feed.frames_left_out == 3


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ({**TRADE, "p": "a lot"}, "frame of AAPL, p: 'a lot' is no number"),
        ({**TRADE, "p": True}, "p: True is no number"),
        ({**TRADE, "p": "1e400"}, "p: inf is no number"),
        ({**TRADE, "p": -1}, "p: -1.0 is no price"),
        ({**TRADE, "v": -1}, "v: -1.0 is no quantity"),
        ({**TRADE, "v": None}, "v: there is none"),
        ({**TRADE, "t": None}, "t: there is none"),
        ({**TRADE, "t": T * 1000}, "t: .* is no time in milliseconds"),
        ('{"p": 1}', "s: there is no symbol"),
        ("[1, 2]", "no JSON object"),
        ("<html>Bad gateway</html>", "no JSON object"),
    ],
)
async def test_a_wrong_frame_is_named_by_its_field(server: EodhdServer, frame: Any, said: str) -> None:
    """Nothing is guessed."""
    error = await failing(server, source(server, ["AAPL"]), frame)
    assert isinstance(error, BadData)
    with pytest.raises(BadData, match=said):
        raise error


async def test_symbols_are_subscribed_to_in_batches(server: EodhdServer) -> None:
    """At most 50 in a message."""
    feed = source(server, [f"S{i}" for i in range(120)])
    async with aclosing(feed.connect()) as stream:
        taking = asyncio.create_task(heard(stream, 1))
        (subscriber,) = await server.until(120)
        await server.send({**TRADE, "s": "S119"})
        assert [each.symbol for each in await taking if isinstance(each, Tick)] == ["S119"]
    assert [len(batch) for batch in subscriber.batches] == [50, 50, 20]


@pytest.mark.parametrize(
    ("greeting", "kind", "said"),
    [
        (
            {"status_code": 401, "message": "Unauthorized"},
            ConfigError,
            "said 401 Unauthorized: the token is wrong: set EODHD_API_TOKEN",
        ),
        ({"status": "403", "message": "Forbidden"}, ConfigError, "said 403 Forbidden: the token or its plan has no access"),
        ({"status_code": 429, "message": ""}, ConfigError, "said 429 without a reason: there are too many connections"),
        ({"status": 500, "message": "Server error"}, FeedError, "said 500 Server error: try again later"),
        ({"hello": 1}, FeedError, "did not log in but sent"),
        (None, FeedError, "did not log in within 0.5 s"),
    ],
)
async def test_a_refused_login_names_the_fix(server: EodhdServer, greeting: Any, kind: type[Exception], said: str) -> None:
    """By the status that the server tells as text, whatever it calls the field; what no reconnect mends is the user's."""
    server.greeting = greeting
    feed = source(server, ["AAPL"], connect_s=0.5 if greeting is None else 10.0)
    with pytest.raises(kind, match=said):
        await anext(feed.connect())
    assert not server.subscribers or not server.subscribers[0].symbols


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (401, ConfigError, "the token is wrong"),
        (429, ConfigError, "too many"),
        (502, FeedError, "HTTP status 502 .*: try again later"),
    ],
)
async def test_a_websocket_that_does_not_open_names_the_fix(
    server: EodhdServer, status: int, kind: type[Exception], said: str
) -> None:
    """The server can refuse before it speaks the protocol."""
    server.refusal = status
    with pytest.raises(kind, match=said):
        await anext(source(server, ["AAPL"]).connect())


async def test_too_many_connections_pass_for_a_source_that_was_connected(server: EodhdServer) -> None:
    """Its own dead connection may be one of them; for a new source it is another program's, and final."""
    feed = source(server, ["AAPL"])
    assert await live(server, feed, [TRADE], 1)
    server.refusal = 429
    with pytest.raises(FeedError, match="too many"):
        await anext(feed.connect())


async def test_a_refusal_later_ends_the_connection(server: EodhdServer) -> None:
    """Such as a limit of symbols; a status of 200 does not."""
    feed = source(server, ["AAPL"])
    assert await live(server, feed, [{"status_code": 200, "message": "OK"}, TRADE], 1)
    error = await failing(server, feed, {"status_code": 422, "message": "Symbols limit reached"})
    assert isinstance(error, ConfigError)
    assert "422 Symbols limit reached: it does not take what was subscribed to" in str(error)


async def test_silence_is_told_from_a_dead_server(server: EodhdServer) -> None:
    """A server that answers a ping lives, though nothing is traded."""
    assert await live(server, source(server, ["AAPL"], alive_s=0.3), [], 2) == [Alive(), Alive()]
    await server.idle()
    async with aclosing(source(server, ["AAPL"], alive_s=0.02).connect()) as stream:
        assert await anext(stream) == Alive()
        await server.until(1)
        server.subscribers[-1].connection.transport.pause_reading()
        with pytest.raises(FeedError, match="did not answer a ping"):
            await heard(stream, 100)


async def test_a_connection_ends_or_breaks_and_the_next_one_works(server: EodhdServer) -> None:
    """An orderly end ends the data; a broken one is an error. Connecting again subscribes again."""
    feed = source(server, ["AAPL"])
    for end in ("close", "cut", "fail", "close"):
        async with aclosing(feed.connect()) as stream:
            taking = asyncio.create_task(heard(stream, 1))
            await server.until(1)
            await server.send(TRADE)
            assert await taking == [Tick("EODHD", "AAPL", 185.5, 12.0, AT)]
            if end == "close":
                await server.close()
                assert [each async for each in stream] == []
            else:
                if end == "cut":
                    server.cut()
                else:
                    await server.close(1011)
                with pytest.raises(FeedError, match=r"the connection ended: .*connect again"):
                    await anext(stream)
        await server.idle()


async def test_nothing_is_left_after_a_cancellation(server: EodhdServer) -> None:
    """No task, no connection, whether it was connecting, waiting or half read."""
    before = asyncio.all_tasks()
    for stage in ("login", "waiting", "read"):
        server.greeting = None if stage == "login" else {"status_code": 200}
        feed = source(server, ["AAPL"])

        async def read(feed: EODHD = feed) -> None:
            async with aclosing(feed.connect()) as stream:
                async for _ in stream:
                    pass

        task = asyncio.create_task(read())
        while not server.subscribers:
            await asyncio.sleep(0.001)
        if stage != "login":
            await server.until(1)
        if stage == "read":
            await server.send(TRADE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.idle()
    gc.collect()
    await asyncio.sleep(0.01)
    assert {each for each in asyncio.all_tasks() - before if not each.done()} == set()


async def test_rows_become_bars_on_the_grid(server: EodhdServer) -> None:
    """A timestamp is the open of its bar; what lies outside the request is not given."""
    server.rows["intraday/AAPL.US", "1m"] = [row(START + i * MINUTE, 100.0 + i) for i in range(10)]
    feed = source(server, ["AAPL"])
    bars = await feed.history("AAPL.US", MINUTE, START + MINUTE / 2, START + 4.5 * MINUTE)
    assert bars == [bar(START + i * MINUTE, 100.0 + i) for i in (1, 2, 3)]
    unix = int(START.timestamp())
    assert server.asked == [
        ("intraday/AAPL.US", {"from": str(unix + 60), "to": str(unix + 180), "interval": "1m", "fmt": "json"})
    ]


@pytest.mark.parametrize(
    "time",
    [
        {"timestamp": int(START.timestamp()), "gmtoffset": 0, "datetime": "2024-01-02 14:30:00"},
        {"timestamp": str(int(START.timestamp())), "gmtoffset": None},
        {"timestamp": int(START.timestamp()), "gmtoffset": -18000, "datetime": "2024-01-02 09:30:00"},
        {"timestamp": None, "datetime": "2024-01-02 09:30:00", "gmtoffset": "-18000"},
        {"datetime": "2024-01-02 14:30:00"},
        {"datetime": "2024-01-02T09:30:00-05:00"},
        {"datetime": int(START.timestamp())},
        {"date": "2024-01-02 14:30:00"},
        {"date": "2024-01-02", "time": "14:30:00"},
        {"timestamp": int(START.timestamp()), "date": "2024-01-02", "time": "14:30:00", "gmtoffset": 0},
        {"Timestamp": int(START.timestamp()), "Gmtoffset": 0, "Datetime": "2024-01-02 14:30:00"},
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_all_names_and_kinds_of_fields_say_the_same(time: dict[str, Any], as_text: bool) -> None:
    """EODHD writes time in a number of ways, and numbers as numbers or as text."""
    numbers: dict[str, Any] = {"open": 100.0, "high": 102.0, "low": 98.0, "close": 101.0, "volume": 10}
    given = {**time, **({name: str(value) for name, value in numbers.items()} if as_text else numbers)}
    assert bars_of([given], "AAPL", MINUTE, "EODHD", LeftOut()) == [bar(START)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"open": "ten"}, "EODHD, row 1, open: 'ten' is no number"),
        ({"open": True}, "row 1, open: True is no number"),
        ({"high": float("inf")}, "row 1, high: inf is no number"),
        ({"low": -1}, "row 1, low: -1.0 is no price"),
        ({"high": 99.0}, "row 1, open: 100.0 is above the high 99.0"),
        ({"low": 100.5}, "row 1, open: 100.0 is below the low 100.5"),
        ({"volume": -5}, "row 1, volume: -5.0 is no volume"),
        ({"timestamp": 1_704_205_800_000}, "row 1, timestamp: 1704205800000 is no time in whole seconds"),
        ({"timestamp": 1_704_205_800.5}, "row 1, timestamp: .* whole seconds"),
        ({"timestamp": None, "datetime": None}, "row 1, timestamp: there is none"),
        ({"timestamp": None, "datetime": "yesterday"}, "row 1, datetime: 'yesterday' is no time"),
        ({"datetime": "2024-01-02 09:30:00"}, "row 1, datetime: .* not the same moment"),
        ({"gmtoffset": "west"}, "row 1, gmtoffset: 'west' is no number"),
        ({"close": None, "gone": "close"}, "row 1, close: there is no such field among .*it has adjusted_close"),
    ],
)
def test_a_wrong_row_is_named_by_row_and_field(wrong: dict[str, Any], said: str) -> None:
    """Nothing is repaired, and nothing is guessed."""
    bad = row(START + MINUTE, **wrong)
    if bad.pop("gone", None):
        del bad["close"]
        bad["adjusted_close"] = 50.0
    with pytest.raises(BadData, match=said):
        bars_of([row(START), {**bad, "timestamp": bad["timestamp"]}], "AAPL", MINUTE, "EODHD", LeftOut())


def test_rows_without_numbers_and_repeated_rows_are_counted() -> None:
    """In any order; each start is given once, oldest first."""
    left_out = LeftOut()
    rows = [
        row(START + 3 * MINUTE, 103.0),
        row(START),
        row(START),
        row(START + MINUTE, open=None),
        row(START + 2 * MINUTE, volume=None),
        row(START + 4 * MINUTE, close="null"),
        row(START + timedelta(seconds=12)),
    ]
    bars = bars_of(rows, "AAPL", MINUTE, "EODHD", left_out)
    assert bars == [bar(START), bar(START + 3 * MINUTE, 103.0)]
    assert asdict(left_out) == {"nulls": 3, "duplicates": 1, "off_grid": 1}


def test_two_rows_of_one_start_that_differ_are_refused() -> None:
    """Nobody knows which is right."""
    with pytest.raises(BadData, match=r"row 1: it starts at 2024-01-02T14:30:00.* as row 0 does, with other numbers"):
        bars_of([row(START), row(START, 101.0)], "AAPL", MINUTE, "EODHD", LeftOut())


async def test_currencies_have_no_volume(server: EodhdServer) -> None:
    """A volume of null is zero there, and no reason to leave the row out."""
    server.rows["intraday/EURUSD.FOREX", "1m"] = [row(START, volume=None)]
    bars = await source(server, ["EURUSD"], "forex").history("EURUSD", MINUTE, START, START + HOUR)
    assert bars == [bar(START, volume=0.0, symbol="EURUSD")]


async def test_pages_join_without_a_seam(server: EodhdServer) -> None:
    """A range beyond the limit is asked for in parts; every row is given once."""
    rows = [row(START + i * 7 * HOUR, 100.0 + i % 50) for i in range(1000)]
    server.rows["intraday/AAPL.US", "1m"] = rows
    bars = await source(server, ["AAPL"]).history("AAPL", MINUTE, START, START + 291 * DAY)
    assert bars == [bar(START + i * 7 * HOUR, 100.0 + i % 50) for i in range(1000) if i * 7 < 291 * 24]
    spans = [(int(params["from"]), int(params["to"])) for _, params in server.asked]
    assert len(spans) == 3
    assert all(later[0] == earlier[1] + 60 for earlier, later in pairwise(spans))
    assert max(last - first for first, last in spans) < 120 * 86_400


@pytest.mark.parametrize(
    ("market", "symbol", "interval", "asked"),
    [
        ("us", "AAPL", 5 * MINUTE, "1m"),
        ("us", "AAPL", HOUR, "1m"),
        ("us-quote", "AAPL", 15 * MINUTE, "1m"),
        ("crypto", "BTC-USD", 5 * MINUTE, "5m"),
        ("crypto", "BTC-USD", 15 * MINUTE, "5m"),
        ("crypto", "BTC-USD", 3 * MINUTE, "1m"),
        ("forex", "EURUSD", 4 * HOUR, "1h"),
    ],
)
async def test_longer_bars_are_made_of_whole_rows(
    server: EodhdServer, market: EodhdMarket, symbol: str, interval: timedelta, asked: str
) -> None:
    """Stocks of one-minute rows, which are the consolidated tape; the rest of the longest rows that fit."""
    unit = {"1m": MINUTE, "5m": 5 * MINUTE, "1h": HOUR}[asked]
    feed = source(server, [symbol], market)
    path = "intraday/" + {"us": "AAPL.US", "us-quote": "AAPL.US", "crypto": "BTC-USD.CC", "forex": "EURUSD.FOREX"}[market]
    day = datetime(2024, 1, 2, tzinfo=UTC)
    count = DAY // unit
    server.rows[path, asked] = [row(day + i * unit, 100.0 + i % 7) for i in range(count)]
    bars = await feed.history(symbol, interval, day, day + DAY)
    parts = interval // unit
    assert [each.start for each in bars] == [day + i * interval for i in range(DAY // interval)]
    assert {each.end - each.start for each in bars} == {interval}
    prices = [100.0 + i % 7 for i in range(parts)]
    assert bars[0][3:] == (100.0, max(prices) + 2, 98.0, prices[-1] + 1, 10.0 * parts)
    assert sum(each.volume for each in bars) == 10.0 * count
    assert {params["interval"] for _, params in server.asked} == {asked}


async def test_days_come_from_the_end_of_day_api(server: EodhdServer) -> None:
    """As traded, or scaled as a whole to the adjusted close; a bar is known at the next midnight."""
    day = datetime(2024, 1, 2, tzinfo=UTC)
    days = [{"date": f"2024-01-0{i}", "open": 100, "high": 104, "low": 96, "close": 102, "volume": 9} for i in (2, 3, 4)]
    server.rows["eod/AAPL.US", "d"] = [{**each, "adjusted_close": 51} for each in days]
    raw = await source(server, ["AAPL"]).history("AAPL", DAY, day, day + 2 * DAY)
    assert raw == [Bar("AAPL", day + i * DAY, day + (i + 1) * DAY, 100, 104, 96, 102, 9) for i in (0, 1)]
    assert server.asked[0] == ("eod/AAPL.US", {"from": "2024-01-02", "to": "2024-01-03", "period": "d", "fmt": "json"})
    (scaled, *_) = await source(server, ["AAPL"], adjusted=True).history("AAPL", DAY, day, day + 3 * DAY)
    assert scaled[3:] == (50, 52, 48, 51, 9)


async def test_a_bar_is_given_once_it_has_ended(server: EodhdServer) -> None:
    """By our clock and by the server's, whichever is behind."""
    server.rows["intraday/BTC-USD.CC", "1m"] = [row(START + i * MINUTE) for i in range(10)]
    behind = source(server, ["BTC-USD"], "crypto", clock=SimulatedClock(START + 3.5 * MINUTE))
    assert len(await behind.history("BTC-USD", MINUTE, START, START + HOUR)) == 3
    server.date = f"{START + 2 * MINUTE + timedelta(seconds=59):%a, %d %b %Y %H:%M:%S GMT}"
    ahead = source(server, ["BTC-USD"], "crypto", clock=SimulatedClock(START + 3.5 * MINUTE))
    assert len(await ahead.history("BTC-USD", MINUTE, START, START + HOUR)) == 2
    assert await ahead.history("BTC-USD", MINUTE, NOW, NOW + HOUR) == []


async def test_no_row_on_the_grid_is_an_error(server: EodhdServer) -> None:
    """Leaving all of them out would look like a market without trades."""
    server.rows["intraday/BTC-USD.CC", "1h"] = [row(START), row(START + HOUR)]
    with pytest.raises(FeedError, match="none of 2 rows starts at a multiple of 1:00:00: ask for shorter bars"):
        await source(server, ["BTC-USD"], "crypto").history("BTC-USD", HOUR, START - HOUR, START + 3 * HOUR)


@pytest.mark.parametrize("interval", [timedelta(seconds=30), 7 * MINUTE, 2 * DAY, timedelta(0)])
async def test_an_interval_that_cannot_be_is_refused(server: EodhdServer, interval: timedelta) -> None:
    """Nothing is asked for it."""
    with pytest.raises(ConfigError, match=r"EODHD has no bars of .*: ask for whole minutes that divide a day"):
        await source(server, ["AAPL"]).history("AAPL", interval, START, START + DAY)
    with pytest.raises(ConfigError, match="'MSFT' is not among the symbols"):
        await source(server, ["AAPL"]).history("MSFT", MINUTE, START, START + DAY)
    assert server.asked == []


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, "Unauthenticated", r"HTTP status 401 \(Unauthenticated\): the token is wrong: set EODHD_API_TOKEN"),
        (402, "You exceeded your daily API requests limit", "HTTP status 402 .*wait for midnight GMT"),
        (403, '{"error": "Forbidden"}', "HTTP status 403 .*plan of your EODHD account"),
        (404, "Ticker Not Found.", "HTTP status 404 .*does not know this symbol"),
        (422, '{"errors": {}}', "HTTP status 422 .*check symbol and interval"),
        (302, "", r"HTTP status 302 \(nothing\): check rest_url"),
        (200, "<html><body>Sorry</body></html>", "something that is not JSON .*Sorry"),
        (200, "null", "without rows"),
        (200, '{"error": "Only EOD data allowed for free users"}', "without rows .*Only EOD data.*check the plan"),
    ],
)
async def test_a_refusal_is_not_asked_again_and_names_the_fix(server: EodhdServer, status: int, body: str, said: str) -> None:
    """Asking again would change nothing; what no later question mends either is the user's to mend."""
    server.answer(status, body, {"Location": "http://127.0.0.1:1/"} if status == 302 else None)
    with pytest.raises(ConfigError if status in (401, 404) else FeedError, match=said):
        await source(server, ["AAPL"]).history("AAPL", MINUTE, START, START + HOUR)
    assert len(server.asked) == 1


async def test_what_may_pass_is_asked_again(server: EodhdServer) -> None:
    """Later each time, and no earlier than EODHD asks for."""
    server.rows["intraday/AAPL.US", "1m"] = [row(START)]
    clock = SimulatedClock(NOW)
    feed = source(server, ["AAPL"], clock=clock)
    for status, headers in ((500, {}), (502, {}), (503, {"Retry-After": "7"}), (429, {"Retry-After": "11"})):
        server.answer(status, "<html>busy</html>", headers)
    assert await feed.history("AAPL", MINUTE, START, START + HOUR) == [bar(START)]
    assert len(server.asked) == 5
    assert 0.5 + 1 + 7 + 11 <= clock.monotonic() - SimulatedClock(NOW).monotonic() < 24
    dated = f"{clock.now() + timedelta(seconds=30):%a, %d %b %Y %H:%M:%S GMT}"
    server.answer(429, "", {"Retry-After": dated})
    before = clock.monotonic()
    await feed.history("AAPL", MINUTE, START, START + HOUR)
    assert 29 <= clock.monotonic() - before <= 31


async def test_the_deadline_ends_all_tries(server: EodhdServer) -> None:
    """Also where EODHD asks to wait for longer; then nothing is waited for."""
    clock = SimulatedClock(NOW)
    feed = source(server, ["AAPL"], clock=clock, deadline_s=6.0)
    for _ in range(50):
        server.answer(500, "broken")
    with pytest.raises(FeedError, match=r"HTTP status 500 \(broken\): try again later"):
        await feed.history("AAPL", MINUTE, START, START + HOUR)
    assert 1.0 <= clock.monotonic() - SimulatedClock(NOW).monotonic() <= 6.0
    assert len(server.asked) < 10
    impatient = source(server, ["AAPL"])
    server._canned.clear()
    server.answer(429, "slow down", {"Retry-After": "3600"})
    with pytest.raises(FeedError, match="it asks to wait 3600 s"):
        await impatient.history("AAPL", MINUTE, START, START + HOUR)


async def test_a_server_that_cannot_be_reached_is_an_error() -> None:
    """Neither by websocket nor by REST."""
    async with EodhdServer(TOKEN) as server:
        url, rest_url = server.url, server.rest_url
    feed = EODHD(["AAPL"], token=TOKEN, url=url, rest_url=rest_url, clock=SimulatedClock(NOW))
    with pytest.raises(FeedError, match="cannot be reached"):
        await anext(feed.connect())
    with pytest.raises(FeedError, match="cannot be reached"):
        await feed.history("AAPL", MINUTE, START, START + HOUR)


async def test_no_proxy_leads_to_this_machine(server: EodhdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one given the token of a request."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    server.rows["intraday/AAPL.US", "1m"] = [row(START)]
    feed = source(server, ["AAPL"])
    assert await feed.history("AAPL", MINUTE, START, START + HOUR) == [bar(START)]
    assert await live(server, feed, [TRADE], 1)


async def test_nobody_is_shown_the_token(server: EodhdServer, caplog: pytest.LogCaptureFixture) -> None:
    """Not in logs of any level, not in errors and what hangs on them, though EODHD wants it in each address."""
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    feed = source(server, ["AAPL"])
    server.rows["intraday/AAPL.US", "1m"] = [row(START)]
    await feed.history("AAPL", MINUTE, START, START + HOUR)
    await live(server, feed, [TRADE], 1)
    for status, body in ((403, f"token {TOKEN} is unknown"), (200, f"<p>{TOKEN}"), (200, f'"{TOKEN}"'), (500, TOKEN)):
        for _ in range(1 if status != 500 else 50):
            server.answer(status, body)
        with pytest.raises(FeedError) as caught:
            await feed.history("AAPL", MINUTE, START, START + HOUR)
        told += traceback.format_exception(caught.value)
    for frame in ({"status_code": 401, "message": f"bad {TOKEN}"}, f"what is {TOKEN}?", {**TRADE, "p": TOKEN[:12]}):
        told += traceback.format_exception(await failing(server, feed, frame))
    server.refusal = 403
    with pytest.raises(ConfigError) as refused:
        await anext(feed.connect())
    told += [*traceback.format_exception(refused.value), repr(feed), repr(vars(feed))]
    assert "***" in "".join(told)
    assert TOKEN not in "".join([*told, caplog.text])
    assert "api_token" not in str(refused.value)
    assert "api_token" not in caplog.text
    assert not [each for each in caplog.records if each.name.startswith("websockets")]
