"""The budget: what a call could cost at most is set aside before it leaves, and what it did cost is booked after."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_UP, Decimal
from threading import Lock
from typing import TYPE_CHECKING

from agentfund.clock import SystemClock
from agentfund.core.ledger import EXACT, ZERO, Row
from agentfund.errors import BudgetExceeded, ConfigError
from agentfund.market import decimal

if TYPE_CHECKING:
    from agentfund.protocols import Clock

Usd = Decimal | float | str

_PLACES = 50
_SMALLEST = Decimal(1).scaleb(-_PLACES)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money set aside for one call that is under way."""

    number: int
    worst_case: Decimal


class Budget:
    """What may be spent on language models. Share one among all routers of a fund, whatever their threads.

    Spent and reserved money together never pass a limit as long as no call costs more than its worst case. An hour and a
    day are the last 60 minutes and the last 24 hours. A reservation of which nobody says how it ended stays.

    It belongs to one process; `SharedBudget` holds for several.

    Args:
        usd_per_call: most that one call can cost.
        usd_per_run: most that this object lets through, with what was preloaded.
        usd_per_hour: most within 60 minutes.
        usd_per_day: most within 24 hours.
        clock: where the time comes from.

    Attributes:
        per_call: most that one call can cost, None for no limit.
        windows: the limits over time, each with what was spent.

    Raises:
        ConfigError: a limit is not a number from zero up.
    """

    def __init__(
        self,
        usd_per_call: Usd | None = None,
        usd_per_run: Usd | None = None,
        usd_per_hour: Usd | None = None,
        usd_per_day: Usd | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self.per_call = None if usd_per_call is None else _limit("usd_per_call", usd_per_call)
        spans = {
            "usd_per_run": (usd_per_run, None),
            "usd_per_hour": (usd_per_hour, timedelta(hours=1)),
            "usd_per_day": (usd_per_day, timedelta(days=1)),
        }
        self.windows = tuple(Window(name, _limit(name, usd), span) for name, (usd, span) in spans.items() if usd is not None)
        self._lock = Lock()
        self._open: dict[int, Decimal] = {}
        self._reserved = ZERO
        self._spent = ZERO
        self._count = 0

    def __repr__(self) -> str:
        limits = ", ".join(f"{w.name}={w.limit}" for w in self.windows) or "no limit over time"
        return f"<Budget {limits}: {self.spent_usd} USD spent, {self.reserved_usd} USD reserved>"

    @property
    def spent_usd(self) -> Decimal:
        """What was booked since this object was made, with what was preloaded."""
        return self._spent

    @property
    def reserved_usd(self) -> Decimal:
        """What calls under way could still cost."""
        return self._reserved

    def reserve(self, worst_case: Decimal) -> Reservation:
        """Set aside what a call can cost at most. A call that can cost nothing is never refused.

        Raises:
            BudgetExceeded: a budget would be passed; the message says which. Nothing is set aside.
        """
        worst_case = self._allowed(worst_case)
        with self._lock:
            if worst_case:
                now = self._clock.now()
                for window in self.windows:
                    require_room(window, window.spent(now), self._reserved, worst_case)
                self._reserved = EXACT.add(self._reserved, worst_case)
            self._count += 1
            self._open[self._count] = worst_case
            return Reservation(self._count, worst_case)

    def settle(self, reservation: Reservation, billed: Decimal) -> None:
        """Book what a call cost, in USD, and give back the rest. A reservation ends once: what comes later is ignored.

        What is no amount from zero up is booked as the worst case.
        """
        with self._lock:
            worst_case = self._open.pop(reservation.number, None)
            if worst_case is None:
                return
            billed = amount(billed, worst_case)
            self._reserved = EXACT.subtract(self._reserved, worst_case)
            if billed:
                self._book(billed, self._clock.now())

    def release(self, reservation: Reservation) -> None:
        """Give back all: the call was certainly not billed."""
        self.settle(reservation, ZERO)

    def preload(self, rows: Iterable[Row]) -> None:
        """Book what a ledger says was spent already, each amount at its own time; do this once, before the first call."""
        with self._lock:
            for row in sorted(rows, key=lambda row: row.time):
                if billed := amount(row.call.billed_usd, ZERO):
                    self._book(billed, row.time)

    def _book(self, billed: Decimal, time: datetime) -> None:
        self._spent = EXACT.add(self._spent, billed)
        for window in self.windows:
            window.book(billed, time)

    def _allowed(self, worst_case: Decimal) -> Decimal:
        if not (isinstance(worst_case, Decimal) and worst_case.is_finite() and worst_case >= 0):
            raise BudgetExceeded(f"what the call can cost at most is not known: {worst_case} USD; fix the route's prices")
        if self.per_call is not None and worst_case > self.per_call:
            raise BudgetExceeded(f"usd_per_call is {told(self.per_call)} USD: this call could cost {told(worst_case)} USD")
        return amount(worst_case, worst_case)


class Window:
    """A limit, and what was spent in the last `span`, or ever."""

    __slots__ = ("_booked", "_spent", "limit", "name", "span")

    def __init__(self, name: str, limit: Decimal, span: timedelta | None) -> None:
        self.name = name
        self.limit = limit
        self.span = span
        self._spent = ZERO
        self._booked: deque[tuple[datetime, Decimal]] = deque()

    def book(self, billed: Decimal, time: datetime) -> None:
        """Count an amount from its time on."""
        self._spent = EXACT.add(self._spent, billed)
        if self.span is not None:
            self._booked.append((time, billed))

    def spent(self, now: datetime) -> Decimal:
        """Return what counts now."""
        if self.span is not None:
            # Only what lies at the front is looked at: after a step back of the wall clock money is forgotten late, not early.
            while self._booked and self._booked[0][0] <= now - self.span:
                self._spent = EXACT.subtract(self._spent, self._booked.popleft()[1])
        return self._spent


def require_room(window: Window, spent: Decimal, reserved: Decimal, worst_case: Decimal) -> None:
    """Refuse a call that a limit has no room for.

    Raises:
        BudgetExceeded: with the limit, and what is spent and reserved.
    """
    if EXACT.add(EXACT.add(spent, reserved), worst_case) > window.limit:
        raise BudgetExceeded(
            f"{window.name} is {told(window.limit)} USD: {told(spent)} USD is spent, {told(reserved)} USD is reserved for"
            f" calls under way, this call could cost {told(worst_case)} USD"
        )


def amount(usd: Decimal, otherwise: Decimal) -> Decimal:
    """Return an amount with no more places than sums can hold exactly, rounded up; `otherwise` where it is none."""
    if not (usd.is_finite() and usd >= 0):
        return otherwise
    return usd.quantize(_SMALLEST, ROUND_UP, EXACT) if usd.as_tuple().exponent < -_PLACES else usd  # type: ignore[operator]


def told(usd: Decimal) -> str:
    """Return an amount in plain digits, all of them."""
    return f"{usd.normalize(EXACT):f}"


def _limit(name: str, usd: Usd) -> Decimal:
    try:
        limit = decimal(usd)
    except ArithmeticError:
        limit = Decimal("NaN")
    if not (limit.is_finite() and limit >= 0):
        raise ConfigError(f"{name} must be an amount of USD from 0 up, not {usd!r}")
    return limit
