"""Alpaca's market data as a source: alpaca-py against a server that speaks its protocols."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import subprocess
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio

from agentfund.clock import SimulatedClock, SystemClock
from agentfund.errors import AgentFundError, BadData, ConfigError, FeedError
from agentfund.feeds.alpaca_data import AlpacaData
from agentfund.feeds.alpaca_data_minutes import Minutes
from agentfund.feeds.live import Live
from agentfund.market import Alive, Bar, Halted, Heard, Instrument, Quote, Status, Tick
from agentfund.protocols import Source
from agentfund.testing.alpaca_data import AlpacaDataServer

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
START = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY, SECRET = "PKQ7N2M4X8ZL1V5T9B", "u8Gf2kQz71LmNs0XvYb4CwReTd9HjPa3"
AT = START + timedelta(microseconds=123_456)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[AlpacaDataServer]:
    """Run Alpaca's market data on this machine."""
    async with AlpacaDataServer(KEY, SECRET) as server:
        yield server


def source(server: AlpacaDataServer, symbols: list[Any] | None = None, **more: Any) -> AlpacaData:
    """Make a source of the server, whose waits take no time."""
    url = server.crypto_url if more.get("crypto") else server.url
    given: dict[str, Any] = {"key": KEY, "secret": SECRET, "url": url, "rest_url": server.rest_url, **more}
    given.setdefault("clock", SimulatedClock(NOW))
    return AlpacaData(symbols or ["AAPL"], **given)


def row(start: datetime, price: float = 100.0, volume: float = 10) -> dict[str, Any]:
    """Write a row as the REST API does."""
    numbers = {"o": price, "h": price + 2, "l": price - 2, "c": price + 1, "v": volume, "n": 3, "vw": price}
    return {"t": f"{start:%Y-%m-%dT%H:%M:%SZ}", **numbers}


def frame(start: datetime, price: float = 100.0, symbol: str = "AAPL", kind: str = "b", volume: float = 10) -> dict[str, Any]:
    """Write a minute as the stream does."""
    return {**row(start, price, volume), "T": kind, "S": symbol, "t": start}


def bar(start: datetime, price: float = 100.0, symbol: str = "AAPL", unit: timedelta = MINUTE, volume: float = 10) -> Bar:
    """Return what `row` and `frame` say."""
    return Bar(symbol, start, start + unit, price, price + 2, price - 2, price + 1, volume)


async def heard(stream: AsyncGenerator[Heard, None], count: int) -> list[Heard]:
    """Take so many items after the first, which says that all is subscribed to."""
    assert await anext(stream) == Alive()
    return [await anext(stream) for _ in range(count)]


async def live(server: AlpacaDataServer, feed: AlpacaData, frames: list[Any], count: int) -> list[Heard]:
    """Connect, send frames in one message, and return what was heard."""
    await server.idle()
    async with aclosing(feed.connect()) as stream:
        taking = asyncio.create_task(heard(stream, count))
        subscribed = asyncio.create_task(server.subscribed())
        await asyncio.wait({taking, subscribed}, return_when=asyncio.FIRST_COMPLETED)
        if not subscribed.done():
            subscribed.cancel()
            return await taking
        if frames:
            await server.send(*frames)
        return await taking


async def failing(server: AlpacaDataServer, feed: AlpacaData, *frames: Any) -> AgentFundError:
    """Return the error that frames cause."""
    with pytest.raises(AgentFundError) as caught:
        await live(server, feed, list(frames), 1)
    return caught.value


def test_it_is_a_source() -> None:
    """Name and instruments are known before anything is connected."""
    feed: Source = AlpacaData(["AAPL", "brk.b"], key=KEY, secret=SECRET)
    assert (feed.name, [each.symbol for each in feed.instruments]) == ("alpaca-iex", ["AAPL", "BRK.B"])
    assert repr(feed) == "<AlpacaData alpaca-iex: AAPL, BRK.B>"


