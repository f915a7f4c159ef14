"""What the three exchanges have in common: each test runs the real source against a server that speaks its wire protocol."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agentfund.errors import BadData, ConfigError, FeedError, MissingExtra
from agentfund.market import Alive, Bar, Instrument, Quote, Tick
from agentfund.testing.exchanges import Candle, ExchangeServer, HandClock, Page
from tests.feeds.wires import MINUTE, SOURCES, START, WIRES, Listening, candle, source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(params=["binance", "bybit", "okx"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def server(kind: str) -> AsyncIterator[ExchangeServer]:
    async with ExchangeServer(WIRES[kind]()) as server:
        yield server


async def test_trades_come_as_ticks_with_the_users_name(kind: str, server: ExchangeServer) -> None:
    """A trade becomes a tick, exactly."""
    listening = Listening(source(kind, server, "BTC/USDT", "eth-usdt"))
    await server.subscribed(2)
    await server.trade("BTC/USDT", "1", "64000.10", "0.25", START)
    await server.trade("ETH/USDT", "1", "3000.5", "2", START + timedelta(milliseconds=1))
    assert await listening.first(2) == [
        Tick(kind, "BTC/USDT", 64000.10, 0.25, START),
        Tick(kind, "eth-usdt", 3000.5, 2.0, START + timedelta(milliseconds=1)),
    ]
    await listening.stop()


async def test_the_first_says_that_all_is_subscribed_to(kind: str, server: ExchangeServer) -> None:
    """Whoever hears anything can rely on hearing everything, also where nobody trades."""
    for options, count in (({}, 1), ({"quotes": True}, 2), ({"candles": MINUTE, "quotes": True}, 2)):
        async with aclosing(source(kind, server, **options).connect()) as stream:
            assert await anext(stream) == Alive()
            assert len(server.topics) == count
        await server.left()


async def test_a_trade_told_twice_counts_once(kind: str, server: ExchangeServer) -> None:
    """An exchange that repeats itself changes no volume; another symbol's trade with the same id is another trade."""
    listening = Listening(source(kind, server, "BTC/USDT", "ETH/USDT"))
    await server.subscribed(2)
    for pair, key in (("BTC/USDT", "7"), ("BTC/USDT", "8"), ("BTC/USDT", "7"), ("ETH/USDT", "7"), ("BTC/USDT", "9")):
        await server.trade(pair, key, "100", key)
    assert [tick.volume for tick in await listening.first(4) if isinstance(tick, Tick)] == [7, 8, 7, 9]
    await listening.stop()


async def test_an_unfinished_candle_is_never_given(kind: str, server: ExchangeServer) -> None:
    """Of many tellings of a candle the closed one is given, once."""
    listening = Listening(source(kind, server, candles=MINUTE))
    await server.subscribed()
    for minute in (0, 1):
        for close in ("100.5", "99.75", "102"):
            await server.candle("BTC/USDT", candle(minute, close), closed=False)
        await server.candle("BTC/USDT", candle(minute, "101"), closed=True)
        await server.candle("BTC/USDT", candle(minute, "101"), closed=True)
    await server.close()
    heard = await listening.end()
    assert [each for each in heard if not isinstance(each, Alive)] == [
        Bar("BTC/USDT", START + at * MINUTE, START + (at + 1) * MINUTE, 100.0, 102.25, 99.5, 101.0, 7.5) for at in (0, 1)
    ]
    assert sum(isinstance(each, Alive) for each in heard) == 8


async def test_quotes_come_beside_trades_or_candles(kind: str, server: ExchangeServer) -> None:
    """Best prices are quotes; a side where nobody is, is None."""
    for candles in (None, MINUTE):
        listening = Listening(source(kind, server, candles=candles, quotes=True, clock=HandClock(START)))
        await server.subscribed(2)
        await server.best("BTC/USDT", "100.5", "100.75")
        await server.best("BTC/USDT", None, "100.75")
        assert await listening.first(2) == [
            Quote("BTC/USDT", 100.5, 100.75, None, START),
            Quote("BTC/USDT", None, 100.75, None, START),
        ]
        if candles is not None:
            await server.candle("BTC/USDT", candle(0), closed=True)
        else:
            await server.trade("BTC/USDT", "1", "100", "1")
        assert isinstance((await listening.first(3))[2], Tick if candles is None else Bar)
        await listening.stop()
        await server.left()


