"""The cost ledger: a row for every attempt to get an answer, and sums over the rows that a log holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from agentfund.messages import Call, Called, Message
from agentfund.prompt import Usage
from agentfund.spending import EXACT as EXACT
from agentfund.spending import ZERO as ZERO

calls: ContextVar[list[Call] | None] = ContextVar("calls", default=None)
"""Where the rows of the running task go; None where nobody collects them."""


class Rows(list[Call]):
    """Rows of one question.

    What comes after `end` goes to whoever collected outside: a call that nobody waits for any more was paid for all the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self._outside = calls.get()
        self._ended = False

    def end(self) -> tuple[Call, ...]:
        """Return the rows; later ones go outside."""
        self._ended = True
        return tuple(self)

    def append(self, call: Call) -> None:
        """Add a row."""
        if not self._ended:
            super().append(call)
        elif self._outside is not None:
            self._outside.append(call)


def record(call: Call) -> None:
    """Add a row for whoever collects; call it in a `finally`, so that no attempt is lost."""
    rows = calls.get()
    if rows is not None:
        rows.append(call)


@contextmanager
def collecting() -> Iterator[list[Call]]:
    """Collect the rows of every attempt made inside, also by tasks that start inside."""
    rows: list[Call] = []
    before = calls.set(rows)
    try:
        yield rows
    finally:
        calls.reset(before)


def add(amounts: Iterable[Decimal]) -> Decimal:
    """Add amounts of money without rounding."""
    total = ZERO
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total


@dataclass(frozen=True, slots=True)
class Row:
    """A call, when it was made (aware UTC), and in which cycle."""

    call: Call
    time: datetime
    cycle: int = 0


@dataclass(frozen=True, slots=True)
class Total:
    """What a number of calls took.

    Args:
        calls: attempts, failed and refused ones included.
        ok: attempts that gave an answer.
        usage: tokens.
        billed_usd: what is owed.
        notional_usd: what the calls with a known list price would have cost at that price.
        unpriced: calls whose list price is not known, and which `notional_usd` leaves out.
        latency_s: seconds spent waiting, all calls together.
    """

    calls: int
    ok: int
    usage: Usage
    billed_usd: Decimal
    notional_usd: Decimal
    unpriced: int
    latency_s: float


By = Literal["agent", "route", "llm", "day", "outcome"]

_KEYS: dict[str, Callable[[Row], str]] = {
    "agent": lambda row: row.call.agent,
    "route": lambda row: row.call.route,
    "llm": lambda row: row.call.llm,
    "day": lambda row: row.time.astimezone(UTC).date().isoformat(),
    "outcome": lambda row: row.call.outcome,
}


class Ledger:
    """Every call of a fund, as its log tells it.

    Args:
        rows: the calls, oldest first.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows = tuple(rows)

    @classmethod
    def of(cls, messages: Iterable[Message]) -> Ledger:
        """Read the ledger out of a log: the fold over its `Called` events; other messages are passed over."""
        return cls(
            Row(event.call, message.time, message.cycle)
            for message in messages
            if message.type == Called.__name__ and isinstance(event := message.event, Called)
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<Ledger: {len(self)} calls, {_money(self.billed_usd)} USD billed>"

    @property
    def billed_usd(self) -> Decimal:
        """What is owed for all calls, exactly."""
        return add(row.call.billed_usd for row in self.rows)

    @property
    def notional_usd(self) -> Decimal:
        """What the calls with a known list price would have cost at that price, exactly."""
        return add(row.call.notional_usd for row in self.rows if row.call.notional_usd is not None)

    @property
    def total(self) -> Total:
        """All calls together."""
        return _total(self.rows)

    def by(self, what: By) -> dict[str, Total]:
        """Sum by agent, route, language model, UTC day or outcome, in the order of the alphabet."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(_KEYS[what](row), []).append(row)
        return {key: _total(groups[key]) for key in sorted(groups)}

    def as_rows(self) -> list[dict[str, Any]]:
        """Return the calls as flat dictionaries: one per call, for a data frame or a CSV file."""
        return [
            {
                "time": row.time,
                "cycle": row.cycle,
                "agent": row.call.agent,
                "route": row.call.route,
                "llm": row.call.llm,
                "outcome": row.call.outcome,
                "repair": row.call.repair,
                "input_tokens": row.call.usage.input_tokens,
                "cached_tokens": row.call.usage.cached_tokens,
                "cache_write_tokens": row.call.usage.cache_write_tokens,
                "output_tokens": row.call.usage.output_tokens,
                "billed_usd": row.call.billed_usd,
                "notional_usd": row.call.notional_usd,
                "latency_s": row.call.latency_s,
                "digest": row.call.digest,
                "request_id": row.call.request_id,
            }
            for row in self.rows
        ]

    def as_text(self, *by: By) -> str:
        """Return the sums as a table for people; amounts are in USD, shown to a hundredth of a cent.

        Args:
            *by: what to sum by, a section for each; agent, route and day by default.
        """
        if not self.rows:
            return "no language model was asked"
        told: list[tuple[str, ...] | None] = []
        for what in by or ("agent", "route", "day"):
            told += [(), (what, *_HEAD), None, *(_line(key, total) for key, total in self.by(what).items())]
        return "\n".join([*laid_out([*told[1:], None, _line("total", self.total)]), *_notes(self.total)])


def laid_out(lines: Sequence[tuple[str, ...] | None], left: int = 1) -> list[str]:
    """Return rows of cells as lines of a table: an empty row is an empty line, None a rule.

    Args:
        lines: the rows, all of the same number of cells.
        left: so many columns, from the first on, are flush left; they hold words, the others numbers.
    """
    rows = [line for line in lines if line]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    told = []
    for line in lines:
        cells = [
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line or (), widths, strict=False))
        ]
        told.append("-" * (sum(widths) + 2 * len(widths) - 2) if line is None else "  ".join(cells).rstrip())
    return told


def _total(rows: Iterable[Row]) -> Total:
    made = [row.call for row in rows]
    return Total(
        calls=len(made),
        ok=sum(call.outcome == "ok" for call in made),
        usage=sum((call.usage for call in made), Usage()),
        billed_usd=add(call.billed_usd for call in made),
        notional_usd=add(call.notional_usd for call in made if call.notional_usd is not None),
        unpriced=sum(call.notional_usd is None for call in made),
        latency_s=sum(call.latency_s for call in made),
    )


_HEAD = ("calls", "ok", "tokens in", "cached", "stored", "tokens out", "billed", "list price", "mean s")


def _line(key: str, total: Total) -> tuple[str, ...]:
    return (
        key,
        f"{total.calls:,}",
        f"{total.ok:,}",
        f"{total.usage.input_tokens:,}",
        f"{total.usage.cached_tokens:,}",
        f"{total.usage.cache_write_tokens:,}",
        f"{total.usage.output_tokens:,}",
        _money(total.billed_usd),
        _money(total.notional_usd) + ("*" if total.unpriced else " "),
        f"{total.latency_s / total.calls:.2f}",
    )


def _notes(total: Total) -> Iterator[str]:
    if total.unpriced:
        yield "* without the calls whose list price is not known"
    if total.notional_usd > total.billed_usd:
        yield "list price: what the tokens cost where they are paid one by one; a flat rate and a replay bill nothing"


def _money(amount: Decimal) -> str:
    return f"{amount:,.4f}"