def test_crypto_has_one_form_and_fine_steps() -> None:
    """As the broker of the same name calls it; an instrument keeps its steps."""
    given = Instrument("eth-usd", tick_size=Decimal("0.1"))
    bitcoin, ether = AlpacaData(["BTC-USD", given], key=KEY, secret=SECRET, crypto=True).instruments
    assert (bitcoin.symbol, bitcoin.currency, bitcoin.lot_size) == ("BTC/USD", "USD", Decimal("1e-9"))
    assert ether == Instrument("ETH/USD", tick_size=Decimal("0.1"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"symbols": []}, "needs a list of symbols"),
        ({"symbols": "AAPL"}, "needs a list of symbols"),
        ({"symbols": ["AAPL", "aapl"]}, "AAPL is given twice"),
        ({"symbols": ["BTC/USD"]}, "crypto=True is for crypto"),
        ({"symbols": ["BTCUSD"], "crypto": True}, "write it as BTC/USD"),
        ({"feed": "otc"}, "no feed 'otc': iex or sip"),
        ({"key": ""}, "set APCA_API_KEY_ID"),
        ({"secret": " "}, "set APCA_API_SECRET_KEY"),
        ({"interval": timedelta(seconds=30)}, "no bars of 0:00:30"),
        ({"interval": 7 * MINUTE}, "whole minutes that divide a day"),
        ({"interval": 5 * MINUTE, "bars": False}, "interval= is for bars made of minutes"),
        ({"settle": 2 * MINUTE}, "settle must lie between zero and a minute"),
        ({"url": "ws://example.com/v2/iex"}, "the key would go to example.com in clear"),
        ({"rest_url": "http://example.com"}, "use https"),
        ({"timeout_s": float("nan")}, "timeout_s must be a positive number"),
    ],
)
def test_what_cannot_work_is_refused_at_once(arguments: dict[str, Any], said: str) -> None:
    """Before anything is sent, and with the fix."""
    with pytest.raises(ConfigError, match=said):
        AlpacaData(**{"symbols": ["AAPL"], "key": KEY, "secret": SECRET, **arguments})


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under their usual names, which alpaca-py itself does not read."""
    monkeypatch.delenv("APCA_API_KEY_ID", raising=False)
    with pytest.raises(ConfigError, match="APCA_API_KEY_ID"):
        AlpacaData(["AAPL"])
    monkeypatch.setenv("APCA_API_KEY_ID", KEY)
    monkeypatch.setenv("APCA_API_SECRET_KEY", SECRET)
    assert AlpacaData(["AAPL"], feed="sip").name == "alpaca-sip"


def test_nothing_of_alpaca_is_imported_before_it_connects() -> None:
    """It takes longer than all of agentfund."""
    code = "import sys; from agentfund.feeds.alpaca_data import AlpacaData; AlpacaData(['A'], key='k', secret='s')"
    check = "; bad = {'alpaca', 'requests', 'pandas', 'websockets'} & set(sys.modules); assert not bad, bad"
    subprocess.run([sys.executable, "-c", code + check], check=True, timeout=60)


async def test_closed_minutes_are_bars(server: AlpacaDataServer) -> None:
    """Together with quotes; a side that nobody quotes is None."""
    feed = source(server)
    quote = {
        "T": "q",
        "S": "AAPL",
        "bx": "U",
        "bp": 185.5,
        "bs": 1,
        "ax": "Q",
        "ap": 185.6,
        "as": 5,
        "t": AT,
        "c": ["R"],
        "z": "C",
    }
    frames = [frame(START), quote, {**quote, "ap": 0}, {**quote, "ap": 0, "bp": 0}, frame(START + MINUTE, 101.0)]
    told = await live(server, feed, frames, 4)
    assert told[0] == bar(START)
    assert told[1:3] == [Quote("AAPL", 185.5, 185.6, None, AT), Quote("AAPL", 185.5, None, None, AT)]
    assert told[3] == bar(START + MINUTE, 101.0)


@pytest.mark.parametrize(
    ("tape", "code", "message", "halted"),
    [
        ("C", "H", "Trading Halt", True),
        ("C", "P", "Volatility Trading Pause", True),
        ("C", "Q", "Quotation Resumption", None),
        ("C", "T", "Trading Resumption", False),
        ("A", "2", "Trading Halt", True),
        ("B", "3", "Resume", False),
        ("A", "T", "not a code of this tape", None),
        ("A", "E", "Short Sale Restriction", None),
        ("A", "7", "Market Imbalance Buy", None),
        ("C", "X", "some other halt", True),
        ("", "T", "Trading Resumption", None),
        ("C", "", "", None),
    ],
)
async def test_halts_and_their_ends_are_told(
    server: AlpacaDataServer, tape: str, code: str, message: str, halted: bool | None
) -> None:
    """By the codes of each tape. An unknown halt is one; what is not known to end it does not."""
    status = {"T": "s", "S": "AAPL", "sc": code, "sm": message, "rc": "T12", "rm": "Information requested", "t": AT, "z": tape}
    told = await live(server, source(server), [status, frame(START)], 1 if halted is None else 2)
    halts = [] if halted is None else [Halted("AAPL", halted, "Information requested", AT)]
    assert told == [*halts, bar(START)]


async def test_a_halt_without_a_reason_has_its_message(server: AlpacaDataServer) -> None:
    """Nobody has to look up a code."""
    status = {"T": "s", "S": "AAPL", "sc": "H", "sm": "Trading Halt", "rc": "", "rm": "", "t": AT, "z": "C"}
    assert await live(server, source(server), [status], 1) == [Halted("AAPL", True, "Trading Halt", AT)]


async def test_a_live_feed_knows_who_is_halted(server: AlpacaDataServer) -> None:
    """From the wire to what the gate asks; and it waits for bars as long as the source says."""
    feed = Live(source(server, clock=SystemClock()), interval=MINUTE, back=0)
    async with aclosing(feed.stream()) as stream:
        reading = asyncio.ensure_future(anext(stream))
        await server.subscribed()
        assert feed.status("AAPL") is None
        for code, status in (("H", Status.HALTED), ("T", Status.TRADING)):
            now = datetime.now(UTC)
            await server.send({"T": "s", "S": "AAPL", "sc": code, "sm": "", "rm": "", "t": now, "z": "C"})
            while feed.status("AAPL") is not status:
                await asyncio.sleep(0.005)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_wrong_keys_end_a_live_feed(server: AlpacaDataServer) -> None:
    """It does not try for ever what only a person can mend."""
    feed = Live(source(server, secret="another-secret-of-alpaca", clock=SystemClock()), interval=MINUTE, back=0)
    async with aclosing(feed.stream()) as stream:
        with pytest.raises(ConfigError, match="402 auth failed: check APCA_API_KEY_ID"):
            await anext(stream)


def test_it_says_how_late_its_bars_come() -> None:
    """So that nobody has to know; trades make bars of their own."""
    keys: dict[str, Any] = {"key": KEY, "secret": SECRET}
    assert AlpacaData(["AAPL"], **keys).lateness == timedelta(seconds=15)
    assert AlpacaData(["AAPL"], settle=timedelta(seconds=20), **keys).lateness == timedelta(seconds=25)
    assert AlpacaData(["AAPL"], bars=False, **keys).lateness is None


async def test_what_is_subscribed_to_is_what_was_asked_for(server: AlpacaDataServer) -> None:
    """Minutes or trades, quotes beside them, and states of trading where there are any."""
    wanted = [
        ({}, {"bars", "updatedBars", "quotes", "statuses"}),
        ({"quotes": False}, {"bars", "updatedBars", "statuses"}),
        ({"bars": False}, {"trades", "quotes", "statuses"}),
        ({"crypto": True, "quotes": False}, {"bars", "updatedBars"}),
    ]
    for more, channels in wanted:
        symbols = ["BTC/USD"] if more.get("crypto") else ["AAPL", "MSFT"]
        await server.idle()
        async with aclosing(source(server, symbols, **more).connect()) as stream:
            assert await anext(stream) == Alive()
            (subscriber,) = server.subscribers
            assert subscriber.channels == dict.fromkeys(channels, symbols)


async def test_trades_are_ticks(server: AlpacaDataServer) -> None:
    """To the microsecond, with the exchange they were made on; corrections are counted."""
    feed = source(server, bars=False)
    trade = {"T": "t", "S": "AAPL", "i": 96921, "x": "D", "p": 185.55, "s": 100, "t": AT, "c": ["@", "I"], "z": "C"}
    undone = {"T": "x", "S": "AAPL", "i": 96921, "x": "D", "p": 185.55, "s": 100, "a": "C", "z": "C", "t": AT}
    told = await live(server, feed, [trade, undone, {**undone, "T": "c"}, {**trade, "p": "186", "x": ""}], 2)
    assert told == [Tick("D", "AAPL", 185.55, 100.0, AT), Tick("ALPACA", "AAPL", 186.0, 100.0, AT)]
    assert feed.corrected == 2


async def test_crypto_has_minutes_and_trades_too(server: AlpacaDataServer) -> None:
    """By its own stream, under its own symbols."""
    minute = frame(START, symbol="BTC/USD", volume=0.25)
    assert await live(server, source(server, ["BTC/USD"], crypto=True), [minute], 1) == [
        bar(START, symbol="BTC/USD", volume=0.25)
    ]
    trade = {"T": "t", "S": "BTC/USD", "p": 43000.5, "s": 0.001, "t": AT, "i": 1, "tks": "B"}
    told = await live(server, source(server, ["BTC/USD"], crypto=True, bars=False), [trade], 1)
    assert told == [Tick("ALPACA", "BTC/USD", 43000.5, 0.001, AT)]


async def test_what_was_given_is_not_given_again(server: AlpacaDataServer) -> None:
    """A corrected minute, a repeated one and an older one are counted; a new connection begins anew."""
    feed = source(server)
    frames = [
        frame(START + MINUTE),
        frame(START + MINUTE, 105.0, kind="u"),
        frame(START + MINUTE),
        frame(START, 99.0),
        frame(START, symbol="MSFT"),
        {"T": "?", "S": "AAPL"},
        frame(START + 2 * MINUTE),
    ]
    assert await live(server, feed, frames, 2) == [bar(START + MINUTE), bar(START + 2 * MINUTE)]
    assert (feed.revised, feed.frames_left_out) == (1, 4)
    assert await live(server, feed, [frame(START + MINUTE)], 1) == [bar(START + MINUTE)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({**frame(START), "o": None}, r"Alpaca frame 'b' of AAPL, o: there is none"),
        ({**frame(START), "c": "high"}, r"c: 'high' is no number"),
        ({**frame(START), "l": 0}, r"low: 0.0 is no price"),
        ({**frame(START), "h": 99.0}, r"open: 100.0 is above the high 99.0"),
        ({**frame(START), "v": -1}, r"volume: -1.0 is no volume"),
        ({**frame(START), "t": START + timedelta(seconds=5)}, r"t: 2024-01-02T14:30:05\+00:00 is no multiple of 0:01:00"),
        ({**frame(START), "t": "2024-01-02"}, r"t: '2024-01-02' is no time with its zone"),
        ({"T": "b", "o": 1}, r"which has no symbol S"),
        ({"S": "AAPL"}, r"which has no kind T"),
        ("hello", r"which has no kind T"),
        (b"\xc1", r"no list of frames"),
        (b"\x81\xa1T\xa1b", r"no list of frames"),
        ({"T": "q", "S": "AAPL", "bp": -1, "ap": 2, "t": AT}, r"bp: -1.0 is no price"),
    ],
)
async def test_a_wrong_frame_is_named_by_its_field(server: AlpacaDataServer, wrong: Any, said: str) -> None:
    """Also those that the SDK's own loop would pass over in silence."""
    error = await failing(server, source(server), wrong)
    assert isinstance(error, BadData)
    with pytest.raises(BadData, match=said):
        raise error


