"""OKX's spot market: public trades, candles and best prices by websocket, and candles of the past."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from agentfund.clock import SystemClock, to_micros
from agentfund.errors import ConfigError, FeedError
from agentfund.feeds.wire_history import backwards, span
from agentfund.feeds.wire_names import LATENESS, Intervals, Names, step
from agentfund.feeds.wire_once import Once
from agentfund.feeds.wire_refusals import EXCHANGE_REST, TooMany
from agentfund.feeds.wire_rest import Rest, object_in
from agentfund.feeds.wire_stream import Confirmed, Request, listen, merged
from agentfund.feeds.wire_values import Fields, parse, shown
from agentfund.market import Alive, Instrument, Quote, Tick

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime

    from agentfund.market import Bar, Heard
    from agentfund.protocols import Clock

NAME = "okx"
URL = "wss://ws.okx.com:8443/ws/v5"
REST_URL = "https://www.okx.com"

INTERVALS = Intervals(
    NAME,
    {timedelta(minutes=each): f"{each}m" for each in (1, 3, 5, 15, 30)}
    | {timedelta(hours=each): f"{each}H" for each in (1, 2, 4)}
    # Without "utc" the longer ones begin at midnight in Hong Kong.
    | {timedelta(hours=6): "6Hutc", timedelta(hours=12): "12Hutc", timedelta(days=1): "1Dutc"},
)

_SYMBOLS = 500  # the list of topics of a connection has to stay below 64 KB
_A_REQUEST = 50
_PAUSE_S = 0.4  # three requests a second are allowed
_PAGE = 300
_REST_PAUSE_S = 0.11  # twenty questions in two seconds are allowed
_RECENT = 1400  # of the newest 1440 candles only /market/candles is certain to have all
_LIMITED = "50011"
_UNKNOWN = "51001"
_NO_SUCH = ("60012", "60018")  # a request or a channel that there is not
_BAR = (0, 1, 2, 3, 4, 5)
_CONFIRM = 8


class OKX:
    """A source of OKX's spot market, without a key; `Live(OKX(["BTC/USDT"]), ...)` makes a feed of it.

    Candles come on another connection than best prices; where both are asked for, one that ends ends both.

    Args:
        symbols: such as `["BTC/USDT"]`, or instruments with their steps: `await OKX.find(["BTC/USDT"])`. What comes has
            the name that is given here.
        candles: candles of this length in place of trades; closed ones only.
        quotes: best bid and ask too.
        url: the websockets' address, without `/public` and `/business`.
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
        self._names = Names(NAME, symbols, joined="-", most=_SYMBOLS)
        self._candles = None if candles is None else (candles, INTERVALS.name(candles))
        self.lateness = None if candles is None else LATENESS
        self.interval = candles
        self._quotes = quotes
        self._url = url.rstrip("/")
        self._rest_url = rest_url
        self._clock = clock or SystemClock()
        self._stood = False

    def __repr__(self) -> str:
        return f"<OKX: {', '.join(each.symbol for each in self.instruments)}>"

    @property
    def name(self) -> str:
        """The exchange's name: okx."""
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
        names = Names(NAME, symbols, joined="-")
        async with _rest(rest_url, clock or SystemClock()) as rest:
            return tuple([await _instrument(rest, names, each) for each in names.ids])

    async def connect(self) -> AsyncGenerator[Heard, None]:
        """Connect once, and give what comes until a connection ends; see `agentfund.protocols.Source`.

        Raises:
            FeedError: it cannot connect, refuses a subscription, or the connection breaks.
            ConfigError: it does not know a symbol, which is named, or there are too many connections from the beginning.
            BadData: a message has a shape or a value that cannot be. A trade with an impossible price is given as it is.
        """
        public = ["trades"] * (self._candles is None) + ["bbo-tbt"] * self._quotes
        business = [] if self._candles is None else [f"candle{self._candles[1]}"]
        dialects = [
            _Dialect(self._names, f"{self._url}/{place}", channels, self._candles)
            for place, channels in (("public", public), ("business", business))
            if channels
        ]
        streams = [listen(dialect, self._clock) for dialect in dialects]
        stream = streams[0] if len(streams) == 1 else merged(streams)
        try:
            async for heard in stream:
                self._stood = True
                yield heard
        except TooMany as error:
            raise error.judged(stood=self._stood) from None
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
        recent = to_micros(self._clock.now()) // 1000 - _RECENT * width
        async with _rest(self._rest_url, self._clock) as rest:

            async def ask(low: int, high: int) -> list[Bar]:
                path = "/api/v5/market/candles" if low >= recent else "/api/v5/market/history-candles"
                query: dict[str, str | int] = {"instId": known, "bar": named, "before": low - 1, "after": high + 1}
                rows = (await _data(rest, path, query | {"limit": _PAGE}, symbol)).rows("data")
                # An open candle is the newest of all: no page ends with it but one that holds nothing else.
                return [bar for bar in (_candle(symbol, interval, row, "candles") for row in rows) if bar is not None]

            bars = await backwards(NAME, ask, first, last, width, _PAGE)
        return [bar for bar in bars if bar.end <= end]


def _candle(symbol: str, interval: timedelta, row: object, channel: str) -> Bar | None:
    """Return a candle's bar, None while it is open."""
    candle = Fields(NAME, channel, row)
    confirm = candle.text(_CONFIRM)
    if confirm not in ("0", "1"):
        raise candle.wrong(_CONFIRM, f"0 or 1 was expected, not {shown(confirm)}")
    return candle.bar(symbol, interval, _BAR) if confirm == "1" else None


def _rest(url: str, clock: Clock) -> Rest:
    return Rest(
        NAME,
        url,
        clock,
        EXCHANGE_REST,
        limited=lambda body: isinstance(body, dict) and body.get("code") == _LIMITED,
        pause_s=_REST_PAUSE_S,
    )


