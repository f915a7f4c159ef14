"""Candles of the past: each test runs the real source against a server that pages as the exchange does."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest

from agentfund.clock import SimulatedClock
from agentfund.errors import BadData, ConfigError, FeedError
from agentfund.market import Bar
from agentfund.testing.exchanges import Candle, ExchangeServer, Page
from tests.feeds.wires import MINUTE, SOURCES, START, WIRES, candle, source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

PAGES = {"binance": 1000, "bybit": 1000, "okx": 300}
PATHS = {"binance": "/api/v3/klines", "bybit": "/v5/market/kline", "okx": "/api/v5/market/history-candles"}


@pytest.fixture(params=["binance", "bybit", "okx"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def server(kind: str) -> AsyncIterator[ExchangeServer]:
    async with ExchangeServer(WIRES[kind]()) as server:
        server.shop.now = START + timedelta(days=30)
        yield server


async def history(
    kind: str, server: ExchangeServer, start: datetime, end: datetime, interval: timedelta = MINUTE, **options: Any
) -> Sequence[Bar]:
    clock = options.pop("clock", None) or SimulatedClock(server.shop.now)
    return await source(kind, server, clock=clock, **options).history("BTC/USDT", interval, start, end)


def starts(bars: Sequence[Bar]) -> list[float]:
    return [(bar.start - START) / MINUTE for bar in bars]


async def test_three_pages_have_no_seam(kind: str, server: ExchangeServer) -> None:
    """Every bar once, in order, with its own prices; the exchange's page size is used."""
    count = 2 * PAGES[kind] + 50
    server.hold("BTC/USDT", [candle(at, str(100 + at % 7 / 8)) for at in range(count + 5)])
    bars = await history(kind, server, START, START + count * MINUTE)
    assert bars == [
        Bar("BTC/USDT", START + at * MINUTE, START + (at + 1) * MINUTE, 100.0, 102.25, 99.5, 100 + at % 7 / 8, 7.5)
        for at in range(count)
    ]
    assert len(server.asked) == 3
    assert {path for path, _ in server.asked} == {PATHS[kind]}
    assert {query["limit"] for _, query in server.asked} == {str(PAGES[kind])}


@pytest.mark.parametrize("most", [1, 7, 99])
async def test_pages_smaller_than_promised_leave_no_hole(kind: str, server: ExchangeServer, most: int) -> None:
    """What an exchange gives at once is its own affair."""
    server.hold("BTC/USDT", [candle(at) for at in range(120)])
    server.shop.most = most
    assert starts(await history(kind, server, START, START + 110 * MINUTE)) == list(range(110))


async def test_what_the_exchange_has_not_is_left_out(kind: str, server: ExchangeServer) -> None:
    """Hours in which it was down, of any length, and the time before it traded, are not made up."""
    far = 3 * PAGES[kind]
    held = [*range(40, 60), *range(far, far + 30)]
    server.hold("BTC/USDT", [candle(at) for at in held])
    assert starts(await history(kind, server, START, START + (far + 20) * MINUTE)) == [*range(40, 60), *range(far, far + 20)]
    assert await history(kind, server, START, START + 30 * MINUTE) == []


async def test_the_bar_that_is_still_open_is_never_given(kind: str, server: ExchangeServer) -> None:
    """Not even where the end that was asked for lies in the future, and our own clock is far ahead."""
    server.hold("BTC/USDT", [candle(at) for at in range(10)])
    server.shop.now = START + 9 * MINUTE + timedelta(seconds=30)
    for clock in (SimulatedClock(server.shop.now), SimulatedClock(server.shop.now + timedelta(hours=3))):
        assert starts(await history(kind, server, START, START + timedelta(hours=2), clock=clock)) == list(range(9))


async def test_a_bar_has_closed_when_the_exchange_says_so(kind: str, server: ExchangeServer) -> None:
    """By a later bar, by its flag, or by its clock: what a cache may have kept from a second before does not count."""
    server.hold("BTC/USDT", [candle(at) for at in range(10)])
    server.shop.now = START + 10 * MINUTE
    asked = (START, START + 10 * MINUTE)
    clock = SimulatedClock(server.shop.now)
    assert starts(await history(kind, server, *asked, clock=clock)) == list(range(10 if kind == "okx" else 9))
    server.shop.now += timedelta(seconds=2)
    assert starts(await history(kind, server, *asked, clock=clock)) == list(range(10))
    server.shop.now -= timedelta(seconds=2)
    server.hold("BTC/USDT", [candle(at) for at in range(11)])
    assert starts(await history(kind, server, *asked, clock=clock)) == list(range(10))


