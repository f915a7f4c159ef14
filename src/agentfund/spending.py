"""What several processes have spent and reserved: what a shared budget and its store tell each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal
from typing import Literal, Protocol

EXACT = Context(prec=200)
"""Money is added in it: the 28 digits of the default context would round a long sum."""

ZERO = Decimal(0)

State = Literal["under way", "not known", "dead", "booked"]


@dataclass(frozen=True, slots=True)
class Spending:
    """What all processes have spent and reserved, at one moment, in USD.

    Args:
        spent: booked since the store was made.
        reserved: what calls under way could still cost.
        hour: booked within the last 60 minutes.
        day: booked within the last 24 hours.
        run: booked by the run that was asked for.
        run_reserved: reserved by that run.
    """

    spent: Decimal = ZERO
    reserved: Decimal = ZERO
    hour: Decimal = ZERO
    day: Decimal = ZERO
    run: Decimal = ZERO
    run_reserved: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Pending:
    """A call of which nobody has said what it cost; it counts at its worst case.

    Args:
        worst_case: what it counts, in USD.
        since: when it was reserved, aware UTC.
        run: the run that reserved it, empty where it has no name.
        process: number of the process that reserved it.
        state: "under way" while its process lives; "not known" where nobody can say whether it does; "dead" when it does
            not, so that the call is booked as soon as room is needed; "booked" when it is.
    """

    worst_case: Decimal
    since: datetime
    run: str
    process: str
    state: State


class SpendingStore(Protocol):
    """Where the spending of several processes is kept.

    What a method raises means that the store is lost; only what `check` raises passes through `reserve`.
    """

    def reserve(self, number: int, worst_case: Decimal, run: str, check: Callable[[Spending], None]) -> None:
        """Show `check` the sums of this moment and, if it raises nothing, set the amount aside: both alone in the store.

        The reservation outlives a killed process and a loss of power. Before `check` has the last word, reservations of
        dead processes are booked at their worst case, at the time when they were reserved.
        """

    def settle(self, bills: Mapping[int, Decimal], run: str) -> None:
        """Book what calls cost, now, in place of their reservations, all or none.

        Told twice it is booked once. A reservation that was booked for a dead process is corrected; one that the store
        does not know is booked all the same, for `run`.
        """

    def spending(self, run: str) -> Spending:
        """Return the sums of this moment."""

    def pending(self) -> Sequence[Pending]:
        """Return the calls of unknown cost, oldest first; those that are booked for as long as they count."""