async def _data(rest: Rest, path: str, query: dict[str, str | int], symbol: str) -> Fields:
    body = object_in(NAME, path, (await rest.get(path, query, refusals=True)).body)
    code = body.get("code")
    if code != "0":
        fix = "correct the symbol" if code == _UNKNOWN else "check the symbol and the interval"
        kind = ConfigError if code == _UNKNOWN else FeedError
        raise kind(f"{NAME} refused {path} for {symbol!r} with code {shown(code)} ({shown(body.get('msg'))}): {fix}")
    return Fields(NAME, path.rsplit("/", 1)[-1], body)


async def _instrument(rest: Rest, names: Names, known: str) -> Instrument:
    symbol = names.symbol(known, "instruments")
    rows = (await _data(rest, "/api/v5/public/instruments", {"instType": "SPOT", "instId": known}, symbol)).rows("data")
    if not rows:
        raise ConfigError(f"{NAME} does not trade {symbol!r}: correct the symbol")
    fields = Fields(NAME, "instruments", rows[0])
    if fields.text("instId") != known:
        raise fields.wrong("instId", f"{known} was asked for")
    if fields.text("state") != "live":
        raise FeedError(f"{NAME} does not trade {symbol!r} now (state {shown(fields.text('state'))}): wait or leave it out")
    fields.price("tickSz")
    fields.price("lotSz")
    return Instrument(
        symbol, tick_size=step(fields.text("tickSz")), lot_size=step(fields.text("lotSz")), currency=fields.text("quoteCcy")
    )


class _Dialect:
    """One connection's state."""

    exchange = NAME
    pause_s = _PAUSE_S

    def __init__(self, names: Names, url: str, channels: Sequence[str], candles: tuple[timedelta, str] | None) -> None:
        self.url = url
        self._names = names
        self._channels = channels
        self._candles = candles
        self._once = Once()

    def requests(self) -> list[Request]:
        topics = [(channel, known) for known in self._names.ids for channel in self._channels]
        found = []
        for at in range(0, len(topics), _A_REQUEST):
            some = topics[at : at + _A_REQUEST]
            args = [{"channel": channel, "instId": known} for channel, known in some]
            text = json.dumps({"op": "subscribe", "args": args})
            found.append(Request(text, tuple(f"{channel}:{known}" for channel, known in some)))
        return found

    def ping(self) -> Literal["ping"]:
        return "ping"

    def read(self, text: str) -> Sequence[Heard | Confirmed]:
        if text == "pong":
            return (Alive(),)
        body = parse(NAME, text)
        fields = Fields(NAME, "stream", body)
        if fields.has("event"):
            return self._event(fields, body)
        if fields.has("arg") and fields.has("data"):
            arg = Fields(NAME, "stream", fields.get("arg"))
            channel, known = arg.text("channel"), arg.text("instId")
            symbol = self._names.symbol(known, channel)
            rows = Fields(NAME, channel, body).rows("data")
            if channel == "trades":
                return self._trades(symbol, known, rows)
            if channel == "bbo-tbt":
                return [_best(symbol, row) for row in rows]
            if self._candles is not None and channel == f"candle{self._candles[1]}":
                return self._bars(symbol, self._candles[0], rows, channel)
        raise FeedError(f"{NAME} sent a message of an unknown kind: {shown(text)}; this version of agentfund cannot read it")

    def _event(self, fields: Fields, body: dict[str, Any]) -> Sequence[Heard | Confirmed]:
        kind = fields.text("event")
        if kind == "subscribe":
            arg = Fields(NAME, "subscribe", fields.get("arg"))
            return (Confirmed((f"{arg.text('channel')}:{arg.text('instId')}",)),)
        if kind in ("channel-conn-count", "notice"):  # such as that it will close the connection for an upgrade
            return (Alive(),)
        if kind in ("error", "channel-conn-count-error"):
            said = shown(body.get("msg") or body)
            symbol = self._names.told_in(said)
            what = f"the subscription to {symbol!r}" if symbol else "a subscription"
            told = f"{NAME} refused {what} with code {shown(body.get('code'))} ({said})"
            if kind == "channel-conn-count-error":
                raise TooMany(f"{told}: close other connections to this channel")
            error = ConfigError if symbol or body.get("code") in _NO_SUCH else FeedError
            raise error(f"{told}: correct the symbols")
        raise FeedError(f"{NAME} sent an event of an unknown kind: {shown(body)}; this version of agentfund cannot read it")

    def _trades(self, symbol: str, known: str, rows: Sequence[object]) -> list[Heard]:
        found: list[Heard] = []
        for row in rows:
            trade = Fields(NAME, "trades", row)
            if trade.text("instId") != known:
                raise trade.wrong("instId", f"the message is about {known}")
            tick = Tick(NAME, symbol, trade.number("px"), trade.number("sz"), trade.moment("ts"))
            if self._once.trade(symbol, trade.key("tradeId")):
                found.append(tick)
        return found

    def _bars(self, symbol: str, interval: timedelta, rows: Sequence[object], channel: str) -> Sequence[Heard]:
        bars = [bar for bar in (_candle(symbol, interval, row, channel) for row in rows) if bar is not None]
        return [bar for bar in bars if self._once.bar(bar)] or [Alive()]


def _best(symbol: str, row: object) -> Quote:
    fields = Fields(NAME, "bbo-tbt", row)
    bid, ask = (Fields(NAME, "bbo-tbt", side[0]).price(0) if (side := fields.rows(name)) else None for name in ("bids", "asks"))
    return Quote(symbol, bid, ask, None, fields.moment("ts"))
