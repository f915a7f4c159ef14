"""Bybit's spot market: public trades, candles and best prices by websocket, and candles of the past."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from agentfund.clock import SystemClock
from agentfund.errors import ConfigError, FeedError
from agentfund.feeds.wire_history import backwards, closed, span
from agentfund.feeds.wire_names import LATENESS, Intervals, Names, step
from agentfund.feeds.wire_once import Once
from agentfund.feeds.wire_refusals import EXCHANGE_REST
from agentfund.feeds.wire_rest import Rest, object_in
from agentfund.feeds.wire_stream import Confirmed, Request, listen
from agentfund.feeds.wire_values import Fields, parse, shown
from agentfund.market import Alive, Instrument, Quote, Tick

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime

    from agentfund.market import Bar, Heard
    from agentfund.protocols import Clock

NAME = "bybit"
URL = "wss://stream.bybit.com/v5/public/spot"
REST_URL = "https://api.bybit.com"

INTERVALS = Intervals(
    NAME,
    {timedelta(minutes=each): str(each) for each in (1, 3, 5, 15, 30, 60, 120, 240, 360, 720)} | {timedelta(days=1): "D"},
)

_A_REQUEST = 10  # topics in a message about the spot market
_LETTERS = 21_000  # of all topics on one connection
_PAUSE_S = 0.1
_PAGE = 1000
_LIMITED = (10006, 10018)
_BAD_PARAMETER = 10001
_WS_BAR = ("start", "open", "high", "low", "close", "volume")
_REST_BAR = (0, 1, 2, 3, 4, 5)


class Bybit:
    """A source of Bybit's spot market, without a key; `Live(Bybit(["BTC/USDT"]), ...)` makes a feed of it.

    Args:
        symbols: such as `["BTC/USDT"]`, or instruments with their steps: `await Bybit.find(["BTC/USDT"])`. What comes has
            the name that is given here.
        candles: candles of this length in place of trades; closed ones only.
        quotes: best bid and ask too.
        url: the websocket's address.
        rest_url: the REST API's address.
        clock: the machine's where not given.

    Attributes:
        lateness: how long behind its end a candle may come, which a `Live` feed waits for; None where trades are given.

    Raises:
        ConfigError: a symbol is no spot pair or comes twice, there are too many, or there are no such candles.
    """

    def __init__(
        self,
        symbols: Sequence[str | Instrument],
        *,
        candles: timedelta | None = None,
        quotes: bool = False,
        url: str = URL,
        rest_url: str = REST_URL,
        clock: Clock | None = None,
    ) -> None:
        # The longest topic is some 20 letters and a symbol; a connection that has 300 symbols of both kinds is within limits.
        self._names = Names(NAME, symbols, joined="", most=_LETTERS // (70 if quotes else 35))
        self._candles = None if candles is None else (candles, INTERVALS.name(candles))
        self.lateness = None if candles is None else LATENESS
        self.interval = candles
        self._quotes = quotes
        self._url = url
        self._rest_url = rest_url
        self._clock = clock or SystemClock()

    def __repr__(self) -> str:
        return f"<Bybit: {', '.join(each.symbol for each in self.instruments)}>"

    @property
    def name(self) -> str:
        """The exchange's name: bybit."""
        return NAME

    @property
    def instruments(self) -> Sequence[Instrument]:
        """What is subscribed to."""
        return self._names.instruments

    @classmethod
    async def find(
        cls, symbols: Sequence[str], *, rest_url: str = REST_URL, clock: Clock | None = None
    ) -> tuple[Instrument, ...]:
        """Ask the exchange for the steps of prices and quantities, and for the currency.

        Args:
            symbols: such as `["BTC/USDT"]`.
            rest_url: the REST API's address.
            clock: the machine's where not given.

        Raises:
            FeedError: it does not answer, or does not trade one of them now; names the symbol.
            ConfigError: it does not know one of them, or one is no spot pair.
        """
        names = Names(NAME, symbols, joined="")
        async with _rest(rest_url, clock or SystemClock()) as rest:
            return tuple([await _instrument(rest, names, each) for each in names.ids])

    async def connect(self) -> AsyncGenerator[Heard, None]:
        """Connect once, and give what comes until the connection ends; see `agentfund.protocols.Source`.

        Raises:
            FeedError: it cannot connect, refuses a subscription, or the connection breaks.
            ConfigError: it does not know a symbol; names it.
            BadData: a message has a shape or a value that cannot be. A trade with an impossible price is given as it is.
        """
        stream = listen(_Dialect(self._names, self._url, self._candles, quotes=self._quotes), self._clock)
        try:
            async for heard in stream:
                yield heard
        finally:
            await stream.aclose()

    async def history(self, symbol: str, interval: timedelta, start: datetime, end: datetime) -> Sequence[Bar]:
        """Return the closed bars between `start` and `end`, oldest first; see `agentfund.protocols.Source`.

        Raises:
            FeedError: it does not answer within 30 s, or wants a longer rest.
            BadData: a bar cannot be.
            ConfigError: it has no such symbol or no such candles.
        """
        named, known = INTERVALS.name(interval), self._names.id(symbol)
        first, last, width = span(interval, start, end)
        now: datetime | None = None
        async with _rest(self._rest_url, self._clock) as rest:

            async def ask(low: int, high: int) -> list[Bar]:
                nonlocal now
                query: dict[str, str | int] = {"category": "spot", "symbol": known, "interval": named}
                body = await _result(rest, "/v5/market/kline", query | {"start": low, "end": high, "limit": _PAGE}, symbol)
                now = body.moment("time")
                result = Fields(NAME, "kline", body.get("result"))
                return [Fields(NAME, "kline", row).bar(symbol, interval, _REST_BAR) for row in result.rows("list")]

            return closed(await backwards(NAME, ask, first, last, width, _PAGE), end, now)


