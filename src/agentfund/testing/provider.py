"""A provider of language models on this machine: it speaks the wire protocols, counts every token, and fails on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from agentfund.prompt import Usage
from agentfund.testing.provider_batches import Batch, BatchDesk
from agentfund.testing.provider_delivery import deliver, send_json, spoilt
from agentfund.testing.provider_faults import SPOILS, Fault
from agentfund.testing.provider_http import ClientGone, Exchange, HttpRequest, HttpServer
from agentfund.testing.provider_wires import Api, Reply, asks_for_tool, texts, tool_was_taken

__all__ = ["Batch", "Fault", "Provider", "Request", "Served"]

_APIS: dict[str, Api] = {"/messages": "anthropic", "/responses": "responses", "/chat/completions": "chat"}
_ABSTAIN = '{"value":null,"abstain":"the provider was told nothing else"}'


@dataclass(frozen=True, slots=True)
class Request:
    """A question as the provider reads it.

    Args:
        api: "anthropic", "responses" or "chat".
        number: from 1, in the order of arrival.
        model: the language model asked for.
        system: the system's words.
        user: the user's words.
        path: where it was sent.
        headers: names in lower case; they hold the key.
        body: the JSON as it came.
    """

    api: Api
    number: int
    model: str
    system: str
    user: str
    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class Served:
    """What became of a request; it is filled in while it is served.

    Args:
        request: the question.
        status: of the response, 0 where none was sent.
        usage: what the provider counted, and would bill.
        text: the answer.
        fault: what went wrong on purpose.
        done: whether the whole response was handed to the network.
        dropped: whether the client closed the connection before.
    """

    request: Request
    status: int = 0
    usage: Usage = Usage()
    text: str = ""
    fault: Fault | None = None
    done: bool = False
    dropped: bool = False


Answer = str | Fault


class Provider:
    """A server that speaks Anthropic's Messages and OpenAI's Responses and Chat Completions, streamed or not.

    Use it as a context manager. It runs in a thread of its own on 127.0.0.1, so tests in any event loop, synchronous code
    and other processes can ask it. A request that offers the tool by which the `claude` command line asks for JSON gets
    its answer through that tool. Batches of both providers are taken, and answered when they end.

    Tokens are counted by rule: one for every four bytes of the request's body, and one for every four bytes of the answer's
    text, both rounded up; `requests` has the count for every call.

    Args:
        answer: what the language model says: a text, a `Fault`, an iterable of both (one for each request), or a function of
            the `Request` that gives one; the function runs in the server's thread.
        latency_s: seconds before each answer begins.
        models: the language models that exist; None for any. Others get a 404.
        key: the only key that is accepted; None for any.
        caching: whether the system part is written to a cache the first time and read from it afterwards; for Anthropic only
            where the request marks it.
        cached_tokens: at most so many tokens of each input are counted as read from a cache.
        cache_write_tokens: at most so many of the rest are counted as written to it.
        batch_looks: how many looks at a batch say that it goes on.
        thinking: words that are thought before each answer; they are counted like the answer.

    Attributes:
        requests: what was served, oldest first.
    """

    def __init__(
        self,
        answer: Answer | Iterable[Answer] | Callable[[Request], Answer] = _ABSTAIN,
        *,
        latency_s: float = 0.0,
        models: Iterable[str] | None = None,
        key: str | None = None,
        caching: bool = False,
        cached_tokens: int = 0,
        cache_write_tokens: int = 0,
        thinking: str = "",
        batch_looks: int = 1,
    ) -> None:
        self.requests: list[Served] = []
        self.latency_s = latency_s
        self._answer = _function(answer)
        self._models = None if models is None else tuple(models)
        self._key = key
        self._caching = caching
        self._cached_tokens = cached_tokens
        self._cache_write_tokens = cache_write_tokens
        self._thinking = thinking
        self._cache: set[tuple[str, str]] = set()
        self._faults: list[tuple[Fault, int | None]] = []
        self._lock = threading.Lock()
        self._desk = BatchDesk(self._batch_item, batch_looks)
        self._server = HttpServer(self._serve)

    @property
    def url(self) -> str:
        """Where it listens, without `/v1`."""
        return self._server.url

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return self._server.connections

    @property
    def batches(self) -> list[Batch]:
        """What was handed in as a batch, oldest first."""
        return list(self._desk.batches.values())

    @property
    def files(self) -> list[str]:
        """The names of the files that are kept."""
        return list(self._desk.files)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def fail(self, fault: Fault, times: int | None = None) -> None:
        """Fail the next `times` requests, or all until `recover`; several calls queue up."""
        with self._lock:
            self._faults.append((fault, times))

    def recover(self) -> None:
        """Answer again."""
        with self._lock:
            self._faults.clear()

    def usage(self) -> Usage:
        """Return what was counted in all."""
        return sum((served.usage for served in self.requests), Usage())

    def _next_fault(self) -> Fault | None:
        with self._lock:
            if not self._faults:
                return None
            fault, times = self._faults[0]
            if times is not None:
                self._faults[0] = (fault, times - 1)
                if times <= 1:
                    self._faults.pop(0)
            return fault

    async def _serve(self, asked: HttpRequest, exchange: Exchange) -> None:
        path = asked.path.removeprefix("/v1")
        api = _APIS.get(path)
        kept = self._keep(asked)
        if kept is not None:
            await exchange.send(kept[0], kept[1], {"content-type": "application/json"})
        elif asked.method == "POST" and api is not None:
            await self._serve_question(api, asked, exchange)
        elif asked.method == "POST" and path == "/messages/count_tokens":
            await send_json(exchange, 200, {"input_tokens": _tokens(asked.body)})
        elif asked.method == "GET" and path == "/models":
            listed = [{"id": name, "object": "model", "type": "model", "display_name": name} for name in self._models or ()]
            await send_json(exchange, 200, {"object": "list", "data": listed, "has_more": False})
        elif asked.headers.get("upgrade"):
            await exchange.send(426, b"", {"connection": "close"})
        else:
            error = Fault.http(404, f"no such endpoint: {asked.method} {asked.path}", type="not_found_error")
            await send_json(exchange, 404, error.error_json("anthropic", ""))

    def _keep(self, asked: HttpRequest) -> tuple[int, bytes] | None:
        """Serve what belongs to a batch; a queued error status is for it too."""
        if not any(word in asked.path for word in ("/batches", "/files")):
            return None
        fault = self._next_fault()
        if fault is not None and fault.kind == "status":
            return fault.status, json.dumps(
                fault.error_json("anthropic" if "/messages" in asked.path else "openai", "")
            ).encode()
        return self._desk.serve(asked, self.url)

    def _batch_item(self, path: str, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
        api = _APIS.get(path.removeprefix("/v1"))
        if api is None:
            return 404, {"error": {"message": f"no such endpoint: {path}"}}
        asked = HttpRequest("POST", path, {}, json.dumps(body, ensure_ascii=False).encode())
        served = self._begin(api, asked)
        text = self._chosen(served, asked, None)
        fault = served.fault
        if fault is not None and fault.kind in ("hang", "reset"):
            return None
        served.done = True
        if fault is not None and fault.kind == "status":
            served.status = fault.status
            return fault.status, fault.error_json(api, f"req_{served.request.number:08d}")
        served.status = 200
        return 200, self._reply(served, asked, spoilt(text, fault)).body

    async def _serve_question(self, api: Api, asked: HttpRequest, exchange: Exchange) -> None:
        served = self._begin(api, asked)
        text = self._chosen(served, asked, self._next_fault())
        try:
            await exchange.pause(self.latency_s) if self.latency_s else None
            await self._respond(served, asked, exchange, text)
            served.done = True
        except ClientGone:
            served.dropped = True
            raise

    def _begin(self, api: Api, asked: HttpRequest) -> Served:
        body = asked.json()
        system, user = texts(api, body)
        with self._lock:
            number = len(self.requests) + 1
            request = Request(api, number, str(body.get("model", "")), system, user, asked.path, asked.headers, body)
            served = Served(request)
            self.requests.append(served)
        return served

    def _chosen(self, served: Served, asked: HttpRequest, queued: Fault | None) -> str:
        """Return the answer's text, and note the fault that comes instead of it or spoils it."""
        body = served.request.body
        fault = queued or (self._check(asked, body) if asked.headers else None)
        if tool_was_taken(body):
            served.fault = fault
            return "Done."
        said: Answer = self._said(served.request) if fault is None or fault.kind in SPOILS else _ABSTAIN
        served.fault = fault or (said if isinstance(said, Fault) else None)
        return _ABSTAIN if isinstance(said, Fault) else said

    def _said(self, request: Request) -> Answer:
        try:
            return self._answer(request)
        except Exception as error:
            return Fault.http(500, f"the answer function of the test failed: {type(error).__name__}: {error}")

    def _check(self, asked: HttpRequest, body: Mapping[str, Any]) -> Fault | None:
        given = asked.headers.get("authorization", "").removeprefix("Bearer ") or asked.headers.get("x-api-key", "")
        if self._key is not None and given != self._key:
            return Fault.http(401)
        if self._models is not None and body.get("model") not in self._models:
            return Fault.http(404, f"model: {body.get('model')}")
        return None

    async def _respond(self, served: Served, asked: HttpRequest, exchange: Exchange, text: str) -> None:
        request, fault = served.request, served.fault
        kind = fault.kind if fault else ""
        headers = {_id_header(request.api): f"req_{request.number:08d}", **(fault.headers if fault else {})}
        if fault is not None and kind == "status":
            served.status = fault.status
            await send_json(exchange, fault.status, fault.error_json(request.api, f"req_{request.number:08d}"), headers)
        elif kind == "hang":
            await exchange.pause(None)
        elif kind == "reset":
            exchange.reset()
        else:
            served.status = 200
            reply = self._reply(served, asked, spoilt(text, fault))
            await deliver(exchange, reply, fault, headers, stream=bool(request.body.get("stream")))

    def _reply(self, served: Served, asked: HttpRequest, text: str) -> Reply:
        request, kind = served.request, served.fault.kind if served.fault else ""
        served.text = text
        tool = request.api == "anthropic" and asks_for_tool(request.body) and not tool_was_taken(request.body)
        if kind != "html":  # who sends a web page has not asked a language model
            served.usage = self._count(request, asked.body, text)
        reply = Reply(
            request.api,
            request.number,
            request.model,
            text,
            served.usage,
            self._thinking,
            _tokens(self._thinking.encode()),
            tool=tool and bool(text),
            hour='"1h"' in json.dumps([request.body.get("system"), request.body.get("cache_control")]),
        )
        stops = {"refusal", "max_tokens", "context", "filtered"} & {kind}
        return replace(reply, stop=stops.pop(), tool=False) if stops else reply  # type: ignore[arg-type]

    def _count(self, request: Request, body: bytes, text: str) -> Usage:
        read = _tokens(body)
        cached, written = min(self._cached_tokens, read), 0
        written = min(self._cache_write_tokens, read - cached)
        marked = request.api != "anthropic" or '"cache_control"' in body.decode(errors="replace")
        if self._caching and marked:
            part = min(_tokens(request.system.encode()), read)
            with self._lock:
                known = (request.model, request.system) in self._cache
                self._cache.add((request.model, request.system))
            cached, written = (part, 0) if known else (0, part)
        return Usage(read, _tokens(text.encode()) + _tokens(self._thinking.encode()), cached, written)


def _function(answer: Answer | Iterable[Answer] | Callable[[Request], Answer]) -> Callable[[Request], Answer]:
    if callable(answer):
        return answer
    if isinstance(answer, str | Fault):
        return lambda _: answer
    answers: Iterator[Answer] = iter(answer)
    return lambda _: next(answers, Fault.http(500, "the test gave the provider no answer for this request"))


def _tokens(data: bytes) -> int:
    return -(-len(data) // 4)


def _id_header(api: Api) -> str:
    return "request-id" if api == "anthropic" else "x-request-id"