@pytest.mark.parametrize(
    ("code", "message", "fix"),
    [
        (402, "auth failed", "APCA_API_KEY_ID"),
        (404, "auth timeout", "the login came too late"),
        (406, "connection limit exceeded", "close the other program"),
        (409, "insufficient subscription", 'feed="iex"'),
        (500, "internal error", "try again later"),
    ],
)
async def test_a_refused_login_names_the_fix(server: AlpacaDataServer, code: int, message: str, fix: str) -> None:
    """The SDK keeps the words of it and would try for ever."""
    server.denial = [{"T": "error", "code": code, "msg": message}]
    error = await failing(server, source(server))
    assert message in str(error)
    assert fix in str(error)
    assert str(code) in str(error) or code == 500
    assert isinstance(error, ConfigError) == (code in (402, 406, 409))  # what no reconnect mends


async def test_wrong_keys_are_refused(server: AlpacaDataServer) -> None:
    """By the stream and by the history."""
    feed = source(server, secret="another-secret-of-alpaca")
    assert "402 auth failed: check APCA_API_KEY_ID and APCA_API_SECRET_KEY" in str(await failing(server, feed))
    with pytest.raises(ConfigError, match=r"HTTP 403 .*check APCA_API_KEY_ID and APCA_API_SECRET_KEY"):
        await feed.history("AAPL", MINUTE, START, START + HOUR)