def _rest(url: str, clock: Clock) -> Rest:
    return Rest(
        NAME, url, clock, EXCHANGE_REST, limited=lambda body: isinstance(body, dict) and body.get("retCode") in _LIMITED
    )


async def _result(rest: Rest, path: str, query: dict[str, str | int], symbol: str) -> Fields:
    body = object_in(NAME, path, (await rest.get(path, query)).body)
    code = body.get("retCode")
    if code != 0:
        fix = "check the symbol and the interval" if code == _BAD_PARAMETER else "try again later"
        said = shown(body.get("retMsg"))
        kind = ConfigError if code == _BAD_PARAMETER and "symbol" in said.lower() else FeedError
        raise kind(f"{NAME} refused {path} for {symbol!r} with code {shown(code)} ({said}): {fix}")
    return Fields(NAME, path.rsplit("/", 1)[-1], body)


async def _instrument(rest: Rest, names: Names, known: str) -> Instrument:
    symbol = names.symbol(known, "instruments-info")
    body = await _result(rest, "/v5/market/instruments-info", {"category": "spot", "symbol": known}, symbol)
    rows = Fields(NAME, "instruments-info", body.get("result")).rows("list")
    if not rows:
        raise ConfigError(f"{NAME} does not trade {symbol!r}: correct the symbol")
    fields = Fields(NAME, "instruments-info", rows[0])
    if fields.text("symbol") != known:
        raise fields.wrong("symbol", f"{known} was asked for")
    if fields.text("status") != "Trading":
        raise FeedError(f"{NAME} does not trade {symbol!r} now (status {shown(fields.text('status'))}): wait or leave it out")
    prices = Fields(NAME, "priceFilter", fields.get("priceFilter"))
    lots = Fields(NAME, "lotSizeFilter", fields.get("lotSizeFilter"))
    prices.price("tickSize")
    lots.price("basePrecision")
    return Instrument(
        symbol,
        tick_size=step(prices.text("tickSize")),
        lot_size=step(lots.text("basePrecision")),
        currency=fields.text("quoteCoin"),
    )


