"""The way to an exchange through ccxt: one request at a time, with a deadline, and no answer that is not one."""

from __future__ import annotations

import asyncio
import decimal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from agentfund.brokers.ccxt_dialects import dialect_of, shaped
from agentfund.brokers.ccxt_errors import unavailable
from agentfund.clock import from_micros
from agentfund.errors import BrokerUnavailable, ConfigError, MissingExtra, OrderRejected
from agentfund.trading import ZERO

_TICK_SIZE, _DECIMAL_PLACES = 4, 2


class Wire:
    """An exchange of ccxt, set up for what a broker needs.

    Args:
        exchange: an exchange of `ccxt.async_support`.
        symbols: what is traded.
        timeout: how long the exchange may take to answer.
        urls: another server that speaks its protocol.
        sandbox: whether to use its test network.

    Attributes:
        skewed: whether the exchange has refused a request for its time; the difference of the clocks is measured again then.
    """

    def __init__(self, exchange: Any, symbols: Sequence[str], timeout: timedelta, urls: str | None, *, sandbox: bool) -> None:
        self.ex = exchange
        self.name = str(exchange.id)
        self.dialect = dialect_of(self.name)
        self.symbols = tuple(symbols)
        self.timeout_s = timeout.total_seconds()
        self.skewed = False
        _prepare(exchange, self.dialect.options)
        if sandbox:
            exchange.set_sandbox_mode(True)
        if urls is not None:
            exchange.urls["api"] = _moved(exchange.urls["api"], urls.rstrip("/"))
        self._markets: Mapping[str, Any] | None = None
        self._loading = asyncio.Lock()

    async def read(self, what: str, call: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Ask for something; whatever goes wrong is an error and never an empty answer."""
        await self.market(self.symbols[0])
        try:
            async with asyncio.timeout(self.timeout_s):
                if self.skewed:
                    await self.ex.load_time_difference()
                    self.skewed = False
                return await call(*args, **kwargs)
        except Exception as error:
            self.skewed = self.skewed or type(error).__name__ == "InvalidNonce"
            unavailable(error, self.name, what)

    async def market(self, symbol: str) -> Mapping[str, Any]:
        """Return what ccxt knows of a market; the list is read once.

        Raises:
            BrokerUnavailable: it cannot be read.
            ConfigError: the exchange has no such spot market.
            OrderRejected: the symbol is none of this account.
        """
        if self._markets is None:
            async with self._loading:
                try:
                    async with asyncio.timeout(self.timeout_s):
                        markets = await self.ex.load_markets()
                except Exception as error:
                    unavailable(error, self.name, "the list of markets")
                missing = [one for one in self.symbols if one not in markets or not markets[one].get("spot")]
                if missing:
                    raise ConfigError(f"{self.name} has no spot market {', '.join(missing)}")
                self._markets = markets
        found = self._markets.get(symbol) if symbol in self.symbols else None
        if found is None:
            raise OrderRejected(f"{symbol} is none of the symbols of this account: {', '.join(self.symbols)}", code="symbol")
        one: Mapping[str, Any] = found
        return one

    def now_ms(self) -> int:
        """Return the exchange's time in milliseconds since 1970, by the difference of the clocks that was measured last."""
        return int(self.ex.milliseconds()) - int(self.ex.options.get("timeDifference") or 0)

    def lot(self, symbol: str) -> Decimal:
        """Return the smallest step of a quantity."""
        return self.step(symbol, "amount")

    def step(self, symbol: str, what: str) -> Decimal:
        """Return the smallest step of an "amount" or a "price"."""
        assert self._markets is not None
        value = self._markets[symbol]["precision"].get(what)
        step = number(value)
        if step <= 0 or self.ex.precisionMode not in (_DECIMAL_PLACES, _TICK_SIZE):
            raise BrokerUnavailable(f"{self.name} does not tell the step of the {what} of {symbol}")
        return step if self.ex.precisionMode == _TICK_SIZE else Decimal(1).scaleb(-int(step))

    def least_cost(self, symbol: str) -> Decimal:
        """Return the least that an order must be worth, in the quote currency; zero where the exchange does not say."""
        assert self._markets is not None
        return number(((self._markets[symbol].get("limits") or {}).get("cost") or {}).get("min"))


def made(
    name: str, key: str | None, secret: str | None, password: str | None, options: Mapping[str, Any] | None, timeout: timedelta
) -> Any:
    """Make an exchange of ccxt by its name.

    Raises:
        ConfigError: there is none of that name.
        MissingExtra: ccxt is not installed.
    """
    try:
        with decimal.localcontext():  # ccxt changes how Decimal rounds, for everybody in the thread that imports it
            import ccxt.async_support as ccxt  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra("ccxt", "ccxt") from error
    if name not in ccxt.exchanges:
        raise ConfigError(f"ccxt knows no exchange {name!r}; `ccxt.exchanges` lists those that it knows")
    given = {"apiKey": key, "secret": secret, "password": password}
    config = {word: value for word, value in given.items() if value is not None}
    return getattr(ccxt, name)({**config, "timeout": int(timeout.total_seconds() * 1000), **(options or {})})


def _prepare(exchange: Any, options: Mapping[str, Any]) -> None:
    """Set ccxt up: no retries of its own, spot only, exact numbers, and no answer that is not what was asked for."""
    exchange.enableRateLimit = True
    exchange.number = str  # numbers stay as the exchange wrote them
    markets = exchange.options.get("fetchMarkets")
    types = {**(markets if isinstance(markets, dict) else {}), "types": ["spot"]}
    more = {"maxRetriesOnFailure": 0, "adjustForTimeDifference": True, "defaultType": "spot", "fetchMarkets": types}
    exchange.options.update(more | dict(options))
    exchange.has["fetchCurrencies"] = False
    exchange.options["fetchCurrencies"] = False
    handle = exchange.handle_errors

    def strict(code: int, reason: str, url: str, method: str, headers: Any, body: str, response: Any, *rest: Any) -> Any:
        handled = handle(code, reason, url, method, headers, body, response, *rest)
        exchange.handle_http_status_code(code, reason, url, method, body)
        if not isinstance(response, dict | list) or not shaped(exchange.id, url, response):
            from ccxt.base.errors import BadResponse  # type: ignore[import-untyped]

            raise BadResponse(f"{exchange.id} answered {method} {urlsplit(url).path} with {code} and something unexpected")
        return handled

    exchange.handle_errors = strict


def _moved(urls: Any, base: str) -> Any:
    """Return ccxt's addresses with another server in place of the exchange's, at every depth."""
    if isinstance(urls, dict):
        return {name: _moved(one, base) for name, one in urls.items()}
    return base + urlsplit(urls).path if isinstance(urls, str) else urls


def number(value: Any) -> Decimal:
    """Return a number as the exchange wrote it, zero where it wrote none."""
    return Decimal(str(value)) if value not in (None, "") else ZERO


def total(balance: Mapping[str, Any], currency: str) -> Decimal:
    """Return a balance, free and locked."""
    one = balance.get(currency) or {}
    return number(one.get("total")) if one.get("total") is not None else number(one.get("free")) + number(one.get("used"))


def time_of(millis: Any) -> datetime:
    """Turn milliseconds since 1970 into an aware datetime."""
    return from_micros(int(millis) * 1000)