@pytest.mark.parametrize(
    ("code", "message", "fix"),
    [
        (405, "symbol limit exceeded", "subscribe to fewer"),
        (407, "slow client", "quotes=False"),
        (406, "connection limit exceeded", "close"),
    ],
)
async def test_a_refusal_later_ends_the_connection(server: AlpacaDataServer, code: int, message: str, fix: str) -> None:
    """The SDK would write it to a log and listen on."""
    error = await failing(server, source(server), {"T": "error", "code": code, "msg": message})
    assert isinstance(error, ConfigError) == (code == 405)  # a limit of connections may be our own dead one
    assert f"{code} {message}" in str(error)
    assert fix in str(error)


async def test_a_subscription_that_is_not_confirmed_is_an_error(server: AlpacaDataServer) -> None:
    """Otherwise a symbol would be silent for ever."""
    server.ignored = {"MSFT"}
    with pytest.raises(ConfigError, match="did not subscribe to bars of MSFT, updatedBars of MSFT, quotes of MSFT"):
        await anext(source(server, ["AAPL", "MSFT"]).connect())


async def test_a_stream_that_does_not_open_is_an_error(server: AlpacaDataServer) -> None:
    """It refuses over HTTP, greets with something else, says nothing, or is not there."""
    server.refusal = 429
    assert "HTTP 429 instead of opening: an account has one connection" in str(await failing(server, source(server)))
    server.refusal = 0
    server.greeting = [{"T": "error", "code": 406, "msg": "connection limit exceeded"}]
    assert "did not say that it is connected: close other programs" in str(await failing(server, source(server)))
    server.greeting = None
    assert "did not log in within 0.1 s" in str(await failing(server, source(server, connect_s=0.1)))
    server.greeting, server.denial = [{"T": "success", "msg": "connected"}], []
    assert "did not log in within 0.1 s" in str(await failing(server, source(server, connect_s=0.1)))
    gone = source(server)
    await server.__aexit__(None, None, None)
    with pytest.raises(FeedError, match="cannot be reached"):
        await anext(gone.connect())
    with pytest.raises(FeedError, match="cannot be reached"):
        await gone.history("AAPL", MINUTE, START, START + HOUR)


