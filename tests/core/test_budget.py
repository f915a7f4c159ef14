from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.clock import SimulatedClock
from agentfund.core.budget import Budget
from agentfund.core.ledger import Row
from agentfund.errors import BudgetExceeded, ConfigError
from agentfund.messages import Call

ONE = Decimal(1)


def spend(budget: Budget, amount: Decimal = ONE) -> None:
    budget.settle(budget.reserve(amount), amount)


def test_a_refusal_says_which_budget_and_by_how_much() -> None:
    """The message names the limit, what is spent, what is reserved, and what the call could cost."""
    budget = Budget(usd_per_day=10)
    spend(budget, Decimal(6))
    budget.reserve(Decimal(3))
    with pytest.raises(BudgetExceeded, match=r"usd_per_day is 10 USD: 6 USD is spent, 3 USD is reserved .* could cost 2 USD"):
        budget.reserve(Decimal(2))
    budget.reserve(ONE)


def test_what_is_reserved_cannot_be_reserved_again() -> None:
    """Two calls at once do not share the last dollar."""
    budget = Budget(usd_per_run=1)
    held = budget.reserve(ONE)
    with pytest.raises(BudgetExceeded):
        budget.reserve(ONE)
    budget.release(held)
    budget.reserve(ONE)


def test_a_reservation_ends_once() -> None:
    """What comes later is ignored: money is neither booked twice nor given back after it was booked."""
    budget = Budget(usd_per_run=10)
    held = budget.reserve(Decimal(2))
    budget.settle(held, ONE)
    budget.settle(held, ONE)
    budget.release(held)
    assert (budget.spent_usd, budget.reserved_usd) == (ONE, Decimal(0))


def test_a_call_that_costs_nothing_passes_a_spent_budget() -> None:
    """Flat-rate routes and rules go on when the money is gone."""
    budget = Budget(usd_per_call=1, usd_per_run=1, usd_per_day=1)
    budget.settle(budget.reserve(ONE), Decimal(2))  # a route with wrong prices
    budget.settle(budget.reserve(Decimal(0)), Decimal(0))
    assert not _fits(budget)


def test_one_call_has_a_limit_of_its_own() -> None:
    """However much is left of the day."""
    with pytest.raises(BudgetExceeded, match=r"usd_per_call is 0\.5 USD: this call could cost 1 USD"):
        Budget(usd_per_call="0.5", usd_per_day=100).reserve(ONE)


@pytest.mark.parametrize("unknown", [Decimal("NaN"), Decimal("Infinity"), Decimal(-1)])
def test_an_unknown_price_is_refused(unknown: Decimal) -> None:
    """A route that cannot say what it costs at most does not get money."""
    with pytest.raises(BudgetExceeded, match="not known"):
        Budget(usd_per_day=10).reserve(unknown)


