"""alpaca-py: one connection of its stream at a time, and pages of its history within a deadline."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from agentfund.errors import BadData, ConfigError, FeedError
from agentfund.feeds.alpaca_data_frames import KEYS, refusal, unconfirmed
from agentfund.feeds.wire_retries import AskAgain, http_date, seconds_asked
from agentfund.feeds.wire_socket import CLOSE_S, SILENT, ended_well, errors
from agentfund.feeds.wire_values import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentfund.protocols import Clock
    from agentfund.secrets import Secret

_CONNECT_S = 5.0
_QUEUE = 1024  # frames that wait for a slow reader; then Alpaca is held back, and says in the end that the client is slow
_PAGE = 10_000
_AGAIN = "try again later, and see Alpaca's status page if it stays"

_SUBSCRIBE = {
    "bars": "subscribe_bars",
    "updatedBars": "subscribe_updated_bars",
    "trades": "subscribe_trades",
    "quotes": "subscribe_quotes",
    "statuses": "subscribe_trading_statuses",
}

_lock = threading.Lock()
_taken: set[tuple[str, str]] = set()


class Login(NamedTuple):
    """An account and one of its streams.

    Args:
        key: of the account.
        secret: of the account.
        feed: `iex` or `sip`, for stocks.
        crypto: whether it is about crypto and not stocks.
        url: another address of the stream than Alpaca's own, None for that.
        rest_url: another address of the history.
    """

    key: Secret
    secret: Secret
    feed: str
    crypto: bool
    url: str | None
    rest_url: str | None


class AlpacaWire:
    """An open connection that is logged in; `opened` makes one.

    The SDK's own loop connects again by itself, and lets errors and frames without a symbol pass unseen. Here its frames are
    read one by one, so that a connection is used once and all that it says is seen.

    Args:
        stream: of alpaca-py.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def subscribe(self, channels: Mapping[str, Sequence[str]]) -> list[Any]:
        """Subscribe; return the frames that came before it was confirmed.

        Raises:
            ConfigError: Alpaca confirms less, or refuses what no reconnect can mend.
            FeedError: it refuses, or the connection broke.
        """
        before: list[Any] = []
        try:
            await self._stream._send_subscribe_msg()
            while True:
                for frame in await self._receive() or ():
                    if isinstance(frame, Mapping) and frame.get("T") == "error":
                        code = frame.get("code")
                        raise refusal(str(frame.get("msg", "")), code if isinstance(code, int) else None)
                    if isinstance(frame, Mapping) and frame.get("T") == "subscription":
                        if missing := unconfirmed(frame, channels):
                            raise ConfigError(f"Alpaca did not subscribe to {', '.join(missing)[:200]}: check symbols and plan")
                        return before
                    before.append(frame)
        except errors().closed as error:
            raise _broken(error) from None

    async def receive(self, seconds: float) -> list[Any] | None:
        """Return the next frames, none of them where nothing came in so many seconds; None where Alpaca has closed.

        Raises:
            FeedError: the connection broke.
            BadData: what came is no list of frames.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._receive()
        except TimeoutError:
            return []
        except errors().closed as error:
            if ended_well(error):
                return None
            raise _broken(error) from None

    async def alive(self, seconds: float) -> None:
        """Ask whether the connection lives.

        Raises:
            FeedError: it does not answer in so many seconds.
        """
        try:
            async with asyncio.timeout(seconds):
                await (await self._stream._ws.ping())
        except TimeoutError:
            self._stream._ws.transport.abort()
            raise FeedError(f"Alpaca's stream was silent and did not answer a ping in {seconds:g} s: connect again") from None
        except errors().closed as error:
            raise _broken(error) from None

    async def _receive(self) -> list[Any]:
        import msgpack  # type: ignore[import-untyped]  # it brings no types

        data = await self._stream._ws.recv()
        try:
            frames = msgpack.unpackb(data)
        except (ValueError, TypeError, msgpack.UnpackException):
            frames = None
        if not isinstance(frames, list):
            raise BadData(f"Alpaca's stream sent {shown(repr(data))}, which is no list of frames; check the url")
        return frames


@asynccontextmanager
async def opened(login: Login, channels: Mapping[str, Sequence[str]], connect_s: float) -> AsyncIterator[AlpacaWire]:
    """Connect and log in, and close in the end.

    Args:
        login: the account.
        channels: what will be subscribed to, symbols by channel.
        connect_s: seconds for connecting and logging in.

    Raises:
        ConfigError: this process has a connection to this stream already, or Alpaca refuses what no reconnect can mend.
        FeedError: Alpaca cannot be reached, or refuses.
    """
    await _loaded()
    stream = _stream(login, channels, connect_s)
    with _alone(stream._endpoint, login.key):
        try:
            try:
                async with asyncio.timeout(connect_s):
                    await stream._start_ws()
            except TimeoutError:
                raise FeedError(f"Alpaca's stream did not log in within {connect_s:g} s: check the network") from None
            except errors().closed as error:
                raise _broken(error) from None
            except (OSError, errors().any) as error:
                raise _unreached(error) from None
            except (ValueError, KeyError, IndexError, TypeError) as error:
                if "connected message" in str(error):
                    raise FeedError(
                        "Alpaca's stream did not say that it is connected: close other programs with this key; check the url"
                    ) from None
                raise refusal(str(error)) from None
            yield AlpacaWire(stream)
        finally:
            with suppress(errors().closed):
                await stream.close()


@contextmanager
def _alone(endpoint: str, key: Secret) -> Iterator[None]:
    """Hold the one connection that an account has to a stream."""
    slot = endpoint, hashlib.sha256(key.reveal().encode()).hexdigest()
    with _lock:
        if slot in _taken:
            raise ConfigError(
                f"this process is connected to {shown(endpoint)} with this key already, and Alpaca allows one connection:"
                " read it with one AlpacaData that has all symbols, or close the other"
            )
        _taken.add(slot)
    try:
        yield
    finally:
        with _lock:
            _taken.discard(slot)


async def _loaded() -> None:
    """Import the SDK, which is built on a part of websockets that warns of itself."""
    if "alpaca.data.live" in sys.modules:
        return
    await asyncio.to_thread(import_module, "pandas")  # most of the time goes there, and threads may not touch filters
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="websockets", category=DeprecationWarning)
        import_module("alpaca.data.live")
        import_module("alpaca.data.historical")


def _stream(login: Login, channels: Mapping[str, Sequence[str]], connect_s: float) -> Any:
    from alpaca.data.enums import DataFeed
    from alpaca.data.live import CryptoDataStream, StockDataStream

    params: dict[str, Any] = {
        "open_timeout": connect_s,
        "close_timeout": CLOSE_S,
        "ping_interval": None,
        "max_queue": _QUEUE,
        "logger": SILENT,
    }
    more: dict[str, Any] = {"raw_data": True, "url_override": login.url, "websocket_params": params}
    if not login.crypto:
        more["feed"] = DataFeed(login.feed)
    kind: Any = CryptoDataStream if login.crypto else StockDataStream
    stream = kind(login.key.reveal(), login.secret.reveal(), **more)
    for channel, symbols in channels.items():
        getattr(stream, _SUBSCRIBE[channel])(_unused, *symbols)
    return stream


async def _unused(frame: Any) -> None:
    """Stand where the SDK wants a handler; frames are not dispatched by it."""


def _unreached(error: Exception) -> FeedError | ConfigError:
    code = getattr(error, "status_code", None)
    if isinstance(code, int):
        return refusal(f"HTTP {code} instead of opening", code)
    told = f"{type(error).__name__}: {shown(str(error))}"
    return FeedError(f"Alpaca's stream cannot be reached ({told}): check the network and the url")


def _broken(error: Exception) -> FeedError:
    return FeedError(f"Alpaca's stream broke ({shown(str(error))}): connect again, and ask for what was missed")


class Page(NamedTuple):
    """A page of history.

    Args:
        rows: as they came.
        token: of the next page, None where it is the last.
        at: what time it was at the server, None where it did not say.
    """

    rows: list[Any]
    token: str | None
    at: datetime | None


class AlpacaHistory:
    """alpaca-py's client for history, with a limit of time for each request and without its silent retries.

    Args:
        login: the account.
        timeout_s: seconds for a request to be answered.
        clock: where the time comes from.
    """

    def __init__(self, login: Login, timeout_s: float, clock: Clock) -> None:
        self._login = login
        self._timeout_s = timeout_s
        self._clock = clock
        self._client: Any = None
        self._session: Any = None

    def close(self) -> None:
        """Let go of connections."""
        if self._session is not None:
            self._session.close()

    async def page(self, symbol: str, unit: timedelta, first: datetime, last: datetime, token: str | None) -> Page:
        """Return a page of the bars that start between `first` and `last`, both included.

        Raises:
            AskAgain: it may be answered later.
            FeedError: Alpaca refuses, or answers something else.
            ConfigError: it refuses what asking again cannot mend.
        """
        await _loaded()
        return await asyncio.to_thread(self._page, symbol, unit, first, last, token)

    def _page(self, symbol: str, unit: timedelta, first: datetime, last: datetime, token: str | None) -> Page:
        from alpaca.common.exceptions import APIError
        from requests.exceptions import JSONDecodeError, RequestException

        if self._client is None:
            self._open()
        path, params = self._request(symbol, unit, first, last)
        try:
            answer = self._client.get(path, {**params, "limit": _PAGE, "page_token": token})
        except APIError as error:
            raise self._refused(error) from None
        except JSONDecodeError:
            raise FeedError(f"Alpaca answered {path} with something that is no JSON: {_AGAIN}") from None
        except RequestException as error:
            told = f"{type(error).__name__}: {shown(str(error))}"
            raise AskAgain(f"Alpaca cannot be reached for {path} ({told})", _AGAIN) from None
        bars = answer.get("bars", ()) if isinstance(answer, dict) else ()
        if bars is None:
            bars = {}
        rows = (bars.get(symbol) or []) if isinstance(bars, dict) else None
        following = answer.get("next_page_token") if isinstance(answer, dict) else None
        if not isinstance(rows, list) or not isinstance(following, str | None):
            raise FeedError(f"Alpaca answered {path} without bars ({shown(repr(answer))}): check rest_url")
        return Page(rows, following or None, http_date(self._session.date))

    def _open(self) -> None:
        from alpaca.data.historical import CryptoHistoricalDataClient, StockHistoricalDataClient
        from requests import Response, Session

        timeouts = (min(_CONNECT_S, self._timeout_s), self._timeout_s)

        class Bounded(Session):
            """Waits no longer than that for a connection and for an answer, and keeps the server's clock."""

            date: str | None = None

            def request(self, *args: Any, **kwargs: Any) -> Response:
                response = super().request(*args, **{**kwargs, "timeout": timeouts})
                self.date = response.headers.get("date")
                return response

        login = self._login
        kind: Any = CryptoHistoricalDataClient if login.crypto else StockHistoricalDataClient
        self._client = kind(login.key.reveal(), login.secret.reveal(), raw_data=True, url_override=login.rest_url)
        self._client._session.close()
        self._session = self._client._session = Bounded()
        self._client._retry = 0  # who waits, and for how long, is decided by the caller's deadline

    def _request(self, symbol: str, unit: timedelta, first: datetime, last: datetime) -> tuple[str, dict[str, Any]]:
        from alpaca.data.enums import Adjustment, DataFeed
        from alpaca.data.requests import CryptoBarsRequest, StockBarsRequest
        from alpaca.data.timeframe import TimeFrame, TimeFrameUnit

        minutes = unit // timedelta(minutes=1)
        frame = TimeFrame(1, TimeFrameUnit.Hour) if minutes == 60 else TimeFrame(minutes, TimeFrameUnit.Minute)
        asked = {"symbol_or_symbols": symbol, "timeframe": frame, "start": first, "end": last}
        if self._login.crypto:
            return "/crypto/us/bars", CryptoBarsRequest(**asked).to_request_fields()
        feed = DataFeed(self._login.feed)
        return "/stocks/bars", StockBarsRequest(adjustment=Adjustment.RAW, feed=feed, **asked).to_request_fields()

    def _refused(self, error: Any) -> FeedError | ConfigError:
        code, said = error.status_code, shown(str(error))
        if said[:1] == "<":
            said = "a page of HTML"
        told = f"Alpaca answered with HTTP {code} ({said or 'nothing'})"
        if code == 429 or (code or 500) >= 500:
            headers = error.response.headers if error.response is not None else {}
            return AskAgain(told, _AGAIN, self._wait_s(headers))
        fix = _AGAIN
        if code == 401 or (code == 403 and "forbidden" in said.lower()):
            return ConfigError(f"{told}: {KEYS}")
        if code == 403:
            fix = 'the plan does not include this: use feed="iex", or take a plan with SIP data'
        elif code in (400, 404, 422):
            fix = "check the symbol and the interval"
        return FeedError(f"{told}: {fix}")

    def _wait_s(self, headers: Mapping[str, str]) -> float | None:
        now = self._clock.now()
        asked = seconds_asked(headers.get("Retry-After"), now)
        reset = headers.get("X-RateLimit-Reset", "")
        if asked is None and reset.isdigit():
            return max(0.0, int(reset) - now.timestamp())
        return asked