async def test_an_account_has_one_connection(server: AlpacaDataServer) -> None:
    """A second one of this process is refused here, one of another process by Alpaca; crypto is another stream."""
    async with aclosing(source(server).connect()) as stream:
        await anext(stream)
        with pytest.raises(ConfigError, match=r"this process is connected to .* with this key already.* one AlpacaData"):
            await anext(source(server, ["MSFT"]).connect())
        async with aclosing(source(server, ["BTC/USD"], crypto=True).connect()) as other:
            assert await anext(other) == Alive()
        elsewhere = source(server, url=server.url.replace("127.0.0.1", "localhost"))
        with pytest.raises(ConfigError, match=r"406 connection limit exceeded: .* close the other program"):
            await anext(elsewhere.connect())
    await server.idle()
    assert await live(server, source(server), [frame(START)], 1) == [bar(START)]


async def test_silence_is_told_from_a_dead_server(server: AlpacaDataServer) -> None:
    """A server that answers a ping lives, though nothing is traded."""
    assert await live(server, source(server, alive_s=0.3), [], 2) == [Alive(), Alive()]
    await server.idle()
    async with aclosing(source(server, alive_s=0.02).connect()) as stream:
        assert await anext(stream) == Alive()
        server.subscribers[-1].connection.transport.pause_reading()
        with pytest.raises(FeedError, match="did not answer a ping"):
            await heard(stream, 100)


async def test_a_connection_ends_or_breaks_and_the_next_one_works(server: AlpacaDataServer) -> None:
    """An orderly end ends the data; a broken one is an error. The SDK's own reconnecting is not used."""
    feed = source(server)
    for end in ("close", "cut", "fail", "close"):
        await server.idle()
        async with aclosing(feed.connect()) as stream:
            taking = asyncio.create_task(heard(stream, 1))
            await server.subscribed()
            await server.send(frame(START))
            assert await taking == [bar(START)]
            if end == "close":
                await server.close()
                assert [each async for each in stream] == []
            else:
                if end == "cut":
                    server.cut()
                else:
                    await server.close(1011)
                with pytest.raises(FeedError, match=r"stream broke .*connect again"):
                    await anext(stream)


