"""The envelope on the bus, and the events that a fund writes in it.

State is a fold over these events: whoever has the log has the fund.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal, get_args

from pydantic import TypeAdapter

from agentfund.clock import utc
from agentfund.errors import SchemaTooNew
from agentfund.prompt import Usage
from agentfund.trading import Decision, Fill, Order, OrderStatus

VERSION = 1


class Stance(StrEnum):
    """What kind of opinion it is."""

    VALUE = "value"
    ABSTAINS = "abstains"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Clamp:
    """A number that an agent gave and that was moved to its bound."""

    field: str
    given: float
    kept: float


@dataclass(frozen=True, slots=True)
class Opinion:
    """An agent's typed output, or its abstention, or the fact that it could not answer.

    Args:
        agent: who gives it.
        output: name of the output type.
        stance: value, abstains or unavailable; unavailable never moves the book.
        value: the output; None unless the stance is value.
        reason: why it abstains or is unavailable.
        clamps: numbers that were moved to their bounds.
        answered_by: `function`, `rules`, or the route that answered.
        degraded: a rule answered because no language model could: no new positions on it.
    """

    agent: str
    output: str
    stance: Stance
    value: Any = None
    reason: str = ""
    clamps: tuple[Clamp, ...] = ()
    answered_by: str = "function"
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One row of the ledger: one attempt to get an answer, also a refused, failed or repaired one.

    Args:
        agent: who asked.
        route: which way; the router's own name where it refused before choosing one.
        llm: name of the language model.
        outcome: `ok`, or the name of the error.
        usage: tokens.
        billed_usd: what is owed.
        notional_usd: list price; None where it is not known.
        latency_s: seconds.
        digest: hash of the prompt.
        repair: whether this attempt showed the language model its own mistake.
        request_id: the provider's id.
    """

    agent: str
    route: str
    llm: str
    outcome: str
    usage: Usage = Usage()
    billed_usd: Decimal = Decimal(0)
    notional_usd: Decimal | None = None
    latency_s: float = 0.0
    digest: str = ""
    repair: bool = False
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """A run begins: all that its result depends on.

    `digest` is a hash of it. `run` names the run: the digest where everything is simulated, so that the same run has the
    same name; with the time of the start in it where a real broker must never see an order id twice.
    """

    run: str
    fund: str
    mode: str
    agents: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, Any]
    feed: Mapping[str, Any]
    broker: Mapping[str, Any]
    cash: Decimal
    version: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the fund saw at the start of a cycle: the market, and the marks that follow from it."""

    prices: Mapping[str, Decimal]
    equity: Decimal
    peak_equity: Decimal
    day_equity: Decimal


@dataclass(frozen=True, slots=True)
class Filled:
    """An order, or a leg of it, traded."""

    fill: Fill


@dataclass(frozen=True, slots=True)
class Called:
    """A language model was asked, or would have been."""

    call: Call


@dataclass(frozen=True, slots=True)
class Opined:
    """An agent gave its opinion."""

    opinion: Opinion


@dataclass(frozen=True, slots=True)
class Decided:
    """A cycle in which something was proposed ended with this."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class Intended:
    """An order is about to leave: durable before any byte of it goes to the broker."""

    order: Order


@dataclass(frozen=True, slots=True)
class Answered:
    """The broker's word on an order, or our own that its fate is unknown."""

    order_id: str
    status: OrderStatus
    reason: str = ""
    filled: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Approved:
    """A person's word on an exact order, named by its hash."""

    order_hash: str
    approved: bool
    by: str
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Busted:
    """The broker took a fill back: it never was.

    Args:
        fill_id: its execution id.
        reason: why, where that is known.
        fill: the fill, where so many came after it that a fund's state knows it only as part of its book.
    """

    fill_id: str
    reason: str = ""
    fill: Fill | None = None


