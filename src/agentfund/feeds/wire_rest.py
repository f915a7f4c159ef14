"""Questions to a provider's REST API: one at a time, within a deadline, at the pace that it asks for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

from agentfund.errors import BadData, ConfigError
from agentfund.feeds.wire_address import here
from agentfund.feeds.wire_retries import AskAgain, http_date, retried, seconds_asked
from agentfund.feeds.wire_values import parse, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from ssl import SSLContext

    from httpx2 import AsyncClient, Request, Response

    from agentfund.feeds.wire_refusals import Refusals
    from agentfund.protocols import Clock
    from agentfund.secrets import Secret

_DEADLINE_S = 30.0
_ATTEMPT_S = 10.0
_LIMITED = (418, 429)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider answered.

    Args:
        status: of HTTP.
        body: the JSON.
        time: the server's clock to the second, aware UTC; None where it does not tell it.
    """

    status: int
    body: Any
    time: datetime | None


class Rest:
    """A client of one provider, for one piece of work: use it as `async with Rest(...) as rest`.

    Args:
        provider: for errors.
        url: where its API is, `https://...`.
        clock: times deadline and waits.
        refusals: what it means where the provider refuses, by the status of HTTP.
        limited: whether a body says that too much was asked, for providers that say it with status 200.
        pause_s: seconds between two questions, so that a long history stays below the provider's limits.
        deadline_s: seconds for all questions together, None for 30 seconds for each.
        attempt_s: seconds in which one attempt must be answered.
        token: a parameter and its value, put into each question below the HTTP client: none of its logs and errors shows it.
    """

    def __init__(
        self,
        provider: str,
        url: str,
        clock: Clock,
        refusals: Refusals,
        *,
        limited: Callable[[Any], bool] = lambda body: False,
        pause_s: float = 0.0,
        deadline_s: float | None = None,
        attempt_s: float = _ATTEMPT_S,
        token: tuple[str, Secret] | None = None,
    ) -> None:
        self._provider = provider
        self._url = url.rstrip("/")
        self._clock = clock
        self._refusals = refusals
        self._limited = limited
        self._pause_s = pause_s
        self._until = None if deadline_s is None else clock.monotonic() + deadline_s
        self._attempt_s = attempt_s
        self._token = token
        self._asked = False
        self._client: AsyncClient | None = None

    async def __aenter__(self) -> Self:
        self._client = _client(self._url, self._attempt_s, self._token)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def get(self, path: str, query: Mapping[str, str | int], *, refusals: bool = False) -> Answer:
        """Ask, and ask again where that can help: after limits, errors of the server, and where nobody answers.

        Args:
            path: beginning with a slash.
            query: what is asked.
            refusals: return answers with status 400 too, for callers that can say more of them.

        Raises:
            FeedError: it does not answer, refuses, or asks to wait beyond the deadline.
            ConfigError: it refuses what asking again cannot mend, or the address is none.
            BadData: its answer is not JSON.
        """
        if self._asked and self._pause_s:
            await self._clock.sleep(self._pause_s)
        self._asked = True
        until = self._clock.monotonic() + _DEADLINE_S if self._until is None else self._until
        return await retried(lambda: self._ask(path, query, refusals=refusals), self._clock, until)

    async def _ask(self, path: str, query: Mapping[str, str | int], *, refusals: bool) -> Answer:
        response = await self._once(path, query)
        status = response.status_code
        told = f"{self._provider} answered {path} with HTTP status {status} ({_said(response)})"
        wait_s = seconds_asked(response.headers.get("retry-after"), self._clock.now())
        if status in _LIMITED or status >= 500:
            raise AskAgain(told, self._refusals.fix(status), wait_s)
        if not (status == 200 or (refusals and status == 400)):
            raise self._refusals.error(told, status)
        body = parse(self._provider, response.content)
        if self._limited(body):
            raise AskAgain(f"{self._provider} was asked too much at {path} ({shown(body)})", self._refusals.fix(429), wait_s)
        return Answer(status, body, http_date(response.headers.get("date")))

    async def _once(self, path: str, query: Mapping[str, str | int]) -> Response:
        import httpx2

        assert self._client is not None, "use it as a context manager"
        fix = "check the network and the rest_url"
        try:
            async with asyncio.timeout(self._attempt_s):  # the client's own times each read, and an answer has many
                return await self._client.get(f"{self._url}{path}", params=dict(query))
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
            raise ConfigError(f"{self._provider}: {shown(self._url)} is no address: it begins with https://") from None
        except TimeoutError:
            raise AskAgain(f"{self._provider} did not answer {path} in {self._attempt_s:g} s", fix) from None
        except (httpx2.HTTPError, OSError) as error:
            why = shown(str(error)) or type(error).__name__
            raise AskAgain(f"{self._provider} cannot be reached at {shown(self._url)} ({why})", fix) from None


def _said(response: Response) -> str:
    """Return what an error says, of a page of HTML no more than that it is one."""
    text = response.text.strip()
    return "a page of HTML" if text[:1] == "<" else shown(text) or "nothing"


def _client(url: str, attempt_s: float, token: tuple[str, Secret] | None) -> AsyncClient:
    import httpx2

    class Signed(httpx2.AsyncHTTPTransport):
        """Adds the token on the way out."""

        async def handle_async_request(self, request: Request) -> Response:
            assert token is not None
            signed = request.url.copy_merge_params({token[0]: token[1].reveal()})
            asked = httpx2.Request(request.method, signed, headers=request.headers, extensions=request.extensions)
            return await super().handle_async_request(asked)

    return httpx2.AsyncClient(
        transport=None if token is None else Signed(verify=_certificates()),
        verify=_certificates(),
        timeout=attempt_s,
        follow_redirects=False,  # a token follows nobody to another server
        trust_env=token is None and not here(url),
    )


@lru_cache(maxsize=1)
def _certificates() -> SSLContext:
    """Reading them takes longer than all the rest of a client."""
    import httpx2

    return httpx2.create_ssl_context()


def object_in(provider: str, path: str, body: Any) -> dict[str, Any]:
    """Return a body that must be an object.

    Raises:
        BadData: it is none.
    """
    if not isinstance(body, dict):
        raise BadData(f"{provider} answered {path} with {shown(body)}, not with an object; the provider changed its format")
    return body