async def test_nothing_is_left_after_a_cancellation(server: AlpacaDataServer) -> None:
    """No task, no thread, no connection, whether it was logging in, waiting or half read."""
    assert await live(server, source(server), [frame(START)], 1)  # so that all is imported
    await server.idle()
    tasks, threads = asyncio.all_tasks(), threading.enumerate()
    for stage in ("login", "waiting", "read"):
        server.denial = [] if stage == "login" else None
        feed = source(server)

        async def read(feed: AlpacaData = feed) -> None:
            async with aclosing(feed.connect()) as stream:
                async for _ in stream:
                    pass

        task = asyncio.create_task(read())
        if stage == "login":
            while not server.subscribers:
                await asyncio.sleep(0.001)
        else:
            await server.subscribed()
        if stage == "read":
            await server.send(frame(START))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.idle()
    gc.collect()
    await asyncio.sleep(0.01)
    assert {each for each in asyncio.all_tasks() - tasks if not each.done()} == set()
    assert [each for each in threading.enumerate() if each not in threads and "asyncio" not in each.name] == []


async def test_longer_bars_are_joined_from_minutes(server: AlpacaDataServer) -> None:
    """On the grid, closed with their last minute; what had begun before the connection is left out and counted."""
    clock = SimulatedClock(START + 2 * MINUTE)
    feed = source(server, ["AAPL", "MSFT"], interval=5 * MINUTE, clock=clock, alive_s=30.0)
    minutes = [frame(START + i * MINUTE, 100.0 + i) for i in range(2, 11)]
    told = await live(server, feed, [*minutes, frame(START + 8 * MINUTE, symbol="MSFT")], 1)
    assert told == [Bar("AAPL", START + 5 * MINUTE, START + 10 * MINUTE, 105.0, 111.0, 103.0, 110.0, 50.0)]
    assert feed.partial == 3


async def test_a_longer_bar_closes_although_its_last_minute_had_no_trade(server: AlpacaDataServer) -> None:
    """By the clock, once the minute would have come."""
    clock = SimulatedClock(START)
    feed = source(server, interval=5 * MINUTE, clock=clock, alive_s=0.3)
    async with aclosing(feed.connect()) as stream:
        await anext(stream)
        await server.send(frame(START), frame(START + 3 * MINUTE, 103.0))
        assert await anext(stream) == Alive()
        clock.move_to(START + 5 * MINUTE + timedelta(seconds=9))
        assert await anext(stream) == Alive()
        clock.move_to(START + 5 * MINUTE + timedelta(seconds=10))
        found = [each for each in [await anext(stream) for _ in range(2)] if each != Alive()]
    assert found == [Bar("AAPL", START, START + 5 * MINUTE, 100.0, 105.0, 98.0, 104.0, 20.0)]


def test_minutes_are_in_one_bar_or_counted() -> None:
    """Whatever is missing, late or of a bar that had begun before."""
    minutes = Minutes(5 * MINUTE, timedelta(seconds=10), START + timedelta(seconds=1))
    made = [each for i in (0, 4, 5, 6, 12, 7, 14, 13) for each in minutes.take(bar(START + i * MINUTE))]
    assert [(each.start - START, each.volume) for each in made] == [(5 * MINUTE, 20), (10 * MINUTE, 20)]
    assert (minutes.partial, minutes.late) == (2, 2)
    assert minutes.wait_s(START) is None
    minutes.take(bar(START + 15 * MINUTE))
    assert minutes.wait_s(START + 20 * MINUTE) == 10.0
    assert minutes.over(START + 20 * MINUTE) == []
    assert [each.end for each in minutes.over(START + 21 * MINUTE)] == [START + 20 * MINUTE]
    assert minutes.wait_s(START + 21 * MINUTE) is None


async def test_history_joins_pages_without_a_seam(server: AlpacaDataServer) -> None:
    """Every row is given once, and only what was asked for."""
    server.page_size = 7
    server.rows["AAPL", "1Min"] = [row(START + i * MINUTE, 100.0 + i) for i in range(40)]
    bars = await source(server).history("aapl", MINUTE, START + MINUTE / 2, START + 30.5 * MINUTE)
    assert bars == [bar(START + i * MINUTE, 100.0 + i) for i in range(1, 30)]
    assert [params.get("page_token") for _, params in server.asked] == [None, "7", "14", "21", "28"]
    path, params = server.asked[0]
    assert path == "/v2/stocks/bars"
    assert params == {
        "symbols": "AAPL",
        "timeframe": "1Min",
        "start": "2024-01-02T14:31:00+00:00",
        "end": "2024-01-02T14:59:00+00:00",
        "limit": "10000",
        "feed": "iex",
        "adjustment": "raw",
    }


