"""Messages as bytes, for logs that keep bytes: one line of canonical JSON, times in microseconds since 1970 (UTC)."""

from __future__ import annotations

import json
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from agentfund.clock import from_micros, to_micros
from agentfund.errors import BusError
from agentfund.messages import Message

if TYPE_CHECKING:
    from datetime import datetime

# ASCII, because a lone surrogate, which an LLM may write, is no UTF-8.
_encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode
moment = lru_cache(maxsize=256)(from_micros)  # messages of a cycle share their times


def payload(message: Message, home: str) -> str:
    """Return what is inside a message as JSON; whatever else could not be written is found too, before it fails others.

    Raises:
        BusError: the message cannot be written as it is; says which and why. `home` names the log.
    """
    m = message
    try:
        "".join((m.id, m.stream, m.key, m.type, m.cause, m.producer)).encode()
        struct.pack("qqq", m.version, m.cycle, m.token)
        to_micros(m.time)
        if m.appended is not None:
            to_micros(m.appended)
        return _encode(m.payload if type(m.payload) is dict else dict(m.payload))
    except (TypeError, ValueError, RecursionError, struct.error) as error:
        raise BusError(
            f"message {m.id!r} ({m.type}) cannot be written to {home}: {error}; "
            "a payload is made of JSON values, names are text, numbers fit 64 bits, times are aware"
        ) from error


def value(text: str | bytes, offset: int, home: str) -> Any:
    """Return a payload from its JSON.

    Raises:
        BusError: it is no JSON; names the log and the message.
    """
    try:
        return from_json(text)
    except ValueError:  # it knows no lone surrogates
        try:
            return json.loads(text)
        except ValueError as error:
            raise BusError(f"{home}: the payload of message {offset} is no JSON: restore it from a backup") from error


def dump(message: Message, appended: datetime, home: str) -> bytes:
    """Return a message as bytes, without its offset; `appended` counts where the message has no append time.

    Raises:
        BusError: the message cannot be written as it is.
    """
    m = message
    inside = payload(m, home)
    head = [m.id, m.stream, m.key, m.type, m.version, m.cycle, m.cause, m.producer, to_micros(m.time)]
    head += [to_micros(m.appended or appended), m.token]
    return f"{_encode(head)[:-1]},{inside}]".encode()


def load(data: bytes, offset: int, home: str) -> Message:
    """Return the message that `dump` wrote.

    Raises:
        BusError: it is not what `dump` writes.
    """
    parts = value(data, offset, home)
    try:
        name, stream, key, kind, version, cycle, cause, producer, time, appended, token, inside = parts
    except (TypeError, ValueError) as error:
        raise BusError(f"{home}: message {offset} was not written by agentfund: choose another name for the log") from error
    return Message(
        name, stream, key, kind, inside, producer, moment(time), cycle, cause, version, moment(appended), offset, token
    )
