"""A run on a log: what it was and where its messages are. The messages stay in the log and are read as they are needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from agentfund.errors import BusError, ConfigError
from agentfund.messages import (
    Answered,
    Approved,
    Called,
    Decided,
    Ended,
    Filled,
    Intended,
    Led,
    Message,
    Observed,
    Opined,
    Stance,
    Started,
    stable_id,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping
    from datetime import datetime

TOLD = frozenset(
    kind.__name__ for kind in (Started, Observed, Filled, Called, Opined, Decided, Intended, Answered, Approved, Ended)
)
"""What a rerun writes too. Who led the fund, and how its routes to language models fared, is not in the fund's hands."""


class Log(Protocol):
    """Where messages are read from: any bus."""

    def read(self, stream: str | None = None, *, after: int = 0, since: datetime | None = None) -> AsyncIterator[Message]:
        """Give what is in the log, oldest first."""
        ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run on a log; `await Recorded.read(bus)` makes it.

    Args:
        log: where its messages are.
        started: all that its result depended on.
        begun: time of its first message.
        last: time of its newest message.
        messages: how many there are.
        cycles: number of the newest cycle.
        ended: whether it came to the end of its data.
        live: whether it ran by the machine's clock, or at a real broker: then times are not what a rerun gives again.
        moments: for a live run, when its cycles were, by number.
        left_out: messages that no rerun can write, by what they are.
        callers: agents that asked language models.
        through_outages: whether it went on where nobody answered an agent.
        numbered: whether the offsets of its messages are 1, 2, 3, ...: no other fund writes to its log.
    """

    log: Log
    started: Started
    begun: datetime
    last: datetime
    messages: int
    cycles: int
    ended: bool
    live: bool
    moments: Mapping[int, datetime]
    left_out: Mapping[str, int]
    callers: frozenset[str]
    through_outages: bool
    numbered: bool

    def __repr__(self) -> str:
        return (
            f"<Recorded {self.started.fund!r}: run {self.started.run[:12]}, {self.cycles:,} cycles, {self.messages:,} messages>"
        )

    @classmethod
    async def read(cls, log: Log | Sequence[Message], fund: str = "") -> Recorded:
        """Look through a log once, and return the run that is on it.

        Args:
            log: a bus of any kind, or messages in the order of their log.
            fund: name of the fund, where the log holds several.

        Raises:
            ConfigError: there is no run, or several and none was chosen.
            BusError: a message does not fit its type.
        """
        source: Log = _Listed(log) if isinstance(log, Sequence) else log
        heads: dict[str, _Head] = {}
        async for message in source.read(fund or None):
            if not fund or message.stream == fund:
                heads.setdefault(message.stream, _Head()).add(message)
        found = {name: head for name, head in heads.items() if head.started is not None}
        if not found:
            raise ConfigError(f"the log holds no run of {f'a fund {fund!r}' if fund else 'a fund'} yet")
        if len(found) > 1:
            raise ConfigError(f"the log holds several funds: choose one of {', '.join(map(repr, found))}")
        head = next(iter(found.values()))
        assert head.started is not None
        live = head.live or not head.started.broker.get("simulated", False)
        return cls(
            log=source,
            started=head.started,
            begun=head.begun,
            last=head.last,
            messages=head.count,
            cycles=head.cycles,
            ended=head.ended,
            live=live,
            moments=head.moments if live else {},
            left_out=dict(head.left_out),
            callers=frozenset(head.callers),
            through_outages=head.outages,
            numbered=head.numbered,
        )

    async def stream(self) -> AsyncGenerator[Message, None]:
        """Give the run's messages, oldest first, without those of a leader that had lost the lead.

        Raises:
            BusError: a message does not fit its type.
        """
        token = 0
        async for message in self.log.read(self.started.fund):
            event = checked(message).event
            if isinstance(event, Led):
                token = max(token, event.token)
            if not 0 < message.token < token or message.type == Called.__name__:
                yield message


class Claims:
    """Tells calls that led to an opinion from those that were lost: a killed run, or one that asked ahead of time, leaves some.

    The former have ids that follow from the run, as `Session` makes them.
    """

    def __init__(self) -> None:
        self._cycle = -1
        self._counts: Counter[str] = Counter()

    def holds(self, run: str, message: Message) -> bool:
        """Return whether a `Called` message belongs to an opinion; give them in the order of the log."""
        if message.cycle != self._cycle:
            self._cycle = message.cycle
            self._counts.clear()
        call = message.payload["call"]
        agent, digest = call["agent"], call["digest"]
        for number in (self._counts[agent] + 1, 1):  # 1 again: the cycle was entered once more after a crash
            if message.id == stable_id(run, message.cycle, message.type, (agent, digest, number)):
                self._counts[agent] = number
                return True
        return False


def checked(message: Message) -> Message:
    """Return a message whose event can be read.

    Raises:
        BusError: it does not fit its type.
    """
    try:
        _ = message.event
    except ValueError as error:
        first = str(error).partition("\n")[0]
        raise BusError(f"message {message.offset} is no {message.type} ({first}); restore the log from a backup") from None
    return message


@dataclass(slots=True)
class _Head:
    """What a look through one stream finds."""

    started: Started | None = None
    count: int = 0
    cycles: int = 0
    ended: bool = False
    live: bool = False
    outages: bool = False
    numbered: bool = True
    left_out: Counter[str] = field(default_factory=Counter)
    callers: set[str] = field(default_factory=set)
    moments: dict[int, datetime] = field(default_factory=dict)
    claims: Claims = field(default_factory=Claims)
    begun: datetime = field(init=False)
    last: datetime = field(init=False)
    _outcome: str = ""

    def add(self, message: Message) -> None:
        if not self.count:
            self.begun = message.time
        self.count += 1
        self.last = message.time
        self.cycles = max(self.cycles, message.cycle)
        self.numbered = self.numbered and message.offset == self.count
        self.live = self.live or (message.appended is not None and message.appended != message.time)
        kind = message.type
        if kind not in TOLD:
            self.left_out[kind] += 1
        elif kind == Started.__name__ and self.started is None:
            event = checked(message).event
            assert isinstance(event, Started)
            self.started = event
        elif kind == Called.__name__ and self.started is not None:
            self._called(self.started.run, checked(message))
        elif kind == Opined.__name__:
            opinion = message.payload["opinion"]
            unanswered = self._outcome not in ("", "ok", "InvalidOutput", "Refused", "BadRequest")
            self.outages = self.outages or (unanswered and opinion["stance"] == Stance.UNAVAILABLE)
            self._outcome = ""
        elif kind == Observed.__name__:
            self.moments.setdefault(message.cycle, message.time)
        elif kind == Ended.__name__:
            self.ended = True

    def _called(self, run: str, message: Message) -> None:
        call = message.payload["call"]
        self.callers.add(call["agent"])
        if self.claims.holds(run, message):
            self._outcome = call["outcome"]
        else:
            self.left_out["calls that led to no opinion"] += 1


class _Listed:
    """Messages that are here already."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = tuple(messages)

    async def read(
        self, stream: str | None = None, *, after: int = 0, since: datetime | None = None
    ) -> AsyncGenerator[Message, None]:
        for message in self._messages:
            late = since is None or message.time >= since
            if late and (stream is None or message.stream == stream) and (message.offset > after or not message.offset):
                yield message