async def test_a_pong_says_that_the_connection_lives(kind: str, server: ExchangeServer) -> None:
    """Every twenty seconds the exchange's own ping is sent, and its answer is passed on."""
    clock = HandClock(START)
    listening = Listening(source(kind, server, clock=clock))
    await server.subscribed()
    for count in (1, 2, 3):
        await clock.sleeping(20)
        clock.advance(20)
        assert await listening.first(count) == [Alive()] * count
    await listening.stop()


async def test_silence_ends_the_connection(kind: str, server: ExchangeServer) -> None:
    """Where not even pings are answered, the source fails and says so."""
    clock = HandClock(START)
    listening = Listening(source(kind, server, clock=clock))
    await server.subscribed()
    await server.trade("BTC/USDT", "1", "100", "1")
    await listening.first(1)
    server.mute = True
    for _ in range(2):
        await clock.sleeping(20)
        clock.advance(20)
    with pytest.raises(FeedError, match=f"{kind}: the connection ended: nothing came for 40 s.*connect again"):
        await listening.end()
    await server.left()


async def test_a_slow_reader_is_not_taken_for_a_silent_exchange(kind: str, server: ExchangeServer) -> None:
    """Silence counts while somebody listens, not while a tick is thought about."""
    clock = HandClock(START)
    async with aclosing(source(kind, server, clock=clock).connect()) as stream:
        await anext(stream)
        for _ in range(5):
            await clock.sleeping(20)
            clock.advance(20)
        await server.trade("BTC/USDT", "2", "101", "1")
        found = [await anext(stream)]
        while not isinstance(found[-1], Tick):
            found.append(await anext(stream))
        assert found[-1].price == 101


async def test_an_exchange_that_closes_in_good_order_ends_the_stream(kind: str, server: ExchangeServer) -> None:
    """After a day the exchange says goodbye: that is an end and no error."""
    for code in (1000, 1001):
        listening = Listening(source(kind, server))
        await server.subscribed()
        await server.trade("BTC/USDT", "1", "100", "1")
        await server.close(code)
        assert len(await listening.end()) == 1
        await server.left()


async def test_a_connection_that_breaks_is_an_error(kind: str, server: ExchangeServer) -> None:
    """Cut in the middle, or closed with a complaint: the error says which."""
    listening = Listening(source(kind, server))
    await server.subscribed()
    await server.trade("BTC/USDT", "1", "100", "1")
    await listening.first(1)
    server.cut()
    with pytest.raises(FeedError, match=f"{kind}: the connection ended: .*connect again and fill the gap"):
        await listening.end()
    await server.left()
    listening = Listening(source(kind, server))
    await server.subscribed()
    await server.close(1008, "Pong timeout")
    with pytest.raises(FeedError, match=r"closed it with code 1008 \(Pong timeout\)"):
        await listening.end()


async def test_an_unknown_symbol_is_named(kind: str, server: ExchangeServer) -> None:
    """Nothing is given, the error says which symbol, as the user wrote it, and no reconnect mends it."""
    listening = Listening(source(kind, server, "BTC/USDT", "nope/usdt"))
    with pytest.raises(ConfigError, match=f"{kind} .*'nope/usdt'.*correct the symbol"):
        await listening.end()
    assert listening.heard == []
    await server.left()


