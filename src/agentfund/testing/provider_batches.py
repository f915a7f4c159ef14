"""Batches at a provider: files and lists of questions that are answered later."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.parser import BytesParser
from itertools import count
from typing import Any

from agentfund.testing.provider_http import HttpRequest

Answered = tuple[int, dict[str, Any]] | None
Answerer = Callable[[str, Mapping[str, Any]], Answered]
"""Answers one question, given its path and body: status and JSON, or None where it is never answered."""

_TIME = "2025-06-15T15:06:40Z"


@dataclass
class Batch:
    """One batch.

    Args:
        id: its name.
        items: what was asked: own id, path and body of each question.
        looks: how many times it is looked at before it has ended.
        file: the file it came from, at OpenAI.
        cancelled: whether it was given up.
    """

    id: str
    items: list[tuple[str, str, Mapping[str, Any]]]
    looks: int
    file: str = ""
    cancelled: bool = False
    answers: list[tuple[str, Answered]] = field(default_factory=list)


class BatchDesk:
    """Takes batches in the forms of both providers. A batch is answered when it ends.

    Args:
        answer: answers one question.
        looks: how many looks at a batch say that it goes on.
    """

    def __init__(self, answer: Answerer, looks: int) -> None:
        self.batches: dict[str, Batch] = {}
        self.files: dict[str, bytes] = {}
        self._numbers = count(1)
        self._answer = answer
        self._looks = looks

    def serve(self, asked: HttpRequest, url: str) -> tuple[int, bytes] | None:
        """Return status and body, None where the request is none of its own."""
        path = asked.path.removeprefix("/v1").strip("/").split("/")
        if path[:2] == ["messages", "batches"]:
            return self._serve_messages(asked, path[2:], url)
        if path[0] == "batches":
            return self._serve_batches(asked, path[1:])
        if path[0] == "files":
            return self._serve_files(asked, path[1:])
        return None

    def _serve_messages(self, asked: HttpRequest, rest: list[str], url: str) -> tuple[int, bytes] | None:
        if not rest:
            requests = asked.json().get("requests", [])
            items = [(str(one["custom_id"]), "/v1/messages", one["params"]) for one in requests]
            return 200, _json(self._message_batch(self._open("msgbatch", items), url))
        batch = self.batches.get(rest[0])
        if batch is None:
            return None
        if rest[1:] == ["results"]:
            return 200, b"\n".join(_json({"custom_id": own, "result": _result(got)}) for own, got in batch.answers)
        batch.cancelled |= rest[1:] == ["cancel"]
        self._look(batch)
        return 200, _json(self._message_batch(batch, url))

    def _serve_batches(self, asked: HttpRequest, rest: list[str]) -> tuple[int, bytes] | None:
        if not rest:
            file = asked.json().get("input_file_id", "")
            lines = [json.loads(line) for line in self.files.get(file, b"").splitlines()]
            items = [(str(one["custom_id"]), str(one["url"]), one["body"]) for one in lines]
            batch = self._open("batch", items)
            batch.file = file
            return 200, _json(self._file_batch(batch))
        found = self.batches.get(rest[0])
        if found is None:
            return None
        found.cancelled |= rest[1:] == ["cancel"]
        self._look(found)
        return 200, _json(self._file_batch(found))

    def _serve_files(self, asked: HttpRequest, rest: list[str]) -> tuple[int, bytes] | None:
        if not rest:
            name = f"file-{next(self._numbers):08d}"
            self.files[name] = _uploaded(asked)
            return 200, _json({"id": name, "object": "file", "purpose": "batch", "bytes": len(self.files[name])})
        if rest[0] not in self.files:
            return None
        if asked.method == "DELETE":
            del self.files[rest[0]]
            return 200, _json({"id": rest[0], "object": "file", "deleted": True})
        return 200, self.files[rest[0]]

    def _open(self, prefix: str, items: list[tuple[str, str, Mapping[str, Any]]]) -> Batch:
        batch = Batch(f"{prefix}_{len(self.batches) + 1:08d}", items, self._looks)
        self.batches[batch.id] = batch
        return batch

    def _look(self, batch: Batch) -> None:
        batch.looks -= 1
        if self._ended(batch) and not batch.answers:
            # In another order than asked: nobody promises one.
            answered = [(own, None if batch.cancelled else self._answer(path, body)) for own, path, body in batch.items]
            batch.answers = answered[::-1]

    def _ended(self, batch: Batch) -> bool:
        return batch.looks < 0 or batch.cancelled

    def _message_batch(self, batch: Batch, url: str) -> dict[str, Any]:
        ended = self._ended(batch)
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": {"processing": 0 if ended else len(batch.items), "succeeded": 0, "errored": 0}
            | {"canceled": 0, "expired": 0},
            "created_at": _TIME,
            "expires_at": _TIME,
            "ended_at": _TIME if ended else None,
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": f"{url}/v1/messages/batches/{batch.id}/results" if ended else None,
        }

    def _file_batch(self, batch: Batch) -> dict[str, Any]:
        ended = self._ended(batch)
        told: dict[str, Any] = {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.items[0][1] if batch.items else "",
            "input_file_id": batch.file,
            "completion_window": "24h",
            "created_at": 1_750_000_000,
            "status": "in_progress",
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
        }
        models = {str(body.get("model")) for _, _, body in batch.items}
        if len(models) != 1:
            reason = {"code": "mismatched_model", "message": "all requests of a batch must be to one model", "line": 1}
            return told | {"status": "failed", "errors": {"object": "list", "data": [reason]}}
        if not ended:
            return told
        for name, good in (("output_file_id", True), ("error_file_id", False)):
            lines = [_line(own, got) for own, got in batch.answers if (got is not None and got[0] == 200) is good]
            if lines:
                told[name] = f"{batch.id}-{name}"
                self.files.setdefault(told[name], b"\n".join(map(_json, lines)))
        return told | {"status": "cancelled" if batch.cancelled else "completed"}


def _result(got: Answered) -> dict[str, Any]:
    if got is None:
        return {"type": "expired"}
    status, body = got
    return {"type": "succeeded", "message": body} if status == 200 else {"type": "errored", "error": body}


def _line(own: str, got: Answered) -> dict[str, Any]:
    told: dict[str, Any] = {"id": f"batch_req_{own}", "custom_id": own, "response": None, "error": None}
    if got is None:
        return told | {"error": {"code": "batch_expired", "message": "This request could not be executed in time."}}
    return told | {"response": {"status_code": got[0], "request_id": f"req_{own}", "body": got[1]}}


def _uploaded(asked: HttpRequest) -> bytes:
    """Return the file in a form."""
    head = f"content-type: {asked.headers.get('content-type', '')}\r\n\r\n".encode()
    for part in BytesParser().parsebytes(head + asked.body).walk():
        if part.get_param("name", header="content-disposition") == "file":
            return bytes(part.get_payload(decode=True))
    return b""


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
