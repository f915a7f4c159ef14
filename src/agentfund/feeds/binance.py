"""Binance's spot market: public trades, candles and best prices by websocket, and candles of the past."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from agentfund.clock import SystemClock
from agentfund.errors import ConfigError, FeedError
from agentfund.feeds.wire_history import closed, forwards, span
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

NAME = "binance"
URL = "wss://stream.binance.com:9443/ws"
REST_URL = "https://api.binance.com"

INTERVALS = Intervals(
    NAME,
    {timedelta(seconds=1): "1s"}
    | {timedelta(minutes=each): f"{each}m" for each in (1, 3, 5, 15, 30)}
    | {timedelta(hours=each): f"{each}h" for each in (1, 2, 4, 6, 8, 12)}
    | {timedelta(days=1): "1d"},
)

_STREAMS = 1024  # on one connection
_A_REQUEST = 100  # streams in a message: to one of more than four kilobytes the exchange says nothing
_PAUSE_S = 0.25  # five messages a second are allowed, pings and pongs among them
_PAGE = 1000
_SYMBOLS = 100  # in one question
_WS_BAR = ("t", "o", "h", "l", "c", "v")
_REST_BAR = (0, 1, 2, 3, 4, 5)
_INVALID_SYMBOL = -1121
_BAD_REQUEST = (0, 1, 2, 3)


class Binance:
    """A source of Binance's spot market, without a key; `Live(Binance(["BTC/USDT"]), ...)` makes a feed of it.

    The exchange confirms subscriptions to symbols that it does not have and then stays silent, so the first `connect` asks
    its REST API whether it trades them. Its best prices carry no time: a quote has the time of its arrival, by the exchange's
    clock as the newest trade or candle told it, and by ours before the first.

    Args:
        symbols: such as `["BTC/USDT"]`, or instruments with their steps: `await Binance.find(["BTC/USDT"])`. What comes has
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
        self._names = Names(NAME, symbols, joined="", most=_STREAMS // (2 if quotes else 1))
        self._candles = None if candles is None else (candles, INTERVALS.name(candles))
        self.lateness = None if candles is None else LATENESS
        self.interval = candles
        self._quotes = quotes
        self._url = url
        self._rest_url = rest_url
        self._clock = clock or SystemClock()
        self._known = False

    def __repr__(self) -> str:
        return f"<Binance: {', '.join(each.symbol for each in self.instruments)}>"

    @property
    def name(self) -> str:
        """The exchange's name: binance."""
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
        return await _find(Names(NAME, symbols, joined=""), rest_url, clock or SystemClock())

    async def connect(self) -> AsyncGenerator[Heard, None]:
        """Connect once, and give what comes until the connection ends; see `agentfund.protocols.Source`.

        Raises:
            FeedError: it cannot connect, does not trade a symbol now, or the connection breaks.
            ConfigError: it does not know a symbol, or refuses a subscription.
            BadData: a message has a shape or a value that cannot be. A trade with an impossible price is given as it is.
        """
        if not self._known:
            await _find(self._names, self._rest_url, self._clock)
            self._known = True
        stream = listen(_Dialect(self._names, self._url, self._candles, self._clock, quotes=self._quotes), self._clock)
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
        async with Rest(NAME, self._rest_url, self._clock, EXCHANGE_REST) as rest:

            async def ask(low: int, high: int) -> list[Bar]:
                nonlocal now
                query: dict[str, str | int] = {"symbol": known, "interval": named, "startTime": low, "endTime": high}
                path = "/api/v3/klines"
                answer = await rest.get(path, query | {"limit": _PAGE}, refusals=True)
                if answer.status != 200:
                    raise _refusal(path, symbol, object_in(NAME, path, answer.body))
                now = answer.time
                rows = Fields(NAME, "klines", {"rows": answer.body}).rows("rows")
                return [self._row(symbol, interval, row) for row in rows]

            return closed(await forwards(NAME, ask, first, last, width), end, now)

    def _row(self, symbol: str, interval: timedelta, row: object) -> Bar:
        fields = Fields(NAME, "klines", row)
        bar = fields.bar(symbol, interval, _REST_BAR)
        _check_end(fields, 6, bar)
        return bar


def _check_end(fields: Fields, name: str | int, bar: Bar) -> None:
    """The exchange's candles end a millisecond before the next."""
    if fields.moment(name) != bar.end - timedelta(milliseconds=1):
        raise fields.wrong(name, f"the candle that starts at {bar.start.isoformat()} must end at {bar.end.isoformat()}")


def _refusal(path: str, symbol: str, body: dict[str, Any]) -> ConfigError | FeedError:
    if body.get("code") == _INVALID_SYMBOL:
        return ConfigError(f"{NAME} does not trade {symbol!r}: correct the symbol")
    return FeedError(f"{NAME} refused {path} for {shown(symbol)} ({shown(body)}): check the symbol and the interval")


async def _find(names: Names, rest_url: str, clock: Clock) -> tuple[Instrument, ...]:
    found: dict[str, Instrument] = {}
    async with Rest(NAME, rest_url, clock, EXCHANGE_REST) as rest:
        for at in range(0, len(names.ids), _SYMBOLS):
            some = names.ids[at : at + _SYMBOLS]
            if not await _ask(rest, names, some, found):  # it does not say which it does not know
                for each in some:
                    if not await _ask(rest, names, (each,), found):
                        raise ConfigError(f"{NAME} does not trade {names.symbol(each, 'exchangeInfo')!r}: correct the symbol")
    missing = [names.symbol(each, "exchangeInfo") for each in names.ids if each not in found]
    if missing:
        raise ConfigError(f"{NAME} does not trade {', '.join(map(repr, missing))}: correct the symbol")
    return tuple(found[each] for each in names.ids)


async def _ask(rest: Rest, names: Names, some: Sequence[str], found: dict[str, Instrument]) -> bool:
    """Put the instruments of some symbols into `found`; return False where the exchange does not know one of them."""
    path = "/api/v3/exchangeInfo"
    answer = await rest.get(path, {"symbols": json.dumps(list(some), separators=(",", ":"))}, refusals=True)
    body = object_in(NAME, path, answer.body)
    if answer.status != 200:
        if body.get("code") == _INVALID_SYMBOL:
            return False
        raise _refusal(path, ", ".join(some), body)
    for row in Fields(NAME, "exchangeInfo", body).rows("symbols"):
        fields = Fields(NAME, "exchangeInfo", row)
        known = fields.text("symbol")
        symbol = names.symbol(known, "exchangeInfo")
        if fields.text("status") != "TRADING":
            raise FeedError(
                f"{NAME} does not trade {symbol!r} now (status {shown(fields.text('status'))}): wait or leave it out"
            )
        steps: dict[str, Mapping[str, Any]] = {
            each["filterType"]: each
            for each in fields.rows("filters")
            if isinstance(each, dict) and isinstance(each.get("filterType"), str)
        }
        prices = Fields(NAME, "PRICE_FILTER", steps.get("PRICE_FILTER"))
        lots = Fields(NAME, "LOT_SIZE", steps.get("LOT_SIZE"))
        prices.price("tickSize")
        lots.price("stepSize")
        found[known] = Instrument(
            symbol,
            tick_size=step(prices.text("tickSize")),
            lot_size=step(lots.text("stepSize")),
            currency=fields.text("quoteAsset"),
        )
    return True


class _Dialect:
    """One connection's state."""

    exchange = NAME
    pause_s = _PAUSE_S

    def __init__(self, names: Names, url: str, candles: tuple[timedelta, str] | None, clock: Clock, *, quotes: bool) -> None:
        self.url = url
        self._names = names
        self._candles = candles
        self._quotes = quotes
        self._clock = clock
        self._once = Once()
        self._number = 0
        self._asked: dict[int, tuple[str, ...]] = {}
        self._pinged: set[int] = set()
        self._told: tuple[datetime, float] | None = None

    def _tell(self, time: datetime) -> datetime:
        """Keep what the exchange's clock says."""
        self._told = time, self._clock.monotonic()
        return time

    @property
    def _topics(self) -> list[str]:
        kinds = ["@trade" if self._candles is None else f"@kline_{self._candles[1]}"] + ["@bookTicker"] * self._quotes
        return [f"{known.lower()}{kind}" for known in self._names.ids for kind in kinds]

    def requests(self) -> list[Request]:
        found = []
        topics = self._topics
        for at in range(0, len(topics), _A_REQUEST):
            some = tuple(topics[at : at + _A_REQUEST])
            self._number += 1
            self._asked[self._number] = some
            found.append(Request(json.dumps({"method": "SUBSCRIBE", "params": some, "id": self._number}), some))
        return found

    def ping(self) -> str:
        # The answer shows that the connection lives, and that nothing was unsubscribed on the other side.
        self._number += 1
        self._pinged.add(self._number)
        return json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": self._number})

    def read(self, text: str) -> Sequence[Heard | Confirmed]:
        body = parse(NAME, text)
        fields = Fields(NAME, "stream", body)
        if fields.has("e"):
            kind = fields.text("e")
            if kind == "trade":
                return self._trade(Fields(NAME, "trade", body))
            if kind == "kline":
                return self._kline(Fields(NAME, "kline", body))
            if kind == "serverShutdown":  # it closes the connection within minutes
                return (Alive(self._tell(fields.moment("E"))),)
        elif fields.has("u") and fields.has("b") and fields.has("a"):
            return self._best(Fields(NAME, "bookTicker", body))
        elif fields.has("id") or fields.has("error") or fields.has("code"):
            return self._answer(fields, body)
        raise FeedError(f"{NAME} sent a message of an unknown kind: {shown(text)}; this version of agentfund cannot read it")

    def _answer(self, fields: Fields, body: dict[str, Any]) -> Sequence[Heard | Confirmed]:
        number = body.get("id")
        number = number if isinstance(number, int) else None
        if body.get("error") is not None or body.get("code") is not None or "result" not in body:
            asked = ", ".join(self._asked.get(number, ()) if number is not None else ())
            what = f" to {shown(asked)}" if asked else ""
            said = error if isinstance(error := body.get("error"), dict) else body
            kind = ConfigError if said.get("code") in _BAD_REQUEST else FeedError
            raise kind(f"{NAME} refused the subscription{what}: {shown(body)}; correct the symbols")
        if number in self._asked:
            return (Confirmed(self._asked.pop(number)),)
        if number in self._pinged:
            self._pinged.discard(number)
            lost = [topic for topic in self._topics if topic not in fields.rows("result")]
            if lost:
                raise FeedError(f"{NAME} has dropped the subscription to {shown(', '.join(lost))}; connect again")
            return (Alive(),)
        raise fields.wrong("id", "nobody asked for this answer")

    def _trade(self, trade: Fields) -> Sequence[Heard]:
        symbol = self._names.symbol(trade.text("s"), "trade")
        self._tell(trade.moment("E"))
        tick = Tick(NAME, symbol, trade.number("p"), trade.number("q"), trade.moment("T"))
        return (tick,) if self._once.trade(symbol, trade.key("t")) else ()

    def _kline(self, event: Fields) -> Sequence[Heard]:
        told = self._tell(event.moment("E"))
        candle = Fields(NAME, "kline", event.get("k"))
        symbol = self._names.symbol(candle.text("s"), "kline")
        if self._candles is None or candle.text("i") != self._candles[1]:
            raise candle.wrong("i", "nobody subscribed to candles of this length")
        if not candle.flag("x"):
            return (Alive(told),)
        bar = candle.bar(symbol, self._candles[0], _WS_BAR)
        _check_end(candle, "T", bar)
        return (bar,) if self._once.bar(bar) else (Alive(told),)

    def _best(self, best: Fields) -> Sequence[Heard]:
        symbol = self._names.symbol(best.text("s"), "bookTicker")
        bid, ask = (best.price(side) if best.volume(side) else None for side in ("b", "a"))  # zero: nobody is there
        now = self._clock.now()
        if self._told is not None:
            time, then = self._told
            now = time + timedelta(seconds=self._clock.monotonic() - then)
        return (Quote(symbol, bid, ask, None, now),)