async def test_a_subscription_that_is_not_confirmed_in_time_is_an_error(kind: str, server: ExchangeServer) -> None:
    """Ten seconds by the clock, and the error names what was not confirmed."""
    clock = HandClock(START)
    server.mute = True
    listening = Listening(source(kind, server, clock=clock))
    await clock.sleeping(10)
    clock.advance(10)
    with pytest.raises(FeedError, match=rf"{kind} did not confirm (?i:.*btc-?usdt).* within 10 s"):
        await listening.end()
    await server.left()


async def test_what_comes_before_the_confirmation_is_not_lost(kind: str, server: ExchangeServer) -> None:
    """Trades that overtake the confirmation are given behind it, in order."""
    known = ["X/USDT", *(f"C{at}/USDT" for at in range(120))]
    server.shop.pairs = tuple((pair.split("/")[0], "USDT") for pair in known)
    clock = HandClock(START)
    listening = Listening(source(kind, server, *known, clock=clock))
    await server.subscribed(10)
    await server.trade("X/USDT", "1", "100", "1")
    while len(server.topics) < len(known):
        clock.advance(0.5)
        await asyncio.sleep(0.005)
    await server.trade("X/USDT", "2", "101", "1")
    assert [tick.price for tick in await listening.first(2) if isinstance(tick, Tick)] == [100, 101]
    await listening.stop()


async def test_an_exchange_that_turns_away_says_why(kind: str, server: ExchangeServer) -> None:
    """The status of HTTP and the exchange's words are in the error, with what to do."""
    server.turned_away = Page(451, b"Service unavailable from a restricted location")
    with pytest.raises(ConfigError, match=r"HTTP status 451 \(Service unavailable from a restricted location\).*give the url"):
        await Listening(source(kind, server)).end()
    server.turned_away = Page(429, b"")
    with pytest.raises(FeedError, match=r"HTTP status 429: too many connections were opened"):
        await Listening(source(kind, server)).end()


async def test_nobody_there_is_an_error_of_the_feed(kind: str, server: ExchangeServer) -> None:
    """An address where nobody listens is named."""
    made = SOURCES[kind](["BTC/USDT"], url="ws://127.0.0.1:9/ws", rest_url=server.rest_url)
    with pytest.raises(FeedError, match=r"cannot be reached at ws://127\.0\.0\.1:9/ws.*check the network"):
        await Listening(made).end()
    wrong = SOURCES[kind](["BTC/USDT"], url="http://127.0.0.1:9", rest_url=server.rest_url)
    with pytest.raises(ConfigError, match="no address of a websocket"):
        await Listening(wrong).end()


