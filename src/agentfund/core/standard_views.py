"""The views that every fund has: its state, what language models cost, and the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from agentfund.core.codec import dump_opinion, dump_state, load_opinion, load_state
from agentfund.core.context import State, typed_message
from agentfund.core.journal import Teller
from agentfund.core.ledger import EXACT, ZERO, By, Total
from agentfund.messages import Called, Message
from agentfund.prompt import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel

_EMPTY = Total(0, 0, Usage(), ZERO, ZERO, 0, 0.0)
_KEYS: tuple[By, ...] = ("agent", "route", "llm", "day", "outcome")


class StateView:
    """The fund: portfolio, orders, opinions, the newest decision; the shared context as the log tells it.

    Args:
        outputs: output types by name, so that opinions are typed again.
    """

    name = "state"
    version = 3

    def __init__(self, outputs: Mapping[str, type[BaseModel]] | None = None) -> None:
        self._outputs = dict(outputs or {})

    def start(self) -> State:
        """Return the state before the first message."""
        return State()

    def apply(self, value: State, message: Message) -> State:
        """Return the state after a message."""
        return value.apply(typed_message(message, self._outputs))

    def dump(self, value: State) -> Mapping[str, Any]:
        """Return a state as JSON values."""
        return dump_state(value)

    def load(self, told: Mapping[str, Any]) -> State:
        """Return the state that `dump` told."""
        return load_state(told, self._outputs)


Totals = Mapping[tuple[str, ...], Total]
"""Sums of calls by agent, route, language model, UTC day and outcome."""


class LedgerView:
    """What asking language models took, as sums; the rows themselves are the log's `Called` events."""

    name = "ledger"
    version = 1

    def start(self) -> Totals:
        """Return no sums."""
        return {}

    def apply(self, value: Totals, message: Message) -> Totals:
        """Return the sums after a message."""
        if message.type != Called.__name__ or not isinstance(event := message.event, Called):
            return value
        call = event.call
        key = (call.agent, call.route, call.llm, message.time.astimezone(UTC).date().isoformat(), call.outcome)
        known = call.notional_usd
        one = Total(
            1, int(call.outcome == "ok"), call.usage, call.billed_usd, known or ZERO, int(known is None), call.latency_s
        )
        return {**value, key: _sum((value.get(key, _EMPTY), one))}

    def dump(self, value: Totals) -> Mapping[str, Any]:
        """Return sums as JSON values."""
        rows = []
        for key, total in value.items():
            usage = {name: getattr(total.usage, name) for name in type(total.usage).__dataclass_fields__}
            plain = [total.calls, total.ok, str(total.billed_usd), str(total.notional_usd), total.unpriced, total.latency_s]
            rows.append([list(key), usage, plain])
        return {"rows": rows}

    def load(self, told: Mapping[str, Any]) -> Totals:
        """Return the sums that `dump` told."""
        found = {}
        for key, usage, (calls, ok, billed, notional, unpriced, latency) in told["rows"]:
            total = Total(calls, ok, Usage(**usage), Decimal(billed), Decimal(notional), unpriced, latency)
            found[tuple(key)] = total
        return found


def totals_by(totals: Totals, what: By) -> dict[str, Total]:
    """Return sums by one of agent, route, llm, day and outcome, in the order of the alphabet."""
    at = _KEYS.index(what)
    names = sorted({key[at] for key in totals})
    return {name: _sum(total for key, total in totals.items() if key[at] == name) for name in names}


def _sum(totals: Iterable[Total]) -> Total:
    whole = _EMPTY
    for one in totals:
        whole = replace(
            one,
            calls=whole.calls + one.calls,
            ok=whole.ok + one.ok,
            usage=whole.usage + one.usage,
            billed_usd=EXACT.add(whole.billed_usd, one.billed_usd),
            notional_usd=EXACT.add(whole.notional_usd, one.notional_usd),
            unpriced=whole.unpriced + one.unpriced,
            latency_s=whole.latency_s + one.latency_s,
        )
    return whole


class Story:
    """A journal that grows.

    Attributes:
        lines: what was told so far.
        teller: what it has to remember.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.teller = Teller()


class JournalView:
    """The journal in plain English; the value is one object that grows."""

    name = "journal"
    version = 1

    def start(self) -> Story:
        """Return an empty journal."""
        return Story()

    def apply(self, value: Story, message: Message) -> Story:
        """Tell one message more."""
        value.lines += value.teller.tell(message)
        return value

    def dump(self, value: Story) -> Mapping[str, Any]:
        """Return a journal as JSON values."""
        t = value.teller
        opinions = [dump_opinion(one) for one in t.opinions]
        told = {"cycle": t.cycle, "opinions": opinions, "decided": t.decided, "spent": str(t.spent), "token": t.token}
        return {"lines": value.lines, **told}

    def load(self, told: Mapping[str, Any]) -> Story:
        """Return the journal that `dump` told."""
        story = Story()
        story.lines, t = list(told["lines"]), story.teller
        t.cycle, t.decided, t.spent, t.token = told["cycle"], told["decided"], Decimal(told["spent"]), told["token"]
        t.opinions = [load_opinion(one, {}) for one in told["opinions"]]
        return story
