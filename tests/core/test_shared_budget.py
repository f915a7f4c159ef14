"""A budget over a store that fails as stores do: before a write, after it, for a while."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.core.budget import Reservation
from agentfund.core.ledger import Row, add
from agentfund.core.router import Router
from agentfund.core.shared_budget import SharedBudget
from agentfund.errors import BudgetExceeded, BusUnavailable, ConfigError
from agentfund.llms import ScriptedLLM
from agentfund.messages import Call
from agentfund.prompt import Prompt
from agentfund.spending import Pending, Spending
from agentfund.trading import Verdict

CENT = Decimal("0.01")
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


class Store:
    """A store in memory, where nothing grows old; `fails` says what goes wrong, and when."""

    def __init__(self) -> None:
        self.reservations: dict[int, tuple[Decimal, str]] = {}
        self.bookings: dict[int, tuple[Decimal, str]] = {}
        self.fails = ""
        self.asked = 0

    def reserve(self, number: int, worst_case: Decimal, run: str, check: Callable[[Spending], None]) -> None:
        self._before()
        check(self.spending(run))
        self.reservations[number] = worst_case, run
        self._after()

    def settle(self, bills: Mapping[int, Decimal], run: str) -> None:
        self._before()
        for number, usd in bills.items():
            _, of = self.reservations.pop(number, (usd, run))
            self.bookings.pop(number, None)
            if usd:
                self.bookings[number] = usd, of
        self._after()

    def spending(self, run: str) -> Spending:
        spent, reserved = (add(usd for usd, _ in rows.values()) for rows in (self.bookings, self.reservations))
        mine = (add(usd for usd, of in rows.values() if of == run) for rows in (self.bookings, self.reservations))
        return Spending(spent, reserved, spent, spent, *mine)

    def pending(self) -> Sequence[Pending]:
        return [Pending(usd, NOON, run, "1", "dead") for usd, run in self.reservations.values()]

    def _before(self) -> None:
        self.asked += 1
        if self.fails == "before":
            raise BusUnavailable("spending.db: the disk is full: free some space")

    def _after(self) -> None:
        if self.fails == "after":
            raise BusUnavailable("spending.db: nobody knows whether it was written")


@pytest.fixture
def store() -> Store:
    return Store()


def refusal(budget: SharedBudget, worst_case: Decimal = CENT) -> str:
    """Return why a call is refused, empty where it is not; the money is given back."""
    try:
        budget.release(budget.reserve(worst_case))
    except BudgetExceeded as error:
        return str(error)
    return ""


@pytest.mark.parametrize("limit", ["usd_per_run", "usd_per_hour", "usd_per_day"])
def test_what_one_process_reserves_another_cannot(store: Store, limit: str) -> None:
    """Two budgets over one store are one sum, and the refusal says which limit holds."""
    one, other = (SharedBudget(store, **{limit: 1}, run="monday") for _ in range(2))
    held = one.reserve(Decimal("0.995"))
    assert refusal(other).startswith(
        f"{limit} is 1 USD: 0 USD is spent, 0.995 USD is reserved for calls under way, this call could cost 0.01 USD"
    )
    one.settle(held, Decimal("0.99"))
    assert refusal(other) == ""
    assert refusal(other, Decimal("0.02")).startswith(f"{limit} is 1 USD: 0.99 USD is spent, 0 USD is reserved")
    assert (other.spent_usd, other.reserved_usd) == (Decimal("0.99"), Decimal(0))


def test_one_call_has_a_limit_of_its_own(store: Store) -> None:
    """It needs no store to be refused."""
    assert refusal(SharedBudget(store, usd_per_call="0.001")).startswith("usd_per_call is 0.001 USD")
    assert store.asked == 0


def test_the_next_run_starts_at_zero_and_the_day_goes_on(store: Store) -> None:
    """A limit for a run counts what the processes of that run did; other limits count all."""
    for _ in range(2):
        monday = SharedBudget(store, usd_per_run=1, run="monday")
        monday.settle(monday.reserve(Decimal("0.5")), Decimal("0.5"))
    assert refusal(SharedBudget(store, usd_per_run=1, run="monday")).startswith("usd_per_run is 1 USD: 1 USD is spent")
    SharedBudget(store, run="monday").reserve(CENT)
    assert refusal(SharedBudget(store, usd_per_run=1, run="tuesday"), Decimal(1)) == ""
    assert refusal(SharedBudget(store, usd_per_day=1, run="tuesday")).startswith("usd_per_day is 1 USD: 1 USD is spent")


def test_a_run_that_is_limited_has_a_name(store: Store) -> None:
    """Without it nobody knows which processes belong together."""
    with pytest.raises(ConfigError, match="usd_per_run needs the name of the run"):
        SharedBudget(store, usd_per_run=1)


def test_nothing_is_sent_while_the_store_is_lost(store: Store) -> None:
    """The refusal names the cause and the fix; a call that costs nothing goes on."""
    budget = SharedBudget(store, usd_per_day=1)
    store.fails = "before"
    assert refusal(budget) == (
        "the budget cannot be asked, so nothing was sent: spending.db: the disk is full: free some space"
    )
    assert refusal(budget, Decimal(0)) == ""
    store.fails = ""
    assert refusal(budget) == ""


async def test_a_router_goes_to_the_free_route_while_the_store_is_lost(store: Store) -> None:
    """A lost budget is a budget exceeded: the paid route is not asked, and its circuit stays closed."""
    paid, free = (ScriptedLLM([Verdict(approved=True, reason="")], name=f"at {usd}", price_usd=usd) for usd in ("0.01", "0"))
    router = Router([paid, free], budget=SharedBudget(store, usd_per_day=1))
    store.fails = "before"
    answer = await router.complete(Prompt(agent="a", instructions="", inputs={}, output=Verdict))
    assert (answer.route, paid.prompts) == ("at 0", [])
    assert [row["state"] for row in router.status()] == ["closed", "closed"]


def test_a_bill_that_cannot_be_written_waits_for_the_next_write(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Until then the reservation stands at its worst case, and an operator is told once."""
    budget = SharedBudget(store, usd_per_day=1)
    held = [budget.reserve(Decimal("0.5")) for _ in range(2)]
    store.fails = "before"
    for one in held:
        budget.settle(one, CENT)
    assert (store.spending("").spent, store.spending("").reserved) == (Decimal(0), Decimal(1))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    store.fails = ""
    assert refusal(budget, Decimal("0.98")) == ""
    assert store.spending("") == Spending(2 * CENT, Decimal(0), 2 * CENT, 2 * CENT, 2 * CENT, Decimal(0))


