"""One request to a provider and its whole response, whatever becomes of it: an SDK's exceptions end here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydantic_core import from_json

from agentfund.errors import InvalidOutput, LLMError, LLMTimeout, Overloaded
from agentfund.llms.clients import AnyClient, Clients
from agentfund.llms.failures import sdk_failure, told_failure

if TYPE_CHECKING:
    from datetime import datetime

    from agentfund.protocols import Clock

LONGEST = 8 * 1024 * 1024
"""Most bytes of a response that are read; the longest answer that a language model can give is shorter."""


class Response(Protocol):
    """A response of an SDK that is not read yet."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers; names in any case."""
        ...

    def iter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """Give its body as it comes."""
        ...


Send = Callable[[Any], AbstractAsyncContextManager[Response]]
"""Sends a request with an SDK's client."""

Read = Callable[[bytes, Mapping[str, str], "datetime"], "dict[str, Any] | Failed"]
"""Makes a JSON object of a body, its headers and the time, or says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Got:
    """A response that is a JSON object.

    Args:
        data: the object.
        request_id: the provider's id for the call.
        latency_s: seconds from question to answer.
        batch: whether it was part of a batch, which costs half.
    """

    data: dict[str, Any]
    request_id: str
    latency_s: float
    batch: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that brought no answer.

    Args:
        error: what it means.
        billed: whether the question may have been answered, and so billed, without our knowing.
    """

    error: LLMError
    billed: bool = False


async def fetch(
    clients: Clients[AnyClient],
    send: Callable[[AnyClient], AbstractAsyncContextManager[Response]],
    *,
    timeout_s: float,
    clock: Clock,
    read: Read | None = None,
    longest: int = LONGEST,
) -> Got | Failed:
    """Send one request, read its whole response, and return it as it came.

    No exception but a cancellation passes: those of an SDK hold headers, and so the key.

    Args:
        clients: the SDK's clients.
        send: sends the request.
        timeout_s: seconds that it may take, all in all.
        clock: where the time comes from.
        read: what is made of the body; by default it is one JSON object.
        longest: most bytes of it.
    """
    began = clock.monotonic()
    try:
        client = await clients.get()
        async with asyncio.timeout(timeout_s), send(client) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            body = await _body(response, longest)
        found = (read or one_object)(body, headers, clock.now())
        if isinstance(found, Failed):
            return found
        request_id = headers.get("request-id") or headers.get("x-request-id") or ""
        return Got(found, request_id, clock.monotonic() - began)
    except TimeoutError:
        return Failed(LLMTimeout(f"no answer within {timeout_s:g} s; the call may still be billed"), billed=True)
    except _TooLong:
        return Failed(InvalidOutput(f"the answer has more than {longest} bytes; it was not read"), billed=True)
    except Exception as failed:
        error, billed = sdk_failure(failed, clock.now())
        return Failed(error, billed)


def one_object(body: bytes, headers: Mapping[str, str], now: datetime) -> dict[str, Any] | Failed:
    """Read a body that is one JSON object."""
    if is_web_page(body, headers):
        return Failed(Overloaded("a web page came instead of an answer: a proxy is between, or base_url is wrong"))
    try:
        found = from_json(body)
    except ValueError:
        return Failed(Overloaded("the answer is not whole: its JSON cannot be read"), billed=True)
    if not isinstance(found, dict):
        return Failed(Overloaded(f"the answer is a JSON {type(found).__name__} and no object: is base_url right?"), billed=True)
    if found.get("error") and "usage" not in found:
        return Failed(told_failure(200, found, headers=headers, now=now))
    return found


def is_web_page(body: bytes, headers: Mapping[str, str]) -> bool:
    """Return whether a body is what a browser would show."""
    return "html" in headers.get("content-type", "") or body[:64].lstrip().startswith(b"<")


class _TooLong(Exception):
    """A response is longer than any answer can be."""


async def _body(response: Response, longest: int) -> bytes:
    parts, size = [], 0
    async for part in response.iter_bytes():
        parts.append(part)
        size += len(part)
        if size > longest:
            raise _TooLong
    return b"".join(parts)
