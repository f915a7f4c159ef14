"""What a rerun asked and did not ask, and what that cost or saved."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from agentfund.backtest.log import RULES
from agentfund.core.ledger import add
from agentfund.trading import ZERO

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentfund.messages import Call


@dataclass(slots=True)
class Spent:
    """Calls to language models.

    Args:
        calls: attempts to get an answer.
        billed_usd: what they are billed.
        notional_usd: their list price, where it is known.
    """

    calls: int = 0
    billed_usd: Decimal = ZERO
    notional_usd: Decimal = ZERO

    def add(self, rows: Iterable[Call]) -> None:
        """Count rows of a ledger; a rule that answered in a router is no call."""
        for row in rows:
            self.calls += row.route != RULES
            self.billed_usd = add((self.billed_usd, row.billed_usd))
            self.notional_usd = add((self.notional_usd, row.notional_usd or ZERO))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"calls": self.calls, "billed_usd": float(self.billed_usd), "notional_usd": float(self.notional_usd)}


@dataclass(slots=True)
class Tally:
    """Who was asked in a rerun, and whose opinions came from the log.

    Args:
        asked: questions to agents that changed, by agent.
        affected: questions to agents that did not change, because what they look at did.
        given: opinions from the log, those that stand and those that are missing among them.
        stands: opinions from the log that stand although what the agent looks at is not what it looked at then.
        missing: abstentions, because the log holds no opinion: the agent was not asked then.
        since: the first cycle of each of `affected`, `stands` and `missing`, by agent.
        made: calls that the rerun made.
        avoided: calls behind opinions that came from the log.
    """

    asked: Counter[str] = field(default_factory=Counter)
    affected: Counter[str] = field(default_factory=Counter)
    given: Counter[str] = field(default_factory=Counter)
    stands: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    since: dict[str, dict[str, int]] = field(default_factory=dict)
    made: Spent = field(default_factory=Spent)
    avoided: Spent = field(default_factory=Spent)

    def note(self, what: str, agent: str, cycle: int) -> None:
        """Count one opinion that is `affected`, `stands` or is `missing`."""
        getattr(self, what)[agent] += 1
        self.since.setdefault(what, {}).setdefault(agent, cycle)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        counts = {name: dict(getattr(self, name)) for name in ("asked", "affected", "given", "stands", "missing")}
        return {**counts, "since": self.since, "made": self.made.to_json(), "avoided": self.avoided.to_json()}
