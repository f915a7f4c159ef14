"""Many questions as one batch: a provider answers within a day, at half the price."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from pydantic_core import from_json

from agentfund.errors import BadCredentials, BadRequest, LLMError, LLMTimeout, Overloaded, UsageCapped
from agentfund.llms.exchange import Failed, Got, is_web_page
from agentfund.llms.failures import told_failure

if TYPE_CHECKING:
    from agentfund.protocols import Clock

_log = logging.getLogger("agentfund")

MOST = 10_000
"""Most questions in one of a provider's batches; more become several. Both providers take more than that."""

_LONGEST = 1 << 30
_CANCEL_S = 1.0
_FINAL = (BadCredentials, BadRequest, UsageCapped)  # looking again would not help

Fetch = Callable[..., Awaitable[Got | Failed]]
"""Sends one request; see `agentfund.llms.exchange.fetch`."""

Requests = Mapping[int, dict[str, Any]]
Answers = dict[int, Got | Failed]


class Batches(Protocol):
    """A provider's way to take batches."""

    one_llm: bool
    """Whether all questions of a batch go to the same language model."""

    async def submit(self, requests: Requests) -> str | Failed:
        """Hand a batch in; return its id."""
        ...

    async def look(self, batch: str) -> dict[str, Any] | Failed | None:
        """Return how a batch ended, None while it goes on."""
        ...

    async def results(self, batch: str, ended: dict[str, Any], requests: Requests) -> Answers | Failed:
        """Return what came for each question."""
        ...

    async def cancel(self, batch: str) -> None:
        """Give a batch up."""
        ...


async def ask_many(wire: Batches, requests: Requests, *, poll_s: float, deadline_s: float, clock: Clock) -> Answers:
    """Ask all questions; return for each what came.

    Args:
        wire: the provider's way to take batches.
        requests: the questions' requests by number.
        poll_s: seconds between two looks at a batch.
        deadline_s: most seconds to wait.
        clock: where the time comes from.
    """
    groups: dict[str, list[int]] = {}
    for number, request in requests.items():
        groups.setdefault(request["model"] if wire.one_llm else "", []).append(number)
    parts = [numbers[at : at + MOST] for numbers in groups.values() for at in range(0, len(numbers), MOST)]
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(_ask(wire, {number: requests[number] for number in part}, poll_s, deadline_s, clock))
            for part in parts
        ]
    return {number: got for task in running for number, got in task.result().items()}


async def _ask(wire: Batches, requests: Requests, poll_s: float, deadline_s: float, clock: Clock) -> Answers:
    began = clock.monotonic()
    # A batch whose id we do not wait for could not be cancelled, and would be billed.
    submitting = asyncio.ensure_future(wire.submit(requests))
    try:
        batch = await asyncio.shield(submitting)
        if isinstance(batch, Failed):
            return dict.fromkeys(requests, batch)
        _log.info("batch %s: %d questions are handed in", batch, len(requests))
        found = await _wait(wire, batch, requests, poll_s, began + deadline_s, clock)
    except asyncio.CancelledError:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CANCEL_S):
                begun = await submitting
                if isinstance(begun, str):
                    await wire.cancel(begun)
        raise
    if isinstance(found, Failed):
        await wire.cancel(batch)
        return dict.fromkeys(requests, found)
    waited_s = clock.monotonic() - began
    none = Failed(LLMError(f"batch {batch} has no answer to this question"), billed=True)
    return {number: _timed(found.get(number, none), waited_s) for number in requests}


async def _wait(wire: Batches, batch: str, requests: Requests, poll_s: float, until: float, clock: Clock) -> Answers | Failed:
    """Look until the batch has ended and its results are here; a look that fails is tried again."""
    ended: dict[str, Any] | None = None
    while clock.monotonic() < until:
        await clock.sleep(poll_s)
        found = await wire.look(batch) if ended is None else ended
        if isinstance(found, dict):
            ended = found
            results = await wire.results(batch, ended, requests)
            if not isinstance(results, Failed):
                return results
            found = results
        if isinstance(found, Failed) and isinstance(found.error, _FINAL):
            return Failed(found.error, billed=True)
    return Failed(LLMTimeout(f"batch {batch} has not ended in time; what it has answered is billed"), billed=True)


def _timed(got: Got | Failed, waited_s: float) -> Got | Failed:
    return Got(got.data, got.request_id, waited_s, batch=True) if isinstance(got, Got) else got


def _lines(body: bytes, headers: Mapping[str, str], _: datetime) -> dict[str, Any] | Failed:
    """Read a body of one JSON object a line; a line that is none is left out, and its question has no answer."""
    if is_web_page(body, headers):
        return Failed(Overloaded("a web page came instead of the batch's results"))
    found = []
    for line in body.splitlines():
        with suppress(ValueError):
            one = from_json(line)
            if isinstance(one, dict) and str(one.get("custom_id", "")).isdecimal():
                found.append(one)
    return {"lines": found}