def test_a_reservation_of_unknown_fate_is_given_back_later(store: Store) -> None:
    """The write failed after it was done: the call was refused, so its money must not stay set aside."""
    budget = SharedBudget(store, usd_per_day=1)
    store.fails = "after"
    assert "nobody knows" in refusal(budget, Decimal(1))
    assert store.spending("").reserved == 1
    store.fails = ""
    assert refusal(budget, Decimal(1)) == ""
    assert store.spending("").reserved == 0


def test_ctrl_c_while_the_store_is_asked_sets_nothing_aside(store: Store) -> None:
    """It passes through, and what it may have left behind is given back by the next write."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    budget = SharedBudget(store, usd_per_day=1)
    store._after = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        budget.reserve(Decimal(1))
    del store._after
    assert refusal(budget, Decimal(1)) == ""


def test_a_reservation_ends_once(store: Store) -> None:
    """What comes later is ignored, and so is a reservation of somebody else."""
    budget = SharedBudget(store, usd_per_day=1)
    held = budget.reserve(CENT)
    budget.settle(held, CENT)
    budget.settle(held, CENT)
    budget.release(held)
    budget.settle(Reservation(1, CENT), 2 * CENT)
    assert store.spending("").spent == CENT


def test_a_call_that_was_to_cost_nothing_and_did_is_booked(store: Store) -> None:
    """A flat-rate route with wrong prices spends real money."""
    budget = SharedBudget(store, usd_per_day=1, run="r")
    budget.settle(budget.reserve(Decimal(0)), CENT)
    assert (budget.spending().spent, budget.spending().run) == (CENT, CENT)


def test_a_restart_does_not_book_twice(store: Store) -> None:
    """The store remembers what the ledger says: telling it again changes nothing."""
    before = SharedBudget(store, usd_per_day=1)
    before.settle(before.reserve(CENT), CENT)
    after = SharedBudget(store, usd_per_day=1)
    after.preload([Row(Call("a", "r", "m", "ok", billed_usd=CENT), NOON)])
    assert after.spent_usd == CENT


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_does_not_travel(store: Store, take: Callable[[Any], object]) -> None:
    """A copy would keep bills of its own and tell them twice."""
    with pytest.raises(TypeError, match="make one in each process"):
        take(SharedBudget(store))


def test_its_repr_says_how_it_stands_and_never_fails(store: Store) -> None:
    """What nobody will settle is shown apart; a lost store is said."""
    budget = SharedBudget(store, usd_per_day=1)
    budget.reserve(CENT)
    sums, more = "0 USD spent, 0.01 USD reserved", "with 0.01 USD at worst for calls that nobody will settle (1)"
    assert repr(budget) == f"<SharedBudget usd_per_day=1: {sums}, {more}>"
    store.pending = None  # type: ignore[method-assign,assignment]
    assert "its store is lost" in repr(budget)


Step = tuple[str, int, Decimal, Decimal]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["reserve", "reserve", "settle", "settle", "release", "", "before", "after"]),
            st.integers(0, 1),
            st.decimals("1E-12", 1, places=12),
            st.decimals(0, "1.1", places=12),
        ),
        max_size=40,
    )
)
def test_whatever_fails_no_call_goes_without_a_reservation_and_no_bill_is_lost(steps: list[Step]) -> None:
    """Two processes, one store that fails before or after it writes: what may be sent is set aside, and once all is told the
    sums are exact."""
    store = Store()
    budgets = [SharedBudget(store, usd_per_day=3) for _ in range(2)]
    under_way: list[tuple[SharedBudget, Reservation]] = []
    billed = over = Decimal(0)
    for what, who, usd, share in steps:
        if what in ("", "before", "after"):
            store.fails = what
        elif what == "reserve":
            try:
                under_way.append((budgets[who], budgets[who].reserve(usd)))
            except BudgetExceeded:
                continue
        elif under_way:
            budget, held = under_way.pop(0)
            cost = Decimal(0) if what == "release" else held.worst_case * share
            billed, over = billed + cost, over + max(cost - held.worst_case, Decimal(0))
            budget.settle(held, cost)
        assert {held.number for _, held in under_way} <= set(store.reservations)
        assert store.spending("").spent + store.spending("").reserved <= 3 + over
    store.fails = ""
    for budget in budgets:
        refusal(budget)
    assert store.spending("").spent == billed
    assert set(store.reservations) == {held.number for _, held in under_way}