async def test_start_and_end_need_not_lie_on_the_grid(kind: str, server: ExchangeServer) -> None:
    """Bars that start at or after the start and end by the end; nothing else."""
    server.hold("BTC/USDT", [candle(at) for at in range(20)])
    part = timedelta(seconds=20)
    assert starts(await history(kind, server, START + 2 * MINUTE + part, START + 6 * MINUTE + part)) == [3, 4, 5]
    assert starts(await history(kind, server, START + 2 * MINUTE - part, START + 6 * MINUTE - part)) == [2, 3, 4]
    assert await history(kind, server, START + 6 * MINUTE, START + 6 * MINUTE) == []
    assert await history(kind, server, START + 6 * MINUTE, START) == []


@pytest.mark.parametrize("interval", [timedelta(minutes=5), timedelta(hours=1), timedelta(hours=12), timedelta(days=1)])
async def test_longer_bars_end_one_interval_after_their_start(kind: str, server: ExchangeServer, interval: timedelta) -> None:
    """In UTC, whatever the exchange calls them."""
    held = [Candle(START + at * interval, interval, "1", "2", "0.5", "1.5", "3") for at in range(8)]
    server.hold("BTC/USDT", held)
    bars = await history(kind, server, START, START + 5 * interval, interval)
    assert [(bar.start, bar.end) for bar in bars] == [(each.start, each.start + interval) for each in held[:5]]


@pytest.mark.parametrize("status", [429, 418])
async def test_the_rest_that_an_exchange_asks_for_is_kept(kind: str, server: ExchangeServer, status: int) -> None:
    """Retry-After is honoured, and the history is whole."""
    server.hold("BTC/USDT", [candle(at) for at in range(20)])
    server.refusals = [
        Page(status, {"code": -1003}, {"Retry-After": "7"}),
        Page(status, b"", {}),
        Page(429, b"", {"Retry-After": "5"}),
    ]
    clock = SimulatedClock(server.shop.now)
    assert starts(await history(kind, server, START, START + 10 * MINUTE, clock=clock)) == list(range(10))
    assert clock.monotonic() - SimulatedClock(server.shop.now).monotonic() >= 7 + 1 + 5


async def test_a_rest_may_be_told_as_a_time(kind: str, server: ExchangeServer) -> None:
    """Retry-After has two forms; one that is neither counts as none."""
    server.hold("BTC/USDT", [candle(at) for at in range(20)])
    clock = SimulatedClock(server.shop.now)
    until = format_datetime(server.shop.now + timedelta(seconds=9), usegmt=True)
    server.refusals = [Page(429, b"", {"Retry-After": until}), Page(429, b"", {"Retry-After": "soon"})]
    assert starts(await history(kind, server, START, START + 10 * MINUTE, clock=clock)) == list(range(10))
    assert timedelta(seconds=10) <= clock.now() - server.shop.now < timedelta(seconds=12)


@pytest.mark.long
async def test_a_server_that_does_not_answer_is_an_error(kind: str) -> None:
    """Ten seconds for each of three attempts, also where it sends a byte now and then."""

    gone = asyncio.Event()

    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        with suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(), 0.5)
        writer.close()
        gone.set()

    async with await asyncio.start_server(dribble, "127.0.0.1", 0) as stuck:
        made = SOURCES[kind](["BTC/USDT"], rest_url=f"http://127.0.0.1:{stuck.sockets[0].getsockname()[1]}")
        with pytest.raises(FeedError, match="did not answer"):
            await made.history("BTC/USDT", MINUTE, START, START + MINUTE)
        await asyncio.wait_for(gone.wait(), 10)


async def test_a_rest_beyond_the_deadline_is_an_error(kind: str, server: ExchangeServer) -> None:
    """Nobody waits for minutes in silence: the error says how long the exchange wants."""
    clock = SimulatedClock(server.shop.now)
    server.refusals = [Page(429, b"", {"Retry-After": "120"})]
    with pytest.raises(FeedError, match=rf"{kind} answered {PATHS[kind][:6]}.* 429 .*it asks to wait 120 s: wait"):
        await history(kind, server, START, START + 10 * MINUTE, clock=clock)
    assert len(server.asked) == 1
    server.refusals = [Page(429, b"", {"Retry-After": "11"})] * 9
    with pytest.raises(FeedError, match="asks to wait 11 s"):
        await history(kind, server, START, START + 10 * MINUTE, clock=clock)
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (Page(400, b"<html>oops</html>"), ""),
        (Page(403, b"blocked"), r"HTTP status 403 \(blocked\).*rest_url"),
        (Page(404, b""), "HTTP status 404.*check the rest_url"),
        (Page(302, b"", {"Location": "http://127.0.0.1:9/"}), "HTTP status 302"),
        (Page(200, b"<html>captcha</html>"), "not JSON.*captcha"),
        (Page(200, b""), "not JSON"),
        (Page(200, 5), "changed its format"),
        (Page(200, {"rows": 1}), ""),
    ],
)
async def test_what_is_no_answer_is_an_error_of_the_feed(kind: str, server: ExchangeServer, page: Page, why: str) -> None:
    """It names exchange, cause and fix, and is never an empty history."""
    server.refusals = [page]
    with pytest.raises(FeedError, match=f"{kind}.*{why}"):
        await history(kind, server, START, START + 10 * MINUTE)