class AnthropicBatches:
    """Message Batches.

    Args:
        fetch: sends one request.
        clock: where the time comes from.
    """

    one_llm = False

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock

    async def submit(self, requests: Requests) -> str | Failed:
        """Hand a batch in; return its id."""
        asked = [{"custom_id": str(number), "params": request} for number, request in requests.items()]
        got = await self._fetch(lambda client: client.messages.batches.with_streaming_response.create(requests=asked))
        return got if isinstance(got, Failed) else str(got.data.get("id"))

    async def look(self, batch: str) -> dict[str, Any] | Failed | None:
        """Return the batch once it has ended."""
        got = await self._fetch(lambda client: client.messages.batches.with_streaming_response.retrieve(batch))
        if isinstance(got, Failed):
            return got
        return got.data if got.data.get("processing_status") == "ended" else None

    async def results(self, batch: str, ended: dict[str, Any], requests: Requests) -> Answers | Failed:
        """Return what came for each question."""
        got = await self._fetch(
            lambda client: client.messages.batches.with_streaming_response.results(batch), read=_lines, longest=_LONGEST
        )
        if isinstance(got, Failed):
            return got
        return {int(line["custom_id"]): self._result(line, batch) for line in got.data["lines"]}

    async def cancel(self, batch: str) -> None:
        """Give a batch up."""
        await self._fetch(lambda client: client.messages.batches.with_streaming_response.cancel(batch))

    def _result(self, line: dict[str, Any], batch: str) -> Got | Failed:
        result = line.get("result")
        result = result if isinstance(result, dict) else {}
        kind, message = result.get("type"), result.get("message")
        if kind == "succeeded" and isinstance(message, dict):
            return Got(message, str(message.get("id", batch)), 0.0)
        if kind == "errored":
            return Failed(told_failure(200, result.get("error"), now=self._clock.now()))
        return Failed(Overloaded(f"the question was not answered: {kind}"))


class OpenAIBatches:
    """Batches of a file of requests.

    Args:
        fetch: sends one request.
        clock: where the time comes from.
        endpoint: where the requests would have been sent one by one.
    """

    one_llm = True

    def __init__(self, fetch: Fetch, clock: Clock, endpoint: str) -> None:
        self._fetch = fetch
        self._clock = clock
        self._endpoint = endpoint

    async def submit(self, requests: Requests) -> str | Failed:
        """Upload the questions and hand them in; return the batch's id."""
        lines = [
            json.dumps({"custom_id": str(number), "method": "POST", "url": self._endpoint, "body": request}, ensure_ascii=False)
            for number, request in requests.items()
        ]
        file = ("batch.jsonl", "\n".join(lines).encode())
        stored = await self._fetch(lambda client: client.files.with_streaming_response.create(file=file, purpose="batch"))
        if isinstance(stored, Failed):
            return Failed(stored.error)  # a file alone costs nothing
        file_id = str(stored.data.get("id"))
        got = await self._fetch(
            lambda client: client.batches.with_streaming_response.create(
                input_file_id=file_id, endpoint=self._endpoint, completion_window="24h"
            )
        )
        return got if isinstance(got, Failed) else str(got.data.get("id"))

    async def look(self, batch: str) -> dict[str, Any] | Failed | None:
        """Return the batch once it has ended."""
        got = await self._fetch(lambda client: client.batches.with_streaming_response.retrieve(batch))
        if isinstance(got, Failed):
            return got
        return got.data if got.data.get("status") in ("completed", "expired", "cancelled", "failed") else None

    async def results(self, batch: str, ended: dict[str, Any], requests: Requests) -> Answers | Failed:
        """Return what came for each question, and delete the files: they hold the questions and answers."""
        if ended.get("status") == "failed":
            told = ended.get("errors")
            reasons = told.get("data") if isinstance(told, dict) else None
            first = reasons[0] if isinstance(reasons, list) and reasons else None
            error = told_failure(400, first, now=self._clock.now(), instead="the batch was not accepted")
            return dict.fromkeys(requests, Failed(error))
        answers: Answers = {}
        files = [ended.get(name) for name in ("output_file_id", "error_file_id", "input_file_id")]
        known = [file for file in files if isinstance(file, str) and file]
        for file in known:
            if file == ended.get("input_file_id"):
                continue
            got = await self._fetch(_content(file), read=_lines, longest=_LONGEST)
            if isinstance(got, Failed):
                return got
            answers |= {int(line["custom_id"]): self._result(line) for line in got.data["lines"]}
        for file in known:
            await self._fetch(_delete(file))
        return answers

    async def cancel(self, batch: str) -> None:
        """Give a batch up."""
        await self._fetch(lambda client: client.batches.with_streaming_response.cancel(batch))

    def _result(self, line: dict[str, Any]) -> Got | Failed:
        response = line.get("response")
        response = response if isinstance(response, dict) else {}
        status, body = response.get("status_code"), response.get("body")
        if status == 200 and isinstance(body, dict):
            return Got(body, str(response.get("request_id", "")), 0.0)
        if isinstance(status, int) and status >= 300:
            return Failed(told_failure(status, body, now=self._clock.now()))
        error = line.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        return Failed(Overloaded(f"the question was not answered: {code}"))


def _content(file: str) -> Callable[[Any], Any]:
    return lambda client: client.files.with_streaming_response.content(file)


def _delete(file: str) -> Callable[[Any], Any]:
    return lambda client: client.files.with_streaming_response.delete(file)