@pytest.mark.parametrize(
    ("interval", "asked"), [(5 * MINUTE, "5Min"), (90 * MINUTE, "30Min"), (HOUR, "1Hour"), (4 * HOUR, "1Hour"), (DAY, "1Hour")]
)
async def test_longer_history_lies_on_the_grid_of_utc(server: AlpacaDataServer, interval: timedelta, asked: str) -> None:
    """Alpaca's own days and longer hours begin in New York's time, so that they are made of shorter rows."""
    unit = HOUR if asked == "1Hour" else MINUTE * int(asked.removesuffix("Min"))
    day = datetime(2024, 1, 2, tzinfo=UTC)
    server.rows["BTC/USD", asked] = [row(day + i * unit) for i in range(2 * DAY // unit)]
    bars = await source(server, ["BTC/USD"], crypto=True).history("BTC-USD", interval, day, day + DAY)
    parts = interval // unit
    assert bars == [
        Bar("BTC/USD", day + i * interval, day + (i + 1) * interval, 100, 102, 98, 101, 10 * parts)
        for i in range(DAY // interval)
    ]
    assert server.asked[0][0] == "/v1beta3/crypto/us/bars"


async def test_a_bar_is_given_once_it_has_ended(server: AlpacaDataServer) -> None:
    """By our clock and by the server's, whichever is behind."""
    server.rows["AAPL", "1Min"] = [row(START + i * MINUTE) for i in range(10)]
    clock = SimulatedClock(START + 3.5 * MINUTE)
    assert len(await source(server, clock=clock).history("AAPL", MINUTE, START, START + HOUR)) == 3
    server.date = f"{START + 2 * MINUTE + timedelta(seconds=59):%a, %d %b %Y %H:%M:%S GMT}"
    assert len(await source(server, clock=clock).history("AAPL", MINUTE, START, START + HOUR)) == 2
    assert await source(server).history("AAPL", MINUTE, NOW, NOW + HOUR) == []
    assert await source(server, ["MSFT"]).history("MSFT", MINUTE, START, START + HOUR) == []
    with pytest.raises(ConfigError, match="'MSFT' is not among the symbols"):
        await source(server).history("MSFT", MINUTE, START, START + HOUR)
    with pytest.raises(ConfigError, match="whole minutes that divide a day"):
        await source(server).history("AAPL", 7 * MINUTE, START, START + HOUR)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"o": None}, r"page 0, row 1, o: there is none"),
        ({"h": "x"}, r"row 1, h: 'x' is no number"),
        ({"t": "2024-01-02T14:31:30Z"}, r"row 1, t: .* is no multiple of 0:01:00"),
        ({"t": "2024-01-02T14:30:00Z"}, r"row 1: it starts at 2024-01-02T14:30:00.* as an earlier row, with other numbers"),
        ({"t": 1}, r"row 1, t: 1 is no time"),
    ],
)
async def test_a_wrong_row_is_named_by_row_and_field(server: AlpacaDataServer, bad: dict[str, Any], said: str) -> None:
    """Nothing is repaired, and nothing is guessed."""
    rows = [row(START), {**row(START + MINUTE, 101.0), **bad}]
    server.answer(200, json.dumps({"bars": {"AAPL": rows}, "next_page_token": None}))
    with pytest.raises(BadData, match=said):
        await source(server).history("AAPL", MINUTE, START, START + HOUR)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, '{"message": "unauthorized."}', r"HTTP 401 .*APCA_API_KEY_ID"),
        (403, '{"message": "subscription does not permit querying recent SIP data"}', r'HTTP 403 .*feed="iex"'),
        (422, '{"message": "invalid symbol"}', r"HTTP 422 .*check the symbol"),
        (200, "<html>Sorry</html>", r"no JSON"),
        (200, '{"trades": []}', r"no.* bars|without bars"),
        (200, "[]", r"without bars"),
        (302, "", r"without bars .*check rest_url"),
    ],
)
async def test_a_refusal_is_not_asked_again_and_names_the_fix(
    server: AlpacaDataServer, status: int, body: str, said: str
) -> None:
    """Asking again would change nothing."""
    server.answer(status, body)
    with pytest.raises(ConfigError if status == 401 else FeedError, match=said):
        await source(server).history("AAPL", MINUTE, START, START + HOUR)
    assert len(server.asked) == 1