async def test_an_error_of_the_server_is_asked_again(kind: str, server: ExchangeServer) -> None:
    """Until the deadline; the history is whole, or an error that names the cause."""
    server.hold("BTC/USDT", [candle(at) for at in range(20)])
    server.refusals = [Page(500, b"<html>oops</html>"), Page(503, b""), Page(502, b"", {"Retry-After": "4"})]
    clock = SimulatedClock(server.shop.now)
    assert starts(await history(kind, server, START, START + 10 * MINUTE, clock=clock)) == list(range(10))
    assert clock.now() - server.shop.now >= timedelta(seconds=1 + 2 + 4)
    server.refusals = [Page(500, b"<html>oops</html>")] * 40
    with pytest.raises(FeedError, match=r"HTTP status 500 \(a page of HTML\): try again later"):
        await history(kind, server, START, START + 10 * MINUTE)


async def test_a_country_that_is_not_served_is_final(kind: str, server: ExchangeServer) -> None:
    """No reconnect mends it, so it is no error that passes."""
    server.refusals = [Page(451, b"not in your country")]
    with pytest.raises(ConfigError, match=r"HTTP status 451 \(not in your country\).*rest_url"):
        await history(kind, server, START, START + 10 * MINUTE)


async def test_nobody_there_is_an_error_of_the_feed(kind: str, server: ExchangeServer) -> None:
    """The address is named, and it was tried for half a minute."""
    clock = SimulatedClock(server.shop.now)
    made = source(kind, server, clock=clock)
    made._rest_url = "http://127.0.0.1:9"
    with pytest.raises(FeedError, match=r"cannot be reached at http://127\.0\.0\.1:9.*check the network"):
        await made.history("BTC/USDT", MINUTE, START, START + MINUTE)
    assert timedelta(seconds=10) < clock.now() - server.shop.now <= timedelta(seconds=30)
    made._rest_url = "127.0.0.1:9"
    with pytest.raises(ConfigError, match="no address: it begins with https"):
        await made.history("BTC/USDT", MINUTE, START, START + MINUTE)


async def test_no_proxy_leads_to_this_machine(kind: str, server: ExchangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the environment is for what is elsewhere."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    server.hold("BTC/USDT", [candle(at) for at in range(20)])
    assert starts(await history(kind, server, START, START + 10 * MINUTE)) == list(range(10))


async def test_symbols_and_intervals_are_checked(kind: str, server: ExchangeServer) -> None:
    """Those of others are our caller's error; those that the exchange has not are named."""
    made = source(kind, server, "BTC/USDT", "NO/USDT", clock=SimulatedClock(server.shop.now))
    with pytest.raises(ConfigError, match=f"this source of {kind} has no 'ETH/USDT'; it has 'BTC/USDT', 'NO/USDT'"):
        await made.history("ETH/USDT", MINUTE, START, START + MINUTE)
    with pytest.raises(ConfigError, match=f"{kind} has no candles of 0:07:00"):
        await made.history("BTC/USDT", 7 * MINUTE, START, START + MINUTE)
    with pytest.raises(ConfigError, match=f"{kind}.*'NO/USDT'.*(check|correct) the symbol"):
        await made.history("NO/USDT", MINUTE, START, START + MINUTE)
    with pytest.raises(ValueError, match="no time zone"):
        await made.history("BTC/USDT", MINUTE, START.replace(tzinfo=None), START)


@pytest.mark.parametrize("wrong", ["NaN", "-1", "0", "1e999", "98"])
async def test_a_bar_that_cannot_be_is_bad_data(kind: str, server: ExchangeServer, wrong: str) -> None:
    """The error names the exchange, and the field."""
    server.hold("BTC/USDT", [candle(0), candle(1, wrong), candle(2)])
    with pytest.raises(BadData, match=rf"{kind}, .*field \d"):
        await history(kind, server, START, START + 3 * MINUTE)


async def test_bars_out_of_order_are_bad_data(kind: str, server: ExchangeServer) -> None:
    """A cache that mixes pages up is noticed, and so is one that answers another question."""
    held = [candle(at) for at in (2, 1, 3)]
    server.hold("BTC/USDT", held)
    with pytest.raises(BadData, match=f"{kind} sent bars of BTC/USDT that are out of order"):
        await history(kind, server, START, START + 5 * MINUTE)
    server.hold("BTC/USDT", [candle(2), candle(2)])
    with pytest.raises(BadData, match="out of order"):
        await history(kind, server, START, START + 5 * MINUTE)
