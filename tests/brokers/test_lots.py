"""What entries hold still, and which of it lacks its stop."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from agentfund.brokers.lots import bare, lots
from agentfund.clock import EPOCH
from agentfund.trading import Fill, Order, Side

Leg = Literal["order", "stop", "target"]


def entry(name: str, quantity: int = 10, side: Side = Side.BUY, stop: int | None = 90) -> Order:
    return Order(name, "TEST", side, Decimal(quantity), EPOCH, stop_loss=None if stop is None else Decimal(stop))


def leave(name: str, quantity: int) -> Order:
    return Order(name, "TEST", Side.SELL, Decimal(quantity), EPOCH, reduce_only=True)


def fill(name: str, quantity: int, at: int, side: Side = Side.BUY, leg: Leg = "order") -> Fill:
    moment, price = EPOCH + timedelta(seconds=at), Decimal(100)
    return Fill(f"{name}-{at}-{leg}", name, "TEST", side, Decimal(quantity), price, Decimal(0), moment, price, leg)


def of(*orders: Order) -> dict[str, Order]:
    return {order.id: order for order in orders}


def test_an_exit_closes_first_what_came_without_a_stop_and_then_the_oldest() -> None:
    """Free shares are sold before legs are taken back, and legs of the oldest entry before those of others."""
    orders = of(entry("a"), entry("plain", 3, stop=None), entry("b", 5), leave("x", 8))
    done = [fill("a", 10, 1), fill("plain", 3, 2), fill("b", 5, 3), fill("x", 8, 4, Side.SELL)]
    assert lots(orders, done) == {"a": 5, "b": 5}


def test_a_leg_closes_its_own_entry() -> None:
    """The stop of the newer entry leaves the older one alone."""
    orders = of(entry("a"), entry("b", 5))
    assert lots(orders, [fill("a", 10, 1), fill("b", 5, 2), fill("b", 5, 3, Side.SELL, "stop")]) == {"a": 10}


def test_within_one_second_an_entry_comes_before_what_closes_it() -> None:
    """Executions of Interactive Brokers have whole seconds; ids need not be in order."""
    orders = of(entry("z"), leave("a", 4))
    assert lots(orders, [fill("a", 4, 1, Side.SELL), fill("z", 10, 1)]) == {"z": 6}
    assert lots(orders, [fill("z", 4, 1, Side.SELL, "stop"), fill("z", 10, 1)]) == {"z": 6}


def test_an_exit_never_opens_a_lot() -> None:
    """What a reduce-only order traded beyond what is known opens nothing that would need a stop."""
    assert lots(of(leave("x", 4)), [fill("x", 4, 1, Side.SELL)]) == {}


def test_what_has_no_legs_is_what_is_bare() -> None:
    """The oldest entry lost its legs to an exit that was never sent; the newer one has its own."""
    orders = of(entry("a"), entry("b", 5))
    held = {"a": Decimal(10), "b": Decimal(5)}
    assert bare(orders, held, Decimal(15), {"b": Decimal(5)}) == [(orders["a"], Decimal(10))]
    assert bare(orders, held, Decimal(15), {"a": Decimal(10), "b": Decimal(5)}) == []
    assert bare(orders, held, Decimal(-15), {}) == []
    assert bare(orders, held, Decimal(0), {}) == []


sizes = st.integers(0, 20).map(Decimal)


@given(st.lists(st.tuples(sizes, sizes), max_size=4), st.integers(-60, 60).map(Decimal))
def test_never_more_is_protected_than_is_held(entries: list[tuple[Decimal, Decimal]], position: Decimal) -> None:
    """With what rests already, protection is at most the position, and at most what the entries hold."""
    orders = of(*(entry(str(n), 20) for n in range(len(entries))))
    held = {str(n): lot for n, (lot, _) in enumerate(entries) if lot}
    covered = {str(n): rests for n, (_, rests) in enumerate(entries) if rests}
    found = bare(orders, held, position, covered)
    total, rests = sum((lack for _, lack in found), Decimal(0)), sum(covered.values(), Decimal(0))
    assert all(lack > 0 for _, lack in found)
    want = min(max(position, Decimal(0)), sum(held.values(), Decimal(0))) - rests
    assert total == max(want, Decimal(0))
    assert all(lack <= held[order.id] for order, lack in found)
