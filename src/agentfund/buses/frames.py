"""Frames: what is appended to a broker's log at once, as bytes.

A frame is a line of JSON and, below it, one line for the payload of each message. The first line says who wrote it, as
which of its frames and when, and has the parts:

- `["log", id]`: the log begins, and this is its name;
- `["put", head, ...]`: messages, all or nothing;
- `["take", group, stream, claim, lease, max_attempts, patience]`: a consumer asks for a message, and where there is none
  its claim is parked for so long (microseconds) and gets the next;
- `["settle", group, stream, offset, attempt, reason, last]`: a consumer answers for a message;
- `["leave", group, stream, claim, [offset, attempt, seen], ...]`: a consumer takes its claim back, and gives up what it
  holds; what it has not seen does not count as an attempt.

A frame that is too large for a broker goes in pieces, each a frame of its own, and counts when the last is there.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import from_json, to_json

from agentfund.buses import wire
from agentfund.clock import EPOCH
from agentfund.errors import BusError, SchemaTooNew

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from agentfund.buses.ordered import Frame
    from agentfund.messages import Message
    from agentfund.protocols import Clock

FORMAT = 1
"""What the parts mean. Whoever folds must fold alike, so each change of a meaning is a new format."""

LARGEST = 700_000
"""Bytes of what is appended at once: every broker takes a message of this size as it is installed."""

_MICROSECOND = timedelta(microseconds=1)


class Part(NamedTuple):
    """One part of a frame, ready to be written.

    Attributes:
        line: as it is written.
        payloads: of its messages, a line for each.
        opened: as it is read.
    """

    line: bytes
    payloads: Sequence[bytes]
    opened: list[Any]


class Opened(NamedTuple):
    """A frame as it was written.

    Attributes:
        place: where it lies.
        writer: who wrote it.
        number: which of the writer's frames it is, from 1.
        time: when, by the writer's clock, in microseconds since 1970.
        parts: what is in it; the messages of a `put` are whole rows here.
        piece: where it is a piece of a frame: which, of how many, and the bytes.
    """

    place: int
    writer: str
    number: int
    time: int
    parts: Sequence[list[Any]]
    piece: tuple[int, int, bytes] | None

    @property
    def name(self) -> str:
        """What no other frame of any log is called, but its own pieces."""
        return f"{self.writer} {self.number}"


def put(messages: Sequence[Message], clock: Clock, home: str) -> Part:
    """Return a part that appends messages; the clock counts where a message has no append time.

    Raises:
        BusError: a message cannot be written as it is.
    """
    lines = [b'["put"']
    payloads = []
    opened: list[Any] = ["put"]
    for m in messages:
        payload = wire.payload(m, home)
        try:
            time = micros(m.time)
            appended = time if m.appended is m.time else micros(m.appended or clock.now())
            head = (m.id, m.stream, m.key, m.type, m.version, m.cycle, m.cause, m.producer, time, appended)
            lines.append(to_json((*head, m.token)))
        except (TypeError, ValueError) as error:
            raise BusError(f"message {m.id!r} ({m.type}) cannot be written to {home}: {error}") from error
        payloads.append(payload.encode())
        opened.append((*head, payload, m.token))
    return Part(b",".join(lines) + b"]", payloads, opened)


def micros(moment: datetime) -> int:
    """Return an aware datetime in microseconds since 1970 (UTC): the shortest way, for what is known to be aware."""
    return (moment - EPOCH) // _MICROSECOND


def ask(*part: Any) -> Part:
    """Return any other part: its name, and what belongs to it."""
    return Part(to_json(part), (), list(part))


def seal(writer: str, number: int, time: int, parts: Sequence[Part]) -> bytes:
    """Return a frame as bytes."""
    lines = b",".join([part.line for part in parts])
    head = b'{"agentfund":%d,"frame":["%s",%d,%d],"parts":[%s]}' % (FORMAT, writer.encode(), number, time, lines)
    return b"\n".join([head, *(payload for part in parts for payload in part.payloads)])


def pieces(writer: str, number: int, time: int, data: bytes) -> list[bytes]:
    """Return a frame as what is appended for it: itself, or pieces where it is too large."""
    if len(data) <= LARGEST:
        return [data]
    count = -(-len(data) // LARGEST)
    head = b'{"agentfund":%d,"frame":["%s",%d,%d],"piece":[' % (FORMAT, writer.encode(), number, time)
    return [head + b"%d,%d]}\n" % (index, count) + data[index * LARGEST : (index + 1) * LARGEST] for index in range(count)]


def open_frame(frame: Frame, home: str) -> Opened:
    """Return what is in a frame.

    Raises:
        BusError: it is not agentfund's, or not as it was written; names the log and the place.
        SchemaTooNew: a newer agentfund wrote it.
    """
    try:
        line, _, rest = frame.data.partition(b"\n")
        head = from_json(line)
        if head["agentfund"] > FORMAT:
            raise SchemaTooNew(
                f"{home}: frame {frame.place} has format {head['agentfund']}, this agentfund reads {FORMAT}: upgrade agentfund"
            )
        writer, number, time = str(head["frame"][0]), *map(int, head["frame"][1:])
        if "piece" in head:
            index, count = map(int, head["piece"])
            return Opened(frame.place, writer, number, time, (), (index, count, rest))
        parts = head["parts"]
        if not parts:
            raise ValueError("it has no parts")
        payloads = iter(rest.decode("ascii").split("\n"))
        for part in parts:
            if part[0] == "put":
                part[1:] = [(*one[:10], next(payloads), one[10]) for one in part[1:]]
    except (ValueError, TypeError, LookupError, StopIteration, RuntimeError) as error:
        raise corrupt(home, frame.place, error) from error
    return Opened(frame.place, writer, number, time, parts, None)


def corrupt(home: str, place: int, error: Exception) -> BusError:
    """Return the error for a frame that cannot be understood."""
    return BusError(
        f"{home}: what lies at place {place} is no frame of agentfund or is damaged ({type(error).__name__}: {error}): "
        "choose another name for the log, or restore the log from a backup"
    )
