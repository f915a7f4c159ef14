"""A budget that several processes share: one sum, whoever spends, and nothing is spent while it cannot be asked."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import partial
from typing import NoReturn

from agentfund.core.budget import Budget, Reservation, Usd, amount, require_room, told
from agentfund.core.ledger import ZERO, Row, add
from agentfund.errors import BudgetExceeded, ConfigError
from agentfund.spending import Pending, Spending, SpendingStore

_log = logging.getLogger(__name__)


class SharedBudget(Budget):
    """A budget for any number of tasks, threads and processes with one store; each holds its own limits against their sum.

    A call that can cost something is refused while the store is lost: what it would cost cannot be set aside, so it is
    not made. What a call under way did cost is kept then, and booked by the next write that succeeds; if the process ends
    before, the call counts at its worst case.

    Every restart finds the sums in the store, so `preload` does nothing. It cannot be pickled: make one in each process.

    Args:
        store: where reservations and bookings are kept.
        usd_per_call: most that one call can cost.
        usd_per_run: most that all processes of this run spend; needs `run`.
        usd_per_hour: most within 60 minutes.
        usd_per_day: most within 24 hours.
        run: names the run; processes that give the same name share `usd_per_run`, and another name starts at zero.

    Raises:
        ConfigError: a limit is not a number from zero up, or the run has no name.
    """

    def __init__(
        self,
        store: SpendingStore,
        usd_per_call: Usd | None = None,
        usd_per_run: Usd | None = None,
        usd_per_hour: Usd | None = None,
        usd_per_day: Usd | None = None,
        *,
        run: str = "",
    ) -> None:
        super().__init__(usd_per_call, usd_per_run, usd_per_hour, usd_per_day)
        if usd_per_run is not None and not run:
            raise ConfigError("usd_per_run needs the name of the run that processes share: run='...', another for the next run")
        self._store = store
        self._run = run
        self._owed: dict[int, Decimal] = {}  # what the store has not been told yet
        self._lost = False

    def __repr__(self) -> str:
        limits = ", ".join(f"{w.name}={told(w.limit)}" for w in self.windows) or "no limit over time"
        try:
            sums, left = self.spending(), [call.worst_case for call in self.pending() if call.state != "under way"]
        except Exception as error:
            return f"<SharedBudget {limits}: its store is lost: {error}>"
        more = f", with {told(add(left))} USD at worst for calls that nobody will settle ({len(left)})" if left else ""
        return f"<SharedBudget {limits}: {told(sums.spent)} USD spent, {told(sums.reserved)} USD reserved{more}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a shared budget is not pickled or copied: make one in each process, with a store of the same path")

    @property
    def spent_usd(self) -> Decimal:
        """What all processes have booked since the store was made."""
        return self.spending().spent

    @property
    def reserved_usd(self) -> Decimal:
        """What calls under way in all processes could still cost."""
        return self.spending().reserved

    def spending(self) -> Spending:
        """Return the sums of all processes, `run` those of this budget's run.

        Raises:
            BusError: the store is lost.
        """
        return self._store.spending(self._run)

    def pending(self) -> Sequence[Pending]:
        """Return the calls of all processes of which nobody has said what they cost, oldest first.

        Raises:
            BusError: the store is lost.
        """
        return self._store.pending()

    def reserve(self, worst_case: Decimal) -> Reservation:
        """Set aside what a call can cost at most. A call that can cost nothing is never refused, and asks no store.

        Raises:
            BudgetExceeded: a budget would be passed, or the store is lost; the message says which. Nothing is set aside.
        """
        worst_case = self._allowed(worst_case)
        number = secrets.randbits(62)  # no other process, and no other time, can draw it
        if worst_case:
            try:
                self._tell()
                self._set_aside(number, worst_case)
            except BudgetExceeded:
                raise
            except Exception as error:
                raise BudgetExceeded(f"the budget cannot be asked, so nothing was sent: {error}") from error
        self._open[number] = worst_case
        return Reservation(number, worst_case)

    def settle(self, reservation: Reservation, billed: Decimal) -> None:
        """Book what a call cost, in USD, and give back the rest. A reservation ends once: what comes later is ignored.

        What is no amount from zero up is booked as the worst case. A lost store is told later.
        """
        worst_case = self._open.pop(reservation.number, None)
        if worst_case is None:
            return
        billed = amount(billed, worst_case)
        if not (worst_case or billed):
            return
        self._owed[reservation.number] = billed
        try:
            self._tell()
        except Exception as error:
            if not self._lost:
                _log.warning("the budget's store is lost, calls count at their worst case until it is back: %s", error)
            self._lost = True

    def preload(self, rows: Iterable[Row]) -> None:
        """Do nothing: the store knows what was spent, whichever process spent it."""

    def _tell(self) -> None:
        if owed := dict(self._owed):
            self._store.settle(owed, self._run)
            for number in owed:
                self._owed.pop(number, None)
            self._lost = False

    def _set_aside(self, number: int, worst_case: Decimal) -> None:
        try:
            self._store.reserve(number, worst_case, self._run, partial(self._check, worst_case))
        except BudgetExceeded:
            raise
        except BaseException:
            self._owed[number] = ZERO  # it may be in the store all the same, and nothing will be sent for it
            raise

    def _check(self, worst_case: Decimal, sums: Spending) -> None:
        spent = {
            "usd_per_run": (sums.run, sums.run_reserved),
            "usd_per_hour": (sums.hour, sums.reserved),
            "usd_per_day": (sums.day, sums.reserved),
        }
        for window in self.windows:
            require_room(window, *spent[window.name], worst_case)