def test_a_worst_case_that_is_no_decimal_is_refused() -> None:
    """A float would make the sums inexact."""
    with pytest.raises(BudgetExceeded, match="not known"):
        Budget(usd_per_day=10).reserve(0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("bill", [Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal(-1)])
def test_a_bill_that_is_no_amount_counts_as_the_worst_case(bill: Decimal) -> None:
    """It neither gives money back nor spoils the sums."""
    budget = Budget(usd_per_day=3)
    budget.settle(budget.reserve(ONE), bill)
    budget.preload([Row(Call("a", "r", "m", "ok", billed_usd=bill), SimulatedClock().now())])
    assert (budget.spent_usd, budget.reserved_usd) == (ONE, Decimal(0))
    assert _fits(budget)


def test_amounts_of_many_digits_are_added_exactly_or_rounded_up() -> None:
    """Fifty places are kept; what is smaller never makes the sum smaller."""
    budget = Budget(usd_per_day="1e12")
    for amount in ("1e11", "1e-50", "1e-60"):
        budget.settle(budget.reserve(Decimal(amount)), Decimal(amount))
    assert str(budget.spent_usd) == f"{10**11}.{2:050}"


@pytest.mark.parametrize("limit", [-1, float("nan"), float("inf"), "ten"])
def test_a_limit_is_an_amount(limit: float | str) -> None:
    """A limit that cannot hold is refused when it is made, by name."""
    with pytest.raises(ConfigError, match="usd_per_hour"):
        Budget(usd_per_hour=limit)


def test_the_hour_and_the_day_slide() -> None:
    """Money comes back 60 minutes, or 24 hours, after it was spent, and not before; a run's never does."""
    clock = SimulatedClock()
    hourly, daily, run = (Budget(**{f"usd_per_{span}": 1}, clock=clock) for span in ("hour", "day", "run"))
    for budget in (hourly, daily, run):
        spend(budget)
    for seconds, free in [(3599, 0), (1, 1), (82_799, 1), (1, 2)]:
        clock.advance(seconds)
        assert sum(_fits(budget) for budget in (hourly, daily, run)) == free


def _fits(budget: Budget) -> bool:
    try:
        budget.release(budget.reserve(ONE))
    except BudgetExceeded:
        return False
    return True


def test_a_call_under_way_for_an_hour_is_still_counted() -> None:
    """A reservation leaves the window only when somebody says how the call ended."""
    clock = SimulatedClock()
    budget = Budget(usd_per_hour=1, clock=clock)
    budget.reserve(ONE)
    clock.advance(7200)
    assert not _fits(budget)


def test_a_restart_knows_what_was_spent() -> None:
    """Rows of the ledger are booked at their own times, in whatever order they come."""
    clock = SimulatedClock()
    start = clock.now()
    clock.advance(86_400)
    rows = [
        Row(Call("a", "r", "m", "ok", billed_usd=Decimal(2)), start + timedelta(hours=20)),
        Row(Call("a", "r", "m", "ok", billed_usd=Decimal(5)), start - timedelta(hours=1)),
    ]
    budget = Budget(usd_per_day=3, clock=clock)
    budget.preload(rows)
    assert budget.spent_usd == 7
    assert _fits(budget)
    spend(budget)
    assert not _fits(budget)


def test_threads_together_do_not_overshoot() -> None:
    """Of 1,000 callers in 8 threads exactly as many get through as the money is for."""
    budget = Budget(usd_per_day=100)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns as often as they can
    try:
        with ThreadPoolExecutor(8) as pool:
            passed = sum(pool.map(lambda _: _taken(budget), range(1000)))
    finally:
        sys.setswitchinterval(before)
    assert (passed, budget.spent_usd, budget.reserved_usd) == (100, Decimal(100), Decimal(0))


def _taken(budget: Budget) -> bool:
    try:
        spend(budget)
    except BudgetExceeded:
        return False
    return True


amounts = st.decimals("0.0001", "3", places=4)
Step = tuple[str, Decimal, Decimal]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["reserve", "settle", "release", "wait"]), amounts, st.decimals(0, 1, places=2)), max_size=40
    )
)
def test_no_sequence_of_calls_overshoots(steps: list[Step]) -> None:
    """Spent and reserved of the last hour never pass the limit, and agree with a plain list of what happened."""
    clock = SimulatedClock()
    budget = Budget(usd_per_hour=5, clock=clock)
    held: list[tuple[Decimal, Callable[[Decimal], None]]] = []
    booked: list[tuple[float, Decimal]] = []
    for what, amount, share in steps:
        if what == "wait":
            clock.advance(float(amount) * 600)
        elif what == "reserve":
            recent = sum((usd for at, usd in booked if at > clock.monotonic() - 3600), Decimal(0))
            fits = recent + sum((worst for worst, _ in held), amount) <= 5
            try:
                reservation = budget.reserve(amount)
            except BudgetExceeded:
                assert not fits
            else:
                assert fits
                held.append((amount, lambda usd, reservation=reservation: budget.settle(reservation, usd)))  # type: ignore[misc]
        elif held:
            worst, settle = held.pop(0)
            billed = worst * share if what == "settle" else Decimal(0)
            settle(billed)
            booked.append((clock.monotonic(), billed))
        assert budget.reserved_usd == sum((worst for worst, _ in held), Decimal(0))
        assert budget.spent_usd == sum((usd for _, usd in booked), Decimal(0))
