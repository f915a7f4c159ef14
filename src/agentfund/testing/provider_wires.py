"""The wire forms of three APIs: what a question and an answer look like in Messages, Responses and Chat Completions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentfund.prompt import Usage

Api = Literal["anthropic", "responses", "chat"]
Stop = Literal["end", "refusal", "max_tokens", "context", "filtered"]
Event = tuple[str, dict[str, Any] | str]

_PIECE = 65_536
_CREATED = 1_750_000_000
SCHEMA_TOOL = "StructuredOutput"
"""The tool by which the `claude` command line asks for JSON."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the language model says.

    Args:
        api: whose form it takes.
        number: of the request; ids are made of it.
        model: the language model.
        text: the answer.
        usage: what is counted for it.
        thinking: words that come before the answer and are not part of it.
        thinking_tokens: those of the output.
        stop: why it ended.
        tool: whether the text goes into the schema tool.
        hour: whether cache writes live an hour and not five minutes.
    """

    api: Api
    number: int
    model: str
    text: str
    usage: Usage
    thinking: str = ""
    thinking_tokens: int = 0
    stop: Stop = "end"
    tool: bool = False
    hour: bool = False

    @property
    def body(self) -> dict[str, Any]:
        """The answer in one piece."""
        return {"anthropic": _message, "responses": _response, "chat": _chat}[self.api](self)

    def events(self) -> Iterator[Event]:
        """Give the answer as server-sent events."""
        return {"anthropic": _message_events, "responses": _response_events, "chat": _chat_events}[self.api](self)


def texts(api: Api, body: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a request says to the language model: the system's words and the user's."""
    if api == "anthropic":
        said = body.get("messages") or []
        system = [_text(body.get("system")), *(_text(one.get("content")) for one in said if one.get("role") == "system")]
    elif api == "responses":
        told = body.get("input") or ""
        said = [{"role": "user", "content": told}] if isinstance(told, str) else told
        above = (_text(one.get("content")) for one in said if one.get("role") in ("system", "developer"))
        system = [_text(body.get("instructions")), *above]
    else:
        said = body.get("messages") or []
        system = [_text(one.get("content")) for one in said if one.get("role") in ("system", "developer")]
    user = [_text(one.get("content")) for one in said if one.get("role") == "user"]
    return "\n".join(filter(None, system)), "\n".join(filter(None, user))


def asks_for_tool(body: Mapping[str, Any]) -> bool:
    """Return whether the answer goes into the schema tool."""
    return any(one.get("name") == SCHEMA_TOOL for one in body.get("tools") or ())


def tool_was_taken(body: Mapping[str, Any]) -> bool:
    """Return whether the last message brings the schema tool's result, and the answer was good."""
    said = body.get("messages") or [{}]
    last: dict[str, Any] = next((one for one in reversed(said) if one.get("role") == "user"), {})
    content = last.get("content")
    results = [part for part in content if part.get("type") == "tool_result"] if isinstance(content, list) else []
    return bool(results) and not any(part.get("is_error") for part in results)


def sse(event: Event) -> bytes:
    """Return one server-sent event."""
    name, data = event
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return (f"event: {name}\ndata: {text}\n\n" if name else f"data: {text}\n\n").encode()


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict) and part.get("text"))
    return ""


def _pieces(text: str) -> Iterator[str]:
    yield from (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))


# Messages


def _message(reply: Reply) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    if reply.thinking:
        content.append({"type": "thinking", "thinking": reply.thinking, "signature": "c2lnbmVk"})
    if reply.tool:
        content.append(
            {"type": "tool_use", "id": f"toolu_{reply.number:08d}", "name": SCHEMA_TOOL, "input": _tool_input(reply.text)}
        )
    elif reply.text:
        content.append({"type": "text", "text": reply.text})
    return {
        "id": f"msg_{reply.number:08d}",
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": content,
        "stop_sequence": None,
        "usage": _anthropic_usage(reply),
        **_anthropic_stop(reply),
    }


def _anthropic_stop(reply: Reply) -> dict[str, Any]:
    if reply.stop == "end":
        return {"stop_reason": "tool_use" if reply.tool else "end_turn"}
    if reply.stop in ("refusal", "filtered"):
        return {
            "stop_reason": "refusal",
            "stop_details": {"type": "refusal", "category": "cyber", "explanation": reply.text or "declined"},
        }
    return {"stop_reason": {"max_tokens": "max_tokens", "context": "model_context_window_exceeded"}[reply.stop]}


def _anthropic_usage(reply: Reply) -> dict[str, Any]:
    usage = reply.usage
    written = usage.cache_write_tokens
    return {
        "input_tokens": usage.input_tokens - usage.cached_tokens - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": 0 if reply.hour else written,
            "ephemeral_1h_input_tokens": written if reply.hour else 0,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": reply.thinking_tokens},
        "service_tier": "standard",
    }


def _tool_input(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"text": text}


def _message_events(reply: Reply) -> Iterator[Event]:
    whole = _message(reply)
    began = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 0}}
    yield "message_start", {"type": "message_start", "message": began}
    for index, block in enumerate(whole["content"]):
        kind = block["type"]
        blank: dict[str, dict[str, Any]] = {"thinking": {"thinking": "", "signature": ""}, "text": {"text": ""}}
        empty = blank.get(kind, {"input": {}})
        yield "content_block_start", {"type": "content_block_start", "index": index, "content_block": {**block, **empty}}
        if kind == "thinking":
            deltas = [
                {"type": "thinking_delta", "thinking": block["thinking"]},
                {"type": "signature_delta", "signature": block["signature"]},
            ]
        elif kind == "tool_use":
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in _pieces(json.dumps(block["input"]))]
        else:
            deltas = [{"type": "text_delta", "text": piece} for piece in _pieces(block["text"])]
        for delta in deltas:
            yield "content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", "index": index}
    stop = {"stop_sequence": None, **_anthropic_stop(reply)}
    yield "message_delta", {"type": "message_delta", "delta": stop, "usage": whole["usage"]}
    yield "message_stop", {"type": "message_stop"}


