"""How an answer goes out, whole or streamed, and how faults spoil it on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from agentfund.testing.provider_faults import Fault
from agentfund.testing.provider_http import Exchange
from agentfund.testing.provider_wires import Reply, sse

_HTML = b"<!doctype html><html><title>Sign in</title><body>Please sign in to use this network.</body></html>"
_ODD: dict[str, Any] = {"ok": True, "object": "surprise", "data": [1, 2, 3]}


def spoilt(text: str, fault: Fault | None) -> str:
    """Return what is left of an answer's text."""
    if fault is None:
        return text
    if fault.kind in ("max_tokens", "context", "filtered"):
        return text[: len(text) // 2]
    return {"refusal": fault.message, "empty": "", "huge": "x" * fault.size}.get(fault.kind, text)


async def send_json(exchange: Exchange, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
    """Answer with a JSON value."""
    await exchange.send(
        status, json.dumps(body, ensure_ascii=False).encode(), {"content-type": "application/json", **(headers or {})}
    )


def _whole(reply: Reply, fault: Fault | None) -> bytes:
    body = reply.body
    if fault is not None and fault.kind == "shape":
        body = _ODD
    elif fault is not None and fault.kind == "stream_error":
        body = _failed(reply, fault)
    return json.dumps(body, ensure_ascii=False).encode()


def _failed(reply: Reply, fault: Fault) -> dict[str, Any]:
    """Return an error in the body of a response with status 200."""
    if reply.api == "responses":
        error = {"code": fault.type or "server_error", "message": fault.message}
        return {**reply.body, "status": "failed", "error": error, "output": []}
    return replace(fault, status=529 if reply.api == "anthropic" else 500).error_json(reply.api, f"req_{reply.number:08d}")


def _stream_pieces(reply: Reply, fault: Fault | None) -> Iterator[bytes]:
    kind = fault.kind if fault else ""
    if kind == "shape":
        yield sse(("surprise", _ODD))
        return
    events = list(reply.events())
    if fault is not None and kind == "stream_error":
        yield from map(sse, events[: len(events) // 2])
        failed = _failed(reply, fault)
        name = {"anthropic": "error", "responses": "response.failed", "chat": ""}[reply.api]
        yield sse((name, {"type": name, "response": failed} if reply.api == "responses" else failed))
        return
    yield from map(sse, events)


async def deliver(exchange: Exchange, reply: Reply, fault: Fault | None, headers: Mapping[str, str], *, stream: bool) -> None:
    """Send an answer with status 200, in the way that its fault wants."""
    kind = fault.kind if fault else ""
    if kind == "html":
        await exchange.send(200, _HTML, {"content-type": "text/html", **headers})
        return
    pieces = list(_stream_pieces(reply, fault)) if stream else [_whole(reply, fault)]
    headers = {"content-type": "text/event-stream" if stream else "application/json", **headers}
    data = b"".join(pieces)
    half = data[: len(data) // 2]
    if fault is not None and kind == "drip":
        step = -(-len(data) // max(fault.size, 1))
        await exchange.start(200, headers)
        for at in range(0, len(data), step):
            await exchange.piece(data[at : at + step])
            await exchange.pause(fault.seconds)
        await exchange.end()
    elif kind == "cut":
        await exchange.send(200, half, headers, claimed=len(data))
        exchange.reset()
    elif kind == "truncated":
        await exchange.send(200, half, headers)
    elif stream:
        await exchange.start(200, headers)
        for piece in pieces:
            await exchange.piece(piece)
        await exchange.end()
    else:
        await exchange.send(200, data, headers)