class _Dialect:
    """One connection's state."""

    exchange = NAME
    pause_s = _PAUSE_S

    def __init__(self, names: Names, url: str, candles: tuple[timedelta, str] | None, *, quotes: bool) -> None:
        self.url = url
        self._names = names
        self._candles = candles
        self._quotes = quotes
        self._once = Once()
        self._asked: dict[str, tuple[str, ...]] = {}
        self._sides: dict[str, tuple[dict[float, float], dict[float, float]]] = {}
        self._pings = 0

    def requests(self) -> list[Request]:
        kinds = ["publicTrade." if self._candles is None else f"kline.{self._candles[1]}."] + ["orderbook.1."] * self._quotes
        topics = [f"{kind}{known}" for known in self._names.ids for kind in kinds]
        found: list[Request] = []
        for at in range(0, len(topics), _A_REQUEST):
            some = tuple(topics[at : at + _A_REQUEST])
            number = f"subscribe-{len(found) + 1}"
            self._asked[number] = some
            found.append(Request(json.dumps({"req_id": number, "op": "subscribe", "args": some}), some))
        return found

    def ping(self) -> str:
        self._pings += 1
        return json.dumps({"req_id": f"ping-{self._pings}", "op": "ping"})

    def read(self, text: str) -> Sequence[Heard | Confirmed]:
        body = parse(NAME, text)
        fields = Fields(NAME, "stream", body)
        if fields.has("topic"):
            topic = fields.text("topic")
            message = Fields(NAME, topic, body)
            if topic.startswith("publicTrade."):
                return self._trades(message, topic)
            if topic.startswith("kline."):
                return self._candles_of(message, topic)
            if topic.startswith("orderbook.1."):
                return self._best(message, topic)
        elif fields.has("op") or fields.has("success") or fields.has("retCode"):
            return self._answer(body)
        raise FeedError(f"{NAME} sent a message of an unknown kind: {shown(text)}; this version of agentfund cannot read it")

    def _answer(self, body: dict[str, Any]) -> Sequence[Heard | Confirmed]:
        failed = body["data"].get("failTopics") if isinstance(body.get("data"), dict) else None
        if body.get("success") is False or body.get("retCode", 0) != 0 or failed:
            said = shown(body.get("ret_msg") or body.get("retMsg") or body)
            symbol = self._names.told_in(said) or self._names.told_in(str(failed or ""))
            asked = self._asked.get(str(body.get("req_id")), ())
            what = repr(symbol) if symbol else shown(", ".join(asked)) or "a request"
            kind = ConfigError if symbol or "symbol" in said.lower() else FeedError
            raise kind(f"{NAME} refused {what}: {said}; correct the symbols")
        if body.get("op") in ("ping", "pong"):
            told = body.get("args")
            return (Alive(Fields(NAME, "pong", told).moment(0) if isinstance(told, list) and told else None),)
        asked = self._asked.pop(str(body.get("req_id")), ())
        if body.get("op") == "subscribe" and asked:
            return (Confirmed(asked),)
        raise FeedError(f"{NAME} sent an answer to a question that nobody asked: {shown(body)}; connect again")

    def _trades(self, message: Fields, topic: str) -> list[Heard]:
        found: list[Heard] = []
        for row in message.rows("data"):
            trade = Fields(NAME, topic, row)
            symbol = self._names.symbol(trade.text("s"), topic)
            tick = Tick(NAME, symbol, trade.number("p"), trade.number("v"), trade.moment("T"))
            if self._once.trade(symbol, trade.key("i")):
                found.append(tick)
        return found

    def _candles_of(self, message: Fields, topic: str) -> list[Heard]:
        _, named, known = topic.split(".", 2) if topic.count(".") == 2 else ("", "", "")
        symbol = self._names.symbol(known, topic)
        if self._candles is None or named != self._candles[1]:
            raise message.wrong("topic", "nobody subscribed to candles of this length")
        told = Alive(message.moment("ts"))
        found: list[Heard] = []
        for row in message.rows("data"):
            candle = Fields(NAME, topic, row)
            if not candle.flag("confirm"):
                continue
            bar = candle.bar(symbol, self._candles[0], _WS_BAR)
            if candle.text("interval") != named or candle.moment("end") != bar.end - timedelta(milliseconds=1):
                raise candle.wrong(
                    "end", f"the candle that starts at {bar.start.isoformat()} must end at {bar.end.isoformat()}"
                )
            if self._once.bar(bar):
                found.append(bar)
        return found or [told]

    def _best(self, message: Fields, topic: str) -> Sequence[Heard]:
        data = Fields(NAME, topic, message.get("data"))
        symbol = self._names.symbol(data.text("s"), topic)
        kind = message.text("type")
        if kind == "snapshot":
            self._sides[symbol] = ({}, {})
        elif kind != "delta" or symbol not in self._sides:
            raise message.wrong("type", f"a snapshot was expected first, not {shown(kind)}")
        for side, name in zip(self._sides[symbol], ("b", "a"), strict=True):
            for row in data.rows(name):
                level = Fields(NAME, topic, row)
                price, size = level.price(0), level.volume(1)
                if size:
                    side[price] = size
                else:
                    side.pop(price, None)
        bids, asks = self._sides[symbol]
        return (Quote(symbol, max(bids, default=None), min(asks, default=None), None, message.moment("ts")),)