# Responses


def _response(reply: Reply) -> dict[str, Any]:
    output: list[dict[str, Any]] = []
    if reply.thinking:
        output.append({"type": "reasoning", "id": f"rs_{reply.number:08d}", "summary": [_summary(reply)]})
    if reply.text:
        part = _part(reply)
        status = "completed" if reply.stop in ("end", "refusal") else "incomplete"
        output.append(
            {"type": "message", "id": f"msg_{reply.number:08d}", "role": "assistant", "status": status, "content": [part]}
        )
    return {**_shell(reply), "output": output, "usage": _openai_usage(reply), **_openai_status(reply)}


def _shell(reply: Reply) -> dict[str, Any]:
    return {
        "id": f"resp_{reply.number:08d}",
        "object": "response",
        "created_at": _CREATED,
        "status": "in_progress",
        "model": reply.model,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": None,
        "top_p": None,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
    }


def _openai_status(reply: Reply) -> dict[str, Any]:
    if reply.stop == "context":
        error = {"code": "context_length_exceeded", "message": "Your input exceeds the context window of this model."}
        return {"status": "failed", "error": error}
    reason = {"max_tokens": "max_output_tokens", "filtered": "content_filter"}.get(reply.stop)
    return {"status": "incomplete", "incomplete_details": {"reason": reason}} if reason else {"status": "completed"}


def _part(reply: Reply) -> dict[str, Any]:
    if reply.stop == "refusal":
        return {"type": "refusal", "refusal": reply.text}
    return {"type": "output_text", "text": reply.text, "annotations": []}


def _summary(reply: Reply) -> dict[str, Any]:
    return {"type": "summary_text", "text": reply.thinking}


def _openai_usage(reply: Reply) -> dict[str, Any]:
    usage = reply.usage
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": reply.thinking_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _response_events(reply: Reply) -> Iterator[Event]:
    for number, event in enumerate(_response_events_bare(reply)):
        yield event["type"], {**event, "sequence_number": number}


def _response_events_bare(reply: Reply) -> Iterator[dict[str, Any]]:
    whole = _response(reply)
    yield {"type": "response.created", "response": _shell(reply)}
    yield {"type": "response.in_progress", "response": _shell(reply)}
    for index, item in enumerate(whole["output"]):
        at = {"output_index": index, "item_id": item["id"]}
        if item["type"] == "reasoning":
            yield {"type": "response.output_item.added", "output_index": index, "item": {**item, "summary": []}}
            yield {"type": "response.output_item.done", "output_index": index, "item": item}
            continue
        began = {**item, "status": "in_progress", "content": []}
        yield {"type": "response.output_item.added", "output_index": index, "item": began}
        part = item["content"][0]
        key = "refusal" if part["type"] == "refusal" else "text"
        name = "response.refusal" if key == "refusal" else "response.output_text"
        extra: dict[str, Any] = {} if key == "refusal" else {"logprobs": []}
        yield {"type": "response.content_part.added", **at, "content_index": 0, "part": {**part, key: ""}}
        for piece in _pieces(part[key]):
            yield {"type": f"{name}.delta", **at, "content_index": 0, "delta": piece, **extra}
        yield {"type": f"{name}.done", **at, "content_index": 0, key: part[key], **extra}
        yield {"type": "response.content_part.done", **at, "content_index": 0, "part": part}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{whole['status']}", "response": whole}


# Chat Completions


def _chat(reply: Reply) -> dict[str, Any]:
    refused = reply.stop == "refusal"
    message = {"role": "assistant", "content": None if refused else reply.text, "refusal": reply.text if refused else None}
    choice = {"index": 0, "message": message, "finish_reason": _finish(reply), "logprobs": None}
    return {**_chat_shell(reply), "object": "chat.completion", "choices": [choice], "usage": _chat_usage(reply)}


def _chat_shell(reply: Reply) -> dict[str, Any]:
    return {"id": f"chatcmpl-{reply.number:08d}", "created": _CREATED, "model": reply.model}


def _finish(reply: Reply) -> str:
    return {"end": "stop", "refusal": "stop", "max_tokens": "length", "context": "length", "filtered": "content_filter"}[
        reply.stop
    ]


def _chat_usage(reply: Reply) -> dict[str, Any]:
    usage = reply.usage
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens},
        "completion_tokens_details": {"reasoning_tokens": reply.thinking_tokens},
    }


def _chat_events(reply: Reply) -> Iterator[Event]:
    shell = {**_chat_shell(reply), "object": "chat.completion.chunk"}
    key = "refusal" if reply.stop == "refusal" else "content"
    yield "", {**shell, "choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}
    for piece in _pieces(reply.text):
        yield "", {**shell, "choices": [{"index": 0, "delta": {key: piece}, "finish_reason": None}]}
    yield "", {**shell, "choices": [{"index": 0, "delta": {}, "finish_reason": _finish(reply)}]}
    yield "", {**shell, "choices": [], "usage": _chat_usage(reply)}
    yield "", "[DONE]"
