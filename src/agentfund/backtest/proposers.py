"""What the trades of each proposing agent came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentfund.backtest import metrics as m

if TYPE_CHECKING:
    from agentfund.backtest.report import Report


@dataclass(frozen=True, slots=True)
class ProposerRow:
    """What the round trips that an agent proposed came to; one that several proposed counts for each.

    Args:
        trades: how many have ended.
        profit: of all, those that are still open among them, after costs, in the account's currency.
        hit_rate: share of the ended ones that made money.
        profit_factor: profits of the winners / losses of the losers.
        expectancy: mean profit of an ended one.
    """

    trades: int
    profit: float
    hit_rate: float | None
    profit_factor: float | None
    expectancy: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


def by_proposer(report: Report) -> dict[str, ProposerRow]:
    """Return what the trades of each agent came to that proposed one, in the order in which they first did."""
    proposed = {decision.id: decision.proposed_by for decision in report.log.decisions}
    trips: dict[str, list[tuple[float, bool]]] = {}
    for trip in report.round_trips:
        for name in proposed.get(trip.decision, ()):
            trips.setdefault(name, []).append((float(trip.profit), trip.closed is not None))
    return {name: _row(found) for name, found in trips.items()}


def _row(found: list[tuple[float, bool]]) -> ProposerRow:
    ended = [profit for profit, closed in found if closed]
    figures = (m.hit_rate(ended), m.profit_factor(ended), m.expectancy(ended))
    return ProposerRow(len(ended), sum(profit for profit, _ in found), *(figure.value for figure in figures))
