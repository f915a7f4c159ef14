"""The journal: the log told in plain English, every decision with who said what; ready for a post-mortem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

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
    Opined,
    Opinion,
    Stance,
    Started,
    Tripped,
)
from agentfund.trading import Decision, Fill, Order

WORDS = {
    "ordered": "ordered",
    "advised": "advised only",
    "vetoed": "vetoed",
    "denied": "denied by the gate",
    "declined": "declined by a person",
    "held": "nothing done",
}


def journal(messages: Iterable[Message]) -> str:
    """Return the journal of a log as markdown; messages in log order."""
    return "\n".join(lines(messages)) + "\n"


def lines(messages: Iterable[Message]) -> Iterator[str]:
    """Give the journal line by line, so that a log of any length can be told."""
    teller = Teller()
    for message in messages:
        yield from teller.tell(message)


class Teller:
    """Tells a log message by message; what it has to remember is of the newest cycle alone.

    Attributes:
        cycle: the newest cycle.
        opinions: its opinions so far, told with its decision.
        decided: whether it has one.
        spent: what its language models billed, USD.
        token: the newest leader's.
    """

    def __init__(self) -> None:
        self.cycle = -1
        self.opinions: list[Opinion] = []
        self.decided = False
        self.spent = Decimal(0)
        self.token = 0

    def tell(self, message: Message) -> Iterator[str]:
        """Give the lines that a message adds."""
        if message.type == Led.__name__:
            self.token = max(self.token, message.token)
            return
        if 0 < message.token < self.token and message.type != Called.__name__:
            return  # of a leader of the past: it did not count
        if message.cycle != self.cycle:
            self.cycle, self.opinions, self.decided, self.spent = message.cycle, [], False, Decimal(0)
        match message.event:
            case Started() as event:
                yield from _opening(event, message.time)
            case Filled(fill):
                yield ""
                yield f"*{_when(fill.time)}: {_filled(fill)}.*"
            case Called(call):
                self.spent += call.billed_usd
            case Opined(opinion) if self.decided:
                yield from _said(opinion)
            case Opined(opinion):
                self.opinions.append(opinion)
            case Decided(decision):
                self.decided = True
                yield from _decision(decision, self.opinions, self.spent)
            case Intended(order):
                yield f"- Order `{order.id[:12]}`: {_order(order)}."
            case Answered(order_id, status, reason) if status not in ("working", "filled"):
                yield f"- Order `{order_id[:12]}` is {status}" + (f": {reason}." if reason else ".")
            case Approved(_, approved, by, evidence):
                yield ""
                yield f"*{by} {'approved' if approved else 'did not approve'} an order{': ' + evidence if evidence else ''}.*"
            case Tripped(route, state, retry_after):
                yield ""
                yield f"*{_when(message.time)}: the route {route} {_tripped(state, retry_after)}.*"
            case Ended() as event:
                yield ""
                yield f"The data ended after {event.bars:,} bars. Equity: {event.equity:,.2f}."
            case _:
                pass


def _when(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _tripped(state: str, retry_after: float) -> str:
    if state == "open":
        return f"rests for {retry_after:.0f} seconds" if retry_after >= 0 else "is switched off until an operator enables it"
    return "is tried once" if state == "half_open" else "answers again"


def _opening(event: Started, time: datetime) -> Iterator[str]:
    yield f"# Journal of {event.fund}"
    yield ""
    source = event.feed.get("source") or event.feed.get("class")
    yield f"Run `{event.run[:12]}`, {event.mode}, {event.cash:,.2f} in cash, on {source}."
    yield ""
    for agent in event.agents:
        yield f"- **{agent['name']}** gives {agent['output']}, answered by {agent['answers_by']}"


def _decision(decision: Decision, opinions: list[Opinion], spent: Decimal) -> Iterator[str]:
    wanted = f"{decision.symbol} {decision.direction}" if decision.direction else decision.symbol
    price = f" at {decision.price:g}" if decision.price is not None else ""
    yield ""
    yield f"## {_when(decision.time)} · {wanted}{price}: {WORDS[decision.outcome]}"
    yield ""
    code = f" (`{decision.code}`)" if decision.code else ""
    yield f"Decided by **{decision.decided_by}**{code}: {_sentence(decision.reason)}"
    yield ""
    for opinion in opinions:
        yield from _said(opinion)
    if spent:
        yield f"- Language models billed {spent:f} USD."


def _said(opinion: Opinion) -> Iterator[str]:
    by = "" if opinion.answered_by == "function" else f" ({opinion.answered_by}{', degraded' if opinion.degraded else ''})"
    if opinion.stance is not Stance.VALUE:
        word = "abstains" if opinion.stance is Stance.ABSTAINS else "**is unavailable**"
        yield f"- **{opinion.agent}**{by} {word}: {_sentence(opinion.reason)}"
        return
    yield f"- **{opinion.agent}**{by}: {_sentence(_value(opinion.value))}"
    for clamp in opinion.clamps:
        yield f"  - {clamp.field} was moved from {clamp.given:g} to its bound {clamp.kept:g}"


def _value(value: Any) -> str:
    told = value.model_dump(mode="json") if hasattr(value, "model_dump") else dict(value)
    if "approved" in told:
        return ("approves" if told["approved"] else "**vetoes**") + (f", {told['reason']}" if told["reason"] else "")
    if set(told) == {"text"}:
        return str(told["text"])
    return ", ".join(f"{name} {part}" for name, part in told.items() if part not in ("", None, []))


def _order(order: Order) -> str:
    words = f"{order.side} {order.quantity.normalize():f} {order.symbol}"
    if order.reduce_only:
        return words + " to close"
    legs = [
        f"{name} {price}" for name, price in (("stop", order.stop_loss), ("target", order.take_profit)) if price is not None
    ]
    return ", ".join([words, *legs])


def _filled(fill: Fill) -> str:
    leg = {"order": "", "stop": " by the stop", "target": " by the target"}[fill.leg]
    did = "bought" if fill.side.sign > 0 else "sold"
    return f"{did} {fill.quantity.normalize():f} {fill.symbol} at {fill.price}{leg}; it cost {fill.cost:.2f}"


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else text + "."
