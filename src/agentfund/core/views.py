"""Views of a log: a fold with a name, and snapshots of it on the same bus, so that nobody has to read the whole log.

A snapshot is a shortcut and never a source: it says up to which message it was folded, and without it the same value comes out
of the log itself. Snapshots are taken as the log grows by a quarter, so all of them together stay a small multiple of the last,
and whoever starts reads a fifth of the log at most.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from agentfund.clock import SystemClock
from agentfund.messages import Led, Message, stable_id

if TYPE_CHECKING:
    from datetime import datetime

    from agentfund.protocols import Bus, Clock

Value = TypeVar("Value")
_log = logging.getLogger("agentfund")

SNAPSHOT = "Snapshot"
LEAST = 1_000
"""Messages that a log grows at least from snapshot to snapshot."""
GROWTH = 0.25
"""The part of its length that it grows at least."""


class View(Protocol[Value]):
    """A fold over a fund's messages. Values are never changed in place once they were handed out."""

    @property
    def name(self) -> str:
        """Names its snapshots."""
        ...

    @property
    def version(self) -> int:
        """Another one than a snapshot's: that snapshot is not used."""
        ...

    def start(self) -> Value:
        """Return the value before the first message."""
        ...

    def apply(self, value: Value, message: Message) -> Value:
        """Return the value after one more message."""
        ...

    def dump(self, value: Value) -> Mapping[str, Any]:
        """Return a value as JSON values."""
        ...

    def load(self, told: Mapping[str, Any]) -> Value:
        """Return the value that `dump` told; ValueError, KeyError or TypeError where it is none."""
        ...


class Seen(Generic[Value]):
    """A value of a view, and how far in the log it goes.

    Attributes:
        value: the value.
        offset: place of the newest message in it, of all streams that lie before it.
        cycle: the newest cycle in it.
        time: the newest event time in it, None before the first message.
        read: messages that were read to get there, beyond a snapshot.
        snapshot: place up to which that snapshot went, 0 where there was none.
    """

    __slots__ = ("cycle", "offset", "read", "snapshot", "time", "value")

    def __init__(self, value: Value, offset: int = 0, cycle: int = 0, time: datetime | None = None) -> None:
        self.value = value
        self.offset = offset
        self.cycle = cycle
        self.time = time
        self.read = 0
        self.snapshot = offset

    def add(self, view: View[Value], message: Message) -> None:
        """Fold one more message."""
        self.value = view.apply(self.value, message)
        self.offset = message.offset
        self.read += 1
        if message.type != Led.__name__:  # its time is a leader's clock, not the market's
            self.cycle = max(self.cycle, message.cycle)
            self.time = message.time if self.time is None else max(self.time, message.time)


def stream(fund: str, view: str) -> str:
    """Return the stream of a view's snapshots."""
    return f"{fund}/snapshots/{view}"


async def see(bus: Bus, fund: str, view: View[Value], *, cycle: int | None = None, time: datetime | None = None) -> Seen[Value]:
    """Return a view of a fund now, or as it was at the end of a cycle or at a moment; from the nearest snapshot on.

    Args:
        bus: the log.
        fund: the fund's name.
        view: what to fold.
        cycle: the last cycle that counts.
        time: the last event time that counts, aware.

    Raises:
        BusUnavailable: the log cannot be read now.
        SchemaTooNew: a newer agentfund wrote it.
    """

    def beyond(its_cycle: int, its_time: datetime | None) -> bool:
        late = time is not None and its_time is not None and its_time > time
        return late or (cycle is not None and its_cycle > cycle)

    found = Seen(view.start())
    if cycle is None and time is None:
        message = await bus.last(stream(fund, view.name))
        if message is not None:
            found = _loaded(view, message) or found
    else:
        async for message in bus.read(stream(fund, view.name)):
            if (one := _loaded(view, message)) is not None and not beyond(one.cycle, one.time):
                found = one
    async for message in bus.read(fund, after=found.offset):
        if message.type != Led.__name__ and beyond(message.cycle, message.time):
            break
        found.add(view, message)
    return found


async def refresh(bus: Bus, fund: str, view: View[Value], *, clock: Clock | None = None) -> Seen[Value]:
    """Bring a view up to date and leave a snapshot of it where the log has grown enough; return it.

    Raises:
        BusUnavailable: the log cannot be read or written now.
    """
    found = await see(bus, fund, view)
    if due(found.offset, found.snapshot):
        now = (clock or SystemClock()).now()
        inside = {
            "view": view.version,
            "offset": found.offset,
            "cycle": found.cycle,
            "time": None if found.time is None else found.time.isoformat(),
            "value": view.dump(found.value),
        }
        name = stable_id(fund, view.name, view.version, found.offset, "snapshot")
        message = Message(
            id=name,
            stream=stream(fund, view.name),
            key=fund,
            type=SNAPSHOT,
            payload=inside,
            producer="orchestrator",
            time=found.time or now,
            cycle=found.cycle,
            appended=now,
        )
        await bus.publish([message], sync=False)
    return found


def due(offset: int, last: int) -> bool:
    """Return whether a log of this length wants a snapshot, the last of which went up to `last`."""
    return offset - last >= max(LEAST, GROWTH * last)


def _loaded(view: View[Value], message: Message) -> Seen[Value] | None:
    from datetime import datetime

    told = message.payload
    if message.type != SNAPSHOT or told.get("view") != view.version:
        return None
    try:
        time = None if told["time"] is None else datetime.fromisoformat(told["time"])
        return Seen(view.load(told["value"]), int(told["offset"]), int(told["cycle"]), time)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError) as error:
        _log.warning("a snapshot of %s is passed over: %s: %s", message.stream, type(error).__name__, error)
        return None
