"""alpaca-py with its dangers removed: the only file that imports it.

Its client is given a session of ours, which sends each request once, with a deadline, and follows no redirect. The SDK by
itself has no time limit, and sends an order again on a 504 that may have come after the order.
"""

from __future__ import annotations

import asyncio
import json
import threading
import warnings
from dataclasses import dataclass
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from agentfund.secrets import Secret, scrub

if TYPE_CHECKING:
    from datetime import datetime

    from agentfund.protocols import Clock

_BIGGEST = 64 << 20
_WORDS = 300


@dataclass(frozen=True, slots=True)
class Told:
    """What came back for one request.

    Args:
        status: of the HTTP response, 0 where none came whole.
        text: the body.
        why: what went wrong where none came, without any key.
        time: the server's clock by its header Date, aware UTC.
    """

    status: int
    text: str = ""
    why: str = ""
    time: datetime | None = None

    def json(self) -> Any:
        """Return the body as JSON, numbers as Decimal; None where it is none, or empty."""
        try:
            return json.loads(self.text, parse_float=Decimal, parse_constant=_no_number)
        except ValueError:
            return None

    @property
    def code(self) -> int | None:
        """Alpaca's own code of an error, None where the body has none."""
        body = self.json()
        code = body.get("code") if isinstance(body, dict) else None
        return code if isinstance(code, int) and not isinstance(code, bool) else None

    def __str__(self) -> str:
        if not self.status:
            return self.why
        body = self.json()
        words = body.get("message") if isinstance(body, dict) else None
        return scrub(f"HTTP {self.status}: {words or self.text[:_WORDS] or 'an empty body'}")


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


class Sdk:
    """A trading client and trade update streams of alpaca-py for one account.

    Args:
        key: key id.
        secret: its secret.
        paper: whether it is a paper account.
        url: another server than Alpaca's own, None for Alpaca's.
        timeout_s: how long a request may take, from the first byte sent to the last one read.
        workers: how many requests may run at once.
        clock: where the time comes from.
    """

    def __init__(
        self, key: Secret, secret: Secret, *, paper: bool, url: str | None, timeout_s: float, workers: int, clock: Clock
    ) -> None:
        self._key, self._secret, self._paper, self._url = key, secret, paper, url
        with warnings.catch_warnings():
            # alpaca-py still connects through a part of websockets that warns when it is imported.
            warnings.simplefilter("ignore", DeprecationWarning)
            from alpaca.trading.client import TradingClient
            from alpaca.trading.stream import TradingStream

        self._stream = TradingStream
        self._client = TradingClient(key.reveal(), secret.reveal(), paper=paper, raw_data=True, url_override=url)
        self._client._session.close()
        self._session = _session(timeout_s, workers, clock)
        self._client._session = self._session
        self._client._retry = 0
        self._client._retry_codes = []

    def send(self, method: str, path: str, data: dict[str, Any] | None = None) -> Told:
        """Send one request and return what came; blocks, and never raises for what the network does.

        Args:
            method: GET, POST, PATCH or DELETE.
            path: below the version, with its leading slash.
            data: parameters of a GET or DELETE, the JSON of the others.
        """
        last = self._session.last
        last.told, last.sent = None, False
        try:
            getattr(self._client, method.lower())(path, data)
        except Exception as error:
            # The SDK raises for a status and for a body that is no JSON; the response is there all the same.
            if last.told is None:
                # The library's exceptions hold the request with its keys, so only their words leave this function.
                return Told(0, why=scrub(f"{type(error).__name__}: {error}")[:_WORDS])
        told: Told | None = last.told
        return told or Told(0, why="the SDK sent nothing")

    def stream(self, data_timeout_s: float) -> Any:
        """Return a trade update stream that is not connected.

        Args:
            data_timeout_s: seconds without a sign of life, pongs counted, after which the connection is given up.
        """
        half = data_timeout_s / 2
        limits = {
            "ping_interval": half,
            "ping_timeout": half,
            "open_timeout": data_timeout_s,
            "close_timeout": 1,
            "max_queue": 1024,
        }
        at: Any = None if self._url is None else "ws" + self._url.removeprefix("http") + "/stream"
        stream = self._stream(
            self._key.reveal(), self._secret.reveal(), paper=self._paper, url_override=at, websocket_params=limits
        )

        async def nobody(update: Any) -> None:
            """Only so that the SDK asks for updates; they are read from the socket."""

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            stream.subscribe_trade_updates(nobody)
        return stream

    def close(self) -> None:
        """Close idle connections."""
        self._session.close()


async def connect(stream: Any) -> None:
    """Connect a stream of `Sdk.stream`, log in and ask for trade updates."""
    await stream._start_ws()


async def hear(stream: Any) -> dict[str, Any] | None:
    """Return the next trade update, None for any other message."""
    told = json.loads(await stream._ws.recv(), parse_float=Decimal)
    if isinstance(told, dict) and told.get("stream") == "trade_updates" and isinstance(told.get("data"), dict):
        return dict(told["data"])
    return None


async def disconnect(stream: Any) -> None:
    """Let go of the socket, whatever state it is in."""
    socket = stream._ws
    if socket is not None:
        try:
            await asyncio.wait_for(stream.close(), 2)
        except Exception:
            socket.transport.abort()


def _session(timeout_s: float, workers: int, clock: Clock) -> Any:
    from http.cookiejar import DefaultCookiePolicy

    import requests
    from requests.adapters import HTTPAdapter

    class OnceSession(requests.Session):
        """Sends each request once and to its end within the time limit, or fails."""

        def __init__(self) -> None:
            super().__init__()
            self.last = threading.local()
            self.auth = lambda request: request  # otherwise a .netrc adds a password of its own
            self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            for scheme in ("http://", "https://"):
                self.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=workers, max_retries=0))

        def request(self, method: Any, url: Any, *args: Any, **kwargs: Any) -> Any:
            if self.last.sent:
                raise RuntimeError("a request is sent once; whoever called has to decide about another")
            self.last.sent = True
            end = clock.monotonic() + timeout_s
            kwargs.update(timeout=(min(3.05, timeout_s), timeout_s), stream=True, allow_redirects=False)
            response = super().request(method, url, *args, **kwargs)
            body = bytearray()
            try:
                while piece := response.raw.read1(1 << 16, decode_content=True):  # what is there, and no waiting for more
                    body += piece
                    if clock.monotonic() > end or len(body) > _BIGGEST:
                        raise TimeoutError(f"the answer was not there within {timeout_s:g} s, or has no end")
                length = response.headers.get("content-length")
                if length is not None and "content-encoding" not in response.headers and len(body) < int(length):
                    raise ConnectionError(f"the answer ended after {len(body)} of {length} bytes")
            except BaseException:
                response.close()
                raise
            response._content, response._content_consumed = bytes(body), True
            self.last.told = Told(
                response.status_code,
                body.decode("utf-8", "replace"),
                time=_date(response.headers.get("date")),
            )
            return response

    return OnceSession()


def _date(header: str | None) -> datetime | None:
    try:
        found = parsedate_to_datetime(header) if header else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None