async def test_what_may_pass_is_asked_again_at_the_same_page(server: AlpacaDataServer) -> None:
    """No earlier than Alpaca asks for, and no row twice; the SDK's own retries are off."""
    server.page_size = 5
    server.rows["AAPL", "1Min"] = [row(START + i * MINUTE) for i in range(8)]
    clock = SimulatedClock(NOW)
    feed = source(server, clock=clock)
    reset = str(int(NOW.timestamp()) + 20)
    for status, headers in ((504, {}), (502, {}), (429, {"Retry-After": "7"}), (429, {"X-RateLimit-Reset": reset})):
        server.answer(status, "<html>busy</html>", headers)
    assert len(await feed.history("AAPL", MINUTE, START, START + HOUR)) == 8
    assert len(server.asked) == 6
    assert 20 <= (clock.now() - NOW).total_seconds() < 23
    tired = source(server, deadline_s=20.0)
    for _ in range(50):
        server.answer(500, "broken")
    with pytest.raises(FeedError, match=r"HTTP 500 \(broken\): try again later"):
        await tired.history("AAPL", MINUTE, START, START + HOUR)
    assert len(server.asked) < 16


async def test_a_page_that_comes_back_is_an_error(server: AlpacaDataServer) -> None:
    """Otherwise a broken server would be asked for ever."""
    for _ in range(3):
        server.answer(200, json.dumps({"bars": {"AAPL": [row(START)]}, "next_page_token": "again"}))
    with pytest.raises(FeedError, match="names a page that was read before"):
        await source(server).history("AAPL", MINUTE, START, START + HOUR)


async def test_a_server_that_hangs_is_left(server: AlpacaDataServer) -> None:
    """The SDK would wait for ever."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    mute = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with mute:
        rest_url = f"http://127.0.0.1:{mute.sockets[0].getsockname()[1]}"
        feed = source(server, rest_url=rest_url, timeout_s=0.05, deadline_s=0.4)
        with pytest.raises(FeedError, match=r"cannot be reached .*Timeout"):
            await feed.history("AAPL", MINUTE, START, START + HOUR)


async def test_a_cancelled_history_leaves_nothing_open(server: AlpacaDataServer) -> None:
    """Its thread ends with the request's own limit of time."""
    came = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        came.set()
        await reader.read()
        writer.close()

    mute = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with mute:
        rest_url = f"http://127.0.0.1:{mute.sockets[0].getsockname()[1]}"
        feed = source(server, rest_url=rest_url, timeout_s=0.2)
        task = asyncio.create_task(feed.history("AAPL", MINUTE, START, START + HOUR))
        await came.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.get_running_loop().shutdown_default_executor()
        gc.collect()


async def test_nobody_is_shown_the_keys(server: AlpacaDataServer, caplog: pytest.LogCaptureFixture) -> None:
    """Not in logs of any level, not in errors and what hangs on them."""
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    feed = source(server)
    server.rows["AAPL", "1Min"] = [row(START)]
    await feed.history("AAPL", MINUTE, START, START + HOUR)
    await live(server, feed, [frame(START)], 1)
    for status in (403, 422):
        server.answer(status, f"key {KEY} with {SECRET}")
        with pytest.raises(FeedError) as caught:
            await feed.history("AAPL", MINUTE, START, START + HOUR)
        told += traceback.format_exception(caught.value)
    for bad in ({"T": "error", "code": 402, "msg": f"bad {SECRET}"}, f"what is {SECRET}?"):
        told += traceback.format_exception(await failing(server, feed, bad))
    server.denial = [{"T": "error", "code": 402, "msg": f"auth failed for {KEY}"}]
    told += [*traceback.format_exception(await failing(server, feed)), repr(feed), repr(vars(feed))]
    text = "".join([*told, caplog.text])
    assert "***" in text
    assert KEY not in text
    assert SECRET not in text
    assert not [each for each in caplog.records if each.name.startswith("websockets")]  # which write frames down in part