async def test_the_websocket_is_an_extra(kind: str, server: ExchangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the error says what to install."""
    monkeypatch.setitem(sys.modules, "websockets.asyncio.client", None)
    with pytest.raises(MissingExtra, match=r"websockets is not installed: pip install 'agentfund\[exchanges\]'"):
        await Listening(source(kind, server)).end()


@pytest.mark.parametrize("said", ['{"what": "is this"}', "[1, 2]", "12", '{"e": 5}', '{"topic": "new.BTCUSDT", "data": []}'])
async def test_a_message_of_unknown_shape_is_named(kind: str, server: ExchangeServer, said: str) -> None:
    """Nothing is skipped in silence: the error shows the message."""
    listening = Listening(source(kind, server))
    await server.subscribed()
    await server.say(said)
    with pytest.raises(FeedError, match=kind) as caught:
        await listening.end()
    assert said[:12] in str(caught.value) or said.replace('"', "'")[:12] in str(caught.value)
    await server.left()


@pytest.mark.parametrize("said", ["", "no json", '{"e": NaN}', "{" * 100_000])
async def test_what_is_not_json_is_bad_data(kind: str, server: ExchangeServer, said: str) -> None:
    """NaN and nesting without end are not JSON either."""
    listening = Listening(source(kind, server))
    await server.subscribed()
    await server.say(said)
    with pytest.raises(BadData, match=f"{kind} sent something that is not JSON") as caught:
        await listening.end()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(("price", "volume"), [("NaN", "1"), ("-5", "1"), ("0", "1"), ("Infinity", "1"), ("5", "-1")])
async def test_an_impossible_trade_is_given_for_the_feed_to_count(
    kind: str, server: ExchangeServer, price: str, volume: str
) -> None:
    """One such trade does not end the connection; who makes bars of ticks leaves it out and counts it."""
    listening = Listening(source(kind, server))
    await server.subscribed()
    await server.trade("BTC/USDT", "1", price, volume)
    await server.trade("BTC/USDT", "2", "100", "1")
    first, second = await listening.first(2)
    assert isinstance(first, Tick)
    assert repr((first.price, first.volume)) == repr((float(price), float(volume)))
    assert isinstance(second, Tick)
    await listening.stop()


@pytest.mark.parametrize("price", ["", "1_000", "0x10", "1,5", " 5", "five", None, 5.0, True])
async def test_a_price_that_is_no_number_is_bad_data(kind: str, server: ExchangeServer, price: Any) -> None:
    """The error names exchange, channel and field."""
    listening = Listening(source(kind, server))
    await server.subscribed()
    await server.trade("BTC/USDT", "1", price, "1")
    field = {"binance": "trade, field 'p'", "bybit": r"publicTrade\.BTCUSDT, field 'p'", "okx": "trades, field 'px'"}[kind]
    with pytest.raises(BadData, match=f"{kind}, {field}: a number in quotes was expected"):
        await listening.end()


@pytest.mark.parametrize("price", ["NaN", "-1", "0", "Infinity", "98"])
async def test_a_closed_candle_that_cannot_be_is_bad_data(kind: str, server: ExchangeServer, price: str) -> None:
    """A bar is what decisions are made of: an impossible one ends the connection, and its like is asked for again."""
    listening = Listening(source(kind, server, candles=MINUTE))
    await server.subscribed()
    await server.candle("BTC/USDT", candle(0, price), closed=True)
    with pytest.raises(BadData, match=rf"{kind}, .*field .*: (a price must be above zero|prices must lie)"):
        await listening.end()


async def test_a_candle_off_the_grid_is_bad_data(kind: str, server: ExchangeServer) -> None:
    """A one-minute candle starts at a full minute."""
    listening = Listening(source(kind, server, candles=MINUTE))
    await server.subscribed()
    late = Candle(START + timedelta(seconds=1), MINUTE, "100", "102.25", "99.5", "100", "7.5")
    await server.candle("BTC/USDT", late, closed=True)
    with pytest.raises(BadData, match="cannot start at 2024-05-01T00:00:01"):
        await listening.end()


async def test_leaving_early_closes_the_connection(kind: str, server: ExchangeServer) -> None:
    """By a break, by cancellation, and before the first message; nothing is left running."""
    async with aclosing(source(kind, server, quotes=True).connect()) as stream:
        await anext(stream)
    await server.left()
    listening = Listening(source(kind, server, candles=MINUTE, quotes=True))
    await server.subscribed(2)
    await listening.stop()
    assert listening.task.cancelled()
    await server.left()
    server.mute = True
    listening = Listening(source(kind, server))
    while not server.clients:
        await asyncio.sleep(0.001)
    await listening.stop()
    assert listening.task.cancelled()
    await server.left()
    assert {task.get_name() for task in asyncio.all_tasks() if "pings" in task.get_name()} == set()


async def test_a_loop_that_is_left_by_a_break_closes_the_connection(kind: str, server: ExchangeServer) -> None:
    """Also where nobody thought of `aclosing`."""

    async def trade() -> None:
        await server.subscribed()
        await server.trade("BTC/USDT", "1", "100", "1")

    trading = asyncio.create_task(trade())
    async for heard in source(kind, server).connect():
        if isinstance(heard, Tick):
            break
    await trading
    await server.left()


async def test_bytes_that_are_no_text_end_the_connection(kind: str, server: ExchangeServer) -> None:
    """As an error of the feed, and not of the program."""
    listening = Listening(source(kind, server))
    await server.subscribed()
    for client in server._clients:
        await client.send(b"\xff\xfe")
    with pytest.raises(FeedError, match=f"{kind}: .* code 1007"):
        await listening.end()


async def test_a_slow_reader_holds_the_exchange_back(kind: str, server: ExchangeServer) -> None:
    """What is not read waits on the exchange's side: memory here does not grow."""
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while True:
            await server.trade("BTC/USDT", str(sent), "100.25", "1" + "0" * 16_000)
            sent += 1

    async with aclosing(source(kind, server).connect()) as stream:
        await anext(stream)
        flooding = asyncio.create_task(flood())
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 2000, "more than the buffers of the system"
        for _ in range(sent):
            await anext(stream)
        assert not flooding.done()
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
    await server.left()


async def test_a_message_beyond_all_measure_is_refused(kind: str, server: ExchangeServer) -> None:
    """More than a megabyte in one message is not read."""
    listening = Listening(source(kind, server))
    await server.subscribed()
    await server.say("x" * 2_000_000)
    with pytest.raises(FeedError, match="code 1009"):
        await listening.end()


async def test_instruments_are_asked_for_by_name(kind: str, server: ExchangeServer) -> None:
    """`find` gives steps and currency, and a source of them is subscribed to the same names."""
    found = await SOURCES[kind].find(["ETH/USDT", "BTC/USDT"], rest_url=server.rest_url)
    assert [each.symbol for each in found] == ["ETH/USDT", "BTC/USDT"]
    assert {each.currency for each in found} == {"USDT"}
    steps = {"binance": ("0.01", "0.00001"), "bybit": ("0.01", "0.000001"), "okx": ("0.1", "1E-8")}[kind]
    assert {(str(each.tick_size), str(each.lot_size)) for each in found} == {steps}
    assert SOURCES[kind](found).instruments == found
    with pytest.raises(ConfigError, match=f"{kind} .*'NO/USDT'.*correct the symbol"):
        await SOURCES[kind].find(["BTC/USDT", "NO/USDT"], rest_url=server.rest_url)


def test_a_name_alone_has_the_finest_steps(kind: str) -> None:
    """An order is then perhaps refused, and never rounded to another price."""
    (only,) = SOURCES[kind](["PEPE/USDT"]).instruments
    assert only.round_price(0.00001234) == only.round_price("0.00001234") > 0
    assert only.currency == "USDT"
    own = Instrument("BTC/USDT", lot_size=only.lot_size)
    assert SOURCES[kind]([own]).instruments == (own,)


@pytest.mark.parametrize("wrong", [[], "BTC/USDT", ["BTC/USDT:USDT"], ["BTC"], [""], ["BTC/"], ["BTC/USDT", "btc-usdt"]])
def test_what_is_no_list_of_spot_pairs_is_refused(kind: str, wrong: Any) -> None:
    """Nothing is guessed: contracts have other units, and one symbol under two names would count twice."""
    with pytest.raises(ConfigError):
        SOURCES[kind](wrong)


def test_too_many_symbols_for_one_connection_are_refused(kind: str) -> None:
    """The exchanges cut such connections without a word."""
    with pytest.raises(ConfigError, match=r"at most .* symbols on a connection.*several sources"):
        SOURCES[kind]([f"C{at}/USDT" for at in range(1025)])


def test_candles_that_the_exchange_has_not_are_refused(kind: str) -> None:
    """The error names those it has."""
    with pytest.raises(ConfigError, match=f"{kind} has no candles of 0:07:00; it has .*1m, 3m, 5m, 15m, 30m, 1h, .*1d"):
        SOURCES[kind](["BTC/USDT"], candles=timedelta(minutes=7))


def test_a_source_says_how_late_its_candles_come(kind: str) -> None:
    """So that a live feed waits for them; trades make bars of their own."""
    assert SOURCES[kind](["BTC/USDT"], candles=MINUTE).lateness == timedelta(seconds=5)
    assert SOURCES[kind](["BTC/USDT"]).lateness is None