@dataclass(frozen=True, slots=True)
class Levelled:
    """What the fund may do has changed, by the word of its watchdog or of an operator."""

    level: int
    lease: bool
    reason: str = ""
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """Log and broker were compared, and the result is another than before; `wrong` is empty where they agree."""

    wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Adopted:
    """A person took over what the broker holds, in place of what the log held: a deposit, or what somebody did by hand.

    Args:
        cash: the broker's cash.
        positions: signed quantities by symbol.
        by: who said so.
        reason: why.
    """

    cash: Decimal
    positions: Mapping[str, Decimal]
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Promoted:
    """A person changed how much the fund may do by itself.

    Args:
        mode: what it may do from now on.
        before: what it was allowed before.
        by: who said so.
        reason: why.
    """

    mode: str
    before: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Tripped:
    """A route's breaker changed its state; `retry_after` is in seconds, below zero where an operator has to enable it."""

    route: str
    state: str
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A run came to the end of its data."""

    bars: int
    cycles: int
    prices: Mapping[str, Decimal]
    equity: Decimal


@dataclass(frozen=True, slots=True)
class Led:
    """A process leads the fund, leads it on, or gives it up.

    Whoever's claim of a token comes first in the log has it; what is written with a smaller token after that does not count.

    Args:
        holder: names the process.
        token: the fencing token, one above the last leader's.
        until: when the lease ends unless it is renewed, aware UTC, by the holder's clock.
    """

    holder: str
    token: int
    until: datetime


Event = (
    Started
    | Observed
    | Filled
    | Busted
    | Called
    | Opined
    | Decided
    | Intended
    | Answered
    | Approved
    | Levelled
    | Reconciled
    | Adopted
    | Promoted
    | Tripped
    | Ended
    | Led
)
EVENTS: dict[str, type[Any]] = {event.__name__: event for event in get_args(Event)}


_adapters: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


@dataclass(frozen=True, slots=True)
class Message:
    """The envelope: the same for every bus, and for messages that are not agentfund's own.

    Args:
        id: the same message published twice has the same id and is kept once.
        stream: the fund, or another log of one's own.
        key: partition key; order is kept within a key.
        type: name of what is inside.
        payload: what is inside, JSON values.
        producer: who wrote it.
        time: when it happened (event time), aware UTC.
        cycle: number of the cycle it belongs to.
        cause: id of the message that led to it.
        version: schema version of the payload.
        appended: when the writer appended it, by the writer's clock, aware UTC; the bus fills it in where it is None.
        offset: place in the log, from 1; given by the bus.
        token: fencing token of the leader that wrote it, which only grows; 0 where nobody leads.
    """

    id: str
    stream: str
    key: str
    type: str
    payload: Mapping[str, Any]
    producer: str
    time: datetime
    cycle: int = 0
    cause: str = ""
    version: int = VERSION
    appended: datetime | None = None
    offset: int = 0
    token: int = 0
    _event: Any = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, event: Event, *, id: str, stream: str, producer: str, time: datetime, **more: Any) -> Message:
        """Put one of agentfund's own events into an envelope."""
        payload = _adapter(type(event)).dump_python(event, mode="json")
        more.setdefault("key", stream)
        return cls(
            id=id, stream=stream, type=type(event).__name__, payload=payload, producer=producer, time=time, _event=event, **more
        )

    @classmethod
    def new(cls, type: str, payload: Mapping[str, Any], *, stream: str, producer: str, time: datetime, **more: Any) -> Message:
        """Make a message of one's own with a fresh random id."""
        more.setdefault("key", stream)
        return cls(id=uuid.uuid4().hex, stream=stream, type=type, payload=payload, producer=producer, time=utc(time), **more)

    @property
    def event(self) -> Event | None:
        """The event inside, None where the message is not one of agentfund's own.

        Raises:
            SchemaTooNew: a newer agentfund wrote it.
        """
        if self._event is not None:
            return self._event  # type: ignore[no-any-return]
        kind = EVENTS.get(self.type)
        if kind is None:
            return None
        if self.version > VERSION:
            raise SchemaTooNew(
                f"{self.type} has schema version {self.version}, this agentfund reads {VERSION}: upgrade agentfund"
            )
        event = _adapter(kind).validate_python(self.payload)
        object.__setattr__(self, "_event", event)
        return event  # type: ignore[no-any-return]

    def at(self, offset: int, appended: datetime | None = None) -> Message:
        """Return the message as it lies in the log."""
        return replace(self, offset=offset, appended=self.appended or appended)

    def line(self) -> str:
        """Return the message as one line of canonical JSON: equal messages give equal bytes."""
        return json.dumps(
            {
                "offset": self.offset,
                "id": self.id,
                "stream": self.stream,
                "key": self.key,
                "type": self.type,
                "version": self.version,
                "cycle": self.cycle,
                "cause": self.cause,
                "token": self.token,
                "producer": self.producer,
                "time": self.time.isoformat(),
                "appended": self.appended.isoformat() if self.appended else None,
                "payload": self.payload,
            },
            separators=(",", ":"),
            sort_keys=True,
            ensure_ascii=False,
        )


def stable_id(*parts: object) -> str:
    """Return 32 hexadecimal digits that depend on the parts alone: made again, it is the same id."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).hexdigest()


Durability = Literal["none", "process", "power"]
